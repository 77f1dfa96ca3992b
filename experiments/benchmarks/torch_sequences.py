"""PyTorch's side of `experiments.benchmarks.sequences`, in eager mode on one thread, in a process without JAX.

    python -m experiments.benchmarks.torch_sequences MODEL BATCH TOKENS padded|packed      asked in lines of JSON

"packed" gives an LSTM no padding to compute, so that the last state is that of the last word; "padded" is one array.
"""

from __future__ import annotations

import importlib
import sys
import time
from typing import Any

from experiments.benchmarks.workers import on_one_core, serve

torch: Any = importlib.import_module("torch")
nn = torch.nn
WORDS, CLASSES = 10_000, 2
LSTMS = {"default": (64, 64, 1, 0.0), "classic": (100, 256, 2, 0.5)}  # embedding, hidden, layers, dropout
WIDTH, DEPTH, HEADS, KNOWN, PLACES = 384, 6, 12, 30_522, 512  # MiniLM-L6


class Recurrent(nn.Module):  # type: ignore[name-defined]  # mypy need not find torch
    """See `jaxtl.models.recurrent.Lstm`."""

    def __init__(self, embedding: int, hidden: int, layers: int, dropout: float, packed: bool):
        super().__init__()
        self.words, self.dropped, self.packed = nn.Embedding(WORDS, embedding), nn.Dropout(dropout), packed
        kind = {"bidirectional": True, "batch_first": True, "dropout": dropout}
        self.lstm, self.head = nn.LSTM(embedding, hidden, layers, **kind), nn.Linear(2 * hidden, CLASSES)

    def forward(self, tokens):
        x = self.dropped(self.words(tokens))
        if self.packed:
            lengths = (tokens > 0).sum(1)
            x = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        last = self.lstm(x)[1][0][-2:]
        return self.head(self.dropped(torch.cat([last[0], last[1]], 1)))


class Block(nn.Module):  # type: ignore[name-defined]  # mypy need not find torch
    """See `jaxtl.models.bert.PostNormBlock`."""

    def __init__(self):
        super().__init__()
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.dense = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH, 1e-12) for _ in range(2))

    def forward(self, x, seen):
        batch, tokens, width = x.shape
        heads = [part.view(batch, tokens, HEADS, -1).transpose(1, 2) for part in self.qkv(x).split(width, 2)]
        mixed = nn.functional.scaled_dot_product_attention(*heads, attn_mask=seen[:, None, None])
        x = self.norms[0](x + self.proj(mixed.transpose(1, 2).reshape(batch, tokens, width)))
        return self.norms[1](x + self.dense(x))


class Encoder(nn.Module):  # type: ignore[name-defined]  # mypy need not find torch
    """See `jaxtl.models.bert.SentenceEncoder`."""

    def __init__(self):
        super().__init__()
        self.words, self.places, self.kinds = (nn.Embedding(number, WIDTH) for number in (KNOWN, PLACES, 2))
        self.norm, self.head = nn.LayerNorm(WIDTH, 1e-12), nn.Linear(WIDTH, CLASSES)
        self.blocks = nn.ModuleList(Block() for _ in range(DEPTH))

    def forward(self, tokens):
        seen = tokens > 0
        x = (
            self.words(tokens)
            + self.places(torch.arange(tokens.shape[1]))
            + self.kinds(torch.zeros(1, dtype=torch.long))
        )
        x = self.norm(x)
        for block in self.blocks:
            x = block(x, seen)
        mean = (x * seen[..., None]).sum(1) / seen.sum(1, keepdim=True)
        return self.head(nn.functional.normalize(mean))


def network_of(name: str, packed: bool = False) -> Any:
    return Recurrent(*LSTMS[name], packed) if name in LSTMS else Encoder()


def answer_for(name: str, batch_size: int, length: int, way: str) -> None:
    torch.set_num_threads(1)
    network = network_of(name, way == "packed")
    tokens, labels = torch.randint(2, WORDS, (batch_size, length)), torch.randint(CLASSES, (batch_size,))
    optimizer, cross_entropy = torch.optim.Adam(network.parameters(), 1e-3), nn.CrossEntropyLoss()

    def forward(calls: int) -> float:
        network.eval()
        began = time.process_time()
        with torch.inference_mode():
            for _ in range(calls):
                network(tokens)
        return time.process_time() - began

    def step(calls: int) -> float:
        network.train()
        began = time.process_time()
        for _ in range(calls):
            optimizer.zero_grad()
            cross_entropy(network(tokens), labels).backward()
            optimizer.step()
        return time.process_time() - began

    serve(forward=forward, step=step)


if __name__ == "__main__":
    on_one_core()
    answer_for(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
