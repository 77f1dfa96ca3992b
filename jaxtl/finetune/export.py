"""A model for others: as ONNX, as StableHLO, or as weights with a card.

What is written is read back first, and held against the model.
"""

from __future__ import annotations

import contextlib
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl import checkpoints, files
from jaxtl.errors import InputError
from jaxtl.finetune.card import card
from jaxtl.models.convolution import by_the_library
from jaxtl.problems.source import weights_tree

ONNX, STABLEHLO, SAFETENSORS = ".onnx", ".stablehlo", ".safetensors"
ENDINGS = (ONNX, STABLEHLO, SAFETENSORS)
PLATFORMS = ("cpu", "cuda", "tpu")
NOISY = ("jax2onnx", "onnx_ir")  # loggers that tell of every shape that is left out
CLOSE = 1e-4  # of a probability or of the spread of numbers, between what was written and the model
TRIED = 2  # examples of noise that are asked


def check_ending(path: str | Path) -> str:
    """The ending of a file to be written.

    Raises:
        InputError: none that is known.
    """
    ending = Path(path).suffix.lower()
    if ending not in ENDINGS:
        what = f"cannot write {ending or 'a file without an ending'}"
        raise InputError(what, where=f"--to={path}", todo=f"use one of {', '.join(ENDINGS)}")
    return ending


def written(model: Any, path: Path) -> list[Path]:
    """Write a model in the format that the ending names.

    Args:
        model: a `Finetuned`.
        path: ends in .onnx, .stablehlo or .safetensors; replaced when it exists.

    Returns:
        The files: with weights, also a card beside them.

    Raises:
        InputError: another ending, a library that is missing, a file that cannot be written.
    """
    ending, path = check_ending(path), files.expanded(path).absolute()
    if ending == SAFETENSORS:
        files.make_room(path)
        weights = checkpoints.export(weights_tree(model.weights), path)
        record = json.dumps(model.record(), ensure_ascii=False, indent=1) + "\n"
        return [weights, files.write(path.with_suffix(".md"), card(model)), *_beside(model, path, record)]
    return [files.write(path, (_onnx if ending == ONNX else _stablehlo)(model)), *_beside(model, path)]


def _beside(model: Any, path: Path, record: str = "") -> list[Path]:
    """What else belongs to a model of texts: its tokenizer, and beside weights of words the words."""
    found = [files.write(path.with_name(f"{path.stem}.{name}"), text) for name, text in model.inputs.beside().items()]
    words = record and "terms" in model.inputs.record()
    return [*found, *([files.write(path.with_suffix(".json"), record)] if words else [])]


def prepared_to_said(model: Any) -> Callable[[jax.Array], jax.Array]:
    """What `inputs` prepares, float32 [B, size, size, 3] or int32 [B, T] -> what the model says [B, S]."""
    weights = jax.tree.map(jnp.asarray, model.weights)
    return lambda prepared: model.said_of(weights, prepared)


def _stablehlo(model: Any) -> bytes:
    from jax import export

    try:
        import flatbuffers  # noqa: F401  (which `serialize` needs and jax does not ask for)
    except ImportError:
        raise InputError("needs flatbuffers", where=STABLEHLO, todo='pip install "jaxtl[onnx]"') from None
    (batch,) = export.symbolic_shape("batch")
    prepared = jax.ShapeDtypeStruct((batch, *model.inputs.shape), model.inputs.dtype)
    with by_the_library():
        made = export.export(jax.jit(prepared_to_said(model)), platforms=PLATFORMS)(prepared)
    content = bytes(made.serialize())
    read = export.deserialize(bytearray(content))
    _hold_against(model, lambda prepared: np.asarray(read.call(prepared)), STABLEHLO)
    return content


def _onnx(model: Any) -> bytes:
    try:
        with _quiet():
            from jax2onnx import to_onnx
    except ImportError:
        raise InputError("needs jax2onnx", where=ONNX, todo='pip install "jaxtl[onnx]"') from None
    prepared = jax.ShapeDtypeStruct(("batch", *model.inputs.shape), model.inputs.dtype)
    with by_the_library(), _quiet():
        made = to_onnx(prepared_to_said(model), inputs=[prepared], model_name="jaxtl")
    for name, value in _metadata(model).items():
        entry = made.metadata_props.add()
        entry.key, entry.value = name, value
    content = made.SerializeToString()
    _hold_against(model, _onnx_reader(content), ONNX)
    return content


def _onnx_reader(content: bytes) -> Callable[[np.ndarray], np.ndarray]:
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda prepared: session.run(None, {name: prepared})[0]


def _metadata(model: Any) -> dict[str, str]:
    kind, classes = model.kind, model.classes
    said = {"classes": classes, "columns": kind.columns(classes)[len(kind.answer_column) :], "card": model.record()}
    return {name: json.dumps(value, ensure_ascii=False) for name, value in said.items()}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The library speaks of its own insides."""
    loggers = [logging.getLogger(name) for name in NOISY]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _hold_against(model: Any, read: Callable[[np.ndarray], Any], where: str) -> None:
    """What was written has to say what the model says."""
    prepared = model.inputs.noise(TRIED)
    ours = np.asarray(prepared_to_said(model)(jnp.asarray(prepared)))
    gap = float(np.abs(np.asarray(read(prepared)) - ours).max())
    if not gap <= CLOSE * model.reading.spread + 4 * float(np.spacing(np.float32(abs(model.reading.mean)))):
        what = f"what was written differs from the model by {gap:.2g}, so it was not kept"
        raise InputError(what, where=where, todo="use another format, and report this")
