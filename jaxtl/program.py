"""What is trained, and how: labels, objective, optimizer and batches as one compiled step.

    labels ─┬─ penalties ─┐
    forward ┴─ terms ─────┴→ gradient → per-label optimizer = step

Methods that run in one program differ in their rates and starting points only, and share its compiled form.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxtl.errors import InputError, suggest
from jaxtl.labels import having
from jaxtl.losses import Forward, make_loss_fn
from jaxtl.optimizers import Group, Schedule, per_label
from jaxtl.penalties import LabelTerms, Term, labelled
from jaxtl.rates import default_of
from jaxtl.step import Fixed, GradFn, Rates, TrainState, init_state, make_train_step, total_gradient
from jaxtl.trees import Tree, named_leaves

TASK = "task"  # the term whose rate is 1, which no method sets


class Weights(NamedTuple):
    """A model's parameters, and what its forward pass carries along (batch statistics; {} without any)."""

    params: Tree
    model_state: Tree = {}  # noqa: RUF012  (never written)


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """One step, and what goes with it; made by `make_program`.

    Attributes:
        step: (state, data, fixed) -> (state, metrics), pure.
        tx: the optimizer.
        labels: of the parameters it trains; top-level parts of a model that are not in it pass it by.
        rates: every rate that a method may set, with its default; all are always given, so nothing compiles twice.
        given: trees that every run reads: "anchor", a source model.
        dense: small matrix products only, so that all steps of all runs go side by side in one dispatch.
        steps: of a run, where it is not as long as others; `schedule` ends there.
    """

    step: Callable
    tx: optax.GradientTransformationExtraArgs
    labels: Tree
    rates: Mapping[str, float]
    given: Mapping[str, Tree]
    dense: bool
    steps: int | None = None

    def start(self, weights: Weights, rng: jax.Array) -> TrainState:
        """A state at step 0, of the parameters that it trains."""
        return init_state(self.own(weights.params), self.tx, rng, weights.model_state)

    def own(self, params: Tree) -> Tree:
        """The parameters that it trains, among those of a whole model."""
        return {name: params[name] for name in self.labels} if isinstance(self.labels, dict) else params

    def whole(self, params: Tree, own: Tree) -> Tree:
        """A whole model's parameters, with those in it that were trained."""
        return {**params, **own} if isinstance(self.labels, dict) else own

    def fixed(self, rates: Mapping[str, Any] | None = None, given: Mapping[str, Tree] | None = None) -> Fixed:
        """What the step reads: the rates asked for, the defaults of the others, and the trees given.

        Raises:
            InputError: a rate that no part of the program reads.
        """
        for name in rates or {}:
            if name not in self.rates:
                where, todo = f"rates['{name}']", suggest(name, self.rates)
                raise InputError("no part of this program reads it", where=where, todo=todo)
        return Fixed({**self.rates, **(rates or {})}, {**self.given, **(given or {})})


def make_program(
    forward: Forward,
    labels: Tree,
    terms: Mapping[str, Term],
    groups: Mapping[str, Group],
    penalties: LabelTerms | None = None,
    *,
    optimizer: str | Callable[[], optax.GradientTransformation] = "sgd",
    momentum: float = 0.0,
    schedule: Schedule | None = None,
    clip_norm: float | None = None,
    prepare: Callable = lambda data, rng, step: data,
    gradient: Callable[[Callable], GradFn] = total_gradient,
    given: Mapping[str, Tree] | None = None,
    rates: Mapping[str, float] | None = None,
    dense: bool = False,
    steps: int | None = None,
) -> Program:
    """Σ rate · term + Σ_label rate · penalty over labelled parameters, each label moved by its group: one step.

    Freezing is said once: a group that is frozen holds no optimizer state, and no gradient is computed for it.

    Args:
        forward: (params, model_state, batch, ctx) -> (outputs, model_state).
        labels: tree of strings like the parameters it trains.
        terms: loss terms by name; the rate of one called "task" is fixed.
        groups: how the parameters of each label move.
        penalties: what they pay, by label, see `labelled`.
        optimizer, momentum, schedule, clip_norm: as for `per_label`.
        prepare: (data, rng, step) -> batch, inside the compiled step.
        gradient: loss_fn -> gradient function; `total_gradient`, or a surgery.
        given: trees by name that penalties, terms and forward read.
        rates: further rates that a method may set although a group starts without: {"decay/LABEL": 0.0}.
        dense, steps: see `Program`.

    Returns:
        The program.

    Raises:
        InputError: what `make_loss_fn`, `labelled` and `per_label` refuse.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxtl.losses import mean_of, squared_error
        >>> from jaxtl.penalties import l2
        >>> def forward(params, model_state, batch, ctx):
        ...     return {"head": batch["x"] @ params["kernel"]}, model_state
        >>> task = Term(1.0, mean_of(squared_error))
        >>> labels, groups = {"kernel": "new"}, {"new": Group(0.5)}
        >>> program = make_program(forward, labels, {"task": task}, groups, {"new": Term(0.1, l2)})
        >>> dict(program.rates)
        {'learning_rate/new': 0.5, 'penalty/new': 0.1}
        >>> state = program.start(Weights({"kernel": jnp.ones(1)}), jax.random.key(0))
        >>> data = {"x": jnp.ones((2, 1)), "label": jnp.zeros(2)}
        >>> state, _ = program.step(state, data, program.fixed({"penalty/new": 0.0}))
        >>> state.params["kernel"].tolist()
        [0.5]
    """
    held = having(labels, *(label for label, group in groups.items() if group.frozen))
    frozen = held if any(jax.tree.leaves(held)) else None
    loss_fn = make_loss_fn(forward, terms, labelled(labels, penalties) if penalties else None, frozen)
    tx = per_label(labels, groups, optimizer, momentum=momentum, schedule=schedule, clip_norm=clip_norm)
    step = make_train_step(gradient(loss_fn), tx, prepare)
    every = _rates(terms, groups, penalties or {}) | dict(rates or {})
    return Program(step, tx, labels, every, given or {}, dense, steps)


def _rates(terms: Mapping[str, Term], groups: Mapping[str, Group], penalties: LabelTerms) -> dict[str, Any]:
    """Every rate that a method may set, with its default."""
    moving = {label: group for label, group in groups.items() if not group.frozen}
    rates = {f"learning_rate/{label}": default_of(group.learning_rate) for label, group in moving.items()}
    rates |= {f"decay/{label}": group.decay for label, group in moving.items() if group.decay}
    for label, group in moving.items():
        if group.proximal is not None:
            rates[f"{group.proximal.kind}/{label}"] = group.proximal.number
    for label, pulls in penalties.items():
        named = {label: pulls} if isinstance(pulls, Term) else {f"{label}/{name}": pull for name, pull in pulls.items()}
        rates |= {f"penalty/{name}": default_of(pull.rate) for name, pull in named.items()}
    return rates | {name: default_of(term.rate) for name, term in terms.items() if name != TASK}


def alternate(**programs: Program) -> Program:
    """Several programs in turn within each step, on one model: the phases of a game, or of whatever moves by halves.

    θ ← step_1(θ),  θ ← step_2(θ),  ...   each with its own objective, groups, optimizer state and frozen parameters

    All phases of a step see the same batch and draw the same random numbers; what a phase has moved, the next one sees.
    A rate of one name is the same in all of them.

    Args:
        programs: by the name of the phase, in their order; they label the same parameters, each in its own way.

    Returns:
        A program whose metrics are "PHASE/METRIC" and "loss", the sum of their losses.

    Raises:
        InputError: fewer than two phases, other parameters, or one rate with two defaults.

    Example:
        >>> import jax.numpy as jnp
        >>> def forward(params, model_state, batch, ctx):
        ...     return {"gap": params["x"] * params["y"]}, model_state
        >>> def towards(sign):
        ...     return {"task": Term(1.0, lambda outputs, batch, ctx: sign * outputs["gap"])}
        >>> labels, hold = {"x": "x", "y": "y"}, Group(frozen=True)
        >>> down = make_program(forward, labels, towards(1), {"x": Group(0.1), "y": hold})
        >>> up = make_program(forward, labels, towards(-1), {"x": hold, "y": Group(0.1)})
        >>> game = alternate(down=down, up=up)
        >>> state = game.start(Weights({"x": jnp.float32(1), "y": jnp.float32(1)}), jax.random.key(0))
        >>> state, _ = game.step(state, {}, game.fixed())  # x goes down by y, then y up by the new x
        >>> round(float(state.params["x"]), 2), round(float(state.params["y"]), 2)
        (0.9, 1.09)
    """
    if len(programs) < 2:
        raise InputError(f"{len(programs)} programs", where="alternate", todo="give two or more, by name")
    (name, first), *others = programs.items()
    rates: dict[str, float] = dict(first.rates)
    for other, program in others:
        if named_leaves(program.labels).keys() != named_leaves(first.labels).keys():
            what = f"'{other}' labels other parameters than '{name}'"
            raise InputError(what, where="alternate", todo="label the same ones in all, and freeze what a phase leaves")
        for rate, default in program.rates.items():
            if rates.setdefault(rate, default) != default:
                what = f"{rate} is {default} in '{other}' and {rates[rate]} before"
                raise InputError(what, where="alternate", todo="give it one default, or call the labels differently")

    def init(params: Tree) -> tuple:
        return tuple(program.tx.init(params) for program in programs.values())

    def update(updates, state, params=None, **extra):
        raise InputError("has no update of its own", where="alternate", todo="run its step")

    def step(state, data, fixed):
        asked = fixed.rates if isinstance(fixed.rates, Rates) else Rates(fixed.rates)
        found, own = {"loss": jnp.float32(0)}, list(state.opt_state)
        for i, (phase, program) in enumerate(programs.items()):
            its = Rates({key: asked[key] for key in program.rates.keys() & asked.keys()}, asked.asked)
            moved, metrics = program.step(state._replace(opt_state=own[i]), data, Fixed(its, fixed.given))
            own[i] = moved.opt_state
            state = moved._replace(step=state.step)
            found |= {f"{phase}/{key}": value for key, value in metrics.items()}
            found["loss"] += metrics["loss"]
        asked.refuse_unread()
        return state._replace(step=state.step + 1, opt_state=tuple(own)), found

    given = {key: tree for program in programs.values() for key, tree in program.given.items()}
    tx = optax.GradientTransformationExtraArgs(init, update)
    dense = all(program.dense for program in programs.values())
    return Program(step, tx, first.labels, rates, given, dense, first.steps)
