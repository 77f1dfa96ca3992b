"""`--publish`: a finished run writes the page of its experiment, where one may be, and computes nothing anew."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxtl import cli
from jaxtl.cli import publish
from jaxtl.devices import backend
from jaxtl.report.plots.style import PALETTE

TOY = '''
"""Does it play?

And how well?

    python -m experiments.toy

Measured: 1.0.
"""

import dataclasses
import time
from pathlib import Path
from typing import ClassVar

from jaxtl import cli, report

calls = []
LINES = ["l2_sp vs l2: +1.20 points [0.20, 2.20] over 8 replicates: helps (p 0.01)"]


@dataclasses.dataclass(frozen=True)
class Config:
    presets: ClassVar = {"smoke": {}}
    preset: str = ""
    steps: int = 3


def figure():
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(2, 2))
    drawn.subplots().plot([0, 1])
    return drawn


def main(config, workdir):
    calls.append(config)
    table = report.Table(["method", "accuracy"], [["l2", "66.1"]])
    plots = [report.Plot("curve", "A line", figure)]
    playing = report.Section("Playing", [table], ["Every draw counts."], plots)
    sections = [playing, report.Section("Verdicts", [], LINES)]
    header = cli.header("toy", config, time.perf_counter(), data=f"{Path.home()}/sets (none)")
    report.write_sections(workdir, header, {}, sections)
'''


@pytest.fixture
def toy(tmp_path, monkeypatch):
    monkeypatch.setattr(backend, "use_compilation_cache", lambda: None)
    file = tmp_path / "experiments" / "toy.py"
    file.parent.mkdir()
    file.write_text(TOY.lstrip())
    spec = importlib.util.spec_from_file_location("toy", file)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "toy", module)
    spec.loader.exec_module(module)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    module.page = file.with_suffix(".md")
    module.run = lambda *argv: cli.execute(module.main, module.Config, argv)
    return module


def test_a_run_writes_its_page_question_first_then_command_and_verdicts(toy, capsys):
    assert toy.run("--publish", "--config.steps=4") == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"wrote {toy.page}"
    lines = [line for line in toy.page.read_text(encoding="utf-8").splitlines() if line]
    command = "python -m experiments.toy --config.steps=4"
    assert lines[:6] == ["# toy", "Does it play?", "And how well?", "```", command, "```"]
    assert lines[6:9] == ["## Answer", "**Verdicts**", f"- {toy.LINES[0]}"]
    body = lines[9:]
    assert body[0] == "- Data: ~/sets (none)"
    assert body[1].startswith("- Device: ")
    assert "| l2     |     66.1 |" in body
    assert "![A line](pictures/toy_curve.png)" in body
    for once in (toy.LINES[0], "- Command", "## Verdicts"):
        assert not any(line.startswith((once, f"- {once}")) for line in body)
    assert body[-1] == publish.WRITTEN
    with Image.open(toy.page.parent / "pictures/toy_curve.png") as picture:
        assert picture.mode == "P"


def test_a_finished_run_is_published_without_computing_anew_and_the_page_is_the_same(toy, capsys):
    toy.run("--publish")
    page = toy.page.read_text(encoding="utf-8")
    toy.page.unlink()
    assert toy.run() == 0
    assert not toy.page.exists()
    assert toy.run("--publish") == 0
    assert toy.run("--publish") == 0  # a page of a run is replaced
    assert toy.page.read_text(encoding="utf-8") == page
    assert len(toy.calls) == 1


def test_a_page_says_that_the_code_has_changed_since_its_run(toy, capsys):
    toy.run()
    with open(toy.__file__, "a") as file:
        file.write("# another thought\n")
    assert toy.run("--publish") == 0
    told = "> **Note:** the code has changed since this run: experiments/toy.py"
    assert told in toy.page.read_text(encoding="utf-8").splitlines()
    assert len(toy.calls) == 1


def refused(toy, capsys, *argv):
    """The one line that it is refused with, before any work."""
    assert toy.run("--publish", *argv) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert toy.calls == []
    assert not Path("runs").exists()
    return line


def test_a_smoke_run_is_no_result(toy, capsys):
    assert refused(toy, capsys, "--smoke") == "--publish: a smoke run is a check, not a result"
    assert refused(toy, capsys, "--config.preset=smoke") == "--publish: a smoke run is a check, not a result"


def test_an_installed_or_read_only_copy_is_no_place_for_a_page(toy, capsys, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert refused(toy, capsys).endswith("experiments: is no place to publish in: run a copy that may be written")
    monkeypatch.undo()
    with pytest.raises(cli.InputError, match="is no place to publish in"):
        publish.check(Path("/usr/lib/python3/site-packages/experiments/toy.py"))


def test_a_fork_does_not_write_the_page_of_what_it_forks(toy, capsys):
    assert cli.execute(toy.main, toy.Config, ["--publish"], forked=True) == 2
    assert capsys.readouterr().err.startswith("--publish: a fork has no page of its own")
    assert not toy.page.exists()


def test_what_no_run_has_written_is_not_overwritten(toy, capsys):
    toy.page.write_text("# notes of a week\n")
    assert refused(toy, capsys).endswith("toy.md: was not written by a run: move it away to publish here")
    assert toy.page.read_text() == "# notes of a week\n"


def test_lines_keep_their_colours_beside_a_photograph(tmp_path):
    pixels = np.random.default_rng(0).integers(120, 256, (200, 200, 3), np.uint8)
    drawn = [tuple(bytes.fromhex(colour[1:])) for colour in PALETTE]
    for k, colour in enumerate(drawn):
        pixels[10 * k, :3] = colour  # three pixels in forty thousand
    Image.fromarray(pixels).save(tmp_path / "x.png")
    (tmp_path / "small.png").write_bytes(publish._small(tmp_path / "x.png"))
    with Image.open(tmp_path / "small.png") as small:
        found = np.asarray(small.convert("RGB"))
    assert [tuple(found[10 * k, 1]) for k in range(len(drawn))] == drawn
