"""What is said of a class: sentences with its name, or a description where the name says nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

Wording = Literal["name", "photo", "photos"]
TEMPLATES = ("a photo of a {}.", "a blurry photo of a {}.", "a photo of a small {}.", "a close-up photo of a {}.")
DIGITS = (  # strokes of a written digit
    "a closed loop, tall and round, empty inside",
    "a vertical stroke, straight and tall",
    "an open curve above, a diagonal, a horizontal stroke below",
    "an open curve above, an open curve below",
    "a diagonal, a horizontal stroke in the middle, a vertical stroke",
    "a horizontal stroke above, a vertical stroke, an open curve below",
    "a diagonal, a closed loop below",
    "a horizontal stroke above, a diagonal, straight",
    "a closed loop above, a closed loop below",
    "a closed loop above, a vertical stroke below",
)


def captions(classes: Sequence[str], wording: Wording) -> list[list[str]]:
    """Sentences for every class.

    Args:
        classes: their names; where all are digits, what is said is how they are written.
        wording: "name": the name alone; "photo": one sentence with it; "photos": several sentences.

    Returns:
        As many for each.

    Example:
        >>> captions(["maple_tree"], "photo"), captions(["7"], "photo")
        ([['a photo of a maple tree.']], [['a horizontal stroke above, a diagonal, straight']])
    """
    if all(name.isdecimal() and int(name) < len(DIGITS) for name in classes):
        return [[DIGITS[int(name)]] for name in classes]
    templates = {"name": ("{}",), "photo": TEMPLATES[:1], "photos": TEMPLATES}[wording]
    return [[template.format(name.replace("_", " ")) for template in templates] for name in classes]
