"""Strict for every test: two virtual devices, no implicit rank promotion, warnings are errors (pyproject.toml)."""

import os

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAXTL_OFFLINE"] = "1"  # no test asks the network for data

import jax

jax.config.update("jax_numpy_rank_promotion", "raise")

# Programs compiled once are read back by other workers, by later tests that build the same step, and by the next run.
CACHE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), ".pytest_cache", "xla")
jax.config.update("jax_compilation_cache_dir", CACHE)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


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
