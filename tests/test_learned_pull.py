"""Every way to choose two pulls is judged on the same draws, and is told with what it took."""

import json

import pytest

from experiments import learned_pull as experiment
from experiments.learned_pull import CONTRASTS, METHODS, Config

TINY = Config(
    data="digits",
    model="mlp",
    widths=(8,),
    n_per_class=(4,),
    source_steps=20,
    steps=4,
    trials=2,
    report_draws=2,
    validation=50,
    methods=("l2_sp", "l2_sp_evidence", "de_elbo"),  # choosing by folds is that of every other experiment
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    experiment.main(TINY, workdir)
    return workdir


def test_every_method_is_chosen_in_its_own_way_on_the_same_draws(finished):
    found = json.loads((finished / "summary.json").read_text())["n_4"]
    chosen = {row["method"]: row["selection"] for row in found["methods"]}
    assert chosen == {"l2_sp": "tuned", "de_elbo": "objective", "l2_sp_evidence": "evidence"}
    assert {tuple(row["seeds"]) for row in found["methods"]} == {(1, 2)}
    assert [(c["a"], c["b"]) for c in found["contrasts"]] == [pair for pair in CONTRASTS if {*pair} <= chosen.keys()]


def test_the_page_tells_runs_labels_rates_and_pulls(finished):
    lines = [line.split("|")[1:-1] for line in (finished / "summary.md").read_text().splitlines()]
    rows = {
        name.strip(): [cell.strip() for cell in cells] for name, *cells in (line for line in lines if len(line) == 10)
    }
    assert [rows[name][2] for name in TINY.methods] == ["2 + 1"] * 3
    assert [rows[name][4] for name in TINY.methods] == ["20 + 50", "20", "20"]
    assert rows["l2_sp"][1] == "baseline"
    assert all(float(rows[name][k].split(" to ")[0]) > 0 for name in TINY.methods for k in (5, 6, 7, 8))


def test_no_method_is_chosen_in_two_ways_and_one_reads_held_out_examples():
    assert {name: recipe.chosen for name, recipe in METHODS.items()} == {
        "l2_sp": "tuned",
        "l2_sp_folds": "honest",
        "l2_sp_evidence": "evidence",
        "de_elbo": "objective",
    }
