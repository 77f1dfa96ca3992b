"""All label trees of a kind in one sweep: which blocks of a source model to freeze, to fine-tune, or to begin anew.

Blocks are named from input to output. What a network learned is the more general the nearer to its input, so only
labellings frozen… transferred… new… are searched: two cuts, (B + 1)(B + 2)/2 labellings of B blocks.

A frozen block is one whose learning rate is 0, and a new one begins from other values: with a label for every block,
each labelling is a row of a `sweep`, and all of them are one program. Its price: a row with frozen blocks costs what
the others cost, and where gradients are clipped by their norm, frozen blocks count in it.

Source: Yosinski, Clune, Bengio and Lipson, "How transferable are features in deep neural networks?", 2014.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.errors import InputError, suggest
from jaxtl.labels import NEW, TRANSFERRED, check_labels, label_set
from jaxtl.trees import Tree, check_same, map_named

FROZEN = "frozen"
KINDS = (FROZEN, TRANSFERRED, NEW)
STARTS_NEW = "new/"  # the column that says whether a block begins anew

Assignment = dict[str, str]  # {block: one of KINDS}


def assignments(blocks: Sequence[str]) -> list[Assignment]:
    """Every labelling frozen… transferred… new… of the blocks.

    Args:
        blocks: names, from input to output. A head that is always new is a block like any other:
            `[row for row in assignments(blocks) if row["head"] == NEW]`.

    Returns:
        (B + 1)(B + 2)/2 of {block: "frozen", "transferred" or "new"}, the most frozen first.

    Raises:
        InputError: no block, or one named twice.

    Example:
        >>> for row in assignments(["trunk", "head"]):
        ...     print(*row.values())
        frozen frozen
        frozen transferred
        frozen new
        transferred transferred
        transferred new
        new new
    """
    if not blocks or len(set(blocks)) < len(blocks):
        raise InputError(f"{list(blocks)} is empty or names one twice", where="assignments blocks")
    size = len(blocks)
    return [_cut(blocks, frozen, kept) for frozen in range(size, -1, -1) for kept in range(size, frozen - 1, -1)]


def _cut(blocks: Sequence[str], frozen: int, kept: int) -> Assignment:
    """The first `frozen` blocks stay, those before `kept` are fine-tuned, the others are new."""
    return {
        block: FROZEN if position < frozen else TRANSFERRED if position < kept else NEW
        for position, block in enumerate(blocks)
    }


def assignment_grid(rows: Sequence[Assignment], rates: Mapping[str, Mapping[str, float]]) -> dict[str, np.ndarray]:
    """The columns of a sweep whose configurations are labellings, for a model that is labelled block by block.

    Columns "new/BLOCK" say where a block begins (see `assignment_start`); all others are rates.

    Args:
        rows: labellings of the same blocks.
        rates: {label: {rate: value}} with the block's place as {}: {"transferred": {"learning_rate/{}": 0.01,
            "penalty/{}/source": 0.1}, "new": {"learning_rate/{}": 0.1}}. A rate that a label does not name is 0 for
            it, as are all rates of "frozen".

    Returns:
        {name: [len(rows)]}.

    Raises:
        InputError: labels that are not the three, rows of different blocks, or a rate without place for the block.

    Example:
        >>> rates = {"transferred": {"learning_rate/{}": 0.5}, "new": {"learning_rate/{}": 2.0}}
        >>> grid = assignment_grid(assignments(["trunk"]), rates)
        >>> {name: column.tolist() for name, column in grid.items()}
        {'new/trunk': [False, False, True], 'learning_rate/trunk': [0.0, 0.5, 2.0]}
    """
    _check_rows(rows)
    templates = sorted({template for named in rates.values() for template in named})
    for label in set(rates) - {TRANSFERRED, NEW}:
        todo = f"{suggest(label, (TRANSFERRED, NEW))}; all rates of '{FROZEN}' are 0"
        raise InputError("has no rates of its own", where=f"rates['{label}']", todo=todo)
    for template in templates:
        if "{}" not in template:
            raise InputError("has no {} for the block", where=f"rate '{template}'", todo="write 'learning_rate/{}'")
    grid = {f"{STARTS_NEW}{block}": np.array([row[block] == NEW for row in rows]) for block in rows[0]}
    for template in templates:
        for block in rows[0]:
            values = [rates.get(row[block], {}).get(template, 0.0) for row in rows]
            grid[template.replace("{}", block)] = np.array(values)
    return grid


def assignment_start(
    labels: Tree, source: Tree, fresh: Tree, point: Mapping[str, jax.Array]
) -> tuple[Tree, dict[str, jax.Array]]:
    """Where a row of `assignment_grid` begins, fresh values in new blocks and the source's elsewhere; and its rates.

    Args:
        labels: tree of block names like the parameters.
        source, fresh: parameters.
        point: a row, or a traced point of a sweep.

    Returns:
        (parameters, rates): what `init` of a sweep needs.

    Raises:
        InputError: trees that do not fit, or a block without column.

    Example:
        >>> point = {"new/trunk": False, "new/head": True, "learning_rate/head": 0.1}
        >>> params, rates = assignment_start({"a": "trunk", "b": "head"}, {"a": jnp.zeros(1), "b": jnp.zeros(1)},
        ...     {"a": jnp.ones(1), "b": jnp.ones(1)}, point)
        >>> params["a"].tolist(), params["b"].tolist(), list(rates)
        ([0.0], [1.0], ['learning_rate/head'])
    """
    check_labels(source, labels)
    check_same(source, fresh, where="assignment_start fresh", todo="give two sets of the same parameters")
    starts = {name.removeprefix(STARTS_NEW): value for name, value in point.items() if name.startswith(STARTS_NEW)}
    for block in sorted(label_set(labels) ^ set(starts)):
        what = "no parameter has this label" if block in starts else "no column says where this block begins"
        raise InputError(what, where=f"block '{block}'", todo="label every parameter by the blocks of the grid")
    params = map_named(lambda _, old, new, block: jnp.where(starts[block], new, old), source, fresh, labels)
    return params, {name: value for name, value in point.items() if not name.startswith(STARTS_NEW)}


def _check_rows(rows: Sequence[Assignment]) -> None:
    if not rows:
        raise InputError("has no labellings", where="assignment_grid rows", todo="give those of assignments(blocks)")
    for row in rows:
        if row.keys() != rows[0].keys():
            raise InputError(f"{list(row)} are not {list(rows[0])}", where="assignment_grid rows")
        for block, label in row.items():
            if label not in KINDS:
                raise InputError(f"unknown label '{label}'", where=f"block '{block}'", todo=suggest(label, KINDS))
