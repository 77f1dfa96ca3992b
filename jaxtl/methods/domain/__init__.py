"""Labelled source examples, unlabelled target examples: terms on what a network makes of a batch of both.

features     discrepancy (mk_mmd, mk_mmd_linear, jmmd, coral), norms (feature_norm, batch_spectral_penalisation)
answers      confidence (entropy, certainty, minimum_class_confusion)
a game       adversary (ramp, both_players, domain_loss, conditioned, margin_disparity)

Rows of a table on `problems.Adaptation` are in `recipes`; which setting to take without target labels is
`selection.unlabelled`.
"""

from jaxtl.methods.domain.adversary import both_players, conditioned, domain_loss, margin_disparity, ramp
from jaxtl.methods.domain.confidence import certainty, entropy, minimum_class_confusion
from jaxtl.methods.domain.discrepancy import coral, jmmd, mk_mmd, mk_mmd_linear
from jaxtl.methods.domain.norms import batch_spectral_penalisation, feature_norm

__all__ = [
    "batch_spectral_penalisation",
    "both_players",
    "certainty",
    "conditioned",
    "coral",
    "domain_loss",
    "entropy",
    "feature_norm",
    "jmmd",
    "margin_disparity",
    "minimum_class_confusion",
    "mk_mmd",
    "mk_mmd_linear",
    "ramp",
]
