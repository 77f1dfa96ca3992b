"""Everything a user can get wrong ends in an `InputError`: what happened, where, and what to do about it.

Every stop that is not a bug is a `Stop` with an exit code, so that `cli` needs no table of exceptions.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import numbers
from collections.abc import Iterable
from typing import Any

from jaxtl.text import printable


class Stop(Exception):
    """A run ends here for a reason that is told in one or two lines, without a traceback."""

    exit_code = 1


class InputError(Stop, ValueError):
    """The user's input cannot be used. At most two lines: what and where, then what to do.

    Args:
        what: what is wrong, with the offending value.
        where: a path, a parameter or a flag; put in front of `what`.
        todo: the next step, on a line of its own.

    Example:
        >>> print(InputError("rate -1 is negative", where="penalty/new", todo="use a rate >= 0"))
        penalty/new: rate -1 is negative
          use a rate >= 0
    """

    exit_code = 2

    def __init__(self, what: str, *, where: object = "", todo: str = ""):
        self.what, self.where, self.todo = printable(what), printable(str(where)), printable(todo)
        head = f"{self.where}: {self.what}" if self.where else self.what
        super().__init__(f"{head}\n  {self.todo}" if todo else head)

    def __reduce__(self) -> tuple[Any, ...]:
        """As what it was made of: it may arise in another process."""
        return functools.partial(InputError, where=self.where, todo=self.todo), (self.what,)


class NotFinite(Stop):
    """The loss is no longer a number; what was saved before stays."""

    exit_code = 3


class Interrupted(Stop):
    """A signal asked the run to stop and everything up to the last chunk is saved."""

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.exit_code = 128 + signal_number


def suggest(name: str, known: Iterable[str]) -> str:
    """Say what a mistyped name may have meant, and otherwise what is known.

    Example:
        >>> suggest("learning_rat", ["learning_rate", "steps"])
        "did you mean 'learning_rate'?"
        >>> suggest("zzz", ["b", "a"])
        'known: a, b'
    """
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known) or 'none'}"


def kind_of(value: Any) -> str:
    """What a user handed over, in words.

    Example:
        >>> kind_of(None), kind_of({}), kind_of("10")
        ('None', 'a dict', "'10'")
    """
    if value is None or isinstance(value, str | bool | int | float):
        return repr(value)
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return f"{value.dtype}{list(value.shape)}"
    return f"a {type(value).__name__}"


def whole_number(value: Any, where: str, least: int = 1) -> int:
    """An integer ≥ `least`, of Python or NumPy; texts, fractions and truth values are none.

    Raises:
        InputError: another kind of value, or a smaller one.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise InputError(f"{kind_of(value)} is no whole number", where=where)
    if value < least:
        raise InputError(f"{value} is less than {least}", where=where)
    return int(value)


def check_takes(fn: Any, count: int, *, where: str, todo: str) -> None:
    """Refuse what cannot be called with `count` arguments, before the work and not in the middle of it.

    Raises:
        InputError: no function, or one of other arguments.
    """
    if not callable(fn):
        raise InputError(f"{kind_of(fn)} is no function", where=where, todo=todo)
    try:
        signature = inspect.signature(fn)
    except ValueError:  # one that does not say what it takes
        return
    try:
        signature.bind(*range(count))
    except TypeError:
        name = getattr(fn, "__name__", type(fn).__name__)
        raise InputError(f"{name}{signature} cannot be called with {count} arguments", where=where, todo=todo) from None
