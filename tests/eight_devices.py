"""Run by test_placement.py in a process with eight devices: steps on all of them are the steps on one."""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl import checkpoints
from jaxtl.data import from_arrays, image_batches, on_device
from jaxtl.devices.placement import by_example, make_mesh
from jaxtl.labels import NEW, TRANSFERRED, label_params
from jaxtl.loop import fit
from jaxtl.losses import make_loss_fn, mean_of, softmax_cross_entropy
from jaxtl.models import Classifier, Cnn, as_forward, initial_model_state, initialise
from jaxtl.optimizers import Group, per_label
from jaxtl.penalties import Term, l2, labelled
from jaxtl.step import Fixed, init_state, make_train_step, total_gradient

MESHES = ["data:8"], ["parameters:8"], ["data:2", "parameters:4"]
SHAPE = (8, 8, 3)
MODEL = Classifier(Cnn((8, 32), "batch"), (("head", 4),))


def covariance(outputs, batch, ctx):
    """Not a mean over examples: a device by itself would get another gradient."""
    centred = outputs["features"] - jnp.mean(outputs["features"], axis=0, keepdims=True)
    return jnp.sum((centred.T @ centred / len(centred)) ** 2)


@functools.cache
def method():
    """(step, tx, parameters, data) with all that could go wrong on many devices: batch statistics, a loss between
    examples, an anchor, clipping, augmentation; 42 examples, which eight do not divide."""
    params = initialise(MODEL, jax.random.key(0), SHAPE)
    labels = label_params(params, [("trunk/.*", TRANSFERRED), ("head/.*", NEW)])
    penalty = labelled(labels, {TRANSFERRED: Term(0.1, l2, ("anchor",)), NEW: Term(0.1, l2)})
    terms = {"task": Term(1.0, mean_of(softmax_cross_entropy)), "covariance": Term(0.1, covariance)}
    tx = per_label(labels, {TRANSFERRED: Group(0.05), NEW: Group(0.1)}, "sgd", momentum=0.9, clip_norm=1.0)
    images = np.random.default_rng(0).integers(0, 256, (42, *SHAPE), np.uint8)
    data = from_arrays(images, np.arange(42) % 4)
    prepare = image_batches(16, np.full(3, 128.0), np.full(3, 64.0), crop=1, flip=True)
    step = make_train_step(total_gradient(make_loss_fn(as_forward(MODEL), terms, penalty)), tx, prepare)
    return step, tx, params, data


def trained(mesh=None, workdir=None, steps=4):
    """The state and history after a few steps of the method."""
    step, tx, params, data = method()
    return fit(
        step,
        init_state(params, tx, jax.random.key(2), initial_model_state(MODEL, SHAPE)),
        on_device(data.train, jax.random.key(3), sharding=by_example(mesh) if mesh else None),
        Fixed(given={"anchor": initialise(MODEL, jax.random.key(4), SHAPE)}),
        steps=steps,
        chunk=2,
        mesh=mesh,
        workdir=workdir,
    )


def assert_equal(some, other):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), some, other)


def figures(trained):
    state, history = trained
    return state.params, state.model_state, history


def main(workdir):
    assert jax.device_count() == 8
    alone = trained()
    for axes in MESHES:
        together = trained(make_mesh(axes))
        assert_equal(figures(together), figures(alone))
        state = together[0]
        kernel, momentum = state.params["trunk"]["conv_1"]["kernel"], jax.tree.leaves(state.opt_state)
        held = {part.data.size / kernel.size for part in kernel.addressable_shards}
        assert held == {1 / dict(make_mesh(axes).shape).get("parameters", 1)}, held
        assert len(kernel.sharding.device_set) == 8
        assert kernel.sharding in [leaf.sharding for leaf in momentum], "the momentum lies elsewhere"
    # half of a run on one mesh, the other half on the next, the end on one device
    trained(make_mesh(MESHES[1]), workdir, steps=2)
    trained(make_mesh(MESHES[0]), workdir, steps=4)
    trained(make_mesh(MESHES[2]), workdir, steps=6)
    assert checkpoints.latest_step(workdir) == 6
    assert_equal(trained(workdir=workdir, steps=8)[0].params, trained(steps=8)[0].params)


if __name__ == "__main__":
    main(sys.argv[1])
    print("equal")
