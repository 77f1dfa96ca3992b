"""Heads that are the labelled examples themselves, their means or their votes: nothing is trained."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxtl.errors import InputError


def class_means(features: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """The nearest class mean as a linear head: column c is mean_c/‖mean_c‖, so that f·K is ‖f‖ cos(f, mean_c).

    ‖f‖ is the same for all classes: the largest logit is that of the smallest angle.

    Args:
        features: [N, D].
        labels: [N] integers, every class at least once.
        classes: C.

    Returns:
        [D, C] float32.

    Raises:
        InputError: a class without example, or whose mean is 0.

    Example:
        >>> f = np.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [-0.6, 0.8]])
        >>> (np.array([0.6, 0.8]) @ class_means(f, np.array([0, 0, 1, 1]), 2)).round(4).tolist()
        [0.8222, 0.5692]

    Source: Mensink, Verbeek, Perronnin and Csurka, "Distance-Based Image Classification: Generalizing to New Classes at
    Near-Zero Cost", 2013, with the cosine.
    """
    onehot = np.eye(classes)[labels]
    means = (onehot.T @ features) / np.maximum(onehot.sum(axis=0), 1)[:, None]
    lengths = np.linalg.norm(means, axis=1, keepdims=True)
    if not lengths.all():
        what = f"class {int(np.argmin(lengths))} has no mean to point at"
        raise InputError(what, where="class_means labels", todo="give every class an example whose features are not 0")
    return (means / lengths).T.astype(np.float32)


def cache(features: np.ndarray, labels: np.ndarray, classes: int, sharpness: Any, weight: Any) -> dict[str, Any]:
    """Examples that vote for their class by how much they resemble an image, beside a linear head: see `models.cache`.

    logits_c += weight · Σ_i 1[y_i = c] exp(−sharpness (1 − cos(f, f_i)))

    Args:
        features: [N, D] of the labelled examples.
        labels: [N] integers.
        classes: C.
        sharpness: β; at a large one only the nearest votes.
        weight: α of the votes, against the linear head that they are added to.

    Returns:
        {"keys": [N, D], "values": [N, C], "sharpness": β}, for model_state["cache"][NAME OF THE HEAD].

    Source: Zhang et al., "Tip-Adapter: Training-Free Adaption of CLIP for Few-Shot Classification", 2022; there the
    linear head is that of the text encoder.
    """
    values = np.eye(classes, dtype=np.float32)[labels] * np.float32(weight)
    return {"keys": np.asarray(features, np.float32), "values": values, "sharpness": np.float32(sharpness)}
