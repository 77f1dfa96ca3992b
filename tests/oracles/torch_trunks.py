"""What PyTorch makes of pretrained architectures with given weights: stored figures that `models.pretrained` must give.

    python tests/oracles/torch_trunks.py [OUTPUT.npz]     (needs torch; the tests only read the stored file)

The networks are written here after their papers, with the names and shapes that torchvision, timm and the package of
EfficientNet-Lite0 give to their weights. These come from a formula and their names, so that only names, shapes and
features are stored.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

STORED = Path(__file__).with_suffix(".npz")
EDGES = {"efficientnet_lite0": 40, "resnet18": 40, "resnet34": 40, "resnet50": 40}  # of the images, in pixels
LITE0 = (  # blocks, edge, stride, expansion, channels
    *((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80)),
    *((3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320)),
)


def wave(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers in (-1, 1) that belong to a name."""
    positions = np.arange(1.0, np.prod(shape) + 1) + zlib.crc32(name.encode()) % 1000
    return np.sin(0.7 * positions * positions).reshape(shape).astype(np.float32)


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A kernel of variance 2 / inputs, a scale or a running variance near 1, a shift near 0, a count."""
    if name.endswith("num_batches_tracked"):
        return np.int64(7)
    if len(shape) == 1:
        near = name.endswith(("running_var", "weight", "gamma"))
        return np.float32(near) + np.float32(0.2) * wave(name, shape)
    scale = 0.1 if name.endswith(("token", "embed")) else np.sqrt(4 / np.prod(shape[1:]))
    return np.float32(scale) * wave(name, shape)


def images(edge: int) -> np.ndarray:
    """[2, edge, edge, 3]"""
    return wave("images", (2, edge, edge, 3))


class Weights:
    """Those that a network asks for, and what is made of them."""

    def __init__(self, given: Callable[[str, tuple[int, ...]], Any]):
        self.given, self.shapes = given, {}

    def __call__(self, name: str, *shape: int):
        self.shapes[name] = shape
        return self.given(name, shape)

    def convolved(self, x, name: str, channels: int, edge=1, stride=1, padding=None, groups=1, bias=False):
        from torch.nn import functional

        kernel = self(f"{name}.weight", channels, x.shape[1] // groups, edge, edge)
        shift = self(f"{name}.bias", channels) if bias else None
        padding = edge // 2 if padding is None else padding
        return functional.conv2d(x, kernel, shift, stride, padding, groups=groups)

    def batch_normal(self, x, name: str, epsilon=1e-5):
        from torch.nn import functional

        scale, shift, mean, variance = (
            self(f"{name}.{part}", x.shape[1]) for part in ("weight", "bias", "running_mean", "running_var")
        )
        self(f"{name}.num_batches_tracked")
        return functional.batch_norm(x, mean, variance, scale, shift, eps=epsilon)


def efficientnet_lite0(weights: Weights, x):
    from torch.nn import functional

    def same(x, name, channels, edge, stride, groups=1):
        (above, below), (left, right) = ((total // 2, total - total // 2) for total in padding(x, edge, stride))
        x = functional.pad(x, (left, right, above, below))
        return weights.convolved(x, name, channels, edge, stride, 0, groups)

    def padding(x, edge, stride):
        return [max((-(-n // stride) - 1) * stride + edge - n, 0) for n in x.shape[2:]]

    x = functional.relu6(weights.batch_normal(same(x, "_conv_stem", 32, 3, 2), "_bn0", 1e-3))
    number = 0
    for blocks, edge, stride, expansion, channels in LITE0:
        for j in range(blocks):
            name, inner, within = f"_blocks.{number}", x, x.shape[1] * expansion
            if expansion > 1:
                inner = weights.convolved(inner, f"{name}._expand_conv", within)
                inner = functional.relu6(weights.batch_normal(inner, f"{name}._bn0", 1e-3))
            inner = same(inner, f"{name}._depthwise_conv", within, edge, 1 if j else stride, within)
            inner = functional.relu6(weights.batch_normal(inner, f"{name}._bn1", 1e-3))
            inner = weights.batch_normal(
                weights.convolved(inner, f"{name}._project_conv", channels), f"{name}._bn2", 1e-3
            )
            x, number = inner + x if j else inner, number + 1
    x = functional.relu6(weights.batch_normal(weights.convolved(x, "_conv_head", 1280), "_bn1", 1e-3))
    weights("_fc.weight", 1000, 1280)
    weights("_fc.bias", 1000)
    return x.mean((2, 3))


NETWORKS = {"efficientnet_lite0": efficientnet_lite0}


def results(name: str) -> dict[str, np.ndarray]:
    import torch

    weights = Weights(lambda name, shape: torch.tensor(weight(name, shape)))
    with torch.inference_mode():
        features = NETWORKS[name](weights, torch.tensor(images(EDGES[name])).permute(0, 3, 1, 2))
    shapes = np.array([" ".join(map(str, shape)) for shape in weights.shapes.values()])
    return {"names": np.array(list(weights.shapes)), "shapes": shapes, "features": features.numpy()}


def state_dict(stored: Any, name: str) -> dict[str, np.ndarray]:
    """Of a network in the stored file: the weights that its figures were made with."""
    shapes = [tuple(map(int, text.split())) for text in stored[f"{name}/shapes"].tolist()]
    names = stored[f"{name}/names"].tolist()
    return {one: np.asarray(weight(one, shape)) for one, shape in zip(names, shapes, strict=True)}


def main(output: Path) -> None:
    np.savez_compressed(output, **{f"{name}/{part}": a for name in NETWORKS for part, a in results(name).items()})


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else STORED)
