"""Where arrays lie when there are several devices, of one process or of many: one mesh says it all.

    make_mesh(["data:4"])                    four devices share each batch; every one has all parameters
    make_mesh(["data:2", "parameters:4"])    eight share each batch, and four divide the parameters among them

A program means the same on any mesh: means, statistics and penalties are over the whole batch, whoever computes them
(`jit` with global semantics; Xu and others, GSPMD: General and Scalable Parallelization for ML Computation Graphs,
2021). The compiler sees to what has to be exchanged. Divided parameters are gathered where a layer needs them and
nowhere else; their optimizer state, anchors and checkpoints are divided in the same way (Rajbhandari and others, ZeRO:
Memory Optimizations Toward Training Trillion Parameter Models, 2020).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, get_abstract_mesh

from jaxtl.errors import InputError, suggest
from jaxtl.trees import Tree, named_leaves

DATA, PARAMETERS = "data", "parameters"
SMALL = 1024  # numbers: a leaf with fewer stays whole


def make_mesh(axes: Sequence[str]) -> Mesh:
    """All devices as a mesh.

    Args:
        axes: "data:N", "parameters:M" or both; the product is the number of devices.

    Raises:
        InputError: another axis, one that is named twice, or another number of devices.

    Example:
        >>> dict(make_mesh([f"data:{jax.device_count()}"]).shape) == {"data": jax.device_count()}
        True
    """
    sizes: dict[str, int] = {}
    for axis in axes:
        name, _, size = axis.partition(":")
        if name not in (DATA, PARAMETERS) or not size.isdecimal() or int(size) < 1 or name in sizes:
            todo = f"{suggest(name, (DATA, PARAMETERS))}; for example data:{jax.device_count()}"
            raise InputError(f"cannot use '{axis}'", where="mesh", todo=todo)
        sizes[name] = int(size)
    count = math.prod(sizes.values())
    if not sizes or count != jax.device_count():
        what = f"{' x '.join(axes) or 'no axis'} is {count} devices, and there are {jax.device_count()}"
        raise InputError(what, where="mesh", todo=f"use data:{jax.device_count()}")
    return jax.make_mesh(tuple(sizes.values()), tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes))


def by_example(mesh: Mesh) -> NamedSharding:
    """The first axis divided among all devices: for batches [B, ...] and sets of examples [N, ...]."""
    return NamedSharding(mesh, _by_example(mesh))


def shard_params(tree: Tree, mesh: Mesh) -> Tree:
    """Parameters, or anything that has leaves of their shapes, on the mesh: each device keeps its part of whole copies.

    Args:
        tree: arrays of any shape and dtype; of several processes all give the same values.
        mesh: see `make_mesh`.

    Returns:
        The tree; along "parameters" a leaf is divided on its longest axis that can be, if it is not small.
    """
    return jax.tree.map(lambda leaf: put(leaf, NamedSharding(mesh, _layout(leaf, mesh))), tree)


def replicate(tree: Tree, mesh: Mesh) -> Tree:
    """A tree of arrays whole on every device, but for leaves that lie on the mesh already: they stay as they are."""

    def there(leaf: Any) -> Any:
        on_it = isinstance(leaf, jax.Array) and leaf.sharding.device_set == set(mesh.devices.flat)
        return leaf if on_it else put(leaf, NamedSharding(mesh, PartitionSpec()))

    return jax.tree.map(there, tree)


def put(leaf: Any, sharding: jax.sharding.Sharding) -> jax.Array:
    """An array, or a random key, that all processes have, as one array over the devices of all of them."""
    if sharding.is_fully_addressable:
        return jax.device_put(leaf, sharding)
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(put(jax.random.key_data(leaf), sharding), impl=jax.random.key_impl(leaf))
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        return jax.jit(lambda x: x, out_shardings=sharding)(leaf)
    values = np.asarray(leaf)
    return jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])


def gather(leaf: jax.Array) -> jax.Array | np.ndarray:
    """What is divided among several processes, in one piece on each; they all have to ask. Anything else as it is."""
    if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated:
        return leaf
    return multihost_utils.process_allgather(leaf, tiled=True)


def to_local(tree: Tree) -> Tree:
    """On this process's first device, in one piece: what was trained on a mesh, for programs that know of none."""
    return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(gather(leaf))), tree)


def shard_batch(batch: Tree) -> Tree:
    """Within a program compiled for a mesh: the batch, every device working on its own examples.

    Args:
        batch: tree of arrays [B, ...].

    Returns:
        The same arrays; without a mesh nothing is asked of the compiler.

    Raises:
        InputError: the devices cannot share it equally.
    """
    mesh = _mesh_of_this_program()
    if mesh is None:
        return batch
    parts = mesh.size
    for path, leaf in named_leaves(batch).items():
        if len(leaf) % parts:
            what = f"{len(leaf)} examples on {parts} devices"
            raise InputError(what, where=f"batch '{path}'", todo=f"use a batch size that {parts} divides")
    return jax.lax.with_sharding_constraint(batch, _by_example(mesh))


def shared_out(fn: Callable[..., Tree], rows: Tree, *whole: Tree) -> Tree:
    """fn(rows, *whole), in which each row is worked on by itself: within a program compiled for a mesh, by part.

    Args:
        fn: of rows [R, ...] and of what is the same for all of them, to a tree of arrays [R, ...].
        rows: as many as `parts` divides; each device is given its share.
        whole: every device has all of it.
    """
    mesh = _mesh_of_this_program()
    if mesh is None:
        return fn(rows, *whole)
    split, same = _by_example(mesh), PartitionSpec()
    specs = (split, *(same for _ in whole))
    return jax.shard_map(fn, mesh=mesh, in_specs=specs, out_specs=split, check_vma=False)(rows, *whole)


def parts() -> int:
    """Among how many devices the program that is being compiled shares its rows out."""
    mesh = _mesh_of_this_program()
    return 1 if mesh is None else mesh.size


def constrain(tree: Tree) -> Tree:
    """Within a program compiled for a mesh: parameters and their like where `shard_params` put them."""
    mesh = _mesh_of_this_program()
    if mesh is None:
        return tree
    return jax.lax.with_sharding_constraint(tree, jax.tree.map(lambda leaf: _layout(leaf, mesh), tree))


def _mesh_of_this_program() -> Any:
    """None where there is none of ours: a sweep has one of its own; and within one device's share of the rows."""
    mesh = get_abstract_mesh()
    ours = not mesh.empty and set(mesh.axis_names) <= {DATA, PARAMETERS} and AxisType.Manual not in mesh.axis_types
    return mesh if ours else None


def _by_example(mesh: Any) -> PartitionSpec:
    return PartitionSpec(tuple(mesh.axis_names))


def _layout(leaf: Any, mesh: Any) -> PartitionSpec:
    """Along its longest axis that can be divided, unless it is small."""
    parts = mesh.shape.get(PARAMETERS, 1)
    axes = [axis for axis, length in enumerate(leaf.shape) if length % parts == 0]
    if parts == 1 or leaf.size < SMALL or not axes:
        return PartitionSpec()
    longest = max(axes, key=lambda axis: leaf.shape[axis])
    return PartitionSpec(*(PARAMETERS if axis == longest else None for axis in range(longest + 1)))
