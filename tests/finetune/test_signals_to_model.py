"""From a folder of recordings to a model: windows of a file stay together, predictions, files for others, mistakes."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

import jaxtl as tl
from jaxtl.cli import commands
from jaxtl.data.labelled_signals import labelled_signals
from jaxtl.data.windows import windows
from jaxtl.errors import InputError
from jaxtl.finetune import load_finetuned
from jaxtl.finetune.modalities import PICTURES, SIGNALS, modality_of

LENGTH, RATE = 64, 1000


def hum(rng, frequency, samples=LENGTH * 6 + 5):
    """A tone in noise, as loud as it happens to be."""
    time = np.arange(samples) / RATE
    tone = np.sin(2 * np.pi * (frequency * time + rng.random()))
    return rng.uniform(0.1, 10) * (tone + 0.3 * rng.normal(size=samples)) + rng.normal()


def recordings(path, count=4, seed=0):
    rng = np.random.default_rng(seed)
    for name, frequency in (("low", 60), ("high", 220)):
        (path / name).mkdir(parents=True)
        for k in range(count):
            np.save(path / name / f"{k}.npy", hum(rng, frequency).astype(np.float32))
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """By the spectrum, which is the default."""
    room = tmp_path_factory.mktemp("signals")
    data = recordings(room / "machine")
    return tl.finetune(data, workdir=room / "run", size=LENGTH, methods=("ridge", "logistic"))


def test_windows_of_a_recording_are_one_group_and_keep_their_names(tmp_path):
    place = recordings(tmp_path / "machine")
    found = labelled_signals(place, LENGTH)
    assert found.classes == ("high", "low")
    assert found.train["signal"].shape == (8 * 6, LENGTH, 1)
    for group in np.unique(found.train.groups):
        rows = found.train.groups == group
        assert rows.sum() == 6
        assert len({*found.train.labels[rows]}) == 1
    assert found.files[7] == "high/1.npy, window 1"
    whole = np.load(place / "high" / "1.npy")[:, None]
    assert np.array_equal(found.train["signal"][7], windows(whole, LENGTH)[1])
    assert modality_of(place) is SIGNALS
    assert modality_of(place / "low") is PICTURES


def test_a_model_of_recordings_tells_those_that_it_has_not_heard(model, tmp_path):
    assert model.trunk == "spectrum"
    heard = recordings(tmp_path / "new", seed=1)
    out = tmp_path / "said.csv"
    commands.execute(["predict", str(model.workdir), str(heard), f"--csv={out}"])
    rows = list(csv.DictReader(out.read_text(encoding="utf-8").splitlines()))
    assert len(rows) == 8 * 6
    assert np.mean([row["class"] == row["file"].partition("/")[0] for row in rows]) > 0.9
    again = load_finetuned(model.workdir)
    signals = labelled_signals(heard, LENGTH).train["signal"]
    assert np.allclose(again.probabilities(signals), model.probabilities(signals), atol=1e-5)
    report = (model.workdir / "report.html").read_text(encoding="utf-8")
    assert "labelled windows" in report


def test_what_it_writes_for_others_says_the_same(model, tmp_path):
    found = model.export(tmp_path / "model.safetensors")
    card = next(path for path in found if path.suffix == ".md").read_text(encoding="utf-8")
    assert "windows of 64 samples and 1 channel" in card
    pytest.importorskip("flatbuffers")
    assert model.export(tmp_path / "model.stablehlo")[0].stat().st_size > 0


def test_bad_files_are_told_in_a_line_each(model, tmp_path, capsys):
    place = tmp_path / "new"
    place.mkdir()
    (place / "a.npy").write_bytes(b"nothing")
    np.save(place / "b.npy", np.ones(10))
    np.save(place / "c.npy", np.ones((200, 2)))
    np.save(place / "d.npy", hum(np.random.default_rng(2), 60))
    commands.execute(["predict", str(model.workdir), str(place)])
    said = capsys.readouterr().out
    assert "not read: a.npy" in said
    assert "b.npy: has 10 samples, and a window 64" in said
    assert "has 2 channels, and the model 1" in said
    assert "6 windows" in said


def test_a_network_along_time_is_trained_from_scratch(tmp_path):
    data = recordings(tmp_path / "machine")
    how = {"trunk": "signal_cnn", "size": LENGTH, "methods": ("ridge", "scratch"), "budget": "60s"}
    found = tl.finetune(data, workdir=tmp_path / "run", **how)
    assert found.trunk == "signal_cnn"
    assert found.probabilities(labelled_signals(data, LENGTH).train["signal"][:3]).shape == (3, 2)
    assert np.isfinite(load_finetuned(tmp_path / "run").probabilities(np.ones((1, LENGTH, 1)))).all()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"trunk": "efficientnet_lite0"}, "takes no signals"),
        ({"methods": ("tfidf",)}, "weighs words"),
        ({"methods": ("l2_sp",)}, "would need a network"),
        ({"task": "number"}, "needs a table"),
        ({"size": 63}, "windows of 63 samples"),
        ({"size": 512}, "has 389 samples, and a window 512"),
    ],
)
def test_what_means_nothing_for_recordings_is_refused(tmp_path, options, said):
    data = recordings(tmp_path / "machine")
    with pytest.raises(InputError, match=said):
        tl.finetune(data, workdir=tmp_path / "run", **{"size": LENGTH, **options})


def test_what_cannot_be_learned_from_is_refused_or_left_out(tmp_path):
    data = recordings(tmp_path / "machine")
    (data / "low" / "bad.csv").write_text("x\n")
    with pytest.raises(InputError, match="holds no numbers"):
        labelled_signals(data, LENGTH)
    assert labelled_signals(data, LENGTH, skip_bad=True).skipped == [("low/bad.csv", "holds no numbers")]
    (data / "low" / "bad.csv").unlink()
    np.save(data / "low" / "two.npy", np.ones((200, 2)))
    with pytest.raises(InputError, match="recordings differ"):
        labelled_signals(data, LENGTH)
    alone = recordings(tmp_path / "alone", count=1)
    with pytest.raises(InputError, match="has 1 recordings to learn from"):
        labelled_signals(alone, LENGTH)
    assert Path(alone).is_dir()
