"""Checkpoints: what comes back is what was saved, bit for bit, or an error of at most two lines."""

import contextlib
import json
import logging
import pickle
import random
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from safetensors.numpy import load_file, save_file

from jaxtl.checkpoints import export, latest_step, load_weights, own, read_meta, restore, save
from jaxtl.errors import InputError


class State(NamedTuple):
    step: Any
    params: Any
    model_state: Any
    opt_state: Any
    rng: Any


LABELS = {"trunk": {"kernel": "transferred", "scale": "frozen"}, "head": {"kernel": "new"}}


def make_state(step: int, width: int = 3) -> State:
    values = np.random.default_rng(step).normal(size=(4, width)).astype(np.float32)
    params = {
        "trunk": {"kernel": jnp.asarray(values), "scale": jnp.asarray(values[0], jnp.bfloat16)},
        "head": {"kernel": jnp.asarray(values.T)},
    }
    chains = {"transferred": optax.adam(0.1), "new": optax.sgd(0.1, momentum=0.9), "frozen": optax.set_to_zero()}
    tx = optax.partition(chains, LABELS)
    _, opt_state = tx.update(params, tx.init(params), params)
    model_state = {"queue": jnp.zeros((0, 3)), "keys": jax.random.split(jax.random.key(step, impl="rbg"), 2)}
    return State(jnp.int32(step), params, model_state, opt_state, jax.random.key(step))


def host(leaf: Any) -> np.ndarray:
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(leaf) if is_key else leaf)


def same(ours: Any, theirs: Any) -> bool:
    """Independent of the module: structure, dtypes, shapes and bytes."""
    if jax.tree.structure(ours) != jax.tree.structure(theirs):
        return False
    pairs = list(zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True))
    return all(a.dtype == b.dtype and a.shape == b.shape and host(a).tobytes() == host(b).tobytes() for a, b in pairs)


def short(error: pytest.ExceptionInfo) -> str:
    assert len(str(error.value).splitlines()) <= 2
    return str(error.value)


def step_directory(workdir: Path, step: int) -> Path:
    return workdir / "checkpoints" / str(step)


def names(workdir: Path) -> set[str]:
    return {path.name for path in (workdir / "checkpoints").iterdir()}


# What is saved comes back.


def test_a_state_comes_back_bit_for_bit(tmp_path, capfd):
    state, meta = make_state(7), {"config": {"lr": 0.1, "name": "l2-sp"}, "position": [3, 4]}
    assert save(tmp_path, state, meta) == step_directory(tmp_path, 7)
    restored = restore(tmp_path, make_state(1))
    assert same(restored, state)
    assert not same(restored, make_state(8))
    assert all(not leaf.committed for leaf in jax.tree.leaves(restored))
    assert read_meta(tmp_path) == meta
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "leaf",
    [
        np.float32(2.5),
        np.arange(6, dtype=np.int64).reshape(2, 3).T,
        np.array([True, False]),
        jnp.asarray([1.5, jnp.nan, -jnp.inf, -0.0], jnp.float16),
        jnp.asarray([1 + 2j]),
    ],
    ids=lambda leaf: f"{type(leaf).__name__}-{leaf.dtype}",
)
def test_every_kind_of_array_keeps_its_kind(tmp_path, leaf):
    save(tmp_path, {"leaf": leaf}, {"step": 0})
    restored = restore(tmp_path, {"leaf": leaf})["leaf"]
    assert isinstance(restored, jax.Array) == isinstance(leaf, jax.Array)
    assert type(restored) is type(leaf)
    assert same({"leaf": restored}, {"leaf": leaf})


def test_leaves_go_where_like_is(tmp_path):
    save(tmp_path, {"a": jnp.arange(4.0), "b": jnp.arange(3.0)}, {"step": 1})
    mesh = jax.make_mesh((2,), ("data",))
    split = NamedSharding(mesh, PartitionSpec("data"))
    like = {"a": jax.device_put(jnp.zeros(4), split), "b": jax.ShapeDtypeStruct((3,), jnp.float32)}
    restored = restore(tmp_path, like)
    assert restored["a"].sharding == split
    np.testing.assert_array_equal(restored["a"], np.arange(4.0))
    np.testing.assert_array_equal(restored["b"], np.arange(3.0))


def test_a_restored_state_is_donated_without_touching_another(tmp_path):
    state = make_state(3)
    save(tmp_path, state, {})
    first, second = restore(tmp_path, state), restore(tmp_path, state)
    jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)(first.params)
    assert same(second, state)


def test_the_newest_two_stay_and_leftovers_go(tmp_path):
    for step in (1, 2, 10):
        (tmp_path / "checkpoints" / f"{step + 1}.tmp" / "arrays").mkdir(parents=True)
        save(tmp_path, make_state(step), {})
    assert names(tmp_path) == {"2", "10"}
    assert latest_step(tmp_path) == 10


def test_saving_a_step_again_replaces_it(tmp_path):
    save(tmp_path, make_state(1), {"finished": False})
    save(tmp_path, make_state(1), {"finished": True})
    assert names(tmp_path) == {"1"}
    assert read_meta(tmp_path) == {"finished": True}


@pytest.mark.parametrize("again", [False, True])
def test_at_any_instant_of_a_save_the_old_or_the_new_checkpoint_restores(tmp_path, monkeypatch, again):
    """A copy of the directory is made before and after every change of a name: what a kill would leave there."""
    workdir, copies = tmp_path / "run", tmp_path / "copies"
    save(workdir, make_state(1), {"old": True})

    def copied(original):
        def change(*args, **how):
            shutil.copytree(workdir, copies / str(len(list(copies.glob("*")))))
            return original(*args, **how)

        return change

    copies.mkdir()
    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", copied(Path.rename))
        patched.setattr(shutil, "rmtree", copied(shutil.rmtree))
        save(workdir, make_state(1 if again else 2), {"old": False})
    assert len(list(copies.iterdir())) >= 2 + again
    for copy in copies.iterdir():
        restored = restore(copy, make_state(9))
        assert same(restored, make_state(int(restored.step)))
        assert read_meta(copy)["old"] == (restored.step == 1) or again
        save(copy, make_state(3), {})
        assert latest_step(copy) == 3


def test_a_stacked_state_takes_its_step_from_meta(tmp_path):
    stacked = jax.tree.map(lambda x: jnp.stack([x, x]), make_state(1))
    assert save(tmp_path, stacked, {"step": 4}).name == "4"
    assert same(restore(tmp_path, stacked), stacked)


# What cannot be used is refused.


def test_nothing_there(tmp_path):
    assert latest_step(tmp_path) is None
    with pytest.raises(InputError, match="no checkpoint"):
        restore(tmp_path, make_state(1))
    with pytest.raises(InputError, match="no checkpoint"):
        read_meta(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s._replace(rng=jax.random.key(0, impl="rbg")), r"rng: key<rbg>\[\] against key<fry>\[\]"),
        (lambda s: s._replace(rng=jax.random.key_data(s.rng)), r"rng: uint32\[2\] against key<fry>\[\]"),
        (lambda s: s._replace(step=jnp.float32(0)), r"step: float32\[\] against int32\[\]"),
        (
            lambda s: s._replace(params=s.params | {"head": {"kernel": jnp.zeros((9, 4))}}),
            r"params/head/kernel: float32\[9, 4\] against float32\[3, 4\]",
        ),
        (lambda s: s._replace(model_state={}), r"model_state/keys: nothing against key<rbg>\[2\]"),
        (lambda s: s._replace(params=s.params | {"more": jnp.zeros(1)}), r"params/more: float32\[1\] against nothing"),
    ],
)
def test_what_does_not_fit_is_named_on_both_sides(tmp_path, change, message):
    save(tmp_path, make_state(1), {})
    with pytest.raises(InputError, match=message) as error:
        restore(tmp_path, change(make_state(1)))
    short(error)
    assert names(tmp_path) == {"1"}


@pytest.mark.parametrize(
    ("state", "meta", "message"),
    [
        ({"a": jnp.zeros(1)}, {}, "step is missing"),
        ({"a": jnp.zeros(1)}, {"step": -1}, "negative"),
        ({"a": 1.0}, {"step": 1}, r"a: float\[\] is no array"),
        ({"a": jnp.zeros(1)}, {"step": 1, "config": object()}, "meta: not JSON"),
        ({"a/b": jnp.zeros(1), "a": {"b": jnp.zeros(1)}}, {"step": 1}, "two leaves have one path"),
    ],
)
def test_what_cannot_be_stored_is_refused(tmp_path, state, meta, message):
    with pytest.raises(InputError, match=message) as error:
        save(tmp_path, state, meta)
    short(error)
    assert latest_step(tmp_path) is None


def test_an_older_step_is_refused(tmp_path):
    save(tmp_path, make_state(5), {})
    with pytest.raises(InputError, match="step 4 is older than the checkpoint of step 5"):
        save(tmp_path, make_state(4), {})


# Damage.


@pytest.fixture
def pair(tmp_path):
    """Two checkpoints, and a way to put them back after damage."""
    workdir, backup = tmp_path / "run", tmp_path / "backup"
    for step in (1, 2):
        save(workdir, make_state(step), {"saved": step})
    shutil.copytree(workdir, backup)

    def mend() -> None:
        shutil.rmtree(workdir)
        shutil.copytree(backup, workdir)

    return workdir, mend


def flip(path: Path, chance: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)


def truncate(path: Path, chance: random.Random) -> None:
    path.write_bytes(path.read_bytes()[: chance.randrange(path.stat().st_size)])


DAMAGES = {"deleted": lambda path, _: path.unlink(), "truncated": truncate, "flipped": flip}


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_damaged_file_leads_to_the_previous_checkpoint(pair, damage, caplog, capfd):
    workdir, mend = pair
    like, chance = make_state(9), random.Random(0)
    files = sorted(path for path in step_directory(workdir, 2).rglob("*") if path.is_file())
    assert len(files) >= 5
    for file in files:
        caplog.clear()
        if file.stat().st_size:
            DAMAGES[damage](file, chance)
            assert same(restore(workdir, like), make_state(1)), file
            assert read_meta(workdir) == {"saved": 1}
            assert names(workdir) == {"1", "2.corrupt"}
            [record] = caplog.records
            assert (record.name, record.levelno) == ("jaxtl", logging.WARNING)
            assert file.name in record.getMessage()
            assert "\n" not in record.getMessage()
        mend()
    assert capfd.readouterr() == ("", "")


def how_it_ends(workdir: Path, like: State) -> str:
    try:
        restored = restore(workdir, like)
    except InputError as error:
        return "one error" if len(str(error).splitlines()) <= 2 else "a long error"
    step = int(restored.step)
    return ("fell back" if step == 1 else "intact") if same(restored, make_state(step)) else "silently wrong"


@pytest.mark.parametrize(
    ("flips", "truncations"),
    [(100, 20), pytest.param(1000, 200, marks=pytest.mark.slow)],
    ids=["some", "many"],
)
def test_no_damage_gives_other_values(pair, flips, truncations, record_property):
    """One damage each, in the newest checkpoint; every tenth time in both, so that nothing is left to fall back to."""
    workdir, mend = pair
    like, chance, ends = make_state(9), random.Random(flips), Counter()
    files = {
        step: sorted(path for path in step_directory(workdir, step).rglob("*") if path.is_file()) for step in (1, 2)
    }
    filled = {step: [path for path in found if path.stat().st_size] for step, found in files.items()}
    cases = [("flipped", None)] * flips + [("truncated", None)] * truncations
    for number, (damage, file) in enumerate([*cases, *(("deleted", file) for file in files[2])]):
        for step in (2,) if number % 10 else (2, 1):
            DAMAGES[damage](file if file and step == 2 else chance.choice(filled[step]), chance)
        ends[how_it_ends(workdir, like)] += 1
        mend()
    total = len(cases) + len(files[2])
    told = ", ".join(f"{end}: {ends[end]}" for end in ("fell back", "one error", "intact", "silently wrong"))
    record_property(
        "proof", f"{total} damages to checkpoints ({flips} flipped bits, {truncations} truncations, {told})"
    )
    assert ends.keys() <= {"fell back", "one error", "intact"}
    assert ends["fell back"] >= 0.8 * total
    assert ends["one error"] >= 0.05 * total
    assert ends["intact"] <= 0.05 * total  # what JSON does not read: white space


def test_nothing_intact_is_an_error_and_nothing_is_deleted(pair):
    workdir, _ = pair
    for step in (1, 2):
        (step_directory(workdir, step) / "manifest.json").write_text("{}")
    for _ in range(2):  # the second time as well: it never starts anew unasked
        with pytest.raises(InputError, match=r"none of its 2 checkpoints is intact \(manifest.json:") as error:
            restore(workdir, make_state(1))
        short(error)
        assert names(workdir) == {"1", "2"}
        assert latest_step(workdir) == 2


def test_an_empty_newer_directory_is_set_aside(pair):
    workdir, _ = pair
    for _ in range(2):
        step_directory(workdir, 99).mkdir()
        assert same(restore(workdir, make_state(9)), make_state(2))
    assert names(workdir) == {"1", "2", "99.corrupt", "99.corrupt1"}
    save(workdir, make_state(3), {})


def test_reading_meta_or_weights_renames_nothing(pair):
    workdir, _ = pair
    (step_directory(workdir, 2) / "manifest.json").unlink()
    assert read_meta(workdir) == {"saved": 1}
    load_weights(workdir)
    assert names(workdir) == {"1", "2"}


def test_a_reader_that_gives_other_values_is_caught(pair, monkeypatch):
    import orbax.checkpoint as ocp

    def altered(self, directory):
        leaves = original(self, directory)
        return leaves | {"params/head/kernel": leaves["params/head/kernel"] + 1}

    original = ocp.Checkpointer.restore
    monkeypatch.setattr(ocp.Checkpointer, "restore", altered)
    workdir, _ = pair
    with pytest.raises(InputError, match="not those that were saved"):
        restore(workdir, make_state(1))
    with pytest.raises(InputError, match="could not be saved"):
        save(workdir, make_state(3), {})
    assert names(workdir) == {"1", "2"}


def test_too_little_space_is_seen_before_writing(pair, monkeypatch):
    workdir, _ = pair
    usage = shutil.disk_usage(workdir)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(InputError, match="0 MB are free") as error:
        save(workdir, make_state(3), {})
    short(error)
    assert same(restore(workdir, make_state(9)), make_state(2))


# Other processes.

CHILD = """
import sys, os, signal, resource
import numpy as np
from jaxtl import checkpoints
from jaxtl.errors import InputError
assert "orbax.checkpoint" not in sys.modules
workdir, what = sys.argv[1:]
state = {"a": np.random.default_rng(0).normal(size=50_000)}
if what == "own":
    with checkpoints.own(workdir):
        print("owned", flush=True)
        signal.pause()
if what == "save":
    for step in range(1000):
        checkpoints.save(workdir, state | {"step": np.asarray(step)}, {"step": step})
        print(step, flush=True)
if what == "full":
    checkpoints.save(workdir, state, {"step": 0})
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    try:
        checkpoints.save(workdir, state, {"step": 1})
    except InputError as error:
        print(error)
"""


@contextlib.contextmanager
def child(workdir: Path, what: str) -> Iterator[subprocess.Popen]:
    command = [sys.executable, "-c", CHILD, str(workdir), what]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_second_process_is_refused_and_a_killed_one_frees_the_directory(tmp_path):
    with own(tmp_path / "run"):
        pass
    with child(tmp_path / "run", "own") as process:
        assert process.stdout.readline() == "owned\n"
        refused = pytest.raises(InputError, match=f"in use by process {process.pid}\n")
        with refused as error, own(tmp_path / "run"):
            pass
        short(error)
        process.kill()
    with own(tmp_path / "run") as workdir:
        assert workdir == (tmp_path / "run").resolve()


def test_a_process_killed_while_saving_leaves_a_whole_checkpoint(tmp_path):
    like = {"a": np.zeros(50_000), "step": np.asarray(0)}
    with child(tmp_path, "save") as process:
        for _ in range(3):
            process.stdout.readline()
        process.kill()
        last = [2, *map(int, process.stdout.read().split())][-1]
    restored = restore(tmp_path, like)
    assert restored["step"] in (last, last + 1)
    np.testing.assert_array_equal(restored["a"], np.random.default_rng(0).normal(size=50_000))
    save(tmp_path, restored, {"step": 2000})
    assert not any(name.endswith(".tmp") for name in names(tmp_path))


def test_a_disk_that_fills_up_while_writing_is_two_lines_and_costs_nothing(tmp_path):
    with child(tmp_path, "full") as process:
        out, err = process.communicate()
    assert "step 1 could not be saved" in out
    assert len(out.splitlines()) <= 2
    assert err == ""
    assert names(tmp_path) == {"0"}


def test_a_path_that_is_no_directory_is_refused_at_the_start(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_text("")
    for path in (file, file / "run"):
        with pytest.raises(InputError, match="no directory to write in") as error, own(path):
            pass
        short(error)

    def denied(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "NamedTemporaryFile", denied)  # no file mode stops root
    with pytest.raises(InputError, match="Permission denied"), own(tmp_path / "run"):
        pass


def test_owning_is_exclusive_within_a_process_and_ends_with_the_block(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with own("run") as workdir:
        assert workdir.is_absolute()
        with pytest.raises(InputError, match="in use by process"), own(workdir):
            pass
    with own("run"), pytest.raises(OSError, match="mine"):
        raise OSError("mine")  # what happens inside is not ours to explain


# Weights.


def weights() -> dict[str, Any]:
    values = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    return {"trunk": {"kernel": values.T, "bias": jnp.asarray(values[0], jnp.bfloat16)}, "head": {"scale": values}}


def test_weights_come_back(tmp_path):
    path = export(weights(), tmp_path / "x.safetensors")
    assert same(load_weights(path), weights())
    assert sorted(load_file(path)) == ["head/scale", "trunk/bias", "trunk/kernel"]
    assert [file.name for file in tmp_path.iterdir()] == ["x.safetensors"]


def test_weights_of_others(tmp_path):
    save_file({"encoder.0.weight": np.ones(2, np.float32)}, tmp_path / "x.safetensors")
    assert list(load_weights(tmp_path / "x.safetensors")) == ["encoder.0.weight"]
    np.savez(tmp_path / "x.npz", **{"trunk/kernel": np.arange(3.0)})
    np.testing.assert_array_equal(load_weights(tmp_path / "x.npz")["trunk"]["kernel"], np.arange(3.0))


def test_a_header_whose_length_looks_like_a_pickle(tmp_path):
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode().ljust(0x280)
    content = len(header).to_bytes(8, "little") + header + np.float32(3).tobytes()
    assert content[:2] == b"\x80\x02"
    (tmp_path / "x.safetensors").write_bytes(content)
    assert load_weights(tmp_path / "x.safetensors")["a"] == [3]


def test_weights_of_a_run_are_those_of_the_newest_intact_checkpoint(pair):
    workdir, _ = pair
    for path in (workdir, step_directory(workdir, 2)):
        assert same(load_weights(path), jax.tree.map(np.asarray, make_state(2).params))
    (step_directory(workdir, 2) / "arrays" / "manifest.ocdbt").write_bytes(b"")
    assert same(load_weights(workdir), jax.tree.map(np.asarray, make_state(1).params))
    with pytest.raises(InputError, match=r"manifest.ocdbt is not what was written"):
        load_weights(step_directory(workdir, 2))


def test_directories_without_weights(tmp_path):
    with pytest.raises(InputError, match="no checkpoint"):
        load_weights(tmp_path)
    save(tmp_path, {"weights": jnp.zeros(2)}, {"step": 1})
    with pytest.raises(InputError, match="holds no `params`"):
        load_weights(tmp_path)


@pytest.mark.parametrize("ending", ["safetensors", "npz"])
@pytest.mark.parametrize("damage", ["truncated", "flipped"])
def test_damaged_weights_are_refused_or_intact(tmp_path, ending, damage, record_property):
    path, chance, refused = tmp_path / f"x.{ending}", random.Random(2), 0
    params = {"a": {"kernel": np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32)}}
    np.savez(path, **{"a/kernel": params["a"]["kernel"]}) if ending == "npz" else export(params, path)
    intact = path.read_bytes()
    for _ in range(200):
        DAMAGES[damage](path, chance)
        try:
            assert same(load_weights(path), params)
        except InputError as error:
            refused += len(str(error).splitlines()) <= 2
        path.write_bytes(intact)
    record_property("proof", f"200 damages to weights ({damage} .{ending}, one error: {refused}, silently wrong: 0)")
    assert refused >= 100


class Canary:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["x.pt", "x.pth", "x.pkl", "x.bin", "x.ckpt", "x.npz", "x.safetensors", "x"])
@pytest.mark.parametrize("packed", ["bare", "zip", "objects"])
def test_no_pickle_is_executed(tmp_path, name, packed, record_property):
    record_property("tally", "canaries did not fire")
    path, sang = tmp_path / name, tmp_path / "sang"
    canary = pickle.dumps(Canary(sang))
    if packed == "bare":
        path.write_bytes(canary)
    elif packed == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", canary)
    else:
        with open(path, "wb") as file:
            np.savez(file, a=np.array([Canary(sang)], dtype=object))
    with pytest.raises(InputError) as error:
        load_weights(path)
    short(error)
    assert "pickle" in error.value.what or (name in ("x", "x.safetensors") and packed != "bare")
    assert not sang.exists()
    pickle.loads(canary)  # noqa: S301 (the canary does sing)
    assert sang.exists()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": np.zeros(2), "a/b": np.zeros(2)}, "both an array and a group"),
        ({"a/b": np.zeros(2), "a": np.zeros(2)}, "both an array and a group"),
        ({"a": np.array(["text"])}, "a holds <U4, not numbers"),
        ({"a": np.asarray(jnp.zeros(2, jnp.bfloat16))}, "not numbers"),
    ],
)
def test_arrays_that_are_no_parameters(tmp_path, arrays, message):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(InputError, match=message) as error:
        load_weights(tmp_path / "x.npz")
    short(error)


def test_files_that_are_no_weights(tmp_path):
    (tmp_path / "x.h5").write_bytes(b"x")
    (tmp_path / "x.npz").write_bytes(b"")
    (tmp_path / "x.safetensors").write_bytes(b"")
    messages = {"x.h5": "not read from .h5", "x.npz": "truncated", "x.safetensors": "truncated", "y.npz": "no such"}
    for name, message in messages.items():
        with pytest.raises(InputError, match=message) as error:
            load_weights(tmp_path / name)
        short(error)


@pytest.mark.parametrize(
    ("params", "name", "message"),
    [
        ({"a": np.zeros(2)}, "x.npz", "written as .safetensors"),
        ({"a": np.zeros(2)}, "none/x.safetensors", "could not be written"),
        ({"a": np.zeros(2, complex)}, "x.safetensors", "could not be written"),
        ({"a": jax.random.key(0)}, "x.safetensors", "a: a random key is no weight"),
    ],
)
def test_what_cannot_be_exported_is_refused(tmp_path, params, name, message):
    with pytest.raises(InputError, match=message) as error:
        export(params, tmp_path / name)
    short(error)
    assert not list(tmp_path.iterdir())


def test_an_export_that_does_not_read_back_leaves_the_old_file(tmp_path, monkeypatch):
    def altered(leaves, path, metadata):
        save_file({name: leaf + 1 for name, leaf in leaves.items()}, path, metadata)

    path = export(weights(), tmp_path / "x.safetensors")
    monkeypatch.setattr("safetensors.numpy.save_file", altered)
    with pytest.raises(InputError, match="its digests differ"):
        export({"a": np.zeros(2)}, path)
    assert same(load_weights(path), weights())
    assert [file.name for file in tmp_path.iterdir()] == ["x.safetensors"]
