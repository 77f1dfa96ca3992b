"""The data-emphasised ELBO against fixed numbers, NumPy and finite differences, and as a row of a comparison."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import LABELS, TASK, batch, context, forward, network, wave

from jaxtl.data import load, source_and_target
from jaxtl.errors import InputError
from jaxtl.finetune.kinds import KINDS
from jaxtl.finetune.recipes import RECIPES as OF_PICTURES
from jaxtl.labels import NEW, TRANSFERRED, count_by_label
from jaxtl.methods.finetuning import DE_ELBO, elbo
from jaxtl.models import Classifier, Cnn, initial_model_state, initialise
from jaxtl.optimizers import Group
from jaxtl.penalties import labelled
from jaxtl.problems import FewShot, FewShotConfig, SourceConfig, make_source
from jaxtl.problems.folder import Examples, Folder, Inputs, Parts, parted
from jaxtl.problems.images import Images
from jaxtl.program import Weights, make_program
from jaxtl.protocol import ACCURACY, Budget, Draw, Trainer, study
from jaxtl.step import EVALUATE, Context
from jaxtl.sweep import objective
from jaxtl.trees import named_leaves

# Numbers computed in float64 from the equations: D = 6 + 2, N = 20, κ = D / N, σ̄ = 0.01.
STEPS = jnp.arange(6.0)
START, MOVED = jnp.sin(STEPS).reshape(3, 2), 0.3 * jnp.cos(STEPS**2).reshape(3, 2)
FIXED = {"W": START + MOVED, "b": jnp.array([0.3, -0.3])}
FIXED_LABELS = {"W": TRANSFERRED, "b": NEW}
FIXED_ANCHOR = {"W": START, "b": jnp.zeros(2)}
WEIGHT = 1 / 8


def penalty_of(params, labels, anchor, weight):
    """(params with noise) -> Σ_l weight · KL_l, by the path that a step takes."""
    term, given = elbo.kl_term(weight), {**anchor, "sigma": params["sigma"]}
    penalty = labelled(elbo.with_noise_label(labels), {TRANSFERRED: term, NEW: term})
    return lambda params: penalty(params, context(given={"anchor": given}))


fixed = elbo.with_noise(FIXED, 0.01)
fixed_penalty = penalty_of(fixed, FIXED_LABELS, FIXED_ANCHOR, WEIGHT)


def test_divergences_variances_and_rates_are_the_fixed_numbers():
    total, parts = fixed_penalty(fixed)
    np.testing.assert_allclose(total, 3.289737, rtol=1e-6)
    np.testing.assert_allclose([8 * parts[TRANSFERRED], 8 * parts[NEW]], [19.514389, 6.803505], rtol=1e-6)
    variances = [elbo.prior_variance(FIXED[name], FIXED_ANCHOR[name], 0.01) for name in FIXED]
    np.testing.assert_allclose(variances, [0.066834, 0.090100], atol=1e-6)
    rates = elbo.learned_rates(fixed, FIXED_ANCHOR, FIXED_LABELS, WEIGHT)
    np.testing.assert_allclose([rates[TRANSFERRED], rates[NEW]], [1.870307, 1.387347], rtol=1e-6)
    assert elbo.data_emphasis(fixed, elbo.with_noise_label(FIXED_LABELS)) == WEIGHT


def test_slopes_are_the_fixed_numbers():
    slopes = jax.grad(lambda params: fixed_penalty(params)[0])(fixed)
    expected = [0.561092, 0.303159, -0.366754, -0.511228, -0.537335, 0.556156]
    np.testing.assert_allclose(slopes["W"].ravel(), expected, atol=2e-6)
    by_std = slopes["sigma"]["raw"] / jax.nn.sigmoid(fixed["sigma"]["raw"])  # σ̄ = softplus(raw)
    np.testing.assert_allclose(by_std, -99.860035, rtol=1e-5)


@pytest.mark.parametrize("speed", [0.7, 1.9])
def test_slopes_are_those_of_finite_differences(speed):
    params = elbo.with_noise(network(speed), 0.2)
    penalty = penalty_of(params, LABELS, network(1.3), 0.1)
    way = {**jax.tree.map(lambda w: wave(2.3, *w.shape), network()), "sigma": {"raw": jnp.float32(0.7)}}
    slope = sum(jax.tree.leaves(jax.tree.map(jnp.vdot, jax.grad(lambda p: penalty(p)[0])(params), way)))
    there, back = (jax.tree.map(lambda w, v, h=h: w + h * v, params, way) for h in (1e-2, -1e-2))
    np.testing.assert_allclose(slope, (penalty(there)[0] - penalty(back)[0]) / 2e-2, rtol=2e-3)


def test_a_variance_that_is_held_has_the_same_slopes():
    def held(params, anchor, std):
        """KL(N(w, σ̄²) ‖ N(a, τ)) of any τ, at τ* as a constant."""
        tau, size = jax.lax.stop_gradient(elbo.prior_variance(params, anchor, std)), params.size
        far = jnp.sum((params - anchor) ** 2)
        return 0.5 * ((size * std**2 + far) / tau - size + size * jnp.log(tau / std**2))

    given = FIXED["W"], FIXED_ANCHOR["W"], jnp.float32(0.3)
    np.testing.assert_allclose(elbo.divergence(*given), held(*given), rtol=1e-6)
    for ours, theirs in zip(*(jax.grad(fn, argnums=(0, 2))(*given) for fn in (elbo.divergence, held)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=1e-6)


def test_at_the_anchor_it_is_exactly_zero_and_flat_and_it_grows_with_the_distance():
    given = FIXED_ANCHOR["W"], FIXED_ANCHOR["W"], jnp.float32(1e-4)
    assert elbo.divergence(*given) == 0
    np.testing.assert_array_equal(jax.grad(elbo.divergence)(*given), 0)
    values = [float(elbo.divergence(START + far, START, 0.1)) for far in (0.0, 0.01, 0.1, 1.0, 10.0)]
    assert values == sorted(values)
    assert np.isfinite(elbo.divergence(START + 1e3, START, 1e-4))


def test_what_a_label_pays_has_the_slope_of_l2_towards_the_anchor_at_the_learned_rate():
    params, anchor = elbo.with_noise(network(), 0.05), network(1.3)
    rates = elbo.learned_rates(params, anchor, LABELS, 0.02)
    penalty = penalty_of(params, LABELS, anchor, 0.02)
    slopes = elbo.without_noise(jax.grad(lambda p: penalty(p)[0])(params))
    pulled = jax.tree.map(lambda w, a, label: rates[label] * (w - a), network(), anchor, LABELS)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-7), slopes, pulled)


def test_the_plain_elbo_is_that_of_numpy():
    params, anchor, examples = elbo.with_noise(network(), 0.05), network(1.3), 12
    total, _ = penalty_of(params, LABELS, anchor, 1 / examples)(params)
    expected = 0.0
    for name in ("trunk", "head"):
        w, a = (np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree[name])]) for tree in (params, anchor))
        w, a = w.astype(np.float64), a.astype(np.float64)
        tau = (np.sum((w - a) ** 2) + w.size * 0.05**2) / w.size
        expected += 0.5 * (
            w.size * 0.05**2 / tau + np.sum((w - a) ** 2) / tau - w.size + w.size * np.log(tau / 0.05**2)
        )
    np.testing.assert_allclose(total, expected / examples, rtol=1e-5)


def test_many_at_once_are_one_after_another():
    params = [elbo.with_noise(network(speed), std) for speed, std in ((0.7, 0.1), (0.9, 0.01), (1.7, 1.0))]
    penalty = penalty_of(params[0], LABELS, network(1.3), 0.1)
    together = jax.jit(jax.vmap(lambda p: penalty(p)[0]))(jax.tree.map(lambda *leaves: jnp.stack(leaves), *params))
    np.testing.assert_allclose(together, [penalty(one)[0] for one in params], rtol=1e-5)


def test_scales_and_biases_of_normalisation_are_counted_but_held_labels_and_the_noise_are_not():
    params = {
        "norm": {"scale": jnp.ones(3), "bias": jnp.ones(3)},
        "head": {"kernel": jnp.ones((3, 2))},
        "below": jnp.ones(7),
    }
    labels = {"norm": {"scale": TRANSFERRED, "bias": TRANSFERRED}, "head": {"kernel": NEW}, "below": "held"}
    noisy = elbo.with_noise(params, 0.1)
    assert elbo.data_emphasis(noisy, elbo.with_noise_label(labels), "held") == 1 / 12


def step_context(step, frozen=frozenset()):
    return Context(step, jax.random.fold_in(jax.random.key(3), step), {}, {}, frozen=frozen)


def seen(params, ctx):
    """The parameters that a forward pass is given."""
    return elbo.noisy(lambda own, state, batch, ctx: (own, state))(params, {}, None, ctx)[0]


def test_every_step_has_a_noise_of_its_own_on_all_that_is_trained_and_none_is_used():
    params = elbo.with_noise({"a": jnp.zeros((200, 50)), "b": jnp.zeros(5000), "c": jnp.ones(3)}, 0.25)
    held = frozenset({"c"})
    first, again, second = (seen(params, step_context(step, held)) for step in (0, 0, 1))
    assert first.keys() == {"a", "b", "c"}
    np.testing.assert_array_equal(first["c"], 1)
    for name in ("a", "b"):
        np.testing.assert_array_equal(first[name], again[name])
        assert abs(float(jnp.std(first[name])) / 0.25 - 1) < 0.05
        assert abs(float(jnp.mean(first[name]))) < 0.02
        assert abs(np.corrcoef(np.ravel(first[name]), np.ravel(second[name]))[0, 1]) < 0.05
    assert abs(np.corrcoef(np.ravel(first["a"])[:5000], first["b"])[0, 1]) < 0.05
    jax.tree.map(np.testing.assert_array_equal, seen(params, EVALUATE), elbo.without_noise(params))


def test_one_program_serves_all_rates_and_the_noise_has_a_learning_rate_of_its_own():
    labels = elbo.with_noise_label(LABELS)
    term = elbo.kl_term(elbo.data_emphasis(network(), LABELS))
    groups = {TRANSFERRED: Group(0.1), NEW: Group(0.1), elbo.SIGMA: Group(0.03)}
    program = make_program(elbo.noisy(forward), labels, TASK, groups, {TRANSFERRED: term, NEW: term})
    start = elbo.with_noise(network(), 0.01)
    given = {"anchor": jax.tree.map(jnp.zeros_like, start)}
    step = jax.jit(program.step)
    still, _ = step(
        program.start(Weights(start), jax.random.key(0)), batch(), program.fixed({"learning_rate/sigma": 0.0}, given)
    )
    moved, metrics = step(program.start(Weights(start), jax.random.key(0)), batch(), program.fixed({}, given))
    assert step._cache_size() == 1
    assert still.params["sigma"]["raw"] == start["sigma"]["raw"]
    assert moved.params["sigma"]["raw"] > start["sigma"]["raw"]  # the KL is steep where σ̄ is small
    jax.tree.map(np.testing.assert_array_equal, elbo.without_noise(still.params), elbo.without_noise(moved.params))
    assert {"penalty/transferred", "penalty/new"} <= metrics.keys()


@pytest.mark.parametrize(
    ("params", "std", "message"),
    [
        ({"sigma": jnp.ones(1)}, 0.1, "with_noise params: the tree has such a part already"),
        (jnp.ones(1), 0.1, "with_noise params: the tree is no dict"),
        ({"a": jnp.ones(1)}, 0.0, "with_noise std: 0.0 is not above 0"),
        ({"a": jnp.ones(1)}, float("nan"), "with_noise std: nan is not above 0"),
    ],
)
def test_what_can_have_no_noise_is_refused(params, std, message):
    with pytest.raises(InputError, match=message):
        elbo.with_noise(params, std)


# ---------------------------------------------------------------- as a row


@dataclasses.dataclass(frozen=True)
class Config(SourceConfig, FewShotConfig, Budget):
    model: str = "mlp"
    widths: tuple[int, ...] = (8,)
    source_steps: int = 20
    steps: int = 6
    batch_size: int = 8
    validation: int = 50
    trials: int = 5
    tuning_draws: int = 1
    report_draws: int = 2


@pytest.fixture(scope="module")
def problem(tmp_path_factory):
    data = load("digits")
    source_task, task = source_and_target("0-4:5-9", data, data)
    return FewShot(Config(), make_source(Config(), source_task, tmp_path_factory.mktemp("source")), task, 4)


ROWS = {"de_elbo": DE_ELBO}


def test_it_is_chosen_by_what_it_minimises_without_a_held_out_example_and_goes_on(problem, tmp_path, monkeypatch):
    monkeypatch.setattr(problem, "validate", lambda trained, draw: 0.5)
    result = study(problem, ROWS, tmp_path)
    assert result.selections == ["objective"]
    choosing = [run for run in result.runs if run.stage == "draw"]
    assert len(choosing) == 4 * 2  # trials of its own × report draws; no tuning draw
    assert {run.stage for run in result.runs} == {"draw", "report"}
    for run in result.reported("de_elbo", "objective"):
        own = {one.trial: one.scores["objective"] for one in choosing if one.seed == run.seed}
        assert run.trial == max(own, key=own.get)
        assert run.metrics["lambda/source"] > 0 < run.metrics["lambda/new"]
    assert study(problem, ROWS, tmp_path).runs == result.runs


def test_what_it_reports_is_what_it_learned_and_its_weights_are_those_of_the_model(problem):
    trainer, draw = Trainer(problem, ROWS), Draw(3)
    setting = {"learning_rate": 0.05, "learning_rate/sigma": 0.3}
    (ended,) = trainer.train_all("de_elbo", [setting], draw)
    assert ended.weights.params.keys() == problem.moved.params.keys()
    sizes = {
        label: count.parameters for label, count in count_by_label(problem.moved.params, problem.moved.labels).items()
    }
    far = {
        label: sum(
            float(np.sum((np.asarray(w, np.float64) - np.asarray(a)) ** 2))
            for w, a, own in zip(
                *map(jax.tree.leaves, (ended.weights.params, problem.anchor(0), problem.moved.labels)), strict=True
            )
            if own == label
        )
        for label in sizes
    }
    rates = {
        label: ended.learned[name]
        for label, name in ((TRANSFERRED, "penalty/transferred/source"), (NEW, "penalty/new"))
    }
    variances = {label: 1 / (sum(sizes.values()) * rate) for label, rate in rates.items()}
    stds = {label: variances[label] - far[label] / sizes[label] for label in sizes}  # σ̄², the same by both labels
    np.testing.assert_allclose(stds[TRANSFERRED], stds[NEW], rtol=1e-2)
    assert stds[NEW] > 0.03**2


def test_the_objective_is_the_mean_loss_of_the_steps_that_would_come_next(problem):
    program, draw = Trainer(problem, ROWS).program(DE_ELBO.program), Draw(2)
    start = DE_ELBO.start(problem, draw)
    data, rng, given = problem.data(program, start, draw), problem.key(draw, "run"), DE_ELBO.given(problem, draw, start)
    state, fixed = program.start(start, rng), program.fixed({"learning_rate/new": 0.1}, given)
    expected = [program.step(state._replace(step=jnp.int32(6 + k)), data, fixed)[1]["loss"] for k in range(3)]
    found = objective(program, start, data, {"learning_rate/new": 0.1}, rng, steps=6, samples=3, given=given)
    np.testing.assert_allclose(found, np.mean(expected), rtol=1e-5)


def test_it_learns_from_pictures_of_ones_own_above_held_batch_statistics():
    model, shape = Classifier(Cnn((3, 4), "batch"), (("head", 3),)), (8, 8, 3)
    params, state = initialise(model, jax.random.key(1), shape), initial_model_state(model, shape)
    trunk = Weights(params["trunk"], {"batch_stats": state["batch_stats"]["trunk"]})
    pictures = np.random.default_rng(0).integers(0, 256, (24, *shape)).astype(np.uint8)
    inputs = Inputs(jnp.asarray(pictures), Images(shape, np.full(3, 127.0), np.full(3, 60.0)))
    parts = Parts(Examples(np.arange(24) % 3, None, ("a", "b", "c")), 3, 1, 0)
    config = Budget(steps=3, batch_size=8)
    folder = Folder(config, trunk, parted(model, 0)[1], inputs, jnp.zeros((24, 4)), parts, ACCURACY, KINDS["classes"])
    (ended,) = Trainer(folder, OF_PICTURES).train_all("de_elbo", [{"learning_rate": 0.1}], Draw(0))
    assert ended.weights.params.keys() == {"trunk", "head"}
    assert min(ended.learned.values()) > 0
    assert 0 <= folder.validate(ended, Draw(0)) <= 1
    scales = [w for path, w in named_leaves(ended.weights.params).items() if path.endswith("scale")]
    assert scales
    assert all(np.any(w != 1) for w in scales)  # they are trained, and counted
    size = sum(leaf.size for leaf in jax.tree.leaves(ended.weights.params))
    assert DE_ELBO.program(folder).rates["penalty/new"] == pytest.approx(1 / size)
