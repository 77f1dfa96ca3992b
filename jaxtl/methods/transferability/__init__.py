"""Which source model to start from: scores of a source's features or answers on the n labelled target examples alone.

features     separation (h_score, regularized_h_score, transrate), evidence (logme)
answers      predictions (leep, nce)
a head on the features, and how far two feature sets are apart: `ridge_probe`, `a_distance` of `selection.probes`

Of all but `a_distance` larger is better. Numbers are of one target: they rank sources, and say nothing across targets.
"""

from jaxtl.methods.transferability.evidence import logme
from jaxtl.methods.transferability.predictions import leep, nce
from jaxtl.methods.transferability.separation import h_score, ledoit_wolf, regularized_h_score, transrate
from jaxtl.selection.probes import Probe, a_distance, ridge_probe

__all__ = [
    "Probe",
    "a_distance",
    "h_score",
    "ledoit_wolf",
    "leep",
    "logme",
    "nce",
    "regularized_h_score",
    "ridge_probe",
    "transrate",
]
