"""`jaxtl finetune` beside what people do today: the same pictures for all, and figures that are what they say."""

from __future__ import annotations

import importlib
import io
import json
import signal
from types import SimpleNamespace

import numpy as np
import pytest
from oracles import torch_trunks as oracle
from PIL import Image
from scipy import stats
from sklearn.metrics import balanced_accuracy_score

from experiments.benchmarks import practice, practice_data, practice_jax
from experiments.benchmarks.practice_data import SETS, Small, Task, hand_over, some, task_of
from experiments.benchmarks.practice_tables import OURS, Estimate, difference, judged, score, section, strata, verdict
from experiments.benchmarks.workers import ONE_THREAD, Worker
from jaxtl import cli
from jaxtl.data import load
from jaxtl.errors import InputError, Interrupted
from jaxtl.report.plots.style import styled

BRIGHT = Small("bright or dark", "", lambda path: load("digits"), 5)


def bright_or_dark(count=24, edge=32):
    """Pictures that a mean tells apart, and as many others."""
    random, labels = np.random.default_rng(0), np.arange(count) % 2
    images = (random.integers(0, 80, (2, count, edge, edge, 3)) + 150 * labels[:, None, None, None]).astype(np.uint8)
    return Task(images[0], labels, images[1], labels, ("dark", "bright"))


@pytest.fixture
def handed(tmp_path):
    hand_over(bright_or_dark(), BRIGHT, 32, "small_cnn", {}, (127.0, 128.0), tmp_path / "handed.npz")
    return tmp_path / "handed.npz"


# ---------------------------------------------------------------- figures


@pytest.mark.parametrize("right", [0, 17, 40])
def test_the_interval_of_a_share_is_wilson_s(right):
    values = (np.arange(40) < right).astype(float)
    found, known = score(values, strata(values, False)), stats.binomtest(right, 40).proportion_ci(method="wilson")
    np.testing.assert_allclose(found, (right / 40, known.low, known.high), atol=1e-6)


def test_a_share_in_which_classes_count_alike_is_scikit_learn_s_and_its_interval_holds():
    random, truth = np.random.default_rng(0), np.repeat([0, 1, 2], (60, 30, 12))
    hold = np.where(truth == 0, 0.9, np.where(truth == 1, 0.7, 0.5))
    held = []
    for _ in range(400):
        right = random.random(len(truth)) < hold
        found = score(right.astype(float), strata(truth, True))
        held.append(found.low <= (0.9 + 0.7 + 0.5) / 3 <= found.high)
    answers = np.where(right, truth, (truth + 1) % 3)
    assert found.value == pytest.approx(balanced_accuracy_score(truth, answers))
    assert 0.93 <= np.mean(held) <= 0.99


def test_the_interval_of_a_difference_is_that_of_resampled_pairs_and_never_without_width():
    random = np.random.default_rng(1)
    truth = np.repeat([0, 1], (900, 300))
    ours = (random.random(1200) < 0.8).astype(float)
    theirs = np.where(random.random(1200) < 0.15, 1 - ours, ours)
    for balanced in (False, True):
        rows = strata(truth, balanced)
        found = difference(ours, theirs, rows)
        draws = [[random.choice(part, len(part)) for part in rows] for _ in range(2000)]
        again = [np.mean([(ours - theirs)[part].mean() for part in drawn]) for drawn in draws]
        assert found.value == pytest.approx(np.mean([(ours - theirs)[part].mean() for part in rows]))
        np.testing.assert_allclose(found[1:], np.percentile(again, [2.5, 97.5]), atol=4e-3)
    same = difference(ours, ours, strata(truth, False))
    assert same.value == 0
    assert same.low < 0 < same.high


def test_seeds_are_averaged_by_picture():
    truth, one, two = np.array([0, 1, 1, 0]), {"answers": [0, 1, 1, 1]}, {"answers": [0, 0, 1, 1]}
    said = {"seconds": 1.0, "cpu": 1.0, "told": ""}
    found = judged("", "accuracy", truth, {OURS: [one | said, two | said], "timm": [one | said, one | said]}, False)
    assert found.scores[OURS].value == pytest.approx(5 / 8)
    assert found.apart["timm"].value == pytest.approx(-1 / 8)


@pytest.mark.parametrize(
    ("others", "word"),
    [
        ({"timm": (0.80, -0.05, 0.15)}, "best"),
        ({"timm": (0.85, 0.0, 0.1)}, "best"),
        ({"timm": (0.90, -0.1, 0.01)}, "level"),
        ({"timm": (0.90, -0.1, -0.01)}, "behind timm's recipe"),
        ({"timm": (0.90, -0.1, -0.01), "keras": (0.95, -0.2, 0.01)}, "behind timm's recipe"),
    ],
)
def test_behind_is_only_where_a_rival_is_surely_ahead(others, word):
    scores = {OURS: Estimate(0.85, 0.8, 0.9)} | {name: Estimate(value, 0, 1) for name, (value, *_) in others.items()}
    apart = {name: Estimate(0.85 - value, low, high) for name, (value, low, high) in others.items()}
    assert verdict(scores, apart) == word


def test_a_table_has_a_row_for_every_rival_and_a_picture_of_all_differences():
    truth, said = np.arange(20) % 2, {"seconds": 12.3, "cpu": 11.9, "told": "100 epochs"}
    rivals = {OURS: truth, "logistic": 1 - truth, "timm": np.zeros(20, int)}
    found = judged("made up", "accuracy", truth, {k: [{"answers": v, **said}] for k, v in rivals.items()}, False)
    made = section(120, [found, found])
    assert len(made.tables[1].rows) == 6
    assert made.tables[0].rows[0] == ["made up", "100.0", "0.0", "–", "–", "50.0", "–", "best"]
    assert made.lines[0] == "jaxtl is best or level on 2 of 2 sets."
    assert found.bar.value == 1.0
    with styled():
        figure = made.plots[0].figure()
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["made up", "made up"]


# ---------------------------------------------------------------- the same pictures


def test_all_are_handed_the_same_pictures_and_no_label_of_a_test_picture(handed):
    given, task = dict(np.load(handed)), bright_or_dark()
    np.testing.assert_array_equal(given["train"], task.train)
    np.testing.assert_array_equal(given["test"], task.test)
    np.testing.assert_array_equal(given["labels"], task.labels)
    known = {"train", "labels", "test", "classes", "trunk", "measure", "mirrored", "mean", "std"}
    assert set(given) == known


def test_seeds_draw_other_pictures_to_learn_from_and_the_same_to_be_tested_on():
    first, again, other = (task_of(SETS["digits"], "", 50, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.train, again.train)
    np.testing.assert_array_equal(first.test, other.test)
    assert len(first.test) == 50
    assert not np.array_equal(first.train, other.train)
    assert np.bincount(other.labels).tolist() == [5] * 10
    assert np.bincount(some(np.array([0] * 9 + [1] * 3), 5, 0) // 9).tolist() == [5, 3]  # of a small class all


def test_copies_and_what_else_is_left_out_of_medical_pictures(tmp_path):
    random, coded, offsets = np.random.default_rng(0), b"", [0]
    images = random.integers(0, 256, (40, 28, 28), dtype=np.uint8)
    images[1], images[2] = images[0], images[30]  # a copy within training, one of a test picture
    buffer = io.BytesIO()
    Image.fromarray(images.reshape(1, 40, 28, 28).swapaxes(1, 2).reshape(28, 40 * 28)).save(buffer, "PNG")
    coded, offsets = buffer.getvalue(), [0, len(buffer.getvalue())]
    part = np.repeat([0, 1, 2], (20, 10, 10))
    known = {"pneumonia_blob": np.frombuffer(coded, np.uint8), "pneumonia_offsets": np.array(offsets)}
    known |= {"pneumonia_labels": np.arange(40) % 2, "pneumonia_split": part}
    np.savez(tmp_path / "medical.npz", **known, pneumonia_label_names=np.array(["normal", "pneumonia"]))
    found = practice_data.x_rays(tmp_path / "medical.npz")
    np.testing.assert_array_equal(found.train.images[..., 0], images[[0, *range(3, 20)]])
    np.testing.assert_array_equal(found.test.images[..., 2], images[30:])
    np.testing.assert_array_equal(found.test.labels, np.arange(30, 40) % 2)


# ---------------------------------------------------------------- all of it


def first_class(data, *, trunk, budget, measure, size, seed, workdir):
    """In place of `tl.finetune`, which is slow to compile: it says that everything is the first class."""
    assert len(data.test) == 1  # nothing of the test part is there
    assert np.array_equal(data.test.images[0], data.train.images[0])
    sure = np.eye(len(data.classes))[:1]
    card = {"method": "ridge", "setting": {"λ": float(budget.rstrip("s"))}}
    return SimpleNamespace(card=card, probabilities=lambda images: np.repeat(sure, len(images), axis=0))


@pytest.fixture
def within(monkeypatch):
    """Processes within this one, which count what they are asked; the rest of a process is tested by itself."""
    asked = []

    class Process:
        def __init__(self, module, file, environment):
            assert module == "practice_jax"
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def ask(self, question, **details):
            asked.append(details["rival"])
            if asked.count("logistic_cv") == 1 and details["rival"] == "logistic_cv":
                raise Interrupted("as by Ctrl-C", signal.SIGINT)
            return practice_jax.learn(self.file, **details)

    monkeypatch.setattr(practice, "Worker", Process)
    monkeypatch.setattr(practice_jax, "finetune", first_class)
    monkeypatch.setattr(practice, "is_here", lambda library: False)
    return asked


def test_a_run_that_is_stopped_goes_on_and_every_rival_is_scored(within, tmp_path, capsys):
    rivals = ("jaxtl", "logistic", "logistic_cv", "timm")
    rest = {
        "sets": ("digits", "usps_10"),
        "longer": ("digits",),
        "data_dir": str(tmp_path),
        "trunk": "small_cnn",
        "tested": 40,
    }
    config = practice.Config(rivals=rivals, budgets=(2, 3), size=16, **rest)
    with pytest.raises(Interrupted):
        practice.main(config, tmp_path / "run")
    practice.main(config, tmp_path / "run")
    assert within == ["jaxtl", "logistic", "logistic_cv", "logistic_cv", "jaxtl"]  # heads are the same in any budget
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert set(summary["practice"]) == {"2/digits", "3/digits"}
    assert summary["figures"]["practice/3/digits/logistic/score"] > 0.4  # a tenth by chance
    assert summary["figures"]["practice/3/digits/jaxtl/score"] == np.mean(task_of(SETS["digits"], "", 40, 0).truth == 0)
    assert "ridge, λ 3" in (tmp_path / "run" / "summary.md").read_text()
    text = capsys.readouterr().out
    assert f"Left out, since not in {tmp_path}: USPS, n = 10 (digits.npz)" in text
    assert "PyTorch is not installed here" in text
    assert (tmp_path / "run" / "plots" / "3s.png").exists()


def test_sets_get_longer_budgets_where_they_are_to():
    config = practice.Config(sets=("digits", "usps_10"), budgets=(2, 5), longer=("usps_10",))
    asked = list(practice.asked_of(config, ["digits", "usps_10"], ["jaxtl", "logistic"]))
    assert [(name, budget) for name, _, budget, rival in asked if rival == "jaxtl"] == [
        *(("digits", 2), ("usps_10", 2)),
        ("usps_10", 5),
    ]
    assert {budget for *_, budget, rival in asked if rival == "logistic"} == {2}


def test_none_of_the_sets_is_told_before_anything_is_measured(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("jaxtl.devices.backend.use_compilation_cache", lambda: None)
    asked = [f"--config.data_dir={tmp_path}", f"--workdir={tmp_path}/run"]
    assert cli.execute(practice.main, practice.Config, asked) == 2
    assert "none of the sets is there" in capsys.readouterr().err
    with pytest.raises(InputError, match="oranges"):
        practice.check(practice.Config(sets=("oranges",)))


@pytest.mark.slow
def test_rivals_learn_in_processes_of_their_own(handed):
    pytest.importorskip("torch")
    for module, rival in (("practice_jax", "jaxtl"), ("practice_jax", "logistic_raw"), ("practice_torch", "keras")):
        with Worker(module, str(handed), environment=ONE_THREAD) as worker:
            said = worker.ask("learn", rival=rival, budget=5, seed=0)
        assert len(said["answers"]) == 24
        assert said["seconds"] > 0
        assert rival == "keras" or np.mean(said["answers"] == bright_or_dark().truth) > 0.9


# ---------------------------------------------------------------- PyTorch's recipes


@pytest.fixture
def recipes():
    pytest.importorskip("torch")
    return importlib.import_module("experiments.benchmarks.practice_torch")


def small(torch):
    """A network of the same kind: batch statistics below a head."""
    torch.manual_seed(0)
    nn = torch.nn
    layers = [nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(8, 2))


def test_pytorch_s_network_computes_the_features_of_its_weights(recipes):
    torch, stored = recipes.torch, np.load(oracle.STORED)
    state = oracle.state_dict(stored, "efficientnet_lite0")
    network = recipes.efficientnet_lite0(3, state).eval()
    with torch.inference_mode():
        found = network[:-1](torch.tensor(oracle.images(40)).permute(0, 3, 1, 2)).numpy()
    np.testing.assert_allclose(found, stored["efficientnet_lite0/features"], rtol=1e-3, atol=1e-4)
    state["_conv_stem.weight"] = state["_conv_stem.weight"][:, :2]
    with pytest.raises(ValueError, match="not the weights of EfficientNet-Lite0"):
        recipes.efficientnet_lite0(3, state)


@pytest.mark.parametrize(("rival", "told"), [("timm", "40 epochs"), ("keras", "20 + 10 epochs")])
def test_a_recipe_learns_and_takes_all_its_epochs_where_they_fit(rival, told, recipes, handed, monkeypatch):
    monkeypatch.setattr(recipes, "efficientnet_lite0", lambda classes, weights: small(recipes.torch))
    monkeypatch.setattr(recipes, "HEAD", (20, 0.1))  # so small a network needs larger steps
    monkeypatch.setattr(recipes, "RATE", 0.05)
    monkeypatch.setattr(recipes, "EPOCHS", 40)
    said = recipes.learn(str(handed), rival, 60.0, 0)
    assert said["told"] == told
    assert np.mean(said["answers"] == bright_or_dark().truth) > 0.9
    assert said["answers"] == recipes.learn(str(handed), rival, 60.0, 0)["answers"]  # of the same seed


@pytest.mark.parametrize(("rival", "told"), [("timm", "1 epochs"), ("keras", "1 + 1 epochs")])
def test_a_recipe_takes_as_many_epochs_as_fit(rival, told, recipes, handed, monkeypatch):
    monkeypatch.setattr(recipes, "efficientnet_lite0", lambda classes, weights: small(recipes.torch))
    assert recipes.learn(str(handed), rival, 0.0, 0)["told"] == told


def test_the_guide_of_keras_trains_the_head_then_all_and_holds_batch_statistics(recipes, monkeypatch):
    torch, network, task = recipes.torch, small(recipes.torch), bright_or_dark()
    images = recipes.as_given(task.train, {"mean": 127.0, "std": 128.0})
    frozen, phases = [], []

    def trained(under, made, loss, images, labels, views, epochs, rate):
        frozen.append([each.requires_grad for each in under.parameters()])
        phases.append((epochs, rate(0), type(made).__name__, [module.training for module in under[0]]))
        recipes.step(under, made, loss, images, labels)

    monkeypatch.setattr(recipes, "trained", trained)
    before = {name: array.clone() for name, array in network.state_dict().items()}
    recipes.keras(network, images, torch.as_tensor(task.labels), 1e12, True)
    assert frozen == [[False] * 4 + [True] * 2, [True] * 6]
    assert [phase[:3] for phase in phases] == [(20, 1e-3, "Adam"), (10, 1e-5, "Adam")]
    assert not any(any(phase[3]) for phase in phases)
    moved = {name for name, array in network.state_dict().items() if not torch.equal(array, before[name])}
    assert moved == {"0.weight", "0.bias", "1.weight", "1.bias", "5.weight", "5.bias"}


def test_the_recipe_of_timm_warms_up_and_ends_at_nothing(recipes, monkeypatch):
    torch, task, rates = recipes.torch, bright_or_dark(), []
    images = recipes.as_given(task.train, {"mean": 127.0, "std": 128.0})
    monkeypatch.setattr(recipes, "trained", lambda *rest: rates.extend(map(rest[-1], range(rest[-2]))))
    recipes.timm(small(torch), images, torch.as_tensor(task.labels), 1e12, True)
    assert len(rates) == 100  # an epoch is one batch here
    assert rates[0] == 1e-5
    assert np.all(np.diff(rates[:6]) > 0)
    assert rates[5] == pytest.approx(1e-3, rel=0.01)
    assert np.all(np.diff(rates[5:]) < 0)
    assert rates[-1] < 1e-6


def test_views_are_those_of_their_places(recipes):
    torch = recipes.torch
    images = torch.tensor(oracle.wave("pictures", (2, 3, 8, 8)))

    def at(*rows):
        return recipes.seen(images, torch.tensor([rows] * 2, dtype=torch.float32))

    torch.testing.assert_close(at([1, 0, 0], [0, 1, 0]), images)
    torch.testing.assert_close(at([-1, 0, 0], [0, 1, 0]), images.flip(3))
    torch.testing.assert_close(at([0, -1, 0], [1, 0, 0]), images.rot90(1, (2, 3)), atol=1e-5, rtol=1e-4)
    generator = torch.Generator().manual_seed(0)
    places = recipes.cropped(500, False, generator)
    wide, high = places[:, 0, 0], places[:, 1, 1]
    assert bool(((wide > 0) & (wide <= 1) & (high <= 1)).all())
    assert 0.4 < float((wide * high).mean()) < 0.6  # of areas spread evenly over 0.08 to 1
    assert bool((places[:, 0, 2].abs() + wide <= 1 + 1e-6).all())  # a part of the picture
    assert 200 < int((recipes.cropped(500, True, generator)[:, 0, 0] < 0).sum()) < 300
    turned = recipes.turned(500, False, generator)
    assert 0.55 < float(torch.atan2(turned[:, 1, 0], turned[:, 1, 1]).abs().max()) <= 0.2 * np.pi
    plain = torch.full((2, 3, 8, 8), 0.2)
    jittered = recipes.jittered(plain, generator)
    assert bool(((jittered >= -1) & (jittered <= 1)).all())
    assert float((jittered - plain).abs().max()) > 0.01
