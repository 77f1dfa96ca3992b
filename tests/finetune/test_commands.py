"""`jaxtl finetune`, `predict` and `export`, as one types them."""

from __future__ import annotations

import csv
import dataclasses
import inspect
import json
import shutil
import subprocess
from pathlib import Path

import jax
import numpy as np
import pytest
from pictures import COLOURS, picture, write

import jaxtl as tl
from jaxtl import checkpoints, loop
from jaxtl.cli import commands, flags
from jaxtl.cli import finetune as command
from jaxtl.errors import InputError
from jaxtl.finetune import Options, load_finetuned, plan
from jaxtl.protocol import RunStore

QUICK = ("--trunk=small_cnn", "--size=16", "--budget=30s")


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """A folder of 3 classes with a damaged file, new pictures, and a run on them."""
    room = tmp_path_factory.mktemp("room")
    write(room / "photos", 10)
    (room / "photos" / "red" / "torn.jpg").write_bytes(b"\xff\xd8\xff\xe0 torn")
    write(room / "new", 3, seed=1)
    shutil.copy(room / "new" / "red" / "0.png", room / "new" / "=1+1.png")
    (room / "new" / "notes.txt").write_text("mine")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(room)
        patched.setenv("JAXTL_DATA", str(room / "cache"))
        assert commands.execute(["finetune", "photos", "--skip-bad", "--methods=ridge", *QUICK]) == 0
    return room


@pytest.fixture(autouse=True)
def here(room, monkeypatch):
    monkeypatch.chdir(room)
    monkeypatch.setenv("JAXTL_DATA", str(room / "cache"))


def told(capsys, arguments, code=0):
    assert commands.execute(arguments) == code
    out = capsys.readouterr()
    return out.out if code == 0 else out.err


def test_a_folder_becomes_a_model_and_a_report(room, capsys):
    run = room / "runs" / "photos"
    kept = {path.name for path in run.iterdir()}
    assert {"model.safetensors", "model.json", "report.html", "summary.md", "summary.json", "plots"} <= kept
    summary = json.loads((run / "summary.json").read_text())
    assert summary["unseen"] > 0.8  # a colour tells them apart
    assert summary["unseen_ci95"][0] <= summary["unseen"] <= summary["unseen_ci95"][1]
    assert np.sum(summary["confusion"]) == 30
    assert summary["skipped"] == ["red/torn.jpg: cannot be read (Truncated File Read)"]
    assert summary["command"].startswith("jaxtl finetune photos")
    page = (run / "report.html").read_text()
    assert page.count("data:image/png;base64,") == len(list((run / "plots").iterdir()))
    assert "jaxtl predict runs/photos" in page
    again = told(capsys, ["finetune", "photos", "--skip-bad", "--methods=ridge", *QUICK])
    assert "finetune photos" in again  # shown, not done again
    assert "features:" not in again


def test_the_same_command_as_the_summary_says(room):
    said = json.loads((room / "runs" / "photos" / "summary.json").read_text())["command"].split()
    request = flags.parse(Options, command.translated(said[2:]), "runs/x")
    assert request.config.methods == ("ridge",)
    assert (request.config.data, request.config.skip_bad, request.workdir) == ("photos", True, "runs/photos")


def test_new_pictures_are_predicted(room, capsys):
    out = told(capsys, ["predict", "runs/photos", "new", "--csv", "out.csv"])
    assert "10 pictures" in out
    assert "not read: notes.txt: is no image" in out
    header, *rows = csv.reader((room / "out.csv").read_text().splitlines())
    assert header == ["file", "class", "p(blue)", "p(green)", "p(red)"]
    assert len(rows) == 10
    assert rows[0][0] == "./=1+1.png"  # no formula where a spreadsheet opens it
    assert np.mean([row[0].startswith(row[1]) for row in rows[1:]]) > 0.7
    for row in rows:
        odds = np.array(row[2:], float)
        assert odds.sum() == pytest.approx(1, abs=1e-4)
        assert header[2 + int(odds.argmax())] == f"p({row[1]})"
    assert "blue/0.png  blue" in told(capsys, ["predict", "runs/photos", "new"])
    assert "1 pictures" in told(capsys, ["predict", "runs/photos", "new/red/0.png"])


def test_a_model_is_read_back_and_says_the_same(room):
    model = load_finetuned("runs/photos")
    images = np.stack([np.asarray(picture(COLOURS["red"], k, (16, 16))) for k in range(3)])
    said = model.probabilities(images)
    (file, odds), *_ = model.predict([room / "new" / "red" / "0.png"])
    assert odds.shape == (3,)
    assert said.shape == (3, 3)
    assert model.report.is_file()
    assert file.name == "0.png"


def test_weights_of_another_model_are_refused_its_batch_statistics_too(room, tmp_path):
    shutil.copytree("runs/photos", tmp_path / "run")
    weights = tmp_path / "run" / "model.safetensors"
    tree = checkpoints.load_weights(weights)
    for other in ({**tree, "model_state": {"batch_stats": {"mean": np.zeros(3, np.float32)}}}, {"head": tree["head"]}):
        checkpoints.export(other, weights)
        with pytest.raises(InputError, match="belong together"):
            load_finetuned(tmp_path / "run")


@pytest.mark.parametrize("ending", ["stablehlo", pytest.param("onnx", marks=pytest.mark.slow)])
def test_what_is_exported_says_what_the_model_says(ending, capsys):
    pytest.importorskip("flatbuffers")
    if ending == "onnx":
        onnxruntime = pytest.importorskip("onnxruntime")
        pytest.importorskip("jax2onnx")
    told(capsys, ["export", "runs/photos", f"--to=out/model.{ending}"])
    model = load_finetuned("runs/photos")
    images = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3)).astype(np.uint8)
    pixels, path = images.astype(np.float32), f"out/model.{ending}"
    if ending == "onnx":
        session = onnxruntime.InferenceSession(path)
        found = session.run(None, {session.get_inputs()[0].name: pixels})[0]
        assert json.loads(session.get_modelmeta().custom_metadata_map["classes"]) == ["blue", "green", "red"]
    else:
        exported = jax.export.deserialize(bytearray(Path(path).read_bytes()))
        assert exported.platforms == ("cpu", "cuda", "tpu")
        found = exported.call(pixels)
    assert np.abs(np.asarray(found) - model.probabilities(images)).max() < 1e-5


def test_weights_are_exported_with_a_card(room, capsys):
    told(capsys, ["export", "runs/photos", "--to=out/model.safetensors"])
    assert set(tl.load_weights("out/model.safetensors")) == {"trunk", "head"}
    card = (room / "out" / "model.md").read_text()
    for words in ("3 classes", "blue, green, red", "small_cnn", "16 pixels", "30 labelled pictures"):
        assert words in card


def test_the_library_refuses_what_it_does_not_know():
    with pytest.raises(InputError, match="did you mean 'methods'"):
        tl.finetune("photos", method="ridge")
    with pytest.raises(InputError, match="finetune budget: 'soon' is no time"):
        tl.finetune("photos", budget="soon")


@pytest.mark.parametrize("method", ["ridge", pytest.param("ridge,scratch", marks=pytest.mark.slow)])
def test_a_run_that_is_stopped_goes_on_bit_for_bit(method, room, capsys, monkeypatch):
    wanted, whole, torn = (
        ["finetune", "photos", "--skip-bad", f"--methods={method}", *QUICK],
        "photos",
        f"torn-{method}",
    )
    if "scratch" in method:
        whole, short = "scratch", plan.Plan(plan.Effort(3, 1, 2, 2, 4), 0, ("scratch",), 1.0, "")
        monkeypatch.setattr(plan, "made", lambda *_: short)  # what is afforded depends on the machine's mood
        assert commands.execute([*wanted, "--workdir=runs/scratch"]) == 0
    add, added = RunStore.add, []

    def stop_at_third(self, run, arrays):
        add(self, run, arrays)
        added.append(run)
        if len(added) == 3:
            loop.request_stop(2)

    with monkeypatch.context() as patched:
        patched.setattr(RunStore, "add", stop_at_third)
        assert commands.execute([*wanted, f"--workdir=runs/{torn}"]) == 130
    assert not (room / "runs" / torn / "model.json").exists()
    assert "rerun the same command" in capsys.readouterr().err
    assert commands.execute([*wanted, f"--workdir=runs/{torn}"]) == 0
    names = ("model.safetensors", "model.json")
    one, other = ([(room / "runs" / run / name).read_bytes() for name in names] for run in (whole, torn))
    assert one == other


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="no browser")
def test_a_browser_opens_the_report(room):
    page = room / "runs" / "photos" / "report.html"
    asked = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", page.as_uri()]
    shown = subprocess.run(asked, capture_output=True, text=True, timeout=120, check=True).stdout
    assert "whether fine-tuning pays" in shown
    assert shown.count("<img") == len(list((room / "runs" / "photos" / "plots").iterdir()))


# ---------------------------------------------------------------- mistakes, before any work


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["finetun"], "jaxtl finetun: no such command\n  did you mean 'finetune'?"),
        (["finetune"], "takes one folder or table"),
        (["finetune", "photos", "new"], "takes one folder or table"),
        (["finetune", "nowhere"], "no such file or directory"),
        (["finetune", "photos"], "--skip-bad"),
        (["finetune", "photos", "--budgt=1min"], "--budgt: unknown flag\n  did you mean --budget?"),
        (["finetune", "photos", "--budget=ten"], "--budget: 'ten' is no time\n  write one of a second to a week"),
        (["finetune", "photos", "--budget=0s"], "is no time"),
        (["finetune", "photos", "--methods=rigde"], "--methods: no method 'rigde'\n  did you mean 'ridge'?"),
        (["finetune", "photos", "--methods=l2,l2"], "--methods: l2 is there twice"),
        (["finetune", "photos", "--measure=f1"], "--measure: no measure 'f1'"),
        (["finetune", "photos", "--balance=yes"], "--balance: unknown choice 'yes'"),
        (["finetune", "photos", "--size=-1"], "--size: -1 is less than 0"),
        (["finetune", "photos", "--size=big"], "--size: 'big' is not a whole number"),
        (["finetune", "photos", "--seed=x"], "--seed: 'x' is not a whole number"),
        (["finetune", "photos", "--workdir=photos"], "photos: is not a run"),
        (["finetune", "photos", "--trunk=small_cnn", "--methods=l2_sp"], "nothing to fine-tune in random weights"),
        (["finetune", "photos", "--workdir=photos/runs/x"], "lies among the examples"),
        (["predict"], "takes RUN and DIR"),
        (["predict", "runs/photos", "new", "--cvs=x"], "did you mean '--csv'?"),
        (["predict", "runs/photos", "new", "--csv"], "--csv: needs a value"),
        (["predict", "photos", "new"], "holds no model.json"),
        (["predict", "runs/none", "new"], "is no directory"),
        (["predict", "runs/photos", "none"], "no such file or directory"),
        (["predict", "runs/photos", "new/notes.txt"], "none of 1 files is a picture"),
        (["export", "runs/photos"], "cannot write a file without an ending"),
        (["export", "runs/photos", "--to=model.pt"], "use one of .onnx, .stablehlo, .safetensors"),
        (["export", "runs/none", "--to=model.onnx"], "is no directory"),
    ],
)
def test_mistakes_are_told_in_two_lines_before_any_work(arguments, said, room, capsys, record_property):
    record_property("tally", "bad inputs are told in one or two lines, with exit code 2 and nothing changed on disk")
    if arguments[0] == "finetune" and not any(word.startswith("--workdir") for word in arguments):
        arguments = [*arguments, "--workdir=runs/mistake"]
    before = {path: path.stat().st_mtime for path in (room / "runs" / "photos").iterdir()}
    err = told(capsys, arguments, 2)
    assert said in err
    assert len(err.strip().splitlines()) <= 2
    assert "--config" not in err
    assert {path: path.stat().st_mtime for path in (room / "runs" / "photos").iterdir()} == before
    assert not (room / "runs" / "mistake" / "config.json").exists()


@pytest.mark.parametrize("damage", ["[]", "{", '{"classes": 1}', "swapped", "shape"])
def test_a_damaged_model_is_told(damage, room, capsys, tmp_path):
    shutil.copytree("runs/photos", tmp_path / "run")
    record = tmp_path / "run" / "model.json"
    if damage in ("swapped", "shape"):
        said = json.loads(record.read_text())
        said |= {"classes": ["a", "b"]} if damage == "swapped" else {"mean": [1.0]}
        record.write_text(json.dumps(said))
    else:
        record.write_text(damage)
    err = told(capsys, ["predict", str(tmp_path / "run"), "new"], 2)
    assert len(err.strip().splitlines()) == 2
    assert "run it again" in err


@pytest.mark.parametrize("name", ["finetune", "predict", "export"])
def test_help_says_what_there_is(name, capsys):
    text = told(capsys, [name, "--help"])
    assert text.startswith(inspect.getdoc(__import__(f"jaxtl.cli.{name}", fromlist="x")).splitlines()[0])
    if name == "finetune":
        for field in [field.name for field in dataclasses.fields(Options)]:
            assert f"--{field.replace('_', '-')}" in text.replace("_", "-") or field == "data"
    assert f"jaxtl {name}" in told(capsys, ["--help"])
