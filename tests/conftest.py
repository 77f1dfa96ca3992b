"""Strict for every test: two virtual devices, no implicit rank promotion, warnings are errors (pyproject.toml).

Nearly all of a test's time is XLA's, which makes fast code of programs that run a few times on a few numbers. Without
the slow tests, programs are therefore compiled quickly, in a quarter of the time; with them, as users have them.
"""

import os
import subprocess
import sys

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAXTL_OFFLINE"] = "1"  # no test asks the network for data
os.environ["OPENBLAS_NUM_THREADS"] = "1"  # more would wait for each other on the cores of the other workers

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")

QUICKLY = (
    *("xla_backend_optimization_level=0", "xla_cpu_parallel_codegen_split_count=1"),
    "xla_cpu_use_fusion_emitters=False",  # jax 0.12 has no other way
)
# An XLA that does not know one of its flags ends the process. Options of a program it refuses with an error.
KNOWN = """
import sys, jax
for option in sys.argv[1:]:
    try:
        jax.jit(lambda x: x, compiler_options=dict([option.split("=")])).lower(0.0).compile()
    except jax.errors.JaxRuntimeError:
        continue
    print(f"--{option.lower()}")
"""


def pytest_configure(config):
    """The flags are there before the first program is compiled, and handed on to workers."""
    if config.option.markexpr == "not slow" and not hasattr(config, "workerinput"):
        asked = [sys.executable, "-c", KNOWN, *QUICKLY]
        known = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=True).stdout
        os.environ["XLA_FLAGS"] += " " + " ".join(known.split())


@pytest.fixture(scope="session", autouse=True)
def programs(tmp_path_factory):
    """Where runs that a test starts keep compiled programs, and the next start of the same finds them.

    One directory a worker: nobody reads what another is just writing.
    """
    directory = str(tmp_path_factory.mktemp("programs"))
    os.environ["JAX_COMPILATION_CACHE_DIR"] = directory
    jax.config.update("jax_compilation_cache_dir", directory)


@pytest.fixture(scope="module", autouse=True)
def forgotten():
    """What jax keeps of the programs of a file, which no other file asks for: gigabytes in the end."""
    yield
    jax.clear_caches()


def pytest_terminal_summary(terminalreporter):
    """What tests have counted is told at the end, also of a run that passes.

    `record_property("proof", "100 of 100 ...")` is told as it is; of all tests with one `record_property("tally", ...)`
    it is told how many passed.
    """
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, [])]
    told = [(*recorded, report.passed) for report in reports for recorded in report.user_properties]
    for proof in sorted({value for name, value, _ in told if name == "proof"}):
        terminalreporter.write_line(f"proof: {proof}")
    for tally in sorted({value for name, value, _ in told if name == "tally"}):
        passed = [passed for name, value, passed in told if (name, value) == ("tally", tally)]
        terminalreporter.write_line(f"proof: {sum(passed)} of {len(passed)} {tally}")
