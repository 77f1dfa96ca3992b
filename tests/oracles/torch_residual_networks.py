"""What PyTorch makes of residual networks with given weights: the stored figures that `models.residual` must reproduce.

    python tests/oracles/torch_residual_networks.py [OUTPUT.npz]     (needs torch; the tests only read the stored file)

Weights come from a formula and their paths, so that only results are stored: logits and loss in training, the norm of
every parameter's gradient and the gradient's product with the formula, running means in the order of their paths, and
the logits in evaluation before that step. Without batch normalisation both logits are the same.
"""

from __future__ import annotations

import sys
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

STORED = Path(__file__).with_suffix(".npz")
CLASSES = 5


class Network(NamedTuple):
    """The fields of a `ResidualNetwork`."""

    stem: int
    widths: tuple[int, ...]
    blocks: int
    normalise_first: bool
    normalisation: str


NETWORKS = {
    "wide_group": Network(16, (16, 32, 64), 1, True, "group"),
    "wide_batch": Network(16, (16, 32, 64), 2, True, "batch"),
    "resnet_group": Network(16, (16, 24, 32, 40), 2, False, "group"),
    "resnet_batch": Network(16, (16, 24, 32, 40), 1, False, "batch"),
}


def wave(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers in (-1, 1) that belong to a name."""
    positions = np.arange(1.0, np.prod(shape) + 1) + zlib.crc32(name.encode()) % 1000
    return np.sin(0.7 * positions * positions).reshape(shape).astype(np.float32)


def weights(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A parameter: a kernel of variance 1 / inputs, a scale near 1, a bias near 0."""
    scale = np.sqrt(2 / np.prod(shape[:-1])) if name.endswith("kernel") else 0.1
    return np.float32(name.endswith("scale")) + np.float32(scale) * wave(name, shape)


def examples() -> tuple[np.ndarray, np.ndarray]:
    """Images [6, 9, 12, 3], whose odd edge halves to 5, 3 and 2, and labels [6]."""
    return wave("images", (6, 9, 12, 3)), np.arange(6) % CLASSES


def results(network: Network) -> dict[str, np.ndarray]:
    import torch
    from torch.nn import functional

    parameters: dict[str, Any] = {}
    means: dict[str, Any] = {}

    def parameter(name, *shape):
        if name not in parameters:
            parameters[name] = torch.tensor(weights(name, shape), requires_grad=True)
        return parameters[name]

    def convolution(x, name, channels, edge=3, stride=1):
        kernel = parameter(f"trunk/{name}/kernel", edge, edge, x.shape[1], channels)
        return functional.conv2d(x, kernel.permute(3, 2, 0, 1), stride=stride, padding=edge // 2)

    def normal(x, name, train):
        channels = x.shape[1]
        scale, bias = parameter(f"trunk/{name}/scale", channels), parameter(f"trunk/{name}/bias", channels)
        if network.normalisation == "group":
            return functional.group_norm(x, channels // 8, scale, bias, eps=1e-6)
        mean, variance = torch.zeros(channels), torch.ones(channels)
        out = functional.batch_norm(x, mean, variance, scale, bias, training=train, momentum=0.1, eps=1e-5)
        means[f"trunk/{name}/mean"] = mean
        return out

    def block(x, name, channels, stride, train):
        changes = stride != 1 or x.shape[1] != channels
        if network.normalise_first:
            active = normal(x, f"{name}/norm_0", train).relu()
            inner = convolution(active, f"{name}/conv_0", channels, stride=stride)
            inner = convolution(normal(inner, f"{name}/norm_1", train).relu(), f"{name}/conv_1", channels)
            return inner + (convolution(active, f"{name}/shortcut", channels, 1, stride) if changes else x)
        inner = normal(convolution(x, f"{name}/conv_0", channels, stride=stride), f"{name}/norm_0", train).relu()
        inner = normal(convolution(inner, f"{name}/conv_1", channels), f"{name}/norm_1", train)
        if changes:
            x = normal(convolution(x, f"{name}/shortcut", channels, 1, stride), f"{name}/shortcut_norm", train)
        return (inner + x).relu()

    def logits(images, train):
        x = convolution(images, "stem", network.stem)
        x = x if network.normalise_first else normal(x, "norm", train).relu()
        for i, channels in enumerate(network.widths):
            for j in range(network.blocks):
                x = block(x, f"stage_{i}_block_{j}", channels, 2 if i and not j else 1, train)
        x = normal(x, "norm", train).relu() if network.normalise_first else x
        kernel = parameter("head/kernel", network.widths[-1], CLASSES)
        return x.mean((2, 3)) @ kernel + parameter("head/bias", CLASSES)

    images, labels = (torch.tensor(array) for array in examples())
    images = images.permute(0, 3, 1, 2)
    found = {"evaluated": logits(images, False).detach().numpy()}
    trained = logits(images, True)
    loss = functional.cross_entropy(trained, labels)
    loss.backward()
    gradients = []
    for name in sorted(parameters):
        gradient = parameters[name].grad.numpy().astype(np.float64)
        gradients.append((np.linalg.norm(gradient), np.sum(gradient * wave(name, gradient.shape))))
    found |= {"logits": trained.detach().numpy(), "loss": loss.detach().numpy(), "gradients": np.array(gradients)}
    running = [means[name].numpy() for name in sorted(means)]
    return found | {"names": np.array(sorted(parameters)), "means": np.concatenate([np.zeros(0), *running])}


def main(output: Path) -> None:
    arrays = {f"{case}/{name}": a for case, network in NETWORKS.items() for name, a in results(network).items()}
    np.savez_compressed(output, **arrays)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else STORED)
