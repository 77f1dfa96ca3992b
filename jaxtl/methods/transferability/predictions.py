"""What a source model's answers to target examples say of their labels: LEEP, NCE. No features are looked at."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from jaxtl.errors import InputError
from jaxtl.methods.transferability.inputs import checked_labels, checked_probabilities


def leep(source_probs: ArrayLike, labels: ArrayLike) -> float:
    """Mean log likelihood of labels that are drawn by way of the source's classes: mean_i log Σ_z p(y_i|z) P_iz.

    p(y|z) is the share of y in what examples put on z, Σ_i [y_i = y] P_iz / Σ_i P_iz. At most 0. A source class that
    no example puts anything on has no part in it. (Popular code divides by 0 there.) Where each example puts everything
    on one class it is `nce`.

    Args:
        source_probs: [N, Cs] what the source model makes of the labelled target examples; each row adds up to 1.
        labels: [N] integers 0..C−1, of two classes or more.

    Returns:
        The score; larger is better.

    Raises:
        InputError: shapes that do not fit, no probabilities, one class, a class without example.

    Example:
        >>> leep([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 1.0, 0.0]], [0, 0, 1, 1])
        0.0

    Source: Nguyen et al., "LEEP: A New Measure to Evaluate Transferability of Learned Representations", 2020.
    """
    probabilities = checked_probabilities(source_probs, "leep")
    classes = checked_labels(labels, len(probabilities), "leep")
    joint = np.eye(classes.max() + 1)[classes].T @ probabilities  # [C, Cs]
    marginal = joint.sum(axis=0)
    given_source = joint / np.where(marginal > 0, marginal, 1.0)
    return float(np.mean(np.log(np.sum(probabilities * given_source[classes], axis=1))))


def nce(source_labels: ArrayLike, labels: ArrayLike) -> float:
    """Minus the entropy of labels given the source's, −H(Y|Z) = Σ_{y,z} p(y, z) log p(y|z).

    At most 0, where the source's labels say everything; −H(Y) where they say nothing.

    Args:
        source_labels: [N] integers >= 0, of the same examples on the source task, or what the source model takes them
            for; not all classes have to occur.
        labels: [N] integers 0..C−1, of two classes or more.

    Returns:
        The score; larger is better.

    Raises:
        InputError: shapes that do not fit, negative labels, one class, a class without example.

    Example:
        >>> nce([5, 5, 7, 7], [0, 0, 1, 1]), round(nce([5, 7, 5, 7], [0, 0, 1, 1]), 6)
        (0.0, -0.693147)

    Source: Tran, Nguyen and Hassner, "Transferability and Hardness of Supervised Classification Tasks", 2019.
    """
    theirs = np.asarray(source_labels)
    if theirs.ndim != 1 or len(theirs) < 2 or theirs.dtype.kind not in "iu" or theirs.min() < 0:
        what = f"source labels {theirs.dtype} {list(theirs.shape)}, or negative"
        raise InputError(what, where="nce", todo="give one integer >= 0 per example, at least 2 examples")
    classes = checked_labels(labels, len(theirs), "nce")
    _, source = np.unique(theirs, return_inverse=True)
    joint = np.zeros((classes.max() + 1, source.max() + 1))
    np.add.at(joint, (classes, source), 1.0)
    share = joint / joint.sum(axis=0)
    return float(np.sum(joint * np.log(np.where(joint > 0, share, 1.0))) / len(classes)) + 0.0  # never −0
