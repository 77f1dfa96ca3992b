"""Mixing two examples of a batch into one, image and label: mixup and CutMix, as transforms inside the step.

Labels become probabilities [B, C], which `softmax_cross_entropy` takes. One number λ and one pairing serve a batch;
pairing, λ and box are drawn from keys of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxtl.data.batches import Prepare
from jaxtl.data.transforms import Batch, Transform
from jaxtl.errors import InputError

STREAM = 0x317C  # folded into the step's key. A small number would not do: fold_in(key, 1) is split(key, 2)[1]


def then(prepare: Prepare, transform: Transform) -> Prepare:
    """A `prepare` whose batches are transformed further, with a key of its own.

    What `prepare` draws stays what it is without, so that methods with and without see the same examples, shifted and
    mirrored alike.

    Args:
        prepare: (data, rng, step) -> batch.
        transform: (batch, rng) -> batch.

    Example:
        >>> prepare = then(lambda data, rng, step: {"image": data}, lambda batch, rng: {"image": 2 * batch["image"]})
        >>> float(prepare(jnp.float32(3), jax.random.key(0), 0)["image"])
        6.0
    """

    def prepared(data: Any, rng: jax.Array, step: jax.Array) -> dict[str, Any]:
        return dict(transform(prepare(data, rng, step), jax.random.fold_in(rng, STREAM)))

    return prepared


def mixup(alpha: float, classes: int) -> Transform:
    """Every image and label with another of the batch, λ x_i + (1 − λ) x_j, λ ~ Beta(α, α).

    Args:
        alpha: α > 0; 0.2 in fine-tuning, up to 1 from random parameters.
        classes: C.

    Raises:
        InputError: α that is not positive; on use, a batch with a mask, whose padding would be mixed in.

    Example:
        >>> batch = {"image": jnp.arange(4.0).reshape(4, 1), "label": jnp.arange(4) % 2}
        >>> mixed = mixup(0.2, 2)(batch, jax.random.key(0))
        >>> mixed["label"].shape, mixed["label"].sum(axis=1).tolist()
        ((4, 2), [1.0, 1.0, 1.0, 1.0])

    Source: Zhang, Cisse, Dauphin and Lopez-Paz, "mixup: Beyond Empirical Risk Minimization", 2018.
    """
    _check_alpha(alpha, "mixup alpha")

    def transform(batch: Batch, rng: jax.Array) -> Batch:
        pairing, number = jax.random.split(rng)
        order, images = _order(batch, pairing, "mixup"), batch["image"]
        share = jax.random.beta(number, alpha, alpha)
        mixed = share * images + (1 - share) * images[order]
        return {**batch, "image": mixed, "label": _labels(batch, order, share, classes)}

    return transform


def cutmix(alpha: float, classes: int) -> Transform:
    """A box of every image from another of the batch, and as much of its label, λ ~ Beta(α, α).

    The box has the share 1 − λ of the area before it is clipped at the edges; the labels are mixed by what it has
    afterwards.

    Args:
        alpha: α > 0; 1 makes λ uniform.
        classes: C.

    Raises:
        InputError: α that is not positive; on use, examples that are no images, or a batch with a mask.

    Example:
        >>> batch = {"image": jnp.zeros((2, 4, 4, 1)).at[1].set(1), "label": jnp.arange(2)}
        >>> mixed = cutmix(1.0, 2)(batch, jax.random.key(3))
        >>> bool(jnp.allclose(mixed["image"].mean(axis=(1, 2, 3)), mixed["label"][:, 1]))
        True

    Source: Yun et al., "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features", 2019.
    """
    _check_alpha(alpha, "cutmix alpha")

    def transform(batch: Batch, rng: jax.Array) -> Batch:
        pairing, number, place = jax.random.split(rng, 3)
        order, images = _order(batch, pairing, "cutmix"), batch["image"]
        if jnp.ndim(images) != 4:
            raise InputError(f"examples of shape {images.shape[1:]}", where="cutmix", todo="use mixup")
        height, width = images.shape[1:3]
        row, column = jax.random.randint(place, (2,), 0, jnp.array([height, width]))
        inside, share = box(height, width, jax.random.beta(number, alpha, alpha), row, column)
        mixed = jnp.where(inside[None, :, :, None], images[order], images)
        return {**batch, "image": mixed, "label": _labels(batch, order, share, classes)}

    return transform


def box(height: int, width: int, share: Any, row: Any, column: Any) -> tuple[jax.Array, jax.Array]:
    """A box with the share 1 − λ of an image around a pixel, clipped at its edges, and what λ that leaves.

    Args:
        height, width: of the image.
        share: λ.
        row, column: its centre.

    Returns:
        ([height, width] bool, λ after clipping).

    Example:
        >>> inside, share = box(16, 16, 0.7, 3, 12)
        >>> int(inside.any(axis=1).sum()), int(inside.any(axis=0).sum()), float(share)
        (7, 8, 0.78125)
    """
    side = jnp.sqrt(1 - share)

    def within(centre: Any, size: int) -> jax.Array:
        half = jnp.floor(size * side).astype(jnp.int32) // 2
        place = jnp.arange(size)
        return (place >= centre - half) & (place < centre + half)

    inside = within(row, height)[:, None] & within(column, width)[None, :]
    return inside, 1 - jnp.mean(inside.astype(jnp.float32))


def _order(batch: Mapping[str, Any], rng: jax.Array, where: str) -> jax.Array:
    if "mask" in batch:
        todo = "mix batches without padding and weights"
        raise InputError("the batch has a mask, whose examples would be mixed into others", where=where, todo=todo)
    return jax.random.permutation(rng, len(batch["label"]))


def _labels(batch: Mapping[str, Any], order: jax.Array, share: Any, classes: int) -> jax.Array:
    soft = labels = batch["label"]
    if jnp.ndim(labels) == 1:
        known = (labels >= 0) & (labels < classes)  # a label of no class would be a row of zeros, and cost nothing
        soft = jnp.where(known[:, None], jax.nn.one_hot(labels, classes), jnp.nan)
    return share * soft + (1 - share) * soft[order]


def _check_alpha(alpha: float, where: str) -> None:
    if not alpha > 0:
        raise InputError(f"{alpha}", where=where, todo="use a number > 0")
