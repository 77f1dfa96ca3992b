"""Choosing how hard to pull, and comparing methods honestly: one protocol for every experiment."""

from jaxtl.selection.compare import Comparison, compare
from jaxtl.selection.design import Draw, Method, Range, planned_runs, trial_settings
from jaxtl.selection.logistic import LogisticCriteria, LogisticPath, logistic_criteria, logistic_path
from jaxtl.selection.ridge import RidgePath, ridge_path
from jaxtl.selection.runs import Run, RunStore, to_csv
from jaxtl.selection.statistics import (
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
from jaxtl.selection.sweep import Sweep, sweep

__all__ = [
    "INTERVAL_COVERS",
    "Comparison",
    "Contrast",
    "Draw",
    "LogisticCriteria",
    "LogisticPath",
    "Method",
    "Range",
    "RidgePath",
    "Run",
    "RunStore",
    "Summary",
    "Sweep",
    "compare",
    "contrast",
    "contrast_family",
    "detectable_difference",
    "holm",
    "logistic_criteria",
    "logistic_path",
    "paired",
    "planned_runs",
    "price_of_choosing",
    "ridge_path",
    "sign_flip_p",
    "summarise",
    "sweep",
    "to_csv",
    "trial_settings",
    "verdict_sentence",
]
