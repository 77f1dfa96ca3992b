"""What several modalities say of one example as one answer: average, weights, vote, product.

A modality that is absent counts as if it had never been there: all is normalised over those that are present. Where
none is, every class is as likely.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxtl.errors import InputError

LEAST = 1e-30  # of a probability whose logarithm is taken


def fuse_weighted(probs: jax.Array, weights: jax.Array, present: jax.Array | None = None) -> jax.Array:
    """Σ_m w_m p_m / Σ_m w_m over the modalities present; where all of their weights are 0, the plain average.

    Args:
        probs: [M, B, C] probabilities; what stands where a modality is absent is not looked at.
        weights: [M], not negative.
        present: [M, B], 1 where a modality is there; all are when left out.

    Returns:
        [B, C] probabilities, in float32 at least.

    Raises:
        InputError: shapes that do not fit.

    Example:
        >>> probs, weights = jnp.array([[[1.0, 0.0]], [[0.5, 0.5]]]), jnp.array([3.0, 1.0])
        >>> fuse_weighted(probs, weights).tolist(), fuse_weighted(probs, weights, jnp.array([[0], [1]])).tolist()
        ([[0.875, 0.125]], [[0.5, 0.5]])

    Source: Genest and Zidek, "Combining Probability Distributions: A Critique and an Annotated Bibliography", 1986 (the
    linear opinion pool).
    """
    probs, there = _checked(probs, present, "fuse_weighted")
    if weights.shape != there.shape[:1]:
        what = f"weights {list(weights.shape)} for {len(there)} modalities"
        raise InputError(what, where="fuse_weighted", todo="give one for each")
    own = jnp.where(there, weights[:, None], 0.0)
    total, count = jnp.sum(own, axis=0), jnp.sum(there, axis=0)
    weighed = own / jnp.where(total > 0, total, 1.0)[None]
    own = jnp.where((total > 0)[None], weighed, there / jnp.maximum(count, 1)[None])
    return _or_uniform(jnp.einsum("mb,mbc->bc", own, probs), there)


def fuse_average(probs: jax.Array, present: jax.Array | None = None) -> jax.Array:
    """The mean of p_m over the modalities present: the sum rule.

    Args:
        probs, present: as for `fuse_weighted`.

    Returns:
        [B, C] probabilities.

    Raises:
        InputError: shapes that do not fit.

    Example:
        >>> fuse_average(jnp.array([[[0.75, 0.25]], [[0.25, 0.75]]])).tolist()
        [[0.5, 0.5]]

    Source: Kittler, Hatef, Duin and Matas, "On Combining Classifiers", 1998.
    """
    return fuse_weighted(probs, jnp.ones(jnp.shape(probs)[:1]), present)


def fuse_vote(probs: jax.Array, present: jax.Array | None = None) -> jax.Array:
    """(votes + average) / (modalities present + 1): each votes for its likeliest class, the average decides ties.

    Of two modalities that disagree, the average therefore decides.

    Args:
        probs, present: as for `fuse_weighted`.

    Returns:
        [B, C], adding up to 1; the class with the most votes has the most.

    Raises:
        InputError: shapes that do not fit.

    Example:
        >>> probs = jnp.array([[[0.625, 0.375]], [[0.625, 0.375]], [[0.0, 1.0]]])
        >>> int(fuse_vote(probs)[0].argmax()), int(fuse_average(probs)[0].argmax())
        (0, 1)

    Source: Kittler, Hatef, Duin and Matas, "On Combining Classifiers", 1998 (the majority vote rule).
    """
    average, (probs, there) = fuse_average(probs, present), _checked(probs, present, "fuse_vote")
    votes = jax.nn.one_hot(jnp.argmax(probs, axis=-1), probs.shape[-1], dtype=probs.dtype)
    count = jnp.sum(there, axis=0)[:, None]
    return (jnp.einsum("mb,mbc->bc", there.astype(probs.dtype), votes) + average) / (count + 1)


def fuse_product(
    probs: jax.Array, present: jax.Array | None = None, *, power: float | None = None, prior: jax.Array | None = None
) -> jax.Array:
    """Π_m p_m^power / prior^(power · modalities present − 1), normalised: the product rule.

    Args:
        probs, present: as for `fuse_weighted`. One that says 0 forbids a class, whatever the others say.
        power: 1 where modalities are independent given the class; left out, 1 / modalities present: the geometric mean.
        prior: [C] how frequent classes are, which each modality has counted in; evenly when left out.

    Returns:
        [B, C] probabilities, in float32 at least.

    Raises:
        InputError: shapes that do not fit.

    Example:
        >>> probs = jnp.array([[[0.8, 0.2]], [[0.8, 0.2]]])
        >>> [round(float(fuse_product(probs, power=power)[0, 0]), 4) for power in (None, 1.0)]
        [0.8, 0.9412]
        >>> round(float(fuse_product(probs, power=1.0, prior=probs[0, 0])[0, 0]), 4)  # both said no more than the prior
        0.8

    Source: Genest and Zidek, 1986 (the logarithmic opinion pool); Kittler, Hatef, Duin and Matas, "On Combining
    Classifiers", 1998.
    """
    probs, there = _checked(probs, present, "fuse_product")
    count = jnp.sum(there, axis=0)
    each = jnp.full(count.shape, power) if power is not None else 1 / jnp.maximum(count, 1)
    logs = jnp.log(jnp.maximum(jnp.where(there[..., None], probs, 1.0), LEAST))
    pooled = each[:, None] * jnp.sum(logs, axis=0)
    if prior is not None:
        if prior.shape != probs.shape[-1:]:
            what = f"a prior {list(prior.shape)} for {probs.shape[-1]} classes"
            raise InputError(what, where="fuse_product", todo="give one number for each class")
        pooled -= (each * count - 1)[:, None] * jnp.log(jnp.maximum(prior, LEAST))[None]
    return jax.nn.softmax(pooled, axis=-1)


def fuse_trained(probs: jax.Array, kernel: jax.Array, bias: jax.Array, present: jax.Array | None = None) -> jax.Array:
    """softmax(b + Σ_m log p_m W_m) over the modalities present: stacking, a linear model on what they say.

    With W_m the identity and b = 0 it is the product with power 1.

    Args:
        probs, present: as for `fuse_weighted`.
        kernel: [M, C, C], fitted on examples that no modality has learned from.
        bias: [C].

    Returns:
        [B, C] probabilities, in float32 at least.

    Raises:
        InputError: shapes that do not fit.

    Example:
        >>> probs, same = jnp.array([[[0.8, 0.2]], [[0.8, 0.2]]]), jnp.stack([jnp.eye(2)] * 2)
        >>> round(float(fuse_trained(probs, same, jnp.zeros(2))[0, 0]), 4)
        0.9412

    Source: Wolpert, "Stacked Generalization", 1992.
    """
    probs, there = _checked(probs, present, "fuse_trained")
    size = probs.shape[-1]
    if kernel.shape != (len(probs), size, size) or bias.shape != (size,):
        what = f"kernel {list(kernel.shape)}, bias {list(bias.shape)} for {len(probs)} modalities and {size} classes"
        raise InputError(what, where="fuse_trained", todo="give [M, C, C] and [C]")
    logs = jnp.log(jnp.maximum(jnp.where(there[..., None], probs, 1.0), LEAST))
    said = jax.nn.softmax(jnp.einsum("mbc,mcd->bd", logs, kernel) + bias[None], axis=-1)
    return _or_uniform(said, there)


def tempered(logits: jax.Array, temperatures: jax.Array) -> jax.Array:
    """softmax(z_m / T_m): how sure each modality is, put right; T = 1 changes nothing.

    Args:
        logits: [M, B, C].
        temperatures: [M], > 0, such as `selection.temperature` finds on examples left out.

    Returns:
        [M, B, C] probabilities, in float32 at least.

    Raises:
        InputError: shapes that do not fit.

    Example:
        >>> round(float(tempered(jnp.array([[[2.0, 0.0]]]), jnp.array([2.0]))[0, 0, 0]), 4)
        0.7311

    Source: Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks", 2017.
    """
    if logits.ndim != 3 or temperatures.shape != logits.shape[:1]:
        what = f"logits {list(logits.shape)}, temperatures {list(temperatures.shape)}"
        raise InputError(what, where="tempered", todo="give [M, B, C] and [M]")
    return jax.nn.softmax(_wide(logits) / temperatures[:, None, None], axis=-1)


def drop_modalities(rng: jax.Array, present: jax.Array, rate: float | jax.Array) -> jax.Array:
    """Each modality of each example left out by chance; where all would be, one of those that were there stays.

    Args:
        rng: key.
        present: [M, B], 1 where a modality is there.
        rate: how likely one is left out.

    Returns:
        bool [M, B].

    Example:
        >>> left = drop_modalities(jax.random.key(0), jnp.ones((2, 1000)), 0.5)
        >>> bool(left.any(axis=0).all()), round(float(left.mean()), 1)
        (True, 0.6)

    Source: Neverova, Wolf, Taylor and Nebout, "ModDrop: Adaptive Multi-modal Gesture Recognition", 2016 (there all may
    be left out).
    """
    there = present > 0
    drawn = jax.random.uniform(rng, there.shape)
    kept = there & (drawn >= rate)
    last = jax.nn.one_hot(jnp.argmax(jnp.where(there, drawn, -1.0), axis=0), len(there), axis=0) > 0
    return jnp.where(jnp.any(kept, axis=0)[None], kept, there & last)


def _wide(values: jax.Array) -> jax.Array:
    return values.astype(jnp.promote_types(values.dtype, jnp.float32))


def _checked(probs: jax.Array, present: jax.Array | None, where: str) -> tuple[jax.Array, jax.Array]:
    """(probabilities in float32 at least, 0 where a modality is absent; who is present, bool [M, B])."""
    if probs.ndim != 3 or (present is not None and present.shape != probs.shape[:2]):
        what = f"probs {list(probs.shape)}" + ("" if present is None else f", present {list(present.shape)}")
        raise InputError(what, where=where, todo="give [M, B, C] and [M, B]: modalities, examples, classes")
    there = jnp.ones(probs.shape[:2], bool) if present is None else present > 0
    return jnp.where(there[..., None], _wide(probs), 0.0), there


def _or_uniform(fused: jax.Array, there: jax.Array) -> jax.Array:
    """Every class as likely where nothing is present."""
    return jnp.where(jnp.any(there, axis=0)[:, None], fused, 1 / fused.shape[-1])
