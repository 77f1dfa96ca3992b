"""`import jaxtl as tl`: every name is what its room defines, and nothing is imported before it is asked for."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import jaxtl as tl

SOURCE = Path(tl.__file__).read_text(encoding="utf-8")
NAMES = sorted(set(tl.__all__) - {"__version__"})


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_that_of_its_room(name):
    assert getattr(tl, name) is getattr(importlib.import_module(tl._HOME[name]), name)
    assert name in dir(tl)


def test_a_type_checker_sees_the_same_names_from_the_same_rooms():
    (checked,) = (node for node in ast.parse(SOURCE).body if isinstance(node, ast.If))
    seen = {alias.name: node.module for node in checked.body for alias in node.names}
    assert seen == tl._HOME


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'jaxtl' has no attribute 'penalty'"):
        _ = tl.penalty


def python(program):
    """What a fresh interpreter prints."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_nothing_heavy_is_imported_before_a_name_is_asked_for():
    heavy = "[name for name in ('jax', 'numpy', 'flax', 'optax', 'sklearn', 'matplotlib') if name in sys.modules]"
    assert python(f"import sys, jaxtl as tl; dir(tl); print({heavy})") == "[]"
    light = python(f"import sys, jaxtl as tl; tl.l2, tl.Group, tl.make_program; print({heavy})")
    assert light == "['jax', 'numpy', 'optax']"


ANEW = """
import sys
for first in {ways}:
    for name in [name for name in sys.modules if name.partition(".")[0] == "jaxtl"]:
        del sys.modules[name]
    exec(first + "; import jaxtl as tl; {again}; {asked}")
"""


@pytest.mark.parametrize("room", ["transfer", "sweep", "finetune"])
def test_a_room_called_like_what_it_is_for_does_not_hide_it(room):
    """In one interpreter, in which jaxtl is imported anew for every way to ask for the room first."""
    ways = [f"import jaxtl.{room}", f"from jaxtl.{room} import {room}", f"import jaxtl; jaxtl.{room}"]
    again = f"import jaxtl.{room}; from jaxtl.{room} import {room}; assert {room} is tl.{room}"
    asked = f"print(tl.{room}.__name__, callable(tl.{room}))"
    assert python(ANEW.format(ways=ways, again=again, asked=asked)).splitlines() == [f"{room} True"] * 3
