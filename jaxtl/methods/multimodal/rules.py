"""What is said of examples by the outputs of all networks: one function, for whatever rule a model carries along.

A model's shared parameters are {name of the rule: its numbers}: {"product": {}}, {"weighted": {"weight": [M]}},
{"concat": parameters}. Outputs are {"features": by modality [B, D], "heads": by modality logits [B, C]}.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxtl.methods.multimodal.features import concatenated, gated, low_rank
from jaxtl.methods.multimodal.fusion import (
    LEAST,
    fuse_average,
    fuse_product,
    fuse_trained,
    fuse_vote,
    fuse_weighted,
    tempered,
)
from jaxtl.trees import Tree

Outputs = Mapping[str, Any]
Present = Mapping[str, jax.Array]  # by modality [B], 1 where it is there


def _said(outputs: Outputs, present: Present) -> tuple[jax.Array, jax.Array]:
    """(probabilities [M, B, C], present [M, B]), modalities in the order of their names."""
    names = sorted(outputs["heads"])
    logits = jnp.stack([outputs["heads"][name] for name in names])
    return jax.nn.softmax(logits, axis=-1), jnp.stack([present[name] for name in names])


def _only(own: Tree, outputs: Outputs, present: Present) -> jax.Array:
    """One modality, the only entry of `own`."""
    return fuse_average(*_said(outputs, {name: there * (name in own) for name, there in present.items()}))


def _tempered(own: Tree, outputs: Outputs, present: Present) -> jax.Array:
    names = sorted(outputs["heads"])
    logits = jnp.stack([outputs["heads"][name] for name in names])
    return fuse_product(tempered(logits, own["temperature"]), _said(outputs, present)[1])


def _independent(own: Tree, outputs: Outputs, present: Present) -> jax.Array:
    """Bayes' rule for modalities that are independent given the class."""
    names = sorted(outputs["heads"])
    logits = jnp.stack([outputs["heads"][name] for name in names])
    probs, there = tempered(logits, own["temperature"]), _said(outputs, present)[1]
    return fuse_product(probs, there, power=1.0, prior=own["prior"])


def _weighted(own: Tree, outputs: Outputs, present: Present) -> jax.Array:
    probs, there = _said(outputs, present)
    return fuse_weighted(probs, own["weight"], there)


def _trained(own: Tree, outputs: Outputs, present: Present) -> jax.Array:
    probs, there = _said(outputs, present)
    return fuse_trained(probs, own["kernel"], own["bias"], there)


ON_ANSWERS: dict[str, Callable[[Tree, Outputs, Present], jax.Array]] = {  # probabilities
    "only": _only,
    "average": lambda own, outputs, present: fuse_average(*_said(outputs, present)),
    "vote": lambda own, outputs, present: fuse_vote(*_said(outputs, present)),
    "product": lambda own, outputs, present: fuse_product(*_said(outputs, present)),
    "weighted": _weighted,
    "tempered": _tempered,
    "independent": _independent,
    "trained": _trained,
}
ON_FEATURES: dict[str, Callable[..., jax.Array]] = {"concat": concatenated, "gated": gated, "low_rank": low_rank}


def fuse(shared: Tree, outputs: Outputs, present: Present) -> jax.Array:
    """log p by a rule.

    Args:
        shared: {name of the rule: its numbers}.
        outputs: of the networks.
        present: who is there.

    Returns:
        [B, C].

    Example:
        >>> outputs = {"heads": {"image": jnp.array([[0.0, 0.0]]), "audio": jnp.array([[0.0, 5.0]])}}
        >>> present = {"image": jnp.ones(1), "audio": jnp.zeros(1)}
        >>> jnp.exp(fuse({"product": {}}, outputs, present)).tolist()
        [[0.5, 0.5]]
    """
    ((rule, own),) = shared.items()
    if rule in ON_FEATURES:
        return jax.nn.log_softmax(ON_FEATURES[rule](own, outputs["features"], present), axis=-1)
    return jnp.log(jnp.maximum(ON_ANSWERS[rule](own, outputs, present), LEAST))
