"""What one training run leaves behind, and where it is kept so that an interrupted comparison goes on."""

from __future__ import annotations

import csv
import io
import json
import logging
import math
import os
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from jaxtl import files
from jaxtl.errors import InputError
from jaxtl.text import printable

logger = logging.getLogger("jaxtl")


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
        metrics: of a report run, "test" (the measure) and whatever else the experiment measured.
        arrays: names of the arrays kept beside the run: `RunStore.arrays` reads them.
        seconds: wall time of training alone; the first run of a program also pays its compilation.
        diverged: the loss or a score was not finite. Such a run is never chosen, and counts as `Measure.failed`.
        note: what was said when it diverged.
        chosen_in: of a report run, the stage of the runs that chose its setting.
        scores: of a run that chooses, what further selections say of it.
        replicate: see `Draw`.
        device: the kind it was made on.
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
    replicate: int = 0
    device: str = ""


COLUMNS = tuple(column.name for column in fields(Run))  # names that no hyperparameter and no metric may take


class RunStore:
    """Keeps finished runs; the same comparison with the same store makes none of them twice.

    A run is found again by (method, stage, replicate, seed, fold, trial, setting): selections share a report run when
    they choose the same setting. On disk, `runs.jsonl` gains a line per run, and `arrays/METHOD-SEED-TRIAL.npz`
    (METHOD-rN-SEED-TRIAL of replicate N > 0) is complete before its line is written, so a run that is listed is whole.

    Args:
        directory: where to keep the runs; created if need be. None keeps them in memory.
        of: what the runs are made with besides what a `Run` says, in words: a store of something else is refused.

    Raises:
        InputError: the directory cannot be written, or a line in the middle of `runs.jsonl` is damaged or was kept of
            something else. (A torn last line is what an interruption leaves: it is dropped and its run made again, as
            is one whose arrays are missing or not those that it was kept with; the logger "jaxtl" names them.)
    """

    def __init__(self, directory: str | os.PathLike[str] | None = None, of: str = ""):
        self.directory = None if directory is None else Path(directory)
        self._of = zlib.crc32(of.encode("utf-8", "backslashreplace"))
        self._runs: dict[tuple, Run] = {}
        self._arrays: dict[str, dict[str, np.ndarray]] = {}  # used only without a directory
        self._digests: dict[tuple, int | None] = {}  # of the files of arrays
        if self.directory is not None:
            self._load(self.directory)

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
            digest = None
            if kept:
                content = _packed(kept)
                digest = self._digests[_key(run)] = zlib.crc32(content)
                files.write(self._file(run), content)
            files.append(self.directory / "runs.jsonl", self._encode(run, digest))
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
        content, todo = self._content(run), "run again: its run is made again"
        if content is None:
            raise InputError("the arrays of a run are missing or damaged", where=self._file(run), todo=todo)
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as stored:
                return {name: stored[name] for name in run.arrays}
        except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:  # of an earlier version, without a digest
            raise InputError(f"the arrays of a run are damaged: {error}", where=self._file(run), todo=todo) from error

    def _file(self, run: Run) -> Path:
        assert self.directory is not None
        return self.directory / "arrays" / f"{_stem(run)}.npz"

    def _content(self, run: Run) -> bytes | None:
        """What was written as the arrays of a run; None where it is not there."""
        content = files.read(self._file(run))
        intact = content is None or self._digests.get(_key(run)) in (None, zlib.crc32(content))
        return content if intact else None

    def _load(self, directory: Path) -> None:
        path = directory / "runs.jsonl"
        files.Lines(path).close()  # a place that cannot be written is told before the work
        found = [(line, *self._decode(line, path, n)) for n, line in enumerate(files.lines(path), start=1)]
        self._digests = {_key(run): digest for _, run, digest in found}
        damaged = {self._file(run): _key(run) for _, run, _ in found if run.arrays and self._content(run) is None}
        for file in damaged:
            logger.warning("%s is missing or damaged: its run is made again", printable(str(file)))
        kept = [(line, run) for line, run, _ in found if _key(run) not in damaged.values()]
        if damaged:
            files.write(path, b"".join(line + b"\n" for line, _ in kept))
        self._runs = {_key(run): run for _, run in kept}

    def _encode(self, run: Run, arrays: int | None) -> bytes:
        def number(value: float) -> float | str:
            return value if math.isfinite(value) else str(value)  # JSON has no −inf and no NaN; float() reads them back

        record = asdict(run)
        record["validation"] = number(run.validation)
        for numbers in ("metrics", "scores"):
            record[numbers] = {name: number(value) for name, value in record[numbers].items()}
        if arrays is not None:
            record["arrays_crc32"] = arrays
        record["crc32"] = self._crc32(record)
        return json.dumps(record, allow_nan=False).encode() + b"\n"

    def _decode(self, line: bytes, path: Path, number: int) -> tuple[Run, int | None]:
        try:
            record: dict[str, Any] = json.loads(line)
            digest = record.pop("crc32", None)  # earlier versions wrote none
            if digest not in (None, self._crc32(record)):
                raise ValueError("its digest differs")
            arrays = record.pop("arrays_crc32", None)
            record["validation"] = float(record["validation"])
            for numbers in ("metrics", "scores"):
                record[numbers] = {name: float(value) for name, value in record.get(numbers, {}).items()}
            record["edges"], record["arrays"] = tuple(record["edges"]), tuple(record["arrays"])
            if "replicate" not in record:
                raise ValueError("of a version without replicates")
            return Run(**record), arrays
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            what = "not the record of a run, or of another one"
            todo = "delete the line: its run is made again"
            raise InputError(what, where=f"{path}, line {number}", todo=todo) from error

    def _crc32(self, record: Mapping[str, Any]) -> int:
        return zlib.crc32(json.dumps(record).encode(), self._of)


def identity(config: Any, *more: Any) -> str:
    """What the runs of a store are made with, for `RunStore(of=…)`: the config but for keys that only add runs.

    Args:
        config: as `main` gets it.
        more: what else tells the store from others of the same run, as JSON has it.
    """
    adds = getattr(type(config), "may_change", ())
    return json.dumps([{key: value for key, value in vars(config).items() if key not in adds}, *more])


def to_csv(runs: Iterable[Run], path: str | os.PathLike[str]) -> Path:
    """Write one row per run, with a column for every hyperparameter and every metric of any run.

    Args:
        runs: what `compare` returned.
        path: the file to write; replaced if it exists.

    Returns:
        The path.

    Raises:
        InputError: it cannot be written.
    """
    runs = list(runs)
    settings = list(dict.fromkeys(name for run in runs for name in run.setting))
    metrics = list(dict.fromkeys(name for run in runs for name in run.metrics))
    before = ["method", "stage", "selection", "replicate", "seed", "fold", "trial"]
    after = ["seconds", "edges", "diverged", "note", "device"]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, [*before, *settings, "validation", *metrics, *after], extrasaction="ignore")
    writer.writeheader()
    writer.writerows(asdict(run) | run.setting | run.metrics | {"edges": " ".join(run.edges)} for run in runs)
    return files.write(Path(path), text.getvalue())


def _key(run: Run) -> tuple:
    return run.method, run.stage, run.replicate, run.seed, run.fold, run.trial, tuple(sorted(run.setting.items()))


def _stem(run: Run) -> str:
    replicate = f"-r{run.replicate}" if run.replicate else ""
    return f"{run.method}{replicate}-{run.seed}-{run.trial}"


def _packed(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Arrays as an .npz file. (`np.savez` would pickle, and refuses arrays named "file".)"""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
    return content.getvalue()
