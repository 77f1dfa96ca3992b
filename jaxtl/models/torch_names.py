"""Architectures whose weights others publish for PyTorch, and how their names become ours.

A map is data: the modules of PyTorch by regular expression, the module here, and what kind it is, which says where each
of its arrays goes. Layouts are turned by `transfer(..., layout="torch")`, never by guessing from shapes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import numpy as np

from jaxtl.models.bert import minilm_l6
from jaxtl.models.convnext import convnext_tiny
from jaxtl.models.efficientnet import LITE0, efficientnet_lite0
from jaxtl.models.residual import imagenet_resnet
from jaxtl.models.transformers import VisionTransformer, vision_transformer

KINDS = {  # of a module: {its array in PyTorch: our path}
    "kernel": {"weight": "params/{}/kernel", "bias": "params/{}/bias"},
    "norm": {
        **{"weight": "params/{}/scale", "bias": "params/{}/bias"},
        **{"running_mean": "batch_stats/{}/mean", "running_var": "batch_stats/{}/var"},
    },
    "embedding": {"weight": "params/{}/embedding"},
    "array": {"": "params/{}"},  # one by itself, whose name is that of the module
}

Modules = tuple[tuple[str, str, str], ...]  # (regex of a module of PyTorch, replacement, kind)
Inputs = tuple[float, ...]  # by channel, in units of 0..255
IMAGENET: tuple[Inputs, Inputs] = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))  # torchvision's, times 255


class Architecture(NamedTuple):
    """What can be read.

    Attributes:
        title: in a few words.
        make: weights by name -> the trunk.
        modules: the map of names.
        left: regex of names that a trunk has no use for: heads and counters.
        size: edge of an image in pixels, by default; of texts, tokens that see each other.
        mean, std: of its inputs; () of tokens.
    """

    title: str
    make: Callable[[Mapping[str, Any]], nn.Module]
    modules: Modules
    left: str
    size: int
    mean: Inputs
    std: Inputs


def paths(architecture: Architecture, names: Any) -> dict[str, str]:
    """{name in PyTorch: our path "params/…" or "batch_stats/…"} of all names that the map knows."""
    found = {}
    for name in names:
        for pattern, ours, kind in architecture.modules:
            module, array = (name, "") if kind == "array" else name.rpartition(".")[::2]
            if (match := re.fullmatch(pattern, module)) and array in KINDS[kind]:
                found[name] = KINDS[kind][array].format(match.expand(ours))
                break
    return found


def strangers(architecture: Architecture, names: Any) -> list[str]:
    """Names that neither the map knows nor a head has."""
    known = paths(architecture, names)
    return [name for name in names if name not in known and not re.fullmatch(architecture.left, name)]


def _efficientnet_lite() -> Modules:
    places = [(i, j) for i, stage in enumerate(LITE0) for j in range(stage.blocks)]
    parts = {
        **{"_expand_conv": ("expand", "kernel"), "_bn0": ("expand_norm", "norm")},
        **{"_depthwise_conv": ("depthwise", "kernel"), "_bn1": ("depthwise_norm", "norm")},
        **{"_project_conv": ("project", "kernel"), "_bn2": ("project_norm", "norm")},
    }
    blocks = [
        (rf"_blocks\.{number}\.{theirs}", f"stage_{i}_block_{j}/{ours}", kind)
        for number, (i, j) in enumerate(places)
        for theirs, (ours, kind) in parts.items()
    ]
    ends = {"_conv_stem": ("stem", "kernel"), "_bn0": ("stem_norm", "norm")}
    ends |= {"_conv_head": ("top", "kernel"), "_bn1": ("top_norm", "norm")}
    return (*((theirs, *ours) for theirs, ours in ends.items()), *blocks)


def _resnet() -> Modules:
    """torchvision's; all depths have the same names."""
    parts = {"downsample.0": ("shortcut", "kernel"), "downsample.1": ("shortcut_norm", "norm")}
    for k in range(3):
        parts |= {f"conv{k + 1}": (f"conv_{k}", "kernel"), f"bn{k + 1}": (f"norm_{k}", "norm")}
    blocks = [
        (rf"layer{i + 1}\.(\d+)\.{re.escape(theirs)}", rf"stage_{i}_block_\1/{ours}", kind)
        for i in range(4)
        for theirs, (ours, kind) in parts.items()
    ]
    return (("conv1", "stem", "kernel"), ("bn1", "norm", "norm"), *blocks)


def _of_depth(depth: int) -> Architecture:
    left = r".*num_batches_tracked|fc\..*"
    return Architecture(f"ResNet-{depth}", lambda weights: imagenet_resnet(depth), _resnet(), left, 224, *IMAGENET)


def _transformer() -> Modules:
    """timm's, without what only some of its transformers have: such weights are refused by their names."""
    parts = {
        **{"norm1": ("norm_0", "norm"), "attn.qkv": ("qkv", "kernel"), "attn.proj": ("proj", "kernel")},
        **{"norm2": ("norm_1", "norm"), "mlp.fc1": ("dense_0", "kernel"), "mlp.fc2": ("dense_1", "kernel")},
    }
    blocks = [
        (rf"blocks\.(\d+)\.{re.escape(theirs)}", rf"block_\1/{ours}", kind) for theirs, (ours, kind) in parts.items()
    ]
    ends = (("patch_embed.proj", "patches", "kernel"), ("norm", "norm", "norm"))
    return (*ends, ("cls_token", "token", "array"), ("pos_embed", "places", "array"), *blocks)


def _sized_transformer(kind: str) -> Callable[[Mapping[str, Any]], VisionTransformer]:
    """Of the size that its places are for; without any, of the usual one, and what lacks them is refused later."""

    def make(weights: Mapping[str, Any]) -> VisionTransformer:
        places = np.shape(weights.get("pos_embed", np.zeros((1, 197, 0))))
        return vision_transformer(kind, 16 * math.isqrt(max(places[1] - 1, 1)) if len(places) == 3 else 224)

    return make


def _convnext() -> Modules:
    """timm's."""
    parts = {
        **{"conv_dw": ("depthwise", "kernel"), "norm": ("norm", "norm"), "gamma": ("gamma", "array")},
        **{"mlp.fc1": ("dense_0", "kernel"), "mlp.fc2": ("dense_1", "kernel")},
    }
    blocks = [
        (rf"stages\.(\d+)\.blocks\.(\d+)\.{re.escape(theirs)}", rf"stage_\1_block_\2/{ours}", kind)
        for theirs, (ours, kind) in parts.items()
    ]
    between = (
        (r"stages\.(\d+)\.downsample\.0", r"down_norm_\1", "norm"),
        (r"stages\.(\d+)\.downsample\.1", r"down_\1", "kernel"),
    )
    ends = ((r"stem\.0", "stem", "kernel"), (r"stem\.1", "stem_norm", "norm"), (r"head\.norm", "norm", "norm"))
    return (*ends, *between, *blocks)


def _bert() -> Modules:
    """The names of BERT in transformers; a pooler above it is left."""
    parts = {
        **{f"attention.self.{name}": (name, "kernel") for name in ("query", "key", "value")},
        **{"attention.output.dense": ("proj", "kernel"), "attention.output.LayerNorm": ("norm_0", "norm")},
        **{"intermediate.dense": ("dense_0", "kernel"), "output.dense": ("dense_1", "kernel")},
        **{"output.LayerNorm": ("norm_1", "norm")},
    }
    blocks = [
        (rf"(?:bert\.)?encoder\.layer\.(\d+)\.{re.escape(theirs)}", rf"block_\1/{ours}", kind)
        for theirs, (ours, kind) in parts.items()
    ]
    tables = {"word_embeddings": "words", "position_embeddings": "places", "token_type_embeddings": "kinds"}
    ends = [(rf"(?:bert\.)?embeddings\.{theirs}", ours, "embedding") for theirs, ours in tables.items()]
    return (*ends, (r"(?:bert\.)?embeddings\.LayerNorm", "norm", "norm"), *blocks)


ARCHITECTURES: dict[str, Architecture] = {
    "efficientnet_lite0": Architecture(
        "EfficientNet-Lite0",
        lambda weights: efficientnet_lite0(),
        _efficientnet_lite(),
        r".*num_batches_tracked|_fc\..*",
        96,
        (127.0,) * 3,
        (128.0,) * 3,
    ),
    **{f"resnet{depth}": _of_depth(depth) for depth in (18, 34, 50)},
    **{
        f"vit_{kind}16": Architecture(
            f"ViT-{kind.upper()}/16",
            _sized_transformer(kind),
            _transformer(),
            r"head\..*",
            224,
            (127.5,) * 3,
            (127.5,) * 3,
        )
        for kind in ("s", "b")
    },
    "convnext_tiny": Architecture(
        "ConvNeXt-T", lambda weights: convnext_tiny(), _convnext(), r"head\.fc\..*", 224, *IMAGENET
    ),
    "minilm_l6": Architecture(
        "MiniLM-L6",
        lambda weights: minilm_l6(),
        _bert(),
        r"(?:bert\.)?(?:pooler\..*|embeddings\.position_ids)",
        128,
        (),
        (),
    ),
}
