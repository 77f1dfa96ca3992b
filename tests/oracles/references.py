"""The equations again, in NumPy float64, written for reading: trees are flat, {path: array}."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Flat = dict[str, np.ndarray]


def _gaps(params: Flat, anchor: Flat | None) -> Flat:
    return {name: w - (0.0 if anchor is None else anchor[name]) for name, w in params.items()}


def l2(params: Flat, anchor: Flat | None = None) -> float:
    """½ Σ d²."""
    return sum(0.5 * float(np.sum(d**2)) for d in _gaps(params, anchor).values())


def l1(params: Flat, anchor: Flat | None = None) -> float:
    """Σ |d|."""
    return sum(float(np.sum(np.abs(d))) for d in _gaps(params, anchor).values())


def elastic_net(params: Flat, anchor: Flat | None = None, *, l1_ratio: float) -> float:
    """ρ Σ |d| + (1 − ρ) ½ Σ d²."""
    return sum(float(np.sum(l1_ratio * np.abs(d) + (1 - l1_ratio) / 2 * d * d)) for d in _gaps(params, anchor).values())


def group_lasso(params: Flat, anchor: Flat | None = None) -> float:
    """Σ over output units √(weights into the unit) ‖those weights‖; each entry of a vector on its own."""
    total = 0.0
    for d in _gaps(params, anchor).values():
        units = [d[..., unit].ravel() for unit in range(d.shape[-1])]
        total += sum(np.sqrt(len(unit)) * np.linalg.norm(unit) for unit in units)
    return total


def fisher(params: Flat, anchor: Flat, importance: Flat) -> float:
    """½ Σ F d²."""
    return sum(0.5 * float(np.sum(importance[name] * d**2)) for name, d in _gaps(params, anchor).items())


def slope(fn: Callable[[Flat], float], params: Flat, step: float = 1e-6) -> Flat:
    """The gradient of fn by central differences, an entry at a time."""
    gradient = {name: np.zeros_like(w) for name, w in params.items()}
    for name, w in params.items():
        for index in np.ndindex(w.shape):
            value = w[index]
            w[index] = value + step
            above = fn(params)
            w[index] = value - step
            gradient[name][index] = (above - fn(params)) / (2 * step)
            w[index] = value
    return gradient


def ridge(x: np.ndarray, y: np.ndarray, rates: np.ndarray, anchor: np.ndarray) -> np.ndarray:
    """The w that minimises ½‖x w − y‖² + ½ Σ rates (w − anchor)²."""
    return np.linalg.solve(x.T @ x + np.diag(rates), x.T @ y + rates * anchor)
