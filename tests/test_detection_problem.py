"""A detector on a carried trunk: what is copied, drawn, held out, learned and measured."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl.data import by_class, from_arrays, load
from jaxtl.data.boxed import set_down
from jaxtl.errors import InputError
from jaxtl.methods.finetuning import PARAMETERS, Stage, staged
from jaxtl.models import Cnn, initialise
from jaxtl.models.detector import Detector, stride_of
from jaxtl.problems import Images, Source, SourceConfig, make_model
from jaxtl.problems.detection import Detection, DetectionConfig, true_boxes
from jaxtl.program import Weights
from jaxtl.protocol import Budget, Draw
from jaxtl.protocol.training import Trainer


@dataclasses.dataclass(frozen=True)
class Config(SourceConfig, DetectionConfig, Budget):
    """As an experiment has it."""


CONFIG = Config(
    widths=(8, 16),
    pooling=1,
    head_width=8,
    mirror="no",
    input_size=8,
    steps=12,
    chunk=4,
    batch_size=4,
    validation=8,
    found=12,
)
FEATURES = staged(Stage("head", {"new": 1.0}), means="the head alone")
ROWS = {"l2_sp": PARAMETERS["decoupled_sp"], "features": FEATURES}
DRAW = Draw(0)


@functools.partial(jax.jit, static_argnums=0)
def applied(model, params, image):
    return model.apply({"params": params}, image, False)


@pytest.fixture(scope="module")
def problem():
    digits = load("digits")
    source_task = by_class(digits, range(5))
    images = Images.of(source_task)
    model = make_model(CONFIG, images, head=5)
    source = Source(source_task, images, Weights(initialise(model, jax.random.key(0), images.like)), 0.2)
    task = set_down(by_class(digits, range(5, 7)), 40, 8, (32, 32), 3)
    return Detection(CONFIG, source, task, 8)


def test_the_trunk_is_the_source_models_and_the_head_is_new(problem):
    assert problem.moved.labels["trunk"]["conv_0"]["kernel"] == "transferred"
    assert set(jax.tree.leaves(problem.moved.labels["head"])) == {"new"}
    start, source = problem.start(DRAW).params, problem.sources[0].weights.params
    jax.tree.map(np.testing.assert_array_equal, start["trunk"], source["trunk"])
    assert not np.any(problem.moved.anchor["head"]["out"]["kernel"])
    assert problem.stride == 2


def test_the_map_is_what_the_classifier_averages(problem):
    source, image = problem.sources[0], jnp.asarray(problem.task.test.images[:2], jnp.float32)
    model = make_model(CONFIG, source.images, head=5)
    theirs = applied(model.clone(trunk=problem.model.trunk), source.weights.params, image)
    ours = applied(problem.model, problem.start(DRAW).params, image)
    np.testing.assert_allclose(jnp.mean(ours["features"], axis=(1, 2)), theirs["features"], atol=1e-5)


def test_a_detector_says_before_it_has_learned_that_hardly_anything_is_there(problem):
    said = applied(problem.model, problem.start(DRAW).params, jnp.zeros((2, *problem.images.shape)))["head"]
    assert said.shape == (2, 16, 16, 2 + 4)
    assert float(jax.nn.sigmoid(said[..., :2]).mean()) < 0.3


def test_a_map_that_does_not_divide_the_picture_is_refused():
    assert stride_of(Detector(Cnn((8, 8), input_pooling=3), 2), (36, 60, 1)) == 6
    with pytest.raises(InputError, match="31x32 pixels become"):
        stride_of(Detector(Cnn((8, 8)), 2), (31, 32, 1))
    with pytest.raises(InputError, match="'conv_9' is no map"):
        stride_of(Detector(Cnn((8, 8)), 2, tap="conv_9"), (32, 32, 1))


def test_an_odd_map_is_filled_to_its_edge():
    model, image = Detector(Cnn((8,)), 1, width=8), jax.ShapeDtypeStruct((1, 7, 9, 1), jnp.float32)
    said = jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x, train=False)[0], image)
    assert said["head"].shape == (1, 7, 9, 5)


def test_no_picture_both_chooses_and_is_learned_from_and_draws_differ(problem):
    held, pool = problem.parts(0)
    assert len(held) == 8
    assert not set(held) & set(pool)
    drawn = [problem.examples(Draw(k)) for k in range(3)]
    assert all(len(set(one)) == 8 and set(one) <= set(pool) for one in drawn)
    assert len({tuple(sorted(one)) for one in drawn}) == 3
    np.testing.assert_array_equal(problem.examples(Draw(1)), drawn[1])
    assert set(problem.parts(1)[0]) != set(held)


def test_every_row_learns_what_it_may_and_is_judged_by_coco(problem):
    trainer = Trainer(problem, ROWS)
    start = problem.start(DRAW).params
    settings = {
        "l2_sp": {"learning_rate": 0.01, "pull/transferred": 1.0, "pull/new": 0.1},
        "features": {"learning_rate": 0.01},
    }
    for name, setting in settings.items():
        trained = trainer.train(name, setting, DRAW)
        losses = [row["task"] for row in trained.curve]
        assert losses[-1] < losses[0], name
        moved = not np.array_equal(
            trained.weights.params["trunk"]["conv_0"]["kernel"], start["trunk"]["conv_0"]["kernel"]
        )
        assert moved == (name != "features")
    metrics, arrays = problem.test(trained, DRAW)
    truth = true_boxes(problem.task.test)
    assert arrays["found"].shape == (8, 12, 6)
    assert 0 <= metrics["test"] <= metrics["ap50"] <= 1
    assert {"ap50/5", "ap50/6"} <= metrics.keys()
    assert problem.score(trained.weights, "test") == metrics["test"]
    assert problem.measure.score(truth, arrays["found"]) == metrics["test"]


def test_what_is_right_about_every_picture_is_worth_1(problem, monkeypatch):
    truth = true_boxes(problem.task.train)
    sure = np.concatenate([truth, np.where(truth[..., 4:] < 0, 0.0, 0.9)], axis=2)
    monkeypatch.setattr(problem, "found", lambda weights, part, index: sure[index])
    assert problem.point(problem.start(DRAW), DRAW) == {"validation": 1.0}


def test_what_does_not_go_together_is_refused(problem):
    with pytest.raises(InputError, match="33 pictures, and there are 32"):
        Detection(CONFIG, problem.sources, problem.task, 33)
    with pytest.raises(InputError, match="12 is no multiple of 8"):
        Detection(dataclasses.replace(CONFIG, head_width=12), problem.sources, problem.task, 3)
    with pytest.raises(InputError, match="no boxes"):
        Detection(CONFIG, problem.sources, by_class(load("digits"), range(5)), 3)
    part = {**problem.task.train.fields, "image": problem.task.train.images.repeat(3, axis=-1)}
    colours = from_arrays(part, None, part, classes=["5", "6"])
    with pytest.raises(InputError, match="3 channels, the source model's 1"):
        Detection(CONFIG, problem.sources, colours, 3)
