"""A process that takes its first training steps and says what they cost: `python -m ...first_step mlp_64 CACHE`.

The clock of `experiments.benchmarks.machine` starts before Python does and stops at the line written here.
"""

from __future__ import annotations

import json
import sys

import jax

from experiments.benchmarks.memory import peak_memory
from experiments.benchmarks.variants import looped, make_problem, make_program
from jaxtl import backend

if __name__ == "__main__":
    name, cache = sys.argv[1:]
    backend.use_compilation_cache(cache)
    problem = make_problem(name, {name.partition("_")[0]: 1})
    variant = looped(problem, make_program(problem))
    state = jax.block_until_ready(variant.run(variant.begin(), 1))
    print("first step", flush=True)
    jax.block_until_ready(variant.run(state, 2))
    print(json.dumps({"peak": peak_memory()}), flush=True)
