"""What stands in a run's directory is what the run wrote, or made again, or refused by name: whatever became of it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
from pathlib import Path

import every_call
import numpy as np
import pytest

from jaxtl import cli
from jaxtl.data import keep_to_data, load
from jaxtl.devices import backend
from jaxtl.errors import InputError, Interrupted
from jaxtl.protocol import Run, RunStore
from jaxtl.writers import Writer

REPORT = ("plots/empty.png", "runs.csv", "summary.json", "summary.md")
FILES = (
    *REPORT,
    *("config.json", "data.txt", "n_1/arrays/l2-1-1.npz", "n_1/runs.jsonl"),
    *("source/metrics.jsonl", "source/source.safetensors"),
)
PLACES = [("finished", name) for name in FILES] + [("stopped", name) for name in FILES if name not in REPORT]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def instead(make):
    """Something else in the place of the file."""

    def damage(path: Path) -> None:
        path.unlink()
        make(path)

    return damage


def of_another_run(path: Path) -> None:
    room = next(room for room in path.parents if room.name == "run")
    shutil.copy(room.parent / "another" / path.relative_to(room), path)


DAMAGES = {
    "empty": lambda path: os.truncate(path, 0),
    "truncated": lambda path: os.truncate(path, path.stat().st_size // 2),
    "flipped": flip,
    "missing": Path.unlink,
    "a directory": instead(Path.mkdir),
    "a pipe": instead(os.mkfifo),
    "a link to nothing": instead(lambda path: path.symlink_to("nowhere")),
    "of another run": of_another_run,
}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Without a device, a cache, and what waits for ever."""
    monkeypatch.setattr(backend, "describe_device", lambda: "a machine")
    monkeypatch.setattr(backend, "use_compilation_cache", lambda: None)

    def late(*_):
        raise TimeoutError("it waits for what never comes")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def start(workdir: Path, *argv: str) -> int:
    return cli.execute(every_call.main, every_call.Config, [f"--workdir={workdir}", *argv])


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A finished run, one that was stopped before its report, and one with another config, each below its name."""
    root = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(backend, "describe_device", lambda: "a machine")
        patched.setattr(backend, "use_compilation_cache", lambda: None)
        assert start(root / "finished") == 0
        assert start(root / "another", "--config.steps=3") == 0

        def stop(*_):
            raise Interrupted("stopped before the report", signal.SIGTERM)

        patched.setattr(every_call, "write_report", stop)
        assert start(root / "stopped") == 143
    return root


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(("state", "name"), PLACES)
def test_a_damaged_file_is_made_again_or_refused_by_name(state, name, damage, runs, tmp_path, capsys, record_property):
    shutil.copytree(runs / state, tmp_path / "run")
    shutil.copytree(runs / "another", tmp_path / "another")
    path = tmp_path / "run" / name
    DAMAGES[damage](path)
    capsys.readouterr()
    code = start(tmp_path / "run")
    said = capsys.readouterr()
    if code == 0 and state == "finished":  # it shows its report and reads nothing else
        for file in REPORT:
            assert (tmp_path / "run" / file).read_bytes() == (runs / "finished" / file).read_bytes()
        assert ("numbers" in said.out.splitlines()) != ("made again from what it has kept" in said.out)
    elif code == 0:
        assert every_call.lasting(tmp_path / "run") == every_call.lasting(runs / "finished")
    else:
        what, todo, rest = said.err.split("\n")
        assert (code, todo[:2], rest) == (2, "  ", "")
        assert Path(name).name in what or "holds a run with another config" in what
    record_property("tally", "damages to files of a run are mended, or told in a line that names the file")


def test_a_finished_run_with_other_code_refuses_to_make_its_report_again(runs, tmp_path, capsys, monkeypatch):
    shutil.copytree(runs / "finished", tmp_path / "run")
    record = json.loads((tmp_path / "run/config.json").read_text())
    record["code"]["jaxtl/errors.py"] = "another"
    del record["crc32"]
    (tmp_path / "run/config.json").write_text(json.dumps(record))
    assert start(tmp_path / "run") == 0
    assert "the code has changed since this run: jaxtl/errors.py\nnumbers" in capsys.readouterr().out
    flip(tmp_path / "run/summary.md")
    assert start(tmp_path / "run") == 2
    assert "has changed: summary.md" in capsys.readouterr().err


def test_a_run_that_was_killed_after_its_summary_notes_what_it_shows(runs, tmp_path, capsys):
    shutil.copytree(runs / "finished", tmp_path / "run")
    record = json.loads((runs / "stopped/config.json").read_text())
    (tmp_path / "run/config.json").write_text(json.dumps(record))
    assert start(tmp_path / "run") == 0
    assert every_call.lasting(tmp_path / "run") == every_call.lasting(runs / "finished")


def test_a_run_of_an_earlier_version_is_shown_as_it_is(runs, tmp_path, capsys):
    shutil.copytree(runs / "finished", tmp_path / "run")
    record = json.loads((tmp_path / "run/config.json").read_text())
    del record["crc32"], record["report"]
    (tmp_path / "run/config.json").write_text(json.dumps(record))
    assert start(tmp_path / "run") == 0
    assert capsys.readouterr().out == "numbers\n"


def test_a_store_of_something_else_is_refused_and_one_of_an_earlier_version_is_read(tmp_path):
    run = Run("a", "report", "tuned", 10, None, 0, {}, validation=0.5, metrics={"test": 0.5}, arrays=("x",))
    RunStore(tmp_path, of="n = 5").add(run, {"x": np.zeros(2)})
    with pytest.raises(InputError, match=r"runs\.jsonl, line 1: not the record of a run, or of another one"):
        RunStore(tmp_path, of="n = 20")
    record = json.loads((tmp_path / "runs.jsonl").read_text())
    del record["crc32"], record["arrays_crc32"]
    (tmp_path / "runs.jsonl").write_text(json.dumps(record) + "\n")
    assert RunStore(tmp_path, of="n = 20").find(run) == run


def test_a_run_whose_arrays_are_of_another_one_is_made_again(tmp_path, caplog):
    runs = [
        Run("a", "report", "tuned", seed, None, 0, {}, validation=0.5, metrics={"test": 0.5}, arrays=("x",))
        for seed in (1, 2)
    ]
    store = RunStore(tmp_path)
    for run in runs:
        store.add(run, {"x": np.full(2, run.seed)})
    shutil.copy(tmp_path / "arrays/a-1-0.npz", tmp_path / "arrays/a-2-0.npz")
    again = RunStore(tmp_path)
    assert [again.find(run) for run in runs] == [runs[0], None]
    assert "a-2-0.npz is missing or damaged: its run is made again" in caplog.text


def test_a_run_without_its_data_named_says_what_to_do(tmp_path):
    (tmp_path / "data.txt").touch()  # what earlier versions left where they were killed
    with pytest.raises(InputError, match=r"data\.txt: is empty.*\n  delete it if the run began with digits"):
        keep_to_data(tmp_path, "digits")
    (tmp_path / "data.txt").unlink()
    keep_to_data(tmp_path, "digits \udcff λ")
    keep_to_data(tmp_path, "digits \udcff λ")


def test_metrics_are_written_again_from_what_the_checkpoint_knows(tmp_path):
    import tiny

    from jaxtl.loop import fit
    from jaxtl.step import Fixed

    def train(steps: int) -> str:
        step, state, data = tiny.start(tiny.Config())
        with Writer(tmp_path, tensorboard=False) as log:
            fit(step, state, data, Fixed(), steps=steps, chunk=2, every=2, workdir=tmp_path, log=log)
        return (tmp_path / "metrics.jsonl").read_text()

    def misled(path: Path) -> None:
        path.write_text('{"step": 1, "loss": 7}\n{"step": 4, "loss": 7}\n{"step": 8, "loss": 7}\n')

    written = train(6)
    for damage in (flip, Path.unlink, misled):
        damage(tmp_path / "metrics.jsonl")
        try:
            assert train(6) == written
        except InputError:  # a line that is none, which is named
            (tmp_path / "metrics.jsonl").unlink()
            assert train(6) == written


def test_a_user_without_a_home_directory_reads_by_path_and_is_told_about_tildes(tmp_path, monkeypatch):
    import pwd

    def nobody(*_):
        raise KeyError("no such user")

    monkeypatch.delenv("HOME")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    parts = {f"{part}_images": np.zeros((4, 3, 3), np.uint8) for part in ("train", "test")}
    np.savez(tmp_path / "x.npz", **parts, train_labels=np.arange(4) % 2, test_labels=np.arange(4) % 2)
    assert len(load(tmp_path / "x.npz").train) == 4
    assert start(tmp_path / "run") == 0
    with pytest.raises(InputError, match=r"~/x: this user has no home directory\n  set HOME"):
        load("~/x")
    for work in (lambda: backend.use_compilation_cache(), lambda: load("cifar10", fetch=False)):
        with contextlib.suppress(InputError):
            work()


def test_a_directory_named_like_markup_is_shown_as_it_is(tmp_path, capsys):
    workdir = tmp_path / "[/b]\u202e\u200b"
    assert start(workdir) == 0
    said = capsys.readouterr()
    assert not set(said.out + said.err) & set("\u202e\u200b")
    assert "[/b]\\u202e\\u200b" in said.out
    assert (workdir / "summary.json").exists()


@pytest.mark.parametrize("name", ["\x1b[2J", "\b", "a\nb", "\udcff"])
def test_a_directory_with_what_steers_a_terminal_in_its_name_is_refused(name, tmp_path, capsys):
    assert start(tmp_path / name) == 2
    said = capsys.readouterr()
    assert not set(said.out + said.err) & set("\x1b\b\udcff")
    assert len(said.err.splitlines()) == 2
    assert not list(tmp_path.iterdir())
