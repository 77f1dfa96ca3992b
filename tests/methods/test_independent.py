"""Modalities that are independent given the class: Bayes' rule of true posteriors, its rows, and sets made of two."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest

from jaxtl.data import by_class, load
from jaxtl.data.factors import EDGE, factors
from jaxtl.data.modalities import of_two_sets, thinned
from jaxtl.errors import InputError
from jaxtl.methods.multimodal import fuse_product
from jaxtl.methods.multimodal.independent_recipes import INDEPENDENT
from jaxtl.methods.multimodal.recipes import recipes
from jaxtl.methods.multimodal.rules import fuse
from jaxtl.problems import Pairs, PairsConfig
from jaxtl.protocol import Budget, Draw, Trainer

DRAW = Draw(1)


@dataclasses.dataclass(frozen=True)
class Config(PairsConfig, Budget):
    pass


CONFIG = Config(
    widths=(8,), steps=20, batch_size=16, trials=2, validation=40, fitting=40, imbalance=4.0, learning_rate=(0.05, 0.05)
)


def posterior(log_likelihood, prior):
    joint = np.exp(log_likelihood) * prior
    return joint / joint.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize("prior", [(0.5, 0.5), (0.9, 0.1), (0.02, 0.98)])
def test_true_posteriors_of_independent_modalities_over_the_prior_are_that_of_both(prior):
    """Two normal variables, of other means by class; posteriors of one and of both by exact arithmetic."""
    random, prior = np.random.default_rng(0), np.array(prior)
    labels = random.choice(2, size=4000, p=prior)
    means, deviations = np.array([[-1.0, 1.0], [0.5, -0.5]]), np.array([1.3, 0.7])
    x = means[:, labels] + deviations[:, None] * random.normal(size=(2, 4000))
    log = -0.5 * ((x[:, :, None] - means[:, None]) / deviations[:, None, None]) ** 2
    each, both = posterior(log, prior), posterior(log.sum(axis=0), prior)
    fused = np.asarray(jax.jit(lambda p: fuse_product(p, power=1.0, prior=np.asarray(prior, np.float32)))(each))
    np.testing.assert_allclose(fused, both, atol=2e-6)
    without = np.asarray(fuse_product(np.asarray(each, np.float32), power=1.0))
    right = [np.mean(of.argmax(axis=1) == labels) for of in (fused, without, each[0], each[1])]
    if prior[0] == 0.5:
        np.testing.assert_allclose(without, both, atol=2e-6)
    else:
        assert np.abs(without - both).max() > 0.1, "the prior is counted twice"
        assert right[0] > right[1]
    assert right[0] >= max(right[2:])


@pytest.fixture(scope="module")
def pairs():
    digits = load("digits")
    return of_two_sets({"image": by_class(digits, [3, 8]), "text": by_class(digits, [1, 7])}, ratio=4.0)


@pytest.fixture(scope="module")
def problem(pairs):
    return Pairs(CONFIG, pairs, 12, fuse)


def test_both_parts_and_labelled_examples_have_the_shares_that_are_asked_for(pairs, problem):
    for part in (*pairs.train.values(), pairs.test):
        counts = np.bincount(part.labels)
        assert counts[0] / counts[1] == pytest.approx(4.0, rel=0.15)
    examples = problem.examples(DRAW)
    for name in ("image", "text"):
        assert np.bincount(pairs.train[name].labels[examples.pairs[name]]).tolist() == [12, 3]
    same = [pairs.train[name].labels[examples.pairs[name]].tolist() for name in ("image", "text")]
    assert same[0] == same[1]


def test_examples_that_are_alone_are_thinned_too():
    part = dataclasses.replace(CONFIG, paired=0.5)
    digits = load("digits")
    sets = of_two_sets({"image": by_class(digits, [3, 8]), "text": by_class(digits, [1, 7])})
    alone = Pairs(part, sets, 12, fuse).examples(DRAW).alone
    for name, rows in alone.items():
        counts = np.bincount(sets.train[name].labels[rows])
        assert counts[0] == 6
        assert counts[1] in (1, 2)


def test_a_larger_ratio_keeps_a_part_of_the_same_pairs():
    labels = {name: np.arange(200) % 2 for name in "ab"}
    pairs = {name: np.arange(200) for name in "ab"}
    kept = [thinned(labels, pairs, ratio, 3) for ratio in (1.0, 2.0, 10.0)]
    assert len(kept[0]["a"]) == 200
    for more, fewer in itertools.pairwise(kept):
        assert set(fewer["a"]) < set(more["a"])
        assert np.array_equal(fewer["a"], fewer["b"])


def test_rows_say_what_numpy_says_of_the_same_networks(problem):
    trainer = Trainer(problem, {**recipes(problem.names), **INDEPENDENT})
    setting = {"learning_rate": 0.05, "pull": 0.1}
    trained = {name: trainer.train_all(name, [setting], DRAW)[0].weights for name in ("product", *INDEPENDENT)}
    test = problem.set_of(DRAW).test
    inputs = {name: problem.scaled(DRAW, name, test[name]) for name in problem.names}
    logits = problem.outputs(trained["bayes"], inputs)["heads"]
    log = sum(np.asarray(jax.nn.log_softmax(logits[name], axis=-1), np.float64) for name in problem.names)
    outputs = problem.outputs(trained["bayes"], inputs)
    said = np.exp(problem.answers(trained["bayes"], outputs))
    np.testing.assert_allclose(said, posterior(log, 1 / np.array([0.8, 0.2])), atol=1e-5)
    lone = np.exp(problem.answers(trained["bayes"], outputs, ["image"]))
    np.testing.assert_allclose(lone, jax.nn.softmax(logits["image"], axis=-1), atol=1e-5)
    plain = problem.answers(trained["product"], problem.outputs(trained["product"], inputs)).argmax(axis=1)
    np.testing.assert_array_equal(plain, posterior(log, np.ones(2)).argmax(axis=1))
    moved = said.argmax(axis=1) != plain
    assert np.all(plain[moved] == 0), "only the frequent class had been said too often"
    rule = trained["bayes_tempered"].params["shared"]["independent"]
    assert np.all(rule["temperature"] > 0)
    assert np.any(rule["temperature"] != 1)


@pytest.mark.parametrize("common", [0.0, 1.0])
def test_with_nothing_in_common_each_side_knows_its_own_factor_alone(common):
    """A nearest class mean tells 4 of 16 classes apart where one factor is seen, all of them where both are."""
    made = factors(common, noise=0.05)
    for name, of in (("left", lambda label: label // EDGE), ("right", lambda label: label % EDGE)):
        x, labels = made.train[name][name], made.train[name].labels
        means = np.stack([x[labels == label].mean(axis=0) for label in range(EDGE**2)])
        found = np.argmin(((made.test[name][:, None] - means[None]) ** 2).sum(axis=-1), axis=1)
        assert np.mean(of(found) == of(made.test.labels)) > 0.99
        whole = np.mean(found == made.test.labels)
        assert whole > 0.99 if common else whole < 0.4


def test_what_does_not_fit_is_refused():
    digits = load("digits")
    with pytest.raises(InputError, match="as many classes"):
        of_two_sets({"a": by_class(digits, [0, 1]), "b": by_class(digits, [0, 1, 2])})
    with pytest.raises(InputError, match="share from 0 to 1"):
        factors(1.5)
