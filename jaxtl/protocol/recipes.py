"""Methods as rows of a table, and what a problem tells them.

A *recipe* means in which program a method runs, what is searched, and where it starts. A *problem* means what a draw is
given and how what was trained is judged. Neither knows the other's insides: `Trainer` brings them together.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from jaxtl.errors import InputError
from jaxtl.labels import TRANSFERRED, depth_of, some
from jaxtl.program import Program, Weights
from jaxtl.protocol.design import LEARNING_RATE, Draw, Range, Setting
from jaxtl.protocol.measures import ACCURACY, Measure
from jaxtl.trees import Tree


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A method.

    Attributes:
        program: problem -> Program; recipes that name the same function share the compiled program. None: nothing is
            trained, and `finish` makes the weights of what it starts from.
        search: what is chosen, names as `rates_of` reads them; () for nothing.
        means: what it does, in a line.
        ranges: of names in `search` that the Config has no range for.
        start: (problem, draw) -> weights; what the problem starts from when left out.
        transfers: it starts from the source model, so that what it keeps of it and how far it moves mean something.
        before: (recipe, {name there: name here}), trained first on the same draw; this one goes on from its end. A name
            that is the same there and here is read by both. Recipes that name the same one share what it leaves.
        combine: (recipe, (problem, runs of it, draw) -> weights): first it is trained with every setting of its own
            search on the same draw, and this one goes on from what is made of those that have not diverged.
        given: (problem, draw, weights it starts from) -> trees by name for this draw, beside those of the program.
        learned: (problem, trained weights, draw) -> rates by name that the run has found by itself, before `finish`.
        finish: (problem, trained weights, setting, draw) -> weights, once training is over, and for every point of a
            curve.
        after: names in `search` that only `finish` reads.
        chosen: by which selection of `study`: "tuned" by examples held out, "honest" by folds of the labelled ones,
            "objective" on every draw by what was minimised there, or one that is handed over.
        trials: settings tried of it, where it needs fewer than others.
    """

    program: Callable[[Any], Program] | None
    search: tuple[str, ...] = ("learning_rate",)
    means: str = ""
    ranges: Mapping[str, Range] = dataclasses.field(default_factory=dict)
    start: Callable[[Any, Draw], Weights] | None = None
    transfers: bool = True
    before: tuple[Recipe, Mapping[str, str]] | None = None
    combine: tuple[Recipe, Callable[[Any, Sequence[Trained], Draw], Weights]] | None = None
    given: Callable[[Any, Draw, Weights], Mapping[str, Tree]] | None = None
    learned: Callable[[Any, Weights, Draw], Mapping[str, float]] | None = None
    finish: Callable[[Any, Weights, Setting, Draw], Weights] | None = None
    after: tuple[str, ...] = ()
    chosen: str = "tuned"
    trials: int | None = None


class Trained(NamedTuple):
    """What one run of one method leaves.

    Attributes:
        method, recipe: what was run.
        weights: of the whole model.
        rates: that it ran with.
        curve: of a report run, a row for each point.
        learned: rates that it found by itself.
        objective: minus what it minimises, where it ended; of a recipe that is chosen so.
    """

    method: str
    recipe: Recipe
    weights: Weights
    rates: Mapping[str, float]
    curve: list[dict[str, float]]
    learned: Mapping[str, float] = {}
    objective: float = math.nan


class Problem(Protocol):
    """A question put to methods.

    Attributes:
        config: has the fields of `Budget`.
        title: what is asked, in a line.
        origin: of its data, in words.
        points: of a learning curve.

    It may have four more: `measure`, what `test` reports as "test" (`ACCURACY` when left out); `truth`, the test
    examples that its predictions are about; `given(draw)`, trees by name that differ between draws or replicates; and
    `own`, what each replicate has for itself, in words.
    """

    config: Any
    title: str
    origin: str
    points: int

    @property
    def content(self) -> Sequence[Any]:
        """Arrays of its data, of which a run remembers a digest."""
        ...

    def key(self, draw: Draw, use: str) -> jax.Array:
        """The random key of a draw for one use, such as "run"."""
        ...

    def start(self, draw: Draw) -> Weights:
        """What methods start from that do not say otherwise."""
        ...

    def data(self, program: Program, start: Weights, draw: Draw) -> Any:
        """What the steps of a program read on a draw."""
        ...

    def rates(self, program: Program, setting: Setting) -> dict[str, float]:
        """A setting as rates of a program; mostly `rates_of`."""
        ...

    def point(self, weights: Weights, draw: Draw) -> Mapping[str, float]:
        """A point of a learning curve; no test example is looked at."""
        ...

    def validate(self, trained: Trained, draw: Draw) -> float:
        """What choices are made by, larger being better."""
        ...

    def test(self, trained: Trained, draw: Draw) -> tuple[Mapping[str, float], Mapping[str, np.ndarray]]:
        """(metrics with "test", arrays), once per report run."""
        ...


def replicate_seed(seed: int, replicate: int) -> int:
    """What all draws of a replicate have in common is seeded by, such as its source model and what chooses."""
    return 1_000_000_000 * replicate + seed  # below 2⁶³ for all that a configuration can ask


def draw_key(seed: int, draw: Draw, use: int) -> jax.Array:
    """The random key of a draw for one of several uses, by its number."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), draw.seed), use)


def measure_of(problem: Problem) -> Measure:
    """What a problem's test data are asked."""
    return getattr(problem, "measure", ACCURACY)


def rates_of(program: Program, setting: Setting, reach: Mapping[str, float]) -> dict[str, float]:
    """A setting as rates of a program; what it does not name has its default.

    "learning_rate" is that of every label and "ratio" a factor on that of transferred ones; where labels are "depth:k",
    "layer_decay" is a factor for every stage that one is further from the output. "pull" goes to every label,
    "pull/LABEL" to one, and "pull/NAME" to the pull of that name: λ = pull / (learning rate of its label · reach).
    "NAME_weight" is the rate of the term NAME, and a rate may be set by its own name.

    Args:
        program: whose rates.
        setting: names and values.
        reach: of a learning rate 1, by the kind of rate: {"penalty": …, "decay": …}, see `pull_per_rate`.

    Returns:
        A value for every rate of the program.

    Raises:
        InputError: the setting has a name that no rate of the program follows from.
    """
    rates, read = dict(program.rates), set[str]()
    for name in program.rates:
        for key, value in _asked(name, setting, rates, reach):
            read.add(key)
            rates[name] = value
    for key in sorted(set(setting) - read):
        todo = f"this program reads {some(program.rates)}"
        raise InputError(f"no rate follows from '{key}'", where="setting", todo=todo)
    return rates


def _asked(
    name: str, setting: Setting, rates: Mapping[str, float], reach: Mapping[str, float]
) -> Iterator[tuple[str, float]]:
    """(name in the setting, value of the rate) for all that sets a rate, the most particular last."""
    kind, _, label = name.partition("/")
    if kind == "learning_rate":
        ratio, known = setting.get("ratio", 1.0) if label == TRANSFERRED else 1.0, {"learning_rate", "ratio"}
        if (depth := depth_of(label)) is not None:
            deepest = max(depth_of(other.partition("/")[2]) or 0 for other in rates)
            ratio, known = setting.get("layer_decay", 1.0) ** (deepest - depth), known | {"layer_decay"}
        for key in known & setting.keys():
            yield key, setting["learning_rate"] * ratio
    elif kind in ("penalty", "decay"):
        owner, own = label.partition("/")[0], pull_name(name)
        for key in (*(["pull"] if own == owner else []), f"pull/{own}"):
            if key in setting:
                yield key, setting[key] / (rates[f"learning_rate/{owner}"] * reach[kind])
    elif f"{name}_weight" in setting:
        yield f"{name}_weight", setting[f"{name}_weight"]
    if name in setting:
        yield name, setting[name]


def pull_name(rate: str) -> str:
    """What a setting calls the pull behind a rate: its label, or what a label's further pull is named.

    Example:
        >>> [pull_name(rate) for rate in ("decay/new", "penalty/transferred/zero", "penalty/transferred/source")]
        ['new', 'transferred', 'source']
    """
    label, _, name = rate.partition("/")[2].partition("/")
    return label if name in ("", "zero") else name


def range_of(name: str, recipe: Recipe, config: Any) -> Range:
    """The range in which a method searches a name: the recipe's own, else that of the Config.

    Raises:
        InputError: neither has one.
    """
    if name in recipe.ranges:
        return recipe.ranges[name]
    kind = LEARNING_RATE if name.endswith(f"_{LEARNING_RATE}") else name.partition("/")[0]
    for field in (kind, *(["weight"] if kind.endswith("_weight") else [])):
        if (ends := getattr(config, field, None)) is not None:
            return Range(*ends)
    raise InputError(f"no range for '{name}'", where="Recipe", todo=f"pass ranges={{'{name}': Range(low, high)}}")
