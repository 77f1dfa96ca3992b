"""How far the data determine the parameters of a net: degrees of freedom and evidence from its Gauss–Newton curvature.

    H = Σ_i J_iᵀ S_i J_i,   J_i = ∂outputs_i/∂w,   S_i = ∂²loss_i/∂outputs²,   Δ = n · diag(rates)
    df = tr[(H + Δ)⁻¹ H] = r + Σ s/(1 + s),       log det = Σ ln(1 + s)

With S = F Fᵀ the rows A = Fᵀ J, [n·K, P], have H = AᵀA. Parameters without a rate are fitted freely: they take the r
directions that their columns reach. s are the eigenvalues of A Δ⁻¹ Aᵀ in what is left of the n·K directions, fewer than
parameters where examples are few. Rows beyond the number of parameters are folded into as many by QR.

What precision it needs. Rows are products of a forward and a backward pass, in the net's own precision: on a CPU,
convolutions in float64 take thirty times as long. All that follows is float64 on the host. A Gram matrix in float32
would lose the eigenvalues below 10⁻⁷ of the largest, which count where λ is small; from float32 rows those down to
10⁻¹² can be had, and what is below counts as zero. For a trained CNN of 24,021 parameters, df is that of float64
throughout to 2·10⁻⁷, for λ from 10 to 10⁻⁹.

Source: MacKay, Bayesian interpolation (1992); Martens, New insights and perspectives on the natural gradient method
(2020); Hutchinson, A stochastic estimator of the trace of the influence matrix (1989).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.errors import InputError
from jaxtl.losses import Forward, softmax_cross_entropy
from jaxtl.selection.lanczos import quadratures, standard_error
from jaxtl.step import Context, Fixed
from jaxtl.trees import Tree

RESOLUTION = 1e-6  # of the largest singular value: what is below may be rounding of float32 rows
LARGEST_GRAM = 8192  # rows: half a gigabyte
LARGEST_ROWS = 2**28  # numbers: a gigabyte
CHUNK = 2**24  # numbers that one dispatch computes
BLOCK = 2**22  # numbers that a product widens to float64 at a time
EXAMPLES = 256  # in one dispatch of a product with all rows


class Curvature(NamedTuple):
    """Two sums over one spectrum; an error is the standard error over probes, 0 where the sum is exact.

    free: directions that parameters without a rate take, the r above.
    """

    df: float
    log_determinant: float
    free: int
    df_error: float = 0.0
    log_determinant_error: float = 0.0


@dataclasses.dataclass(frozen=True)
class Net:
    """A forward pass as a function of the parameters that move; static, so that one program serves many nets."""

    forward: Forward
    head: str
    loss: Callable[..., jax.Array]
    structure: Any
    moves: tuple[bool, ...]

    def outputs(self, moving: list[jax.Array], point: Point, batch: Tree) -> jax.Array:
        """[B, C], at least float32."""
        left, right = iter(moving), iter(point.held)
        params = jax.tree.unflatten(self.structure, [next(left if moves else right) for moves in self.moves])
        ctx = Context(0, None, point.fixed.rates, point.fixed.given, train=False)
        values = self.forward(params, point.model_state, batch, ctx)[0][self.head]
        return values.reshape(values.shape[0], -1).astype(jnp.promote_types(values.dtype, jnp.float32))

    def root(self, outputs: jax.Array) -> jax.Array:
        """F [C, K] with F Fᵀ = ∂²loss/∂outputs² for one example."""
        whole = jnp.eye(len(outputs), dtype=outputs.dtype)
        return softmax_root(outputs) if self.loss is softmax_cross_entropy else whole


class Point(NamedTuple):
    """What a forward pass needs besides the parameters that move."""

    held: list[jax.Array]
    model_state: Tree
    fixed: Fixed


def softmax_root(logits: jax.Array) -> jax.Array:
    """F [C, C−1] with F Fᵀ = diag(p) − p pᵀ, p = softmax(logits), without 1 − p.

    F = diag(√p) R with R an orthonormal basis of all that is orthogonal to √p: what a reflection of the largest entry's
    axis to √p makes of the other axes.

    Args:
        logits: [C].

    Example:
        >>> root = softmax_root(jnp.zeros(2))
        >>> (root @ root.T).round(6).tolist()
        [[0.25, -0.25], [-0.25, 0.25]]
    """
    half = jnp.exp(0.5 * jax.nn.log_softmax(logits))
    largest = jnp.argmax(half)
    others = (largest + 1 + jnp.arange(len(logits) - 1)) % len(logits)
    normal = half.at[largest].add(1.0)
    axes = jnp.eye(len(logits), dtype=half.dtype)[:, others]
    return half[:, None] * (axes - jnp.outer(normal, half[others]) / normal[largest])


def all_outputs(net: Net, moving: list[jax.Array], point: Point, batch: Tree) -> np.ndarray:
    """Outputs of the whole training set, [n, C]."""
    n = len(jax.tree.leaves(batch)[0])
    parts = [_outputs(net, moving, point, _take(batch, part)) for part in _parts(n, EXAMPLES)]
    return np.concatenate([np.asarray(values) for values in parts])


@functools.partial(jax.jit, static_argnums=0)
def _outputs(net: Net, moving: list[jax.Array], point: Point, batch: Tree) -> jax.Array:
    return net.outputs(moving, point, batch)


@functools.partial(jax.jit, static_argnums=0)
def _rows(net: Net, moving: list[jax.Array], point: Point, batch: Tree) -> jax.Array:
    """A of these examples, [B, K, P]."""

    def of_one(example):
        alone = jax.tree.map(lambda leaf: leaf[None], example)
        values, pull = jax.vjp(lambda moving: net.outputs(moving, point, alone)[0], moving)
        gradients = jax.vmap(lambda direction: pull(direction)[0])(net.root(values).T)
        return jnp.concatenate([gradient.reshape(len(gradient), -1) for gradient in gradients], axis=1)

    return jax.vmap(of_one)(batch)


@functools.partial(jax.jit, static_argnums=0)
def _pulled(net: Net, moving: list[jax.Array], point: Point, batch: Tree, weights: jax.Array) -> list[jax.Array]:
    """Aᵀ weights for weights [M, B, K]: each leaf [M, ...]."""
    values, pull = jax.vjp(lambda moving: net.outputs(moving, point, batch), moving)
    return jax.vmap(lambda w: pull(w)[0])(jnp.einsum("bck,mbk->mbc", jax.vmap(net.root)(values), weights))


@functools.partial(jax.jit, static_argnums=0)
def _pushed(net: Net, moving: list[jax.Array], point: Point, batch: Tree, tangents: list[jax.Array]) -> jax.Array:
    """A tangents for leaves [M, ...]: [M, B, K]."""
    values, push = jax.linearize(lambda moving: net.outputs(moving, point, batch), moving)
    return jnp.einsum("bck,mbc->mbk", jax.vmap(net.root)(values), jax.vmap(push)(tangents))


def exact_curvature(
    net: Net, moving: list[jax.Array], point: Point, batch: Tree, stiffness: list[np.ndarray], count: int
) -> Curvature:
    """Both sums from all rows.

    Args:
        net, moving, point: the net at its parameters.
        batch: the training set, n examples.
        stiffness: float64 arrays like `moving`, the diagonal of Δ.
        count: n·K.

    Raises:
        InputError: too large for memory.
    """
    size = sum(leaf.size for leaf in moving)
    kept = min(count, size)
    if kept > LARGEST_GRAM or kept * size > LARGEST_ROWS:
        what = f"{count} rows of {size} parameters are too many for the exact form"
        raise InputError(what, where="net_criteria", todo="estimate with probes=16, or hold parameters with frozen=")
    rows = _all_rows(net, moving, point, batch, count)
    delta = np.concatenate([leaf.ravel() for leaf in stiffness])
    paid = delta > 0
    basis = _reached(rows[:, ~paid])
    gram = np.zeros((len(rows), len(rows)))
    weights = np.where(paid, 1 / np.sqrt(np.where(paid, delta, 1.0)), 0.0)
    for part in _parts(size, max(1, BLOCK // len(rows))):
        scaled = rows[:, part] * weights[part]
        gram += scaled @ scaled.T
    smallest = RESOLUTION**2 * np.linalg.norm(gram)
    gram -= basis @ (basis.T @ gram)
    gram -= (gram @ basis) @ basis.T
    s = np.linalg.eigvalsh(gram)
    s = np.where(s > smallest, s, 0.0)
    return Curvature(basis.shape[1] + float(np.sum(s / (1 + s))), float(np.log1p(s).sum()), basis.shape[1])


def estimated_curvature(
    net: Net,
    moving: list[jax.Array],
    point: Point,
    batch: Tree,
    stiffness: list[np.ndarray],
    count: int,
    probes: int,
    seed: int,
) -> Curvature:
    """Both sums as means over random signs z of zᵀ f(A Δ⁻¹ Aᵀ) z, from products with A and Aᵀ alone.

    The quadratic forms come from `lanczos`, which loops on the host: convolutions inside a compiled loop are slow on a
    CPU. Where parameters have no rate, their rows are held in memory.

    Args:
        net, moving, point, batch, stiffness, count: as in `exact_curvature`.
        probes: how many random signs, side by side; at least 2.
        seed: draws them.
    """
    n = len(jax.tree.leaves(batch)[0])
    basis = _free_directions(net, moving, point, batch, stiffness, count)
    inverse = [np.where(leaf > 0, 1 / np.where(leaf > 0, leaf, 1.0), 0.0).astype(np.float32) for leaf in stiffness]

    def projected(vectors: np.ndarray) -> np.ndarray:
        return vectors - (vectors @ basis) @ basis.T

    def product(vectors: np.ndarray) -> np.ndarray:
        weights = vectors.reshape(probes, n, -1).astype(np.float32)
        total: Any = None
        for part in _parts(n, EXAMPLES):
            pulled = _pulled(net, moving, point, _take(batch, part), weights[:, part])
            total = pulled if total is None else jax.tree.map(jnp.add, total, pulled)
        tangents = [(leaf * scale[None]).astype(leaf.dtype) for leaf, scale in zip(total, inverse, strict=True)]
        pushed = [_pushed(net, moving, point, _take(batch, part), tangents) for part in _parts(n, EXAMPLES)]
        together = np.concatenate([np.asarray(a, np.float64) for a in pushed], axis=1)
        return projected(_finite(together).reshape(vectors.shape))

    signs = 2.0 * np.random.default_rng(seed).integers(0, 2, (probes, count)) - 1.0
    values = quadratures(product, projected(signs), RESOLUTION)
    (df, determinant), (df_error, determinant_error) = values.mean(axis=1), standard_error(values)
    free = basis.shape[1]
    return Curvature(free + float(df), float(determinant), free, float(df_error), float(determinant_error))


def _all_rows(net: Net, moving: list[jax.Array], point: Point, batch: Tree, count: int) -> np.ndarray:
    """A, or as many rows as parameters with the same AᵀA."""
    n, size = len(jax.tree.leaves(batch)[0]), sum(leaf.size for leaf in moving)
    blocks: list[Any] = []
    for part in _parts(n, max(1, CHUNK * n // (count * size))):
        blocks.append(_finite(np.asarray(_rows(net, moving, point, _take(batch, part)))).reshape(-1, size))
        last = part.stop >= n
        if sum(map(len, blocks)) > (1 if last else 4) * size:
            blocks = [np.linalg.qr(np.concatenate(blocks).astype(np.float64), mode="r")]
    return np.concatenate(blocks)


def _free_directions(
    net: Net, moving: list[jax.Array], point: Point, batch: Tree, stiffness: list[np.ndarray], count: int
) -> np.ndarray:
    """An orthonormal basis [n·K, r] of what the parameters without a rate reach."""
    free = [bool((leaf == 0).any()) for leaf in stiffness]
    if not any(free):
        return np.zeros((count, 0))
    size = sum(leaf.size for leaf, is_free in zip(moving, free, strict=True) if is_free)
    if count * size > LARGEST_ROWS:
        what = f"{size} parameters without a rate, in leaves that no or not all penalties reach, and {count} rows"
        raise InputError(what, where="net_criteria", todo="give them a rate, however small, or hold them with frozen=")
    paths = iter(free)
    moves = tuple(moved and next(paths) for moved in net.moves)
    held, left, right = [], iter(moving), iter(point.held)
    for moved, still_moves in zip(net.moves, moves, strict=True):
        leaf = next(left if moved else right)
        if not still_moves:
            held.append(leaf)
    alone, there = dataclasses.replace(net, moves=moves), point._replace(held=held)
    own = [leaf for leaf, is_free in zip(moving, free, strict=True) if is_free]
    zero = np.concatenate([leaf.ravel() == 0 for leaf, is_free in zip(stiffness, free, strict=True) if is_free])
    n = len(jax.tree.leaves(batch)[0])
    parts = _parts(n, max(1, CHUNK * n // (count * size)))
    rows = [np.asarray(_rows(alone, own, there, _take(batch, part))).reshape(-1, size)[:, zero] for part in parts]
    return _reached(_finite(np.concatenate(rows)))


def _finite(rows: np.ndarray) -> np.ndarray:
    if not np.isfinite(rows).all():
        todo = "look for an operation whose slope is infinite, such as a square root at 0"
        raise InputError("the gradients of the outputs are not finite", where="net_criteria", todo=todo)
    return rows


def _reached(columns: np.ndarray) -> np.ndarray:
    """An orthonormal basis of the space of these columns [N, k]: [N, rank]. The unit of a parameter does not count."""
    norms = np.linalg.norm(columns, axis=0).astype(np.float64)
    columns = columns[:, norms > 0] / norms[norms > 0]
    if not columns.size:
        return np.zeros((len(columns), 0))
    left, singular, _ = np.linalg.svd(columns, full_matrices=False)
    return left[:, singular > RESOLUTION * singular[0]]


def _parts(n: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, n)) for start in range(0, n, size))


def _take(batch: Tree, part: slice) -> Tree:
    return jax.tree.map(lambda leaf: leaf[part], batch)
