"""Blocks of configurations: several training runs by one program, as many at once as fit the memory.

Rates are arguments of the program, so that no value compiles it again. A block is spread over the devices; on each
device its configurations run side by side ("vmap"), one after another inside the program ("map"), or one a call
("loop"). Which is fastest depends on the operators and on the machine, so it can be measured.

Several processes take a block each, on their own devices, and exchange what comes of it: all of them know everything
after each round of blocks, and go on alike.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxtl.devices import processes
from jaxtl.errors import InputError, kind_of
from jaxtl.loop import raise_if_stopped
from jaxtl.step import Fixed, TrainState, compile_step, program_of
from jaxtl.trees import Tree

BATCHINGS = ("loop", "map", "vmap")
MANY, FEW = 8, 2  # configurations a device, to measure with
SHORT = 0.1  # seconds of one configuration: below, many are measured, and more than once
COPIES = 4  # of a state while it is trained: the old one, the new one, gradients, updates
MEMORY = 2**31  # bytes, where a device does not say how many it has, as the CPU

AXIS = "configurations"
SPLIT, SHARED = PartitionSpec(AXIS), PartitionSpec()


class Choice(NamedTuple):
    """How blocks are run: batching, configurations a device, and the measured seconds a configuration by batching."""

    batching: str
    width: int
    seconds: dict[str, float]


class Programs(NamedTuple):
    """(states, data, Fixed of stacked rates) -> (states, _), and -> (states, scores), for a block of any size.

    alone: they take one state and its rates instead, unstacked; `train` is then the very program that `fit` compiles.
    """

    train: Any
    score: Any
    alone: bool


class Blocks:
    """Runs blocks of configurations.

    Args:
        train, score, calls: as in `sweep`.
        data, given: shared by all configurations.
        rates: {name: [K]}.
        alike: which of "step" and "rng" all configurations have in common. Side by side, they then see one batch and
            one augmentation, made once: half the work of a small model.
        memory: bytes of a device for the configurations of a block; half of the device when left out.
    """

    def __init__(
        self,
        train: Callable,
        score: Callable,
        calls: int,
        data: Any,
        given: Tree,
        rates: Mapping[str, np.ndarray],
        alike: tuple[str, ...],
        memory: int | None,
    ):
        self.calls, self.rates = calls, rates
        self.programs = functools.partial(_programs, train, score, alike)
        self.measured = _measured(train, alike)
        self.devices = tuple(jax.local_devices())
        mesh = Mesh(np.array(self.devices), AXIS)
        self.split = NamedSharding(mesh, SPLIT)
        self.shared = {True: (data, given), False: jax.device_put((data, given), NamedSharding(mesh, SHARED))}
        limit = (self.devices[0].memory_stats() or {}).get("bytes_limit", 2 * MEMORY)
        self.memory = limit // 2 if memory is None else memory

    def choose(self, batching: str, states: Tree, configurations: np.ndarray) -> Choice:
        """How to run these configurations; "auto" measures one call of `train` on a few of them, once in a process."""
        seconds: dict[str, float] = {}
        if batching == "auto" and len(configurations) > len(self.devices) * processes.count():
            like = len(configurations), self.devices, self.memory
            if like not in self.measured:  # the first measures, alone on its machine, and all follow it
                found = [json.dumps(self._measure(states, configurations)).encode()] if processes.is_first() else []
                self.measured[like] = json.loads(b"".join(processes.broadcast(found)))
            seconds = self.measured[like]
        elif batching == "auto":
            batching = "loop"
        chosen = min(seconds, key=lambda name: seconds[name]) if seconds else batching
        width = -processes.agreed(-self._width(chosen, states, configurations))  # the least memory decides
        return Choice(chosen, width, seconds)

    def _measure(self, states: Tree, configurations: np.ndarray) -> dict[str, float]:
        """Seconds per configuration of one call of `train`, by batching."""
        seconds: dict[str, float] = {}
        for name in BATCHINGS:
            width = self._width(name, states, configurations, MANY if seconds.get("loop", 0.0) < SHORT else FEW)
            size = min(width * len(self.devices), len(configurations))
            seconds[name] = self._seconds(name, width, states, configurations) / size
        return seconds

    def run(self, choice: Choice, states: Tree, configurations: np.ndarray, done: int) -> tuple[Tree, np.ndarray]:
        """Train and score the next block, one of each process.

        Args:
            choice: how.
            states: stacked [n]; donated.
            configurations: [n], which ones these are, for their rates.
            done: how many of them have had their turn.

        Returns:
            (states [n], scores of the blocks; −inf where a score or a parameter is not finite).
        """
        programs = self.programs(choice.batching, self.devices)
        width = min(choice.width, self._needed(configurations))
        size = width * len(self.devices)
        begin = done + size * processes.index()
        block, data, fixed = self._block(programs.alone, states, configurations, begin, width)
        for _ in range(self.calls):
            raise_if_stopped(f"with {done} of {len(configurations)} configurations done")
            block = _state_of(jax.block_until_ready(programs.train(block, data, fixed)))
        block, scores = programs.score(block, data, fixed)
        if programs.alone and processes.count() == 1:
            return _put_one(states, block, done), np.asarray(scores)[None]
        block, scores = processes.joined((block, scores), stacked=not programs.alone)
        index = done + np.arange(size * processes.count())  # what fills up the last blocks is dropped
        states = _put(states, jax.device_put(block, self.devices[0]), index)
        return states, np.asarray(scores)[: len(configurations) - done]

    def _needed(self, configurations: np.ndarray) -> int:
        """Configurations a device when all run at once."""
        return -(-len(configurations) // (len(self.devices) * processes.count()))

    def _width(self, batching: str, states: Tree, configurations: np.ndarray, at_most: int | None = None) -> int:
        """How many configurations a device takes at once: as the state's size suggests, then as the compiler says."""
        if batching == "loop":
            return 1
        each = sum(leaf.nbytes for leaf in jax.tree.leaves(states)) // len(configurations)
        needed = self._needed(configurations)
        width = max(1, min(needed, at_most or needed, self.memory // (COPIES * each + 1)))
        while width > 1:
            width = -(-needed // -(-needed // width)) if at_most is None else width  # blocks of equal size
            if batching == "map":  # needs what one configuration needs, however many wait
                break
            block, data, fixed = self._block(False, states, configurations, 0, width)
            program = self.programs(batching, self.devices).train.lower(block, data, fixed).compile()
            analysis = program.memory_analysis()  # `run` will find this program compiled
            wanted = analysis.temp_size_in_bytes + analysis.output_size_in_bytes
            if wanted <= self.memory:
                break
            width = max(1, width * self.memory // wanted)
        return width

    def _seconds(self, batching: str, width: int, states: Tree, configurations: np.ndarray) -> float:
        """Seconds of a block in one call of `train`, compiled before: the least of three, or of one if that is long."""
        train, _, alone = self.programs(batching, self.devices)
        train.lower(*self._block(alone, states, configurations, 0, width)).compile()
        times: list[float] = []
        while len(times) < 3 and sum(times) < SHORT:
            arguments = jax.block_until_ready(self._block(alone, states, configurations, 0, width))
            if processes.count() == 1:  # of several one measures, and cannot ask the others
                raise_if_stopped("while measuring")
            began = time.perf_counter()
            jax.block_until_ready(train(*arguments))
            times.append(time.perf_counter() - began)
        return min(times)

    def _block(
        self, alone: bool, states: Tree, configurations: np.ndarray, begin: int, width: int
    ) -> tuple[Tree, Any, Fixed]:
        """Copies of the next states, data, and rates, spread over the devices; the last one fills up the last block."""
        data, given = self.shared[alone]
        if alone:
            begin = min(begin, len(configurations) - 1)
            rates = {name: column[configurations[begin]] for name, column in self.rates.items()}
            return take(states, np.int32(begin)), data, Fixed(rates, given)
        index = np.minimum(begin + np.arange(width * len(self.devices)), len(configurations) - 1)
        rates = {name: column[configurations[index]] for name, column in self.rates.items()}
        block, rates = jax.device_put((take(states, index), rates), self.split)
        return block, data, Fixed(rates, given)


@functools.lru_cache(maxsize=64)
def _measured(train: Callable, alike: tuple[str, ...]) -> dict[tuple, dict[str, float]]:
    """{(configurations, devices, memory): seconds by batching}: what was measured holds for the next sweep like it."""
    return {}


@functools.lru_cache(maxsize=64)
def _programs(train: Callable, score: Callable, alike: tuple[str, ...], batching: str, devices: tuple) -> Programs:
    mesh = Mesh(np.array(devices), AXIS)

    def trained(state, data, fixed):
        return _state_of(train(state, data, fixed)), None

    def scored(state, data, fixed):
        value = score(state, data, fixed)
        if not isinstance(value, jax.Array | np.ndarray | np.generic | float | int):
            raise InputError(f"returns {kind_of(value)}", where="sweep score", todo="return a scalar")
        value = jnp.asarray(value, jnp.float32)
        if value.shape:
            raise InputError(f"has shape {value.shape}", where="sweep score", todo="return a scalar")
        return state, jnp.where(jnp.isfinite(value) & _all_finite(state.params), value, -jnp.inf)

    if batching == "loop" and len(devices) == 1:
        return Programs(program_of(train), compile_step(scored), alone=True)

    def compiled(one):
        def of_a_device(states, data, fixed):
            def each(state, rates):
                return one(state, data, Fixed(rates, fixed.given))

            if batching == "vmap":
                axes = TrainState._make(None if name in alike else 0 for name in TrainState._fields)
                first = states._replace(**{name: getattr(states, name)[0] for name in alike})
                after, value = jax.vmap(each, (axes, 0), (axes, 0))(first, fixed.rates)
                width = (len(states.step),)
                again = {name: jnp.broadcast_to(getattr(after, name), width) for name in alike}
                return after._replace(**again), value
            if batching == "map":
                return jax.lax.map(lambda pair: each(*pair), (states, fixed.rates))
            only = jax.tree.map(lambda leaf: leaf[0], (states, fixed.rates))
            return jax.tree.map(lambda leaf: leaf[None], each(*only))

        fixed = Fixed._make((SPLIT, SHARED))
        specs = (SPLIT, SHARED, fixed)
        return compile_step(jax.shard_map(of_a_device, mesh=mesh, in_specs=specs, out_specs=SPLIT, check_vma=False))

    return Programs(compiled(trained), compiled(scored), alone=False)


def _state_of(returned: Any) -> TrainState:
    """The state of (state, anything)."""
    match returned:
        case (TrainState() as state, _):
            return state
    todo = "return (state, anything), as make_epoch and make_train_step do"
    raise InputError(f"returns {kind_of(returned)}", where="sweep train", todo=todo)


def _all_finite(params: Tree) -> jax.Array:
    """An accuracy is finite whatever the logits are."""
    leaves = [leaf for leaf in jax.tree.leaves(params) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return functools.reduce(jnp.logical_and, [jnp.all(jnp.isfinite(leaf)) for leaf in leaves], jnp.bool_(True))


@jax.jit
def take(states: Tree, index: np.ndarray) -> Tree:
    """The states at these positions."""
    return jax.tree.map(lambda leaf: leaf[index], states)


@functools.partial(jax.jit, donate_argnums=0)
def _put(states: Tree, block: Tree, index: np.ndarray) -> Tree:
    return jax.tree.map(lambda leaf, new: leaf.at[index].set(new, mode="drop"), states, block)


@functools.partial(jax.jit, donate_argnums=0)
def _put_one(states: Tree, state: Tree, position: int) -> Tree:
    return jax.tree.map(lambda leaf, new: leaf.at[position].set(new), states, state)


def common(states: TrainState) -> tuple[str, ...]:
    """Which of "step" and "rng" are the same in all of these states."""
    found = {"step": states.step, "rng": jax.random.key_data(states.rng)}
    return tuple(name for name, leaf in jax.device_get(found).items() if np.all(leaf == leaf[:1]))
