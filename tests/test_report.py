"""The report on synthetic comparisons made by the real protocol: what is shown and written is what the runs say."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import subprocess
import sys
import zlib
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from jaxtl.errors import InputError, NotFinite
from jaxtl.protocol import Method, Range, Run, RunStore, compare, verdict_sentence
from jaxtl.protocol.results import compact
from jaxtl.report import Result, print_result, write_files
from jaxtl.report.plots import comparison, curves, trends
from jaxtl.report.tables import method_table, setting_in_words, setting_table

LEARNING_RATE, PULL = {"learning_rate": Range(0.004, 0.1)}, Range(0.03, 30.0)
# name: (accuracy at 20 per class, sd of what is its own in a draw, search)
METHODS = {
    "scratch": (0.448, 0.016, LEARNING_RATE | {"pull": PULL}),
    "features": (0.633, 0.008, LEARNING_RATE | {"pull/new": PULL}),
    "fine_tune": (0.657, 0.004, LEARNING_RATE),
    "l2": (0.659, 0.003, LEARNING_RATE | {"pull": PULL}),
    "l2_differential": (0.657, 0.005, LEARNING_RATE | {"pull/transferred": PULL, "pull/new": PULL}),
    "l2_sp": (0.660, 0.008, LEARNING_RATE | {"pull/source": PULL, "pull/new": PULL}),
    "lr_ratio": (0.669, 0.009, LEARNING_RATE | {"ratio": Range(0.01, 1.0)}),
    "lp_ft": (0.667, 0.010, LEARNING_RATE | {"head_learning_rate": Range(0.004, 0.1)}),
    "lp_l2_sp": (0.668, 0.010, LEARNING_RATE | {"head_learning_rate": Range(0.004, 0.1), "pull/source": PULL}),
    "joint": (0.655, 0.009, LEARNING_RATE | {"source_weight": Range(0.03, 3.0)}),
    "untuned": (0.631, 0.008, {}),
}
CONTRASTS = [
    ("l2_differential", "l2"),
    ("l2_sp", "l2_differential"),
    ("lr_ratio", "l2_differential"),
    ("lp_ft", "l2_sp"),
]
STEPS = np.arange(10, 151, 10)
HEADER = {"experiment": "toy", "data": "synthetic, 5 classes", "device": "2 CPU cores", "config": {"steps": 150}}


def toy_train(name, diverges=()):
    """Training that takes no time: an accuracy with a draw's share, the method's own share, and a best setting."""

    def train(setting, draw):
        if (name, draw.seed) in diverges and draw.fold is None:
            raise NotFinite("loss is nan at step 30")
        mean, own, _ = METHODS[name]
        rng = np.random.default_rng([zlib.crc32(name.encode()), draw.seed, 0 if draw.fold is None else 1 + draw.fold])
        shared = 0.012 * np.random.default_rng(draw.seed).standard_normal()
        lost = sum(0.004 * math.log10(value / 0.02) ** 2 for value in setting.values())
        if draw.fold is not None:  # 20 labelled examples left out: an accuracy in steps of 5 points
            rng, own = np.random.default_rng([draw.seed, draw.fold, hash(tuple(setting.values())) % 2**32]), 0.05
        noise = own * rng.standard_normal()
        return {"name": name, "setting": setting, "draw": draw, "accuracy": mean + shared + noise - 0.3 * lost}

    return train


def toy_arrays(trained):
    name, draw, best = trained["name"], trained["draw"], trained["accuracy"]
    rng = np.random.default_rng([zlib.crc32(name.encode()), draw.seed])
    done = STEPS / STEPS[-1]
    start = 0.2 if name == "scratch" else 0.35
    arrays = {
        "curve/step": STEPS,
        "curve/loss": 1.6 * np.exp(-(2 + rng.normal(0, 0.1)) * done) + 0.03 * rng.standard_normal(len(STEPS)),
        "curve/validation": start + (best - start) * (1 - np.exp(-5 * done)) + 0.005 * rng.standard_normal(len(STEPS)),
        "curve/norm/new": 1.0 + 2.0 * done**0.5 * (1 + 0.05 * rng.standard_normal()),
        "prediction": np.arange(50) % 5,
    }
    if name not in ("scratch", "features"):
        reach = 0.5 if name == "l2_sp" else 2.0
        arrays["curve/norm/transferred"] = 14.0 + 0.5 * done * (-1 if name == "l2" else 1)
        arrays["curve/distance/transferred"] = reach * done**0.7 * (1 + 0.1 * rng.standard_normal())
    return arrays


def toy_test(trained):
    name, setting = trained["name"], trained["setting"]
    metrics = {"test": trained["accuracy"], "train": 0.95, "effective_rate/new": 3.1e-3}
    if name not in ("scratch", "joint"):
        metrics |= {"source": 0.71 - 0.1 * trained["accuracy"], "effective_rate/transferred": 1.27e-4}
    metrics |= {key.replace("pull/", "lambda/"): value / 400 for key, value in setting.items() if "pull/" in key}
    if "pull" in setting:
        metrics |= {f"lambda/{label}": setting["pull"] / 400 for label in ("transferred", "new")}
    return metrics, toy_arrays(trained)


def toy_result(
    names=tuple(METHODS), draws=10, *, n=20, test=toy_test, diverges=(), honest=("features",), folder=None, **axes
):
    gain = {5: -0.08, 20: 0.0, 100: 0.07}[n]

    def shifted(trained, draw):
        return test(trained | {"accuracy": trained["accuracy"] + gain})

    store = RunStore(folder)
    methods = [Method(name, METHODS[name][2], toy_train(name, diverges)) for name in names]
    runs, contrasts = compare(
        methods, 8, [0, 1], range(100, 100 + draws), validate=lambda trained, draw: trained["accuracy"], test=shifted,
        honest=[name for name in honest if name in names], store=store,
        contrasts=[pair for pair in CONTRASTS if set(pair) <= set(names)],
    )  # fmt: skip
    axes = {"split": "0-4>5-9", "n_per_class": n} | axes
    return Result(f"classes 0-4 → 5-9, {n} per class", axes, runs, contrasts, store.arrays)


@pytest.fixture(scope="module")
def result():
    return toy_result()


@pytest.fixture(scope="module")
def folder(result, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    extra = {
        "notice": "CIFAR-10 was not found: these are digits",
        "command": "python -m experiments.toy",
        "minutes": 4.6,
    }
    written = write_files(folder, HEADER | extra, [result])
    assert written[-1] == folder / "summary.json", "its presence marks a finished run: it comes last"
    assert sorted(path for path in folder.rglob("*") if path.is_file()) == sorted(written), "nothing half-written stays"
    return folder


def strict_json(path):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def of_report(runs, method, selection="tuned"):
    return [run for run in runs if (run.stage, run.method, run.selection) == ("report", method, selection)]


def accuracies_of(runs, method, selection="tuned"):
    return np.array([run.metrics["test"] for run in of_report(runs, method, selection)])


def shown(result, width=None, **options):
    """What a console of a width shows; without one, what a log file gets."""
    text = io.StringIO()
    terminal = {} if width is None else {"force_terminal": True, "width": width, "color_system": None}
    print_result(result, Console(file=text, **terminal), **options)
    return text.getvalue()


def pixels(path):
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


# ---------------------------------------------------------------- files


def test_methods_in_summary_json_are_what_the_runs_say(result, folder):
    summary = strict_json(folder / "summary.json")
    assert [summary[key] for key in ("experiment", "data", "n_per_class", "device")] == [
        "toy",
        "synthetic, 5 classes",
        20,
        "2 CPU cores",
    ]
    assert [(m["name"], m["selection"]) for m in summary["methods"]] == [
        (name, kind) for name in METHODS for kind in ("tuned", "honest") if kind == "tuned" or name == "features"
    ]
    for method in summary["methods"]:
        runs = of_report(result.runs, method["name"], method["selection"])
        accuracies = np.array([run.metrics["test"] for run in runs])
        assert method["values"] == accuracies.tolist()
        assert method["seeds"] == list(range(100, 110))
        assert method["mean"] == pytest.approx(accuracies.mean())
        assert method["sd"] == pytest.approx(accuracies.std(ddof=1))
        assert method["seconds"] == pytest.approx(sum(run.seconds for run in runs))
        assert (method["split"], method["n_per_class"]) == ("0-4>5-9", 20)
        assert method["metrics"]["train"] == pytest.approx(np.mean([run.metrics["train"] for run in runs]))
        assert "test" not in method["metrics"]
        if method["setting"] is None:
            assert method["settings"] == [run.setting for run in runs]
        else:
            assert method["settings"] is None
            assert all(run.setting == method["setting"] for run in runs)
        assert set(method["edges"]) == {edge for run in runs for edge in run.edges}
    honest = next(method for method in summary["methods"] if method["selection"] == "honest")
    assert honest["setting"] is None, "ten draws choosing from noise do not agree"


def test_contrasts_in_summary_json_are_what_the_runs_say(result, folder):
    summary = strict_json(folder / "summary.json")
    assert [(c["a"], c["b"]) for c in summary["contrasts"]] == CONTRASTS
    for c in summary["contrasts"]:
        differences = accuracies_of(result.runs, c["a"]) - accuracies_of(result.runs, c["b"])
        half = 2.2621571628 * differences.std(ddof=1) / math.sqrt(10)  # t(9) at 97.5 %
        assert c["difference"] == pytest.approx(differences.mean())
        assert c["sd"] == pytest.approx(differences.std(ddof=1))
        assert c["ci95"] == pytest.approx([differences.mean() - half, differences.mean() + half])
        assert (c["n"], c["n_per_class"]) == (10, 20)
        assert c["p_holm"] >= c["p"]
        assert c["verdict"] in ("helps", "hurts", "no effect beyond ±1", "undecided")
    (price,) = summary["price_of_choosing"]
    lost = accuracies_of(result.runs, "features") - accuracies_of(result.runs, "features", "honest")
    assert (price["method"], price["difference"]) == ("features", pytest.approx(lost.mean()))


def test_runs_csv_has_a_row_per_run_and_the_axes(result, folder):
    with open(folder / "runs.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(result.runs)
    assert {(row["split"], row["n_per_class"]) for row in rows} == {("0-4>5-9", "20")}
    for row, run in zip(rows, result.runs, strict=True):
        assert (row["method"], row["stage"], int(row["seed"])) == (run.method, run.stage, run.seed)
        assert {name: float(row[name]) for name in run.setting} == run.setting
        assert {name: float(row[name]) for name in run.metrics} == run.metrics


def test_summary_md_is_ready_to_paste(result, folder):
    text = (folder / "summary.md").read_text(encoding="utf-8")
    assert text.startswith("# toy\n\n> **Note:** CIFAR-10 was not found: these are digits\n")
    for fact in ("synthetic, 5 classes", "2 CPU cores", "100–109 to report, 0–1 to choose", "Minutes: 4.6"):
        assert fact in text
    assert "`python -m experiments.toy`" in text
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    table = {row[0]: row for row in rows[2 : 2 + len(METHODS)]}
    assert rows[0] == ["method", "tuned", "honest", "− l2", "source", "train − test", "seconds"]
    for name in METHODS:
        accuracies = 100 * accuracies_of(result.runs, name)
        assert table[name][1] == f"{accuracies.mean():.1f} ± {accuracies.std(ddof=1):.1f}"
        difference = (accuracies - 100 * accuracies_of(result.runs, "l2")).mean()
        assert name == "l2" or float(table[name][3].split()[0].replace("−", "-")) == pytest.approx(
            difference, abs=0.005
        )
        assert table[name][5] == f"{95 - accuracies.mean():+.1f}"
    assert table["l2"][3] == "baseline"
    assert table["joint"][4] == "–", "joint did not measure source accuracy"
    for c in result.contrasts:
        assert verdict_sentence(c) in text
    pictures = re.findall(r"\]\((.*?)\)", text)
    assert pictures == [f"plots/{name}.png" for name in ("accuracy", "contrasts", "learning_curves", "movement")]
    assert all((folder / picture).is_file() for picture in pictures)


def test_pictures_are_pictures(folder):
    for path in sorted((folder / "plots").glob("*.png")):
        image = pixels(path)
        height, width, _ = image.shape
        assert (1000, 250) < (width, height) < (2200, 1600), path.name
        inked = (image < 250).any(axis=-1)
        assert 0.01 < inked.mean() < 0.6
        assert all(part.any() for part in np.array_split(inked, 4, axis=0) + np.array_split(inked, 4, axis=1))


def test_several_sizes_are_several_sections_and_one_trend(tmp_path):
    results = [toy_result(("l2", "l2_differential"), draws=3, n=n) for n in (100, 5, 20)]
    for result in results:
        result.runs[:] = [
            replace(run, arrays=()) for run in result.runs
        ]  # no curves: three pictures fewer to draw each
    write_files(tmp_path, HEADER, results)
    summary = strict_json(tmp_path / "summary.json")
    assert summary["n_per_class"] == [100, 5, 20]
    assert [method["n_per_class"] for method in summary["methods"]] == [100, 100, 5, 5, 20, 20]
    pictures = {
        "against_n_per_class",
        *(f"{kind}-n_per_class-{n}" for kind in ("accuracy", "contrasts") for n in (5, 20, 100)),
    }
    assert {path.stem for path in (tmp_path / "plots").iterdir()} == pictures
    text = (tmp_path / "summary.md").read_text(encoding="utf-8")
    assert all(f"plots/{picture}.png" in text for picture in pictures)
    assert [line for line in text.splitlines() if line.startswith("## ")] == [
        f"## {result.title}" for result in results
    ]


def test_one_draw_gives_null_and_no_interval(tmp_path):
    result = toy_result(("l2", "l2_differential"), draws=1, test=lambda trained: (toy_test(trained)[0], {}))
    write_files(tmp_path, HEADER, [result])
    summary = strict_json(tmp_path / "summary.json")
    assert summary["methods"][0]["sd"] is None
    assert summary["contrasts"][0]["ci95"] == [None, None]
    assert method_table(result, "l2").rows[0][1] == f"{100 * accuracies_of(result.runs, 'l2')[0]:.1f}"
    assert "one draw gives no interval" in shown(result)


def test_what_no_method_measured_has_no_column_and_no_sentence(tmp_path):
    result = toy_result(
        ("l2", "joint"), draws=2, test=lambda trained: ({"test": trained["accuracy"], "source": math.nan}, {})
    )
    write_files(tmp_path, HEADER, [result], baseline="l2")
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {"accuracy.png"}
    assert method_table(result, "l2").columns == ["method", "accuracy", "− l2", "seconds"]
    assert not re.search("one source model|Source:|Train", shown(result))
    assert strict_json(tmp_path / "summary.json")["methods"][0]["metrics"] == {"source": None}
    assert "‖w‖²" not in shown(result)


def test_what_json_cannot_hold_is_null_or_text(tmp_path, result):
    config = {"rate": math.inf, "shape": (2, np.int64(3)), "where": tmp_path, "mean": np.array([0.5, math.nan])}
    quick = replace(result, runs=of_report(result.runs, "l2"), contrasts=[], arrays=lambda run: {})
    quick.runs[:] = [replace(run, arrays=()) for run in quick.runs]
    write_files(tmp_path, HEADER | {"config": config}, [quick])
    read = strict_json(tmp_path / "summary.json")["config"]
    assert read == {"rate": None, "shape": [2, 3], "where": str(tmp_path), "mean": [0.5, None]}


def test_a_report_that_cannot_be_written_leaves_no_summary_json(tmp_path, result):
    quick = replace(result, runs=[replace(run, arrays=()) for run in of_report(result.runs, "l2")], contrasts=[])
    (tmp_path / "runs.csv").mkdir()  # in the way
    with pytest.raises(InputError, match=r"cannot be written.*\n.*run again"):
        write_files(tmp_path, HEADER, [quick])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plots", "runs.csv"]


def test_what_is_refused(tmp_path, result):
    with pytest.raises(InputError, match="no device, config"):
        write_files(tmp_path, {"experiment": "toy", "data": "toy"}, [result])
    with pytest.raises(InputError, match="no results"):
        write_files(tmp_path, HEADER, [])
    with pytest.raises(InputError, match="two results"):
        write_files(tmp_path, HEADER, [result, result])
    with pytest.raises(InputError, match="axis 'pull' is also another column"):
        replace(result, axes={"pull": 3})
    with pytest.raises(InputError, match="no report runs"):
        replace(result, runs=[run for run in result.runs if run.stage != "report"])
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- terminal


def test_a_log_file_gets_plain_lines(result):
    text = shown(result)
    assert not re.search("[\u2500-\u257f\x1b]", text), "no boxes, no colours"
    lines = text.splitlines()
    assert lines[0] == result.title
    for table in (method_table(result, "l2"), setting_table(result)):
        assert len(table.rows) == len(METHODS)
        for cells in (table.columns, *table.rows):
            assert any(re.split("  +", line) == cells for line in lines), "a row is a line, however long"
    for c in result.contrasts:
        assert any(line.strip().startswith(verdict_sentence(c)) for line in lines)
    assert "(subset, head initialisation, batch order, augmentation)" in text
    assert "other source models" in text


@pytest.mark.parametrize("width", [80, 100, 160])
def test_a_terminal_is_not_overrun(result, width):
    lines = shown(result, width).splitlines()
    assert max(map(len, lines)) <= width
    assert all(any(name in line for line in lines) for name in METHODS)
    assert "…" not in "".join(lines), "nothing is cut off"


def test_settings_are_words_with_lambdas_and_edges(result):
    def report_run(setting, edges=(), **metrics):
        return Run("m", "report", "tuned", 0, None, 0, setting, edges, metrics={"test": 0.5} | metrics)

    lams = {"lambda/transferred": 0.0031, "lambda/new": 0.011}
    run = report_run({"learning_rate": 0.0123, "pull/transferred": 1.25, "pull/new": 4.0}, ("pull/new>",), **lams)
    assert setting_in_words([run]) == "lr 0.012 · pull transferred 1.2 (λ 0.0031) · pull new 4.0 (λ 0.011) ▲"
    assert setting_in_words([report_run({"pull": 1.0}, **lams)]) == "pull 1.0 (λ 0.0031, 0.011)"
    assert setting_in_words([report_run({}, **lams)]) == "λ transferred 0.0031 · λ new 0.011"
    assert setting_in_words([report_run({})]) == "nothing to choose"
    low, high = report_run({"learning_rate": 0.01}, ("learning_rate<",)), report_run({"learning_rate": 0.1})
    assert setting_in_words([high, low]) == "lr 0.010 to 0.10 ▼"
    assert "each draw chose for itself: lr 0.0049 to" in shown(result)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (1e-4, "0.00010"),
        (9.99, "10.0"),
        (12345.6, "12346"),
        (2e6, "2e+06"),
        (-0.5, "−0.50"),
        (math.nan, "–"),
    ],
)
def test_compact_numbers(value, text):
    assert compact(value) == text


def test_a_run_that_diverged_is_told_and_does_not_squeeze_the_picture(tmp_path):
    result = toy_result(("l2", "l2_differential"), draws=4, diverges={("l2_differential", 101)})
    text = shown(result)
    assert "l2_differential, tuned: 1 of 4 draws, counted as accuracy 0" in text
    figure = comparison.by_method(result, "l2")
    (low, high), words = figure.axes[0].get_xlim(), [text.get_text() for text in figure.axes[0].texts]
    assert 50 < low < high < 80
    assert [word.endswith(", 1 diverged") for word in words] == [False, True]
    assert len(write_files(tmp_path, HEADER, [result])) == 7
    assert strict_json(tmp_path / "summary.json")["methods"][1]["diverged"] == 1


def test_everything_diverged():
    result = toy_result(("l2",), draws=2, diverges={("l2", 100), ("l2", 101)})
    assert "0.0 ± 0.0" in shown(result)
    assert comparison.by_method(result, "l2").axes[0].get_xlim() == (0, 100)


def test_a_baseline_that_was_not_run_is_told():
    result = toy_result(("fine_tune", "joint"), draws=2)
    assert "No differences to l2: it was not run." in shown(result)
    assert "baseline" in shown(result, baseline="joint")


def test_both_selections_have_both_columns():
    result = toy_result(("l2", "fine_tune"), draws=3, honest=("l2", "fine_tune"))
    table = method_table(result, "l2")
    assert table.columns[1:5] == ["tuned", "honest", "− l2", "− l2, honest"]
    difference = accuracies_of(result.runs, "fine_tune", "honest") - accuracies_of(result.runs, "l2", "honest")
    assert table.rows[1][4].startswith(f"{100 * difference.mean():+.2f}".replace("-", "−"))


# ---------------------------------------------------------------- pictures: what is drawn is what was measured


def test_accuracy_draws_every_draw(result):
    (axis,) = comparison.by_method(result, "l2").axes
    assert len(axis.collections) == len(METHODS) + 1
    assert [label.get_text() for label in axis.get_yticklabels()][:3] == ["scratch", "features", "features, honest"]
    for y, name in ((0, "scratch"), (4, "l2")):
        points = np.asarray(axis.collections[y].get_offsets())
        np.testing.assert_allclose(points[:, 0], 100 * accuracies_of(result.runs, name))
        assert np.all(np.abs(points[:, 1] - y) < 0.5)


def test_forest_draws_the_intervals(result):
    (axis,) = comparison.forest("Contrasts", result.contrasts, result.unit).axes
    bars = [line.get_xdata() for line in axis.lines if len(line.get_xdata()) == 2][1:]  # the first is the line at 0
    np.testing.assert_allclose(bars, [[100 * end for end in c.ci95] for c in result.contrasts])
    assert [text.get_text().split("  ")[1] for text in axis.texts] == [c.verdict for c in result.contrasts]


def test_curves_draw_each_draw_and_the_mean(result):
    figure = curves.figure(result, "l2", "Curves", curves.learning(result))
    panel = next(axis for axis in figure.axes if axis.get_title("left") == "l2_sp")
    losses = [result.arrays(run)["curve/loss"] for run in of_report(result.runs, "l2_sp")]
    np.testing.assert_allclose([line.get_ydata() for line in panel.lines[:10]], losses)
    np.testing.assert_allclose(panel.lines[10].get_ydata(), np.mean(losses, axis=0))
    assert panel.lines[11].get_linestyle() == ":"
    figure = curves.figure(result, "l2", "Movement", curves.movement(result))
    scratch = next(axis for axis in figure.axes if axis.get_title("left") == "scratch")
    assert [text.get_text() for text in scratch.texts] == ["not recorded"]


def all_is_seen(figure, quantity):
    first = next(axis for axis in figure.axes if axis.get_ylabel() == quantity)
    row = [axis for axis in figure.axes if axis.get_shared_y_axes().joined(first, axis)]
    low, high = first.get_ylim()
    drawn = np.concatenate([line.get_ydata() for axis in row for line in axis.lines])
    return len(row) > 1 and low <= drawn.min() and drawn.max() <= high


@pytest.mark.parametrize("worst", [0, -1])
def test_a_shared_scale_shows_the_curves_of_all_methods(result, worst):
    """Those of the first panel do not set it for the others."""

    def apart(run):
        arrays = result.arrays(run)
        factor = 0.5 if run.method == list(result.methods)[worst] else 1.0
        return arrays | {"curve/validation": factor * arrays["curve/validation"]}

    moved = replace(result, arrays=apart)
    assert all_is_seen(curves.figure(moved, "l2", "Curves", curves.learning(moved)), "validation accuracy, %")
    trend = trends.trends([toy_result(draws=3, n=n) for n in (5, 100)])[0]
    assert all_is_seen(trends.figure(trend, "l2"), "accuracy, %")


def test_curves_recorded_at_different_steps_have_no_mean(result):
    def uneven(run):
        arrays = result.arrays(run)
        return {name: array[: -1 if run.seed == 100 else None] for name, array in arrays.items()}

    quick = replace(result, runs=of_report(result.runs, "l2"), contrasts=[], arrays=uneven)
    figure = curves.figure(quick, "l2", "Curves", curves.learning(quick))
    assert [len(line.get_xdata()) for line in figure.axes[0].lines] == [14, *[15] * 9, 0]


def test_trends_are_drawn_against_the_axis():
    names = ("l2", "joint")
    results = [toy_result(names, draws=3, n=n, source_examples=m) for n, m in ((20, 2500), (5, 2500), (20, 25000))]
    found = {(trend.axis, *trend.others.items()): trend for trend in trends.trends(results)}
    assert list(found) == [("n_per_class", ("source_examples", 2500)), ("source_examples", ("n_per_class", 20))]
    first = next(iter(found.values()))
    assert first.title == "Accuracy against labelled examples per class, source examples: 2500"
    figure = trends.figure(first, "l2")
    panels = [axis for axis in figure.axes if axis.axison]
    accuracy = next(axis for axis in panels if axis.get_title("left") == "joint")
    drawn = accuracy.lines[1]  # the first is l2 in grey
    np.testing.assert_allclose(drawn.get_xdata(), [5, 20])
    np.testing.assert_allclose(
        drawn.get_ydata(), [100 * accuracies_of(results[i].runs, "joint").mean() for i in (1, 0)]
    )
    assert accuracy.get_xscale() == "log"
    assert any(text.get_text() == "baseline" for axis in panels for text in axis.texts)


def test_matplotlib_comes_late_without_pyplot_and_stays_as_it_was():
    code = """
import io, sys
from jaxtl.report.plots import style
assert not {"matplotlib", "scipy"} & sys.modules.keys()
import matplotlib
before = {name: matplotlib.rcParams[name] for name in style.SETTINGS}
with style.styled():
    style.new_figure(2, 1, "title").savefig(io.BytesIO(), format="png")
assert "matplotlib.pyplot" not in sys.modules
assert before == {name: matplotlib.rcParams[name] for name in style.SETTINGS} != style.SETTINGS
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
