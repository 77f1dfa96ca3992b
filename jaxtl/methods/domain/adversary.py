"""Games with an adversary: DANN, CDAN, MDD.

The adversary has a label of its own, moved by its own group: it goes downhill on what it tells apart, at its own
learning rate, while the trunk goes uphill on the same, λ times as fast. Each player sees the other as fixed, so that no
gradient has to be reversed on its way:

    learns = adversary(φ, stop(features))      a term with rate 1, which moves φ alone
    fooled = adversary(stop(φ), features)      minus the same, with rate λ(progress), which moves the trunk alone

This is a layer that reverses gradients, −λ times, to the last bit; λ does not weigh what the adversary learns.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxtl.errors import InputError
from jaxtl.trees import Tree

STEEPNESS = 10.0  # of the schedule
MARGIN = 4.0  # γ of MDD
LARGEST, PROJECTED = 4096, 1024  # numbers of a product that is seen as it is, and of one that is projected


def ramp(progress: jax.Array | float, steepness: float = STEEPNESS) -> jax.Array:
    """λ = 2 / (1 + exp(−10 p)) − 1: the adversary is heeded when it has something to say, from 0 to almost 1.

    Args:
        progress: p, the part of the training that is over, 0 to 1.
        steepness: 10 in the paper. Popular code takes 1, of thousands of steps in place of the progress.

    Returns:
        Scalar float32.

    Example:
        >>> [round(float(ramp(p)), 4) for p in (0.0, 0.5, 1.0)]
        [0.0, 0.9866, 0.9999]

    Source: Ganin et al., "Domain-Adversarial Training of Neural Networks", 2016.
    """
    return jnp.tanh(0.5 * steepness * jnp.asarray(progress, jnp.float32))


@jax.custom_vjp
def gradient_reversal(x: jax.Array, strength: jax.Array | float) -> jax.Array:
    """x on the way forwards, −strength · gradient on the way back: one objective for both players of a game.

    The rows here play by `both_players`, in which λ is a rate like any other; their gradients are the same.

    Args:
        x: features, of any shape.
        strength: λ, a scalar; no gradient goes to it.

    Returns:
        x.

    Example:
        >>> jax.grad(lambda x: jnp.sum(3.0 * gradient_reversal(x, 0.5)))(jnp.zeros(2)).tolist()
        [-1.5, -1.5]

    Source: Ganin et al., "Domain-Adversarial Training of Neural Networks", 2016.
    """
    return x


gradient_reversal.defvjp(
    lambda x, strength: (x, jnp.asarray(strength)),
    lambda strength, gradient: (-strength.astype(gradient.dtype) * gradient, jnp.zeros_like(strength)),
)


def both_players(
    adversary: Callable[[Tree, jax.Array], jax.Array], params: Tree, inputs: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """(what the adversary learns from, what it says to the one that fools it): equal, with other gradients.

    Args:
        adversary: (its parameters, inputs [B, D]) -> logits.
        params: of the adversary.
        inputs: features, or what is made of them.

    Example:
        >>> play = lambda params, x: params * x
        >>> gain = lambda k: jax.grad(lambda w, x: both_players(play, w, x)[k], argnums=(0, 1))(2.0, 3.0)
        >>> [[float(slope) for slope in gain(k)] for k in (0, 1)]
        [[3.0, 0.0], [0.0, 2.0]]
    """
    return adversary(params, jax.lax.stop_gradient(inputs)), adversary(jax.lax.stop_gradient(params), inputs)


def domain_loss(source: jax.Array, target: jax.Array, weights: tuple[jax.Array, jax.Array] | None = None) -> jax.Array:
    """½ mean −log σ(source) + ½ mean −log σ(−target): how badly the adversary tells two domains apart.

    log 2 where it cannot; each domain counts one half however many examples it has.

    Args:
        source: [N] or [N, 1] logits of the adversary, positive for "source".
        target: [M] or [M, 1].
        weights: ([N], [M]) of the examples, such as `certainty`; alike when left out.

    Returns:
        Scalar, in float32 at least.

    Example:
        >>> sure = jnp.full(2, 999.0)
        >>> round(float(domain_loss(jnp.zeros(3), jnp.zeros(2))), 4), float(domain_loss(sure, -sure))
        (0.6931, 0.0)

    Source: Ganin et al., "Domain-Adversarial Training of Neural Networks", 2016.
    """
    here, there = jax.nn.softplus(-_flat(source)), jax.nn.softplus(_flat(target))
    own, other = weights or (jnp.ones_like(here), jnp.ones_like(there))
    return 0.5 * (jnp.sum(own * here) / jnp.sum(own) + jnp.sum(other * there) / jnp.sum(other))


def conditioned(features: jax.Array, logits: jax.Array) -> jax.Array:
    """p ⊗ f per example: what the adversary of CDAN sees, so that it tells domains apart within classes.

    Of more than 4096 products it sees random projections, (R_p p) ⊙ (R_f f) / √1024 with R ~ N(0, 1) that never change,
    whose scalar products are those of p ⊗ f in expectation. No gradient passes through p, so that fooling the adversary
    does not change answers directly.

    Args:
        features: [B, D].
        logits: [B, C].

    Returns:
        [B, `conditioned_size(D, C)`].

    Raises:
        InputError: not as many of both.

    Example:
        >>> conditioned(jnp.array([[1.0, 2.0]]), jnp.array([[0.0, 0.0]])).tolist()
        [[0.5, 1.0, 0.5, 1.0]]

    Source: Long, Cao, Wang and Jordan, "Conditional Adversarial Domain Adaptation", 2018.
    """
    if len(features) != len(logits):
        what = f"{len(features)} features, {len(logits)} logits"
        raise InputError(what, where="conditioned", todo="give both of the same examples")
    p = jax.nn.softmax(jax.lax.stop_gradient(logits))
    width, classes = features.shape[1], logits.shape[1]
    if width * classes <= LARGEST:
        return (p[:, :, None] * features[:, None]).reshape(len(features), -1)
    keys = jax.random.split(jax.random.key(0))
    f, g = (
        x @ jax.random.normal(key, (x.shape[1], PROJECTED), x.dtype) for key, x in zip(keys, (features, p), strict=True)
    )
    return f * g / jnp.sqrt(PROJECTED)


def conditioned_size(width: int, classes: int) -> int:
    """How many numbers `conditioned` makes of so many features and classes.

    Example:
        >>> conditioned_size(64, 10), conditioned_size(2048, 31)
        (640, 1024)
    """
    return width * classes if width * classes <= LARGEST else PROJECTED


def mdd(source: tuple[jax.Array, jax.Array], target: tuple[jax.Array, jax.Array], margin: float = MARGIN) -> jax.Array:
    """γ · mean −log p′(ŷ_s | s) − mean log(1 − p′(ŷ_t | t)): another head agrees on s, not on t.

    ŷ is the class that the first head takes an example for. log(1 − p′) by the logits of the other classes, exact
    where p′ is 1. (Popular code clamps it there, and the gradient vanishes where it is needed.)

    Args:
        source: ([N, C] logits of the first head, [N, C] of the second).
        target: ([M, C], [M, C]).
        margin: γ itself, 2 to 4 in the paper.

    Returns:
        Scalar: the second head goes down on it, the trunk up.

    Raises:
        InputError: heads of other shapes.

    Example:
        >>> first, second = jnp.array([[9.0, 0.0]]), jnp.array([[0.0, 0.0]])
        >>> round(float(mdd((first, second), (first, second), margin=1.0)), 4)  # −log ½ − log ½
        1.3863

    Source: Zhang, Liu, Long and Jordan, "Bridging Theory and Algorithm for Domain Adaptation", 2019.
    """
    for side in (source, target):
        if side[0].shape != side[1].shape or side[0].ndim != 2:
            what = f"logits {list(side[0].shape)} and {list(side[1].shape)}"
            raise InputError(what, where="mdd", todo="give both heads' [examples, classes]")
    agree, _ = _picked(*source)
    _, disagree = _picked(*target)
    return -margin * jnp.mean(agree) - jnp.mean(disagree)


def _picked(first: jax.Array, second: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(log p′(ŷ), log(1 − p′(ŷ))) [B]: p′ of the second head at the class that the first one says."""
    said = jax.nn.one_hot(jnp.argmax(first, axis=-1), first.shape[-1], dtype=bool)
    whole = jax.nn.logsumexp(second, axis=-1)
    others = jax.nn.logsumexp(jnp.where(said, -jnp.inf, second), axis=-1)
    return jnp.sum(jnp.where(said, second, 0.0), axis=-1) - whole, others - whole


def _flat(logits: jax.Array) -> jax.Array:
    return logits.reshape(len(logits)).astype(jnp.promote_types(logits.dtype, jnp.float32))
