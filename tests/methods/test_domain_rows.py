"""Domain adaptation on digits with next to no training: who is given which labels, what rows do, who is chosen."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.metrics import balanced_accuracy_score

from jaxtl.data import load, paired
from jaxtl.errors import InputError
from jaxtl.methods.domain.adversary import ramp
from jaxtl.methods.domain.after_recipes import STATISTICAL, check_after, source_model
from jaxtl.methods.domain.game_recipes import adversary_of
from jaxtl.methods.domain.recipes import BOUND, RECIPES, check_rows
from jaxtl.methods.domain.term_recipes import ADVERSARY
from jaxtl.problems.adaptation import MEANS, ORACLE, TOLD, VALIDATORS, Adaptation, AdaptationConfig
from jaxtl.protocol import Budget, Draw, Trained, Trainer, study
from jaxtl.protocol.measures import MEASURES
from jaxtl.protocol.recipes import range_of
from jaxtl.step import compile_step
from jaxtl.trees import named_leaves

DRAW = Draw(1)
ROWS = [name for name in RECIPES if name not in STATISTICAL]  # those need batch normalisation
KINDS = ("target_only", "dan", "dann", "fixmatch", "mcd", "adda", "dann_after_l2_sp", "osbp")  # one of each
MARKED = [pytest.param(name, marks=() if name in KINDS else pytest.mark.slow) for name in ROWS]


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


@pytest.mark.parametrize("name", MARKED)
def test_every_row_trains_reads_its_setting_and_compiles_once(problem, name):
    start, (one, other) = stepped(problem, name, (0.2, 0.8))
    for params in (one, other):
        assert named_leaves(params).keys() == named_leaves(start).keys()
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))
    assert any(np.any(a != b) for a, b in zip(*map(jax.tree.leaves, (one, other)), strict=True))
    assert RECIPES[name].means
    assert (ADVERSARY in start) == (RECIPES[name].start is not None)


def test_an_adversary_learns_before_it_is_heeded(problem):
    """At step 0 the trunk is given nothing of it: it moves as that of source_only, and the adversary moves."""
    start, (played,) = stepped(problem, "dann", (0.5,), count=1)
    _, (plain,) = stepped(problem, "source_only", (0.5,), count=1)
    for part in ("trunk", "head"):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), played[part], plain[part])
    assert np.any(played[ADVERSARY]["says"]["kernel"] != start[ADVERSARY]["says"]["kernel"])


# ---------------------------------------------------------------- phases


def classic(opt, loss, params, state, moves):
    """One update of some top-level parts, the others held."""
    gradient = jax.grad(loss)(params)
    held = {part: jax.tree.map(jnp.zeros_like, tree) for part, tree in gradient.items() if part not in moves}
    updates, state = opt.update({**gradient, **held}, state, params)
    return {**params, **{part: optax.apply_updates(params[part], updates[part]) for part in moves}}, state


def test_two_heads_part_on_the_target_and_the_trunk_brings_them_together(problem):
    """MCD's three steps of the paper, written out for one batch: the same parameters, phase by phase."""
    program, draw = RECIPES["mcd"].program(problem), DRAW
    start = RECIPES["mcd"].start(problem, draw)
    state = program.start(start, problem.key(draw, "run"))
    data = problem.data(program, start, draw)
    rates = problem.rates(program, {"learning_rate": 0.1, "mcd_weight": 2.0})
    ended, _ = compile_step(program.step)(state, data, program.fixed(rates))

    prepare = paired(**dict.fromkeys(("source", "target"), problem.images.batches(CONFIG.batch_size)))
    drawn = jax.random.split(jax.random.fold_in(problem.key(draw, "run"), 0))[0]
    batch = prepare(data, drawn, 0)
    said = {}

    def logits(params, side):
        trunk = {"params": {"trunk": params["trunk"], "head": params["head"]}}
        out = problem.model.apply(trunk, batch[side]["image"], True)
        second = params[ADVERSARY]["says"]
        return out["head"], out["features"] @ second["kernel"] + second["bias"][None]

    def learn(params):
        heads = logits(params, "source")
        label = batch["source"]["label"]
        return sum(optax.softmax_cross_entropy_with_integer_labels(head, label).mean() for head in heads)

    def gap(params):
        p, q = (jax.nn.softmax(head) for head in logits(params, "target"))
        return jnp.abs(p - q).mean()

    heads, every = ("head", ADVERSARY), ("trunk", "head", ADVERSARY)
    phases = [(learn, every), (lambda p: learn(p) - 2.0 * gap(p), heads), *[(lambda p: 2.0 * gap(p), ("trunk",))] * 4]
    params = start.params
    for loss, moves in phases:
        opt = optax.sgd(0.1, momentum=CONFIG.momentum, nesterov=True)
        before = params
        params, _ = classic(opt, loss, params, opt.init(params), moves)
        said[len(said)] = (float(gap(before)), float(gap(params)))
    assert said[1][1] > said[1][0], "heads part"
    assert said[2][1] < said[2][0], "the trunk brings them together"
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6), ended.params, params)


def test_a_copy_of_the_sources_trunk_moves_towards_what_is_taken_for_the_source(problem):
    """ADDA's two steps written out for one batch: the adversary learns, then the copy is paid for being mistaken."""
    recipe, key = RECIPES["adda"], problem.key(DRAW, "run")
    program, start = recipe.program(problem), recipe.start(problem, DRAW)
    source = source_model(problem, DRAW).params
    jax.tree.map(np.testing.assert_array_equal, start.params["trunk"], source["trunk"])
    data, given = problem.data(program, start, DRAW), recipe.given(problem, DRAW, start)
    rates = problem.rates(program, {"learning_rate": 0.1})
    ended, _ = compile_step(program.step)(program.start(start, key), data, program.fixed(rates, given))

    prepare = paired(**dict.fromkeys(("source", "target"), problem.images.batches(CONFIG.batch_size)))
    batch = prepare(data, jax.random.split(jax.random.fold_in(problem.key(DRAW, "run"), 0))[0], 0)
    net = adversary_of(problem, "dann")[0]

    def says(trunk, adversary, side):
        inner = {"params": {"trunk": trunk, "head": source["head"]}}
        features = problem.model.apply(inner, batch[side]["image"], True)["features"]
        return net.apply({"params": adversary}, features, True)["says"]

    def told_apart(params):
        here, there = (
            says(source["trunk"], params[ADVERSARY], "source"),
            says(params["trunk"], params[ADVERSARY], "target"),
        )
        return -0.5 * jnp.mean(jnp.log(jax.nn.sigmoid(here))) - 0.5 * jnp.mean(jnp.log(jax.nn.sigmoid(-there)))

    def mistaken(params):
        return -jnp.mean(jnp.log(jax.nn.sigmoid(says(params["trunk"], params[ADVERSARY], "target"))))

    params = start.params
    for loss, moves in ((told_apart, (ADVERSARY,)), (mistaken, ("trunk",))):
        opt = optax.sgd(0.1, momentum=CONFIG.momentum, nesterov=True)
        params, _ = classic(opt, loss, params, opt.init(params), moves)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6), ended.params, params)
    jax.tree.map(np.testing.assert_array_equal, ended.params["head"], source["head"])


def test_the_trunk_stays_nearer_to_the_source_model_the_harder_it_is_pulled_there(problem):
    recipe = RECIPES["dann_after_l2_sp"]
    source = source_model(problem, DRAW).params["trunk"]
    settings = [{"learning_rate": 0.1, "dann_weight": 1.0, "pull/source": pull} for pull in (1e-6, 20.0)]
    runs = Trainer(problem, {"row": recipe}).train_all("row", settings, DRAW)
    far = [float(optax.tree.norm(jax.tree.map(jnp.subtract, run.weights.params["trunk"], source))) for run in runs]
    assert far[1] < 0.5 * far[0]


def test_a_head_draws_a_boundary_at_one_half_and_the_trunk_goes_away_from_it(problem):
    """OSBP at step 1, written out: the head goes down on the boundary's loss, the trunk up, λ times as fast."""
    program, key, step = RECIPES["osbp"].program(problem), problem.key(DRAW, "run"), 1
    start = problem.start(DRAW)
    state = program.start(start, key)._replace(step=jnp.int32(step))
    data = problem.data(program, start, DRAW)
    rates = problem.rates(program, {"learning_rate": 0.1, "osbp_weight": 3.0})
    ended, _ = compile_step(program.step)(state, data, program.fixed(rates))

    prepare = paired(**dict.fromkeys(("source", "target"), problem.images.batches(CONFIG.batch_size)))
    batch = prepare(data, jax.random.split(jax.random.fold_in(problem.key(DRAW, "run"), step))[0], step)

    def logits(params, side):
        return problem.model.apply({"params": params}, batch[side]["image"], True)["head"]

    def boundary(params):
        p = jax.nn.softmax(logits(params, "target"))[:, -1]
        return -0.5 * jnp.mean(jnp.log(p) + jnp.log1p(-p))

    def classify(params):
        return optax.softmax_cross_entropy_with_integer_labels(
            logits(params, "source"), batch["source"]["label"]
        ).mean()

    plain, slope = jax.grad(classify)(start.params), jax.grad(boundary)(start.params)
    factors = {"head": 1.0, "trunk": -3.0 * float(ramp(step / CONFIG.steps))}
    rate = 0.1 * (1 + CONFIG.momentum)  # the first step of Nesterov's
    for part, factor in factors.items():
        moves = zip(*(jax.tree.leaves(tree[part]) for tree in (ended.params, start.params, plain, slope)), strict=True)
        for after, before, own, other in moves:
            np.testing.assert_allclose(after - before, -rate * (own + factor * other), rtol=1e-3, atol=1e-6)


# ---------------------------------------------------------------- batch statistics


@pytest.fixture(scope="module")
def normed():
    changes = {"model": "cnn", "widths": (4, 4), "input_size": 8, "normalisation": "batch", "source_steps": 2}
    return Adaptation(dataclasses.replace(CONFIG, **changes), *halves())


def test_statistics_become_those_of_target_images(normed):
    setting = {"learning_rate": 0.05}
    before, trained = (
        Trainer(normed, RECIPES).train_all(name, [setting], DRAW)[0].weights for name in ("source_only", "adabn")
    )
    jax.tree.map(np.testing.assert_array_equal, trained.params, before.params)
    images = (np.asarray(normed.target_images, np.float32) - normed.images.mean) / normed.images.std
    around = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(around, (3, 3), axis=(1, 2))  # [N, H, W, C, 3, 3]
    seen = np.einsum("nhwcij,ijcd->nhwd", windows, np.asarray(before.params["trunk"]["conv_0"]["kernel"]))
    own = trained.model_state["batch_stats"]["trunk"]["norm_0"]
    spread = np.sqrt(seen.var(axis=(0, 1, 2)))
    np.testing.assert_allclose(np.sqrt(own["var"]), spread, rtol=0.15)
    gap = [
        np.abs(np.asarray(state["batch_stats"]["trunk"]["norm_0"]["mean"]) - seen.mean(axis=(0, 1, 2))).max()
        for state in (before.model_state, trained.model_state)
    ]
    assert gap[1] < 0.2 * spread.max()
    assert gap[1] < gap[0]


def test_only_scales_and_shifts_make_answers_surer(normed):
    before = source_model(normed, DRAW)
    start, (moved,) = stepped(normed, "tent", (1.0,))
    changed = {path for path, leaf in named_leaves(moved).items() if np.any(leaf != named_leaves(before.params)[path])}
    assert changed == {f"trunk/norm_{k}/{leaf}" for k in (0, 1) for leaf in ("scale", "bias")}
    jax.tree.map(np.testing.assert_array_equal, start, before.params)


@pytest.mark.parametrize(
    ("changes", "methods", "message"),
    [
        ({}, ("dann", "tent"), "tent changes statistics of batch normalisation"),
        ({"source_steps": 3}, ("adda",), "3 of 3 steps are the source model's, none are left for adda"),
    ],
)
def test_rows_that_lack_what_they_change_are_refused(changes, methods, message):
    with pytest.raises(InputError, match=message):
        check_after(dataclasses.replace(CONFIG, **changes), methods)


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


def test_a_row_that_rejects_needs_a_class_without_source_examples():
    check_rows(CONFIG, ("osbp",), unknown=True)
    with pytest.raises(InputError, match=r"osbp answers with a class that the source has not(.|\n)*classes=open"):
        check_rows(CONFIG, ("osbp", "dann"))


def test_the_oracle_and_the_test_are_asked_the_same_measure():
    balanced = Adaptation(CONFIG, *halves(), MEASURES["balanced_accuracy"])
    weights = balanced.start(DRAW)
    trained = Trained("dann", RECIPES["dann"], weights, {}, [])
    metrics, arrays = balanced.test(trained, DRAW)
    expected = balanced_accuracy_score(balanced.target.test.labels, arrays["prediction"])
    assert metrics["test"] == pytest.approx(expected)
    _, _, looked_at = balanced.parts(0)
    said = balanced.answers(weights, balanced.target_images[looked_at]).argmax(axis=1)
    labels = balanced.target.train.labels[looked_at]
    assert balanced.oracle(trained, DRAW) == pytest.approx(balanced_accuracy_score(labels, said))
    assert {name: len(array) for name, array in arrays.items() if "features" in name} == {
        "source_features": len(balanced.parts(0)[0]),
        "target_features": CONFIG.validation,
    }


def test_what_are_no_two_domains_is_refused():
    source, target = halves()
    with pytest.raises(InputError, match="the same classes"):
        Adaptation(CONFIG, source, dataclasses.replace(target, classes=("a", *target.classes[1:])))
    small = target.train.having(image=target.train.images[:, ::2])
    with pytest.raises(InputError, match="source images are 8x8x1, the target's 4x8x1"):
        Adaptation(CONFIG, source, dataclasses.replace(target, train=small))
