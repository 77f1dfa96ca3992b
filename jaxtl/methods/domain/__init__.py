"""Labelled source examples, unlabelled target examples: terms on what a network makes of a batch of both.

features     discrepancy (mmd, mmd_linear, jmmd, coral), norms (afn, bsp)
answers      confidence (entropy, certainty, mcc, mcd, pseudo_label)
a game       adversary (ramp, both_players, gradient_reversal, domain_loss, conditioned, mdd)

Rows of a table on `problems.Adaptation` are in `recipes`; which setting to take without target labels is
`selection.unlabelled`.
"""

from jaxtl.methods.domain.adversary import (
    both_players,
    conditioned,
    conditioned_size,
    domain_loss,
    gradient_reversal,
    mdd,
    ramp,
)
from jaxtl.methods.domain.confidence import certainty, class_weights, entropy, mcc, mcd, pseudo_label
from jaxtl.methods.domain.discrepancy import coral, jmmd, mmd, mmd_linear
from jaxtl.methods.domain.norms import afn, bsp

__all__ = [
    "afn",
    "both_players",
    "bsp",
    "certainty",
    "class_weights",
    "conditioned",
    "conditioned_size",
    "coral",
    "domain_loss",
    "entropy",
    "gradient_reversal",
    "jmmd",
    "mcc",
    "mcd",
    "mdd",
    "mmd",
    "mmd_linear",
    "pseudo_label",
    "ramp",
]
