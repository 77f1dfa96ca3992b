"""Methods that carry a source over to a target without labels, and what validators that see no target label cost."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from jaxtl.methods.domain.recipes import BASELINE, BOUND, DomainConfig
from jaxtl.problems.adaptation import ORACLE, VALIDATORS, Adaptation
from jaxtl.protocol import Contrast, paired, study, verdict_sentence
from jaxtl.protocol.results import Result, number, points, slug
from jaxtl.report.cells import percent
from jaxtl.report.page import Page, Section, print_data, print_plan
from jaxtl.report.plots.comparison import Plot, plots_of
from jaxtl.report.plots.confusions import confusion_maps
from jaxtl.report.plots.domains import Value, adaptation, embeddings
from jaxtl.report.tables import CONTRASTS_FIXED, DASH, Table, method_table, notes, repeated
from jaxtl.report.tasks import figures_of
from jaxtl.selection import kendall


def compare_pairs(
    config: DomainConfig, problems: Mapping[str, Adaptation], workdir: Path, console: Console
) -> tuple[Page, dict[str, Result]]:
    """Every problem's methods and validators compared, as sections of one page.

    Args:
        config: which rows, chosen by what.
        problems: by the word that tells one from the other, and that its runs are kept under.
        workdir: of the run.
        console: where it is told.

    Returns:
        (the page, results by the same words).
    """
    contrasts = [(name, BASELINE) for name in config.compared if name != BASELINE]
    print_plan(console, config.replicates, len(contrasts), "replicate")
    page, results = Page(console, getattr(config, "preset", "")), dict[str, Result]()
    for word, problem in problems.items():
        print_data(console, source=problem.source, target=problem.target)
        ways = problem.selections(config.compared, config.validator)
        how: dict[str, Any] = {"methods": config.methods, "selections": ways}
        result = study(problem, config.rows, workdir / word, contrasts, {"pair": problem.title}, **how)
        section, figures = gains_section(result, BASELINE, config.validator, BOUND, [*VALIDATORS])
        page.add(section, {f"methods: {result.title}": figures})
        section, figures = validators_section(result, BASELINE, [*VALIDATORS])
        page.add(section, {f"validators: {result.title}": figures})
        results[word] = result
    return page, results


def gains_section(
    result: Result, baseline: str, validator: str, bound: str, validators: Sequence[str]
) -> tuple[Section, dict[str, Any]]:
    """A row for each method: accuracy as a validator chooses, its gain, and beside it what the oracle would have.

    Args:
        result: a study whose methods were chosen by all validators and the oracle; the bound by the oracle alone.
        baseline: the method that gains are over.
        validator: fixed beforehand, what the headline is chosen by.
        bound: the method that was told target labels.
        validators: all of them, for the picture.

    Returns:
        (the section, by method its figures).
    """
    rows, figures = [], {}
    for method in result.methods:
        told = method == bound
        headline = result.summaries[method, ORACLE if told else validator]
        gain = result.difference(method, baseline)
        figures[method] = {
            "test": None if told else headline.values,
            "bound": result.summaries[method, ORACLE].values,
            "gain": None if gain is None or told else gain.difference,
            "ci95": None if gain is None or told else gain.ci95,
            "a_distance": headline.metrics.get("a_distance", math.nan),
        }
        rows.append(
            [
                method,
                DASH if told else percent(headline.units),
                points(gain) if gain and not told else "",
                percent(result.summaries[method, ORACLE].units),
                number(100 * headline.metrics.get("source", math.nan), ".1f"),
                number(headline.metrics.get("a_distance", math.nan), ".2f"),
                number(headline.choosing_seconds + headline.seconds, ".0f"),
            ]
        )
    columns = ["method", validator, f"− {baseline}", f"{ORACLE} (bound)", "source", "A-distance", "seconds"]
    lines = [
        f"{result.measure.name.capitalize()} on target test data in %, mean ± standard deviation over "
        f"{repeated(result)}, settings chosen by {validator}: no target label is looked at. − {baseline}: points, "
        f"paired by {result.unit}, 95 % interval, not corrected for the number of rows.",
        f"{ORACLE}: settings chosen by labels of target training examples, a bound, as is {bound}, which learns them.",
        "Source: accuracy on held-out source examples. A-distance: how well features of both domains are told apart, 0 "
        "not at all, 2 always. Seconds: choosing and report runs.",
    ]
    title = f"Adaptation without target labels: {result.title}"
    ways = {f"chosen by {validator}": validator, f"chosen by {ORACLE}: a bound": ORACLE}
    gains = {words: _gains(result, baseline, way, bound) for words, way in ways.items()}
    regrets = {name: _value(regret_of(result, name)) for name in validators}
    over = f"{result.measure.name} − {baseline}"
    plot = Plot(f"domains{slug(result.axes)}", title, functools.partial(adaptation, title, gains, regrets, over))
    return Section(title, [Table(columns, rows)], lines, [plot, *_embedded(result, baseline, validator)]), figures


def _embedded(result: Result, baseline: str, validator: str) -> list[Plot]:
    """Features of the baseline, and of the method whose domains are the least apart, in the first replicate."""
    methods = [name for name in chosen_methods(result, validator) if name != baseline]
    apart = {name: result.summaries[name, validator].metrics.get("a_distance", math.nan) for name in methods}
    nearest = min(apart, key=apart.__getitem__, default=baseline)
    kept = {}
    for name in (baseline, nearest):
        runs = [run for run in result.reported(name, validator) if "source_features" in run.arrays]
        if runs:
            arrays = result.arrays(runs[0])
            kept[name] = arrays["source_features"], arrays["target_features"]
    if len(kept) < 2:
        return []
    title = f"Features of both domains: {result.title}"
    return [Plot(f"features{slug(result.axes)}", title, functools.partial(embeddings, title, kept))]


def validators_section(result: Result, baseline: str, validators: Sequence[str]) -> tuple[Section, dict[str, Any]]:
    """A row for each validator: what choosing by it loses against the oracle, and how many methods gain by it.

    Args:
        result: as for `gains_section`.
        baseline: the method that is to be gained over, chosen by the same validator.
        validators: all of them.

    Returns:
        (the section, by validator its figures).
    """
    rows, figures = [], {}
    methods = chosen_methods(result, validators[0])
    others, counts = [name for name in methods if name != baseline], dict[str, int]()
    for name in (*validators, ORACLE):
        lost = regret_of(result, name)
        losses = {method: float(_lost(result, method, name).mean()) for method in methods}
        worst = max(losses, key=losses.__getitem__)
        ahead = [method for method in others if _is_ahead(result.difference(method, baseline, name))]
        taus = _taus(result, name)  # none where nothing was chosen
        tau = float(np.mean(taus)) if taus else math.nan
        most = f"{worst}: {number(100 * losses[worst], '.1f')}"
        counts[name], count = len(ahead), f"{len(ahead)} of {len(others)}"
        told = name == ORACLE
        rows.append([name, *(["0", "", ""] if told else [points(lost), most, number(tau, ".2f")]), count])
        figures[name] = {"regret": lost.difference, "ci95": lost.ci95, "worst": worst, "tau": tau, "ahead": ahead}
    columns = ["validator", "regret, points", "most", "τ", "ahead"]
    lines = [
        "Regret: test accuracy of the settings that the oracle chooses, less that of those chosen by a validator, mean "
        f"over methods; 95 % interval over {result.unit}s. Most: the method that loses most.",
        "τ: Kendall's τ-b of validator and target accuracy over all settings of all methods that were tried on a draw. "
        f"Ahead: methods that gain over {baseline} by more than two standard errors, both chosen by that validator.",
    ]
    if others:
        enough = [name for name in validators if 2 * counts[name] >= len(others)]
        fewer = [name for name in (*validators, ORACLE) if 2 * counts[name] < len(others)]
        lines.append(
            f"At least half of the methods are ahead as chosen by: {', '.join(enough) or 'none'}. Fewer are as chosen "
            f"by: {', '.join(fewer) or 'none'}."
        )
    title = f"What validators cost: {result.title}"
    return Section(title, [Table(columns, rows, words=(0, 2))], lines), figures


def against_section(result: Result, bar: str, baseline: str, validator: str) -> Section:
    """What each method gains over a bar, and which classes the bar, the baseline and the best method take for which.

    Args:
        result: as for `gains_section`.
        bar: the row that others are held against.
        baseline: the row of the source alone.
        validator: by which settings are chosen.
    """
    rows, means = [], dict[str, float]()
    for name in chosen_methods(result, validator):
        gain = result.difference(name, bar, validator)
        rows.append([name, points(gain) if gain else ""])
        means[name] = result.summaries[name, validator].mean
    best = max((name for name in means if name != bar), key=means.__getitem__, default=bar)
    panels = {name: result.confusions(name, validator) for name in dict.fromkeys((bar, baseline, best))}
    lines = [
        f"Points of {result.measure.name}, chosen by {validator}, paired by {result.unit}, 95 % interval, not "
        f"corrected for the number of rows. In the picture: {', '.join(panels)}."
    ]
    names = result.truth.names if result.truth else ()
    title, kept = f"Which classes are taken for which: {result.title}", {k: v for k, v in panels.items() if v}
    draw = functools.partial(confusion_maps, title, names, kept)
    plots = [Plot(f"confusion{slug(result.axes)}", title, draw)] if kept else []
    return Section(f"Beside {bar}: {result.title}", [Table(["method", f"− {bar}"], rows)], lines, plots)


def labelled_section(result: Result, baseline: str) -> tuple[Section, dict[str, Any]]:
    """A row for each way to learn from a few labelled target examples, and the contrasts that were fixed beforehand.

    Args:
        result: of a target with labels.
        baseline: what the others are compared with.

    Returns:
        (the section, its figures by its title).
    """
    said = [note for note in notes(result, baseline) if note.heading != CONTRASTS_FIXED]
    lines = [f"{note.heading}: {line}" if note.heading else line for note in said for line in note.lines]
    lines += [verdict_sentence(one) for one in result.contrasts]
    plots = [one for one in plots_of(result, baseline, [*result.axes]) if one.name.startswith(result.measure.key)]
    return Section(result.title, [method_table(result, baseline)], lines, plots), {result.title: figures_of(result)}


def chosen_methods(result: Result, validator: str) -> list[str]:
    """Those that a validator has chosen settings of: all but bounds."""
    return [method for method in result.methods if (method, validator) in result.summaries]


def regret_of(result: Result, validator: str) -> Contrast:
    """What choosing by a validator loses against the oracle, in the mean over methods, by draw or replicate."""
    of = [_lost(result, method, validator) for method in chosen_methods(result, validator)]
    return paired(ORACLE, validator, np.mean(of, axis=0), unit=result.unit)


def _lost(result: Result, method: str, validator: str) -> np.ndarray:
    """Test accuracy by the oracle's settings less that by a validator's, by unit."""
    best, chosen = (np.asarray(result.summaries[method, way].units) for way in (ORACLE, validator))
    return best - chosen


def _taus(result: Result, validator: str) -> list[float]:
    """Of validator and oracle over all settings that were tried, by draw that chooses."""
    tried: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for run in result.runs:
        if validator in run.scores and ORACLE in run.scores:
            tried.setdefault((run.replicate, run.seed), []).append((run.scores[validator], run.scores[ORACLE]))
    pairs = [np.array(scores) for scores in tried.values() if len(scores) > 1]
    return [kendall(both[:, 0], both[:, 1]) for both in pairs]


def _gains(result: Result, baseline: str, way: str, bound: str) -> dict[str, Value]:
    others = [name for name in result.methods if name not in (baseline, bound)]
    found = {name: result.difference(name, baseline, way) for name in others}
    return {name: _value(gain) for name, gain in found.items() if gain}


def _value(c: Contrast) -> Value:
    return c.difference, c.ci95


def _is_ahead(gain: Contrast | None) -> bool:
    """By more than two standard errors; never by one unit alone."""
    return gain is not None and gain.n > 1 and gain.difference > 2 * gain.sd / math.sqrt(gain.n)
