"""Labels that are missing, and batches of a task's own: what enters a gradient, and what does not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from multitask_problem import (
    COMBINE,
    DECAYS,
    LABELS,
    LOSSES,
    PENALTY,
    RATES,
    TASKS,
    TERMS,
    batch,
    forward,
    gradients_of,
    network,
    own_gradients,
    trunk_row,
    without,
)
from problems import assert_close, context, largest_gap

from jaxtl.losses import make_loss_fn, mean_of_present
from jaxtl.methods.multitask import each_task, equal_weights, mgda_weights, on_task
from jaxtl.penalties import Term

# --- missing labels ---


def bitwise(ours, theirs):
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


@pytest.mark.parametrize("name", ["equal", "pcgrad", "nash"])
def test_what_stands_in_place_of_a_missing_label_changes_nothing(name):
    """−1, NaN and infinity stand there to begin with."""
    data = batch()
    others = {"kind": 2, "place": 1e30, "sign": -jnp.inf}
    for task, other in others.items():
        known = data[f"{task}_known"].reshape(-1, *[1] * (data[task].ndim - 1))
        data[task] = jnp.where(known, data[task], jnp.asarray(other, data[task].dtype))
    assert any(not np.array_equal(data[task], batch()[task], equal_nan=task != "kind") for task in TASKS)
    bitwise(gradients_of(COMBINE[name], data), gradients_of(COMBINE[name]))
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradients_of(COMBINE[name])))


@pytest.mark.parametrize("task", TASKS)
def test_labels_that_are_there_do_count(task):
    data = batch()
    data[task] = jnp.roll(data[task], 1, axis=0)
    data[f"{task}_known"] = jnp.roll(data[f"{task}_known"], 1)
    assert largest_gap(gradients_of(equal_weights, data)[0], gradients_of(equal_weights)[0]) > 1e-3


def test_the_mean_is_over_the_examples_with_a_label_and_heeds_the_mask():
    data, outputs = batch(), forward(network(), {}, batch(), None)[0]
    data["mask"] = jnp.arange(12) < 7
    for task, loss in LOSSES.items():
        kept = np.flatnonzero(np.asarray(data[f"{task}_known"]) & (np.arange(12) < 7))
        expected = np.mean(loss(outputs[task][kept], data[task][kept]))
        found = mean_of_present(loss, task, task, f"{task}_known")(outputs, data, None)
        np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("name", COMBINE)
def test_a_task_without_any_label_is_not_there(name):
    data = without(batch(), "kind")
    found, metrics, _ = gradients_of(COMBINE[name], data)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves((found, metrics)))
    assert metrics["kind"] == metrics["cosine/kind/place"] == metrics["cosine/kind/sign"] == 0
    if name in ("mgda", "cagrad"):
        others, theirs, _ = gradients_of(COMBINE[name], data, tasks=("place", "sign"))
        assert_close(found, others, rtol=1e-5, atol=1e-5)
        for task in ("place", "sign"):
            assert metrics[f"weight/{task}"] == pytest.approx(float(theirs[f"weight/{task}"]), rel=1e-5)


@pytest.mark.parametrize("name", COMBINE)
def test_without_any_label_only_penalties_are_left(name):
    found, metrics, _ = gradients_of(COMBINE[name], without(batch(), *TASKS))
    expected = jax.tree.map(lambda label, w: DECAYS[label] * w, LABELS, network())
    for layer, leaves in found.items():
        np.testing.assert_allclose(leaves["kernel"], expected[layer]["kernel"], rtol=1e-6)
        np.testing.assert_array_equal(leaves["bias"], 0)
    assert all(np.isfinite(value) for value in metrics.values())


# --- batches of a task's own ---

OWN_TERMS = {task: Term(RATES[task], on_task(task, TERMS[task].fn)) for task in TASKS}


def test_one_batch_handed_to_every_task_is_one_shared_batch():
    apart = make_loss_fn(each_task(forward), OWN_TERMS, PENALTY)
    found = gradients_of(mgda_weights, dict.fromkeys(TASKS, batch()), loss_fn=apart)
    assert_close(found, gradients_of(mgda_weights), rtol=1e-5, atol=1e-5)


def test_batches_of_different_sizes():
    data = {"kind": batch(8), "place": batch(5, 0.2), "sign": batch(9, 0.4)}
    found, *_ = gradients_of(mgda_weights, data, loss_fn=make_loss_fn(each_task(forward), OWN_TERMS, PENALTY))
    own = {task: own_gradients(data[task])[task] for task in TASKS}
    rows = np.array([trunk_row(own[task]) for task in TASKS])
    weights = np.asarray(mgda_weights(jnp.asarray(rows @ rows.T, jnp.float32)))
    pull = np.concatenate([np.zeros(5), DECAYS["shared"] * np.ravel(network()["trunk"]["kernel"])])
    np.testing.assert_allclose(trunk_row(found), weights @ rows + pull, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["place"]["bias"], own["place"]["place"]["bias"], rtol=1e-5)


def test_the_model_state_goes_from_task_to_task_and_each_has_its_own_key():
    keys = []

    def counting(params, model_state, batch, ctx):
        keys.append(jax.random.key_data(ctx.rng).tolist())
        return {}, {"seen": [*model_state["seen"], batch]}

    _, after = each_task(counting)({}, {"seen": []}, {"b": 2, "a": 1}, context())
    assert after == {"seen": [1, 2]}
    assert keys[0] != keys[1]
