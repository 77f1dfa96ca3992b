"""The little language of splits."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxtl.data import from_arrays, source_and_target
from jaxtl.errors import InputError

NAMES = ["cat", "dog", "t-shirt", "truck", "ship", "frog"]
DATA = from_arrays(
    np.random.default_rng(0).integers(0, 256, (24, 4, 4), np.uint8),
    np.arange(24) % 6,
    classes=NAMES,
    test_fraction=0.25,
)


def images_of(part, data, names=NAMES):
    """{(image, name of its class)} of some classes."""
    pairs = zip(part.images, part.labels, strict=True)
    return {(image.tobytes(), data.classes[label]) for image, label in pairs if data.classes[label] in names}


@pytest.mark.parametrize(
    ("split", "source", "target"),
    [
        ("0-1:2-3", ["cat", "dog"], ["t-shirt", "truck"]),
        ("frog+0:t-shirt", ["frog", "cat"], ["t-shirt"]),
        (":5", NAMES, ["frog"]),
        ("4-5+1:", ["ship", "frog", "dog"], NAMES),
        ("0-2:2-4", ["cat", "dog", "t-shirt"], ["t-shirt", "truck", "ship"]),
    ],
)
def test_classes_by_name_number_and_range(split, source, target):
    tasks = source_and_target(split, DATA, DATA)
    assert [list(task.classes) for task in tasks] == [source, target]
    for task, names in zip(tasks, (source, target), strict=True):
        assert images_of(task.test, task) == images_of(DATA.test, DATA, names)
        assert images_of(task.train, task) <= images_of(DATA.train, DATA, names)
    theirs, ours = (images_of(task.train, task) for task in tasks)
    assert theirs | ours == images_of(DATA.train, DATA, {*source, *target})
    assert not theirs & ours
    assert bool(tasks[0].notice) == bool(set(source) & set(target)) == ("in one of them only" in tasks[1].origin)


def test_a_class_whose_name_is_a_number_is_meant_by_name():
    digits = from_arrays(np.zeros((8, 4, 4), np.uint8), np.arange(8) % 2, classes=["1", "0"])
    assert source_and_target("0:1", digits, digits)[0].classes == ("0",)


def named(*names):
    """Two images of each class, all of them different."""
    images = np.arange(4 * len(names) * 4, dtype=np.uint8).reshape(-1, 2, 2)
    return from_arrays(images, np.arange(len(images)) % len(names), classes=names, name="mine", test_fraction=0.25)


@pytest.mark.parametrize(
    ("names", "side", "expected"),
    [
        (["1", "10", "11", "2", "3"], "1-3", ["1", "2", "3"]),
        (["1", "10", "11", "2", "3"], "2-11", ["2", "3", "10", "11"]),
        (["10", "20", "30", "x"], "10-30+x", ["10", "20", "30", "x"]),
        (["01", "02", "10"], "02-10", ["02", "10"]),
        (["-1", "0", "1"], "-1-1", ["-1", "0", "1"]),
        (["-1", "-3", "-2"], "-3--2", ["-3", "-2"]),
        (["-1", "0", "1"], "-1", ["-1"]),
        (["0-2", "4-6", "8-12"], "0-2+8-12", ["0-2", "8-12"]),
        (["c", "c++", "c+"], "c+++c", ["c++", "c"]),
        (["c", "c++", "+"], "1-2", ["c++", "+"]),
        (["a,b", "a:b", "-"], "a:b+-+a,b", ["a:b", "-", "a,b"]),
        (["١", "one"], "one", ["one"]),
    ],
)
def test_a_name_is_read_before_a_number_and_numbers_in_their_own_order(names, side, expected):
    data = named(*names)
    assert list(source_and_target(f"{side}:", data, data)[0].classes) == expected
    assert list(source_and_target(f":{side}", data, data)[1].classes) == expected


@settings(max_examples=30, deadline=None, derandomize=True, database=None)
@given(st.lists(st.integers(-20, 200).map(str), min_size=3, max_size=12, unique=True), st.data())
def test_a_range_is_the_sum_of_the_numbers_in_it(names, data):
    low, high = sorted(data.draw(st.lists(st.sampled_from(names), min_size=2, max_size=2, unique=True)), key=int)
    inside = sorted((name for name in names if int(low) <= int(name) <= int(high)), key=int)
    mine = named(*names)
    by_range, by_name = (source_and_target(f"{side}:", mine, mine)[0] for side in (f"{low}-{high}", "+".join(inside)))
    assert by_range.classes == by_name.classes == tuple(inside)


@pytest.mark.parametrize(
    ("names", "split", "message"),
    [
        (["10", "20", "30"], "0:1", "no class '0' in mine, whose 3 classes are 10, 20, 30"),
        (["01", "02", "03"], "1-2:03", "no class '1-2'"),
        (["0-2", "4-6", "8-12"], "0-1:2", "no class '0-1'"),
        (["0.5", "1.5"], "0:1", "no class '0'"),
        (["a", "b", "a+b"], "a+b:a", "'a+b' can be read as 'a+b' or as 'a', 'b'"),
        (["a", "b:a", "a:b", "b"], "a:b:a", "has 2 colons"),
        (["a", "b", "c"], "0-99999999999:1", "no class '0-99999999999'"),
        (["a", "b", "c"], "0-" + "9" * 5000 + ":1", "no class '0-9"),
        (["a", "b", "c"], "+" * 20000 + ":1", "+++…' names more classes than the 3 of mine"),
        (["a", "b", "c"], "0+" * 20000 + "0:1", "names more classes than the 3"),
        (["a", "b", "c"], "a++b:1", "no class ''"),
        (["a", "b", "c"], "a+a:1", "class 'a' occurs twice"),
        (["a", "b", "c"], "²:1", "no class '²'"),
        (["a", "b", "c"], "-1:1", "no class '-1'"),
        (
            ["a", "b", "c", "d"],
            "0-4:5-9",
            "whose 4 classes are a, b, c, d\n  write source:target, such as a+b:c+d",
        ),
    ],
)
def test_what_has_no_meaning_or_two_is_refused(names, split, message):
    data = named(*names)
    with pytest.raises(InputError) as caught:
        source_and_target(split, data, data, where="--config.splits")
    assert message in str(caught.value)
    assert len(str(caught.value)) < 300
    assert caught.value.where == "--config.splits"


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("0-1", "'0-1' has 0 colons"),
        ("0:1:2", "has 2 colons"),
        ("cta:1", "no class 'cta'.*\n.*did you mean 'cat'"),
        ("0-:1", "no class '0-'"),
        ("0-9:1", "no class '0-9' in arrays, whose 6 classes are cat, dog"),
        ("3-2:1", "runs backwards.*\n.*2-3"),
        ("0+cat:1", "class 'cat' occurs twice"),
    ],
)
def test_mistakes_are_named(split, message):
    with pytest.raises(InputError, match=message):
        source_and_target(split, DATA, DATA)
