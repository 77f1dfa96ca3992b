"""`jaxtl finetune` on pictures with boxes: from a folder to a detector, its page, its predictions, its refusals."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest
from PIL import Image

import jaxtl as tl
from jaxtl.cli import commands
from jaxtl.data import Split, by_class, load
from jaxtl.data.boxed import set_down
from jaxtl.data.boxed_files import read_boxed_files
from jaxtl.data.letterbox import factors
from jaxtl.errors import InputError
from jaxtl.finetune import load_finetuned
from jaxtl.finetune.boxes import work
from jaxtl.finetune.boxes.choosing import verdict
from jaxtl.finetune.boxes.dealing import mirrored, rarest
from jaxtl.finetune.plan import Effort, Plan
from jaxtl.protocol import Run
from jaxtl.protocol.detections import average_precision_50, mean_average_precision

QUICK = ("--trunk=small_cnn", "--size=64", "--budget=1h")


def write(room, count, seed):
    """Digits set down on pictures of two sizes, with COCO's JSON."""
    digits = set_down(by_class(load("digits"), range(2)), count, 4, (48, 64), 2, seed)
    (room / "images").mkdir(parents=True)
    images, annotations = [], []
    for k in range(count):
        times = 1 + k % 2
        pixels = digits.train.images[k, ..., 0].repeat(times, axis=0).repeat(times, axis=1)
        Image.fromarray(pixels).save(room / "images" / f"{k}.png")
        images.append({"id": k, "file_name": f"{k}.png"})
        for (x0, y0, x1, y1), label in zip(digits.train["box"][k], digits.train["box_class"][k], strict=True):
            if label >= 0:
                box = [times * float(value) for value in (x0, y0, x1 - x0, y1 - y0)]
                entry = {"id": len(annotations), "image_id": k, "category_id": int(label), "bbox": box}
                annotations.append(entry)
    categories = [{"id": k, "name": name} for k, name in enumerate(("zero", "one"))]
    said = {"images": images, "annotations": annotations, "categories": categories}
    (room / "coco.json").write_text(json.dumps(said))


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """A folder of digits with boxes, new pictures, and a run on them."""
    room = tmp_path_factory.mktemp("room")
    write(room / "digits", 24, 0)
    (room / "digits" / "images" / "23.png").write_bytes(b"torn")
    write(room / "new", 3, 1)
    (room / "new" / "coco.json").unlink()
    (room / "new" / "notes.txt").write_text("mine")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(room)
        short = Plan(Effort(1, 1, 1, 1, 40), 0, ("scratch",), 1.0, "")
        patched.setattr(work.Work, "plan", lambda *_: short)  # what is afforded depends on the machine's mood
        assert commands.execute(["finetune", "digits", "--skip-bad", *QUICK]) == 0
    return room


@pytest.fixture(autouse=True)
def here(room, monkeypatch):
    monkeypatch.chdir(room)


def told(capsys, arguments, code=0):
    assert commands.execute(arguments) == code
    out = capsys.readouterr()
    return out.out if code == 0 else out.err


def test_the_page_prints_the_map_of_the_boxes_that_it_reports(room):
    run = room / "runs" / "digits"
    summary = json.loads((run / "summary.json").read_text())
    said = json.loads((room / "digits" / "coco.json").read_text())
    reported = json.loads((run / "test_boxes.json").read_text())
    names = {image["file_name"]: image["id"] for image in said["images"]}
    assert summary["skipped"] == ["images/23.png: cannot be read (no picture, or a damaged one)"]
    files = list(dict.fromkeys(one["file"] for one in reported))
    assert len(files) == 4  # a fifth of 23
    truth, found = np.full((4, 9, 5), -1.0), np.full((4, 100, 6), -1.0)
    for k, file in enumerate(files):
        own = [one for one in said["annotations"] if one["image_id"] == names[file.removeprefix("images/")]]
        for n, one in enumerate(own):
            x, y, w, h = one["bbox"]
            truth[k, n] = x, y, x + w, y + h, one["category_id"]
        for n, one in enumerate(one for one in reported if one["file"] == file):
            x, y, w, h = one["bbox"]
            found[k, n] = x, y, x + w, y + h, ("zero", "one").index(one["class"]), one["score"]
    assert summary["map"] == pytest.approx(mean_average_precision(truth, found), abs=1e-9)
    assert summary["ap50"] == pytest.approx(average_precision_50(truth, found), abs=1e-9)
    assert summary["map_ci95"][0] <= summary["map"] <= summary["map_ci95"][1]
    page = (run / "report.html").read_text()
    assert f"mAP {100 * summary['map']:.1f} %" in page
    assert {path.name for path in (run / "plots").iterdir()} == {"boxes.png", "precision.png"}
    assert page.count("data:image/png;base64,") == 2


def test_new_pictures_are_predicted_and_drawn(room, capsys):
    arguments = ["predict", "runs/digits", "new", "--csv=out.csv", "--json=out.json", "--draw=drawn", "--least=0.02"]
    out = told(capsys, arguments)
    assert "3 pictures: " in out
    assert "not read: notes.txt: is no image" in out
    header, *rows = csv.reader((room / "out.csv").read_text().splitlines())
    assert header == ["file", "class", "score", "x", "y", "w", "h"]
    entries = json.loads((room / "out.json").read_text())
    assert len(rows) == len(entries) > 0
    for row, entry in zip(rows, entries, strict=True):
        assert (row[0], row[1]) == (entry["file"], entry["class"])
        np.testing.assert_allclose([float(value) for value in row[3:]], entry["bbox"], atol=0.01)
        with Image.open(room / "new" / row[0]) as image:
            width, height = image.size
        x, y, w, h = entry["bbox"]
        assert min(x, y) >= 0 < min(w, h)
        assert x + w <= width + 1e-6
        assert y + h <= height + 1e-6
        assert entry["score"] >= 0.02
    with Image.open(room / "drawn" / "images" / "1.png.png") as drawn:
        assert drawn.size == (128, 96)
        assert len(np.unique(np.asarray(drawn).reshape(-1, 3), axis=0)) > 2
    assert "images/0.png  " in told(capsys, ["predict", "runs/digits", "new"])


def test_a_larger_version_of_a_picture_has_larger_boxes(room):
    model = load_finetuned("runs/digits")
    small = np.asarray(Image.open(room / "new" / "images" / "0.png").convert("RGB"))
    one, other = model.detect([small, small.repeat(3, axis=0).repeat(3, axis=1)])
    best = one.scores.argmax()
    assert one.labels[best] == other.labels[other.scores.argmax()]
    np.testing.assert_allclose(3 * one.boxes[best], other.boxes[other.scores.argmax()], atol=12)
    rows = np.zeros((1, 6), np.float32)
    rows[0, :4] = np.array([3.0, 5.0, 100.0, 77.0]) * factors((200, 150), model.inputs.shape[:2])
    np.testing.assert_allclose(model.found(rows, (200, 150)).boxes[0], [3, 5, 100, 77], rtol=1e-6)


def test_weights_are_exported_with_a_card_and_nothing_else_is_there(room, capsys):
    told(capsys, ["export", "runs/digits", "--to=out/model.safetensors"])
    assert set(tl.load_weights("out/model.safetensors")) == {"trunk", "head"}
    card = (room / "out" / "model.md").read_text()
    for words in ("2 classes", "zero, one", "64x48", "19 pictures with boxes", "mAP"):
        assert words in card
    assert json.loads((room / "out" / "model.json").read_text())["labels"] == "boxes"
    err = told(capsys, ["export", "runs/digits", "--to=model.onnx"], 2)
    assert "boxes are not written as .onnx" in err
    assert len(err.strip().splitlines()) == 2


def test_the_same_command_shows_the_run_again(capsys):
    assert "finetune digits" in told(capsys, ["finetune", "digits", "--skip-bad", *QUICK])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["finetune", "digits"], "--skip-bad"),
        (["finetune", "digits", "--task=classes"], "--task=classes: these are pictures with boxes"),
        (["finetune", "digits", "--measure=accuracy"], "--measure=accuracy: these are pictures with boxes"),
        (["finetune", "digits", "--balance=on"], "--balance=on: these are"),
        (["finetune", "digits", "--methods=ridge"], "--methods: ridge finds no boxes"),
        (["finetune", "digits", "--trunk=small_cnn", "--methods=l2_sp"], "nothing to fine-tune in random weights"),
        (["finetune", "digits", "--trunk=small_cnn", "--size=8"], "--size: 8 pixels are no edge for boxes"),
        (["finetune", "digits", "--workdir=digits/runs/x"], "lies among the examples"),
        (["finetune", "few", "--trunk=small_cnn"], "3 pictures to learn from"),
        (["finetune", "absent", "--trunk=small_cnn"], "image 0: '0.png' is not there"),
        (["predict", "runs/digits", "new", "--least=2"], "--least: '2' is no score"),
        (["predict", "runs/digits", "new", "--least=x"], "--least: 'x' is no score"),
        (["predict", "runs/digits", "new/notes.txt"], "none of 1 files is a picture"),
        (["predict", "runs/damaged", "new"], "model.json is not what a run writes"),
    ],
)
def test_mistakes_are_told_in_two_lines_before_any_work(arguments, said, room, capsys, record_property):
    record_property("tally", "bad inputs are told in one or two lines, with exit code 2 and nothing changed on disk")
    if not (room / "few").exists():
        write(room / "few", 3, 2)
        write(room / "absent", 3, 2)
        (room / "absent" / "images" / "0.png").unlink()
        shutil.copytree(room / "runs" / "digits", room / "runs" / "damaged")
        record = room / "runs" / "damaged" / "model.json"
        record.write_text(record.read_text().replace('"rows": 48', '"rows": 47'))
    if arguments[0] == "finetune" and not any(word.startswith("--workdir") for word in arguments):
        arguments = [*arguments, "--workdir=runs/mistake"]
        if "--trunk=small_cnn" not in arguments:
            arguments.append("--trunk=small_cnn")
    err = told(capsys, arguments, 2)
    assert said in err
    assert len(err.strip().splitlines()) <= 2
    assert not (room / "runs" / "mistake" / "model.json").exists()


def test_weights_of_another_detector_are_refused(room, tmp_path):
    shutil.copytree("runs/digits", tmp_path / "run")
    record = tmp_path / "run" / "model.json"
    said = json.loads(record.read_text())
    record.write_text(json.dumps(said | {"classes": ["a", "b", "c"]}))
    with pytest.raises(InputError, match="belong together"):
        load_finetuned(tmp_path / "run")


# ---------------------------------------------------------------- the parts


def test_a_mirrored_picture_has_mirrored_boxes(room):
    part = read_boxed_files(room / "digits", 64, 16, skip_bad=True).train
    both = mirrored(part, 64)
    images = np.asarray(part.images)[:, :, ::-1]
    for image, boxes, labels in zip(images, both["box"][len(images) :], both["box_class"][len(images) :], strict=True):
        for (x0, y0, x1, y1), label in zip(boxes.round().astype(int), labels, strict=True):
            assert label < 0 or image[y0:y1, x0:x1].max() > 100  # the ink is where the box is


def test_pictures_are_dealt_by_the_rarest_of_what_is_in_them():
    labels = np.array([[0, 1], [0, -1], [0, 0], [1, -1], [-1, -1], [-1, -1], [0, 2]])
    strata = rarest(Split(box_class=labels))
    assert strata[0] == strata[3] == 1
    assert strata[1] == strata[2] == 0
    assert strata[4] == strata[5] == 3
    assert strata[6] == 0  # that of one picture alone is none


def test_the_head_alone_is_kept_unless_another_is_ahead_by_more_than_a_point():
    runs = [
        Run(name, "tuning", "", 0, None, k, {}, validation=value)
        for name, k, value in (("features", 0, 0.30), ("features", 1, 0.40), ("l2_sp", 0, 0.405))
    ]
    assert verdict(runs)[0] == "features"
    assert verdict(runs)[1].trial == 1
    assert verdict([*runs, Run("l2_sp", "tuning", "", 0, None, 1, {}, validation=0.42)])[0] == "l2_sp"
