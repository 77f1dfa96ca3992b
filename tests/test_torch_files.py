"""PyTorch's files are read without PyTorch and without running anything that stands in them."""

from __future__ import annotations

import io
import pickle
import random
import sys
import types
import zipfile
from collections import OrderedDict
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl.checkpoints import load_weights, torch_files
from jaxtl.errors import InputError

LAYOUTS = ("zip", "sequence")
VALUES = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)


class Tensor:
    """What PyTorch pickles of a tensor: a storage, and how the tensor lies in it."""

    def __init__(self, array, key, offset=0, shape=None, strides=None, kind=None):
        self.storage, self.key, self.offset = np.ascontiguousarray(array).reshape(-1), key, offset
        self.shape = np.shape(array) if shape is None else shape
        below = [int(np.prod(self.shape[axis + 1 :])) for axis in range(len(self.shape))]  # a row lies after a row
        self.strides = tuple(below if strides is None else strides)
        self.kind = kind or next(name for name, dtype in torch_files.KINDS.items() if array.dtype == dtype)

    def __reduce__(self):
        rest = (self, self.offset, self.shape, self.strides, False, OrderedDict())
        return sys.modules["torch._utils"]._rebuild_tensor_v2, (Storage(self), *rest[1:])


class Storage:
    """Stands for the storage of a tensor; becomes a persistent id."""

    def __init__(self, tensor):
        self.tensor = tensor


class Parameter:
    def __init__(self, tensor):
        self.tensor = tensor

    def __reduce__(self):
        return sys.modules["torch._utils"]._rebuild_parameter, (self.tensor, True, OrderedDict())


class Pickler(pickle._Pickler):
    """Pickles as `torch.save` does."""

    legacy = False

    def persistent_id(self, value):
        if not isinstance(value, Storage):
            return None
        tensor = value.tensor
        kind = getattr(sys.modules["torch"], f"{tensor.kind}Storage")
        return ("storage", kind, tensor.key, "cpu", len(tensor.storage), *([None] if self.legacy else []))


@pytest.fixture(autouse=True)
def stand_in(monkeypatch):
    """Modules that have the names of PyTorch's, so that the pickler may write them down."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for kind in (*torch_files.KINDS, "Quantised"):
        setattr(torch, f"{kind}Storage", type(f"{kind}Storage", (), {"__module__": "torch"}))
    for name in ("_rebuild_tensor_v2", "_rebuild_parameter"):
        function = types.FunctionType((lambda *_: None).__code__, {}, name)
        function.__module__, function.__qualname__ = "torch._utils", name
        setattr(utils, name, function)
    torch._utils = utils
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)


def pickled(tree, protocol=2, legacy=False):
    stream = io.BytesIO()
    pickler = Pickler(stream, protocol)
    pickler.legacy = legacy
    pickler.dump(tree)
    return stream.getvalue()


def write(path, tree, tensors, layout, protocol=2):
    if layout == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", pickled(tree, protocol))
            archive.writestr("archive/byteorder", b"little")
            for tensor in tensors:
                archive.writestr(f"archive/data/{tensor.key}", tensor.storage.tobytes())
        return
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}
    parts = [torch_files.MAGIC, 1001, system, tree, [tensor.key for tensor in tensors]]
    stored = [len(tensor.storage).to_bytes(8, "little") + tensor.storage.tobytes() for tensor in tensors]
    path.write_bytes(b"".join([*(pickled(part, protocol, legacy=True) for part in parts), *stored]))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_tensor_is_read_with_its_kind_and_place(tmp_path, layout):
    arrays = {kind: VALUES.astype(dtype) for kind, dtype in torch_files.KINDS.items()}
    tensors = {kind: Tensor(array, str(number)) for number, (kind, array) in enumerate(arrays.items())}
    shared = Tensor(VALUES, "99")
    turned = Tensor(VALUES, "99", offset=2, shape=(3, 4), strides=(1, 6))
    scalar, empty = Tensor(VALUES, "99", 5, (), ()), Tensor(VALUES, "99", 0, (0, 3), (3, 1))
    state = OrderedDict(tensors) | {"more.turned": turned, "scalar": scalar, "empty": empty, "p": Parameter(shared)}
    state._metadata = {"": {"version": 1}}
    tree = {"model": state, "epoch": 3, "note": "ok", "rates": [0.1, None, True]}
    write(tmp_path / "x.pth", tree, [*tensors.values(), shared], layout)
    read = load_weights(tmp_path / "x.pth")["model"]
    assert list(load_weights(tmp_path / "x.pth")) == ["model"]
    for kind, array in arrays.items():
        assert read[kind].dtype == array.dtype
        np.testing.assert_array_equal(read[kind], array)
    np.testing.assert_array_equal(read["more.turned"], VALUES[:, 2:5].T)
    np.testing.assert_array_equal(read["p"], VALUES)
    assert (read["scalar"], read["scalar"].shape) == (VALUES[0, 5], ())
    assert read["empty"].shape == (0, 3)


class Canary:
    """Leaves a file where it is brought to life, in one of the ways that a pickle knows."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def calls(path):
    """Programs that call `Path.touch` when they are run, one for every instruction that calls."""
    text = str(path).encode()
    argument = b"X" + len(text).to_bytes(4, "little") + text
    return {
        "REDUCE": b"\x80\x02cos\nmkdir\n" + argument + b"\x85R.",
        "STACK_GLOBAL": b"\x80\x04\x8c\x02os\x8c\x05mkdir\x93" + argument + b"\x85R.",
        "INST": b"(" + argument + b"ios\nmkdir\n.",
        "OBJ": b"(cos\nmkdir\n" + argument + b"o.",
        "after text": b"\x80\x02X\x08\x00\x00\x00os.mkdir0cos\nmkdir\n" + argument + b"\x85R.",
    }


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("way", ["Python", "within", *calls("")])
def test_no_instruction_is_executed(tmp_path, layout, way, record_property):
    record_property("tally", "canaries did not fire")
    sang, path = tmp_path / "sang", tmp_path / "x.pt"
    if way in ("Python", "within"):
        tensor = Tensor(VALUES, "0")
        write(path, Canary(sang) if way == "Python" else {"a": tensor, "b": Canary(sang)}, [tensor], layout)
    elif layout == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", calls(sang)[way])
    else:
        path.write_bytes(
            pickled(torch_files.MAGIC) + pickled(1001) + pickled({"little_endian": True}) + calls(sang)[way]
        )
    with pytest.raises(InputError, match=r"a pickle can run any code when it is opened, so it was not \(it ") as error:
        load_weights(path)
    assert len(str(error.value).splitlines()) == 2
    assert not sang.exists()
    if way in calls(""):
        pickle.loads(calls(sang)[way])  # noqa: S301 (it would have been)
        assert sang.exists()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("tensor", "said"),
    [
        (Tensor(VALUES, "0", offset=1), "larger than its storage"),
        (Tensor(VALUES, "0", 0, (4, 6), (7, 1)), "larger than its storage"),
        (Tensor(VALUES, "0", 0, (10**12,), (0,)), "larger than its storage"),
        (Tensor(VALUES, "0", -1), "negative"),
        (Tensor(VALUES, "0", 3, (2,), (-1,)), "negative"),
        (Tensor(VALUES, "0", kind="Quantised"), "it stores torch.QuantisedStorage"),
    ],
)
def test_no_number_beyond_a_storage_is_read(tmp_path, tensor, said, layout):
    write(tmp_path / "x.pt", {"a": tensor}, [tensor], layout)
    with pytest.raises(InputError, match=said):
        load_weights(tmp_path / "x.pt")


def test_files_of_other_kinds_and_endless_ones(tmp_path):
    path = tmp_path / "x.pt"
    endless = {"a": Tensor(VALUES, "0")}
    endless["self"] = endless
    write(path, endless, [endless["a"]], "zip")
    with pytest.raises(InputError, match="its dicts are nested without end"):
        load_weights(path)
    for content, said in ((b"", "truncated or damaged: it is empty"), (b"text", "none of PyTorch's files")):
        path.write_bytes(content)
        with pytest.raises(InputError, match=said):
            load_weights(path)
    write(path, {"epoch": 3}, [], "zip")
    with pytest.raises(InputError, match="it holds no tensors"):
        load_weights(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickled({}))
    with pytest.raises(InputError, match="it is compressed"):
        load_weights(path)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_dicts_and_tensors_may_be_shared(tmp_path, layout):
    tensor = Tensor(VALUES, "0")
    state = {"embedding": tensor, "head": tensor}  # tied weights
    write(tmp_path / "x.pt", {"model": state, "average": state}, [tensor], layout)
    read = load_weights(tmp_path / "x.pt")
    for part in ("model", "average"):
        for name in state:
            np.testing.assert_array_equal(read[part][name], VALUES)


def test_an_ordered_dict_of_python_2_holds_its_pairs(tmp_path):
    class Ordered:
        def __reduce__(self):
            return OrderedDict, ([["a", Tensor(VALUES, "0")], ["b", Tensor(VALUES[0], "1")]],)

    write(tmp_path / "x.pt", Ordered(), [Tensor(VALUES, "0"), Tensor(VALUES[0], "1")], "sequence")
    read = load_weights(tmp_path / "x.pt")
    np.testing.assert_array_equal(read["a"], VALUES)
    np.testing.assert_array_equal(read["b"], VALUES[0])


def test_two_tensors_under_one_name_are_refused(tmp_path):
    tensor = Tensor(VALUES, "0")
    for tree in ({"a/b": tensor, "a": {"b": tensor}}, {1: tensor, "1": tensor}):
        write(tmp_path / "x.pt", tree, [tensor], "zip")
        with pytest.raises(InputError, match=r"two tensors are called (a/b|1)\)"):
            load_weights(tmp_path / "x.pt")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_damage_ends_in_a_tree_of_arrays_or_in_two_lines(tmp_path, layout):
    path, chance, refused = tmp_path / "x.pth", random.Random(0), 0
    tensors = [Tensor(VALUES, "0"), Tensor(VALUES[0], "1")]
    write(path, {"a": tensors[0], "b": {"c": tensors[1]}}, tensors, layout)
    intact = path.read_bytes()
    for number in range(300):
        content = bytearray(intact)
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        path.write_bytes(content if number % 3 else intact[: chance.randrange(len(intact))])
        try:
            read = load_weights(path)
        except InputError as error:
            refused += len(str(error).splitlines()) == 2
        else:
            assert all(isinstance(leaf, np.ndarray | dict) for leaf in read.values())
    assert refused >= 150


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_pytorch_writes(tmp_path, layout, monkeypatch):
    monkeypatch.undo()
    torch = pytest.importorskip("torch")
    values = torch.from_numpy(VALUES.copy())
    state = {"w": values.t(), "half": values.bfloat16(), "p": torch.nn.Parameter(values[1:]), "n": torch.tensor(3)}
    torch.save({"state_dict": state, "epoch": 1}, tmp_path / "x.pt", _use_new_zipfile_serialization=layout == "zip")
    read = load_weights(tmp_path / "x.pt")["state_dict"]
    np.testing.assert_array_equal(read["w"], VALUES.T)
    np.testing.assert_array_equal(read["p"], VALUES[1:])
    np.testing.assert_array_equal(read["half"], np.asarray(jnp.asarray(VALUES, jnp.bfloat16)))
    assert read["n"] == 3
