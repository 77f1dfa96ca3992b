"""Weights that were made to hang or to fill the memory: each is refused at once, in two lines, in a bounded memory."""

from __future__ import annotations

import io
import json
import os
import socket
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxtl.checkpoints import load_weights
from jaxtl.checkpoints.torch_files import MAGIC
from jaxtl.errors import InputError
from jaxtl.files import open_regular

SECONDS, MEGABYTES = 4, 500  # what one file may take, on a busy machine, beyond what an idle reader has


# --- programs for the machine that reads pickles ---


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def name(value: str) -> bytes:
    module, _, function = value.rpartition(".")
    return f"c{module}\n{function}\n".encode()


def number(value: int) -> bytes:
    return b"M" + struct.pack("<H", value)


def put(key: int) -> bytes:
    return b"r" + struct.pack("<I", key)


def get(key: int) -> bytes:
    return b"j" + struct.pack("<I", key)


def doubled(times: int) -> bytes:
    """A tuple of twice a tuple of twice a tuple ...; to hash it, or to write it out, takes 2^times steps."""
    return b")" + b"".join(put(i) + get(i) + b"\x86" for i in range(times))


def storage(kind: bytes = name("torch.FloatStorage"), key: bytes = text("0")) -> bytes:
    return b"(" + text("storage") + kind + key + text("cpu") + b"K\x01tQ"


def tensor(shape: bytes, strides: bytes) -> bytes:
    return name("torch._utils._rebuild_tensor_v2") + b"(" + storage() + b"K\x00" + shape + strides + b"\x89}tR"


LAYERS = b"".join(b"}" + put(i + 1) + text("a") + get(i) + b"s" + text("b") + get(i) + b"s" for i in range(60))
PROGRAMS = {
    "a kind of number that cannot be hashed": storage(kind=doubled(64)),
    "a kind of number that is nested a million times": storage(kind=b")" + 200_000 * b"\x85"),
    "a key of a storage that cannot be hashed": storage(key=doubled(64)),
    "a key of a dict that cannot be hashed": b"}" + doubled(64) + b"Ns",
    "a pair whose key cannot be hashed": name("collections.OrderedDict") + b"(]]" + doubled(64) + b"aNaatR",
    "a name that cannot be written": doubled(64) + b")R",
    "a shape that cannot be written": tensor(doubled(64), b")"),
    "dicts that contain each other twice": b"}" + put(0) + LAYERS,
    "a dict that contains itself": b"}" + put(0) + text("a") + get(0) + b"s",
    "a dict that contains itself without a name": b"}" + put(0) + text("") + get(0) + b"s",
    "a dict whose every entry is a large dict": (
        b"}" + put(0) + b"(" + b"".join(number(i) + b"N" for i in range(60_000)) + b"u}("
        + b"".join(number(i) + get(0) for i in range(60_000)) + b"u"
    ),
    "a long name on every level": (
        text(1_000_000 * "n") + put(1) + b"}" + put(0) + 900 * (b"}" + get(1) + get(0) + b"s" + put(0))
    ),
    "a list of pairs that is copied again and again": (
        b"](" + 100_000 * b"K\x01N\x86" + b"e\x85" + put(2) + name("collections.OrderedDict") + put(1)
        + 100_000 * (get(1) + get(2) + b"R")
    ),
    "a shape of many axes, many times": b"(" + 200_000 * b"K\x01" + b"t" + put(5) + 5_000 * tensor(get(5), get(5)),
    "steps without end": 2_000_000 * b"N",
    "lists of operands above a high stack": 200_000 * b"N" + 200_000 * b"(t",
    "text of four gigabytes": b"X\xff\xff\xff\xff",
    "text of an exabyte": b"\x8d" + struct.pack("<Q", 2**60),
    "bytes of an exabyte": b"\x8e" + struct.pack("<Q", 2**60),
    "a number of two gigabytes": b"\x8b\xff\xff\xff\x7f",
    "a frame of an exabyte": b"\x95" + struct.pack("<Q", 2**60) + b"}",
    "a function with a long name": name("os." + 1_000_000 * "n") + b")R",
    "a storage with a long name": storage(kind=name("os." + 1_000_000 * "n")),
    "a tensor with a long name": b"}" + text(1_000_000 * "n") + tensor(b"K\x01\x85", b"K\x01\x85") + b"s",
    "a digit too many": b"I" + 100_000 * b"9" + b"\n",
    "a place in the memo that is far away": b"}" + b"p" + 4_000 * b"9" + b"\n",
}  # fmt: skip


def as_zip(program: bytes, numbers: bytes = bytes(4)) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + program + b".")
        archive.writestr("archive/data/0", numbers)
    return file.getvalue()


def as_sequence(program: bytes) -> bytes:
    magic = b"\x8a\x0a" + MAGIC.to_bytes(10, "little")
    system = b"}" + text("little_endian") + b"\x88s"
    parts = (magic, number(1001), system, program, b"]" + text("0") + b"a")
    return b"".join(b"\x80\x02" + part + b"." for part in parts) + (1).to_bytes(8, "little") + bytes(4)


# --- archives and tables of contents ---


def overlapping(member: bytes, count: int, prefix: str = "a") -> bytes:
    """One member under many names: what zipfile writes for one, and then its entry in the table again and again."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(f"{prefix}00000000.npy", member)
    content = file.getvalue()
    start, end = content.index(b"PK\1\2"), content.index(b"PK\5\6")
    entry = content[start:end]
    names = (entry.replace(b"00000000", f"{i:08}".encode()) for i in range(count))
    table = b"".join(names)
    tail = bytearray(content[end:])
    tail[8:16] = struct.pack("<HHI", min(count, 65535), min(count, 65535), len(table))
    return content[:start] + table + bytes(tail)


def npy(shape: object, data: bytes = b"", dtype: object = "<f4") -> bytes:
    header = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape}}}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


def npz(member: bytes, how: int = zipfile.ZIP_STORED, name: str = "a") -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", how) as archive:
        archive.writestr(f"{name}.npy", member)
    return file.getvalue()


def zeros_unpacked(claimed: int | None = None) -> bytes:
    """A megabyte of deflated zeros that would become a gigabyte; the table may claim that it is less."""
    size = 2**30
    start, packer = npy((size // 4,)), zlib.compressobj(6, zlib.DEFLATED, -15)
    first, again = (packer.compress(part) + packer.flush(zlib.Z_FULL_FLUSH) for part in (start, bytes(2**24)))
    data = first + 64 * again + packer.flush()
    told = (size + len(start) if claimed is None else claimed, len(data))
    local = struct.pack("<4s5H3I2H", b"PK\3\4", 20, 0, 8, 0, 0, 0, told[1], told[0], 5, 0) + b"a.npy"
    entry = (
        struct.pack("<4s6H3I5H2I", b"PK\1\2", 20, 20, 0, 8, 0, 0, 0, told[1], told[0], 5, 0, 0, 0, 0, 0, 0) + b"a.npy"
    )
    at = len(local) + len(data)
    return local + data + entry + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 1, 1, len(entry), at, 0)


def safetensors(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(content) if length is None else length) + content + data


def entry(shape: list, *offsets: int, dtype: str = "F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


DEEP = "/".join(1_000 * "a")


def files() -> dict[str, bytes]:
    return {
        **{f"{what}.pt": as_zip(program) for what, program in PROGRAMS.items()},
        **{f"{what}, in a row.pt": as_sequence(program) for what, program in PROGRAMS.items()},
        "a storage shared by many.pt": as_zip(
            b"}(" + b"".join(text(str(i)) + tensor(b"J\0\0\x10\0\x85", b"K\x01\x85") for i in range(9_000)) + b"u",
            bytes(2**22),
        ),
        "keys that cannot be hashed.pt": as_sequence(b"}.\x80\x02](" + doubled(64) + b"e"),
        "members upon each other.npz": overlapping(npy((2**18,), bytes(2**20)), 5_000),
        "a table without end.npz": overlapping(npy((1,), bytes(4)), 200_000),
        "zeros.npz": zeros_unpacked(),
        "zeros that claim less.npz": zeros_unpacked(claimed=100),
        "a huge shape.npz": npz(npy((10**12,), bytes(64))),
        "a shape that overflows.npz": npz(npy((2**32, 2**32, 2**3), bytes(64))),
        "two negative sizes.npz": npz(npy((-4, -4), bytes(64))),
        "many nothings.npz": npz(npy((10**15,), dtype="|V0")),
        "a shape that is nested.npz": npz(npy(1).replace(b"1}", 4_000 * b"(" + b"1}")),
        "packed another way.npz": npz(npy((1,), bytes(4)), zipfile.ZIP_LZMA),
        "a header of an exabyte.safetensors": safetensors({}, length=2**60),
        "a huge header.safetensors": safetensors({f"a{i}": entry([0], 0, 0) for i in range(150_000)}),
        "a header that is nested.safetensors": safetensors(b'{"a":' + 4_000_000 * b"["),
        "a name twice.safetensors": safetensors(
            json.dumps({"a": entry([0], 0, 0), "A": entry([1], 0, 4)}).lower().encode(), bytes(4)
        ),
        "arrays upon each other.safetensors": safetensors({"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, bytes(12)),
        "a long name.safetensors": safetensors({1_000_000 * "n": entry([1], 0, 4)}, bytes(4)),
        "a kind with a long name.safetensors": safetensors({"a": entry([1], 0, 4, dtype=1_000_000 * "n")}, bytes(4)),
        "a long name.npz": npz(npy((1,), bytes(4)), name=60_000 * "n"),
        "a kind with many parts.npz": npz(npy((1,), dtype=[(f"n{i}", "<f4") for i in range(400)])),
        "a gap.safetensors": safetensors({"a": entry([1], 0, 4), "b": entry([1], 8, 12)}, bytes(12)),
        "bytes of nobody.safetensors": safetensors({"a": entry([1], 0, 4)}, bytes(12)),
        "arrays beyond the end.safetensors": safetensors({"a": entry([2**40], 0, 2**42)}, bytes(12)),
        "a shape that overflows.safetensors": safetensors({"a": entry([2**32, 2**32, 4], 0, 0)}),
        "two negative sizes.safetensors": safetensors({"a": entry([-2, -2], 0, 16)}, bytes(16)),
        "an array backwards.safetensors": safetensors({"a": entry([1], 4, 0)}, bytes(4)),
        "too many axes.safetensors": safetensors({"a": entry(1_000 * [1], 0, 4)}, bytes(4)),
        "a number that is true.safetensors": safetensors({"a": entry([True], 0, 4)}, bytes(4)),
        "names on a thousand levels.safetensors": safetensors({DEEP: entry([1], 0, 4)}, bytes(4)),
        "names that become dicts.safetensors": safetensors(
            {f"{i}/" + "/".join(60 * "a"): entry([0], 0, 0) for i in range(30_000)}
        ),
    }


def no_files(folder: Path) -> None:
    """What stands where a file of weights is expected and is none."""
    for ending in ("safetensors", "npz", "pt", "pkl", "h5"):
        os.mkfifo(folder / f"pipe.{ending}")
        (folder / f"link to a pipe.{ending}").symlink_to(folder / f"pipe.{ending}")
        (folder / f"zeros without end.{ending}").symlink_to("/dev/zero")
        (folder / f"terminal.{ending}").symlink_to("/dev/tty")
        (folder / f"nothing.{ending}").symlink_to("/dev/null")
        (folder / f"link to nowhere.{ending}").symlink_to(folder / "nowhere")
        (folder / f"link to itself.{ending}").symlink_to(folder / f"link to itself.{ending}")
        (folder / f"directory.{ending}").mkdir()
        with socket.socket(socket.AF_UNIX) as door:
            door.bind(str(folder / f"socket.{ending}"))


CHILD = """
import json, resource, sys, time
from pathlib import Path
from jaxtl.checkpoints import load_weights
from jaxtl.errors import InputError
from jaxtl.files import open_regular
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[2]) * 2**20,) * 2)
for path in sorted(Path(sys.argv[1]).iterdir()):
    start = time.monotonic()
    try:
        load_weights(path)
        told = "read"
    except InputError as error:
        told = str(error)
    print(json.dumps([path.name, time.monotonic() - start, told]), flush=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads how much memory a process has from /proc")
def test_no_file_of_weights_hangs_or_fills_the_memory(tmp_path, record_property):
    for file, content in files().items():
        (tmp_path / file).write_bytes(content)
    no_files(tmp_path)
    names = os.listdir(tmp_path)
    command = [sys.executable, "-c", CHILD, str(tmp_path), str(MEGABYTES)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS * len(names))
    told = {file: (seconds, said) for file, seconds, said in map(json.loads, done.stdout.splitlines())}
    assert sorted(told) == sorted(names), done.stderr  # none has ended the process
    for file, (seconds, said) in told.items():
        assert said != "read", file
        assert len(said.splitlines()) == 2, file
        assert len(said) < 800, file
        assert seconds < SECONDS, (file, seconds, said)
    record_property("proof", f"{len(names)} files of weights that would hang or fill the memory, all refused")


def test_what_takes_the_place_of_a_file_in_between_is_not_read(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    os.mkfifo(tmp_path / "pipe")
    before = os.stat(tmp_path / "file")
    monkeypatch.setattr(os, "stat", lambda _: before)
    with pytest.raises(InputError, match="pipe: is a pipe, not a file\n"):
        open_regular(tmp_path / "pipe")


@pytest.mark.parametrize(
    ("ending", "start", "said"),
    [
        ("npz", b"\x93NUMPY\x01\x00", "a single array of NumPy"),
        ("npz", b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
        ("npz", safetensors({"a": entry([1], 0, 4)}, bytes(4)), "a safetensors file"),
        ("safetensors", npz(npy((1,), bytes(4))), "a zip archive"),
        ("safetensors", b"<!DOCTYPE html><html>", "a web page"),
        ("safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "a pointer of Git LFS"),
        ("safetensors", b'{"error": "Entry not found"}', "JSON"),
        ("bin", safetensors({"a": entry([1], 0, 4)}, bytes(4)), "a safetensors file"),
        ("bin", b"GGUF\x03\x00\x00\x00", "a GGUF file"),
        ("ckpt", b"\x1f\x8b\x08\x00", "packed by gzip"),
        ("pt", b"<html>", "a web page"),
    ],
)
def test_an_intact_file_of_another_kind_is_not_called_damaged(tmp_path, ending, start, said):
    (tmp_path / f"x.{ending}").write_bytes(start)
    with pytest.raises(InputError, match=f"x.{ending}: this is {said}") as error:
        load_weights(tmp_path / f"x.{ending}")
    assert "damaged" not in str(error.value)
    assert len(str(error.value).splitlines()) == 2


def test_a_number_that_is_not_read_is_not_called_damage(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(safetensors({"a": entry([2], 0, 1, dtype="F4")}, bytes(1)))
    with pytest.raises(InputError, match="a holds F4, which is not read\n  cast it to one of F64, F32"):
        load_weights(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    "path", [None, 3, {"a": np.zeros(2)}, "~nobody_of_this_name/x.npz", "x\0.npz", 300 * "x" + ".npz"]
)
def test_what_names_no_file_is_refused(path):
    with pytest.raises(InputError) as error:
        load_weights(path)
    assert len(str(error.value).splitlines()) == 2


def test_a_link_is_read_by_its_own_ending(tmp_path):
    (tmp_path / "0a1b").write_bytes(safetensors({"a": entry([1], 0, 4)}, np.float32(3).tobytes()))
    (tmp_path / "model.safetensors").symlink_to("0a1b")  # as download caches have it
    assert load_weights(tmp_path / "model.safetensors")["a"].tolist() == [3]


def test_every_dtype_of_safetensors_is_read_as_the_library_writes_it(tmp_path):
    kinds = (*"?bBhHiIlLefd", "F")
    arrays = {f"{number}/a": np.arange(6).reshape(2, 3).astype(kind) for number, kind in enumerate(kinds)}
    save_file(
        arrays | {"none": np.zeros((0, 3), np.float32), "one": np.array(2, np.float32)}, tmp_path / "x.safetensors"
    )
    read = load_weights(tmp_path / "x.safetensors")
    for name, array in arrays.items():
        found = read[name.split("/")[0]]["a"]
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, array)
    assert read["none"].shape == (0, 3)
    assert read["one"] == 2
    assert read["one"].shape == ()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_archives_of_numpy_are_read_in_both_orders_packed_or_not(tmp_path, save):
    values = np.random.default_rng(0).normal(size=(3, 5))
    save(
        tmp_path / "x.npz",
        **{"c/kernel": values, "f": np.asfortranarray(values), "scalar": 2.5, "none": np.zeros((0, 4))},
    )
    read = load_weights(tmp_path / "x.npz")
    np.testing.assert_array_equal(read["c"]["kernel"], values)
    np.testing.assert_array_equal(read["f"], values)
    assert read["scalar"] == 2.5
    assert read["none"].shape == (0, 4)
