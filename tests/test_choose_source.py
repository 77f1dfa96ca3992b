"""The experiment that asks which source to start from, on digits and with next to no training."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from experiments import choose_source as experiment
from experiments.choose_source import Config
from jaxtl.data import from_arrays, load
from jaxtl.errors import InputError
from jaxtl.methods.transferability.recipes import SCORES
from jaxtl.problems import FewShot, make_model, outputs
from jaxtl.problems.many_sources import RANDOM, distinct, features_of, make_tasks, start_from, untrained, view
from jaxtl.program import Weights
from jaxtl.protocol import Draw, Trainer
from jaxtl.report.plots.rankings import Row, gains, rankings
from jaxtl.report.plots.style import styled

TINY = Config(
    data=("digits",),
    source_only=(),
    subsets=1,
    targets=1,
    widths=(4,),
    source_steps=4,
    source_batch_size=16,
    steps=2,
    batch_size=8,
    n_per_class=3,
    validation=40,
    report_draws=2,
    learning_rates=(0.05, 0.1),
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    experiment.main(TINY, workdir)
    return workdir


@pytest.fixture(scope="module")
def tasks():
    return make_tasks([load("digits")], 1, 3, 2, seed=0)


@pytest.fixture(scope="module")
def problem(tasks):
    target = next(iter(tasks.targets.values()))
    return FewShot(TINY, untrained(TINY, target), target, TINY.n_per_class)


def test_a_small_run_judges_every_score_and_goes_on(finished, monkeypatch):
    summary = json.loads((finished / "summary.json").read_text())
    assert list(summary["scores"]) == ["test", "frozen"]
    for found in summary["scores"].values():
        assert list(found) == [*SCORES, "any source"]
    for worth in summary["worth"].values():
        assert list(worth) == ["digits", "digits, half 1", "digits, wrong labels", RANDOM]
        assert np.shape(list(worth.values())) == (4, 1, 2)
    text = (finished / "summary.md").read_text()
    assert "](plots/scores.png)" in text
    assert "](plots/sources.png)" in text
    monkeypatch.setattr(Trainer, "train_all", None)
    experiment.main(dataclasses.replace(TINY), finished)
    again = json.loads((finished / "summary.json").read_text())
    assert (again["scores"], again["worth"]) == (summary["scores"], summary["worth"])


def test_the_learning_rate_is_chosen_on_other_draws_by_images_outside_every_subset(finished):
    (path,) = finished.glob("targets/*/runs.jsonl")
    runs = [json.loads(line) for line in path.read_text().splitlines()]
    assert {run["seed"] for run in runs if run["stage"] == "tuning"} == {0}
    assert {run["seed"] for run in runs if run["stage"] == "report"} == {1, 2}
    for run in runs:
        if run["stage"] == "report":
            tried = [r for r in runs if r["stage"] == "tuning" and r["method"] == run["method"]]
            best = max(tried, key=lambda r: r["validation"])
            assert run["setting"] == best["setting"]
            assert {"test", "frozen", *SCORES} <= run["metrics"].keys()


def test_the_summary_is_what_the_runs_say(finished):
    summary = json.loads((finished / "summary.json").read_text())
    (path,) = finished.glob("targets/*/runs.jsonl")
    runs = [json.loads(line) for line in path.read_text().splitlines()]
    reported = [run for run in runs if run["stage"] == "report"]
    worth = {(run["method"], run["seed"]): run["metrics"]["test"] for run in reported}
    names = list(summary["worth"]["test"])
    means = {name: np.mean([worth[name, seed] for seed in (1, 2)]) for name in names}
    best = max(names, key=means.get)
    lost, gained = [], []
    for seed in (1, 2):
        scores = {run["method"]: run["metrics"]["leep"] for run in reported if run["seed"] == seed}
        chosen = max(names, key=scores.get)
        lost.append(worth[best, seed] - worth[chosen, seed])
        gained.append(worth[chosen, seed] - worth[RANDOM, seed])
    assert summary["scores"]["test"]["leep"]["regret"][0] == pytest.approx(np.mean(lost))
    assert summary["scores"]["test"]["leep"]["gained"][0] == pytest.approx(np.mean(gained))


# ---------------------------------------------------------------- tasks


def test_no_example_serves_a_source_and_a_target(tasks):
    def rows(part):
        return {image.tobytes() for image in part.images}

    sources, targets = rows(tasks.sources["digits"].train), {}
    for target in tasks.targets.values():
        targets |= dict.fromkeys(rows(target.train))
    both = sources & targets.keys()
    images = load("digits").train.images
    twice = len(images) - len({image.tobytes() for image in images})
    assert len(both) <= twice
    assert len(tasks.sources["digits"].train) == len(images) // 2


def test_classes_are_halves_and_of_every_second_one_what_the_first_left(tasks):
    halves = [tasks.sources[f"digits, half {k}"].classes for k in (1, 2, 3)]
    assert [len(half) for half in halves] == [5, 5, 5]
    assert {*halves[0]} | {*halves[1]} == {*load("digits").classes}
    assert {*halves[2]} not in ({*halves[0]}, {*halves[1]})
    assert [len(target.classes) for target in tasks.targets.values()] == [5, 5]


def test_wrong_labels_are_those_of_the_same_images_in_another_order(tasks):
    right, wrong = tasks.sources["digits"].train, tasks.sources["digits, wrong labels"].train
    assert wrong.images is right.images
    np.testing.assert_array_equal(np.bincount(wrong.labels), np.bincount(right.labels))
    assert 0.05 < np.mean(wrong.labels == right.labels) < 0.2
    np.testing.assert_array_equal(
        tasks.sources["digits, wrong labels"].test.labels, tasks.sources["digits"].test.labels
    )


def test_a_set_that_only_sources_come_from_is_not_halved_and_has_no_target():
    grey = from_arrays(np.zeros((20, 8, 8), np.uint8), np.arange(20) % 4, name="grey")
    tasks = make_tasks([load("digits"), grey], 1, 1, 1, seed=0)
    assert list(tasks.sources) == ["digits", "digits, half 1", "grey", "grey, half 1", "digits, wrong labels"]
    assert list(tasks.targets) == ["digits, target 1"]
    assert len(tasks.sources["grey"].train) == len(grey.train)


def test_sets_are_there_once_and_names_mean_one():
    digits = load("digits")
    assert [data.name for data in distinct([digits, digits])] == ["digits"]
    other = dataclasses.replace(digits, origin="elsewhere")
    with pytest.raises(InputError, match=r"elsewhere is called 'digits' too"):
        distinct([digits, other])
    with pytest.raises(InputError, match="has no classes to tell apart"):
        distinct([from_arrays(np.ones((9, 6)), np.arange(9.0), target="number")])


# ---------------------------------------------------------------- what is seen of a source


def test_a_view_is_of_the_labelled_examples_alone_by_the_source_as_it_is(problem, tasks):
    source = untrained(TINY, tasks.sources["digits"])
    draw = Draw(3)
    seen, examples = view(problem, source, draw), problem.examples(draw)
    assert len(seen.features) == 3 * 5 == len(examples.seen)
    np.testing.assert_array_equal(seen.labels, problem.task.train.labels[examples.seen])
    image = problem.target_images[examples.seen]
    own = Weights({**problem.fresh(draw).params, "trunk": source.weights.params["trunk"]})
    np.testing.assert_array_equal(seen.features, outputs(problem.model, own, image, problem.images, "features"))
    np.testing.assert_allclose(seen.source_probs.sum(axis=1), 1)
    its = outputs(make_model(TINY, source.images, head=10), source.weights, image, problem.images, "head")
    odds = np.exp(its - its.max(axis=1, keepdims=True))
    np.testing.assert_allclose(seen.source_probs, odds / odds.sum(axis=1, keepdims=True), atol=1e-6)
    assert seen.source_features.shape == (200, 4)


def test_all_trunks_see_target_images_alike_and_start_under_the_same_head(problem, tasks):
    first = untrained(TINY, tasks.sources["digits"])
    second = untrained(dataclasses.replace(TINY, seed=1), tasks.sources["digits, half 1"])
    starts = [start_from(problem, source, Draw(2)).params for source in (first, second)]
    for ours, theirs in zip(starts, (first, second), strict=True):
        for a, b in zip(jax.tree.leaves(ours["trunk"]), jax.tree.leaves(theirs.weights.params["trunk"]), strict=True):
            np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(starts[0]["head"]["kernel"], starts[1]["head"]["kernel"])
    assert starts[0]["head"]["kernel"].shape == (4, 5)


def test_a_colour_trunk_sees_grey_images(problem):
    images = np.random.default_rng(0).integers(0, 255, (40, 8, 8, 3), dtype=np.uint8)
    colour = untrained(TINY, from_arrays(images, np.arange(40) % 4, name="colour"))
    features = features_of(problem, colour, Draw(1), problem.target_images[:5])
    assert features.shape == (5, 4)
    assert np.ptp(features) > 0


# ---------------------------------------------------------------- pictures, and what is refused


def test_pictures_have_a_row_for_each_score_and_each_source():
    rows = {name: Row(*[(tau, (tau - 0.1, tau + 0.1))] * 4) for name, tau in (("a", 0.1), ("b", 0.5))}
    with styled():
        figure = rankings("toy", {"one": rows, "two": rows})
        other = gains("toy", ["x", "y", "z"], ["s, 1", "t, 1"], {"one": np.arange(6.0).reshape(3, 2)})
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["b", "a"]
    assert len(figure.axes) == 3
    assert [list(line.get_xdata()) for line in other.axes[0].get_lines()[1:]] == [[0, 200, 400], [100, 300, 500]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": ()}, r"--config.data: nothing is given"),
        ({"learning_rates": ()}, r"--config.learning_rates: nothing is given"),
        ({"n_per_class": 10_000}, r"--config.n_per_class=10000: "),
        ({"targets": 0}, "--config.targets: 0 is less than 1"),
        ({"subsets": 1000}, "--config.subsets: 1000 is more than 20"),
        ({"subsets": 20, "targets": 20, "tuning_draws": 1000, "report_draws": 1000}, "--config.subsets: 460 pairs"),
        ({"data": ("nowhere.npz",)}, "nowhere.npz: no such file"),
    ],
)
def test_a_config_that_cannot_be_run_is_refused(changes, message, tmp_path):
    with pytest.raises(InputError, match=message):
        experiment.main(dataclasses.replace(TINY, **changes), tmp_path)
    assert not list(tmp_path.iterdir())
