"""Clips of images that move: whole, on a line, told apart by the order of their frames alone."""

import collections

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxtl.data import from_arrays, load
from jaxtl.data import moving_images as room
from jaxtl.data.moving_images import CLIP, FRAMES, MOTION, MOTIONS, motions, moving
from jaxtl.errors import InputError

STEPS = {"right": (0, 1), "left": (0, -1), "down": (1, 0), "up": (-1, 0)}


def marked(count, size=2, dtype=np.uint8):
    """Images that are all different, with ink in two corners, so that their place in a frame can be read."""
    images = np.zeros((count, size, size, 1), dtype)
    images[:, 0, 0, 0], images[:, -1, -1, 0] = 1 + np.arange(count), 1 + np.arange(count)
    return from_arrays(images, np.arange(count) % 2)


def places(clips):
    """[N, T, 2] row and column of the first ink of every frame."""
    flat = (clips.reshape(*clips.shape[:2], -1) > clips.min()).argmax(axis=-1)
    return np.stack(np.unravel_index(flat, clips.shape[2:4]), axis=-1)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 6), st.integers(2, 4), st.integers(0, 6), st.integers(0, 2**31))
def test_every_image_moves_all_four_ways_at_one_speed_and_stays_whole(frames, size, spare, seed):
    data = marked(12, size)
    clips = moving(data, frames, size + frames - 1 + spare, seed)
    for part, own in ((clips.train, data.train), (clips.test, data.test)):
        assert part[FRAMES].dtype == np.uint8
        np.testing.assert_array_equal(part[MOTION], np.tile(np.arange(4), len(own)))
        np.testing.assert_array_equal(part.labels, np.repeat(own.labels, 4))
        place = places(part[FRAMES])
        for clip, where, k, motion in zip(
            part[FRAMES], place, np.repeat(np.arange(len(own)), 4), part[MOTION], strict=True
        ):
            moved = np.diff(where, axis=0)
            speed = abs(int(moved[0].sum()))
            assert speed >= 1
            np.testing.assert_array_equal(moved, np.tile(speed * np.array(STEPS[MOTIONS[motion]]), (frames - 1, 1)))
            for frame, (y, x) in zip(clip, where, strict=True):
                np.testing.assert_array_equal(frame[y : y + size, x : x + size], own.images[k])
                assert frame.sum() == own.images[k].sum()


def test_backwards_a_clip_is_that_of_the_other_way_frame_by_frame():
    clips = moving(marked(20), 5, 9).train[FRAMES]
    np.testing.assert_array_equal(clips[1::4], clips[0::4, ::-1])
    np.testing.assert_array_equal(clips[3::4], clips[2::4, ::-1])


def test_a_frame_that_is_taken_out_of_a_clip_says_nothing_of_its_motion():
    place = places(moving(marked(12_000, dtype=np.float32), 4, 8).train[FRAMES])
    counts = [collections.Counter(map(tuple, place[k::4].reshape(-1, 2).tolist())) for k in range(4)]
    assert counts[0] == counts[1], "left is right backwards"
    assert counts[2] == counts[3]
    cells = sorted(counts[0].keys() | counts[2].keys())
    table = np.array([[count[cell] for cell in cells] for count in (counts[0], counts[2])], float)
    share = table / table.sum(axis=1, keepdims=True)
    assert 0.5 * np.abs(share[0] - share[1]).sum() < 0.02, "total variation: two samples of one distribution"


def test_across_the_line_a_wrong_start_would_be_seen(monkeypatch):
    """The same, of clips that move in the middle row: a frame would give their motion away."""
    drawn = room._lines

    def in_the_middle(count, frames, free, rng):
        lines = drawn(count, frames, free, rng)
        lines[..., 1] = free // 2
        return lines

    monkeypatch.setattr(room, "_lines", in_the_middle)
    place = places(moving(marked(2000, dtype=np.float32), 4, 8).train[FRAMES])
    assert np.ptp(place[0::4, :, 0]) == 0 < np.ptp(place[2::4, :, 0])


def test_no_image_is_in_both_parts_and_a_seed_means_one_set():
    data = load("digits")
    one, again, other = (moving(data, 4, 12, seed) for seed in (3, 3, 4))
    assert not {*one.train.groups.tolist()} & {*one.test.groups.tolist()}
    np.testing.assert_array_equal(np.bincount(one.train.groups), np.full(len(data.train), 4))
    np.testing.assert_array_equal(one.train[FRAMES], again.train[FRAMES])
    assert (one.train[FRAMES] != other.train[FRAMES]).any()


def test_around_an_image_is_the_least_value_there_is():
    images = np.random.default_rng(0).normal(size=(20, 3, 3, 1)).astype(np.float32)
    data = from_arrays(images, np.arange(20) % 2)
    clips = moving(data, 2, 5)
    assert clips.train[FRAMES].dtype == np.float32
    assert np.median(clips.train[FRAMES]) == images.min()


def test_motions_ask_which_way_and_keep_what_is_shown():
    clips = moving(marked(12), 3, 6)
    for ordered, field in ((True, CLIP), (False, FRAMES)):
        asked = motions(clips, ordered=ordered)
        assert asked.classes == MOTIONS
        assert [name for name in (CLIP, FRAMES) if name in asked.train] == [field]
        np.testing.assert_array_equal(asked.train.labels, clips.train[MOTION])
        np.testing.assert_array_equal(asked.train["shown"], clips.train.labels)
        np.testing.assert_array_equal(asked.test[field], clips.test[FRAMES])


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ((1, 12), r"moving: images of 2x2 pixels in 1 frames of 12x12.*give 2 frames at least"),
        ((5, 5), r"in 5 frames of 5x5.*fewer frames or a larger frame"),
        ((3, 10**6), r"GiB of clips.*fewer images"),
    ],
)
def test_what_cannot_be_moved_is_refused(how, message):
    with pytest.raises(InputError, match=f"(?s){message}"):
        moving(marked(12), *how)
    with pytest.raises(InputError, match="has no images to move"):
        moving(from_arrays(np.ones((9, 6)), np.arange(9) % 2), 3, 9)
