"""Properties that hold for whatever comes: files with any damage, any names and rules, any config.

Each property gets hypothesis' examples, the same in every run; the slow form gets fifty times as many. A parser may
give back what was written or refuse in one or two lines; any other exception fails the test.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import io
import json
import re
import shlex
import struct
import tarfile
import zipfile
from typing import ClassVar, Literal

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from jaxtl import cli
from jaxtl.checkpoints import export, load_weights
from jaxtl.cli import flags
from jaxtl.data import load
from jaxtl.data.npz import read_npz
from jaxtl.data.readers import CIFAR_10, read_cifar, read_idx
from jaxtl.errors import InputError
from jaxtl.labels import label_params
from jaxtl.transfer import transfer
from jaxtl.trees import check_same, differences, named_leaves

EXAMPLES = 40
SIZES = (EXAMPLES, pytest.param(50 * EXAMPLES, marks=pytest.mark.slow))


@pytest.fixture(params=SIZES)
def check(request, record_property):
    """Run a property on many examples; how many there were is told at the end of the session."""
    count = 0

    def run(strategy, holds):
        @settings(
            max_examples=request.param,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(strategy)
        def prove(example):
            nonlocal count
            holds(example)
            count += 1

        prove()
        record_property("proof", f"{request.node.originalname}: {count} examples, none wrong")

    return run


def refused(work):
    """What the work gives; None when it was refused in one or two lines."""
    try:
        return work()
    except InputError as error:
        told = error
    assert len(str(told).splitlines()) == 1 + bool(told.todo)
    assert told.what
    return None


# ---------------------------------------------------------------- files: any damage to any bytes


DAMAGE = st.lists(
    st.tuples(
        st.sampled_from(["put", "cut", "insert", "repeat", "zero"]), st.floats(0, 1), st.binary(min_size=1, max_size=8)
    ),
    max_size=4,
)


def damaged(content: bytes, damage) -> bytes:
    """The bytes with some of them changed, cut off, repeated or put in between."""
    for kind, place, new in damage:
        at = int(place * len(content))
        before, after = content[:at], content[at:]
        content = {
            "put": before + new + after[len(new) :],
            "cut": before,
            "insert": before + new + after,
            "repeat": content + after,
            "zero": before + bytes(min(64, len(after))) + after[64:],
        }[kind]
    return content


def idx_content(array: np.ndarray) -> bytes:
    return struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def idx_files(count: int = 6) -> dict[str, bytes]:
    pixels = np.random.default_rng(0).integers(0, 256, (count, 5, 4), dtype=np.uint8)
    labels = np.arange(count, dtype=np.uint8) % 3
    parts = {"train-images-idx3": pixels, "train-labels-idx1": labels}
    parts |= {"t10k-images-idx3": pixels[::-1], "t10k-labels-idx1": labels[::-1]}
    return {f"{name}-ubyte": idx_content(array) for name, array in parts.items()}


def test_any_idx_directory_is_read_or_refused(check, tmp_path):
    def holds(example):
        name, packed, inside, outside = example
        files = idx_files()
        content = damaged(files.pop(name), inside)
        files[f"{name}.gz" if packed else name] = damaged(gzip.compress(content), outside) if packed else content
        for file in tmp_path.iterdir():
            file.unlink()
        for file, content in files.items():
            (tmp_path / file).write_bytes(content)
        found = refused(lambda: read_idx(tmp_path, "fuzz"))
        if found is not None:
            for part in (found.train, found.test):
                assert len(part.images) == len(part.labels) > 0
                assert part.labels.min() >= 0
                assert part.labels.max() < len(found.classes)
        assert found is not None or inside or (packed and outside)

    check(st.tuples(st.sampled_from(sorted(idx_files())), st.booleans(), DAMAGE, DAMAGE), holds)


def npz_content() -> bytes:
    file = io.BytesIO()
    images, labels = np.arange(96, dtype=np.uint8).reshape(6, 4, 4, 1), np.arange(6) % 2
    np.savez(file, train_images=images, train_labels=labels, test_images=images, test_labels=labels)
    return file.getvalue()


def test_any_npz_archive_is_read_or_refused(check, tmp_path):
    path = tmp_path / "set.npz"

    def holds(damage):
        path.write_bytes(damaged(npz_content(), damage))
        found = refused(lambda: read_npz(path, "fuzz"))
        refused(lambda: load_weights(path))
        if found is not None:  # an archive has checksums: it is read as it was written or not at all
            assert found.train.images.ravel().tolist() == list(range(96))
        assert found is not None or damage

    check(DAMAGE, holds)


@pytest.fixture
def small_cifar(monkeypatch):
    """The official layout with two records in a file."""
    layout = dataclasses.replace(CIFAR_10, records=2, test_records=2)
    monkeypatch.setattr("jaxtl.data.readers.CIFAR_10", layout)
    return layout


def cifar_tar(layout, names: list[str], packed: bool) -> bytes:
    pixels = bytes(range(256)) * 12
    contents = {file: b"\0" + pixels + b"\1" + pixels for file in (*layout.train, layout.test)} | {
        layout.names: b"cat\ndog\n"
    }
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz" if packed else "w") as tar:
        for name, content in zip(names, contents.values(), strict=True):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return file.getvalue()


def test_any_cifar_archive_is_read_or_refused_and_writes_nothing(check, tmp_path, small_cifar):
    good = [f"{small_cifar.folder}/{file}" for file in (*small_cifar.train, small_cifar.test, small_cifar.names)]
    names = st.one_of(
        st.just(good),
        st.permutations(good),
        st.lists(st.sampled_from([*good, "../escape", "/tmp/escape", "a/../../b"]), min_size=7, max_size=7),
    )

    def holds(example):
        members, packed, damage = example
        path = tmp_path / ("cifar.tar.gz" if packed else "cifar.tar")
        path.write_bytes(damaged(cifar_tar(small_cifar, members, packed), damage))
        found = refused(lambda: read_cifar(path, "fuzz"))
        if members == good and not damage:
            assert found.train.labels.tolist() == [0, 1] * 5
            assert found.train.images[0, 0, :3, 0].tolist() == [0, 1, 2]
        assert {file.name for file in tmp_path.iterdir()} <= {"cifar.tar.gz", "cifar.tar"}

    check(st.tuples(names, st.booleans(), DAMAGE), holds)


def test_damaged_weights_of_ours_are_never_read_as_other_weights(check, tmp_path):
    weights = {"a": {"kernel": np.arange(12, dtype=np.float32).reshape(3, 4)}}
    whole = export(weights, tmp_path / "whole.safetensors").read_bytes()
    path = tmp_path / "fuzz.safetensors"

    def holds(damage):
        content = damaged(whole, damage)
        path.write_bytes(content)
        found = refused(lambda: load_weights(path))
        assert found is not None or content != whole
        if found is not None and b"crc32" in content:  # damage can rename the digests, and the file is one of others
            assert named_leaves(found)["a/kernel"].ravel().tolist() == list(range(12))

    check(DAMAGE, holds)


def test_any_bytes_offered_as_weights_or_data_are_refused_or_read(check, tmp_path):
    endings = (".safetensors", ".npz", ".pt", ".pth", ".bin", ".ckpt", ".pkl", ".h5", "", ".gz", ".tar.gz")
    starts = (b"", b"PK\x03\x04", b"\x80\x04", b"\x1f\x8b", b"\x93NUMPY", json.dumps({}).encode())

    def holds(example):
        ending, start, rest = example
        path = tmp_path / f"file{ending}"
        path.write_bytes(start + rest)
        refused(lambda: load_weights(path))
        refused(lambda: load(str(path)))

    check(st.tuples(st.sampled_from(endings), st.sampled_from(starts), st.binary(max_size=200)), holds)


TEXT, STORAGE = (
    b"X\x01\x00\x00\x00a",
    b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x01tQ",
)
INSTRUCTIONS = st.sampled_from(
    [
        *(
            b"(",
            b")",
            b"}",
            b"]",
            b"N",
            b"\x88",
            b"t",
            b"\x85",
            b"\x86",
            b"\x87",
            b"s",
            b"u",
            b"a",
            b"e",
            b"b",
            b"Q",
            b"R",
        ),
        *(
            b"q\x00",
            b"q\x01",
            b"h\x00",
            b"h\x01",
            b"K\x00",
            b"K\x02",
            b"J\xff\xff\xff\x7f",
            b"\x8a\x01\xff",
            TEXT,
            STORAGE,
        ),
        *(b"ccollections\nOrderedDict\n", b"ctorch._utils\n_rebuild_tensor_v2\n", b"cos\nsystem\n", b"0", b"2", b"1"),
        *(
            b"ctorch._utils\n_rebuild_tensor_v2\n(" + STORAGE + b"K\x00K\x01\x85K\x01\x85\x89}tR",
            b"h\x00h\x00\x86q\x00",
        ),
    ]
)


def test_any_program_offered_as_the_index_of_weights_gives_arrays_or_is_refused(check, tmp_path):
    path = tmp_path / "x.pt"

    def holds(instructions):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", b"\x80\x02" + b"".join(instructions) + b".")
            archive.writestr("archive/data/0", np.float32(3).tobytes())
        found = refused(lambda: load_weights(path))
        assert found is None or all(np.all(leaf == 3) for leaf in named_leaves(found).values())

    check(st.lists(INSTRUCTIONS, max_size=40), holds)


def test_any_header_of_safetensors_gives_the_arrays_that_it_describes_or_is_refused(check, tmp_path):
    numbers = st.one_of(st.integers(-2, 6), st.sampled_from([2**31, 2**63, 2**64, True, 1.0, None]))
    arrays = st.fixed_dictionaries(
        {
            "dtype": st.sampled_from(["F32", "U8", "BF16", "F4", "", None]),
            "shape": st.lists(numbers, max_size=3),
            "data_offsets": st.lists(numbers, min_size=1, max_size=3),
        }
    )
    headers = st.dictionaries(
        st.sampled_from(["a", "a/b", "", "é", "__metadata__"]), st.one_of(arrays, numbers), max_size=3
    )
    path = tmp_path / "x.safetensors"

    def holds(example):
        header, data = example
        content = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(content)) + content + data)
        found = refused(lambda: load_weights(path))
        if found is not None:
            leaves = named_leaves(found)
            assert (
                b"".join(leaves[name].tobytes() for name in sorted(leaves, key=lambda n: header[n]["data_offsets"]))
                == data
            )
            assert all(list(leaf.shape) == header[name]["shape"] for name, leaf in leaves.items())

    check(st.tuples(headers, st.binary(max_size=8)), holds)


# ---------------------------------------------------------------- trees, rules and key maps

NAMES = st.sampled_from(["trunk", "head", "kernel", "bias", "conv_0", "conv_1", "b.n", "é", "0"])
LEAVES = st.builds(
    lambda shape, dtype, start: (np.arange(np.prod(shape)) + start).astype(dtype).reshape(shape),
    st.sampled_from([(1,), (2,), (2, 3)]),
    st.sampled_from([np.float32, np.int32]),
    st.integers(0, 99),
)
INNER = st.recursive(LEAVES, lambda inner: st.dictionaries(NAMES, inner, min_size=1, max_size=3), max_leaves=6)
TREES = st.dictionaries(NAMES, INNER, min_size=1, max_size=4)  # larger ones take seconds to draw, and find no more
PATTERNS = st.sampled_from(
    [
        ".*",
        "head/.*",
        "trunk/.*",
        ".*kernel",
        ".*/bias",
        "conv_[01]/.*",
        "(.*)/kernel",
        "0",
        "é.*",
        "b\\.n",
        "[",
        "(?P<",
    ]
)


def test_a_leaf_has_the_label_of_the_first_rule_that_matches_its_whole_path(check):
    def holds(example):
        tree, rules = example
        paths = list(named_leaves(tree))
        try:
            first = {path: [i for i, (rule, _) in enumerate(rules) if re.fullmatch(rule, path)][:1] for path in paths}
        except re.error:
            first = {}
        fits = bool(first) and all(first.values()) and {i for (i,) in first.values()} == set(range(len(rules)))
        labels = refused(lambda: label_params(tree, rules))
        assert (labels is not None) == fits
        if fits:
            assert named_leaves(labels) == {path: rules[i][1] for path, (i,) in first.items()}

    rules = st.lists(st.tuples(PATTERNS, st.sampled_from(["new", "transferred", "task:1"])), min_size=1, max_size=4)
    check(st.tuples(TREES, rules), holds)


def test_differences_name_exactly_what_differs(check):
    @st.composite
    def pairs(draw):
        tree = draw(TREES)
        paths = sorted(named_leaves(tree))
        changes = draw(st.dictionaries(st.sampled_from(paths), st.sampled_from(["shape", "dtype", "value"])))
        return tree, changes

    def changed(leaf, change):
        if change == "shape":
            return np.zeros((*leaf.shape, 2), leaf.dtype)
        return leaf.astype(np.float64) if change == "dtype" else leaf + 1

    def rebuilt(tree, changes, path=""):
        if not isinstance(tree, dict):
            return changed(tree, changes[path]) if path in changes else tree
        return {name: rebuilt(leaf, changes, f"{path}/{name}" if path else name) for name, leaf in tree.items()}

    def holds(example):
        tree, changes = example
        other = rebuilt(tree, changes)
        differing = sorted(path for path, change in changes.items() if change != "value")
        assert [line.rpartition(": ")[0] for line in differences(tree, other)] == differing
        told = "none"
        try:
            check_same(tree, other, where="fuzz", todo="nothing")
        except InputError as error:
            told = str(error)
        assert (told == "none") == (not differing)
        assert all(path in told for path in differing[:3])

    check(pairs(), holds)


def test_a_key_map_moves_every_weight_to_its_new_name_or_is_refused(check):
    renames = st.lists(
        st.tuples(
            st.sampled_from(["trunk/(.*)", "(.*)/kernel", "head/(.*)", "(.*)", "conv_(.)/(.*)"]),
            st.sampled_from([r"\1", r"new/\1", r"\1/weight", r"\g<0>", r"\9", "one"]),
        ),
        max_size=2,
    )

    def renamed(path, rules):
        for pattern, replacement in rules:
            if match := re.fullmatch(pattern, path):
                return match.expand(replacement)
        return path

    def nested(leaves):
        tree = {}
        for path, leaf in leaves.items():
            node = tree
            *parents, last = path.split("/")
            for parent in parents:
                node = node.setdefault(parent, {})
                assume(isinstance(node, dict))
            assume(last not in node)
            node[last] = leaf
        return tree

    def holds(example):
        source, rules = example
        leaves = named_leaves(source)
        try:
            expected = [(renamed(path, rules), leaf) for path, leaf in leaves.items()]
        except (re.error, IndexError):  # a group that the pattern does not have
            assert refused(lambda: transfer(source, source, rename=rules)) is None
            return
        if len({path for path, _ in expected}) < len(expected):
            assert refused(lambda: transfer(source, source, rename=rules)) is None
            return
        target = nested({path: np.zeros_like(leaf) for path, leaf in expected})
        moved = refused(lambda: transfer(source, target, rename=rules))
        if moved is None:  # a rule that matches nothing
            assert any(
                not any(re.fullmatch(pattern, path) for path in leaves) or k for k, (pattern, _) in enumerate(rules)
            )
            return
        found = named_leaves(moved.params)
        assert found.keys() == dict(expected).keys()
        assert all(np.array_equal(found[path], leaf) for path, leaf in expected)

    check(st.tuples(TREES, renames), holds)


def test_exported_weights_come_back_as_they_were(check, tmp_path):
    def holds(tree):
        names = list(named_leaves(tree))
        assume(not any(other.startswith(f"{name}/") for name in names for other in names))
        back = load_weights(export(tree, tmp_path / "w.safetensors"))
        assert differences(tree, back) == []
        theirs = named_leaves(back)
        assert all(np.array_equal(leaf, theirs[path]) for path, leaf in named_leaves(tree).items())

    check(TREES, holds)


# ---------------------------------------------------------------- config: what is written is what is read


@dataclasses.dataclass(frozen=True)
class Config:
    preset: str = ""
    count: int = 3
    rate: float = 0.1
    flag: bool = False
    name: str = "text"
    choice: Literal["one", "two"] = "one"
    numbers: tuple[int, ...] = (1, 2)
    rates: tuple[float, ...] = ()
    words: tuple[str, ...] = ("a",)

    presets: ClassVar[dict] = {"quick": {"count": 1, "rates": (0.5,)}}


FLOATS = st.floats(allow_nan=False)
WORDS = st.text(st.characters(categories=["L", "N"], include_characters="-+:._/#"), min_size=1, max_size=8)
CONFIGS = st.builds(
    Config,
    preset=st.sampled_from(["", "quick"]),
    count=st.integers(-(10**12), 10**12),
    rate=FLOATS,
    flag=st.booleans(),
    name=st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12),
    choice=st.sampled_from(["one", "two"]),
    numbers=st.lists(st.integers(-99, 10**9), max_size=4).map(tuple),
    rates=st.lists(FLOATS, max_size=4).map(tuple),
    words=st.lists(WORDS, max_size=4).map(tuple),
)


def test_the_command_of_a_config_asks_for_this_config(check):
    def holds(config):
        argv = shlex.split(cli.command("fuzz", config))[3:]
        assert flags.parse(Config, argv, "runs/fuzz").config == config

    check(CONFIGS, holds)


def test_any_words_on_the_command_line_are_understood_or_refused(check):
    words = st.one_of(
        st.text(max_size=20),
        st.builds(
            "--config.{}={}".format,
            st.sampled_from([*(field.name for field in dataclasses.fields(Config)), "conut", "presets", ""]),
            st.text(max_size=12),
        ),
        st.sampled_from(
            ["--smoke", "--overwrite", "--workdir", "--workdir=", "--", "-", "--config", "--noconfig.flag"]
        ),
    )

    def holds(argv):
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            request = refused(lambda: flags.parse(Config, argv, "runs/fuzz"))
        assert request is None or isinstance(request.config, Config)

    check(st.lists(words, max_size=4), holds)
