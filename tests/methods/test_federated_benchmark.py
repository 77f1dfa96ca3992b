"""The benchmark of rounds: its rows train the same thing, and what it writes holds every figure."""

import json

import jax
import numpy as np
import pytest

from experiments.benchmarks import federated as benchmark
from experiments.benchmarks import flower_rounds
from experiments.benchmarks.federated import Config
from jaxtl import cli
from jaxtl.errors import InputError


def test_rows_train_the_same():
    """A batch of all examples of a client, whose order then makes no difference."""
    runs = benchmark.make_runs("digits", Config(clients=3, examples=5, batch_size=5, epochs=2))
    assert set(runs) == set(benchmark.ROWS)
    ours, *others = (run(2) for run in runs.values())
    for other in others:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-4, 1e-6), ours, other)
    start = runs[benchmark.OURS](0)
    assert np.max(np.abs(ours["head"]["kernel"] - start["head"]["kernel"])) > 1e-3


def test_main_writes_every_figure(tmp_path, capsys):
    small = Config(networks=("digits",), clients=2, examples=4, batch_size=3, rounds=2, digits_calls=1)
    benchmark.main(small, tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    figures = summary["networks"]["digits"]
    assert set(figures) == set(benchmark.ROWS)
    assert figures[benchmark.OURS]["ratio"] == 1
    assert all(row["low"] <= row["ratio"] <= row["high"] for row in figures.values())
    assert set(summary["figures"]) == {f"federated/digits/{row}/seconds" for row in benchmark.ROWS}
    for words in benchmark.ROWS.values():
        assert words in capsys.readouterr().out or f"| {words} " in (tmp_path / "summary.md").read_text()


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--config.networks=rnn", "no network 'rnn'"),
        ("--config.clients=0", "--config.clients: 0 is less than 1"),
    ],
)
def test_a_mistake_is_said_before_anything_is_measured(flag, message, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("jaxtl.devices.backend.use_compilation_cache", lambda: None)
    assert cli.execute(benchmark.main, Config, [f"--workdir={tmp_path}/run", flag]) == 2
    assert message in capsys.readouterr().err


def test_without_ray_it_is_said_how_to_get_flowers_simulation(tmp_path, monkeypatch):
    monkeypatch.setattr(flower_rounds.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(flower_rounds.os, "environ", {})
    with pytest.raises(InputError, match=r"flwr is not installed[\s\S]*pip install 'flwr\[simulation\]'"):
        flower_rounds.main(flower_rounds.Config(), tmp_path)
    assert flower_rounds.os.environ == {"FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0"}


def test_a_client_of_flower_trains_what_ours_does():
    """An epoch of a client as the processes of Flower run it, averaged by hand."""
    config = flower_rounds.Config(clients=3, examples=5, batch_size=5)
    task, of_client = flower_rounds._made("digits", config)
    found = [of_client(task.params, task.own(client), jax.random.key(client)) for client in range(3)]
    mean = jax.tree.map(lambda *leaves: sum(leaves) / 3, *found)
    ours = benchmark.ours(task, "digits", config)(1)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-4, 1e-6), ours, mean)
