"""A small run that ends at its k-th call of the file system, for every k: killed there, or with no space from there.

    python tests/every_call.py killed|full ROOM FIRST STRIDE

Every k is a process of its own, forked from this one, which has imported everything and computed nothing. A call that
writes does half of it first. Then the same command is started once more, undisturbed. What came of it is told in a line
of JSON for every k, until a run makes fewer than k calls.
"""

from __future__ import annotations

import builtins
import contextlib
import dataclasses
import errno
import importlib
import json
import os
import sys
import time
from pathlib import Path

import numpy as np

from jaxtl import checkpoints, cli
from jaxtl.data import keep_to_data
from jaxtl.devices import backend
from jaxtl.protocol import Method, Range, RunStore, compare
from jaxtl.report import Plot
from jaxtl.report.files import write_report
from jaxtl.report.plots.style import new_figure
from jaxtl.writers import Writer

KILLED = 137
SEARCH = {"pull": Range(0.1, 10.0)}


@dataclasses.dataclass(frozen=True)
class Config:
    steps: int = 2


def train(workdir: Path, steps: int) -> np.ndarray:
    """What `fit` does with files: a row and a checkpoint for every step, from the newest on."""
    like = {"w": np.zeros(3), "step": np.int64(0)}
    saved = checkpoints.latest_step(workdir)
    state = like if saved is None else checkpoints.restore(workdir, like)
    sums = [] if saved is None else checkpoints.read_meta(workdir)["sums"]
    with Writer(workdir) as log:
        log.rewind(0)
        for step, total in enumerate(sums, 1):
            log.write(step, {"sum": total})
        for step in range(int(state["step"]) + 1, steps + 1):
            state = {"w": state["w"] + step, "step": np.int64(step)}
            sums.append(float(state["w"].sum()))
            log.write(step, {"sum": sums[-1]})
            checkpoints.save(workdir, state, {"step": step, "sums": sums})
    return state["w"]


def main(config: Config, workdir: Path) -> None:
    keep_to_data(workdir, "three numbers")
    weights = train(workdir / "source", config.steps)
    checkpoints.export({"w": weights}, workdir / "source/source.safetensors")
    runs, _ = compare(
        [Method("l2", SEARCH, lambda setting, draw: setting["pull"] + draw.seed)],
        2,
        [0],
        [1],
        validate=lambda trained, draw: -trained,
        test=lambda trained, draw: ({"test": 0.5}, {"prediction": np.arange(4) + draw.seed}),
        store=RunStore(workdir / "n_1", of="three numbers"),
    )
    runs = [dataclasses.replace(run, seconds=0.0) for run in runs]
    figure = Plot("empty", "Nothing", lambda: new_figure(1, 1, "Nothing"))
    write_report(workdir, [figure], "# numbers\n", {"weights": weights}, runs)


def disturb(k: int, how: str) -> None:
    """From now on, the k-th call that changes the file system ends this process, or finds no space from there on."""
    left = k

    def at(name: str, real, needs_room):
        def call(*arguments, **options):
            nonlocal left
            if name.endswith("open") and not changes(*arguments, **options):
                return real(*arguments, **options)
            left -= 1
            if left == 0 and name == "write":
                real(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
            if left == 0 and how == "killed":
                os._exit(KILLED)
            if left <= 0 and needs_room:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*arguments, **options)

        return call

    for name in ("open", "write", "fsync", "mkdir"):
        setattr(os, name, at(name, getattr(os, name), needs_room=True))
    for name in ("replace", "rename", "unlink", "rmdir", "truncate", "ftruncate"):
        setattr(os, name, at(name, getattr(os, name), needs_room=False))
    builtins.open = at("open", builtins.open, needs_room=True)


def changes(path, mode="r", *_, **__) -> bool:
    """Whether opening makes or opens something to be written; `mode` is that of `open` or the flags of `os.open`."""
    if isinstance(mode, str):
        return mode[0] in "wax"
    return bool(mode & (os.O_CREAT | os.O_WRONLY | os.O_RDWR))


def started(workdir: Path, k: int, how: str) -> tuple[int, str]:
    """The exit code of the run in a process of its own, and what it said on stderr."""
    errors = workdir.parent / f"{workdir.name}.err"
    process = os.fork()
    if process == 0:
        code = 1
        try:
            with open(errors, "w") as file, open(os.devnull, "w") as nowhere:
                os.dup2(file.fileno(), 2)
                os.dup2(nowhere.fileno(), 1)
            if k:
                disturb(k, how)
            code = cli.execute(main, Config, [f"--workdir={workdir}"])
            workdir.with_suffix(".modules").write_text("\n".join(sys.modules))
            sys.stdout.flush()
            sys.stderr.flush()
        except BaseException:
            import traceback

            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(code)
    _, status = os.waitpid(process, 0)
    return os.waitstatus_to_exitcode(status), errors.read_text()


def lasting(workdir: Path) -> dict[str, object]:
    """All that the run has left, but for times: of seconds, and in the headers of archives."""
    found: dict[str, object] = {}
    for path in sorted(workdir.rglob("*")):
        name = str(path.relative_to(workdir))
        if path.is_dir() or name.endswith("lock") or "/arrays/" in name or "tensorboard" in name:
            continue
        content = path.read_bytes()
        if name.endswith("runs.jsonl"):
            runs = [json.loads(line) for line in content.splitlines()]
            found[name] = [{**run, "seconds": 0, "crc32": 0, "arrays_crc32": 0} for run in runs]
        elif name.endswith("manifest.json"):
            found[name] = json.loads(content)["content"]["digests"]
        else:
            found[name] = content.decode(errors="backslashreplace")
    for path in workdir.rglob("n_1/arrays/*.npz"):
        with np.load(path, allow_pickle=False) as arrays:
            found[path.name] = {name: arrays[name].tolist() for name in arrays.files}
    return found


def run_all(how: str, room: Path, first: int, stride: int) -> None:
    backend.describe_device = lambda: "a machine"
    backend.use_compilation_cache = lambda: None
    started(room / "whole", 0, how)
    whole = lasting(room / "whole")
    for name in (room / "whole.modules").read_text().split():
        with contextlib.suppress(Exception):
            importlib.import_module(name)  # once, and not in every child
    k = first
    while True:
        began = time.monotonic()
        code, said = started(room / str(k), k, how)
        again = (0, "") if code == 0 else started(room / str(k), 0, how)
        theirs = lasting(room / str(k))
        differs = sorted(name for name in whole.keys() | theirs.keys() if whole.get(name) != theirs.get(name))
        told = {"k": k, "code": code, "said": said, "again": again, "differs": differs}
        print(json.dumps(told | {"seconds": time.monotonic() - began}), flush=True)
        if code == 0:
            return
        k += stride


if __name__ == "__main__":
    run_all(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
