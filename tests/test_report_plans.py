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


REPLICATED = (cifar_transfer, multitask)  # whose methods choose once for all draws of a replicate


@pytest.mark.parametrize("module", LOADS, ids=lambda module: module.__name__.rpartition(".")[2])
def test_few_are_told_and_enough_are_not(module, monkeypatch, capsys, tmp_path):
    name, unit = ("replicates", "replicate") if module in REPLICATED else ("report_draws", "draw")
    few = said(module, monkeypatch, capsys, tmp_path, **{name: 2})
    assert few.startswith(f"NOTE: 2 {unit}s find differences of")
    assert len(few.splitlines()) == 1
    assert said(module, monkeypatch, capsys, tmp_path, **{name: 10}) == ""


@pytest.mark.parametrize("module", REPLICATED)
def test_one_replicate_is_said_to_decide_nothing(module, monkeypatch, capsys, tmp_path):
    assert said(module, monkeypatch, capsys, tmp_path).startswith("NOTE: one replicate decides nothing")


def test_without_contrasts_nothing_is_missed(monkeypatch, capsys, tmp_path):
    assert said(cifar_transfer, monkeypatch, capsys, tmp_path, replicates=2, methods=("l2", "joint")) == ""


def test_one_contrast_needs_fewer_replicates_than_four(monkeypatch, capsys, tmp_path):
    pair = ("l2", "l2_differential")
    assert said(cifar_transfer, monkeypatch, capsys, tmp_path, replicates=5, methods=pair) == ""
    assert "7 find those of 2" in said(cifar_transfer, monkeypatch, capsys, tmp_path, replicates=5)


def test_the_note_is_a_line(capsys):
    print_plan(Terminal(), 2, 8)
    assert capsys.readouterr().out.count("\n") == 1
