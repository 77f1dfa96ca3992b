"""Rules on paths make a label tree; nothing stays uncovered and no rule stays idle."""

from collections import OrderedDict

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from problems import LABELS, network

from jaxtl.errors import InputError
from jaxtl.labels import (
    NEW,
    TRANSFERRED,
    check_labels,
    count_by_label,
    depth_of,
    everything,
    having,
    kernels,
    label_by_depth,
    label_params,
    label_set,
    norm_by_label,
    selected,
)
from jaxtl.trees import named_leaves


def test_the_first_matching_rule_wins():
    labels = label_params(network(), [("head/bias", "bias"), ("head/.*", NEW), (".*", TRANSFERRED)])
    assert labels["head"] == {"kernel": NEW, "bias": "bias"}
    assert labels["trunk"] == {"kernel": TRANSFERRED, "bias": TRANSFERRED}


def test_a_rule_matches_the_whole_path():
    with pytest.raises(InputError, match=r"^head/bias: no rule covers this parameter\n  add a rule"):
        label_params(network(), [("head", NEW), ("trunk/.*", TRANSFERRED)])


def test_uncovered_leaves_keep_their_label_in_otherwise():
    labels = label_params(network(), [("head/kernel", "task:1")], otherwise=LABELS)
    assert labels == {"trunk": LABELS["trunk"], "head": {"kernel": "task:1", "bias": NEW}}


def test_otherwise_of_another_structure_is_refused_with_the_path():
    with pytest.raises(InputError, match="head/bias"):
        label_params(network(), [(".*/kernel", NEW)], otherwise={"trunk": LABELS["trunk"], "head": {"kernel": NEW}})


@pytest.mark.parametrize(
    "rules",
    [
        [("haed/.*", NEW), (".*", TRANSFERRED)],  # matches nothing
        [(".*", TRANSFERRED), ("head/.*", NEW)],  # comes too late
        [(".*", TRANSFERRED), (".*", NEW)],  # the same pattern again
    ],
)
def test_a_rule_that_decides_nothing_is_refused(rules):
    with pytest.raises(InputError, match="decides nothing") as error:
        label_params(network(), rules)
    assert "head/kernel" in str(error.value)
    assert str(error.value).count("\n") == 1


def test_a_broken_regular_expression_is_an_input_error():
    with pytest.raises(InputError, match=r"label rules: '\(' is not a regular expression"):
        label_params(network(), [("(", NEW)])


def test_counts_of_leaves_parameters_and_bytes():
    params = {"a": jnp.zeros((2, 3)), "b": jnp.zeros(4, jnp.bfloat16), "c": jnp.zeros(())}
    counts = count_by_label(params, {"a": "x", "b": "y", "c": "x"})
    assert list(counts) == ["x", "y"]
    assert counts["x"] == (2, 7, 28)
    assert counts["y"] == (1, 4, 8)


def test_masks():
    params = {"conv": {"kernel": 1, "bias": 2}, "norm": {"scale": 3}, "words": {"embedding": 4}, "kernel_size": 5}
    assert kernels(params) == {
        "conv": {"kernel": True, "bias": False},
        "norm": {"scale": False},
        "words": {"embedding": True},
        "kernel_size": False,
    }
    assert everything({"a": 1, "b": {"c": 2}}) == {"a": True, "b": {"c": True}}
    assert having({"a": NEW, "b": TRANSFERRED, "c": "x"}, NEW, "x") == {"a": True, "b": False, "c": True}
    assert label_set(LABELS) == {NEW, TRANSFERRED}


WEIGHTS_ELSEWHERE = {
    "flax": {"kernel": (3, 2), "recurrent_kernel": (2, 2), "lora_a": (3, 1), "lora_b": (1, 2)},
    "keras": {"depthwise_kernel": (3, 3, 2, 1), "embeddings": (9, 2)},
    "haiku": {"w": (3, 2)},
    "of one's own": {"a": (3, 2), "b": (3, 2)},
    "torch": {"weight": (2, 3), "in_proj_weight": (6, 2), "weight_ih_l0": (8, 2)},
    "vectors": {"kernel": (2,), "embedding": (2,)},
}
NO_WEIGHTS = {
    "flax": {"bias": (4, 2), "scale": (2,)},  # a bias of several heads has two axes
    "keras": {"recurrent_bias": (2, 8), "gamma": (2,), "beta": (2,), "moving_mean": (2, 2), "moving_variance": (2, 2)},
    "haiku": {"b": (2, 1, 1), "w": (2,), "offset": (2, 1)},
    "torch": {"weight": (2,), "bias_hh_l0": (8,), "in_proj_bias": (1, 6), "running_var": (1, 2)},
    "layer_norm": {"weight": (12, 2), "w": (12, 2)},  # of twelve layers, one above the other
    "BatchNorm_0": {"mean": (2,), "scale": (3, 2)},
}


@pytest.mark.parametrize(("tree", "wanted"), [(WEIGHTS_ELSEWHERE, True), (NO_WEIGHTS, False)])
def test_kernels_are_the_weights_under_the_names_that_libraries_give_them(tree, wanted):
    arrays = {layer: {name: np.zeros(shape) for name, shape in leaves.items()} for layer, leaves in tree.items()}
    found = {f"{layer}/{name}": found for layer, leaves in kernels(arrays).items() for name, found in leaves.items()}
    assert found == dict.fromkeys(found, wanted)


def test_kernels_of_recurrent_and_low_rank_layers_of_flax():
    cell = nnx.LSTMCell(3, 4, rngs=nnx.Rngs(0))
    low = nnx.LoRA(3, 2, 4, rngs=nnx.Rngs(0))
    for module, names in ((cell, {"kernel", "bias"}), (low, {"lora_a", "lora_b"})):
        found = named_leaves(kernels(nnx.to_pure_dict(nnx.state(module))))
        leaves = {path: chosen for path, chosen in found.items() if path.rsplit("/", 1)[-1] in names}
        assert leaves
        assert all(chosen == (not path.endswith("bias")) for path, chosen in leaves.items())


def test_counts_norms_and_masks_go_by_path_whatever_the_kinds_of_trees():
    params = {"a": jnp.zeros((2, 3)), "b": jnp.ones((1, 4))}
    labels, anchor = OrderedDict(b="y", a="x"), OrderedDict(b=jnp.ones((1, 4)), a=jnp.zeros((2, 3)))
    assert {label: count.parameters for label, count in count_by_label(params, labels).items()} == {"x": 6, "y": 4}
    assert {label: float(norm) for label, norm in norm_by_label(params, labels).items()} == {"x": 0, "y": 2}
    assert {label: float(norm) for label, norm in norm_by_label(params, labels, anchor).items()} == {"x": 0, "y": 0}
    assert selected(params, labels, "x", lambda _: OrderedDict(b=False, a=True), "on") == {"a": True, "b": False}
    assert label_params(params, [("a", "z")], otherwise=labels) == {"a": "z", "b": "y"}


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ([(".*", 1)], r"\('\.\*', 1\) is no such pair"),
        ([(".*", None)], "is no such pair"),
        ({".*": NEW}, r"'\.\*' is no such pair"),
        ([(".*", NEW, NEW)], "is no such pair"),
        ([(1, NEW)], "1 is no text"),
    ],
)
def test_rules_that_are_no_pairs_of_text_are_refused(rules, message):
    with pytest.raises(InputError, match=message) as error:
        label_params(network(), rules)
    assert str(error.value).count("\n") == 1


def test_a_label_that_is_no_text_is_refused():
    for label in (0, 1.5, True, b"new"):
        with pytest.raises(InputError, match=r"labels: head/bias has .*, which is no text"):
            label_set({**LABELS, "head": {"kernel": NEW, "bias": label}})


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ({"trunk": True}, "head/bias is a parameter without entry"),
        (jax.tree.map(lambda _: 1.0, LABELS), "the mask has float at head/bias"),
        (jax.tree.map(np.ones_like, network()), "the mask has ndarray at head/bias"),
    ],
)
def test_a_mask_of_another_structure_or_of_other_things_than_bools_is_refused(mask, message):
    with pytest.raises(InputError, match=f"my mask: {message}"):
        selected(network(), LABELS, NEW, lambda _: mask, "my mask")


def test_labels_of_other_parameters_are_refused_with_the_path():
    check_labels(network(), LABELS)
    with pytest.raises(InputError, match="labels: head/bias is a parameter without entry"):
        check_labels(network(), {"trunk": LABELS["trunk"], "tail": LABELS["head"]})


def test_counting_refuses_labels_of_other_parameters():
    with pytest.raises(InputError, match="head/bias is a parameter without entry"):
        count_by_label(network(), {"trunk": LABELS["trunk"]})


def test_norms_and_distances_are_those_of_numpy_over_kernels_only():
    params, anchor = network(), network(speed=0.3)
    norms, distances = norm_by_label(params, LABELS), norm_by_label(params, LABELS, anchor)
    for part, label in (("trunk", TRANSFERRED), ("head", NEW)):
        kernel, held = np.asarray(params[part]["kernel"]), np.asarray(anchor[part]["kernel"])
        np.testing.assert_allclose(norms[label], np.linalg.norm(kernel), rtol=1e-6)
        np.testing.assert_allclose(distances[label], np.linalg.norm(kernel - held), rtol=1e-6)


def test_a_parameter_that_no_stage_covers_is_told_and_depths_are_numbered_from_the_input():
    params = {"trunk": {"conv_0": np.ones(1), "conv_1": np.ones(1)}, "head": np.ones(1)}
    labels = label_by_depth(params, ["trunk/conv_0", "trunk/.*", "head"])
    assert named_leaves(labels) == {"head": "depth:2", "trunk/conv_0": "depth:0", "trunk/conv_1": "depth:1"}
    assert sorted(map(depth_of, named_leaves(labels).values())) == [0, 1, 2]
    with pytest.raises(InputError, match="no rule covers this parameter"):
        label_by_depth(params, ["trunk/conv_0", "head"])
    with pytest.raises(InputError, match="decides nothing"):
        label_by_depth(params, ["trunk/stem", "trunk/.*", "head"])
