"""What a budget of time affords: how often, how long and how deep is fine-tuned, decided once and written down."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxtl import files
from jaxtl.errors import InputError

BATCH = 32
COMPILING = 3  # programs of a method, about: the one that is measured, another number of settings, its head


class Effort(NamedTuple):
    """How much is done for a method.

    Attributes:
        folds, repeats: by which it is judged.
        inner: folds by which it chooses a setting, within what it learns from.
        trials: settings.
        steps: of every training.
    """

    folds: int
    repeats: int
    inner: int
    trials: int
    steps: int

    @property
    def trainings(self) -> int:
        """Of one method: choosing and training on every draw, and once on everything."""
        return (self.folds * self.repeats + 1) * (self.inner * self.trials + 1)


EFFORTS = (  # from the most to the least
    Effort(5, 2, 3, 8, 200),
    Effort(5, 2, 3, 6, 150),
    Effort(5, 2, 3, 4, 100),
    Effort(5, 2, 2, 4, 100),
    Effort(5, 2, 2, 3, 80),
    Effort(5, 1, 2, 4, 80),
    Effort(5, 1, 2, 3, 60),
    Effort(3, 1, 2, 3, 60),
)
LAST = 2  # efforts, that a method alone is given: rather fewer methods than many that are hardly tried
HEADS_ALONE = Effort(5, 2, 3, 1, 1)
MANY = 20_000  # examples, of which folds are dealt once: another deal says nothing new


def of_heads(examples: int, seconds: float, left: float) -> Effort:
    """How often heads are judged: by as many folds as fit, where there are so many examples that it matters.

    Args:
        examples: that are learned from.
        seconds: that all heads take on all of them, once.
        left: seconds.

    Example:
        >>> of_heads(100, 1e3, 1.0).folds, of_heads(100_000, 10.0, 600.0).folds, of_heads(100_000, 100.0, 350.0).folds
        (5, 5, 2)
    """
    if examples <= MANY:
        return HEADS_ALONE
    fitting = [folds for folds in (5, 4, 3) if (folds + 1) * seconds <= left]
    return HEADS_ALONE._replace(folds=fitting[0] if fitting else 2, repeats=1)


class Plan(NamedTuple):
    """What is done.

    Attributes:
        effort: for every method.
        depth: stages of the trunk that stay frozen; 0: none does.
        methods: of fine-tuning.
        seconds: that it is expected to take.
        why: in words, what was left out.
    """

    effort: Effort
    depth: int
    methods: tuple[str, ...]
    seconds: float
    why: str

    def kept(self) -> dict[str, Any]:
        """As JSON has it."""
        return self._asdict() | {"effort": self.effort._asdict(), "methods": list(self.methods)}


class Cost(NamedTuple):
    """Of a training at a depth, in seconds: to compile its program, and of one of its steps."""

    compiling: float
    step: float


def made(
    methods: Sequence[str],
    depths: Sequence[int],
    left: Callable[[], float],
    cost: Callable[[int], Cost | None],
    alone: Effort = HEADS_ALONE,
) -> Plan:
    """The most that fits: at the depth that leaves most free to move, with all methods, then with fewer.

    Args:
        methods: of fine-tuning, given up from behind.
        depths: to be tried, the cheapest first.
        left: -> seconds, fewer after each measurement.
        cost: depth -> what it costs; None where it cannot fit anyway.
        alone: how often heads are judged, as often as which fine-tuning is at most.

    Returns:
        A plan; without any method where none fits.

    Example:
        >>> plan = made(["l2_sp", "lr_ratio"], [2, 0], lambda: 600.0, lambda depth: Cost(10.0, 0.01 if depth else 1.0))
        >>> plan.depth, plan.methods, plan.effort.trials
        (2, ('l2_sp', 'lr_ratio'), 4)
    """
    best, measured = None, dict[int, Cost]()
    for depth in depths if methods else ():
        if (found := cost(depth)) is None:
            break
        measured[depth] = found
        fitting = _fitting(methods, found, left())
        if fitting is None or (best and fitting[0] != best.methods):  # deeper costs more: it would take methods away
            break
        count, effort, seconds = fitting
        if best is None or EFFORTS.index(effort) <= max(EFFORTS.index(best.effort), 3):
            best = Plan(effort, depth, count, seconds, "")
    if best is None:
        said = f"fine-tuning does not fit into the {max(0.0, left()):.0f} s that are left" if methods else ""
        return Plan(alone, 0, (), 0.0, said)
    given_up = [name for name in methods if name not in best.methods]
    effort = best.effort._replace(
        folds=min(best.effort.folds, alone.folds), repeats=min(best.effort.repeats, alone.repeats)
    )
    return best._replace(effort=effort, why=f"no time for {', '.join(given_up)}" if given_up else "")


def _fitting(methods: Sequence[str], cost: Cost, left: float) -> tuple[tuple[str, ...], Effort, float] | None:
    for count in range(len(methods), 0, -1):
        for effort in EFFORTS if count == 1 else EFFORTS[:-LAST]:
            seconds = count * (effort.trainings * effort.steps * cost.step + COMPILING * cost.compiling)
            if seconds <= left:
                return tuple(methods[:count]), effort, seconds
    return None


def kept(workdir: Path, asked: dict[str, Any], make: Callable[[], Plan]) -> Plan:
    """The plan of a run that was begun, so that it goes on as it began; else a new one, written down.

    Args:
        workdir: of the run.
        asked: what it depends on and the user may change; another plan belongs to other wishes.
        make: a new one.

    Raises:
        InputError: the file is not what a run writes.
    """
    path = workdir / "plan.json"
    if (content := files.read(path)) is not None:
        try:
            said = json.loads(content)
            if said["asked"] == asked:
                plan = said["plan"]
                effort = Effort(**{name: int(value) for name, value in plan["effort"].items()})
                return Plan(effort, int(plan["depth"]), tuple(plan["methods"]), float(plan["seconds"]), plan["why"])
        except (ValueError, TypeError, KeyError, AttributeError):
            todo = "remove it to plan anew, or choose another --workdir=..."
            raise InputError("is not what a run writes", where=path, todo=todo) from None
    plan = make()
    files.write(path, json.dumps({"asked": asked, "plan": plan.kept()}, indent=1) + "\n")
    return plan
