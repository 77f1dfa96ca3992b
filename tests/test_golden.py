"""The figures of every `--smoke` run, kept: what moves code leaves them as they were, to the last bit on one machine.

python tests/test_golden.py NAME ...      writes them anew, after a change that has to change them
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
KEPT = ROOT / "tests" / "golden"
TOLD = {"command", "device", "versions", "minutes", "config", "notice", "data", "glossary"}  # not of the figures
NEAR = 0.25  # on another machine, of an accuracy: a check that all is there and in order, no more


def machine() -> dict[str, str]:
    """What bits depend on."""
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return {"cpu": f"{platform.machine()} {model}", "jax": importlib.metadata.version("jax")}


def figures(name: str, workdir: Path) -> dict:
    """Those of a smoke run, made now in a process of its own."""
    command = [sys.executable, "-m", f"experiments.{name}", "--smoke", f"--workdir={workdir}"]
    environment = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"} | {"JAXTL_OFFLINE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0, done.stderr
    return untimed(json.loads((workdir / "summary.json").read_text(encoding="utf-8")))


def untimed(value, top=True):
    """Without what a clock says, and on top without what is told beside the figures."""
    if isinstance(value, dict):
        left_out = TOLD if top else set()
        return {k: untimed(v, False) for k, v in value.items() if "second" not in k and k not in left_out}
    return [untimed(one, False) for one in value] if isinstance(value, list) else value


def differences(old, new, path="") -> list[str]:
    """Where what was kept is not there any more, or another; what is new beside it may be there."""
    if isinstance(old, dict) and isinstance(new, dict):
        missing = [f"{path}/{key} is gone" for key in old.keys() - new.keys()]
        return missing + [
            line for key in old.keys() & new.keys() for line in differences(old[key], new[key], f"{path}/{key}")
        ]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [
            line for k, pair in enumerate(zip(old, new, strict=True)) for line in differences(*pair, f"{path}[{k}]")
        ]
    return [] if old == new else [f"{path}: {old} is now {new}"]


def accuracies(value) -> list[float]:
    """All that is called so, in order."""
    if isinstance(value, list):
        return [one for part in value for one in accuracies(part)]
    if not isinstance(value, dict):
        return []
    own = [float(one) for key in ("values", "test") if isinstance(value.get(key), list) for one in value[key]]
    return own + [one for key in sorted(value) for one in accuracies(value[key])]


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(path.stem for path in KEPT.glob("*.json")))
def test_the_figures_of_a_smoke_run_are_those_that_were_kept(name, tmp_path):
    kept = json.loads((KEPT / f"{name}.json").read_text(encoding="utf-8"))
    found = figures(name, tmp_path / "run")
    if kept["made_on"] == machine():
        assert differences(kept["figures"], found) == []
        return
    old, new = accuracies(kept["figures"]), accuracies(found)
    assert len(old) == len(new)
    assert all(math.isfinite(b) and abs(a - b) <= NEAR for a, b in zip(old, new, strict=True))


def test_a_figure_that_has_moved_is_seen():
    old = {"methods": [{"name": "l2", "values": [0.5, 0.6], "seconds": 1.0}], "minutes": 2.0}
    new = {"methods": [{"name": "l2", "values": [0.5, 0.7], "more": 1}], "minutes": 3.0}
    assert differences(untimed(old), untimed(new)) == ["/methods[0]/values[1]: 0.6 is now 0.7"]
    assert differences({"a": 1}, {}) == ["/a is gone"]
    assert accuracies(old) == [0.5, 0.6]


if __name__ == "__main__":
    import tempfile

    for asked in sys.argv[1:]:
        with tempfile.TemporaryDirectory() as room:
            content = {"made_on": machine(), "figures": figures(asked, Path(room) / "run")}
            (KEPT / f"{asked}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
