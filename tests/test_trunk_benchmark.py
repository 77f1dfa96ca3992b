"""The benchmark of pretrained trunks: both sides do what is asked, ratios go the right way, and the probe probes."""

import importlib
import json

import jax
import numpy as np
import pytest
from oracles import torch_trunks as oracle

from experiments.benchmarks import trunks
from jaxtl import cli
from jaxtl.models.efficientnet import EfficientNetLite, Stage
from jaxtl.models.pretrained import Pretrained
from jaxtl.trees import map_named


@pytest.fixture
def processes(monkeypatch):
    """Sides that take known seconds; jaxtl's first call, which compiles, takes long."""
    seconds = {"jax_trunk": 0.5, "torch_trunk last": 1.0, "torch_trunk first": 2.0}

    class Process:
        def __init__(self, module, edge, batch, *order):
            self.seconds, self.calls = seconds[" ".join((module, *order))], 0

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def ask_again(self, work, calls):
            self.calls += 1
            return self.seconds * (1 if work == "forward" else 3) if self.calls > 2 else 1000.0

    monkeypatch.setattr(trunks, "Worker", Process)
    monkeypatch.setattr(trunks, "is_here", lambda library: True)


def test_a_ratio_above_one_is_faster_than_pytorch(tmp_path, processes):
    trunks.main(trunks.Config(edges=(64,), batch_size=10, rounds=2), tmp_path)
    figures = json.loads((tmp_path / "summary.json").read_text())["figures"]
    assert figures["trunks/64/forward/jaxtl/images_per_second"] == 20
    assert figures["trunks/64/step/torch/images_per_second"] == pytest.approx(10 / 3)
    table = (tmp_path / "summary.md").read_text()
    rows = [row.split("|")[2:4] for row in table.splitlines() if "PyTorch's time" in row]
    assert [[float(cell) for cell in row] for row in rows] == [[2.0, 2.0], [4.0, 4.0]]


def test_the_probe_reads_features(monkeypatch):
    model = EfficientNetLite((Stage(1, 3, 1, 1, 8),), 8, 32)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), np.zeros((1, 16, 16, 3), np.float32), False))
    made = map_named(lambda path, leaf: oracle.weight(path.replace("scale", "weight"), leaf.shape), dict(shapes))
    state = jax.tree.map(abs, made["batch_stats"])
    rest = (16, (127.0,) * 3, (128.0,) * 3, "", "", 32, model.stage_names)
    monkeypatch.setattr(
        trunks,
        "load_trunk",
        lambda name, progress: Pretrained("", model, made["params"], {"batch_stats": state}, *rest),
    )
    accuracies = trunks.measure_probe(trunks.Config(draws=2, data="digits", classes=("0", "1", "2")))
    assert len(accuracies) == 2
    assert min(accuracies) > 0.6  # a third by chance: an untrained convolution sees digits too


@pytest.mark.slow
def test_pytorch_s_network_is_the_one_that_is_compared():
    torch = pytest.importorskip("torch")
    network = importlib.import_module("experiments.benchmarks.torch_trunk").efficientnet_lite0()
    assert sum(parameter.numel() for parameter in network.parameters()) == 3_371_008 + 5 * 1281
    assert network.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 5)


@pytest.mark.parametrize(
    ("flag", "message"),
    [("--config.edges=", "--config.edges: nothing is given"), ("--config.n_per_class=2", "less than 5")],
)
def test_a_mistake_is_said_before_anything_is_measured(flag, message, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("jaxtl.devices.backend.use_compilation_cache", lambda: None)
    assert cli.execute(trunks.main, trunks.Config, [f"--workdir={tmp_path}/run", flag]) == 2
    assert message in capsys.readouterr().err
