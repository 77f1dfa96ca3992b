"""A federated run whose examples stay with their owners, on Flower. To fork it, change `plan` and `own`.

    pip install 'jaxtl[federated]'
    export FLWR_TELEMETRY_ENABLED=0
    flower-superlink --insecure                                                                # where the server is
    flower-supernode --insecure --superlink=HOST:8000 --port=9094 --node-config='client=0'     # with every owner
    flwr run experiments/flower NAME --stream --run-config='workdir="/srv/run" rounds=20'      # anywhere

NAME is in ~/.flwr/config.toml: [superlink.NAME], address = "HOST:8000", insecure = true. Without --insecure all talk by
TLS, with certificates as Flower's documentation says. The same `flwr run` goes on where a server was killed.

A client has its part of scikit-learn's digits 5 to 9, or examples of its own (--node-config='client=0 data="own.npz"').
All begin with the same weights: random ones, or a file's that is everywhere (--run-config='source="a.safetensors"').
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxtl.checkpoints import load_weights
from jaxtl.data import Split, iid_parts, image_batches, load, local_epochs
from jaxtl.flower import Own, Plan, client_app, server_app
from jaxtl.labels import NEW, TRANSFERRED, label_params
from jaxtl.losses import mean_of, softmax_cross_entropy
from jaxtl.methods.federated import fedprox, rounds
from jaxtl.models import Classifier, Mlp, as_forward, initialise
from jaxtl.optimizers import Group
from jaxtl.penalties import Term
from jaxtl.program import Weights, make_program
from jaxtl.transfer import transfer

FIRST, CLASSES, SHAPE = 5, 5, (8, 8, 1)
MEAN, STD = np.array([78.0]), np.array([96.0])  # known to all, and taken from nobody's examples
BATCH = 10


def plan(settings: Mapping[str, Any]) -> Plan:
    """The model, what its labels mean, and the rounds: the same in every process, by what `flwr run` was told."""
    model = Classifier(Mlp((64,)), (("head", CLASSES),))
    params = initialise(model, jax.random.key(settings["seed"]), SHAPE)
    labels = label_params(params, [("head/.*", NEW), (".*", TRANSFERRED)])
    if settings["source"]:
        moved = transfer(load_weights(settings["source"]), params, reinit=["head/.*"])
        params, labels = moved.params, moved.labels
    local = make_program(
        as_forward(model),
        labels,
        {"task": Term(1.0, mean_of(softmax_cross_entropy))},
        {NEW: Group(settings["learning-rate"]), TRANSFERRED: Group(settings["learning-rate"])},
        fedprox([NEW, TRANSFERRED], settings["proximal"]),
        prepare=image_batches(BATCH, MEAN, STD),
    )
    program = rounds(
        local,
        local_epochs(BATCH, settings["epochs"]),
        clients=settings["clients"],
        sampled=settings["sampled"] or None,
        personal=(NEW,) if settings["own-heads"] else (),
    )
    return Plan(program, Weights(params), settings["rounds"], settings["seed"], workdir=settings["workdir"])


def own(node: Mapping[str, Any]) -> Own:
    """What this client has, by what its SuperNode alone was told."""
    client = int(node["client"])
    if "data" in node:
        split = load(str(node["data"])).train
    else:
        split = digits()
        split = split.take(iid_parts(split.labels, int(node.get("of", 3)), seed=0)[client])
    return Own(client, split, node.get("keep"))


def digits() -> Split:
    """Those that no source model was trained on."""
    every = load("digits").train
    rows = np.flatnonzero(every.labels >= FIRST)
    return Split(every.images[rows], (every.labels[rows] - FIRST).astype(np.int32))


client = client_app(plan, own)
server = server_app(plan)
