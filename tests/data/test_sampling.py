import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl.data import epoch_batch
from jaxtl.data.sampling import RANKED, _product_divided
from jaxtl.errors import InputError

KEY = jax.random.key(0)


def orders(size, epochs, key=KEY):
    """[epochs, size]: whole epochs as batches as large as the set."""
    batch = partial(epoch_batch, batch_size=size, size=size)
    return np.asarray(jax.jit(lambda key: jax.lax.map(lambda step: batch(key, step), jnp.arange(epochs)))(key))


def chi_square(counts):
    """How many standard deviations the χ² of equal counts lies above its mean."""
    expected, freedom = counts.sum() / counts.size, counts.size - 1
    return (((counts - expected) ** 2 / expected).sum() - freedom) / np.sqrt(2 * freedom)


def is_odd(order):
    """Whether an odd number of exchanges leads to it: size − cycles."""
    cycles, seen = 0, np.zeros(len(order), bool)
    for start in range(len(order)):
        cycles += not seen[start]
        while not seen[start]:
            seen[start], start = True, order[start]
    return (len(order) - cycles) % 2


@pytest.mark.parametrize("size", [1, 2, 3, 5, 17, 100, RANKED, RANKED + 1, 25_000])
def test_every_index_once_an_epoch(size):
    seen = orders(size, 3)
    assert seen.dtype == np.int32
    np.testing.assert_array_equal(np.sort(seen, axis=1), np.tile(np.arange(size), (3, 1)))


def test_epochs_and_keys_differ():
    first, second = orders(100, 2)
    other = orders(100, 1, jax.random.key(1))[0]
    for a, b in itertools.combinations((first, second, other, np.arange(100)), 2):
        assert (a == b).sum() < 8  # agreements of two random orders: 1 on average


@pytest.mark.parametrize(("size", "batch_size"), [(10, 4), (7, 5), (5, 1), (100, 64), (150, 64)])
def test_batches_are_cut_from_the_stream_of_epochs(size, batch_size):
    """Also where a batch straddles two epochs."""
    steps = 3 * size
    stream = orders(size, 3 * batch_size).ravel()
    batch = jax.jit(partial(epoch_batch, batch_size=batch_size, size=size))
    batches = np.concatenate([batch(KEY, jnp.int32(step)) for step in range(steps)])
    np.testing.assert_array_equal(batches, stream)


@pytest.mark.parametrize("size", [2, 3, 4, 5, 6])
def test_all_orders_of_a_small_set_are_equally_likely(size):
    seen = orders(size, 40_000)
    position = {order: i for i, order in enumerate(itertools.permutations(range(size)))}
    counts = np.bincount([position[tuple(order)] for order in seen.tolist()], minlength=len(position))
    assert chi_square(counts) < 4


@pytest.mark.parametrize("size", [7, 9, 25, 49, 100, 121, 169, 225, 289, 441])
def test_odd_and_even_orders_come_equally_often(size):
    """On a grid whose sides are both odd, shifts of rows and columns alone lead to even ones only."""
    assert abs(np.mean([is_odd(order) for order in orders(size, 2_000)]) - 0.5) < 4 * 0.5 / np.sqrt(2_000)


@pytest.mark.parametrize("size", [12, 169])
def test_every_pair_of_examples_stands_first_equally_often(size):
    seen = orders(size, 40_000)
    counts = np.bincount(seen[:, 0] * size + seen[:, 1], minlength=size * size).reshape(size, size)
    assert chi_square(counts[~np.eye(size, dtype=bool)]) < 4
    matches = (seen == np.arange(size)).sum(axis=1)  # of a shuffle: mean 1 and variance 1
    assert abs(matches.mean() - 1) < 0.03
    assert abs(matches.var() - 1) < 0.05


@pytest.mark.parametrize("size", [10, 60, 150])
def test_positions_are_uniform(size):
    """Where index 0 lands, what stands first, and which two stand side by side."""
    seen = orders(size, 4_000)
    assert chi_square(np.bincount(np.argmin(seen, axis=1), minlength=size)) < 4
    assert chi_square(np.bincount(seen[:, 0], minlength=size)) < 4
    gaps = (seen[:, 1] - seen[:, 0]) % size
    assert chi_square(np.bincount(gaps, minlength=size)[1:]) < 4


def test_batches_mix_the_classes_of_a_sorted_set():
    """The number of one of ten classes in a batch has the variance of a draw without replacement."""
    counts = (orders(25_000, 4)[:, : 195 * 128].reshape(-1, 128) < 2_500).sum(axis=1)
    expected = 128 * 0.1 * 0.9 * (25_000 - 128) / (25_000 - 1)
    assert abs(counts.mean() - 12.8) < 0.4
    assert 0.8 < counts.var() / expected < 1.25


def test_jit_vmap_and_plain_agree():
    batch = partial(epoch_batch, batch_size=9, size=50)
    keys = jax.random.split(KEY, 2)
    together = jax.jit(jax.vmap(batch, in_axes=(0, None)))(keys, 5)
    for key, row in zip(keys, together, strict=True):
        np.testing.assert_array_equal(row, batch(key, 5))
        np.testing.assert_array_equal(row, jax.jit(batch)(key, jnp.int32(5)))


def test_steps_times_batch_beyond_32_bits():
    for step, batch_size, size in (
        (10**6, 4096, 50_000),
        (10**6, 4096, 1_281_167),
        (2**31 - 1, 1, 1),
        (2**31 - 1, 2**30 - 1, 2**30 - 1),
        (2**31 - 1, 2**29, 2**29 + 1),
        (0, 3, 4),
    ):
        epoch, offset = _product_divided(jnp.int32(step), batch_size, size)
        assert (int(epoch), int(offset)) == divmod(step * batch_size, size)
    step, batch_size, size = 10**6, 4096, 50_001
    epoch, offset = divmod(step * batch_size, size)
    late = jax.jit(partial(epoch_batch, batch_size=batch_size, size=size))(KEY, jnp.int32(step))
    whole = epoch_batch(KEY, epoch, batch_size=size, size=size)
    np.testing.assert_array_equal(late, whole[offset : offset + batch_size])


@pytest.mark.parametrize(("batch_size", "size"), [(11, 10), (0, 10), (1, 0), (1, 2**30)])
def test_impossible_batches_are_refused(batch_size, size):
    with pytest.raises(InputError):
        epoch_batch(KEY, 0, batch_size=batch_size, size=size)
