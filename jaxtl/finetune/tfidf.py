"""Which words a text has, weighted by how rare they are, under logistic regression: what needs no network at all.

    x[t] = (1 + ln count(t)) · (1 + ln((1 + n) / (1 + texts with t))),  of length 1;  t: a word, or two in a row

Words can tell more of a long text than what a small pretrained encoder makes of it; so it is tried beside one.

Source: Spärck Jones, A statistical interpretation of term specificity and its application in retrieval (1972).
"""

from __future__ import annotations

import collections
import itertools
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxtl.data import stratified_folds
from jaxtl.selection import heads

TFIDF = "tfidf"
WORD = re.compile(r"\w+|[^\w\s]")  # signs count too: "!", a face
MOST = 50_000  # terms: those that most texts have
LAMS = np.logspace(-4.5, -1.5, 7)
STEPS = 5000  # of its optimizer, at most


class Vocabulary(NamedTuple):
    """Terms with their weights.

    Attributes:
        terms: in alphabetical order.
        weights: float32 [V], the larger the rarer.
    """

    terms: tuple[str, ...]
    weights: np.ndarray

    @classmethod
    def of(cls, texts: Sequence[str]) -> Vocabulary:
        """That of some texts; of others only these terms count.

        Example:
            >>> Vocabulary.of(["Good film", "good!"]).terms
            ('!', 'film', 'good', 'good !', 'good film')
        """
        having = collections.Counter(term for text in texts for term in set(terms_of(text)))
        chosen = sorted(having, key=lambda term: (-having[term], term))[:MOST]
        terms = tuple(sorted(chosen))
        counts = np.array([having[term] for term in terms])
        return cls(terms, (1 + np.log((1 + len(texts)) / (1 + counts))).astype(np.float32))

    def vectors(self, texts: Sequence[str]) -> Any:
        """Texts as rows of length 1; 0 of those that share no term with it.

        Args:
            texts: any.

        Returns:
            float32 [N, V], sparse: scipy.sparse.csr_array.
        """
        from scipy import sparse

        place = {term: number for number, term in enumerate(self.terms)}
        values, columns, ends = list[np.ndarray](), list[np.ndarray](), [0]
        for text in texts:
            counts = collections.Counter(place[term] for term in terms_of(text) if term in place)
            found = np.fromiter(counts, np.int32, len(counts))
            row = (1 + np.log(np.fromiter(counts.values(), np.float32, len(counts)))) * self.weights[found]
            values.append(row / max(float(np.linalg.norm(row)), 1e-12))
            columns.append(found)
            ends.append(ends[-1] + len(found))
        parts = (np.concatenate([*values, np.empty(0)]), np.concatenate([*columns, np.empty(0, np.int32)]), ends)
        return sparse.csr_array(parts, shape=(len(texts), len(self.terms)), dtype=np.float32)


def terms_of(text: str) -> list[str]:
    """Words and signs in small letters, and each two that stand beside each other.

    Example:
        >>> terms_of("Not good!")
        ['not', 'good', '!', 'not good', 'good !']
    """
    words = WORD.findall(text.lower())
    return words + [f"{one} {other}" for one, other in itertools.pairwise(words)]


def logistic(
    x: Any, labels: np.ndarray, classes: int, groups: np.ndarray | None, seed: int
) -> tuple[heads.Head, float]:
    """The head of logistic regression on sparse rows, and its λ: the least log-loss over folds.

    mean log-loss + λ/2 Σ w²,  the bias free

    Args:
        x: [n, V] sparse.
        labels: [n] integers.
        classes: C.
        groups: [n] of what folds must not divide, or None.
        seed: deals folds.

    Returns:
        ({"kernel": [V, C], "bias": [C]}, λ).
    """
    folds, groups = heads.affordable(labels, groups)
    losses = np.zeros(len(LAMS))
    for train, out in stratified_folds(labels, folds, seed, groups=groups, rare=True):
        if len(np.unique(labels[train])) < 2:
            continue
        for k, lam in enumerate(LAMS):
            logits = x[out] @ (own := _fitted(x[train], labels[train], classes, lam))["kernel"] + own["bias"]
            top = logits.max(axis=1, keepdims=True)
            likely = logits - top - np.log(np.exp(logits - top).sum(axis=1, keepdims=True))
            losses[k] -= likely[np.arange(len(out)), labels[out]].sum()
    lam = float(LAMS[int(losses.argmin())]) if losses.any() else float(LAMS[len(LAMS) // 2])
    return _fitted(x, labels, classes, lam), lam


def _fitted(x: Any, labels: np.ndarray, classes: int, lam: float) -> heads.Head:
    from sklearn.linear_model import LogisticRegression

    found = LogisticRegression(C=1 / (lam * len(labels)), max_iter=STEPS).fit(x, labels)
    kernel, bias = found.coef_.T, found.intercept_
    if kernel.shape[1] == 1:  # of two classes it has the odds of the second
        kernel, bias = np.concatenate([-kernel, kernel], axis=1) / 2, np.array([-bias[0], bias[0]]) / 2
    whole = {
        "kernel": np.zeros((x.shape[1], classes), np.float32),
        "bias": np.full(classes, bias.min() - 10, np.float32),
    }
    whole["kernel"][:, found.classes_], whole["bias"][found.classes_] = kernel, bias  # what was not seen is unlikely
    return whole
