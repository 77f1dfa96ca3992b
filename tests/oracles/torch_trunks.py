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
EDGES = {  # of the images, in pixels
    **{"efficientnet_lite0": 40, "resnet18": 40, "resnet34": 40, "resnet50": 40},
    **{"vit_s16": 48, "vit_b16": 32, "convnext_tiny": 64},
}
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
        small = 0.3 if name.endswith((".bn2.weight", ".bn3.weight")) else 1.0  # or sums of many blocks grow without end
        return np.float32(small) * (np.float32(near) + np.float32(0.2) * wave(name, shape))
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


def resnet(depth: int) -> Callable[[Weights, Any], Any]:
    blocks = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}[depth]
    times = 4 if depth == 50 else 1

    def block(weights, x, name, channels, stride):
        layers = [(channels, 1, 1), (channels, 3, stride), (4 * channels, 1, 1)]
        inner = x
        for k, (wide, edge, step) in enumerate(layers if times == 4 else [(channels, 3, stride), (channels, 3, 1)]):
            inner = inner.relu() if k else inner
            inner = weights.batch_normal(
                weights.convolved(inner, f"{name}.conv{k + 1}", wide, edge, step), f"{name}.bn{k + 1}"
            )
        if stride != 1 or x.shape[1] != times * channels:
            x = weights.convolved(x, f"{name}.downsample.0", times * channels, 1, stride)
            x = weights.batch_normal(x, f"{name}.downsample.1")
        return (inner + x).relu()

    def network(weights, x):
        from torch.nn import functional

        x = weights.batch_normal(weights.convolved(x, "conv1", 64, 7, 2), "bn1").relu()
        x = functional.max_pool2d(x, 3, 2, 1)
        for i, count in enumerate(blocks):
            for j in range(count):
                x = block(weights, x, f"layer{i + 1}.{j}", 64 * 2**i, 2 if i and not j else 1)
        weights("fc.weight", 1000, x.shape[1])
        weights("fc.bias", 1000)
        return x.mean((2, 3))

    return network


def dense(weights: Weights, x, name: str, units: int):
    return x @ weights(f"{name}.weight", units, x.shape[-1]).T + weights(f"{name}.bias", units)


def normal(weights: Weights, x, name: str):
    """Over the last axis."""
    mean, variance = x.mean(-1, keepdim=True), x.var(-1, unbiased=False, keepdim=True)
    scale, shift = weights(f"{name}.weight", x.shape[-1]), weights(f"{name}.bias", x.shape[-1])
    return (x - mean) / (variance + 1e-6).sqrt() * scale + shift


def gelu(x):
    import torch

    return x * (1 + torch.erf(x / 2**0.5)) / 2


def vision_transformer(width: int, heads: int) -> Callable[[Weights, Any], Any]:
    def network(weights, x):
        import torch

        x = weights.convolved(x, "patch_embed.proj", width, 16, 16, 0, bias=True).flatten(2).transpose(1, 2)
        own = weights("cls_token", 1, 1, width).expand(len(x), -1, -1)
        x = torch.cat([own, x], 1) + weights("pos_embed", 1, 1 + x.shape[1], width)
        for i in range(12):
            name, (batch, tokens, _) = f"blocks.{i}", x.shape
            mixed = dense(weights, normal(weights, x, f"{name}.norm1"), f"{name}.attn.qkv", 3 * width)
            queries, keys, values = mixed.reshape(batch, tokens, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
            share = (queries @ keys.transpose(-2, -1) / (width // heads) ** 0.5).softmax(-1)
            seen = (share @ values).transpose(1, 2).reshape(batch, tokens, width)
            x = x + dense(weights, seen, f"{name}.attn.proj", width)
            inner = dense(weights, normal(weights, x, f"{name}.norm2"), f"{name}.mlp.fc1", 4 * width)
            x = x + dense(weights, gelu(inner), f"{name}.mlp.fc2", width)
        weights("head.weight", 1000, width)
        weights("head.bias", 1000)
        return normal(weights, x, "norm")[:, 0]

    return network


def convnext_tiny(weights: Weights, x):
    def by_channel(x, name):
        return normal(weights, x.permute(0, 2, 3, 1), name).permute(0, 3, 1, 2)

    x = by_channel(weights.convolved(x, "stem.0", 96, 4, 4, 0, bias=True), "stem.1")
    for i, (width, count) in enumerate(((96, 3), (192, 3), (384, 9), (768, 3))):
        if i:
            x = by_channel(x, f"stages.{i}.downsample.0")
            x = weights.convolved(x, f"stages.{i}.downsample.1", width, 2, 2, 0, bias=True)
        for j in range(count):
            name = f"stages.{i}.blocks.{j}"
            inner = weights.convolved(x, f"{name}.conv_dw", width, 7, groups=width, bias=True).permute(0, 2, 3, 1)
            inner = gelu(dense(weights, normal(weights, inner, f"{name}.norm"), f"{name}.mlp.fc1", 4 * width))
            inner = dense(weights, inner, f"{name}.mlp.fc2", width) * weights(f"{name}.gamma", width)
            x = x + inner.permute(0, 3, 1, 2)
    x = normal(weights, x.mean((2, 3)), "head.norm")
    weights("head.fc.weight", 1000, 768)
    weights("head.fc.bias", 1000)
    return x


NETWORKS = {
    "efficientnet_lite0": efficientnet_lite0,
    **{f"resnet{depth}": resnet(depth) for depth in (18, 34, 50)},
    **{"vit_s16": vision_transformer(384, 6), "vit_b16": vision_transformer(768, 12)},
    "convnext_tiny": convnext_tiny,
}


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
