"""Whatever names hold, a terminal and a page show it and do not obey it."""

from __future__ import annotations

import io
import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from jaxtl import files
from jaxtl.cli import export
from jaxtl.data import from_arrays
from jaxtl.errors import InputError
from jaxtl.report import Plot, Section, Table, print_data, print_section, write_sections
from jaxtl.report.plots.style import new_figure
from jaxtl.terminal import Terminal
from jaxtl.text import code, latex, markdown, printable

EVIL = {
    "colours": "\x1b[31mred\x1b[0m",
    "a screen that is cleared": "\x1b[2J\x1b]0;title\x07",
    "backspaces": "rm\b\bls",
    "a carriage return": "right\rwrong",
    "a line": "a\n\n# b",
    "another line": "a\u2028b\x85c",
    "right to left": "\u202egnp.exe",
    "no width": "a\u200bb\ufeff",
    "half a pair": "\udcff\ud800",
    "a script": "<script>x</script>",
    "a picture": "![x](http://y/z.png)",
    "a link": "[x](y) [x][y] [x]: y",
    "a column": "a|b",
    "code": "`x` ``y``",
    "markup of rich": "[/b] [bold] :smile:",
    "a backslash": "\\[x](y)",
    "an entity": "&lt;",
}
OBEYED = re.compile(r"[^\n\w\W]|[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\ufeff\ud800-\udfff]")


@pytest.mark.parametrize("name", EVIL.values(), ids=EVIL)
@pytest.mark.parametrize("terminal", [False, True])
def test_a_section_shows_names_and_obeys_none(name, terminal, tmp_path):
    figure = Plot("empty", name, lambda: new_figure(1, 1, "x"))
    section = Section(f"Of {name}", [Table([name, "x"], [[name, "1"]])], [f"{name}: a line"], [figure])
    for console in (Console, Terminal):
        said = io.StringIO()
        print_section(console(file=said, force_terminal=terminal, color_system=None, width=300), section)
        assert OBEYED.search(said.getvalue()) is None
        assert said.getvalue().count(printable(name)) == 4
    header = {"experiment": name, "data": name, "device": name, "command": name, "config": {"name": name}}
    page, numbers = write_sections(tmp_path, header, {}, [section])[1:]
    text = page.read_text(encoding="utf-8")
    assert OBEYED.search(text) is None
    assert f"- Command: {code(name)}\n" in text
    text = text.replace(code(name), "")  # within a fence nothing is obeyed
    assert not re.search(r"<|[^\\]\](?=[(\[:])(?!\(plots/)", text)
    headings = [line for line in text.splitlines() if line.startswith("#")]
    assert headings == [f"# {markdown(name)}", f"## {markdown(f'Of {name}')}"]
    assert len([line for line in text.splitlines() if line.startswith("|")]) == 3
    assert json.loads(numbers.read_text(encoding="utf-8"))["config"]["name"] == name


@pytest.mark.parametrize("name", EVIL.values(), ids=EVIL)
def test_the_line_about_the_data_shows_names(name):
    data = from_arrays(np.zeros((4, 3, 3), np.uint8), [0, 1, 0, 1], classes=[name, "b"], origin=name, test_fraction=0.5)
    said = io.StringIO()
    print_data(Console(file=said, width=400), target=data)
    assert OBEYED.search(said.getvalue()) is None
    assert printable(name) in said.getvalue()


@settings(deadline=None, derandomize=True, database=None)
@given(st.text(st.characters(codec=None) | st.sampled_from("\\`*[]()<>&|!%$#_{}~^\n\x1b"), max_size=30))
def test_escapes_hold_for_any_text(text):
    seen = printable(text)
    assert seen.isprintable()
    assert printable(seen) == seen
    said = io.StringIO()
    Terminal(file=said, width=1000).print(text)
    assert said.getvalue() == seen + "\n"
    page = markdown(text)
    assert not set(page) & set("<>\n\x1b")
    assert not re.search(r"(?<!\\)(\\\\)*[`*|]|(?<!\\)(\\\\)*\][(\[:]", page)
    bare = re.sub(r"\\[a-z]+\{\}|\$[^$]*\$|\\[&%$#_{}]", "", latex(text))
    assert not set(bare) & set("&%$#_{}\\~^<>|\n")
    fence = re.match("`+", code(text))
    assert fence
    assert code(text).count(fence[0]) == 2 or text == ""


def test_text_that_has_no_utf8_is_written_as_json_reads_it(tmp_path):
    path = files.write(tmp_path / "x.json", json.dumps({"name": "\udcff λ"}, ensure_ascii=False))
    assert json.loads(path.read_text(encoding="utf-8")) == {"name": "\udcff λ"}


def test_tables_of_a_finished_run_are_written_for_latex(tmp_path):
    table = Table(["method", "accuracy"], [["l2_sp", "66.1 ± 2.0"], ["a & b", "−3 %"]])
    sections = [Section("What came out: n = 5", [table]), Section("And more", [table])]
    header = {"experiment": "toy", "data": "digits", "device": "cpu", "config": {}, "command": "python -m x"}
    write_sections(tmp_path / "run", header, {}, sections)
    export.main([str(tmp_path / "run"), f"--to={tmp_path / 'tables.tex'}"])
    lines = (tmp_path / "tables.tex").read_text().splitlines()
    assert lines[:9] == [
        "% What came out: n = 5",
        r"\begin{tabular}{lr}",
        r"\toprule",
        r"method & accuracy \\",
        r"\midrule",
        r"l2\_sp & 66.1 $\pm$ 2.0 \\",
        r"a \& b & $-$3 \% \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]
    assert lines[10] == "% And more"
    for run, says in ((tmp_path, "summary.md"), (tmp_path / "none", "summary.md")):
        with pytest.raises(InputError, match=says):
            export.main([str(run), "--to=x.tex"])
    (tmp_path / "summary.md").write_text("# no table\n")
    with pytest.raises(InputError, match="no table"):
        export.main([str(tmp_path), "--to=x.tex"])
