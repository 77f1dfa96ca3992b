"""jaxtl's side of `experiments.benchmarks.practice`, and scikit-learn's: asked in lines of JSON.

    python -m experiments.benchmarks.practice_jax FILE

FILE is what `practice_data.hand_over` writes. Programs are compiled anew in every process, as on a first run.
"""

from __future__ import annotations

import sys
import tempfile
import time
from typing import Any

import numpy as np

from experiments.benchmarks.workers import on_one_core, serve
from jaxtl.data import DataSet, Split
from jaxtl.finetune import finetune
from jaxtl.finetune.inputs import Pixels
from jaxtl.finetune.trunks import Quiet, passed, trunk_of

FOLDS = 5


def learn(file: str, rival: str, budget: float, seed: int) -> dict[str, Any]:
    """What a rival answers on every test picture, and what it took to learn.

    Args:
        file: see above.
        rival: jaxtl, logistic, logistic_cv or logistic_raw.
        budget: seconds, which jaxtl alone keeps to.
        seed: of folds, heads and order.
    """
    given = dict(np.load(file))
    began, spent = time.perf_counter(), time.process_time()
    work = ours if rival == "jaxtl" else frozen
    asked, told = work(given, rival, budget, seed)
    taken = {"seconds": time.perf_counter() - began, "cpu": time.process_time() - spent, "told": told}
    return taken | {"answers": [int(k) for k in asked(given["test"])]}


def ours(given: Any, rival: str, budget: float, seed: int) -> tuple[Any, str]:
    """`tl.finetune` with nothing set but what it is asked for. It never sees the test pictures while it learns."""
    train, classes = Split(given["train"], given["labels"]), tuple(str(name) for name in given["classes"])
    # a data set has a test part, which would be looked at within the time: here one picture that is known anyway
    data = DataSet("practice", train, train.take(slice(0, 1)), classes, "handed over")
    size, measure = given["train"].shape[1], str(given["measure"])
    asked = {"budget": f"{budget:g}s", "measure": measure, "size": size, "seed": seed}
    with tempfile.TemporaryDirectory() as room:
        model: Any = finetune(data, trunk=str(given["trunk"]), workdir=room, **asked)
    told = f"{model.card['method']}, {settings(model.card['setting'])}"
    return lambda images: model.probabilities(images).argmax(axis=1), told


def settings(chosen: Any) -> str:
    return ", ".join(f"{name} {value:.2g}" for name, value in chosen.items())


def frozen(given: Any, rival: str, budget: float, seed: int) -> tuple[Any, str]:
    """Logistic regression of scikit-learn on features of the frozen trunk, by its own defaults."""
    from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
    from sklearn.model_selection import StratifiedKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    trunk, size = trunk_of(str(given["trunk"]), Quiet)[0], given["train"].shape[1]

    def features(images: np.ndarray) -> np.ndarray:
        how = Pixels(size, np.asarray(trunk.mean, np.float32), np.asarray(trunk.std, np.float32))
        return passed(trunk, images, None, how, Quiet).array

    labels, head = given["labels"], LogisticRegression(max_iter=1000)
    if rival == "logistic_cv":
        folds = StratifiedKFold(min(FOLDS, int(np.bincount(labels).min())), shuffle=True, random_state=seed)
        rest = {"scoring": "accuracy", "use_legacy_attributes": False}  # what is default now, without its warnings
        head = LogisticRegressionCV(Cs=10, l1_ratios=(0,), cv=folds, max_iter=1000, **rest)
    scaled = [] if rival == "logistic_raw" else [StandardScaler()]
    model = make_pipeline(*scaled, head).fit(features(given["train"]), labels)
    return lambda images: model.predict(features(images)), f"C = {getattr(head, 'C_', 1.0):.2g}"


if __name__ == "__main__":
    on_one_core()
    serve(learn=lambda **asked: learn(sys.argv[1], **asked))
