"""PyTorch's side of `experiments.benchmarks.step`: the same network, numbers and SGD, in a process without JAX.

    python -m experiments.benchmarks.torch_step PROBLEM.npz [compiled]      asked in lines of JSON

Every block starts from the parameters in the file. "compiled": model and loss by `torch.compile` as it is.
"""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.benchmarks.workers import serve

torch: Any = importlib.import_module("torch")
nn = torch.nn
THREADS = torch.get_num_threads()
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def layer(module, kernel: np.ndarray, axes: tuple[int, ...], bias: np.ndarray | None):
    """A module with JAX's numbers; `axes` puts the axes of the kernel in PyTorch's order."""
    with torch.no_grad():
        module.weight.copy_(torch.from_numpy(kernel.transpose(axes).copy()))
        if bias is not None:
            module.bias.copy_(torch.from_numpy(bias))
    return module


def dense(arrays, name: str):
    kernel, bias = arrays[f"{name}/kernel"], arrays[f"{name}/bias"]
    return layer(nn.Linear(*kernel.shape), kernel, (1, 0), bias)


def mlp(arrays):
    return nn.Sequential(nn.Flatten(), dense(arrays, "trunk/dense_0"), nn.ReLU(), dense(arrays, "head"))


def cnn(arrays):
    count = sum(name.startswith("trunk/conv_") for name in arrays)
    modules = []
    for i in range(count):
        convolved = convolution(arrays, f"trunk/conv_{i}")
        modules += [convolved, group_norm(convolved.out_channels), nn.ReLU()]
        modules.append(nn.MaxPool2d(2) if i < count - 1 else nn.AdaptiveAvgPool2d(1))
    network = nn.Sequential(*modules, nn.Flatten(), dense(arrays, "head"))
    return network.to(memory_format=torch.channels_last)


def convolution(arrays, name: str, stride: int = 1):
    kernel = arrays[f"{name}/kernel"]
    edge, _, inputs, outputs = kernel.shape
    return layer(nn.Conv2d(inputs, outputs, edge, stride, edge // 2, bias=False), kernel, (3, 2, 0, 1), None)


def group_norm(channels: int):
    return nn.GroupNorm(channels // 8, channels, eps=1e-6)


class Block(nn.Module):  # type: ignore[name-defined]  # mypy need not find torch
    """Two convolutions beside a shortcut; see `jaxtl.models.residual`."""

    def __init__(self, arrays, name: str, stride: int, normalise_first: bool):
        super().__init__()
        self.normalise_first = normalise_first
        self.conv_0 = convolution(arrays, f"{name}/conv_0", stride)
        self.conv_1 = convolution(arrays, f"{name}/conv_1")
        self.norm_0 = group_norm(len(arrays[f"{name}/norm_0/scale"]))
        self.norm_1 = group_norm(len(arrays[f"{name}/norm_1/scale"]))
        changes = f"{name}/shortcut/kernel" in arrays
        shortcut = [convolution(arrays, f"{name}/shortcut", stride)] if changes else []
        after = [] if normalise_first or not changes else [group_norm(len(arrays[f"{name}/shortcut_norm/scale"]))]
        self.shortcut = nn.Sequential(*shortcut, *after)

    def forward(self, x):
        if self.normalise_first:
            active = self.norm_0(x).relu()
            inner = self.conv_1(self.norm_1(self.conv_0(active)).relu())
            return inner + self.shortcut(active if len(self.shortcut) else x)
        inner = self.norm_1(self.conv_1(self.norm_0(self.conv_0(x)).relu()))
        return (inner + self.shortcut(x)).relu()


def residual(arrays):
    names = sorted({"/".join(name.split("/")[:2]) for name in arrays if name.startswith("trunk/stage_")})
    last = len(arrays["trunk/norm/scale"])
    first = last != arrays["trunk/stem/kernel"].shape[-1]  # the lone normalisation stands at the end
    blocks = [Block(arrays, n, 2 if n.endswith("block_0") and "stage_0" not in n else 1, first) for n in names]
    norm, stem = [group_norm(last), nn.ReLU()], convolution(arrays, "trunk/stem")
    trunk = [stem, *blocks, *norm] if first else [stem, *norm, *blocks]
    network = nn.Sequential(*trunk, nn.AdaptiveAvgPool2d(1), nn.Flatten(), dense(arrays, "head"))
    return network.to(memory_format=torch.channels_last)


def read(file: str):
    """The network, its images and labels on the device, and the settings of SGD."""
    with np.load(file, allow_pickle=False) as opened:
        arrays = dict(opened)
    images = torch.from_numpy(arrays["image"]).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
    make = residual if "trunk/stem/kernel" in arrays else cnn if "trunk/conv_0/kernel" in arrays else mlp
    settings = {"lr": float(arrays["learning_rate"]), "momentum": float(arrays["momentum"]), "nesterov": True}
    return make(arrays).to(DEVICE), images.to(DEVICE), torch.from_numpy(arrays["label"]).long().to(DEVICE), settings


def now() -> float:
    """Seconds, when all that was asked of the device is done."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def answer_for(file: str, compiled: bool) -> None:
    network, images, labels, settings = read(file)
    start = {name: value.clone() for name, value in network.state_dict().items()}
    cross_entropy = nn.CrossEntropyLoss()

    def task_loss():
        return cross_entropy(network(images), labels)

    loss_fn = torch.compile(task_loss) if compiled else task_loss

    def train(steps: int) -> float:
        optimizer = torch.optim.SGD(network.parameters(), **settings)
        began = now()
        for _ in range(steps):
            optimizer.zero_grad()
            loss_fn().backward()
            optimizer.step()
        return now() - began

    def block(steps: int, threads: int = 0) -> dict[str, Any]:
        """Seconds of so many steps; `threads` 0 is PyTorch's own choice."""
        torch.set_num_threads(threads or THREADS)
        network.load_state_dict(start)
        if not compiled:
            return {"seconds": train(steps)}
        try:
            return {"seconds": train(steps)}
        except Exception as error:  # whatever a compiler, or its absence, ends in
            return {"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"}

    def loss() -> float:
        with torch.no_grad():
            return float(task_loss())

    serve(block=block, loss=loss, fastest=fastest)


def fastest(edge: int, images: int, calls: int) -> dict[str, float]:
    """Floating-point operations a second of a matrix product and of a convolution, both large; the best of so many."""
    torch.set_num_threads(THREADS)
    matrix, kernel = torch.ones(edge, edge, device=DEVICE), torch.ones(64, 64, 3, 3, device=DEVICE)
    x = torch.ones(images, 64, 32, 32, device=DEVICE).contiguous(memory_format=torch.channels_last)

    def seconds(work: Callable[[], Any]) -> float:
        began = now()
        work()
        return now() - began

    best = {
        "matrix product": min(seconds(lambda: matrix @ matrix) for _ in range(calls)),
        "convolution": min(seconds(lambda: nn.functional.conv2d(x, kernel, padding=1)) for _ in range(calls)),
    }
    return {
        "matrix product": 2 * edge**3 / best["matrix product"],
        "convolution": 2 * x.numel() * kernel.numel() / 64 / best["convolution"],
    }


if __name__ == "__main__":
    answer_for(sys.argv[1], compiled="compiled" in sys.argv[2:])
