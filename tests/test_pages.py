"""Sections of a report, on a console and in files, and the pictures along λ."""

import io
import json
import math

import numpy as np
import pytest
from rich.console import Console

from jaxtl.errors import InputError
from jaxtl.protocol import Run
from jaxtl.report import Page, Plot, Section, Table, print_section, write_sections
from jaxtl.report.plots.paths import coefficient_paths, criteria_along
from jaxtl.report.plots.style import new_figure, styled

HEADER = {"experiment": "toy", "data": "three numbers", "device": "none", "config": {"steps": 3}}
SECTION = Section(
    "What came out",
    [Table(["name", "value"], [["one", "1.0"], ["a|b", "2.0"]])],
    ["A remark that is longer than a narrow terminal is wide, and is not wrapped in a log file."],
    [Plot("empty", "An empty picture", lambda: new_figure(3, 2, "empty"))],
)


def test_a_log_file_gets_lines_as_they_are():
    file = io.StringIO()
    print_section(Console(file=file, width=30, highlight=False), SECTION)
    assert file.getvalue().splitlines()[1:4] == ["What came out", "", "name  value"]
    assert SECTION.lines[0] in file.getvalue().splitlines()


def test_files_hold_tables_remarks_pictures_and_numbers(tmp_path):
    written = write_sections(tmp_path, HEADER, {"loss": math.nan, "curve": np.array([1.0, 2.0])}, [SECTION, SECTION])
    assert [path.name for path in written] == ["empty.png", "empty.png", "summary.md", "summary.json"]
    text = (tmp_path / "summary.md").read_text()
    assert text.startswith("# toy\n\n- Data: three numbers\n- Device: none\n\n## What came out\n\n| name | value |")
    assert "| a\\|b |   2.0 |\n\n- A remark" in text
    assert "![An empty picture](plots/empty.png)" in text
    numbers = json.loads((tmp_path / "summary.json").read_text())
    assert (numbers["loss"], numbers["curve"], numbers["config"]) == (None, [1.0, 2.0], {"steps": 3})


def test_a_report_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "plots").write_text("in the way")
    with pytest.raises(InputError, match=r"plots/empty.png: cannot be written"):
        write_sections(tmp_path, HEADER, {}, [SECTION])


def test_a_page_shows_sections_as_they_come_and_says_in_the_end_what_it_wrote(tmp_path):
    file = io.StringIO()
    page = Page(Console(file=file, width=30, highlight=False), preset="smoke")
    page.add(SECTION, {"loss": 1.0})
    shown = file.getvalue()
    assert shown.splitlines()[1] == "What came out (a check, not a result)"
    page.add(SECTION._replace(heading="Later", plots=()))
    page.write(tmp_path, HEADER, {"tried": [Run("l2", "report", "tuned", 0, None, 0, {}, metrics={"test": 0.5})]})
    assert file.getvalue().startswith(shown)
    names = ("tried.csv", "plots/empty.png", "summary.md", "summary.json")
    assert file.getvalue().endswith("\n\n" + "".join(f"wrote {tmp_path / name}\n" for name in names))
    assert json.loads((tmp_path / "summary.json").read_text())["loss"] == 1.0
    text = (tmp_path / "summary.md").read_text()
    assert text.index("## What came out") < text.index("## Later")
    assert (tmp_path / "tried.csv").read_text().splitlines()[1].startswith("l2,report,tuned,0")


def test_coefficient_paths_show_every_coefficient_and_count_exact_zeros():
    lams = np.array([0.1, 1.0, 10.0])
    path = np.array([[1.0, -2.0, 0.5], [0.5, 0.0, 1e-9], [0.0, 0.0, 0.0]])
    with styled():
        figure = coefficient_paths("toy", lams, {"l1": path, "l2": path + 1}, {"a": "x", "b": "x", "c": "y"})
    above, other, below, _ = figure.axes
    lines = {line.get_label(): line for line in above.get_lines()}
    np.testing.assert_array_equal(lines["b (x)"].get_ydata(), path[:, 1])
    assert lines["a (x)"].get_color() == lines["b (x)"].get_color() != lines["c (y)"].get_color()
    assert lines["a (x)"].get_linestyle() != lines["b (x)"].get_linestyle()
    assert list(below.get_lines()[0].get_ydata()) == [0, 1, 3]
    assert other.get_title(loc="left") == "l2"


def test_criteria_are_marked_at_their_minimum():
    lams = np.logspace(-2, 2, 5)
    curves = {"AIC": np.array([3.0, 2.0, 1.0, 4.0, 9.0]), "error": np.arange(5.0), "LOO": np.array([3, 2, 1, 0, 9.0])}
    with styled():
        figure = criteria_along("toy", lams, curves)
    for axis, (name, k) in zip(figure.axes, {"AIC": 2, "error": 0, "LOO": 3}.items(), strict=False):
        mark = axis.get_lines()[-1]
        assert (mark.get_xdata()[0], mark.get_ydata()[0]) == (lams[k], curves[name][k])
        assert axis.get_title(loc="left").startswith(f"{name}: smallest at λ = {lams[k]:g}")
        low, high = axis.get_ylim()
        assert low < curves[name].min() < high
    assert not figure.axes[3].axison
