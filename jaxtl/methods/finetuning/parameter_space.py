"""Where fine-tuned parameters may go: how firmly each is held, parameters that are mixed with the source's, a pull that
makes way for the task. The pulls themselves are in `penalties`, `proximal` and `decay`."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxtl.errors import InputError
from jaxtl.losses import softmax_cross_entropy
from jaxtl.trees import Tree, map_named, named_leaves


def diagonal_fisher(
    logits: Callable[[Tree, jax.Array], jax.Array],
    params: Tree,
    inputs: jax.Array,
    rng: jax.Array | None = None,
    labels: jax.Array | None = None,
    block: int = 32,
) -> Tree:
    """The diagonal of the Fisher information, F = E_x E_y (∂ log p(y|x) / ∂w)², one entry a parameter.

    With labels drawn from the model's own p(y|x), which is what makes it the Fisher information; or with the labels of
    the data (the empirical Fisher), which vanishes where the model is sure and right.

    Args:
        logits: (params, inputs [B, ...]) -> [B, C].
        params: tree of arrays.
        inputs: [N, ...] examples of the source task, as the model sees them.
        rng: key that labels are drawn by.
        labels: [N] integers in the place of drawn ones.
        block: examples whose gradients are held at a time.

    Returns:
        Tree like `params`, ≥ 0: the `importance` of `penalties.fisher`.

    Raises:
        InputError: neither a key nor labels, or both.

    Example:
        >>> x = jnp.ones((4, 1))
        >>> fisher = diagonal_fisher(lambda w, x: x @ w, jnp.zeros((1, 2)), x, jax.random.key(0))
        >>> fisher.tolist()  # (1 − ½)², whichever label is drawn
        [[0.25, 0.25]]

    Source: Kirkpatrick et al., "Overcoming Catastrophic Forgetting in Neural Networks", 2017.
    """
    if (rng is None) == (labels is None):
        what = "labels are drawn by a key, or given"
        raise InputError(what, where="diagonal_fisher", todo="pass rng or labels, one of them")

    def squares(example):
        x, y = example

        def loss(params, label):
            return softmax_cross_entropy(logits(params, x[None]), label[None])[0]

        label = y if rng is None else jax.random.categorical(y, logits(params, x[None])[0])
        return jax.tree.map(jnp.square, jax.grad(loss)(params, label))

    second = labels if rng is None else jax.random.split(rng, len(inputs))
    by_example = jax.lax.map(squares, (inputs, second), batch_size=min(block, len(inputs)))
    return jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), by_example)


def mixout(params: Tree, anchor: Tree, rng: jax.Array, rate: jax.Array | float) -> Tree:
    """((1 − m)⊙w + m⊙a − rate·a) / (1 − rate), m ~ Bernoulli(rate): each entry is the anchor's with that probability.

    Its expectation is w. Towards 0 it is dropout of weights; towards a source model it holds them there about as an
    L2 penalty does that is stronger where the loss is curved.

    Args:
        params: tree of arrays.
        anchor: tree like `params`.
        rng: key.
        rate: in [0, 1), traced or not.

    Returns:
        Tree like `params`; exactly `params` for the rate 0.

    Example:
        >>> w, a = {"w": jnp.array([1.0, 2.0])}, {"w": jnp.array([0.5, 2.0])}
        >>> mixout(w, a, jax.random.key(0), 0.0)["w"].tolist(), float(mixout(w, a, jax.random.key(0), 0.5)["w"][1])
        ([1.0, 2.0], 2.0)

    Source: Lee, Cho and Kang, "Mixout: Effective Regularization to Finetune Large-Scale Pretrained Language Models",
    2020.
    """
    keys = dict(zip(named_leaves(params), jax.random.split(rng, len(jax.tree.leaves(params))), strict=True))

    def one(path, w, a):
        return mixed(w, a, jax.random.bernoulli(keys[path], rate, w.shape), rate)

    return map_named(one, params, anchor)


def mixed(w: jax.Array, anchor: jax.Array, mask: jax.Array, rate: jax.Array | float) -> jax.Array:
    """((1 − m)⊙w + m⊙a − rate·a) / (1 − rate) for one leaf and the mask m, exact where w = a or the rate is 0."""
    return jnp.where(mask, anchor, w + rate / (1 - rate) * (w - anchor))


def annealed(middle: float, slope: float) -> Callable[[jax.Array], jax.Array]:
    """step -> s = 1 / (1 + e^(−slope·(step − middle))): the task's weight, which grows as the pull's 1 − s recedes.

    Both are rates: `Term(annealed(t, k), task)` beside `Term(lambda step: 1 - annealed(t, k)(step), l2, ("anchor",))`.

    Args:
        middle: step at which both weigh a half.
        slope: of the logistic curve, a step.

    Example:
        >>> print(f"{float(annealed(250, 0.1)(100)):.3e}")
        3.059e-07

    Source: Chen et al., "Recall and Learn: Fine-Tuning Deep Pretrained Language Models with Less Forgetting", 2020.
    """
    return lambda step: jax.nn.sigmoid(slope * (jnp.asarray(step, jnp.float32) - middle))
