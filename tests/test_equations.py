"""The page of equations says what the docstrings say, and every equation has a test."""

from equations import PAGE, ROOMS, equations, file_of, page

EXAMPLE_ALONE = {"unfreezing", "fedprox"}  # and rows that use them


def test_the_page_is_what_the_docstrings_say():
    assert PAGE.read_text() == page(), "write it anew: python tests/equations.py"


def test_every_equation_is_called_by_a_test():
    every = [one for places in ROOMS.values() for one in equations(places)]
    assert len(every) > 100
    assert {one.name for one in every if file_of(one).stem == "test_doctests"} <= EXAMPLE_ALONE
