"""Two recipes of fine-tuning as people use them, in PyTorch: asked in lines of JSON, in a process without JAX.

    python -m experiments.benchmarks.practice_torch FILE

FILE is what `practice_data.hand_over` writes: pictures to learn from with their labels, others without, and weights.

timm    all of the network at once, in the way of timm's train.py (Wightman, PyTorch Image Models, 2019): cosine to 0
        after 5 epochs of warm-up from 1e-5 (some of its versions have 3 from 1e-4), weight decay 2e-5, label smoothing
        0.1, random resized crops (0.08 to 1 of the area, ratio 3/4 to 4/3), mirrored, colours jittered by 0.4. What the
        script leaves to fine-tuners: AdamW with PyTorch's rate 1e-3 (the script's own rate belongs to SGD and
        ImageNet), batches of 32.
keras   the guide "Transfer learning & fine-tuning" (Chollet, 2020): a head after dropout 0.2 on the frozen network, 20
        epochs of Adam at 1e-3; then all of it, 10 epochs of Adam at 1e-5; batch statistics held throughout; mirrored
        and turned by up to 36 degrees.
"""

from __future__ import annotations

import copy
import math
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.benchmarks.torch_trunk import efficientnet_lite0, nn, torch
from experiments.benchmarks.workers import on_one_core, serve

BATCH = 32
EPOCHS, WARM_UP, FIRST = 100, 5, 1e-5  # timm; so many epochs where time allows
RATE, DECAY, SMOOTHING, JITTER = 1e-3, 2e-5, 0.1, 0.4
AREA, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
HEAD, WHOLE = (20, 1e-3), (10, 1e-5)  # keras: epochs and rate
WEIGHTS = "weights/"  # before the name of each in FILE
DROPOUT, TURN = 0.2, 0.2 * math.pi

Views = Callable[[Any, Any], Any]  # pictures [B, 3, H, W], generator -> others of them


def learn(file: str, rival: str, budget: float, seed: int) -> dict[str, Any]:
    """What a rival answers on every test picture, and what it took to learn.

    Args:
        file: see above.
        rival: timm or keras.
        budget: seconds, from now to the end of training.
        seed: of the head, the order and the views.
    """
    began, spent = time.perf_counter(), time.process_time()
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    given = dict(np.load(file))
    weights = {name.removeprefix(WEIGHTS): array for name, array in given.items() if name.startswith(WEIGHTS)}
    network = efficientnet_lite0(len(given["classes"]), weights)
    network = network.to(memory_format=torch.channels_last)
    images, labels = as_given(given["train"], given), torch.as_tensor(given["labels"], dtype=torch.long)
    end = began + budget
    told = {"timm": timm, "keras": keras}[rival](network, images, labels, end, bool(given["mirrored"]))
    found = {"seconds": time.perf_counter() - began, "cpu": time.process_time() - spent, "told": told}
    return found | {"answers": answers(network, as_given(given["test"], given))}


def as_given(images: np.ndarray, given: Any) -> Any:
    """uint8 [N, H, W, 3] -> what the network takes, [N, 3, H, W]."""
    pixels = (torch.as_tensor(images, dtype=torch.float32) - float(given["mean"])) / float(given["std"])
    return pixels.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)


def answers(network: Any, images: Any) -> list[int]:
    """The likeliest class of every picture."""
    network.eval()
    with torch.inference_mode():
        return [int(k) for part in images.split(BATCH) for k in network(part).argmax(1)]


# ---------------------------------------------------------------- the recipes


def timm(network: Any, images: Any, labels: Any, end: float, mirrored: bool) -> str:
    """See above; as many epochs as fit."""
    loss = nn.CrossEntropyLoss(label_smoothing=SMOOTHING)

    def views(pictures: Any, generator: Any) -> Any:
        return jittered(seen(pictures, cropped(len(pictures), mirrored, generator)), generator)

    network.train()

    def optimizer(of: Any) -> Any:
        return torch.optim.AdamW(of.parameters(), RATE, weight_decay=DECAY)

    once = epoch_seconds(network, optimizer, loss, images, labels, views)
    epochs = max(1, min(EPOCHS, int((end - time.perf_counter()) / once)))
    made, steps = optimizer(network), -(-len(images) // BATCH)
    warm = min(WARM_UP, epochs // 4) * steps

    def rate(step: int) -> float:
        if step < warm:
            return FIRST + (RATE - FIRST) * step / warm
        return RATE * 0.5 * (1 + math.cos(math.pi * step / (epochs * steps)))

    trained(network, made, loss, images, labels, views, epochs, rate)
    return f"{epochs} epochs"


def keras(network: Any, images: Any, labels: Any, end: float, mirrored: bool) -> str:
    """See above; where all epochs do not fit, the same share of both phases."""
    loss, trunk, head = nn.CrossEntropyLoss(), network[:-1], network[-1]

    def views(pictures: Any, generator: Any) -> Any:
        return seen(pictures, turned(len(pictures), mirrored, generator))

    network.eval()  # batch statistics are held
    under = nn.Sequential(trunk, nn.Dropout(DROPOUT), head)
    under[1].train()

    def adam(of: Any) -> Any:
        return torch.optim.Adam([each for each in of.parameters() if each.requires_grad], HEAD[1], eps=1e-7)

    whole = epoch_seconds(under, adam, loss, images, labels, views)
    trunk.requires_grad_(False)
    alone = epoch_seconds(under, adam, loss, images, labels, views)
    share = min(1.0, (end - time.perf_counter()) / (HEAD[0] * alone + WHOLE[0] * whole))
    epochs = [max(1, int(share * count)) for count, _ in (HEAD, WHOLE)]
    trained(under, adam(under), loss, images, labels, views, epochs[0], lambda step: HEAD[1])
    trunk.requires_grad_(True)
    trained(under, adam(under), loss, images, labels, views, epochs[1], lambda step: WHOLE[1])
    return f"{epochs[0]} + {epochs[1]} epochs"


def epoch_seconds(network: Any, optimizer: Any, loss: Any, images: Any, labels: Any, views: Views) -> float:
    """What an epoch takes, by the faster of two steps of a copy."""
    network, taken = copy.deepcopy(network), []
    made, some = optimizer(network), slice(0, BATCH)
    for _ in range(2):
        began = time.perf_counter()
        step(network, made, loss, views(images[some], torch.Generator().manual_seed(0)), labels[some])
        taken.append(time.perf_counter() - began)
    return min(taken) * len(images) / len(images[some])


def trained(
    network: Any, made: Any, loss: Any, images: Any, labels: Any, views: Views, epochs: int, rate: Callable
) -> None:
    """So many times through all pictures, in a new order each time."""
    generator, count = torch.Generator().manual_seed(torch.initial_seed()), 0
    for _ in range(epochs):
        for rows in torch.randperm(len(images), generator=generator).split(BATCH):
            for group in made.param_groups:
                group["lr"] = rate(count)
            step(network, made, loss, views(images[rows], generator), labels[rows])
            count += 1


def step(network: Any, made: Any, loss: Any, images: Any, labels: Any) -> None:
    made.zero_grad()
    loss(network(images), labels).backward()
    made.step()


# ---------------------------------------------------------------- views of pictures


def cropped(count: int, mirrored: bool, generator: Any) -> Any:
    """Where a random part of a picture lies, [count, 2, 3]: the smaller, the larger it is seen."""

    def uniform(low: float, high: float) -> Any:
        return low + (high - low) * torch.rand(count, generator=generator)

    area, ratio = uniform(*AREA), torch.exp(uniform(math.log(RATIO[0]), math.log(RATIO[1])))
    wide, high = (torch.sqrt(area * ratio)).clamp(max=1), (torch.sqrt(area / ratio)).clamp(max=1)
    places = torch.zeros(count, 2, 3)
    places[:, 0, 0], places[:, 1, 1] = wide * sides(count, mirrored, generator), high
    places[:, 0, 2], places[:, 1, 2] = uniform(-1, 1) * (1 - wide), uniform(-1, 1) * (1 - high)
    return places


def turned(count: int, mirrored: bool, generator: Any) -> Any:
    """Where a picture lies that is mirrored or not, and turned, [count, 2, 3]."""
    angle = TURN * (2 * torch.rand(count, generator=generator) - 1)
    side, cos, sin = sides(count, mirrored, generator), torch.cos(angle), torch.sin(angle)
    rows = [torch.stack([side * cos, -sin, 0 * cos], 1), torch.stack([side * sin, cos, 0 * cos], 1)]
    return torch.stack(rows, 1)


def sides(count: int, mirrored: bool, generator: Any) -> Any:
    """−1 where a picture is mirrored, which may be a half of them, else 1."""
    return 1 - 2.0 * (torch.rand(count, generator=generator) < 0.5) if mirrored else torch.ones(count)


def seen(images: Any, places: Any) -> Any:
    """Pictures as they lie at places; what is outside is what the edge mirrors."""
    grid = nn.functional.affine_grid(places, list(images.shape), align_corners=False)
    found = nn.functional.grid_sample(images, grid, "bilinear", "reflection", align_corners=False)
    return found.contiguous(memory_format=torch.channels_last)


def jittered(images: Any, generator: Any) -> Any:
    """Brightness, contrast and saturation of each picture times 0.6 to 1.4; black is −1 and white 1."""

    def factors() -> Any:
        return 1 + JITTER * (2 * torch.rand(len(images), 1, 1, 1, generator=generator) - 1)

    x = ((images + 1) / 2 * factors()).clamp(0, 1)
    mean = x.mean((1, 2, 3), keepdim=True)
    x = (mean + (x - mean) * factors()).clamp(0, 1)
    grey = x.mean(1, keepdim=True)
    return 2 * (grey + (x - grey) * factors()).clamp(0, 1) - 1


if __name__ == "__main__":
    on_one_core()
    serve(learn=lambda **asked: learn(sys.argv[1], **asked))
