"""Starts that are learned from small tasks: which tasks these are, and that every start is judged alike."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import learned_starts as experiment
from experiments.learned_starts import Config
from jaxtl.data import Split, load, source_and_target
from jaxtl.errors import InputError
from jaxtl.problems import FewShot, SmallTasks, averaged_down, make_source
from jaxtl.problems.meta import by_class

TINY = Config(
    data="digits",
    n_per_class=4,
    widths=(8,),
    source_steps=20,
    steps=4,
    tuning_draws=1,
    report_draws=2,
    validation=50,
    meta_steps=2,
    tasks=2,
    inner_steps=2,
    adapted_learning_rates=(0.02,),
)


@pytest.fixture(scope="module")
def problem(tmp_path_factory):
    data = load("digits")
    source_task, task = source_and_target(TINY.split, data, data)
    return FewShot(TINY, make_source(TINY, source_task, tmp_path_factory.mktemp("source")), task, TINY.n_per_class)


def test_small_tasks_have_classes_in_any_order_and_queries_of_their_own(problem):
    coded = jnp.arange(3 * 20, dtype=jnp.float32).reshape(3, 20, 1, 1, 1)  # class · 20 + number
    tasks, n = SmallTasks(problem).sample(coded, jax.random.key(0), 0), TINY.n_per_class
    number = {
        part: np.round(np.asarray(batch["image"])[..., 0, 0, 0] * problem.images.std + problem.images.mean)
        for part, batch in tasks.items()
    }
    assert number["support"].shape == (TINY.tasks, 3 * n)
    assert np.all(number["support"] % 20 < 10)
    assert np.all(number["query"] % 20 >= 10)
    orders = number["support"].reshape(TINY.tasks, 3, n) // 20
    np.testing.assert_array_equal(orders, np.broadcast_to(orders[..., :1], orders.shape))
    np.testing.assert_array_equal(np.sort(orders[..., 0]), np.broadcast_to(np.arange(3), orders.shape[:2]))
    np.testing.assert_array_equal(orders[..., 0], number["query"].reshape(orders.shape)[..., 0] // 20)
    np.testing.assert_array_equal(tasks["support"]["label"][0], np.repeat(np.arange(3), n))


def test_small_tasks_have_no_more_classes_than_the_head_has_outputs(problem):
    tasks = SmallTasks(problem).sample(jnp.zeros((7, 6, 1, 1, 1)), jax.random.key(0), 0)
    assert tasks["support"]["label"].max() == len(problem.task.classes) - 1
    assert tasks["query"]["image"].shape[1] == len(problem.task.classes) * TINY.n_per_class


@pytest.mark.slow
def test_meta_learned_starts_are_compared_with_the_source(tmp_path):
    experiment.main(TINY, tmp_path)
    starts = json.loads((tmp_path / "summary.json").read_text())["starts"]
    assert list(starts) == ["source", "fresh", "reptile", "source + reptile", "iMAML", "source + iMAML"]
    for found in starts.values():
        assert found["difference"] == pytest.approx(np.mean(np.subtract(found["test"], starts["source"]["test"])))
    assert "## Is a meta-learned start better" in (tmp_path / "summary.md").read_text()


def test_images_are_averaged_over_blocks():
    task = load("digits")
    small = averaged_down(task, 4)
    assert small.train.images.shape[1:] == (4, 4, 1)
    block = task.test.images[3, 2:4, 4:6].astype(np.float64).mean()
    assert small.test.images[3, 1, 2, 0] == pytest.approx(block, abs=1)
    assert averaged_down(task, 8).train.images.shape == task.train.images.shape


@pytest.mark.parametrize("shape", [(64,), (8, 1, 1)])
def test_what_is_no_image_or_too_narrow_is_not_averaged(shape):
    task = load("digits")
    parts = {
        name: Split(np.zeros((10, *shape), np.uint8), getattr(task, name).labels[:10]) for name in ("train", "test")
    }
    with pytest.raises(InputError, match=r"^--config.edge: examples of \d+(x1x1)? cannot be averaged down"):
        averaged_down(dataclasses.replace(task, **parts), 4, "--config.edge")


def test_classes_are_stacked():
    part = Split(np.arange(6, dtype=np.uint8).reshape(6, 1, 1, 1), np.array([1, 0, 1, 1, 0, 1]))
    np.testing.assert_array_equal(by_class(part)[..., 0, 0, 0], [[1, 4], [0, 2]])
    with pytest.raises(InputError, match=r"--config.split: a source class has a single image"):
        by_class(Split(part.images[:2], part.labels[:2]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"adapted_learning_rates": ()}, r"--config.adapted_learning_rates: nothing is given"),
        ({"report_draws": 1}, "--config.report_draws: 1 is less than 2"),
        ({"n_per_class": 10_000}, r"--config.n_per_class=10000: "),
        ({"edge": 1}, "--config.edge: 1 is less than 2"),
    ],
)
def test_a_config_that_cannot_be_run_is_refused(changes, message, tmp_path):
    with pytest.raises(InputError, match=message):
        experiment.main(dataclasses.replace(TINY, **changes), tmp_path)
    assert not list(tmp_path.iterdir())
