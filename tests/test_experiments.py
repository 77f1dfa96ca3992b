"""What holds of every experiment: stopped or killed anywhere, the same command goes on and ends with the same figures.

Figures of undisturbed runs are those of `test_golden.py`, help is in `test_house.py`, nonsense in `test_nonsense.py`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_golden import KEPT, ROOT, accuracies, differences, figures, machine

NAMES = sorted(path.stem for path in KEPT.glob("*.json"))
ENDS = {signal.SIGTERM: 143, signal.SIGKILL: -9}


def interrupt(name: str, workdir: Path, asked: signal.Signals) -> int:
    """The exit code of a smoke run that got a signal a second after it began to keep something."""
    command = [sys.executable, "-m", f"experiments.{name}", "--smoke", f"--workdir={workdir}"]
    environment = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"} | {"JAXTL_OFFLINE": "1"}
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=quiet, stderr=quiet) as process:
        while process.poll() is None and sum(path.is_file() for path in workdir.rglob("*")) < 4:
            time.sleep(0.05)
        time.sleep(1.0)
        process.send_signal(asked)
        return process.wait(timeout=300)


@pytest.mark.slow
@pytest.mark.parametrize("asked", ENDS, ids=lambda asked: asked.name)
@pytest.mark.parametrize("name", NAMES)
def test_an_interrupted_experiment_goes_on_and_ends_with_the_figures_that_were_kept(name, asked, tmp_path):
    assert interrupt(name, tmp_path / "run", asked) == ENDS[asked]
    assert not (tmp_path / "run/summary.json").exists()
    kept = json.loads((KEPT / f"{name}.json").read_text(encoding="utf-8"))
    found = figures(name, tmp_path / "run")
    if kept["made_on"] == machine():
        assert differences(kept["figures"], found) == []
    assert len(accuracies(found)) == len(accuracies(kept["figures"]))
