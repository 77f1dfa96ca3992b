"""The search over label trees: what is frozen stays, what is new begins anew, and validation alone chooses."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import label_trees as experiment
from experiments.label_trees import Config
from jaxtl.data import load, source_and_target
from jaxtl.errors import InputError
from jaxtl.labels import NEW, TRANSFERRED
from jaxtl.methods.finetuning import label_trees, labellings, moving
from jaxtl.problems import FewShot, make_source
from jaxtl.protocol import Draw, RunStore, Trainer
from jaxtl.selection import FROZEN

TINY = Config(
    data="digits",
    n_per_class=5,
    model="mlp",
    widths=(8, 6),
    source_steps=20,
    steps=4,
    tuning_draws=1,
    report_draws=2,
    validation=50,
    learning_rates=(0.05, 0.1),
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    experiment.main(TINY, workdir)
    return workdir


@pytest.fixture(scope="module")
def summary(finished):
    return json.loads((finished / "summary.json").read_text())["label_trees"]


@pytest.fixture(scope="module")
def problem(tmp_path_factory):
    data = load("digits")
    source_task, task = source_and_target(TINY.split, data, data)
    return FewShot(TINY, make_source(TINY, source_task, tmp_path_factory.mktemp("source")), task, TINY.n_per_class)


def test_frozen_blocks_stay_and_new_blocks_begin_anew(problem):
    rows, trainer, draw = labellings(problem), Trainer(problem, label_trees(problem)), Draw(1)
    assert len(rows) == 6  # two cuts through two blocks
    assert {row["head"] for row in rows} == {NEW}
    fresh, source = problem.fresh(draw).params, problem.moved.params
    for name, row in zip(trainer.recipes, rows, strict=True):
        (trained,) = trainer.train_all(name, [moving(row, 0.05)], draw)
        for i in range(2):
            kind, layer = row[f"block {i}"], f"dense_{i}"
            own = trained.weights.params["trunk"][layer]["kernel"]
            away = [jnp.abs(own - params["trunk"][layer]["kernel"]).max() for params in (source, fresh)]
            assert (away[0] == 0) == (kind == FROZEN)
            assert (away[1] > away[0]) == (kind in (FROZEN, TRANSFERRED))


def test_all_labellings_run_in_one_program(problem):
    assert len({recipe.program for recipe in label_trees(problem).values()}) == 1


def test_finished_runs_are_kept(problem, tmp_path, monkeypatch):
    searched = experiment.search(TINY, problem, RunStore(tmp_path))
    monkeypatch.setattr(Trainer, "train_all", None)
    again = experiment.search(TINY, problem, RunStore(tmp_path))
    assert again.settings == searched.settings
    np.testing.assert_array_equal(again.scores, searched.scores)
    np.testing.assert_array_equal(again.test, searched.test)


def test_a_labelling_that_diverges_is_not_chosen_and_counts_as_nothing_right(problem, tmp_path, monkeypatch):
    away, train_all = next(iter(label_trees(problem))), Trainer.train_all

    def diverging(self, name, settings, draw):
        return [None] * len(settings) if name == away else train_all(self, name, settings, draw)

    monkeypatch.setattr(Trainer, "train_all", diverging)
    searched = experiment.search(TINY, problem, RunStore(tmp_path))
    assert searched.chosen != 0
    assert searched.scores[0] == -np.inf
    assert np.all(searched.test[0] == 0)
    assert np.all(np.isfinite(searched.scores[1:]))


def test_learning_rates_at_which_everything_diverges_are_refused(problem, tmp_path):
    config = dataclasses.replace(TINY, learning_rates=(1e38,))
    with pytest.raises(InputError, match=r"--config.learning_rates: all 6 labellings diverge"):
        experiment.search(config, problem, RunStore(tmp_path))


def test_labelling_and_learning_rate_are_chosen_by_validation_on_the_tuning_draws_alone(summary, finished):
    runs = [json.loads(line) for line in (finished / "label_trees" / "runs.jsonl").read_text().splitlines()]
    assert {run["seed"] for run in runs if run["stage"] == "tuning"} == {0}
    assert {run["seed"] for run in runs if run["stage"] == "report"} == {1, 2}
    tuning = [run for run in runs if run["stage"] == "tuning"]
    best = max(run["validation"] for run in tuning)
    chosen = summary["rows"][summary["chosen"]]
    assert chosen["validation"] == best
    for row in summary["rows"]:
        own = [run for run in tuning if run["method"] == " ".join(row["labels"].values())]
        found = {run["setting"]["learning_rate"]: run["validation"] for run in own}
        assert set(found) == set(TINY.learning_rates)
        assert found[row["learning_rate"]] == max(found.values()) == row["validation"]


def test_the_report_is_complete(finished):
    assert "## Which blocks to freeze" in (finished / "summary.md").read_text()
    assert "](plots/label_trees.png)" in (finished / "summary.md").read_text()
    assert (finished / "plots" / "label_trees.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rates": ()}, r"--config.learning_rates: nothing is given"),
        ({"report_draws": 1}, "--config.report_draws: 1 is less than 2"),
        ({"n_per_class": 10_000}, r"--config.n_per_class=10000: "),
    ],
)
def test_a_config_that_cannot_be_run_is_refused(changes, message, tmp_path):
    with pytest.raises(InputError, match=message):
        experiment.main(dataclasses.replace(TINY, **changes), tmp_path)
    assert not list(tmp_path.iterdir())
