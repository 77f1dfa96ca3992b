"""Boxes as points: targets, losses and decoding of a detector that finds centres on a map. Pure functions of arrays.

Boxes are [B, M, 4] x0, y0, x1, y1 in pixels, their classes [B, M] integers; −1 says that a row holds none. A map has a
cell for every `stride` pixels. What a detector says of each cell are C logits of a centre of that class being there,
the logarithms of width and height in cells, and where in the cell the centre is: [B, H, W, C + 4].

Source: Zhou, Wang and Krähenbühl, "Objects as Points", 2019. Sizes are learned as logarithms here, and not as they are:
overlap is a matter of ratios, and a box of 20 pixels weighs as much as one of 100.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxtl.errors import InputError

OVERLAP = 0.7  # that a box with its corners inside of the radius still has
SURE, NEAR = 2.0, 4.0  # exponents of the focal loss: for what is well told already, and near a centre
GEOMETRY = 4  # numbers of a cell beside the classes: two of the size, two of the place


def gaussian_radius(width: jax.Array, height: jax.Array, overlap: float = OVERLAP) -> jax.Array:
    """How far both corners of a box may move, so that it overlaps the box as it was by `overlap` at least.

    (w − 2r)(h − 2r) = overlap · w · h:   of all boxes with corners that far away the one inside overlaps least

    Args:
        width, height: [...], in any unit.
        overlap: in (0, 1).

    Returns:
        [...] in that unit.

    Example:
        >>> round(float(gaussian_radius(jnp.array(10.0), jnp.array(10.0))), 3)
        0.817

    Source: Law and Deng, "CornerNet: Detecting Objects as Paired Keypoints", 2018, whose code takes the least of three
    such radii, and divides by 2 where the quadratic formula has 2a: that gives larger ones.
    """
    total = width + height
    return (total - jnp.sqrt(total**2 - 4 * width * height * (1 - overlap))) / 4


def cells_of(boxes: jax.Array, shape: tuple[int, int], stride: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """In which cell the centre of each box is, where in it, and how large the box is.

    Args:
        boxes: [..., M, 4] in pixels.
        shape: (rows, columns) of the map; centres outside of it are in the nearest cell.
        stride: pixels of a cell.

    Returns:
        (cells [..., M, 2] int32, column and row; offsets [..., M, 2] in 0..1; sizes [..., M, 2] in cells).

    Example:
        >>> cells, offsets, sizes = cells_of(jnp.array([[0.0, 8.0, 12.0, 16.0]]), (4, 4), 4)
        >>> cells.tolist(), offsets.tolist(), sizes.tolist()
        ([[1, 3]], [[0.5, 0.0]], [[3.0, 2.0]])
    """
    low, high = boxes[..., :2] / stride, boxes[..., 2:] / stride
    centre = (low + high) / 2
    last = jnp.array(shape[::-1]).reshape((1,) * (boxes.ndim - 1) + (2,)) - 1
    cells = jnp.clip(jnp.floor(centre).astype(jnp.int32), 0, last)
    return cells, jnp.clip(centre - cells, 0.0, 1.0), high - low


def heat_maps(
    boxes: jax.Array, labels: jax.Array, shape: tuple[int, int], classes: int, stride: int, overlap: float = OVERLAP
) -> jax.Array:
    """1 in the cell of a centre, and falling around it as far as a centre there would still make a good box.

    max over boxes of the class of exp(−‖cell − centre's cell‖² / 2σ²),   σ = (2 · radius + 1) / 6

    Args:
        boxes, labels: [B, M, 4] in pixels, [B, M] integers, −1 for none.
        shape: (rows, columns) of the map.
        classes: C.
        stride: pixels of a cell.
        overlap: see `gaussian_radius`.

    Returns:
        [B, H, W, C] float32 in 0..1.

    Example:
        >>> maps = heat_maps(jnp.array([[[0.0, 0.0, 8.0, 8.0]]]), jnp.array([[1]]), (3, 3), 2, 4)
        >>> maps[0, :, :, 1].round(2).tolist()[1], float(maps[0, :, :, 0].max())
        ([0.0..., 1.0, 0.0...], 0.0)
    """
    cells, _, sizes = cells_of(boxes, shape, stride)
    sizes = jnp.where((labels >= 0)[..., None], sizes, 1.0)  # of no box: the root would have no slope at 0
    sigma = (2 * gaussian_radius(sizes[..., 0], sizes[..., 1], overlap) + 1) / 6
    columns, rows = (
        jnp.square(jnp.arange(count).reshape(1, 1, -1) - cells[..., axis, None]) / (2 * jnp.square(sigma)[..., None])
        for axis, count in enumerate(shape[::-1])
    )
    peaks = jnp.exp(-(rows[..., :, None] + columns[..., None, :]))  # [B, M, H, W]
    own = labels[..., None] == jnp.arange(classes).reshape(1, 1, -1)
    found = [jnp.max(jnp.where(own[:, :, c, None, None], peaks, 0.0), axis=1, initial=0.0) for c in range(classes)]
    return jnp.stack(found, axis=-1)


def centre_focal_loss(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Penalty-reduced focal loss of each image, summed over cells and classes.

    −Σ (1 − p)² log p where y = 1,   −Σ (1 − y)⁴ p² log(1 − p) elsewhere,   p = σ(logit)

    Args:
        logits, targets: [B, H, W, C]; targets as `heat_maps` makes them.

    Returns:
        [B] float32.

    Raises:
        InputError: other shapes.

    Example:
        >>> centre_focal_loss(jnp.zeros((1, 1, 2, 1)), jnp.array([[[[1.0], [0.5]]]])).tolist()  # (¼ + ¼ / 16) log 2
        [0.184...]

    Source: Law and Deng, "CornerNet: Detecting Objects as Paired Keypoints", 2018; Lin et al., "Focal Loss for Dense
    Object Detection", 2017.
    """
    if logits.shape != targets.shape:
        what = f"logits of shape {list(logits.shape)}, targets {list(targets.shape)}"
        raise InputError(what, where="centre_focal_loss", todo="give both as [B, H, W, C]")
    logits = logits.astype(jnp.float32)
    log_p, log_not = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
    centre = jnp.exp(SURE * log_not) * log_p
    elsewhere = jnp.power(1 - targets, NEAR) * jnp.exp(SURE * log_p) * log_not
    return -jnp.sum(jnp.where(targets == 1, centre, elsewhere), axis=(1, 2, 3))


def geometry_losses(
    geometry: jax.Array, boxes: jax.Array, labels: jax.Array, stride: int
) -> tuple[jax.Array, jax.Array]:
    """What is wrong with sizes and places in the cells of centres, and nowhere else.

    Σ |log size' − log size| and Σ |place' − place|, each over width and height

    Args:
        geometry: [B, H, W, 4]: logarithms of width and height in cells, column and row within the cell.
        boxes, labels: [B, M, 4] in pixels, [B, M] integers, −1 for none.
        stride: pixels of a cell.

    Returns:
        (of sizes [B], of places [B]), float32, summed over the boxes of an image.

    Example:
        >>> right = jnp.zeros((1, 2, 2, 4)).at[0, 0, 0].set(jnp.array([jnp.log(2.0), 0.0, 0.0, 0.5]))
        >>> wrong = geometry_losses(right, jnp.array([[[0.0, 0.0, 8.0, 4.0]]]), jnp.array([[0]]), 4)
        >>> [round(float(part[0]), 3) for part in wrong]  # its centre is in the second column
        [0.693, 0.5]
    """
    _, height, width, _ = geometry.shape
    cells, places, sizes = cells_of(boxes, (height, width), stride)
    image = jnp.arange(len(geometry)).reshape(-1, 1)
    said = geometry[image, cells[..., 1], cells[..., 0]].astype(jnp.float32)
    there = (labels >= 0)[..., None]
    # A row that holds no box may have any size: its logarithm must not reach the gradient.
    wanted = jnp.concatenate([jnp.log(jnp.where(there, sizes, 1.0)), places], axis=-1)
    wrong = jnp.where(there, jnp.abs(said - wanted), 0.0)
    return jnp.sum(wrong[..., :2], axis=(1, 2)), jnp.sum(wrong[..., 2:], axis=(1, 2))


def detection_loss(
    classes: int, stride: int, *, size_weight: float = 1.0, place_weight: float = 1.0, overlap: float = OVERLAP
) -> Callable[..., jax.Array]:
    """fn(outputs, batch, ctx) -> scalar: the objective of a detector, per box of the batch.

    Σ_images (focal + size_weight · size + place_weight · place) / number of boxes

    Args:
        classes: C.
        stride: pixels of a cell.
        size_weight, place_weight: of `geometry_losses`.
        overlap: see `gaussian_radius`.

    Returns:
        A term that reads the output "head" [B, H, W, C + 4] and the fields "box" and "box_class" of the batch.

    Example:
        >>> term, cell = detection_loss(1, 4), jnp.array([20.0, 0.0, 0.0, 0.5, 0.5])
        >>> batch = {"box": jnp.array([[[0.0, 0.0, 4.0, 4.0]]]), "box_class": jnp.array([[0]])}
        >>> round(float(term({"head": cell.reshape(1, 1, 1, 5)}, batch, None)), 6)
        0.0
    """

    def term(outputs: Any, batch: Any, ctx: Any) -> jax.Array:
        said, boxes, labels = outputs["head"], batch["box"], batch["box_class"]
        if said.shape[-1] != classes + GEOMETRY:
            what = f"a head of {said.shape[-1]} numbers for {classes} classes"
            raise InputError(what, where="detection_loss", todo=f"give it {classes + GEOMETRY}")
        targets = heat_maps(boxes, labels, said.shape[1:3], classes, stride, overlap)
        size, place = geometry_losses(said[..., classes:], boxes, labels, stride)
        every = centre_focal_loss(said[..., :classes], targets) + size_weight * size + place_weight * place
        return jnp.sum(every) / jnp.maximum(jnp.sum(labels >= 0), 1)

    return term


def decoded(said: jax.Array, stride: int, most: int) -> jax.Array:
    """Boxes of the surest centres: cells that say no less than their eight neighbours, of each class by itself.

    Args:
        said: [B, H, W, C + 4] what a detector says of each cell.
        stride: pixels of a cell.
        most: K, boxes of an image.

    Returns:
        [B, K, 6] float32 x0, y0, x1, y1 in pixels, class and score in 0..1, the surest first; rows of class −1 are
        none, where there are fewer peaks.

    Example:
        >>> said = jnp.full((1, 3, 3, 5), -9.0).at[0, 1, 2].set(jnp.array([0.0, 0.0, jnp.log(2.0), 0.5, 0.5]))
        >>> decoded(said.at[0, 1, 1, 0].set(-1.0), 4, 1)[0].round(2).tolist()
        [[8.0, 2.0, 12.0, 10.0, 0.0, 0.5]]
    """
    batch, height, width, numbers = said.shape
    classes = numbers - GEOMETRY
    scores = jax.nn.sigmoid(said[..., :classes].astype(jnp.float32))
    around = jax.lax.reduce_window(scores, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 1, 1, 1), "SAME")
    peaks = jnp.where(scores == around, scores, 0.0).reshape(batch, -1)
    score, place = jax.lax.top_k(peaks, min(most, peaks.shape[1]))
    cell, label = place // classes, place % classes
    geometry = said[..., classes:].reshape(batch, -1, GEOMETRY)[jnp.arange(batch).reshape(-1, 1), cell]
    corner = jnp.stack([cell % width, cell // width], axis=-1)
    largest = jnp.log(2.0 * max(height, width))  # a box is finite, whatever the logarithm
    centre, half = corner + geometry[..., 2:], jnp.exp(jnp.minimum(geometry[..., :2], largest)) / 2
    boxes = stride * jnp.concatenate([centre - half, centre + half], axis=-1)
    found = score > 0
    label = jnp.where(found, label, -1).astype(jnp.float32)
    rows = jnp.concatenate([jnp.where(found[..., None], boxes, 0.0), label[..., None], score[..., None]], axis=-1)
    return jnp.pad(rows, ((0, 0), (0, most - rows.shape[1]), (0, 0)), constant_values=-1.0)
