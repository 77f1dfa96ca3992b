"""Weights from gradients: published fixtures, optimisers of SciPy, what each method promises, and degenerate input."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from jaxtl.errors import InputError
from jaxtl.methods import multitask
from jaxtl.methods.multitask import (
    cagrad,
    cagrad_weights,
    equal_weights,
    imtl_g,
    imtl_g_weights,
    mgda,
    mgda_weights,
    nash,
    nash_weights,
    pcgrad,
    pcgrad_weights,
)

METHODS = {
    name: getattr(multitask, f"{name}_weights") for name in ("equal", "pcgrad", "mgda", "cagrad", "imtl_g", "nash")
}
COUNTS = [2, 3, 5]
KEY = jax.random.key(3)


def gradients(count, dimension=8):
    """Nine sets: three of random gradients, three of very different lengths, three that share a direction."""
    random = np.random.default_rng(count)
    grads = random.normal(size=(9, count, dimension))
    grads[3:6] *= np.exp(1.5 * random.normal(size=(3, count, 1)))
    grads[6:] += 2 * random.normal(size=(3, 1, dimension))
    return grads


@functools.cache
def compiled(method):
    """As a training step computes weights: from float32 inner products, here for several sets at once."""
    return jax.jit(jax.vmap(lambda g: method(g @ g.T, KEY)))


def weights_of(method, grads):
    return np.asarray(compiled(method)(jnp.asarray(grads, jnp.float32)), np.float64)


every_count = pytest.mark.parametrize("count", COUNTS)

# --- fixtures ---

J = jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])


@pytest.mark.parametrize(
    ("method", "direction"),
    [
        (functools.partial(pcgrad, rng=KEY), (0.5848, 3.8012)),
        (mgda, (0.0, 1.0)),
        (imtl_g, (0.0767, 1.0)),
        (cagrad, (0.1835, 1.2041)),
        (nash, (0.076584, 0.998533)),
    ],
)
def test_published_directions(method, direction):
    np.testing.assert_allclose(jax.jit(method)(J), (*direction, direction[1]), atol=6e-5)


def test_published_weights():
    np.testing.assert_allclose(weights_of(mgda_weights, J[None])[0], (0.6, 0.4), atol=1e-6)
    np.testing.assert_allclose(weights_of(nash_weights, J[None])[0], (0.591461, 0.407071), atol=2e-6)


# --- oracles ---


def least_on_simplex(objective, count):
    """The lowest of several runs of SLSQP."""
    runs = [
        scipy.optimize.minimize(
            objective,
            np.random.default_rng(seed).dirichlet(np.ones(count)),
            method="SLSQP",
            bounds=[(0, 1)] * count,
            constraints={"type": "eq", "fun": lambda w: np.sum(w) - 1},
            options={"ftol": 1e-14, "maxiter": 500},
        )
        for seed in range(2)
    ]
    return min(run.fun for run in runs)


@every_count
def test_mgda_is_as_short_as_scipy_finds(count):
    grads = gradients(count)
    for g, w in zip(grads, weights_of(mgda_weights, grads), strict=True):
        scale = np.max(np.sum(g * g, axis=1))
        assert np.all(w >= 0)
        assert np.sum(w) == pytest.approx(1, abs=1e-6)
        assert (
            np.sum((w @ g) ** 2) / scale < least_on_simplex(lambda v, g=g, s=scale: v @ g @ g.T @ v / s, count) + 3e-6
        )


@every_count
@pytest.mark.parametrize("c", [0.2, 0.8])
def test_cagrad_serves_the_worst_task_as_well_as_scipy_can(count, c):
    """The dual bounds every direction: where the worst task gets as much, there is no better one."""
    grads = gradients(count)
    found = weights_of(functools.partial(cagrad_weights, c=c), grads)
    for g, w in zip(grads, found, strict=True):
        mean, scale = np.mean(g, axis=0), np.max(np.sum(g * g, axis=1))
        reach = c * np.linalg.norm(mean)

        def dual(v, g=g, mean=mean, reach=reach, scale=scale):
            return (v @ g @ mean + reach * np.linalg.norm(v @ g)) / scale

        assert np.linalg.norm(w @ g - mean) == pytest.approx(reach, rel=1e-3)
        assert np.linalg.norm(w @ g - mean) <= reach * (1 + 1e-6)
        assert np.min(g @ (w @ g)) / scale > least_on_simplex(dual, count) - 1e-5


@every_count
def test_nash_is_the_bargain_that_scipy_strikes(count):
    grads = gradients(count)
    for g, w in zip(grads, weights_of(nash_weights, grads), strict=True):
        gram = g @ g.T

        def bargain(x, m=gram):  # of α = e^x, with its slope
            return 0.5 * np.exp(x) @ m @ np.exp(x) - np.sum(x), np.exp(x) * (m @ np.exp(x)) - 1

        start = -np.log(np.linalg.norm(g, axis=1))
        struck = scipy.optimize.minimize(bargain, start, jac=True, method="BFGS", options={"gtol": 1e-7})
        np.testing.assert_allclose(w, np.exp(struck.x), rtol=2e-4)
        np.testing.assert_allclose(gram @ w, 1 / w, rtol=2e-4)
        assert np.sum((w @ g) ** 2) == pytest.approx(count, rel=2e-4)


def projected(grads, task, order):
    """One gradient of PCGrad, by the vectors themselves."""
    own = grads[task].copy()
    for other in order:
        inner = own @ grads[other]
        if other != task and inner < 0:
            own -= inner / (grads[other] @ grads[other]) * grads[other]
    return own


def test_pcgrad_takes_every_order_and_projects_off_the_original_gradients():
    grads = np.array([[1.0, 0.2, 0.0, 0.1], [-0.8, 1.0, 0.0, 0.0], [-0.3, -0.9, 1.0, 0.0]])
    orders = [itertools.permutations([j for j in range(3) if j != i]) for i in range(3)]
    per_task = [[projected(grads, i, order) for order in list(of)] for i, of in enumerate(orders)]
    possible = np.array([sum(chosen) for chosen in itertools.product(*per_task)])
    gram = jnp.asarray(grads @ grads.T, jnp.float32)
    weights = jax.jit(jax.vmap(lambda key: pcgrad_weights(gram, key)))(jax.random.split(jax.random.key(0), 60))
    distances = np.linalg.norm((np.asarray(weights) @ grads)[:, None] - possible[None], axis=-1)
    assert np.max(np.min(distances, axis=1)) < 1e-5
    chosen = {possible[i].round(6).tobytes() for i in np.argmin(distances, axis=1)}
    assert len(chosen) == len({row.round(6).tobytes() for row in possible}) > 2


def test_two_tasks_in_closed_form():
    grads = gradients(2, dimension=3)
    for (a, b), of_pcgrad, of_mgda in zip(
        grads, weights_of(pcgrad_weights, grads), weights_of(mgda_weights, grads), strict=True
    ):
        conflict = max(0.0, -(a @ b))
        np.testing.assert_allclose(of_pcgrad, (1 + conflict / (a @ a), 1 + conflict / (b @ b)), rtol=1e-4)
        first = np.clip((b @ b - a @ b) / np.sum((a - b) ** 2), 0, 1)
        np.testing.assert_allclose(of_mgda, (first, 1 - first), atol=1e-5)


# --- what the methods promise ---


@every_count
def test_no_loss_rises_along_mgda(count):
    grads = gradients(count)
    for g, w in zip(grads, weights_of(mgda_weights, grads), strict=True):
        lengths = np.linalg.norm(g, axis=1)
        assert np.min(g @ (w @ g) / lengths) > np.sum((w @ g) ** 2) / np.max(lengths) - 2e-3 * np.max(lengths)


@every_count
def test_imtl_g_projects_equally(count):
    grads = gradients(count)
    for g, w in zip(grads, weights_of(imtl_g_weights, grads), strict=True):
        projections = g @ (w @ g) / np.linalg.norm(g, axis=1)
        np.testing.assert_allclose(projections, projections[0], rtol=1e-3, atol=1e-4)
        assert abs(np.sum(w)) == pytest.approx(1, abs=1e-4)
        assert projections[0] > -1e-4


def cone(random, count):
    """Gradients of lengths far apart, in any direction, some close to each other or nearly opposite."""
    grads = random.normal(size=(count, 6)) + random.normal() * random.normal(size=6)
    if random.random() < 0.3:
        grads[1] = -grads[0] + 0.1 * random.normal(size=6)
    return grads * np.exp(2.5 * random.normal(size=(count, 1)))


@every_count
@pytest.mark.parametrize("name", METHODS)
def test_no_method_goes_uphill_for_every_task(name, count):
    """Σ wᵢ (gᵢ·d) = ‖d‖², so that only negative weights can; then a step down would raise every loss."""
    random = np.random.default_rng(count)
    grads = np.array([cone(random, count) for _ in range(300)])
    for g, w in zip(grads, weights_of(METHODS[name], grads), strict=True):
        slopes = g @ (w @ g) / np.linalg.norm(g, axis=1)
        assert np.max(slopes) > -1e-5 * np.linalg.norm(w @ g)


def test_imtl_g_with_one_task_nearly_solved_goes_downhill_for_all():
    units = np.linalg.cholesky([[1, 0.5, 0.8], [0.5, 1, 0.8], [0.8, 0.8, 1]])
    direction = np.asarray(imtl_g(jnp.asarray(units * [[10.0], [10.0], [0.1]], jnp.float32)), np.float64)
    projections = units @ direction
    np.testing.assert_allclose(projections, projections[0], rtol=1e-3)
    assert projections[0] > 0


def test_imtl_g_turns_round_nowhere():
    """While one gradient shrinks the weights add up to 1, then to −1; the direction goes on without a jump."""
    units = np.linalg.cholesky([[1, 0.5, 0.8], [0.5, 1, 0.8], [0.8, 0.8, 1]])
    grads = units[None] * np.stack([np.array([1, 1, s]) for s in np.geomspace(1, 1e-3, 200)])[:, :, None]
    weights = weights_of(imtl_g_weights, grads)
    directions = np.einsum("kt,ktd->kd", weights, grads)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    assert np.min(np.sum(directions[1:] * directions[:-1], axis=1)) > 0.999
    assert {float(total) for total in np.sum(weights, axis=1).round()} == {1, -1}


@every_count
def test_cagrad_within_no_distance_is_the_mean_gradient(count):
    np.testing.assert_allclose(
        weights_of(functools.partial(cagrad_weights, c=0), gradients(count)), 1 / count, rtol=1e-6
    )
    for c in (-0.1, 1.0, np.nan):
        with pytest.raises(InputError, match="outside"):
            cagrad(J, c)


@every_count
def test_the_scale_of_a_task_is_nothing_to_nash_and_to_the_direction_of_imtl_g(count):
    grads = gradients(count)
    scales = 10.0 ** np.linspace(-2, 2, count)[None, :, None]
    for method in (nash_weights, imtl_g_weights):
        before = np.einsum("kt,ktd->kd", weights_of(method, grads), grads)
        after = np.einsum("kt,ktd->kd", weights_of(method, grads * scales), grads * scales)
        if method is imtl_g_weights:
            before, after = (d / np.linalg.norm(d, axis=1, keepdims=True) for d in (before, after))
        np.testing.assert_allclose(after, before, atol=1e-3)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_one_scale_for_all_changes_no_method(name, scale):
    grads = gradients(3)
    factor = scale if name == "nash" else 1.0  # the length of its direction is √T, whatever the gradients
    np.testing.assert_allclose(
        weights_of(METHODS[name], grads * scale) * factor, weights_of(METHODS[name], grads), rtol=1e-3, atol=1e-5
    )


@pytest.mark.parametrize("name", [name for name in METHODS if name != "pcgrad"])
def test_the_order_of_tasks_is_nothing(name):
    grads = gradients(3)
    np.testing.assert_allclose(
        weights_of(METHODS[name], grads[:, ::-1]), weights_of(METHODS[name], grads)[:, ::-1], rtol=1e-3, atol=1e-4
    )


# --- degenerate gradients ---


@pytest.mark.parametrize("name", METHODS)
def test_a_task_without_gradient_is_left_out(name):
    grads = gradients(2)
    some = np.insert(grads, 1, 0.0, axis=1)
    found = weights_of(METHODS[name], some)
    if name != "equal":
        assert np.all(found[:, 1] == 0)
    if name != "pcgrad":  # its orders are other ones then
        np.testing.assert_allclose(np.delete(found, 1, axis=1), weights_of(METHODS[name], grads), rtol=1e-4, atol=1e-6)


DEGENERATE = {
    "nothing": np.zeros((3, 2)),
    "the same twice": np.array([[1.0, 2.0], [1.0, 2.0]]),
    "multiples": np.array([[1.0, 2.0], [2.0, 4.0], [0.001, 0.002]]),
    "opposites": np.array([[1.0, 2.0], [-1.0, -2.0]]),
    "cancelling": np.array([[1.0, 0.0], [-0.5, 0.8660254], [-0.5, -0.8660254]]),
    "more tasks than dimensions": np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [2.0, 1.0]]),
    "far apart in length": np.array([[1e4, 0.0], [0.0, 1e-4]]),
    "one": np.array([[3.0, 4.0]]),
    "one of none": np.zeros((1, 2)),
}


@pytest.mark.parametrize("case", DEGENERATE)
@pytest.mark.parametrize("name", METHODS)
def test_degenerate_gradients_give_numbers(name, case):
    grads = DEGENERATE[case]
    found = weights_of(METHODS[name], grads[None])[0]
    assert np.all(np.isfinite(found))
    if np.any(grads) and name in ("mgda", "imtl_g"):
        assert abs(np.sum(found)) == pytest.approx(1, abs=1e-5)
    if case in ("the same twice", "multiples", "one"):
        assert grads[0] @ (found @ grads) > 0
    if case == "opposites" and name != "nash":
        np.testing.assert_allclose(found @ grads, 0, atol=1e-5)
    assert np.linalg.norm(found @ grads) <= max(2.1, 1.6 * len(grads) * np.max(np.linalg.norm(grads, axis=1)))


@pytest.mark.parametrize("method", [mgda, cagrad, imtl_g, nash, lambda g: pcgrad(g, KEY)])
def test_one_task_goes_down_its_own_gradient(method):
    direction = np.asarray(jax.jit(method)(jnp.array([[3.0, 4.0]])))
    np.testing.assert_allclose(direction / np.linalg.norm(direction), (0.6, 0.8), rtol=1e-5)


def test_equal_weights_are_the_sum():
    assert equal_weights(J @ J.T).tolist() == [1.0, 1.0]
