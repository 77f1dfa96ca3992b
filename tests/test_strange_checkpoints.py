"""Checkpoints of strangers, and what may stand among their files: refused before a reader waits or allocates.

Their digests can be forged: whoever writes a manifest writes them too.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import time
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
import pytest

from jaxtl.checkpoints import disk, export, latest_step, load_weights, own, read_meta, restore, save
from jaxtl.cli import workdir
from jaxtl.errors import InputError
from jaxtl.protocol import RunStore
from jaxtl.step import TrainState, init_state
from jaxtl.writers import Writer

SECONDS = 4  # on a busy machine


def state(step: int) -> TrainState:
    params = {"head": {"kernel": jnp.full((4, 3), step + 0.5), "bias": jnp.zeros(3)}}
    return init_state(params, optax.adam(1e-3), jax.random.key(0))._replace(step=jnp.int32(step))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    directory = tmp_path_factory.mktemp("saved")
    for step in (1, 2):
        save(directory, state(step), {"step": step})
    return directory


@pytest.fixture
def run(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "run")


def newest(run: Path) -> Path:
    return run / "checkpoints" / "2"


def socket_at(path: Path) -> None:
    before = os.getcwd()
    os.chdir(path.parent)  # the name of a socket is short
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(path.name)
    os.chdir(before)


OTHERS = {
    "a pipe": os.mkfifo,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a socket": socket_at,
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link that leads nowhere": lambda path: path.symlink_to("nowhere"),
    "a link to a directory": lambda path: path.symlink_to(".."),
}


def signed(directory: Path, **changes) -> None:
    """A manifest whose digests are right, with other content: what somebody who forges would write."""
    content = json.loads((directory / "manifest.json").read_text())["content"]
    files = {
        str(path.relative_to(directory)): zlib.crc32(path.read_bytes())
        for path in directory.rglob("*")
        if path.is_file() and path.name != "manifest.json"
    }
    content |= {"files": files} | changes
    crc32 = zlib.crc32(json.dumps(content).encode())
    (directory / "manifest.json").write_text(json.dumps({"crc32": crc32, "content": content}))


def falls_back(run: Path, said: str, caplog) -> None:
    """The newest checkpoint is passed over at once, in a line that says why, and its predecessor restored."""
    began = time.monotonic()
    assert read_meta(run)["step"] == 1
    assert float(load_weights(run)["head"]["kernel"][0, 0]) == 1.5
    assert int(restore(run, state(0)).step) == 1
    assert time.monotonic() - began < 3 * SECONDS
    for record in caplog.records:
        assert said in record.getMessage()
        assert len(record.getMessage()) < 400


@pytest.mark.parametrize("place", ["manifest.json", "arrays", "arrays/_METADATA", "arrays/manifest.ocdbt", "arrays/x"])
@pytest.mark.parametrize("kind", OTHERS)
def test_what_is_no_file_among_those_of_a_checkpoint_is_not_opened(run, kind, place, caplog):
    path = newest(run) / place
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    OTHERS[kind](path)
    falls_back(run, place.rpartition("/")[2], caplog)


@pytest.mark.parametrize("place", ["arrays", "arrays/_METADATA", "arrays/manifest.ocdbt"])
def test_a_pipe_that_no_manifest_names_is_not_opened_either(run, place, caplog):
    path = newest(run) / place
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    signed(newest(run))
    os.mkfifo(path)
    falls_back(run, "is a pipe, not a file", caplog)


def test_a_checkpoint_whose_files_are_links_to_files_is_read(run, tmp_path):
    """As caches of downloads keep them."""
    (tmp_path / "blobs").mkdir()
    for number, path in enumerate(path for path in sorted(newest(run).rglob("*")) if path.is_file()):
        blob = path.rename(tmp_path / "blobs" / str(number))
        path.symlink_to(blob)
    assert int(restore(run, state(0)).step) == 2


@pytest.mark.parametrize("place", ["manifest.json", "arrays/_METADATA", "arrays/manifest.ocdbt"])
def test_a_file_of_terabytes_is_not_read(run, place, caplog):
    os.truncate(newest(run) / place, 2**40)
    falls_back(run, place, caplog)


def test_a_checkpoint_of_files_without_number_is_not_gone_through(run, caplog):
    for number in range(10_000):
        (newest(run) / f"arrays/{number}").touch()
    falls_back(run, "holds more files than were written", caplog)


@pytest.mark.parametrize("content", ["[" * 10**6, '{"content":' * 10**5, '{"crc32": 0, "content": []}', "[]", "1e999"])
def test_a_manifest_of_something_else_is_damage(run, content, caplog):
    (newest(run) / "manifest.json").write_text(content)
    falls_back(run, "manifest.json", caplog)


@pytest.mark.parametrize(
    "changes",
    [
        {"leaves": []},
        {"leaves": {"step": {"shape": [-1], "dtype": "int32"}}},
        {"leaves": {"step": {"shape": [True], "dtype": "int32"}}},
        {"leaves": {"step": {"shape": 3, "dtype": "int32"}}},
        {"leaves": {"step": {"shape": [], "dtype": "nonsense"}}},
        {"keys": []},
        {"meta": None},
        {"digests": 1},
        {"files": [1]},
    ],
    ids=str,
)
def test_a_forged_manifest_of_other_parts_is_damage(run, changes, caplog):
    signed(newest(run), **changes)
    falls_back(run, "manifest.json", caplog)


def leaves(run: Path, **changes) -> dict:
    manifest = disk.verify(newest(run))
    return {**manifest["leaves"], "params/head/kernel": {"shape": [4, 3], "dtype": "float32"} | changes}


@pytest.mark.parametrize("changes", [{"shape": [10**7, 10**6]}, {"shape": [0, 10**20]}, {"dtype": "object"}], ids=str)
def test_an_array_that_is_announced_as_another_is_not_read(run, changes):
    signed(newest(run), leaves=leaves(run, **changes))
    with pytest.raises(InputError, match=r"params/head/kernel: float32\[4, 3\] against "):
        restore(run, state(0))
    with pytest.raises(InputError, match=r"would become|cannot be read: ") as error:
        load_weights(run)
    assert len(str(error.value).splitlines()) == 2


def test_keys_of_no_known_kind_are_told(run):
    signed(newest(run), keys={"rng": "of my own"})
    with pytest.raises(InputError, match="holds keys of no known kind"):
        restore(run, state(0))


@pytest.mark.parametrize(
    ("changes", "announce"),
    [
        ({"shape": [10**5, 10**5]}, {}),
        ({"shape": [10**5, 10**5], "chunks": [10**5, 10**5]}, {"shape": [10**5, 10**5]}),
        ({"chunks": [10**5, 10**5]}, {}),
        ({"dtype": "<f8"}, {}),
    ],
    ids=str,
)
def test_an_array_that_is_stored_as_another_than_announced_is_not_read(run, changes, announce):
    """What is announced may be right, and what is stored says that it unpacks to 40 GB."""
    import tensorstore

    announced = leaves(run, **announce)
    store = tensorstore.KvStore.open({"driver": "ocdbt", "base": f"file://{newest(run)}/arrays/"}).result()
    [key] = [key for key in store.list().result() if b"params" in key and key.endswith(b"kernel/.zarray")]
    store.write(key, json.dumps(json.loads(store.read(key).result().value) | changes).encode()).result()
    signed(newest(run), leaves=announced)
    for work in (load_weights, lambda path: restore(path, state(0))):
        began = time.monotonic()
        with pytest.raises(InputError) as error:
            work(run)
        assert len(str(error.value).splitlines()) == 2
        assert time.monotonic() - began < SECONDS


def test_zeros_that_take_no_space_are_restored(tmp_path):
    """A fresh state is mostly zeros: what its files take says nothing about what it takes in memory."""
    fresh = init_state({"head": {"kernel": jnp.zeros((5000, 2000))}}, optax.adam(1e-3), jax.random.key(0))
    save(tmp_path, fresh, {})
    assert restore(tmp_path, fresh).params["head"]["kernel"].shape == (5000, 2000)


@pytest.mark.parametrize("kind", OTHERS)
def test_a_lock_that_is_no_file_is_not_opened(tmp_path, kind):
    OTHERS[kind](tmp_path / ".lock")
    with pytest.raises(InputError, match="no directory to write in"), own(tmp_path):
        pass


@pytest.mark.parametrize("name", [".lock", "runs.jsonl", "metrics.jsonl"])
def test_a_file_that_a_link_leads_to_is_not_written_over(tmp_path, name):
    """A run directory of a stranger may name any file of its reader."""
    run, own_file = tmp_path / "run", tmp_path / "diary"
    run.mkdir()
    own_file.write_text("a line\nand half a line")
    (run / name).symlink_to(own_file)
    works = {
        ".lock": lambda: own(run).__enter__(),
        "runs.jsonl": lambda: RunStore(run),
        "metrics.jsonl": lambda: write(run),
    }
    with contextlib.suppress(InputError):
        works[name]()
    assert own_file.read_text() == "a line\nand half a line"


def write(run: Path) -> None:
    with Writer(run) as writer:
        writer.rewind(0)
        writer.write(1, {"loss": 1.0})


def test_links_without_end_are_no_directory(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    for work in (
        lambda path: own(path).__enter__(),
        latest_step,
        load_weights,
        lambda path: export({}, path / "x.safetensors"),
    ):
        with pytest.raises(InputError) as error:
            work(tmp_path / "a")
        assert len(str(error.value).splitlines()) == 2


def test_records_that_are_nested_without_end_are_told(tmp_path):
    for name, work in {"config.json": workdir.read, "runs.jsonl": RunStore}.items():
        (tmp_path / name).write_text("[" * 1_000_000 + "\n")
        with pytest.raises(InputError, match=name):
            work(tmp_path)
