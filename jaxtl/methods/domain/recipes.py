"""Ways to learn from labelled source and unlabelled target examples; rows of a table on `problems.Adaptation`.

All see a batch of each domain in one forward pass, take the same number of steps, and choose their settings without
target labels. `target_only` is told the target's labels, and is a bound.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxtl.data import paired
from jaxtl.labels import NEW, SHARED, label_params
from jaxtl.losses import softmax_cross_entropy
from jaxtl.methods.domain.adversary import both_players, conditioned, domain_loss, mdd, ramp
from jaxtl.methods.domain.confidence import certainty, entropy, mcc
from jaxtl.methods.domain.discrepancy import coral, jmmd, mmd, mmd_linear
from jaxtl.methods.domain.norms import afn, bsp
from jaxtl.models import Classifier, Mlp, as_forward, initialise
from jaxtl.optimizers import Group
from jaxtl.penalties import Term, l2
from jaxtl.problems.adaptation import ORACLE, TOLD, Adaptation
from jaxtl.problems.few_shot import falling
from jaxtl.program import Program, Weights, make_program
from jaxtl.protocol import Draw, Range, Recipe
from jaxtl.trees import Tree

ADVERSARY = "adversary"  # label, top-level name of its parameters, and the term that it learns from
SAYS = "says"  # the output of an adversary

Sides = Mapping[str, Any]  # outputs of both domains: {"source": {"features", "head", ...}, "target": ...}
Play = Callable[[jax.Array], tuple[jax.Array, jax.Array]]  # inputs -> logits for the adversary, and for who fools it


def beside(problem: Adaptation) -> Callable:
    """A forward pass of both batches at once: outputs {"source": …, "target": …}; of the source alone without one."""
    forward = as_forward(problem.model)

    def both(params, model_state, batch, ctx):
        names = [side for side in ("source", "target") if side in batch]
        images = jnp.concatenate([batch[side]["image"] for side in names])
        outputs, model_state = forward(params, model_state, {"image": images}, ctx)
        first = len(batch["source"]["image"])
        sides = {"source": jax.tree.map(lambda a: a[:first], outputs)}
        if "target" in batch:
            sides["target"] = jax.tree.map(lambda a: a[first:], outputs)
        return sides, model_state

    return both


def classify(outputs: Sides, batch: Any, ctx: Any) -> jax.Array:
    """The mean cross-entropy of the labelled batch."""
    return jnp.mean(softmax_cross_entropy(outputs["source"]["head"], batch["source"]["label"]))


def adapted(
    problem: Adaptation,
    terms: Mapping[str, Term],
    *,
    forward: Callable | None = None,
    own: Mapping[str, Tree] | None = None,
    domains: tuple[str, ...] = ("source", "target"),
    label: str | None = None,
) -> Program:
    """The source's cross-entropy and further terms; trunk and head are pulled towards 0 as far as a row asks.

    Args:
        problem: the question.
        terms: beside the cross-entropy.
        forward: of both domains; the model's when left out.
        own: further parameters, which have the label of an adversary and are pulled nowhere.
        domains: whose batches are seen.
        label: of all parameters of the model, in place of shared trunk and new head.
    """
    start = problem.start(Draw(0)).params
    rules = [(".*", label)] if label else [("trunk/.*", SHARED), (".*", NEW)]
    labels = {**label_params(start, rules), **(label_params(own, [(".*", ADVERSARY)]) if own else {})}
    names = [label] if label else [SHARED, NEW]
    prepare = problem.images.batches(problem.config.batch_size)
    return make_program(
        forward or beside(problem),
        labels,
        {"task": Term(1.0, classify), **terms},
        {name: Group() for name in (*names, *([ADVERSARY] if own else []))},
        {name: Term(0.0, l2) for name in names},
        optimizer="nesterov",
        momentum=problem.config.momentum,
        schedule=falling(problem.config.steps),
        prepare=paired(**dict.fromkeys(domains, prepare)),
        dense=problem.config.model == "mlp",
    )


def source_only(problem: Adaptation) -> Program:
    """No target example is seen."""
    return adapted(problem, {}, domains=("source",))


def target_only(problem: Adaptation) -> Program:
    """Target examples with their labels: see `Adaptation.data`."""
    return adapted(problem, {}, domains=("source",), label=TOLD)


# ---------------------------------------------------------------- terms on features and answers


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


TERMS: dict[str, Callable] = {
    "dan": of_features(mmd),
    "dan_linear": of_features(mmd_linear),
    "jan": _joint,
    "coral": of_features(coral),
    "afn": of_features(_norms),
    "entropy": of_answers(_mean_entropy),
    "mcc": of_answers(mcc),
}


def aligned(name: str) -> Callable[[Adaptation], Program]:
    """The program of one of `TERMS`."""

    def make(problem: Adaptation) -> Program:
        return adapted(problem, {name: Term(0.0, TERMS[name])})

    return make


# ---------------------------------------------------------------- games


def _features(play: Play, sides: Sides) -> list[jax.Array]:
    source, target = (play(sides[side]["features"]) for side in ("source", "target"))
    return [domain_loss(*logits) for logits in zip(source, target, strict=True)]


def _conditioned(play: Play, sides: Sides, weighted: bool = False) -> list[jax.Array]:
    both = [sides[side] for side in ("source", "target")]
    source, target = (play(conditioned(outputs["features"], outputs["head"])) for outputs in both)
    weights = (certainty(both[0]["head"]), certainty(both[1]["head"])) if weighted else None
    return [domain_loss(*logits, weights) for logits in zip(source, target, strict=True)]


def _disparity(play: Play, sides: Sides) -> list[jax.Array]:
    source, target = (play(sides[side]["features"]) for side in ("source", "target"))
    said = [sides[side]["head"] for side in ("source", "target")]
    return [mdd((said[0], s), (said[1], t)) for s, t in zip(source, target, strict=True)]


class Game(NamedTuple):
    """What an adversary is given of D features and C classes, what it answers, and what both players are paid by."""

    inputs: Callable[[int, int], int]
    outputs: Callable[[int, int], int]
    objective: Callable[[Play, Sides], list[jax.Array]]


GAMES = {
    "dann": Game(lambda d, c: d, lambda d, c: 1, _features),
    "cdan": Game(lambda d, c: c * d, lambda d, c: 1, _conditioned),
    "cdan_e": Game(lambda d, c: c * d, lambda d, c: 1, functools.partial(_conditioned, weighted=True)),
    "mdd": Game(lambda d, c: d, lambda d, c: c, _disparity),
}


def adversary_of(problem: Adaptation, name: str) -> tuple[Classifier, int]:
    """The net that plays one of `GAMES`, and how many numbers it is given."""
    sizes = problem.start(Draw(0)).params["head"]["kernel"].shape
    net = Classifier(Mlp((problem.config.adversary,)), ((SAYS, GAMES[name].outputs(*sizes)),))
    return net, GAMES[name].inputs(*sizes)


def with_adversary(name: str) -> Callable[[Adaptation, Draw], Weights]:
    """A fresh network, and a fresh adversary beside it."""

    def start(problem: Adaptation, draw: Draw) -> Weights:
        weights, (net, inputs) = problem.start(draw), adversary_of(problem, name)
        own = initialise(net, jax.random.fold_in(problem.key(draw, "start"), 1), (inputs,))
        return weights._replace(params={**weights.params, ADVERSARY: own})

    return start


def played(name: str, further: Mapping[str, Term] | None = None) -> Callable[[Adaptation], Program]:
    """The program of one of `GAMES`: the adversary learns at its own rate, the trunk is given λ(progress) times minus.

    Args:
        name: of the game, and of the term that moves the trunk.
        further: terms beside it.
    """

    def make(problem: Adaptation) -> Program:
        start, (net, _) = with_adversary(name)(problem, Draw(0)), adversary_of(problem, name)
        forward, steps = beside(problem), problem.config.steps

        def say(params: Tree, x: jax.Array) -> jax.Array:
            said: Any = net.apply({"params": params}, x, True)
            return said[SAYS]

        def game(params, model_state, batch, ctx):
            own = {part: tree for part, tree in params.items() if part != ADVERSARY}
            sides, model_state = forward(own, model_state, batch, ctx)
            learns, fooled = GAMES[name].objective(functools.partial(both_players, say, params[ADVERSARY]), sides)
            return {**sides, "learns": learns, "fooled": fooled}, model_state

        terms = {
            ADVERSARY: Term(1.0, lambda outputs, batch, ctx: outputs["learns"]),
            name: Term(lambda step: ramp(step / steps), lambda outputs, batch, ctx: -outputs["fooled"]),
        }
        return adapted(problem, {**terms, **(further or {})}, forward=game, own={ADVERSARY: start.params[ADVERSARY]})

    return make


# ---------------------------------------------------------------- rows


def _row(make: Callable[[Adaptation], Program], means: str, *, start: Any = None, **weights: Range) -> Recipe:
    """A row that searches the learning rate and the rates of its terms."""
    ranges = {f"{name}_weight": of for name, of in weights.items()}
    return Recipe(make, ("learning_rate", *ranges), means, ranges, start=start, transfers=False)


USUAL, PULL = Range(0.1, 3.0), ("learning_rate", "pull")
SPECTRAL = {"bsp": Term(0.0, of_features(bsp))}
BOUND = "target_only"  # the row that is told target labels
RECIPES = {
    "source_only": _row(source_only, "source examples alone, nothing pulled: what all are to be better than"),
    "source_l2": Recipe(source_only, PULL, "source examples alone, all kernels pulled towards 0", transfers=False),
    BOUND: Recipe(
        target_only,
        means="target examples with their labels, chosen by target labels: a bound",
        transfers=False,
        chosen=ORACLE,
    ),
    "dan": _row(aligned("dan"), "features of both domains have one mean in the space of five kernels", dan=USUAL),
    "dan_linear": _row(aligned("dan_linear"), "dan by pairs, in linear time", dan_linear=USUAL),
    "jan": _row(aligned("jan"), "dan of features and answers together", jan=USUAL),
    "coral": _row(aligned("coral"), "features of both domains have one covariance", coral=Range(1.0, 100.0)),
    "dann": _row(
        played("dann"),
        "features that an adversary cannot tell domains apart by",
        start=with_adversary("dann"),
        dann=USUAL,
    ),
    "cdan": _row(
        played("cdan"), "dann, the adversary seeing answers ⊗ features", start=with_adversary("cdan"), cdan=USUAL
    ),
    "cdan_e": _row(
        played("cdan_e"), "cdan in which sure examples count more", start=with_adversary("cdan_e"), cdan_e=USUAL
    ),
    "bsp": _row(
        played("dann", SPECTRAL),
        "dann with the strongest direction of each domain held down",
        start=with_adversary("dann"),
        dann=USUAL,
        bsp=Range(1e-5, 1e-2),
    ),
    "mdd": _row(
        played("mdd"),
        "a second head that agrees on the source and disagrees on the target finds no room to",
        start=with_adversary("mdd"),
        mdd=Range(0.03, 1.0),
    ),
    "mcc": _row(aligned("mcc"), "no class of target examples is taken for another", mcc=USUAL),
    "afn": _row(aligned("afn"), "features of both domains grow", afn=Range(0.005, 0.5)),
    "entropy": _row(aligned("entropy"), "answers to target examples are made sure", entropy=Range(0.01, 1.0)),
}
