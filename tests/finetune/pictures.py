"""Folders of small pictures that a colour tells apart, written as people have them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"red": (190, 60, 60), "green": (60, 190, 60), "blue": (60, 60, 190)}
ENDINGS = ("png", "jpg", "bmp", "webp")


def picture(colour: tuple[int, int, int], seed: int, size: tuple[int, int]) -> Image.Image:
    """Noise around a colour, width and height in pixels."""
    noise = np.random.default_rng(seed).normal(0, 40, (size[1], size[0], 3))
    return Image.fromarray(np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8))


def write(directory: Path, count: int, classes: tuple[str, ...] = tuple(COLOURS), seed: int = 0) -> Path:
    """`count` pictures a class, of mixed sizes and formats."""
    rng = np.random.default_rng(seed)
    for name in classes:
        (directory / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            size = (int(rng.integers(20, 60)), int(rng.integers(20, 60)))
            one = picture(COLOURS[name], 1000 * seed + 100 * len(name) + number, size)
            one.save(directory / name / f"{number}.{ENDINGS[number % len(ENDINGS)]}")
    return directory
