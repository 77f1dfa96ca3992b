"""Parameter trees: names, sums, copies, differences."""

import dataclasses
from collections import OrderedDict
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.core import FrozenDict

from jaxtl.errors import InputError
from jaxtl.trees import (
    check_same,
    copy_tree,
    differences,
    keep,
    map_named,
    named_leaves,
    paired,
    shape_of,
    sum_leaves,
)


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Linear:
    kernel: jax.Array
    bias: jax.Array


def test_paths_of_dicts_and_lists():
    assert list(named_leaves({"layers": [{"kernel": 1}, {"kernel": 2}], "head": {"bias": 3}})) == [
        "head/bias",
        "layers/0/kernel",
        "layers/1/kernel",
    ]


def test_paths_of_dataclasses():
    assert list(named_leaves({"trunk": Linear(jnp.ones(1), jnp.ones(1))})) == ["trunk/kernel", "trunk/bias"]


def test_an_nnx_state_and_its_pure_dict_have_the_same_paths():
    state = nnx.state(nnx.Linear(2, 3, rngs=nnx.Rngs(0)), nnx.Param)
    assert sorted(named_leaves({"trunk": state})) == ["trunk/bias", "trunk/kernel"]
    assert sorted(named_leaves({"trunk": nnx.to_pure_dict(state)})) == ["trunk/bias", "trunk/kernel"]


def test_map_named_gives_the_path_and_every_leaf_and_keeps_the_structure():
    joined = map_named(lambda path, *leaves: (path, *leaves), {"a": [1, 2]}, {"a": [3, 4]})
    assert joined == {"a": [("a/0", 1, 3), ("a/1", 2, 4)]}


def test_two_leaves_under_one_path_are_refused():
    for tree in ({"a/b": 1, "a": {"b": 2}}, {"": {"a": 1}, "/a": 2}):
        with pytest.raises(InputError, match=r"^/?a(/b)?: two leaves have one path"):
            named_leaves(tree)


# --- pairs ---


class Backwards(NamedTuple):
    kernel: Any
    bias: Any


def as_state(values):
    """An NNX state with the same arrays under the same names."""
    return nnx.State({name: {leaf: nnx.Param(x) for leaf, x in inner.items()} for name, inner in values.items()})


VALUES = {str(layer): {"bias": jnp.full(2, layer + 0.5), "kernel": jnp.full(2, -layer - 1.0)} for layer in range(12)}
OTHER_KINDS = {
    "OrderedDict": OrderedDict((name, OrderedDict(reversed(VALUES[name].items()))) for name in reversed(VALUES)),
    "FrozenDict": FrozenDict(VALUES),
    "NamedTuple": {name: Backwards(**inner) for name, inner in VALUES.items()},
    "dataclass": {name: Linear(**inner) for name, inner in VALUES.items()},
    "list": [VALUES[str(layer)] for layer in range(12)],  # 0, 1, 2, ...; a dict has 0, 1, 10, 11, 2, ...
    "nnx.State": as_state(VALUES),
    "pure dict": nnx.to_pure_dict(as_state(VALUES)),
}


@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_trees_of_any_two_kinds_are_paired_by_path(kind):
    other = OTHER_KINDS[kind]
    for ours, theirs in ((VALUES, other), (other, VALUES)):
        check_same(ours, theirs, where="x", todo="y")
        arranged = paired(ours, theirs)
        assert jax.tree.structure(arranged) == jax.tree.structure(ours)
        assert all(a is b for a, b in zip(jax.tree.leaves(arranged), jax.tree.leaves(ours), strict=True))
        assert float(sum_leaves(lambda a, b: jnp.abs(a - b), ours, theirs)) == 0
        assert not any(jax.tree.leaves(map_named(lambda _, a, b: a is not b, ours, theirs)))
        mask = map_named(lambda path, _: path.endswith("bias"), theirs)
        assert sorted(named_leaves(keep(ours, mask))) == sorted(f"{layer}/bias" for layer in range(12))


def test_what_one_tree_lacks_is_refused_before_anything_is_paired():
    for ours, theirs in (({"a": 1, "b": 2}, {"a": 1}), ({"a": 1}, {"a": {"b": 1}}), ({"a": 1}, {"A": 1})):
        for pair in (paired, lambda a, b: sum_leaves(jnp.multiply, a, b), keep, lambda a, b: map_named(print, a, b)):
            with pytest.raises(InputError, match=r"(A|a/b|b|a) is in one tree only\n"):
                pair(ours, theirs)


def test_keep_drops_the_unmasked_leaves():
    assert jax.tree.leaves(keep({"a": 1, "b": {"c": 2, "d": 3}}, {"a": False, "b": {"c": True, "d": False}})) == [2]


def test_sums_of_bfloat16_are_float32_over_entries_and_over_leaves():
    assert float(jnp.bfloat16(1001)) == 1000  # what a bfloat16 result could say at most
    ones = {"a": jnp.ones(1000, jnp.bfloat16), "b": jnp.ones(1, jnp.bfloat16)}
    total = sum_leaves(lambda w: w, ones)
    assert total.dtype == jnp.float32
    assert float(total) == 1001


def test_the_entries_of_a_bfloat16_sum_are_float32_too():
    small = {"a": jnp.full(3, 1 + 2**-7, jnp.bfloat16)}  # its square needs 15 bits
    assert float(sum_leaves(lambda w: w * w, small)) == 3 * (1 + 2**-7) ** 2


def test_float64_stays_float64():
    with jax.enable_x64(True):
        assert sum_leaves(lambda w: w, {"a": jnp.ones(2, jnp.float64)}).dtype == jnp.float64


def test_a_tree_without_leaves_sums_to_zero():
    assert float(sum_leaves(lambda w: w, {"a": None})) == 0


def test_a_copy_survives_the_deletion_of_the_original():
    original = {"a": jnp.ones(2), "rng": jax.random.key(0)}
    copy = copy_tree(original)
    original["a"].delete()
    assert copy["a"].tolist() == [1, 1]
    assert jax.random.uniform(copy["rng"]) == jax.random.uniform(original["rng"])


def test_shapes_in_words():
    assert shape_of(jnp.zeros((3, 3, 1, 16))) == "float32[3, 3, 1, 16]"
    assert shape_of(np.float64(1)) == "float64[]"
    assert shape_of("new") == "str[]"


def test_trees_that_fit_have_no_differences():
    assert differences({"a": jnp.zeros(2)}, {"a": np.ones(2, np.float32)}) == []
    check_same({"a": jnp.zeros(2)}, {"a": jnp.ones(2)}, where="x", todo="y")


def test_differences_name_paths_shapes_and_dtypes_of_both_sides():
    ours = {"both": jnp.zeros(1), "dtype": jnp.zeros(2), "ours": jnp.zeros(3), "shape": jnp.zeros((2, 1))}
    theirs = {
        "both": jnp.zeros(1),
        "dtype": jnp.zeros(2, jnp.bfloat16),
        "shape": jnp.zeros((1, 2)),
        "theirs": jnp.zeros(4),
    }
    assert differences(ours, theirs) == [
        "dtype: float32[2] against bfloat16[2]",
        "ours: float32[3] against nothing",
        "shape: float32[2, 1] against float32[1, 2]",
        "theirs: nothing against float32[4]",
    ]


def test_a_refusal_names_three_paths_and_counts_the_others():
    ours = {name: jnp.zeros(1) for name in "abcde"}
    with pytest.raises(InputError) as error:
        check_same(ours, {}, where="anchor", todo="give one like the parameters")
    assert str(error.value) == (
        "anchor: a: float32[1] against nothing; b: float32[1] against nothing; c: float32[1] against nothing"
        " (and 2 more)\n  give one like the parameters"
    )
