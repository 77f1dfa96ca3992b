"""Choosing without target labels: what a net's answers to source and target examples say of it. Larger is better.

held-out source labels              source_accuracy; importance_weighted, deep_embedded: by how alike the target is
answers to unlabelled target ones   confidence, mutual_information, neighbourhood_density
there and back again                reverse_accuracy

None is right everywhere: those of the source do not see the target, and those of the target are content with a net that
is sure of what is wrong. What choosing by each costs is to be measured.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from jaxtl.errors import InputError
from jaxtl.protocol.measures import checked_classes
from jaxtl.selection.inputs import checked_features
from jaxtl.selection.logistic import logistic_path
from jaxtl.selection.probes import ridge_probe

DENSITIES = np.logspace(-3, 1, 5)  # λ of the classifier that density ratios come from
SHARPNESS = 0.05  # the temperature of neighbours


def source_accuracy(logits: ArrayLike, labels: ArrayLike) -> float:
    """1 − the risk on held-out source examples: the share of them whose largest logit is the label's.

    Args:
        logits: [N, C] of source examples that the net was not trained on.
        labels: [N] integers 0..C−1.

    Returns:
        0 to 1.

    Raises:
        InputError: shapes that do not fit, labels out of range, logits not finite.

    Example:
        >>> source_accuracy([[2.0, 0.0], [2.0, 0.0]], [0, 1])
        0.5
    """
    return 1 - float(_errors(logits, labels, "source_accuracy").mean())


def importance_weighted(logits: ArrayLike, labels: ArrayLike, weights: ArrayLike) -> float:
    """1 − mean_i w_i · error_i: source examples count as often as the target has examples like them.

    Unbiased for the target's accuracy where p(label | example) is the same in both and w is the ratio of densities. It
    can leave [0, 1]. Weights are not divided by their mean: then it would be biased, if steadier.

    Args:
        logits, labels: as for `source_accuracy`.
        weights: [N] >= 0, see `density_ratio`.

    Returns:
        At most 1.

    Raises:
        InputError: what `source_accuracy` refuses, weights that do not fit.

    Example:
        >>> importance_weighted([[2.0, 0.0], [2.0, 0.0]], [0, 1], [1.5, 0.5])
        0.75

    Source: Sugiyama, Krauledat and Müller, "Covariate Shift Adaptation by Importance Weighted Cross Validation", 2007.
    """
    errors = _errors(logits, labels, "importance_weighted")
    return 1 - float(np.mean(_checked_weights(weights, len(errors), "importance_weighted") * errors))


def deep_embedded(logits: ArrayLike, labels: ArrayLike, weights: ArrayLike) -> float:
    """1 − (mean w·error + η (mean w − 1)), η = −cov(w·error, w)/var(w): the same with a control variate (DEV).

    The mean of w is known to be 1; what it is off by tells how much the weighted risk is off by. Covariance and
    variance are divided alike. (Popular code divides one by n − 1 and the other by n.)

    Args:
        logits, labels, weights: as for `importance_weighted`.

    Returns:
        Any number; that of `importance_weighted` where all weights are equal.

    Raises:
        InputError: as `importance_weighted`.

    Example:
        >>> deep_embedded([[2.0, 0.0], [2.0, 0.0]], [1, 1], [1.5, 3.5])  # always wrong, whatever the weights say
        0.0

    Source: You, Wang, Long and Jordan, "Towards Accurate Model Selection in Deep Unsupervised Domain Adaptation", 2019.
    """
    errors = _errors(logits, labels, "deep_embedded")
    w = _checked_weights(weights, len(errors), "deep_embedded")
    weighted, variance = w * errors, w.var()
    slope = -np.mean((weighted - weighted.mean()) * (w - w.mean())) / variance if variance > 0 else 0.0
    return 1 - float(weighted.mean() + slope * (w.mean() - 1))


def density_ratio(source: ArrayLike, target: ArrayLike, at: ArrayLike, *, seed: int = 0) -> np.ndarray:
    """p_target(x) / p_source(x) at some features, as (N/M) p(target | x)/p(source | x) of a logistic classifier.

    λ by the least loss over five folds. Features are centred and brought to one scale each.

    Args:
        source: [N, D] features of source examples, other ones than those of `at`, or weights are too extreme.
        target: [M, D] of target examples.
        at: [K, D] where it is asked.
        seed: deals the folds.

    Returns:
        [K] > 0; 1 where the domains cannot be told apart.

    Raises:
        InputError: shapes that do not fit, NaN, fewer than five examples of a domain.

    Example:
        >>> same = np.random.default_rng(0).normal(size=(40, 2))
        >>> np.round(density_ratio(same, same, same[:3]), 3).tolist()
        [1.0, 1.0, 1.0]

    Source: Bickel, Brückner and Scheffer, "Discriminative Learning for Differing Training and Test
    Distributions", 2007.
    """
    named = zip(("source", "target", "at"), (source, target, at), strict=True)
    sides = [checked_features(part, f"density_ratio, {name}").astype(np.float64) for name, part in named]
    if len({side.shape[1] for side in sides}) > 1 or min(map(len, sides[:2])) < 5:
        what = f"features {', '.join(str(list(side.shape)) for side in sides)}"
        raise InputError(what, where="density_ratio", todo="give features of one network, five of each domain or more")
    both = np.concatenate(sides[:2])
    mean, sd = both.mean(axis=0), both.std(axis=0)
    sd = np.where(sd > 0, sd, 1.0)
    domain = np.repeat([0, 1], [len(side) for side in sides[:2]])
    path = logistic_path((both - mean) / sd, domain, DENSITIES, 5, seed=seed)
    best = path.fold_loss.mean(axis=1).argmin()
    logits = (sides[2] - mean) / sd @ path.coef[best] + path.intercept[best]
    return len(sides[0]) / len(sides[1]) * np.exp(logits[:, 1] - logits[:, 0])


def confidence(logits: ArrayLike) -> float:
    """Minus the mean entropy of the answers, in nats: 0 for a net that is sure of all of them.

    Args:
        logits: [N, C] of unlabelled target examples.

    Returns:
        −log C to 0.

    Raises:
        InputError: no such logits, or not finite.

    Example:
        >>> round(confidence([[0.0, 0.0], [50.0, 0.0]]), 4)
        -0.3466

    Source: Morerio, Cavazza and Murino, "Minimal-Entropy Correlation Alignment for Unsupervised Deep Domain
    Adaptation", 2018.
    """
    return -float(_entropies(_probabilities(logits, "confidence")).mean())


def mutual_information(logits: ArrayLike) -> float:
    """H(mean answer) − mean H(answer), in nats: sure of each example, and not of the same class in all.

    Args:
        logits: [N, C] of unlabelled target examples.

    Returns:
        0 to log C. It takes classes to be of about one size.

    Raises:
        InputError: no such logits, or not finite.

    Example:
        >>> one_class, all_classes = [[50.0, 0.0], [50.0, 0.0]], [[50.0, 0.0], [0.0, 50.0]]
        >>> [round(mutual_information(logits), 4) for logits in (one_class, all_classes)]
        [0.0, 0.6931]

    Source: Bridle, Heading and MacKay, "Unsupervised Classifiers, Mutual Information and 'Phantom Targets'", 1991.
    """
    p = _probabilities(logits, "mutual_information")
    return float(_entropies(p.mean(axis=0)) - _entropies(p).mean())


def neighbourhood_density(logits: ArrayLike, temperature: float = SHARPNESS) -> float:
    """Mean entropy of softmax_j≠i(cos(p_i, p_j)/τ): examples with many neighbours that are answered alike (SND).

    An example is no neighbour of its own, and has no part in the sum.

    Args:
        logits: [N, C] of unlabelled target examples, N >= 3; N² numbers are held.
        temperature: τ > 0.

    Returns:
        0 to log(N − 1), nets judged by the same examples. A net that says one class of all has the most: it is meant
        for nets that have learned the source.

    Raises:
        InputError: no such logits, not finite, or fewer than three examples.

    Example:
        >>> round(neighbourhood_density([[9.0, 0.0], [9.0, 0.0], [9.0, 0.0]]), 4)  # two neighbours each: log 2
        0.6931

    Source: Saito et al., "Tune it the Right Way: Unsupervised Validation of Domain Adaptation via Soft Neighborhood
    Density", 2021.
    """
    p = _probabilities(logits, "neighbourhood_density")
    if len(p) < 3:
        raise InputError(f"{len(p)} examples", where="neighbourhood_density", todo="give three or more")
    directions = p / np.linalg.norm(p, axis=1, keepdims=True)
    near = directions @ directions.T / temperature
    np.fill_diagonal(near, -np.inf)
    near = np.exp(near - near.max(axis=1, keepdims=True))
    return float(_entropies(near / near.sum(axis=1, keepdims=True)).mean())


def reverse_accuracy(target: ArrayLike, logits: ArrayLike, source: ArrayLike, labels: ArrayLike) -> float:
    """Accuracy on held-out source examples of a classifier that has learned the net's answers to target examples.

    Where answers to the target are wrong in a way of their own, what is learned from them fails at home. The way back
    is a linear classifier on the net's features (`ridge_probe`); in the paper it is a whole net, trained the other way
    round, at twice the price. A net that answers everything with one class has the share of that class.

    Args:
        target: [M, D] features of unlabelled target examples.
        logits: [M, C] what the net answers to them.
        source: [N, D] features of source examples that the net was not trained on.
        labels: [N] integers 0..C−1 of these.

    Returns:
        0 to 1.

    Raises:
        InputError: shapes that do not fit, values that are not finite, features that are all the same.

    Example:
        >>> here, there = [[0.0], [0.2], [1.0], [1.2]], [[0.1], [0.3], [0.9], [1.1]]
        >>> reverse_accuracy(there, [[1.0, 0.0]] * 2 + [[0.0, 1.0]] * 2, here, [0, 0, 1, 1])
        1.0

    Source: Zhong, Fan, Yang, Verscheure and Ren, "Cross Validation Framework to Choose amongst Models and Datasets for
    Transfer Learning", 2010; Ganin et al., "Domain-Adversarial Training of Neural Networks", 2016.
    """
    where = "reverse_accuracy"
    there, here = (
        checked_features(part, f"{where}, {name}") for name, part in (("target", target), ("source", source))
    )
    said = _probabilities(logits, where).argmax(axis=1)
    classes = np.shape(logits)[1]
    known = checked_classes(np.asarray(labels), len(here), classes, where)
    if len(said) != len(there) or here.shape[1] != there.shape[1]:
        what = f"features {list(there.shape)}, {list(here.shape)} and {len(said)} answers"
        raise InputError(what, where=where, todo="give features of one net, and an answer for each target example")
    present, answers = np.unique(said, return_inverse=True)
    if len(present) == 1:
        return float(np.mean(known == present[0]))
    return float(np.mean(present[ridge_probe(there, answers).predict(here)] == known))


def _probabilities(logits: ArrayLike, where: str) -> np.ndarray:
    """softmax [N, C] float64."""
    values = np.asarray(logits, np.float64)
    if values.ndim != 2 or not values.size or not np.isfinite(values).all():
        what = f"logits {list(values.shape)}, or not finite"
        raise InputError(what, where=where, todo="give finite numbers [examples, classes]")
    p = np.exp(values - values.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


def _entropies(p: np.ndarray) -> np.ndarray:
    """Of probabilities along the last axis."""
    return -np.sum(p * np.log(np.where(p > 0, p, 1.0)), axis=-1)


def _errors(logits: ArrayLike, labels: ArrayLike, where: str) -> np.ndarray:
    """1 where an answer is wrong, else 0, [N]."""
    p = _probabilities(logits, where)
    classes = checked_classes(np.asarray(labels), len(p), p.shape[1], where)
    return (np.asarray(logits).argmax(axis=1) != classes).astype(np.float64)


def _checked_weights(weights: ArrayLike, n: int, where: str) -> np.ndarray:
    w = np.asarray(weights, np.float64)
    if w.shape != (n,) or not np.isfinite(w).all() or (w < 0).any():
        what = f"weights {list(w.shape)} for {n} examples, or negative, or not finite"
        raise InputError(what, where=where, todo="give one number >= 0 per example, such as density_ratio")
    return w
