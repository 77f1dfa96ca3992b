"""The order of data as a pure function of (key, step): every example once an epoch, in a new order each epoch.

Nothing is stored and nothing is shuffled: the permutation of an epoch is evaluated only at the positions a batch needs.
A run that resumes at some step therefore sees the batches it would have seen.

Small sets are ranked: each example draws a number, and its rank among them is its place, so that all orders come
equally often. Larger sets go through a small cipher, whose cost does not depend on their size. It has far fewer keys
than there are orders, but no test here tells it from a shuffle.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxtl.errors import InputError

RANKED = 128  # examples; up to here counting ranks costs about what the cipher does
ROUNDS = 12  # of the cipher


def epoch_batch(key: jax.Array, step: jax.Array | int, *, batch_size: int, size: int) -> jax.Array:
    """Which examples a step sees.

    indices[i] = permutation_e(p mod size),   p = step * batch_size + i,   e = p // size

    A batch may straddle two epochs. The cost grows with `batch_size` and, beyond RANKED examples, does not depend on
    `size`: there the permutation is a Feistel network (Luby and Rackoff, How to construct pseudorandom permutations,
    1988) on a grid of rows × columns just large enough for the set, walked until it lands inside (Black and Rogaway,
    Ciphers with arbitrary finite domains, 2002), and a coin that exchanges two examples. Without the coin a grid whose
    sides are both odd would have even permutations only.

    Args:
        key: of the data order; each epoch draws its own permutation from it.
        step: int32 >= 0, may be traced; exact for every step an int32 can count.
        batch_size: static, at most `size`.
        size: static, the number of examples, less than 2³⁰.

    Returns:
        int32 [batch_size], each in [0, size).

    Raises:
        InputError: the batch is empty or larger than the set, or the set is too large for the arithmetic.

    Example:
        >>> key = jax.random.key(0)
        >>> epoch = [epoch_batch(key, step, batch_size=2, size=4) for step in range(2)]
        >>> sorted(jnp.concatenate(epoch).tolist())
        [0, 1, 2, 3]
    """
    if not 1 <= batch_size <= size:
        raise InputError(
            f"a batch of {batch_size} from a set of {size} examples",
            where="batch_size",
            todo="use at least 1 and at most the size of the set",
        )
    if size >= 2**30:
        raise InputError(f"{size} examples are too many for 32-bit positions", where="size", todo="stay below 2**30")
    epoch, offset = _product_divided(step, batch_size, size)
    position = offset + jnp.arange(batch_size, dtype=jnp.uint32)
    straddles = position >= size
    position = jnp.where(straddles, position - size, position)
    count, permuted = (size, _ranked) if size <= RANKED else (ROUNDS + 1, _enciphered)
    this, following = (jax.random.bits(jax.random.fold_in(key, e), (count,), jnp.uint32) for e in (epoch, epoch + 1))
    noise = jnp.where(straddles[None], following[:, None], this[:, None])
    return permuted(position, noise, size).astype(jnp.int32)


def _product_divided(step: Any, batch_size: int, size: int) -> tuple[jax.Array, jax.Array]:
    """(step * batch_size) // size and % size by long division: the product itself would overflow 32 bits."""
    step = jnp.asarray(step).astype(jnp.uint32)
    bits = 31 - size.bit_length()  # of a digit; partial < 2 * size * 2**bits <= 2**32 because batch_size <= size
    quotient = remainder = jnp.uint32(0)
    for place in reversed(range(math.ceil(31 / bits))):
        digit = (step >> (place * bits)) & (2**bits - 1)
        partial = (remainder << bits) + digit * batch_size
        quotient = (quotient << bits) + partial // size
        remainder = partial % size
    return quotient, remainder


def _ranked(position: jax.Array, noise: jax.Array, size: int) -> jax.Array:
    """The rank of each position [B] by its number in the noise [size, B]; of equal numbers the first is the smaller."""
    own = jnp.take_along_axis(noise, position[None], axis=0)
    first = jnp.arange(size, dtype=jnp.uint32)[:, None] < position[None]
    return jnp.sum((noise < own) | ((noise == own) & first), axis=0)


def _enciphered(position: jax.Array, noise: jax.Array, size: int) -> jax.Array:
    """The image of each position [B] under the cipher that the noise [ROUNDS + 1, B] chooses; the last is the coin."""
    rows = math.isqrt(size - 1) + 1
    columns = -(-size // rows)

    def two_rounds(i: int, cell: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        row, column = cell
        row = _shift(row, _mix(column ^ noise[2 * i]), rows)
        return row, _shift(column, _mix(row ^ noise[2 * i + 1]), columns)

    # A point of the grid outside the set is enciphered again until it falls inside. The cipher permutes the grid, so
    # every walk comes back inside and no two end in one place; at most 1/√size of the grid lies outside.
    def walk(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        position, outside = state
        row, column = jax.lax.fori_loop(0, ROUNDS // 2, two_rounds, (position // columns, position % columns))
        position = jnp.where(outside, row * columns + column, position)
        return position, position >= size

    everywhere = jnp.ones_like(position, bool)
    image = jax.lax.while_loop(lambda state: jnp.any(state[1]), walk, (position, everywhere))[0]
    return jnp.where(image < 2, image ^ (noise[ROUNDS] & 1), image)


def _shift(value: jax.Array, noise: jax.Array, modulus: int) -> jax.Array:
    """(value + f) mod modulus, where f in [0, modulus) is taken from the upper 16 bits of the noise."""
    moved = value + (((noise >> 16) * modulus) >> 16)
    return jnp.where(moved >= modulus, moved - modulus, moved)


def _mix(x: jax.Array) -> jax.Array:
    """The finaliser of MurmurHash3 (Austin Appleby, 2011): every bit of x reaches every bit of the result."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
