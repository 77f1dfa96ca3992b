"""Domain adaptation on digits with next to no training: who is given which labels, what rows do, who is chosen."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from jaxtl.data import load
from jaxtl.errors import InputError
from jaxtl.methods.domain.after import STATISTICAL, source_model
from jaxtl.methods.domain.programs import ADVERSARY
from jaxtl.methods.domain.recipes import BOUND, RECIPES
from jaxtl.problems.adaptation import MEANS, ORACLE, TOLD, VALIDATORS, Adaptation, AdaptationConfig
from jaxtl.protocol import Budget, Draw, Trainer, study
from jaxtl.protocol.recipes import range_of
from jaxtl.step import compile_step
from jaxtl.trees import named_leaves

DRAW = Draw(1)
ROWS = [name for name in RECIPES if name not in STATISTICAL]  # those need batch normalisation


@dataclasses.dataclass(frozen=True)
class Config(AdaptationConfig, Budget):
    pass


CONFIG = Config(
    model="mlp",
    widths=(12,),
    adversary=6,
    steps=3,
    source_steps=1,
    batch_size=16,
    trials=2,
    tuning_draws=1,
    report_draws=2,
    validation=40,
)


def halves():
    """Digits, and other digits upside down."""
    digits = load("digits")
    first, second = (digits.train.take(slice(k, 400, 2)) for k in (0, 1))
    turned = digits.test.having(image=digits.test.images[:, ::-1])
    source = dataclasses.replace(digits, train=first, name="upright")
    return source, dataclasses.replace(
        digits, train=second.having(image=second.images[:, ::-1]), test=turned, name="turned"
    )


@pytest.fixture(scope="module")
def problem():
    return Adaptation(CONFIG, *halves())


@pytest.fixture(scope="module")
def relabelled():
    """The same with other labels on the target's training part."""
    source, target = halves()
    wrong = (target.train.labels + 3) % 10
    return Adaptation(CONFIG, source, dataclasses.replace(target, train=target.train.having(label=wrong)))


def setting_of(name, place):
    return {key: range_of(key, RECIPES[name], CONFIG).at(place) for key in RECIPES[name].search}


# ---------------------------------------------------------------- labels


def test_no_target_label_is_in_what_a_step_is_given_but_for_the_bound(problem):
    for name in ROWS:
        program = RECIPES[name].program(problem)
        data = problem.data(program, problem.start(DRAW), DRAW)
        if name == BOUND:
            assert {*jax.tree.leaves(program.labels)} == {TOLD}
            np.testing.assert_array_equal(data["source"]["label"], problem.target.train.labels)
            assert "target" not in data
        else:
            assert {*data["target"]} <= {"image", "index", "order"}
            np.testing.assert_array_equal(data["source"]["label"], problem.source.train.labels)
            assert {*np.asarray(data["source"]["index"])} == {*problem.parts(0)[1]}
        assert "penalty/adversary" not in program.rates


def test_other_labels_on_the_target_change_neither_a_net_nor_a_choice_but_for_the_bounds(problem, relabelled):
    found = []
    for one in (problem, relabelled):
        (trained,) = Trainer(one, RECIPES).train_all("dan", [setting_of("dan", 0.5)], DRAW)
        scores = {way.name: way.score(trained, DRAW) for way in one.selections(("dan",), "information")}
        found.append((trained.weights, one.validate(trained, DRAW), scores))
    (ours, valid, scores), (theirs, other_valid, others) = found
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    assert valid == other_valid
    assert list(scores) == ["information", *(name for name in VALIDATORS if name != "information"), ORACLE]
    assert [name for name in scores if scores[name] != others[name]] == [ORACLE]
    assert MEANS.keys() == scores.keys()


def test_held_out_source_examples_are_not_learned_from_and_replicates_have_their_own(problem):
    held, learned, looked_at = problem.parts(0)
    assert sorted([*held, *learned]) == list(range(len(problem.source.train)))
    assert len(looked_at) == CONFIG.validation
    assert not np.array_equal(held, problem.parts(1)[0])


# ---------------------------------------------------------------- rows


def stepped(problem, name, places, count=2):
    """Weights after some steps at some places of the ranges, by one compiled step."""
    recipe, draw = RECIPES[name], DRAW
    program = recipe.program(problem)
    step, ended = compile_step(program.step), []
    start = recipe.start(problem, draw) if recipe.start else problem.start(draw)
    data = problem.data(program, start, draw)
    given = recipe.given(problem, draw, start) if recipe.given else {}
    for place in places:
        state = program.start(start, problem.key(draw, "run"))
        fixed = program.fixed(problem.rates(program, setting_of(name, place)), given)
        for _ in range(count):
            state, metrics = step(state, data, fixed)
            assert np.isfinite([float(value) for value in metrics.values()]).all()
        ended.append(state.params)
    assert step._cache_size() == 1, "changing rates compiles nothing"
    return start.params, ended


@pytest.mark.parametrize("name", ROWS)
def test_every_row_trains_reads_its_setting_and_compiles_once(problem, name):
    start, (one, other) = stepped(problem, name, (0.2, 0.8))
    for params in (one, other):
        assert named_leaves(params).keys() == named_leaves(start).keys()
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))
    assert any(np.any(a != b) for a, b in zip(*map(jax.tree.leaves, (one, other)), strict=True))
    assert RECIPES[name].means
    assert (ADVERSARY in start) == (RECIPES[name].start not in (None, source_model))


def test_an_adversary_learns_before_it_is_heeded(problem):
    """At step 0 the trunk is given nothing of it: it moves as that of source_only, and the adversary moves."""
    start, (played,) = stepped(problem, "dann", (0.5,), count=1)
    _, (plain,) = stepped(problem, "source_only", (0.5,), count=1)
    for part in ("trunk", "head"):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), played[part], plain[part])
    assert np.any(played[ADVERSARY]["says"]["kernel"] != start[ADVERSARY]["says"]["kernel"])


# ---------------------------------------------------------------- choices


def test_a_study_chooses_by_every_validator_and_the_bound_by_target_labels(problem, tmp_path):
    names = ("source_only", "mcc", BOUND)
    ways = problem.selections(names[:2], "information")
    recipes = {name: dataclasses.replace(RECIPES[name], chosen=ORACLE) for name in names}
    result = study(problem, recipes, tmp_path, methods=names, selections=ways)
    assert result.shown("mcc") == "information"
    assert result.shown(BOUND) == ORACLE
    assert result.selections == ["information", *(name for name in VALIDATORS if name != "information"), ORACLE]
    tuning = [run for run in result.runs if run.method == "mcc" and run.stage == "tuning"]
    for selection in result.selections:
        best = max(tuning, key=lambda run, way=selection: run.scores[way])
        chosen = result.reported("mcc", selection)
        assert {tuple(run.setting.items()) for run in chosen} == {tuple(best.setting.items())}
        assert {"test", "source", "a_distance"} <= chosen[0].metrics.keys()


def test_what_are_no_two_domains_is_refused():
    source, target = halves()
    with pytest.raises(InputError, match="the same classes"):
        Adaptation(CONFIG, source, dataclasses.replace(target, classes=("a", *target.classes[1:])))
    small = target.train.having(image=target.train.images[:, ::2])
    with pytest.raises(InputError, match="source images are 8x8x1, the target's 4x8x1"):
        Adaptation(CONFIG, source, dataclasses.replace(target, train=small))
