"""Many pictures are learned from in little memory: their pixels stay on the disk."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from pictures import picture

CLASSES, EACH, SIZE = 30, 100, 192  # a second run of any size takes about 90 MB more, of programs
PIXELS = CLASSES * EACH * SIZE * SIZE * 3  # bytes
SCRIPT = """
import pathlib, re, sys, threading, time

from jaxtl.cli import commands
from jaxtl.data import on_disk

on_disk.BUDGET = 2**20  # bytes that pictures may take
most, ended = 0, False

def watch():
    global most
    while not ended:
        said = pathlib.Path("/proc/self/status").read_text()
        most = max(most, 1024 * int(re.search(r"RssAnon:\\s*(\\d+)", said)[1]))
        time.sleep(0.01)

def run(name):
    global most, ended
    most, ended = 0, False
    watcher = threading.Thread(target=watch)
    watcher.start()
    code = commands.execute(["finetune", name, "--trunk=small_cnn", "--size=192", "--methods=ridge"])
    ended = True
    watcher.join()
    assert code == 0
    return most

few = run("few")
print("GREW", run("many") - few)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")
def test_three_thousand_pictures_take_no_more_memory_than_a_few(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    for name, each in (("few", 4), ("many", EACH)):
        for label in range(CLASSES):
            colour = tuple(int(level) for level in rng.integers(40, 216, 3))
            (tmp_path / name / f"{label:02d}").mkdir(parents=True)
            for k in range(each):
                picture(colour, 1000 * label + k, (64, 64)).save(tmp_path / name / f"{label:02d}" / f"{k}.jpg")
    monkeypatch.setenv("JAXTL_DATA", str(tmp_path / "cache"))
    done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    grew = int(done.stdout.rpartition("GREW")[2])
    assert grew < PIXELS / 2, f"{grew:,} bytes more, of pixels there are {PIXELS:,}"
