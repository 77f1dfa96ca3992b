"""Every further row of fine-tuning on digits: finite, from where it should start, one program for all rates."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from finetuning_problem import DRAW, ROWS, made, trained

from jaxtl.methods.finetuning import BATCH_NORMALISED, PARAMETERS
from jaxtl.methods.finetuning.source_recipes import OLD_HEAD
from jaxtl.protocol import Trainer, study


@pytest.fixture(scope="module")
def mlp(tmp_path_factory):
    return made(tmp_path_factory.mktemp("mlp"), model="mlp")


@pytest.mark.parametrize("name", [name for name in ROWS if name not in PARAMETERS])
def test_every_row_trains_reads_its_setting_and_compiles_once(mlp, name):
    ended = trained(mlp, name)
    for kind in ("delta", "lwf"):  # the source is where it starts
        for _, told in ended:
            if kind in told[0]:
                assert abs(told[0][kind]) < 1e-6 < told[1][kind]


def test_ends_of_ranges_are_ordered_and_every_row_says_what_it_does():
    for recipe in {**ROWS, **BATCH_NORMALISED}.values():
        assert recipe.means
        assert set(recipe.ranges) <= set(recipe.search)


@pytest.mark.slow
@pytest.mark.parametrize("normalisation", ["group", "batch"])
def test_all_rows_are_compared_by_one_protocol_on_a_cnn(normalisation, tmp_path):
    problem = made(tmp_path / "source", widths=(4, 8), normalisation=normalisation)
    rows = {**ROWS, **(BATCH_NORMALISED if normalisation == "batch" else {})}
    result = study(problem, rows, tmp_path / "runs")
    tested = {run.method: run.metrics["test"] for run in result.runs if run.stage == "report"}
    assert tested.keys() == rows.keys()
    assert np.isfinite(list(tested.values())).all()
    trainer, setting = Trainer(problem, rows), {"learning_rate": 0.05, "lwf_weight": 1.0, "head_learning_rate": 0.05}
    (together,), alone = trainer.train_all("lwf", [setting], DRAW), trainer.train("lwf", setting, DRAW)
    assert OLD_HEAD not in alone.weights.params
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), together.weights.params, alone.weights.params
    )
