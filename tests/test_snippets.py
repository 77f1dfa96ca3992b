"""Snippets that are copied widely and do not do what they say: each in its usual form, failing, beside what we do.

They are listed for readers in experiments/questions.md, which names every test of this file.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

from jaxtl.data import from_arrays
from jaxtl.errors import InputError
from jaxtl.labels import label_params
from jaxtl.losses import accuracy, mean_of, sigmoid_binary_cross_entropy, softmax_cross_entropy, squared_error
from jaxtl.models import Classifier, Mlp, as_forward, initial_model_state, initialise
from jaxtl.optimizers import Group, per_label
from jaxtl.penalties import Term, l2
from jaxtl.program import Weights, make_program
from jaxtl.protocol import Method, Range, compare
from jaxtl.protocol.measures import ACCURACY, MEASURES
from jaxtl.training import classification, evaluate, train
from jaxtl.transfer import transfer
from jaxtl.trees import named_leaves

RANDOM = np.random.default_rng(0)
X = jnp.asarray(RANDOM.normal(size=(32, 3)), jnp.float32)
Y = X @ jnp.array([1.0, -2.0, 0.5]) + 4.0
SHAPE = (3, 3, 1)
START = {"kernel": jnp.array([0.3, 0.0, -0.4])}
LABELS = {"kernel": "new"}


def linear(params, model_state, batch, ctx):
    return {"head": batch["x"] @ params["kernel"]}, model_state


def task(params):
    return jnp.mean(0.5 * (X @ params["kernel"] - Y) ** 2)


def moved_by(penalty):
    """(w − w') / lr of one step of plain SGD of this library, beside a penalty with the rate 0.5."""
    terms = {"task": Term(1.0, mean_of(squared_error))}
    program = make_program(linear, LABELS, terms, {"new": Group(0.1)}, {"new": penalty}, given={"anchor": START})
    state = program.start(Weights({"kernel": START["kernel"] + 2.0}), jax.random.key(0))
    after, _ = jax.jit(program.step)(state, {"x": X, "label": Y}, program.fixed())
    return (START["kernel"] + 2.0 - after.params["kernel"]) / 0.1


# ---------------------------------------------------------------- a penalty whose gradient is wrong


def test_a_norm_that_is_not_squared_pulls_alike_from_near_and_far_and_is_nan_where_it_pulls_to():
    slope = jax.grad(lambda w: 0.5 * jnp.linalg.norm(w - START["kernel"]))  # "l2 penalty towards the source"
    slope, direction = jax.jit(slope), np.array([0.6, 0.0, 0.8], np.float32)
    for distance in (0.01, 1.0, 1000.0):
        np.testing.assert_allclose(slope(START["kernel"] + distance * direction), 0.5 * direction, atol=1e-4)
    assert jnp.isnan(slope(START["kernel"])).all()  # where every fine-tuned model begins
    ours = jax.jit(jax.grad(lambda w: 0.5 * l2({"kernel": w}, START)))
    np.testing.assert_allclose(ours(START["kernel"] + 1000 * direction), 500 * direction, rtol=1e-5)
    np.testing.assert_array_equal(ours(START["kernel"]), 0.0)


def test_a_penalty_of_numbers_instead_of_parameters_is_in_the_loss_and_not_in_its_gradient():
    params = {"kernel": START["kernel"] + 2.0}
    outside = np.asarray(params["kernel"])
    copies = {
        "an array from outside": lambda p: np.sum(outside**2),
        "stop_gradient": lambda p: jnp.sum(jax.lax.stop_gradient(p["kernel"]) ** 2),
    }
    value, slope = jax.jit(jax.value_and_grad(task))(params)
    for name, penalty in copies.items():
        copied = jax.jit(jax.value_and_grad(lambda p, penalty=penalty: task(p) + 0.5 * penalty(p)))(params)
        assert copied[0] > value + 1, name
        np.testing.assert_allclose(copied[1]["kernel"], slope["kernel"], rtol=1e-6, err_msg=name)
    pulled = slope["kernel"] + 0.5 * params["kernel"]
    np.testing.assert_allclose(moved_by(Term(0.5, l2)), pulled, rtol=1e-4)
    with pytest.raises(jax.errors.TracerArrayConversionError):  # parameters in a step are never numbers
        moved_by(Term(0.5, lambda p: jnp.sum(np.asarray(p["kernel"]) ** 2)))


def test_a_penalty_of_items_or_detached_weights_has_no_gradient_in_pytorch_either():
    torch = pytest.importorskip("torch")
    layer, x = torch.nn.Linear(3, 1), torch.ones(4, 3)

    def slope(penalty):
        layer.zero_grad()
        (layer(x).mean() + 0.5 * penalty).backward()
        return layer.weight.grad.clone()

    plain = slope(0.0)
    for penalty in (layer.weight.pow(2).sum().item(), layer.weight.detach().pow(2).sum()):
        assert torch.equal(slope(penalty), plain)
    assert torch.allclose(slope(layer.weight.pow(2).sum()), plain + layer.weight.detach())


def test_an_anchor_that_is_the_weights_under_another_name_never_pulls():
    weights = {"kernel": np.array([1.0, 2.0], np.float32)}
    anchor, kept = weights, transfer(weights, weights).anchor  # "anchor = model.state_dict()"
    for _ in range(5):
        weights["kernel"] -= 0.1 * np.ones(2, np.float32)  # in place, as optimizers of NumPy and PyTorch do it
    assert float(l2(weights, anchor)) == 0.0
    np.testing.assert_allclose(float(l2(weights, kept)), 0.25, rtol=1e-5)


def test_weight_decay_as_a_gradient_under_adam_pulls_alike_whatever_its_rate():
    params = {"kernel": jnp.array([10.0, -0.1])}
    still = jax.tree.map(jnp.zeros_like, params)

    def shrunk(tx):
        return tx.update(still, tx.init(params), params)[0]["kernel"]

    for rate in (1e-2, 10.0):  # "Adam with L2": the second moment divides the rate away, and the weight with it
        copied = optax.chain(optax.add_decayed_weights(rate), optax.adam(0.01))
        np.testing.assert_allclose(shrunk(copied), [-0.01, 0.01], rtol=1e-4)
        ours = per_label(LABELS, {"new": Group(0.01, decay=rate)}, "adam")
        np.testing.assert_allclose(shrunk(ours), -0.01 * rate * params["kernel"], rtol=1e-5)


# ---------------------------------------------------------------- shapes that broadcast


def test_predictions_b_1_beside_labels_b_learn_the_mean_label_and_are_refused():
    predicted, labels = X @ jnp.array([[1.0], [-2.0], [0.5]]), Y  # [32, 1] and [32]

    def copied(predicted):
        with jax.numpy_rank_promotion("allow"):  # as JAX is unless it is told; in these tests it is
            return jnp.mean((predicted - labels) ** 2)  # of [32, 32]

    to_the_mean = 2 * (predicted - jnp.mean(labels)) / len(labels)  # the slope of the mean of (p − ȳ)²
    np.testing.assert_allclose(jax.jit(jax.grad(copied))(predicted), to_the_mean, atol=1e-5)
    constant = {"kernel": jnp.zeros((3, 1)), "bias": jnp.mean(labels)}  # the mean label, whatever x is

    def slope(loss):
        return jax.jit(jax.grad(lambda p: loss(X @ p["kernel"] + p["bias"])))(constant)["kernel"][:, 0]

    np.testing.assert_allclose(slope(copied), 0.0, atol=1e-5)  # of a convex loss: this is its minimum
    assert np.abs(slope(lambda p: jnp.mean(squared_error(p[:, 0], labels)))).min() > 0.1
    for loss in (squared_error, sigmoid_binary_cross_entropy):
        with pytest.raises(InputError, match=r"shapes \(32, 1\) and \(32,\) differ"):
            loss(predicted, labels)


def test_accuracy_of_answers_b_beside_labels_b_1_is_that_of_guessing_and_is_refused():
    labels = np.arange(40)[:, None] % 2
    logits = 1.0 * np.eye(2)[labels[:, 0]]  # right everywhere
    assert np.mean(logits.argmax(-1) == labels) == 0.5
    assert ACCURACY.score(labels[:, 0], logits) == float(jnp.mean(accuracy(logits, labels[:, 0]))) == 1.0
    for measure in (accuracy, softmax_cross_entropy):
        with pytest.raises(InputError, match="differ"):
            measure(jnp.asarray(logits), jnp.asarray(labels))
    for name in ("accuracy", "balanced_accuracy", "macro_f1", "calibration_error"):
        with pytest.raises(InputError, match=r"\[40, 1\]"):
            MEASURES[name].score(labels, logits)
    with pytest.raises(InputError, match=r"R²: labels \[40, 2\] beside outputs \[40, 1\]"):
        MEASURES["r2"].score(logits, logits[:, :1])


def test_a_softmax_before_the_cross_entropy_leaves_a_loss_that_no_certainty_lowers():
    right, labels = 100.0 * np.eye(3, dtype=np.float32), np.arange(3)

    @jax.jit
    def losses(logits):
        """Σ of the losses, and its slope, both with a softmax before it and without."""
        of = [lambda z: softmax_cross_entropy(jax.nn.softmax(z), labels), lambda z: softmax_cross_entropy(z, labels)]
        return [jax.value_and_grad(lambda z, loss=loss: jnp.sum(loss(z)))(logits) for loss in of]

    (twice, _), (once, _) = losses(right)
    np.testing.assert_allclose(twice, 3 * np.log(1 + 2 * np.exp(-1)), rtol=1e-6)  # of 1, 0, 0 taken for logits
    assert once == 0.0
    (_, twice), (_, once) = losses(right[[1, 2, 0]])  # surely wrong everywhere
    assert np.abs(twice).max() < 1e-6  # and nothing is learned from it
    np.testing.assert_array_equal(np.abs(once).max(axis=1), 1.0)


# ---------------------------------------------------------------- a frozen part that moves

TWO = {"trunk": {"kernel": jnp.array([1.0, 2.0])}, "head": {"kernel": jnp.array([3.0])}}
FROZEN = {"trunk": {"kernel": True}, "head": {"kernel": False}}


def stepped(tx, gradients, params=TWO):
    """The trunk after steps with these gradients, one after another."""
    state, update = tx.init(params), jax.jit(tx.update)
    for gradient in gradients:
        updates, state = update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return params["trunk"]["kernel"]


def test_a_gradient_set_to_zero_freezes_nothing_that_decays_or_has_momentum():
    slope = jax.tree.map(jnp.ones_like, TWO)
    none = {"trunk": jax.tree.map(jnp.zeros_like, TWO["trunk"]), "head": slope["head"]}
    held = optax.masked(optax.set_to_zero(), FROZEN)
    decayed = stepped(optax.chain(held, optax.add_decayed_weights(0.1), optax.sgd(0.1)), [slope] * 10)
    np.testing.assert_allclose(decayed, 0.99**10 * TWO["trunk"]["kernel"], rtol=1e-5)
    carried = stepped(optax.sgd(0.1, momentum=0.9), [slope] + [none] * 10)  # "frozen" after the first step
    np.testing.assert_allclose(carried, TWO["trunk"]["kernel"] - 0.1 * (1 - 0.9**11) / (1 - 0.9), rtol=1e-5)
    labels = label_params(TWO, [("trunk/.*", "transferred"), ("head/.*", "new")])
    for groups in ({"new": Group(0.1, decay=0.1)}, {"new": Group(0.1, decay=0.1, decay_kind="coupled")}):
        tx = per_label(labels, {**groups, "transferred": Group(frozen=True)}, momentum=0.9)
        np.testing.assert_array_equal(stepped(tx, [slope] * 10), TWO["trunk"]["kernel"])


def test_a_layer_frozen_in_the_midst_of_training_moves_on_in_pytorch():
    torch = pytest.importorskip("torch")
    trunk, head = torch.nn.Linear(3, 4), torch.nn.Linear(4, 1)
    both = [*trunk.parameters(), *head.parameters()]
    tx, x = torch.optim.SGD(both, 0.1, momentum=0.9, weight_decay=0.1), torch.ones(8, 3)

    def train_step():
        tx.zero_grad(set_to_none=False)
        head(trunk(x)).pow(2).mean().backward()
        tx.step()

    train_step()
    trunk.requires_grad_(False)
    before = trunk.weight.clone()
    train_step()
    assert (trunk.weight - before).abs().max() > 1e-3
    before = trunk.weight.clone()
    tx.zero_grad(set_to_none=True)  # without a gradient it is left alone; jaxtl: the test above
    head(trunk(x)).pow(2).mean().backward()
    tx.step()
    assert torch.equal(trunk.weight, before)


class Normed(nn.Module):
    """A trunk with batch normalisation."""

    @nn.compact
    def __call__(self, images, train):
        """images -> (features, taps)."""
        x = nn.Dense(4, name="dense")(images.reshape(len(images), -1))
        return nn.BatchNorm(use_running_average=not train, momentum=0.5, name="norm")(x), {}


def normed():
    """(model, its parameters, its batch statistics)."""
    model = Classifier(Normed(), (("head", 2),))
    return model, initialise(model, jax.random.key(0), SHAPE), initial_model_state(model, SHAPE)


def test_a_trunk_whose_parameters_alone_are_frozen_computes_something_else_afterwards():
    model, params, stats = normed()
    images = jnp.asarray(RANDOM.normal(3, 2, (8, *SHAPE)), jnp.float32)

    @jax.jit
    def features(stats):
        return model.apply({"params": params, **stats}, images, train=False)["features"]

    @jax.jit
    def carried_along(stats):  # by the usual step, whatever is frozen
        return model.apply({"params": params, **stats}, images, train=True, mutable=["batch_stats"])[1]

    drifted = stats
    for _ in range(10):
        drifted = carried_along(drifted)
    assert np.abs(features(drifted) - features(stats)).max() > 0.1
    labels = label_params(params, [("trunk/.*", "transferred"), ("head/.*", "new")])
    groups = {"transferred": Group(frozen=True), "new": Group(0.1)}
    program = make_program(as_forward(model), labels, {"task": Term(1.0, mean_of(softmax_cross_entropy))}, groups)
    batch = {"image": images, "label": jnp.arange(8) % 2}
    ended, _ = train(program, Weights(params, stats), batch, steps=10)
    for path, leaf in named_leaves(ended.model_state).items():
        np.testing.assert_array_equal(leaf, named_leaves(stats)[path], err_msg=path)
    np.testing.assert_array_equal(ended.params["trunk"]["dense"]["kernel"], params["trunk"]["dense"]["kernel"])
    assert np.any(ended.params["head"]["kernel"] != params["head"]["kernel"])


def test_a_model_left_in_training_answers_by_the_batch_it_is_asked_in():
    model, *weights = normed()
    weights = Weights(*weights)
    images = RANDOM.integers(0, 256, (20, *SHAPE)).astype(np.uint8)

    @jax.jit
    def logits(images):
        variables = {"params": weights.params, **weights.model_state}
        training, _ = model.apply(variables, images, train=True, mutable=["batch_stats"])
        return {True: training["head"][0], False: model.apply(variables, images, train=False)["head"][0]}

    def answer(count, train):
        return logits(images[:count].astype(np.float32))[train]

    assert np.abs(answer(20, True) - answer(2, True)).max() > 1e-3
    np.testing.assert_allclose(answer(20, False), answer(2, False), rtol=1e-5)
    data = from_arrays(images, np.arange(20) % 2)
    whole, single = (evaluate(model, weights, data, part="train", batch_size=size) for size in (20, 1))
    np.testing.assert_allclose([whole["accuracy"], whole["loss"]], [single["accuracy"], single["loss"]], rtol=1e-5)


# ---------------------------------------------------------------- a test set that chooses the epoch

EXAMPLES, EPOCHS, RUNS = 200, 30, 400


def expected_best(examples, epochs):
    """E[max of `epochs` independent shares of coins that fall right], Σ_k (1 − P(X ≤ k)^epochs) / n."""
    return np.sum(1 - stats.binom.cdf(np.arange(examples), examples, 0.5) ** epochs) / examples


def test_the_best_epoch_on_test_data_is_above_chance_where_nothing_can_be_learned():
    random = np.random.default_rng(1)
    labels = random.integers(0, 2, (RUNS, 1, EXAMPLES))  # noise
    right = np.mean(random.integers(0, 2, (RUNS, EPOCHS, EXAMPLES)) == labels, axis=-1)
    best, error = right.max(axis=1), right.max(axis=1).std() / np.sqrt(RUNS)
    assert best.mean() > 0.5 + 30 * error  # seven points of nothing
    assert abs(best.mean() - expected_best(EXAMPLES, EPOCHS)) < 4 * error
    chosen = random.integers(0, 2, (RUNS, EPOCHS, EXAMPLES)) == random.integers(0, 2, (RUNS, 1, EXAMPLES))
    by_others = right[np.arange(RUNS), chosen.mean(axis=-1).argmax(axis=1)]  # the epoch that other examples choose
    assert abs(by_others.mean() - 0.5) < 4 * by_others.std() / np.sqrt(RUNS)


def test_a_comparison_whose_methods_guess_finds_chance_and_asks_test_data_once_a_draw():
    random, asked = np.random.default_rng(2), []
    truth = {part: random.integers(0, 2, EXAMPLES) for part in ("held out", "test")}

    def train_one(setting, draw):
        guesses = np.random.default_rng([int(1e6 * setting["pull"]), draw.seed])
        return {part: guesses.integers(0, 2, EXAMPLES) for part in truth}

    def share(trained, part):
        return float(np.mean(trained[part] == truth[part]))

    def test(trained, draw):
        asked.append(draw.seed)
        return {"test": share(trained, "test")}, {}

    method = Method("guess", {"pull": Range(0.01, 100.0)}, train_one)
    validate = lambda trained, draw: share(trained, "held out")  # noqa: E731
    runs, _ = compare([method], EPOCHS, [0], range(10, 60), validate=validate, test=test)
    assert asked == list(range(10, 60))
    reported = np.array([run.metrics["test"] for run in runs if run.stage == "report"])
    error = reported.std() / np.sqrt(len(reported))
    assert abs(reported.mean() - 0.5) < 4 * error < expected_best(EXAMPLES, EPOCHS) - 0.5


# ---------------------------------------------------------------- a "transfer" that shares no weights


def two_models():
    model = Classifier(Mlp((4,)), (("head", 2),))
    return model, *(initialise(model, jax.random.key(seed), SHAPE) for seed in (0, 1))


def test_names_that_do_not_match_are_left_out_one_by_one_until_nothing_is_copied_and_are_refused():
    _, source, target = two_models()
    source = {"module": source}  # a wrapper's name before every path
    known = named_leaves(source)
    loaded = {path: known.get(path, leaf) for path, leaf in named_leaves(target).items()}  # "strict=False"
    assert all(loaded[path] is leaf for path, leaf in named_leaves(target).items())
    with pytest.raises(InputError, match="the source has no such parameter"):
        transfer(source, target)
    with pytest.raises(InputError, match="nothing was copied"):
        transfer(source, target, reinit=[".*"])
    moved = transfer(source, target, rename=[("module/(.*)", r"\1")], reinit=["head/.*"])
    assert len(moved.report.renamed) == 2
    own, theirs = moved.params["trunk"]["dense_0"], source["module"]["trunk"]["dense_0"]
    np.testing.assert_array_equal(own["kernel"], theirs["kernel"])


def test_loading_that_is_not_strict_copies_nothing_in_pytorch_and_returns():
    torch = pytest.importorskip("torch")
    source, target = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    before = target.weight.clone()
    wrapped = {f"module.{name}": leaf for name, leaf in source.state_dict().items()}
    told = target.load_state_dict(wrapped, strict=False)
    assert torch.equal(target.weight, before)
    assert len(told.missing_keys) == len(told.unexpected_keys) == 2  # said to those who look; `transfer` raises


def test_a_model_initialised_again_after_loading_is_no_source_model_and_its_first_pull_says_so():
    model, source, target = two_models()
    moved = transfer(source, target, reinit=["head/.*"])
    data = from_arrays(RANDOM.integers(0, 256, (20, *SHAPE)).astype(np.uint8), np.arange(20) % 2)
    again = initialise(model, jax.random.key(2), SHAPE)  # "state = create_train_state(rng, model)", after loading
    assert not np.any(again["trunk"]["dense_0"]["kernel"] == source["trunk"]["dense_0"]["kernel"])
    groups, pulls = {"transferred": Group(0.1), "new": Group(0.1)}, {"transferred": Term(0.1, l2, ("anchor",))}
    program = classification(model, data, moved, groups, pulls)
    first = [train(program, start, data, steps=1)[1][0]["penalty/transferred"] for start in (moved.params, again)]
    assert first[0] == 0.0  # exactly, at the source
    assert first[1] > 0.1
