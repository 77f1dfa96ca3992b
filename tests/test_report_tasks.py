"""Figures of several tasks: what is averaged, what is left out, and what the pictures show."""

import math
from dataclasses import replace

import numpy as np
import pytest

from jaxtl.protocol import Run
from jaxtl.protocol.measures import Truth
from jaxtl.protocol.results import Result
from jaxtl.report.cells import percent
from jaxtl.report.plots.style import styled
from jaxtl.report.plots.tasks import cosine_maps, mean_cosines, per_task, weights_and_cosines
from jaxtl.report.tasks import classes_in_words, on_task, task_table, weighing

TASKS = ("left", "right")
STEPS = np.array([10, 20, 30])


def run(method, seed, left, right, arrays=()):
    metrics = {"test": (left + right) / 2, "test/left": left, "test/right": right, "train": 1.0, "delta_p": left - 0.5}
    return Run(method, "report", "tuned", seed, None, 0, {"learning_rate": 0.1}, metrics=metrics, arrays=arrays)


COSINES = ("curve/step", "curve/cosine/left/right")
WEIGHTS = (*COSINES, "curve/weight/left", "curve/weight/right")


@pytest.fixture
def result():
    runs = [
        run("equal_l2", 0, 0.5, 0.75, COSINES),
        run("equal_l2", 1, 0.75, 0.5, COSINES),
        *(run(method, seed, 0.25, 0.5, WEIGHTS) for method in ("mgda", "mgda_l2", "nash") for seed in (0, 1)),
    ]

    def arrays(run):
        found = {"curve/step": STEPS, "curve/cosine/left/right": np.array([0.5, 0.0, -0.5]) + run.seed}
        found |= {f"curve/weight/{task}": np.full(3, 1.0 + k) for k, task in enumerate(TASKS)}
        return {name: found[name] for name in run.arrays}

    return Result("a problem", {}, runs, [], arrays)


def test_a_row_has_the_mean_the_tasks_and_the_gain(result):
    table = task_table(result, TASKS, "equal_l2", {"mean over tasks": 0.25, "left": 0.3, "right": 0.2})
    rows = {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}
    assert rows["equal_l2"]["mean over tasks"] == "62.5 ± 0.0"
    assert rows["equal_l2"]["− equal_l2"] == "baseline"
    assert rows["equal_l2"]["left"] == "62.5 ± 17.7"
    assert rows["equal_l2"]["Δp"] == "+12.5 ± 17.7"
    assert rows["equal_l2"]["train − test"] == "+37.5"
    assert rows["mgda"]["− equal_l2"] == "−25.00 [−25.00, −25.00]"
    assert table.rows[-1] == ["guessing", "25.0", "", "30.0", "20.0", "", "", ""]
    assert percent([math.nan]) == "–"


def test_what_no_method_has_is_no_column(result):
    runs = [
        replace(one, metrics={name: one.metrics[name] for name in ("test", "test/left")}) for one in result.runs[2:]
    ]
    table = task_table(Result("", {}, runs, [], result.arrays), ("left",), "equal_l2", {"left": 0.5})
    assert table.columns == ["method", "mean over tasks", "left", "seconds"]
    assert table.rows[-1] == ["guessing", "", "50.0", ""]


def test_cosines_are_means_over_draws_early_halfway_and_at_the_end(result):
    found = mean_cosines(result, "equal_l2", TASKS)
    assert list(found) == ["step 10", "step 20", "step 30"]
    for matrix, cosine in zip(found.values(), (1.0, 0.5, 0.0), strict=True):
        np.testing.assert_allclose(matrix, [[1.0, cosine], [cosine, 1.0]])
    assert mean_cosines(result, "absent", TASKS) == {}


def test_of_two_variants_the_second_is_shown(result):
    shown = weighing(result, "_l2")
    assert shown is not None
    assert shown.methods == ["mgda_l2", "nash"]
    assert weighing(Result("", {}, result.runs[:2], [], result.arrays), "_l2") is None


def test_the_panels_show_every_method_and_say_what_lies_outside(result):
    runs = [run(f"method_{k}", 0, 0.8 + 0.01 * k, 0.5 + 0.01 * k) for k in range(9)]
    far = run("method_9", 0, 0.1, 0.5)
    shown, floor = Result("", {}, [*runs, far], [], result.arrays), {"left": 0.8, "right": 0.1}
    with styled():
        figure = per_task(shown, TASKS, "title", "%", "method_0", "_l2", floor)
    left, right = figure.axes
    low, high = left.get_xlim()
    assert 50 < low < 80
    assert 88 < high < 90
    assert [axis.get_xlabel() for axis in figure.axes] == ["%\nguessing: 80.0; outside: 1 point", "%\nguessing: 10.0"]
    assert [line.get_xdata()[0] for line in left.lines if line.get_linestyle() == ":"] == [80.0]
    assert [label.get_text() for label in left.get_yticklabels()] == [f"method_{k}" for k in range(10)]
    assert right.get_title(loc="left") == "right"


def test_a_map_has_a_number_for_every_two_tasks(result):
    with styled():
        figure = cosine_maps("title", TASKS, mean_cosines(result, "equal_l2", TASKS))
        assert [text.get_text() for text in figure.axes[0].texts] == ["+1.00", "+1.00"]
        shown = weighing(result, "_l2")
        assert shown is not None
        panels = weights_and_cosines(shown, "title").axes
    assert [axis.get_title(loc="left") for axis in panels if axis.get_title(loc="left")] == ["mgda_l2", "nash"]


def test_on_one_task_runs_are_judged_by_it_alone(result):
    labels, names = np.array([0, 1, 1, 1]), ("no", "yes")

    def arrays(run):
        return {name: np.array([0, 0, 1, 1]) for name in run.arrays}

    runs = [run("equal_l2", seed, 0.75, 0.5, ("curve/step", "prediction/left")) for seed in (0, 1)]
    runs.append(run("mgda", 0, 0.5, 0.75))
    found = on_task(Result("", {}, runs, [], arrays), "left", Truth(labels, names))
    assert found.summaries["equal_l2", "tuned"].mean == 0.75
    assert found.balanced["equal_l2", "tuned"] == pytest.approx((1 + 2 / 3) / 2)
    assert math.isnan(found.balanced["mgda", "tuned"])
    assert classes_in_words("left", found.looked_into("mgda"), names) == (
        "Balanced accuracy and confusions, left: equal_l2 (best) 83.3, yes taken for no (33 %)."
    )
