"""What PyTorch makes of a small BERT with given weights: figures that `models.bert` must give.

    python tests/oracles/torch_bert.py     (needs torch; prints `FEATURES`, which the tests read)

The layers are PyTorch's own (`torch.nn.TransformerEncoderLayer`), under the names that transformers gives to weights.
"""

from __future__ import annotations

import numpy as np
from oracles.torch_trunks import wave

ENDS = ("weight", "bias")
WIDTH, DEPTH, HEADS, WORDS, PLACES = 16, 2, 4, 40, 12
TOKENS = np.array([[1, 5, 9, 39, 2, 0, 0, 0], [1, 7, 3, 8, 11, 20, 6, 2]], np.int32)
FEATURES = np.array(
    (
        *(-0.100362, 0.368457, -0.253531, -0.116113, 0.046476, 0.409635, -0.195328, -0.092043),
        *(0.131245, -0.207317, -0.058746, 0.540759, -0.243256, 0.240017, -0.27814, -0.097984),
        *(-0.16459, 0.237503, -0.12511, -0.22545, 0.149015, 0.496916, -0.356684, -0.187592),
        *(0.126886, -0.071024, -0.102062, 0.454909, -0.299687, 0.218527, -0.18406, 0.092355),
    )
).reshape(2, WIDTH)


def weights() -> dict[str, np.ndarray]:
    """All of them, with names and shapes as in a file of transformers."""
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (WORDS, WIDTH),
        "embeddings.position_embeddings.weight": (PLACES, WIDTH),
        "embeddings.token_type_embeddings.weight": (2, WIDTH),
        "embeddings.LayerNorm": (WIDTH,),
        "pooler.dense": (WIDTH, WIDTH),
    }
    for i in range(DEPTH):
        layer = f"encoder.layer.{i}"
        shapes |= {f"{layer}.attention.self.{name}": (WIDTH, WIDTH) for name in ("query", "key", "value")}
        shapes |= {f"{layer}.attention.output.dense": (WIDTH, WIDTH), f"{layer}.attention.output.LayerNorm": (WIDTH,)}
        shapes |= {f"{layer}.intermediate.dense": (4 * WIDTH, WIDTH), f"{layer}.output.dense": (WIDTH, 4 * WIDTH)}
        shapes |= {f"{layer}.output.LayerNorm": (WIDTH,)}
    found: dict[str, np.ndarray] = {"embeddings.position_ids": np.arange(PLACES)[None]}
    for name, shape in shapes.items():
        if name.endswith(".weight"):
            found[name] = wave(name, shape)
            continue
        found[f"{name}.weight"] = wave(f"{name}.weight", shape) / 2 + (len(shape) == 1)
        found[f"{name}.bias"] = wave(f"{name}.bias", shape[:1]) / 5
    return found


def results() -> np.ndarray:
    """[2, WIDTH]: the mean over tokens, of length 1."""
    import torch

    given = {name: torch.tensor(array) for name, array in weights().items()}
    tokens = torch.tensor(TOKENS).long()
    seen = tokens > 0
    tables = [given[f"embeddings.{name}_embeddings.weight"] for name in ("word", "position", "token_type")]
    x = tables[0][tokens] + tables[1][: tokens.shape[1]] + tables[2][0]
    norm = given["embeddings.LayerNorm.weight"], given["embeddings.LayerNorm.bias"]
    x = torch.nn.functional.layer_norm(x, (WIDTH,), *norm, eps=1e-12)
    for i in range(DEPTH):
        layer = torch.nn.TransformerEncoderLayer(WIDTH, HEADS, 4 * WIDTH, 0.0, "gelu", 1e-12, batch_first=True)
        of = f"encoder.layer.{i}"
        mixed = [f"{of}.attention.self.{name}" for name in ("query", "key", "value")]
        own = {f"self_attn.in_proj_{end}": torch.cat([given[f"{one}.{end}"] for one in mixed]) for end in ENDS}
        theirs = {
            **{"self_attn.out_proj": "attention.output.dense", "norm1": "attention.output.LayerNorm"},
            **{"linear1": "intermediate.dense", "linear2": "output.dense", "norm2": "output.LayerNorm"},
        }
        own |= {f"{ours}.{end}": given[f"{of}.{name}.{end}"] for ours, name in theirs.items() for end in ENDS}
        layer.load_state_dict(own)
        x = layer(x, src_key_padding_mask=~seen)
    mean = (x * seen[..., None]).sum(1) / seen.sum(1, keepdim=True)
    return torch.nn.functional.normalize(mean).detach().numpy()


if __name__ == "__main__":
    print(np.array2string(results(), separator=", ", precision=6, max_line_width=110))
