"""Pretrained trunks: architectures, their maps of names against PyTorch, files that are the right ones or refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import torch_trunks as oracle
from safetensors.numpy import save_file

from jaxtl.errors import InputError
from jaxtl.models import Classifier, ResidualNetwork, cut, depthwise
from jaxtl.models.convnext import ConvNext
from jaxtl.models.efficientnet import EfficientNetLite, Stage, efficientnet_lite0
from jaxtl.models.pretrained import load_trunk, with_heads
from jaxtl.models.torch_names import ARCHITECTURES
from jaxtl.models.transformers import VisionTransformer
from jaxtl.trees import map_named


def shapes_of(model, edge):
    """All variables of a model, without the minutes that drawing them takes to compile."""
    return dict(jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, edge, edge, 3)), False)))


def made_up(shapes):
    return map_named(lambda path, leaf: jnp.asarray(oracle.wave(path, leaf.shape) / 5 + (leaf.ndim == 1)), shapes)


def test_efficientnet_lite0_has_the_published_number_of_parameters():
    """4.65 million with its head for 1,000 classes."""
    shapes = shapes_of(Classifier(efficientnet_lite0(), (("head", 1000),)), 96)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == 4_652_008


SMALL = Classifier(EfficientNetLite((Stage(1, 3, 1, 1, 8), Stage(2, 3, 2, 2, 12)), 8, 16), (("head", 3),))


CUT = {  # trunk, depth, shape below
    "efficientnet, early": (SMALL.trunk, 1, (2, 9, 9, 8)),
    "efficientnet, below the top": (SMALL.trunk, 2, (2, 5, 5, 12)),
    "residual": (ResidualNetwork(8, (8, 16), (1, 1), False, "batch", bottleneck=True, large=True), 1, (2, 5, 5, 8)),
    "convnext": (ConvNext((8, 12), (1, 1)), 1, (2, 4, 4, 8)),
    "transformer": (VisionTransformer(16, 2, 2, 4, 17), 1, (2, 17, 16)),
}


@pytest.mark.parametrize("kind", CUT)
def test_a_trunk_that_is_cut_computes_the_same(kind):
    trunk, depth, shape = CUT[kind]
    model = Classifier(trunk, (("head", 3),))
    variables, images = made_up(shapes_of(model, 17)), jnp.asarray(oracle.images(17))
    below, above = cut(model, depth)
    of_trunk = {name: tree["trunk"] for name, tree in variables.items()}
    whole = jax.jit(lambda: model.apply(variables, images, False))()
    kept = jax.jit(lambda: below.apply(of_trunk, images, False)[0])()
    rest = jax.jit(lambda: above.apply(variables, kept, False))()
    assert kept.shape == shape
    assert trunk.stage_names == tuple(sorted(whole["taps"]))
    np.testing.assert_allclose(rest["head"], whole["head"], rtol=1e-4, atol=1e-4)


def test_a_step_of_training_moves_weights_and_averages(monkeypatch):
    monkeypatch.setattr(depthwise, "TERMS", 3)  # compiles sooner
    variables, images = made_up(shapes_of(SMALL, 17)), jnp.asarray(oracle.images(17))

    @jax.jit
    def step(variables):
        def loss(params):
            out, state = SMALL.apply(variables | {"params": params}, images, True, mutable=["batch_stats"])
            return jnp.mean(out["head"] ** 2), state

        return jax.grad(loss, has_aux=True)(variables["params"])

    gradients, state = step(variables)
    assert all(jnp.isfinite(leaf).all() and (leaf != 0).any() for leaf in jax.tree.leaves(gradients))
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), state["batch_stats"], variables["batch_stats"])
    assert all(jax.tree.leaves(moved))


# --- files of PyTorch ---


LONG = {"resnet34", "resnet50", "vit_s16", "vit_b16", "convnext_tiny"}  # seconds each
NETWORKS = [pytest.param(name, marks=pytest.mark.slow if name in LONG else ()) for name in oracle.NETWORKS]


@pytest.fixture(scope="module")
def stored():
    with np.load(oracle.STORED) as file:
        return dict(file)


def written(path, weights):
    save_file({name: np.ascontiguousarray(array) for name, array in weights.items()}, path)
    return str(path)


@pytest.mark.parametrize("name", NETWORKS)
def test_features_are_those_of_pytorch(tmp_path, stored, name):
    """From a file of which only the names tell what it is; running means and variances belong to it."""
    trunk = load_trunk(written(tmp_path / "weights.safetensors", oracle.state_dict(stored, name)))
    assert (trunk.name, trunk.features) == (name, stored[f"{name}/features"].shape[1])
    assert trunk.origin.startswith(f"{ARCHITECTURES[name].title} from weights.safetensors, sha256 ")
    images = jnp.asarray(oracle.images(oracle.EDGES[name]))
    variables = {"params": trunk.params, **trunk.model_state}
    features = jax.jit(lambda variables: trunk.model.apply(variables, images, False)[0])(variables)
    np.testing.assert_allclose(features, stored[f"{name}/features"], rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", oracle.NETWORKS)
def test_the_stored_figures_are_those_of_pytorch(stored, name):
    pytest.importorskip("torch")
    for part, array in oracle.results(name).items():
        if part == "features":
            np.testing.assert_allclose(stored[f"{name}/{part}"], array, rtol=0, atol=2e-5)
        else:
            np.testing.assert_array_equal(stored[f"{name}/{part}"], array)


def test_heads_on_a_trunk(tmp_path, stored):
    weights = oracle.state_dict(stored, "efficientnet_lite0")
    trunk = load_trunk(written(tmp_path / "weights.safetensors", weights))
    model, params, state = with_heads(trunk, (("head", 3), ("source_head", 5)), jax.random.key(0))
    shapes = shapes_of(model, 40)
    assert jax.tree.map(jnp.shape, {"params": params, **state}) == jax.tree.map(jnp.shape, shapes)
    assert jnp.abs(params["head"]["kernel"][:, :3] - params["source_head"]["kernel"][:, :3]).max() > 0
    assert jax.eval_shape(
        lambda: cut(model, 7)[0].apply({"params": trunk.params, **trunk.model_state}, jnp.zeros((1, 40, 40, 3)), False)
    )[0].shape == (1, 2, 2, 320)
    assert trunk.stages[:7] == tuple(f"stage_{i}" for i in range(7))


def test_wrappings_of_training_scripts(tmp_path, stored):
    torch = pytest.importorskip("torch")
    weights = {
        f"module.{name}": torch.tensor(array) for name, array in oracle.state_dict(stored, "efficientnet_lite0").items()
    }
    torch.save({"state_dict": weights, "epoch": 3}, tmp_path / "run.pth")
    trunk = load_trunk(str(tmp_path / "run.pth"))
    np.testing.assert_array_equal(
        trunk.params["stem"]["kernel"], weights["module._conv_stem.weight"].permute(2, 3, 1, 0)
    )


def broken(weights, kind):
    """What a file may have wrong, and what is said of it."""
    if kind == "missing":
        del weights["_blocks.3._bn1.running_var"]
    elif kind == "foreign":
        weights["attention.weight"] = np.zeros((2, 2), np.float32)
    elif kind == "turned":
        weights["_blocks.1._expand_conv.weight"] = weights["_blocks.1._expand_conv.weight"].transpose(2, 3, 1, 0)
    elif kind == "nan":
        weights["_bn1.bias"] = np.full_like(weights["_bn1.bias"], np.nan)
    return weights


@pytest.mark.parametrize(
    ("kind", "said", "recognised"),
    [
        ("missing", "the source has no such parameter", False),
        ("foreign", "attention.weight", False),
        ("turned", r"the source has float32\[96, 16, 1, 1\]|the target float32\[1, 1, 16, 96\]", True),
        ("nan", "NaN or infinity", True),
    ],
)
def test_weights_that_do_not_fit_are_refused(tmp_path, stored, kind, said, recognised):
    path = written(tmp_path / "w.safetensors", broken(oracle.state_dict(stored, "efficientnet_lite0"), kind))
    with pytest.raises(InputError, match=said if recognised else "no known architecture"):
        load_trunk(path)
    with pytest.raises(InputError, match=said):
        load_trunk(f"efficientnet_lite0:{path}")


@pytest.mark.parametrize(
    "name",
    ["efficientnet_lite1", "efficientnet_lite0:", "no/such.pth", "efficientnet_lite0:no.pth", "x" * 5000, "a\0b"],
)
def test_names_and_paths_that_are_none(name):
    with pytest.raises(InputError) as caught:
        load_trunk(name)
    assert len(str(caught.value).splitlines()) == 2
