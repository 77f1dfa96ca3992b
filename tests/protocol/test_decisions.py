"""Of a finding: scikit-learn's ROC, thresholds that hold what they promise, net benefit in closed form."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from jaxtl.errors import InputError
from jaxtl.protocol.decisions import at_threshold, net_benefit, roc_auc, roc_curve, threshold_at_specificity


def drawn(seed, n=60, levels=12):
    """Labels of both kinds, and scores with many ties."""
    random = np.random.default_rng(seed)
    labels = np.append(random.integers(0, 2, n), [0, 1])
    return labels, (random.integers(0, levels, n + 2) + 3 * labels) / (levels + 3)


@given(st.integers(0, 10_000), st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_area_and_curve_are_those_of_scikit_learn(seed, levels):
    labels, scores = drawn(seed, levels=levels)
    assert roc_auc(labels, scores) == pytest.approx(metrics.roc_auc_score(labels, scores), abs=1e-12)
    alarms, hits, _ = metrics.roc_curve(labels, scores, drop_intermediate=False)
    at = np.unique(alarms)
    upper = [hits[alarms == one].max() for one in at]
    np.testing.assert_allclose(roc_curve(labels, scores, at), upper, atol=1e-12)
    middle = (at[1:] + at[:-1]) / 2
    np.testing.assert_allclose(roc_curve(labels, scores, middle), np.interp(middle, alarms, hits), atol=1e-12)


@given(st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_area_is_of_the_order_alone_and_turns_with_the_labels(seed):
    labels, scores = drawn(seed)
    assert roc_auc(labels, np.exp(3 * scores) - 7) == roc_auc(labels, scores)
    assert roc_auc(1 - labels, scores) == pytest.approx(1 - roc_auc(labels, scores), abs=1e-12)
    assert roc_auc(labels, np.zeros(len(labels))) == 0.5


@given(st.integers(0, 10_000), st.floats(0, 1))
@settings(max_examples=80, deadline=None)
def test_a_threshold_holds_the_specificity_and_no_lower_score_would(seed, asked):
    labels, scores = drawn(seed)
    threshold = threshold_at_specificity(labels, scores, asked)
    found = at_threshold(labels, scores, threshold)
    assert found.specificity >= asked - 1e-9
    assert found.sensitivity == metrics.recall_score(labels, scores > threshold)
    assert found.specificity == pytest.approx(metrics.recall_score(1 - labels, scores <= threshold), abs=1e-12)
    lower = [score for score in scores if score < threshold]
    assert not lower or at_threshold(labels, scores, max(lower)).specificity < asked


def test_the_ill_have_no_say_in_a_threshold_and_its_ends_are_nobody_and_all():
    labels, scores = drawn(1)
    of = threshold_at_specificity(labels, scores, 0.9)
    assert of == threshold_at_specificity(labels, np.where(labels == 1, 100.0, scores), 0.9)
    assert threshold_at_specificity([0] * 10, np.arange(10.0), 0.9) == 8.0  # nine of ten are at or below
    assert at_threshold(labels, scores, threshold_at_specificity(labels, scores, 0.0)) == (1.0, 0.0)
    assert at_threshold(labels, scores, threshold_at_specificity(labels, scores, 1.0)).specificity == 1.0


@given(st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_net_benefit_by_hand_and_within_its_bounds(seed):
    labels, scores = drawn(seed)
    at = np.array([0.0, 0.1, 0.5, 0.9])
    found = net_benefit(labels, scores, at)
    for p, value in zip(at, found, strict=True):
        true = sum(1 for y, s in zip(labels, scores, strict=True) if s >= p and y)
        false = sum(1 for y, s in zip(labels, scores, strict=True) if s >= p and not y)
        assert value == pytest.approx(true / len(labels) - false / len(labels) * p / (1 - p), abs=1e-12)
    share = labels.mean()
    assert (found <= share + 1e-12).all()
    all_of_them = net_benefit(labels, np.ones(len(labels)), at)
    np.testing.assert_allclose(all_of_them, share - (1 - share) * at / (1 - at), atol=1e-12)
    assert found[0] == pytest.approx(share)
    np.testing.assert_allclose(net_benefit(labels, labels.astype(float), at[1:]), share)  # who knows, has all there is
    np.testing.assert_array_equal(net_benefit(labels, np.zeros(len(labels)), at[1:]), 0)  # and who treats nobody, 0


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: roc_auc([0, 0], [0.1, 0.2]), "nobody is with the finding"),
        (lambda: threshold_at_specificity([1, 1], [0.1, 0.2], 0.9), "nobody is without the finding"),
        (lambda: roc_curve([0, 2], [0.1, 0.2], [0.0]), "labels other than 0 and 1"),
        (lambda: at_threshold([0, 1], [0.1, np.nan], 0.1), "scores not finite"),
        (lambda: at_threshold([0, 1, 1], [0.1, 0.2], 0.1), r"labels \[3\], scores \[2\]"),
        (lambda: threshold_at_specificity([0, 1], [0.1, 0.2], 1.2), "1.2"),
        (lambda: net_benefit([0, 1], [0.1, 1.2], [0.1]), "probabilities 0.1 to 1.2"),
        (lambda: net_benefit([0, 1], [0.1, 0.2], [1.0]), r"thresholds \[1.0\]"),
    ],
)
def test_what_cannot_be_is_refused(call, said):
    with pytest.raises(InputError, match=said):
        call()
