"""Words to a vector, the trunk of a `Classifier` of texts: a (bidirectional) LSTM, or the mean of the words.

A text is a row of token numbers; 0 stands behind its last word and is no token. What is computed does not depend on how
many of them there are.
"""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxtl.models.layers import at_least_float32

GATES = 4  # input, forget, cell, output, beside each other in this order, as in PyTorch
Taps = dict[str, jax.Array]


class WordEmbedding(nn.Module):
    """A vector for each word: those of a vocabulary that may come from elsewhere, then those that are new here.

    The two are leaves of their own, so that they can have labels of their own: "transferred" and, if any, "new".

    Attributes:
        words: in "transferred".
        new: in "new"; their numbers go on from `words`.
        size: D, of a vector.
    """

    words: int
    new: int
    size: int

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        """tokens [...] -> [..., D]; NaN for a number that no word has."""
        started = nn.initializers.normal(self.size**-0.5)
        tables = {"transferred": self.words, **({"new": self.new} if self.new else {})}
        rows = [self.param(name, started, (number, self.size)) for name, number in tables.items()]
        return jnp.take(jnp.concatenate(rows), tokens, axis=0, mode="fill")


class LstmDirection(nn.Module):
    """An LSTM over time, in one direction.

    z_t = x_t·W + h_(t−1)·U + b,   i, f, o = σ(z_i), σ(z_f), σ(z_o)
    c_t = f·c_(t−1) + i·tanh(z_c),   h_t = o·tanh(c_t);   where there is no token both stay as they are

    x·W + b is one product for all times. The forget gates start open, at a bias of 1.

    Attributes:
        size: H, of the state.
        reverse: from the last token to the first.

    Source: Hochreiter and Schmidhuber, "Long Short-Term Memory", 1997; the forget gate: Gers et al., "Learning to
        Forget", 2000; its bias: Jozefowicz et al., "An Empirical Exploration of Recurrent Network Architectures", 2015.
    """

    size: int
    reverse: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, seen: jax.Array) -> tuple[jax.Array, jax.Array]:
        """x [T, B, D], seen [T, B] bool: where there is a token -> (h at every time [T, B, H], the last h [B, H])."""
        flat = x.reshape(-1, x.shape[-1])  # see `recur`
        inputs = nn.Dense(GATES * self.size, name="input", bias_init=_open_forget_gates)(flat)
        kernel = _HiddenKernel(self.size, name="hidden")()
        states = recur(inputs.reshape(*x.shape[:2], -1), kernel, seen, self.reverse)
        return states, states[0 if self.reverse else -1]


class _HiddenKernel(nn.Module):
    """U [H, 4·H], an orthogonal matrix for each gate; a module for its name, "hidden/kernel"."""

    size: int

    @nn.compact
    def __call__(self) -> jax.Array:
        def started(key: jax.Array, shape: tuple[int, int]) -> jax.Array:
            squares = [nn.initializers.orthogonal()(one, (shape[0],) * 2) for one in jax.random.split(key, GATES)]
            return jnp.concatenate(squares, axis=1)

        return self.param("kernel", started, (self.size, GATES * self.size))


def _open_forget_gates(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
    return jnp.zeros(shape, dtype).reshape(GATES, -1).at[1].set(1).reshape(shape)


class Lstm(nn.Module):
    """Embedded words, layers of LSTM one way or both ways, and as features the last state of each direction.

    What a layer hands to the next has one channel more, 1 where there is a token and 0 elsewhere, so that a model can
    be cut anywhere.

    Attributes:
        words: of a vocabulary that may come from elsewhere, with number 0, which is no token.
        new: words whose numbers go on from there.
        embedding: size of the vector of a word.
        hidden: size of a state, in one direction.
        layers: each of which is a stage.
        bidirectional: also from the last word to the first.
        dropout: probability, of embedded words, between layers and of the features.
        start, stop: only the layers from `start` to before `stop`, see `classifiers.cut`.

    Source: both ways: Graves and Schmidhuber, "Framewise Phoneme Classification with Bidirectional LSTM", 2005; what is
        dropped: Zaremba et al., "Recurrent Neural Network Regularization", 2014.
    """

    words: int
    new: int = 0
    embedding: int = 64
    hidden: int = 64
    layers: int = 1
    bidirectional: bool = True
    dropout: float = 0.0
    start: int = 0
    stop: int | None = None

    fields = ("token",)  # of a batch

    @property
    def widths(self) -> tuple[int, ...]:
        """Of what each layer gives to the next."""
        return (self.hidden * (2 if self.bidirectional else 1),) * self.layers

    @property
    def stage_names(self) -> tuple[str, ...]:
        """As among the taps."""
        return tuple(f"lstm_{i}" for i in range(self.layers))

    @nn.compact
    def __call__(self, tokens: jax.Array, train: bool) -> tuple[jax.Array, Taps]:
        """tokens [B, T] -> (features [B, widths[-1]], taps: the states of every layer [B, T, widths[i] + 1]).

        Args:
            tokens: whole numbers, 0 behind the last word.
            train: whether anything is dropped.
        """
        dropped, taps = nn.Dropout(self.dropout, deterministic=not train), Taps()
        x, seen = _split(tokens) if self.start else _embedded(self, tokens)
        for i in range(self.layers)[self.start : self.stop]:
            x, features = LstmLayer(self.hidden, self.bidirectional, name=f"lstm_{i}")(dropped(x), seen)
            taps[f"lstm_{i}"] = _marked(x, seen)
        return (taps[f"lstm_{self.stop - 1}"] if self.stop is not None else dropped(features)), taps


class LstmLayer(nn.Module):
    """One layer, one way or both ways, beside each other.

    Attributes:
        size: of a state, in one direction.
        bidirectional: also from the last token to the first.
    """

    size: int
    bidirectional: bool

    @nn.compact
    def __call__(self, x: jax.Array, seen: jax.Array) -> tuple[jax.Array, jax.Array]:
        """x [T, B, D], seen [T, B] -> (states [T, B, D'], the last ones [B, D']), D' of both directions."""
        ways = {"forward": False, **({"backward": True} if self.bidirectional else {})}
        found = [LstmDirection(self.size, reverse, name=name)(x, seen) for name, reverse in ways.items()]
        states, last = (jnp.concatenate(parts, axis=-1) for parts in zip(*found, strict=True))
        return states, last


class WordAverage(nn.Module):
    """The mean of the vectors of all words, 0 of a text without any.

    Attributes:
        words, new, embedding: as for `Lstm`.
        dropout: probability, of embedded words.

    Source: Iyyer et al., "Deep Unordered Composition Rivals Syntactic Methods for Text Classification", 2015.
    """

    words: int
    new: int = 0
    embedding: int = 64
    dropout: float = 0.0

    fields = ("token",)  # of a batch

    @property
    def widths(self) -> tuple[int, ...]:
        """It has no stages."""
        return ()

    @property
    def stage_names(self) -> tuple[str, ...]:
        """None."""
        return ()

    @nn.compact
    def __call__(self, tokens: jax.Array, train: bool) -> tuple[jax.Array, Taps]:
        """tokens [B, T] as for `Lstm` -> (features [B, embedding], no taps)."""
        x, seen = _embedded(self, tokens)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return jnp.sum(x * seen[..., None], axis=0) / jnp.maximum(jnp.sum(seen, axis=0), 1)[:, None], {}


def _embedded(model: Lstm | WordAverage, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(vectors [T, B, D], where there is a token [T, B]) of tokens [B, T]: time comes first, loops go along it."""
    tokens = tokens.T.astype(jnp.int32)
    return WordEmbedding(model.words, model.new, model.embedding, name="embedding", parent=model)(tokens), tokens > 0


def _marked(states: jax.Array, seen: jax.Array) -> jax.Array:
    """[T, B, D] and [T, B] -> [B, T, D + 1]."""
    return jnp.swapaxes(jnp.concatenate([at_least_float32(states), at_least_float32(seen[..., None])], axis=-1), 0, 1)


def _split(marked: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Back from `_marked`."""
    marked = jnp.swapaxes(marked, 0, 1)
    return marked[..., :-1], marked[..., -1] > 0


def lstm_default(words: int, new: int = 0) -> Lstm:
    """One layer of 64 both ways, over vectors of 64; how long a step takes: `experiments.benchmarks.sequences`.

    Args:
        words, new: as for `Lstm`.

    Example:
        >>> lstm_default(10_000).widths
        (128,)
    """
    return Lstm(words, new)


def lstm_classic(words: int, new: int = 0) -> Lstm:
    """Two layers of 256 both ways, over vectors of 100, half of everything dropped: what courses show for film reviews.

    Args:
        words, new: as for `Lstm`.

    Example:
        >>> lstm_classic(10_000).widths
        (512, 512)
    """
    return Lstm(words, new, embedding=100, hidden=256, layers=2, dropout=0.5)


@functools.partial(jax.custom_jvp, nondiff_argnums=(3,))
def recur(inputs: jax.Array, kernel: jax.Array, seen: jax.Array, reverse: bool) -> jax.Array:
    """The states h of an LSTM from 0 on, see `LstmDirection`, with derivatives that are fast on a CPU.

    Their loop has one product, as the states have: that of the derivative of h with U. The other, of h with the
    derivative of U, is one for all times, and so is its transpose in a gradient.

    Args:
        inputs: x_t·W + b, [T, B, 4·H], gates beside each other: input, forget, cell, output.
        kernel: U, [H, 4·H].
        seen: [T, B] bool; elsewhere the state stays.
        reverse: from the last time to the first.

    Returns:
        [T, B, H].

    Example:
        >>> recur(jnp.zeros((5, 2, 12)), jnp.zeros((3, 12)), jnp.ones((5, 2), bool), False).shape
        (5, 2, 3)
    """

    def step(state, now):
        x, there = now
        state = _cell(state, x + state[0] @ kernel, there[:, None])[0]
        return state, state[0]

    return lax.scan(step, _start(inputs, kernel), (inputs, seen), reverse=reverse)[1]


@recur.defjvp
def _derivative(reverse: bool, primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    inputs, kernel, seen = primals
    h, by_gate, keeps, by_cell = _linearised(inputs, kernel, seen, reverse)
    earlier = [h[1:], jnp.zeros_like(h[:1])] if reverse else [jnp.zeros_like(h[:1]), h[:-1]]
    # flat, or XLA turns around one side of the product in a gradient
    by_kernel = jnp.concatenate(earlier).reshape(-1, h.shape[-1]) @ tangents[1]
    moved, stays = tangents[0] + by_kernel.reshape(inputs.shape), jnp.where(seen, 0, 1).astype(h.dtype)[..., None]
    turned = lax.optimization_barrier(kernel.T)  # so that a gradient finds it in the order in which a product is fast

    def step(state, now):
        (dh, dc), (x, by_gate, keeps, by_cell, stays) = state, now
        z = x + lax.dot_general(dh, turned, (((1,), (1,)), ((), ())))
        z = by_gate * lax.optimization_barrier(z).reshape(by_gate.shape)
        dc = lax.optimization_barrier(keeps * dc + jnp.sum(_by_gate((1, 1, 1, 0), z) * z, axis=1))
        dh = stays * dh + jnp.sum(_by_gate((0, 0, 0, 1), z) * z, axis=1) + by_cell * dc
        return (dh, dc), dh

    given = (moved, by_gate, keeps, by_cell, stays)
    return h, lax.scan(step, _start(inputs, kernel), given, reverse=reverse)[1]


def _linearised(inputs: jax.Array, kernel: jax.Array, seen: jax.Array, reverse: bool) -> tuple[jax.Array, ...]:
    """(h [T, B, H]; how c depends on z of three gates and h on that of the last [T, B, 4, H]; how c depends on
    c before, and h on c [T, B, H]).

    What stays where there is no token has derivatives 0 and 1. All of it is made in the loop, where the numbers are at
    hand; nothing is put beside another array, which XLA would do number by number.
    """

    def step(state, now):
        c, (x, there) = state[1], now
        after, gates, inner = _cell(state, x + state[0] @ kernel, there[:, None])
        i, f, g, o = (gates[:, k] for k in range(GATES))
        factors = sum(
            _by_gate(tuple(row), x) * part[:, None] for row, part in zip(np.eye(GATES), (g, c, i, inner), strict=True)
        )
        slopes = _by_gate((0, 0, 1, 0), x) + _by_gate((1, 1, 0, 1), x) * gates - gates * gates
        there = there.astype(x.dtype)[:, None]
        return after, (after[0], there[:, None] * factors * slopes, there * f + 1 - there, there * o * (1 - inner**2))

    return lax.scan(step, _start(inputs, kernel), (inputs, seen), reverse=reverse)[1]


def _start(inputs: jax.Array, kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
    return (jnp.zeros((inputs.shape[1], kernel.shape[0]), inputs.dtype),) * 2


def _cell(
    state: tuple[jax.Array, jax.Array], z: jax.Array, there: jax.Array
) -> tuple[tuple[jax.Array, jax.Array], jax.Array, jax.Array]:
    """((h, c), the gates [B, 4, H], tanh(c)) of the state before, z [B, 4·H] and there [B, 1].

    σ(z) = ½·tanh(½·z) + ½: one function for all gates. The barriers keep XLA from computing it again for every use.
    """
    h, c = state
    z = z.reshape(len(z), GATES, -1)
    half = _by_gate((0.5, 0.5, 1, 0.5), z)
    gates = lax.optimization_barrier(jnp.tanh(z * half) * half + _by_gate((0.5, 0.5, 0, 0.5), z))
    i, f, g, o = (gates[:, k] for k in range(GATES))
    c = jnp.where(there, f * c + i * g, c)
    inner = lax.optimization_barrier(jnp.tanh(c))
    return (jnp.where(there, o * inner, h), c), gates, inner


def _by_gate(numbers: tuple[float, ...], like: jax.Array) -> jax.Array:
    """[1, 4, 1]."""
    return jnp.array(numbers, like.dtype)[None, :, None]
