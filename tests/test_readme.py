"""What README shows runs: its Python, its fork of the main job, its commands and its links."""

import dataclasses
import importlib.util
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
    (patch,) = blocks("diff")
    source = (ROOT / "experiments/cifar_transfer.py").read_text(encoding="utf-8")
    for hunk in re.split(r"^@@.*\n", patch, flags=re.MULTILINE)[1:]:
        lines = hunk.splitlines()
        before = "\n".join(line[1:] for line in lines if line[:1] != "+")
        after = "\n".join(line[1:] for line in lines if line[:1] != "-")
        assert source.count(before) == 1, f"README's fork no longer fits:\n{before}"
        source = source.replace(before, after)
    assert sum(line.startswith("+") for line in patch.splitlines()) <= 20
    path = tmp_path / "fork.py"
    path.write_text(source, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("fork", path)
    fork = importlib.util.module_from_spec(spec)
    sys.modules["fork"] = fork
    spec.loader.exec_module(fork)
    images, labels = load_digits(return_X_y=True)
    images = (images.reshape(-1, 8, 8) * 15).astype(np.uint8)
    np.savez(tmp_path / "digits.npz", train_images=images[:200], train_labels=labels[:200],
             test_images=images[200:300], test_labels=labels[200:300])  # fmt: skip
    config = dataclasses.replace(
        fork.Config(), data=str(tmp_path / "digits.npz"), methods=("l2", "huber_sp"), widths=(4, 8), source_steps=5,
        steps=5, trials=2, tuning_draws=1, report_draws=2, n_per_class=(4,), validation=20,
    )  # fmt: skip
    fork.main(config, tmp_path / "run")
    assert "huber_sp" in (tmp_path / "run/summary.md").read_text(encoding="utf-8")


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
