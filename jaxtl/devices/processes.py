"""Several processes that run one program: on many machines, or on one.

All of them run the same code in step; arrays on a mesh over the devices of all make it one run (`placement`). What is
not an array is told here: whether any of them was asked to stop, what the first has in its directory, and how each
came to its end. One that is killed ends all, within seconds and with a line of its own; the first alone prints.

With one process, which is the rule, nothing here costs anything.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax

from jaxtl.devices.peers import Team, flush_all
from jaxtl.devices.rendezvous import Place, forward, meet
from jaxtl.errors import InputError
from jaxtl.text import printable

PATIENCE = 300.0  # seconds until all processes have to be there: time to start them by hand
STARTING = 120  # seconds for jax, once they are

__all__ = [
    *("agreed", "before_leaving", "broadcast", "count", "end", "index", "is_first", "join", "joined", "leave"),
]

_team: Team | None = None


def join(
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
    *,
    patience: float = PATIENCE,
) -> None:
    """Become one of several processes; before anything asks jax for a device.

    Without arguments Slurm, Open MPI and TPU pods are asked, which know them; elsewhere this process stays alone.

    Args:
        coordinator: "HOST:PORT" of process 0, free there and reachable for all. jax, and on several machines its
            collectives, use other ports between the same machines.
        processes: how many there are.
        process: the number of this one, from 0.
        patience: seconds to wait for all.

    Raises:
        InputError: arguments that do not fit, an address that is taken or not reached, processes that do not come.
    """
    global _team
    given = {"--coordinator": coordinator, "--processes": processes, "--process": process}
    absent = [flag for flag, value in given.items() if value is None]
    if 0 < len(absent) < len(given):
        raise InputError("missing", where=", ".join(absent), todo=f"give all of {', '.join(given)}, or none")
    place, local_device = (_detected(), _local_device()) if absent else (_place(coordinator, processes, process), None)
    if place is None or place.processes == 1 or _team is not None:
        return
    met = meet(place, patience)
    _team = Team(place.process, place.processes, met.connections)
    _start_jax(place, met.service, local_device if met.neighbours > 1 else None)


def count() -> int:
    """How many processes there are."""
    return 1 if _team is None else _team.processes


def index() -> int:
    """The number of this one, from 0."""
    return 0 if _team is None else _team.process


def is_first() -> bool:
    """Whether this process is the one that prints and writes."""
    return index() == 0


def agreed(value: int) -> int:
    """The largest value that any process gives, so that all go on alike: `agreed(stop)` is true if any has to stop.

    All of them have to ask, equally often; devices are not asked, and go on working.

    Example:
        >>> agreed(3)  # alone
        3
    """
    return value if _team is None else _team.agree(value)


def broadcast(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """What the first process gives, in every process; each has to read it to its end.

    Example:
        >>> list(broadcast([b"alone"]))
        [b'alone']
    """
    yield from pieces if _team is None else _team.broadcast(pieces)


def joined(tree: Any, *, stacked: bool = True) -> Any:
    """Arrays of every process, one after another along their first axis, in all of them.

    Args:
        tree: arrays of one shape in all processes, each on devices of its own.
        stacked: whether they have such an axis; otherwise it is made.

    Returns:
        The tree, with [processes · n, ...] for [n, ...].
    """
    from jax.experimental import multihost_utils

    if not stacked:
        tree = jax.tree.map(lambda leaf: leaf[None], tree)
    if _team is None:
        return tree
    leaves, structure = jax.tree.flatten(tree)
    numbers = [jax.random.key_data(leaf) if _is_key(leaf) else leaf for leaf in leaves]
    together = multihost_utils.process_allgather(jax.device_get(numbers), tiled=True)
    whole = [
        jax.random.wrap_key_data(found, impl=jax.random.key_impl(leaf)) if _is_key(leaf) else found
        for leaf, found in zip(leaves, together, strict=True)
    ]
    return jax.tree.unflatten(structure, whole)


def _is_key(leaf: Any) -> bool:
    return jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def before_leaving(action: Callable[[], None]) -> None:
    """Have something done when this process is ended because another one was."""
    if _team is not None:
        _team.before_leaving.append(action)


def end(code: int, text: str = "") -> int:
    """Come to the end of the run: with the others if there are any; what there is to say is said once, on stderr.

    One that failed ends the others; the first tells its reason, unless it has the same.

    Args:
        code: the exit code that this process would have by itself.
        text: what it has to say, if anything.

    Returns:
        The exit code of the run.
    """
    text = "\n".join(map(printable, text.split("\n")))  # names of parameters and paths hold anything
    if _team is not None:
        return _team.end(code, text)
    if text:
        print(text, file=sys.stderr)
    return code


def leave(code: int) -> None:
    """After `end`: leave at once if there are others. What jax does at the end of a process waits for all of them."""
    if _team is not None:
        sys.stdout.flush()
        sys.stderr.flush()
        flush_all(_team.before_leaving)
        os._exit(code)


def _place(coordinator: str | None, processes: int | None, process: int | None) -> Place:
    host, _, port = (coordinator or "").rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise InputError(f"'{coordinator}' is not HOST:PORT", where="--coordinator", todo="for example node1:8476")
    if processes is None or processes < 1:
        raise InputError(f"{processes} processes", where="--processes", todo="use a number >= 1")
    if process is None or not 0 <= process < processes:
        raise InputError(f"{process} of {processes} processes", where="--process", todo=f"use 0 to {processes - 1}")
    return Place(host.strip("[]"), int(port), processes, process)


def _detected() -> Place | None:
    """What started this process has told it, where jax knows how to ask: Slurm, Open MPI, TPU pods."""
    cluster = _cluster()
    if cluster is None:
        return None
    port = os.environ.get("JAX_COORDINATOR_PORT")
    try:
        if (processes := cluster.get_process_count()) == 1:
            return None
        address = cluster.get_coordinator_address(timeout_secs=STARTING, override_coordinator_port=port)
        return _place(address, processes, cluster.get_process_id())
    except (RuntimeError, ValueError, KeyError, OSError) as error:
        what = f"does not say clearly where the processes are: {' '.join(str(error).split())}"
        todo = "say it by --coordinator=HOST:PORT --processes=N --process=I; alone: any, 1 and 0"
        raise InputError(what, where=cluster.name, todo=todo) from error


def _local_device() -> int | None:
    """The only device of its machine that is for this process, where several share it and nothing else says so."""
    cluster = _cluster()
    if cluster is None or "tpu" in cluster.name:
        return None
    visible = [os.environ.get(name, "") for name in ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")]
    if any(names and "," not in names for names in visible):  # `srun --gpus-per-task=1` has chosen
        return None
    return cluster.get_local_process_id()


def _cluster():
    # jax.distributed.initialize() asks the same classes, but crashes where we want to tell what is wrong
    from jax._src import clusters

    known = (clusters.SlurmCluster, clusters.OmpiCluster, clusters.GkeTpuCluster, clusters.GceTpuCluster)
    return next((cluster for cluster in known if cluster.is_env_present()), None)


def _start_jax(place: Place, service: int, local_device: int | None) -> None:
    jax.config.update("jax_enable_preemption_service", False)  # signals are handled by `cli`
    jax.config.update("jax_check_proxy_envs", False)
    # jax's client speaks to this machine alone, see `forward`: no proxy of the environment is in its way
    elsewhere = os.environ.get("no_grpc_proxy")  # noqa: SIM112 (gRPC reads it so)
    os.environ["no_grpc_proxy"] = f"{elsewhere},127.0.0.1" if elsewhere else "127.0.0.1"  # noqa: SIM112
    port = forward(place.host, service) if place.process else service
    jax.distributed.initialize(
        f"127.0.0.1:{port}",
        place.processes,
        place.process,
        local_device_ids=local_device,
        cluster_detection_method="deactivate",
        initialization_timeout=STARTING,
    )
    with _nothing_on_stdout():  # gloo tells on stdout that it is connected
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices("jaxtl")


@contextlib.contextmanager
def _nothing_on_stdout() -> Iterator[None]:
    """For what is written below Python."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)
