"""The page of a result, `experiments/NAME.md`, from what a finished run has written: `--publish`.

Question and command come first, then the verdicts, then the run's own summary. Pictures go to `pictures/` beside it,
with fewer colours, which for drawings are enough.
"""

from __future__ import annotations

import io
import itertools
import os
import re
from pathlib import Path

from jaxtl import files
from jaxtl.cli.workdir import TABLE, Record, few, read
from jaxtl.errors import InputError
from jaxtl.report.plots.style import PALETTE
from jaxtl.text import markdown

WRITTEN = "Written by the run itself: the same command with `--publish`."
PICTURE = re.compile(r"\]\(plots/([\w.+-]+)\.png\)")
VERDICT = re.compile(r"- .+ vs .+ over \d+ (draw|replicate|cell)s?: .+")
COLOURS, ROUNDS = 256, 3  # of a picture; of its palette, without which shades turn into bands


def page_of(experiment: Path) -> Path:
    """Where the page of an experiment is, given its source file."""
    return experiment.with_suffix(".md")


def check(experiment: Path, forked: bool = False) -> None:
    """Whether a page may be written there, before the work rather than after it.

    Raises:
        InputError: a fork, an installed or read-only copy, or a file in its place that no run has written.
    """
    if forked:
        raise InputError(
            "a fork has no page of its own: the summary.md of its run is ready to paste", where="--publish"
        )
    page = page_of(experiment)
    installed = {"site-packages", "dist-packages"} & {*page.parts}
    if installed or not os.access(page.parent, os.W_OK):
        raise InputError("is no place to publish in: run a copy that may be written", where=page.parent)
    if (earlier := files.read(page)) is not None and WRITTEN.encode() not in earlier:
        raise InputError("was not written by a run: move it away to publish here", where=page)


def write(experiment: Path, docstring: str, workdir: Path, now: Record) -> list[Path]:
    """Write the page and its pictures.

    Args:
        experiment: its source file.
        docstring: of that file; what stands before its commands is the question.
        workdir: of the finished run.
        now: the code as it is.

    Returns:
        The files.

    Raises:
        InputError: the run has written no summary, or a file cannot be written.
    """
    page, summary = page_of(experiment), files.read(workdir / TABLE)
    if summary is None:
        raise InputError(f"the run has no {TABLE}", where=workdir)
    text = summary.decode().replace(f"{Path.home()}/", "~/")  # where someone lives is nobody's business
    pictures = {name: f"pictures/{page.stem}_{name}.png" for name in PICTURE.findall(text)}
    written = [
        files.write(page.parent / place, _small(workdir / "plots" / f"{name}.png"))
        for name, place in dict(sorted(pictures.items())).items()
    ]
    earlier = read(workdir)
    changed = earlier.changed_code(now) if earlier else []
    note = f"> **Note:** the code has changed since this run: {markdown(few(changed, ', '))}" if changed else ""
    text = PICTURE.sub(lambda found: f"]({pictures[found[1]]})", composed(text, question_of(docstring), note))
    return [*written, files.write(page, text)]


def question_of(docstring: str) -> str:
    r"""What stands in a docstring before its commands.

    Example:
        >>> question_of("Which?\n\nOf two.\n\n    python -m experiments.x\n\nMeasured: this one.")
        'Which?\n\nOf two.'
    """
    return re.split(r"\n\n {4}", docstring.strip(), maxsplit=1)[0]


def composed(summary: str, question: str, note: str = "") -> str:
    r"""A summary.md as a page: the question and the command at the top, the verdicts before everything else.

    Example:
        >>> facts, verdict = "- Minutes: 1.0\n- Command: `python -m x`", "- a vs b: +1.00 points over 8 draws: helps"
        >>> page = composed(f"# x\n\n{facts}\n\n## A\n\n**Fixed**\n\n{verdict}", "Which?").splitlines()
        >>> [line for line in page if line][:8]  # doctest: +NORMALIZE_WHITESPACE
        ['# x', 'Which?', '```', 'python -m x', '```', '## Answer', '**A: Fixed**',
         '- a vs b: +1.00 points over 8 draws: helps']
    """
    title, *blocks = summary.strip().split("\n\n")
    facts = next((block for block in blocks if "\n- Command: `" in f"\n{block}"), "")
    command = re.search(r"^- Command: (`+) ?(.+?) ?\1$", facts, re.MULTILINE)
    answer, body, section = list[str](), list[str](), ""
    for block in blocks:
        section = block.removeprefix("## ") if block.startswith("## ") else section
        if all(VERDICT.fullmatch(line) for line in block.splitlines()):
            heading = body.pop().strip("*") if body and body[-1].startswith("**") else ""
            answer += [f"**{': '.join(filter(None, (section, heading)))}**", block]
        elif block is facts:
            body.append("\n".join(line for line in block.splitlines() if not line.startswith("- Command: ")))
        else:
            body.append(block)
    emptied = [a.startswith("## ") and b.startswith("## ") for a, b in itertools.pairwise([*body, "## "])]
    body = [block for block, is_empty in zip(body, emptied, strict=True) if not is_empty]
    asked = ["```", *([command[2]] if command else []), "```"]
    head = [title, question, "\n".join(asked), *([note] if note else [])]
    return "\n\n".join([*head, *(["## Answer", *answer] if answer else []), *body, WRITTEN]) + "\n"


def _small(path: Path) -> bytes:
    """A picture in few colours; those that lines are drawn in stay what they are, beside any photograph."""
    from PIL import Image

    small, drawn = io.BytesIO(), [int(colour[k : k + 2], 16) for colour in PALETTE for k in (1, 3, 5)]
    with Image.open(io.BytesIO(files.content(path)), formats=("PNG",)) as picture:
        full = picture.convert("RGB")
    count = COLOURS - len(PALETTE)
    found = full.quantize(count, kmeans=ROUNDS, dither=Image.Dither.NONE).getpalette() or []
    palette = Image.new("P", (1, 1))
    palette.putpalette(found[: 3 * count] + drawn)
    full.quantize(palette=palette, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    return small.getvalue()
