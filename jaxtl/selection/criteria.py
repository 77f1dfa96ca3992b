"""Criteria to choose λ by that need no held-out example, for nets of any depth.

A trained net is asked how many degrees of freedom its pulls have left it (`curvature`), and they are given a price.

Source: Akaike, A new look at the statistical model identification (1974); Hurvich and Tsai, Regression and time series
model selection in small samples (1989); Schwarz, Estimating the dimension of a model (1978); MacKay, A practical
Bayesian framework for backpropagation networks (1992); Immer et al., Scalable marginal likelihood estimation for model
selection in deep learning (2021).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.errors import InputError
from jaxtl.labels import check_labels
from jaxtl.losses import Forward, softmax_cross_entropy, squared_error
from jaxtl.protocol.measures import checked_classes
from jaxtl.selection.curvature import Curvature, Net, Point, all_outputs, estimated_curvature, exact_curvature
from jaxtl.selection.validation import log_likelihoods
from jaxtl.step import Context, Fixed, Rates
from jaxtl.trees import Tree, named_leaves, paired

ROUNDING = 100  # times the precision of a parameter: by that much a penalty's slope may miss its linear model


class NetCriteria(NamedTuple):
    """What a trained net says of itself. Numbers; an error is the standard error over probes, 0 where exact.

    Attributes:
        df: effective degrees of freedom tr[(H + Δ)⁻¹ H] with the Gauss–Newton curvature H of the summed loss and
            Δ = n · diag(rates); parameters without a rate count fully, as many as are independent.
        df_error: of df. That of aic is twice as large, that of bic ln(n) times.
        aic, aicc, bic: −2 ln likelihood + 2 df; that + 2 df (df + 1)/(N − df − 1), infinite where N <= df + 1;
            −2 ln likelihood + ln(n) df. With squared errors −2 ln likelihood is N ln(RSS/N).
        log_evidence: Laplace's approximation, −Σ loss − ½ Δ·(w − anchor)² − ½ ln det(I + Δ⁻¹H); with squared errors the
            noise variance is at its maximum. What parameters without a rate can fit is left out, as in restricted
            likelihood, so that only nets with the same such parameters compare. It takes training to have come to rest.
        log_evidence_error: of log_evidence.
    """

    df: float
    df_error: float
    aic: float
    aicc: float
    bic: float
    log_evidence: float
    log_evidence_error: float


def net_criteria(
    forward: Forward,
    params: Tree,
    batch: Any,
    penalty: Callable,
    fixed: Fixed | None = None,
    *,
    loss: Callable[..., jax.Array] = softmax_cross_entropy,
    head: str = "head",
    target: str = "label",
    model_state: Tree | None = None,
    frozen: Tree | None = None,
    probes: int = 0,
    seed: int = 0,
) -> NetCriteria:
    """Degrees of freedom, AIC, AICc, BIC and Laplace evidence of a net at its trained parameters.

    The objective it was trained with is mean loss + penalty. The penalty is ½ Σ d (w − anchor)²: any sum of `l2` and
    `fisher`, with whatever labels, masks and anchors; d is read off it. n examples, C outputs; N is n·(C − 1) with
    cross-entropy, where probabilities add up to 1, and n·C with squared errors.

    The exact form wants all gradients of all outputs, N times the parameters: for few examples, or few parameters that
    move (0.15 s on a CPU for 100 examples, 5 classes and a CNN of 24,021 parameters). For others there are probes. One
    program serves all nets that share the very objects `forward` and `penalty`.

    Args:
        forward: (params, model_state, batch, ctx) -> (outputs, model_state), called without training: one example's
            output may not depend on the others.
        params: the trained parameters.
        batch: the whole training set as `forward` takes it, every array [n, ...].
        penalty: what `penalties.labelled` returns. Decay in the optimizer is no part of it: give it here as a term.
        fixed: what training read: rates "penalty/LABEL", given anchors; nothing when left out.
        loss: `softmax_cross_entropy` or `squared_error`.
        head: the output that pays it: [n, C].
        target: the field of the batch it is compared with: integers [n], or numbers [n] or [n, C].
        model_state: as in training.
        frozen: bool tree; what is true did not learn, has no degrees of freedom and pays nothing. All but the head:
            the criteria of the last layer.
        probes: 0 for the exact form; else how many random signs estimate it, at least 2.
        seed: draws the probes.

    Returns:
        `NetCriteria`.

    Raises:
        InputError: no examples or arrays of different length, labels out of range, values that are not finite, a rate
            that is negative, a penalty that is no such sum, rates that nobody reads, too large for the exact form.

    Example:
        >>> from jaxtl.penalties import Term, l2, labelled
        >>> params = {"kernel": jnp.array([[0.625], [1.125]])}
        >>> penalty = labelled({"kernel": "new"}, {"new": Term(1 / 3, l2)})
        >>> batch = {"x": jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), "y": jnp.array([1.0, 2.0, 2.0])}
        >>> def forward(params, model_state, batch, ctx):
        ...     return {"head": batch["x"] @ params["kernel"]}, model_state
        >>> round(net_criteria(forward, params, batch, penalty, loss=squared_error, target="y").df, 5)
        1.25
    """
    if loss not in (softmax_cross_entropy, squared_error):
        what, todo = f"{getattr(loss, '__name__', loss)}", "use softmax_cross_entropy or squared_error"
        raise InputError(what, where="net_criteria loss", todo=todo)
    if not isinstance(probes, int) or probes < 0 or probes == 1:
        raise InputError(f"{probes!r}", where="net_criteria probes", todo="0 is exact; a standard error needs 2")
    n, fixed = _examples(batch, target), fixed or Fixed()
    _check_finite(params, "params")
    if frozen is not None:
        check_labels(params, frozen, where="net_criteria frozen")
    held = jax.tree.map(lambda _: False, params) if frozen is None else paired(params, frozen)
    moves = tuple(not stays for stays in jax.tree.leaves(held))
    if not any(moves):
        raise InputError("all parameters are frozen", where="net_criteria frozen", todo="leave one to count")
    stiffness, paid = _pulls(penalty, params, fixed, moves, n)
    leaves = list(zip(jax.tree.leaves(params), moves, strict=True))
    net = Net(forward, head, loss, jax.tree.structure(params), moves)
    moving = [leaf for leaf, moved in leaves if moved]
    point = Point([leaf for leaf, moved in leaves if not moved], {} if model_state is None else model_state, fixed)
    inputs = {name: leaf for name, leaf in batch.items() if name != target}
    total, count = _summed_loss(net, all_outputs(net, moving, point, inputs), np.asarray(batch[target]))
    if probes:
        curvature = estimated_curvature(net, moving, point, inputs, stiffness, count, probes, seed)
    else:
        curvature = exact_curvature(net, moving, point, inputs, stiffness, count)
    return _priced(curvature, total, paid, n, count, loss is squared_error)


def _priced(curvature: Curvature, total: float, paid: float, n: int, count: int, squared: bool) -> NetCriteria:
    """From the summed loss, the summed penalty, n examples and N = `count` numbers observed."""
    df, left = curvature.df, count - curvature.free
    with np.errstate(divide="ignore"):  # a perfect fit: minus infinity
        twice = float(count * np.log(2 * total / count)) if squared else 2 * total
        fit = -total - paid
        if squared:
            fit = float(-0.5 * left * (np.log(4 * np.pi * (total + paid) / left) + 1)) if left else -np.inf
    correction = 2 * df * (df + 1) / (count - df - 1) if count > df + 1 else np.inf
    return NetCriteria(
        df=df,
        df_error=curvature.df_error,
        aic=twice + 2 * df,
        aicc=twice + 2 * df + correction,
        bic=twice + float(np.log(n)) * df,
        log_evidence=fit - 0.5 * curvature.log_determinant,
        log_evidence_error=0.5 * curvature.log_determinant_error,
    )


def _examples(batch: Any, target: str) -> int:
    """n, the same for every array of the batch."""
    if not isinstance(batch, dict) or target not in batch or len(batch) < 2:
        raise InputError(f"no field '{target}' beside inputs", where="net_criteria batch", todo="name it with target=")
    if "mask" in batch:
        raise InputError("has a mask", where="net_criteria batch", todo="leave out the examples that do not count")
    lengths = {path: np.shape(leaf)[:1] for path, leaf in named_leaves(batch).items()}
    if len(set(lengths.values())) > 1 or min(lengths.values(), default=()) in ((), (0,)):
        what = f"lengths { ({path: length[0] if length else None for path, length in lengths.items()}) }"
        raise InputError(what, where="net_criteria batch", todo="give arrays of the same examples, at least one")
    _check_finite(batch, "batch")
    return len(batch[target])


def _check_finite(tree: Tree, name: str) -> None:
    for path, leaf in named_leaves(tree).items():
        values = np.asarray(leaf)
        if jnp.issubdtype(values.dtype, jnp.inexact) and not np.isfinite(values).all():
            todo = "remove or repair NaN and infinity first"
            raise InputError("is not finite", where=f"net_criteria {name}['{path}']", todo=todo)


def _summed_loss(net: Net, outputs: np.ndarray, targets: np.ndarray) -> tuple[float, int]:
    """Σ loss, and N."""
    n, width = outputs.shape
    if not np.isfinite(outputs).all():
        raise InputError(f"output '{net.head}' is not finite", where="net_criteria", todo="choose among other nets")
    if net.loss is softmax_cross_entropy:
        classes = checked_classes(targets, n, width, "net_criteria")
        return float(-log_likelihoods(outputs.astype(np.float64), classes).sum()), n * (width - 1)
    if targets.size != outputs.size or targets.dtype.kind not in "fiu":
        what = f"targets {targets.dtype} {list(targets.shape)} for outputs {list(outputs.shape)}"
        raise InputError(what, where="net_criteria", todo="give one number per output")
    return float(0.5 * np.square(outputs.astype(np.float64) - targets.reshape(n, width)).sum()), n * width


def _pulls(
    penalty: Callable, params: Tree, fixed: Fixed, moves: tuple[bool, ...], n: int
) -> tuple[list[np.ndarray], float]:
    """n · d of every leaf that moves, and n · ½ Σ d (w − anchor)² over them: float64."""
    for name, rate in fixed.rates.items():
        if name.startswith("decay/") and float(rate):
            todo = f'give it to the penalty as "penalty/{name.removeprefix("decay/")}", if it is coupled'
            raise InputError("acts in the optimizer", where=f"rates['{name}']", todo=todo)
    slopes, curvatures, missed = _quadratic(penalty, params, fixed)
    pairs = zip(*(map(np.asarray, jax.tree.leaves(tree)) for tree in (slopes, curvatures)), moves, strict=True)
    moving = [(slope.astype(np.float64), d.astype(np.float64)) for slope, d, moved in pairs if moved]
    if not all(np.isfinite(d).all() and (d >= 0).all() for _, d in moving):
        raise InputError("a rate is negative or not finite", where="net_criteria penalty", todo="use rates >= 0")
    if not float(missed) < ROUNDING:
        what = "is not ½ Σ d (w − anchor)², the only one with degrees of freedom of this kind"
        raise InputError(what, where="net_criteria penalty", todo="use l2 or fisher")
    squares = sum(float(np.sum(slope[d > 0] ** 2 / d[d > 0])) for slope, d in moving)
    return [n * d for _, d in moving], 0.5 * n * squares


@functools.partial(jax.jit, static_argnums=0)
def _quadratic(penalty: Callable, params: Tree, fixed: Fixed) -> tuple[Tree, Tree, jax.Array]:
    """Slopes, diagonal curvature, and by how much these miss the slopes after a long step of random signs."""
    rates = Rates(fixed.rates)
    ctx = Context(0, None, rates, fixed.given, train=False)
    gradient = jax.grad(lambda params: penalty(params, ctx)[0])
    slopes, curvatures = jax.jvp(gradient, (params,), (jax.tree.map(jnp.ones_like, params),))
    Rates({name: rate for name, rate in rates.items() if name.startswith("penalty/")}, rates.asked).refuse_unread()
    signs = jax.random.key(0)
    steps = jax.tree.map(lambda w: (1 + jnp.abs(w)) * jax.random.rademacher(signs, w.shape, w.dtype), params)

    def missed(slope, curvature, step, after):
        gap = jnp.abs(after - slope - curvature * step)
        size = jnp.finfo(step.dtype).eps * (jnp.abs(after) + jnp.abs(slope) + jnp.abs(curvature * step))
        return jnp.max(jnp.where(gap == 0, 0.0, gap / size))

    gaps = jax.tree.map(missed, slopes, curvatures, steps, gradient(jax.tree.map(jnp.add, params, steps)))
    return slopes, curvatures, jnp.max(jnp.stack(jax.tree.leaves(gaps)))
