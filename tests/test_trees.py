"""Parameter trees: names, sums, copies, differences."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxtl.errors import InputError
from jaxtl.trees import check_same, copy_tree, differences, keep, map_named, named_leaves, shape_of, sum_leaves


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
