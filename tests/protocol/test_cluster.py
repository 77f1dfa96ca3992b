"""Units on real workers: a scheduler and three processes on this machine, some of which do not survive."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import dask
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from distributed import Scheduler, SpecCluster

import jaxtl as tl
from experiments.benchmarks import cluster as benchmark
from jaxtl import loop
from jaxtl.cli import flags
from jaxtl.cluster import Site, parcels, sites, workers
from jaxtl.cluster.pool import Gone, joined
from jaxtl.data import load, source_and_target
from jaxtl.errors import InputError, Interrupted
from jaxtl.problems import make_sources
from jaxtl.protocol import R2, RunStore, study
from jaxtl.protocol.executors import each_made, using

PACKAGE = Path(tl.__file__).parent
TABLE = np.random.default_rng(0).normal(size=(5000, 6)).astype(np.float32)  # large: it travels by itself


class Rows:
    """y = x·w of rows of a table, of which 8 are labelled."""

    title, origin, content, points, measure = "rows of a table", "made up", (TABLE,), 2, R2
    config = tl.Budget(steps=20, trials=2, tuning_draws=2, report_draws=3, learning_rate=(0.05, 0.5), honest=("plain",))

    def __init__(self):
        self.table = jnp.asarray(TABLE)
        self.key_of_all = jax.random.key(3)

    def rows(self, first, count):
        x = self.table[first : first + count]
        return {"x": x, "label": x @ jnp.arange(6.0)}

    def key(self, draw, use):
        return jax.random.fold_in(jax.random.fold_in(self.key_of_all, draw.seed), ("start", "run").index(use))

    def start(self, draw):
        return tl.Weights({"kernel": 0.01 * jax.random.normal(self.key(draw, "start"), (6,))})

    def data(self, program, start, draw):
        return self.rows(100 * draw.seed + 10 * (draw.fold or 0), 8)

    def rates(self, program, setting):
        return tl.rates_of(program, setting, {"penalty": 20.0})

    def point(self, weights, draw):
        return {}

    def score(self, weights, first):
        rows = self.rows(first, 100)
        return R2.score(np.asarray(rows["label"]), np.asarray(rows["x"] @ weights.params["kernel"]))

    def validate(self, trained, draw):
        return self.score(trained.weights, 2000)

    def test(self, trained, draw):
        kernel = np.asarray(trained.weights.params["kernel"])
        return {"test": self.score(trained.weights, 3000)}, {"kernel": kernel}


def linear(params, model_state, batch, ctx):
    return {"head": batch["x"] @ params["kernel"]}, model_state


def recipes():
    """Of functions that no other process could import by name."""

    def pulled(problem, pulls):
        task = {"task": tl.Term(1.0, tl.mean_of(tl.squared_error))}
        return tl.make_program(linear, {"kernel": "new"}, task, {"new": tl.Group()}, pulls)

    return {
        "plain": tl.Recipe(lambda problem: pulled(problem, {})),
        "l2": tl.Recipe(
            lambda problem: pulled(problem, {"new": tl.Term(0.1, tl.l2)}),
            ("learning_rate", "pull"),
            ranges={"pull": tl.Range(0.01, 1.0)},
        ),
    }


@dataclass(frozen=True)
class Settings:
    """Of an experiment that has none."""


def slowly(unit):
    """(unit, the process that made it), after a while."""
    time.sleep(0.1)
    return unit, os.getpid()


@pytest.fixture(scope="module")
def cluster():
    with Site.of("local:3").start() as cluster:
        yield cluster


@pytest.fixture
def site(cluster):
    return Site.of(cluster.scheduler_address)


@pytest.fixture
def pool(site):
    with joined(site) as pool:
        yield pool


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """The study in one process."""
    return study(Rows(), recipes(), tmp_path_factory.mktemp("here"), [("l2", "plain")])


def assert_same(found, expected):
    """Bit for bit, but for how long it took."""
    assert [replace(run, seconds=0.0) for run in found.runs] == [replace(run, seconds=0.0) for run in expected.runs]
    assert found.contrasts == expected.contrasts
    for one, other in zip(expected.runs, found.runs, strict=True):
        for name, array in expected.arrays(one).items():
            np.testing.assert_array_equal(found.arrays(other)[name], array, strict=True)


def worker_of(site, room):
    """A worker of Dask that somebody starts, with what is in `room` before all else."""
    command = [sys.executable, "-m", "distributed.cli.dask_worker", site.address]
    found = os.pathsep.join([str(room), *filter(None, sys.path)])
    return subprocess.Popen(
        [*command, "--no-nanny", "--nthreads=1", "--no-dashboard", f"--local-directory={room}"],
        env=os.environ | {"PYTHONPATH": found},
        cwd=room,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def test_a_study_on_workers_is_that_of_one_process_bit_for_bit(pool, here, tmp_path):
    with using(pool):
        assert_same(study(Rows(), recipes(), tmp_path, [("l2", "plain")]), here)
    assert any(run.stage == "fold" for run in here.runs)


def test_a_study_that_was_stopped_goes_on_with_what_had_arrived(pool, here, tmp_path, monkeypatch):
    made, keep = list[str](), RunStore.add

    def add(self, run, arrays):
        keep(self, run, arrays)
        made.append((run.method, run.stage, run.seed, run.fold, run.trial))
        if len(made) == 5:
            loop.request_stop(signal.SIGTERM)

    monkeypatch.setattr(RunStore, "add", add)
    monkeypatch.setattr(loop.stop_request, "signal_number", None)
    with pytest.raises(Interrupted):
        study(Rows(), recipes(), tmp_path, [("l2", "plain")], executor=pool)
    assert 5 <= len(made) < len(here.runs)
    loop.stop_request.signal_number = None
    assert_same(study(Rows(), recipes(), tmp_path, [("l2", "plain")], executor=pool), here)
    assert max(Counter(made).values()) == 1


def test_a_worker_is_killed_in_the_middle(pool):
    made = each_made(slowly, range(30), pool)
    first, pid = next(made)[1]
    os.kill(pid, signal.SIGKILL)
    rest = [result for _, result in made]
    assert sorted([first, *(unit for unit, _ in rest)]) == list(range(30))
    assert {other for _, other in rest} - {pid}


def deadly(unit):
    os._exit(1)


def test_a_unit_that_ends_every_worker_it_is_given_to_ends_the_run_in_a_line():
    once = dask.config.set({"distributed.scheduler.allowed-failures": 0})
    said = r"ended every worker that it was given to: (?s:.*)rerun the same command"
    with once, pytest.raises(Gone, match=said) as gone, joined(Site.of("local:1")) as pool:
        list(each_made(deadly, range(2), pool))
    assert gone.value.exit_code == 75


def test_of_those_that_join_later_one_works_and_one_with_other_code_is_refused(site, pool, tmp_path, caplog):
    strange, same = tmp_path / "strange", tmp_path / "same"
    same.mkdir()
    shutil.copytree(PACKAGE, strange / "jaxtl", ignore=shutil.ignore_patterns("__pycache__"))
    with open(strange / "jaxtl" / "text.py", "a") as file:
        file.write("# changed\n")
    late, refused = worker_of(site, same), worker_of(site, strange)
    made, makers, deadline = each_made(slowly, itertools.count(), pool), set(), time.monotonic() + 200
    try:
        while late.pid not in makers or "is refused: other code in jaxtl/text.py" not in caplog.text:
            makers.add(next(made)[1][1])
            assert time.monotonic() < deadline, (caplog.text, makers)
        assert len(pool.addresses()) == 4
        makers |= {pid for _, (_, pid) in itertools.islice(made, 20)}
        assert refused.pid not in makers
    finally:
        made.close()
        for process in (late, refused):
            process.kill()
            process.wait()


def test_units_wait_for_the_first_worker(tmp_path):
    with SpecCluster(scheduler={"cls": Scheduler, "options": {"host": "127.0.0.1", "port": 0}}) as empty:
        site, made = Site.of(empty.scheduler_address), []
        with joined(site) as pool:
            waiting = threading.Thread(target=lambda: made.extend(each_made(slowly, range(3), pool)))
            waiting.start()
            late = worker_of(site, tmp_path)
            waiting.join(100)
            late.kill()
            late.wait()
    assert sorted(unit for unit, _ in made) == [0, 1, 2]


def until_killed(scheduler, busy, pool):
    """Units without end, of which the scheduler sees a few."""
    for count, _ in enumerate(each_made(slowly, itertools.count(), pool)):
        if count == 5:
            scheduler.kill()
            time.sleep(busy)


@pytest.mark.parametrize("busy", [0, 2])  # seconds for which the first process looks elsewhere
def test_a_scheduler_that_is_killed_ends_the_run_in_a_line(busy, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        site = Site.of(f"tcp://127.0.0.1:{taken.getsockname()[1]}")
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host=127.0.0.1", "--no-dashboard"]
    port = site.address.rpartition(":")[2]
    scheduler = subprocess.Popen([*command, f"--port={port}"], stderr=subprocess.DEVNULL)
    worker = worker_of(site, tmp_path)
    try:
        with pytest.raises(Gone, match="the scheduler has ended"), joined(site) as pool:
            until_killed(scheduler, busy, pool)
    finally:
        for process in (worker, scheduler):
            process.kill()
            process.wait()


def test_where_no_worker_fits_it_is_said(site, monkeypatch):
    mine = workers.itself()
    other = mine | {"versions": mine["versions"] | {"jax": "0.0.1"}}
    monkeypatch.setattr(workers, "itself", lambda modules: other)
    with pytest.raises(InputError, match=r"is refused: jax \S+ in place of 0\.0\.1"), joined(site):
        pass


def test_garbage_at_the_port_of_the_scheduler_changes_nothing(site, pool):
    host, port = site.address.removeprefix("tcp://").split(":")
    for content in (b"\xff" * 64, os.urandom(4096), b"GET / HTTP/1.1\r\n\r\n", b""):
        with socket.create_connection((host, int(port)), timeout=5) as connection:
            connection.sendall(content)
    assert sorted(made for _, (made, _) in each_made(slowly, range(6), pool)) == list(range(6))


def refusing(unit):
    raise InputError("no such thing", where="there", todo="do it")


def test_what_a_user_got_wrong_is_said_in_the_same_words(pool):
    with pytest.raises(InputError) as found:
        list(each_made(refusing, [1], pool))
    assert str(found.value) == "there: no such thing\n  do it"


def test_work_that_cannot_be_sent_is_refused(pool):
    lock = threading.Lock()
    with pytest.raises(InputError, match="cannot be sent to other processes"):
        list(each_made(lambda unit: lock, [1], pool))


def test_a_source_model_that_a_worker_trains_is_what_is_trained_here(pool, tmp_path):
    from experiments.cifar_transfer import Config

    config = Config(source_steps=4, source_batch_size=8, widths=(4,), replicates=2)
    data = load("digits")
    task, _ = source_and_target("0-4:5-9", data, data)
    found = make_sources(config, task, tmp_path / "there", executor=pool)
    for one, other in zip(found, make_sources(config, task, tmp_path / "here"), strict=True):
        jax.tree.map(np.testing.assert_array_equal, one.weights, other.weights)
    there, here = (
        sorted(str(p.relative_to(tmp_path / room)) for p in (tmp_path / room).rglob("*.safetensors"))
        for room in ("there", "here")
    )
    assert there == here == ["replicate_1/source.safetensors", "source.safetensors"]


def test_an_array_that_work_holds_twice_is_sent_once():
    table = jnp.asarray(TABLE)
    parcel = parcels.packed(lambda unit: (TABLE, table, unit))
    assert list(map(len, parcel.arrays.values())) == [TABLE.nbytes]
    first, second, unit = parcels.opened(parcel.body, parcel.arrays)(7)
    assert isinstance(second, jax.Array)
    assert unit == 7
    for found in (first, second):
        np.testing.assert_array_equal(found, TABLE)


def test_functions_that_keep_their_answers_are_sent_without_them():
    kept = functools.lru_cache(maxsize=3)(lambda unit: unit + 1)
    kept(1)
    found = parcels.opened(*parcels.packed(kept)[1:])
    assert (found(1), found.cache_info().maxsize, found.cache_info().hits) == (2, 3, 0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lcal:4", "'lcal:4' is no cluster"),
        ("", "'' is no cluster"),
        ("local", "does not say how many"),
        ("local:", "does not say how many"),
        ("local:many", "does not say how many"),
        ("slurm:-1", "does not say how many"),
        ("local:0", "0 workers"),
        ("tcp:4", "is no address"),
        ("tcp://scheduler", "is no address"),
        ("http://scheduler:8787", "is no cluster"),
    ],
)
def test_a_cluster_that_there_is_not(text, said):
    with pytest.raises(InputError, match=re.escape(said)) as found:
        flags.parse(Settings, [f"--cluster={text}"], "runs/x")
    assert str(found.value).startswith("--cluster: ")


def test_a_cluster_is_no_part_of_the_config():
    assert flags.parse(Settings, ["--cluster", "local:2"], "runs/x").cluster == Site("local", 2)
    assert flags.parse(Settings, [], "runs/x").cluster is None


def test_what_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r'needs distributed\n  pip install "jaxtl\[cluster\]"'):
        Site.of("tcp://scheduler:8786").check()


def test_nobody_answers(monkeypatch):
    monkeypatch.setattr("jaxtl.cluster.pool.CONNECTING", 1)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(InputError, match="nobody answers there"), joined(Site.of(f"tcp://127.0.0.1:{port}")):
        pass


def test_each_process_has_a_gpu():
    found = [sites.environment(k, {}, 2) for k in range(4)]
    assert [one["CUDA_VISIBLE_DEVICES"] for one in found] == ["0", "1", "0", "1"]
    assert "CUDA_VISIBLE_DEVICES" not in sites.environment(0, {"CUDA_VISIBLE_DEVICES": "3"}, 1)
    assert all(one["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false" for one in found)


def variables(unit):
    return {name: os.environ.get(name) for name in ("NPROC", "OPENBLAS_NUM_THREADS", "XLA_PYTHON_CLIENT_PREALLOCATE")}


def test_workers_have_the_threads_of_this_process_whose_number_changes_sums(pool):
    ((_, found),) = each_made(variables, [1], pool)
    ours = {"NPROC": str(workers.threads()), "OPENBLAS_NUM_THREADS": os.environ["OPENBLAS_NUM_THREADS"]}
    assert found == ours | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}


@pytest.mark.slow
def test_the_first_process_is_killed_and_the_same_command_goes_on(site, tmp_path):
    some = ["--smoke", "--config.methods=features,l2,fine_tune", "--config.source_steps=20", "--config.honest=features"]
    command = [sys.executable, "-m", "experiments.cifar_transfer", *some]
    there = [*command, f"--workdir={tmp_path / 'there'}", f"--cluster={site.address}"]
    process = subprocess.Popen(there, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    lines = list[str]()
    while len(lines) < 3:
        time.sleep(0.05)
        assert process.poll() is None
        lines = [line for path in tmp_path.rglob("runs.jsonl") for line in path.read_text().splitlines()]
    process.kill()
    process.wait()
    subprocess.run(there, check=True)
    subprocess.run([*command, f"--workdir={tmp_path / 'here'}"], check=True)
    of = [
        {run_of(line) for path in (tmp_path / room).rglob("runs.jsonl") for line in path.read_text().splitlines()}
        for room in ("there", "here")
    ]
    assert of[0] == of[1]


def run_of(line):
    """A line of runs.jsonl but for the time that it took."""
    record = {name: value for name, value in json.loads(line).items() if name not in ("seconds", "crc32")}
    return json.dumps(record)


def test_the_benchmark_counts_runs_and_units_of_every_number_of_workers(tmp_path, monkeypatch):
    asked = []

    @contextlib.contextmanager
    def threads(site):
        asked.append(site.workers)
        with ThreadPoolExecutor(site.workers) as pool:
            yield pool

    monkeypatch.setattr("jaxtl.cluster.pool.joined", threads)
    benchmark.main(benchmark.Config(**benchmark.Config.presets["smoke"]), tmp_path)
    figures = json.loads((tmp_path / "summary.json").read_text())["figures"]
    assert asked == [1, 2]
    assert min(figures[f"cluster/workers_{count}/runs_per_hour"] for count in asked) > 0
    assert figures["cluster/many/seconds"] > figures["cluster/overhead/seconds"] > 0


def test_what_lies_on_disk_is_read_there_by_its_name_and_must_be_the_same(tmp_path):
    file = tmp_path / "pixels"
    np.arange(100_000, dtype=np.uint8).tofile(file)
    pixels = np.memmap(file, np.uint8, "r", 10, (300, 300))
    parcel = parcels.packed(lambda row: int(pixels[row].sum()))
    assert not parcel.arrays
    assert len(parcel.body) < 2000
    assert parcels.opened(parcel.body, {})(7) == int(pixels[7].sum())
    part = pixels[3:]  # where it begins in the file is not known
    assert parcels.opened(*parcels.packed(lambda row: int(part[row].sum()))[1:])(4) == int(pixels[7].sum())
    file.write_bytes(b"other")
    with pytest.raises(InputError, match="not as large as for the first process"):
        parcels.opened(parcel.body, {})


def test_a_module_beside_the_program_has_to_be_the_same(tmp_path, monkeypatch):
    (tmp_path / "beside_it.py").write_text("ONE = 1\n")
    (tmp_path / "program.py").write_text("import beside_it\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("beside_it")
    monkeypatch.setattr(sys.modules["__main__"], "__file__", str(tmp_path / "program.py"), raising=False)
    assert workers.beside() == ["beside_it"]
    first = workers.itself(workers.beside())
    assert workers.differences(first, workers.itself(first["beside"])) == ""
    (tmp_path / "beside_it.py").write_text("ONE = 2\n")
    assert workers.differences(first, workers.itself(first["beside"])) == "other code in beside_it"
    monkeypatch.delitem(sys.modules, "beside_it")
    (tmp_path / "beside_it.py").unlink()
    importlib.invalidate_caches()
    assert workers.differences(first, workers.itself(first["beside"])) == "other code in beside_it"
