import csv
import math
import os
from dataclasses import replace

import numpy as np
import pytest

from jaxtl.errors import InputError
from jaxtl.protocol import Run, RunStore, to_csv


def test_runs_come_back_as_they_were(tmp_path):
    arrays = {"file": np.ones((2, 3), bool), "names": np.array(["λ", "b"]), "allow_pickle": np.float32(0.5)}
    diverged = Run(
        "a.b", "fold", "", 3, 1, 2, {"pull": 0.1 + 0.2}, (), -math.inf, seconds=1.5, diverged=True, note="ö\n"
    )
    reported = Run(
        "a.b", "report", "tuned", 3, None, 2, {}, ("pull>",), 0.5, {"test": 0.7, "gap": -math.inf}, tuple(arrays)
    )
    store = RunStore(tmp_path)
    store.add(diverged, {})
    store.add(reported, arrays)
    again = RunStore(tmp_path)
    assert again.find(diverged) == diverged
    assert again.find(replace(reported, selection="honest", seconds=9.0)) == reported
    for other in (
        {"seed": 4},
        {"stage": "tuning"},
        {"fold": 0},
        {"trial": 1},
        {"method": "a"},
        {"setting": {"pull": 1.0}},
    ):
        assert again.find(replace(reported, **other)) is None
    for name, array in again.arrays(reported).items():
        np.testing.assert_array_equal(array, arrays[name], strict=True)


def test_a_torn_last_line_is_dropped_and_a_damaged_one_is_named(tmp_path):
    runs = [Run("a", "tuning", "", seed, None, 0, {"pull": 1.0}, validation=0.5) for seed in range(3)]
    store, lines = RunStore(tmp_path), tmp_path / "runs.jsonl"
    for run in runs:
        store.add(run, {})
    os.truncate(lines, lines.stat().st_size - 10)
    torn = RunStore(tmp_path)
    assert [torn.find(run) for run in runs] == [runs[0], runs[1], None]
    torn.add(runs[2], {})
    assert [RunStore(tmp_path).find(run) for run in runs] == runs
    for damage in (b'{"method": "a"}', b"[]", b"\xff{", b"12"):
        whole = lines.read_bytes().splitlines()
        lines.write_bytes(b"\n".join([whole[0], damage, *whole[2:], b""]))
        with pytest.raises(InputError, match=r"runs\.jsonl, line 2: not the record of a run"):
            RunStore(tmp_path)


def test_arrays_that_are_damaged_or_need_pickle_are_refused(tmp_path):
    run = Run("a", "report", "tuned", 10, None, 0, {}, metrics={"test": 0.5}, arrays=("x",))
    store = RunStore(tmp_path)
    with pytest.raises(InputError, match="'x' has dtype object"):
        store.add(run, {"x": np.array([None])})
    assert store.find(run) is None
    store.add(run, {"x": np.arange(1000.0)})
    (path,) = (tmp_path / "arrays").iterdir()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=path.name):
        store.arrays(run)
    path.unlink()
    with pytest.raises(InputError, match="missing or damaged"):
        store.arrays(run)


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file/runs/runs.jsonl: cannot be written: Not a directory"):
        RunStore(tmp_path / "file" / "runs")


def test_a_full_disk_is_named_and_leaves_no_half_run(tmp_path, monkeypatch):
    run = Run("a", "report", "tuned", 10, None, 0, {}, metrics={"test": 0.5}, arrays=("x",))

    def full(*paths):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", full)
        with pytest.raises(InputError, match=r"No space left on device(.|\n)*free some space"):
            RunStore(tmp_path).add(run, {"x": np.zeros(3)})
    store = RunStore(tmp_path)
    assert store.find(run) is None
    store.add(run, {"x": np.ones(3)})
    np.testing.assert_array_equal(RunStore(tmp_path).arrays(run)["x"], np.ones(3))


def test_the_csv_has_a_row_a_run_and_a_column_a_hyperparameter(tmp_path):
    runs = [
        Run("a", "fold", "", 10, 2, 1, {"pull": 0.1 + 0.2}, validation=-math.inf, diverged=True, note='λ, "nan"\n'),
        Run("a", "report", "tuned", 10, None, 1, {"pull": 3.0}, ("pull<", "pull>"), 0.5, {"test": 0.7, "source": 0.2}),
        Run("b", "report", "honest", 11, None, 0, {"ratio": 2.0}, (), 0.6, {"test": 0.8}, ("predictions",), 1.25),
    ]
    to_csv(runs, tmp_path / "runs.csv")
    with open(tmp_path / "runs.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(runs)
    for row, run in zip(rows, runs, strict=True):
        assert (row["method"], row["stage"], row["selection"]) == (run.method, run.stage, run.selection)
        assert (int(row["seed"]), int(row["trial"]), float(row["seconds"])) == (run.seed, run.trial, run.seconds)
        assert {name: float(row[name]) for name in ("pull", "ratio") if row[name]} == run.setting
        assert {name: float(row[name]) for name in ("test", "source") if row[name]} == run.metrics
        assert float(row["validation"]) == run.validation
        assert (row["diverged"], row["note"]) == (str(run.diverged), run.note)
    assert [row["fold"] for row in rows] == ["2", "", ""]
    assert [row["edges"] for row in rows] == ["", "pull< pull>", ""]
