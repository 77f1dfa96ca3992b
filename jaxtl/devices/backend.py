"""The machine under a run: compiled programs kept between runs, what it computes on, how much goes in one dispatch."""

from __future__ import annotations

import os
import platform
import tempfile
from importlib import metadata
from pathlib import Path

import jax

from jaxtl.devices import processes
from jaxtl.devices.compiler import compiler_options
from jaxtl.errors import InputError
from jaxtl.files import at_home, expanded
from jaxtl.text import printable
from jaxtl.version import __version__


def use_compilation_cache(directory: str | Path | None = None) -> Path | None:
    """Keep XLA's compiled programs on disk, so that the second run of a command starts at once.

    A cache that cannot be written costs time and nothing else: that is said in one line, and the run goes on.

    Args:
        directory: where; by default $JAX_COMPILATION_CACHE_DIR, else jaxtl/xla in $XDG_CACHE_HOME or in ~/.cache.

    Returns:
        The directory in use, or None without a cache.
    """
    user_cache = os.environ.get("XDG_CACHE_HOME") or at_home(".cache")
    chosen = directory or os.environ.get("JAX_COMPILATION_CACHE_DIR") or Path(user_cache, "jaxtl", "xla")
    path = expanded(chosen).absolute()
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass  # a directory may exist and still refuse files
    except OSError as error:
        print(printable(f"no compilation cache: {path}: {error.strerror}"))
        jax.config.update("jax_compilation_cache_dir", None)
        return None
    jax.config.update("jax_compilation_cache_dir", str(path))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return path


def describe_device() -> str:
    """What jax computes on, in words: "2 CPU cores (x86_64), 1 jax device", "8 x TPU v4 in 2 processes"."""
    devices = jax.devices()
    together = f" in {processes.count()} processes" if processes.count() > 1 else ""
    if devices[0].platform == "cpu":
        affinity = getattr(os, "sched_getaffinity", None)  # Linux only; what a container leaves us
        cores = len(affinity(0)) if affinity else os.cpu_count() or 1
        return f"{_count(cores, 'CPU core')} ({platform.machine()}), {_count(len(devices), 'jax device')}{together}"
    kind = devices[0].device_kind
    return (kind if len(devices) == 1 else f"{len(devices)} x {kind}") + together


def device_kind() -> str:
    """What runs are made on, in a word or two: by rounding alone another kind may choose another setting.

    Example:
        >>> bool(device_kind())
        True
    """
    kind = jax.devices()[0].device_kind
    return f"{kind} {platform.machine()}" if jax.default_backend() == "cpu" else kind


def describe_speed() -> str:
    """What is on that makes programs fast, in words; on a CPU also what could be."""
    directory = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    cache = f"programs kept in {directory}" if directory else "programs not kept"
    if jax.default_backend() != "cpu":
        return cache
    asked = "hugetlb=1" in os.environ.get("GLIBC_TUNABLES", "")
    pages = "huge pages" if asked else "no huge pages (GLIBC_TUNABLES=glibc.malloc.hugetlb=1, before Python starts)"
    return ", ".join([*(["convolutions by Eigen"] if compiler_options() else []), pages, cache])


def versions() -> dict[str, str]:
    """The versions a result depends on; nothing is imported to find them."""
    libraries = {name: metadata.version(name) for name in ("jax", "flax", "optax")}
    return {"python": platform.python_version(), **libraries, "jaxtl": __version__}


def steps_per_dispatch(requested: int, steps: int, most: int = 100) -> int:
    """How many train steps go in one dispatch: what was asked for, and for 0 what suits the backend.

    On a CPU at most 10, which take 0.4 of the time of single ones on a small MLP and 0.9 on a small CNN; more gain
    nothing there, and a signal is heard only between dispatches. Elsewhere up to 100: a step is over before the next
    could be dispatched.

    Args:
        requested: 0 leaves the choice to this function.
        steps: of the whole run, >= 1.
        most: an upper bound of the choice.

    Returns:
        `requested`, or a divisor of `steps`.

    Raises:
        InputError: `requested` is negative.

    Example:
        >>> steps_per_dispatch(20, 1000)
        20
    """
    if requested < 0:
        raise InputError(f"{requested} steps in one dispatch", todo="use a number >= 1, or 0 for what suits the device")
    if requested:
        return requested
    most = min(most, 10) if jax.default_backend() == "cpu" else most
    return max(length for length in range(1, max(1, most) + 1) if steps % length == 0)


def batching() -> str:
    """How a sweep of a network runs its configurations: "loop" on a CPU, where none is faster once ten steps go in one
    dispatch (`vmap` too computes convolutions one after another), and "vmap" elsewhere."""
    return "loop" if jax.default_backend() == "cpu" else "vmap"


def _count(number: int, name: str) -> str:
    return f"{number} {name}{'' if number == 1 else 's'}"
