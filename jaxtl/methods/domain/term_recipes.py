"""What all rows of domain adaptation train: one network, a batch of each domain, one forward pass over both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxtl.data import paired
from jaxtl.data.augment import distorted
from jaxtl.data.mixing import then
from jaxtl.labels import NEW, SHARED, label_params
from jaxtl.losses import softmax_cross_entropy
from jaxtl.methods.domain.confidence import class_weights, entropy, mcc, pseudo_label
from jaxtl.methods.domain.discrepancy import coral, jmmd, mmd, mmd_linear
from jaxtl.methods.domain.norms import afn
from jaxtl.models import as_forward
from jaxtl.optimizers import Group
from jaxtl.penalties import Term, l2
from jaxtl.problems.adaptation import TOLD, Adaptation
from jaxtl.problems.few_shot import falling
from jaxtl.program import Program, make_program
from jaxtl.protocol import Draw
from jaxtl.trees import Tree

ADVERSARY = "adversary"  # label, top-level name of its parameters, and the term that it learns from
ANCHOR = "anchor"  # the source model, where a row is given it
STRONG = "strong"  # target examples once more, distorted

Sides = Mapping[str, Any]  # outputs of both domains: {"source": {"features", "head", ...}, "target": ...}


def beside(problem: Adaptation) -> Callable:
    """A forward pass of all batches at once: outputs {"source": …, "target": …}, and "strong" where there is such."""
    forward, field = as_forward(problem.model), problem.field

    def both(params, model_state, batch, ctx):
        parts = {side: batch[side][field] for side in ("source", "target") if side in batch}
        if STRONG in batch.get("target", {}):
            parts[STRONG] = batch["target"][STRONG]
        outputs, model_state = forward(params, model_state, {field: jnp.concatenate([*parts.values()])}, ctx)
        sides, first = {}, 0
        for side, examples in parts.items():
            here = slice(first, first + len(examples))
            sides[side] = jax.tree.map(lambda a, here=here: a[here], outputs)
            first += len(examples)
        return sides, model_state

    return both


def classify(outputs: Sides, batch: Any, ctx: Any) -> jax.Array:
    """The mean cross-entropy of the labelled batch."""
    return jnp.mean(softmax_cross_entropy(outputs["source"]["head"], batch["source"]["label"]))


def classify_shared(outputs: Sides, batch: Any, ctx: Any) -> jax.Array:
    """The mean cross-entropy of the labelled batch, examples weighted by how much the target has their class."""
    losses = softmax_cross_entropy(outputs["source"]["head"], batch["source"]["label"])
    return jnp.mean(class_weights(outputs["target"]["head"])[batch["source"]["label"]] * losses)


def adapted(
    problem: Adaptation,
    terms: Mapping[str, Term],
    *,
    forward: Callable | None = None,
    own: Mapping[str, Tree] | None = None,
    domains: tuple[str, ...] = ("source", "target"),
    strong: bool = False,
    task: Callable | None = classify,
    frozen: tuple[str, ...] = (),
    rules: tuple[tuple[str, str], ...] = (("trunk/.*", SHARED), (".*", NEW)),
    anchored: bool = False,
    steps: int | None = None,
) -> Program:
    """The source's cross-entropy and further terms; trunk and head are pulled towards 0 as far as a row asks.

    Args:
        problem: the question.
        terms: beside the cross-entropy.
        forward: of both domains; the model's when left out.
        own: further parameters, which have the label of an adversary and are pulled nowhere.
        domains: whose batches are seen.
        strong: target images are seen once more, distorted.
        task: in place of the cross-entropy; None for none.
        frozen: labels that are held.
        rules: labels of the model's parameters.
        anchored: the trunk is also pulled towards the source model, as far as a row asks.
        steps: of a run, where it is shorter than others.
    """
    labels = label_params(problem.start(Draw(0)).params, rules)
    names = sorted({*jax.tree.leaves(labels)})
    if own:
        labels = {**labels, **label_params(own, [(".*", ADVERSARY)])}
    pulls: dict[str, Any] = {
        name: Term(0.0, l2) for name in names if name in (SHARED, NEW, TOLD) and name not in frozen
    }
    if anchored:
        pulls[SHARED] = {"zero": pulls[SHARED], "source": Term(0.0, l2, (ANCHOR,))}
    prepare = problem.images.batches(problem.config.batch_size)
    looks = dict.fromkeys(domains, prepare)
    if strong:
        looks["target"] = then(prepare, lambda batch, rng: {**batch, STRONG: distorted(batch["image"], rng)})
    return make_program(
        forward or beside(problem),
        labels,
        {**({"task": Term(1.0, task)} if task else {}), **terms},
        {name: Group(frozen=name in frozen) for name in (*names, *([ADVERSARY] if own else []))},
        pulls,
        optimizer="nesterov",
        momentum=problem.config.momentum,
        schedule=falling(steps or problem.config.steps),
        prepare=paired(**looks),
        dense=problem.config.model == "mlp",
        steps=steps,
    )


def source_only(problem: Adaptation, steps: int | None = None) -> Program:
    """No target example is seen."""
    return adapted(problem, {}, domains=("source",), steps=steps)


def target_only(problem: Adaptation) -> Program:
    """Target examples with their labels: see `Adaptation.data`."""
    return adapted(problem, {}, domains=("source",), rules=((".*", TOLD),))


# ---------------------------------------------------------------- terms


def of_features(fn: Callable[[jax.Array, jax.Array], jax.Array]) -> Callable:
    """A term on the features of both domains."""
    return lambda outputs, batch, ctx: fn(outputs["source"]["features"], outputs["target"]["features"])


def of_answers(fn: Callable[[jax.Array], jax.Array]) -> Callable:
    """A term on the answers to target examples."""
    return lambda outputs, batch, ctx: fn(outputs["target"]["head"])


def _joint(outputs: Sides, batch: Any, ctx: Any) -> jax.Array:
    source, target = ((outputs[side]["features"], outputs[side]["head"]) for side in ("source", "target"))
    return jmmd(source, target)


def _norms(source: jax.Array, target: jax.Array) -> jax.Array:
    return jnp.mean(afn(source)) + jnp.mean(afn(target))


def _mean_entropy(logits: jax.Array) -> jax.Array:
    return jnp.mean(entropy(logits))


def _sure(outputs: Sides, batch: Any, ctx: Any) -> jax.Array:
    return pseudo_label(outputs["target"]["head"], outputs[STRONG]["head"])


TERMS: dict[str, Callable] = {
    "dan": of_features(mmd),
    "dan_linear": of_features(mmd_linear),
    "jan": _joint,
    "coral": of_features(coral),
    "afn": of_features(_norms),
    "entropy": of_answers(_mean_entropy),
    "mcc": of_answers(mcc),
    "fixmatch": _sure,
}


def aligned(name: str) -> Callable[[Adaptation], Program]:
    """The program of one of `TERMS`."""

    def make(problem: Adaptation) -> Program:
        return adapted(problem, {name: Term(0.0, TERMS[name])}, strong=TERMS[name] is _sure)

    return make
