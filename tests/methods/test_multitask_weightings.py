"""Weights from losses: each equation against its paper's objective, and what it carries through a training run."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from multitask_problem import (
    LABELS,
    PENALTY,
    TASKS,
    TERMS,
    TRUNK,
    batch,
    forward,
    loss_fn,
    network,
    own_gradients,
    trunk_row,
    without,
)
from problems import assert_close, context

from jaxtl.errors import InputError
from jaxtl.labels import label_params
from jaxtl.loop import fit
from jaxtl.losses import accuracy, make_loss_fn, per_example
from jaxtl.methods.multitask import (
    LOG_VARIANCES,
    WEIGHTING,
    by_dwa,
    by_famo,
    by_gls,
    by_rlw,
    by_uncertainty,
    dwa,
    famo,
    famo_slope,
    gls,
    mgda_weights,
    rlw,
    surgery,
    uncertainty,
    weigh,
)
from jaxtl.models import Classifier, Mlp, as_forward, initialise
from jaxtl.optimizers import Group, per_label
from jaxtl.penalties import Term
from jaxtl.step import Context, Fixed, compile_step, init_state, make_eval_step, make_train_step, total_gradient

task_losses = make_loss_fn(forward, TERMS)
L = np.array([0.5, 3.0, 1.2])
WEIGHTINGS = {
    "uncertainty": by_uncertainty(),
    "dwa": by_dwa(4),
    "gls": by_gls(),
    "rlw": by_rlw(),
    "famo": by_famo(),
}


def start(weighting, learns=False):
    """(params, model_state, labels) of the three tasks under a weighting."""
    params = network() | ({LOG_VARIANCES: jnp.array([0.3, -0.2, 0.1])} if learns else {})
    labels = LABELS | ({LOG_VARIANCES: "weighting"} if learns else {})
    carried = weighting.init(len(TASKS))
    return params, {} if carried is None else {WEIGHTING: carried}, labels


@functools.cache
def compiled(weighting, loss_fn):
    return jax.jit(total_gradient(weigh(loss_fn, weighting, TASKS)))


def total(weighting, params, model_state, data=None, loss_fn=task_losses, step=0):
    ctx = Context(jnp.int32(step), jax.random.key(step), {}, {})
    return compiled(weighting, loss_fn)(params, model_state, batch() if data is None else data, ctx)


DATA = batch()


def raw_losses(params):
    weighted, _ = task_losses(params, {}, DATA, context())
    return jnp.stack([weighted[task] for task in TASKS])


# --- equations ---


def test_uncertainty_is_the_likelihood_of_gaussians():
    s = np.array([0.4, -1.0, 0.0])
    weights, gained = uncertainty(jnp.asarray(L), jnp.asarray(s))
    np.testing.assert_allclose(weights @ L + gained, np.sum(L / (2 * np.exp(s)) + s / 2), rtol=1e-6)


def test_dwa():
    np.testing.assert_allclose(dwa(jnp.array([1.0, 0.5]), jnp.ones(2)), (1.124353, 0.875647), atol=1e-6)
    ratios = np.array([0.5 / 0.7, 3.0 / 2.0, 1.2 / 2.4])
    expected = 3 * np.exp(ratios / 0.5) / np.sum(np.exp(ratios / 0.5))
    np.testing.assert_allclose(dwa(jnp.asarray(L), jnp.array([0.7, 2.0, 2.4]), 0.5), expected, rtol=1e-5)
    np.testing.assert_allclose(dwa(jnp.asarray(L), jnp.zeros(3)), 1, rtol=1e-6)
    without_the_second = dwa(jnp.array([0.5, 0.0, 1.2]), jnp.array([0.7, 2.0, 2.4]))
    np.testing.assert_allclose(without_the_second[1], dwa(jnp.array([0.5, 1, 1.2]), jnp.array([0.7, 1, 2.4]))[1])


def test_gls_is_the_geometric_mean_and_its_slope():
    mean, slope = jax.value_and_grad(lambda losses: jnp.exp(jnp.mean(jnp.log(losses))))(jnp.asarray(L, jnp.float32))
    weights = gls(jnp.asarray(L, jnp.float32))
    np.testing.assert_allclose(weights, slope, rtol=1e-5)
    np.testing.assert_allclose(weights @ L, mean, rtol=1e-5)
    np.testing.assert_allclose(gls(jnp.array([0.5, 0.0, 3.0])), np.insert(gls(jnp.array([0.5, 3.0])), 1, 0), rtol=1e-6)
    np.testing.assert_array_equal(gls(jnp.zeros(2)), 0)


def test_rlw_is_a_softmax_of_normal_numbers():
    weights = np.asarray(jax.vmap(lambda key: rlw(jnp.ones(2), key))(jax.random.split(jax.random.key(0), 20_000)))
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-5)
    logit = np.log(weights[:, 0] / weights[:, 1])  # the difference of two standard normal numbers
    assert np.mean(logit) == pytest.approx(0, abs=0.04)
    assert np.var(logit) == pytest.approx(2, rel=0.05)


def test_famo_goes_down_the_weighted_logarithms():
    logits = jnp.array([0.3, -0.5, 0.1])
    shares = jax.nn.softmax(logits)
    slope = jax.grad(lambda losses: shares @ jnp.log(losses))(jnp.asarray(L, jnp.float32))
    found = famo(jnp.asarray(L, jnp.float32), logits)
    np.testing.assert_allclose(found, slope / jnp.sum(slope), rtol=1e-5)
    assert float(jnp.sum(found)) == pytest.approx(1)
    missing = famo(jnp.array([0.5, 0.0, 1.2]), logits)
    np.testing.assert_allclose(missing, np.insert(found[jnp.array([0, 2])] / (1 - found[1]), 1, 0.0), rtol=1e-5)
    np.testing.assert_array_equal(famo(jnp.zeros(3), logits), 0)


def test_the_slope_of_famo():
    logits, before, after = jnp.array([0.3, -0.5, 0.1]), jnp.asarray(L), jnp.array([0.4, 2.9, 1.3])
    fall = jnp.log(before) - jnp.log(after)
    np.testing.assert_allclose(
        famo_slope(logits, before, after), jax.grad(lambda x: jax.nn.softmax(x) @ fall)(logits), rtol=1e-5, atol=1e-8
    )
    halves = famo_slope(jnp.zeros(2), jnp.ones(2), jnp.array([0.5, 0.9]))
    assert halves[0] > 0 > halves[1]  # down it, the task that fell less gains
    np.testing.assert_array_equal(famo_slope(jnp.zeros(2), jnp.zeros(2), jnp.ones(2)), 0)


# --- losses below 0 ---

SIGNED = np.array([-1.0, 3.0, -0.2, 0.7])


def test_a_loss_below_0_counts_by_its_size():
    sizes = jnp.abs(jnp.asarray(SIGNED, jnp.float32))
    np.testing.assert_allclose(gls(jnp.asarray(SIGNED, jnp.float32)), gls(sizes), rtol=1e-6)
    logits = jnp.array([0.3, -0.5, 0.1, 0.0])
    np.testing.assert_allclose(famo(jnp.asarray(SIGNED, jnp.float32), logits), famo(sizes, logits), rtol=1e-6)
    assert np.all(np.asarray(gls(jnp.asarray(SIGNED))) > 0)


def test_falling_below_0_is_falling():
    """−½ → −1 is as good as 1 → ½: the size doubles where the loss of another halves."""
    np.testing.assert_allclose(dwa(jnp.array([-1.0, 0.5]), jnp.array([-0.5, 1.0])), 1, rtol=1e-6)
    slower = dwa(jnp.array([-0.6, 0.5]), jnp.array([-0.5, 1.0]))
    assert slower[0] > slower[1]
    np.testing.assert_allclose(famo_slope(jnp.zeros(2), jnp.array([-0.5, 1.0]), jnp.array([-1.0, 0.5])), 0, atol=1e-7)
    rises = famo_slope(jnp.zeros(2), jnp.array([-1.0, 1.0]), jnp.array([-0.5, 1.0]))
    assert rises[0] < 0 < rises[1]  # down it, the task that got worse gains


@pytest.mark.parametrize(("before", "after"), [(0.5, -0.5), (-0.5, 0.5), (0.0, -1.0), (-1.0, 0.0)])
def test_a_loss_that_went_through_0_counts_as_unchanged(before, after):
    np.testing.assert_allclose(dwa(jnp.array([after, 2.0]), jnp.array([before, 2.0])), 1, rtol=1e-6)
    np.testing.assert_array_equal(famo_slope(jnp.zeros(2), jnp.array([before, 2.0]), jnp.array([after, 2.0])), 0)


def test_a_log_variance_is_not_moved_by_a_loss_below_0():
    s = jnp.array([0.4, -1.0])

    def objective(s, losses):
        weights, gained = uncertainty(losses, s)
        return weights @ losses + gained

    slope = jax.grad(objective)(s, jnp.array([-2.0, 3.0]))
    assert slope[0] == 0
    np.testing.assert_allclose(slope[1], jax.grad(objective)(s, jnp.array([1.0, 3.0]))[1])
    np.testing.assert_allclose(uncertainty(jnp.array([-2.0, 3.0]), s)[0], 0.5 * np.exp(-np.asarray(s)), rtol=1e-6)


def below_zero(params, model_state, batch, ctx):
    weighted, aux = task_losses(params, model_state, batch, ctx)
    return weighted | {TASKS[0]: weighted[TASKS[0]] - 100.0}, aux


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_with_a_lower_bound_a_loss_counts_by_what_is_above_it(name):
    """A constant taken off a loss, and given as its bound, changes no gradient."""
    weighting = WEIGHTINGS[name]
    params, model_state, _ = start(weighting, name == "uncertainty")
    bounds = np.array([-100.0, 0.0, 0.0])
    shifted = total_gradient(weigh(below_zero, weighting, TASKS, lowest=bounds))
    ctx = Context(jnp.int32(0), jax.random.key(0), {}, {})
    found, metrics, _ = jax.jit(shifted)(params, model_state, batch(), ctx)
    expected, plain, _ = total(weighting, params, model_state)
    assert_close(found, expected, rtol=2e-4, atol=1e-5)
    np.testing.assert_allclose(metrics["loss"], plain["loss"], rtol=1e-4)


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_a_task_below_0_is_learned_with_finite_numbers(name):
    weighting = WEIGHTINGS[name]
    params, model_state, labels = start(weighting, name == "uncertainty")
    tx = per_label(labels, {label: Group(0.02) for label in set(jax.tree.leaves(labels))})
    step = make_train_step(total_gradient(weigh(below_zero, weighting, TASKS)), tx)
    end, history = fit(
        step, init_state(params, tx, jax.random.key(0), model_state), batch(), Fixed(), steps=30, every=1
    )
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves((end.params, end.model_state)))
    assert all(row[f"weight/{task}"] >= 0 for row in history for task in TASKS)


@pytest.mark.parametrize("lowest", [[0.0, 1.0], np.nan, -np.inf, np.zeros((3, 1))])
def test_a_bound_that_is_no_number_for_each_task_is_refused(lowest):
    with pytest.raises(InputError, match="weigh lowest"):
        weigh(task_losses, by_gls(), TASKS, lowest)


# --- in a step ---


@functools.cache
def paper(name):
    """What a weighting minimises, written as its paper does, with its gradient."""

    def objective(params):
        losses = raw_losses(params)
        if name == "gls":
            return jnp.exp(jnp.mean(jnp.log(losses)))
        s = params[LOG_VARIANCES]
        return jnp.sum(losses / (2 * jnp.exp(s)) + s / 2)

    return jax.jit(jax.value_and_grad(objective))


@pytest.mark.parametrize("name", ["gls", "uncertainty"])
def test_the_gradient_is_that_of_the_papers_objective(name):
    params, model_state, _ = start(WEIGHTINGS[name], name == "uncertainty")
    found, metrics, _ = total(WEIGHTINGS[name], params, model_state)
    value, expected = paper(name)(params)
    assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert metrics["loss"] == pytest.approx(float(value), rel=1e-5)


def test_no_gradient_goes_through_the_weights():
    params, model_state, _ = start(WEIGHTINGS["famo"])
    found, metrics, _ = total(WEIGHTINGS["famo"], params, model_state)
    own = own_gradients()
    expected = sum(float(metrics[f"weight/{task}"]) * trunk_row(own[task]) for task in TASKS)
    np.testing.assert_allclose(trunk_row(found), expected, rtol=1e-4, atol=1e-6)


def test_random_weights_differ_from_step_to_step_and_from_nothing_else():
    params, model_state, _ = start(by_rlw())
    weights = [
        [float(total(WEIGHTINGS["rlw"], params, model_state, step=step)[1][f"weight/{task}"]) for task in TASKS]
        for step in (0, 1, 0)
    ]
    assert weights[0] == weights[2] != weights[1]


def history_of(weighting, steps, learning_rate=0.05):
    """(raw losses, weights) of every step of a run, [steps, T] each."""
    params, model_state, labels = start(weighting)
    tx = per_label(labels, {label: Group(learning_rate) for label in set(jax.tree.leaves(labels))})
    step = make_train_step(total_gradient(weigh(task_losses, weighting, TASKS)), tx)
    _, rows = fit(step, init_state(params, tx, jax.random.key(0), model_state), batch(), Fixed(), steps=steps, every=1)
    losses = [[row[task] * TERMS[task].rate for task in TASKS] for row in rows]
    return np.array(losses), np.array([[row[f"weight/{task}"] for task in TASKS] for row in rows])


def test_dwa_compares_the_mean_losses_of_two_epochs():
    losses, weights = history_of(by_dwa(3, temperature=0.5), 12)
    means = losses.reshape(4, 3, 3).mean(axis=1)
    np.testing.assert_allclose(weights[:6], 1, rtol=1e-6)
    for epoch in (2, 3):
        ratios = means[epoch - 1] / means[epoch - 2] / 0.5
        expected = 3 * np.exp(ratios) / np.sum(np.exp(ratios))
        np.testing.assert_allclose(weights[3 * epoch : 3 * epoch + 3], np.tile(expected, (3, 1)), rtol=1e-4)
        assert np.ptp(expected) > 0.01


def test_famo_moves_its_logits_by_adam():
    losses, weights = history_of(by_famo(0.1, decay=0.02), 5)
    logits, first, second = np.zeros(3), np.zeros(3), np.zeros(3)
    for step in range(5):
        fall = np.log(losses[step - 1] / losses[step]) if step else np.zeros(3)
        shares = np.exp(logits) / np.sum(np.exp(logits))
        slope = shares * (fall - shares @ fall) + 0.02 * logits
        first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope**2
        corrected = first / (1 - 0.9 ** (step + 1)), second / (1 - 0.999 ** (step + 1))
        logits = logits - 0.1 * corrected[0] / (np.sqrt(corrected[1]) + 1e-8)
        parts = np.exp(logits) / np.sum(np.exp(logits)) / losses[step]
        np.testing.assert_allclose(weights[step], parts / np.sum(parts), rtol=2e-3)
    assert np.max(np.abs(logits)) > 0.1


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_a_task_without_labels_moves_nothing(name):
    params, model_state, _ = start(WEIGHTINGS[name], name == "uncertainty")
    found, metrics, carried = total(WEIGHTINGS[name], params, model_state, without(batch(), "place"))
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves((found, metrics, carried)))
    np.testing.assert_array_equal(found["place"]["kernel"], 0)
    if name == "uncertainty":
        assert found[LOG_VARIANCES][1] == 0 != found[LOG_VARIANCES][0]
    if name == "dwa":
        assert carried[WEIGHTING]["count"].tolist() == [1, 0, 1]
    if name == "famo":
        assert carried[WEIGHTING]["losses"][1] == 0 != carried[WEIGHTING]["losses"][0]
    nothing, *_ = total(WEIGHTINGS[name], params, model_state, without(batch(), *TASKS))
    assert all(np.all(np.asarray(leaf) == 0) for leaf in jax.tree.leaves(nothing))


def test_log_variances_settle_at_the_losses_and_never_decay():
    """With the network held, e^s = L; a decay on every other label, or a penalty, does not touch them."""
    weighting = by_uncertainty()
    params, _, labels = start(weighting, learns=True)
    groups = {label: Group(frozen=True) for label in set(jax.tree.leaves(LABELS))} | {"weighting": Group(0.5)}
    tx = per_label(labels, groups)
    step = make_train_step(total_gradient(weigh(task_losses, weighting, TASKS)), tx)
    end, history = fit(step, init_state(params, tx, jax.random.key(0)), batch(), Fixed(), steps=200, every=200)
    np.testing.assert_allclose(np.exp(end.params[LOG_VARIANCES]), raw_losses(network()), rtol=1e-3)
    rules = [(LOG_VARIANCES, "weighting"), (".*", "network")]
    decaying = per_label(label_params(params, rules), {"weighting": Group(0.5), "network": Group(0.1, decay=0.3)})
    updates, _ = decaying.update(jax.tree.map(jnp.zeros_like, params), decaying.init(params), params)
    np.testing.assert_array_equal(updates[LOG_VARIANCES], 0)
    assert np.any(updates["trunk"]["kernel"])
    assert history[0]["weight/kind"] > 0


def test_penalties_are_not_weighed():
    params, model_state, _ = start(by_gls())
    found, *_ = total(WEIGHTINGS["gls"], params, model_state, without(batch(), *TASKS), loss_fn)
    assert_close(found, jax.grad(lambda params: PENALTY(params, context())[0])(params))


def test_weights_from_losses_and_from_gradients_go_together():
    params, model_state, _ = start(by_dwa(2))
    weighed = weigh(task_losses, by_dwa(2), TASKS)
    both, metrics, carried = jax.jit(surgery(weighed, mgda_weights, TASKS, TRUNK))(
        params, model_state, batch(), context()
    )
    plain, alone, _ = jax.jit(surgery(task_losses, mgda_weights, TASKS, TRUNK))(params, {}, batch(), context())
    assert_close(both, plain)  # dynamic weights are 1 in the first epochs
    assert carried[WEIGHTING]["count"].tolist() == [1, 1, 1]
    assert metrics["weight/kind"] == alone["weight/kind"]
    learning = params | {LOG_VARIANCES: jnp.array([0.3, -0.2, 0.1])}
    trunk = TRUNK | {LOG_VARIANCES: False}
    weighed = weigh(task_losses, by_uncertainty(), TASKS)
    both, metrics, _ = jax.jit(surgery(weighed, mgda_weights, TASKS, trunk))(learning, {}, batch(), context())
    _, expected = paper("uncertainty")(learning)
    np.testing.assert_allclose(both[LOG_VARIANCES], expected[LOG_VARIANCES], rtol=1e-5)
    factors = 0.5 * np.exp(-np.asarray(learning[LOG_VARIANCES]))
    combined = np.array([metrics[f"weight/{task}"] for task in TASKS]) / factors
    assert np.sum(combined) == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_a_flax_model_trains_and_is_evaluated(name):
    """What a weighting carries or learns lies beside the model's own variables and does not disturb it."""
    model = Classifier(Mlp((8,)), (("left", 3), ("right", 2)))
    params = dict(initialise(model, jax.random.key(0), (4,)))
    rules = [("trunk/.*", "shared"), ("(left|right)/.*", "heads")]
    if name == "uncertainty":
        params, rules = params | {LOG_VARIANCES: jnp.zeros(2)}, [*rules, (LOG_VARIANCES, "weighting")]
    labels = label_params(params, rules)
    tx = per_label(labels, {label: Group(0.1) for _, label in rules}, momentum=0.9)
    data = {"image": batch()["image"], "left": jnp.arange(12) % 3, "right": jnp.arange(12) % 2}
    terms = {head: Term(1.0, lambda o, b, c, h=head: jnp.mean(_entropy(o[h], b[h]))) for head in ("left", "right")}
    weighting, tasks = WEIGHTINGS[name], ("left", "right")
    step = make_train_step(total_gradient(weigh(make_loss_fn(as_forward(model), terms), weighting, tasks)), tx)
    carried = weighting.init(2)
    state = init_state(params, tx, jax.random.key(1), {} if carried is None else {WEIGHTING: carried})
    evaluate = jax.jit(make_eval_step(as_forward(model), {head: per_example(accuracy, head, head) for head in tasks}))
    state, history = fit(step, state, data, Fixed(), steps=40, every=10)
    assert evaluate(state, data, Fixed())["count"] == 12
    assert all(history[-1][task] < history[0][task] for task in tasks)


def _entropy(logits, labels):
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1)


def test_one_compilation_for_all_steps():
    weighting = by_famo()
    params, model_state, labels = start(weighting)
    tx = per_label(labels, {label: Group(0.1) for label in set(jax.tree.leaves(labels))})
    step = compile_step(make_train_step(total_gradient(weigh(loss_fn, weighting, TASKS)), tx))
    state = init_state(params, tx, jax.random.key(0), model_state)
    for _ in range(3):
        state, _ = step(state, batch(), Fixed())
    assert step._cache_size() == 1


# --- mistakes ---


def test_mistakes_are_named():
    params, _, _ = start(by_gls())
    for weighting, tasks, message in (
        (by_gls(), (), "at least one"),
        (by_gls(), ("kind", "penalty"), "not a task"),
        (by_gls(), ("kind", "sing"), "did you mean 'sign'"),
        (by_dwa(5), TASKS, "carries is missing"),
        (by_uncertainty(), TASKS, "learns numbers that are missing"),
    ):
        with pytest.raises(InputError, match=message):
            weigh(loss_fn, weighting, tasks)(params, {}, batch(), context())
    for wrong in ({"steps_per_epoch": 0}, {"steps_per_epoch": 3, "temperature": -1.0}):
        with pytest.raises(InputError, match="not positive"):
            by_dwa(**wrong)
    with pytest.raises(InputError, match="weigh once"):
        weigh(weigh(loss_fn, by_gls(), TASKS), by_gls(), TASKS)(params, {}, batch(), context())
