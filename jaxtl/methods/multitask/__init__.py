"""Several tasks on one trunk: Σ wᵢ Lᵢ(θ, φᵢ) + λ_shared·½‖θ‖² + λ_task·½Σ‖φᵢ‖².

Weights from losses: `total_gradient(weigh(loss_fn, by_gls(), tasks))`, one backward pass. Weights from the gradients on
the trunk: `surgery(loss_fn, mgda_weights, tasks, shared)`, a backward pass for each task. Both penalties are ordinary
ones, by label: `labelled(labels, {"shared": Term(a, l2), "task:left": Term(b, l2), "task:right": Term(b, l2)})`.
"""

from jaxtl.methods.multitask.combine import (
    cagrad,
    cagrad_weights,
    equal_weights,
    imtl_g,
    imtl_g_weights,
    mgda,
    mgda_weights,
    nash,
    nash_weights,
    pcgrad,
    pcgrad_weights,
)
from jaxtl.methods.multitask.gradients import Combine, surgery
from jaxtl.methods.multitask.tasks import each_task, on_task
from jaxtl.methods.multitask.weightings import (
    LOG_VARIANCES,
    WEIGHTING,
    Weighting,
    by_dwa,
    by_famo,
    by_gls,
    by_rlw,
    by_uncertainty,
    dwa,
    famo,
    famo_slope,
    gls,
    rlw,
    uncertainty,
    weigh,
)

__all__ = [
    "LOG_VARIANCES",
    "WEIGHTING",
    "Combine",
    "Weighting",
    "by_dwa",
    "by_famo",
    "by_gls",
    "by_rlw",
    "by_uncertainty",
    "cagrad",
    "cagrad_weights",
    "dwa",
    "each_task",
    "equal_weights",
    "famo",
    "famo_slope",
    "gls",
    "imtl_g",
    "imtl_g_weights",
    "mgda",
    "mgda_weights",
    "nash",
    "nash_weights",
    "on_task",
    "pcgrad",
    "pcgrad_weights",
    "rlw",
    "surgery",
    "uncertainty",
    "weigh",
]
