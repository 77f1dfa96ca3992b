"""Many devices compute what one does, and each holds its part."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

from jaxtl.data import Split, from_arrays, on_device
from jaxtl.data.stream import Stream
from jaxtl.devices.placement import by_example, constrain, make_mesh, replicate, shard_batch, shard_params, to_local
from jaxtl.errors import InputError
from jaxtl.loop import fit
from jaxtl.step import Fixed, init_state, make_train_step

KEY = jax.random.key(0)
BOTH = ["data:2"]  # conftest.py asks for two devices


def test_eight_devices_end_where_one_does(tmp_path):
    """Parameters, batch statistics and metrics to 1e-5, with data or parameters divided, and across checkpoints."""
    script = Path(__file__).with_name("eight_devices.py")
    environment = {**os.environ, "PYTHONPATH": str(script.parent.parent)}
    environment["XLA_FLAGS"] += " --xla_force_host_platform_device_count=8"  # of one flag the last is heard
    command = [sys.executable, script, tmp_path / "run"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.stdout == "equal\n", done.stderr


def test_parameters_are_divided_along_the_longest_axis_that_divides():
    mesh = make_mesh(["parameters:2"])
    shapes = {"even": (3, 512), "odd": (515, 4), "neither": (1025, 3), "small": (512,), "scalar": ()}
    placed = shard_params({name: jnp.zeros(shape) for name, shape in shapes.items()}, mesh)
    specs = {name: tuple(leaf.sharding.spec) for name, leaf in placed.items()}
    assert specs == {
        "even": (None, "parameters"),
        "odd": (None, "parameters"),
        "neither": (),
        "small": (),
        "scalar": (),
    }


def test_what_was_divided_comes_back_in_one_piece():
    tree = {"kernel": np.arange(2048.0, dtype=np.float32).reshape(2, 1024), "bias": np.ones(3, np.float32)}
    back = to_local(shard_params(tree, make_mesh(["parameters:2"])))
    assert {leaf.sharding.device_set == {jax.devices()[0]} for leaf in jax.tree.leaves(back)} == {True}
    jax.tree.map(np.testing.assert_array_equal, back, tree)


def test_a_set_of_examples_is_divided_and_read_part_by_part():
    asked = []

    class Images:
        shape, dtype, nbytes, ndim = (5, 2, 2, 1), np.dtype(np.uint8), 20, 4

        def __len__(self):
            return 5

        def __getitem__(self, rows):
            asked.append(list(rows))
            return np.arange(20, dtype=np.uint8).reshape(self.shape)[rows]

    mesh = make_mesh(BOTH)
    split = Split(Images(), np.arange(5, dtype=np.int32))
    data = on_device(split, jax.random.key(0), sharding=by_example(mesh))
    assert asked == [[0, 1, 2], [3, 4, 4]]
    assert [len(part.data) for part in data["image"].addressable_shards] == [3, 3]
    np.testing.assert_array_equal(np.asarray(data["image"])[:5].ravel(), np.arange(20))
    assert len(data["index"]) == 5, "what fills it up is never drawn"
    assert replicate(data, mesh)["image"] is data["image"]
    assert replicate(data, mesh)["index"].sharding.is_fully_replicated


def test_a_stream_brings_each_device_its_examples():
    split = from_arrays(np.arange(40, dtype=np.uint8).reshape(10, 2, 2, 1), np.arange(10) % 3).train
    order = jax.random.key(0)
    found = []
    for sharding in (None, by_example(make_mesh(BOTH))):
        with contextlib.closing(Stream(split, order, batch_size=4, sharding=sharding).batches(3)) as batches:
            found.append(next(batches))
    alone, divided = found
    jax.tree.map(np.testing.assert_array_equal, divided, alone)
    assert [len(part.data) for part in divided["image"].addressable_shards] == [2, 2]
    with pytest.raises(InputError, match="3 examples on 2 devices"):
        Stream(split, order, batch_size=3, sharding=by_example(make_mesh(BOTH)))


def test_a_program_for_a_mesh_divides_batches_and_leaves_parameters_where_they_are():
    def program(params, batch):
        return constrain(params), shard_batch(batch)

    params, batch = {"kernel": jnp.ones((4, 512))}, jnp.ones((6, 3))
    mesh = make_mesh(["data:1", "parameters:2"])
    with jax.set_mesh(mesh):
        kept, shared = jax.jit(program)(params, batch)
    assert kept["kernel"].sharding.spec == PartitionSpec(None, "parameters")
    assert [part.data.shape for part in shared.addressable_shards] == [(3, 3), (3, 3)]
    alone = jax.jit(program)(params, batch)
    assert len(alone[1].sharding.device_set) == 1, "without a mesh nothing is asked for"


def test_a_batch_that_the_devices_cannot_share_is_refused():
    def grad_fn(params, model_state, batch, ctx):
        return params, {"loss": jnp.mean(batch["x"])}, model_state

    step, state = make_train_step(grad_fn, optax.sgd(0.1)), init_state({"w": jnp.ones(2)}, optax.sgd(0.1), KEY)
    with pytest.raises(InputError, match="batch 'x': 3 examples on 2 devices"):
        fit(step, state, {"x": jnp.ones(3)}, Fixed(), steps=1, mesh=make_mesh(BOTH))


@pytest.mark.parametrize(
    ("axes", "told"),
    [
        (["dat:2"], "cannot use 'dat:2'"),
        (["data"], "cannot use 'data'"),
        (["data:0"], "cannot use 'data:0'"),
        (["data:1", "data:2"], "cannot use 'data:2'"),
        (["data:3"], "data:3 is 3 devices, and there are 2"),
        (["data:2", "parameters:2"], "data:2 x parameters:2 is 4 devices, and there are 2"),
        ([], "no axis is 1 devices"),
    ],
)
def test_a_mesh_that_cannot_be_is_refused(axes, told):
    with pytest.raises(InputError, match="mesh") as error:
        make_mesh(axes)
    assert told in str(error.value)
