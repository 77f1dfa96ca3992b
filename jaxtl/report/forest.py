"""The same contrasts in many studies: as a forest plot, as one effect, and what goes with them."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxtl.protocol import Contrast, Pooled, Result, random_effects
from jaxtl.protocol.results import number, points
from jaxtl.report.page import Section
from jaxtl.report.plots.comparison import Plot
from jaxtl.report.plots.forest import forest
from jaxtl.report.tables import DASH, Table

FEWEST = 3  # studies that are pooled
TITLE = "The same contrasts from pair to pair"


def forest_section(
    results: Mapping[str, Result], contrasts: Sequence[tuple[str, str]]
) -> tuple[Section, dict[str, Any]]:
    """Every contrast in every study, and by random effects in all of them.

    Args:
        results: by study.
        contrasts: (method, baseline), fixed beforehand.

    Returns:
        (the section, figures by contrast).
    """
    effects = {f"{a} − {b}": _effects(results, a, b) for a, b in contrasts}
    effects = {words: found for words, found in effects.items() if found}
    pooled = {words: one for words, found in effects.items() if (one := pool(found))}
    rows = [
        [study, *(points(found[study]) if study in found else DASH for found in effects.values())] for study in results
    ]
    columns = ["points", *effects]
    tables = [Table(columns, rows), Table(*_summary(effects, pooled))]
    lines = [
        "By pair: difference of the means over replicates, paired, with a 95 % interval, not corrected for the number "
        "of pairs.",
        "All: mean of a distribution of effects (random effects, restricted likelihood, interval by Hartung and "
        "Knapp). Another pair: where 95 % of such pairs lie, as far as these are like them. I²: the part of the "
        "variance that is between pairs. Pairs share data, which the intervals do not know.",
        "Hurts, helps: pairs whose own interval is below, or above 0.",
    ]
    plot = Plot("forest", TITLE, functools.partial(forest, TITLE, list(results), effects, pooled))
    return Section(TITLE, tables, lines, [plot]), {
        words: {
            "pairs": {study: [c.difference, *c.ci95] for study, c in found.items()},
            "all": pooled[words]._asdict() if words in pooled else None,
        }
        for words, found in effects.items()
    }


def pool(effects: Mapping[str, Contrast]) -> Pooled | None:
    """In points, of the studies with an interval; None for fewer than three."""
    known = [c for c in effects.values() if c.n > 1 and math.isfinite(c.sd) and c.sd > 0]
    if len(known) < FEWEST:
        return None
    return random_effects([100 * c.difference for c in known], [100 * c.sd / math.sqrt(c.n) for c in known])


def _effects(results: Mapping[str, Result], a: str, b: str) -> dict[str, Contrast]:
    found = {study: result.difference(a, b) for study, result in results.items()}
    return {study: c for study, c in found.items() if c is not None}


def _summary(
    effects: Mapping[str, Mapping[str, Contrast]], pooled: Mapping[str, Pooled]
) -> tuple[list[str], list[list[str]]]:
    """A row for each contrast: what all pairs say together."""

    def span(ends: tuple[float, float]) -> str:
        return f"[{number(ends[0], '.2f')}, {number(ends[1], '.2f')}]"

    rows = []
    for words, found in effects.items():
        below, above = (
            sum(side(c) for c in found.values()) for side in (lambda c: c.ci95[1] < 0, lambda c: c.ci95[0] > 0)
        )
        counts = [str(below), str(above), str(len(found))]
        if (one := pooled.get(words)) is None:
            rows.append([words, DASH, DASH, DASH, *counts])
            continue
        mean = f"{number(one.mean, '+.2f')} {span(one.ci95)}"
        rows.append([words, mean, span(one.prediction95), f"{100 * one.heterogeneity:.0f} %", *counts])
    return ["contrast", "all", "another pair", "I²", "hurts", "helps", "of"], rows


def predictors_section(
    results: Mapping[str, Result], contrast: tuple[str, str], known: Mapping[str, Mapping[str, float]]
) -> tuple[Section, dict[str, Any]]:
    """Which figures, known before anything is fine-tuned, go with the gain from pair to pair.

    Args:
        results: by study.
        contrast: (method, baseline) whose difference is the gain.
        known: by study, figures by name; of all studies the same.

    Returns:
        (the section, by name Spearman's ρ and its p value).
    """
    from scipy.stats import spearmanr

    found = _effects(results, *contrast)
    gain = [100 * c.difference for c in found.values()]
    names = list(next(iter(known.values()), {}))
    rows, figures = [], {}
    for name in names:
        values = [known[study][name] for study in found]
        varied = len(values) >= FEWEST and np.ptp(values) > 0
        rho, p = map(float, spearmanr(values, gain)) if varied else (math.nan, math.nan)
        rows.append([name, number(rho, "+.2f"), number(p, ".2f")])
        figures[name] = {"rho": rho, "p": p}
    words = f"{contrast[0]} − {contrast[1]}"
    each = [[study, points(found[study]), *(f"{known[study][name]:.3g}" for name in names)] for study in found]
    lines = [
        f"ρ: rank correlation of a figure with {words} over {len(gain)} pairs; p without correction for "
        f"{len(names)} figures. Pairs are few and share data: it is for finding questions, not for answering them. "
        "Distances stand with a minus."
    ]
    tables = [Table(["figure", "ρ", "p"], rows), Table(["pair", words, *names], each)]
    return Section(f"What goes with {words}", tables, lines), figures
