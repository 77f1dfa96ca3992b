"""Rates that are learned: against single runs and by the rules of the experiment."""

import dataclasses
import json

import numpy as np
import pytest

from experiments import learned_rates as experiment
from experiments.learned_rates import HEAD_RATES, Config
from jaxtl.data import load, source_and_target
from jaxtl.errors import InputError
from jaxtl.methods.finetuning import head
from jaxtl.problems import FewShot, Tuning, make_source
from jaxtl.protocol import Draw
from jaxtl.sweep import run

TINY = Config(
    data="digits",
    parts=("head_rates",),
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
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    experiment.main(TINY, workdir)
    return workdir


@pytest.fixture(scope="module")
def problem(tmp_path_factory):
    data = load("digits")
    source_task, task = source_and_target(TINY.split, data, data)
    return FewShot(TINY, make_source(TINY, source_task, tmp_path_factory.mktemp("source")), task, TINY.n_per_class)


def test_every_way_is_judged_on_every_draw_and_the_grid_finds_its_best(finished):
    ways = json.loads((finished / "summary.json").read_text())["rates_of_head"]
    assert len(ways) == 7
    assert {len(found["test"]) for found in ways.values()} == {TINY.report_draws}
    for name in ("grid, 9 of it", "grid, by accuracy"):
        assert np.all(np.array(ways[name]["log_loss"]) >= ways["grid"]["log_loss"])
    assert ways["grid"]["runs"] == TINY.points**2
    assert ways["gradient from weak"]["runs"] <= TINY.longest
    difference = np.mean(np.subtract(ways["gradient from weak"]["test"], ways["grid"]["test"]))
    assert ways["gradient from weak"]["difference"] == pytest.approx(difference)


@pytest.mark.slow
def test_all_rates_of_a_whole_net_are_learned(tmp_path):
    experiment.main(dataclasses.replace(TINY, parts=("all_rates",)), tmp_path)
    ways = json.loads((tmp_path / "summary.json").read_text())["rates_of_all"]
    assert list(ways)[-2:] == ["gradient from weak", "gradient from strong"]
    for found in ways.values():
        assert set(found["rates"][0]) == set(experiment.ALL_RATES)


def test_a_rate_of_the_grid_is_a_run_of_its_program(problem):
    program, draw = head(problem), Draw(3)
    tuning, rates = Tuning(problem, program, HEAD_RATES), {"learning_rate/new": 0.3, "penalty/new": 0.01}
    best, losses = tuning.among(draw, {name: np.array([rate]) for name, rate in rates.items()})
    start = problem.start(draw)
    data, key = problem.data(program, start, draw), problem.key(draw, "run")
    weights = run(program, start, data, rates, key, steps=TINY.steps).weights
    logits = np.asarray(tuning.logits(weights, tuning.given["held"]), np.float64)
    labels = problem.task.train.labels[problem.held]
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert losses[0] == pytest.approx(-np.log(chances[np.arange(len(labels)), labels]).mean(), rel=1e-4)
    right = np.argmax(tuning.logits(weights, tuning.test), axis=1) == problem.task.test.labels
    assert best[""].test == pytest.approx(right.mean())


def test_a_grid_has_all_pairs_and_scattered_rates_stay_inside_and_differ_by_draw(problem):
    tuning = Tuning(problem, head(problem), HEAD_RATES)
    ranges = {"learning_rate/new": (0.01, 1.0), "penalty/new": (1e-4, 1e-2)}
    grid = tuning.grid(ranges, 3)
    np.testing.assert_allclose(grid["learning_rate/new"], np.repeat([0.01, 0.1, 1.0], 3))
    np.testing.assert_allclose(grid["penalty/new"], np.tile([1e-4, 1e-3, 1e-2], 3))
    scattered, others = (tuning.scattered(ranges, 50, Draw(seed)) for seed in (0, 1))
    for name, (low, high) in ranges.items():
        assert np.all((scattered[name] >= low) & (scattered[name] <= high))
        assert np.mean(scattered[name] < np.sqrt(low * high)) == pytest.approx(0.5, abs=0.2)
        assert not np.any(scattered[name] == others[name])


def test_the_report_is_complete(finished):
    text = (finished / "summary.md").read_text()
    assert "## Rates of the head" in text
    assert "](plots/rates.png)" in text
    assert (finished / "plots" / "rates.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rate": (1.0, 0.1)}, r"--config.learning_rate: .* is no range"),
        ({"report_draws": 1}, "--config.report_draws: 1 is less than 2"),
        ({"parts": ("start",)}, r"--config.parts: no part 'start'"),
        ({"weak": (0.0, 1.0)}, "--config.weak: 0.0 is less than"),
        ({"n_per_class": 10_000}, r"--config.n_per_class=10000: "),
        ({"chunk": 3}, "--config.source_steps: 20 is no multiple of 3"),
    ],
)
def test_a_config_that_cannot_be_run_is_refused(changes, message, tmp_path):
    with pytest.raises(InputError, match=message):
        experiment.main(dataclasses.replace(TINY, **changes), tmp_path)
    assert not list(tmp_path.iterdir())
