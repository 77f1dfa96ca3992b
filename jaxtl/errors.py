"""Everything a user can get wrong ends in an `InputError`: what happened, where, and what to do about it.

Every stop that is not a bug is a `Stop` with an exit code, so that `cli` needs no table of exceptions.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


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
        self.what, self.where, self.todo = _on_one_line(what), _on_one_line(str(where)), _on_one_line(todo)
        head = f"{self.where}: {self.what}" if self.where else self.what
        super().__init__(f"{head}\n  {self.todo}" if todo else head)


def _on_one_line(text: str) -> str:
    """What a file name or a flag may hold, in characters that can be printed: a line feed as \\n."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


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
