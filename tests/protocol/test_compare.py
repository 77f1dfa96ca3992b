import itertools
import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from jaxtl.errors import InputError, NotFinite
from jaxtl.protocol import ACCURACY, Draw, Method, Range, RunStore, Selection, compare, planned_runs, trial_settings
from jaxtl.protocol.design import runs_that_tune
from jaxtl.protocol.summaries import mixed_devices

LEARNING_RATES, PULLS = Range(0.004, 0.1), Range(0.03, 30.0)
TUNING, REPORT = [0, 1], [10, 11, 12]
HERE = {"learning_rate": 0.02, "pull": 1.0}


class Laboratory:
    """A learning problem with a known answer: accuracy falls with the squared log-distance from the best setting.

    Every draw adds noise that all methods share; in the folds of a draw the best pull may lie elsewhere.
    """

    def __init__(self, best_in_folds=None, stop_after=None):
        self.trained, self.validated, self.tested = [], [], []
        self.best_in_folds, self.stop_after = best_in_folds or {}, stop_after

    def method(self, name, best, search=None, diverges=lambda setting, draw: False):
        def train(setting, draw):
            if len(self.trained) == self.stop_after:
                raise KeyboardInterrupt
            self.trained.append((name, draw, tuple(sorted(setting.items()))))
            if diverges(setting, draw):
                raise NotFinite(f"loss is nan at step {draw.seed}")
            target = best | ({"pull": self.best_in_folds[draw.seed]} if draw.fold is not None else {})
            distance = sum(math.log(setting[key] / target[key]) ** 2 for key in setting)
            return name, 0.8 - 0.01 * distance + 0.02 * np.random.default_rng(draw.seed).normal()

        default = {"learning_rate": LEARNING_RATES, "pull": PULLS}
        return Method(name, default if search is None else search, train)

    def validate(self, trained, draw):
        self.validated.append((trained[0], draw))
        return trained[1]

    def test(self, trained, draw):
        self.tested.append((trained[0], draw, len(self.trained)))
        predictions = np.arange(draw.seed, draw.seed + 4, dtype=np.uint8)
        return {"test": min(max(trained[1], 0.0), 1.0), "source": 0.5}, {"predictions": predictions}

    def compare(self, methods, trials=8, tuning=TUNING, report=REPORT, **options):
        return compare(methods, trials, tuning, report, validate=self.validate, test=self.test, **options)


def in_one_sweep(method, sweeps):
    """The same method, whose settings are trained all at once; `sweeps` gets how many there were each time."""

    def train_all(settings, draw):
        sweeps.append(len(settings))
        trained = []
        for setting in settings:
            try:
                trained.append(method.train(setting, draw))
            except NotFinite:
                trained.append(None)
        return trained

    return replace(method, train_all=train_all)


def without_times(runs):
    return [replace(run, seconds=0.0, note="") for run in runs]


@pytest.mark.parametrize("limit", [math.inf, 0.05])
def test_settings_trained_in_one_sweep_are_chosen_like_those_trained_one_by_one(limit, tmp_path):
    def method(lab):
        diverges = lambda setting, draw: setting["learning_rate"] > limit  # noqa: E731
        return lab.method("a", {"learning_rate": 0.01, "pull": 1.0}, diverges=diverges)

    in_folds = {10: 0.1, 11: 3.0, 12: 1.0}
    lab, other, sweeps = Laboratory(in_folds), Laboratory(in_folds), []
    single, _ = lab.compare([method(lab)], honest=["a"])
    store = RunStore(tmp_path)
    swept, _ = other.compare([in_one_sweep(method(other), sweeps)], honest=["a"], store=store)
    assert without_times(swept) == without_times(single)
    assert sweeps == [8] * (len(TUNING) + 5 * len(REPORT))
    assert any(run.diverged for run in swept) == (limit < 1)
    again, _ = other.compare([in_one_sweep(method(other), sweeps)], honest=["a"], store=RunStore(tmp_path))
    assert (again, len(sweeps)) == (swept, len(TUNING) + 5 * len(REPORT))


def test_a_sweep_makes_only_the_settings_that_the_store_lacks():
    lab, sweeps, store = Laboratory(stop_after=5), [], RunStore()
    best = {"learning_rate": 0.01, "pull": 1.0}
    with pytest.raises(KeyboardInterrupt):
        lab.compare([lab.method("a", best)], store=store)
    lab.stop_after = None
    lab.compare([in_one_sweep(lab.method("a", best), sweeps)], store=store)
    assert sweeps == [3, 8]


def test_a_sweep_in_which_everything_diverges_is_told(tmp_path):
    def nothing_left(settings, draw):
        raise NotFinite("rung 1: no configuration has a finite score")

    lab = Laboratory()
    method = replace(lab.method("a", {"learning_rate": 0.01, "pull": 1.0}), train_all=nothing_left)
    with pytest.raises(InputError, match="each of the 8 trials diverged"):
        lab.compare([method])


def nearest(values, best):
    return min(values, key=lambda value: abs(math.log(value / best)))


def test_the_best_setting_is_found_and_every_method_pays_the_same():
    lab = Laboratory()
    search = {"learning_rate": LEARNING_RATES, "pull": PULLS}
    grid = trial_settings(search, 8)
    best = {"a": grid[3], "b": grid[6]}  # exact members: distance 0, so nothing else can win
    runs, _ = lab.compare([lab.method(name, best[name]) for name in best])
    for name in best:
        assert {tuple(r.setting.items()) for r in runs if r.method == name and r.stage == "report"} == {
            tuple(best[name].items())
        }
    assert Counter(name for name, _, _ in lab.trained) == {"a": 8 * 2 + 3, "b": 8 * 2 + 3}
    tried = {
        name: [setting for who, draw, setting in lab.trained if who == name and draw.seed in TUNING] for name in best
    }
    assert tried["a"] == tried["b"]


def test_paired_contrast_sees_through_the_noise_of_the_draws():
    lab = Laboratory()
    grid = trial_settings({"learning_rate": LEARNING_RATES, "pull": PULLS}, 4)
    # b cannot reach its best pull: e² away in logarithm from the end of what is tried
    far = grid[0] | {"pull": max(s["pull"] for s in grid) * math.exp(2.0)}
    methods = [lab.method("a", grid[2]), lab.method("b", far, search={"pull": PULLS})]
    runs, (contrast,) = lab.compare(methods, 4, report=range(10, 18), contrasts=[("a", "b")])
    assert contrast.difference == pytest.approx(0.04)  # 0.01 · 2²
    assert contrast.sd == pytest.approx(0.0, abs=1e-12)
    assert (contrast.n, contrast.given_choice, contrast.verdict) == (8, True, "undecided")
    report = [r for r in runs if r.stage == "report"]
    assert np.std([r.metrics["test"] for r in report if r.method == "a"]) > 0.005


def test_test_data_are_seen_once_per_method_selection_and_draw_after_all_choices():
    lab = Laboratory(best_in_folds={10: 1.0, 11: 20.0, 12: 0.05})
    grid = trial_settings({"learning_rate": LEARNING_RATES, "pull": PULLS}, 8)
    methods = [lab.method("a", grid[3]), lab.method("b", grid[5])]
    runs, _ = lab.compare(methods, honest=["a"])
    report = [r for r in runs if r.stage == "report"]
    assert Counter((r.method, r.selection) for r in report) == {
        ("a", "tuned"): 3,
        ("a", "honest"): 3,
        ("b", "tuned"): 3,
    }
    looks = Counter((name, draw) for name, draw, _ in lab.tested)
    distinct = Counter((r.method, Draw(r.seed)) for r in {(r.method, r.seed, r.trial): r for r in report}.values())
    assert looks == distinct
    choosing = 2 * 8 * 2 + 3 * 8 * 5
    assert all(trained > choosing for _, _, trained in lab.tested)
    assert {draw.seed for _, draw, _ in lab.tested} == set(REPORT)
    assert {draw.seed for _, draw in lab.validated if draw.fold is None and draw.seed not in REPORT} == set(TUNING)


def test_honest_chooses_for_every_draw_by_its_own_folds():
    best_in_folds = {10: 1.0, 11: 20.0, 12: 0.05}
    lab = Laboratory(best_in_folds)
    search = {"pull": PULLS}
    pulls = [s["pull"] for s in trial_settings(search, 8)]
    runs, _ = lab.compare([lab.method("a", {"pull": 3.0}, search)], honest=["a"], folds=4)
    chosen = {r.seed: r.setting["pull"] for r in runs if r.selection == "honest"}
    assert chosen == {seed: nearest(pulls, best) for seed, best in best_in_folds.items()}
    assert {r.setting["pull"] for r in runs if r.selection == "tuned"} == {nearest(pulls, 3.0)}
    folds = [draw for _, draw, _ in lab.trained if draw.fold is not None]
    assert Counter(folds) == {Draw(seed, fold, 4): 8 for seed in REPORT for fold in range(4)}


def test_one_run_serves_both_selections_when_they_choose_the_same():
    search = {"pull": PULLS}
    lab = Laboratory(best_in_folds=dict.fromkeys(REPORT, 3.0))
    runs, _ = lab.compare([lab.method("a", {"pull": 3.0}, search)], honest=["a"])
    tuned, honest = ([r for r in runs if r.selection == s] for s in ("tuned", "honest"))
    assert [replace(r, selection="tuned", chosen_in="tuning") for r in honest] == tuned
    assert len(lab.tested) == len(REPORT)


def test_a_method_without_a_search_is_reported_directly():
    lab = Laboratory()
    runs, _ = lab.compare([lab.method("untuned", {}, search={})], honest=["untuned"])
    assert [(r.stage, r.selection, r.setting, r.edges) for r in runs] == [("report", "tuned", {}, ())] * 3 + [
        ("report", "honest", {}, ())
    ] * 3
    assert len(lab.trained) == len(lab.tested) == 3


def test_a_winner_on_the_edge_is_flagged_with_its_direction():
    lab = Laboratory()
    low, high, inside = ({"pull": best} for best in (0.001, 1000.0, 1.0))
    search = {"pull": PULLS}
    methods = [lab.method(n, b, search) for n, b in (("low", low), ("high", high), ("inside", inside))]
    runs, _ = lab.compare(methods)
    edges = {r.method: r.edges for r in runs if r.stage == "report"}
    assert edges == {"low": ("pull<",), "high": ("pull>",), "inside": ()}


def test_ties_go_to_the_smaller_learning_rate():
    flat = Method("flat", {"learning_rate": LEARNING_RATES}, lambda setting, draw: ("flat", 0.5))
    runs, _ = Laboratory().compare([flat])
    assert {r.trial for r in runs if r.stage == "report"} == {0}


def test_a_trial_that_diverges_once_is_never_chosen():
    lab = Laboratory()
    grid = trial_settings({"learning_rate": LEARNING_RATES, "pull": PULLS}, 8)
    method = lab.method("a", grid[5], diverges=lambda setting, draw: setting == grid[5] and draw.seed == 1)
    runs, _ = lab.compare([method])
    assert {r.trial for r in runs if r.stage == "report"} != {5}
    lost = [r for r in runs if r.diverged]
    assert [(r.stage, r.seed, r.trial, r.validation, r.metrics) for r in lost] == [("tuning", 1, 5, -math.inf, {})]
    assert lost[0].note == "loss is nan at step 1"


def test_a_report_draw_that_diverges_counts_as_nothing_right():
    lab = Laboratory()
    search = {"pull": PULLS}
    methods = [lab.method("a", {"pull": 1.0}, search, lambda setting, draw: draw.seed == 11)]
    methods += [lab.method("b", {"pull": 1.0}, search)]
    runs, (contrast,) = lab.compare(methods, contrasts=[("a", "b")])
    (lost,) = [r for r in runs if r.diverged]
    assert (lost.method, lost.seed, lost.metrics) == ("a", 11, {"test": 0.0})
    assert contrast.n == 3
    assert contrast.difference < -0.2
    assert ("a", 11) not in {(name, draw.seed) for name, draw, _ in lab.tested}


@pytest.mark.parametrize("score", [math.nan, math.inf])
def test_a_score_that_is_not_finite_means_diverged(score):
    search = {"pull": PULLS}
    last = max(s["pull"] for s in trial_settings(search, 4))
    method = Method("a", search, lambda setting, draw: score if setting["pull"] == last else 0.5)
    runs, _ = compare([method], 4, [0], [10], validate=lambda t, d: t, test=lambda t, d: ({"test": math.nan}, {}))
    assert [r.diverged for r in runs] == [r.setting["pull"] == last for r in runs[:4]] + [True]
    assert (runs[-1].metrics, runs[-1].note) == ({"test": 0.0}, "test accuracy nan")


def test_all_trials_diverging_stops_with_the_name_of_the_method():
    lab = Laboratory()
    with pytest.raises(InputError, match=r"'wild', tuning(.|\n)*each of the 8 trials diverged\n.*learning rate"):
        lab.compare([lab.method("wild", {}, diverges=lambda setting, draw: True)])


def same_runs(left, right):
    return [replace(r, seconds=0.0) for r in left] == [replace(r, seconds=0.0) for r in right]


@pytest.mark.parametrize("killed_after", [0, 7, 24, 40])
def test_an_interrupted_comparison_goes_on_where_it_was(tmp_path, killed_after):
    def methods(lab):
        return [lab.method("a", {"pull": 1.0}, {"pull": PULLS}), lab.method("b", {"pull": 30.0}, {"pull": PULLS})]

    best_in_folds = {10: 1.0, 11: 20.0, 12: 0.05}
    options = {"trials": 4, "folds": 2, "honest": ["a"], "contrasts": [("a", "b")]}
    whole = Laboratory(best_in_folds)
    expected = whole.compare(methods(whole), **options)

    killed = Laboratory(best_in_folds, stop_after=killed_after)
    with pytest.raises(KeyboardInterrupt):
        killed.compare(methods(killed), store=RunStore(tmp_path), **options)
    resumed = Laboratory(best_in_folds)
    runs, contrasts = resumed.compare(methods(resumed), store=RunStore(tmp_path), **options)

    assert killed.trained + resumed.trained == whole.trained
    assert same_runs(runs, expected.runs)
    assert contrasts == expected.contrasts
    idle = Laboratory(best_in_folds, stop_after=0)
    again = idle.compare(methods(idle), store=RunStore(tmp_path), **options)
    assert again.runs == runs  # the seconds too
    assert idle.tested == []


def test_a_changed_range_is_run_again(tmp_path):
    first, second = Laboratory(), Laboratory()
    first.compare([first.method("a", {"pull": 1.0}, {"pull": PULLS})], 4, store=RunStore(tmp_path))
    second.compare([second.method("a", {"pull": 1.0}, {"pull": Range(0.1, 10.0)})], 4, store=RunStore(tmp_path))
    assert len(second.trained) == 4 * 2 + 3


@pytest.mark.parametrize("on_disk", [True, False])
def test_arrays_are_kept_for_both_selections(tmp_path, on_disk):
    lab = Laboratory(best_in_folds=dict.fromkeys(REPORT, 3.0))
    store = RunStore(tmp_path if on_disk else None)
    runs, _ = lab.compare([lab.method("a", {"pull": 3.0}, {"pull": PULLS})], honest=["a"], store=store)
    if on_disk:
        store = RunStore(tmp_path)
    for run in runs:
        arrays = store.arrays(run)
        assert list(arrays) == (["predictions"] if run.stage == "report" else [])
        for array in arrays.values():
            np.testing.assert_array_equal(array, np.arange(run.seed, run.seed + 4))
            assert array.dtype == np.uint8


def test_progress_is_told_of_every_planned_run(tmp_path):
    lab = Laboratory(best_in_folds=dict.fromkeys(REPORT, 3.0))
    methods = [lab.method("a", {"pull": 3.0}, {"pull": PULLS}), lab.method("untuned", {}, {})]
    planned = planned_runs(methods, 4, TUNING, REPORT, ["a", "untuned"], 3)
    for _ in range(2):  # the second time everything is found in the store
        told = []
        lab.compare(methods, 4, honest=["a", "untuned"], folds=3, store=RunStore(tmp_path), progress=told.append)
        assert len(told) == planned == (4 * 2 + 3) + (4 * 3 * 3 + 3) + 3 + 3
    assert told[0] == "a: tuning, trial 1/4, draw 0"
    assert told[8] == "a: fold, trial 1/4, draw 10, fold 1/3"
    assert told[-1] == "untuned: report, chosen setting, draw 12"


def halved(scores):
    """Oracle: (the setting that is chosen, [settings of each draw]) by [draws, settings] scores."""
    left, seen = np.arange(scores.shape[1]), []
    if len(left) < 4:
        return int(scores.mean(axis=0).argmax()), [left.tolist()] * len(scores)
    for draw in range(len(scores)):
        seen.append(left.tolist())
        order = left[np.argsort(-scores[: draw + 1][:, left].mean(axis=0), kind="stable")]
        if len(left) < 4 or draw == len(scores) - 1:
            break
        left = np.sort(order[: len(left) // 2])
    return int(order[0]), seen


class Noisy(Laboratory):
    """Whose settings are no better than each other but by chance, another on every draw."""

    def validate(self, trained, draw):
        seeds = [draw.seed, abs(hash(trained[1]))]
        return super().validate(trained, draw) + float(np.random.default_rng(seeds).normal())


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize(("trials", "draws"), [(16, 4), (8, 2), (7, 9), (4, 3), (3, 3), (1, 3)])
def test_each_further_draw_sees_the_better_half(trials, draws, together):
    lab, sweeps, tuning = Noisy(), [], list(range(draws))
    method = lab.method("a", {"pull": 1.0}, {"pull": PULLS})
    method = in_one_sweep(method, sweeps) if together else method
    full, _ = lab.compare([method], trials, tuning, [90], replicates=2)
    runs, _ = lab.compare([method], trials, tuning, [90], replicates=2, halving=True)
    for replicate in (0, 1):
        own = [run for run in runs if run.replicate == replicate]
        scores = [
            [run.validation for run in full if run.stage == "tuning" and run.seed == seed]
            for seed in sorted({run.seed for run in full if run.stage == "tuning" and run.replicate == replicate})
        ]
        chosen, seen = halved(np.array(scores)) if scores else (0, [])
        found = [run for run in own if run.stage == "tuning"]
        told = [[run.trial for run in found if run.seed == seed] for seed in sorted({run.seed for run in found})]
        assert told == seen
        assert [run.trial for run in own if run.stage == "report"] == [chosen]
        settings = trial_settings({"pull": PULLS}, trials, replicate)
        assert [run.setting for run in own if run.stage == "report"] == [settings[chosen]]
        assert len(found) == (runs_that_tune(trials, draws, halving=True) if trials > 1 else 0)
        assert len(found) <= runs_that_tune(trials, draws)


def test_halving_that_is_cut_off_goes_on_with_what_is_missing_and_comes_to_the_same(tmp_path):
    def compared(lab, **how):
        methods = [lab.method(name, {"pull": best}, {"pull": PULLS}) for name, best in (("a", 1.0), ("b", 20.0))]
        return lab.compare(methods, 8, range(4), REPORT, halving=True, **how)

    whole, told = Noisy(), []
    expected, _ = compared(whole, progress=told.append)
    planned = planned_runs([whole.method(n, {}, {"pull": PULLS}) for n in "ab"], 8, range(4), REPORT, halving=True)
    assert len(told) == planned == 2 * (8 + 4 + 2 + 3)
    cut_off = Noisy(stop_after=19)
    with pytest.raises(KeyboardInterrupt):
        compared(cut_off, store=RunStore(tmp_path))
    rest = Noisy()
    found, _ = compared(rest, store=RunStore(tmp_path))
    assert [replace(run, seconds=0.0) for run in found] == [replace(run, seconds=0.0) for run in expected]
    assert len(cut_off.trained) + len(rest.trained) == len(whole.trained)


def test_where_the_better_half_diverges_on_a_draw_the_other_half_is_taken_back():
    lab, pulls = Laboratory(), [setting["pull"] for setting in trial_settings({"pull": PULLS}, 8)]
    worse = sorted(pulls, key=lambda pull: -abs(math.log(pull)))[:4]

    def spoilt(setting, draw):
        return draw.seed == 1 and setting["pull"] not in worse

    method = lab.method("a", {"pull": 1.0}, {"pull": PULLS}, spoilt)
    runs, _ = lab.compare([method], 8, range(4), REPORT, halving=True)
    (chosen,) = {run.setting["pull"] for run in runs if run.stage == "report"}
    assert chosen == worse[-1]
    assert [sum(run.seed == seed and run.stage == "tuning" for run in runs) for seed in range(4)] == [8, 8, 4, 2]

    method = lab.method("b", {"pull": 1.0}, {"pull": PULLS}, lambda setting, draw: draw.seed == 1)
    with pytest.raises(InputError, match="each of the 8 trials diverged"):
        lab.compare([method], 8, range(4), REPORT, halving=True)


def test_halving_chooses_by_every_selection_among_what_it_has_left():
    lab = Laboratory()
    method = lab.method("a", {"pull": 1.0}, {"pull": PULLS})
    worst = Selection("worst", "tuning", lambda trained, draw: -trained[1])
    runs, _ = lab.compare([method], 8, range(3), REPORT, halving=True, selections=[worst])
    chosen = {run.selection: run.setting["pull"] for run in runs if run.stage == "report"}
    pulls = [setting["pull"] for setting in trial_settings({"pull": PULLS}, 8)]
    assert chosen["tuned"] == min(pulls, key=lambda pull: abs(math.log(pull)))
    assert chosen["worst"] == max(pulls, key=lambda pull: abs(math.log(pull)))


@pytest.mark.parametrize("together", [False, True])
def test_halving_by_two_selections_makes_no_run_twice(together, tmp_path):
    lab = Laboratory()
    method = lab.method("a", {"pull": 1.0}, {"pull": PULLS})
    method = in_one_sweep(method, []) if together else method
    higher = Selection("higher", "tuning", lambda trained, draw: float(np.sin(1e4 * trained[1])))  # half of it shared
    lab.compare([method], 8, range(4), REPORT, halving=True, selections=[higher], store=RunStore(tmp_path))
    assert len(lab.trained) == len(set(lab.trained)) == len((tmp_path / "runs.jsonl").read_text().splitlines())


def test_progress_is_told_of_the_runs_of_a_sweep_that_was_cut_off(tmp_path):
    def compared(lab, **how):
        return lab.compare([in_one_sweep(lab.method("a", {"pull": 1.0}, {"pull": PULLS}), [])], **how)

    lab, told = Laboratory(), []
    compared(lab, store=RunStore(tmp_path))
    path = tmp_path / "runs.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:3]))
    compared(lab, store=RunStore(tmp_path), progress=told.append)
    assert len(told) == planned_runs([lab.method("a", {}, {"pull": PULLS})], 8, TUNING, REPORT)


@pytest.mark.parametrize("together", [False, True])
def test_runs_that_choose_are_made_once_and_scored_by_every_selection(together):
    lab, sweeps = Laboratory(best_in_folds=dict.fromkeys(REPORT, 3.0)), []
    pulls = [setting["pull"] for setting in trial_settings({"pull": PULLS}, 4)]
    method = lab.method("a", {"pull": pulls[1]}, {"pull": PULLS})
    method = in_one_sweep(method, sweeps) if together else method
    ways = [
        Selection("second", "tuning", lambda trained, draw: -abs(trained[1] - 0.7)),
        Selection("each", "draw", lambda trained, draw: trained[1]),
        Selection("oracle", "draw", lambda trained, draw: -trained[1], bound=True),
    ]
    runs, _ = lab.compare([method], 4, selections=ways)
    report = {way: [run for run in runs if run.selection == way] for way in ("tuned", "second", "each", "oracle")}
    assert all([run.seed for run in found] == REPORT for found in report.values())
    assert {run.trial for run in report["tuned"]} == {1}
    assert [run.trial for run in report["each"]] == [1, 1, 1]
    farthest = max(range(4), key=lambda trial: abs(math.log(pulls[trial] / pulls[1])))
    assert [run.trial for run in report["oracle"]] == [farthest] * 3
    assert {run.chosen_in for run in report["each"] + report["oracle"]} == {"draw"}
    chosen_by = [run for run in runs if run.stage == "draw"]
    assert len(chosen_by) == 4 * len(REPORT)
    assert all(run.scores["each"] == -run.scores["oracle"] == run.validation for run in chosen_by)
    tested = [(name, draw.seed) for name, draw, _ in lab.tested]
    assert len(tested) == len({(run.seed, run.trial) for run in runs if run.stage == "report"})
    trained = [entry for entry in lab.trained if entry[1].seed in TUNING]
    assert len(trained) == 4 * len(TUNING)


def test_runs_are_kept_where_another_machine_rounds_settings_otherwise(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    def rounded(run):
        return replace(run, setting={name: float(np.nextafter(value, 1)) for name, value in run.setting.items()})

    class Elsewhere(ThreadPoolExecutor):
        def submit(self, work, unit):
            return super().submit(lambda: [(rounded(run), arrays) for run, arrays in work(unit)])

    lab = Laboratory()
    with Elsewhere(1) as pool:
        for _ in range(2):
            lab.compare([lab.method("a", {"pull": 1.0}, {"pull": PULLS})], store=RunStore(tmp_path), executor=pool)
    assert len(lab.trained) == 8 * len(TUNING) + len(REPORT)


def test_units_may_be_made_elsewhere_and_the_result_is_the_same(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    def methods(lab):
        return [in_one_sweep(lab.method(name, {"pull": best}, {"pull": PULLS}), []) for name, best in BESTS.items()]

    BESTS = {"a": 1.0, "b": 10.0}
    here, there = Laboratory({10: 1.0, 11: 20.0, 12: 0.05}), Laboratory({10: 1.0, 11: 20.0, 12: 0.05})
    options = {"honest": ["a"], "contrasts": [("a", "b")]}
    expected = here.compare(methods(here), **options)
    with ThreadPoolExecutor(4) as pool:
        found = there.compare(methods(there), store=RunStore(tmp_path), executor=pool, **options)
    assert same_runs(found.runs, expected.runs)
    assert found.contrasts == expected.contrasts


def test_a_method_may_be_chosen_in_a_way_and_with_a_number_of_trials_of_its_own():
    lab, told = Laboratory(), []
    few = replace(lab.method("few", {"pull": 1.0}, {"pull": PULLS}), trials=2)
    many = lab.method("many", {"pull": 1.0}, {"pull": PULLS})
    own = Selection("own", "draw", lambda trained, draw: trained[1], ("few",))
    how = {"tuned": ["many"], "selections": [own]}
    runs, (contrast,) = lab.compare([few, many], 5, contrasts=[("few", "many")], progress=told.append, **how)
    assert len(told) == planned_runs([few, many], 5, TUNING, REPORT, **how) == (2 * 3 + 3) + (5 * 2 + 3)
    assert {run.stage for run in runs if run.method == "few"} == {"draw", "report"}
    assert {run.seed for run in runs if run.method == "few"} == set(REPORT)
    assert {run.selection for run in runs if run.stage == "report"} == {"tuned", "own"}
    assert all("own" in run.scores for run in runs if run.stage == "draw")
    assert not any(run.scores for run in runs if run.method == "many")
    tests = {
        name: [r.metrics["test"] for r in runs if (r.method, r.stage) == (name, "report")] for name in ("few", "many")
    }
    assert contrast.difference == pytest.approx(np.mean(np.subtract(tests["few"], tests["many"])))
    assert "few: draw, trial 2/2, draw 10" in told
    assert len(few.settings(1)) == 1  # fewer than others, never more


def test_a_method_that_no_selection_chooses_is_refused():
    lab = Laboratory()
    with pytest.raises(InputError, match="method 'a': no selection chooses its setting"):
        lab.compare([lab.method("a", {"pull": 1.0})], tuned=[])


def test_two_selections_of_one_name_are_refused():
    lab = Laboratory()
    with pytest.raises(InputError, match="selections: names are"):
        lab.compare([lab.method("a", {"pull": 1.0})], selections=[Selection("tuned", "draw")])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tuning": [0, 10]}, "draws: 10 would be used both to tune and to report"),
        ({"tuning": []}, "tuning draws: none"),
        ({"report": [10, 11, 10]}, "report draws: 10 is repeated"),
        ({"report": [10, -1]}, "report draws: -1 is negative"),
        ({"report": [10.5]}, "report draws: 'float' object"),
        ({"trials": 0}, "trials: 0"),
        ({"trials": 2.0}, "trials: 2.0"),
        ({"honest": ["b"], "folds": 1}, "folds: 1"),
        ({"honest": ["lp"]}, "honest: no method 'lp'"),
        ({"contrasts": [("a", "bb")]}, "contrasts: no method 'bb'"),
        ({"contrasts": [("a", "a")]}, "contrasts: a pair repeats"),
        ({"contrasts": [("a", "b"), ("b", "a")]}, "contrasts: a pair repeats"),
        ({"measure": ACCURACY._replace(margin=1.0)}, "margin of accuracy: 1.0"),
        ({"methods": []}, "methods: none"),
        ({"methods": ["a", "a"]}, "methods: 'a' is there twice"),
    ],
)
def test_wrong_plans_are_refused_before_anything_runs(change, message):
    lab = Laboratory()
    names = change.pop("methods", ["a", "b"])
    with pytest.raises(InputError) as refusal:
        lab.compare([lab.method(name, {"pull": 1.0}, {"pull": PULLS}) for name in names], **change)
    assert str(refusal.value).startswith(message)
    assert len(str(refusal.value).splitlines()) <= 2
    assert lab.trained == []


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ({"accuracy": 0.5}, "no metric 'test' among: accuracy"),
        ({"test": 71.3}, "test accuracy 71.3"),
        ({"test": 0.5, "pull": 1.0}, "the name 'pull' is taken"),
        ({"test": 0.5, "seconds": 1.0}, "the name 'seconds' is taken"),
    ],
)
def test_wrong_metrics_are_refused(metrics, message):
    method = Method("a", {"pull": PULLS}, lambda setting, draw: 0.5)
    with pytest.raises(InputError, match=message):
        compare([method], 2, [0], [1], validate=lambda t, d: t, test=lambda t, d: (metrics, {}))


# ---- replicates


def test_every_replicate_has_its_own_design_tuning_draws_and_choice_and_counts_once(tmp_path):
    """Where the best pull differs between replicates, each chooses its own; the contrast has as many pairs as they."""
    best = [0.3, 3.0, 10.0]

    def method(name, gain):
        def train(setting, draw):
            return 0.5 + gain - 0.01 * math.log(setting["pull"] / best[draw.replicate]) ** 2 + draw.seed / 1e4

        return Method(name, {"learning_rate": LEARNING_RATES, "pull": PULLS}, train)

    methods, store = [method("a", 0.1), method("b", 0.0)], RunStore(tmp_path)
    how = {"validate": lambda trained, draw: trained, "test": lambda trained, draw: ({"test": trained}, {"x": [1]})}
    asked = {"contrasts": [("a", "b")], "replicates": 3, "store": store, **how}
    runs, (contrast,) = compare(methods, 8, [0, 1], range(10, 16), **asked)
    assert len(runs) == 3 * 2 * (8 * 2 + 6)
    designs = [{run.setting["pull"] for run in runs if (run.replicate, run.stage) == (r, "tuning")} for r in range(3)]
    pairs = [
        {(run.setting["learning_rate"], run.setting["pull"]) for run in runs if run.replicate == r} for r in range(3)
    ]
    assert not any(designs[r] & designs[s] for r, s in itertools.combinations(range(3), 2))
    assert [len(found) for found in pairs] == [8, 8, 8]
    for replicate, pull in enumerate(best):
        found = {run.setting["pull"] for run in runs if (run.replicate, run.stage) == (replicate, "report")}
        nearest = min(designs[replicate], key=lambda tried, pull=pull: abs(math.log(tried / pull)))
        assert found == {nearest}
    assert (contrast.n, contrast.unit, contrast.verdict) == (3, "replicate", "helps")
    assert contrast.difference == pytest.approx(0.1, abs=1e-6)
    again = compare(methods, 8, [0, 1], range(10, 16), **asked | {"store": RunStore(tmp_path)})
    assert again.runs == runs
    alone = compare(methods, 8, [0, 1], range(10, 16), contrasts=[("a", "b")], **how)
    assert [run.setting for run in alone.runs] == [run.setting for run in runs if run.replicate == 0]


def test_pairs_made_on_several_kinds_of_device_are_named():
    laboratory = Laboratory()
    runs, _ = laboratory.compare([laboratory.method("a", HERE), laboratory.method("b", HERE)])
    assert len({run.device for run in runs}) == 1
    assert runs[0].device
    assert mixed_devices(runs) == []
    moved = [replace(run, device="H100") if (run.method, run.seed) == ("b", REPORT[1]) else run for run in runs]
    assert mixed_devices(moved) == [f"draw {REPORT[1]}: H100, {runs[0].device}"]
