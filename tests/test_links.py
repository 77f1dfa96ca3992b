"""Every link of every page leads to a file that is there, and every anchor to a heading, as hosts write them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [*ROOT.glob("*.md"), *(page for room in ("experiments", "jaxtl", "tests") for page in ROOT.glob(f"{room}/**/*.md"))]
)
LINK = re.compile(r"\]\(([^()\s]+)\)")


def prose(text):
    """A page without its code: blocks are dropped, and code within a line may hold what looks like a link."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(page):
    """The anchor of every heading: lower case, words joined by hyphens, no punctuation; a second one gets a number."""
    found = set()
    for heading in re.findall(r"^#+ (.+)$", prose(page.read_text(encoding="utf-8")), re.MULTILINE):
        words = re.sub(r"[^\w\- ]", "", re.sub(r"\[(.*?)\]\(.*?\)", r"\1", heading).lower()).replace(" ", "-")
        number = next(n for n in range(100) if f"{words}-{n}" not in found and (n or words not in found))
        found.add(f"{words}-{number}" if number else words)
    return found


def broken(page):
    """The links of a page that lead nowhere."""
    wrong = []
    for link in LINK.findall(prose(page.read_text(encoding="utf-8"))):
        place, _, anchor = link.partition("#")
        if re.match(r"https?:|mailto:", link):
            continue
        target = (page.parent / place).resolve() if place else page
        inside = target.is_relative_to(ROOT) and target.is_file()
        if not inside or (anchor and anchor not in anchors(target)):
            wrong.append(link)
    return wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page):
    assert broken(page) == []


def test_the_test_sees_a_link_that_leads_nowhere(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text("# A *b*: λ_c, `d`\n\n## A\n\n## A\n\n[1](#a-b-λ_c-d) [2](#a-1) ![3](page.md#a) [4](https://x)\n")
    assert broken(page) == []
    page.write_text(
        "# A\n\n[1](#b) [2](nowhere.md) [3](page.md#c) [4](../x.md) [5](/etc/passwd)\n\n```\n[6](x)\n# c\n```\n"
    )
    assert broken(page) == ["#b", "nowhere.md", "page.md#c", "../x.md", "/etc/passwd"]


def test_every_picture_of_an_experiment_is_shown_by_a_page():
    shown = {
        (page.parent / link).resolve() for page in PAGES for link in LINK.findall(page.read_text(encoding="utf-8"))
    }
    assert [
        picture.name for picture in (ROOT / "experiments/pictures").iterdir() if picture.resolve() not in shown
    ] == []
