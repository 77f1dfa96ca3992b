"""A run that is killed or stopped at any instant ends as if nothing had happened: real processes, real signals.

`tests/tiny.py` is the run; so is the main job. Every time the same command is started again, and what the last start
leaves is compared with an undisturbed run: parameters, optimizer state, model state, random key, best state, history,
metrics.jsonl and summary, bit for bit. The counts are printed at the end of the test session.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
STEPS = 45
TINY = (sys.executable, str(ROOT / "tests/tiny.py"), f"--config.steps={STEPS}")
MAIN_JOB = (sys.executable, "-m", "experiments.cifar_transfer", "--smoke")
LESS_OF_IT = (
    *("--config.model=mlp", "--config.widths=8", "--config.source_steps=40", "--config.steps=10"),
    *("--config.methods=l2,l2_sp", "--config.honest=", "--config.report_draws=2"),
)


@contextlib.contextmanager
def started(command: tuple[str, ...], workdir: Path) -> Iterator[subprocess.Popen]:
    """The command as a process of its own; none is left behind."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    words = [*command, f"--workdir={workdir}"]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def finish(command: tuple[str, ...], workdir: Path) -> str:
    """Start the command and wait for its good end; what it printed."""
    with started(command, workdir) as process:
        out, err = process.communicate(timeout=300)
    assert (process.returncode, err) == (0, "")
    return out


def wait_for(process: subprocess.Popen, line: str) -> None:
    for printed in process.stdout:
        if printed.startswith(line):
            return
    raise AssertionError(f"never printed {line!r}: {process.stderr.read()}")


def is_frozen(process: subprocess.Popen) -> bool:
    """Stop the process where it stands, so that one can look; false when it had ended."""
    os.kill(process.pid, signal.SIGSTOP)  # `send_signal` would reap it first
    found = os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    return found.si_code == os.CLD_STOPPED


def being_saved(workdir: Path) -> set[tuple[Path, int]]:
    """The checkpoints that are being written, or were when their process was killed."""
    return {(path, path.stat().st_ctime_ns) for path in workdir.rglob("checkpoints/*.tmp")}


def freeze(process: subprocess.Popen, workdir: Path, chance: random.Random, within: float, aimed: bool) -> bool | None:
    """Freeze the process at a random instant, an aimed one within a save; whether it is in one; None when it ended."""
    left_before = being_saved(workdir)
    time.sleep(chance.uniform(0, within))
    while is_frozen(process):
        hit = bool(being_saved(workdir) - left_before)
        if hit or not aimed:
            return hit
        os.kill(process.pid, signal.SIGCONT)
        time.sleep(chance.uniform(0, 0.02))
    return None


def kill(command: tuple[str, ...], workdir: Path, kills: int, ready: str, within: float, aim: bool) -> Iterator[bool]:
    """Kill and start again until it was killed `kills` times or came to its end; whether each kill hit a save.

    Args:
        ready: the line after which it is killed.
        within: seconds after that line.
        aim: whether every second kill waits for a save; the others fall where they fall.
    """
    chance = random.Random(kills)
    for number in range(kills):
        with started(command, workdir) as process:
            wait_for(process, ready)
            hit = freeze(process, workdir, chance, within, aimed=aim and number % 2 == 0)
            if hit is None:
                return
            yield hit
            process.kill()


def lasting(workdir: Path) -> dict[str, object]:
    """All that a run leaves, but for times: every array of the newest checkpoints, what stands beside them, figures."""
    import orbax.checkpoint as ocp

    found: dict[str, object] = {}
    for directory in workdir.rglob("checkpoints/[0-9]*"):
        name = str(directory.relative_to(workdir))
        arrays = ocp.PyTreeCheckpointer().restore(directory / "arrays")
        found |= {f"{name}/{path}": (leaf.dtype, leaf.shape, leaf.tobytes()) for path, leaf in arrays.items()}
        manifest = json.loads((directory / "manifest.json").read_bytes())["content"]
        found[f"{name}/meta"] = {key: manifest[key] for key in ("step", "meta", "keys", "leaves", "digests")}
    for file in workdir.rglob("metrics.jsonl"):
        found[str(file.relative_to(workdir))] = file.read_text()
    for file in workdir.rglob("runs.jsonl"):
        runs = [json.loads(line) for line in file.read_text().splitlines()]
        found[str(file.relative_to(workdir))] = [
            {**run, "seconds": 0, "crc32": 0} for run in runs
        ]  # which covers the seconds
    for file in workdir.rglob("*.npz"):
        with np.load(file, allow_pickle=False) as arrays:
            found[str(file.relative_to(workdir))] = {name: arrays[name].tobytes() for name in arrays.files}
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """What the run leaves when nothing happens to it."""
    workdir = tmp_path_factory.mktemp("undisturbed") / "run"
    finish(TINY, workdir)
    return workdir


def assert_same_end(workdir: Path, undisturbed: Path) -> None:
    ours, theirs = lasting(workdir), lasting(undisturbed)
    assert ours.keys() == theirs.keys()
    assert [key for key in theirs if ours[key] != theirs[key]] == []
    held = {key.split("/")[3] for key in theirs if key.startswith(f"checkpoints/{STEPS}/state/")}
    assert held == {"step", "params", "model_state", "opt_state", "rng"}
    assert (workdir / "summary.json").read_bytes() == (undisturbed / "summary.json").read_bytes()
    steps = [json.loads(line)["step"] for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(3, STEPS + 1, 3))


@pytest.mark.parametrize("kills", [4, pytest.param(100, marks=pytest.mark.slow)])
def test_a_killed_run_ends_like_an_undisturbed_one(undisturbed, tmp_path, kills, record_property):
    hits: list[bool] = []
    while len(hits) < kills:  # a run comes to its end in spite of all: then the next one is killed
        workdir = tmp_path / str(len(hits))
        hits += kill(TINY, workdir, kills - len(hits), "training", within=0.3, aim=True)
        finish(TINY, workdir)
        assert_same_end(workdir, undisturbed)
    record_property("proof", f"{kills} of {kills} kills of a small run survived, {sum(hits)} of them within a save")
    assert sum(hits) >= kills / 2


@pytest.mark.slow
def test_the_killed_main_job_ends_like_an_undisturbed_one(tmp_path, record_property):
    kills = 100
    finish(MAIN_JOB, tmp_path / "undisturbed")
    hits: list[bool] = []
    while len(hits) < kills:
        workdir = tmp_path / str(len(hits))
        hits += kill(MAIN_JOB, workdir, kills - len(hits), "device", within=8.0, aim=False)
        finish(MAIN_JOB, workdir)
        assert lasting(workdir) == lasting(tmp_path / "undisturbed")
    record_property("proof", f"{kills} of {kills} kills of the main job survived, {sum(hits)} of them within a save")


@pytest.mark.slow
def test_a_signal_stops_the_main_job_and_the_same_command_goes_on(tmp_path):
    command = (*MAIN_JOB, *LESS_OF_IT)
    finish(command, tmp_path / "undisturbed")
    with started(command, tmp_path / "run") as process:
        wait_for(process, "source model")
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 143
    assert err.splitlines()[-1].startswith("stopped ")
    assert err.endswith("; rerun the same command to go on\n")
    assert not (tmp_path / "run/summary.json").exists()
    assert "(resuming)" in finish(command, tmp_path / "run")
    assert lasting(tmp_path / "run") == lasting(tmp_path / "undisturbed")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_the_same_command_goes_on(undisturbed, tmp_path, number, code):
    workdir = tmp_path / "run"
    with started(TINY, workdir) as process:
        wait_for(process, "training")
        time.sleep(0.2)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == code
    asked, told = err.split("\n")[1:-1]
    assert asked == "stopping at the end of this chunk; once more to quit at once"
    step = int(told.removeprefix("stopped at step ").removesuffix(f" of {STEPS}; rerun the same command to go on"))
    assert 0 < step < STEPS
    assert (workdir / f"checkpoints/{step}/manifest.json").exists()
    assert "(resuming)" in finish(TINY, workdir)
    assert_same_end(workdir, undisturbed)


def test_a_second_signal_within_a_save_ends_the_process_at_once_and_costs_nothing(undisturbed, tmp_path):
    workdir = tmp_path / "run"
    with started(TINY, workdir) as process:
        wait_for(process, "training")
        assert freeze(process, workdir, random.Random(0), within=0.3, aimed=True)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGCONT)
        _, err = process.communicate(timeout=60)
    assert process.returncode in (130, 143)  # of two that wait at once the system says which comes second
    assert "rerun the same command" not in err  # it did not come to the end of its chunk
    assert being_saved(workdir)
    finish(TINY, workdir)
    assert_same_end(workdir, undisturbed)


def test_a_loss_that_is_not_finite_ends_with_3_and_leaves_the_last_checkpoint(tmp_path):
    with started((*TINY, "--config.broken_at=10"), tmp_path / "run") as process:
        _, err = process.communicate(timeout=60)
    assert process.returncode == 3
    told, hint = err.splitlines()
    assert told.startswith("step 10: the loss is nan; the step before it was ")
    assert told.endswith("; first to go, in step 10: every parameter at once")
    assert hint.startswith("  lower the learning rate")
    assert sorted(path.name for path in (tmp_path / "run/checkpoints").iterdir()) == ["6", "9"]
