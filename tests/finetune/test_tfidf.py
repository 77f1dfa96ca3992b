"""Weighted words: scikit-learn's numbers, texts without words, and a head whose λ is chosen within."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from jaxtl.finetune import tfidf
from jaxtl.finetune.tfidf import Vocabulary

TEXTS = ["A good film, a GOOD one!", "dull", "the film is dull and the end is dull", "good end", "¡Ärger! 日本 😀"]


def theirs():
    return TfidfVectorizer(token_pattern=tfidf.WORD.pattern, ngram_range=(1, 2), sublinear_tf=True)


def test_vectors_are_those_of_scikit_learn():
    words, other = Vocabulary.of(TEXTS), theirs()
    other.fit(TEXTS)
    new = [*TEXTS, "a very good day", "nothing known", ""]
    assert list(words.terms) == other.get_feature_names_out().tolist()
    np.testing.assert_allclose(words.vectors(new).toarray(), other.transform(new).toarray(), atol=1e-6)


def test_only_the_terms_that_most_texts_have_are_kept(monkeypatch):
    monkeypatch.setattr(tfidf, "MOST", 2)
    assert Vocabulary.of(["a b", "b c", "a b"]).terms == ("a", "b")


@pytest.mark.parametrize("texts", [[""], ["", " \n"], []])
def test_texts_without_words_have_no_terms(texts):
    words = Vocabulary.of(texts)
    assert words.vectors(["anything"]).shape == (1, 0)


def examples(n=60, seed=0, classes=2):
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    own = ["good fine nice", "bad dull poor", "odd strange weird"]
    texts = [" ".join(rng.choice([*own[k].split(), *"abcdefgh"], 12)) for k in labels]
    return texts, labels


@pytest.mark.parametrize("classes", [2, 3])
def test_the_head_is_scikit_learns_at_its_penalty(classes):
    texts, labels = examples(classes=classes)
    x = Vocabulary.of(texts).vectors(texts)
    head, lam = tfidf.logistic(x, labels, classes, None, 0)
    other = LogisticRegression(C=1 / (lam * len(labels)), max_iter=5000).fit(x, labels)
    odds = np.exp(x @ head["kernel"] + head["bias"])
    np.testing.assert_allclose(odds / odds.sum(1, keepdims=True), other.predict_proba(x), atol=1e-5)
    assert np.mean(odds.argmax(1) == labels) > 0.9
    assert lam in tfidf.LAMS


def test_words_that_say_nothing_are_pulled_hard():
    texts, labels = examples(80)
    x = Vocabulary.of(texts).vectors(texts)
    shuffled = np.random.default_rng(1).permutation(labels)
    assert tfidf.logistic(x, shuffled, 2, None, 0)[1] > tfidf.logistic(x, labels, 2, None, 0)[1]


def test_a_class_that_is_not_there_is_unlikely_and_no_error():
    texts, labels = examples(20)
    head, _ = tfidf.logistic(Vocabulary.of(texts).vectors(texts), labels, 3, None, 0)
    assert head["kernel"].shape[1] == 3
    assert head["bias"].argmin() == 2


def test_two_texts_and_groups_that_leave_nothing_are_enough_to_begin_with():
    texts = ["good", "bad"]
    x = Vocabulary.of(texts).vectors(texts)
    for groups in (None, np.array([0, 1]), np.array([0, 0])):
        head, _ = tfidf.logistic(x, np.array([0, 1]), 2, groups, 0)
        assert (x @ head["kernel"] + head["bias"]).argmax(1).tolist() == [0, 1]
