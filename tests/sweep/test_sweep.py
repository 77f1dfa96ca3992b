"""A sweep is what single runs are, whatever the batching; and it says what it refuses, drops and saves."""

from __future__ import annotations

import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import LABELS, TASK, assert_close, batch, forward, network

from jaxtl import checkpoints
from jaxtl.errors import InputError, Interrupted, NotFinite
from jaxtl.labels import NEW, TRANSFERRED
from jaxtl.loop import request_stop, stop_request
from jaxtl.losses import make_loss_fn
from jaxtl.optimizers import Group, per_label
from jaxtl.penalties import Term, l2, labelled
from jaxtl.step import Context, Fixed, compile_step, init_state, make_epoch, make_train_step, program_of, total_gradient
from jaxtl.sweep import sweep
from jaxtl.sweep.batching import BATCHINGS, Blocks, _measured, common

STEPS = 5
PENALTY = labelled(LABELS, {TRANSFERRED: Term(0.0, l2, ("anchor",)), NEW: Term(0.0, l2)})
LOSS = make_loss_fn(forward, TASK, PENALTY)
TX = per_label(LABELS, {TRANSFERRED: Group(0.1), NEW: Group(0.1)}, momentum=0.9)
DATA, GIVEN = batch(), {"anchor": network(0.3)}


def noisy(data, rng, step):
    """A batch that depends on the run's key and on the step."""
    return {**data, "image": data["image"] + 0.1 * jax.random.normal(rng, data["image"].shape) * (1 + step % 2)}


STEP = make_train_step(total_gradient(LOSS), TX, noisy)
EPOCH = make_epoch(STEP, STEPS)
PARAMS = network()


def init(point):
    """The rates of a point, and its state: a seed, if there is one, is its key."""
    rates = {name: value for name, value in point.items() if name != "seed"}
    return init_state(PARAMS, TX, jax.random.key(point.get("seed", 0))), rates


def score(state, data, fixed):
    """Minus the loss on the training images."""
    ctx = Context(state.step, state.rng, fixed.rates, fixed.given, train=False)
    return -LOSS(state.params, {}, data, ctx)[1][0]["task"]


def grid_of(size, seeds=True):
    """A grid of rates, with a seed a row if wished."""
    rates = {
        "penalty/transferred": np.geomspace(0.01, 2.0, size),
        "penalty/new": np.linspace(0.0, 1.0, size) ** 2,
        "learning_rate/new": np.linspace(0.3, 0.02, size),
    }
    return rates | ({"seed": np.arange(size)} if seeds else {})


@pytest.fixture(scope="module")
def single():
    """{(seeds, steps): (scores, params)} of seven configurations, each trained alone, a step at a time."""
    run, results = compile_step(STEP), {}
    for seeds in (True, False):
        for k in range(7):
            point = {name: jnp.asarray(column[k], jnp.float32) for name, column in grid_of(7, seeds).items()}
            rates = {name: value for name, value in point.items() if name != "seed"}
            state = init_state(PARAMS, TX, jax.random.key(k if seeds else 0))
            for steps in range(1, 3 * STEPS + 1):
                state, _ = run(state, DATA, Fixed(rates, GIVEN))
                if steps % STEPS == 0:
                    scores, params = results.setdefault((seeds, steps), ([], []))
                    scores.append(float(score(state, DATA, Fixed(rates, GIVEN))))
                    params.append(jax.device_get(state.params))
    return results


@pytest.fixture
def blocks_run(monkeypatch):
    """How far the sweep was before each block that it ran."""
    seen, run = [], Blocks.run

    def spy(self, choice, states, configurations, done):
        after = run(self, choice, states, configurations, done)
        seen.append(done)
        return after

    monkeypatch.setattr(Blocks, "run", spy)
    return seen


@pytest.fixture
def stopping(monkeypatch, blocks_run):
    """Ask for a stop after as many blocks as are put in."""
    run, after = Blocks.run, []

    def spy(*args):
        result = run(*args)
        if len(blocks_run) in after:
            request_stop(signal.SIGTERM)
        return result

    monkeypatch.setattr(Blocks, "run", spy)
    yield after
    stop_request.signal_number = None


@pytest.mark.parametrize(
    ("batching", "memory", "seeds", "blocks"),
    [
        ("vmap", None, True, 1),
        ("vmap", None, False, 1),
        ("vmap", 5000, True, 2),
        ("map", 5000, True, 2),
        ("loop", None, True, 4),
    ],
)
def test_it_is_a_loop_of_single_runs(single, blocks_run, batching, memory, seeds, blocks):
    result = sweep(init, EPOCH, score, grid_of(7, seeds), DATA, GIVEN, batching=batching, memory=memory)
    scores, params = single[seeds, STEPS]
    assert len(blocks_run) == blocks
    np.testing.assert_allclose(result.scores, scores, rtol=1e-5)
    assert result.alive.tolist() == list(range(7))
    assert result.best == np.argmax(scores)
    assert (result.batching, result.saved) == (batching, 0)
    for k in range(7):
        assert_close(result.state(k).params, params[k], rtol=1e-5)
        assert int(result.state(k).step) == STEPS


def test_a_bare_step_called_often_is_an_epoch(single):
    result = sweep(init, STEP, score, grid_of(7), DATA, GIVEN, calls=STEPS, batching="loop")
    np.testing.assert_allclose(result.scores, single[True, STEPS][0], rtol=1e-5)


@pytest.mark.parametrize("batching", BATCHINGS)
def test_other_values_are_no_other_program(batching):
    traces = []

    def train(state, data, fixed):
        traces.append(batching)
        return EPOCH(state, data, fixed)

    first = sweep(init, train, score, grid_of(7), DATA, GIVEN, batching=batching)
    other = {name: column[::-1] for name, column in grid_of(7).items()}
    second = sweep(init, train, score, other, DATA, GIVEN, batching=batching)
    assert len(traces) == 1
    np.testing.assert_allclose(second.scores, first.scores[::-1], rtol=1e-5)


def test_the_batch_is_shared_by_configurations_with_one_key():
    def states(seeds):
        columns = {name: jnp.asarray(column) for name, column in grid_of(3, seeds).items()}
        return jax.vmap(init)(columns)[0]

    assert common(states(seeds=False)) == ("rng", "step")
    assert common(states(seeds=True)) == ("step",)


def test_rungs_keep_the_best(single):
    result = sweep(init, EPOCH, score, grid_of(7), DATA, GIVEN, rungs=3, keep=0.5, batching="vmap")
    by_rung = [np.array(single[True, rung * STEPS][0]) for rung in (1, 2, 3)]
    second = np.sort(np.argsort(-by_rung[0])[:3])
    third = second[np.argsort(-by_rung[1][second])[:1]]
    expected = by_rung[0].copy()
    expected[second] = by_rung[1][second]
    expected[third] = by_rung[2][third]
    np.testing.assert_allclose(result.scores, expected, rtol=1e-5)
    assert result.alive.tolist() == third.tolist() == [result.best]
    assert_close(result.state(result.best).params, single[True, 3 * STEPS][1][result.best], rtol=1e-5)
    assert result.saved == pytest.approx(1 - 11 / 21)
    assert str(result) == "7 configurations by vmap; 1 ran to the end, 48% of the training saved"
    with pytest.raises(InputError, match="did not run to the end"):
        result.state((result.best + 1) % 7)


def test_blocks_lie_on_all_devices():
    states, rates = jax.jit(jax.vmap(init))({name: jnp.asarray(column) for name, column in grid_of(7).items()})
    blocks = Blocks(EPOCH, score, 1, DATA, GIVEN, jax.device_get(rates), common(states), None)
    choice = blocks.choose("vmap", states, np.arange(7))
    assert (choice.width, len(blocks.devices)) == (4, 2)
    block, _, fixed = blocks._block(False, states, np.arange(7), 0, choice.width)
    for leaf in jax.tree.leaves((block, fixed.rates)):
        assert len(leaf.sharding.device_set) == 2
        assert leaf.addressable_shards[0].data.shape[0] == 4


def test_the_memory_counts_what_training_needs_beside_the_state(blocks_run):
    def sorting(state, data, fixed):  # 200 kB that the state does not show
        numbers = jnp.sort(state.params["head"]["bias"][0] + jax.random.normal(state.rng, (50_000,)))
        return state._replace(params=jax.tree.map(lambda leaf: leaf + numbers[0], state.params)), None

    grid = {"seed": np.arange(8)}
    results = [
        sweep(init, sorting, score, grid, DATA, {"anchor": PARAMS}, batching="vmap", memory=m) for m in (10**7, 10**6)
    ]
    assert blocks_run[0] == 0
    assert len(blocks_run) > 2
    np.testing.assert_allclose(results[0].scores, results[1].scores, rtol=1e-5)


@pytest.fixture
def nothing_measured():
    """ "auto" remembers what it measured in this process."""
    _measured.cache_clear()
    yield
    _measured.cache_clear()


def test_auto_takes_the_fastest_and_says_so(monkeypatch, single, nothing_measured):
    seconds = {"loop": 4.0, "map": 1.0, "vmap": 8.0}

    def of_a_block(self, batching, width, states, configurations):
        return seconds[batching] * min(width * len(self.devices), len(configurations))

    monkeypatch.setattr(Blocks, "_seconds", of_a_block)
    result = sweep(init, EPOCH, score, grid_of(7), DATA, GIVEN)
    assert result.batching == "map"
    assert result.seconds == seconds
    assert str(result) == "7 configurations by map (measured speed: 4× loop and 8× vmap)"
    np.testing.assert_allclose(result.scores, single[True, STEPS][0], rtol=1e-5)


def test_auto_measures_once(single, nothing_measured, monkeypatch):
    result = sweep(init, EPOCH, score, grid_of(7), DATA, GIVEN)
    assert result.seconds.keys() == set(BATCHINGS)
    assert all(0 < seconds < 60 for seconds in result.seconds.values())
    assert result.batching == min(result.seconds, key=result.seconds.get)
    np.testing.assert_allclose(result.scores, single[True, STEPS][0], rtol=1e-5)
    assert sweep(init, EPOCH, score, grid_of(1), DATA, GIVEN).batching == "loop"
    monkeypatch.setattr(Blocks, "_seconds", lambda *_: pytest.fail("measured again"))
    assert sweep(init, EPOCH, score, grid_of(7), DATA, GIVEN).seconds == result.seconds


HOW = {"rungs": 2, "keep": 0.5, "batching": "vmap", "memory": 5000}  # two blocks, then one


@pytest.mark.parametrize("blocks", [1, 2])
def test_an_interrupted_sweep_goes_on(tmp_path, blocks_run, stopping, blocks):
    whole = sweep(init, EPOCH, score, grid_of(7), DATA, GIVEN, **HOW)
    assert blocks_run == [0, 4, 0]
    blocks_run.clear()
    stopping.append(blocks)
    with pytest.raises(Interrupted, match="stopped with"):
        sweep(init, EPOCH, score, grid_of(7), DATA, GIVEN, **HOW, workdir=tmp_path)
    assert len(blocks_run) == blocks
    stop_request.signal_number = None
    resumed = sweep(init, EPOCH, score, grid_of(7), DATA, GIVEN, **HOW, workdir=tmp_path)
    assert blocks_run == [0, 4, 0]
    np.testing.assert_array_equal(resumed.scores, whole.scores)
    assert resumed.alive.tolist() == whole.alive.tolist()
    assert_close(resumed.states.params, whole.states.params, rtol=0, atol=0)
    again = sweep(init, EPOCH, score, grid_of(7), DATA, GIVEN, **HOW, workdir=tmp_path)
    assert len(blocks_run) == 3
    np.testing.assert_array_equal(again.scores, whole.scores)
    assert not checkpoints.is_owned(tmp_path)


def test_another_sweep_is_not_gone_on_with(tmp_path):
    sweep(init, EPOCH, score, grid_of(3), DATA, GIVEN, batching="loop", workdir=tmp_path)
    with pytest.raises(InputError, match="holds work with another grid"):
        sweep(init, EPOCH, score, grid_of(4), DATA, GIVEN, batching="loop", workdir=tmp_path)
    with pytest.raises(InputError, match="holds work with another batching"):
        sweep(init, EPOCH, score, grid_of(3), DATA, GIVEN, batching="map", workdir=tmp_path)


def test_on_the_only_device_a_loop_runs_the_program_of_single_runs(monkeypatch, single):
    monkeypatch.setattr("jax.local_devices", lambda: jax.devices()[:1])
    run = program_of(STEP)
    run(
        init_state(PARAMS, TX, jax.random.key(0)),
        DATA,
        Fixed({name: np.float32(0.1) for name in grid_of(1, seeds=False)}, GIVEN),
    )
    before = run._cache_size()
    result = sweep(init, STEP, score, grid_of(7), DATA, GIVEN, calls=STEPS, batching="loop")
    assert run._cache_size() == before
    scores, params = single[True, STEPS]
    np.testing.assert_allclose(result.scores, scores, rtol=1e-5)
    for k in range(7):
        assert_close(result.state(k).params, params[k], rtol=0, atol=0)


def from_trees(point):
    """The state of a point that brings its parameters and its key."""
    return init_state(point["start"], TX, point["key"]), {"penalty/new": point["rate"]}


def trees_of(size):
    start = jax.tree.map(lambda leaf: jnp.stack([(1 + k / 10) * leaf for k in range(size)]), PARAMS)
    return {"start": start, "key": jax.random.split(jax.random.key(4), size), "rate": np.linspace(0.0, 0.5, size)}


@pytest.mark.parametrize("batching", ["vmap", "loop"])
def test_a_column_may_hold_the_parameters_to_start_from_and_keys(batching):
    grid = trees_of(3)
    result = sweep(from_trees, EPOCH, score, grid, DATA, GIVEN, batching=batching)
    for k in range(3):
        state = init_state(jax.tree.map(lambda leaf, k=k: leaf[k], grid["start"]), TX, grid["key"][k])
        for _ in range(STEPS):
            state, _ = compile_step(STEP)(state, DATA, Fixed({"penalty/new": np.float32(grid["rate"][k])}, GIVEN))
        assert_close(result.state(k).params, state.params, rtol=1e-4, atol=1e-5)


def test_another_tree_to_start_from_is_another_sweep(tmp_path):
    sweep(from_trees, EPOCH, score, trees_of(2), DATA, GIVEN, batching="loop", workdir=tmp_path)
    other = trees_of(2) | {"start": jax.tree.map(lambda leaf: leaf + 1e-6, trees_of(2)["start"])}
    with pytest.raises(InputError, match="holds work with another grid"):
        sweep(from_trees, EPOCH, score, other, DATA, GIVEN, batching="loop", workdir=tmp_path)


def test_what_diverges_ranks_last_and_is_told():
    def accuracy(state, data, fixed):  # finite whatever the logits
        return jnp.mean(forward(state.params, {}, data, None)[0]["head"].argmax(-1) == data["label"])

    grid = grid_of(7) | {"learning_rate/new": np.array([3e38, 0.1, 0.1, 3e38, 0.1, 3e38, 0.1])}
    result = sweep(init, EPOCH, accuracy, grid, DATA, GIVEN, rungs=2, keep=0.6, batching="vmap")
    assert result.diverged.tolist() == [0, 3, 5]
    assert np.all(result.scores[result.diverged] == -np.inf)
    assert result.alive.tolist() == [1, 2, 4, 6]
    assert str(result).endswith("; 3 diverged: 0, 3, 5")
    grid["learning_rate/new"] = np.full(7, 3e38)
    with pytest.raises(NotFinite, match="rung 1: no configuration has a finite score"):
        sweep(init, EPOCH, accuracy, grid, DATA, GIVEN, batching="vmap")


GRID = grid_of(3)


@pytest.mark.parametrize(
    ("grid", "options", "told"),
    [
        ({}, {}, "sweep grid: has no columns"),
        (GRID | {"seed": [1, 2]}, {}, "sweep grid: lengths differ: .*'seed': 2"),
        (GRID | {"start": {"a": {"b": np.ones((2, 3))}}}, {}, "sweep grid: lengths differ: .*'start/a/b': 2"),
        ({"start": {"a": np.float32(1)}}, {}, "sweep grid: lengths differ: .*'start/a': 'none'"),
        ({"seed": []}, {}, r"grid\['seed'\]: float64\[0\] is no list of numbers"),
        ({"seed": ["a", "b"]}, {}, r"grid\['seed'\]: <U1\[2\] is no list"),
        ({"seed": 3}, {}, r"grid\['seed'\]: int64\[\] is no list"),
        (GRID | {"penalty/new": [0, 1, np.nan]}, {}, r"grid\['penalty/new'\]: nan is not finite"),
        (GRID | {"penalty/new": [0, 1, 1e39]}, {}, r"grid\['penalty/new'\]: 1e\+39 is not finite or too large"),
        (GRID | {"seed": [0, 1, 2**40]}, {}, r"grid\['seed'\]: 1099511627776 is not"),
        (GRID | {"penalty/new": [0, -1, 1]}, {}, r"rates\['penalty/new'\]: -1.0 of configuration 1 is negative"),
        (GRID | {"penalty/nwe": [0, 1, 2]}, {}, r"rates\['penalty/nwe'\]: nobody reads this rate\n.*penalty/new"),
        (GRID, {"keep": 0}, r"sweep keep: 0 is outside \(0, 1\]"),
        (GRID, {"keep": 1.5, "rungs": 2}, "sweep keep: 1.5 is outside"),
        (GRID, {"keep": 0.5}, "sweep keep=0.5: acts between rungs"),
        (GRID, {"rungs": 0}, "sweep rungs: 0 is less than 1"),
        (GRID, {"calls": 0}, "sweep calls: 0"),
        (GRID, {"memory": 0}, "sweep memory: 0"),
        (GRID, {"batching": "vmpa"}, "sweep batching: unknown: 'vmpa'\n  did you mean 'vmap'"),
    ],
)
def test_bad_input_is_refused(grid, options, told):
    with pytest.raises(InputError, match=told):
        sweep(init, EPOCH, score, grid, DATA, GIVEN, **{"batching": "vmap"} | options)


def test_a_column_that_init_does_not_read_is_refused():
    def deaf(point):
        return init_state(PARAMS, TX, jax.random.key(0)), {"penalty/new": point["penalty/new"]}

    with pytest.raises(InputError, match=r"grid\['seed'\]: init does not read it"):
        sweep(deaf, EPOCH, score, {"penalty/new": [0.1, 0.2], "seed": [1, 2]}, DATA, GIVEN)


def test_a_score_is_a_scalar():
    with pytest.raises(InputError, match=r"sweep score: has shape \(3,\)"):
        sweep(init, EPOCH, lambda state, *_: state.params["head"]["bias"], GRID, DATA, GIVEN, batching="loop")
