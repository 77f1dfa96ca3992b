"""Every further row of fine-tuning on digits: finite, from where it should start, one program for all rates."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from finetuning_problem import DRAW, ROWS, made, steps

from jaxtl.labels import TRANSFERRED
from jaxtl.methods.finetuning import BATCH_NORMALISED
from jaxtl.methods.finetuning.source_recipes import OLD_HEAD
from jaxtl.protocol import Trainer, study
from jaxtl.trees import named_leaves

TOWARDS_THE_SOURCE = ("l1_sp", "group_lasso_sp", "ewc", "l2_init", "recadam")


@pytest.fixture(scope="module")
def mlp(tmp_path_factory):
    return made(tmp_path_factory.mktemp("mlp"), model="mlp")


@pytest.mark.parametrize("name", ROWS)
def test_every_row_trains_reads_its_setting_and_compiles_once(mlp, name):
    ended = steps(mlp, name, (0.2, 0.8))
    for weights, told in ended.values():
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(weights.params))
        assert np.isfinite([list(row.values()) for row in told]).all()
        recipe = ROWS[name]
        whole = recipe.finish(mlp, weights, {}, DRAW) if recipe.finish else weights
        assert named_leaves(whole.params).keys() == named_leaves(mlp.moved.params).keys()
        assert np.isfinite(mlp.logits(whole, mlp.test_images[:5])).all()
        for kind in ("delta", "lwf"):  # the source is where it starts
            if kind in told[0]:
                assert abs(told[0][kind]) < 1e-6 < told[1][kind]
        if name in TOWARDS_THE_SOURCE:
            assert told[0][f"penalty/{TRANSFERRED}/source"] == 0.0 < told[1][f"penalty/{TRANSFERRED}/source"]
    (one, _), (other, _) = ended.values()
    assert any(np.any(a != b) for a, b in zip(*map(jax.tree.leaves, (one.params, other.params)), strict=True))


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
