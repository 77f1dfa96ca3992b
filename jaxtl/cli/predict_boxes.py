"""What a detector finds in pictures: a table, JSON, pictures with boxes drawn on them."""

from __future__ import annotations

import collections
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxtl import files
from jaxtl.cli.rows import FORMULA, SHOWN, line, told_bad
from jaxtl.data import decode
from jaxtl.data.one_size import header_of
from jaxtl.errors import InputError
from jaxtl.finetune.boxes.model import Detecting, Found
from jaxtl.report.plots.style import PALETTE
from jaxtl.terminal import Terminal
from jaxtl.writers import Progress

COLUMNS = ["file", "class", "score", "x", "y", "w", "h"]
FEW = 6  # boxes of a picture that are told in a line


def predict_boxes(model: Detecting, where: str, out: str, as_json: str, drawn: str, least: str) -> None:
    """Find, tell, write and draw.

    Args:
        model: the detector.
        where: a folder of pictures, at any depth, or one.
        out, as_json: files to be written, "" for none.
        drawn: a folder for pictures with boxes drawn on them.
        least: the score from which on boxes are told; "" for that of the model.

    Raises:
        InputError: no picture that can be read, a score that is none.
    """
    score = score_of(least, model.sure)
    called, sources = model.inputs.sources(where)
    console, bad = Terminal(soft_wrap=True), list[tuple[str, str]]()
    counts, empty, read = collections.Counter[str](), 0, 0
    table, entries = list[list[str]](), list[str]()
    with Progress(len(sources), "predicting") as progress:
        for name, (source, found) in zip(called, model.predict(sources), strict=True):
            progress.advance(1)
            if isinstance(found, InputError):
                bad.append((name, found.what))
                continue
            sure, read = found.from_on(score), read + 1
            empty += not len(sure.labels)
            counts.update(model.classes[k] for k in sure.labels)
            boxes = list(_boxes(model, sure))
            safe = f"./{name}" if name.startswith(FORMULA) else name  # the same file, and no command of a spreadsheet
            table += [[safe, kind, f"{p:.6g}", *(f"{value:.2f}" for value in box)] for kind, p, box in boxes]
            entries += [
                json.dumps({"file": name, "class": kind, "score": p, "bbox": box}, ensure_ascii=False)
                for kind, p, box in boxes
            ]
            if drawn:
                draw(source, Path(files.expanded(drawn), f"{name}.png"), boxes, model.classes)
            if not (out or as_json or drawn) and read <= SHOWN:
                console.print(f"{safe}  {_in_words(boxes)}")
    told_bad(console, bad)
    if not read:
        raise InputError(f"none of {len(sources)} files is a picture that can be read", where=where, todo="give others")
    told = ", ".join(f"{count} {name}" for name, count in counts.most_common(10)) or "nothing"
    console.print(
        f"{read:,} pictures: {told}, from a score of {score:.2f} on; {empty} pictures without a box; {len(bad)} files "
        "not read"
    )
    if out:
        _written(console, out, b"".join(map(line, [COLUMNS, *table])))
    if as_json:
        _written(console, as_json, "[\n" + ",\n".join(entries) + "\n]\n")
    if drawn:
        console.print(f"wrote {drawn}")


def score_of(text: str, usual: float) -> float:
    """A score from 0 to 1.

    Raises:
        InputError: another text.

    Example:
        >>> score_of("", 0.3), score_of("0.5", 0.3)
        (0.3, 0.5)
    """
    try:
        score = float(text or usual)
    except ValueError:
        score = -1.0
    if not 0 <= score <= 1:
        raise InputError(f"'{text[:40]}' is no score", where="--least", todo="use 0 to 1")
    return score


def _boxes(model: Detecting, found: Found) -> Iterator[tuple[str, float, list[float]]]:
    """(class, score, x, y, w, h in pixels of the picture) of each box."""
    for (x0, y0, x1, y1), label, score in zip(found.boxes.tolist(), found.labels, found.scores, strict=True):
        yield model.classes[label], float(score), [x0, y0, x1 - x0, y1 - y0]


def _in_words(boxes: Sequence[tuple[str, float, list[float]]]) -> str:
    words = [f"{kind} {p:.2f} [{', '.join(f'{value:.0f}' for value in box)}]" for kind, p, box in boxes[:FEW]]
    return "; ".join([*words, *([f"{len(boxes) - FEW} more"] if len(boxes) > FEW else [])]) or "nothing"


def _written(console: Terminal, out: str, content: Any) -> None:
    files.write(files.expanded(out).absolute(), content)
    console.print(f"wrote {out}")


def draw(source: Path, target: Path, boxes: Sequence[tuple[str, float, list[float]]], classes: Sequence[str]) -> None:
    """A picture with its boxes, as a PNG of its own size, upright.

    Args:
        source: the file.
        target: what is written.
        boxes: (class, score, x, y, w, h).
        classes: whose places are colours.
    """
    from PIL import Image, ImageDraw, ImageFont

    header = header_of(source)
    with decode.opened(source) as opened:
        white: dict[str, float] = {}
        if header.deep:
            white = decode.white_levels([decode.top_level(opened, source)])
        picture = Image.fromarray(decode.pixels(opened, False, white, source))
    pen, width = ImageDraw.Draw(picture), max(1, round(max(picture.size) / 300))
    font: Any = ImageFont.load_default(max(11, round(max(picture.size) / 40)))
    for kind, score, (x, y, w, h) in boxes:
        colour = PALETTE[list(classes).index(kind) % len(PALETTE)]
        pen.rectangle((x, y, max(x, x + w - 1), max(y, y + h - 1)), outline=colour, width=width)
        label = "".join(c if c.isprintable() and ord(c) < 0x250 else "?" for c in kind)[:24]
        pen.text((x + width + 1, y + width), f"{label} {score:.2f}", fill=colour, font=font)
    content = io.BytesIO()
    picture.save(content, "PNG")
    files.write(target, content.getvalue())
