"""What every experiment's command line has in common: what is said of it, and what happens to nonsense."""

from __future__ import annotations

import importlib

import pytest

from experiments import automated_transfer, cifar_transfer, lambda_selection, multitask_problem
from jaxtl.cli import flags

GLOSSARIES = {
    "cifar_transfer": cifar_transfer.RECIPES,
    "multitask": multitask_problem.METHODS,
    "lambda_selection": (*lambda_selection.MAPS, *lambda_selection.CRITERIA),
    "automated_transfer": ("grid", "random", "source", "fresh", *automated_transfer.META),
    "ridge_regression": ("L2", "L1", "elastic net", "group lasso", "LOO", "GCV", "AIC", "AICc", "BIC", "evidence"),
}


@pytest.mark.parametrize("name", GLOSSARIES)
def test_help_says_in_a_line_what_every_method_is(name, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    experiment = importlib.import_module(f"experiments.{name}")
    text = flags.help_text(experiment.main, experiment.Config, f"runs/{name}")
    words = " ".join(text.split())
    for method in GLOSSARIES[name]:
        assert f" {method} {experiment.Config.glossary[method]}" in words


def test_every_program_of_the_weightings_is_explained():
    assert multitask_problem.MEANS.keys() == multitask_problem.PROGRAM.keys()
