"""PyTorch's side of `experiments.benchmarks.trunks`: EfficientNet-Lite0 in eager mode, in a process without JAX.

    python -m experiments.benchmarks.torch_trunk EDGE BATCH last|first      asked in lines of JSON

"last" has channels last, which is faster for it; "first" is the order that PyTorch has by itself.
"""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Mapping
from typing import Any

from experiments.benchmarks.workers import serve

torch: Any = importlib.import_module("torch")
nn = torch.nn
CLASSES = 5
STAGES = (  # blocks, edge, stride, expansion, channels
    *((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80)),
    *((3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320)),
)


class Halving(nn.Conv2d):  # type: ignore[name-defined]  # mypy need not find torch
    """A convolution of stride 2 whose zeros lie where TensorFlow puts them, as its weights were trained."""

    def forward(self, x):
        around = [max((-(-n // 2) - 1) * 2 + self.kernel_size[0] - n, 0) for n in (x.shape[3], x.shape[2])]
        sides = [side for total in around for side in (total // 2, total - total // 2)]
        return super().forward(nn.functional.pad(x, sides))


def convolved(inputs: int, outputs: int, edge: int, stride: int = 1, groups: int = 1, active: bool = True) -> list:
    made, zeros = (Halving, 0) if stride == 2 else (nn.Conv2d, edge // 2)
    convolution = made(inputs, outputs, edge, stride, zeros, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(outputs, 1e-3), *([nn.ReLU6(inplace=True)] if active else [])]


class Block(nn.Module):  # type: ignore[name-defined]  # mypy need not find torch
    """See `jaxtl.models.efficientnet.InvertedBlock`."""

    def __init__(self, inputs: int, edge: int, stride: int, expansion: int, outputs: int):
        super().__init__()
        within = inputs * expansion
        expand = convolved(inputs, within, 1) if expansion > 1 else []
        by_channel = convolved(within, within, edge, stride, within)
        self.inner = nn.Sequential(*expand, *by_channel, *convolved(within, outputs, 1, active=False))
        self.beside = stride == 1 and inputs == outputs

    def forward(self, x):
        return self.inner(x) + x if self.beside else self.inner(x)


def efficientnet_lite0(classes: int = CLASSES, weights: Mapping[str, Any] | None = None):
    """The network, under a fresh head; of its weights by name, in the order of their file, all but the head's."""
    layers, channels = convolved(3, 32, 3, 2), 32
    for blocks, edge, stride, expansion, outputs in STAGES:
        for j in range(blocks):
            layers.append(Block(channels, edge, 1 if j else stride, expansion, outputs))
            channels = outputs
    ends = [*convolved(channels, 1280, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, classes)]
    network = nn.Sequential(*layers, *ends)
    if weights:
        read(network[:-1], weights)
    return network


def read(network: Any, weights: Mapping[str, Any]) -> None:
    """Weights in the order in which both name them; each has to be of the kind and shape that is expected.

    Raises:
        ValueError: they are those of another network.
    """
    own = network.state_dict()
    given = {name: torch.as_tensor(array) for name, array in weights.items() if not name.startswith("_fc.")}
    kinds = [[(name.rpartition(".")[2], array.shape) for name, array in arrays.items()] for arrays in (own, given)]
    if kinds[0] != kinds[1]:
        raise ValueError("these are not the weights of EfficientNet-Lite0")
    network.load_state_dict(dict(zip(own, given.values(), strict=True)))


def answer_for(edge: int, batch_size: int, order: str) -> None:
    layout = {"memory_format": torch.channels_last if order == "last" else torch.contiguous_format}
    network = efficientnet_lite0().to(**layout)
    images = torch.randn(batch_size, 3, edge, edge).contiguous(**layout)
    labels, cross_entropy = torch.randint(CLASSES, (batch_size,)), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(network.parameters(), 0.01, 0.9, nesterov=True)

    def forward(calls: int) -> float:
        network.eval()
        began = time.perf_counter()
        with torch.inference_mode():
            for _ in range(calls):
                network(images)
        return time.perf_counter() - began

    def step(calls: int) -> float:
        network.train()
        began = time.perf_counter()
        for _ in range(calls):
            optimizer.zero_grad()
            cross_entropy(network(images), labels).backward()
            optimizer.step()
        return time.perf_counter() - began

    serve(forward=forward, step=step)


if __name__ == "__main__":
    answer_for(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
