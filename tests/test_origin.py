"""A run directory remembers what made it: other rates, trees, data, code are refused by name; all else goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtl import checkpoints
from jaxtl.checkpoints.origin import _by_row_there, _digest_by_row, describe_data
from jaxtl.data import Split, Stream, on_device
from jaxtl.devices.placement import by_example, make_mesh
from jaxtl.errors import InputError
from jaxtl.loop import fit
from jaxtl.losses import make_loss_fn, mean_of, squared_error
from jaxtl.optimizers import Group, per_label
from jaxtl.penalties import Term, l2, labelled
from jaxtl.step import Fixed, init_state, make_epoch, make_train_step, total_gradient
from jaxtl.sweep import sweep

LABELS = {"head": {"kernel": "new"}}
DATA = {"image": jnp.eye(2), "label": jnp.array([3.0, -2.0])}


def forward(params, model_state, batch, ctx):
    return {"head": batch["image"] @ params["head"]["kernel"]}, model_state


def made(rate=0.0, momentum=0.0, scale=1.0, start=1.0, schedule=None, constant=0.0):
    """(step, state) of a model of two weights that is held to an anchor."""
    tx = per_label(LABELS, {"new": Group(0.1)}, momentum=momentum, schedule=schedule)
    penalty = labelled(LABELS, {"new": Term(rate, l2, ("anchor",))})
    hidden = np.linspace(0, constant, 2000, dtype=np.float32)  # so many that printing it leaves some out

    def loss(predicted, targets):
        return scale * squared_error(predicted, targets) + hidden[1000]

    loss_fn = make_loss_fn(forward, {"task": Term(1.0, mean_of(loss))}, penalty)
    step = make_train_step(total_gradient(loss_fn), tx, lambda data, rng, step: {**data, "image": data["image"] * 1.0})
    return step, init_state({"head": {"kernel": jnp.full(2, start)}}, tx, jax.random.key(0))


def anchored(value=0.0, rates=None):
    return Fixed(rates or {}, {"anchor": {"head": {"kernel": jnp.full(2, value)}}})


def train(workdir, data=DATA, fixed=None, key=None, steps=4, how=None, **other):
    step, state = made(**other)
    state = state if key is None else state._replace(rng=jax.random.key(key))
    return fit(step, state, data, fixed or anchored(), steps=steps, workdir=workdir, **(how or {}))


OTHERS = {
    "a default rate": ({"rate": 100.0}, "holds a run with other rates: penalty/new was 0.0, is 100.0"),
    "a rate": ({"fixed": anchored(rates={"penalty/new": 0.5})}, "other rates: penalty/new was 0.0, is 0.5"),
    "a learning rate": (
        {"fixed": anchored(rates={"learning_rate/new": 0.2})},
        "other rates: learning_rate/new was 0.1, is 0.2",
    ),
    "an anchor": ({"fixed": anchored(1.0)}, "holds a run with another given: anchor/head/kernel differs"),
    "a label": ({"data": DATA | {"label": jnp.array([3.0, -2.5])}}, "holds a run with other data: label differs"),
    "two labels swapped": ({"data": DATA | {"label": jnp.array([-2.0, 3.0])}}, "other data: label differs"),
    "more data": (
        {"data": {"image": jnp.eye(3, 2), "label": jnp.ones(3)}},
        r"other data: image was float32\[2, 2\], is float32\[3, 2\], label was",
    ),
    "another field": ({"data": DATA | {"mask": jnp.ones(2)}}, r"other data: mask was not there, is float32\[2\]"),
    "a start": ({"start": 2.0}, "holds a run with another start: params/head/kernel differs"),
    "a seed": ({"key": 1}, "holds a run with another start: rng differs"),
    "momentum": ({"momentum": 0.5}, "opt_state"),
    "code": ({"scale": 2.0}, "holds a run of another step: its code, its optimizer, a schedule or a constant"),
    "a constant array": ({"constant": 1.0}, "holds a run of another step"),
    "a schedule": ({"schedule": optax.cosine_decay_schedule(1.0, 9)}, "holds a run of another step"),
    "the best of it": ({"how": {"best": "loss"}}, "holds a run with another best: it was None, it is loss"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_something_else_made_is_refused_by_name_and_left_as_it_was(name, tmp_path):
    other, told = OTHERS[name]
    train(tmp_path)
    before = {path: path.read_bytes() for path in (tmp_path / "checkpoints").rglob("*") if path.is_file()}
    for steps in (4, 8):  # whether it is finished or not
        with pytest.raises(InputError, match=told) as refused:
            train(tmp_path, steps=steps, **other)
        assert len(str(refused.value).splitlines()) == 2
    assert {path: path.read_bytes() for path in (tmp_path / "checkpoints").rglob("*") if path.is_file()} == before


def test_what_may_change_goes_on_to_the_same_end(tmp_path):
    whole, _ = train(None, steps=8)
    train(tmp_path, steps=2)
    how = {"every": 2, "chunk": 2, "evaluate": lambda state: {"norm": 1.0}, "progress": "on"}
    train(tmp_path, steps=4, how=how)
    again = {name: np.asarray(array) for name, array in DATA.items()}  # the same numbers in other memory
    numbers = anchored(rates={"penalty/new": 0, "learning_rate/new": np.float64(0.1)})
    state, _ = train(tmp_path, steps=4, data=again)
    state, _ = fit(made()[0], state, DATA, anchored(), steps=8, workdir=tmp_path)  # from the state that is there
    assert state.params["head"]["kernel"].tolist() == whole.params["head"]["kernel"].tolist()
    train(tmp_path / "named", fixed=numbers)
    train(tmp_path / "named", fixed=anchored(rates={"penalty/new": 0.0, "learning_rate/new": jnp.float32(0.1)}))


SAME = {
    "a default that is stated": {"fixed": anchored(rates={"learning_rate/new": 0.1, "penalty/new": 0})},
    "a whole number": {"fixed": anchored(rates={"penalty/new": 0})},
    "arrays of NumPy": {"data": {name: np.asarray(array) for name, array in DATA.items()}},
    "arrays of 64 bits": {"data": {name: np.asarray(array, np.float64) for name, array in DATA.items()}},
    "fields in another order": {"data": dict(reversed(DATA.items()))},
    "a given tree of 64 bits": {"fixed": Fixed({}, {"anchor": {"head": {"kernel": np.zeros(2)}}})},
    "a schedule made anew": {"schedule": lambda step: 1.0},
}


@pytest.mark.parametrize("name", SAME)
@pytest.mark.parametrize("turned", [False, True])
def test_the_same_in_other_words_goes_on(name, turned, tmp_path):
    plain, stated = {"schedule": lambda step: 1.0} if "schedule" in SAME[name] else {}, SAME[name]
    first, second = (stated, plain) if turned else (plain, stated)
    before, _ = train(tmp_path, **first)
    after, _ = train(tmp_path, steps=8, **second)
    whole, _ = train(None, steps=8, **second)
    assert int(before.step) == 4
    np.testing.assert_array_equal(after.params["head"]["kernel"], whole.params["head"]["kernel"])


def test_a_chunk_that_would_run_past_the_end_is_refused(tmp_path):
    train(tmp_path, steps=3)
    with pytest.raises(InputError, match="fit chunk=2: the state is at step 3, which is not a multiple of it"):
        train(tmp_path, steps=6, how={"chunk": 2})


def rewrite(workdir, change):
    """Change what the newest checkpoint says of its origin, as another version of us would have written it."""
    path = max((workdir / "checkpoints").glob("[0-9]*"), key=lambda path: int(path.name)) / "manifest.json"
    content = json.loads(path.read_text())["content"]
    change(content["meta"])
    path.write_text(json.dumps({"crc32": zlib.crc32(json.dumps(content).encode()), "content": content}))


def test_a_run_that_does_not_say_what_made_it_is_told_how_to_go_on(tmp_path):
    train(tmp_path)
    rewrite(tmp_path, lambda meta: meta.pop("origin"))
    with pytest.raises(InputError, match=r"does not say what made it.*\n  choose another workdir, and start it from"):
        train(tmp_path)
    step, state = made()
    state, _ = fit(step, checkpoints.restore(tmp_path, state), DATA, anchored(), steps=8, workdir=tmp_path / "on")
    assert state.params["head"]["kernel"].tolist() == train(None, steps=8)[0].params["head"]["kernel"].tolist()


@pytest.mark.parametrize("what", ["jax", "optax", "device"])
def test_other_versions_or_devices_go_on_and_say_that_the_step_cannot_be_compared(what, tmp_path, caplog):
    def older(meta):
        meta["origin"]["by"][what] = "0.1"
        meta["origin"]["programs"]["step"] = "0"

    train(tmp_path)
    rewrite(tmp_path, older)
    state, _ = train(tmp_path, steps=8)
    assert int(state.step) == 8
    assert f"goes on with {what} was 0.1, is " in caplog.text
    rewrite(tmp_path, lambda meta: meta["origin"]["by"].update({what: "0.1"}))
    with pytest.raises(InputError, match="other rates"):  # numbers can be compared on any
        train(tmp_path, rate=1.0)


def test_a_directory_of_a_sweep_is_none_of_a_run_and_the_other_way_round(tmp_path):
    swept(tmp_path / "sweep")
    with pytest.raises(InputError, match="holds a run that does not say what made it: it is of another kind"):
        train(tmp_path / "sweep")
    train(tmp_path / "run")
    with pytest.raises(InputError, match="holds work with another"):
        swept(tmp_path / "run")


def test_a_stream_is_known_by_its_first_batch_and_arrays_by_all(tmp_path, caplog):
    step, state = made()
    images = np.random.default_rng(0).normal(size=(12, 2)).astype(np.float32)
    labels = np.arange(12, dtype=np.float32)

    def stream(seed=0, labels=labels):
        return Stream(Split(images, labels), jax.random.key(seed), batch_size=4)

    fit(step, state, stream(), anchored(), steps=3, workdir=tmp_path)
    for other in (stream(seed=1), stream(labels=labels + 1)):
        with pytest.raises(InputError, match="other data"):
            fit(step, made()[1], other, anchored(), steps=6, workdir=tmp_path)
    fit(step, made()[1], stream(), anchored(), steps=6, workdir=tmp_path)
    assert not caplog.text
    batch = {"image": images, "label": labels}  # where there is more memory than before
    fit(step, made()[1], batch, anchored(), steps=9, workdir=tmp_path)
    assert "data that are read in another way" in caplog.text


# ---------------------------------------------------------------- sweeps

STEP, _ = made()
TX = per_label(LABELS, {"new": Group(0.1)})


def begin(point):
    params = {"head": {"kernel": jnp.full(2, point.get("start", 1.0))}}
    return init_state(params, TX, jax.random.key(0)), {"penalty/new": point["rate"]}


def score(state, data, fixed):
    return -jnp.sum(state.params["head"]["kernel"] ** 2)


def swept(workdir, data=DATA, fixed=None, train=None, score=score, init=begin, grid=None):
    grid = {"rate": [0.0, 1.0]} if grid is None else grid
    train = make_epoch(STEP, 3) if train is None else train
    given = (fixed or anchored()).given
    return sweep(init, train, score, grid, data, given, batching="loop", workdir=workdir)


def elsewhere(point):
    state, rates = begin(point)
    return state._replace(rng=jax.random.key(1)), rates


def cheaper(point):
    state, rates = begin(point)
    return state, {"penalty/new": rates["penalty/new"] / 2}


def squared(state, data, fixed):
    return -2 * jnp.sum(state.params["head"]["kernel"] ** 2)


SWEEPS = {
    "a grid": ({"grid": {"rate": [0.0, 2.0]}}, "holds work with another grid"),
    "rates": ({"init": cheaper}, r"holds a sweep with other rates: penalty/new was \[0. 1.\], is \[0.  0.5\]"),
    "a start": ({"init": elsewhere}, "holds a sweep with another start: rng differs"),
    "data": ({"data": DATA | {"label": jnp.zeros(2)}}, "holds a sweep with other data: label differs"),
    "an anchor": ({"fixed": anchored(1.0)}, "holds a sweep with another given: anchor/head/kernel differs"),
    "steps": ({"train": make_epoch(STEP, 4)}, "holds a sweep of another train"),
    "code": ({"train": make_epoch(made(scale=2.0)[0], 3)}, "holds a sweep of another train"),
    "a score": ({"score": squared}, "holds a sweep of another score"),
}


@pytest.mark.parametrize("name", SWEEPS)
def test_a_sweep_of_something_else_is_refused_by_name(name, tmp_path):
    other, told = SWEEPS[name]
    first = swept(tmp_path)
    assert swept(tmp_path).scores.tolist() == first.scores.tolist()
    with pytest.raises(InputError, match=told) as refused:
        swept(tmp_path, **other)
    assert len(str(refused.value).splitlines()) == 2


# ---------------------------------------------------------------- digests

LEAVES = {
    "uint8": np.arange(42, dtype=np.uint8).reshape(7, 3, 2),
    "float32": np.linspace(-1, 1, 15, dtype=np.float32).reshape(5, 3),
    "float64": np.linspace(-1, 1, 15).reshape(5, 3),
    "int32": -jnp.arange(6),
    "bfloat16": jnp.full((3, 2), 1.5, jnp.bfloat16),
    "scalar": np.float32(4),
    "bool": np.array([True, False]),
    "complex64": np.array([1 + 2j, 3], np.complex64),
    "empty": np.zeros((0, 3)),
    "key": jax.random.key(3),
    "keys": jax.random.split(jax.random.key(3), 4),
}


@pytest.mark.parametrize("kind", LEAVES)
def test_the_digest_of_data_is_one_on_the_host_and_on_the_device(kind):
    here, there = (digest(LEAVES[kind], 0) for digest in (_digest_by_row, _by_row_there))
    assert int(here[0]) == int(there[0])


@pytest.mark.parametrize("change", ["one value", "two values swapped", "two rows swapped", "sign of 0", "four labels"])
def test_the_digest_of_data_sees_every_value_and_its_place(change):
    rows = np.random.default_rng(0).integers(0, 3, (50, 4)).astype(np.float32)
    other = rows.copy()
    other[0] = [0, 1, 2, 3]
    rows[0] = other[0]
    if change == "one value":
        other[49, 3] += 1e-6
    elif change == "two values swapped":
        other[0, :2] = other[0, 1::-1]
    elif change == "two rows swapped":
        rows[1], other[1], other[0] = 7, rows[0], 7
    elif change == "sign of 0":
        other[0, 0] = -0.0
    else:  # differences that cancel in a sum with weights that grow evenly
        other[10:14, 0] += [1, -1, -1, 1]
    assert describe_data({"x": rows})[0] != describe_data({"x": other})[0]


def test_a_set_divided_among_devices_is_the_set_on_one():
    devices = jax.device_count()
    images = np.random.default_rng(0).normal(size=(4 * devices + 1, 3)).astype(np.float32)
    split = Split(images, np.zeros(len(images), np.int32))  # labels that repeat to the end
    alone = on_device(split, jax.random.key(0))
    divided = on_device(split, jax.random.key(0), sharding=by_example(make_mesh([f"data:{devices}"])))
    assert len(divided["image"]) == len(alone["image"]) + devices - 1
    described, like = describe_data(divided)
    assert (described, like) == describe_data(alone)
    assert like["label"].shape == (len(images),)


def test_a_step_is_the_same_in_another_process(tmp_path):
    """Addresses and the order of sets differ between processes."""
    tiny = Path(__file__).parent / "tiny.py"
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import tiny; from jaxtl.loop import fit; "
        "from jaxtl.step import Fixed; s, a, d = tiny.start(tiny.Config()); "
        "fit(s, a, d, Fixed(), steps=int(sys.argv[3]), workdir=sys.argv[2])"
    )
    for seed, steps in (("1", "2"), ("2", "4")):
        command = [sys.executable, "-c", code, str(tiny.parent), str(tmp_path), steps]
        environment = os.environ | {"PYTHONPATH": str(tiny.parent.parent), "PYTHONHASHSEED": seed}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        assert (done.returncode, done.stderr) == (0, "")
    assert checkpoints.latest_step(tmp_path) == 4
