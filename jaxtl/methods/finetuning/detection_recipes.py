"""Rows for a detector on a carried trunk: the head alone, all of it, and pulls beside the steps of Adam."""

from __future__ import annotations

from jaxtl.methods.finetuning.parameter_recipes import PARAMETERS
from jaxtl.methods.finetuning.recipes import RECIPES
from jaxtl.methods.finetuning.stage_recipes import Stage, staged

DETECTION = {
    "scratch": RECIPES["scratch"],
    "features": staged(
        Stage("head", {"new": 1.0}),
        means="the head alone is trained, on maps of the source model, which stays as it is",
    ),
    **{name: RECIPES[name] for name in ("fine_tune", "l2", "l2_differential")},
    "l2_sp": PARAMETERS["decoupled_sp"],
    "lr_ratio": RECIPES["lr_ratio"],
}
