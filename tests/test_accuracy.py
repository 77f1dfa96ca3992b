"""Seconds to an accuracy, on a few digits; on two devices as on one."""

import dataclasses
import json

import pytest

from experiments.benchmarks import accuracy
from jaxtl.errors import InputError

CONFIG = accuracy.Config(**accuracy.Config.presets["smoke"])


@pytest.mark.slow
def test_digits_are_learned_and_two_devices_learn_what_one_does(tmp_path):
    figures = []
    for axes in ((), ("data:2",)):
        workdir = tmp_path / str(len(axes))
        workdir.mkdir()
        accuracy.main(dataclasses.replace(CONFIG, epochs=8, mesh=axes), workdir)
        figures.append(json.loads((workdir / "summary.json").read_text())["figures"])
        assert "| cnn" in (workdir / "summary.md").read_text()
    alone, together = figures
    assert alone["accuracy/cnn/percent"] > 90
    assert together["accuracy/cnn/percent"] == pytest.approx(alone["accuracy/cnn/percent"], abs=2)
    assert alone["accuracy/cnn/seconds"] > 0


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"epochs": 0}, "--config.epochs: 0 is less than 1"),
        ({"momentum": -0.5}, "--config.momentum: -0.5 is not in [0, 1)"),
        ({"mesh": ("data:3",)}, "data:3 is 3 devices"),
    ],
)
def test_a_mistake_is_told_before_anything_is_loaded(change, told, tmp_path):
    with pytest.raises(InputError) as error:
        accuracy.main(dataclasses.replace(CONFIG, data="nowhere", **change), tmp_path)
    assert told in str(error.value)
