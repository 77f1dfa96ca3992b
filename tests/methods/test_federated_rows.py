"""Clients with digits and next to no training: who has what, what rows do, how clients are judged."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from jaxtl.data import load
from jaxtl.errors import InputError
from jaxtl.labels import NEW
from jaxtl.methods.federated.recipes import NORMALISATION, POOLED, RECIPES, normalisation_stays
from jaxtl.models import initial_model_state, initialise
from jaxtl.problems import PARTITIONS, Clients, ClientsConfig, Source, SourceConfig, make_model
from jaxtl.problems.clients import worst
from jaxtl.problems.images import Images
from jaxtl.program import Weights
from jaxtl.protocol import Budget, Draw, Trained, Trainer, study
from jaxtl.protocol.recipes import range_of
from jaxtl.step import compile_step
from jaxtl.trees import named_leaves

DRAW = Draw(1)


@dataclasses.dataclass(frozen=True)
class Config(SourceConfig, ClientsConfig, Budget):
    pass


CONFIG = Config(
    model="mlp",
    widths=(12,),
    clients=4,
    steps=2,
    batch_size=16,
    trials=2,
    tuning_draws=1,
    report_draws=2,
    validation=60,
)


def digits():
    data = load("digits")
    return dataclasses.replace(data, train=data.train.take(slice(0, 300)), test=data.test.take(slice(0, 80)))


def source_of(config, task):
    """A source that was not trained."""
    images = Images.of(task)
    model = make_model(config, images, head=3)
    weights = Weights(initialise(model, jax.random.key(7), images.like), initial_model_state(model, images.like))
    return Source(task, images, weights, 0.1)


def problem_of(partition="dirichlet", **changes):
    config, task = dataclasses.replace(CONFIG, **changes), digits()
    return Clients(config, source_of(config, task), task, partition)


@pytest.fixture(scope="module")
def problem():
    return problem_of()


def setting_of(name, place):
    return {key: range_of(key, RECIPES[name], CONFIG).at(place) for key in RECIPES[name].search}


@pytest.mark.parametrize("partition", PARTITIONS)
def test_clients_have_all_examples_that_are_not_held_out_and_draws_and_replicates_their_own(partition):
    problem = problem_of(partition, clients=6)
    held, pool = problem.held(0)
    parts = problem.parts(DRAW)
    assert len(parts) == 6
    assert sorted(np.concatenate(parts)) == sorted(pool)
    assert not {*held} & {*pool}
    assert any(not np.array_equal(a, b) for a, b in zip(parts, problem.parts(Draw(2)), strict=True))
    assert not np.array_equal(held, problem.held(1)[0])
    np.testing.assert_allclose(problem.shares(DRAW).sum(axis=1), 1.0)
    if partition == "classes":
        assert {(row > 0).sum() for row in problem.shares(DRAW)} == {2}
    program = Trainer(problem, RECIPES).program(RECIPES["fedavg"].program)
    shapes = {
        jax.tree.map(np.shape, problem.data(program, problem.start(DRAW), Draw(seed))["index"]) for seed in range(3)
    }
    assert shapes == {(6, problem.largest)}


def stepped(problem, name, places, count=2):
    """States after some rounds at some places of the ranges, by one compiled step."""
    recipe = RECIPES[name]
    program = recipe.program(problem)
    step, ended = compile_step(program.step), []
    start = recipe.start(problem, DRAW) if recipe.start else problem.start(DRAW)
    data = problem.data(program, start, DRAW)
    for place in places:
        state = program.start(start, problem.key(DRAW, "run"))
        fixed = program.fixed(problem.rates(program, setting_of(name, place)))
        for _ in range(count):
            state, metrics = step(state, data, fixed)
            assert np.isfinite([float(value) for value in metrics.values()]).all()
        ended.append(Weights(program.whole(start.params, state.params), state.model_state))
    assert step._cache_size() == 1, "changing rates compiles nothing"
    return program, start, ended


@pytest.mark.parametrize("name", [name for name in RECIPES if not name.endswith("_scratch") and name != "fedbn"])
def test_every_row_trains_reads_its_setting_and_compiles_once(problem, name):
    program, start, (one, other) = stepped(problem, name, (0.2, 0.8))
    assert named_leaves(one.params).keys() == named_leaves(start.params).keys()
    leaves = [jax.tree.leaves((weights.params, weights.model_state)) for weights in (one, other)]
    assert all(np.isfinite(leaf).all() for leaf in leaves[0])
    assert any(np.any(a != b) for a, b in zip(*leaves, strict=True))
    assert RECIPES[name].means
    trunk_moved = np.any(one.params["trunk"]["dense_0"]["kernel"] != start.params["trunk"]["dense_0"]["kernel"])
    head_moved = np.any(one.params["head"]["kernel"] != start.params["head"]["kernel"])
    assert trunk_moved == (name not in ("head", "local_head", "local"))
    assert head_moved == (name not in ("fedper", "fedrep", "local_head", "local"))
    assert bool(one.model_state.personal) == (name in ("fedper", "fedrep", "local_head", "local"))
    assert program.controls == (name == "scaffold")
    assert program.clients == (1 if name == POOLED else 4)


def test_rows_from_scratch_are_the_same_programs_from_random_parameters(problem):
    twins = [name for name in RECIPES if name.endswith("_scratch")]
    assert {"fedavg_scratch", "fedprox_scratch", "scaffold_scratch", "fedadam_scratch"} <= {*twins}
    for name in twins:
        other = RECIPES[name.removesuffix("_scratch")]
        assert (RECIPES[name].program, RECIPES[name].search) == (other.program, other.search)
        assert not RECIPES[name].transfers
    fresh, begun = RECIPES["fedavg_scratch"].start(problem, DRAW).params, problem.start(DRAW).params
    kernels = [params["trunk"]["dense_0"]["kernel"] for params in (fresh, begun, problem.sources[0].weights.params)]
    assert np.any(kernels[0] != kernels[1])
    np.testing.assert_array_equal(kernels[1], kernels[2])
    np.testing.assert_array_equal(fresh["head"]["kernel"], begun["head"]["kernel"])


def judged(problem, weights, image, labels):
    """By every client's model and every example by itself, each weighed by how often the client has its class."""
    found = []
    for k, shares in enumerate(problem.shares(DRAW)):
        own = weights.model_state.of_client(weights.params, k)
        right = problem.answers(own, image)[0] == labels
        found.append(sum(shares[c] * right[labels == c].mean() for c in np.unique(labels)))
    return np.array(found)


@pytest.mark.parametrize("name", ["fedavg", "fedper", "local", "local_head"])
def test_a_client_is_judged_by_its_model_on_the_classes_that_it_has(problem, name):
    _, _, (weights,) = stepped(problem, name, (0.9,), count=3)
    labels = problem.task.test.labels
    found = problem.by_client(weights, problem.test_images, labels, DRAW)
    np.testing.assert_allclose(found, judged(problem, weights, problem.test_images, labels), atol=1e-6)
    recipe = RECIPES[name]
    trained = Trained(name, recipe, weights, {}, [{"step": 1, "validation": 0.5}])
    metrics, arrays = problem.test(trained, DRAW)
    assert metrics["test"] == pytest.approx(found.mean())
    assert metrics["worst"] == pytest.approx(found.min())
    np.testing.assert_array_equal(arrays["clients"], found)
    assert ("server" in metrics) == (name == "fedavg")
    held, _ = problem.held(0)
    known = problem.by_client(weights, problem.train_images[held], problem.task.train.labels[held], DRAW)
    assert problem.validate(trained, DRAW) == pytest.approx(known.mean())


def test_bytes_are_those_of_what_is_sent_in_both_directions(problem):
    start = problem.start(DRAW)
    sizes = {part: 4 * sum(leaf.size for leaf in jax.tree.leaves(tree)) for part, tree in start.params.items()}
    expected = {
        "fedavg": sizes["trunk"] + sizes["head"],
        "scaffold": 2 * (sizes["trunk"] + sizes["head"]),
        "head": sizes["head"],
        "fedper": sizes["trunk"],
        "local": 0,
        POOLED: 0,
    }
    for name, each in expected.items():
        trained = Trained(name, RECIPES[name], start, {}, [])
        assert problem.megabytes(trained) == pytest.approx(CONFIG.steps * 4 * 2 * each / 1e6)


def test_normalisation_stays_with_clients():
    problem = problem_of("iid", model="cnn", widths=(2, 3), normalisation="batch", clients=2)
    program = normalisation_stays(problem)
    assert {*jax.tree.leaves(program.labels)} == {"transferred", NEW, NORMALISATION}
    assert {path.split("/")[1] for path in program.sharing.personal} == {"norm_0", "norm_1"}
    state = program.start(problem.start(DRAW), jax.random.key(0))
    assert {path.rpartition("/")[2] for path in state.model_state.own_state} == {"mean", "var"}
    assert problem.answers(Weights(state.params, state.model_state), problem.test_images).shape == (2, 80)


def test_a_study_of_clients_goes_on_and_keeps_figures_by_client(problem, tmp_path):
    names = ("fedavg", "fedper")
    result = study(problem, RECIPES, tmp_path, [names], methods=names)
    again = study(problem, RECIPES, tmp_path, [names], methods=names)
    for method in names:
        runs = result.reported(method, "tuned")
        assert [run.metrics for run in runs] == [run.metrics for run in again.reported(method, "tuned")]
        arrays = result.arrays(runs[0])
        assert arrays["clients"].shape == (4,)
        assert runs[0].metrics["test"] == pytest.approx(arrays["clients"].mean())
        assert len(arrays["curve/step"]) == len(arrays["curve/worst"]) == 2
    assert len(result.contrasts) == 1


def test_worst_is_the_mean_of_the_lowest_tenth():
    assert worst(np.array([0.5, 0.1, 0.9])) == 0.1
    assert worst(np.arange(11.0)) == 0.5


@pytest.mark.parametrize(
    ("partition", "changes", "message"),
    [
        ("iid", {"sampled": 5}, "--config.sampled: 5 of 4 clients"),
        ("classes", {"clients": 3}, "cannot have all of 10"),
        ("dirichlet", {"clients": 200, "alpha": 0.01}, "--config.clients=200, dirichlet: .* less than 1"),
    ],
)
def test_clients_that_cannot_be_are_refused(partition, changes, message):
    with pytest.raises(InputError, match=message):
        problem_of(partition, **changes)
