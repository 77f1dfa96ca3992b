"""What criteria choose, and what their choices are worth."""

import numpy as np
import pytest

from jaxtl.errors import InputError
from jaxtl.selection import judge_choices, regret

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
