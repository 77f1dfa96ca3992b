"""The rows of `experiments.benchmarks.step`: which way of taking a step is measured, by which process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from experiments.benchmarks.results import is_here
from experiments.benchmarks.variants import RESIDUAL, network_and_batch


class Row(NamedTuple):
    """What is measured: words of the table, the process that is asked and what it is asked for."""

    words: str
    process: str
    asked: Mapping[str, Any]
    huge_pages: bool = True
    residual: bool = True  # also on residual networks, whose steps are long


def ours(words: str, variant: str, **rest: Any) -> Row:
    return Row(words, "jax", {"variant_name": variant}, **rest)


BASE = "plain"
PEERS = {
    BASE: ours("jaxtl, no penalty", "plain"),
    "again": ours("jaxtl once more: noise", "plain"),
    "small_pages": ours("jaxtl, no huge pages", "plain", huge_pages=False, residual=False),
    "fit": ours("jaxtl, by fit, single steps", "fit", residual=False),
    "dispatched": ours("jaxtl, by fit as it is", "dispatched", residual=False),
    "by_hand": ours("by hand: value_and_grad, optax.sgd, jit", "by_hand"),
    "torch": Row("PyTorch, eager", "torch", {}),
    "torch_small_pages": Row("PyTorch, eager, no huge pages", "torch", {}, huge_pages=False, residual=False),
    "torch_one_thread": Row("PyTorch, eager, one thread", "torch", {"threads": 1}, residual=False),
    "compiled": Row("PyTorch, torch.compile", "compiled", {}),
}
COSTS = {
    "l2": ours("L2 by label in the loss", "l2", residual=False),
    "l2_sp": ours("L2-SP", "l2_sp", residual=False),
    "decay": ours("coupled decay by label", "decay", residual=False),
    "both_pulls": ours("both pulls on one label", "both_pulls"),
    "frozen": ours("frozen trunk", "frozen"),
}
ROWS = PEERS | COSTS
FULL_STEPS = (BASE, "by_hand", "torch", "compiled")  # rows whose share of the peak is told


def rows_of(name: str) -> dict[str, Row]:
    """The rows that are measured on this problem, here."""
    residual, torch = network_and_batch(name)[0] in RESIDUAL, is_here("torch")
    return {
        row_name: row
        for row_name, row in ROWS.items()
        if (row.residual or not residual) and (torch or row.process == "jax")
    }
