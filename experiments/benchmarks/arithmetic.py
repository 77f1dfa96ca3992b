"""How many floating-point operations a training step has: those of its convolutions and dense layers."""

from __future__ import annotations

import math
from typing import Any

import jax

from experiments.benchmarks.variants import Problem, logits_of


def operations_of_step(problem: Problem) -> float:
    """Multiplications and additions, forward and twice that backward; the gradient of the images is not computed.

    Penalties, normalisation and the optimizer do not count; zeros around an image do. So a step that does the same
    work by another algorithm is compared by the same number.
    """
    forward = products(jax.make_jaxpr(lambda params: logits_of(problem.model, params, problem.batch))(problem.params))
    return 3 * sum(forward) - forward[0]


def products(program: Any) -> list[float]:
    """Operations of every convolution and matrix product of a traced program, in its order; a loop's body once."""
    found = []
    for equation in program.eqns:
        name, inputs = equation.primitive.name, [variable.aval.shape for variable in equation.invars]
        outputs = math.prod(equation.outvars[0].aval.shape)
        if name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            found.append(2.0 * outputs * math.prod(inputs[0][axis] for axis in contracted))
        elif name in ("conv_general_dilated", "image_convolution"):  # the library's operator, and ours on a CPU
            found.append(2.0 * outputs * math.prod(inputs[1][:-1]))  # kernels are [h, w, C, D]
        else:
            for value in equation.params.values():
                inner = getattr(value, "jaxpr", value)
                found += products(inner) if hasattr(inner, "eqns") else []
    return found
