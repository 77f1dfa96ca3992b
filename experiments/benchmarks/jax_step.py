"""JAX's side of `experiments.benchmarks.step`: `python -m ...jax_step mlp_64 CACHE`, asked in lines of JSON.

Every block starts from the parameters of the problem; CACHE is a directory of compiled programs, "" for none.
"""

from __future__ import annotations

import functools
import sys

import jax
import jax.numpy as jnp

from experiments.benchmarks.variants import make_problem, make_variant, task_loss, timed
from experiments.benchmarks.workers import serve
from jaxtl.devices import backend


def answer_for(name: str) -> None:
    problem = make_problem(name)
    variant = functools.cache(functools.partial(make_variant, problem))
    ends = [problem.params]  # where the last block ended

    def block(variant_name: str, steps: int) -> dict[str, float]:
        train = variant(variant_name)
        seconds, state = timed(train.run, jax.block_until_ready(train.begin()), steps)
        ends[0] = state.params
        return {"seconds": seconds}

    serve(block=block, loss=lambda: float(task_loss(problem, ends[0])), fastest=fastest)


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
