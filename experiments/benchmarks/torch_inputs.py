"""PyTorch's side of the input rate: images a second that a `DataLoader` shifts, mirrors, normalises and batches.

Each line on stdin is {"images": a number, "batch": a number, "padding": pixels, "workers": processes}; the answer on
stdout is {"rate": images a second over one pass, after one that does not count}.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from typing import Any

torch: Any = importlib.import_module("torch")
MEAN, STD = torch.full((3, 1, 1), 127.0), torch.full((3, 1, 1), 64.0)


class Images:
    """Random uint8 images [3, 32, 32]; each is augmented when it is asked for, as is usual."""

    def __init__(self, count: int, padding: int):
        self.images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8)
        self.padding = padding

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int):
        image = self.images[index].float()
        image = torch.nn.functional.pad(image[None], (self.padding,) * 4, mode="reflect")[0]
        top, left = torch.randint(0, 2 * self.padding + 1, (2,)).tolist()
        image = image[:, top : top + 32, left : left + 32]
        image = image.flip(2) if torch.rand(()) < 0.5 else image
        return (image - MEAN) / STD, index % 10


def rate(images: int, batch: int, padding: int, workers: int) -> float:
    loader = torch.utils.data.DataLoader(
        Images(images, padding), batch, shuffle=True, num_workers=workers, persistent_workers=workers > 0
    )
    for _ in range(2):
        began = time.perf_counter()
        for _ in loader:
            pass
        seconds = time.perf_counter() - began
    return images / seconds


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps({"rate": rate(**json.loads(line))}), flush=True)
