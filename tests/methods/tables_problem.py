"""Digits with few labels and a source of random weights, on which rows of tables are tried."""

from __future__ import annotations

import jax

from experiments.cifar_transfer import Config
from jaxtl.data import load, source_and_target
from jaxtl.methods.finetuning.adapter_recipes import ADAPTERS
from jaxtl.methods.finetuning.head_recipes import HEADS
from jaxtl.methods.finetuning.loss_recipes import LOSSES
from jaxtl.methods.finetuning.weight_space_recipes import WEIGHT_SPACE
from jaxtl.models import initial_model_state, initialise
from jaxtl.problems import FewShot, Images, Source, make_model
from jaxtl.program import Weights
from jaxtl.protocol import Draw

ROWS = {**WEIGHT_SPACE, **ADAPTERS, **LOSSES, **HEADS}
CONFIG = Config(
    data="digits",
    model="mlp",
    widths=(16, 12),
    steps=6,
    batch_size=10,
    trials=3,
    tuning_draws=1,
    report_draws=2,
    folds=2,
    validation=40,
)
DRAW = Draw(0)


def problem_of(config=CONFIG, n=4):
    """What the source is worth is not asked."""
    data = load(config.data)
    source_task, task = source_and_target(config.splits[0], data, data)
    images = Images.of(source_task)
    model = make_model(config, images, head=len(source_task.classes))
    weights = Weights(initialise(model, jax.random.key(0), images.shape), initial_model_state(model, images.shape))
    return FewShot(config, Source(source_task, images, weights, 0.0), task, n)
