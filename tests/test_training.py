"""The short way is the long way: a program, its run, and a sum over a part of a data set."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxtl as tl
from jaxtl.loop import request_stop, stop_request

KEY = jax.random.key(0)
RANDOM = np.random.default_rng(0)
DATA = tl.from_arrays(RANDOM.integers(0, 256, (70, 4, 4, 1), dtype=np.uint8), np.arange(70) % 3)
NUMBERS = tl.from_arrays(DATA.train.images, np.linspace(0, 1, len(DATA.train)), target="number")
MODEL = tl.Classifier(tl.Mlp((5,)), (("head", 3),))
GROUPS = {"transferred": tl.Group(0.01), "new": tl.Group(0.1)}
PULLS = {"transferred": tl.Term(0.01, tl.l2, ("anchor",)), "new": tl.Term(0.001, tl.l2)}


def moved(model=MODEL):
    source, fresh = (tl.initialise(model, jax.random.key(seed), (4, 4, 1)) for seed in (1, 2))
    return tl.transfer(source, fresh, reinit=["head/.*"])


def program(model=MODEL, **more):
    return tl.classification(model, DATA, moved(model), GROUPS, PULLS, batch_size=8, **more)


def same(ours, theirs):
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_the_short_way_is_the_long_way():
    weights, history = tl.train(program(momentum=0.9), moved().params, DATA, steps=20, rates={"penalty/new": 0.1})
    mean, std = tl.channel_statistics(DATA.train.images)
    by_hand = tl.make_program(
        tl.as_forward(MODEL),
        moved().labels,
        {"task": tl.Term(1.0, tl.mean_of(tl.softmax_cross_entropy))},
        GROUPS,
        PULLS,
        momentum=0.9,
        prepare=tl.image_batches(8, mean, std),
        given={"anchor": moved().anchor},
    )
    order, rng = jax.random.split(KEY)
    data, fixed = tl.on_device(DATA.train, order), by_hand.fixed({"penalty/new": 0.1})
    state, _ = tl.fit(by_hand.step, by_hand.start(tl.Weights(moved().params), rng), data, fixed, steps=20)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), weights.params, state.params)
    assert [row["step"] for row in history][-1] == 20


def test_a_part_a_set_and_what_is_on_the_device_train_alike():
    first, start = program(), moved().params
    order, _ = jax.random.split(KEY)
    of_set, of_part, on_device = (
        tl.train(first, start, data, steps=8)[0] for data in (DATA, DATA.train, tl.on_device(DATA.train, order))
    )
    same(of_set, of_part)
    same(of_set, on_device)
    other, _ = tl.train(first, start, DATA, steps=8, seed=1)
    assert not np.array_equal(other.params["head"]["kernel"], of_set.params["head"]["kernel"])


def test_an_interrupted_training_goes_on_and_ends_like_an_undisturbed_one(tmp_path):
    first, start = program(), moved().params
    undisturbed, history = tl.train(first, start, DATA, steps=20, chunk=2)
    request_stop(15)
    try:
        with pytest.raises(tl.Interrupted):
            tl.train(first, start, DATA, steps=20, chunk=2, workdir=tmp_path)
    finally:
        stop_request.signal_number = None
    for _ in range(2):  # it goes on; and again nothing is left to be done
        again, rows = tl.train(first, start, DATA, steps=20, chunk=2, workdir=tmp_path)
        same(again, undisturbed)
        assert [row["step"] for row in rows] == [row["step"] for row in history]
    with pytest.raises(tl.InputError, match="rates"):
        tl.train(first, start, DATA, steps=20, chunk=2, workdir=tmp_path, rates={"penalty/new": 0.5})


@pytest.mark.parametrize("batch_size", [1, 5, 500])
@pytest.mark.parametrize("part", ["train", "test"])
def test_all_examples_count_once_whatever_the_batches(batch_size, part):
    params, split = moved().params, getattr(DATA, part)
    image = tl.normalise(jnp.asarray(split.images), *tl.channel_statistics(DATA.train.images))
    logits = MODEL.apply({"params": params}, image, False)["head"]
    found = tl.evaluate(MODEL, params, DATA, part=part, batch_size=batch_size)
    assert found["accuracy"] == pytest.approx(float(tl.accuracy(logits, split.labels).mean()))
    assert found["loss"] == pytest.approx(float(tl.softmax_cross_entropy(logits, split.labels).mean()), rel=1e-5)


def test_a_model_with_batch_statistics_is_trained_and_judged_by_them():
    model = tl.Classifier(tl.Cnn((4,), normalisation="batch"), (("head", 3),))
    start = tl.Weights(moved(model).params, tl.initial_model_state(model, (4, 4, 1)))
    weights, _ = tl.train(program(model), start, DATA, steps=4)
    mean = weights.model_state["batch_stats"]["trunk"]["norm_0"]["mean"]
    assert np.any(np.asarray(mean) != 0)
    assert tl.evaluate(model, weights, DATA) != tl.evaluate(
        model, weights._replace(model_state=start.model_state), DATA
    )


@pytest.mark.parametrize(
    ("work", "where"),
    [
        (lambda: tl.classification(MODEL, DATA.train, moved(), GROUPS), "classification data"),
        (lambda: tl.classification(MODEL, DATA, moved().labels, GROUPS), "classification moved"),
        (lambda: tl.classification("mlp", DATA, moved(), GROUPS), "as_forward model"),
        (lambda: tl.train(program().step, moved().params, DATA, steps=1), "train program"),
        (lambda: tl.train(program(), moved().params, DATA, steps=0), "steps"),
        (lambda: tl.train(program(), moved().params, DATA, steps=1, rates={"pull": 1.0}), "rates"),
        (lambda: tl.evaluate(MODEL, moved().params, DATA.test), "evaluate data"),
        (lambda: tl.classification(MODEL, NUMBERS, moved(), GROUPS), "classification data"),
        (lambda: tl.evaluate(MODEL, moved().params, NUMBERS), "evaluate data"),
        (lambda: tl.evaluate(MODEL, moved().params, DATA, part="validation"), "evaluate part"),
        (lambda: tl.evaluate(MODEL, moved().params, DATA, batch_size=0), "evaluate batch_size"),
        (lambda: tl.evaluate(MODEL, {"head": moved().params["head"]}, DATA), "Classifier"),
    ],
)
def test_what_is_handed_over_in_the_wrong_place_is_told_in_two_lines(work, where):
    with pytest.raises(tl.InputError) as told:
        work()
    assert len(str(told.value).splitlines()) <= 2
    assert where in str(told.value)
