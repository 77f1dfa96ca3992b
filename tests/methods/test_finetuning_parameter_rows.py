"""Rows of fine-tuning that act on parameters, on digits; see `test_finetuning_rows.py` for the others."""

from __future__ import annotations

import pytest
from finetuning_problem import made, trained

from jaxtl.labels import TRANSFERRED
from jaxtl.methods.finetuning import PARAMETERS

TOWARDS_THE_SOURCE = ("l1_sp", "group_lasso_sp", "ewc", "l2_init", "recadam")


@pytest.fixture(scope="module")
def mlp(tmp_path_factory):
    return made(tmp_path_factory.mktemp("mlp"), model="mlp")


@pytest.mark.parametrize("name", PARAMETERS)
def test_every_row_of_parameters_trains_reads_its_setting_and_compiles_once(mlp, name):
    for _, told in trained(mlp, name):
        if name in TOWARDS_THE_SOURCE:  # which is where it starts
            assert told[0][f"penalty/{TRANSFERRED}/source"] == 0.0 < told[1][f"penalty/{TRANSFERRED}/source"]
