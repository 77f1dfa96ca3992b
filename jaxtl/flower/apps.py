"""The two apps that Flower runs: messages in and out, and nothing of the transport is ours.

Arrays go as Flower's ArrayRecord: `numpy.save` and `numpy.load`, both without pickles; numbers as its MetricRecord.
"""

from __future__ import annotations

import functools
import importlib
import io
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxtl.archives import npy_header
from jaxtl.devices import backend
from jaxtl.errors import InputError, Stop
from jaxtl.flower.plan import Own, Parcel, Plan
from jaxtl.flower.serve import serve
from jaxtl.flower.work import present, work

ARRAYS, NUMBERS = "arrays", "numbers"  # records of a message
RAISED = 2  # Flower's code of an app that failed
PAUSE = 1.0  # seconds between two looks at who is there

Settings = Mapping[str, Any]


def client_app(plan: Callable[[Settings], Plan], own: Callable[[Settings], Own]) -> Any:
    """Flower's ClientApp of a client: our local program on examples that stay in its process.

    Args:
        plan: from what `flwr run --run-config` says, the same in every process.
        own: from what this node alone was told, `flower-supernode --node-config`, to what it alone has.

    Returns:
        A `flwr.clientapp.ClientApp`, for `clientapp = "MODULE:NAME"` in the app's pyproject.toml.

    Raises:
        InputError: Flower is not installed.
    """
    made, app = _once(plan), _flower("clientapp").ClientApp()

    def answered(message: Any, context: Any, answer: Callable[[Plan, Own], Parcel]) -> Any:
        flower = _flower("app")
        try:
            backend.use_compilation_cache()  # a process for every message: what one compiled the next one finds
            content = _record(answer(made(context.run_config), own(context.node_config)))
            return flower.Message(content, reply_to=message)
        except Stop as stop:
            reason = str(stop)
        except Exception as error:  # its text may show what the client has: it is told here, and its kind there
            traceback.print_exc()
            reason = f"{type(error).__name__}, see the log of this client"
        return flower.Message(flower.Error(code=RAISED, reason=reason), reply_to=message)

    @app.query()
    def query(message: Any, context: Any) -> Any:
        return answered(message, context, lambda plan, own: Parcel({}, present(plan, own)))

    @app.train()
    def train(message: Any, context: Any) -> Any:
        return answered(message, context, lambda plan, own: work(plan, own, _parcel(message.content)))

    return app


def server_app(plan: Callable[[Settings], Plan], *, patience: float = 600.0, least: int = 1) -> Any:
    """Flower's ServerApp of a run: rounds on whoever is there, saved one by one.

    Args:
        plan: from what `flwr run --run-config` says.
        patience: seconds that it waits for clients before the first round, and for the replies of each.
        least: replies that a round needs.

    Returns:
        A `flwr.serverapp.ServerApp`, for `serverapp = "MODULE:NAME"`; the same `flwr run` goes on after the last round
        that was saved.

    Raises:
        InputError: Flower is not installed.
    """
    app = _flower("serverapp").ServerApp()

    @app.main()
    def main(grid: Any, context: Any) -> None:
        made = plan(context.run_config)
        serve(made, Nodes(grid, made.run, patience), least=least, say=functools.partial(print, flush=True))

    return app


class Nodes:
    """Flower's nodes as a `serve.Fleet`: which client each of them is, is asked once.

    Args:
        grid: of Flower.
        run: of the plan.
        patience: seconds, see `server_app`.
    """

    def __init__(self, grid: Any, run: int, patience: float):
        self.grid, self.run, self.patience = grid, run, patience
        self.who: dict[int, tuple[int, float]] = {}  # by node: (client, weight)
        self.past: set[int] = set()  # nodes whose client has come again as another
        self.told: set[str] = set()

    def present(self, wanted: int) -> dict[int, float]:
        """See `serve.Fleet`."""
        end = time.monotonic() + self.patience
        while True:
            nodes = set(self.grid.get_node_ids())
            if unknown := sorted(nodes - self.who.keys() - self.past):
                self._meet(unknown)
            self.who = {node: who for node, who in self.who.items() if node in nodes}
            there = dict(self.who.values())
            if len(there) >= wanted or time.monotonic() >= end:
                return there
            time.sleep(PAUSE)

    def _meet(self, nodes: Sequence[int]) -> None:
        for node, answer in self._replies(nodes, Parcel({}, {"run": self.run}), "query").items():
            if isinstance(answer, str) or answer.numbers.get("run") != self.run:
                why = answer if isinstance(answer, str) else "it takes part in another run"
                self._tell(f"node {node} cannot be used: {why}")
            else:
                client = int(answer.numbers["client"])
                for old in [old for old, (other, _) in self.who.items() if other == client]:
                    self._tell(f"client {client} is node {node} now, and not {old}")
                    self.past.add(old)
                    del self.who[old]
                self.who[node] = client, float(answer.numbers["weight"])

    def _tell(self, line: str) -> None:
        if line not in self.told:
            print(line, flush=True)
            self.told.add(line)

    def ask(self, clients: Sequence[int], sent: Parcel) -> dict[int, Parcel | str]:
        """See `serve.Fleet`."""
        nodes = {client: node for node, (client, _) in self.who.items()}
        replies = self._replies([nodes[client] for client in clients], sent, "train")
        return {self.who[node][0]: reply for node, reply in replies.items()}

    def _replies(self, nodes: Sequence[int], sent: Parcel, kind: str) -> dict[int, Parcel | str]:
        flower = _flower("app")
        content = _record(sent)
        messages = [flower.Message(content, dst_node_id=node, message_type=kind) for node in nodes]
        found: dict[int, Parcel | str] = {node: f"no answer in {self.patience:g} s" for node in nodes}
        replies = list(self.grid.send_and_receive(messages, timeout=self.patience))
        asked = {message.metadata.message_id: message.metadata.dst_node_id for message in messages}
        for reply in replies:
            node = asked[reply.metadata.reply_to_message_id]  # where a node is lost, its link answers for it
            if reply.has_error():
                found[node] = _reason(reply.error)
                continue
            try:
                found[node] = _parcel(reply.content)
            except (KeyError, ValueError, TypeError) as error:
                found[node] = f"its answer cannot be read: {error}"
        return found


def _reason(error: Any) -> str:
    words = " ".join(str(error.reason or f"code {error.code}").split())
    return f"{words:.300}"


def _record(parcel: Parcel) -> Any:
    flower = _flower("app")
    arrays = {path: flower.Array(leaf) for path, leaf in parcel.arrays.items()}
    numbers = flower.MetricRecord(dict(parcel.numbers))
    return flower.RecordDict({ARRAYS: flower.ArrayRecord(arrays), NUMBERS: numbers})


def _parcel(content: Any) -> Parcel:
    arrays = {}
    for path, array in content[ARRAYS].items():
        npy_header(io.BytesIO(array.data), len(array.data), path)
        arrays[path] = array.numpy()
    return Parcel(arrays, dict(content[NUMBERS]))


def _once(plan: Callable[[Settings], Plan]) -> Callable[[Settings], Plan]:
    """The same plan for the same settings: compiled once where a process gets several messages."""
    made: dict[tuple, Plan] = {}

    def of(settings: Settings) -> Plan:
        key = tuple(sorted(settings.items()))
        if key not in made:
            made[key] = plan(settings)
        return made[key]

    return of


def _flower(part: str) -> Any:
    try:
        return importlib.import_module(f"flwr.{part}")
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("flwr"):
            raise
        raise InputError(
            "Flower is not installed", where="jaxtl.flower", todo="pip install 'jaxtl[federated]'"
        ) from None
