"""Ways to learn from clients that keep their examples; rows of a table on `problems.Clients`, whose steps are rounds.

All see the same partition, take the same number of rounds and local epochs, and begin with the source model's trunk
unless they say otherwise. "scratch" rows are the same programs from random parameters.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxtl.data import image_batches, local_epochs
from jaxtl.labels import NEW, TRANSFERRED, label_params
from jaxtl.methods.federated.control import controlled
from jaxtl.methods.federated.named import fedprox
from jaxtl.methods.federated.rounds import Rounds, rounds
from jaxtl.methods.federated.server import fed_adagrad, fed_adam, fed_yogi
from jaxtl.models import Classifier, Mlp, as_forward
from jaxtl.optimizers import Group
from jaxtl.problems.clients import Clients
from jaxtl.problems.source import CLASSIFY
from jaxtl.program import Program, Weights, make_program
from jaxtl.protocol import Draw, Range, Recipe

NORMALISATION = "normalisation"  # a label of its own where such layers stay with clients
EVERYTHING = (TRANSFERRED, NEW)


def whole(problem: Clients, *, pulled: bool = False, labels: Any = None, rate: Any = 0.0, **options: Any) -> Program:
    """Local steps on all parameters; with a pull of each label towards what the server sent."""
    labels = problem.moved.labels if labels is None else labels
    names = {NEW, TRANSFERRED} if labels is problem.moved.labels else {NEW, TRANSFERRED, NORMALISATION}
    return make_program(
        as_forward(problem.model),
        labels,
        {"task": CLASSIFY},
        {label: Group(rate) for label in sorted(names)},
        fedprox(names, 0.0) if pulled else None,
        momentum=problem.config.local_momentum,
        prepare=problem.images.batches(problem.batch_size),
        dense=problem.config.model == "mlp",
        **options,
    )


def head_alone(problem: Clients) -> Program:
    """Local steps on the head, on features that the source's trunk gives once."""
    width = problem.moved.params["head"]["kernel"].shape[0]
    return make_program(
        as_forward(Classifier(Mlp(widths=()), problem.model.heads)),
        {"head": problem.moved.labels["head"]},
        {"task": CLASSIFY},
        {NEW: Group()},
        momentum=problem.config.local_momentum,
        prepare=image_batches(problem.batch_size, np.zeros(width), np.ones(width)),
        dense=True,
    )


def on_all(problem: Clients, local: Program, **how: Any) -> Rounds:
    """Rounds of a program on the clients of a problem."""
    config = problem.config
    visit = local_epochs(problem.batch_size, config.local_epochs)
    return rounds(local, visit, **{"clients": config.clients, "sampled": config.taking_part, **how})


def averaged(problem: Clients, **how: Any) -> Rounds:
    """All parameters are averaged, or whatever `how` says."""
    return on_all(problem, whole(problem), **how)


def proximal(problem: Clients) -> Rounds:
    """FedProx: local steps are pulled towards what the server sent."""
    return on_all(problem, whole(problem, pulled=True))


def scaffold(problem: Clients) -> Rounds:
    """SCAFFOLD: gradients are corrected by control variates."""
    return on_all(problem, whole(problem, gradient=controlled), controls=True)


def head_averaged(problem: Clients, **how: Any) -> Rounds:
    """The head alone."""
    return on_all(problem, head_alone(problem), **how)


def representation(problem: Clients) -> Rounds:
    """FedRep: half of the steps of a round on each client's head, then half on the trunk of all."""
    local = whole(problem, rate=lambda step: 1.0)  # a function: what is held keeps its momentum
    return on_all(problem, local, personal=(NEW,), personal_first=0.5)


def normalisation_stays(problem: Clients) -> Rounds:
    """FedBN: parameters and statistics of normalisation layers stay with each client."""
    labels = label_params(problem.moved.params, [("trunk/(.*/)?norm[^/]*/.*", NORMALISATION)], problem.moved.labels)
    return on_all(problem, whole(problem, labels=labels), personal=(NORMALISATION,))


def pooled(problem: Clients) -> Rounds:
    """All examples in one place: a bound."""
    return averaged(problem, clients=1, sampled=1)


def fresh(problem: Clients, draw: Draw) -> Weights:
    """Nothing from the source."""
    return problem.fresh(draw)


def _with(make: Callable[..., Rounds], **how: Any) -> Callable[[Clients], Rounds]:
    return functools.partial(make, **how)


SERVER_RATE = {"server_learning_rate": Range(0.003, 0.3)}
MAKE: dict[str, tuple[Callable[[Clients], Rounds], str, dict[str, Range]]] = {
    "fedavg": (averaged, "local steps on all parameters, averaged by number of examples", {}),
    "fedprox": (proximal, "fedavg, each step pulled towards what the server sent", {"pull": Range(0.01, 3.0)}),
    "scaffold": (scaffold, "fedavg, each gradient corrected by how a client's slope differs from that of all", {}),
    "fedadam": (
        _with(averaged, server=fed_adam),
        "fedavg, the server moving by Adam along the mean change",
        SERVER_RATE,
    ),
    "fedyogi": (_with(averaged, server=fed_yogi), "fedadam by Yogi", SERVER_RATE),
    "fedadagrad": (_with(averaged, server=fed_adagrad), "fedadam by Adagrad", SERVER_RATE),
    "fedavgm": (
        _with(averaged, momentum=0.9),
        "fedavg, the server with momentum 0.9",
        {"server_learning_rate": Range(0.03, 1.0)},
    ),
}
POOLED = "pooled"  # the row that has all examples in one place
RECIPES = {
    name: Recipe(make, ("learning_rate", *ranges), means, ranges) for name, (make, means, ranges) in MAKE.items()
}
RECIPES |= {
    "head": Recipe(head_averaged, means="the head alone, averaged, on features of the source's trunk"),
    "fedper": Recipe(
        _with(averaged, personal=(NEW,)), means="the trunk is averaged, every client has a head of its own"
    ),
    "fedrep": Recipe(
        representation,
        means="fedper, in each round the head first with the trunk held, then the trunk with the head held",
    ),
    "fedbn": Recipe(normalisation_stays, means="fedavg, every client with normalisation layers of its own"),
    "local_head": Recipe(
        _with(head_averaged, personal=(NEW,)), means="every client trains a head on the source's trunk: nothing is sent"
    ),
    "local": Recipe(_with(averaged, personal=EVERYTHING), means="every client trains all by itself: nothing is sent"),
    POOLED: Recipe(pooled, means="all examples in one place, as many epochs: a bound"),
}
RECIPES |= {
    f"{name}_scratch": Recipe(
        make, ("learning_rate", *ranges), f"{name} from random parameters", ranges, start=fresh, transfers=False
    )
    for name, (make, _, ranges) in MAKE.items()
}
