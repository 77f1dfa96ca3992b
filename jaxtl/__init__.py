"""Regularised transfer learning in JAX: how hard should each parameter be pulled, and towards what?

    import jaxtl as tl

gives the names below, each from the room that defines it, when it is first asked for: importing jaxtl alone imports no
jax. Everything else is imported from its room: `from jaxtl.data import label_noise`.
"""

# ruff: noqa: F401  (what a type checker sees)

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from jaxtl.version import __version__

if TYPE_CHECKING:
    from jaxtl.checkpoints import export, load_weights, restore, save
    from jaxtl.data import (
        DataSet,
        Split,
        channel_statistics,
        feed,
        from_arrays,
        hold_out,
        image_batches,
        load,
        normalise,
        on_device,
        per_class,
        stratified_folds,
    )
    from jaxtl.data.batches import batches
    from jaxtl.devices.placement import make_mesh
    from jaxtl.errors import InputError, Interrupted, NotFinite
    from jaxtl.finetune import finetune
    from jaxtl.labels import NEW, SHARED, TRANSFERRED, count_by_label, everything, having, kernels, label_params
    from jaxtl.loop import fit
    from jaxtl.losses import (
        accuracy,
        make_loss_fn,
        mean_of,
        per_example,
        sigmoid_binary_cross_entropy,
        softmax_cross_entropy,
        squared_error,
    )
    from jaxtl.models import (
        Classifier,
        Cnn,
        Mlp,
        as_forward,
        cut,
        initial_model_state,
        initialise,
        resnet18,
        wide_resnet,
    )
    from jaxtl.models.pretrained import load_trunk, with_heads
    from jaxtl.optimizers import Group, per_label, pull_per_rate
    from jaxtl.penalties import Term, elastic_net, fisher, group_lasso, l1, l2, labelled
    from jaxtl.problems import FewShot, ManyTasks, make_source
    from jaxtl.program import Program, Weights, alternate, make_program
    from jaxtl.protocol import (
        Budget,
        Draw,
        Measure,
        Method,
        Problem,
        Range,
        Recipe,
        Result,
        RunStore,
        Selection,
        Trained,
        Trainer,
        rates_of,
    )
    from jaxtl.protocol.compare import compare
    from jaxtl.protocol.study import study
    from jaxtl.proximal import Ball, Prox, prox_elastic_net, prox_group_lasso, prox_l1
    from jaxtl.selection import (
        hypergradient,
        learn_rates,
        logistic_path,
        net_criteria,
        regret,
        ridge_path,
        temperature,
        validation_criteria,
    )
    from jaxtl.step import (
        Context,
        Fixed,
        TrainState,
        compile_step,
        init_state,
        make_epoch,
        make_eval_step,
        make_train_step,
        total_gradient,
    )
    from jaxtl.sweep.run import run, run_all
    from jaxtl.sweep.sweep import sweep
    from jaxtl.training import classification, evaluate, train
    from jaxtl.transfer import (
        Transfer,
        channels_last,
        matching_classes,
        repeat_channels,
        sum_channels,
        transfer,
    )
    from jaxtl.writers import Writer


_ROOMS = {
    "checkpoints": "export load_weights restore save",
    "data": "DataSet Split channel_statistics feed from_arrays hold_out image_batches load normalise "
    "on_device per_class stratified_folds",
    "data.batches": "batches",
    "devices.placement": "make_mesh",
    "errors": "InputError Interrupted NotFinite",
    "finetune": "finetune",
    "labels": "NEW SHARED TRANSFERRED count_by_label everything having kernels label_params",
    "loop": "fit",
    "losses": "accuracy make_loss_fn mean_of per_example sigmoid_binary_cross_entropy softmax_cross_entropy "
    "squared_error",
    "models": "Classifier Cnn Mlp as_forward cut initial_model_state initialise resnet18 wide_resnet",
    "models.pretrained": "load_trunk with_heads",
    "optimizers": "Group per_label pull_per_rate",
    "penalties": "Term elastic_net fisher group_lasso l1 l2 labelled",
    "problems": "FewShot ManyTasks make_source",
    "program": "Program Weights alternate make_program",
    "protocol": "Budget Draw Measure Method Problem Range Recipe Result RunStore Selection Trained Trainer rates_of",
    "protocol.compare": "compare",
    "protocol.study": "study",
    "proximal": "Ball Prox prox_elastic_net prox_group_lasso prox_l1",
    "selection": "hypergradient learn_rates logistic_path net_criteria regret ridge_path temperature "
    "validation_criteria",
    "step": "Context Fixed TrainState compile_step init_state make_epoch make_eval_step make_train_step total_gradient",
    "sweep.run": "run run_all",
    "sweep.sweep": "sweep",
    "training": "classification evaluate train",
    "transfer": "Transfer channels_last matching_classes repeat_channels sum_channels transfer",
    "writers": "Writer",
}
_HOME = {name: f"{__name__}.{room}" for room, names in _ROOMS.items() for name in names.split()}

__all__ = sorted([*_HOME, "__version__"])


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Face(ModuleType):
    """A room whose name is that of what it is for (`transfer`, `sweep`) does not hide it, whoever imports it first."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOME and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Face
