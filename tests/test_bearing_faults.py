"""The experiment on bearings: who is on which side, and rows that answer by the spectrum of a window."""

from __future__ import annotations

import dataclasses
import functools

import jax
import numpy as np
import pytest
from machines import archive, folders
from sklearn.linear_model import LogisticRegression

from experiments import bearing_faults as bearings
from jaxtl.data.windows import in_windows, pixel_rows
from jaxtl.errors import InputError
from jaxtl.methods.domain.recipes import RECIPES
from jaxtl.methods.finetuning.signal_recipes import SPECTRAL
from jaxtl.problems.signals import Signals
from jaxtl.problems.spectra import SPECTRUM, AdaptedSignals
from jaxtl.protocol import MEASURES, Draw
from jaxtl.sweep import run

CONFIG = bearings.Config(length=64, widths=(8, 8), steps=4, source_steps=2, validation=50)
MEASURE = MEASURES["balanced_accuracy"]


@functools.cache
def problem():
    return AdaptedSignals(CONFIG, *(in_windows(side, 64) for side in pixel_rows()), MEASURE)


def test_stand_ins_share_no_window_between_sides_or_parts():
    source, target = (in_windows(side, 64) for side in pixel_rows())
    forwards = {
        name: {window.tobytes() for window in part["signal"]}
        for name, part in {"train": source.train, "test": source.test}.items()
    }
    backwards = {window[::-1].tobytes() for part in (target.train, target.test) for window in part["signal"]}
    assert not forwards["train"] & forwards["test"]
    assert not backwards & (forwards["train"] | forwards["test"])


def test_two_folders_are_source_and_target_both_ways(tmp_path):
    ours, theirs = folders(tmp_path / "ours"), folders(tmp_path / "theirs")
    config = bearings.Config(data=(str(ours), str(theirs)), length=16, both_ways=True)
    ways = bearings.sides(config)
    assert [[side.name for side in both] for both in ways.values()] == [["ours", "theirs"], ["theirs", "ours"]]
    for part in ways["folders"]:
        assert not {*part.train["recording"]} & {*part.test["recording"]}
    with pytest.raises(InputError, match="3 sets"):
        bearings.sides(bearings.Config(data=("a", "b", "c")))
    with pytest.raises(InputError, match="no machine 'cwru'"):
        bearings.sides(bearings.Config(data=(str(archive(tmp_path)),)))


def test_the_spectrum_answers_as_scikit_learn_does_and_sees_no_target_label():
    one, draw = problem(), Draw(0)
    start = one.start(draw)
    weights = SPECTRAL["spectrum"].finish(one, start, {}, draw)
    windows, labels = one.learned_from(draw)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(64) / 64)

    def spectra(signals):
        energy = np.abs(np.fft.rfft(signals[..., 0] * hann, axis=1)[:, 1:]) ** 2 / np.sum(hann**2)
        return np.log(energy + 1e-4)

    theirs = LogisticRegression(max_iter=2000).fit(spectra(windows), labels)
    tested = one.target.test["signal"]
    said, expected = one.answers(weights, tested), theirs.decision_function(spectra(tested))
    assert np.allclose(said, expected, atol=0.3)  # solvers stop where there is little left to gain
    assert np.mean(said.argmax(axis=1) == expected.argmax(axis=1)) > 0.98
    assert one.answers(weights, tested, "features").shape == (len(tested), 32)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), weights.params, start.params))
    held, learned, _ = one.parts(0)
    assert not {*one.source.train.groups[held]} & {*one.source.train.groups[learned]}
    assert SPECTRUM not in start.model_state


@pytest.mark.parametrize("name", ["dann", "adda", "adabn"])
def test_rows_of_adaptation_take_signals(name):
    one, recipe, draw = problem(), RECIPES[name], Draw(0)
    program = recipe.program(one)
    start = (recipe.start or type(one).start)(one, draw)
    given = {} if recipe.given is None else recipe.given(one, draw, start)
    rates = one.rates(program, {"learning_rate": 0.05})
    ended = run(program, start, one.data(program, start, draw), rates, one.key(draw, "run"), steps=2, given=given)
    weights = ended.weights if recipe.finish is None else recipe.finish(one, ended.weights, {}, draw)
    assert np.isfinite(one.answers(weights, one.test_images)).all()
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), weights.params["trunk"], start.params["trunk"])
    assert any(jax.tree.leaves(moved))


def test_signals_reach_a_model_as_they_are_and_another_model_is_refused():
    inputs = Signals((64, 1))
    assert inputs.batch(np.ones((2, 64, 1)))["signal"].shape == (2, 64, 1)
    with pytest.raises(InputError, match="is no model of signals"):
        AdaptedSignals(dataclasses.replace(CONFIG, model="mlp"), problem().source, problem().target, MEASURE)


def test_a_few_labels_come_from_recordings_that_are_not_tested():
    its = bearings.few(CONFIG)
    assert (its.measure, its.normalisation, its.steps, its.source_steps) == ("balanced_accuracy", "group", 100, 4)
    assert {*bearings.LABELLED} >= {name for pair in bearings.CONTRASTS for name in pair}
    assert {*bearings.Config().methods} <= {*bearings.ROWS}
