"""A list of stages is what it says: each begins where the one before ended, holds what it holds and ends in time."""

import dataclasses

import jax
import numpy as np
import pytest
from tables_problem import CONFIG, DRAW, problem_of

from jaxtl.errors import InputError
from jaxtl.labels import NEW, TRANSFERRED
from jaxtl.methods.finetuning import STAGES, Stage, staged
from jaxtl.protocol import Draw
from jaxtl.protocol.training import Trainer
from jaxtl.sweep import run

SETTING = {"learning_rate": 0.03, "transfer_learning_rate": 0.1, "initial_learning_rate": 0.2}


@pytest.fixture(scope="module")
def problem():
    return problem_of(dataclasses.replace(CONFIG, steps=9))


def of(recipe):
    return {name: value for name, value in SETTING.items() if name in recipe.search}


def same(one, other):
    return jax.tree.all(jax.tree.map(np.array_equal, one, other))


def by_hand(problem, stages, start, draw, rates):
    """The stages one after the other."""
    for stage, rate in zip(stages, rates, strict=True):
        program = stage.program(problem)
        setting = problem.rates(program, {"learning_rate": rate})
        data = problem.data(program, start, draw)
        start = run(program, start, data, setting, problem.key(draw, "run"), steps=program.steps, points=1).weights
        if stage.copies:
            copied = problem.transferred(draw)
            own = {"head": start.params["head"], "trunk": copied.params["trunk"]}
            start = start._replace(params=own)
    return start


def test_three_stages_are_their_runs_by_hand_one_after_the_other(problem):
    transfer, last = Stage("transfer", {NEW: 1.0}, 1 / 3), Stage("rest", {NEW: 1.0, TRANSFERRED: 0.5}, 2 / 3)
    recipe = staged(transfer, last, means="two")
    trained = Trainer(problem, {"two": recipe}).train("two", of(recipe), DRAW)
    expected = by_hand(problem, (transfer, last), problem.start(DRAW), DRAW, (0.1, 0.03))
    assert same(trained.weights.params, expected.params)


def test_the_target_first_then_what_is_copied_over(problem):
    stages = (
        Stage("initial", {NEW: 1.0, TRANSFERRED: 1.0}, 1 / 3, copies=True),
        Stage("transfer", {NEW: 1.0}, 1 / 3),
        Stage("fine_tune", {NEW: 1.0, TRANSFERRED: 1.0}, 1 / 3),
    )
    trainer = Trainer(problem, STAGES)
    expected = by_hand(problem, stages, problem.fresh(DRAW), DRAW, (0.2, 0.1, 0.03))
    assert same(trainer.train("target_first", of(STAGES["target_first"]), DRAW).weights.params, expected.params)
    side_by_side = trainer.train_all("target_first", [of(STAGES["target_first"])] * 2, DRAW)
    for one in side_by_side:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), one.weights.params, expected.params)


def test_what_a_stage_does_not_move_stays_as_it_was_bit_for_bit(problem):
    recipe = staged(Stage("transfer", {NEW: 1.0}), means="one")
    trained = Trainer(problem, {"one": recipe}).train("one", {"learning_rate": 0.1}, DRAW)
    start = problem.start(DRAW)
    assert same(trained.weights.params["trunk"], start.params["trunk"])
    assert not same(trained.weights.params["head"], start.params["head"])


def test_rules_name_parts_that_move_at_rates_of_their_own(problem):
    rules = [("trunk/dense_0/.*", "first")]
    stage = Stage("deep", {"first": 0.0, TRANSFERRED: 1.0, NEW: lambda step: 1.0 * (step > 2)}, rules=rules)
    trained = Trainer(problem, {"deep": staged(stage, means="deep")}).train("deep", {"learning_rate": 0.1}, DRAW)
    start = problem.start(DRAW)
    moved = {
        name: not same(trained.weights.params["trunk"][name], start.params["trunk"][name])
        for name in start.params["trunk"]
    }
    assert moved == {"dense_0": False, "dense_1": True}


def test_a_pull_means_in_a_shorter_stage_what_it_means_in_a_whole_run(problem):
    """e^−pull of the distance is left where nothing else holds, whatever the share."""
    for share in (1.0, 1 / 3):
        stage = Stage("last", {TRANSFERRED: 1.0, NEW: 1.0}, share, pulls={TRANSFERRED: "source", NEW: "zero"})
        program = stage.program(problem)
        rates = problem.rates(program, {"learning_rate": 0.01, "pull/source": 2.0, "pull/new": 0.5})
        reach = problem.reached_in(program.steps)["penalty"]
        assert rates["penalty/transferred/source"] * 0.01 * reach == pytest.approx(2.0)
        assert rates["penalty/new/zero"] * 0.01 * reach == pytest.approx(0.5)
    assert problem.reached_in(3)["penalty"] < problem.reached_in(9)["penalty"] == problem.reach["penalty"]


@pytest.mark.parametrize("name", STAGES)
def test_a_row_reads_all_that_is_searched_and_its_settings_run_in_one_program(problem, name):
    search = STAGES[name].search
    settings = [{key: 0.3 if key == changed else 0.1 for key in search} for changed in ("", *search)]
    first, *others = (one.weights.params for one in Trainer(problem, STAGES).train_all(name, settings, Draw(1)))
    assert [key for key, other in zip(search, others, strict=True) if same(first, other)] == []


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Stage("x", {}), "nothing moves"),
        (lambda: Stage("x", {NEW: 1.0}, 0.0), "share 0"),
        (lambda: Stage("x", {NEW: 1.0}, 1.5), "share 1.5"),
        (lambda: Stage("x", {NEW: 1.0}, pulls={TRANSFERRED: "source"}), "pulled and does not move"),
        (lambda: Stage("x", {NEW: 1.0}, pulls={NEW: "sauce"}), "did you mean 'source'"),
        (lambda: staged(means="none"), "no stages"),
        (lambda: staged(Stage("x", {NEW: 1.0}), Stage("x", {NEW: 1.0}), means="two"), "stages x, x"),
        (
            lambda: staged(Stage("x", {NEW: 1.0}, pulls={NEW: "zero"}), Stage("y", {NEW: 1.0}), means="early"),
            "before the last",
        ),
        (lambda: Stage("x", {"nwe": 1.0}).program(problem_of()), "did you mean 'new'"),
    ],
)
def test_what_is_no_stage_is_refused_in_a_line(make, says):
    with pytest.raises(InputError, match=says):
        make()
