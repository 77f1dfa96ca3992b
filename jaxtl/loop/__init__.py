"""`fit`: run a step until it is done, and lose nothing when it is not.

Works in chunks of `chunk` steps, one dispatch each. Everything else (a row of history, evaluation, a checkpoint, a
signal) happens at the end of a chunk, so a run that goes on from a checkpoint repeats exactly what it would have done.

Saving waits until the checkpoint has been read back, unless it is asked to go on behind. On 2 busy CPU cores it took
0.1 s for 0.2 to 8 MB of state and 1.3 to 3.9 s for 200 MB, once in `every` steps.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jax.sharding import Mesh

from jaxtl import checkpoints, processes
from jaxtl.errors import InputError, Interrupted, NotFinite
from jaxtl.loop.book import Book, Log, Row
from jaxtl.loop.finite import Spoilt, first_to_go
from jaxtl.placement import everywhere, place
from jaxtl.step import Fixed, TrainState, default_rates, program_of
from jaxtl.writers import Progress

HINT = "lower the learning rate, pass clip_norm, or look for labels outside 0…C−1 and NaN in the data"


@runtime_checkable
class Stream(Protocol):
    """Data that come batch by batch: `data.Stream`, or anything like it.

    Attributes:
        like: a batch as a tree of `jax.ShapeDtypeStruct`.
    """

    like: Any

    def batches(self, first: int) -> Generator[Any, None, None]:
        """The batch of step `first`, of the next step, and so on; a function of the step alone. Closed when done."""
        ...


@dataclasses.dataclass
class StopRequest:
    """The signal, if any, that asked all loops of this process to stop at the end of their chunk."""

    signal_number: int | None = None


stop_request = StopRequest()


def request_stop(signal_number: int) -> None:
    """Ask every running and later `fit` to save at the end of its chunk and raise `Interrupted`."""
    stop_request.signal_number = signal_number


def asked_to_stop() -> int:
    """The signal that asked this process, or any that works with it, to stop; 0 if none did. They all have to call."""
    return processes.agreed(stop_request.signal_number or 0)


def refuse_stop(doing: str) -> None:
    """Raise `Interrupted` if a stop was requested: for long work between two fits, where nothing waits to be saved.

    Of several processes all have to call.
    """
    if signal_number := asked_to_stop():
        raise Interrupted(f"stopped {doing}", signal_number)


class Stoppable(Progress):
    """A display of work that has nothing to save: it ends where a stop was requested, at the next sign of progress."""

    def advance(self, n: int = 1, **values: float) -> None:
        super().advance(n, **values)
        if stop_request.signal_number is not None:  # this process alone may be waiting for data
            raise Interrupted("stopped before there was anything to save", stop_request.signal_number)


def fit(
    step: Callable,
    state: TrainState,
    data: Any,
    fixed: Fixed,
    *,
    steps: int,
    chunk: int = 1,
    evaluate: Callable[[TrainState], Mapping[str, float]] | None = None,
    every: int | None = None,
    best: str | None = None,
    mesh: Mesh | None = None,
    workdir: Path | str | None = None,
    save_behind: bool = False,
    log: Log | None = None,
    progress: str = "",
) -> tuple[TrainState, list[Row]]:
    """Train from `state` until `state.step == steps`.

    Args:
        step: a pure step (`make_train_step`); compiled here, once for all fits of the same step and chunk.
        state: donated; keep only what comes back.
        data: handed to every step; of a `Stream`, the batch of that step.
        fixed: rates and given trees, handed to every step.
        steps: total number of steps, counted from step 0.
        chunk: steps in one dispatch. `steps` and `every` are multiples of it. A `Stream` is read ahead while the device
            works, and takes one step a dispatch whatever is said here.
        evaluate: state -> figures, at the end of every row.
        every: steps between two rows of history, and between two checkpoints; `steps` when left out.
        best: one of evaluate's figures, larger being better; the state with the highest (the first such) comes back
            instead of the last.
        mesh: devices that share each batch, and parameters if it says so, see `placement`; the state that comes back is
            on it. Data may lie there already (`on_device(..., sharding=...)`), or are put on every device.
        workdir: where checkpoints go, from step 0 on, and where an interrupted run of the same kind goes on from; no
            other process may use it meanwhile.
        save_behind: go on with the next chunk while a checkpoint is written, at the price of a second copy of the state
            on the device; an error is told at the next save, or at the end. Otherwise what has been saved is on disk
            before the next chunk begins.
        log: gets each row as it is made.
        progress: what to call this work on a progress display; none when empty.

    Returns:
        (state, history); a row of history is {"step", mean of each training metric since the last row, evaluate's
        figures}.

    Raises:
        InputError: lengths that do not fit, negative rates, one label with both a penalty and a decay.
        NotFinite: the loss or a parameter is NaN or infinite. The last checkpoint, which is neither, stays; the steps
            after it are repeated one by one to name the parameters that went first.
        Interrupted: a stop was requested; everything is saved if there is a workdir.
    """
    every = steps if every is None else every
    _check_lengths(steps, chunk, every)
    if isinstance(data, Stream):
        chunk = 1
    _check_rates(_defaults(step, frozenset(fixed.rates), state, data, fixed), fixed)
    # 0, 0.1 and np.float64(0.1) are three types to the compiler, and would be three programs
    fixed = fixed._replace(rates={name: np.asarray(rate, np.float32) for name, rate in fixed.rates.items()})
    state, data, fixed = (state, data, fixed) if mesh is None else _on(mesh, state, data, fixed)
    run = program_of(step, chunk, mesh)
    with contextlib.ExitStack() as until_the_end:
        if workdir is not None and not checkpoints.is_owned(workdir):
            until_the_end.enter_context(checkpoints.own(workdir))
        book = until_the_end.enter_context(contextlib.closing(Book(workdir, best, log, save_behind)))
        state = _begin(state, steps, book)
        done = int(state.step)
        display = until_the_end.enter_context(Progress(steps, progress, start=done)) if progress else None
        batches = until_the_end.enter_context(contextlib.closing(_batches(data, done)))
        try:
            while done < steps:
                state, metrics = run(state, next(batches), fixed)
                book.meter.add(done, metrics)
                done += chunk
                if display is not None:
                    display.advance(chunk, loss=book.meter.last_loss)
                ends_row = done % every == 0 or done == steps
                if ends_row:
                    book.end_row(done, state, evaluate)
                signal_number = asked_to_stop()
                if signal_number and not ends_row:
                    book.meter.flush(state)
                    book.save(state)
                if signal_number and done < steps:
                    raise Interrupted(f"stopped at step {done} of {steps}", signal_number)
        except Spoilt as spoilt:
            first = _first_to_go(spoilt, book, program_of(step, 1, mesh), state, data, fixed)
            raise NotFinite(f"step {spoilt.step}: {spoilt.what}{first}\n  {HINT}") from None
    return book.best(state), book.history


def _on(mesh: Mesh, state: TrainState, data: Any, fixed: Fixed) -> tuple[TrainState, Any, Fixed]:
    """All that a step is given, on the mesh; the batches of a stream come where the stream puts them."""
    data = data if isinstance(data, Stream) else everywhere(data, mesh)
    return place(state, mesh), data, fixed._replace(given=place(fixed.given, mesh))


def _batches(data: Any, first: int) -> Generator[Any, None, None]:
    """What each dispatch is given: the batches of a stream, from step `first` on, or the same tree every time."""
    if isinstance(data, Stream):
        yield from data.batches(first)
    while True:
        yield data


@functools.lru_cache(maxsize=64)
def _read_by(step: Callable) -> dict[frozenset, dict[str, Any]]:
    return {}


def _defaults(step: Callable, names: frozenset, state: TrainState, data: Any, fixed: Fixed) -> dict[str, Any]:
    """The defaults of every rate a step reads; traced once for each step and set of overridden names."""
    known = _read_by(step)
    if names not in known:
        known[names] = default_rates(step, state, data.like if isinstance(data, Stream) else data, fixed)
    return known[names]


def _check_lengths(steps: int, chunk: int, every: int) -> None:
    for name, value in (("steps", steps), ("chunk", chunk), ("every", every)):
        if value < 1:
            raise InputError(f"{value} is less than 1", where=f"fit {name}")
        if value % chunk:
            raise InputError(f"{value} is not a multiple of chunk={chunk}", where=f"fit {name}")


def _check_rates(defaults: Mapping[str, Any], fixed: Fixed) -> None:
    """Refuse negative rates, and a label that pays a penalty and decays: it would be shrunk twice."""
    rates = {name: np.asarray(value) for name, value in {**defaults, **fixed.rates}.items()}
    for name, value in rates.items():
        if not np.all(value >= 0):
            raise InputError(f"{value} is negative or NaN", where=f"rates['{name}']", todo="use a number >= 0")
    decaying = {name.removeprefix("decay/") for name, v in rates.items() if name.startswith("decay/") and np.any(v > 0)}
    for name, value in rates.items():
        label = name.removeprefix("penalty/")
        if label != name and np.any(value > 0):
            for twice in decaying & {label, label.rpartition("/")[0]}:
                raise InputError(
                    f"has a penalty in the loss ({value}) and decays in the optimizer ({rates[f'decay/{twice}']})",
                    where=f"label '{twice}'",
                    todo=f"keep one: rates['{name}'] or rates['decay/{twice}']",
                )


def _begin(state: TrainState, steps: int, book: Book) -> TrainState:
    """Where to start: at the newest checkpoint, or at `state`."""
    resumed = book.resume(state)
    state = state if resumed is None else resumed
    if int(state.step) > steps:
        what = f"the state is at step {int(state.step)} already"
        raise InputError(what, where=f"fit steps={steps}", todo="ask for more steps")
    if resumed is None:
        book.save(state)  # what cannot be saved is told before the work, not after it
    if book.log is not None:
        book.log.rewind(int(state.step))
    return state


def _first_to_go(spoilt: Spoilt, book: Book, run: Callable, state: TrainState, data: Any, fixed: Fixed) -> str:
    """The parameters that were the first that are not finite, going again from the last checkpoint; "" without one."""

    def again(state, batches, fixed):
        return run(state, next(batches), fixed)

    with contextlib.suppress(InputError):  # a checkpoint that cannot be read is not what stopped the run
        if (saved := book.resume(state)) is not None:
            with contextlib.closing(_batches(data, int(saved.step))) as batches:
                return first_to_go(spoilt, again, saved, batches, fixed)
    return ""
