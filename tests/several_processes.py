"""Run by test_processes.py in several processes: what one alone meets, what each reads, a sweep that they share."""

from __future__ import annotations

import dataclasses
import json
import signal
from pathlib import Path
from typing import ClassVar, Literal
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxtl import cli, loop
from jaxtl.data import Split, Stream, on_device
from jaxtl.devices import peers, processes
from jaxtl.devices.placement import by_example, make_mesh
from jaxtl.errors import InputError
from jaxtl.step import init_state, make_epoch
from jaxtl.sweep import sweep
from jaxtl.sweep.batching import Blocks
from jaxtl.trees import named_leaves

peers.GRACE = peers.SETTLING = 0.5  # on one machine all is known sooner


@dataclasses.dataclass(frozen=True)
class Config:
    may_change: ClassVar = ("stop_after",)
    scene: Literal["refuses", "fails", "shares", "sweeps"] = "shares"
    batching: str = "auto"
    stop_after: int = -1  # blocks of the last process, which is then asked to stop


class Images(np.ndarray):
    """An array that remembers how many of its rows were asked for."""

    read = 0

    def __getitem__(self, rows):
        found = np.asarray(super().__getitem__(rows))
        Images.read += len(found)
        return found


def reads() -> list[int]:
    """How many rows each process has read since the last time."""
    mine, Images.read = Images.read, 0
    return [processes.agreed(mine if processes.index() == process else 0) for process in range(processes.count())]


def shares(workdir: Path) -> None:
    """Eight examples over two devices, at once and in batches of four."""
    sharding = by_example(make_mesh([f"data:{jax.device_count()}"]))
    values = np.arange(8 * 3, dtype=np.uint8).reshape(8, 3, 1, 1)
    split, key = Split(values.view(Images), np.arange(8)), jax.random.key(0)
    Images.read = 0
    together = on_device(split, key, sharding=sharding)
    figures = {"set": reads(), "batches": []}
    total = jax.jit(lambda x: x.astype("float32").sum())
    assert float(total(together["image"])) == values.sum()
    # read one batch at a time: threads ahead of the second would blur who has read what
    stream = Stream(split, key, batch_size=4, sharding=sharding)
    seen = 0.0
    for step in range(2):
        reads()
        batch = stream._batch(step)
        figures["batches"].append(reads())
        seen += float(total(batch["image"]))
    assert seen == values.sum(), "two batches are an epoch: every example once"
    (workdir / "summary.json").write_text(json.dumps(figures))


def sweeps(config: Config, workdir: Path) -> None:
    """Seven configurations in two rungs; what each process trains is counted."""
    tx, mine = optax.sgd(0.1, momentum=0.9), []

    def init(point):
        state = init_state({"w": jnp.zeros(3)}, tx, jax.random.key(point["seed"]))
        return state, {"rate": point["rate"]}

    def step(state, target, fixed):
        noise = jax.random.normal(jax.random.fold_in(state.rng, state.step), (3,))
        gradient = {"w": fixed.rates["rate"] * (state.params["w"] - target + 0.1 * noise)}
        updates, opt_state = tx.update(gradient, state.opt_state)
        params = optax.apply_updates(state.params, updates)
        return state._replace(step=state.step + 1, params=params, opt_state=opt_state), None

    def score(state, target, fixed):
        return -jnp.sum((state.params["w"] - target) ** 2)

    def run(blocks, choice, states, configurations, done):
        mine.append(len(configurations))
        if len(mine) == config.stop_after and processes.index() == processes.count() - 1:
            loop.request_stop(signal.SIGTERM)
        return run_block(blocks, choice, states, configurations, done)

    run_block = Blocks.run
    grid = {"rate": [0.1, 0.3, 0.5, 0.7, 0.9, 1.1, 1e30], "seed": list(range(7))}
    with mock.patch.object(Blocks, "run", run):
        result = sweep(
            *(init, make_epoch(step, 5), score, grid, jnp.arange(3.0), {}),
            **{"rungs": 2, "keep": 0.5, "calls": 2, "batching": config.batching, "workdir": workdir},
        )
    states = {path: np.asarray(leaf).tolist() for path, leaf in named_leaves(result.states.params).items()}
    figures = {"scores": result.scores[:6].tolist(), "alive": result.alive.tolist(), "states": states, "blocks": mine}
    (workdir / "summary.json").write_text(json.dumps(figures))


def main(config: Config, workdir: Path) -> None:
    if config.scene == "shares":
        shares(workdir)
    elif config.scene == "sweeps":
        sweeps(config, workdir)
    elif processes.is_first():
        processes.agreed(0)  # for ever: the others never ask
    elif config.scene == "refuses":
        raise InputError("no such data", where=workdir / "photos", todo="fetch them")
    else:
        raise ZeroDivisionError("a bug")


if __name__ == "__main__":
    cli.run(main, Config)
