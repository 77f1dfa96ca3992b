"""Folders of pictures with boxes, written as people have them: the same ones for COCO and for YOLO."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CLASSES = ("cat", "dog")
SIZES = ((64, 48), (40, 60), (64, 48), (33, 47), (64, 48), (50, 20))  # width and height
BOXES = (  # by picture: class, x, y, w, h
    ((0, 4, 6, 20, 16), (1, 30.5, 10, 12, 25)),
    ((1, 0, 0, 40, 60),),
    ((0, 10, 10, 8, 8), (0, 40, 30, 24, 18)),
    ((0, 1, 2, 30, 40), (1, 5, 5, 4, 4)),
    (),
    ((1, 25, 5, 20, 10),),
)


def pictures(room: Path) -> list[str]:
    """Noise of these sizes, as images/K.png; their names."""
    (room / "images").mkdir(parents=True, exist_ok=True)
    names = [f"{k}.png" for k in range(len(SIZES))]
    for k, (name, (width, height)) in enumerate(zip(names, SIZES, strict=True)):
        noise = np.random.default_rng(k).integers(0, 256, (height, width, 3)).astype(np.uint8)
        Image.fromarray(noise).save(room / "images" / name)
    return names


def description() -> dict[str, Any]:
    """In COCO's form; ids begin anywhere."""
    images = [
        {"id": 100 + k, "file_name": f"{k}.png", "width": width, "height": height}
        for k, (width, height) in enumerate(SIZES)
    ]
    rows = [(k, *box) for k, boxes in enumerate(BOXES) for box in boxes]
    annotations = [
        {"id": n, "image_id": 100 + k, "category_id": 7 + 2 * label, "bbox": list(box), "iscrowd": 0}
        for n, (k, label, *box) in enumerate(rows)
    ]
    categories = [{"id": 7 + 2 * k, "name": name} for k, name in enumerate(CLASSES)]
    return {"images": images, "annotations": annotations, "categories": categories}


def coco(room: Path, said: dict[str, Any] | None = None) -> Path:
    """The pictures with one JSON."""
    pictures(room)
    (room / "annotations.json").write_text(json.dumps(description() if said is None else said))
    return room


def yolo(room: Path) -> Path:
    """The pictures with texts in labels/."""
    pictures(room)
    (room / "labels").mkdir()
    (room / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    for k, ((width, height), boxes) in enumerate(zip(SIZES, BOXES, strict=True)):
        lines = [
            f"{label} {(x + w / 2) / width:.8f} {(y + h / 2) / height:.8f} {w / width:.8f} {h / height:.8f}"
            for label, x, y, w, h in boxes
        ]
        if lines:  # a picture without boxes has no text
            (room / "labels" / f"{k}.txt").write_text("\n".join(lines) + "\n")
    return room
