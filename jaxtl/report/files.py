"""The files of a finished run: pictures, runs.csv, summary.md, and last of all summary.json."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from jaxtl import files
from jaxtl.errors import InputError
from jaxtl.protocol import Contrast, Run, Summary, price_of_choosing, to_csv
from jaxtl.protocol.results import Result, headed, slug, varying
from jaxtl.report.plots.comparison import Plot, finished, plots_across, plots_of
from jaxtl.report.plots.style import styled
from jaxtl.report.tables import method_table, notes, setting_table
from jaxtl.text import code, markdown

REQUIRED = ("experiment", "data", "device", "config")


def write_files(
    workdir: Path | str, header: Mapping[str, Any], results: Sequence[Result], baseline: str = "l2"
) -> list[Path]:
    """Write plots/*.png, runs.csv, summary.md and, since it marks a finished run, summary.json at the end.

    In summary.json the measure, differences, their sd, ci95 and "detectable" are as computed: of an accuracy fractions
    (0.01 is one point). Seconds
    are seconds, and a number that does not exist (the sd of one draw) is null. "seconds" of a method is the training of
    its report runs, "choosing_seconds" that of the runs its setting was chosen by. "setting" is null where draws chose
    different ones; then "settings" has one per draw. "metrics" are means over draws.

    Args:
        workdir: where; created if need be. Every file appears whole or not at all.
        header: at least "experiment", "data" (in words), "device" and "config"; "notice" (shown at the top), "command",
            "versions", "minutes" and whatever else is worth keeping in summary.json.
        results: one for each problem, which differ in their axes.
        baseline: the method that the others are compared with.

    Returns:
        The files, in the order in which they were written.

    Raises:
        InputError: a key of the header is missing, there are no results or two with the same axes, or the directory
            cannot be written.
    """
    _check(header, results)
    axes = varying(results)
    of_results = [plots_of(result, baseline, axes) for result in results]
    across = plots_across(results, baseline)
    plots, key = finished([*across, *(plot for plots in of_results for plot in plots)], preset_of(header))
    text = _markdown(header, results, baseline, across, of_results)
    shown = {method for result in results for method in result.methods}
    text = "\n\n".join([text.rstrip("\n"), *names_in_words(header, shown, key)]) + "\n"
    return write_report(workdir, plots, text, _summary(header, results), _with_axes(results))


def write_report(
    workdir: Path | str, plots: Sequence[Plot], text: str, numbers: Mapping[str, Any], runs: Sequence[Run] = ()
) -> list[Path]:
    """Write plots/*.png, runs.csv where there are runs, summary.md and at the end summary.json, each file whole.

    Args:
        workdir: where; created if need be.
        plots: the pictures.
        text: of summary.md.
        numbers: of summary.json; what JSON does not know is made fit: NaN is null.
        runs: of `compare`.

    Returns:
        The files, in the order in which they were written.

    Raises:
        InputError: the directory cannot be written.
    """
    workdir = Path(workdir)
    written = [_write_plot(workdir / _place(plot), plot) for plot in plots]
    if runs:
        written.append(to_csv(runs, workdir / "runs.csv"))
    written.append(files.write(workdir / "summary.md", text))
    as_json = json.dumps(_strict(numbers), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    return [*written, files.write(workdir / "summary.json", as_json)]


def _check(header: Mapping[str, Any], results: Sequence[Result]) -> None:
    missing = [key for key in REQUIRED if key not in header]
    if missing:
        raise InputError(f"no {', '.join(missing)}", where="header of the report", todo=f"give {', '.join(REQUIRED)}")
    if not results:
        raise InputError("no results", where="report", todo="hand over at least one Result")
    places = [slug(result.axes) for result in results]
    for place in places:
        if places.count(place) > 1:
            what = f"two results would be called '{place.lstrip('-')}'"
            raise InputError(what, where="report", todo="give each result axes of its own")


def _summary(header: Mapping[str, Any], results: Sequence[Result]) -> dict[str, Any]:
    sizes = list(dict.fromkeys(result.axes["n_per_class"] for result in results if "n_per_class" in result.axes))
    first = {"experiment": header["experiment"], "data": header["data"]}
    first["n_per_class"] = sizes[0] if len(sizes) == 1 else sizes or None
    return {
        **first,
        **header,
        "methods": [_method(summary, result) for result in results for summary in result.summaries.values()],
        "guessing": [
            {**result.axes, "majority": result.truth.majority, "chance": result.truth.chance}
            for result in results
            if result.truth is not None
        ],
        "contrasts": [{**result.axes, **contrast_figures(c)} for result in results for c in result.contrasts],
        "price_of_choosing": [
            {**result.axes, "method": method, **_price(c)}
            for result in results
            for method, c in price_of_choosing(result.runs, measure=result.measure).items()
        ],
    }


def _method(summary: Summary, result: Result) -> dict[str, Any]:
    return {
        "name": summary.method,
        "selection": summary.selection,
        **result.axes,
        "setting": summary.setting,
        "settings": None if summary.setting is not None else summary.settings,
        "edges": summary.edges,
        "measure": result.measure.name,
        "mean": summary.mean,
        "sd": summary.sd,
        "values": summary.values,
        "balanced_accuracy_mean": result.balanced[summary.method, summary.selection],
        "seeds": summary.seeds,
        "diverged": summary.diverged,
        "seconds": summary.seconds,
        "choosing_seconds": summary.choosing_seconds,
        "metrics": {name: value for name, value in summary.metrics.items() if name != "test"},
    }


def contrast_figures(c: Contrast) -> dict[str, Any]:
    """What summary.json keeps of a contrast."""
    return asdict(c) | {"measure": c.measure.name}


def _price(c: Contrast) -> dict[str, Any]:
    """tuned − honest: an estimate, without the verdict and the correction of a family of contrasts."""
    return {name: value for name, value in contrast_figures(c).items() if name not in ("a", "b", "p_holm", "verdict")}


def _with_axes(results: Sequence[Result]) -> list[Run]:
    """All runs, the axes of their result in front of their hyperparameters: both become columns."""
    return [
        replace(run, setting=cast(dict[str, float], {**result.axes, **run.setting}))
        for result in results
        for run in result.runs
    ]


def _markdown(
    header: Mapping[str, Any],
    results: Sequence[Result],
    baseline: str,
    across: Sequence[Plot],
    of_results: Sequence[Sequence[Plot]],
) -> str:
    parts = beginning(header, _draws(results))
    parts += [picture(plot) for plot in across]
    for result, plots in zip(results, of_results, strict=True):
        parts += [
            f"## {markdown(headed(result.title, preset_of(header)))}",
            method_table(result, baseline).markdown(),
            setting_table(result).markdown(),
        ]
        for note in notes(result, baseline):
            said = [markdown(line) for line in note.lines]
            lines = "\n".join(f"- {line}" for line in said)
            parts.append(f"**{markdown(note.heading)}**\n\n{lines}" if note.heading else " ".join(said))
        parts += [picture(plot) for plot in plots]
    return "\n\n".join(parts) + "\n"


def beginning(header: Mapping[str, Any], draws: str = "") -> list[str]:
    """The name of an experiment, what there is to know of its data, and what it ran on; parts of a page in Markdown."""
    notice = [f"> **Note:** {markdown(header['notice'])}"] if header.get("notice") else []
    return [f"# {markdown(header['experiment'])}", *notice, _facts(header, draws)]


def _facts(header: Mapping[str, Any], draws: str) -> str:
    """What a run ran on, a Markdown list."""
    entries = {
        "Data": markdown(header["data"]),
        "Device": markdown(header["device"]),
        "Draws": draws,
        "Versions": markdown(", ".join(f"{name} {version}" for name, version in header.get("versions", {}).items())),
        "Minutes": f"{header['minutes']:.1f}" if "minutes" in header else "",
        "Command": code(header["command"]) if "command" in header else "",
    }
    return "\n".join(f"- {name}: {entry}" for name, entry in entries.items() if entry)


def preset_of(header: Mapping[str, Any]) -> str:
    return str(header["config"].get("preset", ""))


def names_in_words(header: Mapping[str, Any], shown: Collection[str], key: Mapping[str, str]) -> list[str]:
    """The end of a summary: what the names in its tables mean, and those that no font could draw in its pictures.

    Args:
        header: "glossary" has a line for every name.
        shown: the names that occur.
        key: word -> what stands for it in the pictures.
    """
    parts, glossary = [], header.get("glossary", {})
    others = {line.partition(",")[0] for name, line in glossary.items() if name in shown}  # "l2, but slower"
    if meanings := {name: line for name, line in glossary.items() if name in {*shown, *others}}:
        parts += ["## Names", "\n".join(f"- {markdown(name)}: {markdown(line)}" for name, line in meanings.items())]
    if key:
        lines = [f"- {markdown(number)} {markdown(word)}" for word, number in key.items()]
        parts += ["## Numbers in the pictures, for words that no font here can draw", "\n".join(lines)]
    return parts


def _draws(results: Sequence[Result]) -> str:
    seeds = sorted({seed for result in results for summary in result.summaries.values() for seed in summary.seeds})
    tuning = sorted({run.seed for result in results for run in result.runs if run.stage == "tuning"})
    return f"{_spans(seeds)} to report" + (f", {_spans(tuning)} to choose" if tuning else "")


def _spans(seeds: Sequence[int]) -> str:
    """Sorted seeds in short.

    Example:
        >>> _spans([0, 1, 100, 101, 102, 7000])
        '0–1, 100–102, 7000'
    """
    starts = [seed for seed in seeds if seed - 1 not in seeds]
    ends = [seed for seed in seeds if seed + 1 not in seeds]
    return ", ".join(str(a) if a == b else f"{a}–{b}" for a, b in zip(starts, ends, strict=True))


def _place(plot: Plot) -> str:
    return f"plots/{plot.name}.png"


def picture(plot: Plot) -> str:
    return f"![{markdown(plot.caption)}]({_place(plot)})"


def _write_plot(path: Path, plot: Plot) -> Path:
    return files.write(path, png(plot))


def png(plot: Plot) -> bytes:
    """A picture, drawn."""
    with styled():
        content = io.BytesIO()
        plot.figure().savefig(content, format="png")
    return content.getvalue()


def _strict(value: Any) -> Any:
    """A value as strict JSON has it: NaN and infinities are null, tuples are lists, paths are text."""
    if isinstance(value, Mapping):
        return {str(key): _strict(entry) for key, entry in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _strict(value.tolist())
    if isinstance(value, list | tuple):
        return [_strict(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value
