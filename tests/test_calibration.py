"""The experiment that asks whether intervals and verdicts hold, on digits and with next to no training."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from experiments import calibration
from jaxtl.data import load
from jaxtl.problems import choose_tasks, make_sources

TINY = calibration.Config(
    data="digits",
    model="mlp",
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


@pytest.fixture(scope="module", autouse=True)
def few_searches():
    """The many hundred searches in the grid, of which a mean is taken, are all alike."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(calibration, "REPEATS", 10)
        yield


@pytest.fixture(scope="module")
def finished(few_searches, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    calibration.main(TINY, workdir)
    return workdir


def test_a_small_run_answers_every_question_and_goes_on(finished):
    summary = json.loads((finished / "summary.json").read_text())
    assert {"null", "flips", "components", "plans", "search", "last_bits"} <= summary.keys()
    assert len(summary["last_bits"]["verdicts"]) == 2
    assert set(summary["search"]) == {"4", "8", "16", "32"}
    kept = (finished / "crossed" / "runs.jsonl").read_text()
    assert len(kept.splitlines()) == 2 * 3 * 4 * 2
    text = (finished / "summary.md").read_text()
    calibration.main(dataclasses.replace(TINY), finished)
    assert (finished / "crossed" / "runs.jsonl").read_text() == kept
    facts = [line for line in text.splitlines() if not line.startswith("- Minutes")]
    assert facts == [
        line for line in (finished / "summary.md").read_text().splitlines() if not line.startswith("- Min")
    ]


def test_the_last_bit_of_every_weight_moves_and_no_other(finished):
    data = load("digits")
    source, _ = make_sources(TINY, choose_tasks(TINY.split, "split", data, data)[0], finished / "source")
    moved = calibration.last_bit(source, 3)
    for ours, theirs in zip(jax.tree.leaves(moved.weights.params), jax.tree.leaves(source.weights.params), strict=True):
        steps = np.abs(np.asarray(ours).view(np.int32) - np.asarray(theirs).view(np.int32))
        assert np.all((steps == 1) | (np.asarray(theirs) == 0))
