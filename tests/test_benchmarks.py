"""Benchmarks: variants of a step train one problem, and what is written holds every figure. Never a timing."""

import importlib.util
import json
import math
import re
import shutil
import subprocess
import sys
from functools import partial

import jax
import numpy as np
import pytest
from rich.console import Console

from experiments.benchmarks import (
    benchmarks,
    compare,
    inputs,
    machine,
    results,
    selection,
    sweeps,
)
from experiments.benchmarks import step as benchmark
from experiments.benchmarks.arithmetic import operations_of_step
from experiments.benchmarks.rows import BASE, ROWS, rows_of
from experiments.benchmarks.step import Config
from experiments.benchmarks.step_tables import arithmetic_table, notes, numbers_of, picture, ratio_table
from experiments.benchmarks.variants import (
    LAMBDA,
    LEARNING_RATE,
    MOMENTUM,
    by_hand,
    looped,
    make_problem,
    make_program,
    make_variant,
    save_problem,
    task_loss,
)
from experiments.benchmarks.workers import ROOT, Worker
from jaxtl import cli
from jaxtl.errors import InputError, Interrupted
from jaxtl.report import Section, Table
from jaxtl.report.plots.style import styled

VARIANTS = {row.asked["variant_name"] for row in ROWS.values() if row.process == "jax"} | {"by_hand"}
CONSOLE = Console(quiet=True)
needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs torch: '.[oracles]'")


@pytest.fixture
def no_peers(monkeypatch):
    """As where neither PyTorch nor grain is installed."""
    for library in ("torch", "grain"):
        monkeypatch.setitem(sys.modules, library, None)
    assert not results.is_here("torch")


def close(ours, theirs, rtol=1e-5, atol=1e-6):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol, atol), ours, theirs)


@pytest.fixture(scope="module")
def problem():
    return make_problem("mlp_4")


@pytest.fixture(scope="module")
def variants(problem):
    return {name: make_variant(problem, name) for name in VARIANTS}


@pytest.fixture(scope="module")
def after_one(variants):
    return {name: variant.run(variant.begin(), 1).params for name, variant in variants.items()}


@pytest.mark.parametrize("name", ["plain", "fit", "dispatched"])
def test_without_a_penalty_training_ends_where_the_peer_ends(name, variants, problem):
    end = variants[name].run(variants[name].begin(), 5).params
    peer = variants["by_hand"].run(variants["by_hand"].begin(), 5).params
    close(end, peer)
    assert np.max(np.abs(peer["head"]["kernel"] - problem.params["head"]["kernel"])) > 1e-3  # five steps went somewhere


@pytest.mark.slow
def test_the_cnn_is_trained_as_by_hand():
    problem = make_problem("cnn_2")
    ours, theirs = looped(problem, make_program(problem)), by_hand(problem)
    close(ours.run(ours.begin(), 3).params, theirs.run(theirs.begin(), 3).params, rtol=1e-4)


def test_residual_networks_are_measured_in_fewer_rows(no_peers):
    assert set(rows_of("wrn_2")) == {BASE, "again", "by_hand", "both_pulls", "frozen"}
    assert set(rows_of("mlp_2")) == {name for name, row in ROWS.items() if row.process == "jax"}


def test_operations_are_those_of_a_count_by_hand(problem):
    first, second = 2 * 4 * 784 * 128, 2 * 4 * 128 * 10
    assert operations_of_step(problem) == 3 * (first + second) - first
    convolutions = [2 * 2 * 9 * c * d * edge**2 for c, d, edge in ((3, 16, 16), (16, 32, 8), (32, 64, 4))]
    head = 2 * 2 * 64 * 10
    assert operations_of_step(make_problem("cnn_2")) == 3 * (sum(convolutions) + head) - convolutions[0]


@needs_torch
@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlp_2", "cnn_2", "wrn_2", "resnet_2"])
def test_pytorch_trains_the_same_problem_and_counts_the_same_operations(name, tmp_path):
    problem, steps = make_problem(name), {"mlp": 5, "cnn": 3}.get(name.partition("_")[0], 1)
    end = by_hand(problem).run(by_hand(problem).begin(), steps)
    save_problem(problem, tmp_path / "problem.npz")
    with Worker("torch_step", str(tmp_path / "problem.npz")) as worker:
        for threads in (1, 0):  # each block starts anew
            assert worker.ask("block", steps=steps, threads=threads)["seconds"] > 0
            assert worker.ask("loss") == pytest.approx(float(task_loss(problem, end.params)), rel=1e-3)
    count = f"""
from torch.utils.flop_counter import FlopCounterMode
from experiments.benchmarks.torch_step import nn, read
network, images, labels, _ = read({str(tmp_path / "problem.npz")!r})
with FlopCounterMode(display=False) as counter:
    nn.CrossEntropyLoss()(network(images), labels).backward()
print(counter.get_total_flops())
"""
    done = subprocess.run([sys.executable, "-c", count], cwd=ROOT, capture_output=True, text=True, check=True)
    assert operations_of_step(problem) == int(done.stdout)


@needs_torch
@pytest.mark.slow
def test_a_compiler_that_fails_is_told_in_one_line_and_one_that_works_trains(problem, tmp_path):
    save_problem(problem, tmp_path / "problem.npz")
    inductor = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "inductor")}
    command = ("torch_step", str(tmp_path / "problem.npz"), "compiled")
    with Worker(*command, environment={**inductor, "CXX": "/nowhere/g++"}) as worker:
        answer = worker.ask("block", steps=1)
    assert set(answer) == {"failed"}
    assert "\n" not in answer["failed"]
    if not any(map(shutil.which, ("g++", "c++", "clang++"))):
        pytest.skip("no C++ compiler here")
    with Worker(*command, environment=inductor) as worker:
        assert worker.ask("block", steps=5)["seconds"] > 0
        end = by_hand(problem).run(by_hand(problem).begin(), 5)
        assert worker.ask("loss") == pytest.approx(float(task_loss(problem, end.params)), rel=1e-3)


def pull(end, peer):
    """What the gradient held beyond the task's: one step of Nesterov SGD from rest is w − lr · (1 + momentum) · g."""
    return jax.tree.map(lambda w, v: (v - w) / (LEARNING_RATE * (1 + MOMENTUM)), end, peer)


@pytest.mark.parametrize("name", ["l2", "decay", "both_pulls"])
def test_a_pull_towards_zero_is_lambda_times_the_kernel(name, after_one, problem):
    pulled = pull(after_one[name], after_one["by_hand"])  # at the anchor, where training starts, the other pull is 0
    start = problem.params
    for ours, layer in ((pulled["trunk"]["dense_0"], start["trunk"]["dense_0"]), (pulled["head"], start["head"])):
        np.testing.assert_allclose(ours["kernel"], LAMBDA * layer["kernel"], atol=3e-6)
        np.testing.assert_allclose(ours["bias"], 0, atol=3e-6)


def test_l2_sp_at_its_anchor_pulls_the_head_alone(after_one, problem):
    pulled = pull(after_one["l2_sp"], after_one["by_hand"])
    np.testing.assert_allclose(pulled["head"]["kernel"], LAMBDA * problem.params["head"]["kernel"], atol=3e-6)
    np.testing.assert_allclose(pulled["trunk"]["dense_0"]["kernel"], 0, atol=3e-6)


def test_a_frozen_trunk_stays_holds_no_momentum_and_its_head_moves_as_ever(variants, after_one, problem):
    momentum = [leaf.size for leaf in jax.tree.leaves(variants["frozen"].begin().opt_state) if leaf.size > 1]
    assert sorted(momentum) == sorted(leaf.size for leaf in jax.tree.leaves(problem.params["head"]))
    jax.tree.map(np.testing.assert_array_equal, after_one["frozen"]["trunk"], problem.params["trunk"])
    close(after_one["frozen"]["head"], after_one["by_hand"]["head"], atol=1e-8)


# ---------------------------------------------------------------- what is written


@pytest.mark.slow
def test_main_writes_every_figure(tmp_path, no_peers, capsys):
    cache = jax.config.values["jax_compilation_cache_dir"]
    benchmark.main(Config(problems=("mlp_4",), rounds=2, mlp_steps=2), tmp_path)
    assert jax.config.values["jax_compilation_cache_dir"] == cache
    summary = json.loads((tmp_path / "summary.json").read_text())
    result, ours = summary["step"]["mlp_4"], {name for name, row in ROWS.items() if row.process == "jax"}
    assert set(result["rows"]) == ours
    for figures in result["rows"].values():
        assert len(figures["seconds"]) == 2
        assert 0 < figures["low"] <= figures["ratio"] <= figures["high"] < math.inf
    assert result["rows"][BASE]["ratio"] == 1
    losses = {name: figures["loss"] for name, figures in result["rows"].items()}
    assert losses[BASE] == losses["fit"] == losses["small_pages"] == pytest.approx(losses["by_hand"], rel=1e-5)
    assert result["starts"]["compilations"] == 1  # λ changed at every other step
    assert summary["command"].startswith("python -m experiments.benchmarks.step --config.problems=mlp_4")
    numbers = summary["figures"]
    assert numbers["step/mlp_4/l2/seconds"] == np.median(result["rows"]["l2"]["seconds"])
    peak = numbers["step/peak/operations_per_second"]
    share = result["operations"] / numbers[f"step/mlp_4/{BASE}/seconds"] / peak
    assert numbers[f"step/mlp_4/{BASE}/share_of_peak"] == pytest.approx(share)
    assert len(summary["code"]) == 12
    said, table = capsys.readouterr().out, (tmp_path / "summary.md").read_text()
    for name in ours:
        assert f"| {ROWS[name].words} " in table
        assert ROWS[name].words in said
    assert ROWS["torch"].words not in table
    assert "PyTorch is not installed here" in table
    assert (tmp_path / "plots" / "steps.png").stat().st_size > 10_000


def found_rows(*names):
    return {
        name: {"ratio": 0.5 + i, "low": 0.4 + i, "high": 1 + i, "seconds": [1.0, 2.0, 4.0], "first": 3.0, "loss": 0.1}
        for i, name in enumerate(names)
    }


RESULTS = {
    "mlp_4": {
        "title": "an MLP",
        "operations": 1e9,
        "rows": found_rows(BASE, "by_hand", "torch", "l2"),
        "failed": {"compiled": "InvalidCxxCompiler: none"},
    },
    "wrn_4": {
        "title": "a WRN",
        "operations": 4e9,
        "rows": found_rows(BASE, "torch", "frozen"),
        "failed": {},
    },
}


def test_a_row_that_failed_says_so_and_one_that_was_not_measured_is_a_dash():
    table = ratio_table("step", ROWS, RESULTS)
    cells = {row[0]: row[1:] for row in table.rows}
    assert table.columns == ["step", "an MLP", "a WRN"]
    assert cells[ROWS[BASE].words] == ["1.00 = 2.00 s"] * 2
    assert cells[ROWS["compiled"].words] == ["failed", "–"]
    assert cells[ROWS["torch"].words] == ["2.50 (2.40–3.00)", "1.50 (1.40–2.00)"]
    assert ROWS["decay"].words not in cells
    lines = notes(3, RESULTS, {"matrix product in jax": 1e10, "convolution in jax": 2e10})
    assert "PyTorch, torch.compile, an MLP, failed: InvalidCxxCompiler: none" in lines
    assert any(line.startswith("Peak: 20 · 10⁹ operations a second, convolution in jax") for line in lines)


def test_shares_of_the_peak_and_figures_are_those_of_the_medians():
    cells = {row[0]: row[1:] for row in arithmetic_table(RESULTS, 1e10).rows}
    assert cells[ROWS[BASE].words] == ["0.05", "0.20"]
    assert cells[ROWS["by_hand"].words] == ["0.05", "–"]
    numbers = numbers_of(RESULTS, 1e10)
    assert numbers["step/wrn_4/torch/share_of_peak"] == pytest.approx(0.2)
    assert numbers["step/wrn_4/frozen/seconds"] == 2.0
    assert f"step/mlp_4/{BASE}/ratio" not in numbers


def test_the_picture_shows_every_ratio_in_the_row_of_its_name():
    with styled():
        figure = picture(RESULTS).figure()
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names == [ROWS[name].words for name in ("by_hand", "torch", "l2", "frozen")]
    marks = {(*line.get_xdata(), *line.get_ydata()) for line in figure.axes[1].get_lines() if line.get_marker() == "o"}
    assert marks == {(1.5, 1), (2.5, 3)}
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["an MLP", "a WRN"]


@pytest.mark.slow
def test_starts_memory_and_images_are_all_written(tmp_path, no_peers, capsys):
    machine.main(machine.Config(problems=("mlp_4",), rounds=1, images=64, batch_size=8), tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert set(summary["starts"]["mlp_4"]) == {"first", "second"}
    for figures in summary["starts"]["mlp_4"].values():
        assert 0 < figures["seconds"] < math.inf
        assert figures["bytes"] > 2**20
    assert set(summary["inputs"]) == {"jaxtl, inside the program"}
    assert summary["figures"]["start/mlp_4/first/seconds"] == summary["starts"]["mlp_4"]["first"]["seconds"]
    table = (tmp_path / "summary.md").read_text()
    assert "PyTorch is not installed here" in table
    assert "grain is not installed here" in table
    assert "first start, all compiled" in capsys.readouterr().out


@pytest.mark.parametrize("way", ["by_jaxtl", "by_grain", "by_torch"])
def test_every_way_of_making_batches_makes_whole_ones(way):
    library = way.removeprefix("by_")
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"needs {library}")
    if library == "torch":
        pytest.importorskip("torch")
    assert 0 < getattr(inputs, way)(images=20, batch_size=8, padding=4, workers=0) < math.inf


def test_sweeps_are_held_against_runs_one_by_one_on_one_device(monkeypatch):
    class Process:
        def __init__(self, module, environment):
            self.devices = int(environment["JAX_NUM_CPU_DEVICES"])

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def ask(self, question, name, size, rounds):
            seconds = {"sweep": 2.0 / self.devices, "one by one": 6.0 * self.devices}
            return {"first": seconds, "seconds": seconds, "largest_difference": 0.0}

    def by_process(way, name, size):
        return (3.0 if way == "one_by_one" else 4.0), 0

    monkeypatch.setattr(sweeps, "Worker", Process)
    monkeypatch.setattr(sweeps, "by_process", by_process)
    monkeypatch.setattr(sweeps, "device_counts", lambda: (1, 2))
    monkeypatch.setattr(sweeps, "on_a_core", lambda name, size, rounds: 8.0)
    found = sweeps.sweeps(selection.Config(problems=("mlp",), sizes=(16,), processes=32), CONSOLE)
    assert found.sections[0].tables[0].rows == [
        ["mlp", "3.00 (2.00 s)", "24.0 (4.00 s)"],
        ["mlp, 2 CPU devices", "6.00 (1.00 s)", ""],
    ]
    assert found.numbers["sweep/mlp/16/2/sweep/seconds"] == 1.0
    assert "mlp 1.50" in found.sections[0].lines[-1]  # on a core 8 s, two at a time 4 s; on both 6 s


def test_memory_beyond_states_is_told_against_k(monkeypatch):
    asked, parameters = [], 784 * 128 + 128 + 1280 + 10

    def by_process(way, name, size, batching, memory):
        asked.append((size, memory))
        return 1.0, 10**8 + size * 8 * parameters + (size - 1) * 2**20 * (1 if memory else 3)

    monkeypatch.setattr(sweeps, "by_process", by_process)
    found = sweeps.memory_of_sweeps(selection.Config(memory_sizes=(1, 5), budget=4), CONSOLE)
    assert asked == [(1, None), (1, 4 * 2**20), (5, None), (5, 4 * 2**20)]
    state = found.details["sweep_memory"]["state"]
    assert 8 * parameters <= state <= 8 * parameters + 64  # and momentum, a step, a key
    assert "at most 4 MiB with the budget and 12 MiB without" in found.sections[0].lines[0]
    assert found.numbers["sweep/memory/5/with_budget/bytes"] == by_process("", "", 5, "", 1)[1]


@pytest.mark.slow
def test_a_budget_lowers_the_peak_of_a_sweep():
    found = sweeps.memory_of_sweeps(selection.Config(memory_sizes=(64,), budget=16), CONSOLE)
    small, large = (found.numbers[f"sweep/memory/64/{kind}_budget/bytes"] for kind in ("with", "without"))
    assert large - small > 32 * 2**20  # about 100 MiB, and the peak of a process varies by 20


def test_all_parts_make_one_report(tmp_path, monkeypatch):
    def measure(config, console, once):
        name = type(config).__module__.rpartition(".")[2]
        table = Table([name, "x"], [["a", config.preset]])
        return results.Findings([Section(name, [table])], {f"{name}/seconds": 1.0}, {"x": 1})

    for part in benchmarks.PARTS.values():
        monkeypatch.setattr(part, "measure", measure)
    benchmarks.main(benchmarks.Config(), tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["figures"] == {f"{part}/seconds": 1.0 for part in benchmarks.PARTS}
    assert summary["multitask"] == {"x": 1}
    assert summary["command"] == "python -m experiments.benchmarks"
    assert (tmp_path / "summary.md").read_text().count("| a ") == len(benchmarks.PARTS)
    assert "quick" in (tmp_path / "summary.md").read_text()


def test_a_stopped_benchmark_keeps_what_it_has_measured(tmp_path):
    made = []

    def measure(config, console, once):
        def seconds(name):
            made.append(name)
            if name == config:
                raise Interrupted(f"stopped before {name}", 2)
            return {"seconds": np.float32(len(made)), "sizes": (1, 2)}

        found = {name: once(name, partial(seconds, name)) for name in ("a", "b")}
        table = Table(["way", "seconds"], [[name, str(one["seconds"])] for name, one in found.items()])
        own = [[["fine", [[["x"], [["1"]], [0]]], ["a line"], []]], {"own": 1.0}, {}]
        section, numbers, _ = results.as_findings(once("own", lambda: results.as_findings(own)))
        return results.Findings([*section, Section("Seconds", [table])], numbers, found)

    with pytest.raises(Interrupted):
        results.keep("benchmarks.step", Config(), tmp_path, [(measure, "b")])
    results.keep("benchmarks.step", Config(), tmp_path, [(measure, "")])
    assert made == ["a", "b", "b"]
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["a"], summary["b"]) == ({"seconds": 1.0, "sizes": [1, 2]}, {"seconds": 3.0, "sizes": [1, 2]})
    assert "- a line" in (tmp_path / "summary.md").read_text()
    (tmp_path / "measured/a.json").write_text((tmp_path / "measured/a.json").read_text().replace("1.0", "7.0"))
    with pytest.raises(InputError, match=r"a\.json: is not what was measured"):
        results.keep("benchmarks.step", Config(), tmp_path, [(measure, "")])


@pytest.mark.parametrize("preset", ["", "smoke", "long"])
@pytest.mark.parametrize("part", list(benchmarks.PARTS))
def test_every_part_has_every_form(part, preset):
    config = benchmarks.config_of(part, preset)
    cli.check(config)
    assert config.preset == {"": "quick", "smoke": "smoke", "long": ""}[preset]
    assert (config == type(config)()) == (preset == "long")


# ---------------------------------------------------------------- two runs


def test_two_runs_are_compared_figure_by_figure(tmp_path, capsys):
    a = {"device": "x", "code": "1", "figures": {"step/seconds": 2.0, "gone": 1.0, "zero": 0.0}}
    b = {"device": "x", "code": "2", "figures": {"step/seconds": 1.0, "new": 3.0, "zero": 1.0}}
    for name, summary in (("a", a), ("b", b)):
        (tmp_path / name).write_text(json.dumps(summary))
    assert cli.guarded(lambda: compare.main([str(tmp_path / "a"), str(tmp_path / "b")])) == 0
    lines = [re.sub(" +", " ", line) for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == "code: 1 → 2"
    assert "| step/seconds | 2 | 1 | 0.50 |" in lines
    assert "| gone | 1 | – | – |" in lines
    assert "| new | – | 3 | – |" in lines
    assert "| zero | 0 | 1 | – |" in lines


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["{}"], "compare: 1 arguments"),
        (["{}", "{}"], "0: has no figures"),
        (["[1]", "{}"], "0: has no figures"),
        (["{", "{}"], "0: is no JSON"),
        (['{"figures": {}}', None], "1: is no file"),
    ],
)
def test_a_mistake_about_two_runs_is_told(texts, message, tmp_path, capsys):
    for number, text in enumerate(texts):
        if text is not None:
            (tmp_path / str(number)).write_text(text)
    assert cli.guarded(lambda: compare.main([str(tmp_path / str(i)) for i in range(len(texts))])) == 2
    assert message in capsys.readouterr().err


# ---------------------------------------------------------------- processes


def test_a_process_answers_and_has_the_pages_it_was_given(tmp_path):
    with Worker("inputs", huge_pages=False) as worker:
        assert worker.environment["GLIBC_TUNABLES"].endswith("hugetlb=0")
        assert worker.ask("memory") > 2**20
    assert worker.process.returncode == 0


def test_a_process_that_ends_is_not_an_answer(capfd):
    with pytest.raises(RuntimeError, match="inputs ended with 1"), Worker("inputs") as worker:
        worker.ask("weather")
    assert "KeyError: 'weather'" in capfd.readouterr().err


def test_peak_memory_grows_with_what_is_used():
    """In a process of its own: in one that once held more, the peak says nothing of what is held now."""
    code = "import numpy as np\nfrom experiments.benchmarks.workers import peak_memory\n"
    code += "before, held = peak_memory(), np.ones(2**25)\nprint((peak_memory() - before) / held.nbytes)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert 0.9 < float(done.stdout) < 1.1


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--config.problems=rnn_4", "unknown problem 'rnn_4'"),
        ("--config.problems=", "--config.problems: nothing is given"),
        ("--config.batch_size=30000", "30000 is more than 20000 images"),
        ("--config.rounds=0", "--config.rounds: 0 is less than 1"),
    ],
)
def test_a_mistake_about_the_machine_is_said_before_anything_is_measured(flag, message, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("jaxtl.devices.backend.use_compilation_cache", lambda: None)
    assert cli.execute(machine.main, machine.Config, [f"--workdir={tmp_path}/run", flag]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--config.problems=rnn_4", "unknown problem 'rnn_4'"),
        ("--config.problems=mlp", "unknown problem 'mlp'"),
        ("--config.problems=mlp_0", "unknown problem 'mlp_0'"),
        ("--config.problems=", "--config.problems: nothing is given"),
        ("--config.rounds=0", "--config.rounds: 0 is less than 1"),
        ("--config.cnn_steps=-1", "--config.cnn_steps: -1 is less than 1"),
    ],
)
def test_a_mistake_is_said_before_anything_is_measured(flag, message, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("jaxtl.devices.backend.use_compilation_cache", lambda: None)
    assert cli.execute(benchmark.main, Config, [f"--workdir={tmp_path}/run", flag]) == 2
    assert message in capsys.readouterr().err


def test_an_unknown_part_is_said_before_anything_is_measured(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("jaxtl.devices.backend.use_compilation_cache", lambda: None)
    arguments = [f"--workdir={tmp_path}/run", "--config.parts=step,steps"]
    assert cli.execute(benchmarks.main, benchmarks.Config, arguments) == 2
    assert "--config.parts: no part 'steps'" in capsys.readouterr().err


@pytest.mark.slow
def test_one_command_measures_all_and_is_compared_with_itself(tmp_path):
    command = [sys.executable, "-m", "experiments.benchmarks"]
    subprocess.run([*command, "--smoke", f"--workdir={tmp_path}/run"], cwd=ROOT, check=True, capture_output=True)
    path = str(tmp_path / "run" / "summary.json")
    numbers = json.loads((tmp_path / "run" / "summary.json").read_text())["figures"]
    asked = {"step", "sweep", "ridge", "logistic", "multitask", "federated", "sequences", "start"}
    assert {name.partition("/")[0] for name in numbers} >= asked
    assert all(math.isfinite(value) for value in numbers.values())
    comparing = [sys.executable, "-m", "experiments.benchmarks.compare", path, path]
    said = subprocess.run(comparing, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert len(re.findall(r" 1.00 \|\n", said)) == len(numbers)
