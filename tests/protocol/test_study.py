"""A question that has nothing to do with images goes through `study` as it is."""

from __future__ import annotations

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl.errors import InputError, NotFinite
from jaxtl.labels import label_params
from jaxtl.losses import mean_of, squared_error
from jaxtl.optimizers import Group
from jaxtl.penalties import Term, l2
from jaxtl.program import Weights, make_program
from jaxtl.protocol import R2, Budget, Draw, Range, Recipe, Selection, Trainer, rates_of, study, trial_settings
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


def mean_of_runs(problem, runs, draw):
    return Weights({"kernel": np.mean([run.weights.params["kernel"] for run in runs], axis=0)})


def test_what_combines_has_a_run_for_every_setting_on_the_draw_itself_and_nothing_to_choose(tmp_path):
    recipes = RECIPES | {"mean": Recipe(None, (), combine=(Recipe(ridge), mean_of_runs))}
    trainer, draw = Trainer(Rows(), recipes), Draw(7)
    settings = trial_settings({"learning_rate": Range(0.05, 0.5)}, CONFIG.trials)
    members = [one.weights.params["kernel"] for one in trainer.train_all("plain", settings, draw)]
    found = trainer.train("mean", {}, draw)
    np.testing.assert_allclose(found.weights.params["kernel"], np.mean(members, axis=0), rtol=1e-5)
    assert (found.rates, found.curve) == ({}, [])
    result = study(Rows(), recipes, tmp_path, methods=["plain", "mean"])
    assert {run.stage for run in result.runs if run.method == "mean"} == {"report"}


def test_what_diverges_is_not_combined_and_where_all_do_so_does_the_whole():
    def of(low, high):
        member = Recipe(ridge, ranges={"learning_rate": Range(low, high)})
        return Trainer(Rows(), {"mean": Recipe(None, (), combine=(member, mean_of_runs))})

    settings = trial_settings({"learning_rate": Range(0.1, 1e12)}, CONFIG.trials)
    (some,) = of(0.1, 1e12).train_all("mean", [{}], Draw(0))
    members = Trainer(Rows(), RECIPES).train_all("plain", settings, Draw(0))
    alive = [one.weights.params["kernel"] for one in members if one is not None]
    assert 0 < len(alive) < len(members)
    np.testing.assert_allclose(some.weights.params["kernel"], np.mean(alive, axis=0), rtol=1e-5)
    assert of(1e11, 1e12).train_all("mean", [{}], Draw(0)) == [None]
    with pytest.raises(NotFinite, match="every run that would be combined"):
        of(1e11, 1e12).train("mean", {}, Draw(0))


def test_training_may_go_on_from_what_was_combined():
    recipes = RECIPES | {"on": Recipe(ridge, combine=(Recipe(ridge), mean_of_runs))}
    trainer, draw = Trainer(Rows(), recipes), Draw(1)
    start = trainer._start("on", recipes["on"], draw)
    on = trainer.train("on", {"learning_rate": 0.1}, draw)
    again = Recipe(ridge, start=lambda problem, draw: start)
    expected = Trainer(Rows(), {"again": again}).train("again", {"learning_rate": 0.1}, draw)
    np.testing.assert_array_equal(on.weights.params["kernel"], expected.weights.params["kernel"])


class Followed(Rows):
    """A curve of the first weight."""

    def point(self, weights, draw):
        return {"first": float(weights.params["kernel"][-1])}


def scaled(problem, weights, setting, draw):
    return Weights({"kernel": setting["share"] * weights.params["kernel"]})


def test_a_name_that_only_finish_reads_is_no_rate_and_a_curve_is_that_of_finished_weights():
    how = {"search": ("learning_rate", "share"), "ranges": {"share": Range(0.1, 1.0)}, "finish": scaled}
    recipes = {"plain": Recipe(ridge), "scaled": Recipe(ridge, after=("share",), **how), "rate": Recipe(ridge, **how)}
    trainer, draw, setting = Trainer(Followed(), recipes), Draw(0), {"learning_rate": 0.1, "share": 0.5}
    plain, half = trainer.train("plain", {"learning_rate": 0.1}, draw), trainer.train("scaled", setting, draw)
    np.testing.assert_allclose(half.weights.params["kernel"], 0.5 * plain.weights.params["kernel"], rtol=1e-6)
    firsts = [[row["first"] for row in one.curve] for one in (plain, half)]
    assert len(firsts[0]) == 2
    np.testing.assert_allclose(firsts[1], 0.5 * np.array(firsts[0]), rtol=1e-6)
    swept = trainer.train_all("scaled", [{**setting, "share": share} for share in (0.5, 1.0)], draw)
    np.testing.assert_allclose(swept[1].weights.params["kernel"], plain.weights.params["kernel"], rtol=1e-5)
    with pytest.raises(InputError, match="no rate follows from 'share'"):
        trainer.train("rate", setting, draw)


def test_what_trains_nothing_is_made_by_finish():
    def closed(problem, weights, setting, draw):
        rows = problem.data(None, weights, draw)
        x, y = (np.asarray(rows[name], np.float64) for name in ("x", "label"))
        return Weights({"kernel": np.linalg.solve(x.T @ x + setting["lam"] * np.eye(6), x.T @ y)})

    recipes = {"closed": Recipe(None, ("lam",), ranges={"lam": Range(1e-6, 1e-3)}, finish=closed)}
    trainer = Trainer(Rows(), recipes)
    found = trainer.train_all("closed", [{"lam": 1e-6}, {"lam": 1.0}], Draw(0))
    np.testing.assert_allclose(found[0].weights.params["kernel"], np.arange(6.0), atol=1e-2)
    assert trainer.problem.validate(found[0], Draw(0)) > trainer.problem.validate(found[1], Draw(0))
