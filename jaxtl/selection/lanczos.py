"""zᵀ f(G) z for f = s/(1 + s) and ln(1 + s), from products with a symmetric G >= 0 alone.

Lanczos builds the Krylov space of z, where conjugate gradients would look for (I + G)⁻¹ z; in it G is tridiagonal and
small, and any function of it is at hand.

Source: Golub and Meurant, Matrices, moments and quadrature (1994); Ubaru, Chen and Saad, Fast estimation of tr(f(A))
via stochastic Lanczos quadrature (2017).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

MOST_STEPS = 100
BETWEEN_LOOKS = 5  # steps until the values are looked at again
SETTLED = 0.01  # of the standard error: where the change since the last look is less, it ends


def quadratures(product: Callable[[np.ndarray], np.ndarray], starts: np.ndarray, resolution: float) -> np.ndarray:
    """Both forms of every z, by Lanczos with full reorthogonalisation.

    It ends when the mean over z has settled well within its standard error, at the latest after 100 steps: enough for
    eigenvalues of eight decades.

    Args:
        product: [M, N] -> [M, N] float64, every row times G.
        starts: [M, N] float64, a z a row.
        resolution: of the products; a direction of less than this part of the largest is their rounding.

    Returns:
        [2, M]: zᵀ G(I + G)⁻¹ z and zᵀ ln(I + G) z.

    Example:
        >>> values = quadratures(lambda rows: rows * np.array([1.0, 3.0]), np.array([[1.0, 2.0]]), 1e-12)
        >>> values[:, 0].round(4).tolist()  # 1/2 + 4 · 3/4 and ln 2 + 4 · ln 4
        [3.5, 6.2383]
    """
    lengths = np.linalg.norm(starts, axis=1)
    most = min(MOST_STEPS, starts.shape[1])
    diagonal, beside = np.zeros((2, len(starts), most))
    basis = np.zeros((len(starts), most + 1, starts.shape[1]))
    basis[:, 0] = starts / np.where(lengths > 0, lengths, 1.0)[:, None]
    values = np.zeros((2, len(starts)))
    for step in range(most):
        ahead = product(basis[:, step])
        diagonal[:, step] = np.sum(ahead * basis[:, step], axis=1)
        known = basis[:, : step + 1]
        for _ in range(2):  # once leaves what rounding of the first pass puts back
            ahead = ahead - np.einsum("mkn,mk->mn", known, np.einsum("mkn,mn->mk", known, ahead))
        norms = np.linalg.norm(ahead, axis=1)
        goes_on = norms > resolution * np.abs(diagonal).max(axis=1)  # the others have reached all they can
        beside[goes_on, step] = norms[goes_on]
        basis[goes_on, step + 1] = ahead[goes_on] / norms[goes_on, None]
        ends = step + 1 == most or not goes_on.any()
        if ends or (step + 1) % BETWEEN_LOOKS == 0:
            before, values = values, lengths**2 * _quadrature(diagonal[:, : step + 1], beside[:, :step])
            change = np.abs(values.mean(axis=1) - before.mean(axis=1))
            if ends or np.all(change <= SETTLED * standard_error(values)):
                break
    return values


def standard_error(values: np.ndarray) -> np.ndarray:
    """Of the mean over the last axis: [2, M >= 2] -> [2]."""
    return values.std(axis=1, ddof=1) / np.sqrt(values.shape[1])


def _quadrature(diagonal: np.ndarray, beside: np.ndarray) -> np.ndarray:
    """e₁ᵀ f(T) e₁ for both f, [2, M], of tridiagonal T: its diagonal [M, k] and what is beside it [M, k − 1]."""
    at = np.arange(diagonal.shape[1])
    tridiagonal = np.zeros((*diagonal.shape, len(at)))
    tridiagonal[:, at, at] = diagonal
    tridiagonal[:, at[1:], at[:-1]] = beside  # the triangle that eigh reads
    s, vectors = np.linalg.eigh(tridiagonal)
    s, shares = np.maximum(s, 0.0), vectors[:, 0] ** 2
    return np.array([np.sum(shares * s / (1 + s), axis=1), np.sum(shares * np.log1p(s), axis=1)])
