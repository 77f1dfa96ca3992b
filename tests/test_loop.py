"""`fit`: history, resuming bit for bit, stopping, refusing."""

import fcntl
import json
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtl import checkpoints, loop
from jaxtl.data.sampling import epoch_batch
from jaxtl.errors import InputError, Interrupted, NotFinite
from jaxtl.labels import NEW, TRANSFERRED, everything, label_params
from jaxtl.loop import fit
from jaxtl.losses import make_loss_fn, mean_of, softmax_cross_entropy
from jaxtl.optimizers import Group, per_label
from jaxtl.penalties import Term, l2, labelled
from jaxtl.step import Fixed, compile_step, init_state, make_train_step, program_of, total_gradient
from jaxtl.writers import Writer

KEY = jax.random.key(0)
DATA = {"x": jax.random.normal(KEY, (20, 4)), "label": jnp.arange(20) % 3}
PARAMS = {"trunk": {"kernel": jax.random.normal(KEY, (4, 8))}, "head": {"kernel": jnp.ones((8, 3)) * 0.1}}
LABELS = label_params(PARAMS, [("head/.*", NEW), (".*", TRANSFERRED)])


def forward(params, model_state, batch, ctx):
    noise = jax.random.bernoulli(ctx.rng, 0.9, (8,)) if ctx.train else jnp.ones(8)
    hidden = jnp.tanh(batch["x"] @ params["trunk"]["kernel"]) * noise[None]
    seen = {"average": 0.9 * model_state["average"] + 0.1 * jnp.mean(hidden)}
    return {"head": hidden @ params["head"]["kernel"]}, seen


def sample(data, rng, step):
    """Augmented examples in the order of epochs, which end within a batch."""
    index = epoch_batch(KEY, step, batch_size=6, size=20)
    return {"x": data["x"][index] + 0.1 * jax.random.normal(rng, (6, 4)), "label": data["label"][index]}


PENALTY = labelled(LABELS, {NEW: Term(0.01, l2), TRANSFERRED: {"zero": Term(0.0, l2, on=everything)}})
TX = per_label(
    LABELS,
    {NEW: Group(0.1), TRANSFERRED: Group(0.05)},
    "adam",
    schedule=optax.cosine_decay_schedule(1.0, 12),
)
STEP = make_train_step(
    total_gradient(make_loss_fn(forward, {"task": Term(1.0, mean_of(softmax_cross_entropy))}, PENALTY)), TX, sample
)


def start():
    return init_state(PARAMS, TX, KEY, {"average": jnp.float32(0)})


def norm(state):
    return {"norm": float(jnp.sum(state.params["head"]["kernel"] ** 2))}


def assert_identical(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(*(_plain(v) for v in (x, y))), a, b)


def _plain(leaf):
    return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf


@pytest.fixture(autouse=True)
def _no_stop_is_left_over():
    yield
    loop.stop_request.signal_number = None


@pytest.fixture
def stop_after(monkeypatch):
    """Ask for a stop once k chunks have run, as a signal would while the next one runs."""

    def arrange(chunks):
        calls = []
        program = loop.program_of

        def counting(step, chunk, mesh):
            run = program(step, chunk, mesh)

            def counted(*args):
                calls.append(chunk)
                if len(calls) == chunks:
                    loop.request_stop(signal.SIGTERM)
                return run(*args)

            return counted

        monkeypatch.setattr(loop, "program_of", counting)

    return arrange


def test_a_row_holds_the_mean_of_its_steps_and_evaluates_its_last_state():
    state, history = fit(STEP, start(), DATA, Fixed(), steps=6, every=3, evaluate=norm)
    single, losses = start(), []
    run = compile_step(STEP)
    for _ in range(6):
        single, metrics = run(single, DATA, Fixed())
        losses.append(float(metrics["loss"]))
    assert [row["step"] for row in history] == [3, 6]
    assert history[0]["loss"] == pytest.approx(np.mean(losses[:3]), rel=1e-6)
    assert history[1]["loss"] == pytest.approx(np.mean(losses[3:]), rel=1e-6)
    assert history[1]["norm"] == norm(state)["norm"]
    assert int(state.step) == 6


@pytest.mark.parametrize("chunk", [1, 3])
def test_a_run_stopped_at_any_chunk_resumes_bit_for_bit(chunk, tmp_path, stop_after, monkeypatch):
    how = {"steps": 12, "chunk": chunk, "every": 6, "evaluate": norm}
    with Writer(tmp_path / "whole", tensorboard=False) as log:
        whole, whole_history = fit(STEP, start(), DATA, Fixed(), **how, workdir=tmp_path / "whole", log=log)
    for chunks in range(1, 12 // chunk):
        workdir = tmp_path / str(chunks)
        with Writer(workdir, tensorboard=False) as log:
            stop_after(chunks)
            with pytest.raises(Interrupted, match=f"stopped at step {chunks * chunk} of 12") as stopped:
                fit(STEP, start(), DATA, Fixed(), **how, workdir=workdir, log=log)
            assert stopped.value.exit_code == 143
            monkeypatch.undo()
            loop.stop_request.signal_number = None
            assert checkpoints.latest_step(workdir) == chunks * chunk
            state, history = fit(STEP, start(), DATA, Fixed(), **how, workdir=workdir, log=log)
        assert_identical(state, whole)
        assert history == whole_history
        assert (workdir / "metrics.jsonl").read_text() == (tmp_path / "whole/metrics.jsonl").read_text()


def test_a_killed_run_goes_on_from_its_last_checkpoint_and_no_line_stands_twice(tmp_path, monkeypatch):
    how = {"steps": 9, "every": 3}
    whole, whole_history = fit(STEP, start(), DATA, Fixed(), **how)
    saved = []

    def save_twice_then_die(workdir, state, meta):
        if len(saved) == 2:
            raise KeyboardInterrupt
        saved.append(save(workdir, state, meta))

    save = checkpoints.save
    monkeypatch.setattr(checkpoints, "save", save_twice_then_die)
    with Writer(tmp_path, tensorboard=False) as log:
        with pytest.raises(KeyboardInterrupt):
            fit(STEP, start(), DATA, Fixed(), **how, workdir=tmp_path, log=log)
        monkeypatch.undo()
        state, history = fit(STEP, start(), DATA, Fixed(), **how, workdir=tmp_path, log=log)
    assert_identical(state, whole)
    assert history == whole_history
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert steps == [3, 6, 9]


def test_a_run_whose_newest_checkpoint_is_damaged_goes_on_from_the_one_before(tmp_path, stop_after, monkeypatch):
    how = {"steps": 12, "every": 3, "evaluate": norm}
    with Writer(tmp_path / "whole", tensorboard=False) as log:
        whole, whole_history = fit(STEP, start(), DATA, Fixed(), **how, workdir=tmp_path / "whole", log=log)
    with Writer(tmp_path / "run", tensorboard=False) as log:
        stop_after(9)
        with pytest.raises(Interrupted):
            fit(STEP, start(), DATA, Fixed(), **how, workdir=tmp_path / "run", log=log)
        monkeypatch.undo()
        loop.stop_request.signal_number = None
        (tmp_path / "run/checkpoints/9/manifest.json").write_bytes(b"")
        state, history = fit(STEP, start(), DATA, Fixed(), **how, workdir=tmp_path / "run", log=log)
    assert_identical(state, whole)
    assert history == whole_history
    assert (tmp_path / "run/metrics.jsonl").read_text() == (tmp_path / "whole/metrics.jsonl").read_text()
    assert (tmp_path / "run/checkpoints/9.corrupt").exists()


def test_work_that_has_nothing_to_save_ends_at_the_next_sign_of_progress():
    with loop.StoppableProgress(3, "fetching") as display:
        display.advance()
        loop.request_stop(signal.SIGINT)
        with pytest.raises(Interrupted, match="stopped before there was anything to save"):
            display.advance(0)


def test_a_finished_run_is_not_run_again(tmp_path):
    first, history = fit(STEP, start(), DATA, Fixed(), steps=4, workdir=tmp_path)
    again, same = fit(STEP, start(), DATA, Fixed(), steps=4, workdir=tmp_path)
    assert_identical(first, again)
    assert same == history


def test_best_returns_the_state_with_the_highest_figure_also_after_a_resume(tmp_path, stop_after, monkeypatch):
    figures = {2: 0.1, 4: 0.9, 6: 0.9, 8: 0.3}
    how = {"steps": 8, "every": 2, "evaluate": lambda s: {"score": figures[int(s.step)]}, "best": "score"}
    at_four, _ = fit(STEP, start(), DATA, Fixed(), steps=4, every=2)
    best, _ = fit(STEP, start(), DATA, Fixed(), **how)
    assert_identical(best, at_four)
    stop_after(6)
    with pytest.raises(Interrupted):
        fit(STEP, start(), DATA, Fixed(), **how, workdir=tmp_path)
    monkeypatch.undo()
    loop.stop_request.signal_number = None
    resumed, _ = fit(STEP, start(), DATA, Fixed(), **how, workdir=tmp_path)
    assert_identical(resumed, at_four)


def test_all_fits_of_one_step_share_one_program_whatever_the_rates():
    fit(STEP, start(), DATA, Fixed({"penalty/new": 0.5}), steps=2)
    before = program_of(STEP, 1)._cache_size()
    for rate in (0, 1.0, np.float64(0.1), jnp.float32(2.0)):
        fit(STEP, start(), DATA, Fixed({"penalty/new": rate}), steps=2)
    assert program_of(STEP, 1)._cache_size() == before


def test_a_loss_that_is_not_finite_names_the_step_and_leaves_the_last_checkpoint(tmp_path):
    def explode(data, rng, step):
        batch = sample(data, rng, step)
        return {**batch, "x": jnp.where(step == 4, jnp.inf, 1.0) * batch["x"]}

    loss_fn = make_loss_fn(forward, {"task": Term(1.0, mean_of(softmax_cross_entropy))})
    step = make_train_step(total_gradient(loss_fn), TX, explode)
    with pytest.raises(NotFinite, match=r"step 4: the loss is nan; the step before it was [0-9.]+; f") as stopped:
        fit(step, start(), DATA, Fixed(), steps=8, every=2, workdir=tmp_path)
    assert stopped.value.exit_code == 3
    assert checkpoints.latest_step(tmp_path) == 4
    with pytest.raises(NotFinite) as again:  # from the checkpoint, which knows the loss before it
        fit(step, start(), DATA, Fixed(), steps=8, every=2, workdir=tmp_path)
    assert str(again.value) == str(stopped.value)
    assert np.all(np.isfinite(checkpoints.restore(tmp_path, start()).params["head"]["kernel"]))


def bent(at):
    """A step whose gradient fails for the head alone at one step, while the loss is finite: √x has no slope at 0."""

    def prepare(data, rng, step):
        return {**sample(data, rng, step), "factor": jnp.where(step == at, 0.0, 1.0)}

    def reach(params, model_state, batch, ctx):
        outputs, model_state = forward(params, model_state, batch, ctx)
        return {**outputs, "norm": jnp.sqrt(batch["factor"] * jnp.sum(params["head"]["kernel"] ** 2))}, model_state

    terms = {
        "task": Term(1.0, mean_of(softmax_cross_entropy)),
        "norm": Term(0.1, lambda outputs, batch, ctx: outputs["norm"]),
    }
    return make_train_step(total_gradient(make_loss_fn(reach, terms)), TX, prepare)


@pytest.mark.parametrize("chunk", [1, 3])
def test_the_parameters_that_went_first_are_named(tmp_path, chunk):
    said = r"step 5: the loss is nan; the step before it was [0-9.]+; first to go, in step 4: head/kernel\n"
    for _ in range(2):  # the same command meets the same end
        with pytest.raises(NotFinite, match=said) as stopped:
            fit(bent(4), start(), DATA, Fixed(), steps=12, chunk=chunk, every=6, workdir=tmp_path)
        assert len(str(stopped.value).splitlines()) == 2
        assert checkpoints.latest_step(tmp_path) == 0


@pytest.mark.parametrize("at", [3, 7])
def test_a_gradient_that_fails_in_the_last_step_before_a_save_is_not_saved(tmp_path, at):
    said = rf"step {at}: the loss is [0-9.]+, and head/kernel not finite; first to go, in step {at}: head/kernel\n"
    with pytest.raises(NotFinite, match=said):
        fit(bent(at), start(), DATA, Fixed(), steps=8, every=4, workdir=tmp_path)
    assert checkpoints.latest_step(tmp_path) == at - 3
    with pytest.raises(NotFinite, match=rf"step {at}: the loss is [0-9.]+, and head/kernel not finite\n"):
        fit(bent(at), start(), DATA, Fixed(), steps=8, every=4)


def test_a_workdir_that_another_process_uses_is_refused(tmp_path):
    with open(tmp_path / ".lock", "a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="in use by process"):
            fit(STEP, start(), DATA, Fixed(), steps=2, workdir=tmp_path)
    with checkpoints.own(tmp_path):  # as `cli` does
        fit(STEP, start(), DATA, Fixed(), steps=2, workdir=tmp_path)
    fit(STEP, start(), DATA, Fixed(), steps=4, workdir=tmp_path)


def test_what_cannot_be_saved_is_told_before_the_first_step(tmp_path, monkeypatch):
    def run(*_):
        raise AssertionError("a step ran")

    monkeypatch.setattr(loop, "program_of", lambda *_: run)
    (tmp_path / "checkpoints").touch()
    with pytest.raises(InputError, match="step 0 could not be saved"):
        fit(STEP, start(), DATA, Fixed(), steps=2, workdir=tmp_path)


@pytest.mark.parametrize(
    ("rates", "message"),
    [
        ({"penalty/new": -1.0}, "penalty/new.*negative"),
        ({"learning_rate/new": float("nan")}, "learning_rate/new.*NaN"),
        ({"penalty/nwe": 1.0}, "penalty/nwe.*\n.*did you mean 'penalty/new'"),
        ({"decay/new": 0.1}, "label 'new': has a penalty in the loss .0.01. and decays"),
        ({"decay/transferred": 0.1, "penalty/transferred/zero": 0.2}, "label 'transferred': has a penalty"),
    ],
)
def test_rates_that_cannot_be_meant_are_refused_before_the_first_step(rates, message):
    with pytest.raises(InputError, match=message):
        fit(STEP, start(), DATA, Fixed(rates), steps=2)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"steps": 0}, "steps: 0 is less than 1"),
        ({"steps": 10, "chunk": 4}, "steps: 10 is not a multiple of chunk=4"),
        ({"steps": 8, "chunk": 4, "every": 2}, "every: 2 is not a multiple"),
        ({"steps": 2, "best": "score"}, "evaluate returns no 'score'"),
    ],
)
def test_lengths_that_do_not_fit_are_refused(how, message):
    with pytest.raises(InputError, match=message):
        fit(STEP, start(), DATA, Fixed(), **how)


def test_a_state_beyond_the_end_is_refused():
    state, _ = fit(STEP, start(), DATA, Fixed(), steps=3)
    with pytest.raises(InputError, match="at step 3 already"):
        fit(STEP, state, DATA, Fixed(), steps=2)


@pytest.mark.parametrize("chunk", [1, 4])
def test_a_display_shows_no_loss_before_there_is_one(chunk, monkeypatch):
    shown = []

    class Recorder(loop.Progress):
        def advance(self, n=1, **values):
            shown.append(values.get("loss"))
            super().advance(n, **values)

    monkeypatch.setattr(loop, "Progress", Recorder)
    fit(STEP, start(), DATA, Fixed(), steps=8, chunk=chunk, progress="training")
    assert shown[0] is None
    assert shown[-1] is not None
    assert all(np.isfinite(loss) for loss in shown[1:])
    assert len(shown) == 8 // chunk
    shown.clear()
    fit(STEP, start(), DATA, Fixed(), steps=8, chunk=8, progress="training")  # one row, one line
    assert len(shown) == 1
    assert shown[0] is not None


@pytest.mark.parametrize(
    ("scale", "told"),
    [
        (lambda step: jnp.where(step < 2, -1.0, jnp.nan), "a loss below 0 may fall without end"),
        (lambda step: jnp.where(step < 2, 1.0, jnp.nan), "lower the learning rate, pass clip_norm"),
        (lambda step: jnp.nan, "no step has trained anything yet: look for labels outside"),
    ],
)
def test_the_advice_fits_the_loss_that_was_lost(scale, told):
    terms = {"task": Term(1.0, lambda outputs, batch, ctx: scale(ctx.step) * jnp.sum(outputs["head"] ** 2))}
    step = make_train_step(total_gradient(make_loss_fn(forward, terms)), TX, sample)
    with pytest.raises(NotFinite, match=told):
        fit(step, start(), DATA, Fixed(), steps=4)
