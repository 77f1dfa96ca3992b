"""What README shows runs: its Python, its fork of the main job, its commands and its links."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_python_of_the_readme_runs_in_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), names)
    assert names["history"][-1]["step"] == 200
    assert names["right"] > 0.8
    assert (tmp_path / "finetuned.safetensors").exists()


def test_the_fork_of_the_readme_is_a_new_method_in_the_comparison(tmp_path):
    (source,) = blocks("python fork")
    assert len(source.splitlines()) <= 50
    path = tmp_path / "delta.py"
    path.write_text(source, encoding="utf-8")
    images, labels = load_digits(return_X_y=True)
    images = (images.reshape(-1, 8, 8) * 15).astype(np.uint8)
    np.savez(tmp_path / "digits.npz", train_images=images[:200], train_labels=labels[:200],
             test_images=images[200:300], test_labels=labels[200:300])  # fmt: skip
    asked = {"data": tmp_path / "digits.npz", "methods": "l2,delta", "widths": "4,8", "source_steps": 5, "steps": 5}
    asked |= {"trials": 2, "tuning_draws": 1, "report_draws": 2, "n_per_class": 4, "validation": 20, "honest": ""}
    command = [sys.executable, str(path), f"--workdir={tmp_path / 'run'}"]
    command += [f"--config.{name}={value}" for name, value in asked.items()]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in next(tmp_path.rglob("runs.jsonl")).read_text().splitlines()]
    weights = {row["setting"]["delta_weight"] for row in rows if row["method"] == "delta"}
    assert len(weights) == 2
    assert all(0.001 <= weight <= 1 for weight in weights)
    assert "| delta " in (tmp_path / "run/summary.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\bmake ([a-z-]+)", README))))
def test_every_make_target_of_the_readme_exists(target):
    assert subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True).returncode == 0


def test_every_link_of_the_readme_leads_somewhere():
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert len(links) > 10
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_guarantee_names_a_test_that_exists():
    section = README.split("## Guarantees")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ") and "---" not in line][1:]
    assert len(rows) >= 8
    for row in rows:
        cited = re.findall(r"\[`(\w+)`\]\((tests/[\w/]+\.py)\)", row)
        assert cited, f"no test in: {row}"
        for name, file in cited:
            assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8"), f"{file} has no {name}"
