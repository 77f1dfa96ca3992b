"""Bases of a space of examples, to the last digit: what the closed forms stand on where λ is tiny."""

from __future__ import annotations

import numpy as np


def without_rounding(u: np.ndarray, s: np.ndarray) -> np.ndarray:
    """An example that no other resembles has no part in the directions without features: what it has is rounding.

    It would hide the example's 1 − leverage, which is λ/s or so.
    """
    kept = s[s > 0]
    if len(kept) in (0, len(s)):
        return u
    rounding = min(len(u) * np.finfo(float).eps * np.sqrt(kept.max() / kept.min()), 1e-8)
    alone = np.linalg.norm(u[:, s == 0], axis=1) <= rounding
    return np.where(alone[:, None] & (s == 0), 0.0, u)


def left_singular(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A whole basis [n, n] of left singular vectors, and s [n] with 0 where there is no feature."""
    n, features = x.shape
    if n <= features:
        u, singular, _ = np.linalg.svd(np.asarray(np.linalg.qr(x.T, mode="r")).T)
        return u, squares(singular, features)
    u, r = np.linalg.qr(x, mode="complete")
    inner, singular, _ = np.linalg.svd(r[:features])
    u[:, :features] = u[:, :features] @ inner
    return u, np.concatenate([squares(singular, n), np.zeros(n - features)])


def squares(singular: np.ndarray, longer: int) -> np.ndarray:
    """[k] s of descending singular values; those that rounding alone may have made, by the longer side, are 0."""
    return np.where(singular > longer * np.finfo(float).eps * singular[0], singular, 0.0) ** 2


def reflect(a: np.ndarray) -> np.ndarray:
    """The Householder reflection that takes the direction of equal entries to the first axis (with a minus sign)."""
    v = np.full(len(a), len(a) ** -0.5)
    v[0] += 1.0
    return a - np.outer(v, v @ a) / v[0]
