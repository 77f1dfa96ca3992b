"""Who makes units of work: this process, one after another, or an executor of `concurrent.futures`.

A unit is a pure function of what it says, so that it does not matter who makes it, in which order, or how often. An
executor that is in use (`using`) is that of every comparison which is not handed another: an experiment says what is to
be done, and its command line where.
"""

from __future__ import annotations

import contextlib
import contextvars
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from typing import TypeVar

from jaxtl.loop import raise_if_stopped

PATIENCE = 0.5  # seconds until a request to stop is heard

Unit = TypeVar("Unit")
Made = TypeVar("Made")

_in_use: contextvars.ContextVar[Executor | None] = contextvars.ContextVar("executor", default=None)


@contextlib.contextmanager
def using(executor: Executor | None) -> Iterator[None]:
    """Within the `with` block every comparison asks this executor, unless it is handed another.

    Example:
        >>> from concurrent.futures import ThreadPoolExecutor
        >>> with ThreadPoolExecutor(1) as pool, using(pool):
        ...     in_use() is pool
        True
    """
    token = _in_use.set(executor)
    try:
        yield
    finally:
        _in_use.reset(token)


def in_use() -> Executor | None:
    """The executor of this process; None where it makes units itself."""
    return _in_use.get()


def each_made(
    work: Callable[[Unit], Made], units: Iterable[Unit], executor: Executor | None = None
) -> Iterator[tuple[Unit, Made]]:
    """Units with what `work` makes of each, as soon as it is there: what has arrived can be kept before the rest is.

    Args:
        work: unit -> what is made of it, a pure function.
        units: hashable or not; an executor is never given more of them at once than `ahead` says.
        executor: of `concurrent.futures`; left out, the one that is in use, else they are made here, in their order.

    Yields:
        (unit, made); with an executor in the order in which they are finished.

    Raises:
        Interrupted: a stop was requested while others were at work.

    Example:
        >>> list(each_made(abs, [3, -2]))
        [(3, 3), (-2, 2)]
    """
    executor = executor or in_use()
    if executor is None:
        yield from ((unit, work(unit)) for unit in units)
        return
    rest, waiting = iter(units), dict[Future[Made], Unit]()
    try:
        while True:
            for unit in itertools.islice(rest, max(0, ahead(executor) - len(waiting))):
                waiting[executor.submit(work, unit)] = unit
            if not waiting:
                return
            finished, _ = wait(waiting, timeout=PATIENCE, return_when=FIRST_COMPLETED)
            for future in sorted(finished, key=_failed):  # what has arrived is kept before an error ends the rest
                yield waiting.pop(future), future.result()
            raise_if_stopped("while others were at work")
    finally:
        for future in waiting:
            future.cancel()


def _failed(future: Future) -> bool:
    return future.cancelled() or future.exception() is not None


def ahead(executor: Executor) -> int:
    """How many units it is given at once: one that is made and one that waits, for each worker."""
    known = getattr(executor, "ahead", None)
    return 2 * (os.cpu_count() or 1) if known is None else known
