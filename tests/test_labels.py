"""Rules on paths make a label tree; nothing stays uncovered and no rule stays idle."""

import jax.numpy as jnp
import numpy as np
import pytest
from problems import LABELS, network

from jaxtl.errors import InputError
from jaxtl.labels import (
    NEW,
    TRANSFERRED,
    check_labels,
    count_by_label,
    everything,
    having,
    kernels,
    label_params,
    label_set,
    norm_by_label,
)


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
