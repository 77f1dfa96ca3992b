"""Architectures whose weights others publish for PyTorch, and how their names become ours.

A map is data: the modules of PyTorch by regular expression, the module here, and what kind it is, which says where each
of its arrays goes. Layouts are turned by `transfer(..., layout="torch")`, never by guessing from shapes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn

from jaxtl.models.efficientnet import LITE0, efficientnet_lite0

KINDS = {  # of a module: {its array in PyTorch: our path}
    "kernel": {"weight": "params/{}/kernel", "bias": "params/{}/bias"},
    "norm": {
        **{"weight": "params/{}/scale", "bias": "params/{}/bias"},
        **{"running_mean": "batch_stats/{}/mean", "running_var": "batch_stats/{}/var"},
    },
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
        size: edge of an image in pixels, by default.
        mean, std: of its inputs.
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
        module, _, array = name.rpartition(".")
        for pattern, ours, kind in architecture.modules:
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
}
