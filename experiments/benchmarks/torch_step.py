"""PyTorch's side of `experiments.benchmarks.step`: the same network, numbers and SGD, in a process without JAX.

Every line on stdin is a JSON object {"problem": an .npz file, "steps": a block of so many, "threads": 0 for PyTorch's
choice}; the answer on stdout is {"seconds": of the block, "loss": after it}. Each block starts from the parameters in
the file.
"""

from __future__ import annotations

import functools
import importlib
import json
import sys
import time

import numpy as np

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
        kernel = arrays[f"trunk/conv_{i}/kernel"]
        inputs, outputs = kernel.shape[2:]
        convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        modules.append(layer(convolution, kernel, (3, 2, 0, 1), None))
        modules += [nn.GroupNorm(outputs // min(8, outputs), outputs, eps=1e-6), nn.ReLU()]
        modules.append(nn.MaxPool2d(2) if i < count - 1 else nn.AdaptiveAvgPool2d(1))
    network = nn.Sequential(*modules, nn.Flatten(), dense(arrays, "head"))
    return network.to(memory_format=torch.channels_last)


@functools.cache
def read(problem: str):
    with np.load(problem, allow_pickle=False) as file:
        arrays = dict(file)
    images = torch.from_numpy(arrays["image"]).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
    make = cnn if "trunk/conv_0/kernel" in arrays else mlp
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
        return {"seconds": seconds, "loss": float(cross_entropy(network(images), labels))}


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(block(**json.loads(line))), flush=True)
