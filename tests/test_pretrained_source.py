"""A source model out of a pretrained trunk: kept outputs of its frozen stages stand for the pictures, whoever asks."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.finetune_methods import ROWS, Config, methods_of
from jaxtl.data import from_arrays
from jaxtl.data.on_disk import kept_array
from jaxtl.data.resized import resized
from jaxtl.errors import InputError
from jaxtl.labels import label_by_depth, label_set
from jaxtl.methods.finetuning.weight_space_recipes import block_of
from jaxtl.models import Classifier, cut, initial_model_state, initialise, stage_paths
from jaxtl.models.efficientnet import EfficientNetLite, Stage
from jaxtl.models.pretrained import Pretrained
from jaxtl.problems import FewShot, Images, check_tasks, choose_tasks, make_model, pretrained, source
from jaxtl.problems.pretrained import fewer, pretrained_source
from jaxtl.protocol import Draw, Trainer
from jaxtl.protocol.recipes import range_of
from jaxtl.trees import named_leaves

SIZE, WIDTH = 32, 16
CONFIG = Config(
    model="efficientnet_lite0",
    cut=1,
    picture_size=SIZE,
    most_train=60,
    most_test=24,
    n_per_class=3,
    validation=12,
    steps=2,
    batch_size=6,
    trials=2,
    tuning_draws=1,
    report_draws=2,
)
DRAW = Draw(1)


def pictures(count, seed=0):
    """Of four classes that a colour tells apart, of 8 pixels."""
    rng, labels = np.random.default_rng(seed), np.arange(count) % 4
    noise = rng.integers(0, 120, (count, 8, 8, 3))
    noise[..., 0] += 40 * (labels % 2)[:, None, None]
    noise[..., 1] += 90 * (labels // 2)[:, None, None]
    return noise.astype(np.uint8), labels


@pytest.fixture(scope="module", autouse=True)
def small():
    """A small network of the same kind, two stages and the top, in place of EfficientNet-Lite0."""
    stages = (Stage(1, 3, 2, 1, 4), Stage(1, 3, 2, 2, 8))
    model = EfficientNetLite(stages, stem=4, top=WIDTH)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source, "efficientnet_lite0", lambda: model)
        yield model


@pytest.fixture(scope="module")
def trunk(small):
    """With made-up weights, and batch statistics that are not those it starts with."""
    model, key = small, jax.random.key(3)
    shape = (SIZE, SIZE, 3)
    params = initialise(Classifier(model, ()), key, shape)["trunk"]
    state = initial_model_state(Classifier(model, ()), shape)["batch_stats"]["trunk"]
    state = jax.tree.map(lambda leaf: 0.2 + 0.3 * jnp.cos(jnp.arange(leaf.size)).reshape(leaf.shape) ** 2, state)
    statistics = (127.0,) * 3, (128.0,) * 3
    names = model.stage_names
    return Pretrained("lite0", model, params, {"batch_stats": state}, SIZE, *statistics, "", "made up", WIDTH, names)


@pytest.fixture(scope="module")
def tasks():
    data = from_arrays(*pictures(160), *pictures(80, seed=1), classes=("a", "b", "c", "d"))
    return [fewer(CONFIG, task) for task in choose_tasks("0-1:2-3", "split", data, data)]


@pytest.fixture(scope="module")
def found(trunk, tasks, tmp_path_factory):
    room = tmp_path_factory.mktemp("frozen")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrained, "load_trunk", lambda name, progress: trunk)
        sources, task = pretrained_source(CONFIG, *tasks, room)
    return sources, task, room


@pytest.fixture(scope="module")
def problem(found):
    return FewShot(CONFIG, found[0], found[1], CONFIG.n_per_class)


def test_no_more_examples_are_kept_than_asked_for_in_the_proportion_of_their_classes(tasks):
    for task in tasks:
        assert (len(task.train), len(task.test)) == (60, 24)
        assert np.bincount(task.train.labels).tolist() == [30, 30]
    more = dataclasses.replace(CONFIG, most_train=10_000, most_test=10_000)
    assert fewer(more, tasks[0]).train is tasks[0].train


def test_frozen_stages_and_what_is_trained_are_together_the_whole_trunk_on_the_pictures(found, trunk, tasks, problem):
    (came,), task, _ = found
    raw = np.stack([resized(one, SIZE) for one in tasks[1].test.images]).astype(np.float32)
    variables = {"params": trunk.params, **trunk.model_state}
    whole = np.asarray(trunk.model.apply(variables, (raw - 127) / 128, False)[0])
    head = jax.tree.map(np.asarray, came.weights.params["head"])
    weights = came.weights
    ours = problem.logits(weights, jnp.asarray(task.test.images))  # any head of two classes fits
    np.testing.assert_allclose(ours, whole @ head["kernel"] + head["bias"], rtol=2e-4, atol=2e-4)
    trained = {name.split("/")[0] for name in named_leaves(came.weights.params["trunk"])}
    assert trained == {"stage_1_block_0", "top", "top_norm"}


def test_the_source_head_is_as_sure_as_it_is_right(found):
    (came,), _, _ = found
    model = make_model(CONFIG, came.images, head=2)
    variables = {"params": came.weights.params, **came.weights.model_state}
    logits = model.apply(variables, came.task.train.images, False)["head"]

    def loss(scale):
        return -np.mean(jax.nn.log_softmax(scale * logits)[np.arange(60), came.task.train.labels])

    assert loss(1.0) <= min(loss(0.8), loss(1.25))


def test_what_is_kept_is_read_and_other_pictures_are_refused(found, trunk, tasks, monkeypatch):
    monkeypatch.setattr(pretrained, "load_trunk", lambda name, progress: trunk)
    monkeypatch.setattr(pretrained, "_passed", None)
    sources, task = pretrained_source(CONFIG, *tasks, found[2])
    assert np.array_equal(task.train.images, found[1].train.images)
    assert sources[0].accuracy == found[0][0].accuracy
    other = dataclasses.replace(tasks[1], train=tasks[1].train.having(image=255 - tasks[1].train.images))
    with pytest.raises(InputError, match="has changed"):
        pretrained_source(CONFIG, tasks[0], other, found[2])


def test_kept_outputs_come_to_a_step_kept_however_large(problem):
    assert problem.images == problem.source.images == problem.images._replace(augment=False)
    images = Images.kept((16, 16, 3))  # raw, they would be shifted by 2 pixels and mirrored
    array = np.random.default_rng(0).normal(size=(4, 16, 16, 3)).astype(np.float32)
    data = {"image": jnp.asarray(array), "label": jnp.arange(4), "order": jax.random.key(0)}
    batch = images.batches(4)(data, jax.random.key(1), 0)
    assert np.array_equal(batch["image"], array[batch["label"]])


SLOW = [
    pytest.param(name, marks=pytest.mark.slow) for name in ("lines", "layer_decay", "delta_attention", "lora", "lwf")
]


@pytest.mark.parametrize("name", ["fine_tune", *SLOW])
def test_rows_train_the_last_stages_and_hold_the_batch_statistics(problem, name):
    before = {"learning_rate": 0.01}
    for one in ROWS[name].search:
        before[one] = range_of(one, ROWS[name], CONFIG).at(0.5)
    (trained,) = Trainer(problem, ROWS).train_all(name, [before], DRAW)
    start = problem.start(DRAW)
    for ours, theirs in zip(*map(jax.tree.leaves, (trained.weights.model_state, start.model_state)), strict=True):
        assert np.array_equal(ours, theirs)
    moved = trained.weights.params["trunk"]["top"]["kernel"] - start.params["trunk"]["top"]["kernel"]
    assert np.abs(moved).max() > 0
    metrics, _ = problem.test(trained, DRAW)
    assert 0 <= metrics["source"] <= 1


def test_stages_of_what_is_above_a_cut_are_counted_from_there(problem):
    trunk, paths = problem.model.trunk, stage_paths(problem.model)
    assert (trunk.stage_names, trunk.widths) == (("stage_1", "top"), (8, WIDTH))
    assert label_set(label_by_depth(problem.moved.params, paths)) == {"depth:0", "depth:1", "depth:2"}
    params = named_leaves(problem.moved.params)
    blocks = {path.split("/")[1]: block_of(path, paths, 2) for path in params if path.startswith("trunk/")}
    assert blocks == {"stage_1_block_0": 1, "top": 2, "top_norm": 2}
    below, above = cut(problem.model, 1)
    x = jnp.asarray(problem.task.test.images[:3])
    params, state = problem.start(DRAW)
    handed, _ = below.apply({"params": params["trunk"], "batch_stats": state["batch_stats"]["trunk"]}, x, True)
    whole = problem.model.apply({"params": params, **state}, x, False)["head"]
    np.testing.assert_allclose(above.apply({"params": params, **state}, handed, True)["head"], whole, rtol=1e-5)


def test_what_a_pretrained_trunk_cannot_do_is_refused_before_anything_is_fetched(tasks, tmp_path, monkeypatch):
    monkeypatch.setattr(pretrained, "load_trunk", None)
    numbers = dataclasses.replace(tasks[0], train=tasks[0].train.having(image=np.zeros((60, 5), np.float32)))
    with pytest.raises(InputError, match="pictures of 8 bits"):
        pretrained_source(CONFIG, numbers, tasks[1], tmp_path)
    for change in ({"corruptions": True}, {"source_checkpoint": "x.npz"}):
        with pytest.raises(InputError, match="pretrained trunk"):
            pretrained_source(dataclasses.replace(CONFIG, **change), *tasks, tmp_path)
    with pytest.raises(InputError, match="batch normalisation"):
        methods_of(dataclasses.replace(CONFIG, normalisation="batch", methods=("stochnorm",)))
    check_tasks(CONFIG, *tasks, [5], folds=True, models=2)
    with pytest.raises(InputError, match="n_per_class"):
        check_tasks(CONFIG, *tasks, [40], folds=False, models=2)


def test_an_array_is_made_once_and_again_where_its_file_is_damaged(tmp_path):
    made = []

    def make():
        made.append(np.arange(12, dtype=np.float32).reshape(4, 3) + len(made))
        return made[-1]

    path = tmp_path / "room" / "a.npy"
    assert np.array_equal(kept_array(path, 4, make), made[0])
    assert np.array_equal(kept_array(path, 4, make), np.load(path))
    assert len(made) == 1
    path.write_bytes(path.read_bytes()[:-5])
    assert np.array_equal(kept_array(path, 4, make), made[1])
    assert kept_array(path, 5, lambda: np.zeros((5, 3), np.float32)).shape == (5, 3)
