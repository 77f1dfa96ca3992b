"""Average precision is that of COCO's own evaluation, also where scores and overlaps tie and images are empty."""

from __future__ import annotations

import numpy as np
import pytest
from oracles import coco_detections as oracle

from jaxtl.errors import InputError
from jaxtl.protocol.detections import (
    ANY_AREA,
    AP50,
    AREAS,
    MAP,
    average_precision_50,
    average_precisions,
    best_threshold,
    hits,
    mean_average_precision,
    overlaps,
    resampled_precisions,
)


@pytest.fixture(scope="module")
def stored():
    with np.load(oracle.STORED) as archive:
        return dict(archive)


@pytest.mark.parametrize("case", oracle.CASES)
def test_average_precision_is_that_of_pycocotools_at_every_threshold_class_and_size(case, stored):
    truth, found, expected = (stored[f"{case}/{what}"] for what in ("truth", "found", "precision"))
    ranges = [ANY_AREA, *(AREAS[name] for name in oracle.AREA_NAMES[1:])]
    for area, precision in zip(ranges, expected, strict=True):
        np.testing.assert_allclose(average_precisions(truth, found, area), precision, atol=1e-12)
    assert mean_average_precision(truth, found) == pytest.approx(np.nanmean(expected[0]), abs=1e-12)
    assert average_precision_50(truth, found) == pytest.approx(np.nanmean(expected[0][0]), abs=1e-12)
    assert np.nanmean(expected[0]) > 0.02  # or all would be equal for nothing


@pytest.mark.parametrize("case", oracle.CASES)
def test_stored_numbers_are_those_of_pycocotools_here(case, stored):
    pytest.importorskip("pycocotools")
    truth, found = oracle.boxes(case)
    np.testing.assert_array_equal(stored[f"{case}/truth"], truth)
    np.testing.assert_array_equal(stored[f"{case}/found"], found)
    np.testing.assert_allclose(stored[f"{case}/precision"], oracle.evaluated(truth, found), atol=1e-12)


def test_true_boxes_themselves_are_worth_1_and_none_are_worth_0():
    truth, _ = oracle.boxes("loose")
    itself = np.concatenate([truth, np.where(truth[..., 4:] < 0, 0.0, 0.5)], axis=2)
    assert MAP.score(truth, itself) == AP50.score(truth, itself) == 1.0
    nothing = np.full((len(truth), 1, 6), -1.0)
    assert mean_average_precision(truth, nothing) == 0.0
    assert mean_average_precision(truth[:, :0], nothing) == 0.0


def test_what_is_found_besides_costs_where_it_is_surer_only():
    truth = np.array([[[0, 0, 4, 4, 0]]], float)
    right, wrong = [0, 0, 4, 4, 0, 0.5], [10, 10, 14, 14, 0]
    assert mean_average_precision(truth, [[right, [*wrong, 0.4]]]) == 1.0
    assert mean_average_precision(truth, [[right, [*wrong, 0.6]]]) == pytest.approx(0.5)
    assert mean_average_precision(truth, [[right, [*wrong[:4], 1, 0.6]]]) == 1.0  # of a class that is nowhere true


def test_neither_order_of_images_nor_unit_of_length_matters():
    truth, found = oracle.boxes("loose")
    expected = average_precisions(truth, found)
    order = np.random.default_rng(0).permutation(len(truth))
    np.testing.assert_allclose(average_precisions(truth[order], found[order]), expected, atol=1e-12)
    scale = np.array([3, 3, 3, 3, 1, 1.0])
    np.testing.assert_allclose(average_precisions(truth * scale[:5], found * scale), expected, atol=1e-12)


def test_an_overlap_is_symmetric_and_1_of_a_box_with_itself():
    truth, found = (side[0][:8, :4] for side in oracle.boxes("loose"))
    np.testing.assert_array_equal(overlaps(truth, found), overlaps(found, truth).T)
    np.testing.assert_allclose(overlaps(found, found).diagonal(), 1.0)
    assert overlaps([[0, 0, 0, 0]], [[0, 0, 0, 0]]).tolist() == [[0.0]]


@pytest.mark.parametrize(
    ("truth", "found", "message"),
    [
        (np.zeros((1, 2, 4)), np.zeros((1, 2, 6)), "shape"),
        (np.zeros((1, 2, 5)), np.zeros((1, 2, 5)), "shape"),
        (np.zeros((1, 2, 5)), np.zeros((2, 2, 6)), "1 images, found ones of 2"),
        (np.zeros((1, 2, 5)), np.full((1, 2, 6), np.nan), "NaN"),
    ],
)
def test_boxes_that_are_none_are_refused(truth, found, message):
    with pytest.raises(InputError, match=message):
        average_precisions(truth, found)


@pytest.fixture(scope="module")
def scattered():
    """True and found boxes of two classes on a few images, no two scores alike."""
    random = np.random.default_rng(0)
    corner = random.uniform(0, 50, (7, 5, 2))
    truth = np.concatenate([corner, corner + random.uniform(5, 20, (7, 5, 2)), random.integers(-1, 2, (7, 5, 1))], 2)
    found = np.concatenate([truth, random.permutation(35).reshape(7, 5, 1) / 35], axis=2)
    found[..., :4] += random.normal(0, 1.5, (7, 5, 4))
    return truth, found


def test_an_image_that_is_drawn_twice_counts_as_if_it_were_there_twice(scattered):
    truth, found = scattered
    drawn = resampled_precisions(truth, found, 20, seed=3)
    generator = np.random.default_rng(3)
    for rows, values in zip(generator.integers(0, 7, (20, 7)), drawn, strict=True):
        expected = mean_average_precision(truth[rows], found[rows]), average_precision_50(truth[rows], found[rows])
        np.testing.assert_allclose(values, expected, atol=1e-12)
    assert len(np.unique(drawn[:, 0])) > 10


def test_boxes_are_believed_from_the_score_with_the_largest_f1(scattered):
    truth, found = scattered
    parts = [hits(truth, found, label) for label in (0, 1)]
    scores, right = (np.concatenate([part[k] for part in parts]) for k in (0, 1))
    truths = int((truth[..., 4] >= 0).sum())
    assert sum(part[2] for part in parts) == truths
    f1 = {t: 2 * right[scores >= t].sum() / ((scores >= t).sum() + truths) for t in scores}
    assert f1[best_threshold(truth, found, 2)] == max(f1.values())
    assert 0 < right.mean() < 1
    assert best_threshold(truth, np.full((7, 1, 6), -1.0), 2) == 1.0
