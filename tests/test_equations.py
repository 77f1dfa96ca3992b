"""The page of equations says what the docstrings say, and every equation has a test."""

from equations import PAGE, ROOMS, equations, page, tested_in

EXAMPLE_ALONE = {"unfreezing", "fedprox"}  # and rows that use them


def test_the_page_is_what_the_docstrings_say():
    assert PAGE.read_text() == page(), "write it anew: python tests/equations.py"


def test_every_equation_is_called_by_a_test():
    every = [one for places in ROOMS.values() for one in equations(places)]
    assert len(every) > 100
    assert {one.name for one in every if tested_in(one).stem == "test_doctests"} <= EXAMPLE_ALONE
