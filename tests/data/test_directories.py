"""A run stays with the data it began with."""

import numpy as np
import pytest

from jaxtl.data import keep_to_data
from jaxtl.data.on_disk import Stored
from jaxtl.errors import InputError


def test_a_run_stays_with_the_data_it_began_with(tmp_path):
    for _ in range(2):
        keep_to_data(tmp_path / "room", "digits.npz")
    with pytest.raises(InputError, match=r"room/data.txt: the run began with digits.npz; now it would be a box"):
        keep_to_data(tmp_path / "room", "a box")
    keep_to_data(tmp_path / "another", "a box")


ARRAYS = (np.arange(12, dtype=np.uint8).reshape(3, 4), np.arange(3))
OTHERS = {
    "a pixel": (ARRAYS[0] + np.eye(3, 4, dtype=np.uint8), ARRAYS[1]),
    "a label": (ARRAYS[0], np.array([0, 1, 1])),
    "the order": (ARRAYS[0][::-1], ARRAYS[1][::-1]),
    "the shape": (ARRAYS[0].reshape(3, 2, 2), ARRAYS[1]),
    "more": (np.arange(16, dtype=np.uint8).reshape(4, 4), np.arange(4)),
    "the parts in another order": ARRAYS[::-1],
}


@pytest.mark.parametrize("change", OTHERS)
def test_a_run_stays_with_the_content_it_began_with(tmp_path, change):
    for _ in range(2):
        keep_to_data(tmp_path, "digits.npz", *ARRAYS)
    with pytest.raises(InputError, match=r"data.txt: the content of digits.npz has changed since the run began\n  put"):
        keep_to_data(tmp_path, "digits.npz", *OTHERS[change])
    with pytest.raises(InputError, match=r"the run began with digits.npz; now it would be a box"):
        keep_to_data(tmp_path, "a box", *ARRAYS)
    keep_to_data(tmp_path, "digits.npz", *ARRAYS)


def test_a_run_of_an_earlier_version_goes_on_by_the_name_of_its_data(tmp_path):
    (tmp_path / "data.txt").write_text("digits.npz")
    keep_to_data(tmp_path, "digits.npz", *ARRAYS)


def test_of_images_on_disk_some_are_looked_at(tmp_path):
    images = np.arange(2000, dtype=np.uint8).reshape(1000, 2, 1, 1)
    for _ in range(2):
        keep_to_data(tmp_path, "many", Stored(lambda rows: images[rows], np.arange(1000), (2, 1, 1)))
    with pytest.raises(InputError, match="the content of many has changed"):
        keep_to_data(tmp_path, "many", Stored(lambda rows: images[rows] + 1, np.arange(1000), (2, 1, 1)))
