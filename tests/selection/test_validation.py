import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from jaxtl.errors import InputError
from jaxtl.protocol import paired
from jaxtl.selection import regret, temperature, validation_criteria


def held_out(n=400, classes=4, scale=1.0, seed=0):
    """Logits whose softmax is the very chance of each label, times `scale`."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(n, classes))
    labels = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
    return scale * logits, labels


def loss_at(logits, labels, scale):
    return -log_softmax(logits / scale, axis=1)[np.arange(len(labels)), labels].mean()


def best_temperature(logits, labels):
    found = minimize_scalar(lambda t: loss_at(logits, labels, np.exp(t)), bounds=(-4, 4), options={"xatol": 1e-10})
    return np.exp(found.x)


@pytest.mark.parametrize("scale", [0.1, 1.0, 7.0])
def test_temperature_is_where_the_loss_is_least(scale):
    logits, labels = held_out(scale=scale)
    found = temperature(logits, labels)
    np.testing.assert_allclose(found, best_temperature(logits, labels), rtol=1e-5)
    np.testing.assert_allclose(found, scale, rtol=0.15)
    np.testing.assert_allclose(temperature(logits + 1000, labels), found, rtol=1e-9)


def test_temperature_ends_where_no_scale_is_enough():
    logits = np.eye(3)
    assert temperature(logits, [0, 1, 2]) == pytest.approx(0.01)
    assert temperature(logits, [1, 2, 0]) == pytest.approx(100)
    assert temperature(np.zeros((3, 3)), [0, 1, 2]) > 0


def test_log_loss_of_each_fold_is_at_the_temperature_of_the_others():
    logits, labels = held_out(60, scale=5.0)
    folds = np.arange(60) % 3
    losses = []
    for fold in range(3):
        inside = folds == fold
        scale = best_temperature(logits[~inside], labels[~inside])
        losses.append(loss_at(logits[inside], labels[inside], scale))
    found = validation_criteria(logits, labels, folds)
    np.testing.assert_allclose(found.log_loss, np.mean(losses), rtol=1e-6)
    assert found.accuracy == (logits.argmax(axis=1) == labels).mean()
    np.testing.assert_allclose(found.temperature, best_temperature(logits, labels), rtol=1e-5)
    assert validation_criteria(logits, labels) == validation_criteria(logits, labels, np.arange(60) % 5)


def test_being_too_sure_costs_nothing():
    logits, labels = held_out()
    alone, sure = validation_criteria(logits, labels), validation_criteria(30 * logits, labels)
    np.testing.assert_allclose(sure.log_loss, alone.log_loss, rtol=1e-9)
    assert loss_at(30 * logits, labels, 1.0) > 3 * alone.log_loss


def test_regret_is_against_the_best_fixed_setting():
    rng = np.random.default_rng(0)
    test, scores = rng.uniform(size=(6, 5)), rng.normal(size=(6, 5))
    fixed = max(range(5), key=lambda k: sum(test[:, k]))
    wanted = [test[d, fixed] - test[d, max(range(5), key=lambda k: scores[d, k])] for d in range(6)]
    np.testing.assert_allclose(regret(scores, test), wanted)
    verdict = paired("criterion", "best fixed", -regret(scores, test))
    assert verdict.difference == pytest.approx(-np.mean(wanted))


def test_regret_of_a_criterion_that_knows_the_test_is_not_positive():
    test = np.array([[0.65, 0.6, 0.1], [0.9, 0.8, 0.1], [0.5, 0.7, 0.6]])
    np.testing.assert_allclose(regret(test, test), [-0.05, -0.1, 0.0], atol=1e-12)
    scores = np.array([[-np.inf, 0.0, -np.inf], [1.0, 1.0, 1.0], [-np.inf, -np.inf, 0.0]])
    np.testing.assert_allclose(regret(scores, test), [0.0, -0.1, 0.1], atol=1e-12)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: temperature(np.zeros((0, 3)), np.zeros(0, int)), r"logits \[0, 3\]"),
        (lambda: temperature(np.zeros(3), [0, 1, 2]), r"logits \[3\]"),
        (lambda: temperature([[np.nan, 0.0]], [0]), "not finite"),
        (lambda: temperature(np.zeros((2, 3)), [0]), "for 2 examples"),
        (lambda: temperature(np.zeros((2, 3)), [0, 3]), "labels 0..3"),
        (lambda: temperature(np.zeros((2, 3)), [-1, 2]), "labels -1..2"),
        (lambda: temperature(np.zeros((2, 3)), [0.0, 1.0]), "labels float64"),
        (lambda: temperature(np.zeros((2, 1)), [0, 0]), "at least 2 classes"),
        (lambda: validation_criteria(np.zeros((4, 2)), [0, 1, 0, 1], [0, 0, 0, 0]), "1 kinds"),
        (lambda: validation_criteria(np.zeros((4, 2)), [0, 1, 0, 1], [0, 1]), r"parts \[2\]"),
        (lambda: validation_criteria(np.zeros((1, 2)), [0]), "1 kinds"),
        (lambda: regret([[1.0]], [[1.0, 2.0]]), r"scores \[1, 1\]"),
        (lambda: regret([1.0], [1.0]), r"scores \[1\]"),
        (lambda: regret([[np.nan, 1.0]], [[1.0, 2.0]]), "NaN"),
        (lambda: regret([[0.0, 1.0]], [[1.0, np.inf]]), "not finite"),
        (lambda: regret([[0.0, 1.0], [-np.inf, -np.inf]], [[1.0, 0.5]] * 2), "draw 1"),
    ],
)
def test_bad_input_is_named_in_two_lines(call, named):
    with pytest.raises(InputError, match=named) as caught:
        call()
    assert len(str(caught.value).splitlines()) <= 2
