"""Parameter names and counts, normalisation, residual networks against PyTorch, bfloat16."""

import functools
import importlib.util
import re
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from oracles import torch_residual_networks as oracle

from jaxtl.data import Split, batches, channel_statistics, image_batches, load, normalise, on_device
from jaxtl.errors import InputError
from jaxtl.labels import label_params
from jaxtl.loop import fit
from jaxtl.losses import make_loss_fn, mean_of, softmax_cross_entropy
from jaxtl.models import (
    Classifier,
    Cnn,
    Mlp,
    ResidualNetwork,
    as_forward,
    cut,
    initial_model_state,
    initialise,
    resnet18,
    wide_resnet,
)
from jaxtl.optimizers import Group
from jaxtl.penalties import Term, l2, labelled
from jaxtl.program import Weights, make_program
from jaxtl.step import Context, Fixed, compile_step, init_state, make_epoch, make_train_step, total_gradient
from jaxtl.trees import map_named, named_leaves


def test_trunk_and_heads_are_separate_subtrees_with_the_same_names_everywhere():
    for trunk in (Mlp((7, 6)), Cnn((4, 6))):
        small = initialise(Classifier(trunk, (("head", 5),)), jax.random.key(0), (8, 8, 1))
        joint = initialise(Classifier(trunk, (("head", 5), ("source_head", 3))), jax.random.key(0), (8, 8, 1))
        assert set(small) == {"trunk", "head"}
        assert set(joint) == {"trunk", "head", "source_head"}
        assert jax.tree.map(jnp.shape, small["trunk"]) == jax.tree.map(jnp.shape, joint["trunk"])
        assert joint["source_head"]["kernel"].shape == (6, 3)


def test_without_normalisation_convolutions_have_biases_instead():
    with_norm = named_leaves(initialise(Classifier(Cnn((4,)), ()), jax.random.key(0), (8, 8, 1)))
    without = named_leaves(initialise(Classifier(Cnn((4,), "none"), ()), jax.random.key(0), (8, 8, 1)))
    assert sorted(with_norm) == ["trunk/conv_0/kernel", "trunk/norm_0/bias", "trunk/norm_0/scale"]
    assert sorted(without) == ["trunk/conv_0/bias", "trunk/conv_0/kernel"]


def test_decay_before_a_normalisation_changes_nothing_and_without_one_it_does():
    images = jax.random.normal(jax.random.key(1), (4, 8, 8, 1))
    for normalisation, same in (("group", True), ("none", False)):
        model = Classifier(Cnn((8, 8), normalisation), (("head", 3),))
        params = initialise(model, jax.random.key(0), (8, 8, 1))
        halved = jax.tree_util.tree_map_with_path(
            lambda path, w: 0.5 * w if "conv_0" in jax.tree_util.keystr(path) else w, params
        )
        before, after = (model.apply({"params": p}, images, False)["head"] for p in (params, halved))
        assert np.allclose(before, after, atol=1e-3) == same


def test_examples_do_not_mix_and_taps_hold_every_block():
    model = Classifier(Cnn((4, 8), input_pooling=2), (("head", 3),))
    params = initialise(model, jax.random.key(0), (8, 8, 3))
    images = jax.random.normal(jax.random.key(1), (4, 8, 8, 3))
    outputs, state = as_forward(model)(params, {}, {"image": images}, Context(0, None, {}, {}))
    alone, _ = as_forward(model)(params, {}, {"image": images[1:2]}, Context(0, None, {}, {}, train=False))
    np.testing.assert_allclose(outputs["head"][1:2], alone["head"], rtol=1e-5, atol=1e-6)
    assert state == {}
    assert outputs["features"].shape == (4, 8)
    assert [tap.shape for tap in outputs["taps"].values()] == [(4, 4, 4, 4), (4, 2, 2, 8)]


def test_the_cnn_is_the_textbooks():
    """ReLU before pooling, and every layer as Flax has it: the same outputs, taps and gradients."""

    class Textbook(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            taps = {}
            for i, width in enumerate((8, 16)):
                x = nn.Conv(width, (3, 3), use_bias=False, name=f"conv_{i}")(x)
                taps[f"conv_{i}"] = x = nn.relu(nn.GroupNorm(None, group_size=8, name=f"norm_{i}")(x))
                x = nn.max_pool(x, (2, 2), (2, 2)) if i == 0 else jnp.mean(x, (1, 2))
            return x, taps

    ours, theirs = (Classifier(trunk, (("head", 3),)) for trunk in (Cnn((8, 16)), Textbook()))
    params, images = initialise(ours, jax.random.key(0), (8, 8, 3)), jax.random.normal(jax.random.key(1), (4, 8, 8, 3))

    def both(model):
        def loss(params):
            outputs = model.apply({"params": params}, images, True)
            return jnp.mean(jnp.tanh(outputs["head"])) + jnp.mean(outputs["taps"]["conv_0"] ** 2), outputs

        return jax.jit(jax.value_and_grad(loss, has_aux=True))(params)

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), both(ours), both(theirs))


def test_model_state_is_carried_and_frozen_in_evaluation():
    class Normalised(nn.Module):
        @nn.compact
        def __call__(self, images, train):
            return {"head": nn.BatchNorm(use_running_average=not train, name="norm")(images)}

    model = Normalised()
    variables = model.init(jax.random.key(0), jnp.zeros((1, 3)), False)
    params, model_state = variables["params"], {"batch_stats": variables["batch_stats"]}
    batch = {"image": jnp.ones((4, 3)) * 5}
    _, trained = as_forward(model)(params, model_state, batch, Context(0, None, {}, {}))
    _, evaluated = as_forward(model)(params, model_state, batch, Context(0, None, {}, {}, train=False))
    assert float(trained["batch_stats"]["norm"]["mean"][0]) > 0
    assert float(evaluated["batch_stats"]["norm"]["mean"][0]) == 0


# --- residual networks ---


@pytest.mark.parametrize(
    ("trunk", "published"),
    [
        (wide_resnet(16, 4), 2_748_890),  # 2.7 M
        (wide_resnet(28, 10), 36_479_194),  # 36.5 M
        (resnet18(), 11_173_962),  # 11.2 M
        (resnet18("batch"), 11_173_962),
    ],
)
def test_parameters_and_features_are_those_published(trunk, published):
    model = Classifier(trunk, (("head", 10),))
    params = jax.eval_shape(lambda: initialise(model, jax.random.key(0), (32, 32, 3)))
    state = jax.eval_shape(lambda: initial_model_state(model, (32, 32, 3)))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == published
    assert set(state) == ({"batch_stats"} if trunk.normalisation == "batch" else set())
    forward, ctx = as_forward(model), Context(0, None, {}, {})
    images = jnp.zeros((2, 32, 32, 3))
    outputs, _ = jax.eval_shape(lambda p, s: forward(p, s, {"image": images}, ctx), params, state)
    assert outputs["features"].shape == (2, trunk.widths[-1])
    assert outputs["head"].shape == (2, 10)
    edges = [32 // 2**i for i in range(len(trunk.widths))]
    assert [tap.shape for tap in outputs["taps"].values()] == [
        (2, edge, edge, width) for edge, width in zip(edges, trunk.widths, strict=True)
    ]


@pytest.mark.parametrize("depth", [4, 15, 18])
def test_a_depth_that_no_wide_resnet_has_is_refused(depth):
    with pytest.raises(InputError, match=f"wide_resnet: depth {depth} is not 6n"):
        wide_resnet(depth, 4)


def test_a_width_below_one_and_an_unknown_normalisation_are_refused():
    with pytest.raises(InputError, match="width 0 is less than 1"):
        wide_resnet(16, 0)
    with pytest.raises(InputError, match="did you mean 'group'"):
        initialise(Classifier(wide_resnet(10, 1, "groups"), ()), jax.random.key(0), (8, 8, 3))


@pytest.fixture(scope="module")
def stored():
    with np.load(oracle.STORED, allow_pickle=False) as arrays:
        return dict(arrays)


FIRST, *OTHERS = oracle.NETWORKS


@pytest.mark.parametrize("case", [FIRST, *(pytest.param(case, marks=pytest.mark.slow) for case in OTHERS)])
def test_outputs_gradients_and_running_means_are_those_of_pytorch(case, stored):
    model = Classifier(ResidualNetwork(*oracle.NETWORKS[case]), (("head", oracle.CLASSES),))
    images, labels = oracle.examples()
    shapes = jax.eval_shape(lambda: initialise(model, jax.random.key(0), images.shape[1:]))
    params = map_named(lambda path, leaf: jnp.asarray(oracle.weights(path, leaf.shape)), shapes)
    state = initial_model_state(model, images.shape[1:])
    forward, batch = as_forward(model), {"image": jnp.asarray(images), "label": jnp.asarray(labels)}

    def loss_fn(params, train):
        outputs, after = forward(params, state, batch, Context(0, None, {}, {}, train=train))
        return jnp.mean(softmax_cross_entropy(outputs["head"], batch["label"])), (outputs["head"], after)

    compiled = jax.jit(jax.value_and_grad(loss_fn, has_aux=True), static_argnums=1)
    (loss, (logits, after)), gradients = compiled(params, True)
    evaluated = compiled(params, False)[0][1][0]
    expected = {name.removeprefix(f"{case}/"): a for name, a in stored.items() if name.startswith(f"{case}/")}
    np.testing.assert_allclose(loss, expected["loss"], rtol=1e-5)
    np.testing.assert_allclose(logits, expected["logits"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(evaluated, expected["evaluated"], rtol=1e-4, atol=1e-4)
    leaves = named_leaves(gradients)
    assert sorted(leaves) == expected["names"].tolist()
    found = [(np.linalg.norm(leaves[n]), np.sum(leaves[n] * oracle.wave(n, leaves[n].shape))) for n in sorted(leaves)]
    scale = expected["gradients"][:, :1]
    np.testing.assert_allclose(np.array(found) / scale, expected["gradients"] / scale, rtol=0, atol=1e-3)
    means = {name.removeprefix("batch_stats/"): mean for name, mean in named_leaves(after).items()}
    running = [means[name] for name in sorted(means) if name.endswith("/mean")]
    np.testing.assert_allclose(np.concatenate([np.zeros(0), *running]), expected["means"], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_pytorch_still_gives_the_stored_figures(tmp_path, stored):
    if importlib.util.find_spec("torch") is None:
        pytest.skip("needs torch: pip install '.[oracles]'")
    subprocess.run([sys.executable, oracle.__file__, tmp_path / "again.npz"], check=True, timeout=300)
    with np.load(tmp_path / "again.npz", allow_pickle=False) as again:
        assert set(again.files) == set(stored)
        for name in set(again.files) - {f"{case}/names" for case in oracle.NETWORKS}:
            np.testing.assert_allclose(again[name], stored[name], rtol=1e-4, atol=1e-5, err_msg=name)


# --- bfloat16 ---


@pytest.mark.parametrize("trunk", [Mlp, Cnn, functools.partial(wide_resnet, 10, 1), resnet18])
def test_in_bfloat16_only_what_is_between_parameters_and_outputs_is_bfloat16(trunk):
    images = jnp.zeros((2, 8, 8, 3))
    for dtype in (None, "bfloat16"):
        model = Classifier(trunk(dtype=dtype), (("head", 3),))
        params = jax.eval_shape(lambda model=model: initialise(model, jax.random.key(0), (8, 8, 3)))
        jaxpr, outputs = jax.make_jaxpr(
            lambda params, model=model: model.apply({"params": params}, images, True), return_shape=True
        )(params)
        assert {leaf.dtype for leaf in jax.tree.leaves((params, outputs))} == {jnp.dtype("float32")}
        products = re.findall(r":(\w+)\[.*= (?:dot_general|image_convolution)", str(jaxpr))
        assert len(products) > 1
        assert set(products[:-1]) == {"f32" if dtype is None else "bf16"}
        assert products[-1] == "f32"  # the head


def accuracy_on_digits(dtype):
    """Of a small convolutional network after 200 steps, and its state."""
    data, steps = load("digits"), 200
    mean, std = channel_statistics(data.train.images)
    prepare = image_batches(50, mean, std)
    model = Classifier(Cnn((16, 32), dtype=dtype), (("head", 10),))
    params = initialise(model, jax.random.key(0), (8, 8, 1))
    penalty = labelled(jax.tree.map(lambda _: "all", params), {"all": Term(1e-4, l2)})
    loss_fn = make_loss_fn(as_forward(model), {"task": Term(1.0, mean_of(softmax_cross_entropy))}, penalty)
    tx = optax.sgd(optax.cosine_decay_schedule(0.1, steps), 0.9)
    train = compile_step(make_epoch(make_train_step(total_gradient(loss_fn), tx, prepare), steps))
    key = jax.random.key(1)
    state, metrics = train(init_state(params, tx, key), on_device(data.train, key), Fixed())
    images = normalise(jnp.asarray(data.test.images), mean, std)
    logits = jax.jit(lambda params: model.apply({"params": params}, images, False)["head"])(state.params)
    return float(np.mean(np.argmax(logits, -1) == data.test.labels)), (state.params, state.opt_state, metrics)


@pytest.mark.slow
def test_bfloat16_learns_digits_as_well_as_float32():
    (exact, _), (short, state) = accuracy_on_digits(None), accuracy_on_digits("bfloat16")
    assert exact > 0.95
    assert abs(short - exact) < 0.02  # of 359 images; seeds differ by 0.01
    dtypes = {leaf.dtype for leaf in jax.tree.leaves(state)}
    assert dtypes == {jnp.dtype("float32"), jnp.dtype("int32")}  # the schedule counts steps


CUTS = (("mlp", "group"), ("cnn", "batch"))
MORE_CUTS = (("cnn", "group"), ("wide", "group"), ("wide", "batch"))


@pytest.mark.parametrize(
    ("trunk", "normalisation"), [*CUTS, *(pytest.param(*one, marks=pytest.mark.slow) for one in MORE_CUTS)]
)
def test_a_model_that_is_cut_computes_what_it_computes_whole(trunk, normalisation):
    """What is below can be computed once and kept; above it, gradients are those of the frozen whole."""
    trunks = {"mlp": Mlp((32, 16, 12)), "cnn": Cnn((4, 6, 8), normalisation), "wide": wide_resnet(10, 1, normalisation)}
    model = Classifier(trunks[trunk], (("head", 3),))
    images = jax.random.normal(jax.random.key(1), (4, 16, 16, 3))
    params, state = initialise(model, jax.random.key(0), (16, 16, 3)), initial_model_state(model, (16, 16, 3))
    own = {name: tree.get("trunk", {}) for name, tree in state.items()}

    @functools.partial(jax.jit, static_argnums=1)
    @functools.partial(jax.value_and_grad, has_aux=True)
    def graded(params, model, inputs):
        outputs = model.apply({"params": params, **state}, inputs, False)
        return jnp.sum(outputs["head"] ** 2), outputs

    for depth in (1, 2):
        below, above = cut(model, depth)
        kept, _ = jax.jit(below.apply, static_argnums=2)({"params": params["trunk"], **own}, images, False)
        (_, whole), gradient = graded(params, model, images)
        (_, rest), of_rest = graded(params, above, kept)
        np.testing.assert_allclose(rest["head"], whole["head"], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(of_rest["head"]["kernel"], gradient["head"]["kernel"], rtol=1e-4, atol=1e-4)
        below_it = {path for path, leaf in named_leaves(of_rest).items() if not np.any(leaf)}
        assert below_it == {path for path in named_leaves(params) if path.split("/")[1] in below_names(trunk, depth)}
    with pytest.raises(InputError, match="a cut at 3 of 3 blocks"):
        cut(model, 3)


def below_names(trunk, depth):
    """Of the modules before a cut."""
    if trunk == "wide":
        return {"stem", *(f"stage_{i}_block_0" for i in range(depth))}
    kinds = ("dense",) if trunk == "mlp" else ("conv", "norm")
    return {f"{kind}_{i}" for kind in kinds for i in range(depth)}


class Bag(nn.Module):
    """Tokens and their number, to a mean of embeddings with dropout."""

    @nn.compact
    def __call__(self, token, length, train):
        there = (jnp.arange(token.shape[1])[None] < length[:, None])[..., None]
        mean = (nn.Embed(50, 8, name="embedding")(token) * there).sum(1) / length[:, None]
        return {"head": nn.Dense(4, name="head")(nn.Dropout(0.5, deterministic=not train)(mean))}


def test_a_model_takes_several_fields_as_they_are_and_dropout_draws_from_the_key_of_the_step():
    random = np.random.default_rng(0)
    labels = (np.arange(40) % 4).astype(np.int32)
    tokens = (random.integers(0, 12, (40, 9)) + 12 * labels[:, None]).astype(np.int32)
    texts = Split(token=tokens, length=random.integers(1, 9, 40).astype(np.int32), label=labels)
    model = Bag()
    params = initialise(model, jax.random.key(0), *texts.like("token", "length"))
    task = {"task": Term(1.0, mean_of(softmax_cross_entropy))}
    forward = as_forward(model, "token", "length")
    program = make_program(
        forward, label_params(params, [(".*", "new")]), task, {"new": Group(0.05)}, optimizer="adam", prepare=batches(8)
    )
    start, data = program.start(Weights(params), jax.random.key(1)), on_device(texts, jax.random.key(2))
    _, history = fit(program.step, start, data, program.fixed(), steps=60, every=20, chunk=20)
    assert history[-1]["task"] < 0.5 * history[0]["task"]
    batch = {name: jnp.asarray(array) for name, array in texts.fields.items()}
    told = [Context(0, jax.random.key(k), {}, {}) for k in (3, 3, 4)]
    one, same, other = (forward(params, {}, batch, ctx)[0]["head"] for ctx in told)
    np.testing.assert_array_equal(one, same)
    assert np.any(np.asarray(one) != other)
    with pytest.raises(InputError, match=r"Bag is not called with \(images, train\)"):
        as_forward(model)
    with pytest.raises(InputError, match="without 'length'"):
        forward(params, {}, {"token": batch["token"]}, told[0])
