"""Names in pictures: all fonts at hand are asked, and what none can draw becomes a number with a key in the text."""

from __future__ import annotations

import functools
import re
from itertools import filterfalse
from typing import TYPE_CHECKING

from jaxtl.text import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.ft2font import FT2Font
    from matplotlib.text import Text

FIRST = "DejaVu Sans"  # comes with matplotlib
NO_LETTERS = re.compile("Last Resort|cm[a-z]+10|STIX(NonUnicode|Size)|DejaVu Sans Display")  # boxes, or signs elsewhere
WORD = re.compile(r"[^\s,;:()]+")
KEPT = "\n\u200c\u200d"  # line ends are ours; joiners belong to spelling
RIGHT_TO_LEFT = "\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\U00010800-\U00010fff\U0001e800-\U0001efff"
BACKWARDS = re.compile(f"[{RIGHT_TO_LEFT}]+(?:[ ,]+[{RIGHT_TO_LEFT}]+)*")
LIGATED = re.compile(f"[{RIGHT_TO_LEFT}\u0900-\u109f\u1780-\u17ff]")  # wrong when set letter by letter from the left
ISOLATE, POP = "\u2067", "\u2069"  # right to left, and nothing around it is turned


def fit_to_fonts(figure: Figure, key: dict[str, str]) -> None:
    """Give every text of a figure the fonts that it needs.

    A word with a character that no font has is replaced by a number in brackets; control characters by their escapes.

    Args:
        figure: complete.
        key: word -> number, of all pictures of a report; what is new is added.
    """
    from matplotlib.text import Text

    fitted: dict[str, str] = {}

    def fit(text: str) -> str:
        if text not in fitted:
            fitted[text] = _fitted(text, key)
            fitted[fitted[text]] = fitted[text]  # axes may share their labels, and would be asked twice
        return fitted[text]

    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            labels = [label.get_text() for label in axis.get_ticklabels()]
            if any(fit(label) != label for label in labels):
                axis.set_ticks(axis.get_ticklocs(), [fit(label) for label in labels])
            for label in axis.get_ticklabels():
                _set_fonts(label)
    for text in figure.findobj(Text):
        if isinstance(text, Text):
            text.set_text(fit(text.get_text()))
            _set_fonts(text)


def _fitted(text: str, key: dict[str, str]) -> str:
    seen = "".join(c if c in KEPT else printable(c) for c in text)
    seen = WORD.sub(lambda m: m[0] if _can_draw(m[0]) else key.setdefault(m[0], f"[{len(key) + 1}]"), seen)
    return BACKWARDS.sub(lambda m: f"{ISOLATE}{m[0]}{POP}", seen)


def _can_draw(word: str) -> bool:
    return all(map(_family, word)) and (_shapes() or not LIGATED.search(word))


def _set_fonts(text: Text) -> None:
    others = dict.fromkeys(family for c in text.get_text() if (family := _family(c)) and family != FIRST)
    if others:
        text.set_fontfamily([FIRST, *others])


def _shapes() -> bool:
    """Whether matplotlib joins letters and turns scripts that run from right to left."""
    import matplotlib

    return matplotlib.__version_info__[:2] >= (3, 11)


@functools.cache
def _family(character: str) -> str | None:
    """A font family that has the character; None where none has."""
    from matplotlib.font_manager import findfont, fontManager

    code = ord(character)
    if character in "\n" + ISOLATE + POP or _draws(findfont(FIRST), code):
        return FIRST
    files = {font.name: font.fname for font in fontManager.ttflist if font.style == "normal"}
    families = sorted(filterfalse(NO_LETTERS.match, files), key=lambda name: ("Sans" not in name, name))
    return next((name for name in families if _draws(files[name], code)), None)


def _draws(path: str, code: int) -> bool:
    font = _opened(path)
    if font is None or not font.get_char_index(code):
        return False
    try:
        font.set_size(12, 72)
        font.load_char(code)
    except RuntimeError:  # a font of coloured pictures
        return False
    return True


@functools.lru_cache(maxsize=200)  # a font keeps its file open
def _opened(path: str) -> FT2Font | None:
    from matplotlib.ft2font import FT2Font

    try:
        return FT2Font(path)
    except (RuntimeError, OSError):
        return None
