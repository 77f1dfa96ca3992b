"""What a field of a `Config` may hold: bounds in its type, refused once for all fields and shown by --help.

    steps: cli.Steps = 150
    pull: cli.Span = (0.03, 30.0)
    methods: Annotated[tuple[Annotated[str, cli.OneOf("method", RECIPES)], ...], cli.Items(0, distinct=True)] = ()

A bound is anything with `refusal` and words of its own. What relates fields to each other, to the data or to the
machine is left to the experiment's `check`; `refuse_beyond_memory` and `refuse_too_many_runs` are for that.
"""

from __future__ import annotations

import dataclasses
import math
import os
import unicodedata
from collections.abc import Collection, Iterator
from typing import Annotated, Any, NamedTuple, Protocol, get_args, get_origin, get_type_hints

from jaxtl.errors import InputError, suggest

MOST_RUNS = 1_000_000
GIB = 2.0**30


class Refusal(NamedTuple):
    """What is wrong with a value, and what to do about it."""

    what: str
    todo: str


class Bound(Protocol):
    """What stands in the type of a field: `Annotated[int, Within(1, 10)]`."""

    def refusal(self, value: Any) -> Refusal | None:
        """Why the value cannot be used; None if it can."""


@dataclasses.dataclass(frozen=True)
class Within:
    """A number from low to high; `open` names the ends that are left out, "low" or "high".

    Example:
        >>> Within(1, 10).refusal(0).what, str(Within(0, 1, "high"))
        ('0 is less than 1', '[0, 1)')
    """

    low: float
    high: float
    open: str = ""

    def __str__(self) -> str:
        if not self.open:
            return f"{self.low:.10g} or more" if self.high >= 1e9 else f"{self.low:.10g} to {self.high:.10g}"
        return f"{'(' if self.open == 'low' else '['}{self.low:g}, {self.high:g}{')' if self.open == 'high' else ']'}"

    def refusal(self, value: float) -> Refusal | None:
        left_out = {"low": self.low, "high": self.high}.get(self.open)
        if self.low <= value <= self.high and value != left_out:
            return None
        shown = shortened(str(value))
        if not self.open and value < self.low:
            return Refusal(f"{shown} is less than {self.low:.10g}", f"use {self}")
        if not self.open and value > self.high:
            return Refusal(f"{shown} is more than {self.high:.10g}", "use less")
        return Refusal(f"{shown} is not in {self}", "use a number inside")


@dataclasses.dataclass(frozen=True)
class OneOf:
    """One of some names, that of a `noun`: "method", "part"."""

    noun: str
    names: Collection[str]

    def __str__(self) -> str:
        return ", ".join(self.names)

    def refusal(self, value: str) -> Refusal | None:
        if value in self.names:
            return None
        return Refusal(f"no {self.noun} '{shortened(value)}'", suggest(value, self.names))


@dataclasses.dataclass(frozen=True)
class Line:
    """Text of one line that a file can hold: no control characters, and no bytes that are no characters.

    `longest`: bytes; `part`: of anything between two slashes, for what names a file.
    """

    longest: int = 4000
    part: int = 4000

    def __str__(self) -> str:
        return ""

    def refusal(self, value: str) -> Refusal | None:
        for character in value:
            if unicodedata.category(character) in ("Cc", "Cs"):
                return Refusal(f"{shortened(value)!r} holds {character!r}", "use letters, digits, marks and spaces")
        for text, most in ((value, self.longest), *((part, self.part) for part in value.split("/"))):
            if len(text.encode()) > most:
                return Refusal(f"'{shortened(text)}' is longer than {most} bytes", "use a shorter name")
        return None


@dataclasses.dataclass(frozen=True)
class Items:
    """How many values a field of several has, and whether each may stand there once only."""

    least: int = 1
    most: int = 1000
    distinct: bool = False

    def __str__(self) -> str:
        return "" if self.least < 2 else f"{self.least} values" if self.least == self.most else f"{self.least} or more"

    def refusal(self, value: tuple[Any, ...]) -> Refusal | None:
        if not self.least <= len(value) <= self.most:
            what = "nothing is given" if not value else f"{len(value)} values"
            return Refusal(what, f"give {self.least}" + (f" to {self.most}" if self.most > self.least else ""))
        twice = next((one for i, one in enumerate(value) if one in value[:i]), None) if self.distinct else None
        return None if twice is None else Refusal(f"{shortened(str(twice))} is there twice", "give each value once")


@dataclasses.dataclass(frozen=True)
class Ascending:
    """low,high; where a value may be fixed, also that value alone."""

    fixed: bool

    def __str__(self) -> str:
        return "low,high or one value" if self.fixed else "low,high"

    def refusal(self, value: tuple[float, ...]) -> Refusal | None:
        low, high = (value[0], value[-1]) if value else (1.0, 0.0)
        if len(value) <= 2 and (low < high or (self.fixed and low == high)):
            return None
        one = ", or one value that is not searched" if self.fixed else ""
        return Refusal(f"{shortened(str(value))} is no range", f"give low,high with low < high{one}")


Count = Annotated[int, Within(1, 2**31 - 1)]
Steps = Annotated[int, Within(1, 10_000_000)]
Trials = Annotated[int, Within(1, 10_000)]
Draws = Annotated[int, Within(1, 1_000)]
PairedDraws = Annotated[int, Within(2, 1_000)]  # an interval takes two
Folds = Annotated[int, Within(2, 1_000)]
Points = Annotated[int, Within(2, 1_000)]  # of a grid or a path
Counts = Annotated[tuple[Count, ...], Items(1, distinct=True)]
Sizes = Annotated[tuple[Annotated[int, Within(0, 2**31 - 1)], ...], Items(1, distinct=True)]  # 0 is all
Seed = Annotated[int, Within(0, 2**32 - 1)]
Chunk = Annotated[int, Within(0, 10_000_000)]  # steps in one dispatch; 0 leaves the choice
Rate = Annotated[float, Within(0, 1e12)]
Positive = Annotated[float, Within(1e-12, 1e12)]
Rates = Annotated[tuple[Rate, ...], Items(1)]
Share = Annotated[float, Within(0, 1, "high")]
Pair = Annotated[tuple[Positive, ...], Items(2, 2)]
Span = Annotated[tuple[Positive, ...], Ascending(fixed=True)]  # searched log-uniformly; one value is not searched
Ends = Annotated[tuple[Positive, ...], Ascending(fixed=False)]  # of a grid
Width = Annotated[int, Within(1, 65_536)]
Widths = Annotated[tuple[Width, ...], Items(1, 100)]
Text = Annotated[str, Line()]
PATH = Line(longest=2000, part=255)
Place = Annotated[str, PATH]  # a path, or a name that may be one
Names = Annotated[tuple[Text, ...], Items(1, distinct=True)]
Words = Annotated[tuple[Text, ...], Items(0, distinct=True)]  # names that may be left out
Mesh = Annotated[tuple[Text, ...], Items(0, 2)]


def check(config: Any) -> None:
    """Refuse a config with a field outside its bounds.

    Raises:
        InputError: names the field, the value and the bound.
    """
    hints = get_type_hints(type(config), include_extras=True)
    for field in dataclasses.fields(config):
        for bound, value in _asked(hints[field.name], getattr(config, field.name)):
            if refusal := bound.refusal(value):
                raise InputError(refusal.what, where=f"--config.{field.name}", todo=refusal.todo)


def words(hint: Any) -> str:
    """The bounds of a field as --help shows them, those of all before those of each: "2 values, 0 to 1"."""
    placeholder = ("",) if get_origin(_bare(hint)) is tuple else ""
    return ", ".join(filter(None, (str(bound) for bound, _ in reversed(list(_asked(hint, placeholder))))))


def _asked(hint: Any, value: Any) -> Iterator[tuple[Bound, Any]]:
    """Every bound of a field with what it is asked about: each value of several first, then all of them together."""
    bare = _bare(hint)
    if get_origin(bare) is tuple:
        for part in value:
            yield from _asked(get_args(bare)[0], part)
    for bound in hint.__metadata__ if bare is not hint else ():
        yield bound, value


def _bare(hint: Any) -> Any:
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def shortened(text: str) -> str:
    """A value as a message shows it: the beginning of a long one."""
    return text if len(text) <= 60 else f"{text[:40]}… ({len(text)} characters)"


def refuse_beyond_memory(needed: float, what: str, *, where: str, todo: str) -> None:
    """Refuse what is larger than all the memory there is.

    Args:
        needed: bytes.
        what: takes them, with the figures they follow from: "20 models of 3,000 parameters".
        where, todo: see `InputError`.
    """
    if needed > (there := memory()):
        told = f"{what} take {needed / GIB:,.3g} GiB, and there are {there / GIB:.3g}"
        raise InputError(told, where=where, todo=todo)


def memory() -> float:
    """Bytes of this machine's memory, of an accelerator's where there is one; infinite where nobody tells."""
    import jax

    limits = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in limits:
        return float(limits["bytes_limit"])
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):
        return math.inf


def refuse_too_many_runs(count: float, what: str, *, where: str) -> None:
    """Refuse a plan of more runs than a store can hold.

    Args:
        count: of runs.
        what: their factors in words: "10 methods × 100 trials × 5 draws".
        where: the flag to lower.
    """
    if count > MOST_RUNS:
        raise InputError(f"{what} are {count:,.0f} runs", where=where, todo=f"plan at most {MOST_RUNS:,}")
