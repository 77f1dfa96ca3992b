"""The benchmark of models of texts: both sides have the same model, ratios go the right way, and a run measures."""

import importlib
import json
import math
import subprocess
import sys

import jax
import numpy as np
import pytest

from experiments.benchmarks import jax_sequences, sequences
from experiments.benchmarks.workers import ROOT
from jaxtl import cli


@pytest.fixture
def processes(monkeypatch):
    """Sides that take known seconds; each one's first call, which compiles, takes long."""
    seconds = {"jax_sequences": 0.5, "torch_sequences padded": 1.0, "torch_sequences packed": 2.0}

    class Process:
        def __init__(self, module, model, batch, tokens, *way, environment):
            self.seconds, self.calls = seconds[" ".join((module, *way))], 0

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def ask_again(self, work, calls):
            self.calls += 1
            return calls * self.seconds * (1 if work == "forward" else 3) if self.calls > 2 else 1000.0

    monkeypatch.setattr(sequences, "Worker", Process)
    monkeypatch.setattr(sequences, "is_here", lambda library: True)


def test_a_ratio_above_one_is_faster_than_pytorch_and_is_told_with_its_quartiles(tmp_path, processes):
    sequences.main(sequences.Config(models=("classic", "minilm"), rounds=3, calls=4), tmp_path)
    figures = json.loads((tmp_path / "summary.json").read_text())["figures"]
    assert figures["sequences/classic/forward/jaxtl/seconds"] == 0.5
    assert figures["sequences/classic/step/packed/seconds"] == 6.0
    assert "sequences/minilm/step/packed/seconds" not in figures
    rows = [row for row in (tmp_path / "summary.md").read_text().splitlines() if "BiLSTM" in row or "MiniLM" in row]
    cells = [[cell.strip() for cell in row.split("|")[2:-1]] for row in rows]
    twice, four = "2.00 (2.00–2.00)", "4.00 (4.00–4.00)"
    assert cells == [["500 ms", twice, four, "1.50 s", twice, four], ["500 ms", twice, "–", "1.50 s", twice, "–"]]


def test_ratios_are_of_the_same_round():
    seconds = {"jaxtl": [1.0, 2.0, 4.0], "padded": [2.0, 4.0, 8.0]}
    assert sequences.ratios(seconds, "padded") == [2.0, 2.0, 2.0]


@pytest.mark.parametrize("name", list(sequences.MODELS))
def test_both_sides_have_the_same_model(name):
    """As many parameters, but for the second bias that PyTorch's LSTM has."""
    pytest.importorskip("torch")
    side = importlib.import_module("experiments.benchmarks.torch_sequences")
    network, model = side.network_of(name), jax_sequences.classifier(name)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), np.zeros((1, 4), np.int32), False))["params"]
    theirs = sum(own.numel() for full, own in network.named_parameters() if "bias_hh" not in full)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == theirs
    tokens = side.torch.ones(2, 4, dtype=side.torch.long)
    assert network.eval()(tokens).shape == (2, 2)
    if name in side.LSTMS:  # without padding the two ways are one
        packed = side.network_of(name, packed=True).eval()
        packed.load_state_dict(network.state_dict())
        np.testing.assert_allclose(packed(tokens).detach(), network(tokens).detach(), atol=1e-6)


@pytest.mark.slow
def test_a_small_run_measures_both_libraries(tmp_path):
    command = [sys.executable, "-m", "experiments.benchmarks.sequences", "--smoke", f"--workdir={tmp_path}/run"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    numbers = json.loads((tmp_path / "run" / "summary.json").read_text())["figures"]
    sides = set(sequences.SIDES) if sequences.is_here("torch") else {"jaxtl"}
    assert {name.split("/")[3] for name in numbers} == sides
    assert all(math.isfinite(value) and value > 0 for value in numbers.values())


@pytest.mark.parametrize(
    ("flag", "message"),
    [("--config.models=bert", "--config.models: no model 'bert'"), ("--config.rounds=0", "less than 1")],
)
def test_a_mistake_is_said_before_anything_is_measured(flag, message, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("jaxtl.devices.backend.use_compilation_cache", lambda: None)
    assert cli.execute(sequences.main, sequences.Config, [f"--workdir={tmp_path}/run", flag]) == 2
    assert message in capsys.readouterr().err
