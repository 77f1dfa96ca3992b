"""The experiment on trunks that are moved between modalities: what is split how, its tables, and what it refuses."""

import csv
import dataclasses
import json

import numpy as np
import pytest

from experiments import cross_modal as experiment
from experiments.cross_modal import CONTRASTS, IMAGE, MEANS, OWN, SIDES, SPECTROGRAM, Config
from jaxtl.errors import InputError

TINY = Config(
    sides=("image_to_video_digit",),
    methods=("scratch", "wrong_l2", "l2"),
    n_per_class=2,
    moved=80,
    frames=3,
    edge=10,
    hidden=3,
    widths=(4,),
    input_size=8,
    source_steps=3,
    source_batch_size=16,
    steps=2,
    batch_size=8,
    validation=60,
    trials=2,
    report_draws=1,
    replicates=2,
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    experiment.main(TINY, workdir)
    return workdir


def test_a_small_run_compares_sources_of_right_and_of_wrong_labels_and_goes_on(finished, monkeypatch):
    summary = json.loads((finished / "summary.json").read_text())
    (found,) = (value for name, value in summary.items() if name.startswith("side"))
    contrasts = [(one["a"], one["b"]) for one in found["contrasts"]]
    assert contrasts == [("l2", "scratch"), ("l2", "wrong_l2"), ("wrong_l2", "scratch")]
    with open(finished / "image_to_video_digit.csv", newline="") as file:
        reported = [run for run in csv.DictReader(file) if run["stage"] == "report"]
    test = {(run["method"], run["replicate"]): float(run["test"]) for run in reported}
    gain = np.mean([test["l2", str(k)] - test["wrong_l2", str(k)] for k in range(2)])
    assert found["contrasts"][1]["difference"] == pytest.approx(gain)
    assert not [name for run in reported for name in run if name.startswith("distance/") and run["method"] != "l2"]
    text = (finished / "summary.md").read_text()
    for wanted in (
        "](plots/examples.png)",
        "](plots/accuracy",
        "](plots/contrasts",
        "| image",
        "another source's trunk",
    ):
        assert wanted in text
    for kind in ("right", "wrong"):
        assert len(list((finished / IMAGE / kind).rglob("source.safetensors"))) == 2
    monkeypatch.setattr(experiment.FewShot, "validate", None)
    experiment.main(dataclasses.replace(TINY), finished)
    again = json.loads((finished / "summary.json").read_text())
    assert again.keys() == summary.keys()


def words(room, speakers=2, takes=7):
    """Recordings of noise: three words, so many speakers and takes."""
    which = np.array([(c, s, t) for c in range(3) for s in range(speakers) for t in range(takes)], np.uint8)
    samples = np.random.default_rng(0).normal(size=400 * len(which)).astype(np.float32)
    numbers = dict(zip(("labels", "speakers", "takes"), which.T, strict=True))
    np.savez(room / "words.npz", samples=samples, offsets=400 * np.arange(len(which) + 1), sample_rate=1000, **numbers)
    return f"{room}/words.npz"


def test_nothing_serves_a_source_and_a_target_and_nothing_is_learned_from_and_tested(tmp_path):
    sources, targets = experiment.loaded(dataclasses.replace(TINY, data=("digits", words(tmp_path))))

    def bytes_of(part):
        return [image.tobytes() for image in part.images]

    theirs, ours = bytes_of(sources[IMAGE].train), bytes_of(targets[IMAGE].train)
    whole = experiment.load("digits").train.images
    twice = len(whole) - len({image.tobytes() for image in whole})
    assert len(theirs) + len(ours) == len(whole)
    assert len({*theirs} & {*ours}) <= twice
    for name in ("digit", "motion", "motion, unordered", SPECTROGRAM):
        task = targets[name]
        assert not {*task.train.groups.tolist()} & {*task.test.groups.tolist()}
    clips = targets["digit"].train["frames"]
    first = clips[::4, 0].reshape(len(clips) // 4, -1)
    assert {tuple(np.unique(image).tolist()) for image in first} <= {
        tuple(np.unique(np.append(image, clips.min())).tolist()) for image in targets[IMAGE].train.images
    }
    heard = targets[SPECTROGRAM]
    assert [len(heard.train), len(heard.test)] == [3 * 2 * 2, 3 * 2 * 5], "the first five takes are tested"


def test_both_modalities_are_in_units_of_their_own(tmp_path):
    sources, _ = experiment.loaded(dataclasses.replace(TINY, data=("digits", words(tmp_path))))
    for data in sources.values():
        assert data.train.images.dtype == np.float32
        assert float(data.train.images.mean()) == pytest.approx(0, abs=0.02), (
            "of the whole part, of which a source has half"
        )
        assert float(data.train.images.std()) == pytest.approx(1, abs=0.02)


def test_sides_are_those_that_the_data_have():
    every = dataclasses.replace(TINY, sides=())
    assert list(experiment.sides_of(every, {IMAGE: 0, SPECTROGRAM: 0})) == list(SIDES)
    assert list(experiment.sides_of(every, {IMAGE: 0})) == [name for name in SIDES if "video" in name]
    assert {name for pair in CONTRASTS for name in pair} <= {*MEANS}
    assert {name.removeprefix("wrong_") for name in MEANS} == {*OWN}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sides": ("spectrogram_to_image",)}, "--config.data: no recordings for spectrogram_to_image"),
        ({"data": ("a", "b", "c")}, "--config.data: 3 sets"),
        ({"edge": 9}, "moving: images of 8x8 pixels in 3 frames of 9x9"),
        ({"n_per_class": 10_000}, "--config.n_per_class=10000: "),
        ({"widths": (4,) * 9}, "--config.widths: 9 blocks"),
        ({"data": ("nowhere.npz",)}, "nowhere.npz: no such file"),
    ],
)
def test_a_config_that_cannot_be_run_is_refused(changes, message, tmp_path):
    with pytest.raises(InputError, match=message):
        experiment.main(dataclasses.replace(TINY, **changes), tmp_path)
    assert not list(tmp_path.iterdir())
