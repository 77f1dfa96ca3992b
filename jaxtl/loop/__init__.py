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
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jax.sharding import Mesh

from jaxtl import checkpoints
from jaxtl.checkpoints.origin import Origin, jaxpr_of, origin
from jaxtl.devices import processes
from jaxtl.devices.placement import replicate, shard_params
from jaxtl.errors import InputError, Interrupted, NotFinite
from jaxtl.loop import arguments
from jaxtl.loop.finite import NotFiniteAt, advice, first_not_finite
from jaxtl.loop.history import History, Log, Row
from jaxtl.step import Fixed, TrainState, program_of, traced
from jaxtl.writers import Progress


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


def raise_if_stopped(doing: str) -> None:
    """Raise `Interrupted` if a stop was requested: for long work between two fits, where nothing waits to be saved.

    Of several processes all have to call.
    """
    if signal_number := asked_to_stop():
        raise Interrupted(f"stopped {doing}", signal_number)


class StoppableProgress(Progress):
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
        workdir: where checkpoints go, from step 0 on, and where an interrupted run goes on from, or one that is to take
            more steps; no other process may use it meanwhile. With each goes what made it: rates, defaults among them,
            `given`, the first state, the data (of a `Stream` its first batch), `best`, and the step, code and constants
            alike (not what a callback computes on the host). With another of these it is refused. What may change:
            `steps`, `every`, `evaluate`, `log`, `progress`; and, where results are then equal to rounding,
            `chunk`, the mesh, the devices and the versions of the libraries.
        log: gets each row as it is made.
        progress: what to call this work on a progress display; none when empty.

    Returns:
        (state, history); a row of history is {"step", mean of each training metric since the last row, evaluate's
        figures}.

    Raises:
        InputError: arguments of another kind, lengths that do not fit, negative rates, one label with both a penalty
            and a decay, a workdir that holds another run.
        NotFinite: the loss or a parameter is NaN or infinite. The last checkpoint, which is neither, stays; the steps
            after it are repeated one by one to name the parameters that went first.
        Interrupted: a stop was requested; everything is saved if there is a workdir.
    """
    every = steps if every is None else every
    arguments.check_lengths(steps, chunk, every)
    arguments.check_surroundings(mesh, workdir, log, progress, best)
    arguments.check_work(step, state, fixed, evaluate)
    like = data.like if isinstance(data, Stream) else data
    arguments.check_data(like)
    chunk = 1 if isinstance(data, Stream) else chunk
    known = _known(step, frozenset(fixed.rates), state, like, fixed)
    if best is not None and evaluate is None and best not in known.metrics:
        raise InputError(f"evaluate returns no '{best}'", where="fit best", todo=f"it has {sorted(known.metrics)}")
    _check_rates(known.defaults, fixed)
    # 0, 0.1 and np.float64(0.1) are three types to the compiler, and would be three programs
    fixed = fixed._replace(rates={name: np.asarray(rate, np.float32) for name, rate in fixed.rates.items()})
    made = {} if workdir is None else _origin(step, state, data, fixed, known.defaults, best)
    state, data, fixed = (state, data, fixed) if mesh is None else _on(mesh, state, data, fixed)
    run = program_of(step, chunk, mesh)
    with contextlib.ExitStack() as until_the_end:
        if workdir is not None and not checkpoints.is_owned(workdir):
            until_the_end.enter_context(checkpoints.own(workdir))
        book = History(workdir, best, log, made)
        state = _begin(state, steps, chunk, book)
        done = int(state.step)
        display = until_the_end.enter_context(Progress(steps, progress, start=done)) if progress else None
        batches = until_the_end.enter_context(contextlib.closing(_batches(data, done)))
        try:
            while done < steps:
                state, metrics = run(state, next(batches), fixed)
                book.meter.add(done, metrics)
                done += chunk
                ends_row = done % every == 0 or done == steps
                if ends_row:
                    book.end_row(done, state, evaluate)
                if display is not None:
                    display.advance(chunk, **book.meter.shown)
                signal_number = asked_to_stop()
                if signal_number and not ends_row:
                    book.meter.flush(state)
                    book.save(state)
                if signal_number and done < steps:
                    raise Interrupted(f"stopped at step {done} of {steps}", signal_number)
        except NotFiniteAt as spoilt:
            first = _first_to_go(spoilt, book, program_of(step, 1, mesh), state, data, fixed)
            raise NotFinite(f"step {spoilt.step}: {spoilt.what}{first}\n  {advice(spoilt.before)}") from None
    return book.best(state), book.history


def _on(mesh: Mesh, state: TrainState, data: Any, fixed: Fixed) -> tuple[TrainState, Any, Fixed]:
    """All that a step is given, on the mesh; the batches of a stream come where the stream puts them."""
    data = data if isinstance(data, Stream) else replicate(data, mesh)
    return shard_params(state, mesh), data, fixed._replace(given=shard_params(fixed.given, mesh))


def _batches(data: Any, first: int) -> Generator[Any, None, None]:
    """What each dispatch is given: the batches of a stream, from step `first` on, or the same tree every time."""
    if isinstance(data, Stream):
        yield from data.batches(first)
    while True:
        yield data


class Known(NamedTuple):
    """What a step reads and says: the defaults of all its rates, the names of its metrics."""

    defaults: dict[str, Any]
    metrics: list[str]


@functools.lru_cache(maxsize=64)
def _known_of(step: Callable) -> dict[frozenset, Known]:
    return {}


def _known(step: Callable, names: frozenset, state: TrainState, like: Any, fixed: Fixed) -> Known:
    """Traced once for each step and set of overridden names."""
    known = _known_of(step)
    if names not in known:
        defaults, returned = traced(step, state, like, fixed)
        known[names] = Known(defaults, arguments.check_returned(state, returned))
    return known[names]


def _origin(
    step: Callable, state: TrainState, data: Any, fixed: Fixed, defaults: Mapping[str, Any], best: str | None
) -> Origin:
    """What makes the states of this run."""
    streamed = isinstance(data, Stream)
    if streamed:
        with contextlib.closing(data.batches(0)) as batches:
            data = next(batches)
    rates = {name: rate for name, rate in {**defaults, **fixed.rates}.items() if rate is not None}
    program = jaxpr_of(step, state, fixed.given, rates)
    return origin(rates, state, data, fixed.given, {"step": program}, streamed=streamed, best=best)


def _check_rates(defaults: Mapping[str, Any], fixed: Fixed) -> None:
    """Refuse negative rates, and a label that pays a penalty and decays: it would be shrunk twice."""
    rates = {**defaults, **fixed.rates}
    rates = {name: np.asarray(value) for name, value in rates.items() if value is not None}
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


def _begin(state: TrainState, steps: int, chunk: int, book: History) -> TrainState:
    """Where to start: at the newest checkpoint, or at `state`."""
    began, resumed = int(state.step), book.resume(state)
    state = state if resumed is None else resumed
    if int(state.step) % chunk:
        what = f"the state is at step {int(state.step)}, which is not a multiple of it"
        raise InputError(what, where=f"fit chunk={chunk}", todo="use a chunk that divides both")
    if int(state.step) > steps:
        what = f"the state is at step {int(state.step)} already"
        raise InputError(what, where=f"fit steps={steps}", todo="ask for more steps")
    if resumed is None:
        book.save(state)  # what cannot be saved is told before the work, not after it
    book.tell_again(began)
    return state


def _first_to_go(spoilt: NotFiniteAt, book: History, run: Callable, state: TrainState, data: Any, fixed: Fixed) -> str:
    """The parameters that were the first that are not finite, going again from the last checkpoint; "" without one."""

    def again(state, batches, fixed):
        return run(state, next(batches), fixed)

    with contextlib.suppress(InputError):  # a checkpoint that cannot be read is not what stopped the run
        if (saved := book.resume(state)) is not None:
            with contextlib.closing(_batches(data, int(saved.step))) as batches:
                return first_not_finite(spoilt, again, saved, batches, fixed)
    return ""
