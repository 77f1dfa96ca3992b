"""The map of both pulls on 200 digits and a few steps: what is measured, what is chosen, and that it goes on."""

import dataclasses
import json
import signal

import numpy as np
import pytest
from sklearn.datasets import load_digits

from experiments import lambda_selection as experiment
from experiments.lambda_selection import CRITERIA, MAPS, Config
from jaxtl import loop
from jaxtl.errors import InputError, Interrupted
from jaxtl.problems.pull_map import PullMap
from jaxtl.protocol import Run, Trainer


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    images, labels = load_digits(return_X_y=True)
    images = (images.reshape(-1, 8, 8) * 15).astype(np.uint8)
    path = tmp_path_factory.mktemp("data") / "digits.npz"
    train, test = slice(0, 200), slice(200, 300)
    arrays = {"train_images": images[train], "train_labels": labels[train]}
    np.savez(path, **arrays, test_images=images[test], test_labels=labels[test])
    return Config(
        data=str(path),
        model="mlp",
        widths=(8,),
        source_steps=20,
        source_batch_size=16,
        steps=5,
        batch_size=8,
        points=2,
        trials=2,
        tuning_draws=1,
        report_draws=2,
        n_per_class=(4,),
        folds=2,
        validation=20,
    )


@pytest.fixture(scope="module")
def finished(config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("map")
    experiment.main(config, workdir)
    return workdir


def test_every_pair_of_pulls_is_measured_on_every_draw_and_every_criterion_chooses(finished):
    summary = json.loads((finished / "summary.json").read_text())
    for method in ("l2_differential", "l2_sp"):
        found = summary[f"{method}, 4 per class"]
        assert np.array(found["pulls"]).tolist() == [[0.01, 0.01], [0.01, 100], [100, 0.01], [100, 100]]
        assert {"validation accuracy", "k-fold log-loss", "BIC", "evidence", "best fixed pair"} <= set(
            found["criteria"]
        )
        chosen = found["criteria"]["best fixed pair"]["pulls"]
        assert chosen[0] == chosen[1] == found["pulls"][int(np.argmax(found["test"]))]
        assert set(found["parts"]) == set(experiment.REGIONS)
    runs = [json.loads(line) for line in (finished / "n_4/runs.jsonl").read_text().splitlines()]
    report = [run for run in runs if run["stage"] == "report"]
    assert len(report) == 2 * 2 * 4
    assert {run["seed"] for run in report}.isdisjoint(run["seed"] for run in runs if run["stage"] == "tuning")
    assert not any("test" in run["metrics"] for run in runs if run["stage"] == "tuning")
    for run in report:
        assert {column for column, _ in CRITERIA.values()} <= run["metrics"].keys() | {"validation"}
    assert {file.name for file in (finished / "plots").iterdir()} == {"maps.png", "overfitting_n_4.png"}


def test_a_strong_pull_leaves_fewer_degrees_of_freedom(finished):
    runs = [json.loads(line) for line in (finished / "n_4/runs.jsonl").read_text().splitlines()]
    df = {}
    for run in runs:
        if run["stage"] == "report" and run["method"] == "l2_differential" and run["seed"] == 1:
            df[run["setting"]["pull/transferred"], run["setting"]["pull/new"]] = run["metrics"]["df"]
    assert df[100.0, 100.0] < df[0.01, 100.0] < df[0.01, 0.01]
    assert df[100.0, 100.0] < df[100.0, 0.01] < df[0.01, 0.01]


def test_an_interrupted_map_goes_on_and_ends_with_the_same_figures(finished, config, tmp_path, monkeypatch):
    sweeps, train_all = [], Trainer.train_all

    def stop_in_the_fifth(self, *args):
        sweeps.append(args)
        if len(sweeps) == 5:
            loop.request_stop(signal.SIGTERM)
        return train_all(self, *args)

    monkeypatch.setattr(Trainer, "train_all", stop_in_the_fifth)
    with pytest.raises(Interrupted):
        experiment.main(config, tmp_path)
    loop.stop_request.signal_number = None
    experiment.main(config, tmp_path)
    before, after = (json.loads((where / "summary.json").read_text()) for where in (finished, tmp_path))
    for method in ("l2_differential", "l2_sp"):
        assert before[f"{method}, 4 per class"] == after[f"{method}, 4 per class"]


def mapped(test, validation, metrics):
    """Two draws of a 2 × 2 map with these figures, [draws][K]."""

    def run(draw, k):
        setting = {"pull/transferred": (1.0, 10.0)[k // 2], "pull/new": (1.0, 10.0)[k % 2], "learning_rate": 0.1}
        found = {"test": test[draw][k]} | {name: values[draw][k] for name, values in metrics.items()}
        return Run(
            "l2_differential", "report", "", draw, None, k, setting, validation=validation[draw][k], metrics=found
        )

    runs = [[run(draw, k) for k in range(4)] for draw in range(2)]
    return PullMap("l2_differential", MAPS["l2_differential"], runs, runs)


TEST = [[0.5, 0.6, 0.7, 0.8], [0.5, 0.9, 0.7, 0.6]]


def test_choices_are_made_by_the_criterion_and_judged_by_test_accuracy():
    of = mapped(TEST, [[0.1, 0.2, 0.9, 0.3], [0.9, 0.1, 0.2, 0.3]], {"bic": [[4, 3, 2, 1], [4, 1, 2, 3]]})
    choices = experiment.choices_on(of)
    assert choices["validation accuracy"].picked.tolist() == [2, 0]
    assert choices["BIC"].picked.tolist() == [3, 1]  # the smallest
    assert "AIC" not in choices  # nowhere measured
    table, figures = experiment.criteria_table(of, choices)
    assert figures["validation accuracy"]["test"].tolist() == [0.7, 0.5]
    assert figures["BIC"]["test"].tolist() == [0.8, 0.9]
    assert figures["best fixed pair"]["test"].tolist() == [0.6, 0.9]
    assert figures["BIC"]["difference"] == pytest.approx(0.1)
    assert [row[0] for row in table.rows] == [
        "validation accuracy",
        "BIC",
        "weakest pulls",
        "best fixed pair",
        "best of every draw",
    ]


def test_a_pair_that_diverged_leaves_a_gap_in_the_picture():
    of = mapped(TEST, TEST, {})  # nothing but test accuracy, as a run that diverged has it
    assert experiment.overfitting_plot(of, 4).figure()


def test_a_part_of_the_map_is_represented_by_its_best_pair_on_other_draws():
    of = mapped(TEST, [[0.1, 0.2, 0.9, 0.3], [0.1, 0.2, 0.9, 0.3]], {})
    table, figures = experiment.region_table(of)
    assert figures["equal"]["pulls"] == [10.0, 10.0]  # 0.3 beats 0.1
    assert figures["new > transferred"]["pulls"] == [1.0, 10.0]
    assert figures["new > transferred"]["difference"] == pytest.approx(np.mean([0.6 - 0.8, 0.9 - 0.6]))
    assert [row[-1] for row in table.rows] == ["", "undecided", "undecided"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"pull": (1.0,)}, "pull: "),
        ({"points": 1}, "points: 1 is less than 2"),
        ({"report_draws": 1}, "report_draws: 1 is less than 2"),
        ({"n_per_class": (400,)}, "n_per_class=400"),
    ],
)
def test_what_makes_no_map_is_refused_before_anything_is_trained(config, tmp_path, change, says):
    with pytest.raises(InputError, match=says):
        experiment.main(dataclasses.replace(config, **change), tmp_path)
    assert not list(tmp_path.rglob("source"))
