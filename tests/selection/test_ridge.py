import math
from fractions import Fraction

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.stats
from sklearn.datasets import load_diabetes
from sklearn.linear_model import Ridge, RidgeCV

from jaxtl.errors import InputError
from jaxtl.selection import RidgePath, ridge, ridge_path

LAMS = np.array([1e-8, 1e-4, 0.3, 1e4, 1e8])  # beside the mean loss: scikit-learn's alpha is n times that
SHAPES = [(30, 4), (6, 4), (5, 4), (4, 4), (4, 9), (2, 3)]  # more and fewer examples than features, and the border


def problem(n, features, targets=2, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(1.0, 1.0, (n, features))
    return x, x @ rng.normal(size=(features, targets)) + rng.normal(3.0, 1.0, (n, targets))


def assert_paths_agree(first, second, rtol=1e-8):
    for name in RidgePath._fields:
        a, b = getattr(first, name), getattr(second, name)
        if b is not None:
            np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * 1e-3, err_msg=name)


def refit_errors(x, y, alpha, **ridge_options):
    """Leave-one-out errors the long way round: n fits."""
    errors = []
    for i in range(len(x)):
        rest = np.arange(len(x)) != i
        model = Ridge(alpha=alpha, solver="svd", **ridge_options).fit(x[rest], y[rest])
        errors.append(y[i] - model.predict(x[i : i + 1])[0])
    return np.array(errors)


def test_three_examples_by_hand():
    x, y = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), np.array([1.0, 2.0, 2.0])
    alpha = 1.0
    path = ridge_path(x, y, [alpha / 3], fit_intercept=False)
    np.testing.assert_allclose(path.coef[0, :, 0], (0.625, 1.125))
    np.testing.assert_allclose(path.df, [1.25])
    np.testing.assert_allclose(path.loo[0], [np.mean(np.square((0.6, 1.4, 0.5)))])
    np.testing.assert_allclose(path.gcv, [0.948980], rtol=1e-6)
    np.testing.assert_allclose(path.aic, [3 * np.log(0.96875 / 3) + 2 * 1.25])
    near = ridge_path(x, y, (alpha + np.array([-1e-5, 1e-5])) / 3, fit_intercept=False).coef[..., 0]
    np.testing.assert_allclose((near[1] - near[0]) / 2e-5, (-0.09375, -0.34375), rtol=1e-6)


def test_diabetes_by_published_numbers():
    x, y = load_diabetes(return_X_y=True)
    path = ridge_path(x, y, [0.1 / len(x)])
    found = [path.df, path.loo[:, 0], path.gcv, path.aic, path.bic, path.aicc]
    wanted = [8.641725, 3004.616621, 3006.879381, 3539.65567, 3575.01165, 3540.041100]
    np.testing.assert_allclose(np.concatenate(found), wanted, rtol=1e-8, atol=5e-7)


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize(("n", "features"), SHAPES)
def test_agrees_with_refitting_and_with_the_hat_matrix(n, features, intercept):
    x, y = problem(n, features)
    path = ridge_path(x, y, LAMS, fit_intercept=intercept)
    assert path.coef.shape == (len(LAMS), features, 2)
    assert path.coef.dtype == np.float64
    for i, alpha in enumerate(n * LAMS):
        model = Ridge(alpha=alpha, fit_intercept=intercept, solver="svd").fit(x, y)
        np.testing.assert_allclose(path.coef[i], model.coef_.T, rtol=1e-6, atol=1e-12)
        np.testing.assert_allclose(path.intercept[i], model.intercept_ * np.ones(2), rtol=1e-6)
        refit = refit_errors(x, y, alpha, fit_intercept=intercept)
        np.testing.assert_allclose(path.loo[i], np.square(refit).mean(axis=0), rtol=1e-5)
        centred = x - x.mean(axis=0) if intercept else x
        hat = centred @ np.linalg.solve(centred.T @ centred + alpha * np.eye(features), centred.T) + intercept / n
        np.testing.assert_allclose(path.df[i], np.trace(hat), rtol=1e-5)
        if n - np.trace(hat) > 1e-3:
            rss, df = np.square(y - model.predict(x)).sum(axis=0), np.trace(hat)
            np.testing.assert_allclose(path.gcv[i], (n * rss / (n - df) ** 2).sum(), rtol=1e-4)
            np.testing.assert_allclose(path.aic[i], (n * np.log(rss / n) + 2 * df).sum(), rtol=1e-4)
            np.testing.assert_allclose(path.bic[i], (n * np.log(rss / n) + np.log(n) * df).sum(), rtol=1e-4)


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize(("n", "features"), [(12, 3), (6, 9)])
def test_evidence_is_the_largest_density_of_the_targets(n, features, intercept):
    x, y = problem(n, features)
    lam = 0.05
    contrasts = scipy.linalg.helmert(n) if intercept else np.eye(n)  # what an intercept cannot explain
    covariance = contrasts @ (np.eye(n) + x @ x.T / (n * lam)) @ contrasts.T
    best = 0.0
    for target in (contrasts @ y).T:
        scale = target @ np.linalg.solve(covariance, target) / len(target)
        densities = [
            scipy.stats.multivariate_normal(np.zeros(len(target)), factor * scale * covariance).logpdf(target)
            for factor in (0.9, 1.0, 1.1)
        ]
        assert densities[1] == max(densities)
        best += densities[1]
    np.testing.assert_allclose(ridge_path(x, y, [lam], fit_intercept=intercept).log_evidence, [best])


def exact_solve(a, b):
    """Gauss-Jordan in fractions; positive definite, so every pivot is there."""
    rows = [[*line, value] for line, value in zip(a, b, strict=True)]
    for i in range(len(rows)):
        rows[i] = [entry / rows[i][i] for entry in rows[i]]
        for j in range(len(rows)):
            if j != i:
                rows[j] = [u - rows[j][i] * v for u, v in zip(rows[j], rows[i], strict=True)]
    return [line[-1] for line in rows]


def exact_ridge(x, y, alpha):
    """The coefficients without an intercept, as fractions."""
    gram = [
        [sum(row[i] * row[j] for row in x) + (alpha if i == j else 0) for j in range(len(x[0]))]
        for i in range(len(x[0]))
    ]
    return exact_solve(gram, [sum(row[i] * value for row, value in zip(x, y, strict=True)) for i in range(len(x[0]))])


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("lam", [1e-15, 1e-8, 1e-2, 1e8])
def test_ill_conditioned_features_against_exact_arithmetic(transposed, lam):
    # A Hilbert matrix, singular values down to 1e-5 of the largest; at the smallest λ a Gram matrix has lost the last.
    x = np.array([[1 / (i + j + 1) for j in range(5)] for i in range(8)])
    x = x.T if transposed else x
    y = np.arange(1.0, len(x) + 1) ** 2 % 7
    path = ridge_path(x, y, [lam, 1.0], fit_intercept=False)
    fractions = [[Fraction(float(v)) for v in row] for row in x]
    targets, alpha = [Fraction(v) for v in y.tolist()], Fraction(lam * len(x))
    coef = exact_ridge(fractions, targets, alpha)
    np.testing.assert_allclose(path.coef[0, :, 0], [float(c) for c in coef], rtol=5e-8)
    errors = []
    for i in range(len(x)):
        without = exact_ridge(fractions[:i] + fractions[i + 1 :], targets[:i] + targets[i + 1 :], alpha)
        errors.append(targets[i] - sum(v * c for v, c in zip(fractions[i], without, strict=True)))
    np.testing.assert_allclose(path.loo[0, 0], float(sum(e * e for e in errors) / len(x)), rtol=1e-6)


def logarithm(fraction):
    """Of numbers that are too small or too large for a float."""
    return math.log(fraction.numerator) - math.log(fraction.denominator)


def exact_criteria(x, y, alpha, intercept):
    """Every criterion of one target from the hat matrix in fractions; the coefficients as well."""
    n = len(x)
    mean = [sum(column) / n if intercept else Fraction(0) for column in zip(*x, strict=True)]
    x = [[v - m for v, m in zip(row, mean, strict=True)] for row in x]
    y = [v - (sum(y) / n if intercept else 0) for v in y]
    gram = [[sum(a * b for a, b in zip(u, v, strict=True)) for v in x] for u in x]
    system = [[g + (alpha if i == j else 0) for j, g in enumerate(row)] for i, row in enumerate(gram)]
    units = [[Fraction(int(i == j)) for j in range(n)] for i in range(n)]
    remains = [[alpha * v for v in exact_solve(system, unit)] for unit in units]  # the residual is this times y
    residual = [sum(a * b for a, b in zip(row, y, strict=True)) for row in remains]
    spare = [remains[i][i] - (Fraction(1, n) if intercept else 0) for i in range(n)]
    rss, left, rows = sum(r * r for r in residual), sum(spare), n - intercept
    coef = [sum(row[d] * r for row, r in zip(x, residual, strict=True)) / alpha for d in range(len(x[0]))]
    determinant, pivots = 0.0, [[v / alpha for v in row] for row in system]
    while pivots:
        first, *others = pivots
        determinant += logarithm(first[0])
        pivots = [[v - row[0] / first[0] * w for v, w in zip(row[1:], first[1:], strict=True)] for row in others]
    df, likelihood = float(n - left), n * logarithm(rss / n)
    variance = logarithm((rss + alpha * sum(c * c for c in coef)) / rows) + math.log(2 * math.pi)
    return {
        "coef": [[float(c)] for c in coef],
        "df": df,
        "loo": [float(sum((r / s) ** 2 for r, s in zip(residual, spare, strict=True)) / n)],
        "gcv": float(n * rss / left**2),
        "aic": likelihood + 2 * df,
        "aicc": likelihood + 2 * df + (float(2 * (n - left) * (n - left + 1) / (left - 1)) if left > 1 else np.inf),
        "bic": likelihood + math.log(n) * df,
        "log_evidence": -0.5 * (rows * (variance + 1) + determinant),
    }


EXTREMES = [1e-150, 1e-40, 1e-20, 1e-16, 1e-9, 1e3, 1e40, 1e150]
ODD = {
    "plain": lambda x: x,
    "a row twice": lambda x: np.concatenate([x[:1], x[:-1]]),
    "a column twice": lambda x: np.concatenate([x[:, :1], x[:, :-1]], axis=1),
    "a constant column": lambda x: np.concatenate([np.full((len(x), 1), 7.0), x[:, 1:]], axis=1),
}


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("kind", ODD)
def test_every_criterion_at_any_rate_is_that_of_exact_arithmetic(kind, intercept):
    """However many examples: what is left of n - df, 1 - leverage and the residual is never lost in a difference."""
    for n, features in ((6, 3), (5, 4), (4, 4), (4, 3), (4, 7), (2, 3)):
        x = ODD[kind](np.round(4 * problem(n, features, seed=n)[0]) / 4)
        y = np.arange(1.0, n + 1) ** 2 % 7
        path = ridge_path(x, y, EXTREMES, fit_intercept=intercept)
        rows, targets = [[Fraction(v) for v in row] for row in x.tolist()], [Fraction(v) for v in y.tolist()]
        for i, lam in enumerate(EXTREMES):
            for name, exact in exact_criteria(rows, targets, Fraction(lam) * n, intercept).items():
                found, where = getattr(path, name)[i], f"{name}, {n} examples, {features} features, λ = {lam}"
                size = float(np.max(np.abs(exact))) if np.all(np.isfinite(exact)) else 0.0
                np.testing.assert_allclose(found, exact, rtol=1e-6, atol=1e-9 * size, err_msg=where)


@pytest.mark.parametrize(("n", "features"), [(40, 6), (6, 40)])
def test_gram_matrix_and_singular_values_agree_where_both_are_right(n, features, monkeypatch):
    x, y = problem(n, features)
    by_gram = ridge_path(x, y, [1e-3, 1.0])
    monkeypatch.setattr(ridge, "GRAM_RESOLUTION", np.inf)
    assert_paths_agree(ridge_path(x, y, [1e-3, 1.0]), by_gram)


@pytest.mark.parametrize("chunk", [1, 60, 230])
@pytest.mark.parametrize(("n", "features"), [(40, 6), (6, 40)])
def test_any_chunking_gives_the_same_path(n, features, chunk, monkeypatch):
    x, y = problem(n, features)
    labels = np.arange(n) % 3
    whole, classified = ridge_path(x, y, LAMS), ridge_path(x, labels, LAMS, classes=3)
    monkeypatch.setattr(ridge, "CHUNK", chunk)
    assert_paths_agree(ridge_path(x, y, LAMS), whole)
    assert_paths_agree(ridge_path(x, labels, LAMS, classes=3), classified)


def test_a_hundred_rates_agree_with_ridge_cv_and_choose_the_same():
    x, y = problem(200, 12, targets=3)
    y += np.random.default_rng(1).normal(0, 5, y.shape)
    alphas = np.logspace(-4, 6, 100)
    model = RidgeCV(alphas=alphas, store_cv_results=True).fit(x, y)
    path = ridge_path(x, y, alphas[::-1] / len(x))
    np.testing.assert_allclose(path.loo[::-1], model.cv_results_.mean(axis=0).T, rtol=1e-9)
    assert alphas[::-1][path.loo.mean(axis=1).argmin()] == model.alpha_


@pytest.mark.parametrize(("n", "features"), [(30, 5), (5, 8)])
def test_anchor_is_ridge_on_what_it_leaves_over(n, features):
    x, y = problem(n, features)
    anchor = np.random.default_rng(5).normal(size=(features, 2))
    path, plain = ridge_path(x, y, LAMS, anchor), ridge_path(x, y - x @ anchor, LAMS)
    assert_paths_agree(path._replace(coef=path.coef - anchor), plain)
    np.testing.assert_allclose(path.coef[-1], anchor, atol=1e-6)
    one = ridge_path(x, y[:, 0], LAMS, anchor[:, 0])
    np.testing.assert_allclose(one.coef[..., 0], path.coef[..., 0], rtol=1e-9)


@pytest.mark.parametrize(("n", "features"), [(30, 5), (5, 8)])
def test_weights_multiply_the_rate_of_a_feature(n, features):
    x, y = problem(n, features)
    weights, anchor = np.logspace(-2, 2, features), np.ones((features, 2))
    path = ridge_path(x, y, [0.2], anchor, penalty_weights=weights)
    centred, wanted = x - x.mean(axis=0), y - y.mean(axis=0)
    system = centred.T @ centred / n + 0.2 * np.diag(weights)
    coef = np.linalg.solve(system, centred.T @ wanted / n + 0.2 * weights[:, None] * anchor)
    np.testing.assert_allclose(path.coef[0], coef, rtol=1e-8)
    np.testing.assert_allclose(path.df[0], 1 + np.trace(np.linalg.solve(system, centred.T @ centred / n)), rtol=1e-8)
    same = ridge_path(x, y, [0.2], penalty_weights=np.full(features, 3.0))
    assert_paths_agree(same, ridge_path(x, y, [0.6]))


def test_a_feature_almost_without_weight_is_almost_not_penalised():
    x, y = problem(30, 3, targets=1)
    path = ridge_path(x, y, [1e3], penalty_weights=[1e-12, 1.0, 1.0])
    slope = np.polyfit(x[:, 0], y[:, 0], 1)[0]
    np.testing.assert_allclose(path.coef[0, 0, 0], slope, rtol=1e-2)
    assert 1.99 < path.df[0] < 2.1


@pytest.mark.parametrize(("n", "features"), [(30, 3), (4, 3), (3, 3)])
def test_constant_and_repeated_columns(n, features):
    x, y = problem(n, features)
    more = np.concatenate([x, np.full((n, 1), 7.0), x[:, :1]], axis=1)
    path = ridge_path(more, y, LAMS)
    assert np.all(np.abs(path.coef[:, features]) < 1e-7)
    np.testing.assert_allclose(path.coef[:, 0], path.coef[:, -1], rtol=1e-5, atol=1e-9)
    for i, lam in enumerate(LAMS):
        refit = refit_errors(more, y, n * lam)
        np.testing.assert_allclose(path.loo[i], np.square(refit).mean(axis=0), rtol=1e-5)


def test_an_example_of_its_own_kind_is_predicted_from_the_others():
    x, y = problem(20, 3)
    x = np.concatenate([x, np.eye(20)[:, :1]], axis=1)  # only the first example has the last feature
    path = ridge_path(x, y, [1e-8, 1e-6])
    for i, lam in enumerate((1e-8, 1e-6)):
        refit = refit_errors(x, y, 20 * lam)
        np.testing.assert_allclose(path.loo[i], np.square(refit).mean(axis=0), rtol=1e-5)


@pytest.mark.parametrize(("n", "features"), [(40, 5), (12, 30)])
def test_leave_one_out_accuracy_of_a_classifier(n, features):
    rng = np.random.default_rng(3)
    labels = np.arange(n) % 3
    x = rng.normal(0, 1.5, (n, features)) + np.eye(3, features)[labels] * 2
    anchor = rng.normal(0, 0.2, (features, 3))
    path, codes = ridge_path(x, labels, LAMS, anchor, classes=3), np.eye(3)[labels]
    for i, lam in enumerate(LAMS):
        left_out = codes - refit_errors(x, codes - x @ anchor, n * lam)
        assert path.loo_accuracy[i] == np.mean(left_out.argmax(axis=1) == labels)
    assert len(set(path.loo_accuracy)) > 1
    assert_paths_agree(path._replace(loo_accuracy=None), ridge_path(x, codes, LAMS, anchor))


def test_integer_and_half_precision_features_and_no_trace_of_x64():
    x, y = problem(10, 3)
    assert_paths_agree(ridge_path(x.round().astype(int), y, LAMS), ridge_path(x.round(), y, LAMS))
    small = x.astype(np.float16)
    assert_paths_agree(ridge_path(small, y, LAMS), ridge_path(small.astype(float), y, LAMS))
    single = x.astype(np.float32)
    assert_paths_agree(ridge_path(jnp.asarray(single), y, LAMS), ridge_path(single.astype(float), y, LAMS))
    assert jnp.asarray(1.0 + np.zeros(1)).dtype == jnp.float32


GOOD = {"x": np.ones((4, 2)) * np.arange(4)[:, None], "y": np.arange(4.0), "lams": [0.1]}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"x": np.zeros((0, 2))}, "features"),
        ({"x": np.zeros((1, 2)), "y": [1.0]}, "at least 2 examples"),
        ({"x": np.zeros((4, 0))}, "features"),
        ({"x": np.zeros(4)}, "features"),
        ({"x": np.full((4, 2), np.nan)}, "example 0"),
        ({"x": np.array([["a", "b"]] * 4)}, "features"),
        ({"y": np.arange(3.0)}, "for 4 examples"),
        ({"y": [0.0, 1.0, np.inf, 2.0]}, "not finite"),
        ({"y": np.ones(4)}, "target 0"),
        ({"y": np.zeros(4), "fit_intercept": False}, "target 0"),
        ({"y": np.array(["a"] * 4)}, "targets"),
        ({"lams": []}, "lams"),
        ({"lams": [0.1, 0.0]}, "smallest 0.0"),
        ({"lams": [0.1, -1.0]}, "smallest -1.0"),
        ({"lams": [np.nan]}, "lams"),
        ({"lams": 0.1}, "lams"),
        ({"anchor": np.ones(3)}, "anchor"),
        ({"anchor": [np.nan, 1.0]}, "anchor"),
        ({"penalty_weights": [1.0, 0.0]}, "penalty_weights"),
        ({"penalty_weights": [1.0]}, "penalty_weights"),
        ({"y": [0, 1, 2, 2], "classes": 2}, "labels 0..2"),
        ({"y": [0, 1, -1, 1], "classes": 2}, "labels -1..1"),
        ({"y": [0, 0, 1, 1], "classes": 3}, "class 2"),
        ({"y": [0, 0, 0, 0], "classes": 1}, "at least 2 classes"),
        ({"y": [0.0, 1.0, 1.0, 0.0], "classes": 2}, "labels float64"),
        ({"y": [0, 1], "classes": 2}, "for 4 examples"),
    ],
)
def test_bad_input_is_named_in_two_lines(change, named):
    ridge_path(**GOOD)
    with pytest.raises(InputError, match=named) as caught:
        ridge_path(**{**GOOD, **change})
    assert len(str(caught.value).splitlines()) <= 2


@pytest.mark.parametrize("n", [6, 40])  # fewer examples than features, and more
def test_some_examples_judge_for_all_and_coefficients_are_of_all(n):
    x, y = problem(n, 8, targets=1)
    path, whole = ridge_path(x, y, [0.3], judged=5), ridge_path(x, y, [0.3])
    some = ridge._by_lot(n, 5)
    assert len(set(some)) == 5
    np.testing.assert_allclose(path.loo[0], np.mean(refit_errors(x, y[:, 0], 0.3 * n)[some] ** 2), rtol=1e-8)
    np.testing.assert_array_equal(path.coef, whole.coef)
    np.testing.assert_array_equal(path.df, whole.df)
    assert_paths_agree(ridge_path(x, y, [0.3], judged=n), whole, 0)
    labels = np.arange(n) % 3
    one = ridge_path(x, labels, LAMS, classes=3, judged=1)
    assert set(one.loo_accuracy) <= {0.0, 1.0}
    with pytest.raises(InputError, match="0 examples to judge by"):
        ridge_path(x, y, [0.3], judged=0)
