"""A trunk of images on the frames of clips: its names, its mean, its order; and few clips as a problem."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl.data import from_arrays, load
from jaxtl.data.moving_images import CLIP, FRAMES, motions, moving
from jaxtl.errors import InputError
from jaxtl.labels import NEW, TRANSFERRED
from jaxtl.methods.finetuning import RECIPES, from_others
from jaxtl.models import Classifier, Cnn, as_forward, initialise
from jaxtl.models.clips import OverFrames
from jaxtl.problems import FewShot, LabelledConfig, SourceConfig, check_tasks, make_model
from jaxtl.problems.clips import clips_of
from jaxtl.problems.images import in_own_units, inputs_of, unread
from jaxtl.problems.many_sources import two_halves, untrained, wrongly_labelled
from jaxtl.protocol import Budget, Draw, Trainer
from jaxtl.step import EVALUATE

SIZE, FRAME = (3, 6, 6, 1), (6, 6, 1)


@dataclasses.dataclass(frozen=True)
class Small(SourceConfig, LabelledConfig, Budget):
    widths: tuple[int, ...] = (4, 8)
    hidden: int = 5
    input_size: int = 8
    steps: int = 3
    batch_size: int = 8
    validation: int = 40
    trials: int = 2


@pytest.fixture(scope="module")
def clips():
    return np.random.default_rng(0).normal(size=(5, *SIZE)).astype(np.float32)


@pytest.fixture(scope="module")
def sets():
    """(images of a source, clips of other images that a target draws from)."""
    theirs, ours = two_halves(in_own_units(load("digits")), np.random.default_rng(0))
    few = dataclasses.replace(ours, train=ours.train.take(slice(60)), test=ours.test.take(slice(10)))
    return theirs, moving(few, 4, 12)


# ---------------------------------------------------------------- the model


@functools.cache
def parts(hidden):
    """(parameters of a model of clips, clips -> its outputs, compiled)."""
    model = Classifier(OverFrames(Cnn((4, 8)), hidden), (("head", 3),))
    field = CLIP if hidden else FRAMES
    run = jax.jit(lambda params, clips: as_forward(model)(params, {}, {field: clips}, EVALUATE)[0])
    return initialise(model, jax.random.key(0), SIZE), run


@pytest.mark.parametrize("hidden", [0, 5])
def test_every_frame_goes_through_the_trunk_of_images_whose_names_it_has(clips, hidden):
    of_images = Classifier(Cnn((4, 8)), (("head", 3),))
    its = initialise(of_images, jax.random.key(0), FRAME)["trunk"]
    params, run = parts(hidden)
    assert {*params["trunk"]} - {*its} == ({"time"} if hidden else set())
    own = {name: params["trunk"][name] for name in its}
    assert jax.tree.map(jnp.shape, own) == jax.tree.map(jnp.shape, its)
    found = run(params, clips)
    frames = jax.jit(lambda x: Cnn((4, 8)).apply({"params": own}, x, False))
    features, taps = frames(clips.reshape(-1, *FRAME))
    np.testing.assert_allclose(found["taps"]["conv_1"].reshape(taps["conv_1"].shape), taps["conv_1"], atol=1e-5)
    if not hidden:
        np.testing.assert_allclose(found["features"], np.reshape(features, (5, 3, -1)).mean(axis=1), atol=1e-5)


def test_the_recurrence_is_a_loop_in_numpy_over_the_last_maps(clips):
    params, run = parts(5)
    found = run(params, clips)
    maps = np.asarray(found["taps"]["conv_1"], np.float64).reshape(5, 3, -1)
    time = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params["trunk"]["time"])
    h = c = np.zeros((5, 5))
    for t in range(3):
        z = maps[:, t] @ time["input"]["kernel"] + time["input"]["bias"] + h @ time["hidden"]["kernel"]
        i, f, g, o = np.split(z, 4, axis=1)
        i, f, o = (1 / (1 + np.exp(-gate)) for gate in (i, f, o))
        c = f * c + i * np.tanh(g)
        h = o * np.tanh(c)
    np.testing.assert_allclose(found["features"], h, atol=1e-5)


@pytest.mark.parametrize(("hidden", "differs"), [(0, False), (5, True)])
def test_a_mean_does_not_see_the_order_and_a_recurrence_does(clips, hidden, differs):
    params, run = parts(hidden)
    there, back = (run(params, seen)["head"] for seen in (clips, clips[:, ::-1]))
    assert bool(np.abs(there - back).max() > 1e-4) is differs


# ---------------------------------------------------------------- the problem


def test_what_clips_are_seen_as_follows_from_their_field(sets):
    _, digit = sets
    for task, ordered in ((digit, False), (motions(digit, ordered=True), True), (motions(digit, ordered=False), False)):
        inputs = inputs_of(task)
        assert (inputs.ordered, inputs.field) == (ordered, CLIP if ordered else FRAMES)
        assert inputs.shape == unread(task).shape == (4, 12, 12, 1)
        assert make_model(Small(), inputs, head=2).trunk.hidden == (5 if ordered else 0)
        assert type(inputs._replace(shape=(1, 1, 1, 1))) is type(inputs)
    assert clips_of(digit).mean == pytest.approx(np.asarray(digit.train[FRAMES]).mean(), abs=1e-5)


def test_the_trunk_of_images_is_carried_over_and_time_is_new(sets):
    source = untrained(Small(), sets[0])
    problem = FewShot(Small(), source, motions(sets[1], ordered=True), 3)
    labels = problem.moved.labels
    assert {*jax.tree.leaves(labels["trunk"]["time"])} == {*jax.tree.leaves(labels["head"])} == {NEW}
    rest = {name: label for name, label in labels["trunk"].items() if name != "time"}
    assert {*jax.tree.leaves(rest)} == {TRANSFERRED}
    params = problem.start(Draw(1)).params
    jax.tree.map(
        np.testing.assert_array_equal, {name: params["trunk"][name] for name in rest}, source.weights.params["trunk"]
    )
    np.testing.assert_array_equal(problem.images.mean, source.images.mean)


def test_clips_are_trained_on_and_no_image_is_held_out_and_learned_from(sets):
    source, task = untrained(Small(), sets[0]), motions(sets[1], ordered=True)
    problem = FewShot(Small(), source, task, 3)
    held, pool = problem.parts(0)
    assert not {*task.train.groups[held].tolist()} & {*task.train.groups[pool].tolist()}
    (trained,) = Trainer(problem, RECIPES).train_all(
        "l2_sp", [{"learning_rate": 0.1, "pull/source": 1.0, "pull/new": 0.1}], Draw(1)
    )
    metrics, arrays = problem.test(trained, Draw(1))
    assert 0 <= metrics["test"] <= 1
    assert metrics["source"] == pytest.approx(problem.on_source(trained.weights, Draw(1)))
    assert len(arrays["prediction"]) == 40


def test_a_net_without_the_order_gives_a_clip_and_the_one_backwards_one_answer(sets):
    source, task = untrained(Small(), sets[0]), motions(sets[1], ordered=False)
    problem = FewShot(Small(), source, task, 3)
    logits = problem.answers(problem.start(Draw(1)))
    np.testing.assert_allclose(logits[0::2], logits[1::2], atol=1e-4)
    assert len(logits) == len(task.test)
    assert np.mean(logits.argmax(axis=1) == task.test.labels) <= 0.5, (
        "of a clip and the one backwards one is right at most"
    )


def test_clips_are_no_target_of_sources_with_other_channels(sets):
    colour = from_arrays(np.zeros((20, 8, 8, 3), np.uint8), np.arange(20) % 2)
    with pytest.raises(InputError, match="source examples are 8x8x3, frames 12x12x1"):
        check_tasks(Small(), colour, sets[1], [3], folds=False, models=1)


# ---------------------------------------------------------------- from other sources


def test_a_method_from_other_sources_starts_there_and_is_pulled_there(sets):
    theirs, task = sets[0], sets[1]
    own, other = untrained(Small(), theirs), untrained(Small(seed=1), theirs)
    problem = FewShot(Small(), own, task, 3)
    recipe = from_others(RECIPES["l2_sp"], [other], "from elsewhere")
    assert (recipe.means, recipe.transfers, recipe.search) == ("from elsewhere", False, RECIPES["l2_sp"].search)
    start, draw = recipe.start(problem, Draw(1)), Draw(1)
    given = recipe.given(problem, draw, start)["anchor"]
    for found in (start.params, given):
        jax.tree.map(np.testing.assert_array_equal, found["trunk"], other.weights.params["trunk"])
    np.testing.assert_array_equal(start.params["head"]["kernel"], problem.start(draw).params["head"]["kernel"])
    setting = {"learning_rate": 1e-4, "pull/source": 5.0, "pull/new": 0.1}  # most of the way to an anchor elsewhere
    (trained,) = Trainer(problem, {"other": recipe}).train_all("other", [setting], draw)
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), trained.weights.params["trunk"], given["trunk"])
    apart = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), problem.start(draw).params["trunk"], given["trunk"])
    assert max(jax.tree.leaves(moved)) < 0.01 < 0.1 < max(jax.tree.leaves(apart))


def test_every_replicate_has_another_source_of_its_own(sets):
    theirs, task = sets
    others = [untrained(Small(seed=seed), theirs) for seed in (1, 2)]
    problem = FewShot(Small(), [untrained(Small(), theirs)] * 2, task, 3)
    recipe = from_others(RECIPES["l2"], others, "")
    for replicate, other in enumerate(others):
        found = recipe.start(problem, Draw(0, replicate=replicate)).params["trunk"]["conv_0"]["kernel"]
        np.testing.assert_array_equal(found, other.weights.params["trunk"]["conv_0"]["kernel"])


@pytest.mark.parametrize("name", ["scratch", "lp_ft", "joint"])
def test_a_method_that_starts_elsewhere_is_refused(name):
    with pytest.raises(InputError, match="starts elsewhere"):
        from_others(RECIPES[name], [], "")


def test_wrong_labels_are_those_of_other_images(sets):
    wrong = wrongly_labelled(sets[0], np.random.default_rng(0))
    assert wrong.train.images is sets[0].train.images
    np.testing.assert_array_equal(np.bincount(wrong.train.labels), np.bincount(sets[0].train.labels))
    assert np.mean(wrong.train.labels == sets[0].train.labels) < 0.2


def test_own_units_are_those_of_the_training_part():
    data = in_own_units(load("digits"))
    raw = load("digits")
    assert float(data.train.images.mean()) == pytest.approx(0, abs=1e-5)
    assert float(data.train.images.std()) == pytest.approx(1, abs=1e-4)
    whole = np.asarray(raw.train.images, np.float64)
    np.testing.assert_allclose(data.test.images, (raw.test.images - whole.mean()) / whole.std(), atol=1e-5)
