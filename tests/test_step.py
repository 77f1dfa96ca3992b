"""The step: pure, the same one by one, in a scan and on two devices; donation; rates that somebody must read."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from problems import (
    LABELS,
    TASK,
    assert_close,
    batch,
    context,
    dense,
    forward,
    largest_gap,
    logits,
    minus,
    network,
    scaled,
    wave,
)

from jaxtl.devices import compiler
from jaxtl.devices.compiler import CPU_OPTIONS, compiler_options
from jaxtl.devices.placement import shard_params
from jaxtl.errors import InputError
from jaxtl.labels import NEW, TRANSFERRED, everything
from jaxtl.losses import accuracy, make_loss_fn, mean_of, per_example, softmax_cross_entropy
from jaxtl.optimizers import Group, per_label
from jaxtl.penalties import Term, l2, labelled
from jaxtl.proximal import Prox, prox_l1
from jaxtl.step import (
    Context,
    Fixed,
    TrainState,
    compile_step,
    default_rates,
    init_state,
    make_epoch,
    make_eval_step,
    make_train_step,
    total_gradient,
)

PENALTY = labelled(LABELS, {TRANSFERRED: Term(0.1, l2), NEW: Term(0.2, l2, on=everything)})
TX = per_label(LABELS, {TRANSFERRED: Group(0.05), NEW: Group(0.1)}, momentum=0.9)


def new_step(loss_fn=None, **settings):
    return make_train_step(total_gradient(loss_fn or make_loss_fn(forward, TASK, PENALTY)), TX, **settings)


STEP = new_step()  # shared, because jit shares its compilations between wrappers of one function


def new_state(params=None, seed=0):
    return init_state(network() if params is None else params, TX, jax.random.key(seed))


def run(step, steps, data=None, fixed=None, state=None):
    """(last state, metrics of every step); blocks on every step."""
    state, rows = state or new_state(), []
    for _ in range(steps):
        state, metrics = step(state, batch() if data is None else data, fixed or Fixed())
        rows.append(jax.block_until_ready(metrics))
    return state, rows


# --- one step ---


def test_the_loss_is_the_sum_of_its_weighted_parts_and_goes_down():
    state, rows = run(compile_step(STEP), 20)
    assert rows[0].keys() == {"loss", "task", "penalty/transferred", "penalty/new"}
    for row in rows:
        np.testing.assert_allclose(row["loss"], sum(row[name] for name in row if name != "loss"), rtol=1e-6)
    assert rows[-1]["loss"] < 0.8 * rows[0]["loss"]
    assert int(state.step) == int(state.opt_state.step) == 20


def test_a_step_descends_the_gradient_by_hand():
    def objective(params):
        task = softmax_cross_entropy(forward(params, {}, batch(), None)[0]["head"], batch()["label"]).mean()
        return task + 0.1 * l2(params["trunk"]["kernel"]) + 0.2 * l2(params["head"])

    gradient = jax.jit(jax.grad(objective))(network())
    state, _ = run(compile_step(STEP), 1)
    for module, rate in (("trunk", 0.05), ("head", 0.1)):
        assert_close(state.params[module], minus(network()[module], scaled(rate, gradient[module])))


def test_prepare_makes_the_batch_inside_the_step_from_data_key_and_step():
    def window(data, rng, step):
        noise = 0.01 * jax.random.normal(rng, (4, 4))
        return {name: jax.lax.dynamic_slice_in_dim(rows, 4 * step, 4) for name, rows in data.items()} | {"noise": noise}

    def noisy(params, model_state, batch, ctx):
        return forward(params, model_state, {"image": batch["image"] + batch["noise"]}, ctx)

    loss_fn = make_loss_fn(noisy, {"task": Term(1.0, mean_of(softmax_cross_entropy))})
    step = compile_step(new_step(loss_fn, prepare=window))
    first, _ = run(step, 3)
    again, _ = run(step, 3)
    other, _ = run(step, 3, state=new_state(seed=1))
    assert largest_gap(first.params, again.params) == 0
    assert largest_gap(first.params, other.params) > 0


def test_prepare_and_model_draw_different_numbers_and_every_step_others():
    drawn = []

    def prepare(data, rng, step):
        return data | {"drawn": jax.random.uniform(rng)}

    def term(outputs, batch, ctx):
        return 0 * jnp.sum(outputs["head"]) + batch["drawn"] + 2 * jax.random.uniform(ctx.rng)

    parts = {
        "batch": Term(0.0, lambda outputs, batch, ctx: batch["drawn"]),
        "model": Term(0.0, lambda outputs, batch, ctx: jax.random.uniform(ctx.rng)),
    }
    _, rows = run(compile_step(new_step(make_loss_fn(forward, {"task": Term(1.0, term)} | parts), prepare=prepare)), 3)
    drawn = [float(row[name]) for row in rows for name in parts]
    assert len(set(drawn)) == 6


def test_the_model_state_is_carried_along():
    def counting(params, model_state, batch, ctx):
        outputs, _ = forward(params, model_state, batch, ctx)
        return outputs, {"calls": model_state["calls"] + 1, "train": jnp.bool_(ctx.train)}

    step = compile_step(new_step(make_loss_fn(counting, TASK)))
    start = init_state(network(), TX, jax.random.key(0), {"calls": jnp.int32(0), "train": jnp.bool_(False)})
    state, _ = run(step, 3, state=start)
    assert (int(state.model_state["calls"]), bool(state.model_state["train"])) == (3, True)


def test_any_optax_transformation_will_do():
    step = make_train_step(total_gradient(make_loss_fn(forward, TASK)), optax.adam(0.01))
    state, _ = compile_step(step)(init_state(network(), optax.adam(0.01), jax.random.key(0)), batch(), Fixed())
    np.testing.assert_allclose(np.abs(minus(state.params, network())["head"]["bias"]), 0.01, rtol=1e-3)


def test_bfloat16_parameters_stay_bfloat16():
    narrow = jax.tree.map(lambda w: np.asarray(w, jnp.bfloat16), network())
    data = batch() | {"image": np.asarray(batch()["image"], jnp.bfloat16)}
    state, rows = run(compile_step(make_epoch(new_step(), 3)), 1, data, state=new_state(narrow))
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype(jnp.bfloat16)}
    assert rows[0]["loss"].dtype == jnp.float32
    wide, _ = run(compile_step(STEP), 3)
    assert largest_gap(state.params, wide.params) < 0.03


# --- the same steps in other ways ---


def test_a_scan_of_steps_is_the_steps_one_by_one():
    """To rounding: two programs may order a sum differently. Here they differ by nothing, or by the last bit."""
    alone, rows = run(compile_step(STEP), 7)
    epoch, stacked = compile_step(make_epoch(STEP, 7))(new_state(), batch(), Fixed())
    assert int(epoch.step) == 7
    assert_close(epoch.params, alone.params, rtol=1e-6, atol=1e-6)
    assert_close(epoch.opt_state, alone.opt_state, rtol=1e-6, atol=1e-6)
    assert stacked["loss"].shape == (7,)
    np.testing.assert_allclose(stacked["loss"], [row["loss"] for row in rows], rtol=1e-6)


def test_two_devices_do_what_one_does():
    """Up to the order in which a sum over examples is taken: 1e-6."""
    assert jax.device_count() == 2
    mesh = Mesh(np.array(jax.devices()), ("data",))
    halves = jax.device_put(batch(), NamedSharding(mesh, PartitionSpec("data")))
    on_both = shard_params(jax.device_put(new_state(), jax.devices()[0]), mesh)
    together, rows = run(compile_step(STEP, mesh), 4, halves, state=on_both)
    alone, expected = run(compile_step(STEP), 4)
    assert together.params["head"]["kernel"].sharding.is_fully_replicated
    assert len(together.params["head"]["kernel"].sharding.device_set) == 2
    assert_close(together.params, alone.params, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose([row["loss"] for row in rows], [row["loss"] for row in expected], rtol=1e-5)


# --- the compiler ---


def test_on_a_cpu_only_sums_are_left_to_ynnpack():
    order = ("NHWC", "HWIO", "NHWC")

    def gradient(kernel, images, fixed):
        def loss(kernel):
            return jnp.sum(jax.lax.conv_general_dilated(images, kernel, (1, 1), "SAME", dimension_numbers=order) ** 2)

        return jax.grad(loss)(kernel), {}

    arguments = jnp.ones((3, 3, 32, 64)), jnp.ones((64, 16, 16, 32)), Fixed()
    ours = compile_step(gradient).lower(*arguments).compile().as_text()
    assert "conv_general" in ours
    assert not re.search(r"ynn_fusion.*op_name=.*conv_general", ours), "what the option is for"


def test_a_compiler_that_does_not_know_an_option_is_not_asked(monkeypatch):
    assert compiler_options() == CPU_OPTIONS
    monkeypatch.setattr(compiler, "CPU_OPTIONS", {"xla_cpu_no_such_option": "1"})
    assert compiler_options.__wrapped__() == {}
    monkeypatch.undo()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert compiler_options.__wrapped__() == {}


# --- donation ---


def test_the_callers_arrays_and_key_survive_donation():
    params, key = network(), jax.random.key(3)
    kept = jax.tree.map(np.asarray, params)
    first = init_state(params, TX, key)
    run(compile_step(STEP), 2, state=first)
    assert first.params["head"]["kernel"].is_deleted()  # donation did happen
    assert largest_gap(params, kept) == 0
    assert jax.random.uniform(key) == jax.random.uniform(jax.random.key(3))


@pytest.mark.parametrize("key", [jax.random.key, jax.random.PRNGKey])
def test_typed_and_raw_keys(key):
    state = init_state(network(), TX, key(0))
    run(compile_step(STEP), 2, state=state)
    assert state.rng.is_deleted()


def test_one_array_in_two_places_may_be_donated():
    shared = wave(0.7, 4, 4)
    twins = {"trunk": {"kernel": shared, "bias": jnp.zeros(4)}, "head": {"kernel": shared, "bias": jnp.zeros(4)}}
    assert twins["trunk"]["kernel"] is twins["head"]["kernel"]
    state, _ = run(compile_step(new_step()), 2, state=init_state(twins, TX, jax.random.key(0), {"copy": shared}))
    assert largest_gap(state.params["trunk"], state.params["head"]) > 0
    assert state.model_state["copy"].tolist() == shared.tolist()


def test_an_optimizer_that_keeps_the_parameters_may_be_donated():
    def update(updates, state, params=None):
        return updates, state

    keeping = optax.GradientTransformation(lambda params: params, update)
    step = make_train_step(total_gradient(make_loss_fn(forward, TASK)), optax.chain(optax.sgd(0.1), keeping))
    state = init_state(network(), optax.chain(optax.sgd(0.1), keeping), jax.random.key(0))
    state, _ = run(compile_step(step), 2, state=state)
    assert_close(state.opt_state[1], network())


# --- rates ---


def test_default_rates_lists_every_rate_that_is_read():
    step, state = STEP, new_state()
    assert default_rates(step, state, batch(), Fixed({"task": 2.0})) == {
        "task": 1.0,
        "penalty/transferred": 0.1,
        "penalty/new": 0.2,
        "learning_rate/transferred": 0.05,
        "learning_rate/new": 0.1,
        "decay/transferred": 0.0,
        "decay/new": 0.0,
    }
    assert default_rates(make_epoch(step, 3), state, batch(), Fixed()).keys() >= {"task", "decay/new"}


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("penalty/nwe", "penalty/new"),
        ("tsak", "task"),
        ("learning_rate", "learning_rate/new"),
        ("decay/nwe", "decay/new"),
    ],
)
def test_a_rate_that_nobody_reads_is_refused_with_a_suggestion(name, meant):
    with pytest.raises(InputError, match=rf"^rates\['{name}'\]: (nobody|no group) reads this rate\n.*{meant}"):
        jax.eval_shape(STEP, new_state(), batch(), Fixed({name: 0.1}))


def test_a_rate_that_resembles_nothing_gets_the_list():
    with pytest.raises(InputError, match=r"known: .*learning_rate/new.*penalty/new.*task"):
        jax.eval_shape(STEP, new_state(), batch(), Fixed({"zzz": 0.1}))


def test_changing_rates_and_given_does_not_compile_again():
    step = compile_step(new_step())
    ends = [run(step, 2, fixed=Fixed({"penalty/new": rate}))[0].params for rate in (0.0, 0.3, 3.0)]
    assert step._cache_size() == 1
    assert largest_gap(ends[0], ends[1]) > 1e-3


def test_weakly_typed_parameters_do_not_compile_twice():
    weak = {
        "trunk": {"kernel": jnp.full((4, 5), 0.1), "bias": jnp.full(5, 0.0)},
        "head": {"kernel": jnp.full((5, 3), 0.2), "bias": jnp.full(3, 0.0)},
    }
    assert weak["head"]["kernel"].weak_type
    step = compile_step(new_step())
    run(step, 3, state=new_state(weak))
    assert step._cache_size() == 1


def test_a_context_passes_through_checkpoint_and_its_rates_still_count_as_read():
    def scaled(params, model_state, batch, ctx):
        outputs, model_state = forward(params, model_state, batch, ctx)
        return outputs | {"head": ctx.rates.get("temperature", 1.0) * outputs["head"]}, model_state

    step, again = (
        new_step(make_loss_fn(each, TASK, PENALTY)) for each in (scaled, jax.checkpoint(scaled, static_argnums=()))
    )
    fixed = Fixed({"temperature": 0.5})
    assert "temperature" in default_rates(again, new_state(), batch(), Fixed())
    assert_close(run(compile_step(step), 2, fixed=fixed)[0].params, run(compile_step(again), 2, fixed=fixed)[0].params)


# --- evaluation ---


def padded(size, every):
    """Batches of `every` examples; the last one is filled up with NaN and label −1, and masked."""
    data = batch(size)
    for start in range(0, size, every):
        part = {name: np.asarray(rows[start : start + every]) for name, rows in data.items()}
        missing = every - len(part["label"])
        yield {
            "image": np.concatenate([part["image"], np.full((missing, 4), np.nan, np.float32)]),
            "label": np.concatenate([part["label"], np.full(missing, -1, part["label"].dtype)]),
            "mask": (np.arange(every) < every - missing).astype(np.float32),
        }


def test_a_ragged_padded_last_batch_gives_the_plain_mean():
    metrics = {"loss": per_example(softmax_cross_entropy), "accuracy": per_example(accuracy)}
    evaluate = jax.jit(make_eval_step(forward, metrics))
    sums = [evaluate(new_state(), part, Fixed()) for part in padded(10, every=4)]
    assert [float(part["count"]) for part in sums] == [4, 4, 2]
    predicted = logits(network(), batch(10)["image"])
    for name, leaf in (("loss", softmax_cross_entropy), ("accuracy", accuracy)):
        mean = sum(part[name] for part in sums) / sum(part["count"] for part in sums)
        np.testing.assert_allclose(mean, np.mean(jax.jit(leaf)(predicted, batch(10)["label"])), rtol=1e-6)
    whole = evaluate(new_state(), batch(10), Fixed())
    np.testing.assert_allclose(whole["loss"], sum(part["loss"] for part in sums), rtol=1e-6)
    assert float(whole["count"]) == 10


def test_evaluation_runs_without_train_and_sees_rates_and_given():
    def asking(params, model_state, batch, ctx):
        assert not ctx.train
        return {"head": ctx.rates["scale"] * dense(ctx.given["source"]["head"], batch["image"] @ jnp.ones((4, 5)))}, {}

    metric = {"size": lambda outputs, batch, ctx: jnp.sum(outputs["head"], axis=-1)}
    fixed = Fixed({"scale": 2.0}, {"source": network()})
    sums = jax.jit(make_eval_step(asking, metric))(new_state(), batch(), fixed)
    head = jax.tree.map(np.asarray, network()["head"])
    expected = 2 * dense(head, np.asarray(batch()["image"]) @ np.ones((4, 5)))
    np.testing.assert_allclose(sums["size"], expected.sum(), rtol=1e-5)


@pytest.mark.parametrize(
    ("metric", "extra"), [(mean_of, {}), (mean_of, {"mask": np.ones(12)}), (per_example, {"mask": np.ones(1)})]
)
def test_a_metric_that_is_not_per_example_is_refused(metric, extra):
    evaluate = make_eval_step(forward, {"loss": metric(softmax_cross_entropy)})
    with pytest.raises(InputError, match=r"metric 'loss': has shape \(.*\), not \[B\]"):
        jax.eval_shape(evaluate, new_state(), batch() | extra, Fixed())


# --- states ---


def test_states_contexts_and_fixed_are_pytrees():
    assert isinstance(jax.tree.map(lambda leaf: leaf, new_state()), TrainState)
    ctx = jax.tree.map(lambda leaf: leaf, context({"a": 1.0}, {"b": 2.0}))
    assert isinstance(ctx, Context)
    assert (ctx.rates, ctx.given, ctx.train) == ({"a": 1.0}, {"b": 2.0}, True)
    assert jax.tree.leaves(Fixed({"a": 1.0}, {"b": 2.0})) == [1.0, 2.0]


def test_many_seeds_at_once_by_vmap():
    epoch = make_epoch(STEP, 2)
    keys = jax.random.split(jax.random.key(0), 3)
    many = jax.jit(jax.vmap(lambda key: init_state(network(), TX, key)))(keys)
    together, _ = jax.jit(jax.vmap(epoch, in_axes=(0, None, None)))(many, batch(), Fixed())
    assert together.step.tolist() == [2, 2, 2]
    assert_close(jax.tree.map(lambda leaf: np.asarray(leaf)[1], together.params), run(compile_step(STEP), 2)[0].params)


ACCUMULATED = {
    "MultiSteps": lambda tx: optax.MultiSteps(tx, 2),
    "MultiSteps as a transformation": lambda tx: optax.MultiSteps(tx, 2).gradient_transformation(),
    "MultiSteps of a schedule": lambda tx: optax.MultiSteps(tx, lambda step: 2).gradient_transformation(),
    "MultiSteps that skips": lambda tx: optax.MultiSteps(
        tx, 2, should_skip_update_fn=optax.skip_not_finite
    ).gradient_transformation(),
}
WRAPPED = {
    "apply_if_finite": lambda tx: optax.apply_if_finite(tx, 3),
    "chain": lambda tx: optax.chain(optax.identity(), tx),
    "one's own": lambda tx: optax.GradientTransformation(
        tx.init, lambda g, s, p=None, **extra: tx.update(g, s, p, **extra)
    ),
    "one's own, of rates and given trees": lambda tx: optax.GradientTransformation(
        tx.init, lambda g, s, p, rates, given: tx.update(g, s, p, rates=rates, given=given)
    ),
}


@pytest.mark.parametrize("wrapper", [*ACCUMULATED, *WRAPPED])
@pytest.mark.parametrize("proximal", [False, True])
def test_rates_and_given_trees_reach_an_optimizer_through_what_wraps_it(wrapper, proximal):
    held = Prox(0.1, prox_l1, ("anchor",)) if proximal else None
    plain = per_label(LABELS, {TRANSFERRED: Group(0.05, proximal=held), NEW: Group(0.1)})
    tx = (ACCUMULATED | WRAPPED)[wrapper](plain)
    rates = {"learning_rate/new": 0.3} | ({"penalty/transferred": 0.7} if proximal else {})
    fixed = Fixed(rates, {"anchor": network(0.2)})

    def after(tx, steps):
        step = make_train_step(total_gradient(make_loss_fn(forward, TASK)), tx)
        return run(step, steps, fixed=fixed, state=init_state(network(), tx, jax.random.key(0)))[0].params

    assert_close(after(tx, 4 if wrapper in ACCUMULATED else 2), after(plain, 2), rtol=1e-5)


def test_rates_that_an_optimizer_does_not_take_are_refused():
    step = make_train_step(total_gradient(make_loss_fn(forward, TASK)), optax.sgd(0.1))
    state = init_state(network(), optax.sgd(0.1), jax.random.key(0))
    with pytest.raises(InputError, match=r"rates\['learning_rate/new'\]: nobody reads this rate"):
        run(step, 1, fixed=Fixed({"learning_rate/new": 0.5}), state=state)
