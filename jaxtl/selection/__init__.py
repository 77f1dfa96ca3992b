"""Choosing how hard to pull.

closed forms      ridge, logistic, inputs              all λ at once, with every criterion
                  heads                                a head of either, whose λ its own examples choose
                  linear                               the same by others, and what each choice is worth
criteria          criteria, curvature, lanczos         df, AIC, BIC and evidence of any net
                  validation, choices                  held-out and k-fold validation; what choices are worth
                  grids                                a grid that somebody has trained to the end
features, ranks   probes, ranking                      what a linear head makes of features; what a ranking is worth
no target labels  unlabelled                           what answers to source and target examples say of a net
by gradient       learning, gradient, implicit, meta   rates and starts that are learned
by search         label_search                         which blocks are frozen, transferred, new
"""

from jaxtl.protocol import compare
from jaxtl.selection.choices import Choice, judge_choices, random_search, ranked
from jaxtl.selection.criteria import NetCriteria, net_criteria
from jaxtl.selection.gradient import Implicit, Slope, hypergradient
from jaxtl.selection.grids import Cell, Grid
from jaxtl.selection.implicit import implicit_gradient, linearised
from jaxtl.selection.label_search import (
    FROZEN,
    assignment_grid,
    assignment_start,
    assignments,
)
from jaxtl.selection.learning import LearnedRates, learn_rates, resilient
from jaxtl.selection.logistic import LogisticCriteria, LogisticPath, logistic_criteria, logistic_path
from jaxtl.selection.meta import imaml, reptile
from jaxtl.selection.probes import Probe, a_distance, ridge_probe
from jaxtl.selection.ranking import Ranked, kendall, rank_and_choose, resampled_interval
from jaxtl.selection.ridge import RidgePath, ridge_path
from jaxtl.selection.unlabelled import (
    confidence,
    deep_embedded,
    density_ratio,
    importance_weighted,
    mutual_information,
    neighbourhood_density,
    source_accuracy,
)
from jaxtl.selection.validation import (
    ValidationCriteria,
    regret,
    temperature,
    validation_criteria,
)
from jaxtl.sweep import sweep

__all__ = [
    "FROZEN",
    "Cell",
    "Choice",
    "Grid",
    "Implicit",
    "LearnedRates",
    "LogisticCriteria",
    "LogisticPath",
    "NetCriteria",
    "Probe",
    "Ranked",
    "RidgePath",
    "Slope",
    "ValidationCriteria",
    "a_distance",
    "assignment_grid",
    "assignment_start",
    "assignments",
    "compare",
    "confidence",
    "deep_embedded",
    "density_ratio",
    "hypergradient",
    "imaml",
    "implicit_gradient",
    "importance_weighted",
    "judge_choices",
    "kendall",
    "learn_rates",
    "linearised",
    "logistic_criteria",
    "logistic_path",
    "mutual_information",
    "neighbourhood_density",
    "net_criteria",
    "random_search",
    "rank_and_choose",
    "ranked",
    "regret",
    "reptile",
    "resampled_interval",
    "resilient",
    "ridge_path",
    "ridge_probe",
    "source_accuracy",
    "sweep",
    "temperature",
    "validation_criteria",
]
