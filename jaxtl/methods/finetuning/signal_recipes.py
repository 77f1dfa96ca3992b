"""The row that no network is in: logistic regression on log spectra of signals. The bar for all that are."""

from __future__ import annotations

import numpy as np

from jaxtl.problems.spectra import SPECTRUM, AdaptedSignals, FewSignals, spectra
from jaxtl.program import Weights
from jaxtl.protocol import Draw, Recipe, Setting


def by_spectrum(problem: AdaptedSignals | FewSignals, weights: Weights, setting: Setting, draw: Draw) -> Weights:
    """Weights that answer by logistic regression on the log spectra of the labelled windows of a draw.

    min Σ CE(W x + b, label) + ½ ‖W‖²: scikit-learn's at its default strength, so that nothing is chosen.
    """
    from sklearn.linear_model import LogisticRegression

    windows, labels = problem.learned_from(draw)
    fitted = LogisticRegression(max_iter=2000).fit(spectra(problem, windows), labels)
    kernel, bias = fitted.coef_.T, fitted.intercept_
    if kernel.shape[1] == 1:  # of two classes it has the second one's alone
        kernel, bias = np.concatenate([-kernel, kernel], axis=1) / 2, np.concatenate([-bias, bias]) / 2
    head = {"kernel": np.asarray(kernel, np.float32), "bias": np.asarray(bias, np.float32)}
    return weights._replace(model_state={**weights.model_state, SPECTRUM: {"head": head}})


SPECTRAL = {
    "spectrum": Recipe(
        None,
        (),
        "logistic regression on the log spectrum of each window, without a network",
        finish=by_spectrum,
        transfers=False,
    )
}
