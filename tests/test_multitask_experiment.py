"""The experiment on several tasks: its parts against other ways to compute them, and a whole run of a few steps."""

import csv
import dataclasses
import functools
import json

import jax
import numpy as np
import pytest
from sklearn.metrics import accuracy_score, r2_score

from experiments import multitask as experiment
from experiments.multitask import METHODS, Config
from jaxtl.data.task_sets import load_tasks
from jaxtl.errors import InputError
from jaxtl.methods.multitask.recipes import SURGERIES, WEIGHTINGS, cosines, recipes, start_apart, summed
from jaxtl.problems import ManyTasks, NewTask
from jaxtl.problems.many_tasks import quality
from jaxtl.problems.trunk_pulls import price
from jaxtl.program import Weights
from jaxtl.protocol import Draw, Run, Trainer
from jaxtl.report.tasks import with_gains
from jaxtl.sweep import run_all
from jaxtl.writers import Progress

TINY = Config(
    images="digits",
    n=40,
    n_new=30,
    input_size=4,
    widths=(8,),
    steps=20,
    batch_size=8,
    validation=50,
    trials=2,
    tuning_draws=1,
    report_draws=2,
    folds=2,
    path_points=2,
    path_draws=1,
    methods=("single_l2", "equal_l2", "mgda"),
)
NUMBERS = dataclasses.replace(
    TINY, data="low_rank", tasks=("task_0", "task_1"), new_task="task_2", head_widths=(4,), methods=("equal_l2",)
)
SETTING = {"learning_rate": 0.01, "pull/shared": 1.0, "pull/task": 0.5}


def make_tasks(config):
    return load_tasks(
        config.data, config.images, rank=config.rank, noise=config.noise, seed=config.seed, progress=Progress
    )


@pytest.fixture(scope="module")
def tasks():
    return make_tasks(TINY)


@pytest.fixture(scope="module")
def problem(tasks):
    return ManyTasks(TINY, tasks, watch=cosines)


@pytest.fixture(scope="module")
def gappy(tasks):
    return ManyTasks(dataclasses.replace(TINY, missing=0.4), tasks)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    experiment.main(TINY, workdir)
    return workdir


@functools.cache
def trainer_of(problem):
    """One for all tests with this problem: their methods are compiled once."""
    return Trainer(problem, recipes(problem.names))


def trained(problem, method, settings, draw):
    """The nets of all settings, none of which diverged."""
    found = trainer_of(problem).train_all(method, settings, draw)
    assert all(one is not None for one in found)
    return found


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


# ---------------------------------------------------------------- what is learned


def test_single_task_models_side_by_side_are_those_trained_by_themselves(problem, tasks):
    (together,) = trained(problem, "single_l2", [SETTING], Draw(0))
    alone = ManyTasks(dataclasses.replace(TINY, tasks=("right",)), tasks)
    start = start_apart(problem, Draw(0)).params
    start = Weights({"trunk": start["trunk"]["right"], "right": start["right"]})
    program = summed(alone)
    data, key = alone.data(program, start, Draw(0)), alone.key(Draw(0), "run")
    (ended,) = run_all(program, [start], data, [alone.rates(program, SETTING)], key, steps=TINY.steps)
    params, of = ended.weights.params, together.weights.params
    theirs = {"trunk": of["trunk"]["right"], "right": of["right"]}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), params, theirs)


def test_equal_weights_are_fixed_weights_that_are_equal(problem):
    even = dict.fromkeys(("weight/left", "weight/right", "weight/larger"), 3.0)
    assert problem.rates(summed(problem), SETTING | even) == problem.rates(summed(problem), SETTING)
    uneven = problem.rates(summed(problem), SETTING | even | {"weight/left": 6.0})
    assert [uneven[task] for task in problem.names] == [1.5, 0.75, 0.75]


def test_the_pull_on_the_trunk_and_the_one_on_the_heads_reach_their_own(problem):
    strong = {"pull/shared": 30.0, "pull/task": 0.0}, {"pull/shared": 0.0, "pull/task": 30.0}
    found = trained(problem, "equal_l2", [SETTING | pulls for pulls in strong], Draw(0))
    trunk = [np.linalg.norm(one.weights.params["trunk"]["dense_0"]["kernel"]) for one in found]
    heads = [np.linalg.norm(one.weights.params["left"]["out"]["kernel"]) for one in found]
    assert trunk[0] < 0.3 * trunk[1]
    assert heads[1] < 0.3 * heads[0]


@pytest.mark.slow
@pytest.mark.parametrize("method", [name for name in METHODS if not name.endswith("_l2")])
def test_every_method_learns_and_is_followed(problem, method):
    setting = {"learning_rate": 0.01} | dict.fromkeys([f"weight/{task}" for task in problem.names], 1.0)
    setting = {name: value for name, value in setting.items() if name in recipes(problem.names)[method].search}
    followed = trainer_of(problem).train(method, setting, Draw(0))
    metrics, arrays = problem.test(followed, Draw(0))
    assert arrays["curve/loss"][-1] < arrays["curve/loss"][0]
    assert metrics["test"] == pytest.approx(np.mean([metrics[f"test/{task}"] for task in problem.names]))
    assert len(arrays["curve/step"]) == 10
    assert ("curve/cosine/left/right" in arrays) == (method != "single")
    weighs = method in (*WEIGHTINGS, *SURGERIES)
    assert ("curve/weight/left" in arrays) == weighs
    if weighs:
        weights = [arrays[f"curve/weight/{task}"] for task in problem.names]
        np.testing.assert_allclose(np.mean(weights, axis=0), 1.0, atol=1e-5)
    (swept,) = trained(problem, method, [setting], Draw(0))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4),
        swept.weights.params,
        followed.weights.params,
    )


# ---------------------------------------------------------------- labels that are missing


@pytest.mark.parametrize("draw", [Draw(1), Draw(1, 0, 2)], ids=["report", "fold"])
def test_what_stands_where_a_label_is_missing_changes_nothing(gappy, tasks, draw):
    """Poisoned and permuted among themselves: the same parameters, the same validation, the same figure of training."""
    examples, random = gappy.examples(Draw(draw.seed)), np.random.default_rng(0)  # all that are labelled, in any fold
    targets = {task: target.copy() for task, target in tasks.train.fields.items() if task in tasks.classes}
    changed = 0
    for task in gappy.names:
        gone = examples.seen[~examples.known[task]]
        poison = random.permutation(9 - targets[task][gone])
        changed += np.sum(poison != targets[task][gone])
        targets[task][gone] = poison
    assert changed > 20
    poisoned = dataclasses.replace(tasks, train=tasks.train.having(**targets))
    other = ManyTasks(gappy.config, poisoned)
    (ours,), (theirs,) = (trained(one, "equal_l2", [SETTING], draw) for one in (gappy, other))
    same(ours.weights.params, theirs.weights.params)
    assert gappy.validate(ours, draw) == other.validate(theirs, draw)
    assert gappy.test(ours, draw)[0] == other.test(theirs, draw)[0]


def test_a_missing_label_does_not_reach_the_step(gappy):
    examples, data = gappy.examples(Draw(0)), gappy.labelled(Draw(0))
    for task in gappy.names:
        assert 0.4 < examples.known[task].mean() < 0.8
        assert np.array_equal(data[task] == -1, ~examples.known[task])
        assert np.array_equal(data[f"{task}_known"], examples.known[task])


# ---------------------------------------------------------------- figures


def test_quality_is_what_scikit_learn_says():
    random = np.random.default_rng(0)
    logits, classes = random.normal(size=(50, 4)), random.integers(4, size=50)
    assert quality(logits, classes) == pytest.approx(accuracy_score(classes, logits.argmax(1)))
    found, numbers = random.normal(size=(50, 1)), random.normal(size=(50, 1))
    assert quality(found, numbers) == pytest.approx(r2_score(numbers, found))


def test_gains_are_relative_to_the_single_task_models_of_the_draw():
    def run(method, seed, left, pulse, stage="report"):
        metrics = {"test": 0.5, "test/left": left, "test/pulse": pulse}
        return Run(method, stage, "tuned", seed, None, 0, {}, metrics=metrics)

    runs = [
        run("single", 0, 0.5, 0.5),
        run("both", 0, 0.6, 0.25),
        run("both", 1, 0.6, 0.25),
        run("single", 1, 0.8, 0.0),
    ]
    gains = [one.metrics["delta_p"] for one in with_gains(runs, "single", numbers=["pulse"])]
    # errors of pulse: 0.5 -> 0.75 is −50 %, 1 -> 0.75 is +25 %
    assert gains == pytest.approx([0.0, (0.2 - 0.5) / 2, (-0.25 + 0.25) / 2, 0.0])
    diverged = Run("both", "report", "tuned", 0, None, 0, {}, metrics={"test": 0.0}, diverged=True)
    assert "delta_p" not in with_gains([runs[0], diverged], "single")[1].metrics


def test_criteria_of_numbers_are_those_of_their_likelihood_and_fall_in_df_with_the_pull():
    numbers = ManyTasks(NUMBERS, make_tasks(NUMBERS))
    found = trained(numbers, "equal_l2", [SETTING | {"pull/shared": pull} for pull in (0.1, 10.0)], Draw(0))
    weak, strong = (price(numbers, one, Draw(0)) for one in found)
    assert 0 < strong["df"] < weak["df"] < 80  # 40 examples of two tasks
    examples, part = numbers.examples(Draw(0)), numbers.tasks.train
    r2 = numbers.qualities(found[0].weights.params, part, examples.seen, examples.known)
    targets = {task: part[task][examples.seen] for task in numbers.names}
    residual = sum((1 - r2[task]) * np.var(target) * 40 for task, target in targets.items())
    assert weak["aic"] == pytest.approx(80 * np.log(residual / 80) + 2 * weak["df"], rel=1e-4)


# ---------------------------------------------------------------- the new task


def test_a_trunk_comes_whole_from_its_source_and_labels_are_of_other_examples(problem):
    trainer = trainer_of(problem)
    chosen = {"single_l2": SETTING, "equal_l2": SETTING}
    own = {(method, 0): setting for method, setting in chosen.items()}
    new = NewTask(problem, lambda draw: experiment.trunks_of(trainer, own, draw))
    moving = new.recipes(dict.fromkeys(("from_left", "from_right", "from_larger", "from_all"), ""))
    assert list(moving) == ["scratch", "from_left", "from_right", "from_larger", "from_all"]
    (single_ones,), (equal,) = (trained(problem, name, [SETTING], Draw(3)) for name in ("single_l2", "equal_l2"))
    begin = {name: recipe.start or type(new).start for name, recipe in moving.items()}
    starts = {name: start(new, Draw(3)).params for name, start in begin.items()}
    same(starts["from_all"]["trunk"], equal.weights.params["trunk"])
    for task in problem.names:
        same(starts[f"from_{task}"]["trunk"], single_ones.weights.params["trunk"][task])
    for start in starts.values():
        same(start["sum"], starts["scratch"]["sum"])
    parts = [set(part) for part in (new.seen(Draw(3)), problem.examples(Draw(3)).seen, problem.held)]
    assert len(parts[0]) == TINY.n_new
    assert not parts[0] & parts[1]
    assert not (parts[0] | parts[1]) & parts[2]


# ---------------------------------------------------------------- a whole run


def test_a_run_ends_with_tables_figures_and_pictures(finished):
    summary = json.loads((finished / "summary.json").read_text())
    rows = {(row["method"], row["selection"]): row for row in summary["together"]["methods"]}
    assert list(dict.fromkeys(name for name, _ in rows)) == list(TINY.methods)
    assert ("equal_l2", "honest") in rows
    assert all(len(row["values"]) == 2 for row in rows.values())
    assert rows["single_l2", "tuned"]["metrics"]["delta_p"] == 0.0
    asked = {(row["a"], row["b"]) for row in summary["together"]["contrasts"]}
    assert asked == {("equal_l2", "single_l2"), ("mgda", "equal_l2")}
    assert [row["method"] for row in summary["new_task"]["methods"]][-1] == "from_all"
    assert set(summary["path"]["choices"]) == {"validation", "folds", "weakest pull", "best fixed pull"}
    text = (finished / "summary.md").read_text()
    assert "| equal_l2, honest" in text
    pictures = {path.stem for path in (finished / "plots").glob("*.png")}
    confusions = {f"confusion_{task}" for task in TINY.tasks}
    assert pictures == {"tasks", "contrasts", "cosines", "weights", "new_task", *confusions}
    assert all(f"Balanced accuracy and confusions, {task}: equal_l2 (baseline" in text for task in TINY.tasks)


def test_the_mean_over_tasks_is_that_of_the_columns(finished):
    with open(finished / "together.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    report = [row for row in rows if row["stage"] == "report"]
    for row in report:
        columns = [float(row[f"test/{task}"]) for task in TINY.tasks]
        assert float(row["test"]) == pytest.approx(np.mean(columns))
    assert {row["seed"] for row in report}.isdisjoint(row["seed"] for row in rows if row["stage"] == "tuning")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"tasks": ("left", "middle")}, "no task 'middle'"),
        ({"new_task": "left"}, "name each task once"),
        ({"n": 10_000}, "labelled examples of"),
        ({"missing": 1.0}, r"not in \[0, 1\)"),
        ({"methods": ("equals",)}, "no method 'equals'"),
        ({"steps": 25}, "no multiple of 10"),
        ({"pull": (1.0, 0.1)}, "is no range"),
        ({"trials": 0}, "less than 1"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_trained(change, what, tmp_path):
    with pytest.raises(InputError, match=what):
        experiment.main(dataclasses.replace(TINY, **change), tmp_path)
