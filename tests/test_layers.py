"""Convolution is the library's, with every derivative, in loops and under vmap; pooling is the windowed one."""

import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl.errors import InputError
from jaxtl.models import Cnn, max_pool, mean_pool
from jaxtl.models.convolution import Window, convolve, plain
from jaxtl.models.layers import BatchNorm, Convolution, GroupNorm, normalised

# (batch, height, width, channels in, channels out, edge of the kernel, stride)
PROBLEMS = [
    (3, 8, 8, 2, 3, 3, 1),
    (5, 7, 9, 2, 3, 3, 2),
    (4, 8, 8, 2, 3, 1, 2),
    (1, 7, 5, 1, 2, 5, 3),
    (4, 2, 2, 3, 2, 3, 2),
]


def libraries(images, kernel, stride=1):
    """The same by the operator of the library."""
    height, width = kernel.shape[0] // 2, kernel.shape[1] // 2
    return plain(images, kernel, Window((stride, stride), ((height, height), (width, width))))


def arguments(problem, dtype=jnp.float32):
    batch, height, width, inputs, outputs, edge, _ = problem
    images = jax.random.normal(jax.random.key(0), (batch, height, width, inputs), dtype)
    return images, jax.random.normal(jax.random.key(1), (edge, edge, inputs, outputs), dtype)


def objective(operator, stride):
    return lambda images, kernel: jnp.sum(jnp.tanh(operator(images, kernel, stride)).astype(jnp.float32) ** 2)


def close(ours, theirs, tolerance=1e-5):
    def compare(a, b):
        assert a.dtype == b.dtype
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * np.max(np.abs(b)))

    jax.tree.map(compare, ours, theirs)


def agree(of_operator, tolerance=1e-5):
    """What is computed with our operator is what is computed with the library's."""
    ours, theirs = (jax.jit(functools.partial(of_operator, operator))() for operator in (convolve, libraries))
    close(ours, theirs, tolerance)


@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-5), (jnp.bfloat16, 2e-2)], ids=["f32", "bf16"])
def test_value_and_gradient_are_the_librarys(problem, dtype, tolerance):
    given, stride = arguments(problem, dtype), problem[-1]

    def both(operator):
        return operator(*given, stride), jax.grad(objective(operator, stride), (0, 1))(*given)

    agree(both, tolerance)


def test_it_need_not_be_compiled():
    given = arguments(PROBLEMS[1])
    close(*(jax.grad(objective(operator, 2), (0, 1))(*given) for operator in (convolve, libraries)))


@pytest.mark.parametrize("problem", PROBLEMS[:2], ids=str)
def test_second_derivatives_in_every_mode_are_the_librarys(problem):
    given, stride = arguments(problem), problem[-1]
    directions = tuple(jnp.cos(array) for array in given)

    def dot(trees):
        return sum(jnp.sum(a * b) for a, b in zip(trees, directions, strict=True))

    def derivatives(operator):
        f = objective(operator, stride)
        slope = jax.grad(f, (0, 1))
        return {
            "jvp": jax.jvp(f, given, directions),
            "linearize": jax.linearize(f, *given)[1](*directions),
            "forward over reverse": jax.jvp(slope, given, directions),
            "reverse over reverse": jax.grad(lambda *at: dot(slope(*at)), (0, 1))(*given),
            "reverse over forward": jax.grad(lambda *at: jax.jvp(f, at, directions)[1], (0, 1))(*given),
            "forward over forward": jax.jvp(lambda *at: jax.jvp(f, at, directions)[1], given, directions),
        }

    agree(derivatives, 1e-4)


def test_many_batches_and_many_kernels_are_each_by_itself():
    problem = PROBLEMS[1]
    given, stride = arguments(problem), problem[-1]
    images, kernels = (jnp.stack([array, 2 * array, -array]) for array in given)

    def mapped(operator):
        slope = jax.grad(objective(operator, stride), (0, 1))
        both = jax.vmap(slope)(images, kernels)
        one_batch = jax.vmap(slope, (None, 0))(given[0], kernels)
        one_kernel = jax.vmap(slope, (1, None))(jnp.moveaxis(images, 0, 1), given[1])
        return both, one_batch, one_kernel, jax.vmap(slope, (None, 3))(given[0], jnp.moveaxis(kernels, 0, 3))

    agree(mapped)


def test_in_a_scan_and_through_one_gradients_are_the_librarys():
    problem = PROBLEMS[0]
    images, kernel = arguments(problem)

    def descent(operator):
        def ended(kernel):
            def step(kernel, _):
                return kernel - 0.1 * jax.grad(objective(operator, 1), 1)(images, kernel), None

            return objective(operator, 1)(images, jax.lax.scan(step, kernel, length=3)[0])

        return jax.value_and_grad(ended)(kernel), jax.jvp(ended, (kernel,), (kernel,))

    agree(descent, 1e-4)


def orders(fn, *given):
    """The order of axes of every convolution in a compiled program, as XLA writes it."""
    return set(re.findall(r"dim_labels=(\S+?)[,\s]", jax.jit(fn).lower(*given).compile().as_text()))


def test_every_convolution_of_a_second_derivative_in_a_loop_has_the_fast_order():
    """Another order is a hundred times slower there; the library's kernel gradient is the proof that this can fail."""
    images, kernel = arguments((4, 8, 8, 8, 8, 3, 2))

    def looped(operator):
        def body(kernel, _):
            slope = jax.grad(objective(operator, 2), 1)
            return jax.jvp(lambda k: slope(images, k), (kernel,), (kernel,))[1], None

        return lambda kernel: jax.lax.scan(body, kernel, length=2)[0]

    assert orders(looped(convolve), kernel) == {"b01f_01io->b01f"}
    assert len(orders(looped(libraries), kernel)) > 1


def test_elsewhere_than_on_a_cpu_it_is_the_librarys_operator(monkeypatch):
    given = arguments(PROBLEMS[0])
    assert "image_convolution" in str(jax.make_jaxpr(convolve)(*given))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert "image_convolution" not in str(jax.make_jaxpr(lambda *given: convolve(*given))(*given))


def test_a_kernel_without_a_middle_is_refused():
    with pytest.raises(InputError, match="a kernel of 2×3 pixels has no middle"):
        convolve(jnp.zeros((1, 4, 4, 1)), jnp.zeros((2, 3, 1, 1)))


def test_the_module_begins_and_ends_as_that_of_flax():
    images = jax.random.normal(jax.random.key(0), (2, 6, 6, 3))
    for stride in (1, 2):
        ours = Convolution(5, stride=stride, use_bias=True)
        theirs = nn.Conv(5, (3, 3), (stride, stride), padding=((1, 1), (1, 1)))
        params = theirs.init(jax.random.key(1), images)
        close(ours.init(jax.random.key(1), images), params, 0)
        params["params"]["bias"] += jnp.arange(5.0)
        close(ours.apply(params, images), theirs.apply(params, images))


def test_group_normalisation_looks_at_one_example_and_batch_normalisation_at_all():
    class Normal(nn.Module):
        kind: str

        @nn.compact
        def __call__(self, images):
            return normalised(images, self.kind, True, "norm")

    images = 3 + jax.random.normal(jax.random.key(0), (4, 5, 5, 16))
    changed = images.at[1:].multiply(2)
    for kind, alone in (("group", True), ("batch", False), ("none", True)):
        model = Normal(kind)
        variables = model.init(jax.random.key(1), images)
        a, b = (model.apply(variables, x, mutable=["batch_stats"])[0] for x in (images, changed))
        assert np.allclose(a[0], b[0], atol=1e-5) == alone
        assert np.allclose(a, images) == (kind == "none")


# --- pooling ---


@pytest.mark.parametrize("shape", [(3, 8, 8, 16), (2, 5, 7, 24), (1, 1, 1, 8)], ids=str)
@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_group_normalisation_is_that_of_flax(shape, dtype):
    images = 3 + jax.random.normal(jax.random.key(0), shape)
    params = {"scale": jax.random.normal(jax.random.key(1), shape[-1:]), "bias": jnp.arange(float(shape[-1]))}
    ours, theirs = GroupNorm(8, dtype), nn.GroupNorm(None, group_size=8, dtype=dtype)
    assert jax.tree.map(jnp.shape, ours.init(jax.random.key(0), images)["params"]) == jax.tree.map(jnp.shape, params)

    def value_and_gradient(module):
        def value(params, images):
            out = module.apply({"params": params}, images)
            return jnp.sum(jnp.tanh(out.astype(jnp.float32))), out

        return jax.jit(jax.value_and_grad(value, (0, 1), has_aux=True))(params, images)

    close(value_and_gradient(ours), value_and_gradient(theirs), 1e-4 if dtype is None else 2e-2)


def test_where_all_values_are_equal_a_normalised_group_is_its_shift():
    images = jnp.full((2, 4, 4, 8), 1000.1)
    module = GroupNorm(8)
    params = {"params": {"scale": jnp.full(8, 2.0), "bias": jnp.full(8, 5.0)}}
    np.testing.assert_allclose(module.apply(params, images), 5.0, atol=0.2)  # rounding / √ε
    gradient = jax.grad(lambda images: jnp.sum(module.apply(params, images) ** 2))(images)
    assert np.all(np.isfinite(gradient))


@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 9), (2, 3)])
def test_pooling_is_the_windowed_one(height, width):
    images = jax.random.normal(jax.random.key(0), (3, height, width, 5))
    np.testing.assert_array_equal(max_pool(images), nn.max_pool(images, (2, 2), (2, 2)))
    np.testing.assert_allclose(mean_pool(images), nn.avg_pool(images, (2, 2), (2, 2)), rtol=1e-6)


def test_the_gradient_of_max_pool_is_the_windowed_one_without_ties():
    images = jax.random.normal(jax.random.key(0), (2, 6, 6, 3))
    weights = jax.random.normal(jax.random.key(1), (2, 3, 3, 3))
    ours = jax.grad(lambda x: jnp.sum(max_pool(x) * weights))(images)
    theirs = jax.grad(lambda x: jnp.sum(nn.max_pool(x, (2, 2), (2, 2)) * weights))(images)
    np.testing.assert_array_equal(ours, theirs)


def test_an_image_smaller_than_a_block_is_refused():
    with pytest.raises(InputError, match="1×4 are smaller than a 2×2 block"):
        max_pool(jnp.zeros((1, 1, 4, 1)))


def normalised_by(held, train=True, seed=0, state=None):
    """([B, H, W, C], state) of batch normalisation with running averages of their own."""
    images = jax.random.normal(jax.random.key(3), (4, 3, 3, 64)) * 2 + 1
    layer = BatchNorm(not train, held=held)
    variables = layer.init(jax.random.key(0), images)
    averages = state or {"mean": jnp.linspace(-1, 1, 64), "var": jnp.linspace(0.5, 2, 64)}
    variables = {"params": variables["params"], "batch_stats": averages}
    return layer.apply(variables, images, mutable=["batch_stats"], rngs={"params": jax.random.key(seed)})


def test_stochastic_normalisation_takes_each_channel_by_one_of_two_statistics():
    (batch, moved), (running, _) = normalised_by(0.0), normalised_by(0.0, train=False)
    (mixed, state), (again, _), (other, _) = normalised_by(0.5), normalised_by(0.5), normalised_by(0.5, seed=1)
    by_batch = np.isclose(mixed, batch, atol=1e-5).all(axis=(0, 1, 2))
    by_average = np.isclose(mixed, running, atol=1e-5).all(axis=(0, 1, 2))
    assert (by_batch ^ by_average).all()
    assert 16 < by_average.sum() < 48
    np.testing.assert_array_equal(mixed, again)
    assert np.any(mixed != other)
    np.testing.assert_allclose(normalised_by(1.0)[0], running, atol=1e-5)
    np.testing.assert_array_equal(normalised_by(0.5, train=False)[0], running)
    jax.tree.map(np.testing.assert_array_equal, state, moved)


def test_a_network_with_stochastic_normalisation_has_the_parameters_of_one_with_batch_normalisation():
    images = jnp.ones((2, 4, 4, 1))
    both = [Cnn((4,), kind) for kind in ("batch", "stochastic")]
    batch, stochastic = (net.init(jax.random.key(0), images, False) for net in both)
    jax.tree.map(np.testing.assert_array_equal, batch, stochastic)
