"""Batches from disk: the same as from the device, in order, at every step, in a run and after an interruption."""

import signal
import sys
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from test_tfds_read import example, prepare

from jaxtl import loop
from jaxtl.data import (
    Split,
    Stored,
    Stream,
    by_class,
    channel_statistics,
    feed,
    from_arrays,
    image_batches,
    load,
    memory_budget,
    on_device,
)
from jaxtl.data.pictures import samples_by_class
from jaxtl.data.stream import AHEAD
from jaxtl.errors import InputError, Interrupted, NotFinite
from jaxtl.losses import make_loss_fn, mean_of, softmax_cross_entropy
from jaxtl.optimizers import Group, per_label
from jaxtl.penalties import Term
from jaxtl.step import Fixed, init_state, make_train_step, total_gradient

KEY = jax.random.key(7)
RANDOM = np.random.default_rng(0)
IMAGES, LABELS = RANDOM.integers(0, 256, (50, 6, 6, 3), dtype=np.uint8), (np.arange(50) % 3).astype(np.int32)
SPLIT = Split(IMAGES, LABELS)
SOME = RANDOM.permutation(50)[:23]


def stored(images=IMAGES, seen=None):
    """The images behind a function that reads rows, and a list of what it was asked for."""

    def read(rows):
        if seen is not None:
            seen.append(rows)
        return images[rows]

    return Stored(read, np.arange(len(images)), images.shape[1:])


def in_a_file(tmp_path):
    np.save(tmp_path / "images.npy", IMAGES)
    return np.load(tmp_path / "images.npy", mmap_mode="r", allow_pickle=False)


def raw_batches(data, size):
    """What `image_batches` makes of data, neither augmented nor normalised, as a function of the step."""
    prepare = jax.jit(image_batches(size, np.zeros(3), np.ones(3)))
    return lambda step: prepare(data, KEY, step)


@pytest.mark.parametrize("index", [None, SOME], ids=["all", "some"])
@pytest.mark.parametrize("kind", ["array", "stored", "file"])
@pytest.mark.parametrize("first", [0, 5, 1_000_003])
def test_batches_are_those_of_the_device_bit_for_bit(tmp_path, kind, index, first):
    images = {"array": lambda: IMAGES, "stored": stored, "file": lambda: in_a_file(tmp_path)}[kind]()
    expected = raw_batches(on_device(SPLIT, KEY, index), 8)
    batches = Stream(Split(images, LABELS), KEY, index, batch_size=8).batches(first)
    for step in range(first, first + 15):  # over two ends of an epoch
        batch, wanted = next(batches), expected(step)
        assert (batch["image"].dtype, batch["label"].dtype) == (np.uint8, np.int32)
        np.testing.assert_array_equal(batch["image"].astype(np.float32), wanted["image"])
        np.testing.assert_array_equal(batch["label"], wanted["label"])
    batches.close()


def test_a_shape_of_a_batch_is_known_before_it_is_read():
    stream = Stream(SPLIT, KEY, batch_size=8)
    batches = stream.batches(0)
    assert jax.eval_shape(lambda batch: batch, next(batches)) == stream.like
    batches.close()


def test_threads_read_a_few_batches_ahead_and_end():
    seen = []
    batches = Stream(Split(stored(seen=seen), LABELS), KEY, batch_size=8).batches(0)
    assert seen == []
    for _ in range(3):
        next(batches)
    time.sleep(0.3)
    assert len(seen) == 3 + AHEAD
    assert any(thread.name.startswith("grain") for thread in threading.enumerate())
    batches.close()
    time.sleep(0.1)
    assert not any(thread.name.startswith("grain") for thread in threading.enumerate())


def test_what_cannot_be_read_is_told_where_the_batch_is_asked_for():
    def read(rows):
        raise InputError("cannot be read", where="x.array_record")

    split = Split(Stored(read, np.arange(50), (6, 6, 3)), LABELS)
    with pytest.raises(InputError, match="array_record: cannot be read"):
        next(Stream(split, KEY, batch_size=8).batches(0))


def test_impossible_streams_are_refused(monkeypatch):
    with pytest.raises(InputError, match="a batch of 51 from a set of 50"):
        Stream(SPLIT, KEY, batch_size=51)
    with pytest.raises(InputError, match="brings 8 examples at a time"):
        image_batches(7, np.zeros(3), np.ones(3))(next(Stream(SPLIT, KEY, batch_size=8).batches(0)), KEY, 0)
    monkeypatch.setitem(sys.modules, "grain", None)
    with pytest.raises(InputError, match="needs grain") as caught:
        Stream(SPLIT, KEY, batch_size=8)
    assert 'pip install "grain' in str(caught.value)
    assert len(str(caught.value).splitlines()) == 2


# ---- a run


def forward(params, model_state, batch, ctx):
    return {"head": batch["image"].reshape(len(batch["label"]), -1) @ params["head"]["kernel"]}, model_state


TX = per_label({"head": {"kernel": "new"}}, {"new": Group(0.1)}, "sgd", momentum=0.9)
STEP = make_train_step(
    total_gradient(make_loss_fn(forward, {"task": Term(1.0, mean_of(softmax_cross_entropy))})),
    TX,
    image_batches(8, *channel_statistics(IMAGES), crop=1, flip=True),
)


def start():
    return init_state({"head": {"kernel": jnp.zeros((108, 3))}}, TX, KEY)


def kernel(state):
    return np.asarray(state.params["head"]["kernel"])


@pytest.mark.parametrize("chunk", [1, 4])
def test_a_run_is_that_of_the_device_bit_for_bit_also_after_an_interruption(tmp_path, chunk):
    def stop_at_eight(state):
        if int(state.step) == 8:
            loop.request_stop(signal.SIGTERM)
        return {}

    how = {"steps": 20, "every": 4}
    whole, history = loop.fit(STEP, start(), on_device(SPLIT, KEY, SOME), Fixed(), **how)
    stream = Stream(Split(stored(), LABELS), KEY, SOME, batch_size=8)
    streamed, same = loop.fit(STEP, start(), stream, Fixed(), chunk=chunk, **how)
    np.testing.assert_array_equal(kernel(streamed), kernel(whole))
    assert same == history
    try:
        with pytest.raises(Interrupted, match="at step 8 of 20"):
            loop.fit(STEP, start(), stream, Fixed(), **how, evaluate=stop_at_eight, workdir=tmp_path)
    finally:
        loop.stop_request.signal_number = None
    resumed, same = loop.fit(STEP, start(), on_device(SPLIT, KEY, SOME), Fixed(), steps=12, every=4, workdir=tmp_path)
    resumed, same = loop.fit(STEP, start(), stream, Fixed(), **how, workdir=tmp_path)
    np.testing.assert_array_equal(kernel(resumed), kernel(whole))
    assert same == history


def test_what_went_first_is_found_with_the_same_batches(tmp_path):
    fixed = Fixed({"learning_rate/new": 1e38})
    said = []
    for data in (on_device(SPLIT, KEY), Stream(SPLIT, KEY, batch_size=8)):
        with pytest.raises(NotFinite, match="first to go, in step") as caught:
            loop.fit(STEP, start(), data, fixed, steps=20, workdir=tmp_path / str(len(said)))
        said.append(str(caught.value))
    assert said[0] == said[1]


def test_rates_are_checked_before_anything_is_read():
    seen = []
    stream = Stream(Split(stored(seen=seen), LABELS), KEY, batch_size=8)
    with pytest.raises(InputError, match="learning_rate/nwe"):
        loop.fit(STEP, start(), stream, Fixed({"learning_rate/nwe": 1.0}), steps=2)
    assert seen == []


# ---- which of both


def test_the_budget_decides_and_changes_nothing():
    image = Split(IMAGES, LABELS).take([0]).nbytes
    kinds, batches = [], []
    for memory in (50 * image, 49 * image, 23 * image, 22 * image):
        data = feed(Split(stored(), LABELS), KEY, SOME, batch_size=8, memory=memory)
        if isinstance(data, Stream):
            kinds.append("stream")
            stream = data.batches(4)
            batches.append({"image": next(stream)["image"].astype(np.float32)})
            stream.close()
        else:
            kinds.append(len(data["image"]))
            batches.append(raw_batches(data, 8)(4))
    assert kinds == [50, 23, 23, "stream"]
    for batch in batches:
        np.testing.assert_array_equal(batch["image"], batches[0]["image"])
    assert isinstance(feed(SPLIT, KEY, batch_size=8, memory=49 * image), Stream)
    assert set(feed(SPLIT, KEY, batch_size=8)) == set(on_device(SPLIT, KEY))


def test_a_budget_is_a_quarter_of_the_device_or_stated(monkeypatch):
    assert memory_budget() == 2 * 2**30

    class Device:
        def memory_stats(self):
            return {"bytes_limit": 80 * 10**9}

    monkeypatch.setattr(jax, "local_devices", lambda: [Device()])
    assert memory_budget() == 20 * 10**9


# ---- sets that stay on disk


def test_a_stored_array_is_looked_at_like_an_array():
    seen = []
    images = stored(seen=seen)
    chosen = images[LABELS == 1][2:9]
    assert (chosen.shape, chosen.ndim, chosen.nbytes, len(chosen)) == ((7, 6, 6, 3), 4, 7 * 108, 7)
    assert seen == []
    np.testing.assert_array_equal(np.asarray(chosen), IMAGES[LABELS == 1][2:9])
    np.testing.assert_array_equal(jnp.asarray(chosen), IMAGES[LABELS == 1][2:9])
    np.testing.assert_array_equal(np.asarray(images[[3, 1]], np.float32), IMAGES[[3, 1]])
    assert np.asarray(images[:0]).shape == (0, 6, 6, 3)
    for ours, theirs in zip(channel_statistics(images), channel_statistics(IMAGES), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def same_data(ours, theirs):
    for part in ("train", "test"):
        mine, other = getattr(ours, part), getattr(theirs, part)
        assert isinstance(mine.images, Stored)
        assert mine.images.shape == other.images.shape
        np.testing.assert_array_equal(np.asarray(mine.images), other.images)
        np.testing.assert_array_equal(mine.labels, other.labels)
        assert (mine.labels.dtype, np.asarray(mine.images).dtype) == (np.int32, other.images.dtype)
    assert (ours.classes, ours.origin) == (theirs.classes, theirs.origin)
    tasks = [by_class(data, [2, 0]) for data in (ours, theirs)]
    np.testing.assert_array_equal(np.asarray(tasks[0].train.images), tasks[1].train.images)
    assert np.array_equal(samples_by_class(ours), samples_by_class(theirs))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_prepared_set_larger_than_the_memory(tmp_path, channels):
    directory = prepare(tmp_path, channels=channels)
    size = 18 * 32 * 32 * channels
    assert isinstance(load(directory, memory=size).train.images, np.ndarray)
    same_data(load(directory, memory=size - 1), load(directory))


def test_image_folders_larger_than_the_memory(tmp_path):
    for number in range(30):
        image, label = example("train", number)
        (tmp_path / "pets" / "abc"[label]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(tmp_path / "pets" / "abc"[label] / f"{number}.png")
    same_data(load(tmp_path / "pets", memory=1000), load(tmp_path / "pets"))


def test_records_are_read_by_many_threads_at_once(tmp_path):
    data = load(prepare(tmp_path), memory=0)
    whole = load(tmp_path / "cifar10")
    batches = Stream(data.train, KEY, batch_size=4).batches(0)
    expected = raw_batches(on_device(whole.train, KEY), 4)
    for step in range(60):
        np.testing.assert_array_equal(next(batches)["image"].astype(np.float32), expected(step)["image"])
    batches.close()


def test_a_damaged_record_is_named_when_it_is_read(tmp_path):
    for number in range(10):
        (tmp_path / "pets" / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(example("train", number)[0]).save(tmp_path / "pets" / "ab"[number % 2] / f"{number}.png")
    data = load(tmp_path / "pets", memory=1000)
    for file in tmp_path.rglob("*.png"):
        file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(InputError, match=r"\d\.png: cannot be read"):
        next(Stream(data.train, KEY, batch_size=4).batches(0))


def test_an_archive_that_cannot_be_read_in_parts(tmp_path):
    np.savez(tmp_path / "x.npz", train_images=IMAGES, train_labels=LABELS, test_images=IMAGES, test_labels=LABELS)
    with pytest.raises(InputError, match=r"unpacks to 1\.17e-05 GB, but images may take 1e-06 GB") as caught:
        load(tmp_path / "x.npz", memory=1000)
    assert "one folder of images for each class" in str(caught.value)
    assert len(load(tmp_path / "x.npz", memory=20_000).train) == 50


def test_an_array_that_stays_in_its_file_is_not_read(tmp_path):
    data = from_arrays(in_a_file(tmp_path), LABELS, IMAGES[:5], LABELS[:5])
    assert isinstance(data.train.images.base, np.memmap)
