"""What criteria choose, and what their choices are worth."""

import itertools

import numpy as np
import pytest

from jaxtl.errors import InputError
from jaxtl.selection import judge_choices, random_search, ranked, regret

TEST = np.array([[0.5, 0.75, 0.7], [0.6, 0.5, 0.75], [0.55, 0.7, 0.75]])  # the last setting is the best fixed one


def test_what_is_not_finite_is_never_chosen_and_a_draw_without_score_leaves_a_criterion_out():
    scores = {
        "some": [[np.nan, 1.0, 2.0], [3.0, np.inf, 1.0], [-np.inf, 0.0, np.nan]],
        "none": [[1.0, 2.0, 3.0], [np.nan, np.nan, -np.inf], [1.0, 2.0, 3.0]],
    }
    found = judge_choices(scores, TEST)
    assert list(found) == ["some"]
    assert found["some"].picked.tolist() == [2, 0, 1]
    assert found["some"].test.tolist() == [0.7, 0.6, 0.7]


def test_scores_that_know_too_much_show_what_there_is_to_win_and_to_lose():
    scores = {"first": np.zeros(3), "best fixed": TEST.mean(axis=0), "best of every draw": TEST}
    found = judge_choices(scores, TEST)
    assert found["first"].picked.tolist() == [0, 0, 0]
    assert found["best fixed"].picked.tolist() == [2, 2, 2]
    assert found["best fixed"].worth.difference == 0.0
    assert found["best of every draw"].test.tolist() == [0.75, 0.75, 0.75]


def test_a_choice_is_worth_minus_its_regret_paired_by_draw():
    scores = np.array([[3.0, 1.0, 2.0], [1.0, 3.0, 2.0], [1.0, 2.0, 3.0]])
    worth = judge_choices({"any": scores}, TEST, "best")["any"].worth
    assert (worth.a, worth.b, worth.n) == ("any", "best", 3)
    assert worth.difference == pytest.approx(-regret(scores, TEST).mean())


def test_a_test_score_that_is_not_finite_is_refused():
    with pytest.raises(InputError, match="not finite"):
        judge_choices({"any": TEST}, np.where(TEST == 0.5, np.nan, TEST))


def by_drawing(scores, worth, tried):
    """The mean over all subsets, and over all orders in which equals may be preferred."""
    found = []
    for subset in itertools.combinations(range(len(scores)), tried):
        best = max(scores[k] for k in subset)
        found.append(np.mean([worth[k] for k in subset if scores[k] == best]))
    return np.mean(found)


@pytest.mark.parametrize("tried", [1, 2, 4, 7])
@pytest.mark.parametrize("levels", [2, 3, 100])
def test_a_search_at_random_is_the_mean_over_all_of_its_subsets(tried, levels):
    rng = np.random.default_rng(levels)
    scores, worth = rng.integers(levels, size=(3, 7)).astype(float), rng.uniform(size=(3, 7))
    scores[0, :2] = -np.inf
    expected = [by_drawing(*one, tried) for one in zip(scores, worth, strict=True)]
    np.testing.assert_allclose(random_search(scores, worth, tried), expected, rtol=1e-12)


def test_a_search_of_all_is_the_choice_and_one_of_one_the_mean():
    rng = np.random.default_rng(0)
    scores, worth = rng.normal(size=(5, 144)), rng.uniform(size=(5, 144))
    np.testing.assert_allclose(random_search(scores, worth, 144), worth[np.arange(5), scores.argmax(axis=1)])
    np.testing.assert_allclose(random_search(scores, worth, 1), worth.mean(axis=1))
    lost = [random_search(scores, scores, tried).mean() for tried in (1, 4, 16, 64, 144)]
    assert lost == sorted(lost)


def test_ranks_go_by_the_first_score_and_of_equals_by_the_next():
    first, then = np.array([[2.0, 1.0, 2.0, -np.inf]]), np.array([[0.0, 9.0, 1.0, 5.0]])
    assert ranked(first, then).tolist() == [[2, 1, 3, 0]]
    assert ranked(first).tolist() == [[2, 1, 2, 0]]


@pytest.mark.parametrize(
    ("scores", "worth", "tried", "says"),
    [
        ([1.0, np.nan], [1.0, 2.0], 1, "scores are NaN"),
        ([1.0, 2.0], [1.0, np.nan], 1, "not finite"),
        ([1.0, 2.0], [1.0], 1, "worth [1]"),
        ([1.0, 2.0], [1.0, 2.0], 3, "3 of 2 settings"),
        ([1.0, 2.0], [1.0, 2.0], 0, "0 of 2 settings"),
        ([], [], 1, "give all"),
    ],
)
def test_a_search_that_cannot_be_is_refused(scores, worth, tried, says):
    with pytest.raises(InputError) as refused:
        random_search(scores, worth, tried)
    assert says in str(refused.value)
