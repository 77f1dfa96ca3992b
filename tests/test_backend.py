"""The machine under a run: the cache is used and never in the way, devices are named and share batches."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

import jaxtl
from jaxtl.devices import backend
from jaxtl.errors import InputError

CACHE_OPTIONS = (
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
)


@pytest.fixture
def cache_settings(monkeypatch):
    """No cache from outside, and jax as it was afterwards."""
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    before = {name: getattr(jax.config, name) for name in CACHE_OPTIONS}
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    jax.experimental.compilation_cache.compilation_cache.reset_cache()


def test_the_cache_holds_even_the_smallest_program(tmp_path, cache_settings):
    assert backend.use_compilation_cache(tmp_path / "xla") == tmp_path / "xla"
    jax.experimental.compilation_cache.compilation_cache.reset_cache()
    jax.jit(lambda x: x * 3.25 + 0.125)(jnp.float32(1))
    assert list((tmp_path / "xla").iterdir())


def test_where_the_cache_is(tmp_path, cache_settings, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert backend.use_compilation_cache() == tmp_path / "home/.cache/jaxtl/xla"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert backend.use_compilation_cache() == tmp_path / "xdg/jaxtl/xla"
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "chosen"))
    assert backend.use_compilation_cache() == tmp_path / "chosen"


def test_a_cache_that_cannot_be_written_is_said_in_one_line(tmp_path, cache_settings, capsys):
    (tmp_path / "file").touch()
    assert backend.use_compilation_cache(tmp_path / "file" / "xla") is None
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert str(tmp_path / "file") in said
    assert jax.config.jax_compilation_cache_dir is None


def test_the_device_in_words(monkeypatch):
    assert re.fullmatch(r"\d+ CPU cores? \(\w+\), 2 jax devices", backend.describe_device())  # conftest.py asks for two
    gpu = SimpleNamespace(platform="gpu", device_kind="NVIDIA H200")
    monkeypatch.setattr(jax, "devices", lambda: [gpu])
    assert backend.describe_device() == "NVIDIA H200"
    monkeypatch.setattr(jax, "devices", lambda: [gpu] * 8)
    assert backend.describe_device() == "8 x NVIDIA H200"


def test_what_is_on_in_words(monkeypatch):
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
    directory = jax.config.jax_compilation_cache_dir
    assert backend.describe_speed() == f"convolutions by Eigen, huge pages, programs kept in {directory}"
    monkeypatch.delenv("GLIBC_TUNABLES")
    assert "no huge pages (GLIBC_TUNABLES=" in backend.describe_speed()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert backend.describe_speed() == f"programs kept in {directory}"


def test_versions():
    versions = backend.versions()
    assert list(versions) == ["python", "jax", "flax", "optax", "jaxtl"]
    assert versions["jax"] == jax.__version__
    assert f'version = "{jaxtl.__version__}"' in Path(__file__).parent.with_name("pyproject.toml").read_text()


def test_steps_per_dispatch(monkeypatch):
    assert [backend.steps_per_dispatch(n, 150) for n in (0, 1, 20)] == [10, 1, 20]
    assert backend.steps_per_dispatch(0, 150, most=6) == 6
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert [backend.steps_per_dispatch(n, 150) for n in (0, 1, 20)] == [75, 1, 20]
    assert backend.steps_per_dispatch(0, 150, most=30) == 30
    assert backend.steps_per_dispatch(0, 7, most=0) == 1
    with pytest.raises(InputError, match="-1 steps"):
        backend.steps_per_dispatch(-1, 150)
