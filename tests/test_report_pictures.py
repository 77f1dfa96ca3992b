"""Whatever names a picture holds: nothing is cut off, nothing is a box, no axis of accuracies leaves 0 to 100 %."""

import unicodedata
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.text import Text

from jaxtl.protocol import ACCURACY, Run, paired
from jaxtl.report import Plot, Result, Section, Table, Truth, write_sections
from jaxtl.report.files import write_files
from jaxtl.report.plots import glyphs
from jaxtl.report.plots.comparison import by_method, finished, forest
from jaxtl.report.plots.confusions import confusion_maps
from jaxtl.report.plots.curves import Quantity
from jaxtl.report.plots.curves import figure as draw
from jaxtl.report.plots.kept import against_source
from jaxtl.report.plots.maps import Map, heat_maps
from jaxtl.report.plots.paths import coefficient_paths
from jaxtl.report.plots.searches import Ground, labellings, ways
from jaxtl.report.plots.style import legend_outside, new_figure, styled
from jaxtl.report.plots.tasks import per_task, weights_and_cosines
from jaxtl.report.plots.trends import Trend
from jaxtl.report.plots.trends import figure as draw_trend

HARD = {
    "Chinese": ("猫", "卡车"),
    "Arabic": ("قطة", "شاحنة"),
    "Hebrew": ("חתול", "משאית"),
    "Hindi": ("बिल्ली", "ट्रक"),
    "emoji": ("🦤", "👩‍🚀"),
    "mathtext": ("$x", r"$\frac{1}{2}$"),
    "underscore": ("_hidden", "__also__"),
    "control": ("a\x1b[31mb", "c\u202ed"),
    "surrogate": ("\ud800", "x\x00y"),
    "long": ("a name that goes on and on, longer than any axis", "w" * 60),
}
HEADER = {"experiment": "toy", "data": "synthetic", "device": "none", "config": {"preset": "smoke"}}


def runs_of(method, values, arrays=(), **metrics):
    return [
        Run(method, "report", "tuned", seed, None, 0, {}, metrics={"test": value} | metrics, arrays=arrays)
        for seed, value in enumerate(values)
    ]


def words_of(figure):
    return [text.get_text() for text in figure.findobj(Text) if text.get_visible() and text.get_text()]


def cut_off(figure):
    """The texts that reach beyond their figure once it is drawn."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    width, height = figure.bbox.size
    found, unseen = [], set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            unseen |= {tick.label1 for tick in axis.get_major_ticks() if not low <= tick.get_loc() <= high}
    for text in set(figure.findobj(Text)) - unseen:
        if text.get_visible() and text.get_text() and (text.axes is None or text.axes.axison):
            box = text.get_window_extent(renderer)
            if box.x0 < -1 or box.y0 < -1 or box.x1 > width + 1 or box.y1 > height + 1:
                found.append(text.get_text())
    return found


def confusion_of(names):
    return confusion_maps(f"{', '.join(names)} → {names[0]}; 20 labelled examples per class", names, {"a": [np.eye(2)]})


# ---------------------------------------------------------------- names


@pytest.mark.parametrize("names", HARD.values(), ids=HARD)
def test_no_name_is_a_box_and_all_are_told_apart(names, tmp_path):
    """Warnings are errors: a glyph that is missing would raise."""
    truth = Truth(np.array([0, 1, 1]), names)
    runs = runs_of("l2", [0.5, 0.6], ("prediction",))
    result = Result(f"{names[0]}, {names[1]}; 5", {}, runs, [], lambda run: {"prediction": truth.labels}, truth=truth)
    write_files(tmp_path, HEADER, [result])
    text = (tmp_path / "summary.md").read_text(encoding="utf-8")
    assert text.startswith("# toy")
    (drawn,), key = finished([Plot("confusion", "", lambda: confusion_of(names))], "")
    labels = [label.get_text() for label in drawn.figure().axes[0].get_yticklabels()]
    assert len(set(labels)) == 2
    for number in key.values():
        assert f"\n- {number} " in text, "what the number stands for is told"
    for label, name in zip(labels, names, strict=True):
        assert label in key.values() or label.strip("\u2067\u2069")[:10] in glyphs.printable(name) + "\u200d"


def test_what_a_font_has_is_drawn_and_what_none_has_is_numbered_once():
    key: dict[str, str] = {}
    with styled():
        figure = new_figure(4, 2, "猫 and naïve λ → 猫, 犬; $5")
        figure.subplots().set_xticks([0, 1], ["犬", "Ünïcödé"])
        glyphs.fit_to_fonts(figure, key)
    lacking = {word: number for word, number in (("猫", "[1]"), ("犬", "[2]")) if glyphs._family(word) is None}
    if len(lacking) == 2:  # no CJK font here
        assert key == {"犬": "[1]", "猫": "[2]"}
        assert figure.get_suptitle() == "[2] and naïve λ → [2], [1]; $5"
        assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["[1]", "Ünïcödé"]


def test_another_font_at_hand_is_taken(monkeypatch):
    """STIX has signs that DejaVu lacks: matplotlib brings both."""
    sign = next(c for c in map(chr, range(0x2100, 0x2C00)) if glyphs._family(c) not in (None, glyphs.FIRST))
    with styled():
        figure = new_figure(3, 1, f"a {sign} b")
        glyphs.fit_to_fonts(figure, {})
        (title,) = [text for text in figure.findobj(Text) if text.get_text() == f"a {sign} b"]
        assert title.get_fontfamily() == [glyphs.FIRST, glyphs._family(sign)]
        assert not cut_off(figure)


def test_scripts_that_an_old_matplotlib_sets_wrongly_are_numbered(monkeypatch):
    monkeypatch.setattr(glyphs, "_shapes", lambda: False)
    key: dict[str, str] = {}
    assert glyphs._fitted("قطة → dog", key) == "[1] → dog"
    assert key == {"قطة": "[1]"}


@pytest.mark.skipif(not glyphs._shapes(), reason="needs a matplotlib that sets text from right to left")
def test_what_runs_from_right_to_left_turns_nothing_around_it():
    fitted = glyphs._fitted("قطة, كلب → 5; 20 per class", {})
    assert fitted == "\u2067قطة, كلب\u2069 → 5; 20 per class"


def test_every_shown_character_has_a_family_or_a_number():
    rng = np.random.default_rng(0)
    for _ in range(30):
        text = "".join(map(chr, rng.integers(1, 0x1FFFF, 8)))
        fitted = glyphs._fitted(text, {})
        assert all(glyphs._family(c) for c in fitted), unicodedata.name(text[0], "?")


# ---------------------------------------------------------------- edges


WIDE = [f"a criterion with a long name, number {k}" for k in range(9)]


def curves_result(names):
    arrays = {"curve/step": np.arange(3)} | {f"curve/weight/{name}": np.ones(3) for name in names}
    return Result("toy", {}, runs_of("mgda", [0.5, 0.6], tuple(arrays)), [], lambda run: arrays)


def pictures():
    grid = np.geomspace(0.01, 100, 3)
    cells = {name: [(0, 1)] for name in WIDE}
    one = Map("l2", "pull", grid, grid, np.linspace(0, 1, 9).reshape(3, 3), cells)
    title = "Which of these, and how often: a, b, c, d, e, f, … (100 in all); 5 labelled examples per class"
    ground = Ground("λ", "rate", grid, grid, np.arange(9.0).reshape(3, 3))
    searched = {name: np.ones((2, 2)) for name in WIDE[:4]}
    sure = Result(title, {}, runs_of("l2", [0.99, 0.97, 1.0]) + runs_of("method_with_a_long_name", [0.5] * 3), [], None)
    both = [
        run for name in WIDE for run in runs_of(name, [0.5, 1.0 - 0.01 * len(name)], source=0.99 - 0.01 * len(name))
    ]
    several = [replace(sure, axes={"n": n}) for n in (1, 2)]
    rows = [{"block 0": "new", "head": "new"}, {"block 0": "frozen", "head": "new"}]
    tasks = runs_of("equal_l2", [0.98, 1.0], **{"test/left": 0.99, "test/right": 1.0})
    return {
        "weights": lambda: weights_and_cosines(curves_result(WIDE[:6]), title),
        "maps": lambda: heat_maps(title, [one, one._replace(accuracy=one.accuracy / 2)]),
        "accuracy": lambda: by_method(sure, "l2"),
        "kept": lambda: against_source(Result(title, {}, both, [], None), WIDE[0]),
        "trend": lambda: draw_trend(Trend("n", {}, several), "l2"),
        "ways": lambda: ways(title, ground, searched),
        "labellings": lambda: labellings(title, ["block 0", "head"], rows, np.array([[0.99, 1.0], [0.5, 0.6]]), 0, 1),
        "paths": lambda: coefficient_paths(title, grid, {"L1": np.eye(3)}, dict.fromkeys(WIDE[:3], "group")),
        "tasks": lambda: per_task(
            Result(title, {}, tasks, [], None),
            ("left", "right"),
            title,
            "%",
            "equal_l2",
            "_l2",
            {"left": 0.1, "right": 0.5},
        ),
        "confusion": lambda: confusion_maps(title, WIDE, {"l2 (baseline)": [np.eye(9)], "best": [np.eye(9)]}),
    }


@pytest.mark.parametrize("name", pictures())
def test_nothing_is_cut_off(name):
    (plot,), _ = finished([Plot(name, "", pictures()[name])], "smoke")
    with styled():
        assert cut_off(plot.figure()) == []


@pytest.mark.parametrize("name", ["accuracy", "kept", "trend", "labellings", "tasks"])
def test_accuracies_end_at_100(name):
    with styled():
        figure = pictures()[name]()
    limits = [axis.get_xlim() for axis in figure.axes if "%" in axis.get_xlabel()]
    limits += [axis.get_ylim() for axis in figure.axes if axis.get_ylabel() == "accuracy, %"]
    assert limits
    assert all(low >= 0 and high <= 100 for low, high in limits)
    assert name == "kept" or any(high == 100 for _, high in limits)


def crosses(one, other):
    """Whether two segments have a point in common, by the sides on which their ends lie."""

    def side(a, b, c):
        return np.sign((b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]))

    return side(*one, other[0]) != side(*one, other[1]) and side(*other, one[0]) != side(*other, one[1])


def test_a_point_per_method_and_no_line_to_a_name_crosses_another():
    rng = np.random.default_rng(0)
    kept = {f"method {k}": (rng.uniform(0.6, 0.9), rng.choice([0.8, rng.uniform(0.4, 0.7)])) for k in range(20)}
    runs = [run for name, (x, y) in kept.items() for run in runs_of(name, [x, x + 0.02], source=y)]
    runs += runs_of("scratch", [0.5, 0.6])  # nothing was transferred
    with styled():
        figure = against_source(Result("toy", {}, runs, [], None), "method 3")
    (axis,) = figure.axes
    points = [tuple(line.get_xydata()[0]) for line in axis.lines if line.get_marker() == "o"]
    np.testing.assert_allclose(points, [(100 * (x + 0.01), 100 * y) for x, y in kept.values()])
    low, high = np.transpose([axis.get_xlim(), axis.get_ylim()])
    lines = [((np.array(text.xy) - low) / (high - low), np.array(text.xyann)) for text in axis.texts]
    assert [text.get_text() for text in axis.texts] == list(kept)
    assert len({tuple(end) for _, end in lines}) == len(kept)
    assert not any(crosses(a, b) for k, a in enumerate(lines) for b in lines[:k])


def test_differences_end_at_100():
    family = [paired("a", "b", [0.9, -0.9, 0.1])]
    assert family[0].ci95[0] < -1
    with styled():
        assert forest("toy", family, "draw").axes[0].get_xlim() == (-100, 100)


def test_validation_accuracy_ends_at_100():
    arrays = {"curve/step": np.arange(3), "curve/validation": np.array([0.2, 0.99, 1.0])}
    result = Result("toy", {}, runs_of("l2", [0.5, 0.6], tuple(arrays)), [], lambda run: arrays)
    with styled():
        figure = draw(result, "l2", "title", [Quantity("validation accuracy, %", {"": "curve/validation"}, ACCURACY)])
    assert figure.axes[0].get_ylim()[1] == 100


def test_a_legend_takes_as_many_columns_as_fit():
    from matplotlib.lines import Line2D

    names = [f"an entry of some length, number {k}" for k in range(7)]
    with styled():
        for width, columns in ((30, 7), (6, 2), (2, 1)):
            figure = new_figure(width, 3, "title")
            legend_outside(figure, [Line2D([], []) for _ in names], names)
            assert figure.legends[0]._ncols == columns


def test_all_maps_have_one_scale_and_a_bar_that_says_so():
    with styled():
        figure = pictures()["maps"]()
    first, second, bar = figure.axes
    assert first.images[0].get_clim() == second.images[0].get_clim() == (0, 100)
    assert bar.get_ylabel() == "mean accuracy, %; one scale for all panels"
    flat = Map("l2", "pull", np.ones(1), np.ones(1), np.ones((1, 1)), {})
    with styled():
        low, high = heat_maps("title", [flat]).axes[0].images[0].get_clim()
    assert (low, high) == (99, 100)


# ---------------------------------------------------------------- a check, and what names mean


@pytest.mark.parametrize(("preset", "said"), [("smoke", True), ("full", False), ("", False)])
def test_smoke_numbers_are_a_check_wherever_they_are_shown(preset, said, tmp_path):
    from io import StringIO

    from rich.console import Console

    from jaxtl.report import print_result, print_section

    header = HEADER | {"config": {"preset": preset}}
    result = Result("toy", {}, runs_of("l2", [0.5, 0.6]), [], lambda run: {})
    section = Section(
        "Part", [Table(["name"], [["l2"]])], ["a line"], [Plot("p", "", lambda: new_figure(3, 2, "Seen"))]
    )
    shown = StringIO()
    print_result(result, Console(file=shown), preset=preset)
    print_section(Console(file=shown), section, preset)
    write_files(tmp_path / "a", header, [result])
    write_sections(tmp_path / "b", header, {}, [section])
    texts = [shown.getvalue(), *((tmp_path / part / "summary.md").read_text(encoding="utf-8") for part in "ab")]
    (plot,), _ = finished(section.plots, preset)
    for text, heads in zip(
        [*texts, plot.figure().get_suptitle()], (("toy", "Part"), ("toy",), ("Part",), ("Seen",)), strict=True
    ):
        for head in heads:
            assert (f"{head} (a check, not a result)" in text) == said


def test_a_summary_says_what_its_methods_are_and_only_those(tmp_path):
    header = HEADER | {"glossary": {"l2": "one pull towards 0", "l2_sp": "towards the source", "Part": "of it"}}
    header["glossary"] |= {"slow": "l2, but slower"}
    result = Result("toy", {}, runs_of("l2", [0.5, 0.6]), [], lambda run: {})
    write_files(tmp_path / "a", header, [result])
    write_sections(tmp_path / "b", header, {}, [Section("Part, 5", [Table(["name"], [["l2_sp"]])])])
    ends = [(tmp_path / part / "summary.md").read_text(encoding="utf-8").partition("## Names\n\n")[2] for part in "ab"]
    write_files(tmp_path / "c", header, [replace(result, runs=runs_of("slow", [0.5, 0.6]))])
    ends.append((tmp_path / "c" / "summary.md").read_text(encoding="utf-8").partition("## Names\n\n")[2])
    assert ends.pop() == "- l2: one pull towards 0\n- slow: l2, but slower\n"
    assert ends == ["- l2: one pull towards 0\n", "- l2_sp: towards the source\n- Part: of it\n"]
