"""What the pages show runs: their Python, their forks, their commands; what they promise and quote is there."""

import ast
import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits
from test_house import ORDER

from jaxtl.cli import flags

ROOT = Path(__file__).parents[1]
PAGES = {name: (ROOT / name).read_text(encoding="utf-8") for name in (
    "README.md", "CONTRIBUTING.md", "experiments/README.md", "experiments/questions.md", "jaxtl/README.md",
    "tests/README.md")}  # fmt: skip
README = PAGES["README.md"]


def blocks(page, language="python"):
    return re.findall(rf"```{language}\n(.*?)```", PAGES[page], re.DOTALL)


def forks(page):
    """Whole files among the Python of a page."""
    return [block for block in blocks(page) if "__main__" in block]


def test_the_readme_is_one_screen_or_two():
    assert len(README.encode()) <= 8192


def test_the_python_of_the_readme_runs_and_needs_a_dozen_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (block,) = [block for block in blocks("README.md") if block not in forks("README.md")]
    names = {}
    exec(compile(block, "README.md", "exec"), names)
    assert names["history"][-1]["step"] == 200
    assert names["tl"].evaluate(names["model"], names["weights"], names["data"])["accuracy"] > 0.8
    assert (tmp_path / "finetuned.safetensors").exists()
    asked = {ast.unparse(node) for node in ast.walk(ast.parse(block)) if isinstance(node, ast.Attribute)}
    assert len({name for name in asked if re.fullmatch(r"tl\.\w+", name)}) <= 12


def test_the_python_of_the_library_runs_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in blocks("jaxtl/README.md"):
        exec(compile(block, "jaxtl/README.md", "exec"), names)
    assert names["result"].methods == ["plain", "eliminated"]
    assert len(names["result"].contrasts) == 1
    assert names["data"].classes == ("cat", "dog")


@pytest.mark.parametrize(
    ("page", "method", "most", "weights"),
    [
        ("README.md", "halfway", 25, set()),
        pytest.param("experiments/README.md", "delta", 50, {"delta_weight"}, marks=pytest.mark.slow),
    ],
)
def test_a_fork_of_a_page_is_a_new_method_in_the_comparison(tmp_path, page, method, most, weights):
    (source,) = forks(page)
    assert len(source.splitlines()) <= most
    path = tmp_path / f"{method}.py"
    path.write_text(source, encoding="utf-8")
    images, labels = load_digits(return_X_y=True)
    images = (images.reshape(-1, 8, 8) * 15).astype(np.uint8)
    np.savez(tmp_path / "digits.npz", train_images=images[:200], train_labels=labels[:200],
             test_images=images[200:300], test_labels=labels[200:300])  # fmt: skip
    asked = {"data": tmp_path / "digits.npz", "methods": f"l2,{method}", "model": "mlp", "widths": "4"}
    asked |= {"source_steps": 5, "steps": 5}
    asked |= {"trials": 2, "tuning_draws": 1, "report_draws": 2, "n_per_class": 4, "validation": 20, "honest": ""}
    command = [sys.executable, str(path), f"--workdir={tmp_path / 'run'}"]
    command += [f"--config.{name}={value}" for name, value in asked.items()]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in next(tmp_path.rglob("runs.jsonl")).read_text().splitlines()]
    settings = [row["setting"] for row in rows if row["method"] == method]
    assert settings
    for name in weights:  # a range of its own, of which two values were tried
        tried = {setting[name] for setting in settings}
        assert len(tried) == 2
        assert all(0.001 <= weight <= 1 for weight in tried)
    assert f"| {method} " in (tmp_path / "run/summary.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "target", sorted({t for page in PAGES.values() for t in re.findall(r"\bmake ([a-z-]+)", page)})
)
def test_every_make_target_of_a_page_exists(target):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize(
    "module", sorted({m for page in PAGES.values() for m in re.findall(r"python -m ([\w.]+)", page)})
)
def test_every_program_of_a_page_exists(module):
    if not module.endswith("NAME"):
        place = ROOT / module.replace(".", "/")
        assert place.with_suffix(".py").exists() or (place / "__main__.py").exists()


COMMANDS = sorted(
    {
        (module, words.strip('"'))
        for page in PAGES.values()
        for module, words in [
            *re.findall(r"python -m experiments\.([\w.]+)((?: --[\w.]+=\S+| --smoke)*)", page),
            *(("cifar_transfer", f" {words}") for words in re.findall(r'make run ARGS="([^"]+)"', page)),
        ]
    }
)


@pytest.mark.parametrize(("module", "asked"), COMMANDS)
def test_every_command_of_a_page_asks_for_settings_that_there_are(module, asked):
    if "NAME" in module or not asked:
        return
    config = importlib.import_module(f"experiments.{module}").Config
    _, rest = flags.team(shlex.split(asked))
    flags.parse(config, rest, "runs/x")


def test_every_guarantee_names_a_test_that_exists():
    section = PAGES["tests/README.md"].split("## Guarantees")[1]
    rows = [line for line in section.splitlines() if line.startswith("| ") and "---" not in line][1:]
    assert len(rows) >= 35
    for row in rows:
        cited = re.findall(r"\[`(\w+)`\]\(([\w/]+\.py)\)", row)
        assert cited, f"no test in: {row}"
        for name, file in cited:
            assert f"def {name}(" in (ROOT / "tests" / file).read_text(encoding="utf-8"), f"{file} has no {name}"


def test_the_rooms_of_the_house_are_those_that_the_imports_are_held_to():
    rooms = [room for group in ORDER.split(", ") for room in group.split(" + ")]
    assert re.findall(r"^\|[^|]*\| `(\w+)` \|", PAGES["jaxtl/README.md"], re.MULTILINE) == rooms[:-1]
    diagram = README.split("the equation ")[1].split("```")[0]
    drawn = [word for word in re.findall(r"[a-z_]+", diagram) if word in rooms]
    assert drawn == [room for room in rooms if room in drawn]
    assert set(rooms) - set(drawn) <= {
        "version",
        "text",
        "errors",
        "bounds",
        "files",
        "archives",
        "clients",
        "wheels",
        "terminal",
    }


def test_the_figures_that_the_readme_quotes_are_those_of_the_gallery():
    quoted = README.split("## What it found")[1].split("\n## ")[0]
    figures = re.findall(r"[+−][\d.]+ \[−?[\d.]+, −?[\d.]+\]|[\d.]+(?= %)", quoted)
    assert len(figures) >= 3
    pages = " ".join(page.read_text(encoding="utf-8") for page in sorted((ROOT / "experiments").glob("*.md")))
    told = re.sub(r" points(?= \[)", "", pages.replace("\n", " "))
    for figure in figures:
        assert figure in told, figure


def test_the_gallery_has_every_experiment_with_its_command():
    gallery = PAGES["experiments/README.md"]
    for file in (ROOT / "experiments").glob("*.py"):
        if "cli.run(" in file.read_text(encoding="utf-8"):
            section = gallery.split(f"\n## {file.stem}\n")[1].split("\n## ")[0]
            assert f"({file.name})" in section
            assert f"python -m experiments.{file.stem}" in section or "make run" in section
            assert (f"({file.stem}.md)" in section) == file.with_suffix(".md").exists()
