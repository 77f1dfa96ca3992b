"""The main job on 200 digits and a few steps: every method, and the protocol around it."""

import csv
import dataclasses
import functools
import json
import re
import signal
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console
from sklearn.datasets import load_digits

from experiments import cifar_transfer as experiment
from experiments.cifar_transfer import Config
from jaxtl import checkpoints, loop, report
from jaxtl.data import from_arrays, keep_to_data, load, source_and_target
from jaxtl.errors import InputError, Interrupted
from jaxtl.labels import NEW, TRANSFERRED
from jaxtl.methods.finetuning import RECIPES, head, pulled
from jaxtl.models import initialise
from jaxtl.problems import (
    FewShot,
    Images,
    Source,
    check_tasks,
    choose_tasks,
    make_model,
    make_source,
    make_sources,
    outputs,
)
from jaxtl.problems.few_shot import CORRUPTIONS
from jaxtl.problems.images import in_channels
from jaxtl.program import Weights
from jaxtl.protocol import Draw, Trainer, study
from jaxtl.step import program_of

SETTING = {
    "learning_rate": 0.05,
    "head_learning_rate": 0.05,
    "pull": 1.0,
    "pull/transferred": 2.0,
    "pull/new": 0.5,
    "pull/source": 1.5,
    "ratio": 0.1,
    "source_weight": 0.5,
}


@functools.cache
def trainer_of(problem):
    """One for all tests with this problem: their methods are compiled once."""
    return Trainer(problem, RECIPES)


def train(problem, *how):
    return trainer_of(problem).train(*how)


def asked(config, source, target):
    check_tasks(config, source, target, (1,), folds=False, models=1)


def setting(method, **changes):
    return {key: changes.get(key, SETTING[key]) for key in RECIPES[method].search}


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """200 training and 100 test digits in an archive, as a user would bring them."""
    images, labels = load_digits(return_X_y=True)
    images = (images.reshape(-1, 8, 8) * 15).astype(np.uint8)
    path = tmp_path_factory.mktemp("data") / "digits.npz"
    np.savez(
        path,
        train_images=images[:200],
        train_labels=labels[:200],
        test_images=images[200:300],
        test_labels=labels[200:300],
    )
    return path


@pytest.fixture(scope="module")
def config(digits):
    return Config(
        data=str(digits),
        widths=(4, 8),
        source_steps=20,
        source_batch_size=16,
        steps=5,
        batch_size=8,
        trials=2,
        tuning_draws=1,
        report_draws=2,
        n_per_class=(4,),
        folds=2,
        validation=20,
    )


@pytest.fixture(scope="module")
def finished(config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    experiment.main(config, workdir)
    return workdir


@pytest.fixture(scope="module")
def problem(config, tmp_path_factory):
    return make_problem(config, tmp_path_factory.mktemp("source"))


def make_problem(config, workdir):
    data = load(config.data)
    source_task, task = source_and_target(config.splits[0], data, data)
    return FewShot(config, make_source(config, source_task, workdir), task, 4)


def test_a_source_model_trained_on_two_devices_is_that_of_one(config, problem, tmp_path):
    shared = dataclasses.replace(config, mesh=("data:2",), source_batch_size=16)
    params = make_problem(shared, tmp_path).source.weights.params
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), params, problem.source.weights.params)
    assert {len(leaf.devices()) for leaf in jax.tree.leaves(params)} == {1}, "what follows knows of one device"


def test_every_method_is_reported_with_its_draws_contrasts_and_predictions(finished, config):
    summary = json.loads((finished / "summary.json").read_text())
    tuned = {row["name"]: row for row in summary["methods"] if row["selection"] == "tuned"}
    assert list(tuned) == list(RECIPES)
    assert [row["name"] for row in summary["methods"] if row["selection"] == "honest"] == ["features"]
    assert summary["n_per_class"] == 4
    assert {(row["a"], row["b"]) for row in summary["contrasts"]} == set(experiment.CONTRASTS)
    with open(finished / "runs.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    tuning = [row for row in rows if row["stage"] == "tuning"]
    assert {row["method"] for row in tuning} == set(RECIPES) - {"untuned"}
    assert len(tuning) == 2 * (len(RECIPES) - 1)  # the same number of trials for every method
    assert {row["seed"] for row in tuning}.isdisjoint(row["seed"] for row in rows if row["stage"] == "report")
    labels = source_and_target("0-4:5-9", *[load(config.data)] * 2)[1].test.labels
    arrays = next(finished.rglob("arrays/l2-1-*.npz"))
    predicted = np.load(arrays, allow_pickle=False)["prediction"]
    assert tuned["l2"]["values"][tuned["l2"]["seeds"].index(1)] == pytest.approx(np.mean(predicted == labels))
    assert len(list((finished / "plots").glob("*.png"))) >= 4


def test_an_interrupted_comparison_goes_on_and_ends_with_the_same_figures(finished, config, tmp_path, monkeypatch):
    calls, train_once = [], Trainer._train

    def stop_in_the_eighth(self, how, name, recipe, settings, draw):
        if recipe is self.recipes[name]:  # and not what comes before it
            calls.append(len(settings))
            if len(calls) == 8:
                loop.request_stop(signal.SIGTERM)
        return train_once(self, how, name, recipe, settings, draw)

    monkeypatch.setattr(Trainer, "_train", stop_in_the_eighth)
    with pytest.raises(Interrupted):
        experiment.main(config, tmp_path)
    loop.stop_request.signal_number = None
    experiment.main(config, tmp_path)
    before, after = (json.loads((where / "summary.json").read_text()) for where in (finished, tmp_path))
    assert calls[7] == config.trials
    assert sum(calls) == calls[7] + len(_lines(tmp_path))  # only what was stopped is made twice
    for old, new in zip(before["methods"], after["methods"], strict=True):
        assert (old["name"], old["values"], old["setting"]) == (new["name"], new["values"], new["setting"])
    assert before["contrasts"] == after["contrasts"]


def _lines(workdir):
    return next(workdir.rglob("runs.jsonl")).read_text().splitlines()


def test_methods_of_one_structure_run_in_one_compiled_program(problem):
    trainer = trainer_of(problem)
    shared = [name for name, recipe in RECIPES.items() if recipe.program is pulled]
    for name in shared:
        for factor in (1.0, 0.5):
            trainer.train(name, {key: factor * value for key, value in setting(name).items()}, Draw(0))
    assert len(shared) == 8
    assert program_of(trainer.program(pulled).step, 1)._cache_size() == 1
    assert program_of(trainer.program(head).step, 1)._cache_size() == 1  # what probes for lp_ft


@pytest.fixture(scope="module")
def decaying(problem):
    """The problem with each kind of decay."""
    kinds = ("loss", "coupled", "decoupled")
    return {
        kind: FewShot(dataclasses.replace(problem.config, decay=kind), problem.source, problem.task, 4)
        for kind in kinds
    }


@pytest.mark.parametrize("method", ["l2", "l2_differential", "l2_sp", "scratch"])
def test_a_pull_in_the_loss_is_the_coupled_decay_and_not_the_decoupled_one(method, decaying):
    trained = {
        decay: train(other, method, setting(method), Draw(0)).weights.params for decay, other in decaying.items()
    }
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), trained["loss"], trained["coupled"]
    )
    with pytest.raises(AssertionError):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3), trained["loss"], trained["decoupled"])


def test_several_steps_in_one_dispatch_are_the_same_steps(problem):
    other = FewShot(dataclasses.replace(problem.config, chunk=5), problem.source, problem.task, 4)
    single, together = (train(p, "l2_sp", setting("l2_sp"), Draw(0)).weights.params for p in (problem, other))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), single, together)


def test_features_leave_the_trunk_and_with_it_the_source_accuracy(problem):
    trained = train(problem, "features", setting("features"), Draw(1))
    jax.tree.map(np.testing.assert_array_equal, trained.weights.params["trunk"], problem.source.weights.params["trunk"])
    metrics, _ = problem.test(trained, Draw(1))
    assert metrics["source"] == problem.source.accuracy


def test_methods_start_where_they_say(problem):
    fresh, moved = problem.fresh(Draw(3)).params, problem.start(Draw(3)).params
    assert not np.allclose(
        fresh["trunk"]["conv_0"]["kernel"], problem.source.weights.params["trunk"]["conv_0"]["kernel"]
    )
    np.testing.assert_array_equal(
        moved["trunk"]["conv_0"]["kernel"], problem.source.weights.params["trunk"]["conv_0"]["kernel"]
    )
    np.testing.assert_array_equal(fresh["head"]["kernel"], moved["head"]["kernel"])
    standing = {"learning_rate": 1e-12, "pull": 1e-9, "head_learning_rate": 0.05}
    for name, trunk in (("scratch", fresh), ("fine_tune", moved), ("lp_ft", moved)):
        own = {key: standing[key] for key in RECIPES[name].search}
        ended = train(problem, name, own, Draw(3)).weights.params
        np.testing.assert_allclose(ended["trunk"]["conv_0"]["kernel"], trunk["trunk"]["conv_0"]["kernel"], atol=1e-6)
        assert np.allclose(ended["head"]["kernel"], moved["head"]["kernel"], atol=1e-6) == (name != "lp_ft")


def test_a_pull_of_one_becomes_the_lambda_that_shrinks_a_free_weight_by_e(problem):
    rates = problem.rates(pulled(problem), setting("l2_differential", **{"pull/transferred": 1.0, "pull/new": 3.0}))
    factors = np.array([problem.schedule(step) for step in range(problem.config.steps)])
    reach = 0.05 * factors.sum() / (1 - 0.9)
    assert rates["penalty/transferred/zero"] == pytest.approx(1 / reach, rel=1e-5)
    assert rates["penalty/new"] == pytest.approx(3 / reach, rel=1e-5)
    assert rates["penalty/transferred/source"] == 0
    slow = problem.rates(pulled(problem), setting("lr_ratio"))
    assert slow["learning_rate/transferred"] == pytest.approx(0.1 * slow["learning_rate/new"])


def test_draws_never_meet_the_validation_images_and_folds_stay_inside_their_draw(problem):
    for seed in range(4):
        seen, held, _ = problem.examples(Draw(seed))
        assert len(seen) == 4 * 5
        assert not set(seen) & set(held)
        validated = []
        for fold in range(2):
            train, validation, _ = problem.examples(Draw(seed, fold, 2))
            assert set(train) | set(validation) == set(seen)
            assert not set(train) & set(validation)
            validated += list(validation)
        assert sorted(validated) == sorted(seen)


def test_imbalance_and_label_noise_reach_the_labelled_examples_and_nothing_else(problem):
    config = dataclasses.replace(problem.config, imbalance=4.0, label_noise=0.5)
    other = FewShot(config, problem.source, problem.task, 4)
    true = problem.task.train.labels
    seen, held, given = other.examples(Draw(1))
    assert np.all(np.abs(np.bincount(true[seen]) - 4 * 4.0 ** (-np.arange(5) / 4)) < 1)
    assert set(seen) < set(problem.examples(Draw(1)).seen)
    wrong = np.flatnonzero(given != true)
    assert set(wrong) <= set(seen)
    assert abs(len(wrong) - len(seen) / 2) < 1
    np.testing.assert_array_equal(given[held], true[held])
    batch = other.images.batches(len(seen))(
        other.data(pulled(other), other.start(Draw(1)), Draw(1)), jax.random.key(0), 0
    )
    assert sorted(batch["label"].tolist()) == sorted(given[seen].tolist())


def test_corrupted_test_images_are_tested_on_when_asked(problem):
    other = FewShot(dataclasses.replace(problem.config, corruptions=True), problem.source, problem.task, 4)
    metrics, _ = other.test(train(other, "l2", setting("l2"), Draw(1)), Draw(1))
    kinds = {name.removeprefix("corrupted/") for name in metrics if name.startswith("corrupted/")}
    assert kinds == set(CORRUPTIONS)
    for name, images in other.worse.items():
        assert images.shape == other.test_images.shape
        assert not np.array_equal(images, other.test_images), name
    assert not any(
        name.startswith("corrupted") for name in problem.test(train(problem, "l2", setting("l2"), Draw(1)), Draw(1))[0]
    )


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"n_per_class": (4, 400)}, "n_per_class=400: class"),
        ({"folds": 5}, "n_per_class=4: "),
        ({"imbalance": 0.5}, "imbalance: 0.5"),
        ({"label_noise": 1.0}, "label_noise: 1.0"),
    ],
)
def test_examples_that_cannot_be_drawn_are_refused_before_the_source_model_is_trained(config, tmp_path, change, says):
    with pytest.raises(InputError, match=says):
        experiment.main(dataclasses.replace(config, **change), tmp_path)
    assert not list(tmp_path.rglob("source"))


def test_joint_training_learns_both_tasks(problem):
    trained = train(problem, "joint", setting("joint"), Draw(0))
    assert (
        trained.weights.params["source_head"]["kernel"].shape == problem.source.weights.params["head"]["kernel"].shape
    )
    assert not np.allclose(
        trained.weights.params["source_head"]["kernel"], problem.source.weights.params["head"]["kernel"]
    )


def test_a_colour_trunk_meets_grey_images_by_summing_its_first_kernel(config, tmp_path):
    grey = load(config.data)
    colour = from_arrays(
        np.repeat(grey.train.images, 3, axis=-1),
        grey.train.labels,
        np.repeat(grey.test.images, 3, axis=-1),
        grey.test.labels,
    )
    source_task, task = source_and_target("0-4:5-9", colour, grey)
    problem = FewShot(config, make_source(config, source_task, tmp_path), task, 4)
    moved = problem.transferred(Draw(0))
    kernel = problem.source.weights.params["trunk"]["conv_0"]["kernel"]
    np.testing.assert_allclose(moved.params["trunk"]["conv_0"]["kernel"], jnp.sum(kernel, 2, keepdims=True), rtol=1e-6)
    assert moved.labels["trunk"]["conv_0"]["kernel"] == TRANSFERRED
    metrics, _ = problem.test(train(problem, "joint", setting("joint"), Draw(1)), Draw(1))
    assert 0 <= metrics["source"] <= 1
    untouched = {**moved.params, "head": problem.source.weights.params["head"]}
    assert problem.on_source(Weights(untouched), Draw(0)) == pytest.approx(problem.source.accuracy, abs=0.15)


@pytest.mark.parametrize("model", ["cnn", "mlp"])
@pytest.mark.parametrize("channels", [(1, 3), (3, 1)], ids=["grey to colour", "colour to grey"])
def test_a_trunk_sees_images_of_other_channels_as_it_sees_its_own(config, tmp_path, model, channels):
    """Before any training, with one normalisation: a grey image in colour is the grey image."""
    grey = load(config.data)
    colour = in_channels(grey, 3)
    sets = {1: grey, 3: colour}
    source_task, task = source_and_target("0-4:5-9", *(sets[count] for count in channels))
    config = dataclasses.replace(config, model=model, source_steps=1)
    asked(config, source_task, task)
    images = Images.of(source_task)
    made = make_model(config, images, head=5)
    params = initialise(made, jax.random.key(0), images.shape)
    problem = FewShot(config, Source(source_task, images, Weights(params), 0.0), task, 4)
    moved = problem.transferred(Draw(0))
    assert set(jax.tree.leaves(moved.labels["trunk"])) == {TRANSFERRED}
    some = [jnp.asarray(sets[count].test.images[:9]) for count in channels]
    seen = [
        outputs(model, Weights(params), image, Images(image.shape[1:], *statistics), "features")
        for model, params, image, statistics in (
            (made, params, some[0], (np.full(channels[0], 100.0), np.full(channels[0], 50.0))),
            (problem.model, moved.params, some[1], (np.full(channels[1], 100.0), np.full(channels[1], 50.0))),
        )
    ]
    np.testing.assert_allclose(*seen, rtol=1e-4, atol=1e-4)
    assert problem.seen_source.train.images.shape[-1] == channels[1]
    assert len(problem.source_images.mean) == channels[1]


def arrays(*shape, dtype=np.uint8, high=256, classes=4):
    """Random examples of a shape, ten of a class."""
    examples = np.random.default_rng(0).uniform(0, high, (10 * classes, *shape)).astype(dtype)
    return from_arrays(examples, np.arange(10 * classes) % classes)


@pytest.mark.parametrize(
    ("source", "target", "change", "says"),
    [
        (arrays(8, 8, 3), arrays(8, 8, 4), {}, "source examples are 8x8x3, the target's 8x8x4"),
        (arrays(8, 8, 2), arrays(8, 8, 1), {}, "source examples are 8x8x2, the target's 8x8x1"),
        (arrays(64), arrays(8, 8, 1), {"model": "mlp"}, "source examples are 64, the target's 8x8x1"),
        (arrays(64), arrays(32), {"model": "mlp"}, "source examples are 64, the target's 32"),
        (arrays(8, 8, 1), arrays(8, 9, 3), {"model": "mlp"}, "--config.model=mlp: an mlp for source images of 8x8"),
        (arrays(64), arrays(64), {}, "--config.model=cnn: examples of 64 numbers are no images"),
        (arrays(64, 1, 1), arrays(64, 1, 1), {"widths": (4, 4)}, "--config.widths: 2 blocks halve images of 64x1 to"),
        (arrays(1, 9, 1), arrays(1, 9, 1), {"widths": (4, 4)}, "give 1 of --config.widths at most"),
        (arrays(3, 3, 1), arrays(3, 3, 1), {"widths": (4, 4, 4)}, "give 2 of --config.widths at most"),
        (arrays(8, 64, 1), arrays(8, 64, 1), {"input_size": 2, "widths": (4,) * 3}, "averaged down to 2x16, to less"),
        (arrays(8, 8), arrays(8, 8, dtype=np.float32, high=1), {}, "the target's from .* to 0.99"),
        (arrays(8, 8, dtype=np.float32, high=1), arrays(8, 8, dtype=np.int32), {}, "the target's from 0 to 255"),
        (arrays(7, 8), arrays(7, 8), {"corruptions": True}, "--config.corruptions: .* images are 7x8x1"),
        (arrays(8, 8, dtype=np.float32, high=1),) * 2
        + ({"corruptions": True}, "grey levels 0 to 255, and test images"),
        (arrays(8, 8, dtype=np.float32, high=999),) * 2 + ({"corruptions": True}, "grey levels 0 to 255"),
    ],
)
def test_images_that_cannot_be_carried_over_are_refused_in_words_of_flags(config, source, target, change, says):
    with pytest.raises(InputError, match=says) as caught:
        asked(dataclasses.replace(config, source="other", **change), source, target)
    assert caught.value.where.startswith("--config.")
    assert caught.value.todo


@pytest.mark.parametrize(
    ("source", "target", "change"),
    [
        (arrays(8, 8), arrays(16, 12, 3), {}),
        (arrays(8, 8, dtype=np.int32), arrays(8, 8), {}),
        (arrays(8, 8), arrays(8, 8, dtype=np.float32, high=100), {}),
        (arrays(64, 1, 1), arrays(64, 1, 1), {"model": "resnet18"}),
        (arrays(64, 1, 1), arrays(64, 1, 1), {"widths": (4,)}),
        (arrays(8, 8, 3), arrays(8, 8), {"model": "mlp"}),
        (arrays(64), arrays(64), {"model": "mlp"}),
        (arrays(8, 8, dtype=np.float32, high=255), arrays(8, 8), {"corruptions": True}),
    ],
)
def test_images_of_other_sizes_and_channels_are_carried_over(config, source, target, change):
    asked(dataclasses.replace(config, source="other", **change), source, target)


@pytest.mark.parametrize("shape", [(24, 128), (128, 24), (96, 16, 3), (16, 96, 3), (5, 200)])
@pytest.mark.parametrize("model", ["cnn", "mlp"])
def test_tall_and_wide_pictures_are_shifted_and_averaged_by_their_shorter_edge(config, shape, model):
    data = arrays(*shape)
    images = Images.of(data)
    made = make_model(dataclasses.replace(config, model=model), images, head=4)

    def logits(key):
        batch = {"image": jnp.asarray(data.train.images[:4]), "label": jnp.arange(4)}
        return made.init_with_output(key, images.batches(4)(batch, key, 0)["image"], train=True)[0]["head"]

    assert jax.eval_shape(logits, jax.random.key(0)).shape == (4, 4)
    if model == "cnn":
        turned = make_model(config, Images.kept((shape[1], shape[0], images.shape[2])), head=4)
        assert turned.trunk.input_pooling == made.trunk.input_pooling == max(1, min(shape[:2]) // config.input_size)


def test_numbers_are_neither_shifted_nor_mirrored():
    data = arrays(3, dtype=np.float32)
    images = Images.of(data)
    batch = {"image": jnp.asarray(data.train.images[:4]), "label": jnp.arange(4)}
    expected = (data.train.images[:4] - images.mean) / images.std
    np.testing.assert_allclose(images.batches(4)(batch, jax.random.key(0), 0)["image"], expected, rtol=1e-5)


def test_a_set_of_few_classes_is_told_which_flag_names_them(config, tmp_path):
    path = tmp_path / "four.npz"
    images, labels = np.zeros((40, 8, 8), np.uint8), np.arange(40) % 4
    names = np.array(["ape", "bee", "cat", "dog"])
    np.savez(path, train_images=images, train_labels=labels, test_images=images, test_labels=labels, label_names=names)
    with pytest.raises(InputError) as caught:
        experiment.main(dataclasses.replace(config, data=str(path)), tmp_path / "run")
    said = str(caught.value)
    assert said.startswith("--config.splits=0-4:5-9: no class '0-4'")
    assert "ape, bee, cat, dog" in said
    assert "such as ape+bee:cat+dog" in said
    assert not list((tmp_path / "run").rglob("source"))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"splits": ("0-4:5",)}, "--config.splits=0-4:5: the target has one class, '5'"),
        ({"splits": ("3:5-6",)}, "--config.splits=3:5-6: the source has one class, '3'"),
        ({"head": "shared"}, "--config.head=shared: 0, 1, 2, 3, 4 and 5, 6, 7, 8, 9 have no class in common"),
        ({"source_examples": (0, 1000)}, "--config.source_examples=1000: 1000 of "),
        ({"corruptions": True, "data": "odd"}, "--config.corruptions: .* 7x8x1"),
    ],
)
def test_tasks_that_cannot_be_asked_are_refused_before_the_source_model_is_trained(config, tmp_path, change, says):
    with np.load(config.data) as archive:
        cut = {name: array[:, :7] if name.endswith("images") else array for name, array in archive.items()}
    np.savez(tmp_path / "odd.npz", **cut)
    change = {name: str(tmp_path / "odd.npz") if name == "data" else value for name, value in change.items()}
    with pytest.raises(InputError, match=says):
        experiment.main(dataclasses.replace(config, **change), tmp_path / "run")
    assert not list(tmp_path.rglob("source"))


def test_images_divided_between_two_tasks_are_told(config, capsys):
    data, console = load(config.data), Console()
    report.print_notice(console, choose_tasks("0-4:5-9", "splits", data, data)[1], since=data)
    assert not capsys.readouterr().out
    report.print_notice(console, choose_tasks("0-6:5-9", "splits", data, data)[1], since=data)
    assert "NOTE: images that both tasks have are in one of them only" in capsys.readouterr().out


@pytest.mark.parametrize(("model", "parameters"), [("wide_resnet", 2_748_890), ("resnet18", 11_173_962)])
def test_larger_models_are_those_that_are_published(config, model, parameters):
    made = make_model(dataclasses.replace(config, model=model), Images.kept((32, 32, 3)), head=10)
    shapes = jax.eval_shape(lambda: initialise(made, jax.random.key(0), (32, 32, 3)))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == parameters


def test_head_columns_of_shared_classes_are_copied_when_asked(config, tmp_path):
    data = load(config.data)
    source_task, task = source_and_target("0-6:5-9", data, data)
    shared = dataclasses.replace(config, head="shared")
    problem = FewShot(shared, make_source(shared, source_task, tmp_path), task, 4)
    trained_on = {image.tobytes() for image in source_task.train.images}
    chosen_by = [*problem.held, *problem.pool]
    assert not trained_on & {problem.task.train.images[i].tobytes() for i in chosen_by}
    moved = problem.transferred(Draw(0))
    source_head = problem.source.weights.params["head"]["kernel"]
    np.testing.assert_array_equal(moved.params["head"]["kernel"][:, :2], source_head[:, 5:7])
    np.testing.assert_array_equal(moved.anchor["head"]["kernel"][:, 2:], 0)
    assert moved.labels["head"]["kernel"] == NEW


def test_a_source_checkpoint_takes_the_place_of_training(config, problem, tmp_path):
    data = load(config.data)
    source_task, _ = source_and_target(config.splits[0], data, data)
    made = make_source(config, source_task, tmp_path)
    given = dataclasses.replace(config, source_checkpoint=str(tmp_path / "source.safetensors"), source_steps=1)
    read = make_source(given, source_task, tmp_path / "unused")
    jax.tree.map(np.testing.assert_array_equal, made.weights.params, read.weights.params)
    jax.tree.map(
        np.testing.assert_array_equal, made.weights.params, problem.source.weights.params
    )  # and training is reproducible
    checkpoints.export(jax.tree.map(lambda leaf: leaf + 1, made.weights.params), given.source_checkpoint)
    with pytest.raises(InputError, match=r"the content of .*source.safetensors has changed since the run began"):
        make_source(given, source_task, tmp_path / "unused")


def test_every_replicate_has_a_source_model_held_out_examples_and_draws_of_its_own(config, problem):
    other = jax.tree.map(lambda leaf: leaf + 0.1, problem.source.weights.params)
    second = problem.source._replace(weights=problem.source.weights._replace(params=other))
    both = FewShot(config, [problem.source, second], problem.task, problem.n)
    for k, source in enumerate(both.sources):
        draw = Draw(1, replicate=k)
        jax.tree.map(np.testing.assert_array_equal, both.start(draw).params["trunk"], source.weights.params["trunk"])
        jax.tree.map(np.testing.assert_array_equal, both.given(draw)["anchor"]["trunk"], source.weights.params["trunk"])
        seen, held, _ = both.examples(draw)
        assert set(held) == set(both.parts(k)[0])
        assert not set(seen) & set(held)
        joint = RECIPES["joint"].start(both, draw).params["source_head"]
        jax.tree.map(np.testing.assert_array_equal, joint, source.weights.params["head"])
    assert set(both.parts(0)[0]) != set(both.parts(1)[0])
    assert (both.own, problem.own) == (("held-out examples", "source models"), ("held-out examples",))
    jax.tree.map(np.testing.assert_array_equal, both.start(Draw(1)).params, problem.start(Draw(1)).params)


def test_a_strong_pull_goes_to_the_source_of_the_replicate(config, problem):
    other = jax.tree.map(lambda leaf: leaf + 0.1, problem.source.weights.params)
    second = problem.source._replace(weights=problem.source.weights._replace(params=other))
    both = FewShot(config, [problem.source, second], problem.task, problem.n)
    setting = {"learning_rate": 0.01, "pull/source": 10.0, "pull/new": 0.1}
    for k, source in enumerate(both.sources):
        (trained,) = Trainer(both, RECIPES).train_all("l2_sp", [setting], Draw(1, replicate=k))
        moved, own = (leaf["trunk"]["conv_0"]["kernel"] for leaf in (trained.weights.params, source.weights.params))
        assert np.abs(moved - own).max() < 0.03


def test_a_source_model_is_trained_for_every_replicate_and_the_first_is_that_of_one(config, problem, tmp_path):
    source_task = problem.source.task
    with ThreadPoolExecutor(1) as pool:
        several = make_sources(dataclasses.replace(config, replicates=2), source_task, tmp_path, executor=pool)
    trained = [tmp_path / "source.safetensors", tmp_path / "replicate_1" / "source.safetensors"]
    assert sorted(tmp_path.rglob("*.safetensors")) == sorted(trained)
    kernels = [source.weights.params["trunk"]["conv_0"]["kernel"] for source in (problem.source, *several)]
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert np.abs(kernels[2] - kernels[1]).max() > 0.01
    given = dataclasses.replace(config, replicates=2, source_checkpoint=str(tmp_path / "source.safetensors"))
    assert len(make_sources(given, source_task, tmp_path / "read")) == 1


def test_a_run_does_not_go_on_with_other_images_of_the_target(config, problem, tmp_path):
    """The source model knows nothing of them, and the runs that are kept would be taken for theirs."""
    keep_to_data(tmp_path, problem.task.origin, *problem.task.content)
    images = problem.task.test.images.copy()
    images[0, 0, 0] ^= 1
    test = problem.task.test.having(image=images)
    other = FewShot(config, problem.source, dataclasses.replace(problem.task, test=test), problem.n)
    with pytest.raises(InputError, match="has changed since the run began"):
        study(other, RECIPES, tmp_path)


def test_a_net_from_nothing_is_shown_without_transferred_parameters(finished):
    """Its trunk has the label of what others transfer, and a history of its own."""
    with open(finished / "runs.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["stage"] == "report"]
    for row in rows:
        own = row["method"] == "scratch"
        assert bool(row["lambda/fresh trunk"]) == own
        assert bool(row["effective_rate/fresh trunk"]) == own
        assert not (own and (row["lambda/transferred"] or row["effective_rate/transferred"]))
    for path in finished.glob("*/n_4/arrays/*.npz"):
        with np.load(path) as arrays:
            trunk = {name for name in arrays if name.startswith("curve/") and "trunk" in name}
            assert trunk == ({"curve/norm/fresh trunk"} if path.name.startswith("scratch") else set())
            assert ("curve/norm/transferred" in arrays) == (not path.name.startswith("scratch"))


def test_a_summary_has_what_guessing_gives_and_which_classes_are_confused(finished, digits):
    labels = np.load(digits)["test_labels"]
    counts = np.bincount(labels[labels >= 5])
    text = (finished / "summary.md").read_text(encoding="utf-8")
    assert re.search(rf"\| majority class +\| +{100 * counts.max() / counts.sum():.1f} \|", text)
    assert "**Classes confused most**\n\n- l2 (baseline" in text
    assert (finished / "plots" / "confusion.png").is_file()
    assert "## 0, 1, 2, 3, 4 → 5, 6, 7, 8, 9; 4 labelled examples per class\n" in text
    for name, recipe in RECIPES.items():
        assert f"- {name}: {recipe.means}" in text
