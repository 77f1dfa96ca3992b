"""The experiment that asks the same contrasts of many pairs, on digits and with next to no training."""

import dataclasses
import json

import numpy as np
import pytest

from experiments import when_it_helps as experiment
from experiments.when_it_helps import Config, source_of, tasks_of
from jaxtl.data import from_arrays, load
from jaxtl.errors import InputError
from jaxtl.protocol import Trainer, random_effects

TINY = Config(
    pairs=("digits@0-4:digits@5-9", "digits@5-9:digits@0-4", "digits@0+2+4+6+8:digits@1+3+5+7+9"),
    methods=("scratch", "fine_tune", "l2", "l2_sp"),
    model="mlp",
    widths=(4,),
    source_steps=4,
    source_batch_size=16,
    steps=2,
    batch_size=8,
    trials=1,
    replicates=3,
    validation=40,
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    experiment.main(TINY, workdir)
    return workdir


def tested(workdir):
    """{pair's directory: {method: [by replicate]}} as the runs were kept."""
    found = {}
    for path in workdir.glob("*/runs.jsonl"):
        runs = [json.loads(line) for line in path.read_text().splitlines()]
        for run in sorted(runs, key=lambda run: run["replicate"]):
            if run["stage"] == "report":
                found.setdefault(path.parent.name, {}).setdefault(run["method"], []).append(run["metrics"]["test"])
    return found


def test_every_contrast_is_of_paired_replicates_and_all_pairs_are_one_by_random_effects(finished, monkeypatch):
    summary = json.loads((finished / "summary.json").read_text())
    assert {"fine_tune − scratch", "l2_sp − l2"} <= set(summary)
    assert "features − fine_tune" not in summary
    runs = tested(finished)
    assert len(runs) == 3
    for words in ("fine_tune − scratch", "l2_sp − l2"):
        a, b = words.split(" − ")
        by_pair = [100 * (np.array(of[a]) - np.array(of[b])) for of in runs.values()]
        told = [100 * c[0] for c in summary[words]["pairs"].values()]
        assert sorted(told) == pytest.approx(sorted(np.mean(d) for d in by_pair), abs=1e-9)
        varied = [d for d in by_pair if np.ptp(d)]
        if len(varied) == 3:
            pooled = random_effects([d.mean() for d in varied], [d.std(ddof=1) / np.sqrt(3) for d in varied])
            assert summary[words]["all"]["mean"] == pytest.approx(pooled.mean)
    assert "](plots/forest.png)" in (finished / "summary.md").read_text()
    monkeypatch.setattr(Trainer, "train_all", None)
    experiment.main(dataclasses.replace(TINY), finished)  # goes on with nothing to do
    assert json.loads((finished / "summary.json").read_text())["l2_sp − l2"] == summary["l2_sp − l2"]


def test_a_side_is_a_set_some_of_its_classes_and_of_its_examples():
    images, labels = np.zeros((80, 4, 4), np.uint8), np.arange(80) % 4
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
