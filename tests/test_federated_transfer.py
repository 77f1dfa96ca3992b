"""The experiment on clients: its tables against the runs, what it compares, and what it refuses."""

import csv
import dataclasses
import json

import numpy as np
import pytest

from experiments import federated_transfer as experiment
from experiments.federated_transfer import BASELINE, CONTRASTS, RECIPES, USUAL, Config, notes_of
from jaxtl.data import load
from jaxtl.errors import InputError

TINY = Config(
    widths=(8,),
    source_steps=2,
    steps=2,
    clients=10,
    trials=1,
    replicates=2,
    validation=60,
    partitions=("classes",),
    methods=("fedavg_scratch", BASELINE, "fedper"),
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    experiment.main(TINY, workdir)
    return workdir


def test_tables_are_what_the_runs_say(finished):
    summary = json.loads((finished / "summary.json").read_text())
    figures = summary["clients: 2 classes each"]
    with open(finished / "classes.csv", newline="") as file:
        runs = [run for run in csv.DictReader(file) if run["stage"] == "report"]
    assert {*figures} == {*TINY.methods}
    for method, found in figures.items():
        own = [run for run in runs if run["method"] == method]
        np.testing.assert_allclose(found["test"], [float(run["test"]) for run in own])
        np.testing.assert_allclose([np.mean(clients) for clients in found["clients"]], found["test"])
        assert found["worst"] == pytest.approx(np.mean([float(run["worst"]) for run in own]))
        assert found["worst"] == pytest.approx(np.mean([min(clients) for clients in found["clients"]]))
        assert found["megabytes"] == pytest.approx(float(own[0]["megabytes"]))
    gain = np.mean(np.array(figures["fedper"]["test"]) - figures[BASELINE]["test"])
    assert figures["fedper"]["gain"] == pytest.approx(gain)
    assert figures["fedper"]["server"] is None
    text = (finished / "summary.md").read_text()
    assert "fedper vs fedavg:" in text
    assert "fedprox vs fedavg:" not in text
    assert "](plots/clients" in text


def test_contrasts_are_among_the_usual_methods():
    assert {name for pair in CONTRASTS for name in pair} <= {*USUAL} <= {*RECIPES}


def test_published_figures_stand_beside_their_data_only():
    cifar = dataclasses.replace(load("digits"), name="cifar10")
    assert "FedProx 65.63" in notes_of(TINY, "dirichlet", cifar)[0]
    assert notes_of(TINY, "classes", cifar) == []
    assert notes_of(TINY, "dirichlet", load("digits")) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampled": 11}, "--config.sampled: 11 of 10 clients"),
        ({"clients": 2}, "--config.clients=2, classes: 2 clients with 2 classes each cannot have all of 5"),
        ({"clients": 9999, "partitions": ("iid",)}, "--config.clients=9999, iid"),
        ({"partitions": ("even",)}, "no partition 'even'"),
        ({"methods": ("fedsgd",)}, "no method 'fedsgd'"),
        ({"split": "0-4:0"}, "the target has one class"),
    ],
)
def test_a_config_that_cannot_be_run_is_refused(changes, message, tmp_path):
    with pytest.raises(InputError, match=message):
        experiment.main(dataclasses.replace(TINY, **changes), tmp_path)
