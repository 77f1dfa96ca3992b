"""The experiment that compares published ways of fine-tuning, on digits and with next to no training."""

import dataclasses
import json

import numpy as np
import pytest

from experiments import finetune_methods as experiment
from experiments.finetune_methods import BASELINES, PUBLISHED, ROWS, Config, methods_of
from jaxtl.protocol import Trainer

METHODS = ("scratch", "fine_tune", "l2", "l2_sp", "wise_ft", "uniform_soup", "scratch_soup", "ridge")
TINY = Config(
    data="digits",
    model="mlp",
    widths=(8,),
    source_steps=30,
    source_batch_size=16,
    steps=4,
    batch_size=10,
    n_per_class=3,
    validation=40,
    trials=2,
    tuning_draws=1,
    report_draws=2,
    methods=METHODS,
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    experiment.main(TINY, workdir)
    return workdir


def test_the_page_has_all_rows_what_is_kept_of_the_source_and_gains_beside_published_ones(finished):
    text = (finished / "summary.md").read_text()
    head = next(line for line in text.splitlines() if line.startswith("| method"))
    assert "source" in head
    assert all(f"\n| {name} " in text for name in METHODS)
    assert [f"](plots/{name}.png)" in text for name in ("accuracy", "source_kept", "learning_curves")] == [
        True,
        True,
        False,
    ]
    summary = json.loads((finished / "summary.json").read_text())
    tests = {one["method"]: np.array(one["values"]) for one in summary["methods"]}
    gains = text[text.index("## Gains beside") :]
    for one in PUBLISHED:
        row = next((line for line in gains.splitlines() if line.startswith(f"| {one.method} ") and one.on in line), "")
        assert bool(row) == (one.method in METHODS)
        if row:
            found = 100 * float(np.mean(tests[one.method] - tests[one.over]))
            assert f" {found:+.2f} [".replace("-", "−") in row
            assert f"{one.gains[0]:+.1f}".replace("-", "−") in row
    lost = 100 * float(np.mean(tests["scratch_soup"] - tests["scratch"]))
    assert f"scratch_soup − scratch: {lost:+.2f}".replace("-", "−") in gains


def test_nothing_is_trained_twice(finished, monkeypatch):
    before = json.loads((finished / "summary.json").read_text())
    monkeypatch.setattr(Trainer, "_train", None)
    experiment.main(dataclasses.replace(TINY), finished)
    assert json.loads((finished / "summary.json").read_text())["methods"] == before["methods"]


def test_every_published_gain_is_over_a_baseline_that_is_always_among_the_rows():
    assert {one.over for one in PUBLISHED} <= {*BASELINES}
    assert {one.method for one in PUBLISHED} <= {*ROWS}
    assert {*BASELINES} <= {*methods_of(Config())}
