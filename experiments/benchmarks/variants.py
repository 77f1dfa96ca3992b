"""The ways to take a training step that `experiments.benchmarks.step` compares, on problems they share."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxtl.bounds import Refusal
from jaxtl.devices import backend
from jaxtl.labels import NEW, TRANSFERRED, having, label_params
from jaxtl.loop import fit
from jaxtl.losses import make_loss_fn, mean_of, softmax_cross_entropy
from jaxtl.models import Classifier, Cnn, Mlp, as_forward, initialise, resnet18, wide_resnet
from jaxtl.optimizers import Group, per_label
from jaxtl.penalties import Term, l2, labelled
from jaxtl.step import Fixed, compile_step, init_state, make_train_step, total_gradient
from jaxtl.trees import Tree, named_leaves

NETWORKS: dict[str, tuple[str, tuple[int, ...], Any]] = {
    "mlp": ("MLP 784-128-10", (28, 28, 1), Mlp((128,))),
    "cnn": ("CNN 16-32-64", (16, 16, 3), Cnn((16, 32, 64))),
}
RESIDUAL: dict[str, tuple[str, tuple[int, ...], Any]] = {
    "wrn": ("WRN-16-4", (32, 32, 3), wide_resnet(16, 4)),
    "resnet": ("ResNet-18", (32, 32, 3), resnet18()),
}
LEARNING_RATE, MOMENTUM, LAMBDA = 0.01, 0.9, 1e-3
SCHEDULE = 1000  # steps
LARGEST_BATCH = 4096


class Problem(NamedTuple):
    """A network and one batch of random images; every variant trains it from the same parameters."""

    title: str
    model: Classifier
    params: Tree
    batch: dict[str, jax.Array]

    @property
    def labels(self) -> Tree:
        return label_params(self.params, [("trunk/.*", TRANSFERRED), ("head/.*", NEW)])


@dataclass(frozen=True)
class Network:
    """A bound: the name of a problem, a network and the size of its batch: "mlp_64"."""

    known: Collection[str] = (*NETWORKS, *RESIDUAL)

    def __str__(self) -> str:
        return f"{', '.join(self.known)}, each with a batch size: mlp_64"

    def refusal(self, name: str) -> Refusal | None:
        kind, size = network_and_batch(name)
        if kind in self.known and 1 <= size <= LARGEST_BATCH:
            return None
        todo = f"a network ({', '.join(self.known)}) and the size of its batch, up to {LARGEST_BATCH}: mlp_64"
        return Refusal(f"unknown problem '{name[:40]}'", todo)


def network_and_batch(name: str) -> tuple[str, int]:
    """The network and the size of the batch of "mlp_64" or "wrn_16"; 0 where there is no size."""
    kind, _, size = name.partition("_")
    return kind, int(size) if re.fullmatch("[0-9]{1,9}", size) else 0


def title_of(name: str) -> str:
    kind, size = network_and_batch(name)
    return f"{(NETWORKS | RESIDUAL)[kind][0]}, batch {size}"


def make_problem(name: str) -> Problem:
    kind, size = network_and_batch(name)
    _, shape, trunk = (NETWORKS | RESIDUAL)[kind]
    model = Classifier(trunk, (("head", 10),))
    of_params, of_images, of_labels = jax.random.split(jax.random.key(0), 3)
    images = jax.random.normal(of_images, (size, *shape))
    batch = {"image": images, "label": jax.random.randint(of_labels, (size,), 0, 10)}
    return Problem(title_of(name), model, initialise(model, of_params, shape), batch)


def save_problem(problem: Problem, file: Path) -> None:
    """What PyTorch's side reads."""
    arrays: dict[str, Any] = {**named_leaves(problem.params), **problem.batch}
    np.savez(file, **arrays, learning_rate=LEARNING_RATE, momentum=MOMENTUM)


def logits_of(model: Classifier, params: Tree, batch: Mapping[str, jax.Array]) -> jax.Array:
    outputs: Any = model.apply({"params": params}, batch["image"], True)
    return outputs["head"]


def task_loss(problem: Problem, params: Tree) -> jax.Array:
    logits = logits_of(problem.model, params, problem.batch)
    return jnp.mean(softmax_cross_entropy(logits, problem.batch["label"]))


def timed(work: Callable, *arguments: Any) -> tuple[float, Any]:
    began = time.perf_counter()
    result = jax.block_until_ready(work(*arguments))
    return time.perf_counter() - began, result


# ---------------------------------------------------------------- variants


class Variant(NamedTuple):
    """One way of training a problem."""

    begin: Callable[[], Any]  # a state at step 0; it has `params`
    run: Callable[[Any, int], Any]  # the state so many steps later, not waited for


class Plain(NamedTuple):
    """All that a step written by hand carries along."""

    params: Tree
    opt_state: Any


def by_hand(problem: Problem) -> Variant:
    """The peer: nothing of jaxtl but the network."""
    tx = optax.sgd(LEARNING_RATE, MOMENTUM, nesterov=True)

    def loss_fn(params, batch):
        logits = logits_of(problem.model, params, batch)
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]))

    def step(state, batch):
        loss, gradients = jax.value_and_grad(loss_fn)(state.params, batch)
        updates, opt_state = tx.update(gradients, state.opt_state, state.params)
        return Plain(optax.apply_updates(state.params, updates), opt_state), loss

    compiled = jax.jit(step, donate_argnums=0)

    def run(state, steps):
        for _ in range(steps):
            state, _ = compiled(state, problem.batch)
        return state

    return Variant(lambda: Plain(jax.tree.map(jnp.copy, problem.params), tx.init(problem.params)), run)


class Program(NamedTuple):
    """A step of jaxtl with its optimizer, and what it reads."""

    step: Callable
    tx: optax.GradientTransformationExtraArgs
    fixed: Fixed


def make_program(
    problem: Problem, *, groups=None, penalty=None, frozen=None, schedule=None, fixed: Fixed | None = None
) -> Program:
    penalty = labelled(problem.labels, penalty) if penalty else None
    groups = groups or {label: Group(LEARNING_RATE) for label in (TRANSFERRED, NEW)}
    task = {"task": Term(1.0, mean_of(softmax_cross_entropy))}
    loss_fn = make_loss_fn(as_forward(problem.model), task, penalty, frozen)
    tx = per_label(problem.labels, groups, "nesterov", momentum=MOMENTUM, schedule=schedule)
    return Program(make_train_step(total_gradient(loss_fn), tx), tx, fixed or Fixed())


def both_pulls(problem: Problem) -> Program:
    """As in experiments.cifar_transfer: a schedule, and every rate an argument of the compiled step."""
    towards = {"zero": Term(0.0, l2), "source": Term(0.0, l2, ("anchor",))}
    return make_program(
        problem,
        groups={label: Group(decay_kind="coupled") for label in (TRANSFERRED, NEW)},
        penalty={TRANSFERRED: towards, NEW: Term(0.0, l2)},
        schedule=optax.cosine_decay_schedule(1.0, SCHEDULE),
        fixed=Fixed(rates_with(LAMBDA), {"anchor": problem.params}),
    )


def rates_with(lam: float) -> dict[str, jax.Array]:
    """The rates of `both_pulls`."""
    rates = {f"learning_rate/{label}": LEARNING_RATE for label in (TRANSFERRED, NEW)}
    rates |= {f"penalty/{name}": lam for name in (f"{TRANSFERRED}/zero", f"{TRANSFERRED}/source", NEW)}
    return {name: jnp.float32(rate) for name, rate in rates.items()}


def looped(problem: Problem, program: Program) -> Variant:
    compiled = compile_step(program.step)

    def run(state, steps):
        for _ in range(steps):
            state, _ = compiled(state, problem.batch, program.fixed)
        return state

    return Variant(lambda: init_state(problem.params, program.tx, jax.random.key(1)), run)


def fitted(problem: Problem, program: Program, steps_per_dispatch: int) -> Variant:
    def run(state, steps):
        chunk = backend.steps_per_dispatch(steps_per_dispatch, steps)
        return fit(program.step, state, problem.batch, program.fixed, steps=steps, chunk=chunk)[0]

    return Variant(lambda: init_state(problem.params, program.tx, jax.random.key(1)), run)


def make_variant(problem: Problem, name: str) -> Variant:
    """The variant called "by_hand", "plain", "l2", ..."""
    towards_zero, towards_anchor = Term(LAMBDA, l2), Term(LAMBDA, l2, ("anchor",))
    anchor = Fixed(given={"anchor": problem.params})
    decaying = {label: Group(LEARNING_RATE, LAMBDA, "coupled") for label in (TRANSFERRED, NEW)}
    still = {TRANSFERRED: Group(frozen=True), NEW: Group(LEARNING_RATE)}
    make = partial(make_program, problem)
    programs: dict[str, Callable[[], Program]] = {
        "plain": make,
        "l2": partial(make, penalty={TRANSFERRED: towards_zero, NEW: towards_zero}),
        "l2_sp": partial(make, penalty={TRANSFERRED: towards_anchor, NEW: towards_zero}, fixed=anchor),
        "decay": partial(make, groups=decaying),
        "both_pulls": partial(both_pulls, problem),
        "frozen": partial(make, groups=still, frozen=having(problem.labels, TRANSFERRED)),
    }
    if name == "by_hand":
        return by_hand(problem)
    if name in ("fit", "dispatched"):
        return fitted(problem, make(), 1 if name == "fit" else 0)
    return looped(problem, programs[name]())
