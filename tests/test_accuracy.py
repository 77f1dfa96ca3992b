"""Seconds to an accuracy, on a few digits; on two devices as on one. What an accelerator is asked, on a CPU."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import cifar_transfer
from experiments.benchmarks import accelerator, accuracy
from experiments.benchmarks.variants import logits_of, make_problem
from jaxtl.cli import flags
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


def test_an_accelerator_is_asked_all_of_it_and_what_was_found_is_kept(tmp_path):
    config = accelerator.Config(**accelerator.Config.presets["smoke"])
    accelerator.main(config, tmp_path)
    first = json.loads((tmp_path / "summary.json").read_text())["figures"]
    assert first["resume/mlp_8/differing"] == 0
    timed = [f"step/mlp_8/{kind}/dispatch_{n}/seconds" for kind in accelerator.TYPES for n in config.dispatches]
    assert all(first[name] > 0 for name in timed)
    assert first["accuracy/float32/percent"] == pytest.approx(first["accuracy/bfloat16/percent"], abs=10)
    accelerator.main(config, tmp_path)
    assert json.loads((tmp_path / "summary.json").read_text())["figures"] == first


def test_a_run_that_goes_on_from_other_parameters_is_seen_to_differ(monkeypatch):
    fit = accelerator.fit

    def spoilt(step, state, *rest, workdir, **how):
        state, history = fit(step, state, *rest, workdir=workdir, **how)
        change = float(workdir.name == "two")
        return state._replace(params={**state.params, "head": {"bias": state.params["head"]["bias"] + change}}), history

    monkeypatch.setattr(accelerator, "fit", spoilt)
    monkeypatch.setattr(accelerator, "named_leaves", lambda params: {"bias": params["head"]["bias"]})
    assert accelerator.differing_bits("mlp_8", 2) == 10


def test_another_type_is_computed_in_and_its_answers_are_near():
    problem = make_problem("mlp_8")
    usual, short = (
        logits_of(accelerator.in_type(problem, dtype).model, problem.params, problem.batch)
        for dtype in accelerator.TYPES.values()
    )
    assert short.dtype == jnp.float32
    assert not np.array_equal(usual, short)
    np.testing.assert_allclose(short, usual, atol=0.05)


def test_the_part_of_the_main_job_is_asked_for_by_flags_that_there_are():
    asked = flags.parse(cifar_transfer.Config, accelerator.PART, "runs").config
    whole = cifar_transfer.Config.presets["full"]
    assert asked.model == whole["model"]
    assert asked.steps == whole["steps"]
    assert (asked.n_per_class, asked.replicates, asked.trials) == ((20,), 1, 2)
