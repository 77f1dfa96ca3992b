"""A BERT as sentence encoder: PyTorch's numbers, padding and windows that change nothing, cuts, and genuine weights."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import torch_bert as oracle
from safetensors.numpy import save_file

from jaxtl import files
from jaxtl.errors import InputError
from jaxtl.models import Classifier, cut
from jaxtl.models.bert import SentenceEncoder, minilm_l6
from jaxtl.models.pretrained import TRUNKS, load_trunk
from jaxtl.models.torch_names import ARCHITECTURES, paths, strangers
from jaxtl.transfer import transfer

SMALL = SentenceEncoder(oracle.WIDTH, oracle.DEPTH, oracle.HEADS, oracle.WORDS, oracle.PLACES, window=8)


@pytest.fixture(scope="module")
def params():
    """The oracle's weights under our names."""
    weights, bert = oracle.weights(), ARCHITECTURES["minilm_l6"]
    assert strangers(bert, weights) == []
    renamed = paths(bert, weights)
    like = dict(jax.eval_shape(lambda: SMALL.init(jax.random.key(0), jnp.zeros((1, 4), jnp.int32), False)))
    source = {name: jnp.asarray(weights[name]) for name in renamed}
    rules = [(re.escape(theirs), ours) for theirs, ours in renamed.items()]
    return transfer(source, like, rules, layout="torch").params["params"]


def encoded(params, tokens, trunk=SMALL):
    return np.asarray(jax.jit(lambda params: trunk.apply({"params": params}, tokens, False)[0])(params))


def test_features_are_those_of_pytorch(params):
    found = encoded(params, oracle.TOKENS)
    np.testing.assert_allclose(found, oracle.FEATURES, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)


def test_the_stored_figures_are_those_of_pytorch():
    pytest.importorskip("torch")
    np.testing.assert_allclose(oracle.results(), oracle.FEATURES, atol=1e-5)


def test_features_do_not_depend_on_padding_or_on_what_stands_beside(params):
    short = encoded(params, oracle.TOKENS[:1, :5])
    for tokens in (oracle.TOKENS[:1], np.pad(oracle.TOKENS[:1], ((0, 0), (0, 8))), oracle.TOKENS):
        np.testing.assert_allclose(encoded(params, tokens)[:1], short, atol=1e-6)


def test_ids_as_floats_are_the_same_ids(params):
    np.testing.assert_array_equal(encoded(params, oracle.TOKENS.astype(np.float32)), encoded(params, oracle.TOKENS))


def test_windows_do_not_see_each_other_and_every_token_counts_once(params):
    """The direction of the mean over all tokens of both, each window as if it stood alone."""
    long = encoded(params, oracle.TOKENS.reshape(1, 16))[0]
    taps = jax.jit(lambda params: SMALL.apply({"params": params}, oracle.TOKENS, False)[1])(params)
    marked = np.asarray(taps["block_1"]).reshape(-1, oracle.WIDTH + 1)
    mean = marked[marked[:, -1] > 0, :-1].mean(axis=0)
    np.testing.assert_allclose(long, mean / np.linalg.norm(mean), atol=1e-6)
    with pytest.raises(InputError, match="13 tokens are no whole number of windows of 8"):
        encoded(params, np.ones((1, 13), np.int32))


@pytest.mark.parametrize("windows", [1, 2])
def test_an_encoder_that_is_cut_computes_the_same(params, windows):
    tokens = oracle.TOKENS.reshape(2 // windows, 8 * windows)
    below, above = cut(Classifier(SMALL, ()), 1)
    kept = below.apply({"params": params}, tokens, False)[0]
    assert kept.shape == (*tokens.shape, oracle.WIDTH + 1)
    rest = above.apply({"params": {"trunk": params}}, kept, False)["features"]
    np.testing.assert_allclose(rest, encoded(params, tokens), atol=1e-6)


def test_gradients_are_finite_where_nothing_is_seen(params):
    def loss(params):
        return jnp.sum(SMALL.apply({"params": params}, jnp.zeros((1, 8), jnp.int32), False)[0] ** 2)

    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.jit(jax.grad(loss))(params)))


def test_minilm_has_the_published_number_of_parameters():
    """22.7 million with the pooler, of 384² + 384, that is left."""
    shapes = jax.eval_shape(lambda: minilm_l6().init(jax.random.key(0), jnp.zeros((1, 4), jnp.int32), False))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 22_713_216 - 384**2 - 384


def test_weights_of_another_bert_are_refused(tmp_path):
    weights = {name: np.ascontiguousarray(array) for name, array in oracle.weights().items()}
    save_file(weights, tmp_path / "small.safetensors")
    with pytest.raises(InputError, match="no known architecture"):
        load_trunk(str(tmp_path / "small.safetensors"))
    with pytest.raises(InputError, match=r"the target float32\[1536"):
        load_trunk(f"minilm_l6:{tmp_path / 'small.safetensors'}")


def at_hand():
    source = TRUNKS["minilm_l6"].source
    return (files.default_directory() / "weights" / source.kept).is_file()


@pytest.mark.slow
@pytest.mark.skipif(not at_hand(), reason="its weights have not been fetched")
def test_cosines_are_those_of_the_model_card():
    """Which genuine weights give, read by the right map, and tokens that are theirs."""
    from jaxtl.models.tokens import Tokenizer

    trunk = load_trunk("minilm_l6")
    texts = ["That is a happy person", "That is a happy dog", "That is a very happy person", "Today is a sunny day"]
    assert trunk.tokenizer is not None
    tokens = Tokenizer(trunk.tokenizer, 256).rows(texts)[0]
    features = encoded(trunk.params, tokens, trunk.model)
    np.testing.assert_allclose(features[1:] @ features[0], [0.6946, 0.9429, 0.2569], atol=5e-5)
