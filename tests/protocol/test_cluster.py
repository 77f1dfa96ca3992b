"""Units on real workers: a scheduler and three processes on this machine, some of which do not survive."""

from __future__ import annotations

import itertools
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxtl as tl
from jaxtl.cluster import Place
from jaxtl.cluster.pool import joined
from jaxtl.errors import InputError
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


def kept(runs):
    """All that a run says but how long it took."""
    return [replace(run, seconds=0.0) for run in runs]


def slowly(unit):
    """(unit, the process that made it), after a while."""
    time.sleep(0.1)
    return unit, os.getpid()


@pytest.fixture(scope="module")
def cluster():
    with Place.of("local:3").start() as cluster:
        yield cluster


@pytest.fixture
def place(cluster):
    return Place.of(cluster.scheduler_address)


@pytest.fixture
def pool(place):
    with joined(place) as pool:
        yield pool


def test_a_study_on_workers_is_that_of_one_process_bit_for_bit(pool, tmp_path):
    here = study(Rows(), recipes(), tmp_path / "here", [("l2", "plain")])
    with using(pool):
        there = study(Rows(), recipes(), tmp_path / "there", [("l2", "plain")])
    assert kept(there.runs) == kept(here.runs)
    assert there.contrasts == here.contrasts
    for one, other in zip(here.runs, there.runs, strict=True):
        for name, array in here.arrays(one).items():
            np.testing.assert_array_equal(there.arrays(other)[name], array, strict=True)


def test_a_worker_is_killed_in_the_middle(pool):
    made = each_made(slowly, range(30), pool)
    first, pid = next(made)[1]
    os.kill(pid, signal.SIGKILL)
    rest = [result for _, result in made]
    assert sorted([first, *(unit for unit, _ in rest)]) == list(range(30))
    assert len({pid for _, pid in rest}) >= 2


def test_one_that_joins_later_is_given_units(cluster, pool):
    before = {pid for _, (_, pid) in itertools.islice(each_made(slowly, itertools.count(), pool), 20)}
    made, deadline = each_made(slowly, itertools.count(), pool), time.monotonic() + 100
    cluster.scale(4)
    try:
        assert any(pid not in before for _, (_, pid) in made if time.monotonic() < deadline or pytest.fail("in vain"))
    finally:
        made.close()
        cluster.scale(3)
