"""Bayes' rule for modalities that are independent given the class, as rows beside those of `recipes`.

Of true posteriors it is the best rule there is; the plain product counts the prior once for each modality. Networks say
what they say, and their temperatures may be put right first.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from jaxtl.labels import SHARED
from jaxtl.methods.multimodal.recipes import by_temperature, fitted, on_towers, ruled
from jaxtl.problems.pairs import Pairs
from jaxtl.program import Weights
from jaxtl.protocol import Draw, Setting


def independent(calibrated: bool) -> Callable[[Pairs, Weights, Setting, Draw], Weights]:
    """Π_m p_m / prior^(M − 1); the prior is how frequent classes are among the labelled examples.

    Args:
        calibrated: each modality at the temperature of pairs held out; else as it says.
    """

    def finish(problem: Pairs, weights: Weights, setting: Setting, draw: Draw) -> Weights:
        count, first = len(problem.truth.names), min(problem.names)
        labels = problem.set_of(draw).train[first].labels[problem.examples(draw).pairs[first]]
        shares = np.bincount(labels, minlength=count) / len(labels)
        rule = {"temperature": np.ones(len(problem.names), np.float32)}
        if calibrated:
            rule = fitted(by_temperature)(problem, weights, setting, draw).params[SHARED]["tempered"]
        own = {"temperature": rule["temperature"], "prior": shares.astype(np.float32)}
        return ruled({"independent": own})(problem, weights, setting, draw)

    return finish


INDEPENDENT = {
    "bayes": on_towers(independent(False), "the product of probabilities over the prior, which then counts once"),
    "bayes_tempered": on_towers(independent(True), "bayes, each modality at the temperature of pairs held out"),
}
