"""Which blocks of a net to freeze, to fine-tune or to begin anew: every labelling is a recipe, all in one program."""

from __future__ import annotations

import functools

from jaxtl.labels import NEW, label_params
from jaxtl.methods.finetuning.recipes import options
from jaxtl.models import as_forward
from jaxtl.optimizers import Group
from jaxtl.problems import CLASSIFY, FewShot
from jaxtl.program import Program, Weights, make_program
from jaxtl.protocol import Draw, Recipe, Setting
from jaxtl.selection import FROZEN, assignment_grid, assignment_start, assignments
from jaxtl.trees import Tree

HEAD = "head"


def blocks_of(problem: FewShot) -> list[str]:
    """The blocks of the trunk of a cnn or an mlp, from input to output."""
    return [f"block {i}" for i in range(len(problem.config.widths))]


def labellings(problem: FewShot) -> list[dict[str, str]]:
    """Every labelling frozen… transferred… new… of the blocks, under a head that is new."""
    return [row for row in assignments([*blocks_of(problem), HEAD]) if row[HEAD] == NEW]


def block_labels(problem: FewShot) -> Tree:
    """The tree of labels of `blocks`: the name of its block on every parameter."""
    rules = [(f"trunk/[a-z]+_{i}/.*", name) for i, name in enumerate(blocks_of(problem))]
    return label_params(problem.moved.params, [*rules, ("head/.*", HEAD)])


def blocks(problem: FewShot) -> Program:
    """Every block has a learning rate of its own, 0 where it is frozen; pulled nowhere."""
    return make_program(
        as_forward(problem.model),
        block_labels(problem),
        {"task": CLASSIFY},
        {name: Group() for name in (*blocks_of(problem), HEAD)},
        prepare=problem.images.batches(problem.config.batch_size),
        **options(problem),
    )


def label_trees(problem: FewShot) -> dict[str, Recipe]:
    """A recipe for every one of the `labellings`, in their order; its settings are those of `moving`."""
    return {" ".join(row.values()): Recipe(blocks, start=functools.partial(_start, row)) for row in labellings(problem)}


def moving(row: dict[str, str], learning_rate: float) -> Setting:
    """The setting of a labelling in which all that is not frozen has this learning rate.

    Example:
        >>> moving({"block 0": "frozen", "head": "new"}, 0.1)
        {'learning_rate': 0.1, 'learning_rate/block 0': 0.0}
    """
    frozen = {f"learning_rate/{name}": 0.0 for name, kind in row.items() if kind == FROZEN}
    return {"learning_rate": learning_rate, **frozen}


def _start(row: dict[str, str], problem: FewShot, draw: Draw) -> Weights:
    """The source's parameters, but fresh ones in new blocks."""
    point = {name: column[0] for name, column in assignment_grid([row], {}).items()}
    source, fresh = problem.moved.params, problem.fresh(draw).params
    return Weights(assignment_start(block_labels(problem), source, fresh, point)[0])
