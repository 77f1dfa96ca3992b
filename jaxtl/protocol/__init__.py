"""Comparing methods honestly: equal budgets, paired draws, choices before test data, verdicts.

what is tried       recipes       methods as rows of a table, and what a problem tells them
                    training      a recipe carried out on a problem;  study: all of them, under the rules
                    design        draws, ranges, and the settings that every method is given
what it leaves      runs          a run, and the store from which an interrupted comparison goes on
the rules           compare       who is tuned on what, and when test data are looked at
what it says        statistics    contrasts, intervals, verdicts;  results: all of it, as reports show it
"""

from jaxtl.protocol.compare import Comparison, Selection, compare
from jaxtl.protocol.design import Draw, Method, Range, Setting, planned_runs, trial_settings
from jaxtl.protocol.recipes import Problem, Recipe, Trained, pull_name, rates_of
from jaxtl.protocol.results import Result
from jaxtl.protocol.runs import Run, RunStore, to_csv
from jaxtl.protocol.statistics import (
    INTERVAL_COVERS,
    Contrast,
    Summary,
    contrast,
    contrast_family,
    detectable_difference,
    holm,
    paired,
    price_of_choosing,
    sign_flip_p,
    summarise,
    verdict_sentence,
)
from jaxtl.protocol.study import Budget, study
from jaxtl.protocol.training import Trainer

__all__ = [
    "INTERVAL_COVERS",
    "Budget",
    "Comparison",
    "Contrast",
    "Draw",
    "Method",
    "Problem",
    "Range",
    "Recipe",
    "Result",
    "Run",
    "RunStore",
    "Selection",
    "Setting",
    "Summary",
    "Trained",
    "Trainer",
    "compare",
    "contrast",
    "contrast_family",
    "detectable_difference",
    "holm",
    "paired",
    "planned_runs",
    "price_of_choosing",
    "pull_name",
    "rates_of",
    "sign_flip_p",
    "study",
    "summarise",
    "to_csv",
    "trial_settings",
    "verdict_sentence",
]
