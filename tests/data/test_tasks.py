"""The little language of splits."""

import numpy as np
import pytest

from jaxtl.data import from_arrays, source_and_target
from jaxtl.errors import InputError

NAMES = ["cat", "dog", "t-shirt", "truck", "ship", "frog"]
DATA = from_arrays(
    np.arange(24 * 16, dtype=np.uint8).reshape(24, 4, 4), np.arange(24) % 6, classes=NAMES, test_fraction=0.25
)


@pytest.mark.parametrize(
    ("split", "source", "target"),
    [
        ("0-1:2-3", ["cat", "dog"], ["t-shirt", "truck"]),
        ("frog+0:t-shirt", ["frog", "cat"], ["t-shirt"]),
        (":5", NAMES, ["frog"]),
        ("4-5+1:", ["ship", "frog", "dog"], NAMES),
    ],
)
def test_classes_by_name_number_and_range(split, source, target):
    tasks = source_and_target(split, DATA, DATA)
    assert [list(task.classes) for task in tasks] == [source, target]
    for task, names in zip(tasks, (source, target), strict=True):
        originals = DATA.train.images[[NAMES[label] in names for label in DATA.train.labels]]
        assert sorted(task.train.images.tobytes()) == sorted(originals.tobytes())


def test_a_class_whose_name_is_a_number_is_meant_by_name():
    digits = from_arrays(np.zeros((8, 4, 4), np.uint8), np.arange(8) % 2, classes=["1", "0"])
    assert source_and_target("0:1", digits, digits)[0].classes == ("0",)


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("0-1", "'0-1' has 0 colons"),
        ("0:1:2", "has 2 colons"),
        ("cta:1", "no class 'cta'.*\n.*did you mean 'cat'"),
        ("0-:1", "no class '0-'"),
        ("0-9:1", "no class 6"),
        ("3-2:1", r"classes is \[\]"),
        ("0+cat:1", "occurs twice"),
    ],
)
def test_mistakes_are_named(split, message):
    with pytest.raises(InputError, match=message):
        source_and_target(split, DATA, DATA)
