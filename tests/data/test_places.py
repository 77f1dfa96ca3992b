"""A run stays with the data it began with."""

import pytest

from jaxtl.data import keep_to_data
from jaxtl.errors import InputError


def test_a_run_stays_with_the_data_it_began_with(tmp_path):
    for _ in range(2):
        keep_to_data(tmp_path / "room", "digits.npz")
    with pytest.raises(InputError, match=r"room/data.txt: the run began with digits.npz; now it would be a box"):
        keep_to_data(tmp_path / "room", "a box")
    keep_to_data(tmp_path / "another", "a box")
