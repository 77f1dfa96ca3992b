"""What somebody who gets a model has to know."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxtl.text import markdown


def card_lines(model: Any) -> list[str]:
    """What somebody who gets the model has to know, by line."""
    card, many = model.card, model.inputs.many
    lines = [
        model.kind.sentence(model.classes),
        f"Trunk: {model.trunk} ({card['origin']}; licence {card['licence']})",
        "Learned from {examples} of {data} by {method}".format_map(card),
        model.inputs.in_words(),
        model.kind.meaning(model.reading),
        f"Knows nothing of {many} of another kind than those it learned from",
    ]
    if "unseen" in card:
        lines.insert(3, f"{many.capitalize()} left out: {card['unseen']}")
    return lines


def _short(values: np.ndarray) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


def card(model: Any) -> str:
    """The model card, as Markdown."""
    lines = "\n".join(f"- {markdown(line)}" for line in card_lines(model))
    return f"# A model of {markdown(str(model.card['data']))}\n\n{lines}\n"
