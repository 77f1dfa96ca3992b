"""Recordings from an archive, pairs by class, and that nothing tested was learned from."""

from __future__ import annotations

import numpy as np
import pytest

from jaxtl.data import from_arrays, load
from jaxtl.data.log_mel import log_mel
from jaxtl.data.modalities import AUDIO, IMAGE, drawn_pairs, halves, image_and_audio, noisy, pairs_by_class
from jaxtl.data.recordings import late, load_recordings
from jaxtl.errors import InputError

SPEAKERS, TAKES, CLASSES = 4, 7, 3


def keys(**changes):
    """Recordings of tones, each a class, a speaker and a take, of lengths of their own."""
    random = np.random.default_rng(0)
    which = [(c, s, t) for c in range(CLASSES) for s in range(SPEAKERS) for t in range(TAKES)]
    words = []
    for label, speaker, _ in which:
        time = np.arange(random.integers(300, 900)) / 1000
        words.append((1000 * (1 + speaker) * np.sin(2 * np.pi * (100 + 100 * label) * time)).astype(np.int16))
    found = {
        "samples": np.concatenate(words),
        "offsets": np.cumsum([0, *map(len, words)]),
        **{
            name: np.array([one[k] for one in which], np.uint8)
            for k, name in enumerate(("labels", "speakers", "takes"))
        },
        "sample_rate": np.array(1000),
        "speaker_names": np.array(["ann", "ben", "cat", "dan"]),
    }
    return {name: array for name, array in {**found, **changes}.items() if array is not None}


@pytest.fixture
def archive(tmp_path):
    """Writes one and returns its path."""

    def write(**changes):
        np.savez(tmp_path / "words.npz", **keys(**changes))
        return tmp_path / "words.npz"

    return write


@pytest.fixture
def images():
    labels = np.arange(60) % CLASSES
    pictures = np.random.default_rng(1).integers(256, size=(60, 4, 4), dtype=np.uint8)
    return from_arrays(pictures, labels, test_fraction=0.5)


def test_recordings_are_scaled_by_their_peak_and_cut_or_filled_up(archive):
    found, wanted = load_recordings(archive(), seconds=0.5), keys()
    assert found.signal.shape == (CLASSES * SPEAKERS * TAKES, 500)
    assert (found.rate, found.classes, found.speakers) == (1000, ("0", "1", "2"), ("ann", "ben", "cat", "dan"))
    for k in (0, 7, 50):
        word = wanted["samples"][wanted["offsets"][k] : wanted["offsets"][k + 1]].astype(float)
        expected = np.zeros(500)
        expected[: len(word)] = (word / np.abs(word).max())[:500]
        np.testing.assert_allclose(found.signal[k], expected, rtol=1e-6)
    np.testing.assert_array_equal(found.take, wanted["takes"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"samples": None}, "has no samples"),
        ({"offsets": np.array([0, 5])}, "do not cut the samples"),
        ({"offsets": keys()["offsets"][::-1]}, "do not cut the samples"),
        ({"labels": np.zeros(3, np.uint8)}, "labels are uint8 \\[3\\] for 84 recordings"),
        ({"takes": keys()["takes"].astype(float)}, "takes are float64"),
        ({"speaker_names": np.array(["ann"])}, "speakers up to 3, and 1 names"),
        ({"sample_rate": np.array(0)}, "sample_rate is 0"),
        ({"samples": np.full_like(keys()["samples"], np.nan, dtype=float)}, "do not cut the samples"),
    ],
)
def test_an_archive_that_does_not_fit_together_is_refused(archive, changes, message):
    with pytest.raises(InputError, match=message):
        load_recordings(archive(**changes))


def test_what_is_no_archive_is_refused(tmp_path):
    (tmp_path / "words.npz").write_bytes(b"no archive")
    for path in (tmp_path / "words.npz", tmp_path / "none.npz"):
        with pytest.raises(InputError, match=path.name):
            load_recordings(path)


def test_a_pair_is_of_one_class_and_nothing_is_in_two():
    random = np.random.default_rng(0)
    labels = {"a": random.integers(4, size=50), "b": random.integers(1, 5, size=30)}
    found = pairs_by_class(labels, 0)
    np.testing.assert_array_equal(labels["a"][found["a"]], labels["b"][found["b"]])
    for name in labels:
        assert len({*found[name]}) == len(found[name])
    counts = [np.bincount(own, minlength=5) for own in labels.values()]
    assert len(found["a"]) == np.minimum(*counts).sum()
    again, other = pairs_by_class(dict(reversed(labels.items())), 0), pairs_by_class(labels, 1)
    np.testing.assert_array_equal(again["a"], found["a"])
    assert not np.array_equal(other["a"], found["a"])
    with pytest.raises(InputError, match="no class is in all"):
        pairs_by_class({"a": np.zeros(3, int), "b": np.ones(3, int)}, 0)


def test_fewer_pairs_are_of_the_same_examples_and_more_examples_hold_fewer():
    random = np.random.default_rng(0)
    labels = {name: random.permutation(np.arange(120) % 4) for name in "ab"}
    among = {name: np.arange(20, 120) for name in "ab"}
    both, alone = drawn_pairs(labels, 10, 0.3, 5, among)
    every, nobody = drawn_pairs(labels, 10, 1.0, 5, among)
    for name in "ab":
        assert {*both[name]} | {*alone[name]} == {*every[name]}
        assert not {*both[name]} & {*alone[name]}
        assert min(every[name]) >= 20
        assert (len(both[name]), len(nobody[name])) == (12, 0)
        assert {*drawn_pairs(labels, 4, 1.0, 5, among)[0][name]} < {*every[name]}
    np.testing.assert_array_equal(labels["a"][both["a"]], labels["b"][both["b"]])
    with pytest.raises(InputError, match=r"a: class 0 has .* 40 are wanted"):
        drawn_pairs(labels, 40, 1.0, 5, among)


@pytest.mark.parametrize("speakers", [(), (0, 1), (2, 3)])
def test_no_take_no_speaker_and_no_image_is_learned_from_and_tested(archive, images, speakers):
    spoken = load_recordings(archive())
    found = image_and_audio(images, spoken, speakers)
    learned, tested = {*found.train[AUDIO].groups.tolist()}, {*found.test.groups.tolist()}
    assert learned
    assert tested
    assert not learned & tested
    if speakers:
        assert tested == {*speakers}
        assert "ann and ben" in found.origin or "cat and dan" in found.origin
    else:
        assert {group % TAKES for group in tested} <= {0, 1, 2, 3, 4}
        assert {group % TAKES for group in learned} == {5, 6}
    sound = np.asarray(log_mel(spoken.signal, rate=1000))
    for picture, label in zip(found.test[AUDIO][..., 0], found.test.labels, strict=True):
        (k,) = np.flatnonzero((sound == picture).all(axis=(1, 2)))
        assert spoken.label[k] == label
        assert not (found.train[AUDIO][AUDIO][..., 0] == picture).all(axis=(1, 2)).any()
    for picture, label in zip(found.test[IMAGE], found.test.labels, strict=True):
        (k,) = np.flatnonzero((images.test.images == picture).all(axis=(1, 2, 3)))
        assert images.test.labels[k] == label
    assert len(found.test) == 30, "all test images of three classes, each with a recording of its own"


def test_all_pairs_of_speakers_have_one_order_of_test_labels(archive, images):
    spoken = load_recordings(archive())
    first, second = (image_and_audio(images, spoken, pair) for pair in ((0, 1), (2, 3)))
    np.testing.assert_array_equal(first.test.labels, second.test.labels)


def test_what_is_worse_is_one_side_of_the_same_pairs(archive, images):
    spoken = load_recordings(archive())
    found = image_and_audio(images, spoken)
    for what, changed in found.worse.items():
        ((side, array),) = changed.items()
        assert what.startswith(side)
        assert array.shape == found.test[side].shape
        assert not np.allclose(array, found.test[side])
    rows = [int(np.flatnonzero((np.asarray(log_mel(spoken.signal, rate=1000)) == one[..., 0]).all(axis=(1, 2)))[0])
            for one in found.test[AUDIO]]  # fmt: skip
    moved = log_mel(late(spoken.signal[rows], 200), rate=1000)
    np.testing.assert_allclose(found.worse["audio 200 ms late"][AUDIO][..., 0], moved, atol=1e-4)
    assert noisy(np.zeros((50, 50), np.uint8), 0.1).std() == pytest.approx(25.5, rel=0.05)


def test_halves_are_of_different_images_and_are_said_to_be_no_modalities():
    digits = load("digits")
    found = halves(digits)
    assert found.names == ("lower", "upper")
    assert "NO TWO MODALITIES" in found.notice
    assert len(found.train["lower"]) + len(found.train["upper"]) == len(digits.train)
    np.testing.assert_array_equal(found.train["lower"]["lower"], digits.train.images[::2, 4:])
    np.testing.assert_array_equal(found.train["upper"]["upper"], digits.train.images[1::2, :4])
    tested = [{one.tobytes() for one in part} for part in (digits.test.images[::2, 4:], digits.test.images[1::2, :4])]
    for name, known in zip(("lower", "upper"), tested, strict=True):
        assert {one.tobytes() for one in found.test[name]} <= known


def test_what_makes_no_pairs_is_refused(archive, images):
    spoken = load_recordings(archive())
    with pytest.raises(InputError, match="3 classes of images, 2 of recordings"):
        image_and_audio(images, spoken._replace(classes=("a", "b")))
    with pytest.raises(InputError, match="speakers \\[0, 1, 2, 3\\] are all"):
        image_and_audio(images, spoken, (0, 1, 2, 3))
    with pytest.raises(InputError, match="speakers \\[9\\] are none"):
        image_and_audio(images, spoken, (9,))
    with pytest.raises(InputError, match="no images to be halved"):
        halves(from_arrays({"signal": np.ones((6, 100))}, np.arange(6) % 2))
