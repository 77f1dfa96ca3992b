"""What the sum of changes may tell of one client: each is clipped, and noise is added to the sum.

    Δ = 1/S (Σ_k Δ_k min(1, C / ‖Δ_k‖) + N(0, (zC)²))

The server of a simulation sees every change before it is clipped: what is private is what leaves the server, the model
after every round, as long as nothing else is told. Secure aggregation, by which the server would see the sum alone, is
not done here.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp

from jaxtl.errors import InputError, whole_number
from jaxtl.methods.federated.sharing import Leaves
from jaxtl.trees import sum_leaves


@dataclasses.dataclass(frozen=True)
class Privacy:
    """How changes are clipped, and how much noise is added.

    Args:
        clip: C, the largest norm of a client's change over all that it sends.
        noise: z, the standard deviation of the noise on the sum is z·C.

    Raises:
        InputError: a bound that is not positive, negative noise.
    """

    clip: float
    noise: float

    def __post_init__(self):
        for name, value, ok in (("clip", self.clip, self.clip > 0), ("noise", self.noise, self.noise >= 0)):
            if not (ok and math.isfinite(value)):
                todo = "use clip > 0 and noise >= 0, such as Privacy(0.5, 1.0)"
                raise InputError(f"{value}", where=f"Privacy {name}", todo=todo)


def clipped(change: Leaves, bound: float) -> tuple[Leaves, jax.Array]:
    """(change · min(1, bound / ‖change‖), 1 if it was longer else 0), the norm over all leaves.

    Example:
        >>> leaves, short = clipped({"a": jnp.array([3.0]), "b": jnp.array([4.0])}, 1.0)
        >>> round(float(leaves["a"][0]), 4), float(short)
        (0.6, 1.0)
    """
    squares = sum_leaves(jnp.square, change)
    norm = jnp.sqrt(squares)
    factor = jnp.where(norm > bound, bound / jnp.where(norm > 0, norm, 1.0), 1.0)
    return {path: (factor * leaf).astype(leaf.dtype) for path, leaf in change.items()}, (norm > bound) * 1.0


def noisy(total: Leaves, deviation: float, rng: jax.Array) -> Leaves:
    """A sum with N(0, deviation²) on every entry, each from a key of its own."""
    keys = jax.random.split(rng, len(total))
    return {
        path: leaf + deviation * jax.random.normal(key, leaf.shape, leaf.dtype)
        for key, (path, leaf) in zip(keys, sorted(total.items()), strict=True)
    }


def epsilon(privacy: Privacy, *, clients: int, sampled: int, rounds: int, delta: float) -> float:
    """ε at δ of all rounds together, for exchanging one client and all that it has for another.

    As many as `sampled` of `clients` are drawn without replacement in each round. One client more or less moves the
    clipped sum by 2C at most, so that the accountant is given noise z/2. Rényi divergences are added up over the rounds
    (Wang, Balle and Kasiviswanathan, "Subsampled Rényi Differential Privacy and Analytical Moments Accountant", 2019)
    by the library dp-accounting, `pip install ".[privacy]"`.

    Args:
        privacy: as `rounds` was given it.
        clients, sampled, rounds: K, S and how many rounds are made public.
        delta: in (0, 1); below 1/K, or it says nothing.

    Returns:
        ε; infinite without noise.

    Raises:
        InputError: numbers that make no sense, or the library is not installed.

    Source: McMahan, Ramage, Talwar and Zhang, "Learning Differentially Private Recurrent Language Models", 2018.
    """
    for name, value in (("clients", clients), ("sampled", sampled), ("rounds", rounds)):
        whole_number(value, f"epsilon {name}")
    if sampled > clients:
        raise InputError(f"{sampled} of {clients} clients", where="epsilon sampled", todo="draw no more than there are")
    if not 0 < delta < 1:
        raise InputError(f"{delta} is not in (0, 1)", where="epsilon delta", todo="use less than 1 / clients")
    if not privacy.noise:
        return math.inf
    try:
        import dp_accounting
        from dp_accounting import rdp
    except ImportError:
        what = "the library dp-accounting is not installed"
        raise InputError(what, where="epsilon", todo='pip install ".[privacy]"') from None
    gaussian = dp_accounting.GaussianDpEvent(privacy.noise / 2)
    accountant = rdp.RdpAccountant(neighboring_relation=dp_accounting.NeighboringRelation.REPLACE_ONE)
    accountant.compose(dp_accounting.SampledWithoutReplacementDpEvent(clients, sampled, gaussian), rounds)
    return float(accountant.get_epsilon(delta))
