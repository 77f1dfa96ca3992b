"""Ways to learn from labelled source and unlabelled target examples; rows of a table on `problems.Adaptation`.

All see a batch of each domain in one forward pass, take the same number of steps, and choose their settings without
target labels. `target_only` is told the target's labels, and is a bound. What they train is in `term_recipes`,
`game_recipes` and `after_recipes`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Annotated, Any, ClassVar

from jaxtl import bounds
from jaxtl.errors import InputError
from jaxtl.methods.domain.after_recipes import AFTER, check_after
from jaxtl.methods.domain.game_recipes import disagreeing, played, rejecting, with_adversary
from jaxtl.methods.domain.norms import bsp
from jaxtl.methods.domain.term_recipes import aligned, classify_shared, of_features, source_only, target_only
from jaxtl.penalties import Term
from jaxtl.problems.adaptation import MEANS, ORACLE, VALIDATORS, Adaptation, AdaptationConfig
from jaxtl.program import Program
from jaxtl.protocol import Budget, Range, Recipe


def _row(make: Callable[[Adaptation], Program], means: str, *, start: Any = None, **weights: Range) -> Recipe:
    """A row that searches the learning rate and the rates of its terms."""
    ranges = {f"{name}_weight": of for name, of in weights.items()}
    return Recipe(make, ("learning_rate", *ranges), means, ranges, start=start, transfers=False)


USUAL, PULL = Range(0.1, 3.0), ("learning_rate", "pull")
SPECTRAL = {"bsp": Term(0.0, of_features(bsp))}
BASELINE, BOUND = "source_only", "target_only"  # what gains are over; the row that is told target labels
OPEN = "osbp"  # the row that needs a class without source examples
RECIPES = {
    "source_only": _row(source_only, "source examples alone, nothing pulled: what all are to be better than"),
    "source_l2": Recipe(source_only, PULL, "source examples alone, all kernels pulled towards 0", transfers=False),
    BOUND: Recipe(
        target_only,
        means="target examples with their labels, chosen by target labels: a bound",
        transfers=False,
        chosen=ORACLE,
    ),
    "dan": _row(aligned("dan"), "features of both domains have one mean in the space of five kernels", dan=USUAL),
    "dan_linear": _row(aligned("dan_linear"), "dan by pairs, in linear time", dan_linear=USUAL),
    "jan": _row(aligned("jan"), "dan of features and answers together", jan=USUAL),
    "coral": _row(aligned("coral"), "features of both domains have one covariance", coral=Range(1.0, 100.0)),
    "dann": _row(
        played("dann"),
        "features that an adversary cannot tell domains apart by",
        start=with_adversary("dann"),
        dann=USUAL,
    ),
    "cdan": _row(
        played("cdan"), "dann, the adversary seeing answers ⊗ features", start=with_adversary("cdan"), cdan=USUAL
    ),
    "cdan_e": _row(
        played("cdan_e"), "cdan in which sure examples count more", start=with_adversary("cdan_e"), cdan_e=USUAL
    ),
    "bsp": _row(
        played("dann", SPECTRAL),
        "dann with the strongest direction of each domain held down",
        start=with_adversary("dann"),
        dann=USUAL,
        bsp=Range(1e-5, 1e-2),
    ),
    "mdd": _row(
        played("mdd"),
        "a second head that agrees on the source and disagrees on the target finds no room to",
        start=with_adversary("mdd"),
        mdd=Range(0.03, 1.0),
    ),
    "mcc": _row(aligned("mcc"), "no class of target examples is taken for another", mcc=USUAL),
    "afn": _row(aligned("afn"), "features of both domains grow", afn=Range(0.005, 0.5)),
    "entropy": _row(aligned("entropy"), "answers to target examples are made sure", entropy=Range(0.01, 1.0)),
    "fixmatch": _row(
        aligned("fixmatch"), "sure answers to target examples are taught to distorted views of them", fixmatch=USUAL
    ),
    "mcd": _row(
        disagreeing,
        "two heads part on target examples, and the trunk brings them together",
        start=with_adversary("mcd"),
        mcd=USUAL,
    ),
    "pada": _row(
        played("pada", task=classify_shared),
        "dann in which source examples count as much as the target has their class: for a target with fewer classes",
        start=with_adversary("pada"),
        pada=USUAL,
    ),
    OPEN: _row(
        rejecting,
        "each target example is made a known one or an unknown one: for a target with further classes",
        osbp=USUAL,
    ),
    **AFTER,
}


Methods = Annotated[tuple[Annotated[str, bounds.OneOf("method", RECIPES)], ...], bounds.Items(1, distinct=True)]


@dataclasses.dataclass(frozen=True)
class DomainConfig(AdaptationConfig, Budget):
    """What experiments on a target without labels have in common: fields of their Config."""

    methods: Methods = (BASELINE, BOUND, "coral", "dann", "mcc")
    validator: Annotated[str, bounds.OneOf("validator", VALIDATORS)] = "information"  # what the headline is chosen by
    honest: ClassVar[tuple[str, ...]] = ()  # type: ignore[misc]  # no fields here: no target example is labelled
    folds: ClassVar[int] = 5  # type: ignore[misc]
    halving: ClassVar[bool] = False  # type: ignore[misc]  # what validators cost is told of all settings
    batch_size: bounds.Count = 64  # of each domain
    trials: bounds.Trials = 4
    tuning_draws: bounds.Draws = 1
    report_draws: bounds.Draws = 1

    may_change: ClassVar = (*Budget.may_change, "methods", "validator")  # each run is scored by every validator
    glossary: ClassVar = {name: recipe.means for name, recipe in RECIPES.items()} | MEANS

    @property
    def compared(self) -> tuple[str, ...]:
        """The methods that are chosen without target labels: all but the bound."""
        return tuple(name for name in self.methods if name != BOUND)

    @property
    def rows(self) -> dict[str, Recipe]:
        """All rows, chosen by the validator but for the bound."""
        rows = {name: dataclasses.replace(recipe, chosen=self.validator) for name, recipe in RECIPES.items()}
        return rows | {BOUND: RECIPES[BOUND]}


def check_rows(config: Any, methods: Sequence[str], *, unknown: bool = False) -> None:
    """That what some rows need is there; `unknown`: the last class is for what the source has no class for.

    Raises:
        InputError: what `check_after` refuses; a row that needs an unknown class without one.
    """
    check_after(config, methods)
    if OPEN in methods and not unknown:
        what = f"{OPEN} answers with a class that the source has not, and both sides have the same classes"
        raise InputError(what, where="--config.methods", todo="add --config.classes=open, or leave it out")
