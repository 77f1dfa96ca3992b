"""Run by test_backend.py in a process with eight devices: steps on all of them are the steps on one."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec

from jaxtl.backend import data_mesh, split_batches
from jaxtl.losses import make_loss_fn, mean_of, softmax_cross_entropy
from jaxtl.models import Classifier, Cnn, as_forward, initial_model_state, initialise
from jaxtl.penalties import Term, l2, labelled
from jaxtl.step import Fixed, compile_step, init_state, make_epoch, make_train_step, total_gradient

STEPS, SHAPE = 3, (8, 8, 3)


def covariance(outputs, batch, ctx):
    """Not a mean over examples: a device by itself would get another gradient."""
    centred = outputs["features"] - jnp.mean(outputs["features"], axis=0, keepdims=True)
    return jnp.sum((centred.T @ centred / len(centred)) ** 2)


def sampled(data, rng, step):
    """16 of the examples, with noise."""
    chosen = jax.random.randint(rng, (16,), 0, len(data["label"]))
    image = data["image"][chosen]
    return {"image": image + 0.1 * jax.random.normal(rng, image.shape), "label": data["label"][chosen]}


def ended(mesh=None):
    """Parameters, statistics and metrics after a few steps in one dispatch."""
    model = Classifier(Cnn((8, 8), "batch"), (("head", 4),))
    params = initialise(model, jax.random.key(0), SHAPE)
    penalty = labelled(jax.tree.map(lambda _: "all", params), {"all": Term(0.1, l2)})
    terms = {"task": Term(1.0, mean_of(softmax_cross_entropy)), "covariance": Term(0.1, covariance)}
    tx = optax.sgd(0.1, 0.9)
    prepare = sampled if mesh is None else split_batches(sampled, mesh)
    step = make_train_step(total_gradient(make_loss_fn(as_forward(model), terms, penalty)), tx, prepare)
    data = {"image": jax.random.normal(jax.random.key(1), (40, *SHAPE)), "label": jnp.arange(40) % 4}
    state = init_state(params, tx, jax.random.key(2), initial_model_state(model, SHAPE))
    run = compile_step(make_epoch(step, STEPS), mesh).lower(state, data, Fixed()).compile()
    if mesh is not None:
        assert "f32[2,8,8,3]" in run.as_text(), "no device works on two of the sixteen images"
        state, data = jax.device_put((state, data), NamedSharding(mesh, PartitionSpec()))
    state, metrics = run(state, data, Fixed())
    return state.params, state.model_state, metrics


def main():
    assert jax.device_count() == 8
    together, alone = ended(data_mesh()), ended()
    assert len(jax.tree.leaves(together)[0].sharding.device_set) == 8
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), together, alone)


if __name__ == "__main__":
    main()
    print("equal")
