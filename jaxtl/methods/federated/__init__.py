"""Clients that keep their examples: a round is a step, and the label tree says what leaves a client.

a round        fedavg, rounds; local (a client's steps), sharing (what is sent), Memory (what lasts)
the server     fed_adagrad, fed_adam, fed_yogi, or any optax transformation
corrections    controlled (SCAFFOLD); fedprox, a penalty towards given["server"]
privacy        Privacy, epsilon

Rows of a table on `problems.Clients` are in `recipes`.
"""

from jaxtl.methods.federated.control import controlled
from jaxtl.methods.federated.memory import Memory
from jaxtl.methods.federated.named import fedavg, fedprox
from jaxtl.methods.federated.privacy import Privacy, epsilon
from jaxtl.methods.federated.rounds import Rounds, rounds
from jaxtl.methods.federated.server import fed_adagrad, fed_adam, fed_yogi
from jaxtl.methods.federated.sharing import Sharing, Traffic

__all__ = [
    "Memory",
    "Privacy",
    "Rounds",
    "Sharing",
    "Traffic",
    "controlled",
    "epsilon",
    "fed_adagrad",
    "fed_adam",
    "fed_yogi",
    "fedavg",
    "fedprox",
    "rounds",
]
