"""Who learns from what, what a budget affords, which heads are the bar, and what is kept."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, RidgeClassifierCV

from jaxtl.data import Split, from_arrays
from jaxtl.data.labelled import labelled
from jaxtl.data.resized import Resize
from jaxtl.errors import InputError
from jaxtl.finetune import checks, plan, trunks
from jaxtl.finetune.choosing import Outcome
from jaxtl.finetune.inputs import Pixels
from jaxtl.finetune.kinds import KINDS
from jaxtl.finetune.modalities import PICTURES, Begun
from jaxtl.finetune.options import Options
from jaxtl.finetune.readings import Reading
from jaxtl.finetune.sections import interval
from jaxtl.finetune.work import Work, kept_outputs
from jaxtl.models import Classifier, Cnn, initial_model_state, initialise
from jaxtl.models.pretrained import Pretrained
from jaxtl.problems.folder import Examples, Parts
from jaxtl.protocol import MEASURES, Comparison, Draw, Run
from jaxtl.report.html import write_html
from jaxtl.report.page import Section
from jaxtl.report.tables import Table
from jaxtl.selection import heads, temperature
from jaxtl.selection.validation import calibrated

# ---------------------------------------------------------------- who learns from what


def parts(labels, groups=None, folds=5, repeats=2):
    labels = np.asarray(labels)
    return Parts(Examples(labels, groups, tuple(map(str, range(labels.max() + 1)))), folds, repeats, 0)


def test_every_example_is_left_out_once_a_repeat():
    own = parts(np.arange(40) % 3)
    for repeat in range(2):
        left = [own.of(Draw(5 * repeat + fold)) for fold in range(5)]
        assert sorted(np.concatenate([out for _, out in left])) == list(range(40))
        assert all(set(rows) | set(out) == set(range(40)) and not set(rows) & set(out) for rows, out in left)
    assert own.of(Draw(0))[1].tolist() != own.of(Draw(5))[1].tolist()
    rows, out = own.of(own.whole)
    assert (rows.tolist(), len(out)) == (list(range(40)), 0)


def test_settings_are_chosen_within_what_a_draw_learns_from():
    own = parts(np.arange(40) % 3)
    rows, out = own.of(Draw(3))
    inner = [own.of(Draw(3, fold=fold, folds=3)) for fold in range(3)]
    assert sorted(np.concatenate([chosen for _, chosen in inner])) == rows.tolist()
    assert all(not set(out) & (set(learned) | set(chosen)) for learned, chosen in inner)


def test_groups_are_never_parted():
    groups = np.repeat(np.arange(12), 4)
    own = parts(np.arange(48) % 2, groups)
    for draw in [*map(Draw, own.draws), Draw(2, fold=1, folds=3), own.whole._replace(fold=0, folds=2)]:
        rows, out = own.of(draw)
        assert not set(groups[rows]) & set(groups[out])


def test_a_class_of_two_is_learned_from_in_every_draw():
    labels = np.array([0] * 20 + [1] * 2 + [2] * 20)
    own = parts(labels)
    assert all(1 in labels[own.of(Draw(seed))[0]] for seed in own.draws)
    assert all(1 in labels[own.of(Draw(seed, fold=0, folds=3))[0]] for seed in own.draws)


def test_a_class_of_one_group_is_learned_from_in_every_draw():
    groups = np.repeat(np.arange(12), 4)
    labels = np.where(groups == 3, 2, np.arange(48) % 2)
    own = parts(labels, groups)
    for draw in map(Draw, own.draws):
        rows, out = own.of(draw)
        assert 2 in labels[rows]
        assert not set(groups[rows]) & set(groups[out])
        assert len(rows) + len(out) == 48


def test_two_pairs_are_enough_to_begin_with():
    own = parts([0, 0, 1, 1], folds=2, repeats=1)
    for draw in map(Draw, own.draws):
        rows, out = own.of(draw)
        assert (len(rows), len(out)) == (2, 2)
        assert [len(own.of(draw._replace(fold=fold, folds=2))[1]) for fold in range(2)] == [0, 0]


# ---------------------------------------------------------------- what a budget affords


def test_a_plan_takes_no_longer_than_is_left():
    rng = np.random.default_rng(0)
    for _ in range(200):
        left, step = 10 ** rng.uniform(0, 4), 10 ** rng.uniform(-3, 1)
        found = plan.made(
            ["a", "b"], [3, 2, 0], lambda left=left: left, lambda depth, step=step: plan.Cost(1.0, step * (4 - depth))
        )
        cost = (found.effort.trainings * found.effort.steps * step * (4 - found.depth) + 3) * len(found.methods)
        assert cost <= left or not found.methods
        assert bool(found.methods) == bool(found.seconds)


def test_more_time_is_more_effort():
    found = []
    for left in (5, 30, 60, 120, 300, 600, 3000, 1e5):
        own = plan.made(["a", "b"], [2, 0], lambda left=left: left, lambda depth: plan.Cost(1.0, 0.02 * (3 - depth)))
        found.append(own)
    efforts = [one.effort.trainings * one.effort.steps * len(one.methods) for one in found]
    assert not found[0].methods
    assert "does not fit" in found[0].why
    assert efforts[1:] == sorted(efforts[1:])
    assert found[-1].depth == 0


def test_a_plan_is_kept_for_the_same_wishes(tmp_path):
    first = plan.made(["a"], [0], lambda: 100.0, lambda depth: plan.Cost(1.0, 0.01))
    assert plan.kept(tmp_path, {"x": 1}, lambda: first) == first
    assert plan.kept(tmp_path, {"x": 1}, lambda: pytest.fail("planned again")) == first
    other = first._replace(depth=1)
    assert plan.kept(tmp_path, {"x": 2}, lambda: other) == other
    (tmp_path / "plan.json").write_text("[")
    with pytest.raises(InputError, match="not what a run writes"):
        plan.kept(tmp_path, {"x": 2}, lambda: other)


# ---------------------------------------------------------------- heads


def blobs(n=60, classes=3, width=8, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    return (rng.normal(0, 1, (classes, width))[labels] + rng.normal(0, 1.2, (n, width))).astype(np.float32), labels


def test_ridge_is_scikit_learns_at_its_penalty():
    x, labels = blobs()
    head, lam = heads.ridge(x, labels, 3, None, 0)
    theirs = RidgeClassifierCV([lam * len(x)]).fit(x, labels)
    assert (heads.logits(head, x).argmax(1) == theirs.predict(x)).all()
    np.testing.assert_allclose(2 * head["kernel"].T, theirs.coef_, rtol=1e-3)


def test_logistic_is_scikit_learns_at_its_penalty():
    x, labels = blobs()
    head, lam = heads.logistic(x, labels, 3, None, 0)
    theirs = LogisticRegression(C=1 / (lam * len(x)), max_iter=5000, tol=1e-8).fit(x, labels)
    odds = np.exp(heads.logits(head, x))
    assert np.abs(odds / odds.sum(1, keepdims=True) - theirs.predict_proba(x)).max() < 5e-3


def test_adjusted_logits_name_rare_classes_more_often():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], [90, 10])
    x = (labels[:, None] + rng.normal(0, 1, (100, 4))).astype(np.float32)
    plain, adjusted = (heads.logistic(x, labels, 2, None, 0, adjusted=how)[0] for how in (False, True))
    assert (heads.logits(adjusted, x).argmax(1) == 1).sum() > (heads.logits(plain, x).argmax(1) == 1).sum()
    gap = (adjusted["bias"] - plain["bias"])[1] - (adjusted["bias"] - plain["bias"])[0]
    assert gap == pytest.approx(np.log(9), abs=1e-4)


def test_groups_choose_a_stronger_penalty_where_leaving_one_out_is_fooled():
    rng = np.random.default_rng(0)
    patient = np.repeat(np.arange(10), 6)
    labels = (np.arange(10) % 2)[patient]
    marks = rng.normal(0, 1, (10, 30))[patient]  # which patient it is, and hardly what they have
    x = (marks + 0.3 * labels[:, None] + rng.normal(0, 0.05, (60, 30))).astype(np.float32)
    fooled, honest = (heads.ridge(x, labels, 2, groups, 0)[1] for groups in (None, patient))
    assert honest >= fooled


@pytest.mark.parametrize(
    ("classes", "n", "budget", "own", "tuned"),
    [
        (5, 50, "2min", ["ridge", "logistic"], ["logistic_l2_sp", "l2_sp", "lr_ratio"]),
        (
            100,
            10,
            "2min",
            ["ridge"],
            ["ridge_l2_sp", "l2_sp", "lr_ratio"],
        ),  # a dozen fits of a minute
        (
            100,
            10,
            "40min",
            ["ridge", "logistic"],
            ["ridge_l2_sp", "l2_sp", "lr_ratio"],
        ),  # and twice as many to start
        (100, 10, "3h", ["ridge", "logistic"], ["logistic_l2_sp", "l2_sp", "lr_ratio"]),
    ],
)
def test_logistic_is_tried_where_its_fits_leave_half_of_the_budget(classes, n, budget, own, tuned, monkeypatch):
    monkeypatch.setattr(checks, "_cores", lambda: 1)
    labels = np.repeat(np.arange(classes), n)
    data = SimpleNamespace(train=Split(label=labels, image=labels), classes=range(classes))
    trunk, features = SimpleNamespace(name="efficientnet_lite0"), np.empty((len(labels), 1280), np.float32)
    found = checks.names_of(Options(budget=budget), KINDS["classes"], trunk, data, features)
    assert found[:2] == (own, tuned)
    assert ("no logistic regression" in found[2]) == ("logistic" not in own)


def test_logistic_takes_classes_of_two():
    x, labels = blobs(20, 2)
    labels = np.r_[labels, 2, 2]
    x = np.concatenate([x, x[:2] + 3])
    head, _ = heads.logistic(x, labels, 3, None, 0)
    assert np.isfinite(head["kernel"]).all()


# ---------------------------------------------------------------- what is kept


def outcome(**values):
    own = parts(np.arange(30) % 3, folds=5, repeats=2)
    runs = [
        Run(name, "report", "tuned", seed, None, 0, {}, metrics={"test": value})
        for name, column in values.items()
        for seed, value in enumerate(column)
    ]
    return Outcome(Comparison(runs, []), lambda run: {}, MEASURES["accuracy"], own)


NOISE = np.array([1, -1, 2, -2, 0, 1, -1, 2, -2, 0]) / 100


@pytest.mark.parametrize(
    ("ahead", "kept", "said"),
    [
        (0.10 + NOISE / 2, "l2_sp", "Fine-tuning pays"),
        (0.03 + 10 * NOISE, "l2_sp", "these draws leave it open"),
        (0.005 + 5 * NOISE, "ridge", "was not seen to be better"),
        (-0.05 + NOISE, "ridge", "does not pay"),
        (NOISE / 20, "ridge", "as good as"),
    ],
)
def test_whether_fine_tuning_pays(ahead, kept, said):
    found = outcome(ridge=0.6 + NOISE, logistic=0.55 + NOISE, l2_sp=0.6 + NOISE + ahead)
    name, contrast, sentence = found.verdict()
    assert (name, said in sentence) == (kept, True), sentence
    assert contrast.difference == pytest.approx(np.mean(ahead))


def test_an_interval_over_pictures_covers(monkeypatch):
    monkeypatch.setattr(sys.modules["jaxtl.finetune.sections"], "RESAMPLES", 200)
    rng, measure, inside = np.random.default_rng(0), MEASURES["accuracy"], 0
    for _ in range(60):
        labels = rng.integers(0, 2, 100)
        right = rng.random(100) < 0.8
        logits = np.eye(2)[np.where(right, labels, 1 - labels)] * 2.0
        low, high = interval(measure, labels, logits)
        inside += low <= 0.8 <= high
    assert inside >= 51  # 57 are expected
    sure = np.eye(2)[np.zeros(30, int)]
    assert interval(measure, np.zeros(30, int), sure) == pytest.approx((0.886, 1.0), abs=1e-3)  # not surely all


def test_an_interval_over_groups_counts_what_they_say():
    rng, measure = np.random.default_rng(0), MEASURES["accuracy"]
    labels = rng.integers(0, 2, 40)
    logits = np.eye(2)[np.where(rng.random(40) < 0.8, labels, 1 - labels)] * 2.0
    alone = interval(measure, labels, logits)
    assert interval(measure, labels, logits, np.arange(40)) == pytest.approx(alone)
    many, groups = (np.repeat(labels, 10), np.repeat(logits, 10, axis=0)), np.repeat(np.arange(40), 10)
    assert interval(measure, *many, groups) == pytest.approx(alone)  # ten copies of each say nothing more
    narrow = interval(measure, *many)
    assert narrow[1] - narrow[0] < 0.5 * (alone[1] - alone[0])
    assert interval(measure, *many, rng.permutation(groups)) == pytest.approx(narrow, abs=0.02)  # of any others
    sure = np.eye(2)[np.zeros(300, int)]
    assert interval(measure, np.zeros(300, int), sure, np.arange(300) // 10) == pytest.approx((0.886, 1.0), abs=1e-3)
    balanced = MEASURES["balanced_accuracy"]
    low, high = interval(balanced, *many, groups)
    assert high - low > 2 * np.subtract(*interval(balanced, *many)[::-1])


def test_a_temperature_does_not_take_all_right_for_certain():
    logits = np.random.default_rng(0).normal(0, 1, (40, 3)) + 6 * np.eye(3)[np.arange(40) % 3]
    scale = calibrated(logits, np.arange(40) % 3)
    odds = np.exp(logits / scale)
    sure = (odds / odds.sum(1, keepdims=True)).max(1)
    assert 0.9 < sure.mean() < 0.995  # as of 40 right and one wrong
    many = np.tile(logits, (50, 1))
    wrong = np.where(np.arange(2000) % 10, np.arange(2000) % 40 % 3, 0)
    assert calibrated(many, wrong) == pytest.approx(temperature(many, wrong), rel=0.02)


# ---------------------------------------------------------------- a trunk that is cut


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Fine-tuning of a small network with batch statistics of its own."""
    model, key = Cnn((4, 6, 8), "batch"), jax.random.key(1)
    whole = Classifier(model, ())
    state = initial_model_state(whole, (16, 16, 3))["batch_stats"]["trunk"]
    state = jax.tree.map(lambda leaf: leaf + 0.1, state)
    params = initialise(whole, key, (16, 16, 3))["trunk"]
    level = np.full(3, 127.5, np.float32)
    trunk = Pretrained("small", model, params, {"batch_stats": state}, 16, level, level, "", "", 8, ("a", "b", "c"))
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (45, 16, 16, 3)).astype(np.uint8)
    data = labelled(from_arrays(images, np.arange(45) % 3, classes=["a", "b", "c"]), Resize(16))
    room = tmp_path_factory.mktemp("run")
    begun = Begun(trunk, "", data, data.train.images, Pixels(16, level, level))
    features, _ = kept_outputs(room, trunk, begun.inputs, None, begun.prepared_by)
    return Work(Options(data="x"), begun, features, room, PICTURES, KINDS["classes"])


@pytest.mark.parametrize("depth", [2, pytest.param(0, marks=pytest.mark.slow)])
def test_what_is_trained_above_a_cut_is_the_model_that_is_kept(work, depth):
    effort = plan.Effort(3, 1, 2, 1 if depth else 2, 4)
    bench = work.bench(plan.Plan(effort, depth, ("l2_sp",), 1.0, ""))
    fitted = bench.fit("l2_sp", bench.parts.whole)
    model = work.model(fitted, "l2_sp", Reading(1.5))
    object.__setattr__(model, "module", Classifier(work.trunk.model, (("head", 3),)))
    logits = fitted.logits(np.arange(len(work.data.train)))
    odds = np.exp(logits / 1.5)
    said = model.probabilities(work.data.train.images)
    np.testing.assert_allclose(said, odds / odds.sum(1, keepdims=True), atol=2e-5)
    moved = jax.tree.map(
        lambda a, b: bool(np.any(np.asarray(a) != np.asarray(b))), model.weights.params["trunk"], work.trunk.params
    )
    by_stage = {name: any(jax.tree.leaves(tree)) for name, tree in moved.items()}
    assert by_stage["conv_2"]
    assert by_stage["conv_0"] == (depth == 0)
    assert jax.tree.all(
        jax.tree.map(
            np.array_equal, model.weights.model_state["batch_stats"]["trunk"], work.trunk.model_state["batch_stats"]
        )
    )


def test_a_head_on_features_is_the_model_that_is_kept(work):
    bench = work.bench(plan.Plan(plan.HEADS_ALONE, 0, (), 0.0, ""))
    fitted = bench.fit("ridge", bench.parts.whole)
    model = work.model(fitted, "ridge", Reading(0.5))
    object.__setattr__(model, "module", Classifier(work.trunk.model, (("head", 3),)))
    odds = np.exp(fitted.logits(np.arange(len(work.data.train))) / 0.5)
    np.testing.assert_allclose(
        model.probabilities(work.data.train.images), odds / odds.sum(1, keepdims=True), atol=2e-5
    )


def test_outputs_that_were_kept_are_not_made_again(work, monkeypatch):
    monkeypatch.setattr(sys.modules["jaxtl.finetune.work"], "passed", lambda *_: pytest.fail("made again"))
    again, seconds = kept_outputs(work.workdir, work.trunk, work.begun.inputs, None, work.begun.prepared_by)
    assert seconds == 0
    assert (again == work.features).all()


def test_every_class_weighs_alike_where_it_is_asked_for(work):
    labels = np.r_[np.zeros(30, int), np.ones(6, int)]
    rare = work.data.train.having(image=np.zeros((36, 16, 16, 3), np.uint8), label=labels)
    data = work.data._replace(train=rare, classes=("a", "b"))

    def weights(**options):
        own = work._replace(options=Options(data="x", **options), begun=work.begun._replace(data=data))
        return own.parts(plan.HEADS_ALONE).examples.weights

    assert weights() is None
    assert weights(measure="macro_f1", balance="off") is None
    for found in (weights(measure="macro_f1"), weights(balance="on")):
        assert [found[labels == k].sum() for k in (0, 1)] == pytest.approx([18, 18])


# ---------------------------------------------------------------- the trunk that is had


def test_a_trunk_that_was_named_is_no_other(monkeypatch):
    def never(name, progress):
        raise InputError("cannot be had", where=name, todo="connect")

    monkeypatch.setattr(trunks, "_pretrained", never)
    found, notice = trunks.trunk_of("auto")
    assert found.name == trunks.SMALL
    assert "cannot be had" in notice
    assert "a small network learns from nothing" in notice
    with pytest.raises(InputError, match="efficientnet_lite0: cannot be had"):
        trunks.trunk_of("efficientnet_lite0")


# ---------------------------------------------------------------- the page


def test_a_page_for_a_browser_obeys_nobody(tmp_path):
    table = Table(["class"], [["<script>alert(1)</script>"]])
    section = Section("a & b", [table], ["run `x --y=<z>`", "one ` alone", "\x1b[2J"])
    text = write_html(tmp_path / "r.html", "<b>", [("Data", "`c`")], [section]).read_text()
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert "<code>x --y=&lt;z&gt;</code>" in text
    assert "one ` alone" in text
    assert "\x1b" not in text
    assert "default-src &#x27;none&#x27;" in text or "default-src 'none'" in text
    assert "http://" not in text.replace("http-equiv", "")
