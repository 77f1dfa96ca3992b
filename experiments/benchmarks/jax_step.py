"""JAX's side of `experiments.benchmarks.step`: `python -m ...jax_step mlp_64 CACHE`, asked in lines of JSON.

Every block starts from the parameters of the problem; CACHE is a directory of compiled programs, "" for none.
"""

from __future__ import annotations

import functools
import re
import sys
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp

from experiments.benchmarks.variants import Problem, make_problem, make_program, make_variant, task_loss, timed
from experiments.benchmarks.workers import serve
from jaxtl.devices import backend
from jaxtl.step import compile_step, init_state


def answer_for(name: str) -> None:
    stages = {"Python and imports": time.perf_counter()}
    problem = make_problem(name)
    jax.block_until_ready(problem.params)
    stages["first parameters"] = time.perf_counter()
    variant = functools.cache(functools.partial(make_variant, problem))
    ends = [problem.params]  # where the last block ended

    def block(variant_name: str, steps: int) -> dict[str, float]:
        train = variant(variant_name)
        seconds, state = timed(train.run, jax.block_until_ready(train.begin()), steps)
        ends[0] = state.params
        return {"seconds": seconds}

    def profile(variant_name: str, steps: int) -> dict[str, float]:
        train = variant(variant_name)
        return seconds_by_operation(lambda: jax.block_until_ready(train.run(train.begin(), steps)))

    def ends_of_stages() -> dict[str, float]:
        return stages | first_step_of(problem)

    answers: dict[str, Callable[..., Any]] = {
        "block": block,
        "profile": profile,
        "stages": ends_of_stages,
        "fastest": fastest,
    }
    serve(**answers, loss=lambda: float(task_loss(problem, ends[0])))


def first_step_of(problem: Problem) -> dict[str, float]:
    """When each stage of a first step ended, from its program on."""
    program, stages = make_program(problem), {}
    state = jax.block_until_ready(init_state(problem.params, program.tx, jax.random.key(1)))
    stages["optimizer's state"] = time.perf_counter()
    arguments, step = (state, problem.batch, program.fixed), cast(Any, compile_step(program.step))
    lowered = step.lower(*arguments)
    stages["tracing and lowering the step"] = time.perf_counter()
    compiled = lowered.compile()
    stages["reading it from disk"] = time.perf_counter()
    jax.block_until_ready(compiled(*arguments))
    stages["first step"] = time.perf_counter()
    return stages


def seconds_by_operation(work: Callable[[], Any]) -> dict[str, float]:
    """What every operation of the compiled programs takes that `work` runs to their ends, by its name in them."""
    found: defaultdict[str, float] = defaultdict(float)
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # nothing of Python, which takes time itself
    with tempfile.TemporaryDirectory() as room:
        with jax.profiler.trace(room, profiler_options=options):
            work()
        (file,) = Path(room).rglob("*.xplane.pb")
        read = jax.profiler.ProfileData.from_file(str(file))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # where one is an error, a type that jax makes here ends the process
        events = (event for plane in read.planes for line in plane.lines for event in line.events)
        for event in events:
            name = dict(event.stats).get("hlo_op")
            if name is not None:
                found[re.sub(r"[.0-9]+$", "", name)] += event.duration_ns / 1e9
    return found


def fastest(edge: int, images: int, calls: int) -> dict[str, float]:
    """Floating-point operations a second of a matrix product and of a convolution, both large; the best of so many."""

    def convolve(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    matrix, x, kernel = jnp.ones((edge, edge)), jnp.ones((images, 32, 32, 64)), jnp.ones((3, 3, 64, 64))
    product, convolution = jax.jit(jnp.matmul), jax.jit(convolve)
    best = {
        "matrix product": min(timed(product, matrix, matrix)[0] for _ in range(calls)),
        "convolution": min(timed(convolution, x, kernel)[0] for _ in range(calls)),
    }
    return {
        "matrix product": 2 * edge**3 / best["matrix product"],
        "convolution": 2 * x.size * kernel.size / 64 / best["convolution"],
    }


if __name__ == "__main__":
    if sys.argv[2]:
        backend.use_compilation_cache(sys.argv[2])
    answer_for(sys.argv[1])
