"""What a script of one's own can hand over in the wrong place, in one table: each is told in two lines.

Right calls of the same functions stand at the end: what is checked must not be too strict.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtl.data import DataSet, Split
from jaxtl.errors import InputError
from jaxtl.labels import having, label_params
from jaxtl.loop import fit
from jaxtl.losses import make_loss_fn, mean_of, softmax_cross_entropy
from jaxtl.models import Classifier, Cnn, Mlp, as_forward, initial_model_state, initialise
from jaxtl.optimizers import Group, per_label
from jaxtl.penalties import Term
from jaxtl.step import Fixed, compile_step, init_state, make_epoch, make_eval_step, make_train_step, total_gradient
from jaxtl.sweep import sweep

KEY = jax.random.key(0)
IMAGES, CLASSES = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32), np.arange(6) % 3
DATA = {"image": jnp.asarray(IMAGES), "label": jnp.asarray(CLASSES)}
MODEL = Classifier(Mlp((5,)), (("head", 3),))
PARAMS = initialise(MODEL, KEY, (4,))
LABELS = label_params(PARAMS, [("head/.*", "new"), (".*", "transferred")])
TX = per_label(LABELS, {"new": Group(0.1), "transferred": Group(0.01)})
TASK = {"task": Term(1.0, mean_of(softmax_cross_entropy))}
LOSS = make_loss_fn(as_forward(MODEL), TASK)
GRAD = total_gradient(LOSS)
STEP = make_train_step(GRAD, TX)
SPLIT = Split(IMAGES, CLASSES)
SET = DataSet("mine", SPLIT, SPLIT, ("a", "b", "c"), "here")


def state(params=PARAMS, tx=TX, model_state=None):
    return init_state(params, tx, KEY, model_state)


def run(step=STEP, start=None, data=DATA, fixed=Fixed(), **how):  # noqa: B008 (never changed)
    return fit(step, state() if start is None else start, data, fixed, **{"steps": 2} | how)


def used():
    """A state that a step was given."""
    start = state()
    compile_step(STEP)(start, DATA, Fixed())
    return start


def steps_of(model, params=None, model_state=None, shape=(4,), images=IMAGES, **how):
    """Train another model on the data."""
    params = initialise(model, KEY, shape) if params is None else params
    loss_fn = make_loss_fn(as_forward(model), TASK)
    step = make_train_step(total_gradient(loss_fn), optax.sgd(0.1))
    data = {"image": jnp.asarray(images), "label": DATA["label"]}
    return run(step, init_state(params, optax.sgd(0.1), KEY, model_state), data, **how)


class Bare(nn.Module):
    """Logits that are in no dict."""

    @nn.compact
    def __call__(self, images, train):
        return nn.Dense(3)(images)


class Alone(nn.Module):
    """A module that takes no `train`."""

    @nn.compact
    def __call__(self, images):
        return {"head": nn.Dense(3)(images)}


NORMED = Classifier(Cnn((4,), "batch"), (("head", 3),))
PICTURES = np.random.default_rng(0).normal(size=(6, 4, 4, 1)).astype(np.float32)


def batches():
    yield DATA


class Loader:
    """Like a torch DataLoader."""

    def __iter__(self):
        return batches()


def evaluating(what):
    return lambda: run(evaluate=lambda state: what, every=1)


def rate(value):
    return lambda: run(fixed=Fixed({"task": value}))


def reads(name):
    """A loss of one's own that reads a field of the batch."""
    return {"task": Term(1.0, mean_of(softmax_cross_entropy, target=name))}


def begin(point):
    return state(), {"task": point["rate"]}


def score(state, data, fixed):
    return jnp.float32(0)


def swept(init=begin, train=None, score=score, grid=None, data=DATA, given=None, **how):
    train = make_epoch(STEP, 2) if train is None else train
    grid = {"rate": [0.1, 0.2]} if grid is None else grid
    return sweep(init, train, score, grid, data, {} if given is None else given, **{"batching": "loop"} | how)


WRONG = {
    # the data of fit
    "a DataSet as data": (lambda: run(data=SET), "fit data: a DataSet is no array", "on_device"),
    "a Split as data": (lambda: run(data=SPLIT), "fit data: a Split is no array", "on_device"),
    "None as data": (lambda: run(data=None), "fit data: None is no data", "on_device"),
    "a DataLoader as data": (lambda: run(data=Loader()), "fit data: a Loader is no array", "on_device"),
    "a generator as data": (lambda: run(data=batches()), "fit data: a generator is no array", "on_device"),
    "a path as data": (lambda: run(data="images.npz"), "fit data: 'images.npz' is no array", "on_device"),
    "texts as labels": (lambda: run(data=DATA | {"label": np.array(list("abcabc"))}), "fit data, 'label'", "on_device"),
    "a Split in data": (lambda: run(data={"train": SPLIT}), "fit data, 'train': a Split is no array", "on_device"),
    "arrays without names": (lambda: run(data=(DATA["image"], DATA["label"])), "without 'image'", "dict"),
    "an image alone": (lambda: run(data=DATA["image"]), "float32[6, 4] without 'image'", "dict"),
    "a field under another name": (lambda: run(data={"x": 1, "y": 2}), "a dict without 'image'", "it holds x, y"),
    "no labels": (lambda: run(data={"image": DATA["image"]}), "the batch: a dict without 'label'", "it holds image"),
    "None as labels": (lambda: run(data=DATA | {"label": None}), "without 'label'", "it holds image, label"),
    # the other trees
    "params as state": (lambda: run(start=PARAMS), "fit state: a dict is no TrainState", "init_state"),
    "what fit returns as state": (lambda: run(start=run()), "fit state: a tuple is no TrainState", "init_state"),
    "a state used twice": (lambda: run(start=used()), "fit state, '", "go on with the state that came back"),
    "a state given to fit twice": (
        lambda: [run(start=start) for start in [state()] * 2],
        "these numbers are gone",
        "came back",
    ),
    "parameters that are gone": (lambda: init_state(used().params, TX, KEY), "init_state params, '", "make it anew"),
    "many states": (
        lambda: run(start=jax.vmap(lambda _: state())(jnp.arange(3))),
        "fit state: holds 3 runs",
        "Sweep.state",
    ),
    "the state of another optimizer": (
        lambda: run(start=state(tx=optax.adam(0.1))),
        "state.opt_state: is none of this step's optimizer",
        "take the same tx",
    ),
    "the state of momentum": (
        lambda: run(start=state(tx=optax.sgd(0.1, momentum=0.9))),
        "is none of this step's optimizer",
        "same tx",
    ),
    "a dict as fixed": (lambda: run(fixed={"task": 1.0}), "fit fixed: a dict is no Fixed", "Fixed(rates="),
    "None as fixed": (lambda: run(fixed=None), "fit fixed: None is no Fixed", "Fixed(rates="),
    "a list of rates": (lambda: run(fixed=Fixed([1.0])), "fit fixed.rates: a list is no dict", "{'name'"),
    "None as given": (lambda: run(fixed=Fixed({}, None)), "fit fixed.given: None is no dict", "{'name'"),
    "a text as given": (lambda: run(fixed=Fixed({}, {"anchor": "x"})), "fit fixed.given, 'anchor'", "arrays"),
    "a rate that is text": (rate("1e-3"), "rates['task']: '1e-3' is no number", "use one number"),
    "a rate that is None": (rate(None), "rates['task']: None is no number", "use one number"),
    "a rate that is a vector": (rate(jnp.ones(3)), "rates['task']: float32[3] is no number", "use one number"),
    "a rate that is a list": (rate([1.0, 2.0]), "rates['task']: a list is no number", "use one number"),
    "a rate without end": (rate(np.inf), "rates['task']: inf is not finite", "use one number"),
    "a rate that is NaN": (rate(np.nan), "rates['task']: nan is negative or NaN", "use a number"),
    # numbers and names of fit
    "steps that are text": (lambda: run(steps="10"), "fit steps: '10' is no whole number", ""),
    "steps that are a fraction": (lambda: run(steps=2.5), "fit steps: 2.5 is no whole number", ""),
    "steps that are None": (lambda: run(steps=None), "fit steps: None is no whole number", ""),
    "steps that are true": (lambda: run(steps=True), "fit steps: True is no whole number", ""),
    "no chunk": (lambda: run(chunk=0), "fit chunk: 0 is less than 1", ""),
    "a chunk that is text": (lambda: run(chunk="2"), "fit chunk: '2' is no whole number", ""),
    "a chunk larger than the run": (lambda: run(chunk=4), "fit steps: 2 is not a multiple of chunk=4", ""),
    "every is 0": (lambda: run(every=0), "fit every: 0 is less than 1", ""),
    "a mesh of words": (lambda: run(mesh=("data:2",)), "fit mesh: a tuple is no mesh", "make_mesh"),
    "a number as workdir": (lambda: run(workdir=3), "fit workdir: 3 is no path", "directory"),
    "print as log": (lambda: run(log=print), "has no write and rewind", "writers.Writer"),
    "true as progress": (lambda: run(progress=True), "fit progress: True is no name", "text"),
    "the best of nothing": (lambda: run(best="accuracy"), "evaluate returns no 'accuracy'", "it has ['loss', 'task']"),
    "a function as best": (lambda: run(best=max), "fit best: a builtin", "text"),
    # evaluate
    "evaluate that is a dict": (lambda: run(evaluate={"a": 1}), "fit evaluate: a dict is no function", "state ->"),
    "evaluate of two arguments": (lambda: run(evaluate=lambda a, b: {}), "cannot be called with 1", "state ->"),
    "evaluate that returns None": (evaluating(None), "what evaluate returns: None is no dict", "'name'"),
    "evaluate that returns an array": (evaluating(jnp.ones(3)), "returns: float32[3] is no dict", "'name'"),
    "evaluate that returns a number": (evaluating(0.5), "what evaluate returns: 0.5 is no dict", "'name'"),
    "a figure that is an array": (evaluating({"right": np.ones(2)}), "evaluate's 'right': float64[2]", "number"),
    "a figure that is text": (evaluating({"right": "87 %"}), "evaluate's 'right': '87 %' is no", "number"),
    "a figure that is None": (evaluating({"right": None}), "evaluate's 'right': None is no", "number"),
    "a figure called loss": (evaluating({"loss": 1.0}), "evaluate's 'loss': is a training metric", "another name"),
    "a figure called step": (evaluating({"step": 1.0}), "evaluate's 'step': is a training metric", "another name"),
    # step and what it is made of
    "None as step": (lambda: run(step=None), "fit step: None is no function", "make_train_step"),
    "an optimizer as step": (lambda: run(step=TX), "fit step: a PerLabel is no function", "make_train_step"),
    "a loss as step": (lambda: run(step=LOSS), "cannot be called with 3 arguments", "make_train_step"),
    "a gradient as step": (lambda: run(step=GRAD), "cannot be called with 3 arguments", "make_train_step"),
    "step and state exchanged": (
        lambda: fit(state(), STEP, DATA, Fixed(), steps=2),
        "fit step: a TrainState is no",
        "make",
    ),
    "a step that returns a state": (lambda: run(step=lambda s, d, f: s), "returns a TrainState, not (state,", "make"),
    "a step without loss": (lambda: run(step=lambda s, d, f: (s, {"a": 1.0})), "returns no metric 'loss'", "adds it"),
    "a step that forgets a statistic": (
        lambda: run(lambda s, d, f: (s._replace(model_state={}), {"loss": 1.0}), state(model_state={"a": jnp.ones(1)})),
        "returns another state than it is given: model_state/a",
        "init_state",
    ),
    "a loss in the place of its gradient": (
        lambda: run(step=make_train_step(LOSS, TX)),
        "make_train_step grad_fn: returns a tuple",
        "total_gradient",
    ),
    "None as gradient": (lambda: make_train_step(None, TX), "make_train_step grad_fn: None is no function", "total_"),
    "no optimizer": (lambda: make_train_step(GRAD, None), "make_train_step tx: None is no optimizer", "per_label"),
    "an optimizer that was not made": (
        lambda: make_train_step(GRAD, optax.sgd),
        "tx: a function is no optimizer",
        "sgd(0.1)",
    ),
    "groups as optimizer": (lambda: init_state(PARAMS, {"new": Group(0.1)}, KEY), "tx: a dict is no optimizer", "per_"),
    "prepare of data alone": (
        lambda: make_train_step(GRAD, TX, lambda data: data),
        "make_train_step prepare",
        "(data, rng, step)",
    ),
    "data as prepare": (lambda: make_train_step(GRAD, TX, DATA), "prepare: a dict is no function", "(data, rng, step)"),
    "a forward as loss": (lambda: total_gradient(TASK), "total_gradient loss_fn: a dict is no", "make_loss_fn"),
    "a loss that is a number": (
        lambda: run(step=make_train_step(total_gradient(lambda p, s, b, c: jnp.float32(0)), TX)),
        "total_gradient loss_fn: returns float32[]",
        "make_loss_fn",
    ),
    "whole numbers as parameters": (
        lambda: steps_of(MODEL, jax.tree.map(lambda w: w.astype(int), PARAMS)),
        "has no gradient",
        "float32",
    ),
    "a seed in the place of a key": (lambda: init_state(PARAMS, TX, 0), "rng", "jax.random.key(0)"),
    "a path in the place of parameters": (
        lambda: init_state("w.safetensors", TX, KEY),
        "init_state params: 'w.s",
        "tree",
    ),
    "an epoch of nothing": (lambda: make_epoch(STEP, 0), "make_epoch length: 0 is less than 1", ""),
    "an epoch that is text": (lambda: make_epoch(STEP, "3"), "make_epoch length: '3' is no whole number", ""),
    "no metrics to evaluate": (lambda: make_eval_step(as_forward(MODEL), {}), "make_eval_step metrics", "per_example"),
    # models and losses
    "a module that returns bare logits": (lambda: steps_of(Bare()), "Bare: returns float32[6, 3], no dict", '{"head"'),
    "a module without train": (lambda: as_forward(Alone()), "Alone is not called with (images, train)", "arguments"),
    "parameters as module": (lambda: as_forward(PARAMS), "as_forward model: a dict is no Flax", "instance"),
    "a class as module": (lambda: as_forward(Mlp), "is no Flax module", "instance"),
    "batch_stats left out": (
        lambda: steps_of(NORMED, shape=(4, 4, 1), images=PICTURES),
        "batch_stats",
        "initial_model_state",
    ),
    "all variables as state": (
        lambda: steps_of(MODEL, model_state={"params": PARAMS}),
        "model_state: holds parameters",
        "hide what is trained",
    ),
    "all variables as parameters": (lambda: steps_of(MODEL, {"params": PARAMS}), "an extra params layer", "initialise"),
    "the head of another number of classes": (
        lambda: steps_of(Classifier(Mlp((5,)), (("head", 7),)), PARAMS),
        "shape",
        "initialise",
    ),
    "images of another size": (lambda: steps_of(MODEL, PARAMS, images=IMAGES[:, :3]), "shape", "initialise"),
    "a head that is not there": (
        lambda: run(make_train_step(total_gradient(make_loss_fn(as_forward(MODEL), {"t": TOP})), TX)),
        "the outputs: a dict without 'top'",
        "it holds",
    ),
    "outputs that are no dict": (
        lambda: run(make_train_step(total_gradient(make_loss_fn(lambda p, s, b, c: (b["image"], s), TASK)), TX)),
        "the outputs: float32[6, 4] without 'head'",
        "dict",
    ),
    "labels as a mask": (lambda: make_loss_fn(as_forward(MODEL), TASK, frozen=LABELS), "is neither True", "having"),
    # labels
    "a label that is a number": (lambda: label_params(PARAMS, [(".*", 3)]), "3) is no such pair", "label"),
    "a label that is None": (lambda: label_params(PARAMS, [(".*", None)]), "None) is no such pair", "label"),
    "labels that are numbers": (
        lambda: per_label(jax.tree.map(lambda _: 1, PARAMS), {1: Group(0.1)}),
        "has 1, which is no text",
        "label_params",
    ),
    # sweep
    "init that returns a state": (
        lambda: swept(init=lambda point: state()),
        "sweep init: returns a TrainState",
        "rate",
    ),
    "init that returns params": (lambda: swept(init=lambda point: (PARAMS, {})), "sweep init: returns a tuple", "rate"),
    "init that is a state": (lambda: swept(init=state()), "sweep init: a TrainState is no function", "point ->"),
    "init with a rate that is a vector": (
        lambda: swept(init=lambda point: (state(), {"task": jnp.full(2, point["rate"])})),
        "rates['task']: float32[2] is no number",
        "",
    ),
    "a grid that is a list": (lambda: swept(grid=[{"rate": 0.1}]), "sweep grid: a list is no dict", "'name'"),
    "a column that is None": (lambda: swept(grid={"rate": None}), "grid['rate']", "one number per configuration"),
    "a DataSet in a sweep": (lambda: swept(data=SET), "a DataSet is no array", "on_device"),
    "given that is None": (lambda: swept(given=[1]), "sweep given: a list is no dict", "'name'"),
    "train that returns a state": (
        lambda: swept(train=lambda s, d, f: s),
        "sweep train: returns a TrainState",
        "make_epoch",
    ),
    "train that is no function": (lambda: swept(train=3), "sweep train: 3 is no function", "make_epoch"),
    "a score of two arguments": (lambda: swept(score=lambda s, d: 0.0), "sweep score", "-> scalar"),
    "a score that is None": (lambda: swept(score=lambda s, d, f: None), "sweep score: returns None", "scalar"),
    "a score that is a dict": (lambda: swept(score=lambda s, d, f: {"a": 1.0}), "score: returns a dict", "scalar"),
    "rungs that are text": (lambda: swept(rungs="2"), "sweep rungs: '2' is no whole number", ""),
    "memory that is text": (lambda: swept(memory="1GB"), "sweep memory: '1GB' is no whole number", ""),
    "keep that is text": (lambda: swept(rungs=2, keep="half"), "sweep keep: 'half' is no number", "fraction"),
    "batching that is None": (lambda: swept(batching=None), "sweep batching: unknown: 'None'", ""),
    "a workdir that is a number": (lambda: swept(workdir=1), "sweep workdir: 1 is no path", "directory"),
}
TOP = Term(1.0, mean_of(softmax_cross_entropy, head="top"))


@pytest.mark.parametrize("name", WRONG)
def test_what_is_handed_over_in_the_wrong_place_is_told_in_two_lines(name):
    wrong, *told = WRONG[name]
    with pytest.raises(InputError) as error:
        wrong()
    assert 1 <= len(str(error.value).splitlines()) <= 2
    for words in told:
        assert words in str(error.value)


def test_the_table_is_wide():
    assert len(WRONG) >= 90


class Dropping(nn.Module):
    """Dropout, and noise of one's own."""

    @nn.compact
    def __call__(self, images, train):
        x = nn.Dropout(0.5, deterministic=not train)(images)
        if train:
            x = x + 0.1 * jax.random.normal(self.make_rng("noise"), x.shape)
        return {"head": nn.Dense(3)(x)}


RIGHT = {
    "dropout and other noise through as_forward": lambda: steps_of(Dropping()),
    "numbers of numpy and Python as rates": lambda: [
        run(fixed=Fixed({"task": x})) for x in (1, np.float64(2), jnp.float32(0.5), np.int32(1))
    ],
    "a numpy integer as steps": lambda: run(steps=np.int64(2), every=np.int32(1)),
    "data of NumPy": lambda: run(data={"image": IMAGES, "label": CLASSES}),
    "figures of arrays and NumPy": lambda: run(
        evaluate=lambda s: {"a": jnp.float32(1), "b": np.float32(2), "c": True, "d": 3, "e": np.nan}
    ),
    "an old key": lambda: init_state(PARAMS, TX, jax.random.PRNGKey(0)),
    "no parameter moves": lambda: run(make_train_step(GRAD, optax.set_to_zero()), state(tx=optax.set_to_zero())),
    "a jitted step": lambda: run(jax.jit(STEP)),
    "batch_stats": lambda: steps_of(
        NORMED, model_state=initial_model_state(NORMED, (4, 4, 1)), shape=(4, 4, 1), images=PICTURES
    ),
    "masks of bool": lambda: make_loss_fn(as_forward(MODEL), TASK, frozen=having(LABELS, "new")),
    "a trained state": lambda: run(start=run()[0], steps=4),
}


@pytest.mark.parametrize("name", RIGHT)
def test_what_is_right_goes_through(name):
    assert RIGHT[name]() is not None
