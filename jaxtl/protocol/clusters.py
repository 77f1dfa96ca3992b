"""The error of a mean whose values share things: cells of one data set, and of one trunk, are not independent."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from jaxtl.errors import InputError


class ClusteredError(NamedTuple):
    """What stands in place of sd / √n with n − 1 degrees of freedom.

    Attributes:
        error: standard error of the mean.
        clusters: how many there are the fewest way; one less are the degrees of freedom of its t.
    """

    error: float
    clusters: int


def clustered_error(values: ArrayLike, clusters: Mapping[str, Sequence[object]]) -> ClusteredError:
    """Standard error of a mean over crossed clusters, √max(V_a + V_b − V_ab, V_a, V_b, V_ab).

    V of clusters g = 1 … G is G/(G − 1) Σ_g (Σ_{i in g} (y_i − ȳ))² / n²; V_ab is of the pairs that occur. The largest
    is taken as a difference of few clusters may come out too small, or negative. With t of the fewest clusters less one
    degrees, 95 % intervals held at least about as often as they say in whatever way simulated values went together, and
    too often where they did not; those of sd / √n held in less than half of all cases.

    Args:
        values: [n] finite.
        clusters: of one or two ways, by name: [n] labels each.

    Returns:
        A ClusteredError.

    Raises:
        InputError: no such values, labels of another number, other than one or two ways, a way with one cluster.

    Example:
        >>> found = clustered_error([1.0, 2.0, 3.0, 4.0], {"data": ["a", "a", "b", "b"]})
        >>> round(found.error, 4), found.clusters  # sums −2 and 2 about the mean: √(2 · 8) / 4
        (1.0, 2)

    Source: Cameron, Gelbach and Miller, "Robust Inference with Multiway Clustering", 2011.
    """
    y, where = np.asarray(values, np.float64), "clustered_error"
    if y.ndim != 1 or not len(y) or not np.isfinite(y).all():
        raise InputError(f"values {list(y.shape)}, or not finite", where=where, todo="give finite numbers [n]")
    if len(clusters) not in (1, 2):
        raise InputError(f"clusters of {len(clusters)} ways", where=where, todo="give one way or two")
    ways = []
    for name, labels in clusters.items():
        if len(labels) != len(y):
            raise InputError(
                f"{len(labels)} labels of {name} for {len(y)} values", where=where, todo="give one a value"
            )
        ways.append(np.unique([str(label) for label in labels], return_inverse=True)[1])
        if ways[-1].max() == 0:
            raise InputError(f"one {name} only", where=where, todo="its values share everything: leave it out")
    if len(ways) == 2:
        ways.append(np.unique(np.stack(ways), axis=1, return_inverse=True)[1].ravel())
    alone = [_variance(y - y.mean(), way) for way in ways]
    together = alone[0] + alone[1] - alone[2] if len(ways) == 3 else alone[0]
    return ClusteredError(math.sqrt(max(together, *alone)), min(int(way.max()) + 1 for way in ways[: len(clusters)]))


def _variance(residuals: np.ndarray, cluster: np.ndarray) -> float:
    """Of the mean, were the clusters of one way all that values share."""
    sums = np.bincount(cluster, residuals)
    return float(len(sums) / (len(sums) - 1) * np.sum(sums**2) / len(residuals) ** 2)
