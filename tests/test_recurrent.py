"""Recurrent models of words: PyTorch's and Flax's numbers, padding that changes nothing, dropout, cuts."""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl.labels import label_by_depth
from jaxtl.models import Classifier, as_forward, cut, initialise, stage_paths
from jaxtl.models.recurrent import Lstm, WordAverage, WordEmbedding, lstm_classic, lstm_default, recur
from jaxtl.step import Context
from jaxtl.trees import named_leaves

WORDS, NEW = 11, 4
TOKENS = np.array([[3, 14, 5, 2, 1, 7], [9, 2, 0, 0, 0, 0], [0] * 6, [4, 4, 12, 8, 0, 0]], np.int32)
SIZES = {"embedding": 5, "hidden": 3}
ONE, TWO = Lstm(WORDS, NEW, **SIZES), Lstm(WORDS, NEW, layers=2, **SIZES)
ONE_WAY, AVERAGE = Lstm(WORDS, NEW, bidirectional=False, **SIZES), WordAverage(WORDS, NEW, 5)
LSTMS = [pytest.param(ONE, id="one layer", marks=pytest.mark.slow), pytest.param(TWO, id="two layers")]
LSTMS.append(pytest.param(ONE_WAY, id="one way"))
each_trunk = pytest.mark.parametrize("trunk", [TWO, AVERAGE], ids=["lstm", "average"])


@functools.cache
def params_of(trunk):
    """Small random numbers in every place, biases too."""
    shapes = jax.eval_shape(lambda: trunk.init(jax.random.key(0), TOKENS[:1], False))["params"]
    random = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: jnp.asarray(random.normal(0, 0.5, leaf.shape), jnp.float32), shapes)


@functools.partial(jax.jit, static_argnums=0)
def features(trunk, params, tokens):
    return trunk.apply({"params": params}, tokens, False)[0]


@functools.partial(jax.jit, static_argnums=0)
def value_and_gradient(trunk, params, tokens):
    """Of a number that depends on every feature of every text, each in its own way."""

    def loss(params):
        out = trunk.apply({"params": params}, tokens, False)[0]
        return jnp.sum(jnp.sin(out * jnp.arange(1, 1 + out.shape[-1])[None]))

    return jax.value_and_grad(loss)(params)


def close(ours, theirs, atol=1e-5):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=atol), ours, theirs)


# ---------------------------------------------------------------- the same numbers as others


def torch_lstm(torch, trunk, params):
    """PyTorch's module with our weights; its second bias is 0."""
    lstm = torch.nn.LSTM(trunk.embedding, trunk.hidden, trunk.layers, bidirectional=trunk.bidirectional)
    given = {}
    for i in range(trunk.layers):
        for way, suffix in (("forward", ""), ("backward", "_reverse")):
            if way in params[f"lstm_{i}"]:
                own = params[f"lstm_{i}"][way]
                given[f"weight_ih_l{i}{suffix}"] = own["input"]["kernel"].T
                given[f"weight_hh_l{i}{suffix}"] = own["hidden"]["kernel"].T
                given[f"bias_ih_l{i}{suffix}"] = own["input"]["bias"]
                given[f"bias_hh_l{i}{suffix}"] = jnp.zeros_like(own["input"]["bias"])
    lstm.load_state_dict({name: torch.tensor(np.asarray(array)) for name, array in given.items()})
    return lstm


def torch_gradients(trunk, lstm, words):
    """Under our names."""
    found = {"embedding": {"transferred": words.grad[:WORDS], "new": words.grad[WORDS:]}}
    for i in range(trunk.layers):
        for way, suffix in (("forward", ""), ("backward", "_reverse"))[: 1 + trunk.bidirectional]:
            names = {name: getattr(lstm, f"{name}_l{i}{suffix}").grad for name in ("weight_ih", "weight_hh", "bias_ih")}
            kernels = {"input": {"kernel": names["weight_ih"].T, "bias": names["bias_ih"]}}
            found.setdefault(f"lstm_{i}", {})[way] = {**kernels, "hidden": {"kernel": names["weight_hh"].T}}
    return jax.tree.map(np.asarray, found)


@pytest.mark.parametrize("trunk", LSTMS)
def test_features_and_gradients_are_those_of_pytorch_of_packed_texts(trunk):
    torch = pytest.importorskip("torch")
    texts = TOKENS[[0, 1, 3]]  # it packs no text without words
    params = params_of(trunk)
    lstm, rows = torch_lstm(torch, trunk, params), params["embedding"]
    words = torch.tensor(np.concatenate([rows["transferred"], rows["new"]]), requires_grad=True)
    packed = torch.nn.utils.rnn.pack_padded_sequence(
        words[torch.tensor(texts).long()], (texts > 0).sum(1).tolist(), batch_first=True, enforce_sorted=False
    )
    ways = 1 + trunk.bidirectional
    last = torch.cat(list(lstm(packed)[1][0][-ways:]), dim=1)
    (last * torch.arange(1, 1 + last.shape[1])).sin().sum().backward()
    np.testing.assert_allclose(features(trunk, params, texts), last.detach(), atol=1e-5)
    close(value_and_gradient(trunk, params, texts)[1], torch_gradients(trunk, lstm, words))


@pytest.mark.parametrize("reverse", [False, True])
def test_states_and_gradients_are_those_of_flax(reverse):
    """A cell of Flax with the same numbers, over time by its own loop, in both directions."""
    random = np.random.default_rng(2)
    inputs, kernel = random.normal(size=(6, 4, 12)), random.normal(size=(3, 12))
    inputs, kernel = jnp.asarray(inputs, jnp.float32), jnp.asarray(kernel, jnp.float32)
    lengths = (TOKENS[[0, 1, 3, 3]] > 0).sum(1)
    seen = jnp.arange(6)[:, None] < lengths[None]
    letters = ("i", "f", "g", "o")

    def by_flax(inputs, kernel):
        cell = nn.OptimizedLSTMCell(3, parent=None)
        own = {f"h{letter}": {"kernel": k} for letter, k in zip(letters, jnp.split(kernel, 4, axis=1), strict=True)}
        for at, letter in enumerate(letters):
            own[f"h{letter}"]["bias"] = jnp.zeros(3)
            own[f"i{letter}"] = {"kernel": jnp.eye(12)[:, 3 * at : 3 * at + 3]}
        rnn = nn.RNN(cell, time_major=True, reverse=reverse, keep_order=True)
        return rnn.apply({"params": {"cell": own}}, inputs, seq_lengths=lengths)

    def weighed(states):
        return jnp.sum(jnp.sin(jnp.where(seen[..., None], states, 0) * jnp.arange(1, 4)[None, None]))

    ours = jax.value_and_grad(lambda inputs, kernel: weighed(recur(inputs, kernel, seen, reverse)), (0, 1))
    theirs = jax.value_and_grad(lambda inputs, kernel: weighed(by_flax(inputs, kernel)), (0, 1))
    close(jax.jit(ours)(inputs, kernel), jax.jit(theirs)(inputs, kernel))


def test_features_are_those_of_a_loop_over_one_text_after_another():
    """NumPy, no padding, no batch."""

    def logistic(z):
        return 1 / (1 + np.exp(-z))

    def last(own, x):
        h = c = np.zeros(3)
        for row in x:
            z = row @ own["input"]["kernel"] + own["input"]["bias"] + h @ own["hidden"]["kernel"]
            c = logistic(z[3:6]) * c + logistic(z[:3]) * np.tanh(z[6:9])
            h = logistic(z[9:]) * np.tanh(c)
        return h

    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params_of(ONE))
    rows, layer = np.concatenate([params["embedding"]["transferred"], params["embedding"]["new"]]), params["lstm_0"]
    texts = [rows[text[text > 0]] for text in TOKENS]
    expected = [np.concatenate([last(layer["forward"], x), last(layer["backward"], x[::-1])]) for x in texts]
    np.testing.assert_allclose(features(ONE, params_of(ONE), TOKENS), expected, atol=1e-6)
    average = params_of(AVERAGE)["embedding"]
    rows = np.concatenate([average["transferred"], average["new"]])
    expected = [rows[text[text > 0]].sum(0) / max(1, (text > 0).sum()) for text in TOKENS]
    np.testing.assert_allclose(features(AVERAGE, params_of(AVERAGE), TOKENS), expected, atol=1e-6)


# ---------------------------------------------------------------- what must not matter


@each_trunk
def test_padding_changes_neither_features_nor_gradients(trunk):
    params, longer = params_of(trunk), np.pad(TOKENS, ((0, 0), (0, 7)))
    np.testing.assert_allclose(features(trunk, params, longer), features(trunk, params, TOKENS), atol=1e-6)
    np.testing.assert_allclose(
        features(trunk, params, TOKENS[1:2, :2]), features(trunk, params, TOKENS)[1:2], atol=1e-6
    )
    close(value_and_gradient(trunk, params, longer), value_and_gradient(trunk, params, TOKENS), atol=1e-6)


@each_trunk
def test_a_text_without_words_has_finite_features_and_gives_no_gradient(trunk):
    params, empty = params_of(trunk), np.zeros_like(TOKENS)
    np.testing.assert_array_equal(features(trunk, params, empty), 0)
    for leaf in jax.tree.leaves(value_and_gradient(trunk, params, empty)[1]):
        np.testing.assert_array_equal(leaf, 0)


@each_trunk
def test_texts_do_not_mix_and_mapped_over_texts_or_parameters_they_are_the_same(trunk):
    params, order = params_of(trunk), np.array([2, 0, 3, 1])
    np.testing.assert_allclose(
        features(trunk, params, TOKENS[order]), features(trunk, params, TOKENS)[order], atol=1e-6
    )
    by_text = jax.jit(jax.vmap(lambda text: value_and_gradient(trunk, params, text[None])))(TOKENS)
    whole = value_and_gradient(trunk, params, TOKENS)
    close(jax.tree.map(lambda leaf: leaf.sum(0), by_text), whole)
    half = jax.tree.map(lambda leaf: 0.5 * leaf, params)
    pair = jax.tree.map(lambda *both: jnp.stack(both), params, half)
    by_params = jax.jit(jax.vmap(lambda params: value_and_gradient(trunk, params, TOKENS)))(pair)
    close(by_params, jax.tree.map(lambda *both: jnp.stack(both), whole, value_and_gradient(trunk, half, TOKENS)))


def test_ids_as_floats_are_the_same_ids():
    params = params_of(AVERAGE)
    floats = features(AVERAGE, params, TOKENS.astype(np.float32))
    np.testing.assert_array_equal(floats, features(AVERAGE, params, TOKENS))


# ---------------------------------------------------------------- derivatives


def test_derivatives_of_first_and_second_order_in_both_modes_are_those_of_the_plain_loop():
    random, seen = np.random.default_rng(3), jnp.asarray(TOKENS[:, :4].T > 0).at[2, 0].set(False)  # a gap too
    point = [jnp.asarray(random.normal(size=shape), jnp.float32) for shape in ((4, 4, 8), (2, 8))]
    along = [jnp.asarray(random.normal(size=shape), jnp.float32) for shape in ((4, 4, 8), (2, 8))]

    def plain(inputs, kernel):
        def step(state, now):
            (h, c), (x, there) = state, now[:2]
            i, f, g, o = jnp.split(x + h @ kernel, 4, axis=1)
            fresh = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            state = (jax.nn.sigmoid(o) * jnp.tanh(fresh), fresh)
            state = jax.tree.map(lambda new, old: jnp.where(there[:, None], new, old), state, (h, c))
            return state, state[0]

        return jax.lax.scan(step, (jnp.zeros((4, 2)),) * 2, (inputs, seen), reverse=True)[1]

    def derivatives(states):
        def loss(*given):
            return jnp.sum(jnp.sin(states(*given) * jnp.arange(1, 3)[None, None]))

        gradient = jax.grad(loss, (0, 1))

        def slope(*given):
            return sum(jnp.vdot(a, b) for a, b in zip(gradient(*given), along, strict=True))

        given = (tuple(point), tuple(along))
        return jax.jvp(states, *given), jax.jvp(gradient, *given), jax.grad(slope, (0, 1))(*point)

    ours = jax.jit(lambda: derivatives(lambda inputs, kernel: recur(inputs, kernel, seen, True)))()
    close(ours, jax.jit(lambda: derivatives(plain))(), atol=3e-5)


# ---------------------------------------------------------------- words


def test_new_words_are_read_behind_those_that_came_and_only_words_that_are_used_move():
    params = params_of(ONE)
    rows = WordEmbedding(WORDS, NEW, 5).apply({"params": params["embedding"]}, jnp.arange(WORDS + NEW))
    np.testing.assert_array_equal(rows[:WORDS], params["embedding"]["transferred"])
    np.testing.assert_array_equal(rows[WORDS:], params["embedding"]["new"])
    gradient = value_and_gradient(ONE, params, TOKENS)[1]["embedding"]
    moved = np.concatenate([gradient["transferred"], gradient["new"]]).any(axis=1)
    assert sorted(np.flatnonzero(moved)) == sorted(set(TOKENS.ravel().tolist()) - {0})


def test_without_new_words_there_is_no_leaf_for_them_and_a_number_that_no_word_has_is_not_finite():
    trunk = Lstm(WORDS, **SIZES)
    params = params_of(trunk)
    assert set(params["embedding"]) == {"transferred"}
    assert np.isnan(features(trunk, params, jnp.array([[WORDS]]))).all()


# ---------------------------------------------------------------- as a trunk


def test_names_and_sizes_of_parameters():
    model = Classifier(Lstm(7, 2, embedding=5, hidden=3, layers=2), (("head", 2),))
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), TOKENS, False))["params"]
    layers = {
        f"trunk/lstm_{i}/{way}/{name}": shape
        for i, width in enumerate((5, 6))
        for way in ("forward", "backward")
        for name, shape in {"input/kernel": (width, 12), "input/bias": (12,), "hidden/kernel": (3, 12)}.items()
    }
    words = {"trunk/embedding/transferred": (7, 5), "trunk/embedding/new": (2, 5)}
    found = {path: leaf.shape for path, leaf in named_leaves(params).items()}
    assert found == {**words, **layers, "head/kernel": (6, 2), "head/bias": (2,)}


def test_forget_gates_start_open_and_each_gate_with_an_orthogonal_matrix():
    own = initialise(Classifier(ONE_WAY, ()), jax.random.key(0), jax.ShapeDtypeStruct((4,), jnp.int32))
    own = own["trunk"]["lstm_0"]["forward"]
    assert own["input"]["bias"].tolist() == [0.0] * 3 + [1.0] * 3 + [0.0] * 6
    squares = np.split(np.asarray(own["hidden"]["kernel"]), 4, axis=1)
    for square in squares:
        np.testing.assert_allclose(square @ square.T, np.eye(3), atol=1e-6)
    assert np.any(squares[0] != squares[1])


@pytest.mark.parametrize(("trunk", "depths"), [(TWO, 4), (AVERAGE, 2)], ids=["two layers", "average"])
def test_the_embedding_stands_before_the_first_stage(trunk, depths):
    model = Classifier(trunk, (("head", 2),))
    labels = named_leaves(
        label_by_depth({"trunk": params_of(trunk), "head": {"bias": jnp.zeros(2)}}, stage_paths(model))
    )
    assert labels["trunk/embedding/transferred"] == labels["trunk/embedding/new"] == "depth:0"
    assert labels["head/bias"] == f"depth:{depths - 1}"
    layers = {path.split("/")[1]: label for path, label in labels.items() if "lstm" in path}
    assert layers == {f"lstm_{i}": f"depth:{1 + i}" for i in range(depths - 2)}


def test_a_model_that_is_cut_computes_what_it_computes_whole():
    model = Classifier(TWO, (("head", 2),))
    params = {"trunk": params_of(TWO), "head": {"kernel": jnp.ones((6, 2)), "bias": jnp.zeros(2)}}
    below, above = cut(model, 1)
    kept, _ = jax.jit(lambda params: below.apply({"params": params}, TOKENS, False))(params["trunk"])
    whole = jax.jit(lambda params: model.apply({"params": params}, TOKENS, False))(params)
    rest = jax.jit(lambda params: above.apply({"params": params}, kept, False))(params)
    assert kept.shape == (4, 6, 7)
    np.testing.assert_allclose(rest["head"], whole["head"], atol=1e-6)
    assert [tap.shape for tap in whole["taps"].values()] == [(4, 6, 7)] * 2
    np.testing.assert_array_equal(whole["taps"]["lstm_1"][:, :, -1], TOKENS > 0)
    np.testing.assert_allclose(whole["taps"]["lstm_1"][0, -1, :3], whole["features"][0, :3], atol=1e-6)
    assert TWO.widths == (6, 6)
    assert list(whole["taps"]) == list(TWO.stage_names)


@each_trunk
def test_dropout_is_of_the_key_of_the_step_and_of_training_alone(trunk):
    params = params_of(trunk)
    forward = as_forward(Classifier(trunk.clone(dropout=0.5), ()), "token")

    @functools.partial(jax.jit, static_argnums=0)
    def dropped(train, key):
        ctx = Context(0, jax.random.key(key), {}, {}, train=train)
        return forward({"trunk": params}, {}, {"token": jnp.asarray(TOKENS)}, ctx)[0]["features"]

    np.testing.assert_allclose(dropped(False, 3), features(trunk, params, TOKENS), atol=1e-6)
    np.testing.assert_array_equal(dropped(True, 3), dropped(True, 3))
    assert np.any(dropped(True, 3) != dropped(True, 4))
    if trunk is AVERAGE:  # what is kept is scaled up: the mean stays
        mean = np.mean([dropped(True, key) for key in range(300)], axis=0)
        np.testing.assert_allclose(mean, features(trunk, params, TOKENS), atol=0.2)


def test_presets_have_the_sizes_that_are_told():
    def number(trunk):
        shapes = jax.eval_shape(lambda: trunk.init(jax.random.key(0), TOKENS[:1], False))["params"]
        return sum(leaf.size for leaf in jax.tree.leaves({k: v for k, v in shapes.items() if k != "embedding"}))

    assert number(lstm_default(50)) == 2 * 4 * 64 * (64 + 64 + 1)
    assert number(lstm_classic(50, 3)) == 2 * 4 * 256 * (100 + 256 + 1) + 2 * 4 * 256 * (512 + 256 + 1)
    assert lstm_classic(50, 3).dropout == 0.5
