"""Benchmarks: variants of a step train one problem, and what is written holds every figure. Never a timing."""

import importlib.util
import json
import math
import sys

import jax
import numpy as np
import pytest

from experiments.benchmarks import machine
from experiments.benchmarks import step as benchmark
from experiments.benchmarks.memory import peak_memory
from experiments.benchmarks.step import Config
from experiments.benchmarks.variants import (
    BASE,
    LAMBDA,
    LEARNING_RATE,
    MOMENTUM,
    RESIDUAL_ROWS,
    ROWS,
    TORCH_ROWS,
    by_hand,
    looped,
    make_problem,
    make_program,
    make_variants,
)
from jaxtl import cli
from jaxtl.models import initialise

STEPS = {"mlp": 5, "cnn": 3, "wrn": 1, "resnet": 1}


def close(ours, theirs, rtol=1e-5, atol=1e-6):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol, atol), ours, theirs)


@pytest.fixture(scope="module")
def problem():
    return make_problem("mlp_4", STEPS)


@pytest.fixture(scope="module")
def variants(problem):
    return make_variants(problem)


@pytest.fixture(scope="module")
def after_one(variants):
    return {name: variant.run(variant.begin(), 1).params for name, variant in variants.items()}


def test_every_row_but_pytorch_is_a_variant(variants):
    assert set(variants) == set(ROWS) - set(TORCH_ROWS)


@pytest.mark.parametrize("name", ["plain", "fit", "dispatched", "again"])
def test_without_a_penalty_training_ends_where_the_peer_ends(name, variants, problem):
    end = variants[name].run(variants[name].begin(), 5).params
    peer = variants[BASE].run(variants[BASE].begin(), 5).params
    close(end, peer)
    assert np.max(np.abs(peer["head"]["kernel"] - problem.params["head"]["kernel"])) > 1e-3  # five steps went somewhere


def test_the_cnn_is_trained_as_by_hand():
    problem = make_problem("cnn_2", STEPS)
    ours, theirs = looped(problem, make_program(problem)), by_hand(problem)
    close(ours.run(ours.begin(), 3).params, theirs.run(theirs.begin(), 3).params, rtol=1e-4)


def test_residual_networks_are_measured_in_fewer_rows(monkeypatch):
    def shapes(model, rng, shape):
        return jax.eval_shape(lambda: initialise(model, rng, shape))

    monkeypatch.setattr("experiments.benchmarks.variants.initialise", shapes)  # their numbers take seconds to make
    problem = make_problem("wrn_2", STEPS)
    assert set(make_variants(problem)) == set(RESIDUAL_ROWS) - set(TORCH_ROWS)
    assert problem.title == "WRN-16-4, batch 2"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlp_2", "cnn_2", "wrn_2", "resnet_2"])
def test_pytorch_trains_the_same_problem(name):
    if importlib.util.find_spec("torch") is None:
        pytest.skip("needs torch: pip install '.[oracles]'")
    problem = make_problem(name, STEPS)
    end = by_hand(problem).run(by_hand(problem).begin(), problem.steps)
    with benchmark.pytorch(problem) as block:
        _, loss = block(1)
    assert loss == pytest.approx(float(benchmark.task_loss(problem, end.params)), rel=1e-3)


def pull(end, peer):
    """What the gradient held beyond the task's: one step of Nesterov SGD from rest is w − lr · (1 + momentum) · g."""
    return jax.tree.map(lambda w, v: (v - w) / (LEARNING_RATE * (1 + MOMENTUM)), end, peer)


@pytest.mark.parametrize("name", ["l2", "decay", "both_pulls"])
def test_a_pull_towards_zero_is_lambda_times_the_kernel(name, after_one, problem):
    pulled = pull(after_one[name], after_one[BASE])  # at the anchor, where training starts, the other pull is 0
    start = problem.params
    for ours, layer in ((pulled["trunk"]["dense_0"], start["trunk"]["dense_0"]), (pulled["head"], start["head"])):
        np.testing.assert_allclose(ours["kernel"], LAMBDA * layer["kernel"], atol=3e-6)
        np.testing.assert_allclose(ours["bias"], 0, atol=3e-6)


def test_l2_sp_at_its_anchor_pulls_the_head_alone(after_one, problem):
    pulled = pull(after_one["l2_sp"], after_one[BASE])
    np.testing.assert_allclose(pulled["head"]["kernel"], LAMBDA * problem.params["head"]["kernel"], atol=3e-6)
    np.testing.assert_allclose(pulled["trunk"]["dense_0"]["kernel"], 0, atol=3e-6)


def test_a_frozen_trunk_stays_holds_no_momentum_and_its_head_moves_as_ever(variants, after_one, problem):
    momentum = [leaf.size for leaf in jax.tree.leaves(variants["frozen"].begin().opt_state) if leaf.size > 1]
    assert sorted(momentum) == sorted(leaf.size for leaf in jax.tree.leaves(problem.params["head"]))
    jax.tree.map(np.testing.assert_array_equal, after_one["frozen"]["trunk"], problem.params["trunk"])
    close(after_one["frozen"]["head"], after_one[BASE]["head"], atol=1e-8)


def test_main_writes_every_figure(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "torch_is_here", lambda: False)
    cache = jax.config.jax_compilation_cache_dir
    benchmark.main(Config(problems=("mlp_4",), rounds=2, mlp_steps=2), tmp_path)
    assert jax.config.jax_compilation_cache_dir == cache
    summary = json.loads((tmp_path / "summary.json").read_text())
    (result,) = summary["problems"].values()
    assert set(result["variants"]) == set(ROWS) - set(TORCH_ROWS)
    for figures in result["variants"].values():
        assert len(figures["seconds"]) == 2
        assert 0 < figures["low"] <= figures["ratio"] <= figures["high"] < math.inf
    assert result["variants"][BASE]["ratio"] == 1
    losses = {name: figures["loss"] for name, figures in result["variants"].items()}
    assert losses["plain"] == losses["fit"] == pytest.approx(losses[BASE], rel=1e-5)
    assert result["starts"]["compilations"] == 1  # λ changed at every other step
    assert summary["command"].startswith("python -m experiments.benchmarks.step --config.problems=mlp_4")
    said, table = capsys.readouterr().out, (tmp_path / "summary.md").read_text()
    for name in set(ROWS) - set(TORCH_ROWS):
        assert f"| {ROWS[name]} " in table
        assert ROWS[name] in said
    assert "PyTorch is not installed here" in table


def test_starts_memory_and_images_are_all_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(machine, "torch_is_here", lambda: False)
    machine.main(machine.Config(problems=("mlp_4",), rounds=1, images=64, batch_size=8), tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert set(summary["starts"]["mlp_4"]) == {"first", "second"}
    for figures in summary["starts"]["mlp_4"].values():
        assert 0 < figures["seconds"] < math.inf
        assert figures["peak"] > 2**20
    assert set(summary["images_per_second"]) == {"jaxtl"}
    table = (tmp_path / "summary.md").read_text()
    assert table.count("| jaxtl ") == 2
    assert "PyTorch is not installed here" in table
    assert "first start, all compiled" in capsys.readouterr().out


def test_a_start_that_fails_is_not_a_figure(tmp_path):
    with pytest.raises(RuntimeError, match="ended with 3"):
        machine.start([sys.executable, "-c", "print({}); raise SystemExit(3)"])


def test_peak_memory_grows_with_what_is_used():
    before = peak_memory()
    held = np.ones(2**25)
    assert peak_memory() - before > 0.5 * held.nbytes


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--config.problems=rnn_4", "unknown problem 'rnn_4'"),
        ("--config.problems=", "unknown problem ''"),
        ("--config.batch_size=20000", "20000 is more than 10000 images"),
        ("--config.rounds=0", "--config.rounds: 0 is less than 1"),
    ],
)
def test_a_mistake_about_the_machine_is_said_before_anything_is_measured(flag, message, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("jaxtl.backend.use_compilation_cache", lambda: None)
    assert cli.execute(machine.main, machine.Config, [f"--workdir={tmp_path}/run", flag]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--config.problems=rnn_4", "unknown problem 'rnn_4'"),
        ("--config.problems=mlp", "unknown problem 'mlp'"),
        ("--config.problems=mlp_0", "unknown problem 'mlp_0'"),
        ("--config.problems=", "no problem"),
        ("--config.rounds=0", "--config.rounds: 0 is less than 1"),
        ("--config.cnn_steps=-1", "--config.cnn_steps: -1 is less than 1"),
    ],
)
def test_a_mistake_is_said_before_anything_is_measured(flag, message, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("jaxtl.backend.use_compilation_cache", lambda: None)
    assert cli.execute(benchmark.main, Config, [f"--workdir={tmp_path}/run", flag]) == 2
    assert message in capsys.readouterr().err
