"""What the processes of a federated run agree on, and what only the owner of the examples knows."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from jaxtl.checkpoints.origin import describe
from jaxtl.data import Split
from jaxtl.errors import InputError, kind_of, whole_number
from jaxtl.methods.federated import Rounds
from jaxtl.methods.federated.memory import Memory
from jaxtl.methods.federated.sharing import Leaves, leaves_at
from jaxtl.program import Weights
from jaxtl.step import Fixed, TrainState, init_state
from jaxtl.trees import named_leaves, shape_of

PARAMS, STATE, CONTROL = "params", "state", "control"  # parts of what is sent, first word of a path


class Parcel(NamedTuple):
    """What goes over the network and nothing else: arrays by path, "params/head/kernel", and numbers by name."""

    arrays: Mapping[str, np.ndarray]
    numbers: Mapping[str, float | int]


class Own(NamedTuple):
    """What only one client has; of it nothing leaves its process but what the label tree lets out.

    Attributes:
        client: its number among all, from 0 on; random draws go by it.
        split: its examples.
        workdir: a directory of its own, where parts that stay with it last between rounds; needed if there are any.
        weight: in the mean; its number of examples when left out.
    """

    client: int
    split: Split
    workdir: str | Path | None = None
    weight: float | None = None

    @property
    def counts(self) -> float:
        """Its weight in the mean."""
        return float(len(self.split) if self.weight is None else self.weight)


@dataclasses.dataclass(frozen=True)
class Plan:
    """A run of rounds, made alike in every process.

    Args:
        program: what `rounds` returns.
        weights: what all begin with.
        rounds: how many.
        seed: of the run: `keys` makes of it what `program.start` and `on_clients` take in a single process.
        rates: those that differ from the program's defaults.
        workdir: of the server, for checkpoints, metrics.jsonl and the model; clients do not look at it.

    Raises:
        InputError: another program, or one with `privacy`; no round, an unknown rate.
    """

    program: Rounds
    weights: Weights
    rounds: int
    seed: int = 0
    rates: Mapping[str, float] = dataclasses.field(default_factory=dict)
    workdir: str | Path | None = None

    def __post_init__(self):
        if not isinstance(self.program, Rounds):
            todo = "make one with jaxtl.methods.federated.rounds"
            raise InputError(f"{kind_of(self.program)} is no program of rounds", where="Plan program", todo=todo)
        if self.program.local.privacy:
            what = "noise by a seed that every client knows hides nothing from them"
            raise InputError(what, where="Plan program", todo="leave privacy out, or run it in one process")
        whole_number(self.rounds, "Plan rounds")
        whole_number(self.seed, "Plan seed", least=0)
        self.program.fixed(self.rates)

    @property
    def fixed(self) -> Fixed:
        """What steps and server read."""
        fixed = self.program.fixed(self.rates)
        return fixed._replace(rates={name: np.float32(rate) for name, rate in fixed.rates.items()})

    def begin(self) -> TrainState:
        """The server's state before the first round; what clients keep is not in it."""
        rng, _ = keys(self.seed)
        memory = self.program.memory(self.weights)._replace(own={}, own_state={}, controls={})
        return init_state(self.program.own(self.weights.params), self.program.tx, rng, memory)

    def sent(self, state: TrainState) -> Parcel:
        """What clients of a round are sent: all that moves and is shared, and which round it is."""
        memory: Memory = state.model_state
        shared, _ = self.program.sharing.split_state(memory.state)
        parts = {PARAMS: leaves_at(state.params, self.program.sharing.sent), STATE: shared, CONTROL: memory.control}
        return Parcel(packed(parts), {"round": int(state.step), "run": self.run})

    @property
    def run(self) -> int:
        """A digest of all that has to be the same in every process and after every restart."""
        how = {name: float(rate) for name, rate in self.fixed.rates.items()}
        said = [self.seed, self.program.clients, self.program.sampled, sorted(how.items())]
        return zlib.crc32(repr([*said, sorted(describe(self._common()).items())]).encode())

    def _common(self) -> Leaves:
        """The leaves that all begin with; those that stay with clients may have moved already."""
        params = self.program.own(self.weights.params)
        moving = self.program.sharing.personal
        every = {path: leaf for path, leaf in named_leaves(params).items() if path not in moving}
        return every | self.program.sharing.split_state(self.program.memory(self.weights).state)[0]


def keys(seed: int) -> tuple[jax.Array, jax.Array]:
    """(the key of a run, that of the orders of its data).

    A single process with both ends where server and clients do: `program.start(weights, rng)`,
    `on_clients(split, parts, order)`.

    Example:
        >>> rng, order = keys(0)
        >>> rng == order
        Array(False, dtype=bool)
    """
    rng, order = jax.random.split(jax.random.key(seed))
    return rng, order


def packed(parts: Mapping[str, Leaves]) -> dict[str, np.ndarray]:
    """{"part/path": array} of some leaves.

    Example:
        >>> sorted(packed({"params": {"head/kernel": np.ones(2)}, "state": {}}))
        ['params/head/kernel']
    """
    return {f"{part}/{path}": np.asarray(leaf) for part, leaves in parts.items() for path, leaf in leaves.items()}


def unpacked(arrays: Mapping[str, np.ndarray], like: Mapping[str, Leaves], where: str) -> dict[str, Leaves]:
    """The parts of a parcel, if it holds just what is expected of it.

    Args:
        arrays: what came.
        like: what should have come, arrays of these shapes and dtypes.
        where: from whom, for the message.

    Raises:
        InputError: a leaf that is missing, unknown, of another shape or dtype.
    """
    expected = {f"{part}/{path}": shape_of(leaf) for part, leaves in like.items() for path, leaf in leaves.items()}
    found = {path: shape_of(leaf) for path, leaf in arrays.items()}
    wrong = sorted(path for path in expected.keys() | found.keys() if expected.get(path) != found.get(path))
    if wrong:
        what = f"'{wrong[0]}' is {found.get(wrong[0], 'missing')}, not {expected.get(wrong[0], 'expected at all')}"
        raise InputError(what, where=where, todo="run the same app, with the same --run-config, everywhere")
    return {part: {path: arrays[f"{part}/{path}"] for path in leaves} for part, leaves in like.items()}
