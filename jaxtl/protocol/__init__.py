"""Comparing methods honestly: equal budgets, paired draws, choices before test data, verdicts.

what is tried       recipes       methods as rows of a table, and what a problem tells them
                    training      a recipe carried out on a problem;  study: all of them, under the rules
                    design        draws, ranges, and the settings that every method is given
                    executors     who makes units of work;  rooms: directories of those that are made elsewhere
what it leaves      runs          a run, and the store from which an interrupted comparison goes on
the rules           compare       who is tuned on what, and when test data are looked at
what it says        measures      of predictions: accuracy, R² and others, guessing, confusions
                    decisions     of a finding: ROC, thresholds, net benefit;  resampling: intervals over groups
                    detections    of boxes: average precision as COCO defines it
                    clusters      the error of a mean over units that share data sets or trunks
                    random_effects  effects of many studies as one
                    power         what so many replicates can find, and what would decide
                    summaries     a row for every method;  statistics: contrasts, intervals, verdicts
                    results       all of it, as reports show it
"""

from jaxtl.protocol.clusters import clustered_error
from jaxtl.protocol.compare import Comparison, compare
from jaxtl.protocol.design import Draw, Method, Range, Selection, Setting, planned_runs, trial_settings
from jaxtl.protocol.measures import ACCURACY, MEASURES, R2, Measure, Truth, balanced_accuracy, confusion_matrix
from jaxtl.protocol.power import cannot_decide, detectable_difference
from jaxtl.protocol.random_effects import Pooled, random_effects
from jaxtl.protocol.recipes import Problem, Recipe, Trained, draw_key, pull_name, rates_of, replicate_seed
from jaxtl.protocol.results import Result
from jaxtl.protocol.runs import Run, RunStore, identity, to_csv
from jaxtl.protocol.statistics import (
    Contrast,
    contrast,
    contrast_family,
    holm,
    judged_together,
    paired,
    price_of_choosing,
    verdict_sentence,
)
from jaxtl.protocol.study import Budget, Draws, Training, each_draw, study
from jaxtl.protocol.summaries import Summary, summarise
from jaxtl.protocol.training import Trainer

__all__ = [
    "ACCURACY",
    "MEASURES",
    "R2",
    "Budget",
    "Comparison",
    "Contrast",
    "Draw",
    "Draws",
    "Measure",
    "Method",
    "Pooled",
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
    "Training",
    "Truth",
    "balanced_accuracy",
    "cannot_decide",
    "clustered_error",
    "compare",
    "confusion_matrix",
    "contrast",
    "contrast_family",
    "detectable_difference",
    "draw_key",
    "each_draw",
    "holm",
    "identity",
    "judged_together",
    "paired",
    "planned_runs",
    "price_of_choosing",
    "pull_name",
    "random_effects",
    "rates_of",
    "replicate_seed",
    "study",
    "summarise",
    "to_csv",
    "trial_settings",
    "verdict_sentence",
]
