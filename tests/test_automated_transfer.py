"""The experiment on choices left to the machine: rates against single runs, label trees and starts by their rules."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import automated_transfer as experiment
from experiments.automated_transfer import HEAD_RATES, Blocks, Config, Inner, Tuning
from experiments.cifar_transfer import Problem, make_source
from jaxtl.data import Split, load, source_and_target
from jaxtl.errors import InputError
from jaxtl.labels import NEW, TRANSFERRED
from jaxtl.protocol import Draw, RunStore
from jaxtl.selection import FROZEN

TINY = Config(
    data="digits",
    parts=("head_rates", "label_trees"),
    n_per_class=5,
    model="mlp",
    widths=(8, 6),
    source_steps=20,
    steps=4,
    tuning_draws=1,
    report_draws=2,
    validation=50,
    points=3,
    random=5,
    longest=2,
    small_widths=(8,),
    block_learning_rates=(0.05,),
    shots=4,
    meta_steps=2,
    tasks=2,
    inner_steps=2,
    adapted_learning_rates=(0.02,),
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    experiment.main(TINY, workdir)
    return workdir


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("others")
    experiment.main(dataclasses.replace(TINY, parts=("all_rates", "starts")), workdir)
    return json.loads((workdir / "summary.json").read_text())


@pytest.fixture(scope="module")
def summary(finished):
    return json.loads((finished / "summary.json").read_text())


@pytest.fixture(scope="module")
def problem(tmp_path_factory):
    data = load("digits")
    source_task, task = source_and_target(TINY.split, data, data)
    config = experiment.as_transfer(TINY)
    source = make_source(config, source_task, 0, tmp_path_factory.mktemp("source"))
    return Problem(config, source, task, TINY.n_per_class)


def test_every_way_is_judged_on_every_draw_and_the_grid_finds_its_best(summary):
    ways = summary["rates_of_head"]
    assert len(ways) == 7
    assert {len(found["test"]) for found in ways.values()} == {TINY.report_draws}
    for name in ("grid, 9 of it", "grid, by accuracy"):
        assert np.all(np.array(ways[name]["log_loss"]) >= ways["grid"]["log_loss"])
    assert ways["grid"]["runs"] == TINY.points**2
    assert ways["gradient from weak"]["runs"] <= TINY.longest
    difference = np.mean(np.subtract(ways["gradient from weak"]["test"], ways["grid"]["test"]))
    assert ways["gradient from weak"]["difference"] == pytest.approx(difference)


@pytest.mark.slow
def test_all_rates_of_a_whole_net_are_learned(others):
    ways = others["rates_of_all"]
    assert list(ways)[-2:] == ["gradient from weak", "gradient from strong"]
    for found in ways.values():
        assert set(found["rates"][0]) == set(experiment.ALL_RATES)


def test_a_rate_of_the_grid_is_a_run_of_the_main_experiment(problem):
    tuning, draw = Tuning(TINY, problem, "head", HEAD_RATES), Draw(3)
    rates = {"learning_rate/new": 0.3, "penalty/new": 0.01}
    best, losses = tuning.among(draw, {name: np.array([rate]) for name, rate in rates.items()})
    start = problem.transferred(draw).params
    data = problem.data("head", start, problem.examples(draw), draw)
    ((params, _),) = problem.follow("head", [start], data, [rates], draw)
    logits = np.asarray(tuning.logits(params, tuning.given["held"]), np.float64)
    labels = problem.task.train.labels[problem.held]
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert losses[0] == pytest.approx(-np.log(chances[np.arange(len(labels)), labels]).mean(), rel=1e-4)
    right = np.argmax(tuning.logits(params, tuning.test), axis=1) == problem.task.test.labels
    assert best[""].test == pytest.approx(right.mean())


def test_frozen_blocks_stay_new_blocks_begin_anew_and_finished_runs_are_kept(problem, tmp_path, monkeypatch):
    blocks, draw = Blocks(TINY, problem, RunStore(tmp_path)), Draw(1)
    assert len(blocks.rows) == 6  # two cuts through two blocks
    assert {row["head"] for row in blocks.rows} == {NEW}
    settings = [(k, 0.05) for k in range(len(blocks.rows))]
    runs = blocks.runs("report", settings, draw)
    fresh, source = problem.fresh(draw), problem.moved.params
    for row, params in zip(blocks.rows, blocks.trained(runs, draw), strict=True):
        for i in range(2):
            kind, name = row[f"block {i}"], f"dense_{i}"
            away = [
                jnp.abs(params["trunk"][name]["kernel"] - p["trunk"][name]["kernel"]).max() for p in (source, fresh)
            ]
            assert (away[0] == 0) == (kind == FROZEN)
            assert (away[1] > away[0]) == (kind in (FROZEN, TRANSFERRED))
    monkeypatch.setattr(problem, "sweep", None)
    assert blocks.runs("report", settings, draw) == runs
    assert Blocks(TINY, problem, RunStore(tmp_path)).runs("report", settings, draw) == runs


def test_the_labelling_is_chosen_by_validation_on_the_tuning_draws_alone(summary, finished):
    runs = [json.loads(line) for line in (finished / "label_trees" / "runs.jsonl").read_text().splitlines()]
    tuning = {run["trial"]: run["validation"] for run in runs if run["stage"] == "tuning"}
    assert {run["seed"] for run in runs if run["stage"] == "tuning"} == {0}
    assert {run["seed"] for run in runs if run["stage"] == "report"} == {1, 2}
    assert tuning[summary["label_trees"]["chosen"]] == max(tuning.values())


def test_small_tasks_have_classes_in_any_order_and_queries_of_their_own(problem):
    inner = Inner(TINY, problem)
    coded = jnp.arange(3 * 20, dtype=jnp.float32).reshape(3, 20, 1, 1, 1)  # class · 20 + number
    tasks = inner.sample(coded, jax.random.key(0), 0)
    number = {
        part: np.round(np.asarray(batch["image"])[..., 0, 0, 0] * problem.images.std + problem.images.mean)
        for part, batch in tasks.items()
    }
    assert number["support"].shape == (TINY.tasks, 3 * TINY.shots)
    assert np.all(number["support"] % 20 < 10)
    assert np.all(number["query"] % 20 >= 10)
    orders = number["support"].reshape(TINY.tasks, 3, TINY.shots) // 20
    np.testing.assert_array_equal(orders, np.broadcast_to(orders[..., :1], orders.shape))
    np.testing.assert_array_equal(np.sort(orders[..., 0]), np.broadcast_to(np.arange(3), orders.shape[:2]))
    np.testing.assert_array_equal(orders[..., 0], number["query"].reshape(orders.shape)[..., 0] // 20)
    np.testing.assert_array_equal(tasks["support"]["label"][0], np.repeat(np.arange(3), TINY.shots))


def test_small_tasks_have_no_more_classes_than_the_head_has_outputs(problem):
    tasks = Inner(TINY, problem).sample(jnp.zeros((7, 6, 1, 1, 1)), jax.random.key(0), 0)
    assert tasks["support"]["label"].max() == len(problem.task.classes) - 1
    assert tasks["query"]["image"].shape[1] == len(problem.task.classes) * TINY.shots


@pytest.mark.slow
def test_meta_learned_starts_are_compared_with_the_source(others):
    starts = others["starts"]
    assert list(starts) == ["source", "fresh", "reptile", "source + reptile", "iMAML", "source + iMAML"]
    for found in starts.values():
        assert found["difference"] == pytest.approx(np.mean(np.subtract(found["test"], starts["source"]["test"])))


def test_images_are_averaged_over_blocks():
    task = load("digits")
    small = experiment.shrink(task, 4)
    assert small.train.images.shape[1:] == (4, 4, 1)
    block = task.test.images[3, 2:4, 4:6].astype(np.float64).mean()
    assert small.test.images[3, 1, 2, 0] == pytest.approx(block, abs=1)
    assert experiment.shrink(task, 8).train.images.shape == task.train.images.shape


def test_classes_are_stacked():
    part = Split(np.arange(6, dtype=np.uint8).reshape(6, 1, 1, 1), np.array([1, 0, 1, 1, 0, 1]))
    np.testing.assert_array_equal(experiment.by_class(part)[..., 0, 0, 0], [[1, 4], [0, 2]])
    with pytest.raises(InputError, match=r"--config.split: a source class has a single image"):
        experiment.by_class(Split(part.images[:2], part.labels[:2]))


def test_the_report_is_complete(finished):
    text = (finished / "summary.md").read_text()
    for heading in ("Rates of the head", "Which blocks to freeze"):
        assert f"## {heading}" in text
    for name in ("rates", "label_trees"):
        assert f"](plots/{name}.png)" in text
        assert (finished / "plots" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rate": (1.0, 0.1)}, r"--config.learning_rate: .* is no range"),
        ({"report_draws": 1}, "--config.report_draws: 1 is less than 2"),
        ({"parts": ("start",)}, r"--config.parts: no part 'start'"),
        ({"weak": (0.0, 1.0)}, "--config.weak: 0.0 is less than"),
        ({"shots": 10_000}, r"--config.n_per_class=10000: "),
    ],
)
def test_a_config_that_cannot_be_run_is_refused(changes, message, tmp_path):
    with pytest.raises(InputError, match=message):
        experiment.main(dataclasses.replace(TINY, **changes), tmp_path)
    assert not list(tmp_path.iterdir())
