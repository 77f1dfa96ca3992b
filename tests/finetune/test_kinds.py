"""Numbers and several labels: heads, calibration and intervals against others, and runs from pictures to answers."""

from __future__ import annotations

import csv
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pictures import picture
from scipy.optimize import minimize_scalar
from sklearn.linear_model import LogisticRegression, Ridge, RidgeCV
from sklearn.metrics import f1_score

from jaxtl import files
from jaxtl.cli import commands
from jaxtl.data import from_arrays
from jaxtl.data.labelled import labelled
from jaxtl.data.resized import Resize
from jaxtl.errors import InputError
from jaxtl.finetune import Options, load_finetuned, plan
from jaxtl.finetune.checks import check_kind, names_of
from jaxtl.finetune.inputs import Pixels
from jaxtl.finetune.kinds import KINDS
from jaxtl.finetune.modalities import PICTURES, Begun
from jaxtl.finetune.readings import Reading, half_width
from jaxtl.finetune.trunks import untrained
from jaxtl.finetune.work import Work, kept_outputs
from jaxtl.models import Classifier, Cnn, initialise
from jaxtl.models.pretrained import Pretrained
from jaxtl.protocol import MEASURES, Draw
from jaxtl.selection import heads
from jaxtl.selection.validation import MOST_CALIBRATING, calibrated

# ---------------------------------------------------------------- heads


def problem(n=80, width=6, outputs=3, seed=0):
    """Features, and what is linear in them."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 1, (n, width)).astype(np.float32)
    return x, x @ rng.normal(0, 1, (width, outputs)) + rng.normal(0, 0.8, (n, outputs))


def test_ridge_of_numbers_is_scikit_learns_at_the_rate_that_it_chooses_too():
    x, y = problem(outputs=1)
    head, lam = heads.ridge_numbers(x, y, 1, None, 0)
    theirs = Ridge(lam * len(x)).fit(x, y)
    np.testing.assert_allclose(heads.logits(head, x), theirs.predict(x).reshape(-1, 1), atol=1e-4)
    rates = heads.RIDGE * np.mean(np.square(x - x.mean(axis=0))) * len(x)
    assert lam * len(x) == pytest.approx(RidgeCV(rates).fit(x, y[:, 0]).alpha_, rel=1e-6)


def test_groups_choose_by_what_is_left_of_other_groups():
    rng = np.random.default_rng(0)
    patient = np.repeat(np.arange(12), 6)
    y = rng.normal(0, 1, 12)[patient][:, None]
    x = (rng.normal(0, 1, (12, 30))[patient] + 0.3 * y + rng.normal(0, 0.05, (72, 30))).astype(np.float32)
    fooled, honest = (heads.ridge_numbers(x, y, 1, groups, 0)[1] for groups in (None, patient))
    assert honest > fooled


def test_a_column_that_is_the_same_for_all_is_its_value():
    x, y = problem()
    y[:, 1] = -1.0
    head, _ = heads.ridge_numbers(x, y, 3, None, 0)
    assert (head["kernel"][:, 1] == 0).all()
    assert head["bias"][1] == -1
    alone, _ = heads.ridge_numbers(x[:, :2], y[:, 1:2], 1, None, 0)
    assert alone["bias"].tolist() == [-1]
    np.testing.assert_allclose(head["kernel"][:, ::2], heads.ridge_numbers(x, y[:, ::2], 2, None, 0)[0]["kernel"])


def test_logistic_of_several_labels_is_one_of_scikit_learns_for_each():
    x, y = problem()
    labels = (y > 0.3).astype(np.float32)
    head, lam = heads.logistic_several(x, labels, 3, None, 0)
    odds = 1 / (1 + np.exp(-heads.logits(head, x)))
    for k in range(3):
        # ½ λ (|w₀|² + |w₁|²) with opposite columns is ¼ λ |w|²
        theirs = LogisticRegression(C=2 / (lam * len(x)), max_iter=5000, tol=1e-8).fit(x, labels[:, k])
        assert np.abs(odds[:, k] - theirs.predict_proba(x)[:, 1]).max() < 5e-3


def test_a_label_that_next_to_nobody_has_is_given_its_frequency():
    x, y = problem()
    labels = (y > 0).astype(np.float32)
    labels[:, 1] = 0
    labels[0, 1] = 1
    head, _ = heads.logistic_several(x, labels, 3, None, 0)
    assert (head["kernel"][:, 1] == 0).all()
    assert head["bias"][1] == pytest.approx(np.log(1.5 / 79.5))


def test_ridge_of_several_labels_is_ridge_to_minus_one_and_one():
    x, y = problem()
    labels = (y > 0).astype(np.float32)
    head, lam = heads.ridge_several(x, labels, 3, None, 0)
    theirs = Ridge(lam * len(x)).fit(x, np.where(labels > 0, 1.0, -1.0))
    np.testing.assert_allclose(heads.logits(head, x), theirs.predict(x), atol=1e-4)


# ---------------------------------------------------------------- measures, folds, what outputs mean


def test_macro_f1_of_several_labels_is_scikit_learns():
    rng = np.random.default_rng(0)
    labels, outputs = (rng.random((200, 6)) < 0.3).astype(int), rng.normal(size=(200, 6))
    theirs = f1_score(labels, outputs > 0, average="macro")
    assert MEASURES["macro_f1"].score(labels, outputs) == pytest.approx(theirs)
    labels[:, 2], outputs[:, 2] = 0, -1  # neither true nor said: it does not count, where theirs calls it 0
    theirs = f1_score(labels, outputs > 0, average=None, zero_division=0)
    assert MEASURES["macro_f1"].score(labels, outputs) == pytest.approx(theirs.sum() / 5)


def test_r2_of_all_that_was_left_out_is_the_mean_over_equal_folds():
    labels = np.random.default_rng(0).normal(3, 2, 60).astype(np.float32)
    kind = KINDS["number"]
    own, measure = kind.learned(labels, labels), kind.measure("r2", labels)
    outputs = own + np.random.default_rng(1).normal(0, 0.5, own.shape)
    by_fold = [measure.score(own[k::5], outputs[k::5]) for k in range(5)]
    assert np.mean(by_fold) == pytest.approx(MEASURES["r2"].score(own, outputs), abs=1e-6)
    assert measure.key == "r2"


def test_the_rarest_label_of_each_is_spread_over_the_folds():
    labels = np.zeros((40, 4), int)
    labels[:30, 0], labels[::3, 1], labels[:5, 2], labels[20:25, 3] = 1, 1, 1, 1
    kind = KINDS["several"]
    strata = kind.strata(labels)
    assert (strata[:5] == 2).all()
    assert (strata[20:25] == 3).all()
    assert strata[31] == 4  # none at all
    assert kind.most(labels) == np.bincount(strata)[:4].max()


def test_an_interval_holds_nine_of_ten_as_it_says():
    rng, inside = np.random.default_rng(0), []
    for _ in range(400):
        n, width = 40, 4
        x, beta = rng.normal(size=(n + 50, width)), rng.normal(size=width)
        y = x @ beta + rng.standard_t(4, n + 50)

        def fit(rows, x=x, y=y, width=width):
            return np.linalg.solve(x[rows].T @ x[rows] + np.eye(width), x[rows].T @ y[rows])

        left_out = np.empty(n)
        for fold in range(5):
            out = np.arange(n) % 5 == fold
            left_out[out] = x[:n][out] @ fit(np.flatnonzero(~out))
        half = half_width(y[:n, None], left_out[:, None])
        inside.append(np.mean(np.abs(y[n:] - x[n:] @ fit(np.arange(n))) <= half))
    assert 0.90 <= np.mean(inside) < 0.93
    assert half_width(np.zeros((8, 1)), np.zeros((8, 1))) == np.inf  # so few that nothing can be promised
    assert half_width(np.arange(9.0), np.zeros(9)) == 8


def test_the_temperature_of_several_labels_is_the_likeliest():
    rng = np.random.default_rng(0)
    outputs = rng.normal(0, 3, (2000, 4))
    labels = (rng.random((2000, 4)) < 1 / (1 + np.exp(-outputs / 1.7))).astype(np.float32)
    some = np.linspace(0, 7999, MOST_CALIBRATING).astype(int) if MOST_CALIBRATING < 8000 else slice(None)
    z, y = outputs.reshape(-1)[some], labels.reshape(-1)[some]
    loss = lambda log_t: np.mean(np.logaddexp(0, z * np.exp(-log_t)) - y * z * np.exp(-log_t))  # noqa: E731
    best = np.exp(minimize_scalar(loss, (-1, 2)).x)
    assert KINDS["several"].reading(labels, outputs, labels).temperature == pytest.approx(best, rel=0.01)


def test_so_many_examples_are_calibrated_by_some_of_them():
    logits = np.random.default_rng(0).normal(0, 2, (3 * MOST_CALIBRATING, 3))
    odds = np.exp(logits / 1.5)
    labels = (odds.cumsum(1) / odds.sum(1, keepdims=True) < np.random.default_rng(1).random((len(odds), 1))).sum(1)
    assert calibrated(logits, labels) == pytest.approx(1.5, rel=0.05)


@pytest.mark.parametrize("name", list(KINDS))
def test_what_is_said_is_the_same_under_jit_and_one_by_one(name):
    outputs = jnp.asarray(np.random.default_rng(0).normal(size=(5, 1 if name == "number" else 3)), jnp.float32)
    reading, kind = Reading(1.5, 10.0, 2.0, 3.0), KINDS[name]
    said = kind.said(outputs, reading)
    np.testing.assert_allclose(jax.jit(lambda z: kind.said(z, reading))(outputs), said, rtol=1e-6)
    np.testing.assert_allclose(jax.vmap(lambda z: kind.said(z[None], reading)[0])(outputs), said, rtol=1e-6)
    if name == "number":
        np.testing.assert_allclose(said[:, 0], 10 + 2 * outputs[:, 0], rtol=1e-6)
        np.testing.assert_allclose(said[:, 1:] - said[:, :1], [[-3, 3]] * 5, atol=1e-5)
    else:
        assert ((said > 0) & (said < 1)).all()
        assert (jnp.argmax(said, axis=1) == jnp.argmax(outputs, axis=1)).all()


def test_names_with_a_semicolon_are_told_apart():
    kind = KINDS["several"]
    assert kind.answer(["a", "b", "c"], np.array([0.9, 0.1, 0.5])) == "a;c"
    assert kind.answer(["a;b", "c"], np.array([0.9, 0.8])) == '["a;b", "c"]'
    assert kind.answer(["a", "b"], np.array([0.1, 0.4])) == "[]"


# ---------------------------------------------------------------- fine-tuning


@pytest.fixture(scope="module", params=["number", "several"])
def work(request, tmp_path_factory):
    """Fine-tuning of a small network on pictures whose level is a number, or two labels."""
    model = Cnn((4, 6, 8))
    params = initialise(Classifier(model, ()), jax.random.key(1), (16, 16, 3))["trunk"]
    level = np.full(3, 127.5, np.float32)
    trunk = Pretrained("small", model, params, {}, 16, level, level, "", "", 8, ("a", "b", "c"))
    rng = np.random.default_rng(0)
    levels = rng.uniform(40, 200, (45, 3))
    images = np.clip(levels[:, None, None] + rng.normal(0, 9, (45, 16, 16, 3)), 0, 255).astype(np.uint8)
    labels = 100 + levels[:, 0] if request.param == "number" else (levels[:, :2] > 120).astype(int)
    target = "number" if request.param == "number" else "labels"
    names = () if request.param == "number" else ("red", "green")
    data = labelled(from_arrays(images, labels, target=target, classes=names or None), Resize(16))
    room = tmp_path_factory.mktemp(request.param)
    begun = Begun(trunk, "", data, data.train.images, Pixels(16, level, level))
    features, _ = kept_outputs(room, trunk, begun.inputs, None, begun.prepared_by)
    return Work(Options(data="x"), begun, features, room, PICTURES, KINDS[request.param])


def test_fine_tuning_goes_on_from_its_head_and_learns(work):
    effort = plan.Effort(3, 1, 2, 1, 40)
    name = work.kind.tuned[0]
    bench = work.bench(plan.Plan(effort, 2, (name,), 1.0, ""))
    fitted = bench.fit(name, bench.parts.whole)
    rows = np.arange(len(work.data.train))
    labels = bench.parts.examples.labels
    head = bench.fit(name.partition("_")[0], bench.parts.whole).logits(rows)
    tuned = fitted.logits(rows)
    assert np.isfinite(tuned).all()
    assert work.measure.score(labels, tuned) > 0.7
    assert bench.kind.likelihood(labels, tuned) > bench.kind.likelihood(labels, np.zeros_like(tuned))
    assert not np.allclose(tuned, head)
    model = work.model(fitted, name, Reading(1.0, 5.0, 2.0, 1.0))
    object.__setattr__(model, "module", Classifier(work.trunk.model, (("head", tuned.shape[1]),)))
    np.testing.assert_allclose(model.outputs(work.data.train.images), tuned, atol=2e-4)


def test_a_draw_is_judged_by_examples_it_has_not_seen(work):
    parts = work.parts(plan.HEADS_ALONE)
    left = np.concatenate([parts.of(Draw(fold))[1] for fold in range(parts.folds)])
    assert sorted(left) == list(range(len(work.data.train)))


def test_what_is_too_much_for_logistic_is_told_in_words(work):
    data, many = work.data, np.zeros((200_000, 64), np.float32)
    options = Options(data="x")
    own, tuned, told = names_of(options, work.kind, work.trunk, data, many[:100])
    assert (told, own, tuned) == ("", list(work.kind.heads), list(work.kind.tuned))
    thousand = data._replace(classes=tuple(map(str, range(1000))))
    own, tuned, told = names_of(options, work.kind, work.trunk, thousand, many)
    if work.kind.name == "several":
        assert (own, tuned[0]) == (["ridge"], "ridge_l2_sp")
        assert (
            "no logistic regression on 200,000 examples with 64 features and 1,000 labels: too long for 10min" in told
        )
    else:
        assert (own, told) == (["ridge"], "")
    assert names_of(options, work.kind, untrained(), data, many[:9])[1] == ["scratch"]


# ---------------------------------------------------------------- from pictures to answers

QUICK = ("--trunk=small_cnn", "--size=16", "--methods=ridge")


def of_numbers(room, count, seed=0):
    """Pictures that are the redder the larger their number."""
    rng = np.random.default_rng(seed)
    values = rng.uniform(5, 15, count)
    room.mkdir()
    for k, value in enumerate(values):
        picture((int(60 + 13 * (value - 5)), 90, 90), 1000 * seed + k, (20, 24)).save(room / f"{k}.png")
    rows = [f"{k}.png,{value:.3f}" for k, value in enumerate(values + rng.normal(0, 0.3, count))]
    (room / "labels.csv").write_text("\n".join(["file,label", *rows]))


def of_several(room, count, seed=0):
    """Pictures that are red or not, and bright or not."""
    rng = np.random.default_rng(seed)
    room.mkdir()
    rows = []
    for k, (red, bright) in enumerate(rng.random((count, 2)) < 0.5):
        colour = (80 + 90 * int(red) + 40 * int(bright), 80 + 70 * int(bright), 80 + 70 * int(bright))
        picture(colour, 1000 * seed + k, (20, 24)).save(room / f"{k}.png")
        names = [name for name, true in (("red", red), ("bright", bright)) if true]
        rows.append(json.dumps({"file": f"{k}.png", "label": names}))
    (room / "labels.jsonl").write_text("\n".join(rows))


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """A run on numbers and one on several labels."""
    room = tmp_path_factory.mktemp("room")
    of_numbers(room / "ages", 40)
    of_several(room / "things", 40)
    of_numbers(room / "new_ages", 30, seed=1)
    of_several(room / "new_things", 30, seed=1)
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(room)
        patched.setenv("JAXTL_DATA", str(room / "cache"))
        for name in ("ages", "things"):
            assert commands.execute(["finetune", name, *QUICK]) == 0
    return room


@pytest.fixture(autouse=True)
def here(request, monkeypatch):
    if "room" in request.fixturenames:
        room = request.getfixturevalue("room")
        monkeypatch.chdir(room)
        monkeypatch.setenv("JAXTL_DATA", str(room / "cache"))


def told(capsys, arguments, code=0):
    assert commands.execute(arguments) == code
    out = capsys.readouterr()
    return out.out if code == 0 else out.err


def test_numbers_become_a_model_with_honest_intervals(room, capsys):
    summary = json.loads((room / "runs/ages/summary.json").read_text())
    assert summary["unseen"] > 0.8
    assert summary["unseen_ci95"][0] < summary["unseen"] < summary["unseen_ci95"][1]
    assert summary["mae"] < summary["rmse"] < 1.5
    assert summary["inside"] >= 0.9
    assert "labels are numbers: regression" in summary["notice"]
    page = (room / "runs/ages/report.html").read_text()
    for words in ("root mean square error", "Predicted against true", "The farthest off", "it is to hold 90 %"):
        assert words in page
    assert {path.stem for path in (room / "runs/ages/plots").iterdir()} == {"tried", "predicted", "wrong"}
    out = told(capsys, ["predict", "runs/ages", "new_ages", "--csv=ages.csv"])
    assert "30 pictures; 1 files not read" in out
    header, *rows = csv.reader((room / "ages.csv").read_text().splitlines())
    assert header == ["file", "value", "low", "high"]
    truth = dict(csv.reader((room / "new_ages/labels.csv").read_text().splitlines()))
    inside = [float(low) <= float(truth[file]) <= float(high) for file, _, low, high in rows]
    assert np.mean(inside) > 0.7  # 0.9 is promised; of 30
    model = load_finetuned("runs/ages")
    half = model.reading.half
    for _, value, low, high in rows:
        assert [float(high) - float(value), float(value) - float(low)] == pytest.approx([half, half], rel=1e-3)
    assert re.search(r"0\.png  [\d.]+  \[", told(capsys, ["predict", "runs/ages", "new_ages/0.png"]))
    with pytest.raises(InputError, match="says numbers"):
        model.probabilities(np.zeros((1, 16, 16, 3), np.uint8))


def test_several_labels_become_a_model_with_a_probability_of_each(room, capsys):
    summary = json.loads((room / "runs/things/summary.json").read_text())
    assert summary["unseen"] > 0.9
    assert set(summary["average_precision"]) == {"bright", "red"}
    page = (room / "runs/things/report.html").read_text()
    for words in ("average precision, %", "frequency, %", "F1, %", "Does a probability mean", "or none"):
        assert words in page
    assert "taken for" not in page
    out = told(capsys, ["predict", "runs/things", "new_things", "--csv=things.csv"])
    assert "30 pictures: " in out
    header, *rows = csv.reader((room / "things.csv").read_text().splitlines())
    assert header == ["file", "labels", "p(bright)", "p(red)"]
    lines = (room / "new_things/labels.jsonl").read_text().splitlines()
    truth = {one["file"]: set(one["label"]) for one in map(json.loads, lines)}
    right = 0
    for file, labels, bright, red in rows:
        named = {name for name, p in (("bright", bright), ("red", red)) if float(p) >= 0.5}
        assert named == (set() if labels == "[]" else set(labels.split(";")))
        right += named == truth[file]
    assert right > 24


@pytest.mark.parametrize("run", ["ages", "things"])
def test_what_is_exported_says_what_the_model_says(run, room, capsys):
    pytest.importorskip("flatbuffers")
    told(capsys, ["export", f"runs/{run}", "--to=out/model.stablehlo"])
    model = load_finetuned(f"runs/{run}")
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3)).astype(np.uint8)
    exported = jax.export.deserialize(bytearray(files.content(room / "out/model.stablehlo")))
    np.testing.assert_allclose(exported.call(images.astype(np.float32)), model.said(images), rtol=1e-5, atol=1e-5)
    told(capsys, ["export", f"runs/{run}", "--to=out/model.safetensors"])
    card = (room / "out/model.md").read_text()
    assert ("Answers with a number" if run == "ages" else "any of 2 labels") in card
    assert ("are to lie within ±" if run == "ages" else "sigmoid(logit") in card


@pytest.mark.slow
@pytest.mark.parametrize("run", ["ages", "things"])
def test_onnx_says_what_the_model_says(run, room, capsys):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("jax2onnx")
    told(capsys, ["export", f"runs/{run}", "--to=out/model.onnx"])
    model = load_finetuned(f"runs/{run}")
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3)).astype(np.uint8)
    session = onnxruntime.InferenceSession("out/model.onnx")
    (found,) = session.run(None, {session.get_inputs()[0].name: images.astype(np.float32)})
    np.testing.assert_allclose(found, model.said(images), rtol=1e-5, atol=1e-5)
    columns = json.loads(session.get_modelmeta().custom_metadata_map["columns"])
    assert columns == (["value", "low", "high"] if run == "ages" else ["p(bright)", "p(red)"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["ages", "--measure=accuracy"], "--measure: accuracy is no measure of numbers\n  use r2, or leave it out"),
        (["ages", "--methods=logistic"], "--methods: logistic learns no numbers\n  use ridge, ridge_l2_sp"),
        (["ages", "--balance=on"], "--balance=on: numbers are not classes"),
        (["ages", "--task=several", "--measure=r2"], "a label needs 2 pictures"),
        (["ages", "--task=classes"], "a class needs 2 pictures"),
        (["ages", "--task=numbers"], "--task: unknown choice 'numbers'"),
        (
            ["things", "--measure=accuracy"],
            "accuracy is no measure of labels\n  use average_precision, macro_f1, roc_auc",
        ),
        (["things", "--methods=logistic_adjusted"], "logistic_adjusted learns no labels"),
        (["things", "--task=number"], "holds a list\n  give each example one label"),
    ],
)
def test_what_does_not_go_together_is_told_in_two_lines(arguments, said, room, capsys):
    err = told(capsys, ["finetune", *arguments, "--trunk=small_cnn", "--size=16", "--workdir=runs/mistake"], 2)
    assert said in err
    assert len(err.strip().splitlines()) == 2
    assert not (room / "runs/mistake/features").exists()


def test_options_of_classes_stay_as_they_were():
    check_kind(Options(data="x", measure="log_loss", methods=("logistic_adjusted",), balance="on"), KINDS["classes"])
    with pytest.raises(InputError, match="r2 is no measure of classes"):
        check_kind(Options(data="x", measure="r2"), KINDS["classes"])
