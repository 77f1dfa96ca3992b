"""What an accuracy hides: guessing, balanced accuracy and confusions, held against scikit-learn."""

import math
from dataclasses import replace

import numpy as np
import pytest
from sklearn import metrics

from jaxtl.errors import InputError
from jaxtl.protocol import Run, balanced_accuracy, confusion_matrix
from jaxtl.report import Result, Truth
from jaxtl.report.files import write_files
from jaxtl.report.plots.comparison import by_method, plots_of
from jaxtl.report.plots.confusions import confusion_maps, in_words, shares
from jaxtl.report.plots.style import styled
from jaxtl.report.tables import method_table, notes

HEADER = {"experiment": "toy", "data": "synthetic", "device": "none", "config": {}}
NAMES = ("cat", "dog", "ship")
EQUAL, UNEQUAL = np.arange(60) % 3, np.repeat([0, 1, 2], [40, 15, 5])


def report_run(method, seed, right, diverged=False):
    arrays = () if diverged else ("prediction",)
    return Run(method, "report", "tuned", seed, None, 0, {}, metrics={"test": right}, arrays=arrays, diverged=diverged)


def made(labels, methods=("l2", "better"), draws=3):
    """A result whose second method errs half as often, and its predictions [method, draw, N]."""
    rng, found, runs = np.random.default_rng(0), {}, []
    for k, method in enumerate(methods):
        for seed in range(draws):
            wrong = rng.random(len(labels)) < 0.4 / (k + 1)
            found[method, seed] = np.where(wrong, rng.integers(0, 3, len(labels)), labels).astype(np.uint8)
            runs.append(report_run(method, seed, float(np.mean(found[method, seed] == labels))))
    truth = Truth(labels, NAMES)
    return Result("toy", {}, runs, [], lambda run: {"prediction": found[run.method, run.seed]}, truth=truth), found


@pytest.mark.parametrize("seed", range(5))
def test_confusions_and_balanced_accuracy_are_scikit_learns(seed):
    rng = np.random.default_rng(seed)
    classes = int(rng.integers(2, 12))
    labels = rng.integers(0, max(1, classes - seed), 50)  # some classes do not occur
    predicted = rng.integers(0, classes, 50).astype(np.uint8)
    ours = confusion_matrix(labels, predicted, classes)
    np.testing.assert_array_equal(ours, metrics.confusion_matrix(labels, predicted, labels=range(classes)))
    known = np.isin(predicted, labels)  # scikit-learn warns of answers that are no label
    theirs = metrics.recall_score(labels, predicted, labels=np.unique(labels), average="macro", zero_division=0)
    assert balanced_accuracy(ours) == pytest.approx(theirs)
    if known.all():
        assert balanced_accuracy(ours) == pytest.approx(metrics.balanced_accuracy_score(labels, predicted))


def test_a_constant_answer_has_the_majoritys_accuracy_and_is_balanced_at_chance():
    truth = Truth(UNEQUAL, NAMES)
    constant = confusion_matrix(UNEQUAL, np.zeros(60, int), 3)
    assert truth.majority == np.trace(constant) / 60 == pytest.approx(2 / 3)
    assert truth.chance == balanced_accuracy(constant) == pytest.approx(1 / 3)
    assert truth.sentence == (
        "Majority class: always 'cat', the most frequent of 3 classes, is right for 66.7 %; by chance 33.3 %."
    )


@pytest.mark.parametrize(("labels", "predicted"), [([0, 3], [0, 1]), ([0, 1], [0]), ([0.0, 1.0], [0, 1]), ([0], [-1])])
def test_what_is_no_class_is_refused(labels, predicted):
    with pytest.raises(InputError, match="confusion_matrix"):
        confusion_matrix(labels, predicted, 3)


def test_the_last_row_is_what_guessing_gives():
    result, _ = made(EQUAL)
    table = method_table(result, "l2")
    assert table.rows[-1] == ["majority class", "33.3", "", ""]
    assert "balanced" not in table.columns
    (fine,) = [note for note in notes(result, "l2") if not note.heading]
    gap = max(abs(result.balanced[m, "tuned"] - result.summaries[m, "tuned"].mean) for m in result.methods)
    assert f"balanced accuracy is within {100 * gap:.1f} points in every row" in " ".join(fine.lines)


def test_classes_of_unequal_size_have_a_column_of_balanced_accuracy():
    result, found = made(UNEQUAL)
    table = method_table(result, "l2")
    assert table.columns == ["method", "accuracy", "− l2", "balanced", "seconds"]
    for row in table.rows[:2]:
        scores = [metrics.balanced_accuracy_score(UNEQUAL, found[row[0], seed]) for seed in range(3)]
        assert row[3] == f"{100 * np.mean(scores):.1f}"
    assert table.rows[-1] == ["majority class", "66.7", "", "33.3", ""]


def test_a_draw_that_diverged_counts_as_0_in_both():
    result, _ = made(UNEQUAL, ("l2",), draws=2)
    runs = [*result.runs, report_run("l2", 2, 0.0, diverged=True)]
    assert replace(result, runs=runs).balanced["l2", "tuned"] == pytest.approx(2 / 3 * result.balanced["l2", "tuned"])


def test_without_predictions_there_is_a_dash_and_no_picture(tmp_path):
    result, _ = made(UNEQUAL)
    blind = replace(result, runs=[replace(run, arrays=()) for run in result.runs])
    assert [row[3] for row in method_table(blind, "l2").rows] == ["–", "–", "33.3"]
    assert [plot.name for plot in plots_of(blind, "l2")] == ["accuracy"]
    write_files(tmp_path, HEADER, [blind])


def test_baseline_and_best_are_looked_into():
    result, found = made(EQUAL, ("worse", "l2", "best"))
    assert list(result.looked_into("l2")) == ["l2 (baseline)", "best (best)"]
    assert list(result.looked_into("best")) == ["best (baseline and best)"]
    assert list(result.looked_into("absent")) == ["best (best)"]
    for seed, counts in enumerate(result.looked_into("l2")["best (best)"]):
        np.testing.assert_array_equal(counts, metrics.confusion_matrix(EQUAL, found["best", seed]))


def test_words_name_the_largest_confusions_first():
    counts = np.array([[6, 3, 1, 0], [0, 10, 0, 0], [0, 0, 5, 5], [0, 0, 0, 0]])  # the last class does not occur
    assert in_words([counts], [*NAMES, "4"]) == "ship taken for 4 (50 %), cat for dog (30 %), cat for ship (10 %)"
    assert in_words([np.eye(3)], NAMES) == "none"
    assert np.isnan(shares([counts])[3]).all()


@pytest.mark.parametrize("classes", [2, 12, 13, 41, 100])
def test_all_panels_have_the_scale_from_0_to_100(classes):
    counts = np.random.default_rng(0).integers(0, 50, (classes, classes))
    names = [f"class number {k} of many" for k in range(classes)]
    with styled():
        figure = confusion_maps("title", names, {"l2 (baseline)": [counts], "best": [counts, counts]})
        figure.canvas.draw()
    left, right, bar = figure.axes
    for axis in (left, right):
        assert axis.images[0].get_clim() == (0, 100)
        np.testing.assert_allclose(axis.images[0].get_array(), 100 * shares([counts]))
    assert bar.get_ylabel() == "of the class, %"
    assert len({label.get_text() for label in left.get_yticklabels()}) == len(left.get_yticks()), "shortened, yet apart"
    assert len(left.get_xticks()) == (classes if classes <= 40 else 0)


def test_the_picture_of_accuracies_names_the_majority():
    result, _ = made(UNEQUAL)
    with styled():
        axis = by_method(result, "l2").axes[0]
    assert "majority class: 66.7 (dotted)" in axis.get_xlabel()
    assert "majority class: 33.3" in by_method(made(EQUAL)[0], "l2").axes[0].get_xlabel()


def test_files_have_the_picture_the_words_and_the_numbers(tmp_path):
    import json

    result, _ = made(UNEQUAL)
    write_files(tmp_path, HEADER, [result])
    assert (tmp_path / "plots" / "confusion.png").is_file()
    assert "**Classes confused most**\n\n- l2 (baseline): " in (tmp_path / "summary.md").read_text(encoding="utf-8")
    summary = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert summary["guessing"] == [{"majority": pytest.approx(2 / 3), "chance": pytest.approx(1 / 3)}]
    assert summary["methods"][0]["balanced_accuracy_mean"] == pytest.approx(result.balanced["l2", "tuned"])
    assert not math.isnan(result.balanced["better", "tuned"])
