"""What a user can get wrong, in one table: a mistake is told in one or two lines that say what, where and what to do.

Every case ends with exit code 2, without a traceback and with nothing changed on disk. Cases with words are command
lines of the main job, some of them also started as a process; the others are calls as a script of one's own makes them.
"""

from __future__ import annotations

import fcntl
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
from sklearn.datasets import load_digits

from experiments import cifar_transfer
from jaxtl import cli
from jaxtl.checkpoints import export, load_weights, own, restore, save
from jaxtl.data import from_arrays, load
from jaxtl.labels import label_params
from jaxtl.loop import fit
from jaxtl.losses import make_loss_fn, softmax_cross_entropy
from jaxtl.optimizers import Group, per_label
from jaxtl.penalties import Term, l2, labelled
from jaxtl.step import Fixed
from jaxtl.transfer import transfer
from jaxtl.writers import Writer

ROOT = Path(__file__).resolve().parent.parent
QUICK = ("--config.source_steps=2", "--config.widths=4", "--config.validation=20", "--config.n_per_class=5")

PARAMS = {"trunk": {"kernel": jnp.ones((4, 3))}, "head": {"kernel": jnp.ones((3, 2)), "bias": jnp.zeros(2)}}
LABELS = label_params(PARAMS, [("head/.*", "new"), (".*", "transferred")])
WIDER = {**PARAMS, "head": {"kernel": jnp.ones((3, 5)), "bias": jnp.zeros(5)}}


class Case(NamedTuple):
    """A mistake, and the words that its message has to hold: what, where, what to do."""

    area: str
    make: tuple[str, ...] | Callable[[Path], object]
    says: tuple[str, ...]


def flags(*words: str, says: tuple[str, ...], area: str = "config") -> Case:
    return Case(area, words, says)


def call(area: str, make: Callable[[Path], object], *says: str) -> Case:
    return Case(area, make, says)


# ---------------------------------------------------------------- what lies on the disk before


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A checkpoint, weights, data and a directory that is no run: all that the cases refer to."""
    room = tmp_path_factory.mktemp("room")
    for step in (1, 2):
        save(room / "saved", {"params": PARAMS, "step": np.asarray(step)}, {"step": step})
    shutil.copytree(room / "saved", room / "broken")
    for file in room.glob("broken/checkpoints/*/manifest.json"):
        file.write_text("{}")
    (room / "broken/metrics.jsonl").write_text("my notes\n")
    export(PARAMS, room / "weights.safetensors")
    images, labels = load_digits(return_X_y=True)
    digits = dict(
        zip(("train_images", "test_images"), np.split((images * 15).astype(np.uint8)[:300], [200]), strict=True)
    )
    digits |= dict(zip(("train_labels", "test_labels"), np.split(labels[:300], [200]), strict=True))
    digits = {name: array.reshape(-1, 8, 8) if "images" in name else array for name, array in digits.items()}
    np.savez(room / "digits.npz", **digits)
    holes = digits["train_images"].astype(np.float32)
    holes[7, 0, 0] = np.nan
    np.savez(
        room / "holes.npz", **digits | {"train_images": holes, "test_images": digits["test_images"] / np.float32(1)}
    )
    np.savez(room / "untested.npz", **{name: array for name, array in digits.items() if name != "test_labels"})
    np.savez(room / "minus.npz", **digits | {"train_labels": digits["train_labels"].astype(int) - 1})
    np.savez(room / "unknown.npz", **digits | {"test_labels": digits["test_labels"] + 5})
    np.savez(room / "nothing.npz", **digits | {"train_images": np.zeros((0, 8, 8), np.uint8), "train_labels": []})
    (room / "torn.npz").write_bytes((room / "digits.npz").read_bytes()[:1000])
    (room / "torn.safetensors").write_bytes((room / "weights.safetensors").read_bytes()[:-5])
    (room / "weights.h5").write_bytes(b"HDF")
    for name in ("weights.pth", "data_batch_1"):
        (room / name).write_bytes(pickle.dumps({"weights": [1.0]}))
    (room / "thesis").mkdir()
    (room / "thesis/chapter.tex").write_text("years of work")
    return room


@pytest.fixture
def room(template, tmp_path, monkeypatch):
    monkeypatch.setattr("jaxtl.devices.backend.use_compilation_cache", lambda: None)
    monkeypatch.chdir(shutil.copytree(template, tmp_path / "room"))
    return Path.cwd()


def on_disk(room: Path) -> dict[str, bytes | None]:
    """Every file and directory; locks are no content, and a run directory that holds nothing else is none yet."""
    found = {str(path.relative_to(room)): path.read_bytes() if path.is_file() else None for path in room.rglob("*")}
    return {name: content for name, content in found.items() if not name.endswith(".lock") and name != "run"}


# ---------------------------------------------------------------- the table


def like(params=PARAMS):
    return {"params": params, "step": np.asarray(0)}


def as_bfloat16(leaf):
    return leaf.astype(jnp.bfloat16)


def use_elsewhere(room: Path) -> Iterator[object]:
    with open(room / "saved/.lock", "a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with own(room / "saved"):
            pass


def train(rates=None, **how):
    step, state, data = tiny.start(tiny.Config())
    return fit(step, state, data, Fixed(rates or {}), **{"steps": 3} | how)


CHECKPOINT = [
    call("checkpoint", lambda room: restore(room / "none", like()), "no checkpoint", "none", "start anew"),
    call(
        "checkpoint",
        lambda room: restore(room / "saved", like(WIDER)),
        "params/head/kernel: float32[3, 5] against float32[3, 2]",
        "saved/checkpoints/2",
        "rename=",
    ),
    call(
        "checkpoint",
        lambda room: restore(room / "saved", {**like(), "step": np.asarray(0.0)}),
        "step: float64[] against int64[]",
        "saved/checkpoints/2",
        "go on with the model it was saved with",
    ),
    call(
        "checkpoint",
        lambda room: restore(room / "saved", like({"trunk": PARAMS["trunk"]})),
        "params/head/bias: nothing against float32[2]",
        "saved/checkpoints/2",
        "reinit=",
    ),
    call(
        "checkpoint",
        lambda room: restore(room / "broken", like()),
        "none of its 2 checkpoints is intact",
        "broken/checkpoints",
        "--overwrite",
    ),
    call(
        "checkpoint",
        lambda room: save(room / "saved", like(), {"step": 1}),
        "older than the checkpoint of step 2",
        "saved/checkpoints",
        "restore it first",
    ),
    call("checkpoint", lambda room: save(room / "new", {"a": 1.0}, {"step": 0}), "no array", "a:", "jnp.asarray"),
    call(
        "checkpoint",
        lambda room: save(room / "new", {"a": np.ones(1)}, {"step": 0, "config": object()}),
        "not JSON",
        "meta",
        "numbers, strings, lists",
    ),
]
CONFIG = [
    flags("--config.method=l2", says=("unknown flag", "--config.method", "did you mean --config.methods?")),
    flags("--stepps=3", says=("unknown flag", "--stepps", "did you mean --config.steps?")),
    flags("--config.methods=l2,l2_spp", says=("no method 'l2_spp'", "--config.methods", "did you mean 'l2_sp'?")),
    flags("--config.honest=features,feature", says=("'feature'", "--config.honest", "did you mean 'features'?")),
    flags("--config.preset=ful", says=("unknown preset 'ful'", "--config.preset", "did you mean 'full'?")),
    flags("--config.decay=both", says=("unknown choice 'both'", "--config.decay", "loss")),
    flags("--config.steps=many", says=("'many'", "--config.steps", "whole number")),
    flags("--config.steps=0", says=("0 is less than 1", "--config.steps", "less than 1")),
    flags("--config.batch_size=0", says=("0 is less than 1", "--config.batch_size", "less than 1")),
    flags("--config.report_draws=0", says=("0 is less than 1", "--config.report_draws", "less than 1")),
    flags("--config.learning_rate=1,2,3", says=("3.0) is no range", "--config.learning_rate", "give low,high")),
    flags("--config.learning_rate=0,1", says=("0.0 is less than 1e-12", "--config.learning_rate", "use 1e-12 or more")),
    flags("--config.steps=99999999999", says=("99999999999 is more than", "--config.steps", "use less")),
    flags("--config.seed=-1", says=("-1 is less than 0", "--config.seed", "use 0 or more")),
    flags("--config.splits=", says=("nothing is given", "--config.splits", "give 1 to")),
    flags("--config.n_per_class=5,5", says=("5 is there twice", "--config.n_per_class", "each value once")),
    flags("--config.pull=1,1e400", says=("inf is more than 1e+12", "--config.pull", "use less")),
    flags("--config.data=a\x01b", says=("holds '\\x01'", "--config.data", "use letters")),
    flags("--config.pull=3,0.1", says=("(3.0, 0.1) is no range", "--config.pull", "low,high")),
    flags("--config.momentum=1.5", says=("1.5", "momentum", "[0, 1)")),
    flags("--config.source_learning_rate=-0.1", says=("-0.1 is less than 0", "learning_rate", "use 0 or more")),
    flags("--config.folds=1", says=("1 is less than 2", "--config.folds", "less than 2")),
    flags("--config.chunk=-1", says=("-1 is less than 0", "--config.chunk", "use 0 to")),
    flags("--workdir=thesis", says=("is not a run: it holds chapter.tex", "thesis", "new or empty directory")),
    flags("--workdir=thesis", "--overwrite", says=("is not a run", "thesis", "new or empty directory")),
    flags("20", says=("unexpected argument '20'", "20", "--config.key=value")),
]
RULES = [
    call(
        "labels and rules",
        lambda _: label_params(PARAMS, [("haed/.*", "new"), (".*", "transferred")]),
        "decides nothing",
        "label rules",
        "the paths are head/bias",
    ),
    call(
        "labels and rules",
        lambda _: label_params(PARAMS, [("head/.*", "new")]),
        "no rule covers",
        "trunk/kernel",
        "add a rule",
    ),
    call(
        "labels and rules",
        lambda _: label_params(PARAMS, [("head/(", "new")]),
        "not a regular expression",
        "label rules",
        "unterminated",
    ),
    call(
        "labels and rules",
        lambda _: per_label(LABELS, {"new": Group(0.1)}),
        "no group moves this label",
        "groups['transferred']",
        "add one",
    ),
    call(
        "labels and rules",
        lambda _: per_label(LABELS, {"new": Group(0.1), "transfered": Group(0.1), "transferred": Group(0.1)}),
        "no parameter has this label",
        "groups['transfered']",
        "did you mean 'transferred'?",
    ),
    call(
        "labels and rules",
        lambda _: labelled(LABELS, {"nwe": Term(0.1, l2)}),
        "no parameter has this label",
        "penalty/nwe",
        "did you mean 'new'?",
    ),
    call("labels and rules", lambda _: Group(-0.1), "-0.1 is negative", "Group learning_rate", "use a number >= 0"),
    call(
        "labels and rules",
        lambda _: per_label(LABELS, {}, "adm"),
        "unknown: 'adm'",
        "per_label optimizer",
        "did you mean 'adam'?",
    ),
    call(
        "labels and rules",
        lambda _: train({"penalty/new": -1.0}),
        "-1.0 is negative",
        "rates['penalty/new']",
        "use a number >= 0",
    ),
    call(
        "labels and rules",
        lambda _: train({"penalty/nwe": 1.0}),
        "nobody reads",
        "rates['penalty/nwe']",
        "did you mean 'penalty/new'?",
    ),
    call("labels and rules", lambda _: train({"decay/new": 0.1}), "decays in the optimizer", "label 'new'", "keep one"),
]
DATA = [
    flags("--config.data=cifar1", area="data", says=("no data set of this name", "cifar1", "did you mean 'cifar10")),
    flags("--config.data=nowhere.npz", area="data", says=("no such file", "nowhere.npz", "check the path")),
    flags("--config.data=data_batch_1", area="data", says=("pickle", "data_batch_1", "cifar-10-binary.tar.gz")),
    flags("--config.data=torn.npz", area="data", says=("is no complete npz archive", "torn.npz", "again")),
    flags("--config.data=untested.npz", area="data", says=("has no test_labels", "untested.npz", "it holds")),
    flags("--config.data=minus.npz", area="data", says=("labels run from -1", "minus.npz, train", "0..C-1")),
    flags("--config.data=unknown.npz", area="data", says=("label 14", "unknown.npz, test", "that were trained")),
    flags("--config.data=holes.npz", area="data", says=("number 7", "holes.npz, train", "remove or repair")),
    flags("--config.data=nothing.npz", area="data", says=("images of shape [0, 8, 8]", "nothing.npz, train", "give")),
    flags("--config.splits=0-4", area="data", says=("'0-4' has 0 colons", "split", "0-4:5-9")),
    flags(
        "--config.splits=0-4:5-99", area="data", says=("no class '5-99' in digits", "--config.splits=", "are 0, 1, 2")
    ),
    call(
        "data",
        lambda _: from_arrays(np.zeros((6, 4, 4)), np.array([0, 1, 2, 0, 1, -1])),
        "labels run from -1 to 2",
        "arrays",
        "number the classes 0..C-1",
    ),
    call(
        "data", lambda _: from_arrays(np.zeros((6, 4)), np.zeros(5, int)), "6 images but 5 labels", "arrays", "give one"
    ),
    call("data", lambda _: load("digits", "nowhere"), "is no directory", "nowhere", "data_dir"),
]
FILES = [
    flags("--workdir=digits.npz/run", area="file system", says=("Not a directory", "digits.npz/run", "--workdir=")),
    call(
        "file system",
        lambda room: train(workdir=room / "digits.npz"),
        "no directory to write in",
        "digits.npz",
        "choose",
    ),
    call("file system", lambda room: list(use_elsewhere(room)), "in use by process", "saved", "wait until it ends"),
    call(
        "file system",
        lambda room: Writer(room / "broken").rewind(2),
        "not a line",
        "broken/metrics.jsonl:1",
        "mend or delete this line",
    ),
]
WEIGHTS = [
    flags("--config.source_checkpoint=no.npz", area="weights", says=("no such file", "no.npz", "check the path")),
    flags("--config.source_checkpoint=weights.pth", area="weights", says=("a pickle can", "weights.pth", "convert it")),
    flags("--config.source_checkpoint=weights.h5", area="weights", says=("not read from .h5", "weights.h5", "known:")),
    flags("--config.source_checkpoint=torn.safetensors", area="weights", says=("damaged", "torn.safetensors", "again")),
    flags("--config.source_checkpoint=thesis", area="weights", says=("no checkpoint", "thesis", "another run")),
    flags("--config.source_checkpoint=weights.safetensors", area="weights", says=("against", "weights.s", "widths")),
    call("weights", lambda room: export(PARAMS, "x.npz"), "written as .safetensors", "x.npz", "choose a name"),
    call(
        "weights",
        lambda room: transfer(load_weights("weights.safetensors"), WIDER),
        "the source has float32[2], the target float32[5]",
        "head/bias",
        "reinit=('head/bias',)",
    ),
    call(
        "weights",
        lambda room: transfer(load_weights("weights.safetensors"), PARAMS, rename=[("haed/(.*)", r"top/\1")]),
        "'haed/(.*)' matches nothing",
        "rename",
        "the paths are head/bias",
    ),
]
MODEL = [
    flags("--config.model=rnn", area="model", says=("unknown choice 'rnn'", "--config.model", "cnn")),
    flags("--config.widths=4,0", area="model", says=("0 is less than 1", "--config.widths", "less than 1")),
    call("model", lambda _: train(steps=10, chunk=4), "10 is not a multiple", "fit steps", "chunk=4"),
    call("model", lambda _: train(best="accuracy"), "no 'accuracy'", "fit best", "it has"),
    call("model", lambda _: make_loss_fn(tiny.forward, {}), "terms are []", "make_loss_fn", "name at least one"),
    call(
        "model",
        lambda _: softmax_cross_entropy(jnp.zeros((4, 3)), jnp.zeros(5, int)),
        "shapes (4,) and (5,) differ",
        "softmax_cross_entropy",
        "broadcasting",
    ),
    call(
        "model",
        lambda _: per_label(LABELS, {"new": Group(), "transferred": Group()}, optax.scale_by_adam).init({"a": PARAMS}),
        "a/head/bias is a parameter without entry",
        "labels",
        "from these very parameters",
    ),
]
TABLE = [*CHECKPOINT, *CONFIG, *RULES, *DATA, *FILES, *WEIGHTS, *MODEL]
PROCESSES = [case for case in TABLE if isinstance(case.make, tuple)][::7]


def name_of(case: Case) -> str:
    return f"{case.area}-{' '.join(case.make) if isinstance(case.make, tuple) else case.says[0]}"


def argv_of(words: tuple[str, ...]) -> list[str]:
    given = {word.partition("=")[0] for word in words}
    defaults = ("--workdir=run", "--config.data=digits.npz", *QUICK)
    return [*(word for word in defaults if word.partition("=")[0] not in given), *words]


def run(case: Case, room: Path) -> int:
    if isinstance(case.make, tuple):
        return cli.execute(cifar_transfer.main, cifar_transfer.Config, argv_of(case.make))
    return cli.guarded(lambda: case.make(room))


@pytest.mark.parametrize("case", TABLE, ids=name_of)
def test_a_mistake_is_told_in_two_lines_and_changes_nothing(case, room, capsys, record_property):
    record_property("tally", "bad inputs are told in one or two lines, with exit code 2 and nothing changed on disk")
    before = on_disk(room)
    assert run(case, room) == 2
    said = capsys.readouterr().err.strip()
    assert 1 <= len(said.splitlines()) <= 2
    assert "Traceback" not in said
    for words in case.says:
        assert words in said
    assert on_disk(room) == before


def test_more_labelled_examples_than_there_are(room, capsys):
    assert cli.execute(cifar_transfer.main, cifar_transfer.Config, argv_of(("--config.n_per_class=4000",))) == 2
    said = capsys.readouterr().err
    assert "class '5' has" in said
    assert len(said.splitlines()) == 2


def test_the_table_is_wide():
    assert len(TABLE) >= 40
    areas = {"checkpoint", "config", "labels and rules", "data", "file system", "weights", "model"}
    assert {case.area for case in TABLE} == areas
    assert all(len(case.says) == 3 for case in TABLE)


@pytest.mark.parametrize("case", PROCESSES, ids=name_of)
def test_a_mistake_as_a_process(case, room, capsys):
    assert run(case, room) == 2
    here = capsys.readouterr().err
    command = [sys.executable, "-m", "experiments.cifar_transfer", *argv_of(case.make)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=room, env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (2, here)
