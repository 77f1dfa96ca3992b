import numpy as np
import pytest

from jaxtl.selection.lanczos import quadratures


def dense(matrix, start):
    """The two forms from all eigenvalues."""
    s, vectors = np.linalg.eigh(matrix)
    s, shares = np.maximum(s, 0), (start @ vectors) ** 2
    return shares @ (s / (1 + s)), shares @ np.log1p(s)


@pytest.mark.parametrize("rank", [1, 3, 12])
def test_exact_where_all_directions_are_reached(rank):
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(12, rank)) * 3
    matrix = matrix @ matrix.T
    starts = np.concatenate([rng.normal(size=(2, 12)), np.zeros((1, 12)), 5 * np.linalg.eigh(matrix)[1][:, -1:].T])
    found = quadratures(lambda vectors: vectors @ matrix, starts, 1e-10)
    for i, start in enumerate(starts):
        np.testing.assert_allclose(found[:, i], dense(matrix, start), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize(("decades", "most"), [(2, 25), (8, 100)])
def test_ends_before_all_directions_are_reached_and_close_enough(decades, most):
    rng = np.random.default_rng(1)
    s, asked = np.logspace(-decades / 2, decades / 2, 200), []

    def product(vectors):
        asked.append(1)
        return vectors * s

    signs = 2.0 * rng.integers(0, 2, (8, 200)) - 1
    starts = signs @ np.linalg.qr(rng.normal(size=(200, 200)))[0]
    found = quadratures(product, starts, 1e-6)
    wanted = np.array([dense(np.diag(s), start) for start in starts]).T
    error = wanted.std(axis=1, ddof=1) / np.sqrt(8)
    assert len(asked) <= most
    assert np.all(np.abs(found.mean(axis=1) - wanted.mean(axis=1)) < 0.05 * error)
    trace = np.array([np.sum(s / (1 + s)), np.sum(np.log1p(s))])
    assert np.all(np.abs(found.mean(axis=1) - trace) < 4 * error)
