"""The questions page: its figures stand, to the letter, on the pages that it links to; every snippet is listed."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from test_links import prose

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "experiments/questions.md"
LINK = re.compile(r"\]\(([\w./]+\.(?:md|py))?(?:#([^()\s]+))?\)")
# A number, and the interval or standard deviation behind it. What is part of a name (L2, CIFAR-10) is none.
FIGURE = re.compile(r"(?<![\w.\-])[+−]?\d+(?:,\d{3})*(?:\.\d+)?(?: ± [\d.]+| \[−?[\d.]+, −?[\d.]+\])?(?!\w)")
CONVENTIONS = {"95", "0", "1"}  # per cent of an interval, what a pull goes to, the margin: no figures of a run


def blocks(text):
    """Rows of tables and paragraphs, without code: what says its figures and its page together."""
    for paragraph in re.sub(r"`[^`\n]*`", "", prose(text)).split("\n\n"):
        yield from paragraph.splitlines() if paragraph.startswith("|") else [paragraph.replace("\n", " ")]


def said(text):
    """As figures are compared: "+1.0 points [0.5, 1.5]" is "+1.0 [0.5, 1.5]"."""
    return re.sub(r"\s+", " ", re.sub(r"\s+points(?=\s+\[)", "", text))


def section(text, anchor):
    """The part of a page under a heading, by its anchor; the whole of it without one."""
    if not anchor:
        return text
    parts = re.split(r"^(#+ .+)$", text, flags=re.MULTILINE)
    as_anchor = [re.sub(r"[^\w\- ]", "", part.lstrip("# ").lower()).replace(" ", "-") for part in parts]
    return parts[as_anchor.index(anchor) + 1]


def unfounded(text, home=PAGE.parent):
    """Figures of a page that do not stand where the same row or paragraph links to."""
    wrong = []
    for block in blocks(text):
        if block.startswith("#"):
            continue
        pages = [(home / place, anchor) for place, anchor in LINK.findall(block) if place]
        there = said("\n".join(section(page.read_text(encoding="utf-8"), anchor) for page, anchor in pages))
        for figure in FIGURE.findall(said(LINK.sub("]", block))):
            if figure not in CONVENTIONS and not re.search(rf"(?<![\d.,+−]){re.escape(figure)}(?!\d|[.,]\d)", there):
                wrong.append(figure)
    return wrong


def test_every_figure_stands_on_the_page_that_its_row_links_to():
    text = PAGE.read_text(encoding="utf-8")
    assert unfounded(text) == []
    assert sum(len(FIGURE.findall(block)) for block in blocks(text)) > 60


@pytest.mark.parametrize(
    ("row", "wrong"),
    [
        ("| a | +1.07 [0.56, 1.59] | [x](page.md) |", []),
        ("| a | +1.07 [0.56, 1.58] | [x](page.md) |", ["+1.07 [0.56, 1.58]"]),
        ("| a | −1.07 [0.56, 1.59] | [x](page.md) |", ["−1.07 [0.56, 1.59]"]),
        ("| a | 1.07 | [x](page.md) |", ["1.07"]),
        ("| a | +1.0 | 7 | [x](page.md) |", ["+1.0", "7"]),
        ("| a | 64.6 ± 1.0 | [x](page.md#second) |", []),
        ("| a | 64.6 ± 1.0 | [x](page.md#first) |", ["64.6 ± 1.0"]),
        ("| a | 64.6 ± 1.0 |", ["64.6 ± 1.0"]),
        ("L2 of CIFAR-10 is `3` in 95 % of 20 cases, see\n[x](page.md#second).", ["20"]),
    ],
)
def test_a_figure_that_is_altered_or_elsewhere_is_seen(tmp_path, row, wrong):
    (tmp_path / "page.md").write_text("# P\n\n## First\n\n+1.07 points\n[0.56, 1.59]\n\n## Second\n\n| 64.6 ± 1.0 |\n")
    assert unfounded(row, tmp_path) == wrong


def test_every_question_has_a_command_and_a_table():
    _, *questions = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    asked = [question for question in questions if question.splitlines()[0].endswith("?")]
    assert len(asked) >= 8
    for question in asked:
        assert "\npython -m experiments." in question
        assert "\n| --- |" in question


def test_every_snippet_that_a_test_shows_failing_is_listed_and_no_other():
    tests = ast.parse((ROOT / "tests/test_snippets.py").read_text(encoding="utf-8")).body
    shown = {node.name for node in tests if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}
    listed = re.findall(r"\[`(\w+)`\]\(\.\./tests/test_snippets\.py\)", PAGE.read_text(encoding="utf-8"))
    assert sorted(listed) == sorted(shown)
