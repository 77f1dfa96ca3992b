"""Labellings as rows of a sweep: each is what a program built for it alone would give."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import assert_close, wave

from jaxtl.errors import InputError
from jaxtl.labels import NEW, TRANSFERRED, label_params
from jaxtl.losses import make_loss_fn, mean_of, softmax_cross_entropy
from jaxtl.optimizers import Group, per_label
from jaxtl.penalties import Term, l2, labelled
from jaxtl.selection.label_search import (
    FROZEN,
    assignment_grid,
    assignment_start,
    assignments,
)
from jaxtl.step import Fixed, compile_step, init_state, make_epoch, make_train_step, total_gradient
from jaxtl.sweep import sweep

BLOCKS = ["first", "second", "head"]
STEPS = 8
LEARNING, PULLS = {TRANSFERRED: 0.05, NEW: 0.2}, {TRANSFERRED: 0.3, NEW: 0.1}


def network(speed):
    shapes = {"first": (4, 5), "second": (5, 5), "head": (5, 3)}
    return {
        block: {"kernel": wave(speed * (i + 1), *shape), "bias": wave(speed, shape[1], scale=0.3)}
        for i, (block, shape) in enumerate(shapes.items())
    }


def forward(params, model_state, batch, ctx):
    hidden = batch["image"]
    for block in BLOCKS[:2]:
        hidden = jnp.tanh(hidden @ params[block]["kernel"] + params[block]["bias"][None])
    return {"head": hidden @ params["head"]["kernel"] + params["head"]["bias"][None]}, model_state


SOURCE, FRESH = network(0.7), network(0.45)
DATA = {"image": wave(1.1, 12, 4, scale=2.0), "label": jnp.asarray(np.arange(12) ** 2 % 3)}
TASK = {"task": Term(1.0, mean_of(softmax_cross_entropy))}
LABELS = label_params(SOURCE, [(f"{block}/.*", block) for block in BLOCKS])
PULLED = {block: {"zero": Term(0.0, l2), "source": Term(0.0, l2, ("anchor",))} for block in BLOCKS}
LOSS = make_loss_fn(forward, TASK, labelled(LABELS, PULLED))
TX = per_label(LABELS, {block: Group() for block in BLOCKS}, "adam")
EPOCH = make_epoch(make_train_step(total_gradient(LOSS), TX), STEPS)
RATES = {
    TRANSFERRED: {"learning_rate/{}": LEARNING[TRANSFERRED], "penalty/{}/source": PULLS[TRANSFERRED]},
    NEW: {"learning_rate/{}": LEARNING[NEW], "penalty/{}/zero": PULLS[NEW]},
}


def init(point):
    params, rates = assignment_start(LABELS, SOURCE, FRESH, point)
    return init_state(params, TX, jax.random.key(0)), rates


def score(state, data, fixed):
    return -softmax_cross_entropy(forward(state.params, {}, data, None)[0]["head"], data["label"]).mean()


def alone(row):
    """Training with a label tree, groups and penalties made for this labelling, frozen by the optimizer."""
    labels = label_params(SOURCE, [(f"{block}/.*", label) for block, label in row.items()])
    present = set(row.values())
    groups = {label: Group(frozen=True) if label == FROZEN else Group(LEARNING[label]) for label in present}
    terms = {TRANSFERRED: Term(PULLS[TRANSFERRED], l2, ("anchor",)), NEW: Term(PULLS[NEW], l2)}
    penalty = labelled(labels, {label: terms[label] for label in present - {FROZEN}})
    params = {block: (FRESH if label == NEW else SOURCE)[block] for block, label in row.items()}
    tx = per_label(labels, groups, "adam")
    frozen = jax.tree.map(lambda label: label == FROZEN, labels)
    step = make_train_step(total_gradient(make_loss_fn(forward, TASK, penalty, frozen)), tx)
    epoch = compile_step(make_epoch(step, STEPS))
    return epoch(init_state(params, tx, jax.random.key(0)), DATA, Fixed(given={"anchor": SOURCE}))[0]


@pytest.fixture(scope="module")
def swept():
    grid = assignment_grid(assignments(BLOCKS), RATES)
    return sweep(init, EPOCH, score, grid, DATA, {"anchor": SOURCE}, batching="loop")


def test_there_are_two_cuts():
    rows = assignments("abcd")
    assert len(rows) == 5 * 6 // 2
    assert len({tuple(row.values()) for row in rows}) == len(rows)
    order = {FROZEN: 0, TRANSFERRED: 1, NEW: 2}
    for row in rows:
        ranks = [order[label] for label in row.values()]
        assert ranks == sorted(ranks)


def test_what_is_frozen_by_its_rate_does_not_move(swept):
    for k, row in enumerate(assignments(BLOCKS)):
        for block, label in row.items():
            start = (FRESH if label == NEW else SOURCE)[block]
            end = swept.state(k).params[block]
            moved = [
                not np.array_equal(a, b) for a, b in zip(jax.tree.leaves(start), jax.tree.leaves(end), strict=True)
            ]
            assert moved == [label != FROZEN] * 2, (row, block)


@pytest.mark.parametrize("k", [1, 4, 5, 7])
def test_a_row_is_a_program_built_for_it(swept, k):
    row = assignments(BLOCKS)[k]
    state = alone(row)
    assert_close(swept.state(k).params, state.params, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(swept.scores[k], score(state, DATA, None), rtol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: assignments([]), "is empty"),
        (lambda: assignments(["a", "a"]), "names one twice"),
        (lambda: assignment_grid([], RATES), "has no labellings"),
        (lambda: assignment_grid([{"a": "old"}], RATES), "unknown label 'old'"),
        (lambda: assignment_grid([{"a": NEW}, {"b": NEW}], RATES), "are not"),
        (lambda: assignment_grid([{"a": NEW}], {FROZEN: {"learning_rate/{}": 1.0}}), "has no rates of its own"),
        (lambda: assignment_grid([{"a": NEW}], {NEW: {"learning_rate/a": 1.0}}), "has no {} for the block"),
        (lambda: assignment_start(LABELS, SOURCE, FRESH, {"new/first": True}), "block 'head': no column"),
        (
            lambda: assignment_start({"a": "x"}, {"a": 1.0}, {"a": 1.0}, {"new/x": 1, "new/y": 1}),
            "'y': no parameter has",
        ),
        (lambda: assignment_start(LABELS, SOURCE, {}, {}), "assignment_start fresh"),
    ],
)
def test_refuses(call, message):
    with pytest.raises(InputError, match=message):
        call()
