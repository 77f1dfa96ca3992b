"""Rows of methods that act on parameters: other prices for leaving the source, decays beside the step, bounds."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from jaxtl.decay import When
from jaxtl.labels import NEW, TRANSFERRED, having, kernels
from jaxtl.methods.finetuning.parameter_space import annealed, diagonal_fisher, mixout
from jaxtl.methods.finetuning.recipes import TOWARDS, pulls
from jaxtl.methods.finetuning.source_recipes import OLD_HEAD, fine_tuned, source_model, source_weights, with_group
from jaxtl.models import as_forward
from jaxtl.optimizers import Group
from jaxtl.penalties import Term, fisher, group_lasso, l1, l2
from jaxtl.problems import CLASSIFY, FewShot
from jaxtl.program import Program, Weights
from jaxtl.protocol import Draw, Range, Recipe
from jaxtl.proximal import Ball, project_units
from jaxtl.rates import rate_at
from jaxtl.step import EVALUATE
from jaxtl.trees import Tree, keep, map_named, named_leaves

FISHER_EXAMPLES = 256  # of the source's training part
MIXOUT = "mixout"  # its probability, a rate


def _priced(problem: FewShot, term: Term) -> Program:
    """Transferred parameters pay a price for leaving the source, new ones are pulled towards 0."""
    return fine_tuned(problem, **pulls(problem, TRANSFERRED, NEW, source=term))


def l1_sp(problem: FewShot) -> Program:
    """rate · Σ |w − w⁰|."""
    return _priced(problem, Term(0.0, l1, ("anchor",)))


def group_lasso_sp(problem: FewShot) -> Program:
    """rate · Σ_g √|g| · ‖w_g − w⁰_g‖, a group for each output unit."""
    return _priced(problem, Term(0.0, group_lasso, ("anchor",)))


def ewc(problem: FewShot) -> Program:
    """rate · ½ Σ F · (w − w⁰)², the mean of F being 1."""
    return _priced(problem, Term(0.0, fisher, ("anchor", "importance")))


def importance(problem: FewShot, draw: Draw, start: Weights) -> dict[str, Tree]:
    """The diagonal Fisher information of the source model on source images, labels drawn from what it predicts.

    Divided by its mean, so that a pull means what it means in L2-SP; 0 for new parameters.
    """
    forward, weights = as_forward(source_model(problem)), source_weights(problem, draw)
    rows, labels = jax.random.split(jax.random.fold_in(problem.key(draw, "source order"), 1))
    raw, seen = problem.source_data[problem.field], problem.source_images
    rows = jax.random.permutation(rows, len(raw))[:FISHER_EXAMPLES]
    found = _fisher_of(forward, weights, seen.batch(raw[rows]), labels)
    mean = sum(jnp.sum(leaf) for leaf in jax.tree.leaves(found)) / sum(leaf.size for leaf in jax.tree.leaves(found))
    scaled = {f"trunk/{path}": leaf / jnp.where(mean > 0, mean, 1.0) for path, leaf in named_leaves(found).items()}
    return {"importance": map_named(lambda path, w: scaled.get(path, jnp.zeros_like(w)), start.params)}


@functools.partial(jax.jit, static_argnums=0)
def _fisher_of(forward, weights: Weights, batch: dict[str, jax.Array], rng: jax.Array) -> Tree:
    (field,) = batch

    def logits(trunk, inputs):
        params = {**weights.params, "trunk": trunk}
        return forward(params, weights.model_state, {field: inputs}, EVALUATE)[0][OLD_HEAD]

    return diagonal_fisher(logits, weights.params["trunk"], batch[field], rng)


def _decoupled(problem: FewShot, when: When) -> Program:
    group = Group(towards="anchor", when=when)
    return fine_tuned(problem, **with_group(pulls(problem, NEW), group, f"decay/{TRANSFERRED}"))


def decoupled_sp(problem: FewShot) -> Program:
    """w ← w − lr·(u + rate·(w − w⁰)): AdamW's decay, towards the source."""
    return _decoupled(problem, "always")


def cautious_sp(problem: FewShot) -> Program:
    """The same, in the entries in which the step goes that way by itself."""
    return _decoupled(problem, "entry")


def spd(problem: FewShot) -> Program:
    """The same, for leaves whose gradient points back to the source, and as far as the step led away from it."""
    return _decoupled(problem, "leaf")


def cautious_decay(problem: FewShot) -> Program:
    """w ← w − lr·(u + rate·1[u⊙w ≥ 0]⊙w), for all kernels."""
    labels = (TRANSFERRED, NEW)
    rates = {f"decay/{label}": 0.0 for label in labels}
    return fine_tuned(problem, groups={label: Group(when="entry") for label in labels}, rates=rates)


def l2_ball(problem: FewShot) -> Program:
    """‖w − w⁰‖ ≤ radius over all transferred parameters."""
    return fine_tuned(problem, **with_group(pulls(problem, NEW), Group(proximal=Ball(1.0, ("anchor",)))))


def mars(problem: FewShot) -> Program:
    """Σ_i |w_ij − w⁰_ij| ≤ radius for every unit j of every transferred kernel; biases and scales are free."""
    bound = Ball(1.0, ("anchor",), kernels, project_units)
    return fine_tuned(problem, **with_group(pulls(problem, NEW), Group(proximal=bound)))


def mixed_out(problem: FewShot) -> Program:
    """In every step each transferred parameter is the source's with some probability."""
    forward, own = as_forward(problem.model), having(problem.moved.labels, TRANSFERRED)

    def with_mixout(params, model_state, batch, ctx):
        anchor, rng = keep(ctx.given["anchor"], own), jax.random.fold_in(ctx.rng, 1)
        mixed = named_leaves(mixout(keep(params, own), anchor, rng, rate_at(0.5, MIXOUT, ctx.rates, ctx.step)))
        params = map_named(lambda path, w: mixed.get(path, w), params)
        return forward(params, model_state, batch, ctx)

    pulled = with_group(pulls(problem, NEW), Group())
    return fine_tuned(problem, forward=with_mixout, **{**pulled, "rates": {**pulled["rates"], MIXOUT: 0.5}})


def l2_init(problem: FewShot) -> Program:
    """½ Σ (w − w⁰)² for transferred parameters, and for new ones with their random start in the place of w⁰."""
    penalties = {TRANSFERRED: {"source": TOWARDS["source"]}, NEW: {"start": Term(0.0, l2, ("start",))}}
    return fine_tuned(problem, groups={label: Group() for label in penalties}, penalties=penalties)


def random_start(problem: FewShot, draw: Draw, start: Weights) -> dict[str, Tree]:
    """The second anchor of `l2_init`."""
    return {"start": start.params}


def recall(problem: FewShot) -> Program:
    """s(t) · task + (1 − s(t)) · rate · ½ Σ (w − w⁰)²; s is a half after a quarter of the steps."""
    share = annealed(problem.config.steps / 4, 20 / problem.config.steps)
    source = Term(lambda step: 1 - share(step), l2, ("anchor",))
    return fine_tuned(
        problem, terms={"task": Term(share, CLASSIFY.fn)}, **pulls(problem, TRANSFERRED, NEW, source=source)
    )


TO_SOURCE = ("learning_rate", "pull/source", "pull/new")
# A pull of |w| moves a weight by itself, one of w² by its part of the way: other numbers, in units of weights. A decay
# beside the step goes through no momentum, but a pull is counted as if it did.
ABSOLUTE, BESIDE = Range(0.001, 1.0), Range(0.3, 300.0)
PARAMETERS = {
    "l1_sp": Recipe(
        l1_sp,
        TO_SOURCE,
        "l2_sp with the distance |w − w⁰| in the place of its square, for which few weights move",
        {"pull/source": ABSOLUTE},
    ),
    "group_lasso_sp": Recipe(
        group_lasso_sp,
        TO_SOURCE,
        "l2_sp with one distance for all weights into a unit, for which few units move",
        {"pull/source": ABSOLUTE},
    ),
    "ewc": Recipe(
        ewc,
        TO_SOURCE,
        "l2_sp in which the source task's Fisher information says how firmly each parameter is held",
        given=importance,
    ),
    "decoupled_sp": Recipe(
        decoupled_sp,
        ("learning_rate", "pull/transferred", "pull/new"),
        "transferred parameters decay towards the source beside the step, as in AdamW; new kernels go towards 0",
        {"pull/transferred": BESIDE},
    ),
    "cautious_sp": Recipe(
        cautious_sp,
        ("learning_rate", "pull/transferred", "pull/new"),
        "decoupled_sp in the entries in which the step goes towards the source anyway",
        {"pull/transferred": BESIDE},
    ),
    "spd": Recipe(
        spd,
        ("learning_rate", f"decay/{TRANSFERRED}", "pull/new"),
        "decoupled_sp in leaves whose gradient agrees, as far as the step led away (selective projection decay)",
        {f"decay/{TRANSFERRED}": Range(0.1, 2.0)},
    ),
    "cautious_decay": Recipe(
        cautious_decay,
        ("learning_rate", "pull"),
        "all kernels decay towards 0 beside the step, in the entries in which it goes there anyway",
        {"pull": BESIDE},
    ),
    "l2_ball": Recipe(
        l2_ball,
        ("learning_rate", f"radius/{TRANSFERRED}", "pull/new"),
        "transferred parameters stay within a distance of the source",
        {f"radius/{TRANSFERRED}": Range(0.1, 10.0)},
    ),
    "mars": Recipe(
        mars,
        ("learning_rate", f"radius/{TRANSFERRED}", "pull/new"),
        "the weights into every unit stay within a distance of the source's, one for all units (MARS norm)",
        {f"radius/{TRANSFERRED}": Range(0.1, 30.0)},
    ),
    "mixout": Recipe(
        mixed_out,
        ("learning_rate", MIXOUT, "pull/new"),
        "in every step each transferred parameter is the source's with some probability",
        {MIXOUT: Range(0.1, 0.9)},
    ),
    "l2_init": Recipe(
        l2_init,
        ("learning_rate", "pull/source", "pull/start"),
        "l2_sp in which new parameters are pulled towards their random start",
        {"pull/start": Range(0.03, 30.0)},
        given=random_start,
    ),
    "recadam": Recipe(
        recall,
        TO_SOURCE,
        "l2_sp whose pull towards the source makes way for the task in the course of training",
    ),
}
