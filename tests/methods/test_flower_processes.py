"""The app in experiments/flower as Flower runs it: its messages in this process, its processes on loopback."""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from jaxtl.checkpoints import load_weights
from jaxtl.data import Split, on_clients
from jaxtl.devices.rendezvous import free_port
from jaxtl.errors import InputError
from jaxtl.flower import Own, client_app, keys, server_app
from jaxtl.flower.apps import Nodes
from jaxtl.flower.plan import Parcel

ROOT = Path(__file__).resolve().parents[2]
APP = ROOT / "experiments/flower"
SETTINGS = tomllib.loads((APP / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
K = SETTINGS["clients"]


@pytest.fixture
def app(monkeypatch):
    """The app, where there is Flower."""
    monkeypatch.setenv("FLWR_TELEMETRY_ENABLED", "0")
    pytest.importorskip("flwr")
    task = importlib.import_module(
        "flwr.supercore.task_identity"
    ).TaskIdentity  # whose messages those of this process are
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(task, name, 1)
    return importlib.import_module("experiments.flower.app")


@functools.cache
def alone(app, rounds, lost=()):
    """Parameters after so many rounds in one process; `lost`: (round, client) that do not count from then on."""
    plan = app.plan(SETTINGS)
    rng, order = keys(SETTINGS["seed"])
    splits = [app.own({"client": client}).split for client in range(K)]
    ends = np.cumsum([len(split) for split in splits])
    every = Split(np.concatenate([s.images for s in splits]), np.concatenate([s.labels for s in splits]))
    data = on_clients(every, np.split(np.arange(ends[-1]), ends[:-1]), order)
    state, step = plan.program.start(plan.weights, rng), jax.jit(plan.program.step)
    for number in range(rounds):
        gone = [client for first, client in lost if number >= first]
        weight = np.where(np.isin(np.arange(K), gone), 0.0, data["weight"]).astype(np.float32)
        state, _ = step(state, {**data, "weight": weight}, plan.program.fixed())
    return state.params


def close(found, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-5, 1e-5), found, expected)


class Grid:
    """What Flower is to a server app, with client apps in this process."""

    def __init__(self, settings, nodes, client):
        self.settings, self.nodes, self.client, self.sent = settings, nodes, client, []

    def get_node_ids(self):
        return list(self.nodes)

    def send_and_receive(self, messages, *, timeout):
        assert timeout == 600
        for message in messages:
            node = message.metadata.dst_node_id
            message.metadata.__dict__["_message_id"] = f"{node}"  # as Flower's do
            context = SimpleNamespace(node_config=self.nodes[node], run_config=self.settings, node_id=node)
            reply = self.client(message, context)
            self.sent += [message, reply]
            yield reply


def test_without_flower_it_is_said_how_to_get_it(monkeypatch):
    for name in ("flwr", "flwr.clientapp", "flwr.serverapp"):
        monkeypatch.setitem(sys.modules, name, None)
    for make in (lambda: client_app(None, None), lambda: server_app(None)):
        with pytest.raises(InputError, match=re.escape("pip install 'jaxtl[federated]'")):
            make()


def test_messages_of_flower_carry_a_run_to_where_one_process_ends(app, tmp_path, capsys):
    settings = {**SETTINGS, "rounds": 2, "workdir": str(tmp_path / "run")}
    grid = Grid(
        settings, {100 + client: {"client": client} for client in range(K)} | {7: {"client": 9, "of": 10}}, app.client
    )
    app.server(grid, SimpleNamespace(run_config=settings))
    close(load_weights(tmp_path / "run/model.safetensors"), alone(app, 2))
    said = capsys.readouterr().out
    assert said.count("client 9 of 3") == 1
    assert "round 2 of 2: 3 of 3 clients, loss " in said
    arrays = {path for message in grid.sent if message.has_content() for path in message.content["arrays"]}
    assert arrays == {
        f"params/{path}" for path in ("head/bias", "head/kernel", "trunk/dense_0/bias", "trunk/dense_0/kernel")
    }


def test_what_fails_with_a_client_is_told_without_what_it_says(app, tmp_path, capsys):
    def own(node):
        if node["client"] == 1:
            raise ValueError("patient Jane Doe")
        return Own(node["client"], app.digits().take(np.arange(20)))

    settings = {**SETTINGS, "rounds": 1, "workdir": str(tmp_path / "run")}
    grid = Grid(settings, {client: {"client": client} for client in range(2)}, client_app(app.plan, own))
    assert Nodes(grid, app.plan(settings).run, 600).present(1) == {0: 20.0}
    assert "node 1 cannot be used: ValueError, see the log of this client" in capsys.readouterr().out


class Nobody:
    """A grid whose nodes answer as they are told to."""

    def __init__(self, nodes):
        self.nodes = nodes

    def get_node_ids(self):
        return list(self.nodes)

    def send_and_receive(self, messages, *, timeout):
        flower = importlib.import_module("flwr.app")
        for message in messages:
            message.metadata.__dict__["_message_id"] = f"{message.metadata.dst_node_id}"
            answer = self.nodes[message.metadata.dst_node_id]
            if isinstance(answer, str):  # of the link, about a node that it does not hear of any more
                lost = flower.Message(flower.Error(5, answer), reply_to=message)
                lost.metadata.__dict__["_src_node_id"] = 1
                yield lost
                continue
            numbers, arrays = answer
            records = {"arrays": flower.ArrayRecord(arrays), "numbers": flower.MetricRecord(numbers)}
            yield flower.Message(flower.RecordDict(records), reply_to=message)


def test_a_client_that_comes_again_is_told_and_the_old_node_is_not_asked_any_more(app, capsys):
    client = {"client": 0, "weight": 5.0, "run": 1}
    grid = Nobody({1: (client, {}), 2: ({**client, "run": 2}, {})})
    nodes = Nodes(grid, 1, 0.0)
    assert nodes.present(1) == {0: 5.0}
    grid.nodes[3] = ({**client, "weight": 6.0}, {})
    assert nodes.present(1) == nodes.present(1) == {0: 6.0}
    said = capsys.readouterr().out.splitlines()
    assert said == ["node 2 cannot be used: it takes part in another run", "client 0 is node 3 now, and not 1"]


def test_what_the_link_says_of_a_lost_node_is_told_of_that_node(app):
    nodes = Nodes(Nobody({7: "node\nunavailable", 8: ({"round": 1}, {})}), 1, 0.0)
    assert nodes._replies([7, 8], Parcel({}, {}), "train") == {7: "node unavailable", 8: Parcel({}, {"round": 1})}


def test_an_array_that_announces_more_than_there_is_is_not_read(app):
    flower, content = importlib.import_module("flwr.app"), io.BytesIO()
    np.lib.format.write_array_header_1_0(content, {"descr": "<f4", "fortran_order": False, "shape": (2**50,)})
    array = flower.Array("float32", (1,), "numpy.ndarray", content.getvalue())
    numbers = {"client": 0, "weight": 5.0, "run": 1}
    nodes = Nodes(Nobody({1: (numbers, {"params/a": array})}), 1, 0.0)
    (why,) = nodes._replies([1], Parcel({}, {}), "train").values()
    assert re.fullmatch(r"its answer cannot be read: params/a announces \d+ bytes \[\d+\] and has 0", why)


# Real processes


class Federation:
    """A SuperLink and SuperNodes on loopback, on ports that were free."""

    def __init__(self, here):
        self.here, self.ports = here, [free_port() for _ in range(1 + K)]
        own = {"FLWR_HOME": str(here / "home"), "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
        own |= {"FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1", "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2"}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.environment = os.environ | own | {"PATH": path, "PYTHONPATH": str(ROOT)}
        self.link = f"127.0.0.1:{self.ports[0]}"
        (here / "home").mkdir()
        (here / "home/config.toml").write_text(f'[superlink.here]\naddress = "{self.link}"\ninsecure = true\n')
        self.running = {}

    def start(self, name, *command):
        command = [str(Path(sys.executable).with_name(command[0])), *command[1:]]
        with (self.here / f"{name}.log").open("wb") as log:
            how = {"env": self.environment, "cwd": ROOT, "stdout": log, "stderr": log, "start_new_session": True}
            self.running[name] = subprocess.Popen(command, **how)
        return self.running[name]

    def __enter__(self):
        where = ("--insecure", "--host=127.0.0.1")
        self.start("link", "flower-superlink", *where, f"--port={self.ports[0]}")
        for client in range(K):
            node = (f"--superlink={self.link}", f"--port={self.ports[1 + client]}", f"--node-config=client={client}")
            self.start(f"node{client}", "flower-supernode", *where, *node)
        return self

    def __exit__(self, *_):
        for process in self.running.values():
            process.kill()
            process.wait()
        for place in range(1 + K):
            self.kill(place)

    def kill(self, place, program=""):
        """End what talks to one of our ports, by its number: nobody else does."""
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_text()
                if f"127.0.0.1:{self.ports[place]}" in words and program in words and int(entry.name) != os.getpid():
                    os.kill(int(entry.name), signal.SIGKILL)

    def run(self, name, rounds):
        for client in range(K):  # else there is nobody to talk to
            self.wait_for(f"node{client}", "SuperNode ID")
        settings = f'workdir="{self.here / "run"}" rounds={rounds}'
        return self.start(name, "flwr", "run", str(APP), "here", "--stream", f"--run-config={settings}")

    def said(self, name):
        return (self.here / f"{name}.log").read_text(errors="replace")

    def wait_for(self, name, words, seconds=600):
        end = time.monotonic() + seconds
        while words not in self.said(name):
            assert time.monotonic() < end, f"{name} never said {words!r}:\n{self.said(name)[-3000:]}"
            time.sleep(0.2)


@pytest.mark.slow
def test_server_and_three_clients_as_processes_end_where_one_process_does(app, tmp_path):
    """Then the server is killed within a round, goes on, and a client is killed within another."""
    run = tmp_path / "run"
    with Federation(tmp_path) as federation:
        federation.run("first", 2)
        federation.wait_for("first", "round 2 of 2: 3 of 3 clients")
        end = time.monotonic() + 60
        while not (run / "model.safetensors").exists():
            assert time.monotonic() < end
            time.sleep(0.2)
        close(load_weights(run / "model.safetensors"), alone(app, 2))

        (run / "model.safetensors").unlink()
        trained = federation.said("node0").count("Receiving: train message")
        federation.run("killed", 3)
        while federation.said("node0").count("Receiving: train message") == trained:
            time.sleep(0.1)
        federation.kill(0, "flwr-serverapp")
        federation.run("again", 4)
        federation.wait_for("again", "goes on after round 2")
        trained = federation.said("node2").count("Receiving: train message")
        federation.wait_for("again", "round 3 of 4: 3 of 3 clients")
        while federation.said("node2").count("Receiving: train message") < trained + 2:
            time.sleep(0.05)
        federation.running["node2"].kill()
        federation.kill(3)
        federation.wait_for("again", "round 4: client 2 is lost: ")
        federation.wait_for("again", "round 4 of 4: 2 of 3 clients")
        while not (run / "model.safetensors").exists():
            time.sleep(0.2)
        close(load_weights(run / "model.safetensors"), alone(app, 4, lost=((3, 2),)))
    rows = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert rows == [1, 2, 3, 4]
