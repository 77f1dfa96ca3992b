"""Image classifiers with trunk and heads as separate subtrees: "trunk/…", "head/kernel", "source_head/kernel"."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtl.errors import InputError
from jaxtl.models.cache import CACHE, with_votes
from jaxtl.models.layers import Convolution, at_least_float32, max_pool, mean_pool, normalised
from jaxtl.models.still import Still
from jaxtl.trees import Tree


class Mlp(nn.Module):
    """Dense layers with ReLU; `taps` holds each layer's output.

    Attributes:
        widths: units of each layer.
        dtype: to compute in, such as "bfloat16"; None is that of the parameters, float32. What comes out is float32.
        start, stop: only the layers from `start` to before `stop`, see `cut`.
    """

    widths: Sequence[int] = (128,)
    dtype: str | None = None
    start: int = 0
    stop: int | None = None

    @property
    def stage_names(self) -> tuple[str, ...]:
        """As among the taps."""
        return tuple(f"dense_{i}" for i in range(len(self.widths)))

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
        """images [B, ...] float32 -> (features [B, widths[-1]], taps)."""
        x, taps = images.reshape(images.shape[0], -1), {}
        for i, width in list(enumerate(self.widths))[self.start : self.stop]:
            x = nn.relu(nn.Dense(width, dtype=self.dtype, name=f"dense_{i}")(x))
            taps[f"dense_{i}"] = at_least_float32(x)
        return at_least_float32(x), taps


class Cnn(nn.Module):
    """Blocks of 3×3 convolution, normalisation, ReLU and 2×2 max pooling; the last block ends in a spatial mean.

    Attributes:
        widths: channels of each block.
        normalisation: see `layers.normalised`; with "none" the convolutions have biases.
        input_pooling: images are first averaged over blocks of this edge; 1 leaves them.
        dtype: as for `Mlp`.
        start, stop: only the blocks from `start` to before `stop`, see `cut`.
    """

    widths: Sequence[int] = (16, 32, 64)
    normalisation: str = "group"
    input_pooling: int = 1
    dtype: str | None = None
    start: int = 0
    stop: int | None = None

    @property
    def stage_names(self) -> tuple[str, ...]:
        """As among the taps."""
        return tuple(f"conv_{i}" for i in range(len(self.widths)))

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
        """images [B, H, W, C] float32 -> (features [B, widths[-1]], taps)."""
        x, taps = mean_pool(images, self.input_pooling) if self.input_pooling > 1 and not self.start else images, {}
        bare = self.normalisation == "none"
        for i, width in list(enumerate(self.widths))[self.start : self.stop]:
            x = Convolution(width, use_bias=bare, dtype=self.dtype, name=f"conv_{i}")(x)
            x = normalised(x, self.normalisation, train, f"norm_{i}", self.dtype)
            taps[f"conv_{i}"] = at_least_float32(nn.relu(x))
            # the ReLU of the largest is the largest ReLU, of a quarter as many numbers
            x = jnp.mean(taps[f"conv_{i}"], axis=(1, 2)) if i == len(self.widths) - 1 else nn.relu(max_pool(x))
        return x, taps


class Classifier(nn.Module):
    """A trunk and any number of linear heads on its features.

    Attributes:
        trunk: module (images, train) -> (features, taps); its parameters live under "trunk".
        heads: (name, outputs) pairs; the parameters of each live under its name. To one that has a cache in the model
            state the votes of the examples there are added, see `cache.votes`.
    """

    trunk: nn.Module
    heads: tuple[tuple[str, int], ...]

    @property
    def fields(self) -> tuple[str, ...]:
        """Of a batch, that it is called with: what the trunk says, or "image"."""
        return getattr(self.trunk, "fields", ("image",))

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> dict[str, Any]:
        """images [B, ...] float32 -> {"features", "taps", and each head's logits [B, outputs] by name}."""
        features, taps = self.trunk(images, train)
        logits = {
            name: with_votes(nn.Dense(outputs, name=name)(features), features, self.get_variable(CACHE, name))
            for name, outputs in self.heads
        }
        return {"features": features, "taps": taps, **logits}


def initialise(model: nn.Module, rng: jax.Array, *inputs: tuple[int, ...] | jax.ShapeDtypeStruct) -> Tree:
    """Fresh parameters of a model; compiled, because `model.init` by itself dispatches every operation one by one.

    Args:
        model: takes its inputs and `train`.
        rng: key.
        inputs: of one example, without the batch axis: a shape (float32), or a shape with a dtype, see `Split.like`.

    Returns:
        Tree of arrays.

    Example:
        >>> model = Classifier(Mlp((4,)), (("head", 3),))
        >>> initialise(model, jax.random.key(0), (8, 8, 1))["head"]["kernel"].shape
        (4, 3)
    """
    return _initialised(model, rng, inputs).get("params", {})  # without heads a spectrum has none


def initial_model_state(model: nn.Module, *inputs: tuple[int, ...] | jax.ShapeDtypeStruct) -> dict[str, Tree]:
    """What a model carries along beside its parameters, for `step.init_state`: {"batch_stats": …}, or {} without any.

    Args:
        model, inputs: as for `initialise`.
    """
    variables = _initialised(model, jax.random.key(0), inputs)
    return {name: tree for name, tree in variables.items() if name != "params"}


@functools.partial(jax.jit, static_argnums=(0, 2))
def _initialised(model: nn.Module, rng: jax.Array, inputs: tuple) -> dict[str, Tree]:
    """All variables of a model."""
    kinds = [one if hasattr(one, "dtype") else jax.ShapeDtypeStruct(one, jnp.float32) for one in inputs]
    return dict(model.init(rng, *(jnp.zeros((1, *kind.shape), kind.dtype) for kind in kinds), train=False))


def cut(model: Classifier, depth: int) -> tuple[nn.Module, Classifier]:
    """A model in two: its first blocks, whose outputs can be kept where they are frozen, and the rest.

    model(x) = above(below(x)),   with the same parameters: each part takes its own of the whole tree

    Args:
        model: its trunk is one of this room; also what is above another cut, held `Still`.
        depth: how many blocks (layers, stages) are below, at least 1 and fewer than there are.

    Returns:
        (below, a trunk: (images, train) -> (what the next block takes, taps); above: that -> as the model).

    Raises:
        InputError: a depth that leaves nothing on one side.

    Example:
        >>> model = Classifier(Mlp((4, 5)), (("head", 3),))
        >>> params, x = initialise(model, jax.random.key(0), (2,)), jnp.ones((1, 2))
        >>> below, above = cut(model, 1)
        >>> kept, _ = below.apply({"params": params["trunk"]}, x, False)
        >>> rest = above.apply({"params": params}, kept, False)
        >>> (rest["head"] == model.apply({"params": params}, x, False)["head"]).all().item()
        True
    """
    trunk: Any = model.trunk
    blocks = len(trunk.widths)
    if not 1 <= depth < blocks:
        todo = f"use 1 to {blocks - 1}" if blocks > 1 else "give it more blocks"
        raise InputError(f"a cut at {depth} of {blocks} blocks", where="cut depth", todo=todo)
    if isinstance(trunk, Still):
        below, above = trunk.parts(depth)
        return below, Classifier(above, model.heads)
    return trunk.clone(stop=depth), Classifier(trunk.clone(start=depth), model.heads)


def stage_paths(model: Classifier) -> list[str]:
    """What `labels.label_by_depth` takes: regular expressions for the parameters of a model, from input to output.

    The first is what stands before the first stage, where there is anything; then a stage each (a layer, a block, a
    stage of blocks, see `stage_names`); the last is all heads, with the normalisation before them.

    Args:
        model: its trunk is one of this room.

    Example:
        >>> stage_paths(Classifier(Mlp((4, 5)), (("head", 3),)))[0]
        'trunk/[a-z]+(_norm)?_0(_[^/]*)?/.*'
    """
    trunk: Any = model.trunk
    whole = trunk.trunk if isinstance(trunk, Still) else trunk
    plain = trunk.stage_names[:1] in (("dense_0",), ("conv_0",)) or getattr(whole, "start", 0) > 0
    late = getattr(whole, "normalise_first", True)
    before = r"trunk/(stem(_norm)?|patches|token|places|embedding" + ("" if late else "|norm") + ")(/.*)?"
    numbers = [name.rpartition("_")[2] for name in trunk.stage_names]
    stages = [
        rf"trunk/[a-z]+(_norm)?_{number}(_[^/]*)?/.*" if number.isdecimal() else rf"trunk/{number}(_norm)?/.*"
        for number in numbers
    ]
    heads = r"(?!trunk/).*" + (r"|trunk/norm/.*" if late else "")
    return [*([] if plain else [before]), *stages, heads]
