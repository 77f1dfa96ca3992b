"""The experiment on boxes: its tables against the runs, its picture, and what it refuses."""

import csv
import dataclasses
import json

import numpy as np
import pytest

from experiments import object_detection as experiment
from experiments.object_detection import CONTRASTS, ROWS, Config
from jaxtl.errors import InputError
from jaxtl.protocol.detections import average_precision_50, mean_average_precision
from jaxtl.report.plots.boxes import drawn_boxes

TINY = Config(
    mirror="no",
    pooling=1,
    input_size=8,
    widths=(8, 8),
    head_width=8,
    found=6,
    source_steps=4,
    steps=4,
    batch_size=4,
    trials=2,
    report_draws=2,
    validation=8,
    n_pictures=(8,),
    methods=("fine_tune", "l2"),
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    experiment.main(TINY, workdir)
    return workdir


def test_tables_are_what_the_runs_say_and_runs_what_was_found(finished):
    figures = json.loads((finished / "summary.json").read_text())["n_pictures=8"]
    with open(finished / "runs_8.csv", newline="") as file:
        runs = [run for run in csv.DictReader(file) if run["stage"] == "report"]
    assert {run["method"] for run in runs} == {"fine_tune", "l2"}
    _, task = experiment.sets(TINY)
    truth = np.concatenate([task.test["box"], task.test["box_class"][..., None]], axis=2)
    for method, own in figures.items():
        for name in ("test", "ap50", "ap50/7"):
            assert own[name] == [float(run[name]) for run in runs if run["method"] == method]
    kept = [archive for archive in finished.glob("n_8/**/*.npz") if "found" in np.load(archive).files]
    worth = {
        (mean_average_precision(truth, found), average_precision_50(truth, found)) for found in map(found_in, kept)
    }
    assert worth == {(float(run["test"]), float(run["ap50"])) for run in runs}
    text = (finished / "summary.md").read_text()
    assert "](plots/boxes-n_pictures-8.png)" in text
    assert {path.name for path in (finished / "plots").iterdir()} >= {"mAP-n_pictures-8.png", "boxes-n_pictures-8.png"}
    assert "made up" in text


def found_in(archive):
    return np.load(archive)["found"]


def test_as_many_boxes_are_drawn_as_are_true():
    images = np.zeros((2, 8, 12, 1), np.uint8)
    truth = np.array([[[0, 0, 4, 4, 0], [1, 1, 3, 3, 1]], [[0, 0, 4, 4, 0], [0, 0, 0, 0, -1]]], float)
    found = np.tile([[0, 0, 4, 4, 1, 0.5]], (2, 5, 1)).astype(float)
    figure = drawn_boxes("t", images, truth, {"a": found, "b": found[:, :0]}, ["x", "y"])
    assert [len(axis.patches) for axis in figure.axes] == [2, 1, 2, 1, 0, 0]
    (first, *_) = figure.axes[0].patches
    assert (first.get_xy(), first.get_width(), first.get_height()) == ((-0.5, -0.5), 4, 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_pictures": (5000,)}, "--config.n_pictures: 5000 pictures"),
        ({"methods": ("l3",)}, "no method 'l3'"),
        ({"chunk": 3}, "--config.source_steps: 4 is no multiple of 3"),
        ({"data": "nowhere.npz"}, "no such file"),
    ],
)
def test_a_config_that_cannot_be_run_is_refused(changes, message, tmp_path):
    with pytest.raises(InputError, match=message):
        experiment.main(dataclasses.replace(TINY, **changes), tmp_path)


def test_every_contrast_is_of_rows():
    assert {name for pair in CONTRASTS for name in pair} <= {*ROWS}
