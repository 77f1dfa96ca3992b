"""Every penalty against NumPy float64 and finite differences; `labelled` puts them on labels."""

import dataclasses
import functools
from collections import OrderedDict

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import FrozenDict
from oracles import references
from problems import LABELS, TASK, assert_close, batch, context, forward, minus, network, scaled, wave, zeros

from jaxtl.errors import InputError
from jaxtl.labels import NEW, TRANSFERRED, everything, kernels
from jaxtl.optimizers import Group
from jaxtl.penalties import Term, elastic_net, fisher, group_lasso, l1, l2, labelled
from jaxtl.program import Weights, make_program
from jaxtl.proximal import Ball, Prox, prox_l1
from jaxtl.step import compile_step
from jaxtl.trees import map_named, named_leaves

PARAMS = {"conv": {"kernel": wave(0.7, 2, 2, 3, 4), "bias": wave(0.3, 4)}, "head": {"kernel": wave(1.7, 4, 2)}}
ANCHOR = {"conv": {"kernel": wave(1.1, 2, 2, 3, 4), "bias": wave(0.9, 4)}, "head": {"kernel": wave(1.3, 4, 2)}}
IMPORTANCE = jax.tree.map(np.square, {**ANCHOR, "head": {"kernel": wave(2.3, 4, 2)}})
# name: (ours, the reference's), each of (params, anchor)
PENALTIES = {
    "l2": (l2, references.l2),
    "l1": (l1, references.l1),
    "elastic_net": (
        functools.partial(elastic_net, l1_ratio=0.3),
        functools.partial(references.elastic_net, l1_ratio=0.3),
    ),
    "group_lasso": (group_lasso, references.group_lasso),
    "fisher": (
        lambda params, anchor: fisher(params, anchor, IMPORTANCE),
        lambda params, anchor: references.fisher(params, anchor, flat(IMPORTANCE)),
    ),
}
CASES = [(name, anchored) for name in PENALTIES for anchored in (False, True) if anchored or name != "fisher"]
every_penalty = pytest.mark.parametrize(("name", "anchored"), CASES)


def flat(tree):
    return {path: np.array(leaf, np.float64) for path, leaf in named_leaves(tree).items()}


@functools.cache
def given(name, anchored):
    """(our compiled value and gradient of params; the reference's value of flat params), towards the anchor or 0."""
    ours, theirs = PENALTIES[name]
    if not anchored:
        return jax.jit(jax.value_and_grad(ours)), theirs
    return jax.jit(jax.value_and_grad(lambda params: ours(params, ANCHOR))), lambda params: theirs(params, flat(ANCHOR))


@every_penalty
def test_value_is_the_reference_value(name, anchored):
    ours, theirs = given(name, anchored)
    value, _ = ours(PARAMS)
    assert value.shape == ()
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, theirs(flat(PARAMS)), rtol=1e-6)


@every_penalty
def test_gradient_is_the_finite_difference_of_the_reference(name, anchored):
    ours, theirs = given(name, anchored)
    gradient = named_leaves(ours(PARAMS)[1])
    for path, slope in references.slope(theirs, flat(PARAMS)).items():
        np.testing.assert_allclose(gradient[path], slope, rtol=1e-5, atol=1e-6, err_msg=path)


@every_penalty
def test_value_and_gradient_are_exactly_zero_at_the_centre(name, anchored):
    ours, _ = given(name, anchored)
    value, gradient = ours(ANCHOR if anchored else zeros(PARAMS))
    assert float(value) == 0
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradient))


@every_penalty
def test_bfloat16_leaves_are_accumulated_in_float32_and_get_bfloat16_gradients(name, anchored):
    narrow = jax.tree.map(lambda w: np.asarray(w, jnp.bfloat16), PARAMS)
    ours, theirs = given(name, anchored)
    value, gradient = ours(narrow)
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, theirs(flat(narrow)), rtol=1e-6)  # a bfloat16 sum is wrong by up to 4e-3
    assert {leaf.dtype for leaf in jax.tree.leaves(gradient)} == {jnp.dtype(jnp.bfloat16)}


@every_penalty
def test_many_models_at_once_pay_what_each_pays_alone(name, anchored):
    ours, _ = given(name, anchored)
    copies = [scaled(factor, PARAMS) for factor in (0.5, -2.0)]
    together = jax.jit(jax.vmap(ours))(jax.tree.map(lambda *leaves: np.stack(leaves), *copies))
    for position, params in enumerate(copies):
        assert_close(jax.tree.map(lambda leaf, at=position: np.asarray(leaf)[at], together), ours(params))


def test_a_penalty_is_the_same_compiled_or_not():
    np.testing.assert_allclose(l2(PARAMS, ANCHOR), given("l2", True)[0](PARAMS)[0], rtol=1e-6)


def test_l2_is_half_the_square_so_its_gradient_is_the_weight():
    assert float(l2({"w": jnp.array([3.0, 4.0])})) == 12.5
    assert_close(given("l2", False)[0](PARAMS)[1], PARAMS)
    assert_close(given("l2", True)[0](PARAMS)[1], minus(PARAMS, ANCHOR))


@pytest.mark.parametrize("ratio", [0.0, 0.25, 1.0])
def test_elastic_net_mixes_l1_and_l2(ratio):
    absolute, square = (float(given(name, True)[0](PARAMS)[0]) for name in ("l1", "l2"))
    mixed = jax.jit(functools.partial(elastic_net, l1_ratio=ratio))(PARAMS, ANCHOR)
    np.testing.assert_allclose(mixed, ratio * absolute + (1 - ratio) * square, rtol=1e-6)


@pytest.mark.parametrize("ratio", [-0.1, 1.1, float("nan")])
def test_elastic_net_refuses_a_ratio_outside_0_1(ratio):
    with pytest.raises(InputError, match="elastic_net l1_ratio"):
        elastic_net(PARAMS, l1_ratio=ratio)


def test_a_group_is_all_weights_into_one_output_unit():
    into_one_unit = {"kernel": np.array([[0.0, 3.0, 0.0], [0.0, 4.0, 0.0]], np.float32)}
    from_one_input = {"kernel": np.array([[0.0, 0.0], [3.0, 4.0], [0.0, 0.0]], np.float32)}
    np.testing.assert_allclose(jax.jit(group_lasso)(into_one_unit), np.sqrt(2) * 5, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(group_lasso)(from_one_input), np.sqrt(3) * 7, rtol=1e-6)


def test_group_lasso_pushes_the_other_groups_where_one_is_zero():
    gradient = jax.jit(jax.grad(group_lasso))({"kernel": np.array([[3.0, 0.0], [4.0, 0.0]])})["kernel"]
    np.testing.assert_allclose(gradient, np.sqrt(2) * np.array([[0.6, 0.0], [0.8, 0.0]]), rtol=1e-6)


# --- labelled ---

SOURCE = network(1.9)


def pay(terms, params, rates=None, given=None):
    """What `labelled` makes of the terms: (total, parts), compiled."""
    return jax.jit(labelled(LABELS, terms))(params, context(rates, given))


def test_l2_sp_is_two_terms():
    terms = {TRANSFERRED: Term(0.3, l2, ("anchor",)), NEW: Term(0.7, l2)}
    total, parts = pay(terms, network(), given={"anchor": SOURCE})
    trunk = 0.3 * references.l2(flat(network()["trunk"]), flat(SOURCE["trunk"]))
    head = 0.7 * references.l2(flat({"kernel": network()["head"]["kernel"]}))
    assert parts.keys() == {TRANSFERRED, NEW}
    np.testing.assert_allclose(parts[TRANSFERRED], trunk, rtol=1e-6)
    np.testing.assert_allclose(parts[NEW], head, rtol=1e-6)
    np.testing.assert_allclose(total, trunk + head, rtol=1e-6)


def test_towards_zero_kernels_pay_and_towards_an_anchor_every_leaf_does():
    penalty = labelled(LABELS, {TRANSFERRED: Term(1.0, l2, ("anchor",)), NEW: Term(1.0, l2)})
    gradient = jax.jit(jax.grad(lambda params: penalty(params, context(given={"anchor": SOURCE}))[0]))(network())
    assert_close(gradient["trunk"], minus(network()["trunk"], SOURCE["trunk"]))
    assert_close(gradient["head"]["kernel"], network()["head"]["kernel"])
    assert not np.any(gradient["head"]["bias"])


def test_on_chooses_the_leaves_that_pay():
    biases = Term(1.0, l2, on=lambda params: map_named(lambda path, _: path.endswith("bias"), params))
    _, parts = pay({NEW: Term(1.0, l2, on=everything), TRANSFERRED: biases}, network())
    np.testing.assert_allclose(parts[NEW], references.l2(flat(network()["head"])), rtol=1e-6)
    bias = {"bias": network()["trunk"]["bias"]}
    np.testing.assert_allclose(parts[TRANSFERRED], references.l2(flat(bias)), rtol=1e-6)


def test_several_named_pulls_on_one_label_add_up():
    pulls = {"zero": Term(0.5, l1), "source": Term(2.0, l2, ("anchor",))}
    total, parts = pay({TRANSFERRED: pulls}, network(), given={"anchor": SOURCE})
    assert parts.keys() == {"transferred/zero", "transferred/source"}
    zero = 0.5 * references.l1(flat({"kernel": network()["trunk"]["kernel"]}))
    source = 2.0 * references.l2(flat(network()["trunk"]), flat(SOURCE["trunk"]))
    np.testing.assert_allclose(parts["transferred/zero"], zero, rtol=1e-6)
    np.testing.assert_allclose(parts["transferred/source"], source, rtol=1e-6)
    np.testing.assert_allclose(total, zero + source, rtol=1e-6)


def test_rates_are_read_by_name():
    terms = {NEW: Term(0.5, l2), TRANSFERRED: {"zero": Term(0.5, l2)}}
    usual = pay(terms, network())[1]
    changed = pay(terms, network(), {"penalty/new": 1.5, "penalty/transferred/zero": 0.0})[1]
    np.testing.assert_allclose(changed[NEW], 3 * float(usual[NEW]), rtol=1e-6)
    assert float(changed["transferred/zero"]) == 0


def test_fisher_takes_anchor_and_importance_from_given():
    terms = {TRANSFERRED: Term(1.0, fisher, ("anchor", "importance"))}
    total, _ = pay(terms, network(), given={"anchor": SOURCE, "importance": jax.tree.map(np.square, network(0.3))})
    importance = jax.tree.map(np.square, network(0.3)["trunk"])
    expected = references.fisher(flat(network()["trunk"]), flat(SOURCE["trunk"]), flat(importance))
    np.testing.assert_allclose(total, expected, rtol=1e-6)


def test_without_terms_nothing_is_paid():
    total, parts = pay({}, network())
    assert float(total) == 0
    assert parts == {}


@pytest.mark.parametrize("rate", [-1, -0.5, float("nan"), np.float32(-1), np.float64("nan")])
def test_negative_rates_are_refused(rate):
    with pytest.raises(InputError, match=r"Term\(l2\): rate .* is negative or NaN"):
        Term(rate, l2)


def test_an_unknown_label_is_refused_with_a_suggestion():
    with pytest.raises(InputError, match=r"penalty/nwe: no parameter has this label\n  did you mean 'new'\?"):
        labelled(LABELS, {"nwe": Term(1.0, l2)})


def test_a_mask_that_selects_nothing_is_refused():
    named = {"weight": jnp.ones(2), "bias": jnp.ones(2)}
    penalty = labelled({"weight": NEW, "bias": NEW}, {NEW: Term(1.0, l2)})
    with pytest.raises(InputError, match="penalty/new: `on` selects none of the parameters labelled 'new'"):
        penalty(named, context())


def test_labels_of_other_parameters_are_refused():
    penalty = labelled({"trunk": LABELS["trunk"]}, {TRANSFERRED: Term(1.0, l2)})
    with pytest.raises(InputError, match="labels: head/bias"):
        penalty(network(), context())


@pytest.mark.parametrize(
    ("anchor", "message"),
    [
        ({}, r"penalty/transferred: needs given\['anchor'\]"),
        ({"anchor": {"trunk": SOURCE["trunk"]}}, r"given\['anchor'\]: head/bias: float32\[3\] against nothing"),
        ({"anchor": SOURCE | {"more": jnp.ones(1)}}, r"given\['anchor'\]: more: nothing against float32\[1\]"),
        (
            {"anchor": SOURCE | {"head": SOURCE["head"] | {"bias": jnp.ones(4)}}},
            r"given\['anchor'\]: head/bias: float32\[3\] against float32\[4\]",
        ),
        (
            {"anchor": SOURCE | {"head": SOURCE["head"] | {"bias": jnp.ones(3, jnp.bfloat16)}}},
            r"given\['anchor'\]: head/bias: float32\[3\] against bfloat16\[3\]",
        ),
    ],
)
def test_an_anchor_that_is_missing_or_does_not_fit_is_refused_with_the_path(anchor, message):
    penalty = labelled(LABELS, {TRANSFERRED: Term(1.0, l2, ("anchor",))})
    with pytest.raises(InputError, match=message) as error:
        penalty(network(), context(given=anchor))
    assert str(error.value).count("\n") == 1


def test_an_anchor_of_another_shape_or_structure_is_not_broadcast():
    for penalty in (l2, l1, group_lasso):
        with pytest.raises(InputError, match=r"anchor: w: float32\[3, 2\] against float32\[1, 2\]"):
            penalty({"w": jnp.ones((3, 2))}, {"w": jnp.ones((1, 2))})
    with pytest.raises(InputError, match=r"importance: a: float32.* against nothing; b: nothing"):
        fisher({"a": jnp.ones(2)}, {"a": jnp.ones(2)}, {"b": jnp.ones(2)})


def test_a_label_without_any_pull_is_refused():
    with pytest.raises(InputError, match="penalty/new: no pull is named"):
        labelled(LABELS, {NEW: {}})


# --- other kinds of trees ---


def turned(tree):
    """The same leaves under the same names, in the order in which nobody expects them."""
    return (
        OrderedDict((name, turned(part)) for name, part in reversed(tree.items())) if isinstance(tree, dict) else tree
    )


@every_penalty
def test_an_anchor_of_another_kind_of_tree_is_met_by_path(name, anchored):
    ours, _ = PENALTIES[name]
    for towards in (turned(ANCHOR), FrozenDict(ANCHOR)) if anchored else ():
        assert_close(ours(PARAMS, towards), ours(PARAMS, ANCHOR))
        assert float(ours(towards, ANCHOR)) == 0
    assert_close(ours(turned(PARAMS), ANCHOR), ours(PARAMS, ANCHOR))


def test_labels_masks_and_anchors_of_other_kinds_of_trees_change_nothing():
    terms = {TRANSFERRED: Term(0.3, l2, ("anchor",)), NEW: Term(0.7, l1, on=lambda params: turned(kernels(params)))}
    expected = labelled(LABELS, terms)(network(), context(given={"anchor": SOURCE}))
    for params, labels, anchor in (
        (network(), turned(LABELS), turned(SOURCE)),
        (turned(network()), LABELS, FrozenDict(SOURCE)),
        (FrozenDict(network()), turned(LABELS), SOURCE),
    ):
        assert_close(labelled(labels, terms)(params, context(given={"anchor": anchor})), expected)


# --- two names that are one, and what is no rate, no term, no mask ---

JOINED = {"a": {"kernel": "a"}, "b": {"kernel": "a/b"}}


@pytest.mark.parametrize(
    "terms",
    [
        {"a/b": Term(1.0, l2), "a": {"b": Term(2.0, l2)}},
        {"a": {"b": Term(2.0, l2)}, "a/b": Term(1.0, l2)},
        {"a": {"b/c": Term(2.0, l2)}, "a/b": {"c": Term(1.0, l2)}},
    ],
)
def test_two_pulls_that_read_one_rate_are_refused(terms):
    with pytest.raises(InputError, match=r"penalty/a/b(/c)?: labels '.*' and '.*' have a pull of this name"):
        labelled(JOINED, terms)


def test_pulls_of_labels_whose_names_join_are_kept_apart_by_other_names():
    penalty = labelled(JOINED, {"a/b": Term(1.0, l2), "a": {"c": Term(2.0, l2)}})
    total, parts = penalty({"a": {"kernel": jnp.ones(2)}, "b": {"kernel": jnp.ones(4)}}, context())
    assert {name: float(part) for name, part in parts.items()} == {"a/b": 2.0, "a/c": 2.0}
    assert float(total) == 4


NO_RATES = ["0.1", None, [0.1], np.ones(2), jnp.ones((1,)), 1j, np.array("a"), float("inf"), np.float32("inf")]


@pytest.mark.parametrize("rate", NO_RATES)
def test_what_is_not_one_finite_number_is_no_rate(rate):
    for make, where in (
        (lambda: Term(rate, l2), r"Term\(l2\)"),
        (lambda: pay({NEW: Term(1.0, l2)}, network(), {"penalty/new": rate}), r"rates\['penalty/new'\]"),
        (lambda: Prox(rate, prox_l1), "Prox rate"),
        (lambda: Ball(rate), "Ball radius"),
        (lambda: Group(rate), "Group learning_rate"),
        (lambda: Group(0.1, rate), "Group decay"),
    ):
        if "penalty" in where and not isinstance(rate, jax.Array):
            continue  # no argument of a compiled function
        with pytest.raises(InputError, match=f"{where}: .*(not one number|infinite)"):
            make()


def test_a_rate_may_be_a_number_of_any_kind_and_traced():
    kinds = [1, 0.5, np.float32(0.5), np.array(2), jnp.bfloat16(0.5), jnp.float32(0.0)]
    assert [Term(rate, l2).rate for rate in kinds] == kinds
    slope = jax.grad(lambda rate: labelled(LABELS, {NEW: Term(rate, l2)})(network(), context())[0])(0.5)
    np.testing.assert_allclose(slope, references.l2(flat({"kernel": network()["head"]["kernel"]})), rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Term(0.1, 0.2), "0.2 is no function"),
        (lambda: Term(0.1, l2, "anchor"), r"given='anchor' is no tuple of names\n  write given=\(\"anchor\",\)"),
        (lambda: Term(0.1, l2, on=LABELS), "on is a dict, not a function"),
        (lambda: labelled(LABELS, {NEW: 0.1}), "penalty/new: 0.1 is no Term"),
        (lambda: labelled(LABELS, {NEW: {"zero": 0.1}}), "penalty/new/zero: 0.1 is no Term"),
        (lambda: labelled({"kernel": 3}, {}), "labels: kernel has 3, which is no text"),
        (lambda: pay({NEW: Term(0.1, lambda params: params)}, network()), "penalty/new: gives dict, not a number"),
        (lambda: pay({NEW: Term(0.1, lambda params: None)}, network()), "penalty/new: gives NoneType, not a number"),
        (lambda: pay({NEW: Term(0.1, lambda p: p["head"]["kernel"])}, network()), r"penalty/new: has shape \(5, 3\)"),
        (lambda: pay({NEW: Term(0.1, l2, on=lambda p: p)}, network()), "penalty/new: the mask has .* at head/bias"),
        (
            lambda: pay({NEW: Term(0.1, l2, on=lambda p: {})}, network()),
            "penalty/new: head/bias is a parameter without",
        ),
    ],
)
def test_what_is_no_term_no_mask_and_no_scalar_is_told_in_two_lines(make, message):
    with pytest.raises(InputError, match=message) as error:
        make()
    assert str(error.value).count("\n") == 1


def test_a_penalty_may_depend_on_parameters_of_a_label_beside_it_and_its_gradient_reaches_them():
    params = {**network(), "scale": {"raw": jnp.float32(1.5)}}
    labels = {**LABELS, "scale": {"raw": "scale"}}

    def scaled_by(kept, anchor, scale):
        return scale["scale"]["raw"] ** 2 * l2(kept, anchor)

    penalty = labelled(labels, {NEW: Term(0.1, scaled_by, ("anchor",), beside=("scale",))})
    ctx = context(given={"anchor": zeros(params)})
    value, slopes = jax.value_and_grad(lambda tree: penalty(tree, ctx)[0])(params)
    own = float(l2(params["head"]))
    np.testing.assert_allclose(value, 0.1 * 1.5**2 * own, rtol=1e-6)
    np.testing.assert_allclose(slopes["scale"]["raw"], 0.1 * 2 * 1.5 * own, rtol=1e-6)
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(slopes["trunk"]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Term(0.1, l2, beside="new"), "beside='new' is no tuple of names"),
        (
            lambda: labelled(LABELS, {NEW: Term(0.1, l2, beside=("nwe",))}),
            "penalty/new: no parameter has the label 'nwe' beside it",
        ),
    ],
)
def test_what_cannot_stand_beside_a_penalty_is_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


# --- rates that are functions of the step ---


def test_a_rate_may_be_a_function_of_the_step_and_its_name_a_factor_on_it():
    penalty = jax.jit(
        lambda params, step, rates: labelled(LABELS, {NEW: Term(lambda step: 0.5**step, l2)})(
            params, dataclasses.replace(context(rates), step=step)
        )[0]
    )
    params = network()
    whole = float(l2({"kernel": params["head"]["kernel"]}))
    for step in range(3):
        assert float(penalty(params, jnp.int32(step), {})) == pytest.approx(0.5**step * whole, rel=1e-6)
    assert float(penalty(params, jnp.int32(2), {"penalty/new": jnp.float32(8.0)})) == pytest.approx(2 * whole, rel=1e-6)


def test_terms_and_penalties_with_such_rates_have_them_by_name_and_compile_once():
    tasks = {"task": Term(lambda step: 1.0 * (step > 0), TASK["task"].fn), "more": Term(jnp.sqrt, TASK["task"].fn)}
    pulls = {TRANSFERRED: {"source": Term(lambda step: 1 - 0.1 * step, l2, ("anchor",))}}
    program = make_program(forward, LABELS, tasks, {TRANSFERRED: Group(0.1), NEW: Group(0.1)}, pulls)
    assert program.rates["penalty/transferred/source"] == program.rates["more"] == 1.0
    assert "task" not in program.rates
    step = compile_step(program.step)
    state = program.start(Weights(network()), jax.random.key(0))
    given = {"anchor": jax.tree.map(np.copy, network(0.5))}
    for rate in (1.0, 3.0):
        fixed = program.fixed({"penalty/transferred/source": rate, "more": 0.0}, given)
        own = jax.tree.map(jnp.copy, state)
        own, metrics = step(own, batch(), fixed)
        trunk = float(l2({"trunk": network()["trunk"]}, {"trunk": network(0.5)["trunk"]}))
        assert float(metrics["loss"]) == pytest.approx(rate * trunk, rel=1e-5), "at step 0 the task has the rate 0"
    assert step._cache_size() == 1
    with pytest.raises(InputError, match=r"did you mean 'penalty/transferred/source'"):
        program.fixed({"penalty/transferred/sourc": 1.0})


@pytest.mark.parametrize(
    ("rate", "told"),
    [
        (lambda: 1.0, "rate is no function of a step"),
        (lambda step: step - 1.0, "rate at step 0 -1.0 is negative"),
        (lambda step: jnp.ones(2), "has shape"),
        (lambda step: None, "gives NoneType, not a number"),
    ],
)
def test_a_function_that_gives_no_rate_is_told_at_once(rate, told):
    with pytest.raises(InputError, match=told):
        Term(rate, l2)
    with pytest.raises(InputError):
        Group(rate)
