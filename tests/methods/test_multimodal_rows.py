"""Two views of digits with next to no training: what a draw holds, what rows share, what an absent modality changes."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax

from jaxtl.data import load
from jaxtl.data.modalities import halves
from jaxtl.errors import InputError
from jaxtl.labels import SHARED
from jaxtl.methods.multimodal.recipes import ALIGNED, APART, FUSIONS, JOINT, RULES, SPACE, alone, recipes
from jaxtl.methods.multimodal.rules import ON_ANSWERS, ON_FEATURES, fuse
from jaxtl.problems.pairs import PAIRS, Pairs, PairsConfig, check_pairs
from jaxtl.protocol import Budget, Draw, Trainer, study
from jaxtl.protocol.recipes import range_of
from jaxtl.step import EVALUATE, compile_step
from jaxtl.trees import named_leaves

DRAW, NAMES, N = Draw(1), ("lower", "upper"), 4


@dataclasses.dataclass(frozen=True)
class Config(PairsConfig, Budget):
    pass


CONFIG = Config(
    widths=(8,),
    steps=3,
    batch_size=16,
    trials=2,
    tuning_draws=1,
    report_draws=2,
    validation=50,
    fitting=30,
)


@pytest.fixture(scope="module")
def views():
    return halves(load("digits"))


@pytest.fixture(scope="module")
def problem(views):
    return Pairs(CONFIG, views, N, fuse)


@pytest.fixture(scope="module")
def unpaired(views):
    return Pairs(dataclasses.replace(CONFIG, paired=0.5), views, N, fuse)


def setting_of(recipe, place):
    return {key: range_of(key, recipe, CONFIG).at(place) for key in recipe.search}


def started(problem, name, draw=DRAW):
    recipe = recipes(NAMES)[name]
    return recipe.start(problem, draw) if recipe.start else problem.start(draw)


# ---------------------------------------------------------------- what a draw holds


def test_pairs_are_of_one_class_and_parts_of_a_draw_are_disjoint(problem, unpaired):
    for one in (problem, unpaired):
        parts, examples = one.parts(0), one.examples(DRAW)
        for name in NAMES:
            used = [parts.chooses[name], parts.fits[name], examples.pairs[name], examples.alone[name]]
            together = np.concatenate(used)
            assert len({*together}) == len(together)
            assert {*examples.pairs[name]} | {*examples.alone[name]} <= {*parts.pool[name]}
        labels = {name: one.sets[0].train[name].labels for name in NAMES}
        for pairs in (parts.chooses, parts.fits, examples.pairs):
            np.testing.assert_array_equal(labels["lower"][pairs["lower"]], labels["upper"][pairs["upper"]])
        counts = np.bincount(labels["upper"][np.concatenate([examples.pairs["upper"], examples.alone["upper"]])])
        assert (counts == N).all()
    assert not np.array_equal(problem.parts(0).chooses["upper"], problem.parts(1).chooses["upper"])


def test_pairs_and_what_is_alone_are_fields_of_their_own_and_share_a_batch(problem, unpaired):
    start = problem.start(DRAW)
    whole, parted = (one.data(None, start, DRAW) for one in (problem, unpaired))
    assert {*whole} == {PAIRS}
    assert {*parted} == {PAIRS, *NAMES}
    assert {*parted[PAIRS]} == {*NAMES, "label", "index", "order"}
    assert {*parted["upper"]} == {"upper", "label", "index", "order"}
    assert [len(parted[part]["label"]) for part in (PAIRS, *NAMES)] == [20, 20, 20]
    batch = unpaired.batches()(parted, jax.random.key(0), 0)
    assert [len(batch[part]["label"]) for part in (PAIRS, *NAMES)] == [8, 8, 8]


def test_replicates_take_sets_in_turn_and_sets_of_other_test_labels_are_refused(views):
    turned = dataclasses.replace(views, test=views.test.take(slice(None, None, -1)))
    with pytest.raises(InputError, match="other modalities or test labels"):
        Pairs(CONFIG, [views, turned], N, fuse)
    other = dataclasses.replace(views, name="others")
    several = Pairs(CONFIG, [views, other], N, fuse)
    assert [several.set_of(Draw(0, replicate=k)).name for k in range(3)] == [views.name, "others", views.name]
    assert "speakers that are tested" in several.own


def test_more_examples_than_there_are_and_networks_beyond_memory_are_refused(views):
    with pytest.raises(InputError, match=r"--config\.n_per_class=900: lower: class"):
        check_pairs(CONFIG, [views], [4, 900], 2)
    large = dataclasses.replace(CONFIG, widths=(65536,) * 20)
    with pytest.raises(InputError, match=r"--config\.widths"):
        check_pairs(large, [views], [4], 2)


# ---------------------------------------------------------------- rows


QUICK = ("concat_dropout", "gated", "clip_classes", "cca")


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in JOINT]
)
def test_every_joint_row_trains_all_it_has_reads_its_setting_and_compiles_once(problem, name):
    recipe, start = JOINT[name], started(problem, name)
    program, ended = recipe.program(problem), []
    step, data = compile_step(program.step), problem.data(program, start, DRAW)
    for place in (0.2, 0.8):
        state = program.start(start, problem.key(DRAW, "run"))
        fixed = program.fixed(problem.rates(program, setting_of(recipe, place)))
        for _ in range(2):
            state, metrics = step(state, data, fixed)
            assert np.isfinite([float(value) for value in metrics.values()]).all()
        ended.append(named_leaves(program.whole(start.params, state.params)))
    assert step._cache_size() == 1, "changing rates compiles nothing"
    begun = named_leaves(start.params)
    unused = {path for path in begun if "/head/" in path and {*ON_FEATURES} & {*start.params[SHARED]}}
    if name == "concat_own":
        unused = set()
    for path, leaf in ended[0].items():
        if path in unused:  # what is said follows from features alone
            continue
        assert np.any(leaf != begun[path]), f"{path} does not learn"
        assert np.any(leaf != ended[1][path]), f"{path} does not read the setting"
    assert recipe.means
    assert {label for label in jax.tree.leaves(program.labels)} == {path.split("/")[0] for path in begun}
    assert (SPACE in start.params) == (name in ("clip", "clip_classes", "siglip", "cca"))
    assert f"penalty/{SPACE}/zero" not in program.rates


def test_networks_apart_learn_the_sum_of_their_losses_on_pairs_and_what_is_alone(unpaired):
    program, start = APART.program(unpaired), APART.start(unpaired, DRAW)
    data, rng = unpaired.data(program, start, DRAW), unpaired.key(DRAW, "run")
    _, metrics = jax.jit(program.step)(program.start(start, rng), data, program.fixed({"penalty/upper/zero": 0.5}))
    batch = unpaired.batches()(data, jax.random.fold_in(rng, 0), 0)
    expected = 0.0
    for name in NAMES:
        own = {k: np.asarray(v, np.float64) for k, v in named_leaves(start.params[name]).items()}
        inputs = np.concatenate([batch[part][name] for part in (PAIRS, name)]).reshape(16, -1)
        labels = np.concatenate([batch[part]["label"] for part in (PAIRS, name)])
        hidden = np.maximum(inputs @ own["trunk/dense_0/kernel"] + own["trunk/dense_0/bias"], 0)
        said = softmax(hidden @ own["head/kernel"] + own["head/bias"], axis=1)
        expected -= np.log(said[np.arange(16), labels]).mean()
    assert float(metrics["task"]) == pytest.approx(expected, rel=1e-5)
    kernels = [leaf for path, leaf in named_leaves(start.params["upper"]).items() if path.endswith("kernel")]
    pulled = 0.25 * sum((np.asarray(kernel) ** 2).sum() for kernel in kernels)
    assert float(metrics["loss"]) == pytest.approx(expected + pulled, rel=1e-5)


def test_a_row_trained_end_to_end_adds_the_loss_of_the_product_on_pairs_alone(unpaired):
    recipe, start = JOINT["end_to_end"], started(unpaired, "end_to_end")
    program = recipe.program(unpaired)
    data, rng = unpaired.data(program, start, DRAW), unpaired.key(DRAW, "run")
    _, metrics = jax.jit(program.step)(program.start(start, rng), data, program.fixed({"fused": 0.25}))
    batch = unpaired.batches()(data, jax.random.fold_in(rng, 0), 0)[PAIRS]
    outputs = unpaired._seen(start.params, {name: batch[name] for name in NAMES})
    logits = sum(np.asarray(outputs["heads"][name], np.float64) for name in NAMES) / 2
    fused = -np.log(softmax(logits, axis=1)[np.arange(8), batch["label"]]).mean()
    assert float(metrics["fused"]) == pytest.approx(fused, rel=1e-5)
    assert float(metrics["loss"]) == pytest.approx(float(metrics["task"]) + 0.25 * fused, rel=1e-5)


def test_an_alignment_of_strength_0_leaves_networks_as_they_are_apart(problem):
    name, setting = "mse", {"learning_rate": 0.05, "pull": 0.1}
    trainer = Trainer(problem, {"apart": APART, name: JOINT[name]})
    (apart,) = trainer.train_all("apart", [setting], DRAW)
    off, on = trainer.train_all(name, [{**setting, "align_weight": weight} for weight in (0.0, 1.0)], DRAW)
    for part in NAMES:
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
            off.weights.params[part],
            apart.weights.params[part],
        )
        assert np.any(on.weights.params[part]["trunk"]["dense_0"]["kernel"]
                      != off.weights.params[part]["trunk"]["dense_0"]["kernel"])  # fmt: skip


def test_a_pull_of_each_modality_is_that_of_all_their_networks_and_of_nothing_shared(problem):
    program = JOINT["concat"].program(problem)
    setting = {"learning_rate": 0.1, "pull/modality": 2.0, f"pull/{SHARED}": 0.5, "pull/lasso": 3.0}
    rates = problem.rates(program, setting)
    unit = 0.1 * problem.reach["penalty"]
    for label, pull in (("lower", 2.0), ("upper", 2.0), (SHARED, 0.5)):
        assert rates[f"penalty/{label}/zero"] == pytest.approx(pull / unit)
        assert rates[f"penalty/{label}/lasso"] == pytest.approx(3.0 / unit)


def test_rules_share_networks_that_are_trained_once(problem, monkeypatch):
    trainer, counted = Trainer(problem, recipes(NAMES)), []
    whole = Trainer._train

    def counting(self, how, name, recipe, settings, draw):
        counted.append(recipe)
        return whole(self, how, name, recipe, settings, draw)

    monkeypatch.setattr(Trainer, "_train", counting)
    settings = [setting_of(APART, place) for place in (0.2, 0.8)]
    found = {name: trainer.train_all(name, settings, DRAW) for name in (*NAMES, *RULES)}
    assert sum(recipe is APART for recipe in counted) == 1
    for name, runs in found.items():
        for one, same in zip(runs, found["upper"], strict=True):
            for part in NAMES:
                jax.tree.map(np.testing.assert_array_equal, one.weights.params[part], same.weights.params[part])
        assert named_leaves(runs[0].weights.params[NAMES[0]]), name
    trainer.train_all("product", settings, Draw(2))
    trainer.train_all("product", settings[:1], DRAW)
    assert sum(recipe is APART for recipe in counted) == 3, "another draw and other settings are trained"


def test_what_several_rows_go_on_from_is_kept_within_a_bound(problem, monkeypatch):
    monkeypatch.setattr("jaxtl.protocol.training.MOST_KEPT", 1)
    trainer = Trainer(problem, recipes(NAMES))
    for draw in (Draw(1), Draw(2)):
        trainer.train_all("product", [setting_of(APART, 0.5)], draw)
    assert len(trainer._begun) == 1


# ---------------------------------------------------------------- what is said


@pytest.fixture(scope="module")
def ended(problem):
    """Every row with numbers that are not those of the start, without training."""
    random, found = np.random.default_rng(0), {}
    for name in ("concat", "gated", "low_rank"):
        start = started(problem, name)
        params = jax.tree.map(lambda w: np.float32(w + 0.3 * random.normal(size=np.shape(w))), start.params)
        found[name] = start._replace(params=params)
    towers = found["concat"].params
    for name in (*NAMES, *RULES):
        weights = found["concat"]._replace(params={part: towers[part] for part in NAMES})
        found[name] = recipes(NAMES)[name].finish(problem, weights, {}, DRAW)
    return found


def test_an_absent_modality_is_not_looked_at_by_any_row(problem, ended):
    test = problem.sets[0].test
    inputs = {name: problem.scaled(DRAW, name, test[name])[:40] for name in NAMES}
    nonsense = {**inputs, "lower": np.full_like(inputs["lower"], 1e6)}
    for name, weights in ended.items():
        outputs, others = problem.outputs(weights, inputs), problem.outputs(weights, nonsense)
        said = problem.answers(weights, outputs, ["upper"])
        np.testing.assert_array_equal(said, problem.answers(weights, others, ["upper"]), err_msg=name)
        np.testing.assert_allclose(np.exp(said).sum(axis=1), 1.0, rtol=1e-4, err_msg=name)
        if name in ("upper", "average", "weighted", "precision", "vote", "product"):
            own = np.asarray(outputs["heads"]["upper"])
            np.testing.assert_array_equal(said.argmax(axis=1), own.argmax(axis=1), err_msg=name)
    assert {*RULES, *NAMES} <= {*ended}


def test_rules_with_numbers_are_fitted_to_pairs_that_neither_learn_nor_choose(problem, ended):
    weight = ended["weighted"].params[SHARED]["weighted"]["weight"]
    assert weight.shape == (2,)
    assert weight.sum() == pytest.approx(1.0, abs=1e-5)
    assert weight.min() >= 0
    temperatures = ended["tempered"].params[SHARED]["tempered"]["temperature"]
    assert (temperatures > 0).all()
    assert ended["trained"].params[SHARED]["trained"]["kernel"].shape == (2, 10, 10)
    for name in ("weighted", "precision", "tempered", "trained"):
        assert len(problem.parts(0).fits["upper"]) <= CONFIG.fitting
        again = RULES[name].finish(problem, ended["concat"], {}, DRAW)
        jax.tree.map(np.testing.assert_array_equal, again.params[SHARED], ended[name].params[SHARED])


def test_networks_that_say_one_thing_of_all_are_no_error(problem, ended):
    nothing = jax.tree.map(np.zeros_like, ended["concat"].params)
    for name in {*RULES} - {"vote"}:  # a vote is for one class, whatever is said
        weights = RULES[name].finish(problem, ended["concat"]._replace(params=nothing), {}, DRAW)
        outputs, _ = problem.said_of(weights, DRAW, problem.parts(0).chooses)
        np.testing.assert_allclose(np.exp(problem.answers(weights, outputs)), 0.1, rtol=1e-4)


def test_blocks_change_nothing(problem, ended):
    rows = problem.parts(0).chooses
    outputs, labels = problem.said_of(ended["concat"], DRAW, rows)
    inputs, _ = problem.inputs(DRAW, rows)
    whole = problem.seen(ended["concat"].params, jax.tree.map(jnp.asarray, inputs), EVALUATE)
    for name in NAMES:
        assert len(outputs["heads"][name]) == len(labels)
        np.testing.assert_allclose(outputs["heads"][name], whole["heads"][name], rtol=1e-5, atol=1e-5)


def test_tests_measure_all_modalities_each_alone_and_what_is_worse(problem, ended):
    trainer = Trainer(problem, recipes(NAMES))
    (one,) = trainer.train_all("product", [setting_of(APART, 0.5)], DRAW)
    metrics, arrays = problem.test(one, DRAW)
    test, labels = problem.sets[0].test, problem.truth.labels
    inputs = {name: problem.scaled(DRAW, name, test[name]) for name in NAMES}
    outputs = problem.outputs(one.weights, inputs)
    assert metrics["test"] == np.mean(arrays["prediction"] == labels)
    for name in NAMES:
        own = np.asarray(outputs["heads"][name]).argmax(axis=1)
        assert metrics[f"there/{name}"] == pytest.approx(np.mean(own == labels), abs=1e-9)
        assert 0 <= metrics[f"fits/{name}"] <= 1
    assert {f"worse/{what}" for what in problem.sets[0].worse} <= {*metrics}
    single = trainer.train_all("upper", [setting_of(APART, 0.5)], DRAW)[0]
    alone_metrics, _ = problem.test(single, DRAW)
    assert alone_metrics["test"] == metrics["there/upper"]
    assert alone_metrics["worse/lower noise 0.3"] == alone_metrics["test"]


def test_a_study_of_rules_goes_through_and_goes_on_from_what_is_there(problem, tmp_path):
    names = ("upper", "product", "weighted")
    result = study(problem, recipes(NAMES), tmp_path, [("weighted", "product")], methods=names)
    assert result.methods == list(names)
    assert len(result.contrasts) == 1
    again = study(problem, recipes(NAMES), tmp_path, [("weighted", "product")], methods=names)
    assert [run.metrics for run in again.runs] == [run.metrics for run in result.runs]


def test_every_rule_has_a_row_and_every_row_a_rule(problem):
    assert {*ON_ANSWERS} - {"only", "independent"} <= {*RULES}
    assert {*ON_FEATURES} <= {*JOINT}
    assert {*ALIGNED} <= {*JOINT}
    assert list(recipes(NAMES)) == [*NAMES, *FUSIONS]
    assert alone("upper") is alone("upper")
