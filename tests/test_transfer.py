"""What is copied, what is not, and the refusals; every refusal names the parameter or the rule."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from problems import TASK, assert_close, batch, forward, network, wave

from jaxtl.errors import InputError
from jaxtl.labels import NEW, TRANSFERRED
from jaxtl.losses import make_loss_fn
from jaxtl.optimizers import Group, per_label
from jaxtl.step import Fixed, compile_step, init_state, make_train_step, total_gradient
from jaxtl.transfer import matching_classes, sum_channels, transfer

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
