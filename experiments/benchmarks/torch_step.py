"""PyTorch's side of `experiments.benchmarks.step`: the same network, numbers and SGD, in a process without JAX.

Every line on stdin is a JSON object {"problem": an .npz file, "steps": a block of so many, "threads": 0 for PyTorch's
choice}; the answer on stdout is {"seconds": of the block, "loss": after it, "peak": bytes of memory so far}. Each block
starts from the parameters in the file.
"""

from __future__ import annotations

import functools
import importlib
import json
import sys
import time

import numpy as np
from memory import peak_memory  # type: ignore[import-not-found]  # run as a file, beside it

torch = importlib.import_module("torch")
nn = torch.nn
THREADS = torch.get_num_threads()


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


@functools.cache
def read(problem: str):
    with np.load(problem, allow_pickle=False) as file:
        arrays = dict(file)
    images = torch.from_numpy(arrays["image"]).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
    make = residual if "trunk/stem/kernel" in arrays else cnn if "trunk/conv_0/kernel" in arrays else mlp
    settings = {"lr": float(arrays["learning_rate"]), "momentum": float(arrays["momentum"]), "nesterov": True}
    return functools.partial(make, arrays), images, torch.from_numpy(arrays["label"]).long(), settings


def block(problem: str, steps: int, threads: int) -> dict[str, float]:
    torch.set_num_threads(threads or THREADS)
    make, images, labels, settings = read(problem)
    network, cross_entropy = make(), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(network.parameters(), **settings)
    began = time.perf_counter()
    for _ in range(steps):
        optimizer.zero_grad()
        cross_entropy(network(images), labels).backward()
        optimizer.step()
    seconds = time.perf_counter() - began
    with torch.no_grad():
        loss = float(cross_entropy(network(images), labels))
    return {"seconds": seconds, "loss": loss, "peak": peak_memory()}


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(block(**json.loads(line))), flush=True)
