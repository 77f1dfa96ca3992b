"""Every Example in a docstring runs."""

import doctest
import importlib
import pkgutil

import pytest

import jaxtl

MODULES = [name for _, name, _ in pkgutil.walk_packages(jaxtl.__path__, "jaxtl.") if not name.endswith("__main__")]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    assert doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS).failed == 0
