"""A round as a step: any program becomes one whose step is local steps on sampled clients, and their mean.

    S clients are drawn; each starts from x and its own parts, and takes the steps of the program on its own batches
    Δ = Σ_k w_k (y_k − x) / Σ_k w_k         over what is sent;  x ← x − η · scaler(−Δ)

All of it is one pure function of (state, data, fixed), so that `fit`, sweeps, checkpoints and reports stay as they are.
What lasts is in the state: the server's optimizer in `opt_state`; in `model_state` what every client keeps.

Sources: McMahan, Moore, Ramage, Hampson and Agüera y Arcas, "Communication-Efficient Learning of Deep Networks from
Decentralized Data", 2017 (FedAvg); Li, Sahu, Zaheer, Sanjabi, Talwalkar and Smith, "Federated Optimization in
Heterogeneous Networks", 2020 (FedProx: a penalty towards given["server"]); Hsu, Qi and Brown, "Measuring the Effects of
Non-Identical Data Distribution for Federated Visual Classification", 2019 (FedAvgM); Arivazhagan, Aggarwal, Singh and
Choudhary, "Federated Learning with Personalization Layers", 2019 (FedPer); Collins, Hassani, Mokhtari and Shakkottai,
"Exploiting Shared Representations for Personalized Federated Learning", 2021 (FedRep); Li, Jiang, Zhang, Kamp and Dou,
"FedBN: Federated Learning on Non-IID Features via Local Batch Normalization", 2021.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxtl.devices import backend
from jaxtl.devices.placement import constrain, parts, shared_out
from jaxtl.errors import InputError, check_takes, kind_of, whole_number
from jaxtl.methods.federated.local import Client, Ended, Local, Sent, Visit
from jaxtl.methods.federated.memory import Memory, remembered
from jaxtl.methods.federated.merging import Replies, mean_by, mean_change
from jaxtl.methods.federated.privacy import Privacy
from jaxtl.methods.federated.sharing import Sharing, Traffic, for_each, leaves_at, size_of, with_leaves
from jaxtl.program import Program, Weights
from jaxtl.rates import checked_rate, rate_at
from jaxtl.scaling import scaler
from jaxtl.step import Fixed, Rates, TrainState, init_state
from jaxtl.trees import Tree

SERVER_RATE = "server_learning_rate"
# Bytes of a model that is worked on side by side with others on a CPU: 32 clients took 0.7 of the time of one after
# another with 19 kB each, and 1.1 with 400 kB, whose copies do not stay in the cache.
SMALL = 2**16


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Rounds(Program):
    """A program whose steps are rounds; made by `rounds`.

    Attributes:
        clients, sampled: K, and how many of them take part in a round.
        sharing: which parameters leave a client.
        controls: whether control variates are kept.
        local: a client's part of the step: (client, sent) -> what its steps come to.
        merge: the server's part: (state, replies, fixed) -> (state, metrics). Clients elsewhere need no other.
    """

    clients: int
    sampled: int
    sharing: Sharing
    controls: bool
    local: Local
    merge: Callable[[TrainState, Replies, Fixed], tuple[TrainState, dict[str, jax.Array]]]

    def start(self, weights: Weights, rng: jax.Array) -> TrainState:
        """A state before the first round: every client has the personal parts of the model that is given."""
        return init_state(self.own(weights.params), self.tx, rng, self.memory(weights))

    def memory(self, weights: Weights) -> Memory:
        """What the weights of a run hold of it; of a model without any, that of its beginning."""
        if isinstance(weights.model_state, Memory):
            return weights.model_state
        params = self.own(weights.params)
        _, own_state = self.sharing.split_state(weights.model_state)
        zeros = jax.tree.map(jnp.zeros_like, leaves_at(params, self.sharing.sent)) if self.controls else {}
        own = for_each(leaves_at(params, self.sharing.personal), self.clients)
        kept = for_each(own_state, self.clients)
        return Memory(weights.model_state, zeros, own, kept, for_each(zeros, self.clients))

    def traffic(self, weights: Weights) -> Traffic:
        """Bytes that each client of a round receives and sends: by labels, not by what was trained."""
        sent, memory = leaves_at(self.own(weights.params), self.sharing.sent), self.memory(weights)
        each = size_of(sent, self.sharing.split_state(memory.state)[0], memory.control)
        return Traffic(each, each)


def rounds(
    program: Program,
    visit: Visit,
    *,
    clients: int,
    sampled: int | None = None,
    server: str | Callable[[], optax.GradientTransformation] = "sgd",
    momentum: float = 0.0,
    server_learning_rate: float = 1.0,
    personal: tuple[str, ...] = (),
    personal_first: float | None = None,
    controls: bool = False,
    privacy: Privacy | None = None,
) -> Rounds:
    """A program whose step is a round of the given one on clients.

    Clients hold no optimizer state between rounds; a schedule of the program sees step T·round + t of a client that
    takes T steps a round. A client that has done its steps holds all of its state. On a CPU clients run one after
    another, small dense programs side by side, elsewhere all do; on a mesh each device has its share of them.
    Random numbers go by data["client"], not by place, so that neither order nor padding changes anything.

    Args:
        program: what clients run; its `prepare` takes a batch that was chosen already, as `data.batches` does, and its
            terms heed the batch's "mask", as `losses.mean_of` does. It finds what a client began its round with as
            given["server"]: `Term(mu, l2, ("server",))` on every label is FedProx.
        visit: (data, client, round) -> (rows [L, B] of data["examples"], mask [L, B]), as `data.local_epochs` makes it
            for data of `data.on_clients`; steps that are taken come first, those of an empty mask are none.
        clients: K.
        sampled: how many take part in a round, drawn without replacement; all of them when left out.
        server, momentum: optimizer of the server, as for `per_label`: "sgd", "adam", `fed_adam`, `fed_yogi`.
        server_learning_rate: η, the rate of that name.
        personal: labels whose parameters stay with each client, and are in no mean.
        personal_first: the share of a client's steps in which personal parts alone learn; then the others alone do. A
            label keeps its momentum meanwhile if its learning rate is a function, `Group(lambda step: 1.0)`. All learn
            at once when left out.
        controls: keep control variates; the program was made with `gradient=controlled` (SCAFFOLD).
        privacy: clip changes and add noise; all clients then count alike, whatever their weights.

    Returns:
        The program; its metrics are means over steps and clients, and "clipped", a share, with `privacy`.

    Raises:
        InputError: numbers that do not fit, an unknown label, privacy where something else than the clipped changes
            leaves a client; when traced: data of another number of clients, a program that reads no control variates.

    Example:
        >>> from jaxtl.losses import mean_of, squared_error
        >>> from jaxtl.optimizers import Group
        >>> from jaxtl.penalties import Term
        >>> from jaxtl.program import make_program
        >>> def forward(params, model_state, batch, ctx):
        ...     return {"head": batch["x"] * params["w"]}, model_state
        >>> task = {"task": Term(1.0, mean_of(squared_error))}
        >>> local = make_program(forward, {"w": "shared"}, task, {"shared": Group(0.5)})
        >>> def visit(data, client, round):
        ...     return data["index"][client][None], jnp.ones((1, 1), bool)
        >>> program = rounds(local, visit, clients=2)
        >>> data = {"examples": {"x": jnp.ones(2), "label": jnp.array([1.0, 3.0])}, "index": jnp.array([[0], [1]])}
        >>> data |= {"client": jnp.arange(2), "weight": jnp.array([3.0, 1.0])}
        >>> state = program.start(Weights({"w": jnp.float32(0)}), jax.random.key(0))
        >>> state, _ = program.step(state, data, program.fixed())
        >>> float(state.params["w"])  # clients end at 0.5 and 1.5
        0.75
    """
    sampled = _checked(program, visit, clients, sampled, personal_first, personal)
    checked_rate(server_learning_rate, "rounds server_learning_rate")
    if privacy and controls:
        what = "control variates would leave a client without noise"
        raise InputError(what, where="rounds privacy", todo="leave out one of them")
    make = scaler(server, momentum)
    sharing = Sharing.of(program.labels, personal, getattr(program.tx, "frozen", frozenset()))
    local = Local(program, visit, sharing, personal, personal_first, controls, privacy)

    def step(state: TrainState, data: Any, fixed: Fixed) -> tuple[TrainState, dict[str, jax.Array]]:
        asked = fixed.rates if isinstance(fixed.rates, Rates) else Rates(fixed.rates)
        _check_data(data, clients, local, state.model_state)
        memory, keys = state.model_state, Keys.of(state.rng, state.step)
        place, real = drawn(data, sampled, keys.sample)
        kept = ({path: leaf[place] for path, leaf in part.items()} for part in memory.of_clients)
        rows = Client(place, jnp.where(real, data["weight"][place], 0.0), *kept)
        sent = Sent(state.params, memory.state, memory.control, data, asked, fixed.given, state.step, keys.local)
        found = shared_out(_each(local), rows, sent)
        replies = Replies(found, rows.weight, jnp.where(real, place, clients), data["weight"])
        state, metrics = merge(state, replies, Fixed(asked, fixed.given))
        asked.refuse_unread()
        return state, metrics

    def merge(state: TrainState, replies: Replies, fixed: Fixed) -> tuple[TrainState, dict[str, jax.Array]]:
        asked = fixed.rates if isinstance(fixed.rates, Rates) else Rates(fixed.rates)
        mean = mean_by(replies.weight)
        rate = rate_at(server_learning_rate, SERVER_RATE, asked, state.step)
        own = leaves_at(state.params, sharing.sent)
        change = mean_change(replies, privacy, sampled, Keys.of(state.rng, state.step).noise)
        slope = {path: -leaf for path, leaf in change.items()}
        updates, opt_state = make().update(slope, state.opt_state, own)
        own = {path: (w - rate * updates[path]).astype(w.dtype) for path, w in own.items()}
        memory = remembered(state.model_state, sharing, replies)
        metrics = mean(replies.found.metrics) | (mean({"clipped": replies.found.clipped}) if privacy else {})
        params = with_leaves(state.params, own)
        return constrain(TrainState(state.step + 1, params, memory, opt_state, state.rng)), metrics

    def init(params: Tree) -> Any:
        return make().init(leaves_at(params, sharing.sent))

    def update(updates, state, params=None, **extra):
        raise InputError("has no update of its own", where="rounds", todo="run its step")

    return Rounds(
        step,
        optax.GradientTransformationExtraArgs(init, update),
        program.labels,
        {**program.rates, SERVER_RATE: server_learning_rate},
        program.given,
        program.dense,
        clients=clients,
        sampled=sampled,
        sharing=sharing,
        controls=controls,
        local=local,
        merge=merge,
    )


class Keys(NamedTuple):
    """Random keys of a round: which clients are drawn, the noise on their sum, what they draw themselves."""

    sample: jax.Array
    noise: jax.Array
    local: jax.Array

    @classmethod
    def of(cls, rng: jax.Array, number: Any) -> Keys:
        """Those of a round, by the key of the run."""
        return cls(*(jax.random.fold_in(jax.random.fold_in(rng, number), use) for use in range(3)))


def drawn(data: Mapping[str, Any], sampled: int, rng: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(places of the clients of a round, which of them are no repetition that fills up a number of devices).

    Those without a weight come last.
    """
    slots = jnp.arange(-(-sampled // parts()) * parts())
    order = jnp.arange(len(data["client"]))
    if sampled < len(order):
        lots = jax.vmap(lambda client: jax.random.bits(jax.random.fold_in(rng, client)))(data["client"])
        order = jnp.lexsort((lots, data["weight"] <= 0))
    return order[slots % sampled], slots < sampled


def _each(local: Local) -> Callable[[Client, Sent], Ended]:
    """All clients of a round, side by side or one after another."""

    def every(rows: Client, sent: Sent) -> Ended:
        small = local.program.dense and size_of(leaves_at(sent.params, local.sharing.moving)) <= SMALL
        if small or backend.batching() == "vmap":
            return jax.vmap(lambda row: local(row, sent))(rows)
        return jax.lax.map(lambda row: local(row, sent), rows)

    return every


def _checked(
    program: Any, visit: Any, clients: int, sampled: int | None, personal_first: float | None, personal: tuple[str, ...]
) -> int:
    """How many clients take part in a round."""
    if not isinstance(program, Program):
        raise InputError(f"{kind_of(program)} is none", where="rounds program", todo="make one with make_program")
    check_takes(visit, 3, where="rounds visit", todo="pass local_epochs(batch_size, epochs)")
    most = whole_number(clients, "rounds clients")
    count = most if sampled is None else whole_number(sampled, "rounds sampled")
    if count > most:
        raise InputError(f"{count} of {clients} clients", where="rounds sampled", todo="draw no more than there are")
    if personal_first is not None and not (personal and 0 < personal_first < 1):
        what = f"{personal_first}, and personal labels are {', '.join(personal) or 'none'}"
        raise InputError(what, where="rounds personal_first", todo="give a share in (0, 1), and personal labels")
    return count


def _check_data(data: Any, clients: int, local: Local, memory: Any) -> None:
    """Refuse data of other clients, a state that began elsewhere, statistics that noise would not cover."""
    missing = {"examples", "client", "weight"} - {*data} if isinstance(data, Mapping) else {"examples"}
    if missing or len(data["client"]) != clients:
        what = f"no '{min(missing)}'" if missing else f"of {len(data['client'])} clients, not {clients}"
        raise InputError(what, where="data of rounds", todo="make them with on_clients, of as many parts")
    if not isinstance(memory, Memory):
        raise InputError("the state holds no clients", where="state of rounds", todo="begin with program.start")
    if local.privacy and (leaves := local.sharing.split_state(memory.state)[0]):
        what = f"'{min(leaves)}' would leave a client without noise"
        raise InputError(
            what, where="rounds privacy", todo="use a model without batch statistics, or make them personal"
        )
