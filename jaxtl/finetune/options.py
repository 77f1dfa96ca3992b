"""What is asked of a fine-tuning: the fields of its command line and of `tl.finetune`."""

from __future__ import annotations

import dataclasses
import re
from typing import Annotated, ClassVar, Literal

from jaxtl import bounds
from jaxtl.bounds import Refusal, shortened
from jaxtl.data.targets import Task
from jaxtl.finetune.recipes import RECIPES
from jaxtl.finetune.tfidf import TFIDF
from jaxtl.protocol import MEASURES

AUTO = "auto"
HEADS = {
    "ridge": "ridge regression to one-hot labels, or to numbers, on features of the frozen trunk; λ by leave-one-out",
    "logistic": "logistic regression on features of the frozen trunk, one for each of several labels; λ by folds",
    "logistic_adjusted": "logistic, its logits less the logarithm of how frequent each class is",
    TFIDF: "of texts: logistic regression on words weighted by how rare they are, without a network; λ by folds within",
}
NAMES = {**HEADS, **{name: recipe.means for name, recipe in RECIPES.items()}}
UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0}


@dataclasses.dataclass(frozen=True)
class Duration:
    """A time with its unit: 90s, 10min, 2h."""

    def __str__(self) -> str:
        return "such as 90s, 10min, 2h"

    def refusal(self, value: str) -> Refusal | None:
        """Why a text is no time."""
        found = re.fullmatch(r"(\d{1,6}(?:\.\d{1,6})?)(s|min|h)", value)
        if found and 1 <= float(found[1]) * UNITS[found[2]] <= 7 * 24 * 3600:
            return None
        return Refusal(f"'{shortened(value)}' is no time", f"write one of a second to a week, {self}")


def seconds_of(duration: str) -> float:
    """A time in seconds.

    Example:
        >>> seconds_of("10min"), seconds_of("1.5h")
        (600.0, 5400.0)
    """
    found = re.fullmatch(r"([\d.]+)(s|min|h)", duration)
    assert found  # `Duration` has been asked
    return float(found[1]) * UNITS[found[2]]


@dataclasses.dataclass(frozen=True)
class Options:
    """What is asked for; every default is visible."""

    # a folder of pictures, .txt files or recordings (.npy, .wav, .csv) per class; CSV or JSON lines of file or text and
    # label; or a set's name
    data: bounds.Place = ""
    # what labels are: classes, a number, several labels (red;round, or a JSON list); auto: what they look like, said
    task: Task = "auto"
    # the pretrained network; auto: efficientnet_lite0, of texts minilm_l6, where it can be had; tfidf: none
    trunk: bounds.Place = "auto"
    budget: Annotated[str, Duration()] = "10min"  # of time for all of it, about
    # some of those below; by default the heads and, as the budget allows, logistic_l2_sp, l2_sp, lr_ratio
    methods: Annotated[tuple[Annotated[str, bounds.OneOf("method", NAMES)], ...], bounds.Items(0, distinct=True)] = ()
    # what decides; auto: accuracy of classes, average_precision of several labels, r2 of numbers
    measure: Annotated[str, bounds.OneOf("measure", [AUTO, *MEASURES])] = AUTO
    # auto: where classes differ in size and the measure asks for each of them, weights and adjusted logits
    balance: Literal["auto", "on", "off"] = "auto"
    # pixels of an edge of pictures, tokens of a text that see each other, samples of a window; 0: the trunk's
    size: Annotated[int, bounds.Within(0, 1024)] = 0
    skip_bad: bool = False  # leave files out that cannot be read, and say which
    seed: bounds.Seed = 0

    may_change: ClassVar[tuple[str, ...]] = ("budget",)
    glossary: ClassVar[dict[str, str]] = NAMES
