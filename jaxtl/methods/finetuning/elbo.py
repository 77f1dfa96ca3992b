"""λ of every label, learned in one run without a validation set: the data-emphasised ELBO, towards an anchor.

The weights are told with a noise, q = N(w, σ̄²), and those of label l are expected near their anchor, N(a_l, τ_l). The
loss at noisy weights + Σ_l KL_l / D is minimised over w and σ̄ by gradient, and over each τ_l in closed form. What a
label then pays is L2 towards the anchor, at a rate that follows from the data: λ_l = 1 / (D τ_l).

The plain ELBO of N examples weighs the KL by 1 / N. Where the parameters, D, are many more it underfits; with D / N
times the emphasis on the data the weight is 1 / D, whatever the number of examples.

Source: Harvey, Petrov and Hughes, "Learning Hyperparameters via a Data-Emphasized Variational Objective", 2026.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxtl.errors import InputError
from jaxtl.labels import check_labels, count_by_label, having
from jaxtl.losses import Forward
from jaxtl.penalties import Term
from jaxtl.trees import Tree, keep, map_named, sum_leaves

SIGMA = "sigma"  # the label of what σ̄ is learned through, and its place among the parameters
RAW = "raw"


def with_noise(params: Tree, std: float) -> Tree:
    """Parameters with σ̄ among them, as softplus(raw) = log(1 + e^raw).

    Args:
        params: dict of arrays, of one's model.
        std: σ̄ > 0 to start from.

    Returns:
        The same with {"sigma": {"raw": float32 scalar}}.

    Raises:
        InputError: parameters that are no dict or have such a part, a standard deviation that is not above 0.

    Example:
        >>> round(float(std_of(with_noise({"kernel": jnp.ones(2)}, 0.01))), 6)
        0.01
    """
    if not isinstance(params, Mapping) or SIGMA in params:
        what = "has such a part already" if isinstance(params, Mapping) else "is no dict"
        raise InputError(f"the tree {what}", where="with_noise params", todo=f"give {{name: ...}} without '{SIGMA}'")
    if not 0 < std < float("inf"):
        raise InputError(f"{std} is not above 0", where="with_noise std", todo="begin at 0.03")
    return {**params, SIGMA: {RAW: jnp.log(jnp.expm1(jnp.float32(std)))}}


def with_noise_label(labels: Tree) -> Tree:
    """The labels of what `with_noise` returns.

    Example:
        >>> with_noise_label({"kernel": "new"})
        {'kernel': 'new', 'sigma': {'raw': 'sigma'}}
    """
    return {**labels, SIGMA: {RAW: SIGMA}}


def without_noise(params: Tree) -> Tree:
    """The model's own parameters: w, at which it is used."""
    return {name: part for name, part in params.items() if name != SIGMA}


def std_of(params: Tree) -> jax.Array:
    """σ̄ of parameters with noise, float32 > 0."""
    return jax.nn.softplus(params[SIGMA][RAW])


def noisy(forward: Forward) -> Forward:
    """A forward pass at w + σ̄ ε in training, one ε a step for every parameter that is trained, and at w otherwise.

    Args:
        forward: (params, model_state, batch, ctx) -> (outputs, model_state), of the model's own parameters.

    Returns:
        The same of parameters with noise.

    Example:
        >>> from jaxtl.step import EVALUATE
        >>> def forward(params, model_state, batch, ctx):
        ...     return {"head": params["kernel"]}, model_state
        >>> outputs, _ = noisy(forward)(with_noise({"kernel": jnp.ones(2)}, 0.5), {}, None, EVALUATE)
        >>> outputs["head"].tolist()
        [1.0, 1.0]
    """

    def at_sample(params, model_state, batch, ctx):
        own = without_noise(params)
        if not ctx.train:
            return forward(own, model_state, batch, ctx)
        noise_rng, rng = jax.random.split(ctx.rng)
        sampled = _sample(own, std_of(params), noise_rng, ctx.frozen)
        return forward(sampled, model_state, batch, dataclasses.replace(ctx, rng=rng))

    return at_sample


def _sample(params: Tree, std: jax.Array, rng: jax.Array, held: frozenset[str]) -> Tree:
    leaves, structure = jax.tree.flatten(params)
    keys = jax.tree.unflatten(structure, list(jax.random.split(rng, len(leaves))))

    def moved(path, w, key):
        return w if path in held else w + (std * jax.random.normal(key, w.shape)).astype(w.dtype)

    return map_named(moved, params, keys)


def prior_variance(params: Tree, anchor: Tree, std: Any) -> jax.Array:
    """The τ that makes the KL smallest, τ* = ‖w − a‖² / D + σ̄².

    Args:
        params: tree of D numbers.
        anchor: tree like `params`.
        std: σ̄.

    Returns:
        float32 scalar.

    Example:
        >>> round(float(prior_variance({"w": jnp.array([3.0, 4.0])}, {"w": jnp.zeros(2)}, 0.5)), 6)
        12.75
    """
    return _mean_square(params, anchor) + jnp.square(std)


def divergence(params: Tree, anchor: Tree, std: Any) -> jax.Array:
    """KL(N(w, σ̄²) ‖ N(a, τ*)) = ½ D log(τ* / σ̄²) = ½ D log(1 + ‖w − a‖² / (D σ̄²)); 0 at the anchor.

    With τ* held its slopes are the same, τ* being where the KL is flat: (w − a) / τ* in w, D (σ̄ / τ* − 1 / σ̄) in σ̄.

    Args:
        params, anchor, std: as for `prior_variance`.

    Returns:
        float32 scalar, ≥ 0.

    Example:
        >>> round(float(divergence({"w": jnp.array([3.0, 4.0])}, {"w": jnp.zeros(2)}, 0.5)), 6)
        3.931826
    """
    return 0.5 * _size(params) * jnp.log1p(_mean_square(params, anchor) / jnp.square(std))


def kl_term(weight: float) -> Term:
    """weight · KL of a label, as a penalty that reads given["anchor"] and stands beside σ̄.

    Args:
        weight: of the KL beside the mean loss: 1/D is the data-emphasised ELBO, 1/N the plain one.

    Example:
        >>> from types import SimpleNamespace
        >>> from jaxtl.penalties import labelled
        >>> params = with_noise({"kernel": jnp.array([3.0, 4.0])}, 0.5)
        >>> labels = with_noise_label({"kernel": "new"})
        >>> ctx = SimpleNamespace(step=0, rates={}, given={"anchor": jax.tree.map(jnp.zeros_like, params)})
        >>> penalty = labelled(labels, {"new": kl_term(data_emphasis(params, labels))})
        >>> round(float(penalty(params, ctx)[0]), 6)
        1.965913
    """
    return Term(weight, _of_label, ("anchor",), beside=(SIGMA,))


def _of_label(params: Tree, anchor: Tree, noise: Tree) -> jax.Array:
    return divergence(params, anchor, std_of(noise))


def data_emphasis(params: Tree, labels: Tree, *held: str) -> float:
    """1/D, D being all parameters but σ̄ and those of labels that are held; scales of normalisation are among them.

    Example:
        >>> data_emphasis({"kernel": jnp.ones((2, 3)), "bias": jnp.ones(2)}, {"kernel": "transferred", "bias": "new"})
        0.125
    """
    counts = count_by_label(params, labels)
    return 1.0 / sum(count.parameters for label, count in counts.items() if label not in (SIGMA, *held))


def learned_rates(params: Tree, anchor: Tree, labels: Tree, weight: float) -> dict[str, jax.Array]:
    """λ_l = weight / τ_l*: the rate of ½‖w − a‖² whose slope is that of weight · KL_l.

    Args:
        params: with noise, where a run has ended.
        anchor: tree of the model's own parameters, or of those with noise.
        labels: of the model's own parameters.
        weight: as for `kl_term`.

    Returns:
        {label: float32 scalar}.

    Example:
        >>> params = with_noise({"kernel": jnp.array([3.0, 4.0])}, 0.5)
        >>> rates = learned_rates(params, {"kernel": jnp.zeros(2)}, {"kernel": "new"}, 0.5)
        >>> round(float(rates["new"]), 6)
        0.039216
    """
    own, std = without_noise(params), std_of(params)
    check_labels(own, labels)
    anchor = {name: anchor[name] for name in own}
    masks = {label: having(labels, label) for label in sorted(set(jax.tree.leaves(labels)))}
    return {label: weight / prior_variance(keep(own, mask), keep(anchor, mask), std) for label, mask in masks.items()}


def _size(params: Tree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def _mean_square(params: Tree, anchor: Tree) -> jax.Array:
    return sum_leaves(lambda w, a: (w - a) ** 2, params, anchor) / _size(params)
