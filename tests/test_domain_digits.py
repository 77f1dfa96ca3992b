"""The experiment on two kinds of digits: its sets, its tables against the runs, and what it refuses."""

import csv
import dataclasses
import json

import numpy as np
import pytest

from experiments import domain_digits as experiment
from experiments.domain_digits import USUAL, Config, at_edge, worse
from jaxtl.data import from_arrays, load
from jaxtl.data.domain_sets import halved
from jaxtl.errors import InputError
from jaxtl.methods.domain.recipes import BASELINE, BOUND, RECIPES
from jaxtl.problems.adaptation import ORACLE, VALIDATORS
from jaxtl.report.tables import DASH

TINY = Config(
    both_ways=False,
    model="mlp",
    widths=(8,),
    steps=3,
    batch_size=16,
    trials=2,
    replicates=2,
    validation=40,
    methods=(BASELINE, BOUND, "mcc"),
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    experiment.main(TINY, workdir)
    return workdir


def test_tables_are_what_the_runs_say_and_no_bound_is_in_the_headline(finished):
    summary = json.loads((finished / "summary.json").read_text())
    (methods,) = (figures for name, figures in summary.items() if name.startswith("methods: "))
    (validators,) = (figures for name, figures in summary.items() if name.startswith("validators: "))
    (path,) = finished.glob("*.csv")
    with open(path, newline="") as file:
        runs = list(csv.DictReader(file))

    def tests(method, selection):
        found = [
            run for run in runs if (run["stage"], run["method"], run["selection"]) == ("report", method, selection)
        ]
        return np.array([float(run["test"]) for run in found])

    assert methods[BOUND]["test"] is None
    np.testing.assert_allclose(methods["mcc"]["test"], tests("mcc", "information"))
    np.testing.assert_allclose(methods["mcc"]["bound"], tests("mcc", ORACLE))
    gain = np.mean(tests("mcc", "information") - tests(BASELINE, "information"))
    assert methods["mcc"]["gain"] == pytest.approx(gain, abs=1e-12)
    assert list(validators) == [*VALIDATORS, ORACLE]
    for name in VALIDATORS:
        lost = np.mean([tests(method, ORACLE) - tests(method, name) for method in (BASELINE, "mcc")])
        assert validators[name]["regret"] == pytest.approx(lost, abs=1e-12)
    assert validators[ORACLE]["regret"] == 0.0
    text = (finished / "summary.md").read_text()
    row = next(line for line in text.splitlines() if line.startswith(f"| {BOUND} "))
    assert row.split("|")[2].strip() == "–"
    assert "](plots/domains" in text
    assert "](plots/features" in text
    ahead = {name: bool(validators[name]["ahead"]) for name in validators}  # of one method, mcc
    sentence = next(line for line in text.splitlines() if "At least half of the methods" in line)
    enough, fewer = sentence.split(". Fewer")
    assert all((name in enough) == ahead[name] for name in VALIDATORS)
    assert all((name in fewer) != ahead[name] for name in (*VALIDATORS, ORACLE))
    assert "Published figures" not in text, "of other sets"


def test_no_image_is_on_both_sides_and_the_distortion_is_always_the_same():
    digits = load("digits")
    source, target = halved(digits, worse, "distorted")
    assert source.train.images.dtype == target.train.images.dtype == np.uint8
    assert len(source.train) + len(target.train) == len(digits.train)
    np.testing.assert_array_equal(source.train.labels, digits.train.labels[::2])
    np.testing.assert_array_equal(target.train.labels, digits.train.labels[1::2])
    np.testing.assert_array_equal(target.test.images, halved(digits, worse, "distorted")[1].test.images)
    gap = np.abs(target.test.images.astype(float) - source.test.images).mean()
    assert 20 < gap < 120


def test_images_of_28_pixels_lose_their_margin_and_keep_their_mean():
    images = np.zeros((20, 28, 28), np.uint8)
    images[:, 2:26, 2:26] = 90
    images[:, 2:14, 2:26] = 30
    data = from_arrays(images, np.arange(20) % 2)
    small = at_edge(data)
    assert small.train.images.shape[1:] == (16, 16, 1)
    np.testing.assert_array_equal(small.train.images[0, :8], 30)
    np.testing.assert_array_equal(small.train.images[0, 8:], 90)
    assert at_edge(small) is small


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": ("digits", "mnist", "usps")}, "--config.data: 3 sets"),
        ({"methods": ("source",)}, "no method 'source'"),
        ({"validator": "labels"}, "no validator 'labels'"),
        ({"replicates": 100_000}, "--config.replicates: 100000 is more"),
    ],
)
def test_a_config_that_cannot_be_run_is_refused(changes, message, tmp_path):
    with pytest.raises(InputError, match=message):
        experiment.main(dataclasses.replace(TINY, **changes), tmp_path)


@pytest.mark.parametrize("classes", ["partial", "open"])
def test_targets_with_other_classes_are_asked_what_they_can_answer(classes, tmp_path):
    methods = (BASELINE, "osbp" if classes == "open" else "pada")
    changes = {"classes": classes, "shared": 4, "methods": methods, "replicates": 1, "trials": 1}
    experiment.main(dataclasses.replace(TINY, **changes), tmp_path)
    text = (tmp_path / "summary.md").read_text()
    assert f"{'Balanced accuracy' if classes == 'open' else 'Accuracy'} on target test data" in text
    with pytest.raises(InputError, match=r"osbp answers with a class that the source has not"):
        experiment.main(dataclasses.replace(TINY, methods=("osbp",)), tmp_path)


def test_what_was_published_stands_beside_what_was_found(finished):
    section = experiment.published_section({})
    (table,) = section.tables
    assert [row[0] for row in table.rows] == [one.method for one in experiment.PUBLISHED]
    assert {row[2] for row in table.rows} == {DASH}
    assert {*(one.method for one in experiment.PUBLISHED)} <= {*RECIPES}


def test_eight_methods_are_usual_and_the_baseline_is_among_them():
    assert len(USUAL) == 8
    assert {BASELINE, BOUND, *USUAL} <= {*RECIPES}
