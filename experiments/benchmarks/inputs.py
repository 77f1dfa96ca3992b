"""Three ways to make batches of shifted, mirrored, normalised images, each asked for in a process of its own.

`python -m ...inputs` is asked in lines of JSON: how many images in all and in a batch, how many pixels of padding, and
how many processes make batches beside this one. The answer is images a second over a pass that follows another.
"""

from __future__ import annotations

import importlib
import itertools
import os
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from absl import flags

from experiments.benchmarks.workers import serve

MEAN, STD = 127.0, 64.0


def second_pass(images: int, batches: Callable[[], Iterable]) -> float:
    """Images a second; the first pass starts processes and compiles."""
    for _ in range(2):
        began = time.perf_counter()
        for _ in batches():
            pass
        seconds = time.perf_counter() - began
    return images / seconds


def by_jaxtl(images: int, batch_size: int, padding: int, workers: int) -> float:
    """From uint8 images on the device, all of a pass in one program, as inside a training step."""
    import jax
    import jax.numpy as jnp

    from jaxtl.data import Split, image_batches, on_device

    pixels = np.random.default_rng(0).integers(0, 256, (images, 32, 32, 3), np.uint8)
    data = on_device(Split(pixels, np.zeros(images, np.int32)), jax.random.key(0))
    prepare = image_batches(batch_size, np.full(3, MEAN), np.full(3, STD), crop=padding, flip=True)
    count = images // batch_size

    @jax.jit
    def one_pass(data, rng):
        def batch(last, step):  # each is made in the place of the last one
            return prepare(data, jax.random.fold_in(rng, step), step)["image"], None

        return jax.lax.scan(batch, jnp.zeros((batch_size, 32, 32, 3)), jnp.arange(count))[0]

    keys = iter(jax.random.split(jax.random.key(0), 2))
    return second_pass(count * batch_size, lambda: [jax.block_until_ready(one_pass(data, next(keys)))])


def by_grain(images: int, batch_size: int, padding: int, workers: int) -> float:
    """From uint8 images in memory by numpy, an image at a time: by grain's threads, or in processes of its own."""
    import grain

    pixels = np.random.default_rng(0).integers(0, 256, (images, 32, 32, 3), np.uint8)

    def augmented(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
        image = np.pad(image, ((padding, padding), (padding, padding), (0, 0)), mode="reflect")
        top, left = random.integers(0, 2 * padding + 1, 2)
        image = image[top : top + 32, left : left + 32]
        image = image[:, ::-1] if random.random() < 0.5 else image
        return (image.astype(np.float32) - MEAN) / STD

    # few are read ahead, or the first pass would have made those of the second
    options = grain.ReadOptions(num_threads=os.cpu_count() or 1, prefetch_buffer_size=4)
    dataset = grain.MapDataset.source(pixels).seed(0).shuffle().repeat().random_map(augmented)
    batches: Any = dataset.batch(batch_size, drop_remainder=True).to_iter_dataset(options)
    if workers:
        flags.FLAGS(sys.argv[:1])  # its processes read flags, which absl has to have parsed
        batches = batches.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
    count, ahead = images // batch_size, iter(batches)  # one iterator: every one starts its processes again
    try:
        return second_pass(count * batch_size, lambda: itertools.islice(ahead, count))
    finally:
        ahead.close()


def by_torch(images: int, batch_size: int, padding: int, workers: int) -> float:
    """From uint8 images in memory, an image at a time, by a `DataLoader`."""
    torch: Any = importlib.import_module("torch")

    class Images:
        def __init__(self):
            self.images = torch.randint(0, 256, (images, 3, 32, 32), dtype=torch.uint8)

        def __len__(self) -> int:
            return images

        def __getitem__(self, index: int):
            image = self.images[index].float()
            image = torch.nn.functional.pad(image[None], (padding,) * 4, mode="reflect")[0]
            top, left = torch.randint(0, 2 * padding + 1, (2,)).tolist()
            image = image[:, top : top + 32, left : left + 32]
            image = image.flip(2) if torch.rand(()) < 0.5 else image
            return (image - MEAN) / STD, index % 10

    loader = torch.utils.data.DataLoader(
        Images(), batch_size, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=workers > 0
    )
    return second_pass(images // batch_size * batch_size, lambda: loader)


if __name__ == "__main__":
    serve(jaxtl=by_jaxtl, grain=by_grain, torch=by_torch)
