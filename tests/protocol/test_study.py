"""A question that has nothing to do with images goes through `study` as it is."""

from __future__ import annotations

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl.errors import InputError
from jaxtl.labels import label_params
from jaxtl.losses import mean_of, squared_error
from jaxtl.optimizers import Group
from jaxtl.penalties import Term, l2
from jaxtl.program import Weights, make_program
from jaxtl.protocol import R2, Budget, Draw, Range, Recipe, Selection, Trainer, rates_of, study
from jaxtl.protocol.recipes import range_of

CONFIG = Budget(steps=20, trials=3, tuning_draws=1, report_draws=3, learning_rate=(0.05, 0.5))


class Rows:
    """y = x·w of a table with 6 columns and few rows, judged by R²."""

    config, title, origin, content, points, measure = CONFIG, "rows of a table", "made up", (), 2, R2

    def key(self, draw, use):
        return jax.random.fold_in(jax.random.key(draw.seed), ("rows", "start", "run").index(use))

    def table(self, key, rows):
        x = jax.random.normal(key, (rows, 6))
        return {"x": x, "label": x @ jnp.arange(6.0)}

    def start(self, draw):
        return Weights({"kernel": 0.01 * jax.random.normal(self.key(draw, "start"), (6,))})

    def data(self, program, start, draw):
        return self.table(self.key(draw, "rows"), 8)

    def rates(self, program, setting):
        return rates_of(program, setting, {"penalty": 20.0})

    def point(self, weights, draw):
        return {}

    def score(self, weights, seed):
        rows = self.table(jax.random.key(seed), 100)
        return self.measure.score(rows["label"], rows["x"] @ weights.params["kernel"])

    def validate(self, trained, draw):
        return self.score(trained.weights, 1000)

    def test(self, trained, draw):
        return {"test": self.score(trained.weights, 2000)}, {"kernel": np.asarray(trained.weights.params["kernel"])}


def forward(params, model_state, batch, ctx):
    return {"head": batch["x"] @ params["kernel"]}, model_state


def ridge(problem):
    labels = label_params({"kernel": 0}, [(".*", "new")])
    task = {"task": Term(1.0, mean_of(squared_error))}
    return make_program(forward, labels, task, {"new": Group()}, {"new": Term(0.0, l2)}, dense=True)


RECIPES = {
    "plain": Recipe(ridge),
    "ridge": Recipe(ridge, ("learning_rate", "pull")),
    "twice": Recipe(
        ridge,
        ("learning_rate", "first"),
        ranges={"first": Range(0.05, 0.5)},
        before=(Recipe(ridge), {"learning_rate": "first"}),
    ),
    "halved": Recipe(
        ridge, finish=lambda problem, weights, setting, draw: Weights({"kernel": weights.params["kernel"] / 2})
    ),
}


def test_a_table_goes_through_study_and_ends_the_same_when_it_goes_on(tmp_path):
    result = study(Rows(), RECIPES, tmp_path, [("ridge", "plain")], {"rows": 8})
    assert (result.methods, len(result.contrasts)) == (list(RECIPES), 1)
    means = {name: result.summaries[name, "tuned"].metrics["test"] for name in RECIPES}
    assert means["twice"] > means["plain"] > means["halved"]  # 40 steps, 20 steps, and half of what they found
    again = study(Rows(), RECIPES, tmp_path, [("ridge", "plain")], {"rows": 8})
    assert again.runs == result.runs


def test_a_recipe_says_by_which_selection_it_is_chosen(tmp_path):
    def most_moved(trained, draw):
        return float(jnp.sum(trained.weights.params["kernel"] ** 2))

    recipes = {
        "tuned": RECIPES["ridge"],
        "least": dataclasses.replace(RECIPES["ridge"], chosen="objective", trials=2),
        "most": dataclasses.replace(RECIPES["ridge"], chosen="far"),
    }
    ways = [Selection("far", "draw", most_moved, ()), Selection("unused", "draw", most_moved, ())]
    result = study(Rows(), recipes, tmp_path, [("least", "tuned")], selections=ways)
    assert {key for key in result.summaries} == {("tuned", "tuned"), ("least", "objective"), ("most", "far")}
    by_trial = {run.trial: run for run in result.runs if (run.method, run.stage, run.seed) == ("least", "draw", 1)}
    assert sorted(by_trial) == [0, 1]
    (chosen,) = (run for run in result.reported("least", "objective") if run.seed == 1)
    assert chosen.trial == max(by_trial, key=lambda trial: by_trial[trial].scores["objective"])
    trainer, draw = Trainer(Rows(), recipes), Draw(1)
    (trained,) = trainer.train_all("least", [by_trial[0].setting], draw)
    w, rows = trained.weights.params["kernel"], trainer.problem.data(None, None, draw)
    loss = 0.5 * jnp.mean((rows["x"] @ w - rows["label"]) ** 2) + trained.rates["penalty/new"] * 0.5 * jnp.sum(w**2)
    np.testing.assert_allclose(by_trial[0].scores["objective"], -loss, rtol=1e-4)
    again = study(Rows(), recipes, tmp_path, [("least", "tuned")], selections=ways)
    assert again.runs == result.runs
    difference = result.difference("least", "tuned")
    assert difference.difference == result.contrasts[0].difference
    assert result.difference("least", "tuned", "tuned") is None


def test_a_selection_that_there_is_not_is_refused(tmp_path):
    recipes = {"ridge": dataclasses.replace(RECIPES["ridge"], chosen="objectiv")}
    with pytest.raises(InputError, match=r"recipe 'ridge': no selection 'objectiv'\n.*'objective'"):
        study(Rows(), recipes, tmp_path)


def test_replicates_go_on_from_one_with_draws_and_designs_of_their_own(tmp_path):
    study(Rows(), RECIPES, tmp_path, [("ridge", "plain")], methods=["plain", "ridge"])
    more = Rows()
    more.config = dataclasses.replace(CONFIG, replicates=3)
    first = (tmp_path / "runs.jsonl").read_text()
    result = study(more, RECIPES, tmp_path, [("ridge", "plain")], methods=["plain", "ridge"])
    assert (tmp_path / "runs.jsonl").read_text().startswith(first)
    (contrast,) = result.contrasts
    assert (contrast.n, contrast.unit, result.replicates) == (3, "replicate", 3)
    reported = {(run.replicate, run.seed) for run in result.runs if run.stage == "report"}
    assert reported == {(r, 4 * r + seed) for r in range(3) for seed in (1, 2, 3)}
    rates = [{run.setting["learning_rate"] for run in result.runs if run.replicate == r} for r in range(3)]
    assert not rates[0] & rates[1]
    assert len({run.metrics["test"] for run in result.runs if run.stage == "report"}) == 18  # no draw is made twice


def test_what_comes_before_is_trained_first_and_reads_its_own_names():
    trainer, draw = Trainer(Rows(), RECIPES), Draw(0)
    setting = {"learning_rate": 0.1, "first": 0.1}
    twice = trainer.train("twice", setting, draw)
    once = trainer.train("plain", {"learning_rate": 0.1}, draw)
    rows = trainer.problem.data(None, None, draw)
    w = once.weights.params["kernel"]
    for _ in range(CONFIG.steps):
        w = w - 0.1 * rows["x"].T @ (rows["x"] @ w - rows["label"]) / len(rows["x"])
    np.testing.assert_allclose(twice.weights.params["kernel"], w, rtol=1e-4)


def test_a_sweep_of_settings_ends_where_single_runs_do_and_divergence_stays_its_own():
    trainer, draw = Trainer(Rows(), RECIPES), Draw(0)
    settings = [{"learning_rate": 0.1, "first": rate} for rate in (0.1, 1e9, 0.2)]
    swept = trainer.train_all("twice", settings, draw)
    assert swept[1] is None
    for k in (0, 2):
        alone = trainer.train("twice", settings[k], draw)
        np.testing.assert_allclose(swept[k].weights.params["kernel"], alone.weights.params["kernel"], rtol=1e-5)
        assert swept[k].rates == alone.rates


def test_trees_of_a_draw_reach_the_step():
    def towards(problem):
        labels, task = {"kernel": "new"}, {"task": Term(0.0, mean_of(squared_error))}
        pull = {"new": Term(1.0, l2, ("anchor",))}
        return make_program(forward, labels, {"fit": task["task"]}, {"new": Group(0.5)}, pull, dense=True)

    def anchor(problem, draw, start):
        return {"anchor": {"kernel": jnp.full(6, float(draw.seed))}}

    recipe = Recipe(towards, (), given=anchor)
    for seed in (3, 4):
        (one,) = Trainer(Rows(), {"pulled": recipe}).train_all("pulled", [{}], Draw(seed))
        np.testing.assert_allclose(one.weights.params["kernel"], seed, rtol=1e-4)


def test_settings_become_rates():
    def two(problem):
        labels = {"a": "transferred", "b": "new"}
        pulls = {"transferred": {"zero": Term(0.0, l2), "source": Term(0.0, l2, ("anchor",))}, "new": Term(0.0, l2)}
        terms = {"task": Term(1.0, mean_of(squared_error)), "other": Term(0.3, mean_of(squared_error))}
        return make_program(forward, labels, terms, {"transferred": Group(), "new": Group(decay=0.1)}, pulls)

    program, reach = two(None), {"penalty": 10.0, "decay": 5.0}
    found = rates_of(program, {"learning_rate": 0.2, "ratio": 0.5, "pull": 4.0, "pull/source": 3.0}, reach)
    assert found == {
        "learning_rate/transferred": 0.1,
        "learning_rate/new": 0.2,
        "decay/new": 4.0 / (0.2 * 5.0),
        "penalty/transferred/zero": 4.0 / (0.1 * 10.0),
        "penalty/transferred/source": 3.0 / (0.1 * 10.0),
        "penalty/new": 4.0 / (0.2 * 10.0),
        "other": 0.3,
    }
    assert rates_of(program, {}, reach) == program.rates
    assert rates_of(program, {"other_weight": 2.0, "penalty/new": 7.0}, reach)["penalty/new"] == 7.0
    with pytest.raises(InputError, match="no rate follows from 'pull/sorce'"):
        rates_of(program, {"learning_rate": 0.2, "pull/sorce": 1.0}, reach)


def test_a_name_without_a_range_and_a_method_that_is_not_there_are_refused():
    config = types.SimpleNamespace(weight=(1.0, 2.0))
    assert range_of("delta_weight", Recipe(ridge), config) == Range(1.0, 2.0)
    assert range_of("delta_weight", Recipe(ridge, ranges={"delta_weight": Range(3.0, 4.0)}), config) == Range(3.0, 4.0)
    with pytest.raises(InputError, match="no range for 'depth'"):
        range_of("depth", Recipe(ridge), config)
    with pytest.raises(InputError, match="no method 'rigde'"):
        Trainer(Rows(), RECIPES).methods(["rigde"])
