"""What somebody who gets a model has to know."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxtl.text import markdown


def card_lines(model: Any) -> list[str]:
    """What somebody who gets the model has to know, by line."""
    card = model.card
    lines = [
        model.kind.sentence(model.classes),
        f"Trunk: {model.trunk} ({card['origin']}; licence {card['licence']})",
        "Learned from {pictures} labelled pictures of {data} by {method}".format_map(card),
        f"Pictures: upright, transparency on white, shorter edge to {model.size} pixels, the middle cut out, RGB 0 to "
        f"255, then (x − mean) / std with mean {_short(model.mean)} and std {_short(model.std)}",
        model.kind.meaning(model.reading),
        "Knows nothing of pictures of another kind than those it learned from",
    ]
    if "unseen" in card:
        lines.insert(3, f"Left-out pictures: {card['unseen']}")
    return lines


def _short(values: np.ndarray) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


def card(model: Any) -> str:
    """The model card, as Markdown."""
    lines = "\n".join(f"- {markdown(line)}" for line in card_lines(model))
    return f"# A model of {markdown(str(model.card['data']))}\n\n{lines}\n"
