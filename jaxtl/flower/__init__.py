"""Rounds on Flower: examples stay with the processes that own them, and the label tree says what leaves.

    client      client_app: our local program on its own examples, in one compiled call a round
    server      server_app: the mean of changes, any server optimizer, a checkpoint a round
    both        Plan (what all agree on), Own (what a client alone has), keys (the same run in a single process)

Client and server are the two halves of the step that `methods.federated.rounds` makes, and end where it does.
"""

from jaxtl.flower.apps import client_app, server_app
from jaxtl.flower.plan import Own, Plan, keys

__all__ = ["Own", "Plan", "client_app", "keys", "server_app"]
