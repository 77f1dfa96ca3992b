"""A run that ends at any call of the file system goes on with the same command and ends like an undisturbed one.

`tests/every_call.py` is the run, and every k is a process of its own. The quick form takes every thirtieth call, the
slow one every single one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
STRIDES = (30, pytest.param(1, marks=pytest.mark.slow))


def told(how: str, room: Path, first: int, stride: int) -> list[dict]:
    """What became of each run that ended early, and last of the one that made fewer than k calls."""
    command = [sys.executable, str(ROOT / "tests/every_call.py"), how, str(room), str(first), str(stride)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1500)
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("stride", STRIDES)
def test_a_run_killed_at_any_call_goes_on_and_ends_like_an_undisturbed_one(tmp_path, stride, record_property):
    *killed, whole = told("killed", tmp_path, 1, stride)
    assert (whole["code"], whole["differs"]) == (0, [])
    assert len(killed) > 130 / stride
    for run in killed:
        assert (run["code"], run["said"], run["again"], run["differs"]) == (137, "", [0, ""], []), run
    record_property("proof", f"killed at {len(killed)} of {whole['k'] - 1} calls of the file system, all survived")


@pytest.mark.parametrize("stride", STRIDES)
def test_a_disk_that_is_full_at_any_call_is_told_in_two_lines_and_costs_nothing(tmp_path, stride, record_property):
    *full, whole = told("full", tmp_path, 2, stride)
    assert (whole["code"], whole["differs"]) == (0, [])
    assert len(full) > 130 / stride
    for run in full:
        what, todo, rest = run["said"].split("\n")
        assert what.endswith("No space left on device"), run
        assert (todo[:7], rest) == ("  free ", ""), run
        assert (run["code"], run["again"], run["differs"]) == (2, [0, ""], []), run
    record_property("proof", f"no space left from {len(full)} of {whole['k'] - 1} calls of the file system on")
