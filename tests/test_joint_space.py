"""A joint space of images and descriptions: who learns from what, what is measured, the way on from there."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl.data import from_arrays
from jaxtl.data.captions import captions
from jaxtl.errors import InputError
from jaxtl.methods.multimodal.space_recipes import LABELLED, LEARNED, SPACES
from jaxtl.models import initial_model_state, initialise
from jaxtl.models.space import INPUTS, Space
from jaxtl.problems import Described, FewDescribed, JointSpace, LabelledConfig, SpaceConfig
from jaxtl.problems.joint_space import head_of
from jaxtl.protocol import Budget, Draw, Trainer
from jaxtl.protocol.recipes import range_of

CLASSES, SIZE, WIDTH, DRAW = 9, 12, 6, Draw(1)


@dataclasses.dataclass(frozen=True)
class Config(SpaceConfig, LabelledConfig, Budget):
    pass


CONFIG = Config(steps=60, batch_size=32, trials=2, choosing_classes=2, tested_classes=3, validation=40)


def made(seed, per_class=30):
    """Images that are where their description is, through a matrix that a linear map undoes, with noise."""
    random = np.random.default_rng(seed)
    texts = random.normal(size=(CLASSES, WIDTH))
    texts = (texts / np.linalg.norm(texts, axis=1, keepdims=True)).astype(np.float32)
    back = np.random.default_rng(99).normal(size=(WIDTH, SIZE))
    labels = np.repeat(np.arange(CLASSES), per_class)
    images = [texts[labels] @ back + 0.3 * random.normal(size=(len(labels), SIZE)) + 2.0 for _ in range(2)]
    data = from_arrays(images[0], labels, images[1], labels, classes=[f"c{k}" for k in range(CLASSES)], name=f"s{seed}")
    return Described(data, texts)


@pytest.fixture(scope="module")
def problem():
    return JointSpace(CONFIG, made(0), {"other": made(1)})


@pytest.fixture(scope="module")
def trained(problem):
    return Trainer(problem, SPACES).train("classes", {"learning_rate": 0.05, "pull": 0.03}, DRAW)


@pytest.fixture(scope="module")
def few(problem, trained):
    return FewDescribed(CONFIG, problem.as_source(trained.weights, 0), made(1), 3)


def test_a_space_has_directions_of_one_length_by_the_statistics_it_carries():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(5, SIZE)), jnp.float32)
    params, state = initialise(Space(WIDTH), jax.random.key(0), (SIZE,)), initial_model_state(Space(WIDTH), (SIZE,))
    found, taps = Space(WIDTH).apply({"params": params, **state}, x, False)
    z = np.asarray(x) @ np.asarray(params["dense_0"]["kernel"]) + np.asarray(params["dense_0"]["bias"])
    np.testing.assert_allclose(taps["dense_0"], z, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found, np.sqrt(WIDTH) * z / np.linalg.norm(z, axis=1, keepdims=True), rtol=1e-5)
    carried = {INPUTS: {"mean": jnp.full(SIZE, 3.0), "std": jnp.full(SIZE, 2.0)}}
    moved, _ = Space(WIDTH).apply({"params": params, **carried}, 2 * x + 3, False)
    np.testing.assert_allclose(moved, found, rtol=1e-4, atol=1e-5)
    nothing = jax.tree.map(jnp.zeros_like, params)
    slope = jax.grad(lambda p: jnp.sum(Space(WIDTH).apply({"params": p, **state}, x, False)[0]))(nothing)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slope))


def test_classes_are_dealt_anew_and_nobody_learns_from_those_that_choose_or_are_tested(problem):
    dealt = [problem.classes(k) for k in range(3)]
    for one in dealt:
        assert sorted(np.concatenate(one)) == list(range(CLASSES))
        assert [len(part) for part in one] == [4, 2, 3]
    assert len({tuple(one.tested) for one in dealt}) > 1
    data = problem.data(None, None, Draw(0, replicate=1))
    assert set(np.asarray(data["label"])[np.asarray(data["index"])].tolist()) == set(dealt[1].learned.tolist())


def test_what_is_said_and_seen_of_other_classes_changes_nothing_that_is_learned(problem):
    """Descriptions and images of classes that choose or are tested are replaced by nonsense."""
    described, learned = made(0), problem.classes(0).learned
    other = np.setdiff1d(np.arange(CLASSES), learned)
    texts, images = described.texts.copy(), np.array(described.task.train.images)
    texts[other] = texts[other][::-1]
    images[np.isin(described.task.train.labels, other)] = 7.0
    task = dataclasses.replace(described.task, train=described.task.train.having(image=images))
    nonsense = JointSpace(CONFIG, Described(task, texts))
    for name in ("classes", "clip_classes", "mse"):
        setting = {"learning_rate": 0.05, "pull": 0.1}
        a, b = (Trainer(one, SPACES).train_all(name, [setting], DRAW)[0].weights for one in (problem, nonsense))
        jax.tree.map(np.testing.assert_array_equal, a, b)


def test_the_most_similar_description_is_numpys_and_new_classes_are_recognised(problem, trained):
    metrics, _ = problem.test(trained, DRAW)
    tested, described = problem.classes(0).tested, made(0)
    params, state = trained.weights.params["trunk"]["dense_0"], trained.weights.model_state[INPUTS]["trunk"]
    right = []
    for part in (described.task.train, described.task.test):
        own = np.isin(part.labels, tested)
        z = (part.images[own] - np.asarray(state["mean"])) / np.asarray(state["std"])
        z = z @ np.asarray(params["kernel"]) + np.asarray(params["bias"])
        cosine = z @ described.texts[tested].T / np.linalg.norm(z, axis=1, keepdims=True)
        right.append(tested[cosine.argmax(axis=1)] == part.labels[own])
    assert metrics["test"] == pytest.approx(np.concatenate(right).mean())
    assert metrics["test"] > 1 / 3 + 0.1, "descriptions of classes that nobody has seen say where they are"
    assert metrics["image to text@1"] == metrics["test"]
    assert metrics["all classes"] <= metrics["test"]
    assert metrics["learned"] > 0.8
    assert metrics["zero-shot/other"] > 1 / CLASSES


@pytest.mark.parametrize("name", SPACES)
def test_every_alignment_trains_the_map_and_what_it_learns_beside_it_and_reads_its_setting(problem, name):
    recipe, trainer = SPACES[name], Trainer(problem, SPACES)
    settings = [{key: range_of(key, recipe, CONFIG).at(place) for key in recipe.search} for place in (0.2, 0.9)]
    one, other = trainer.train_all(name, settings, DRAW)
    start = recipe.start(problem, DRAW)
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), start.params, one.weights.params)
    assert all(jax.tree.leaves(moved))
    assert np.any(
        one.weights.params["trunk"]["dense_0"]["kernel"] != other.weights.params["trunk"]["dense_0"]["kernel"]
    )
    assert (LEARNED in start.params) == (name not in ("cosine", "mse"))
    jax.tree.map(np.testing.assert_array_equal, start.model_state, one.weights.model_state)


def test_a_head_of_descriptions_is_a_scaled_cosine_and_the_source_is_as_sure_as_it_is_right(problem, trained):
    texts, z = made(0).texts, np.random.default_rng(0).normal(size=(4, WIDTH))
    units = z / np.linalg.norm(z, axis=1, keepdims=True)
    head = head_of(texts, 5.0)
    assert not np.any(head["bias"])
    said = np.sqrt(WIDTH) * units @ np.asarray(head["kernel"])
    np.testing.assert_allclose(said, 5 * units @ texts.T, rtol=1e-4, atol=1e-5)
    source = problem.as_source(trained.weights, 0)
    norms = np.linalg.norm(source.weights.params["head"]["kernel"], axis=0)
    np.testing.assert_allclose(norms, norms[0], rtol=1e-5)
    assert source.weights.params["head"]["kernel"].shape == (WIDTH, CLASSES)


def answers(few, name, setting, draw=DRAW):
    (one,) = Trainer(few, LABELLED).train_all(name, [setting], draw)
    return few.answers(one.weights)


def test_without_labels_it_is_zero_shot_and_what_is_pulled_to_descriptions_hard_enough_stays_or_comes_there(few):
    zero_shot = answers(few, "zero_shot", {})
    reach = few.reach["penalty"]
    assert np.array_equal(few.answers(few.described(DRAW)), zero_shot)
    hard = {"learning_rate": 1e-3, "pull/text": 0.5 * reach}
    for name in ("text_to_text", "fresh_to_text"):
        np.testing.assert_array_equal(answers(few, name, hard).argmax(axis=1), zero_shot.argmax(axis=1))
    assert np.any(
        answers(few, "text_to_zero", {"learning_rate": 0.01, "pull/new": 0.1}).argmax(1) != zero_shot.argmax(1)
    )
    np.testing.assert_array_equal(
        answers(few, "mean_and_text", {"text_images": 1e6}).argmax(axis=1), zero_shot.argmax(axis=1)
    )
    np.testing.assert_allclose(
        answers(few, "mean_and_text", {"text_images": 1e-9}), answers(few, "nearest_mean", {}), rtol=1e-3, atol=1e-4
    )


def test_a_pull_towards_descriptions_is_nothing_where_training_starts_and_grows_away_from_there(few):
    program = Trainer(few, LABELLED).program(LABELLED["all_to_start"].program)
    start = few.described(DRAW)
    given = LABELLED["all_to_start"].given(few, DRAW, start)
    np.testing.assert_array_equal(given["anchor"]["head"]["kernel"], start.params["head"]["kernel"])
    np.testing.assert_array_equal(
        given["anchor"]["trunk"]["dense_0"]["kernel"], start.params["trunk"]["dense_0"]["kernel"]
    )
    assert {"penalty/transferred/source", "penalty/new/text"} <= set(program.rates)
    fresh = few.start(DRAW)
    again = LABELLED["fresh_to_text"].given(few, DRAW, fresh)["anchor"]["head"]["kernel"]
    np.testing.assert_array_equal(again, start.params["head"]["kernel"])


@pytest.mark.parametrize("name", [name for name, recipe in LABELLED.items() if recipe.program is not None])
def test_every_row_of_few_labels_trains_and_reads_its_setting(few, name):
    recipe = LABELLED[name]
    settings = [{key: range_of(key, recipe, CONFIG).at(place) for key in recipe.search} for place in (0.1, 0.9)]
    one, other = Trainer(few, LABELLED).train_all(name, settings, DRAW)
    heads = [np.asarray(each.weights.params["head"]["kernel"]) for each in (one, other)]
    assert np.any(heads[0] != heads[1])
    trunks = [np.asarray(each.weights.params["trunk"]["dense_0"]["kernel"]) for each in (one, other)]
    source = np.asarray(few.source.weights.params["trunk"]["dense_0"]["kernel"])
    assert all(np.array_equal(trunk, source) for trunk in trunks) == (not name.startswith("all"))
    assert np.isfinite(few.validate(one, DRAW))


def test_a_probe_reads_neither_map_nor_descriptions(few, problem, trained):
    random = trained.weights._replace(
        params=jax.tree.map(lambda leaf: jnp.ones_like(leaf) * 0.3, trained.weights.params)
    )
    described = made(1)
    other = FewDescribed(
        CONFIG, problem.as_source(random, 0), Described(described.task, described.texts[::-1].copy()), 3
    )
    np.testing.assert_array_equal(answers(few, "probe", {}), answers(other, "probe", {}))


def test_descriptions_name_their_class():
    assert captions(["oak_tree", "7"], "name") == [["oak tree"], ["7"]]
    assert all("oak tree" in one for one in captions(["oak_tree"], "photos")[0])
    assert len({one[0] for one in captions([str(k) for k in range(10)], "photo")}) == 10


def test_what_does_not_fit_is_refused():
    with pytest.raises(InputError, match="leave two or more"):
        JointSpace(dataclasses.replace(CONFIG, tested_classes=6), made(0))
    described = made(0)
    with pytest.raises(InputError, match="a row for each class"):
        JointSpace(CONFIG, Described(described.task, described.texts[1:]))
