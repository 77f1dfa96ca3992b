"""A plan that cannot find a difference says so before the first image is read."""

import dataclasses

import pytest

from experiments import cifar_transfer, label_trees, lambda_selection, learned_rates, learned_starts, multitask
from jaxtl.report import print_plan
from jaxtl.terminal import Terminal

LOADS = dict.fromkeys((cifar_transfer, label_trees, lambda_selection, learned_rates, learned_starts), "load")
LOADS[multitask] = "load_tasks"


class Loading(Exception):
    """The work begins."""


def said(module, monkeypatch, capsys, tmp_path, **change):
    def begin(*args, **options):
        raise Loading

    monkeypatch.setattr(module, LOADS[module], begin)
    with pytest.raises(Loading):
        module.main(dataclasses.replace(module.Config(), **change), tmp_path)
    return capsys.readouterr().out


@pytest.mark.parametrize("module", LOADS, ids=lambda module: module.__name__.rpartition(".")[2])
def test_few_draws_are_told_and_enough_are_not(module, monkeypatch, capsys, tmp_path):
    few = said(module, monkeypatch, capsys, tmp_path, report_draws=3)
    assert "NOTE: 3 report draws cannot show a difference" in few
    assert len(few.splitlines()) == 1
    assert said(module, monkeypatch, capsys, tmp_path, report_draws=10) == ""


def test_without_contrasts_nothing_is_missed(monkeypatch, capsys, tmp_path):
    assert said(cifar_transfer, monkeypatch, capsys, tmp_path, report_draws=3, methods=("l2", "joint")) == ""


def test_one_contrast_needs_fewer_draws_than_four(monkeypatch, capsys, tmp_path):
    pair = ("l2", "l2_differential")
    assert said(cifar_transfer, monkeypatch, capsys, tmp_path, report_draws=6, methods=pair) == ""
    assert "8 draws can" in said(cifar_transfer, monkeypatch, capsys, tmp_path, report_draws=6)


def test_the_note_is_a_line(capsys):
    print_plan(Terminal(), 2, 8)
    assert capsys.readouterr().out.count("\n") == 1
