"""The page of equations, out of the docstrings: `python tests/equations.py` writes jaxtl/EQUATIONS.md anew."""

from __future__ import annotations

import ast
import functools
import re
import textwrap
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

HOUSE = Path(__file__).resolve().parent.parent
PAGE = HOUSE / "jaxtl" / "EQUATIONS.md"
ROOMS = {  # as sections, each with modules or directories below jaxtl/
    "What a parameter pays": ("penalties.py", "proximal.py", "decay.py"),
    "What a prediction pays": ("losses.py", "class_losses.py", "detection.py"),
    "Fine-tuning": ("methods/finetuning",),
    "Which source": ("methods/transferability", "selection/probes.py"),
    "Another domain": ("methods/domain", "selection/unlabelled.py"),
    "Several tasks": ("methods/multitask",),
    "Several modalities": ("methods/multimodal", "data/log_mel.py"),
    "Clients": ("methods/federated", "data/clients.py"),
    "Which λ": ("selection/ridge.py", "selection/logistic.py", "selection/implicit.py", "selection/learning.py"),
    "What a comparison says": ("protocol", "selection/ranking.py"),
}
HEAD = "# Equations\n\n" + textwrap.fill(
    "Each function beside what it computes, where it was published, and the test that compares it with something "
    "independent; where widely used code does something else, that is said. Written by `python tests/equations.py` out "
    "of the docstrings, which have shapes, units and an example.",
    150,
)


class Equation(NamedTuple):
    """A row of the page."""

    name: str
    path: Path
    line: int
    says: str
    source: str
    differs: str


def equations(places: tuple[str, ...]) -> Iterator[Equation]:
    """Public functions whose docstring names a source."""
    for place in places:
        root = HOUSE / "jaxtl" / place
        for path in sorted(root.glob("*.py")) if root.is_dir() else [root]:
            if path.stem.endswith("recipes"):  # rows that use equations
                continue
            for node in ast.parse(path.read_text()).body:
                document = ast.get_docstring(node) if isinstance(node, ast.FunctionDef) else None
                source = re.search(r"^Source: (.*?)(?:\n\n|\Z)", document or "", re.DOTALL | re.MULTILINE)
                if document and source and isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                    flat = " ".join(document.split())
                    differs = re.findall(r"[Pp]opular code (.*?)(?:\.\)|\.(?= |$))", flat)
                    says, where = document.splitlines()[0], " ".join(source[1].split())
                    yield Equation(node.name, path.relative_to(HOUSE), node.lineno, says, where, "; ".join(differs))


@functools.cache
def said_in(test: Path, room: str) -> Counter[str]:
    """How often a file of tests says a name that it has from a room, or that a table of its own has."""
    nodes = list(ast.walk(ast.parse(test.read_text())))
    imports = [node for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
    near = [node for node in imports if f"{node.module}.".startswith(f"{room}.") or room.startswith(f"{node.module}.")]
    had = {alias.asname or alias.name for node in near for alias in node.names}
    names = [node.id for node in nodes if isinstance(node, ast.Name) and node.id in had]
    inside = [
        n.attr for n in nodes if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name) and n.value.id in had
    ]
    written = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str) and had]
    return Counter([*names, *had, *inside, *written])


def file_of(one: Equation) -> Path:
    """The file of tests that says the name most often; that of the examples where none does."""
    room = ".".join(one.path.with_suffix("").parts if one.path.parts[-2] == "jaxtl" else one.path.parts[:-1])
    best = max(sorted((HOUSE / "tests").rglob("test_*.py")), key=lambda path: said_in(path, room)[one.name])
    return best.relative_to(HOUSE) if said_in(best, room)[one.name] else Path("tests/test_doctests.py")


def page() -> str:
    """The page as it has to be."""
    parts = [HEAD + "\n"]
    for title, places in ROOMS.items():
        rows = ["| function | equation | tested in | published | widely used code |", "| --- | --- | --- | --- | --- |"]
        for one in equations(places):
            test = file_of(one)
            tested = f"[{test.stem.removeprefix('test_')}](../{test})"
            cells = (f"[`{one.name}`]({one.path.relative_to('jaxtl')})", one.says, tested, one.source, one.differs)
            rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        parts.append("\n".join([f"## {title}", "", *rows, ""]))
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page())
