"""What PyTorch's parameter groups do to a small network in 50 steps: the stored arrays that `per_label` must reproduce.

    python tests/oracles/torch_parameter_groups.py [OUTPUT.npz]     (needs torch; the tests only read the stored file)

Kernels and biases are groups of their own, because weight decay leaves biases alone. SGDW is written out by hand,
PyTorch having none: every weight shrinks by 1 - lr·decay before the step, which adds lr·(update + decay·w) up at the
old w.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np

STORED = Path(__file__).with_suffix(".npz")
STEPS = 50
CLIP_NORM = 0.05
LEARNING_RATE = {"transferred": 0.05, "new": 0.2}
DECAY = {"transferred": 0.1, "new": 0.02}
# name: (optimizer, momentum, decay kind, whether the learning rate follows a cosine, whether gradients are clipped)
CASES = {
    "sgd_coupled": ("sgd", 0.9, "coupled", False, False),
    "sgd_coupled_clipped": ("sgd", 0.9, "coupled", False, True),
    "nesterov_coupled": ("nesterov", 0.9, "coupled", True, False),
    "adam_coupled": ("adam", 0.0, "coupled", False, False),
    "sgdw": ("sgd", 0.9, "decoupled", True, False),
    "adamw": ("adam", 0.0, "decoupled", True, False),
}


def learning_rates(optimizer: str) -> dict[str, float]:
    """Adam moves by the learning rate itself, so it takes a tenth."""
    return {label: rate / (10 if optimizer == "adam" else 1) for label, rate in LEARNING_RATE.items()}


def cosine(step: int) -> float:
    """The factor on every learning rate in step 0, 1, …"""
    return 0.5 * (1 + math.cos(math.pi * step / STEPS))


def problem() -> dict[str, np.ndarray]:
    """Data [40, 6] in 3 classes, a table of mini-batches [50, 8], and the first parameters: all without a generator."""

    def wave(count, speed, *shape):
        positions = np.arange(1.0, count + 1)
        return np.sin(speed * positions * positions).reshape(shape).astype(np.float32)

    return {
        "images": wave(240, 1.0, 40, 6),
        "classes": (np.arange(40) ** 2 + np.arange(40) // 3) % 3,
        "batches": (np.arange(400) * 7 + np.arange(400) ** 2 % 5).reshape(STEPS, 8) % 40,
        "trunk/kernel": 0.6 * wave(48, 0.7, 6, 8),
        "trunk/bias": 0.1 * wave(8, 0.3, 8),
        "head/kernel": 0.6 * wave(24, 1.3, 8, 3),
        "head/bias": 0.1 * wave(3, 0.9, 3),
    }


PARAMETERS = {"trunk/kernel": "transferred", "trunk/bias": "transferred", "head/kernel": "new", "head/bias": "new"}


def train(case: str) -> dict[str, np.ndarray]:
    """The parameters after 50 steps of one case."""
    import torch

    optimizer, momentum, kind, scheduled, clipped = CASES[case]
    arrays = problem()
    images, classes = torch.tensor(arrays["images"]), torch.tensor(arrays["classes"])
    parameters = {name: torch.tensor(arrays[name], requires_grad=True) for name in PARAMETERS}
    rates = learning_rates(optimizer)
    groups = []
    for name, label in PARAMETERS.items():
        decay = DECAY[label] if name.endswith("kernel") else 0.0
        coupled = 0.0 if (optimizer, kind) == ("sgd", "decoupled") else decay
        groups.append(
            {"params": [parameters[name]], "lr": rates[label], "weight_decay": coupled, "by_hand": decay - coupled}
        )
    if optimizer == "adam":
        stepper = (torch.optim.Adam if kind == "coupled" else torch.optim.AdamW)(groups)
    else:
        stepper = torch.optim.SGD(groups, momentum=momentum, nesterov=optimizer == "nesterov")
    schedule = torch.optim.lr_scheduler.LambdaLR(stepper, cosine if scheduled else lambda step: 1.0)
    for batch in arrays["batches"]:
        hidden = torch.tanh(images[batch] @ parameters["trunk/kernel"] + parameters["trunk/bias"])
        logits = hidden @ parameters["head/kernel"] + parameters["head/bias"]
        stepper.zero_grad()
        torch.nn.functional.cross_entropy(logits, classes[batch]).backward()
        if clipped:
            torch.nn.utils.clip_grad_norm_(list(parameters.values()), CLIP_NORM)
        with torch.no_grad():
            for group in stepper.param_groups:
                for parameter in group["params"]:
                    parameter.mul_(1 - group["lr"] * group["by_hand"])
        stepper.step()
        schedule.step()
    return {f"{case}/{name}": parameter.detach().numpy() for name, parameter in parameters.items()}


def main(output: Path) -> None:
    """Store the problem beside its solutions, so that the test needs no code of this file but the settings."""
    solutions = [train(case) for case in CASES]
    np.savez_compressed(output, **problem(), **{name: a for solution in solutions for name, a in solution.items()})


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else STORED)
