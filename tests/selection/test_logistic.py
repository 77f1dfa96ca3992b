import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from jaxtl.data import stratified_folds
from jaxtl.errors import InputError
from jaxtl.selection import logistic, logistic_criteria, logistic_path

LAMS = [1e-6, 10.0, 1e-2, 1e-4]  # not sorted: the path keeps the order that it is given
DIGITS = load_digits()


def digits(n, classes=10):
    chosen = np.flatnonzero(DIGITS.target < classes)[:n]
    return DIGITS.data[chosen] / 16, DIGITS.target[chosen]


def log_softmax(logits):
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def cross_entropy(x, labels, coef, intercept):
    return -log_softmax(x @ coef + intercept)[np.arange(len(x)), labels].mean()


def objective(x, labels, coef, intercept, lam, anchor=0.0):
    return cross_entropy(x, labels, coef, intercept) + 0.5 * lam * np.square(coef - anchor).sum()


def sklearn_fit(x, labels, lam):
    """Coefficients [D, C] and intercepts [C]; two classes are one column there, so it is split in two halves here."""
    binary = len(set(labels.tolist())) == 2
    options = {"C": (2 if binary else 1) / (len(x) * lam), "max_iter": 100_000, "tol": 1e-7}
    model = LogisticRegression(solver="newton-cg" if lam < 1e-5 else "lbfgs", **options).fit(x, labels)
    coef, intercept = model.coef_.T, model.intercept_
    return (coef * [-0.5, 0.5], intercept * [-0.5, 0.5]) if binary else (coef, intercept)


@pytest.fixture(scope="module")
def small():
    """40 digits of three kinds, which a plane separates: at small λ nearly all probabilities are 0 or 1."""
    x, labels = digits(40, classes=3)
    return x, labels, logistic_path(x, labels, LAMS, folds=4)


@pytest.mark.parametrize(("n", "classes"), [(40, 3), (300, 2), (150, 5)])
def test_optimum_of_every_rate_is_that_of_scikit_learn(n, classes):
    x, labels = digits(n, classes)
    path = logistic_path(x, labels, LAMS, folds=2)
    assert path.coef.shape == (len(LAMS), 64, classes)
    for i, lam in enumerate(LAMS):
        ours = objective(x, labels, path.coef[i], path.intercept[i], lam)
        theirs = objective(x, labels, *sklearn_fit(x, labels, lam), lam)
        assert abs(ours - theirs) < 1e-5
        np.testing.assert_allclose(
            path.loss[i], cross_entropy(x, labels, path.coef[i], path.intercept[i]), rtol=1e-3, atol=1e-6
        )
    assert path.converged[1:].all()  # the first, where nothing is wrong and little is gained, may take all its steps


def test_folds_are_fitted_without_themselves(small):
    x, labels, path = small
    for fold, (rest, left_out) in enumerate(stratified_folds(labels, 4, seed=0)):
        # A left-out example feels what the objective hardly does, the more the smaller λ.
        for i, lam, rtol in ((1, 10.0, 1e-3), (2, 1e-2, 1e-2), (3, 1e-4, 0.1)):
            coef, intercept = sklearn_fit(x[rest], labels[rest], lam)
            wanted = cross_entropy(x[left_out], labels[left_out], coef, intercept)
            np.testing.assert_allclose(path.fold_loss[i, fold], wanted, rtol=rtol)
            right = (x[left_out] @ coef + intercept).argmax(axis=1) == labels[left_out]
            assert path.fold_accuracy[i, fold] == np.float32(right.mean())


def test_another_seed_deals_other_folds_and_fits_the_same(small):
    x, labels, path = small
    other = logistic_path(x, labels, LAMS, folds=4, seed=1)
    assert not np.allclose(other.fold_loss, path.fold_loss, rtol=1e-2)
    np.testing.assert_allclose(other.loss[1:], path.loss[1:], rtol=1e-2)


@pytest.mark.parametrize(("n", "features"), [(60, 5), (12, 30)])
def test_anchor(n, features):
    rng = np.random.default_rng(0)
    x, labels = rng.normal(1, 1, (n, features)), np.arange(n) % 3
    anchor = rng.normal(size=(features, 3))
    path = logistic_path(x, labels, [1e-2, 1e7], 2, anchor)
    np.testing.assert_allclose(path.coef[1], anchor, atol=1e-6)
    # The gradient of the objective at the optimum, in plain NumPy.
    surprise = (np.exp(log_softmax(x @ path.coef[0] + path.intercept[0])) - np.eye(3)[labels]) / n
    np.testing.assert_allclose(x.T @ surprise + 1e-2 * (path.coef[0] - anchor), 0, atol=2e-4)
    np.testing.assert_allclose(surprise.sum(axis=0), 0, atol=2e-4)


def test_intercept_is_not_penalised():
    x, labels = digits(100, 3)
    labels = np.sort(labels)[::-1].copy()
    labels[10:60] = 0
    path = logistic_path(x, labels, [1e6], 2)
    frequencies = np.bincount(labels) / 100
    np.testing.assert_allclose(np.exp(log_softmax(path.intercept))[0], frequencies, atol=1e-3)
    np.testing.assert_allclose(path.loss, [-(frequencies * np.log(frequencies)).sum()], rtol=1e-5)


def full_hessian(x, probabilities):
    """[(D + 1) C, (D + 1) C] of the summed loss, one example after another; intercepts first."""
    total = 0.0
    for row, p in zip(np.concatenate([np.ones((len(x), 1)), x], axis=1), probabilities, strict=True):
        total = total + np.kron(np.outer(row, row), np.diag(p) - np.outer(p, p))
    return total


@pytest.mark.parametrize(("n", "features"), [(40, 3), (9, 12)])
def test_degrees_of_freedom_are_those_of_the_whole_hessian(n, features):
    rng = np.random.default_rng(0)
    x, labels = rng.normal(2, 1, (n, features)), np.arange(n) % 3
    lams = [0.3, 1e-3]
    path = logistic_path(x, labels, lams, 2)
    criteria = logistic_criteria(x, labels, lams, path)
    for i, lam in enumerate(lams):
        logits = x @ path.coef[i] + path.intercept[i]
        hessian = full_hessian(x, np.exp(log_softmax(logits)))
        penalty = n * lam * np.repeat(np.r_[0.0, np.ones(features)], 3)
        df = np.trace(np.linalg.pinv(hessian + np.diag(penalty), rcond=1e-12) @ hessian)
        np.testing.assert_allclose(criteria.df[i], df, rtol=1e-6)
        twice = 2 * n * cross_entropy(x, labels, path.coef[i], path.intercept[i])
        np.testing.assert_allclose(criteria.aic[i], twice + 2 * df, rtol=1e-6)
        np.testing.assert_allclose(criteria.bic[i], twice + np.log(n) * df, rtol=1e-6)
    assert 2 < criteria.df[0] < criteria.df[1] < 2 * (min(n - 1, features) + 1)


@pytest.mark.parametrize(("n", "features"), [(45, 4), (12, 15)])
def test_leave_one_out_is_one_newton_step_of_the_others(n, features):
    rng = np.random.default_rng(1)
    labels = np.arange(n) % 3
    x = rng.normal(0, 1, (n, features)) + 1.5 * np.eye(3, features)[labels]
    lams = [1.0, 0.1, 0.01]
    path = logistic_path(x, labels, lams, 3)
    criteria = logistic_criteria(x, labels, lams, path)
    for i, lam in enumerate(lams):
        weights, penalty = np.r_[path.intercept[i][None], path.coef[i]], n * lam * np.r_[0.0, np.ones(features)]
        rows = np.concatenate([np.ones((n, 1)), x], axis=1)
        losses, right = [], []
        for j in range(n):
            rest = np.arange(n) != j
            chances = np.exp(log_softmax(rows[rest] @ weights))
            gradient = rows[rest].T @ (chances - np.eye(3)[labels[rest]]) + penalty[:, None] * weights
            hessian = full_hessian(x[rest], chances) + np.diag(np.repeat(penalty, 3))
            moved = weights - (np.linalg.pinv(hessian, rcond=1e-12) @ gradient.ravel()).reshape(weights.shape)
            losses.append(-log_softmax(rows[j : j + 1] @ moved)[0, labels[j]])
            right.append((rows[j] @ moved).argmax() == labels[j])
        np.testing.assert_allclose(criteria.loo_loss[i], np.mean(losses), rtol=2e-3)
        assert criteria.loo_accuracy[i] == np.mean(right)


def test_leave_one_out_is_close_to_refitting():
    rng = np.random.default_rng(1)
    labels = np.arange(45) % 3
    x = rng.normal(0, 1, (45, 4)) + 1.5 * np.eye(3, 4)[labels]
    lams = [1.0, 0.1]
    criteria = logistic_criteria(x, labels, lams, logistic_path(x, labels, lams, 3))
    for i, lam in enumerate(lams):
        losses = []
        for j in range(45):
            rest = np.arange(45) != j
            coef, intercept = sklearn_fit(x[rest], labels[rest], lam * 45 / 44)  # the summed penalty stays
            losses.append(cross_entropy(x[j : j + 1], labels[j : j + 1], coef, intercept))
        np.testing.assert_allclose(criteria.loo_loss[i], np.mean(losses), rtol=0.01)


def test_constant_and_repeated_features_change_little():
    x, labels = digits(60, 3)
    x = x + 0.0
    more = np.concatenate([x, np.full((60, 2), 3.0), x], axis=1)
    alone, repeated = logistic_path(x, labels, [2e-3], 3), logistic_path(more, labels, [4e-3], 3)
    # Two equal columns share a coefficient, which halves what it costs.
    np.testing.assert_allclose(repeated.coef[0, :64], repeated.coef[0, 66:], atol=1e-6)
    np.testing.assert_allclose(2 * repeated.coef[0, :64], alone.coef[0], atol=1e-3)
    assert np.all(np.abs(repeated.coef[0, 64:66]) < 1e-6)
    np.testing.assert_allclose(repeated.fold_loss, alone.fold_loss, rtol=1e-3)


@pytest.mark.parametrize("kind", ["plain", "a column twice", "a constant column", "fewer examples than features"])
def test_no_rate_is_too_small_or_too_large(kind):
    """Rates that float32 cannot hold neither spoil the others of a path nor end differently from their neighbours."""
    random, labels = np.random.default_rng(0), np.arange(24) % 3
    x = random.normal(size=(24, 30 if "fewer" in kind else 2)) + 0.3 * np.eye(3, 30 if "fewer" in kind else 2)[labels]
    if kind == "a column twice":
        x = np.concatenate([x, x[:, :1]], axis=1)
    if kind == "a constant column":
        x = np.concatenate([x, np.full((24, 1), 7.0)], axis=1)
    lams = [1e-300, 1e-60, 1e-30, 0.1, 1e30, 1e60, 1e300]
    path = logistic_path(x, labels, lams, folds=3)
    alone = logistic_path(x, labels, [0.1], folds=3)
    assert all(np.isfinite(values).all() for values in path)
    np.testing.assert_allclose(path.loss[3], alone.loss[0], atol=1e-5)
    np.testing.assert_allclose(path.loss[4:], np.log(3), rtol=1e-5)
    np.testing.assert_allclose(path.loss[:2], path.loss[2], atol=1e-5)
    found = logistic_criteria(x, labels, lams, path)
    reached = min(np.linalg.matrix_rank(x - x.mean(axis=0)), 23)
    np.testing.assert_allclose(found.df[:3], 2 * (reached + 1), rtol=1e-6)
    np.testing.assert_allclose(found.df[4:], 2, rtol=1e-6)


def test_features_of_very_different_size():
    x, labels = digits(100, 3)
    scale = np.logspace(-3, 3, 64)
    path = logistic_path(x * scale, labels, [1e-3], 2)
    ours = objective(x * scale, labels, path.coef[0], path.intercept[0], 1e-3)
    surprise = np.exp(log_softmax((x * scale) @ path.coef[0] + path.intercept[0])) - np.eye(3)[labels]
    gradient = (x * scale).T @ surprise / 100 + 1e-3 * path.coef[0]
    assert np.square(gradient).sum() / (2 * 1e-3) < 1e-5  # strong convexity bounds what is left to gain
    assert ours < np.log(3)


def test_arrays_of_jax_and_single_precision(small):
    x, labels, path = small
    same = logistic_path(jnp.asarray(x, jnp.float32), jnp.asarray(labels), LAMS, folds=4)
    np.testing.assert_allclose(same.fold_loss[1:], path.fold_loss[1:], rtol=1e-4)


def test_what_did_not_converge_says_so(small, monkeypatch):
    x, labels, _ = small
    monkeypatch.setattr(logistic, "MOST_STEPS", 20)
    path = logistic_path(x[:-1], labels[:-1], [10.0, 1e-6], folds=4)  # another shape: compiled anew
    assert path.converged.tolist() == [True, False]
    assert path.steps[1] == 20


GOOD = {"x": np.eye(6) + np.arange(6.0), "labels": [0, 1, 0, 1, 0, 1], "lams": [0.1], "folds": 3}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"x": np.zeros((0, 2))}, "features"),
        ({"x": np.zeros(6)}, "features"),
        ({"x": np.full((6, 2), np.inf)}, "example 0"),
        ({"labels": [0, 1, 0, 1, 0]}, "for 6 examples"),
        ({"labels": [0.0, 1.0, 0.0, 1.0, 0.0, 1.0]}, "labels float64"),
        ({"labels": [0, 2, 0, 2, 0, 2]}, "class 1"),
        ({"labels": [0, 0, 0, 0, 0, 0]}, "at least 2 classes"),
        ({"labels": [0, -1, 0, 1, 0, 1]}, "labels -1..1"),
        ({"lams": []}, "lams"),
        ({"lams": [0.0]}, "lams"),
        ({"folds": 1}, "folds"),
        ({"folds": 4}, "3 examples for 4 folds"),
        ({"folds": 2.5}, "folds"),
        ({"anchor": np.zeros((6, 3))}, "anchor"),
    ],
)
def test_bad_input_is_named_in_two_lines(change, named):
    with pytest.raises(InputError, match=named) as caught:
        logistic_path(**{**GOOD, **change})
    assert len(str(caught.value).splitlines()) <= 2


def test_criteria_refuse_what_does_not_belong_to_the_path(small, monkeypatch):
    x, labels, path = small
    with pytest.raises(InputError, match="a path of 4 rates"):
        logistic_criteria(x, labels, [0.1], path)
    with pytest.raises(InputError, match="64 features"):
        logistic_criteria(x[:, 1:], labels, LAMS, path)
    with pytest.raises(InputError, match="3 classes"):
        logistic_criteria(x, labels + 1, LAMS, path)
    monkeypatch.setattr(logistic, "LARGEST_HESSIAN", 81)
    with pytest.raises(InputError, match="82 rows"):
        logistic_criteria(x, labels, LAMS, path)


def test_logits_that_no_memory_holds_are_refused_in_two_lines(monkeypatch):
    x, labels = np.zeros((40, 2)) + np.arange(40)[:, None], np.arange(40) % 4
    monkeypatch.setattr("jaxtl.bounds.memory", lambda: 4 * 5 * 40 * 4 * 6 - 1.0)
    with pytest.raises(InputError, match="40 examples and 4 classes under 6 fits, 5 times, take"):
        logistic_path(x, labels, [1.0])
    logistic_path(x, labels, [1.0], folds=4)
