"""What is carried from one modality to another: what examples look like, and what source models have learned."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxtl.problems import Source, accuracy, make_model, predict
from jaxtl.report.cells import percent
from jaxtl.report.page import Section
from jaxtl.report.plots.comparison import Plot
from jaxtl.report.plots.examples import examples
from jaxtl.report.tables import Table


def looks_section(title: str, seen: Mapping[str, np.ndarray]) -> Section:
    """A picture of a few examples of each kind.

    Args:
        title: of the picture.
        seen: {what they are: grey pictures [N, H, W, 1]}.
    """
    plot = Plot("examples", title, functools.partial(examples, title, seen))
    return Section("What the examples look like", plots=[plot])


def sources_section(
    config: Any, sources: Mapping[str, Mapping[str, Sequence[Source]]]
) -> tuple[Section, dict[str, Any]]:
    """What every source model of images is trained on, and how well it knows it.

    Args:
        config: has the fields of `SourceConfig`.
        sources: {modality: {which labels: a model for each replicate}}.

    Returns:
        (the section, by modality and labels the accuracies: fractions).
    """
    rows, figures = [], dict[str, Any]()
    for modality, kinds in sources.items():
        for kind, own in kinds.items():
            task, images = own[0].task, own[0].images
            model, seen = make_model(config, images, head=len(task.classes)), jnp.asarray(task.train[images.field])
            fits = [accuracy(predict(model, one.weights, seen, images), task.train.labels) for one in own]
            test = [one.accuracy for one in own]
            rows.append([modality, kind, f"{len(task.train):,}", percent(fits), percent(test)])
            figures[f"{modality}, {kind}"] = {"fits": fits, "test": test}
    columns = ["source", "labels", "examples", "on these labels", "on test examples, right labels"]
    line = "Accuracy in %, mean ± standard deviation over replicates, of the source models on what they are trained on."
    table = Table(columns, rows, words=(0, 1))
    return Section("What the source models have learned", [table], [line]), {"sources": figures}
