"""The benchmark of a gradient per task: its rows compute what they say, and what it writes holds every figure."""

import json

import jax
import numpy as np
import pytest

from experiments.benchmarks import multitask as benchmark
from experiments.benchmarks.multitask import Config
from jaxtl import cli


def test_rows_compute_what_they_say():
    programs = benchmark.make_programs("mlp_4", 2)
    assert set(programs) == set(benchmark.ROWS) - {"predicted"}
    ours, metrics, _ = programs["mgda"]()
    losses, by_hand = programs["side_by_side"]()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), ours, by_hand)
    forward = programs["forward"]()
    for number in range(2):
        assert metrics[f"task_{number}"] == pytest.approx(float(losses[number]))
        assert forward[f"task_{number}"] == pytest.approx(float(losses[number]))
    total, *_ = programs["sum"]()
    for number in range(2):  # heads do not take part in surgery
        np.testing.assert_allclose(ours[f"task_{number}"]["kernel"], total[f"task_{number}"]["kernel"], rtol=1e-5)
    assert len(programs["apart"]()) == 2


def test_main_writes_every_figure(tmp_path, capsys):
    benchmark.main(Config(problems=("mlp_4",), tasks=2, rounds=2, mlp_calls=1), tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    figures = summary["problems"]["mlp_4"]
    assert set(figures) == set(benchmark.ROWS)
    assert figures["apart"]["ratio"] == 1
    assert all(row["low"] <= row["ratio"] <= row["high"] for row in figures.values())
    assert summary["command"].startswith("python -m experiments.benchmarks.multitask --config.problems=mlp_4")
    said = capsys.readouterr().out
    for words in benchmark.ROWS.values():
        assert words in said
        assert f"| {words} " in (tmp_path / "summary.md").read_text()


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--config.problems=rnn_4", "unknown problem 'rnn_4'"),
        ("--config.problems=", "--config.problems: nothing is given"),
        ("--config.tasks=0", "--config.tasks: 0 is less than 1"),
    ],
)
def test_a_mistake_is_said_before_anything_is_measured(flag, message, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("jaxtl.devices.backend.use_compilation_cache", lambda: None)
    assert cli.execute(benchmark.main, Config, [f"--workdir={tmp_path}/run", flag]) == 2
    assert message in capsys.readouterr().err
