"""Every way to choose two pulls is judged on the same draws, and is told with what it took."""

import json

import pytest

from experiments import learned_pull as experiment
from experiments.learned_pull import METHODS, Config

TINY = Config(
    data="digits",
    model="mlp",
    widths=(8,),
    n_per_class=(4,),
    source_steps=20,
    steps=4,
    trials=2,
    report_draws=2,
    folds=2,
    validation=50,
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    experiment.main(TINY, workdir)
    return workdir


def test_every_method_is_chosen_in_its_own_way_on_the_same_draws(finished):
    found = json.loads((finished / "summary.json").read_text())["n_4"]
    chosen = {row["method"]: row["selection"] for row in found["methods"]}
    assert chosen == {"l2_sp": "tuned", "l2_sp_folds": "honest", "de_elbo": "objective", "l2_sp_evidence": "evidence"}
    assert {tuple(row["seeds"]) for row in found["methods"]} == {(1, 2)}
    assert [(c["a"], c["b"]) for c in found["contrasts"]] == [
        ("de_elbo", name) for name in METHODS if name != "de_elbo"
    ]


def test_the_page_tells_runs_labels_and_rates(finished):
    lines = (finished / "summary.md").read_text().splitlines()
    rows = {
        cells[1].strip(): [cell.strip() for cell in cells[2:-1]]
        for cells in (line.split("|") for line in lines)
        if len(cells) == 12
    }
    assert [rows[name][2] for name in METHODS] == ["2 + 1", "4 + 1", "2 + 1", "2 + 1"]
    assert [rows[name][4] for name in METHODS] == ["20 + 50", "20", "20", "20"]
    assert rows["l2_sp"][1] == "baseline"
    assert all(float(rows[name][k].split(" to ")[0]) > 0 for name in METHODS for k in (5, 6, 7, 8))
