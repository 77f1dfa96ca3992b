"""The experiment that asks whether intervals and verdicts hold, on digits and with next to no training."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from experiments import calibration
from jaxtl.data import load
from jaxtl.problems import FewShot, choose_tasks, make_sources

TINY = calibration.Config(
    data="digits",
    widths=(4,),
    source_steps=20,
    source_batch_size=16,
    steps=5,
    batch_size=8,
    n_per_class=3,
    validation=40,
    replicates=2,
    tuning_draws=3,
    report_draws=1,
    trials=2,
    perturbations=1,
    comparisons=8,
)


@pytest.fixture(scope="module")
def problem(tmp_path_factory):
    data = load("digits")
    source_task, task = choose_tasks(TINY.split, "split", data, data)
    return FewShot(TINY, make_sources(TINY, source_task, tmp_path_factory.mktemp("source")), task, 3)


def test_a_small_run_answers_every_question_and_goes_on(tmp_path, capsys):
    calibration.main(TINY, tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert {"null", "flips", "components", "plans", "search", "last_bits"} <= summary.keys()
    assert len(summary["last_bits"]["verdicts"]) == 2
    assert set(summary["search"]) == {"4", "8", "16", "32"}
    kept = (tmp_path / "crossed" / "runs.jsonl").read_text()
    assert len(kept.splitlines()) == 2 * 3 * 4 * 2
    text = (tmp_path / "summary.md").read_text()
    calibration.main(dataclasses.replace(TINY), tmp_path)
    assert (tmp_path / "crossed" / "runs.jsonl").read_text() == kept
    facts = [line for line in text.splitlines() if not line.startswith("- Minutes")]
    assert facts == [
        line for line in (tmp_path / "summary.md").read_text().splitlines() if not line.startswith("- Min")
    ]


def test_the_last_bit_of_every_weight_moves_and_no_other(problem):
    moved = calibration.last_bit(problem.source, 3)
    for ours, theirs in zip(
        jax.tree.leaves(moved.weights.params), jax.tree.leaves(problem.source.weights.params), strict=True
    ):
        steps = np.abs(np.asarray(ours).view(np.int32) - np.asarray(theirs).view(np.int32))
        assert np.all((steps == 1) | (np.asarray(theirs) == 0))
