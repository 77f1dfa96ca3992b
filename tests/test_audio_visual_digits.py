"""The experiment on written and spoken digits: its sets, its tables against the runs, its maps, and what it refuses."""

import csv
import dataclasses
import json

import numpy as np
import pytest

from experiments import audio_visual_digits as experiment
from experiments.audio_visual_digits import BASELINE, CONTRASTS, FUSIONS, SPEAKERS, TAKES, VIEWS, Config
from jaxtl.data.modalities import HISS, LATE, NOISE
from jaxtl.errors import InputError

NAMES = ("lower", "upper")
TINY = Config(
    n_per_class=(4,),
    widths=(8,),
    steps=3,
    batch_size=16,
    trials=2,
    replicates=2,
    validation=40,
    fitting=30,
    methods=("product", "weighted", "clip"),
    strengths=(1.0, 0.0),
    shares=(1.0, 0.5),
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    experiment.main(TINY, workdir)
    return workdir


@pytest.fixture(scope="module")
def summary(finished):
    return json.loads((finished / "summary.json").read_text())


def reported(finished, method, metric):
    """By replicate the mean over its report draws."""
    with open(finished / f"{VIEWS}_4.csv", newline="") as file:
        runs = [run for run in csv.DictReader(file) if (run["stage"], run["method"]) == ("report", method)]
    return [np.mean([float(run[metric]) for run in runs if run["replicate"] == str(k)]) for k in range(2)]


def test_tables_are_what_the_runs_say(finished, summary):
    found = summary[f"modalities-tested_on-{VIEWS}-n_per_class-4"]
    worse = summary[f"worse-tested_on-{VIEWS}-n_per_class-4"]
    assert list(found) == [*NAMES, "product", "weighted", "clip"]
    for method, figures in found.items():
        np.testing.assert_allclose(figures["all"], reported(finished, method, "test"))
        for name in NAMES:
            np.testing.assert_allclose(figures["alone"][name], reported(finished, method, f"there/{name}"))
            np.testing.assert_allclose(figures["fits"][name], reported(finished, method, f"fits/{name}"))
        assert sum(figures["shapley"].values()) == pytest.approx(np.mean(figures["all"]) - 0.1, abs=1e-9)
        for what, values in worse[method].items():
            np.testing.assert_allclose(values, reported(finished, method, f"worse/{what}"))
    assert found["upper"]["all"] == found["upper"]["alone"]["upper"]
    text = (finished / "summary.md").read_text()
    for picture in ("accuracy", "contrasts", "absent", "strength", "paired"):
        assert f"](plots/{picture}" in text
    assert "NO TWO MODALITIES" in text


def test_contrasts_are_those_that_were_fixed(summary):
    (of,) = (figures for name, figures in summary.items() if name == f"tested_on-{VIEWS}-n_per_class-4")
    assert [(c["a"], c["b"]) for c in of["contrasts"]] == [("weighted", BASELINE), ("clip", BASELINE)]
    assert {name for pair in CONTRASTS for name in pair} <= {*FUSIONS}


def test_maps_have_a_value_for_every_number_and_go_on_from_the_choices(finished, summary):
    strength = summary[f"strength-tested_on-{VIEWS}-n_per_class-4"]
    shares = summary[f"paired-tested_on-{VIEWS}-n_per_class-4"]
    assert strength["x"] == [0.0, 1.0]
    assert [len(values) for values in strength["clip"]] == [2, 2]
    assert shares["x"] == [0.5, 1.0]
    np.testing.assert_allclose(shares["clip"][1], reported(finished, "clip", "test"))
    room = finished / VIEWS / "n_4"
    kept = [json.loads(line) for line in (room / "strengths_clip/runs.jsonl").read_text().splitlines()]
    assert {run["setting"]["align_weight"] for run in kept} == {0.0, 1.0}
    chosen = [json.loads(line) for line in (room / "study/runs.jsonl").read_text().splitlines()]
    rates = {(run["replicate"], run["setting"]["learning_rate"]) for run in chosen if run["method"] == "clip"}
    assert {(run["replicate"], run["setting"]["learning_rate"]) for run in kept} <= rates


def made(room, speakers=4):
    """Images of three classes, and words of as many speakers as there are, each in seven takes."""
    random = np.random.default_rng(0)
    labels = np.arange(60) % 3
    parts = {f"{part}_images": random.integers(256, size=(60, 28, 28), dtype=np.uint8) for part in ("train", "test")}
    np.savez(room / "images.npz", **parts, train_labels=labels, test_labels=labels)
    which = np.array([(c, s, t) for c in range(3) for s in range(speakers) for t in range(7)], np.uint8)
    samples = random.normal(size=(len(which), 400)).astype(np.float32)
    numbers = dict(zip(("labels", "speakers", "takes"), which.T, strict=True))
    np.savez(
        room / "words.npz",
        samples=samples.ravel(),
        offsets=400 * np.arange(len(which) + 1),
        sample_rate=1000,
        **numbers,
    )
    return f"{room}/images.npz", f"{room}/words.npz"


def test_images_and_recordings_are_tested_on_takes_and_on_pairs_of_speakers_in_turn(tmp_path):
    found = experiment.sets(dataclasses.replace(TINY, data=made(tmp_path)))
    assert list(found) == [TAKES, SPEAKERS]
    assert [{*one.test.groups.tolist()} for one in found[SPEAKERS]] == [{0, 1}, {2, 3}]
    (takes,) = found[TAKES]
    assert takes.train["image"]["image"].shape[1:] == (14, 14, 1)
    assert len(takes.worse) == len(LATE) + len(HISS) + len(NOISE)
    few = experiment.sets(dataclasses.replace(TINY, data=made(tmp_path, speakers=3)))
    assert list(few) == [TAKES], "one pair of speakers is no rotation"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": ("digits", "mnist", "usps")}, r"--config\.data: 3 sets"),
        ({"data": ("digits", "nowhere.npz")}, "nowhere.npz"),
        ({"methods": ("sum",)}, "no method 'sum'"),
        ({"aligned": "clap"}, "no alignment 'clap'"),
        ({"n_per_class": (900,)}, r"--config\.n_per_class=900: lower"),
        ({"shares": (0.0,)}, r"--config\.shares"),
        ({"replicates": 100_000}, r"--config\.replicates: 100000 is more"),
    ],
)
def test_a_config_that_cannot_be_run_is_refused(changes, message, tmp_path):
    with pytest.raises(InputError, match=message):
        experiment.main(dataclasses.replace(TINY, **changes), tmp_path)
