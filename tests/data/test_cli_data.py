"""`python -m jaxtl.data`: in this process, and once as a program."""

import json
import shutil
import subprocess
import sys

import numpy as np
import official
import pytest
from PIL import Image

from jaxtl.cli import data as program
from jaxtl.data import from_arrays
from jaxtl.data.on_disk import Stored
from jaxtl.data.pictures import samples_by_class
from jaxtl.errors import InputError


@pytest.fixture(autouse=True)
def empty_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    for name in ("JAXTL_DATA", "XDG_CACHE_HOME", "TFDS_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)


def test_prepare_then_list_then_show(tmp_path, monkeypatch, capsys):
    _, files = official.cifar10(monkeypatch)
    source = official.directory(tmp_path / "bin", files)
    program.main(["prepare", "cifar10", "--from", str(source)])
    place = tmp_path / "home/tensorflow_datasets/cifar10/3.0.2"
    size = sum(file.stat().st_size for file in place.iterdir()) / 1e6
    assert f"cifar10 is ready in {place} ({size:.1f} MB)" in capsys.readouterr().out
    program.main([])
    lines = capsys.readouterr().out.splitlines()
    names = [line.split()[0] for line in lines if not line.startswith(" ")]
    assert names == ["digits", "cifar10", "cifar100", "mnist", "fashion_mnist"]
    assert f"  found         {place} ({size:.1f} MB)" in lines
    assert "  found         not here; python -m jaxtl.data prepare mnist" in lines
    assert sum("licence" in line for line in lines) == sum("citation     " in line for line in lines) == 5
    program.main(["show", "cifar10", "--to=c.png"])
    said = capsys.readouterr().out
    assert "wrote c.png: 100 images to train on, 20 to test on" in said
    assert str(place) in said
    with Image.open(tmp_path / "c.png") as picture:
        assert picture.size[1] == 30 + 10 * 68


def test_other_prepared_sets_are_listed(tmp_path, monkeypatch, capsys):
    _, files = official.cifar10(monkeypatch)
    program.main(["prepare", "cifar10", f"--from={official.directory(tmp_path / 'bin', files)}"])
    root = tmp_path / "home/tensorflow_datasets"
    shutil.copytree(root / "cifar10/3.0.2", root / "pets/2.1.0")
    shutil.copytree(root / "cifar10/3.0.2", root / "birds/small/1.0.0")
    info = root / "pets/2.1.0/dataset_info.json"
    licensed = json.loads(info.read_text()) | {"citation": "A\n  B, 1999", "redistributionInfo": {"license": "CC0"}}
    info.write_text(json.dumps(licensed))
    capsys.readouterr()
    program.main([])
    said = capsys.readouterr().out
    assert "pets            version 2.1.0" in said
    assert "CC0" in said
    assert "A B, 1999" in said
    assert "birds/small     version 1.0.0" in said


def test_descriptions_of_strangers_are_listed_without_what_steers_a_terminal(tmp_path, monkeypatch, capsys):
    _, files = official.cifar10(monkeypatch)
    program.main(["prepare", "cifar10", f"--from={official.directory(tmp_path / 'bin', files)}"])
    root = tmp_path / "home/tensorflow_datasets"
    contents = {
        "broken": "{",
        "list": "[]",
        "number": '{"citation": 7}',
        "loud": json.dumps(
            {"citation": "A\x1b[31m\b \u202eB" + "x" * 2000, "redistributionInfo": {"license": "\x07CC0"}}
        ),
    }
    for name, content in contents.items():
        shutil.copytree(root / "cifar10/3.0.2", root / name / "1.0.0")
        (root / name / "1.0.0/dataset_info.json").write_text(content)
    capsys.readouterr()
    program.main([])
    said = capsys.readouterr().out
    lines = said.splitlines()
    assert all(line.isprintable() and len(line) < 1200 for line in lines)
    for name in contents:
        assert any(line.startswith(f"{name} ") for line in lines)
    assert said.count("cannot be read") == 4  # licence and citation of two


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["prepar", "cifar10"], "did you mean 'prepare'?"),
        (["prepare"], "takes one NAME, not 0"),
        (["prepare", "mnist", "cifar10"], "takes one NAME, not 2"),
        (["prepare", "digits"], "is no set that can be prepared"),
        (["prepare", "mnist"], "JAXTL_OFFLINE is set"),
        (["prepare", "mnist", "--from"], "--from: needs a path"),
        (["prepare", "mnist", "--to", "x"], "--to: prepare has no such option"),
        (["prepare", "mnist", "--from", "nowhere"], "nowhere: no such file"),
        (["show", "digits", "--to", "x.xyz"], "x.xyz: cannot be written"),
        (["show", "digits", "--to", "nowhere/x.png"], "nowhere/x.png: cannot be written"),
        (["show", "mnist"], "mnist: not found"),
        (["show", "digit"], "did you mean 'digits'?"),
    ],
)
def test_mistakes(arguments, said):
    with pytest.raises(InputError) as caught:
        program.main(arguments)
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 2


def test_as_a_program(tmp_path):
    def run(*arguments):
        command = [sys.executable, "-m", "jaxtl.data", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    helped = run("--help")
    assert (helped.returncode, helped.stderr) == (0, "")
    assert "prepare NAME [--from PATH]" in helped.stdout
    wrong = run("prepare", "cifar10")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr == ("cifar10: was not fetched because JAXTL_OFFLINE is set\n  unset it, or use --from PATH\n")
    piped = subprocess.run(["sh", "-c", f"{sys.executable} -m jaxtl.data | head -1"], capture_output=True, timeout=60)
    assert (piped.stdout[:6], piped.stderr) == (b"digits", b"")
    shown = run("show", "digits")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert (tmp_path / "digits.png").is_file()


# ---- the picture


def sheet(images, labels, **given):
    return np.asarray(samples_by_class(from_arrays(images, labels, images, labels, **given)))


def row_of(picture, row, side, across=10):
    """The samples in a row of a picture: [across, side, side], found from the right edge, where no name stands."""
    red = picture[30 + row * (side + 4) :][:side, -across * (side + 4) :, 0]
    return red.reshape(side, across, side + 4).swapaxes(0, 1)[:, :, :side]


def test_a_row_for_each_class():
    labels = np.repeat([0, 1, 2], 12)
    images = np.broadcast_to((labels * 80)[:, None, None, None], (36, 32, 32, 3)).astype(np.uint8)
    picture = sheet(images, labels, classes=["a", "b", "a name that is much too long to be shown"])
    assert picture.shape[0] == 30 + 3 * 68
    for row in range(3):
        assert np.all(row_of(picture, row, 64) == 80 * row)
        assert picture[30 + row * 68 :][:64, :20].min() < 100  # the name
    assert picture[:30].min() < 100  # the heading
    assert np.all(picture[30 + 64 : 30 + 68] == 255)


def test_every_sample_is_whole_and_of_its_class():
    random = np.random.default_rng(0)
    images, labels = random.integers(0, 256, (24, 48, 48, 1), dtype=np.uint8), np.arange(24) % 2
    picture = sheet(images, labels)
    for label in range(2):
        mine = {image.tobytes() for image in images[labels == label]}
        drawn = [tile.tobytes() for tile in row_of(picture, label, 48)]
        assert len(set(drawn)) == 10
        assert set(drawn) <= mine


def test_floats_are_stretched_and_small_classes_shorten_the_rows():
    images = np.linspace(-3, 7, 12 * 48 * 48, dtype=np.float32).reshape(12, 48, 48)
    labels = np.repeat([0, 1], [7, 5])
    drawn = np.stack([row_of(sheet(images, labels), row, 48, across=5) for row in range(2)])
    assert (drawn.min() < 30, drawn.max()) == (True, 255)


def test_of_many_classes_the_first_are_shown():
    labels = np.arange(500) % 50
    images = np.broadcast_to(labels[:, None, None], (500, 48, 48)).astype(np.uint8)
    picture = sheet(images, labels)
    assert picture.shape[0] == 30 + 40 * 52
    assert np.all(row_of(picture, 39, 48) == 39)


@pytest.mark.parametrize("shape", [(9000, 7000, 3), (60_000_000, 1, 1), (20, 3_000_000, 3)])
def test_large_images_are_thinned_out(shape):
    read = []

    def one(rows):
        read.append(len(rows))
        return np.broadcast_to(np.uint8(7), (len(rows), *shape))

    labels = np.arange(6) % 2
    images = Stored(one, np.arange(6), shape)
    sheet_of = samples_by_class(from_arrays(images, labels, images, labels))
    assert read == [1] * 6
    assert sheet_of.width * sheet_of.height < 2**27


def test_names_that_no_font_can_draw():
    images, labels = np.zeros((4, 8, 8), np.uint8), np.arange(4) % 2
    assert sheet(images, labels, classes=["two\nlines\x1b[0m", "half \ud800"], name="a\rb").shape[2] == 3


def test_features_are_no_picture():
    with pytest.raises(InputError, match="are no images"):
        sheet(np.zeros((4, 7)), np.arange(4) % 2)
