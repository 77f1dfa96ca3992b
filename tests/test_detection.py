"""Boxes as points, against the same written with loops in NumPy, finite differences, and boxes that come back."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl import detection
from jaxtl.detection import GEOMETRY, cells_of, centre_focal_loss, detection_loss, gaussian_radius
from jaxtl.errors import InputError
from jaxtl.protocol.detections import mean_average_precision, overlaps

SHAPE, STRIDE, CLASSES = (6, 9), 4, 3

heat_maps = jax.jit(detection.heat_maps, static_argnums=(2, 3, 4))
geometry_losses = jax.jit(detection.geometry_losses, static_argnums=3)
decoded = jax.jit(detection.decoded, static_argnums=(1, 2))


def drawn(seed=0, images=2, most=5):
    """Boxes within 24x36 pixels, the last row of each image without one."""
    random = np.random.default_rng(seed)
    low = random.uniform(0, [30, 18], (images, most, 2))
    boxes = np.concatenate([low, low + random.uniform(2, 12, (images, most, 2))], axis=2).astype(np.float32)
    labels = random.integers(0, CLASSES, (images, most))
    labels[:, -1], boxes[:, -1] = -1, 0.0
    return jnp.asarray(boxes), jnp.asarray(labels)


def said_at_random(seed=0, images=2):
    random = np.random.default_rng(seed)
    return jnp.asarray(random.normal(size=(images, *SHAPE, CLASSES + GEOMETRY)).astype(np.float32))


@pytest.mark.parametrize("overlap", [0.3, 0.5, 0.7, 0.9])
@pytest.mark.parametrize("size", [(10.0, 10.0), (3.0, 20.0), (40.0, 7.0)])
def test_corners_that_move_by_the_radius_leave_the_overlap_and_further_ones_do_not(size, overlap):
    width, height = size

    def worst(r):
        box, moves = np.array([0, 0, width, height]), np.array([-r, 0, r])
        grid = np.stack(np.meshgrid(*[moves] * 4), axis=-1).reshape(-1, 4)
        return overlaps([box], box + grid).min()

    radius = float(gaussian_radius(np.float32(width), np.float32(height), overlap))
    assert worst(radius) == pytest.approx(overlap, abs=1e-5)
    assert worst(1.05 * radius) < overlap - 1e-4


def test_a_heat_map_is_that_of_loops():
    boxes, labels = drawn()
    found = np.asarray(heat_maps(boxes, labels, SHAPE, CLASSES, STRIDE))
    expected = np.zeros_like(found)
    for b in range(len(boxes)):
        for box, label in zip(np.asarray(boxes[b], np.float64), np.asarray(labels[b]), strict=True):
            if label < 0:
                continue
            x, y = (int(np.floor((box[k] + box[k + 2]) / 2 / STRIDE)) for k in range(2))
            w, h = (box[2:] - box[:2]) / STRIDE
            sigma = (2 * float(gaussian_radius(w, h)) + 1) / 6
            for i in range(SHAPE[0]):
                for j in range(SHAPE[1]):
                    value = np.exp(-((i - y) ** 2 + (j - x) ** 2) / (2 * sigma**2))
                    expected[b, i, j, label] = max(expected[b, i, j, label], value)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    cells = np.asarray(cells_of(boxes, SHAPE, STRIDE)[0])
    for b, m in np.argwhere(np.asarray(labels) >= 0):
        assert found[b, cells[b, m, 1], cells[b, m, 0], labels[b, m]] == 1.0  # what the loss takes for a centre


def test_no_box_leaves_no_trace():
    boxes, labels = drawn()
    none = jnp.full_like(labels, -1)
    assert float(jnp.abs(heat_maps(boxes, none, SHAPE, CLASSES, STRIDE)).max()) == 0.0
    assert all(float(part.max()) == 0.0 for part in geometry_losses(said_at_random()[..., 3:], boxes, none, STRIDE))
    empty = boxes[:, :0], labels[:, :0]
    assert float(jnp.abs(heat_maps(*empty, SHAPE, CLASSES, STRIDE)).max()) == 0.0
    batch = {"box": empty[0], "box_class": empty[1]}
    assert np.isfinite(
        jax.jit(detection_loss(CLASSES, STRIDE), static_argnums=2)({"head": said_at_random()}, batch, None)
    )


def test_the_focal_loss_is_that_of_the_formula_and_finite_for_any_logit():
    boxes, labels = drawn()
    targets = np.asarray(heat_maps(boxes, labels, SHAPE, CLASSES, STRIDE), np.float64)
    logits = np.asarray(said_at_random()[..., :CLASSES], np.float64)
    p = 1 / (1 + np.exp(-logits))
    parts = np.where(targets == 1, (1 - p) ** 2 * np.log(p), (1 - targets) ** 4 * p**2 * np.log(1 - p))
    found = centre_focal_loss(jnp.asarray(logits, jnp.float32), jnp.asarray(targets, jnp.float32))
    np.testing.assert_allclose(found, -parts.sum(axis=(1, 2, 3)), rtol=1e-5)
    far = jnp.array([-200.0, 200.0]).reshape(1, 1, 2, 1)
    for towards in (jnp.zeros_like(far), jnp.ones_like(far)):
        value, slope = jax.value_and_grad(lambda z, y: centre_focal_loss(z, y).sum())(far, towards)
        assert np.isfinite(value)
        assert np.isfinite(slope).all()


def test_sizes_and_places_are_wrong_by_what_loops_say():
    boxes, labels = drawn()
    geometry = said_at_random()[..., CLASSES:]
    expected = np.zeros((2, len(boxes)))
    for b, m in np.argwhere(np.asarray(labels) >= 0):
        x0, y0, x1, y1 = np.asarray(boxes[b, m], np.float64) / STRIDE
        column, row = int((x0 + x1) / 2), int((y0 + y1) / 2)
        own = np.asarray(geometry[b, row, column])
        expected[0, b] += abs(own[0] - np.log(x1 - x0)) + abs(own[1] - np.log(y1 - y0))
        expected[1, b] += abs(own[2] - ((x0 + x1) / 2 - column)) + abs(own[3] - ((y0 + y1) / 2 - row))
    np.testing.assert_allclose(np.stack(geometry_losses(geometry, boxes, labels, STRIDE)), expected, rtol=1e-4)


def test_the_gradient_is_that_of_finite_differences_and_rows_without_a_box_have_none():
    boxes, labels = drawn()
    term, said = detection_loss(CLASSES, STRIDE, size_weight=0.5), said_at_random()

    @jax.jit
    def loss(said, boxes):
        return term({"head": said}, {"box": boxes, "box_class": labels}, None)

    gradient = jax.jit(jax.grad(loss, argnums=(0, 1)))
    slope = np.asarray(gradient(said, boxes)[0])
    random = np.random.default_rng(1)
    for _ in range(3):
        way = jnp.asarray(random.normal(size=said.shape).astype(np.float32))
        step = 1e-3
        measured = (loss(said + step * way, boxes) - loss(said - step * way, boxes)) / (2 * step)
        assert float(measured) == pytest.approx(float(np.sum(slope * way)), rel=2e-2)
    anything = boxes.at[:, -1].set(jnp.array([5.0, 5.0, 1.0, 1.0]))  # of negative size: its logarithm is NaN
    np.testing.assert_array_equal(gradient(said, anything)[0], slope)
    of_boxes = gradient(said, boxes)[1]
    assert np.isfinite(of_boxes).all()
    np.testing.assert_array_equal(of_boxes[:, -1], 0.0)


def perfect(boxes, labels):
    """What a detector says that is right about everything."""
    said = np.full((len(boxes), *SHAPE, CLASSES + GEOMETRY), -12.0, np.float32)
    cells, places, sizes = map(np.asarray, cells_of(boxes, SHAPE, STRIDE))
    for b, m in np.argwhere(np.asarray(labels) >= 0):
        own = said[b, cells[b, m, 1], cells[b, m, 0]]
        own[labels[b, m]] = 12.0
        own[CLASSES:] = [*np.log(sizes[b, m]), *places[b, m]]
    return jnp.asarray(said)


def test_boxes_come_back_from_what_is_right_about_them_and_pay_nothing():
    boxes, labels = drawn(seed=3)
    said = perfect(boxes, labels)
    found = np.asarray(decoded(said, STRIDE, 20))
    sure = found[..., 5] > 0.5
    assert sure.sum() == (np.asarray(labels) >= 0).sum()
    truth = np.concatenate([boxes, np.asarray(labels)[..., None]], axis=2)
    assert mean_average_precision(truth, found) == 1.0
    batch = {"box": boxes, "box_class": labels}
    pays = jax.jit(detection_loss(CLASSES, STRIDE), static_argnums=2)({"head": said}, batch, None)
    assert 0 <= float(pays) < 1e-3


def test_decoding_is_that_of_loops_over_peaks():
    said = np.asarray(said_at_random(seed=5), np.float64)
    rows = []
    for i in range(SHAPE[0]):
        for j in range(SHAPE[1]):
            for c in range(CLASSES):
                around = said[0, max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2, c]
                if said[0, i, j, c] == around.max():
                    (w, h), (x, y) = np.exp(said[0, i, j, 3:5]) / 2, said[0, i, j, 5:] + [j, i]
                    score = 1 / (1 + np.exp(-said[0, i, j, c]))
                    rows.append([4 * (x - w), 4 * (y - h), 4 * (x + w), 4 * (y + h), c, score])
    expected = np.array(sorted(rows, key=lambda row: -row[-1]))
    found = np.asarray(decoded(jnp.asarray(said, jnp.float32), STRIDE, 200))[0]
    np.testing.assert_allclose(found[: len(expected)], expected, atol=1e-3)
    np.testing.assert_array_equal(found[len(expected) :, 4], -1)
    np.testing.assert_allclose(decoded(jnp.asarray(said, jnp.float32), STRIDE, 7)[0], expected[:7], atol=1e-3)
    wild = jnp.full((1, 2, 2, 5), 300.0)
    assert np.isfinite(decoded(wild, STRIDE, 4)).all()


def test_jit_and_vmap_say_the_same():
    boxes, labels = drawn()
    said, term = said_at_random(), detection_loss(CLASSES, STRIDE)

    def one(said, box, label):
        batch = {"box": box[None], "box_class": label[None]}
        return term({"head": said[None]}, batch, None), detection.decoded(said[None], STRIDE, 9)[0]

    found, alone = jax.jit(jax.vmap(one))(said, boxes, labels), jax.jit(one)
    for k in range(len(boxes)):
        for side, own in zip(found, alone(said[k], boxes[k], labels[k]), strict=True):
            np.testing.assert_allclose(side[k], own, rtol=1e-4, atol=1e-5)


def test_what_does_not_fit_is_refused():
    boxes, labels = drawn()
    with pytest.raises(InputError, match="a head of 7 numbers for 2 classes"):
        detection_loss(2, STRIDE)({"head": said_at_random()}, {"box": boxes, "box_class": labels}, None)
    with pytest.raises(InputError, match="targets"):
        centre_focal_loss(jnp.zeros((1, 2, 2, 1)), jnp.zeros((1, 2, 2, 2)))
