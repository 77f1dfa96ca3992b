"""Choosing how hard to pull, and comparing methods honestly.

the protocol      compare, design, runs, statistics    equal budgets, paired draws, verdicts
                  power                                what so many draws can find
a grid            sweep, blocks                        every configuration in one program
closed forms      ridge, logistic, inputs              all λ at once, with every criterion
criteria          criteria, curvature, lanczos         df, AIC, BIC and evidence of any net
                  validation                           held-out and k-fold validation, regret
by gradient       learning, gradient, implicit, meta   rates and starts that are learned
by search         label_search                         which blocks are frozen, transferred, new
"""

from jaxtl.selection.compare import Comparison, compare
from jaxtl.selection.criteria import NetCriteria, net_criteria
from jaxtl.selection.design import Draw, Method, Range, Setting, planned_runs, trial_settings
from jaxtl.selection.gradient import Implicit, Slope, hypergradient
from jaxtl.selection.implicit import implicit_gradient, linearised
from jaxtl.selection.label_search import (
    FROZEN,
    LabelSearch,
    assignment_grid,
    assignment_start,
    assignments,
    search_labels,
)
from jaxtl.selection.learning import LearnedRates, learn_rates, resilient
from jaxtl.selection.logistic import LogisticCriteria, LogisticPath, logistic_criteria, logistic_path
from jaxtl.selection.meta import imaml, reptile
from jaxtl.selection.power import cannot_decide, detectable_difference
from jaxtl.selection.ridge import RidgePath, ridge_path
from jaxtl.selection.runs import Run, RunStore, to_csv
from jaxtl.selection.statistics import (
    INTERVAL_COVERS,
    Contrast,
    Summary,
    contrast,
    contrast_family,
    holm,
    paired,
    price_of_choosing,
    sign_flip_p,
    summarise,
    verdict_sentence,
)
from jaxtl.selection.sweep import Sweep, sweep
from jaxtl.selection.validation import (
    ValidationCriteria,
    balanced_accuracy,
    confusion_matrix,
    regret,
    temperature,
    validation_criteria,
)

__all__ = [
    "FROZEN",
    "INTERVAL_COVERS",
    "Comparison",
    "Contrast",
    "Draw",
    "Implicit",
    "LabelSearch",
    "LearnedRates",
    "LogisticCriteria",
    "LogisticPath",
    "Method",
    "NetCriteria",
    "Range",
    "RidgePath",
    "Run",
    "RunStore",
    "Setting",
    "Slope",
    "Summary",
    "Sweep",
    "ValidationCriteria",
    "assignment_grid",
    "assignment_start",
    "assignments",
    "balanced_accuracy",
    "cannot_decide",
    "compare",
    "confusion_matrix",
    "contrast",
    "contrast_family",
    "detectable_difference",
    "holm",
    "hypergradient",
    "imaml",
    "implicit_gradient",
    "learn_rates",
    "linearised",
    "logistic_criteria",
    "logistic_path",
    "net_criteria",
    "paired",
    "planned_runs",
    "price_of_choosing",
    "regret",
    "reptile",
    "resilient",
    "ridge_path",
    "search_labels",
    "sign_flip_p",
    "summarise",
    "sweep",
    "temperature",
    "to_csv",
    "trial_settings",
    "validation_criteria",
    "verdict_sentence",
]
