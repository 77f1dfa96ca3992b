"""What is found among the first few: loops in Python, and what is refused."""

import numpy as np
import pytest

from jaxtl.errors import InputError
from jaxtl.protocol.retrieval import recall_at


def by_hand(similarity, right, k):
    found = 0
    for row, answers in zip(similarity, right, strict=True):
        order = sorted(range(len(row)), key=lambda n: (-row[n], n))
        found += any(answers[n] for n in order[:k])
    return found / len(similarity)


def test_recall_is_that_of_loops_and_never_falls_with_k():
    random = np.random.default_rng(0)
    similarity = random.integers(0, 5, size=(40, 7)).astype(float)  # many are equal
    right = random.random((40, 7)) < 0.3
    found = [recall_at(similarity, right, k) for k in range(1, 8)]
    assert found == [by_hand(similarity, right, k) for k in range(1, 8)]
    assert found == sorted(found)
    assert found[-1] == np.mean(right.any(axis=1)) < 1, "a query that nothing answers fails"


def test_of_one_right_item_each_the_first_is_accuracy():
    similarity = np.random.default_rng(1).normal(size=(30, 4))
    labels = np.arange(30) % 4
    right = labels[:, None] == np.arange(4)[None]
    assert recall_at(similarity, right, 1) == np.mean(similarity.argmax(axis=1) == labels)


@pytest.mark.parametrize("k", [0, 4])
def test_a_k_out_of_range_and_shapes_that_do_not_fit_are_refused(k):
    with pytest.raises(InputError, match="recall_at"):
        recall_at(np.zeros((2, 3)), np.zeros((2, 3), bool), k)
    with pytest.raises(InputError, match="queries and items"):
        recall_at(np.zeros((2, 3)), np.zeros((3, 2), bool), 1)
