"""Errors say what, where and what to do, in two lines, and carry the exit code."""

import pytest

from jaxtl.errors import InputError, Interrupted, NotFinite, Stop, suggest


def test_input_error_says_where_what_and_what_to_do_in_two_lines():
    error = InputError("rate -1 is negative", where="penalty/new", todo="use a rate >= 0")
    assert str(error) == "penalty/new: rate -1 is negative\n  use a rate >= 0"
    assert (error.what, error.where, error.todo) == ("rate -1 is negative", "penalty/new", "use a rate >= 0")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({}, "wrong"),
        ({"where": "x"}, "x: wrong"),
        ({"todo": "mend it"}, "wrong\n  mend it"),
        ({"where": 3}, "3: wrong"),
    ],
)
def test_parts_left_out_leave_no_trace(arguments, text):
    assert str(InputError("wrong", **arguments)) == text


def test_input_error_is_a_value_error():
    with pytest.raises(ValueError, match="wrong"):
        raise InputError("wrong")


@pytest.mark.parametrize(
    ("error", "code"),
    [(InputError("x"), 2), (NotFinite("x"), 3), (Interrupted("x", 2), 130), (Interrupted("x", 15), 143)],
)
def test_every_stop_carries_its_exit_code(error, code):
    assert isinstance(error, Stop)
    assert error.exit_code == code


def test_a_near_miss_gets_one_suggestion_and_a_far_one_the_list():
    assert suggest("penalty/nwe", ["penalty/new", "penalty/transferred"]) == "did you mean 'penalty/new'?"
    assert suggest("zzz", {"b", "a"}) == "known: a, b"
    assert suggest("zzz", []) == "known: none"
