"""What XLA is told when it compiles a program for this backend."""

from __future__ import annotations

import functools

import jax

# YNNPACK only where it is faster, which is in sums: convolutions and matrix products are left to Eigen. And barriers
# stay until operations have been fused, which is what `models.convolution` has one for.
CPU_OPTIONS = {
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE",
    "xla_disable_hlo_passes": "cse_barrier_expander",
}


@functools.cache
def compiler_options() -> dict[str, str]:
    """On a CPU `CPU_OPTIONS`, if this version of XLA knows them; nothing elsewhere."""
    if jax.default_backend() != "cpu":
        return {}
    try:
        jax.jit(lambda x: x, compiler_options=CPU_OPTIONS).lower(0.0).compile()
    except jax.errors.JaxRuntimeError:
        return {}
    return CPU_OPTIONS
