"""What pycocotools says of random boxes: the stored numbers that `protocol.detections` must reproduce.

    python tests/oracles/coco_detections.py [OUTPUT.npz]     (needs pycocotools; the tests only read the stored file)

Cases are drawn from seeds, so that a test that finds pycocotools can ask it again.
"""

from __future__ import annotations

import contextlib
import io
import sys
from pathlib import Path

import numpy as np

STORED = Path(__file__).with_suffix(".npz")
CASES = ("loose", "tied", "crowded", "sparse", "chosen")  # what is hard about each, see `boxes`
AREA_NAMES = ("all", "small", "medium", "large")


CHOSEN = (  # one that overlaps two alike and one that overlaps the first only; a box nearer to a larger one
    [[0, 0, 10, 10, 0], [4, 0, 14, 10, 0], [0, 0, 30, 30, 1], [0, 0, 34, 34, 1]],
    [[2, 0, 12, 10, 0, 0.9], [-1, 0, 9, 10, 0, 0.8], [0, 0, 33, 33, 1, 0.7]],
)


def boxes(case: str) -> tuple[np.ndarray, np.ndarray]:
    """(true [N, M, 5], found [N, K, 6]): found ones are true ones moved, some of them of another class, or anything.

    loose: any scores. tied: three scores and whole coordinates, so that overlaps tie as well. crowded: more than 100 of
    a class on an image. sparse: classes that are never true, images without either. chosen: `CHOSEN`.
    """
    if case == "chosen":
        return tuple(np.array(side, np.float64)[None] for side in CHOSEN)
    random = np.random.default_rng(CASES.index(case))
    images, classes = (3, 2) if case == "crowded" else (12, 4)
    truth, found = np.full((images, 30, 5), -1.0), np.full((images, 240, 6), -1.0)
    for n in range(images):
        count = random.integers(0, 3) if case == "sparse" else random.integers(5, 30)
        corner = random.uniform(0, 200, (count, 2))
        size = random.choice([8.0, 30.0, 60.0, 130.0], (count, 1)) * random.uniform(0.7, 1.3, (count, 2))
        label = random.integers(0, 2 if case == "sparse" else classes, count)
        truth[n, :count] = np.column_stack([corner, corner + size, label])
        if case == "tied":
            truth[n, :count] = np.round(truth[n, :count] / 4) * 4
            truth[n, :count, 2:4] = np.maximum(truth[n, :count, 2:4], truth[n, :count, :2] + 4)
        copies = np.repeat(truth[n, :count], 8 if case == "crowded" else 2, axis=0)
        moved = copies[:, :4] + random.normal(0, 0.12, (len(copies), 4)) * np.tile(copies[:, 2:4] - copies[:, :2], 2)
        moved = np.round(moved / 2) * 2 if case == "tied" else moved
        moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2] + 1)
        said = np.where(random.random(len(copies)) < 0.2, random.integers(0, classes, len(copies)), copies[:, 4])
        score = random.choice([0.2, 0.5, 0.9], len(copies)) if case == "tied" else random.random(len(copies))
        found[n, : len(copies)] = np.column_stack([moved, said, score])
    if case == "sparse":
        truth[:3], found[2:5] = -1.0, -1.0
    return truth, found


def annotations(rows: np.ndarray) -> list[dict]:
    """Boxes as COCO writes them."""
    listed = []
    for image, own in enumerate(rows, start=1):
        for row in own[own[:, 4] >= 0]:
            width, height = row[2:4] - row[:2]
            one = {"image_id": image, "category_id": int(row[4]) + 1, "bbox": [*row[:2].tolist(), width, height]}
            listed.append({**one, "area": width * height, "iscrowd": 0, "id": len(listed) + 1})
            if len(row) == 6:
                listed[-1]["score"] = float(row[5])
    return listed


def evaluated(truth: np.ndarray, found: np.ndarray) -> np.ndarray:
    """[areas, thresholds, classes] average precision, NaN for a class that is nowhere true."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    classes = int(max(truth[..., 4].max(), found[..., 4].max())) + 1
    with contextlib.redirect_stdout(io.StringIO()):
        known, said = COCO(), annotations(found)
        images = [{"id": n + 1} for n in range(len(truth))]
        categories = [{"id": c + 1} for c in range(classes)]
        known.dataset = {"images": images, "categories": categories, "annotations": annotations(truth), "info": {}}
        known.createIndex()
        judged = COCOeval(known, known.loadRes(said), "bbox")
        judged.evaluate()
        judged.accumulate()
    precision = judged.eval["precision"][..., -1]  # [thresholds, recalls, classes, areas], −1 where nothing is true
    assert judged.params.areaRngLbl == list(AREA_NAMES)
    return np.where(precision < 0, np.nan, precision).mean(axis=1).transpose(2, 0, 1)


def main(output: Path) -> None:
    """Store boxes beside what they are worth."""
    arrays = {}
    for case in CASES:
        truth, found = boxes(case)
        arrays |= {f"{case}/truth": truth, f"{case}/found": found, f"{case}/precision": evaluated(truth, found)}
    np.savez_compressed(output, **arrays)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else STORED)
