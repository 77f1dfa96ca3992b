"""Where a run speaks to a person."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from jaxtl.text import printable


class Terminal(Console):
    r"""A console of rich: a text given to `print` is one line and shows what names in it hold, unobeyed.

    Args:
        options: of rich's `Console`. Tables and `Text` of rich pass as they are: whoever makes them escapes.

    Example:
        >>> Terminal().print("a class called [/b]\x1b[2J")
        a class called [/b]\x1b[2J
    """

    def __init__(self, **options: Any):
        super().__init__(highlight=False, markup=False, emoji=False, **options)

    def print(self, *objects: Any, **how: Any) -> None:
        super().print(*(printable(text) if isinstance(text, str) else text for text in objects), **how)
