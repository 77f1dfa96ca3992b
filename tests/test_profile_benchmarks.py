"""Benchmarks that take a step apart: where its time goes, and how many instructions it has."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import jax
import pytest

from experiments.benchmarks import instructions, jax_step, profile, workers
from experiments.benchmarks.workers import Worker
from jaxtl.errors import InputError


class Counted:
    """A process under valgrind, whose steps take what their row costs, and callgrind_control beside it."""

    cost: ClassVar = {"plain": 1000, "l2": 1030}

    def __init__(self, *arguments, under, **_):
        self.out = next(word for word in under if word.startswith("--callgrind-out-file=")).partition("=")[2]
        self.process, self.counting, self.total, self.dumps = SimpleNamespace(pid=7), False, 0, 0
        Path(self.out).touch()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def ask(self, question, steps, variant_name):
        if self.counting:
            self.total += 123_456 + steps * self.cost[variant_name]

    def control(self, command, **_):
        _, asked, pid = command
        assert pid == "7"
        if asked == "--zero":
            self.total = 0
        elif asked == "--dump":
            self.dumps += 1
            Path(f"{self.out}.{self.dumps}").write_text(f"events: Ir\nsummary: {self.total}\n")
        else:
            self.counting = asked == "--instr=on"
        return SimpleNamespace(returncode=0)


@pytest.fixture
def counted(monkeypatch):
    made = []

    def worker(*arguments, **how):
        made.append(Counted(*arguments, **how))
        return made[-1]

    monkeypatch.setattr(instructions, "Worker", worker)
    monkeypatch.setattr(instructions, "on_one_core", lambda: None)
    monkeypatch.setattr(instructions.shutil, "which", lambda name: name)
    monkeypatch.setattr(instructions.subprocess, "run", lambda command, **how: made[-1].control(command, **how))
    return made


def test_instructions_of_a_step_are_what_more_steps_took(tmp_path, counted):
    instructions.main(instructions.Config(rows=("plain", "l2")), tmp_path)
    figures = json.loads((tmp_path / "summary.json").read_text())["figures"]
    assert figures == {"instructions/cnn_16/plain": 1000, "instructions/cnn_16/l2": 1030}
    assert "1.0300" in (tmp_path / "summary.md").read_text()


def test_what_callgrind_refuses_is_told(tmp_path, counted, monkeypatch):
    refused = SimpleNamespace(returncode=1, stderr="Error: Callgrind task with PID/Name 7 not found.")
    monkeypatch.setattr(instructions.subprocess, "run", lambda *command, **how: refused)
    with pytest.raises(InputError, match="PID/Name 7 not found"):
        instructions.main(instructions.Config(), tmp_path)


def test_without_valgrind_nothing_is_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(instructions.shutil, "which", lambda name: None)
    with pytest.raises(InputError, match="valgrind is not installed"):
        instructions.main(instructions.Config(), tmp_path)


def test_a_second_answer_is_what_is_measured(monkeypatch):
    waited = []
    monkeypatch.setattr(workers.time, "sleep", waited.append)
    answers = iter([{"seconds": 9.0}, {"seconds": 1.0}])
    worker = Worker("none")
    monkeypatch.setattr(worker, "ask", lambda question, steps: next(answers))
    assert worker.ask_again("block", steps=3) == {"seconds": 1.0}
    assert waited == [workers.PAUSE]


def test_operations_of_a_program_are_told_by_name():
    matrix = jax.numpy.ones((64, 64))
    product = jax.jit(lambda x: x @ x)
    found = jax_step.seconds_by_operation(lambda: jax.block_until_ready(product(matrix)))
    assert any(name.startswith(("dot", "ynn")) for name in found)  # whichever library computes it
    assert all(0 < seconds < 60 for seconds in found.values())


def test_shares_are_by_kind_and_a_loop_is_not_counted_beside_what_it_does():
    seconds = {"conv_general_dilated": 3.0, "dot_general": 1.0, "copy": 0.5, "transpose_copy_fusion": 0.5, "while": 9.0}
    shares = profile.by_kind(seconds | {"broadcast_add_fusion": 3.0})
    found = {words: share for words, share in shares.items() if share}
    assert found == {
        "convolutions": 0.375,
        "matrix products": 0.125,
        "transposes and copies": 0.125,
        "loops over elements, and what is left": 0.375,
    }


def test_a_profile_is_of_a_cpu(tmp_path, monkeypatch):
    monkeypatch.setattr(profile.jax, "default_backend", lambda: "tpu")
    with pytest.raises(InputError, match="JAX_PLATFORMS=cpu"):
        profile.main(profile.Config(), tmp_path)


def test_a_profile_tells_steps_on_one_core_and_parts_of_a_second_start(tmp_path, monkeypatch):
    pinned, started = [], iter([50.0, 100.0])

    class Process:
        def __init__(self, module, *arguments, environment=None):
            assert bool(environment) == bool(pinned)
            self.seconds = 2.0 if module == "torch_step" else 1.0

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def ask(self, question, steps=0, **_):
            if question == "block":
                return {"seconds": self.seconds * steps}
            if question == "stages":
                began = next(started)
                return {"imports": began + 0.5, "first step": began + 0.75}
            return {"dot": 3.0, "copy": 1.0} if question == "profile" else {"matrix product": 1e9 / self.seconds}

    clock = iter([50.0, 100.0])
    monkeypatch.setattr(profile, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    monkeypatch.setattr(profile, "Worker", Process)
    monkeypatch.setattr(profile, "on_one_core", lambda: pinned.append(True))
    monkeypatch.setattr(profile, "is_here", lambda library: True)
    monkeypatch.setattr(profile, "operations_of_step", lambda problem: 0.6e9)
    profile.main(profile.Config(problems=("mlp_4",)), tmp_path)
    figures = json.loads((tmp_path / "summary.json").read_text())["figures"]
    assert figures["profile/mlp_4/start/imports/seconds"] == 0.5
    assert figures["profile/mlp_4/start/first step/seconds"] == 0.25
    assert figures["profile/mlp_4/torch/seconds"] == 2.0
    assert figures["profile/mlp_4/matrix_products/share"] == 0.75
    assert figures["profile/mlp_4/share_of_peak"] == pytest.approx(0.8)  # 0.6 · 10⁹ in 0.75 s, of 10⁹ a second
    assert "| PyTorch, eager, ÷ jaxtl" in (tmp_path / "summary.md").read_text()
