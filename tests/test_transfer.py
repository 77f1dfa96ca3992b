"""What is copied, what is not, and the refusals; every refusal names the parameter or the rule."""

from collections import OrderedDict
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from flax.core import FrozenDict
from problems import TASK, assert_close, batch, forward, network, wave

from jaxtl.errors import InputError
from jaxtl.labels import NEW, TRANSFERRED
from jaxtl.losses import make_loss_fn
from jaxtl.optimizers import Group, per_label
from jaxtl.step import Fixed, compile_step, init_state, make_train_step, total_gradient
from jaxtl.transfer import channels_last, matching_classes, repeat_channels, sum_channels, transfer
from jaxtl.trees import named_leaves

SOURCE, FRESH = network(0.7), network(1.9)
HEAD = ("head/.*",)


def test_what_matches_is_copied_and_labelled_transferred():
    moved = transfer(SOURCE, FRESH, reinit=HEAD)
    assert_close(moved.params, {"trunk": SOURCE["trunk"], "head": FRESH["head"]}, rtol=0, atol=0)
    assert moved.labels == {
        "trunk": {"kernel": TRANSFERRED, "bias": TRANSFERRED},
        "head": {"kernel": NEW, "bias": NEW},
    }
    assert moved.report.copied == ("trunk/bias", "trunk/kernel")
    assert moved.report.reinitialised == ("head/bias", "head/kernel")
    assert moved.report.unused == ("head/bias", "head/kernel")
    assert moved.report.renamed == moved.report.adapted == {}


def test_the_anchor_is_the_source_and_zero_where_nothing_was_copied():
    anchor = transfer(SOURCE, FRESH, reinit=HEAD).anchor
    assert_close(anchor["trunk"], SOURCE["trunk"], rtol=0, atol=0)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(anchor["head"]))
    assert jax.tree.structure(anchor) == jax.tree.structure(FRESH)


def test_the_anchor_survives_the_training_of_the_parameters():
    source = network(0.7)
    moved = transfer(source, FRESH, reinit=HEAD)
    tx = per_label(moved.labels, {TRANSFERRED: Group(0.1), NEW: Group(0.1)})
    step = compile_step(make_train_step(total_gradient(make_loss_fn(forward, TASK)), tx))
    step(init_state(moved.params, tx, jax.random.key(0)), batch(), Fixed())
    for leaf in jax.tree.leaves((source, moved.params["trunk"])):
        leaf.delete()  # as a caller does who donates them elsewhere
    assert_close(moved.anchor["trunk"], network(0.7)["trunk"], rtol=0, atol=0)


def test_renaming_moves_a_whole_module():
    target = {"trunk": FRESH["trunk"], "source_head": FRESH["head"]}
    moved = transfer(SOURCE, target, rename=[("head/(.*)", r"source_head/\1")])
    assert_close(moved.params["source_head"], SOURCE["head"], rtol=0, atol=0)
    assert moved.report.renamed == {"source_head/bias": "head/bias", "source_head/kernel": "head/kernel"}
    assert moved.report.unused == ()
    assert moved.labels["source_head"]["bias"] == TRANSFERRED


def test_renaming_may_wrap_everything():
    moved = transfer(SOURCE, {"model": FRESH}, rename=[("(.*)", r"model/\1")])
    assert_close(moved.params["model"], SOURCE, rtol=0, atol=0)


def test_the_first_renaming_wins():
    rules = [("head/kernel", "a"), ("head/(.*)", r"b/\1")]
    moved = transfer({"head": SOURCE["head"]}, {"a": FRESH["head"]["kernel"], "b": {"bias": jnp.ones(3)}}, rename=rules)
    assert moved.report.renamed == {"a": "head/kernel", "b/bias": "head/bias"}


def test_the_report_in_words():
    target = FRESH | {"body": {"kernel": FRESH["trunk"]["kernel"]}}
    del target["trunk"]
    moved = transfer(SOURCE, target, rename=[("trunk/kernel", "body/kernel")], reinit=["head/kernel"])
    assert str(moved.report).splitlines() == [
        "copied (1): head/bias",
        "renamed (1): trunk/kernel -> body/kernel",
        "re-initialised (1): head/kernel",
        "unused in the source (2): head/kernel, trunk/bias",
    ]


def test_an_nnx_state_is_transferred_as_it_is():
    source, fresh = (nnx.state(nnx.Linear(4, 3, rngs=nnx.Rngs(seed)), nnx.Param) for seed in (0, 1))
    moved = transfer(source, fresh, reinit=["bias"])
    assert jax.tree.structure(moved.params) == jax.tree.structure(fresh)
    assert moved.report.copied == ("kernel",)
    assert_close(moved.params, source)  # both biases start at 0


# --- adaptations ---


def convolve(images, kernel):
    return jax.lax.conv_general_dilated(images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def test_repeated_channels_see_a_colour_image_as_the_source_sees_its_mean():
    grey, image = wave(0.7, 3, 3, 1, 5), wave(0.3, 2, 6, 6, 3)
    kernel, from_source = repeat_channels(grey, jnp.zeros((3, 3, 3, 5)))
    assert from_source
    expected = convolve(image.mean(axis=-1, keepdims=True), grey)
    np.testing.assert_allclose(convolve(image, kernel), expected, rtol=1e-5, atol=1e-5)


def test_channels_of_flattened_images_are_neighbours():
    grey, image = wave(0.7, 4 * 6, 5), wave(0.3, 2, 4, 6, 3)
    kernel, _ = repeat_channels(grey, jnp.zeros((4 * 6 * 3, 5)))
    expected = image.mean(axis=-1).reshape(2, -1) @ grey
    np.testing.assert_allclose(image.reshape(2, -1) @ kernel, expected, rtol=1e-5, atol=1e-5)
    back, _ = sum_channels(kernel, grey)
    np.testing.assert_allclose(back, grey, rtol=1e-6)


@pytest.mark.parametrize(
    ("few", "many"),
    [((3, 3, 2, 5), (3, 3, 4, 5)), ((3, 3, 1, 5), (5, 5, 3, 5)), ((4, 5), (6, 5)), ((4, 5), (8, 6)), ((4,), (8,))],
)
def test_kernels_of_other_layers_are_refused(few, many):
    few, many = jnp.zeros(few), jnp.zeros(many)
    with pytest.raises(InputError, match="repeated over channels is not"):
        repeat_channels(few, many)
    with pytest.raises(InputError, match="summed over channels is not"):
        sum_channels(many, few)


def test_summed_channels_see_a_grey_image_as_the_source_sees_it_in_colour():
    colour, grey = wave(0.7, 3, 3, 3, 5), jnp.zeros((3, 3, 1, 5))
    moved = transfer({"conv": {"kernel": colour}}, {"conv": {"kernel": grey}}, adapt=[("conv/kernel", sum_channels)])
    image = wave(0.3, 2, 6, 6, 1)
    repeated = jnp.repeat(image, 3, axis=-1)
    np.testing.assert_allclose(
        convolve(image, moved.params["conv"]["kernel"]), convolve(repeated, colour), rtol=1e-5, atol=1e-5
    )
    assert moved.labels["conv"]["kernel"] == TRANSFERRED
    assert_close(moved.anchor, moved.params, rtol=0, atol=0)
    assert moved.report.adapted == {"conv/kernel": "conv/kernel"}


def test_matching_classes_copies_the_columns_of_shared_names():
    rule = matching_classes(("cat", "dog", "ship"), ("truck", "ship", "cat", "frog"))
    target = {"kernel": wave(0.2, 5, 4), "bias": wave(0.4, 4)}
    moved = transfer({"head": SOURCE["head"]}, {"head": target}, adapt=[("head/.*", rule)])
    for leaf in ("kernel", "bias"):
        source, fresh = np.asarray(SOURCE["head"][leaf]), np.asarray(target[leaf])
        columns = [fresh[..., 0], source[..., 2], source[..., 0], fresh[..., 3]]
        np.testing.assert_array_equal(moved.params["head"][leaf], np.stack(columns, -1))
        columns = [0 * fresh[..., 0], source[..., 2], source[..., 0], 0 * fresh[..., 3]]
        np.testing.assert_array_equal(moved.anchor["head"][leaf], np.stack(columns, -1))
    assert moved.labels == {"head": {"kernel": NEW, "bias": NEW}}


def test_a_head_whose_classes_all_match_is_transferred():
    rule = matching_classes(("cat", "dog", "ship"), ("ship", "cat"))
    target = {"head": {"kernel": jnp.zeros((5, 2)), "bias": jnp.zeros(2)}}
    moved = transfer({"head": SOURCE["head"]}, target, adapt=[("head/.*", rule)])
    assert moved.labels == {"head": {"kernel": TRANSFERRED, "bias": TRANSFERRED}}
    assert_close(moved.anchor, moved.params, rtol=0, atol=0)


# --- trees of other kinds ---


class Backwards(NamedTuple):
    kernel: Any
    bias: Any


@pytest.mark.parametrize("kind", [FrozenDict, OrderedDict, lambda tree: {k: Backwards(**v) for k, v in tree.items()}])
def test_trees_of_other_kinds_are_paired_by_path(kind):
    source, fresh = (kind({name: tree[name] for name in ("trunk", "head")}) for tree in (SOURCE, FRESH))
    for theirs, ours in ((source, FRESH), (SOURCE, fresh), (source, fresh)):
        moved = transfer(theirs, ours, reinit=HEAD)
        assert jax.tree.structure(moved.params) == jax.tree.structure(moved.anchor) == jax.tree.structure(ours)
        found, expected = named_leaves(moved.params), named_leaves({"trunk": SOURCE["trunk"], "head": FRESH["head"]})
        assert found.keys() == expected.keys()
        assert all(np.array_equal(found[path], leaf) for path, leaf in expected.items())
        assert {path: label for path, label in named_leaves(moved.labels).items() if label == NEW} == {
            "head/bias": NEW,
            "head/kernel": NEW,
        }


# --- weights of PyTorch ---

torch_names = [(r"(.*)weight", r"\1kernel")]


def side_by_side():
    """A layer of PyTorch, the same layer of Flax, and the shape of what it sees, channels first; all of equal sizes."""
    nn = pytest.importorskip("torch").nn
    valid = {"padding": "VALID"}
    return {
        "Linear": (nn.Linear(6, 6), linen.Dense(6), (4, 6)),
        "Conv1d": (nn.Conv1d(3, 3, 3), linen.Conv(3, (3,), **valid), (2, 3, 8)),
        "Conv2d": (nn.Conv2d(3, 3, 3), linen.Conv(3, (3, 3), **valid), (2, 3, 8, 8)),
        "Conv3d": (nn.Conv3d(3, 3, 3), linen.Conv(3, (3, 3, 3), **valid), (2, 3, 5, 5, 5)),
        "grouped": (
            nn.Conv2d(6, 6, 3, groups=2),
            linen.Conv(6, (3, 3), feature_group_count=2, **valid),
            (2, 6, 8, 8),
        ),
        "depthwise": (
            nn.Conv2d(3, 3, 3, groups=3),
            linen.Conv(3, (3, 3), feature_group_count=3, **valid),
            (2, 3, 8, 8),
        ),
        "ConvTranspose2d": (
            nn.ConvTranspose2d(3, 3, 3, stride=2),
            linen.ConvTranspose(3, (3, 3), (2, 2), transpose_kernel=True, **valid),
            (2, 3, 5, 5),
        ),
    }


@pytest.mark.parametrize("layer", ["Linear", "Conv1d", "Conv2d", "Conv3d", "grouped", "depthwise", "ConvTranspose2d"])
def test_a_layer_of_pytorch_computes_the_same_in_its_layout_and_is_refused_without(layer):
    torch = pytest.importorskip("torch")
    theirs, ours, shape = side_by_side()[layer]
    source = {name: leaf.detach().numpy() for name, leaf in theirs.state_dict().items()}
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    fresh = ours.init(jax.random.key(0), np.moveaxis(x, 1, -1))["params"]
    moved = transfer(source, fresh, rename=torch_names, layout="torch")
    found = np.moveaxis(np.asarray(ours.apply({"params": moved.params}, np.moveaxis(x, 1, -1))), -1, 1)
    np.testing.assert_allclose(found, theirs(torch.from_numpy(x)).detach().numpy(), rtol=1e-4, atol=1e-5)
    assert moved.report.adapted == {"kernel": "weight"}
    assert moved.report.copied == ("bias",)
    assert moved.labels == {"kernel": TRANSFERRED, "bias": TRANSFERRED}
    with pytest.raises(InputError, match=r"^kernel: 'weight' is named as PyTorch names.*\n.*layout='torch'"):
        transfer(source, fresh, rename=torch_names)


def test_embeddings_and_scales_of_pytorch_are_copied_as_they_are():
    torch = pytest.importorskip("torch")
    numbers, x = np.array([[1, 4], [0, 2]]), np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    layers = {
        "embed": (torch.nn.Embedding(5, 5), linen.Embed(5, 5), numbers, "embedding"),
        "norm": (torch.nn.LayerNorm(5), linen.LayerNorm(epsilon=1e-5), x, "scale"),
    }
    for theirs, ours, data, leaf in layers.values():
        torch.nn.init.normal_(theirs.weight)
        source = {name: value.detach().numpy() for name, value in theirs.state_dict().items()}
        fresh = ours.init(jax.random.key(0), data)["params"]
        moved = transfer(source, fresh, rename=[("weight", leaf)])
        expected = theirs(torch.from_numpy(data)).detach().numpy()
        np.testing.assert_allclose(ours.apply({"params": moved.params}, data), expected, rtol=1e-4, atol=1e-5)
        assert moved.report.renamed == {leaf: "weight"}


def test_a_network_of_pytorch_is_moved_with_its_flattening_its_head_and_grey_pictures():
    torch = pytest.importorskip("torch")
    nn = torch.nn
    theirs = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 3 * 2, 7), nn.ReLU(), nn.Linear(7, 3)
    )
    source = {name: leaf.detach().numpy() for name, leaf in theirs.state_dict().items()}
    ours = linen.Sequential(
        [
            linen.Conv(4, (3, 3), padding="VALID"),
            linen.relu,
            lambda x: x.reshape(len(x), -1),
            linen.Dense(7),
            linen.relu,
            linen.Dense(2),
        ]
    )
    grey = np.random.default_rng(0).normal(size=(5, 5, 4, 1)).astype(np.float32)
    fresh = ours.init(jax.random.key(0), grey)["params"]
    moved = transfer(
        source,
        fresh,
        rename=[
            (rf"{at}\.{old}", f"layers_{at}/{new}")
            for at in "035"
            for old, new in (("weight", "kernel"), ("bias", "bias"))
        ],
        adapt=[
            ("layers_0/kernel", sum_channels),
            ("layers_3/kernel", channels_last(3, 2)),
            ("layers_5/.*", matching_classes(("cat", "dog", "ship"), ("ship", "cat"))),
        ],
        layout="torch",
    )
    colour = torch.from_numpy(np.repeat(grey, 3, -1).transpose(0, 3, 1, 2).copy())
    expected = theirs(colour).detach().numpy()[:, [2, 0]]
    np.testing.assert_allclose(ours.apply({"params": moved.params}, grey), expected, rtol=1e-4, atol=1e-5)


SQUARE = np.arange(9, dtype=np.float32).reshape(3, 3)


@pytest.mark.parametrize(
    "name",
    [
        "weight",
        "layer.0.weight",
        "layer/0/weight",
        "rnn.weight_ih_l0",
        "rnn.weight_hh_l1_reverse",
        "attention.in_proj_weight",
        "conv.weight_v",
        "fc.parametrizations.weight.original1",
        "fc.weight_orig",
    ],
)
@pytest.mark.parametrize("target", ["kernel", "dense/kernel", "lstm/recurrent_kernel", "linear/w"])
def test_any_square_weight_of_pytorch_is_refused_until_its_layout_is_said(name, target):
    source, fresh = named_tree(name, SQUARE), named_tree(target, np.zeros_like(SQUARE))
    rename = [(".*", target)]
    with pytest.raises(InputError, match=f"^{target}: '{name}' is named as PyTorch") as error:
        transfer(source, fresh, rename=rename)
    assert len(str(error.value).splitlines()) == 2
    turned = transfer(source, fresh, rename=rename, layout="torch")
    np.testing.assert_array_equal(named_leaves(turned.params)[target], SQUARE.T)
    as_it_is = transfer(source, fresh, rename=rename, adapt=[(".*", lambda source, target: (source, True))])
    np.testing.assert_array_equal(named_leaves(as_it_is.params)[target], SQUARE)


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("kernel", "kernel"),
        ("weight", "layer/weight"),
        ("weight", "embedding"),
        ("weight", "position_embeddings"),
        ("weights/kernel", "kernel"),
        ("weight_decoder/kernel", "kernel"),
        ("unweighted", "kernel"),
    ],
)
def test_what_is_no_kernel_of_pytorch_is_copied_as_it_is(name, target):
    moved = transfer(named_tree(name, SQUARE), named_tree(target, np.zeros_like(SQUARE)), rename=[(".*", target)])
    np.testing.assert_array_equal(named_leaves(moved.params)[target], SQUARE)


def named_tree(path, leaf):
    for part in reversed(path.split("/")):
        leaf = {part: leaf}
    return leaf


def test_features_that_do_not_divide_are_refused():
    rule = [("kernel", channels_last(2, 2))]
    for source in (np.zeros((6, 2)), np.zeros(4)):
        with pytest.raises(InputError, match=r"^kernel: channels_last: .* has no 2×2 features"):
            transfer({"kernel": source}, {"kernel": np.zeros_like(source)}, adapt=rule)


# --- NaN and infinity ---


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, jnp.bfloat16, np.float64, np.complex64])
def test_weights_that_are_no_numbers_are_refused_with_all_their_paths(wrong, dtype):
    source = {name: {"kernel": np.ones((2, 3), dtype), "bias": np.ones(3, dtype)} for name in ("a", "b", "c")}
    source["a"]["kernel"][1, 2] = source["b"]["bias"][0] = wrong
    fresh = jax.tree.map(np.zeros_like, source)
    with pytest.raises(InputError, match=r"^transfer: the source has NaN or infinity in a/kernel, b/bias\n"):
        transfer(source, fresh)
    moved = transfer(source, fresh, reinit=["a/kernel", "b/.*"])  # what is not copied may be anything
    assert moved.report.copied == ("a/bias", "c/bias", "c/kernel")
    if dtype in (np.float32, jnp.bfloat16):
        with pytest.raises(InputError, match="NaN or infinity in a/kernel, b/bias"):
            transfer(jax.tree.map(jnp.asarray, source), fresh)


def test_numbers_beyond_float32_are_finite_and_integers_are_not_asked():
    source = {"a": np.full(2, 1e300), "count": np.ones(2, np.int32), "flag": np.ones(2, bool)}
    with jax.enable_x64(True):
        assert transfer(source, jax.tree.map(np.zeros_like, source)).anchor["a"].tolist() == [1e300, 1e300]


def test_a_sum_that_overflows_is_refused():
    source = {"kernel": jnp.full((1, 1, 3, 2), 3e4, jnp.float16)}
    with pytest.raises(InputError, match="NaN or infinity in kernel"):
        transfer(source, {"kernel": jnp.zeros((1, 1, 1, 2), jnp.float16)}, adapt=[("kernel", sum_channels)])


def test_a_transfer_may_be_traced():
    moved = jax.jit(lambda source: transfer(source, FRESH, reinit=HEAD).params)(SOURCE)
    assert_close(moved, transfer(SOURCE, FRESH, reinit=HEAD).params, rtol=0, atol=0)


# --- refusals ---


def wider(leaf="kernel", shape=(5, 7)):
    return FRESH | {"head": FRESH["head"] | {leaf: jnp.zeros(shape)}}


@pytest.mark.parametrize(
    ("source", "target", "settings", "message"),
    [
        (
            {"trunk": SOURCE["trunk"]},
            FRESH,
            {},
            r"^head/bias: the source has no such parameter\n  reinit=\('head/bias'",
        ),
        (SOURCE, wider(), {}, r"^head/kernel: the source has float32\[5, 3\], the target float32\[5, 7\]\n  reinit="),
        (
            SOURCE,
            jax.tree.map(lambda w: w.astype(jnp.bfloat16), FRESH),
            {},
            r"^head/bias: the source has float32\[3\], the target bfloat16\[3\]",
        ),
        (SOURCE, FRESH, {"reinit": ["haed/.*"]}, r"^reinit: 'haed/\.\*' matches nothing\n  the paths are head/bias"),
        (SOURCE, FRESH, {"rename": [("haed/(.*)", "x")]}, r"^rename: 'haed/\(\.\*\)' matches nothing"),
        (SOURCE, FRESH, {"adapt": [("haed", sum_channels)]}, "^adapt: 'haed' matches nothing"),
        (SOURCE, FRESH, {"rename": [("head/bias", "head/kernel")]}, "^rename: .* would both become 'head/kernel'"),
        (SOURCE, FRESH, {"rename": [("head/bias", r"\7")]}, "^rename: .* is not a replacement"),
        (SOURCE, FRESH, {"rename": [("(", "x")]}, r"^rename: '\(' is not a regular expression"),
        (SOURCE, FRESH, {"reinit": [".*"]}, "^transfer: nothing was copied"),
        (
            SOURCE,
            FRESH,
            {"reinit": "head/.*"},
            r"^reinit: this is no list of regular.*\n  write reinit=\['head/\.\*'\]",
        ),
        (SOURCE, FRESH, {"reinit": [("head/.*", None)]}, "^reinit: this is no list of regular expressions"),
        (SOURCE, FRESH, {"rename": {"head/(.*)": "x"}}, "^rename: this is no list of pairs"),
        (SOURCE, FRESH, {"rename": ("head/(.*)", "x")}, "^rename: this is no list of pairs"),
        (SOURCE, FRESH, {"adapt": ("head/.*", sum_channels)}, "^adapt: this is no list of pairs"),
        (SOURCE, FRESH, {"layout": "keras"}, "^transfer layout: unknown: 'keras'\n  'flax' or 'torch'"),
        (SOURCE, FRESH, {"layout": "torch"}, "^transfer layout='torch': no leaf that PyTorch calls 'weight' becomes"),
        (SOURCE, FRESH, {"reinit": ["head/.*", "head/bias"]}, "^reinit: 'head/bias' matches nothing"),
        (SOURCE, wider(), {"adapt": [("head/kernel", sum_channels)]}, "^head/kernel: sum_channels: float32"),
        (
            SOURCE,
            wider(),
            {"adapt": [("head/kernel", matching_classes("abc", "abx"))]},
            r"^head/kernel: matching_classes: float32\[5, 7\] has not 3 classes",
        ),
        (
            SOURCE,
            wider(),
            {"adapt": [("head/kernel", lambda source, target: (source, True))]},
            r"^head/kernel: the adaptation made float32\[5, 3\], the target is float32\[5, 7\]",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_its_path(source, target, settings, message):
    with pytest.raises(InputError, match=message) as error:
        transfer(source, target, **settings)
    assert str(error.value).count("\n") <= 1


def test_class_lists_without_a_common_name_are_refused():
    with pytest.raises(InputError, match="matching_classes: cat, dog and ship have no class in common"):
        matching_classes(("cat", "dog"), ("ship",))
