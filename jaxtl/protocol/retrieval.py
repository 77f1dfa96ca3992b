"""How often what is looked for is among the first few that are found."""

from __future__ import annotations

import numpy as np

from jaxtl.errors import InputError


def recall_at(similarity: np.ndarray, right: np.ndarray, k: int) -> float:
    """The share of queries for which one of the k most similar items is a right one: recall@k of retrieval.

    Of equals the first comes first. A query without any right item counts as one that fails.

    Args:
        similarity: [Q, N], a row for each query.
        right: bool [Q, N], which items answer it.
        k: 1 to N.

    Raises:
        InputError: shapes that do not fit, k out of range.

    Example:
        >>> similarity = np.array([[0.9, 0.5, 0.1], [0.2, 0.3, 0.4]])
        >>> right = np.array([[True, False, False], [False, True, False]])
        >>> recall_at(similarity, right, 1), recall_at(similarity, right, 2)
        (0.5, 1.0)

    Source: Karpathy and Fei-Fei, "Deep Visual-Semantic Alignments for Generating Image Descriptions", 2015.
    """
    if similarity.ndim != 2 or right.shape != similarity.shape or not similarity.size:
        what = f"similarity {list(similarity.shape)}, right {list(right.shape)}"
        raise InputError(what, where="recall_at", todo="give [Q, N] of both: queries and items")
    if not 1 <= k <= similarity.shape[1]:
        what = f"the first {k} of {similarity.shape[1]} items"
        raise InputError(what, where="recall_at k", todo=f"give 1 to {similarity.shape[1]}")
    first = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
    return float(np.mean(np.take_along_axis(right, first, axis=1).any(axis=1)))
