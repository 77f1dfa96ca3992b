"""Ways to answer by several modalities; rows of a table on `problems.Pairs`.

The networks of the modalities are trained apart once, and all rules on what they say share them: a rule costs nothing
more. Rows that train something jointly train networks of their own, with the same steps.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.labels import SHARED, label_params, label_set
from jaxtl.losses import softmax_cross_entropy
from jaxtl.methods.multimodal.alignment import (
    SIGLIP_START,
    START,
    cca_loss,
    clip_loss,
    clip_scale,
    cosine_loss,
    mse_loss,
    siglip_loss,
)
from jaxtl.methods.multimodal.features import init_concatenated, init_gated, init_low_rank
from jaxtl.methods.multimodal.fusion import LEAST, drop_modalities
from jaxtl.methods.multimodal.rules import fuse
from jaxtl.methods.multimodal.worth import fit_weights, precision_weights
from jaxtl.optimizers import Group
from jaxtl.penalties import Term, l1, l2
from jaxtl.problems.pairs import EACH, PAIRS, Pairs
from jaxtl.program import Program, Weights, make_program
from jaxtl.protocol import Draw, Range, Recipe, Setting
from jaxtl.selection import temperature
from jaxtl.selection.heads import logistic
from jaxtl.trees import Tree

SPACE = "space"  # top-level name of what an alignment learns, a number or two
RANK, GATED_WIDTH, CORRELATED = 4, 32, 8  # products; dimensions of a gated sum, and of what is to be correlated
DROPPED = 0.3  # how likely a modality is left out
PULLED = ("learning_rate", "pull")


# ---------------------------------------------------------------- networks apart, and rules on what they say


def _own_losses(outputs: Mapping[str, Any], batch: Any, ctx: Any) -> jax.Array:
    """Σ_m mean cross-entropy of modality m by its own head, on pairs and on what is alone."""
    losses = []
    for name, logits in outputs["heads"].items():
        labels = [batch[part]["label"] for part in (PAIRS, name) if part in batch]
        losses.append(jnp.mean(softmax_cross_entropy(logits, jnp.concatenate(labels))))
    return sum(losses[1:], losses[0])


def _fused_loss(outputs: Mapping[str, Any], batch: Any, ctx: Any) -> jax.Array:
    """−mean log p(y) of what is said of pairs by the rule."""
    return -jnp.mean(jnp.take_along_axis(outputs["fused"], batch[PAIRS]["label"][:, None], axis=1))


def program(problem: Pairs, start: Weights, terms: Mapping[str, Term], dropped: float = 0.0) -> Program:
    """Networks of all modalities, and what is shared, on terms of pairs and of what is alone.

    Labels are the names of the modalities, `SHARED` and `SPACE`; kernels of all but the last are pulled towards 0 by
    ½w² ("pull", or "pull/LABEL") or by |w| ("pull/lasso").

    Args:
        problem: the question.
        start: whose parameters are trained; shared ones with a rule and without numbers are left out.
        terms: as for `make_program`; outputs are those of `Pairs.seen`, of pairs first, and "fused" of pairs.
        dropped: how likely each modality of a pair is left out of "fused", in training.
    """
    own = {name: tree for name, tree in start.params.items() if jax.tree.leaves(tree)}
    labels, size = label_params(own, [(f"{name}/.*", name) for name in own]), len(problem.names)

    def forward(params, model_state, batch, ctx):
        parts = {name: [batch[part][name] for part in (PAIRS, name) if part in batch] for name in problem.names}
        outputs = problem.seen(params, {name: jnp.concatenate(inputs) for name, inputs in parts.items()}, ctx)
        count = len(batch[PAIRS]["label"])
        pairs = jax.tree.map(lambda a: a[:count], outputs)
        there = jnp.ones((size, count))
        if dropped:
            there = drop_modalities(ctx.rng, there, dropped).astype(jnp.float32)
        present = dict(zip(problem.names, there, strict=True))
        shared = params.get(SHARED, start.params[SHARED])
        return {
            **outputs,
            "pairs": pairs,
            "space": params.get(SPACE),
            "fused": fuse(shared, pairs, present),
        }, model_state

    return make_program(
        forward,
        labels,
        terms,
        {label: Group() for label in label_set(labels)},
        {label: {"zero": Term(0.0, l2), "lasso": Term(0.0, l1)} for label in sorted(label_set(labels) - {SPACE})},
        optimizer="nesterov",
        momentum=problem.config.momentum,
        schedule=problem.schedule,
        prepare=problem.batches(),
        dense=problem.config.model == "mlp",
    )


Init = Callable[[Pairs, jax.Array], Tree]


def starting(init: Init, space: Init | None = None) -> Callable[[Pairs, Draw], Weights]:
    """Fresh networks with a rule, and what an alignment learns."""

    def start(problem: Pairs, draw: Draw) -> Weights:
        weights, key = problem.start(draw), jax.random.fold_in(problem.key(draw, "start"), 1)
        params = {**weights.params, SHARED: init(problem, key)}
        return weights._replace(params={**params, SPACE: space(problem, key)} if space else params)

    return start


def _product(problem: Pairs, key: jax.Array) -> Tree:
    return {"product": {}}


def _sizes(problem: Pairs) -> dict[str, int]:
    return dict.fromkeys(problem.names, problem.config.widths[-1])


def _concat(problem: Pairs, key: jax.Array) -> Tree:
    return {"concat": init_concatenated(key, _sizes(problem), len(problem.truth.names))}


def _gated(problem: Pairs, key: jax.Array) -> Tree:
    return {"gated": init_gated(key, _sizes(problem), GATED_WIDTH, len(problem.truth.names))}


def _low_rank(problem: Pairs, key: jax.Array) -> Tree:
    return {"low_rank": init_low_rank(key, _sizes(problem), RANK, len(problem.truth.names))}


def towers(problem: Pairs) -> Program:
    """Σ_m L_m: as many networks as modalities, which nothing connects."""
    return program(problem, APART_START(problem, Draw(0)), {"task": Term(1.0, _own_losses)})


APART_START = starting(_product)
APART = Recipe(towers, PULLED, "a network for each modality, trained apart", start=APART_START, transfers=False)


def _by_likelihood(logits: np.ndarray, labels: np.ndarray) -> Tree:
    return {"weighted": {"weight": np.asarray(_fitted(jax.nn.softmax(logits, axis=-1), labels))}}


def _by_precision(logits: np.ndarray, labels: np.ndarray) -> Tree:
    return {"weighted": {"weight": np.asarray(precision_weights(jax.nn.softmax(logits, axis=-1), jnp.asarray(labels)))}}


def by_temperature(logits: np.ndarray, labels: np.ndarray) -> Tree:
    found = [temperature(own, labels) for own in logits.astype(np.float64)]
    return {"tempered": {"temperature": np.array(found, np.float32)}}


def _by_regression(logits: np.ndarray, labels: np.ndarray) -> Tree:
    """Logistic regression on log p of all modalities, its λ chosen by folds; 0 where they say one thing of all."""
    modalities, _, classes = logits.shape
    logs = np.concatenate([jax.nn.log_softmax(own, axis=-1) for own in logits], axis=1)
    head = {"kernel": np.zeros((logs.shape[1], classes), np.float32), "bias": np.zeros(classes, np.float32)}
    if np.ptp(logs, axis=0).any():
        head, _ = logistic(np.maximum(logs, np.log(LEAST)), labels, classes, None, 0)
    return {"trained": {"kernel": head["kernel"].reshape(modalities, classes, classes), "bias": head["bias"]}}


_fitted = jax.jit(fit_weights)


def ruled(rule: Tree) -> Callable[[Pairs, Weights, Setting, Draw], Weights]:
    """A rule without numbers."""

    def finish(problem: Pairs, weights: Weights, setting: Setting, draw: Draw) -> Weights:
        return weights._replace(params={**weights.params, SHARED: rule})

    return finish


def fitted(fit: Callable[[np.ndarray, np.ndarray], Tree]) -> Callable[[Pairs, Weights, Setting, Draw], Weights]:
    """A rule whose numbers are fitted, by (logits [M, N, C] in the order of names, labels [N]), to pairs held out."""

    def finish(problem: Pairs, weights: Weights, setting: Setting, draw: Draw) -> Weights:
        outputs, labels = problem.said_of(weights, draw, problem.parts(draw.replicate).fits)
        rule = fit(np.stack([outputs["heads"][name] for name in problem.names]), labels)
        return weights._replace(params={**weights.params, SHARED: rule})

    return finish


def on_towers(finish: Callable, means: str) -> Recipe:
    """A row on networks that were trained apart, once for all such rows."""
    same = {name: name for name in PULLED}
    return Recipe(None, PULLED, means, transfers=False, before=(APART, same), finish=finish)


# ---------------------------------------------------------------- trained jointly


def joint(start: Callable, terms: Mapping[str, Term], means: str, *, dropped: float = 0.0, **ranges: Range) -> Recipe:
    """A row that trains all networks and what they share, and searches the rates of its terms."""

    def make(problem: Pairs) -> Program:
        return program(problem, start(problem, Draw(0)), terms, dropped)

    weights = {f"{name}_weight": of for name, of in ranges.items()}
    return Recipe(make, (*PULLED, *weights), means, weights, start=start, transfers=False)


def _between(fn: Callable[..., jax.Array]) -> Callable:
    """Mean over all two modalities of what the features of pairs pay; `fn` may read what the alignment learns."""

    def term(outputs: Mapping[str, Any], batch: Any, ctx: Any) -> jax.Array:
        features: list[jax.Array] = list(outputs["pairs"]["features"].values())
        found = [fn(a, b, outputs["space"]) for k, a in enumerate(features) for b in features[k + 1 :]]
        return sum(found[1:], found[0]) / len(found)

    return term


def _of_class(outputs: Mapping[str, Any], batch: Any, ctx: Any) -> jax.Array:
    labels = batch[PAIRS]["label"]
    positives = labels[:, None] == labels[None]
    return _between(lambda a, b, own: clip_loss(a, b, clip_scale(own["log_scale"]), positives))(outputs, batch, ctx)


def _clip_space(problem: Pairs, key: jax.Array) -> Tree:
    return {"log_scale": jnp.float32(START)}


def _siglip_space(problem: Pairs, key: jax.Array) -> Tree:
    return {"log_scale": jnp.float32(SIGLIP_START[0]), "bias": jnp.float32(SIGLIP_START[1])}


def _cca_space(problem: Pairs, key: jax.Array) -> Tree:
    """A projection of each modality's features to a few dimensions."""
    return init_concatenated(key, _sizes(problem), CORRELATED)["kernel"]


def _correlated(outputs: Mapping[str, Any], batch: Any, ctx: Any) -> jax.Array:
    features, own = outputs["pairs"]["features"], outputs["space"]
    projected = {name: of @ own[name] for name, of in features.items()}
    return _between(lambda a, b, own: cca_loss(a, b))({**outputs, "pairs": {"features": projected}}, batch, ctx)


ALIGNED: dict[str, tuple[Callable, Init | None, Range, str]] = {
    "clip": (
        _between(lambda a, b, own: clip_loss(a, b, clip_scale(own["log_scale"]))),
        _clip_space,
        Range(0.03, 3.0),
        "each finds the other of its pair in the batch",
    ),
    "clip_classes": (_of_class, _clip_space, Range(0.03, 3.0), "clip, any other of its class being as right"),
    "siglip": (
        _between(lambda a, b, own: siglip_loss(a, b, jnp.exp(own["log_scale"]), own["bias"])),
        _siglip_space,
        Range(0.03, 3.0),
        "of any two it is told whether they are a pair",
    ),
    "cosine": (_between(lambda a, b, own: cosine_loss(a, b)), None, Range(0.03, 3.0), "both point the same way"),
    "cca": (_correlated, _cca_space, Range(0.03, 3.0), "canonical correlations of projections are high"),
    "mse": (_between(lambda a, b, own: mse_loss(a, b)), None, Range(0.001, 0.1), "both are at the same place"),
}


def _aligned(name: str) -> Recipe:
    fn, space, of, means = ALIGNED[name]
    terms = {"task": Term(1.0, _own_losses), "align": Term(0.0, fn)}
    return joint(starting(_product, space), terms, f"own losses and alignment: {means}; then the product", align=of)


FUSED, WITH_OWN = {"task": Term(1.0, _fused_loss)}, Range(0.1, 3.0)
OWN_AND_FUSED = {"task": Term(1.0, _own_losses), "fused": Term(0.0, _fused_loss)}
JOINT = {
    "end_to_end": joint(APART_START, OWN_AND_FUSED, "own losses, and that of the product on pairs", fused=WITH_OWN),
    "concat": joint(starting(_concat), FUSED, "a head on all features side by side, on pairs alone"),
    "concat_own": joint(
        starting(_concat),
        {**FUSED, "own": Term(0.0, _own_losses)},
        "concat, and each modality's own loss beside it",
        own=WITH_OWN,
    ),
    "concat_dropout": joint(
        starting(_concat), FUSED, "concat, modalities left out by chance in training", dropped=DROPPED
    ),
    "gated": joint(starting(_gated), FUSED, "a head on a sum of features with gates that all of them decide"),
    "low_rank": joint(starting(_low_rank), FUSED, "a head on the product of all features and 1, of low rank"),
    **{name: _aligned(name) for name in ALIGNED},
}
JOINT["concat_differential"] = Recipe(
    JOINT["concat"].program,
    ("learning_rate", EACH, f"pull/{SHARED}"),
    "concat, the networks and the head on both pulled by two rates",
    start=JOINT["concat"].start,
    transfers=False,
)
JOINT["concat_l1"] = Recipe(
    JOINT["concat"].program,
    ("learning_rate", "pull/lasso"),
    "concat, pulled by |w| in place of ½w²",
    {"pull/lasso": Range(0.003, 0.3)},
    start=JOINT["concat"].start,
    transfers=False,
)
RULES = {
    "average": on_towers(ruled({"average": {}}), "the mean of probabilities"),
    "weighted": on_towers(fitted(_by_likelihood), "their mean with weights that fit pairs held out best"),
    "precision": on_towers(
        fitted(_by_precision), "their mean with weights by the inverse of their squared error on pairs held out"
    ),
    "vote": on_towers(ruled({"vote": {}}), "a vote each; of two that disagree the mean decides"),
    "product": on_towers(ruled({"product": {}}), "the geometric mean of probabilities"),
    "tempered": on_towers(fitted(by_temperature), "product, each modality at the temperature of pairs held out"),
    "trained": on_towers(fitted(_by_regression), "logistic regression on log probabilities, on pairs held out"),
}
FUSIONS = {**RULES, **JOINT}


@functools.cache
def alone(modality: str) -> Recipe:
    """One modality by itself, its network that of all rules."""
    return on_towers(ruled({"only": {modality: {}}}), f"{modality} alone")


def recipes(names: Sequence[str]) -> dict[str, Recipe]:
    """Every row: each modality by itself, rules on what they say, and what is trained jointly.

    Args:
        names: of the modalities.
    """
    return {**{name: alone(name) for name in names}, **FUSIONS}
