"""What made a state: kept with every checkpoint, so that no other work goes on from it or takes it for its own result.

Rates are kept as numbers, trees and programs as digests. A program is what JAX makes of a step for arrays of these
shapes, with every constant in it; other versions of the libraries, or another kind of device, make another one of the
same step, so that there its digest tells nothing, and is passed over with a line in the log.
"""

from __future__ import annotations

import functools
import logging
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from jaxtl.checkpoints.disk import leaf_digests, to_host
from jaxtl.devices.placement import gather
from jaxtl.errors import InputError
from jaxtl.labels import some
from jaxtl.step import Fixed
from jaxtl.trees import Tree, is_key, map_named, named_leaves, shape_of
from jaxtl.version import __version__

AGAIN = "repeat the call that began it, or choose another workdir"
SMALL = 2**22  # bytes of a leaf that are hashed on the host in the time that a program for the device takes to compile

logger = logging.getLogger("jaxtl")

Origin = dict[str, Any]  # as JSON


def origin(
    rates: Mapping[str, Any], start: Tree, data: Tree, given: Tree, programs: Mapping[str, Callable], **named: Any
) -> Origin:
    """Everything that decides what comes of a run, in a form that a checkpoint keeps.

    Args:
        rates: by name, those that were asked for and the defaults of the others.
        start: the state, or the states, that it begins with.
        data: arrays, of a stream its first batch. What fills a set up to equal parts for many devices does not count.
        given: trees by name.
        programs: by name, (like data) -> the jaxpr of a program that is run.
        named: further things that must not change, as JSON.

    Returns:
        {"rates": {name: number}, "start", "data", "given": {path: shape and digest}, "programs", ...}.
    """
    described, like = describe_data(data)
    versions = {name: metadata.version(name) for name in ("jax", "flax", "optax")}
    return {
        **named,
        "rates": {name: np.asarray(rate, np.float32).tolist() for name, rate in rates.items()},
        "start": describe(start),
        "data": described,
        "given": describe(given),
        "programs": {name: _digest_of_program(make(like)) for name, make in programs.items()},
        "by": {**versions, "jaxtl": __version__, "device": jax.default_backend()},
    }


def refuse_another(
    workdir: str | Path, saved: Origin | None, ours: Origin, kind: str, found: Callable[[], Tree] | None = None
) -> None:
    """Refuse to go on with what something else made.

    Args:
        workdir: where it lies, for the message.
        saved: its origin.
        ours: of the work that would go on.
        kind: what is held there, "a run".
        found: restores the state that lies there; it too may be what the work that goes on is said to begin with.

    Raises:
        InputError: names what differs, and how.
    """
    if saved is None or saved["programs"].keys() != ours["programs"].keys():
        what = f"holds {kind} that does not say what made it: it is of another kind, or an older jaxtl began it"
        todo = "choose another workdir, and start it from restore(WORKDIR, state) to go on with that state"
        raise InputError(what, where=workdir, todo=todo)
    streamed = saved.get("streamed") != ours.get("streamed")
    for name in ours.keys() - {"programs", "by", "rates", "start", "data", "given", "streamed"}:
        if saved.get(name) != ours[name]:
            what = f"holds {kind} with another {name}: it was {saved.get(name)}, it is {ours[name]}"
            raise InputError(what, where=workdir, todo=AGAIN)
    for name in ("rates", "given", "data", "start"):
        lines = _differences(saved[name], ours[name])
        if name == "start" and lines and found is not None and describe(found()) == ours["start"]:
            continue
        if lines and not (name == "data" and streamed):
            other = "other" if name in ("rates", "data") else "another"
            raise InputError(f"holds {kind} with {other} {name}: {some(lines, 3)}", where=workdir, todo=AGAIN)
    unlike = [name for name, digest in ours["programs"].items() if saved["programs"].get(name) != digest]
    if unlike and saved["by"] == ours["by"] and not streamed:
        what = f"holds {kind} of another {unlike[0]}: its code, its optimizer, a schedule or a constant in it differs"
        raise InputError(what, where=workdir, todo=AGAIN)
    if unlike or streamed:
        changed = "data that are read in another way" if streamed else some(_differences(saved["by"], ours["by"]), 3)
        logger.warning("%s goes on with %s: whether it is the same %s cannot be told", workdir, changed, kind[2:])


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs, by name; of digests only that they do."""
    lines = []
    for name in sorted(before.keys() | now.keys()):
        old, new = (_word(side.get(name)) for side in (before, now))
        if before.get(name) != now.get(name):
            lines.append(f"{name} differs" if old == new else f"{name} was {old}, is {new}")
    return lines


def _word(value: Any) -> str:
    if value is None:
        return "not there"
    return value.partition("#")[0].strip() if isinstance(value, str) else str(np.float32(value))


def describe(tree: Tree) -> dict[str, str]:
    """Every leaf by its path: shape, dtype and digest, computed on the host as every save does.

    A leaf of NumPy counts as what JAX makes of it.
    """

    def seen(leaf: Any) -> Any:
        return (
            leaf
            if isinstance(leaf, jax.Array)
            else np.asarray(leaf, jax.dtypes.canonicalize_dtype(jnp.asarray(leaf).dtype))
        )

    leaves = to_host(jax.tree.map(seen, tree))[0]
    return {path: f"{shape_of(leaves[path])} #{digest:08x}" for path, digest in leaf_digests(leaves).items()}


def describe_data(data: Tree) -> tuple[dict[str, str], Tree]:
    """Every leaf by its path: shape, dtype and digest, computed where the data lie; and their shapes, as a tree.

    A set that devices divide is filled up by its last row (`data.divided`): as many as all divided leaves of one length
    repeat at their end are left out, so that it is the same set on any number of devices.
    """
    leaves = {path: leaf if hasattr(leaf, "dtype") else np.asarray(leaf) for path, leaf in named_leaves(data).items()}
    totals, ends = {}, {}
    for path, leaf in leaves.items():
        total, tail = _digest_by_row(leaf, _parts(leaf) - 1)
        totals[path], ends[path] = int(total), np.asarray(gather(tail))
    filled: dict[int, int] = {}
    for path, leaf in leaves.items():
        if _parts(leaf) > 1:
            repeated = int(np.argmin(np.append(ends[path][::-1][1:] == ends[path][-1], False)))
            filled[len(leaf)] = min(filled.get(len(leaf), repeated), repeated)
    described, shapes = {}, {}
    for path, leaf in leaves.items():
        shape = list(np.shape(leaf))
        if _parts(leaf) > 1 and filled[shape[0]]:
            rows = np.arange(shape[0] - filled[shape[0]], shape[0], dtype=np.uint32)
            extra = np.asarray(_mixed_rows(ends[path][-len(rows) :], rows), np.uint64).sum()
            totals[path], shape[0] = (totals[path] - int(extra)) % 2**32, shape[0] - len(rows)
        dtype = leaf.dtype if is_key(leaf) else jax.dtypes.canonicalize_dtype(leaf.dtype)
        described[path] = f"{dtype}{shape} #{totals[path]:08x}"
        shapes[path] = jax.ShapeDtypeStruct(shape, dtype)
    return described, map_named(lambda path, _: shapes[path], data)


def _parts(leaf: Any) -> int:
    """How many devices divide the rows of a leaf."""
    if not isinstance(leaf, jax.Array) or not leaf.size or not leaf.ndim:
        return 1
    return leaf.shape[0] // leaf.sharding.shard_shape(leaf.shape)[0]


def _digest_by_row(leaf: Any, others: int) -> tuple[Any, Any]:
    """As `_by_row`; on the host, where nothing has to be compiled, if the leaf is small and all there."""
    there = isinstance(leaf, jax.Array) and not leaf.is_fully_addressable
    if there or leaf.size * leaf.dtype.itemsize > SMALL:
        return _by_row_there(leaf, others)
    leaf = np.asarray(jax.random.key_data(leaf) if is_key(leaf) else leaf)
    return _by_row(leaf.astype(jax.dtypes.canonicalize_dtype(leaf.dtype)), others, np)


def _by_row(leaf: Any, others: int, xp: Any) -> tuple[Any, Any]:
    """A sum over rows of the digest of each and its position, which no order of adding changes; the last digests.

    Args:
        leaf: array of any shape and dtype.
        others: how many digests before the last one are returned with it.
        xp: `numpy` or `jax.numpy`.
    """
    words = _words(leaf.reshape(len(leaf) if leaf.ndim and leaf.size else 1, -1), xp)
    columns = _mix(xp.arange(1, words.shape[1] + 1, dtype=xp.uint32))
    rows = xp.sum(_mix(words ^ columns[None]), axis=1, dtype=xp.uint32)
    total = xp.sum(_mixed_rows(rows, xp.arange(len(rows), dtype=xp.uint32)), dtype=xp.uint32)
    return total, rows[len(rows) - others - 1 :]


@functools.partial(jax.jit, static_argnums=1)
def _by_row_there(leaf: jax.Array, others: int) -> tuple[jax.Array, jax.Array]:
    return _by_row(jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf, others, jnp)


def _mixed_rows(digests: Any, positions: Any) -> Any:
    return _mix(digests ^ _mix(positions + 1))


def _words(rows: Any, xp: Any) -> Any:
    """[N, M] of any dtype in numbers of 32 bits that tell all its values apart."""
    if xp.iscomplexobj(rows):
        rows = xp.concatenate([rows.real, rows.imag], axis=1)
    if rows.dtype.itemsize == 8:
        return rows.view(xp.uint32)
    if jnp.issubdtype(rows.dtype, jnp.floating):
        return rows.astype(xp.float32).view(xp.uint32)
    return rows.astype(xp.uint32)


def _mix(x: Any) -> Any:
    """The finaliser of MurmurHash3 (Austin Appleby, 2011): every bit of x reaches every bit of the result."""
    x = (x ^ (x >> 16)) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * np.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def jaxpr_of(program: Callable, state: Tree, given: Tree, rates: Mapping[str, Any]) -> Callable[[Tree], ClosedJaxpr]:
    """(like data) -> what a program (state, data, fixed) computes, without a mesh: the same on any.

    All rates, defaults too, stand in it as numbers: a default that is stated makes no other program of it. Those that
    are 0 stand there as their defaults, since a decay may be asked for only where it has something to shrink.
    """
    numbers = {name: np.float32(rate) for name, rate in rates.items() if rate}

    def shape(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(np.shape(leaf), leaf.dtype if is_key(leaf) else jnp.result_type(leaf))

    def with_rates(state: Tree, data: Tree, given: Tree) -> Any:
        return program(state, data, Fixed(numbers, given))

    return lambda like: jax.make_jaxpr(with_rates)(*jax.tree.map(shape, (state, like, given)))


def _digest_of_program(program: ClosedJaxpr) -> str:
    """A digest of its text without addresses, and of its constants, which the text shortens."""
    digest = zlib.crc32(re.sub(r" at 0x[0-9a-f]+", "", str(program)).encode())
    for constant in _constants(program):
        value = np.asarray(jax.random.key_data(constant) if is_key(constant) else constant, order="C")
        digest = zlib.crc32(value.reshape(-1).view(np.uint8).data, zlib.crc32(shape_of(value).encode(), digest))
    return f"{digest:08x}"


def _constants(part: Any) -> Iterator[Any]:
    """Arrays that stand in a program, those of its inner programs too."""
    if isinstance(part, ClosedJaxpr):
        yield from part.consts
        part = part.jaxpr
    if isinstance(part, Jaxpr):
        for equation in part.eqns:
            yield from (value.val for value in equation.invars if isinstance(value, Literal) and np.ndim(value.val))
            for inner in equation.params.values():
                yield from _constants(inner)
    elif isinstance(part, tuple | list):
        for inner in part:
            yield from _constants(inner)
