"""The two ways that most begin with: FedAvg as rounds, FedProx as what each label pays."""

from __future__ import annotations

from collections.abc import Iterable

from jaxtl.methods.federated.local import SERVER, Visit
from jaxtl.methods.federated.rounds import Rounds, rounds
from jaxtl.penalties import Term, l2
from jaxtl.program import Program


def fedavg(program: Program, visit: Visit, *, clients: int, sampled: int | None = None) -> Rounds:
    """x ← Σ_k w_k y_k / Σ_k w_k: local steps on sampled clients, and their mean by number of examples.

    `rounds` with a server that takes the mean as it is; other servers, personal parts and privacy are options there.

    Args:
        program, visit, clients, sampled: as for `rounds`.

    Returns:
        The program whose step is a round.

    Raises:
        InputError: what `rounds` refuses.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from jaxtl.losses import mean_of, squared_error
        >>> from jaxtl.optimizers import Group
        >>> from jaxtl.program import Weights, make_program
        >>> def forward(params, model_state, batch, ctx):
        ...     return {"head": batch["x"] * params["w"]}, model_state
        >>> task = {"task": Term(1.0, mean_of(squared_error))}
        >>> local = make_program(forward, {"w": "shared"}, task, {"shared": Group(0.5)}, fedprox(["shared"], 1.0))
        >>> def visit(data, client, round):  # two steps on its one example
        ...     return jnp.tile(data["index"][client], (2, 1)), jnp.ones((2, 1), bool)
        >>> program = fedavg(local, visit, clients=2)
        >>> data = {"examples": {"x": jnp.ones(2), "label": jnp.array([1.0, 3.0])}, "index": jnp.array([[0], [1]])}
        >>> data |= {"client": jnp.arange(2), "weight": jnp.array([3.0, 1.0])}
        >>> state = program.start(Weights({"w": jnp.float32(0)}), jax.random.key(0))
        >>> state, _ = program.step(state, data, program.fixed())
        >>> float(state.params["w"])  # FedProx: 0.5 and 1.5 after one step, and after two still
        0.75

    Source: McMahan, Moore, Ramage, Hampson and Agüera y Arcas, "Communication-Efficient Learning of Deep Networks from
    Decentralized Data", 2017.
    """
    return rounds(program, visit, clients=clients, sampled=sampled)


def fedprox(labels: Iterable[str], mu: float) -> dict[str, Term]:
    """½ μ ‖w − x‖²: every label is pulled towards what the server sent, in each local step.

    Args:
        labels: of a program.
        mu: μ, the rate "penalty/LABEL" of each.

    Returns:
        Penalties for `make_program`.

    Example:
        >>> {label: (term.rate, term.given) for label, term in fedprox(["new"], 0.1).items()}
        {'new': (0.1, ('server',))}

    Source: Li, Sahu, Zaheer, Sanjabi, Talwalkar and Smith, "Federated Optimization in Heterogeneous Networks", 2020.
    """
    return {label: Term(mu, l2, (SERVER,)) for label in sorted(labels)}
