"""Training in stages: a list of them, each of which begins where the one before it ended.

source model  ─copied→  stage  →  stage  →  ...
                        who moves, how fast, for how long, pulled where
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from jaxtl.errors import InputError, suggest
from jaxtl.labels import NEW, TRANSFERRED, label_params, label_set
from jaxtl.methods.finetuning.recipes import TOWARDS
from jaxtl.methods.finetuning.source_recipes import fine_tuned
from jaxtl.optimizers import Group
from jaxtl.problems import FewShot
from jaxtl.problems.few_shot import falling
from jaxtl.program import Program, Weights
from jaxtl.protocol import Draw, Recipe, Setting
from jaxtl.trees import Tree

RATE = "learning_rate"


@dataclasses.dataclass(frozen=True)
class Stage:
    """A part of a training: who moves, how fast, for how long, and pulled where.

    Its learning rate is searched as NAME_learning_rate, that of the last stage as learning_rate.

    Args:
        name: of the stage.
        moves: {label: factor on the learning rate, a number or a function of the step}; other labels are frozen.
        share: of the steps of a problem, 0 < share <= 1; the learning rate falls to 0 in it.
        rules: (regex on paths, label) that come before the problem's own labels, the first that matches.
        pulls: labels that are pulled, each to "zero" or to the "source": {"new": "zero"}. How hard is searched as
            pull/new, and as pull/source for all that go there; of the last stage only.
        copies: whether transferred parameters become the source's once it is over.

    Raises:
        InputError: nothing moves, a share beyond its bounds, a pull on what does not move.

    Example:
        >>> Stage("transfer", {"new": 1.0}, share=0.5).moves
        {'new': 1.0}
    """

    name: str
    moves: Mapping[str, float | Callable[[jax.Array], jax.Array]]
    share: float = 1.0
    rules: Sequence[tuple[str, str]] = ()
    pulls: Mapping[str, str] = dataclasses.field(default_factory=dict)
    copies: bool = False

    def __post_init__(self) -> None:
        where = f"Stage {self.name}"
        if not self.moves:
            raise InputError("nothing moves", where=where, todo='name a label in moves: {"new": 1.0}')
        if not 0 < self.share <= 1:
            raise InputError(f"share {self.share}", where=where, todo="give a part of the steps, 0 < share <= 1")
        for label, to in self.pulls.items():
            if label not in self.moves:
                raise InputError(f"'{label}' is pulled and does not move", where=where, todo=suggest(label, self.moves))
            if to not in TOWARDS:
                raise InputError(f"'{label}' is pulled to '{to}'", where=where, todo=suggest(to, TOWARDS))

    def steps(self, problem: FewShot) -> int:
        """Its share of the problem's, at least one."""
        return max(1, round(self.share * problem.config.steps))

    def labels(self, problem: FewShot) -> Tree:
        """Of all parameters of the model."""
        own = problem.moved.labels
        return label_params(problem.moved.params, self.rules, own) if self.rules else own

    def program(self, problem: FewShot) -> Program:
        """What it runs.

        Raises:
            InputError: a label that no parameter has.
        """
        labels, steps = self.labels(problem), self.steps(problem)
        every = label_set(labels)
        for label in self.moves:
            if label not in every:
                where = f"moves of stage {self.name}"
                raise InputError(f"no parameter is '{label}'", where=where, todo=suggest(label, every))
        groups = {label: _group(self.moves[label]) if label in self.moves else Group(frozen=True) for label in every}
        penalties = {label: {to: TOWARDS[to]} for label, to in self.pulls.items()}
        how: dict[str, Any] = {"labels": labels, "groups": groups, "penalties": penalties}
        return fine_tuned(problem, **how, schedule=falling(steps), steps=steps)

    @property
    def searched(self) -> tuple[str, ...]:
        """The pulls that are chosen."""
        return tuple(dict.fromkeys(f"pull/{to if to == 'source' else label}" for label, to in self.pulls.items()))


def _group(factor: Any) -> Group:
    """Moves at the learning rate times a factor."""
    return Group(factor if callable(factor) else lambda step: factor)


def staged(*stages: Stage, means: str, fresh: bool = False) -> Recipe:
    """A recipe of several stages; the parts of a run, one after the other, on one draw.

    Args:
        stages: in their order.
        means: what it does, in a line.
        fresh: whether the first begins at random, and not with what is copied from the source.

    Raises:
        InputError: no stage, two of one name, or pulls in a stage that is not the last.

    Example:
        >>> both = Stage("transfer", {"new": 1.0}, 0.5), Stage("fine_tune", {"new": 1.0, "transferred": 1.0}, 0.5)
        >>> staged(*both, means="the new parameters first").search
        ('learning_rate', 'transfer_learning_rate')
    """
    names = [stage.name for stage in stages]
    if not stages or len(set(names)) < len(names):
        what = f"stages {', '.join(names)}" if stages else "no stages"
        raise InputError(what, where="staged", todo="give at least one, each with a name of its own")
    for stage in stages[:-1]:
        if stage.pulls:
            todo = "pull in the last one; in an earlier one, move more slowly or for a shorter time"
            raise InputError("pulls in a stage before the last", where=f"Stage {stage.name}", todo=todo)
    recipe: Recipe | None = None
    for k, stage in enumerate(stages):
        recipe = Recipe(
            stage.program,
            (RATE, *stage.searched, *(_rate_of(one, k, len(stages)) for one in stages[:k])),
            means,
            start=_fresh if fresh else None,
            transfers=not fresh or any(one.copies for one in stages),
            before=None if recipe is None else (recipe, _handed_on(stages, k)),
            finish=_copied if stage.copies else None,
        )
    assert recipe is not None
    return recipe


def _rate_of(stage: Stage, place: int, stages: int) -> str:
    """What the learning rate of an earlier stage is called in the recipe that ends with the stage at a place."""
    inner = "" if place == stages - 1 else f"@{place}"  # or it would be read there as well
    return f"{stage.name}_{RATE}{inner}"


def _handed_on(stages: Sequence[Stage], place: int) -> dict[str, str]:
    """{what a rate is called in the recipe before: what it is called here}."""
    there = [_rate_of(one, place - 1, len(stages)) for one in stages[: place - 1]] + [RATE]
    return dict(zip(there, (_rate_of(one, place, len(stages)) for one in stages[:place]), strict=True))


def _fresh(problem: FewShot, draw: Draw) -> Weights:
    return problem.fresh(draw)


def _copied(problem: FewShot, weights: Weights, setting: Setting, draw: Draw) -> Weights:
    """Transferred parameters as the source has them, new ones as they are."""
    source = problem.transferred(draw)
    params = jax.tree.map(
        lambda label, own, theirs: theirs if label == TRANSFERRED else own, source.labels, weights.params, source.params
    )
    return weights._replace(params=params)


BOTH = {TRANSFERRED: 1.0, NEW: 1.0}
STAGES = {
    "three_stages": staged(
        Stage("transfer", {NEW: 1.0}, 0.5),
        Stage("fine_tune", BOTH, 0.5),
        means="the source model's parameters are copied and held while new ones are trained, for half of the steps; "
        "then all are",
    ),
    "target_first": staged(
        Stage("initial", BOTH, 1 / 3, copies=True),
        Stage("transfer", {NEW: 1.0}, 1 / 3),
        Stage("fine_tune", BOTH, 1 / 3),
        means="trained on the target from random parameters; then the source's are copied over and held while new "
        "ones are trained; then all are; a third of the steps each",
        fresh=True,
    ),
    "three_stages_l2_sp": staged(
        Stage("transfer", {NEW: 1.0}, 0.5),
        Stage("fine_tune", BOTH, 0.5, pulls={TRANSFERRED: "source", NEW: "zero"}),
        means="three_stages; in the last one transferred parameters are pulled towards the source model, new ones to 0",
    ),
}
