"""The experiment that asks the same contrasts of many pairs, on digits and with next to no training."""

import dataclasses
import json

import numpy as np
import pytest

from experiments import when_it_helps as experiment
from experiments.when_it_helps import Config, source_of, tasks_of
from jaxtl.data import from_arrays, load
from jaxtl.errors import InputError
from jaxtl.protocol import paired, random_effects
from jaxtl.report.forest import pool
from jaxtl.report.plots.forest import forest
from jaxtl.report.plots.style import styled

TINY = Config(
    pairs=("digits@0-4:digits@5-9", "digits@5-9:digits@0-4"),
    methods=("scratch", "fine_tune"),
    model="mlp",
    widths=(4,),
    source_steps=4,
    source_batch_size=16,
    steps=2,
    batch_size=8,
    trials=1,
    replicates=2,
    validation=40,
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    experiment.main(TINY, workdir)
    return workdir


def reported(workdir):
    """{pair's directory: {method: [by replicate]}} as the runs were kept."""
    found = {}
    for path in workdir.glob("*/runs.jsonl"):
        runs = [json.loads(line) for line in path.read_text().splitlines()]
        for run in sorted(runs, key=lambda run: run["replicate"]):
            if run["stage"] == "report":
                found.setdefault(path.parent.name, {}).setdefault(run["method"], []).append(run["metrics"]["test"])
    return found


def test_every_contrast_is_of_paired_replicates_and_a_finished_run_goes_on(finished):
    summary = json.loads((finished / "summary.json").read_text())
    assert "l2_sp − l2" not in summary
    kept = {path: path.read_bytes() for path in finished.glob("*/runs.jsonl")}
    by_pair = [np.subtract(of["fine_tune"], of["scratch"]) for of in reported(finished).values()]
    told = summary["fine_tune − scratch"]
    assert sorted(c[0] for c in told["pairs"].values()) == pytest.approx(sorted(map(np.mean, by_pair)), abs=1e-9)
    assert told["all"] is None  # two pairs are not pooled
    assert "](plots/forest.png)" in (finished / "summary.md").read_text()
    experiment.main(dataclasses.replace(TINY), finished)
    assert {path: path.read_bytes() for path in kept} == kept
    assert json.loads((finished / "summary.json").read_text())["fine_tune − scratch"] == told


def test_pairs_are_pooled_in_points_and_those_without_an_interval_are_left_out():
    rng = np.random.default_rng(0)
    values = rng.normal(0.02, 0.01, (4, 5))
    effects = {f"pair {k}": paired("a", "b", row, unit="replicate") for k, row in enumerate(values)}
    effects |= {"once": paired("a", "b", [0.5], unit="replicate"), "alike": paired("a", "b", [0.5, 0.5])}
    expected = random_effects(100 * values.mean(1), 100 * values.std(1, ddof=1) / np.sqrt(5))
    assert pool(effects) == expected
    assert pool({name: effects[name] for name in ("pair 0", "pair 1", "once")}) is None
    with styled():
        figure = forest("a title", list(effects), {"a − b": effects, "c − d": effects}, {"a − b": expected})
    assert [panel.get_xlabel() for panel in figure.axes] == ["a − b, points", "c − d, points"]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == [*effects, "all, and another one"]


def test_a_side_is_a_set_some_of_its_classes_and_of_its_examples():
    images, labels = np.random.default_rng(0).integers(0, 255, (80, 4, 4), np.uint8), np.arange(80) % 4
    cells = from_arrays({"image": images, "lab": np.arange(80) // 4 % 2}, labels, classes=list("abcd"))
    sets = {"digits": load("digits"), "cells": cells}
    source, target = tasks_of("cells@lab=0@0-2:cells@lab=1@b+c", sets.__getitem__)
    assert (source.classes, target.classes) == (("a", "b", "c"), ("b", "c"))
    assert set(source.train["lab"]) == {0}
    assert set(target.test["lab"]) == {1}
    source, target = tasks_of("digits:cells", sets.__getitem__)
    assert (len(source.classes), len(target.classes)) == (10, 4)


@pytest.mark.parametrize(
    ("pair", "says"),
    [
        ("digits", "is not one source and one target"),
        ("digits:digits:digits", "is not one source and one target"),
        ("digits@0-4@5-9:digits", "names classes twice"),
        ("digits@lab=1:digits", "has no field 'lab'"),
        ("cells@lab=7:digits", "no 'lab' of 'arrays' is '7'"),
        ("digits@0-99:digits", "99"),
    ],
)
def test_a_pair_that_cannot_be_read_is_told(pair, says):
    fields = {"image": np.zeros((40, 4, 4), np.uint8), "lab": np.arange(40) // 2 % 2}
    sets = {"digits": load("digits"), "cells": from_arrays(fields, np.arange(40) % 2)}
    with pytest.raises(InputError, match=says) as error:
        tasks_of(pair, sets.__getitem__)
    assert "--config.pairs" in str(error.value.where)


def test_a_source_serves_all_targets_but_of_a_set_that_both_sides_divide():
    pairs = ("cifar10:xrays", "cifar10:cells@lab=0", "cifar10@0-4:cifar10@5-9", "cells@lab=0:cells@lab=1")
    assert [source_of(pair) for pair in pairs] == ["cifar10", "cifar10", *pairs[2:]]
