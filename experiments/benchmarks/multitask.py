"""What does a gradient per task cost, beside a plain sum of losses and beside a run for each task?

    python -m experiments.benchmarks.multitask                                    # part of `make bench`
    python -m experiments.benchmarks.multitask --config.tasks=8 --config.problems=cnn_64

Three tasks by surgery cost no more than three backward passes and one forward on the convolutional network: 0.72 of
three runs. On the small MLP they cost more, 0.81 where 0.47 is allowed, since three gradients of its first layer have
to be kept, multiplied and added up. Which method weighs them makes no difference that shows. Backward passes by `vmap`
are slower.

                                                        MLP 784-128-10      CNN 16-32-64
    gradients of one batch of 64, T = 3
    a run for each task: T forward, T backward         1.00 = 0.555 ms    1.00 = 8.19 ms
    the forward pass alone, all heads                 0.26 (0.25–0.26)  0.13 (0.13–0.14)
    the first row less T − 1 such forward passes      0.47 (0.47–0.51)  0.74 (0.73–0.74)
    the plain sum: 1 forward, 1 backward              0.43 (0.42–0.43)  0.34 (0.34–0.35)
    surgery, PCGrad                                   0.80 (0.78–0.81)  0.71 (0.70–0.72)
    surgery, MGDA                                     0.81 (0.79–0.82)  0.75 (0.71–0.83)
    surgery, Nash                                     0.83 (0.82–0.86)  0.72 (0.72–0.78)
    MGDA by hand, backward passes by vmap             1.07 (1.03–1.09)  0.82 (0.81–0.84)

By --config.rounds=7, medians with quartiles in brackets, on 2 quiet CPU cores (x86_64), huge pages on, Python 3.11, jax
0.10.2.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
from rich.console import Console

from experiments.benchmarks.results import Findings, Once, keep
from experiments.benchmarks.turns import Figures, in_turns, ratio, ratio_table
from experiments.benchmarks.variants import NETWORKS, Network, timed
from jaxtl import cli
from jaxtl.labels import SHARED, having, label_params
from jaxtl.losses import make_loss_fn, mean_of, softmax_cross_entropy
from jaxtl.methods.multitask import mgda_weights, nash_weights, pcgrad_weights, surgery
from jaxtl.models import Classifier, as_forward, initialise
from jaxtl.penalties import Term
from jaxtl.report import Section
from jaxtl.step import Context, total_gradient

Networks = Annotated[tuple[Annotated[str, Network(NETWORKS)], ...], cli.Items(1, distinct=True)]


@dataclasses.dataclass(frozen=True)
class Config:
    preset: str = ""  # quick: what make bench takes; smoke: seconds, for a look at the tables
    problems: Networks = ("mlp_64", "cnn_64")  # mlp or cnn, and the size of its batches
    tasks: Annotated[int, cli.Within(1, 1_000)] = 3  # classifiers of 10 classes on one trunk
    rounds: cli.Trials = 11  # blocks of every row, taken in turns
    mlp_calls: cli.Steps = 60  # in a block
    cnn_calls: cli.Steps = 4

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "quick": {"rounds": 5},
        "smoke": {"problems": ("mlp_64",), "rounds": 2, "mlp_calls": 5},
    }


APART = "apart"
ROWS = {
    APART: "a run for each task: T forward, T backward",
    "forward": "the forward pass alone, all heads",
    "predicted": "the first row less T − 1 such forward passes",
    "sum": "the plain sum: 1 forward, 1 backward",
    "pcgrad": "surgery, PCGrad",
    "mgda": "surgery, MGDA",
    "nash": "surgery, Nash",
    "side_by_side": "MGDA by hand, backward passes by vmap",
}
COMBINE = {"pcgrad": pcgrad_weights, "mgda": mgda_weights, "nash": nash_weights}


def make_programs(problem: str, tasks: int) -> dict[str, Callable[[], Any]]:
    """Every measured row as a compiled call without arguments; what they return is not waited for."""
    kind, _, size = problem.partition("_")
    _, shape, trunk = NETWORKS[kind]
    names = tuple(f"task_{i}" for i in range(tasks))
    batch = {"image": jax.random.normal(jax.random.key(0), (int(size), *shape)), "label": jnp.arange(int(size)) % 10}
    ctx = Context(jnp.int32(0), jax.random.key(1), {}, {})

    def network(heads: tuple[str, ...]):
        model = Classifier(trunk, tuple((name, 10) for name in heads))
        terms = {name: Term(1.0, mean_of(softmax_cross_entropy, name)) for name in heads}
        return make_loss_fn(as_forward(model), terms), initialise(model, jax.random.key(2), shape)

    loss_fn, params = network(names)
    labels = label_params(params, [("trunk/.*", SHARED), *((f"{name}/.*", f"task:{name}") for name in names)])
    shared = having(labels, SHARED)

    def call(fn: Callable, params) -> Callable[[], Any]:
        compiled = jax.jit(fn)
        return lambda: compiled(params, {}, batch, ctx)

    def side_by_side(params, model_state, batch, ctx):
        values, backward = jax.vjp(lambda p: jnp.stack(list(loss_fn(p, model_state, batch, ctx)[0].values())), params)
        (rows,) = jax.vmap(backward)(jnp.eye(tasks))
        flat = [row.reshape(tasks, -1) for row in jax.tree.leaves(rows["trunk"])]
        weights = mgda_weights(sum(row @ row.T for row in flat))
        trunk = jax.tree.map(lambda row: jnp.tensordot(weights, row, 1), rows["trunk"])
        return values, jax.tree.map(lambda row: jnp.sum(row, axis=0), rows) | {"trunk": trunk}

    singles = [call(total_gradient(one), own) for one, own in (network((name,)) for name in names)]
    operated = {name: call(surgery(loss_fn, combine, names, shared), params) for name, combine in COMBINE.items()}
    return {
        APART: lambda: [single() for single in singles],
        "forward": call(lambda *arguments: loss_fn(*arguments)[0], params),
        "sum": call(total_gradient(loss_fn), params),
        **operated,
        "side_by_side": call(side_by_side, params),
    }


def measure_rows(problem: str, config: Config) -> Figures:
    """Seconds of a call of every row, and the median ratio to a run for each task in the same round."""
    calls = {"mlp": config.mlp_calls, "cnn": config.cnn_calls}[problem.partition("_")[0]]
    programs = make_programs(problem, config.tasks)

    def block(program: Callable[[], Any]) -> None:
        for _ in range(calls):
            jax.block_until_ready(program())

    seconds = in_turns(programs, config.rounds, lambda name: timed(block, programs[name])[0] / calls)
    seconds["predicted"] = seconds[APART] - (config.tasks - 1) * seconds["forward"]
    return {name: ratio(seconds[name], seconds[APART]) for name in ROWS}


def measure(config: Config, console: Console, once: Once) -> Findings:
    results = {}
    for problem in config.problems:
        console.print(f"measuring {problem}, {config.tasks} tasks")
        results[problem] = once(f"multitask-{problem}", partial(measure_rows, problem, config))
    how = f"medians over {config.rounds} rounds, each against its own round; quartiles in brackets"
    table = ratio_table("gradients of one batch", ROWS, APART, results)
    section = Section("A gradient per task", [table], [f"T = {config.tasks} tasks; {how}"])
    numbers = {
        f"multitask/{problem}/{row}/seconds": figures["seconds"]
        for problem, rows in results.items()
        for row, figures in rows.items()
    }
    return Findings([section], numbers, {"problems": results})


def main(config: Config, workdir: Path) -> None:
    cli.check(config)
    keep("benchmarks.multitask", config, workdir, [(measure, config)])


if __name__ == "__main__":
    cli.run(main, Config)
