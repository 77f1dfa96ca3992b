"""What one training run leaves behind, and where it is kept so that an interrupted comparison goes on."""

from __future__ import annotations

import csv
import json
import math
import os
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from jaxtl.errors import InputError


@dataclass(frozen=True)
class Run:
    """One training run of one method on one draw.

    Attributes:
        method: name of the method.
        stage: "tuning", "fold" and "draw" runs choose a setting, "report" runs are the result.
        selection: how a report run's setting was chosen, "tuned" or "honest"; "" for the runs that choose.
        seed: the draw.
        fold: the fold left out of training, None for none.
        trial: index of the setting in the method's design; 0 where nothing is searched.
        setting: the hyperparameters by name.
        edges: of a report run, the hyperparameters at an end of what was tried: "NAME<" at the lowest value, "NAME>" at
            the highest. A better value may lie beyond.
        validation: the score that choices are made by, larger is better; −inf where the run diverged.
        metrics: of a report run, "test" (accuracy, a fraction) and whatever else the experiment measured.
        arrays: names of the arrays kept beside the run: `RunStore.arrays` reads them.
        seconds: wall time of training alone; the first run of a program also pays its compilation.
        diverged: the loss or a score was not finite. Such a run is never chosen, and its test accuracy counts as 0.
        note: what was said when it diverged.
        chosen_in: of a report run, the stage of the runs that chose its setting.
        scores: of a run that chooses, what further selections say of it.
    """

    method: str
    stage: str
    selection: str
    seed: int
    fold: int | None
    trial: int
    setting: dict[str, float]
    edges: tuple[str, ...] = ()
    validation: float = math.nan
    metrics: dict[str, float] = field(default_factory=dict)
    arrays: tuple[str, ...] = ()
    seconds: float = 0.0
    diverged: bool = False
    note: str = ""
    chosen_in: str = ""
    scores: dict[str, float] = field(default_factory=dict)


COLUMNS = tuple(column.name for column in fields(Run))  # names that no hyperparameter and no metric may take


class RunStore:
    """Keeps finished runs; the same comparison with the same store makes none of them twice.

    A run is found again by (method, stage, seed, fold, trial, setting): the two selections share a report run when they
    choose the same setting. On disk, `runs.jsonl` gains a line per run, and `arrays/METHOD-SEED-TRIAL.npz` is complete
    before its line is written, so a run that is listed is whole.

    Args:
        directory: where to keep the runs; created if need be. None keeps them in memory.

    Raises:
        InputError: the directory cannot be written, or a line in the middle of `runs.jsonl` is damaged. (A torn last
            line is what an interruption leaves: it is dropped and its run made again.)
    """

    def __init__(self, directory: str | os.PathLike[str] | None = None):
        self.directory = None if directory is None else Path(directory)
        self._runs: dict[tuple, Run] = {}
        self._arrays: dict[str, dict[str, np.ndarray]] = {}  # used only without a directory
        if self.directory is not None:
            self._runs = {_key(run): run for run in self._load(self.directory)}

    def find(self, planned: Run) -> Run | None:
        """The finished run of that method, stage, draw, trial and setting, or None."""
        return self._runs.get(_key(planned))

    def add(self, run: Run, arrays: Mapping[str, np.ndarray]) -> None:
        """Keep a finished run and its arrays (any shapes; numbers, booleans or strings).

        Raises:
            InputError: an array holds objects, or the directory cannot be written.
        """
        kept = {name: np.asarray(array) for name, array in arrays.items()}
        for name, array in kept.items():
            if array.dtype.kind not in "biufcSU":
                raise InputError(
                    f"array '{name}' has dtype {array.dtype}, which cannot be stored without pickle",
                    where=f"test of {run.method}",
                    todo="return arrays of numbers, booleans or strings (bfloat16: convert to float32)",
                )
        if self.directory is None:
            self._arrays[_stem(run)] = kept
        else:
            try:
                if kept:
                    _write_arrays(self.directory / "arrays" / f"{_stem(run)}.npz", kept)
                _append_line(self.directory / "runs.jsonl", _encode(run))
            except OSError as error:
                raise _cannot_write(self.directory, error) from error
        self._runs[_key(run)] = run

    def arrays(self, run: Run) -> dict[str, np.ndarray]:
        """The arrays kept with a run, by name; {} where it has none.

        Raises:
            InputError: the file is missing or damaged.
        """
        if not run.arrays:
            return {}
        if self.directory is None:
            return self._arrays[_stem(run)]
        path = self.directory / "arrays" / f"{_stem(run)}.npz"
        try:
            with np.load(path, allow_pickle=False) as stored:
                return {name: stored[name] for name in run.arrays}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise InputError(
                f"arrays missing or damaged ({type(error).__name__})",
                where=path,
                todo=f"delete {self.directory} and run again",
            ) from error

    @staticmethod
    def _load(directory: Path) -> list[Run]:
        path = directory / "runs.jsonl"
        try:
            (directory / "arrays").mkdir(parents=True, exist_ok=True)
            path.touch()
            content = path.read_bytes()
            whole = content[: content.rfind(b"\n") + 1]
            if len(whole) < len(content):
                os.truncate(path, len(whole))  # or the next line would be appended to the torn one
        except OSError as error:
            raise _cannot_write(directory, error) from error
        return [_decode(line, path, number) for number, line in enumerate(whole.splitlines(), start=1)]


def to_csv(runs: Iterable[Run], path: str | os.PathLike[str]) -> None:
    """Write one row per run, with a column for every hyperparameter and every metric of any run.

    Args:
        runs: what `compare` returned.
        path: the file to write; replaced if it exists.
    """
    runs = list(runs)
    settings = list(dict.fromkeys(name for run in runs for name in run.setting))
    metrics = list(dict.fromkeys(name for run in runs for name in run.metrics))
    before = ["method", "stage", "selection", "seed", "fold", "trial"]
    after = ["seconds", "edges", "diverged", "note"]
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*before, *settings, "validation", *metrics, *after], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(asdict(run) | run.setting | run.metrics | {"edges": " ".join(run.edges)} for run in runs)


def _key(run: Run) -> tuple:
    return run.method, run.stage, run.seed, run.fold, run.trial, tuple(sorted(run.setting.items()))


def _stem(run: Run) -> str:
    return f"{run.method}-{run.seed}-{run.trial}"


def _encode(run: Run) -> bytes:
    def number(value: float) -> float | str:
        return value if math.isfinite(value) else str(value)  # JSON has no −inf and no NaN; float() reads them back

    record = asdict(run)
    record["validation"] = number(run.validation)
    for numbers in ("metrics", "scores"):
        record[numbers] = {name: number(value) for name, value in record[numbers].items()}
    return json.dumps(record, allow_nan=False).encode() + b"\n"


def _decode(line: bytes, path: Path, number: int) -> Run:
    try:
        record: dict[str, Any] = json.loads(line)
        record["validation"] = float(record["validation"])
        for numbers in ("metrics", "scores"):
            record[numbers] = {name: float(value) for name, value in record[numbers].items()}
        record["edges"], record["arrays"] = tuple(record["edges"]), tuple(record["arrays"])
        return Run(**record)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            "not the record of a run", where=f"{path}, line {number}", todo="delete the line: its run is made again"
        ) from error


def _append_line(path: Path, line: bytes) -> None:
    with open(path, "ab") as file:
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def _write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """An .npz file that appears whole or not at all. (`np.savez` would pickle, and refuses arrays named "file".)"""
    partial = path.with_suffix(".partial")
    with open(partial, "wb") as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, array in arrays.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def _cannot_write(directory: Path, error: OSError) -> InputError:
    return InputError(
        f"cannot keep the runs here ({error.strerror or error})",
        where=directory,
        todo="free some space or choose another directory; finished runs are kept",
    )
