"""The command line of an experiment, through a toy: flags, presets, run directory, signals, exit codes."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pytest

from jaxtl import cli, loop
from jaxtl.cli import flags, workdir
from jaxtl.devices import backend
from jaxtl.errors import InputError, NotFinite

TOY = '''
"""How well does a toy play?

It is not measured.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

from jaxtl import cli


@dataclasses.dataclass(frozen=True)
class Config:
    glossary: ClassVar = {"l2": "one pull towards 0", "l2_sp": "a pull towards the source"}
    presets: ClassVar = {"smoke": {"steps": 5}, "full": {"steps": 1000, "n_per_class": (5, 20)}, "broken": {"stps": 1}}
    preset: str = ""  # fills what the command line leaves open
    steps: int = 100
    # labelled examples
    # per class
    n_per_class: tuple[int, ...] = (20,)
    decay: Literal["loss", "coupled"] = "loss"  # which form of decay
    rate: float = 0.1
    quick: bool = False
    methods: tuple[Literal["l2", "l2_sp"], ...] = ("l2", "l2_sp")
    names: tuple[str, ...] = ()
    ranges: tuple[float, ...] = ()


calls = []
behaviour = lambda config, workdir: finish(workdir)


def finish(workdir):
    (workdir / "summary.json").write_text("{}")
    (workdir / "summary.md").write_text("| the table |")


def main(config, workdir):
    calls.append(config)
    behaviour(config, workdir)
'''


@pytest.fixture(autouse=True)
def no_cache(monkeypatch):
    monkeypatch.setattr(backend, "use_compilation_cache", lambda: None)


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """The toy as a module with its own file; commands run in an empty directory."""
    file = tmp_path / "experiments" / "toy.py"
    file.parent.mkdir()
    file.write_text(TOY.lstrip())
    spec = importlib.util.spec_from_file_location("toy", file)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "toy", module)
    spec.loader.exec_module(module)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    module.run = lambda *argv: cli.execute(module.main, module.Config, argv)
    return module


def config_of(toy, *argv):
    return flags.parse(toy.Config, argv, "runs/toy").config


def asked(toy, *argv):
    """The keys that differ from the defaults."""
    config, default = vars(config_of(toy, *argv)), vars(toy.Config())
    return {
        key: value for key, value in config.items() if value != default[key] or type(value) is not type(default[key])
    }


@pytest.mark.parametrize(
    ("argv", "values"),
    [
        ([], {}),
        (["--config.steps=7"], {"steps": 7}),
        (["--config.steps", "7"], {"steps": 7}),
        (["--config.steps=7", "--config.steps=8"], {"steps": 8}),
        (["--config.rate=1"], {"rate": 1.0}),
        (["--config.rate=1e-3"], {"rate": 0.001}),
        (["--config.quick"], {"quick": True}),
        (["--config.quick=true"], {"quick": True}),
        (["--noconfig.quick"], {}),
        (["--config.n_per_class=5"], {"n_per_class": (5,)}),
        (["--config.n_per_class=5,20"], {"n_per_class": (5, 20)}),
        (["--config.n_per_class=(5, 20)"], {"n_per_class": (5, 20)}),
        (["--config.n_per_class=5", "--config.n_per_class=7"], {"n_per_class": (7,)}),
        (["--config.ranges=1,1e-3"], {"ranges": (1.0, 0.001)}),
        (["--config.names=[a, b-c]"], {"names": ("a", "b-c")}),
        (["--config.names=0-4:5-9,2-7:0+1"], {"names": ("0-4:5-9", "2-7:0+1")}),
        (["--config.methods=l2"], {"methods": ("l2",)}),
        (["--config.methods="], {"methods": ()}),
        (["--config.decay=coupled"], {"decay": "coupled"}),
    ],
)
def test_values(toy, argv, values):
    assert asked(toy, *argv) == values


def test_a_preset_fills_only_what_the_command_line_leaves_open(toy):
    assert asked(toy, "--config.preset=full") == {"preset": "full", "steps": 1000, "n_per_class": (5, 20)}
    # 100 is the default, and yet it was given
    assert asked(toy, "--config.preset=full", "--config.steps=100") == {"preset": "full", "n_per_class": (5, 20)}
    assert asked(toy, "--config.steps=100", "--config.preset=full") == {"preset": "full", "n_per_class": (5, 20)}
    assert asked(toy, "--smoke") == asked(toy, "--config.preset=smoke") == {"preset": "smoke", "steps": 5}


def test_where_a_run_goes_by_default(toy):
    places = [
        flags.parse(toy.Config, argv, "runs/toy").workdir for argv in ([], ["--smoke"], ["--smoke", "--workdir=w"])
    ]
    assert places == ["runs/toy", "runs/toy-smoke", "w"]


WRONG = {
    "--config.stepps=3": "--config.stepps: unknown flag\n  did you mean --config.steps?",
    "--steps=3": "--steps: unknown flag\n  did you mean --config.steps?",
    "--smok": "--smok: unknown flag\n  did you mean --smoke?",
    "--confg.steps=3": "--confg.steps: unknown flag\n  did you mean --config.steps?",
    "--zzz": "--zzz: unknown flag\n  --help lists the flags",
    "--flagfile=x": "--flagfile: unknown flag\n  --help lists the flags",
    "--undefok=zzz": "--undefok: unknown flag\n  --help lists the flags",
    "--noconfig.steps": "--noconfig.steps: unknown flag\n  did you mean --config.steps?",
    "--config.steps=3.5": "--config.steps: '3.5' is not a whole number",
    "--config.steps=a: b": "--config.steps: 'a' is not a whole number",
    "--config.steps=": "--config.steps: '' is not a whole number",
    "--config.steps": "Missing value for flag --config.steps",
    "--config.rate=fast": "--config.rate: 'fast' is not a number",
    "--config.rate=nan": "--config.rate: nan is not a number",
    "--config.quick=5": "--config.quick: '5' is not true or false",
    "--smoke=5": "--smoke: '5' is not true or false",
    "--config.n_per_class=a": "--config.n_per_class: 'a' is not a whole number",
    "--config.n_per_class=5,2.5": "--config.n_per_class: '2.5' is not a whole number",
    "--config.ranges=1,nan": "--config.ranges: nan is not a number",
    "--config.decay=couple": "--config.decay: unknown choice 'couple'\n  did you mean 'coupled'?",
    "--config.methods=l2,l2sp": "--config.methods: unknown choice 'l2sp'\n  did you mean 'l2_sp'?",
    "--config.preset=ful": "--config.preset: unknown preset 'ful'\n  did you mean 'full'?",
    "--config.preset=broken": "Config.stps: unknown key in a preset",
    "--config=x": "--config: is no flag by itself\n  settings are given as --config.key=value",
    "--workdir=": "--workdir: names no directory\n  for example --workdir=runs/toy",
    "20": "unexpected argument '20'\n  settings are given as --config.key=value",
}


@pytest.mark.parametrize("argument", WRONG)
def test_a_mistake_is_told_in_two_lines_and_exit_code_2(toy, argument, capsys, record_property):
    record_property("tally", "bad inputs are told in one or two lines, with exit code 2 and nothing changed on disk")
    assert toy.run(argument) == 2
    assert capsys.readouterr().err == WRONG[argument] + "\n"
    assert toy.calls == []
    assert list(Path.cwd().iterdir()) == []


def test_smoke_and_another_preset(toy):
    with pytest.raises(InputError, match=r"--smoke: asks for another preset than --config\.preset=full"):
        config_of(toy, "--smoke", "--config.preset=full")


def test_an_experiment_without_presets_or_with_a_type_no_flag_can_hold(toy):
    without = dataclasses.make_dataclass("Config", [("steps", int, 3)])
    assert flags.parse(without, ["--config.steps=4"], "w").config == without(4)
    with pytest.raises(InputError, match="unknown preset 'smoke'\n  known: none"):
        flags.parse(without, ["--smoke"], "w")
    strange = dataclasses.make_dataclass("Config", [("steps", dict, None)])
    with pytest.raises(TypeError, match=r"Config\.steps: <class 'dict'> cannot be a flag"):
        flags.parse(strange, [], "w")


def test_help(toy, capsys):
    assert toy.run("--config.steps=nonsense", "--help") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "How well does a toy play?"
    assert "usage: python -m experiments.toy [--workdir=W] [--smoke] [--overwrite] [--config.key=value ...]" in lines
    rows = [" ".join(line.split()) for line in lines]
    assert "--config.steps=100" in rows
    assert "--config.quick=false" in rows
    assert "--config.n_per_class=20 labelled examples per class" in rows
    assert "--config.decay=loss loss, coupled: which form of decay" in rows
    assert "--config.methods=l2,l2_sp" in rows
    assert "full steps=1000, n_per_class=5,20" in rows
    assert "l2_sp a pull towards the source" in rows
    assert list(Path.cwd().iterdir()) == []


def test_a_run_from_start_to_summary(toy, capsys):
    assert toy.run("--config.n_per_class=5,20") == 0
    banner = capsys.readouterr().out.splitlines()
    assert banner[0] == "toy --config.n_per_class=5,20"
    assert [line.split()[0] for line in banner[1:]] == ["device", "speed", "versions", "workdir"]
    record = json.loads(Path("runs/toy/config.json").read_text())
    assert record["experiment"] == "toy"
    assert record["config"]["n_per_class"] == [5, 20]
    assert {"jaxtl/errors.py", "jaxtl/cli/__init__.py", "experiments/toy.py"} <= record["code"].keys()

    assert toy.run("--config.n_per_class=5,20") == 0
    assert capsys.readouterr().out == "| the table |\n"
    assert len(toy.calls) == 1


def test_a_finished_run_says_that_the_code_has_changed(toy, capsys):
    toy.run()
    capsys.readouterr()
    with open(toy.__file__, "a") as file:
        file.write("# another thought\n")
    assert toy.run() == 0
    assert capsys.readouterr().out == "the code has changed since this run: experiments/toy.py\n| the table |\n"


@dataclasses.dataclass(frozen=True)
class NoSettings:
    """A config without a key."""


def test_the_code_of_a_run_is_the_package_the_experiment_and_what_it_imports_beside_itself(tmp_path, monkeypatch):
    for name in ("toy", "helper", "stranger"):
        (tmp_path / f"{name}.py").write_text(f"# {name}\n")
    monkeypatch.syspath_prepend(tmp_path)
    helper = importlib.import_module("helper")
    monkeypatch.setitem(sys.modules, "helper", helper)
    code = workdir.Record.of(tmp_path / "toy.py", NoSettings()).code
    beside = {name for name in code if not name.startswith("jaxtl/")}
    assert beside == {f"{tmp_path.name}/toy.py", f"{tmp_path.name}/helper.py"}
    assert "jaxtl/cli/workdir.py" in code


def test_an_unfinished_run_resumes_unless_the_code_has_changed(toy, capsys):
    toy.behaviour = lambda config, workdir: (workdir / "half.txt").write_text("half")
    toy.run()
    toy.behaviour = lambda config, workdir: print("found", (workdir / "half.txt").read_text())
    capsys.readouterr()
    assert toy.run() == 0
    assert capsys.readouterr().out.endswith("runs/toy (resuming)\nfound half\n")

    with open(toy.__file__, "a") as file:
        file.write("# another thought\n")
    assert toy.run() == 2
    said = capsys.readouterr().err
    assert "the code has changed since this run began: experiments/toy.py" in said
    assert "--overwrite" in said
    assert said.count("\n") == 2
    assert len(toy.calls) == 2


def test_another_config_is_refused_and_both_values_named(toy, capsys):
    toy.run("--config.steps=3", "--config.rate=2")
    assert toy.run("--config.n_per_class=5") == 2
    said = capsys.readouterr().err
    assert "steps was 3 and is now 100; n_per_class was [20] and is now [5]; rate was 2.0 and is now 0.1\n" in said
    assert "another --workdir=..., or replace that run with --overwrite" in said
    assert said.count("\n") == 2
    assert toy.run("--config.n_per_class=5", "--workdir=other") == 0


def test_keys_that_only_add_to_a_run_may_change(toy, capsys):
    toy.Config.may_change = ("methods", "names")
    toy.run("--config.methods=l2")
    assert toy.run() == 0  # a finished run goes on
    assert [call.methods for call in toy.calls] == [("l2",), ("l2", "l2_sp")]
    assert json.loads(Path("runs/toy/config.json").read_text())["config"]["methods"] == ["l2", "l2_sp"]
    toy.behaviour = lambda config, workdir: (_ for _ in ()).throw(NotFinite("stopped"))
    assert toy.run("--config.names=a") == 3
    assert not workdir.is_finished(Path("runs/toy"))  # its summary would be the one of the earlier config
    capsys.readouterr()
    assert toy.run("--config.steps=3", "--config.names=b") == 2
    said = capsys.readouterr().err
    assert "steps was 100 and is now 3\n" in said
    assert "with --overwrite; only methods, names may change\n" in said
    with open(toy.__file__, "a") as file:
        file.write("# another thought\n")
    assert toy.run("--config.names=b") == 2
    assert "the code has changed" in capsys.readouterr().err


def test_a_finished_run_that_has_to_go_on_needs_the_code_that_began_it(toy, capsys):
    toy.Config.may_change = ("names",)
    toy.run()
    with open(toy.__file__, "a") as file:
        file.write("# another thought\n")
    assert toy.run("--config.names=b") == 2
    assert "the code has changed since this run began" in capsys.readouterr().err
    assert workdir.is_finished(Path("runs/toy"))


def test_after_a_mistake_the_corrected_command_may_use_the_directory(toy, capsys):
    def refuse(config, directory):
        raise InputError("no such data", where="--config.names")

    toy.behaviour = refuse
    assert toy.run("--config.names=typo") == 2
    assert os.listdir("runs/toy") == [".lock"]
    toy.behaviour = lambda config, directory: (directory / "half.txt").touch() or refuse(config, directory)
    assert toy.run("--config.names=right") == 2
    assert sorted(os.listdir("runs/toy")) == [".lock", "config.json", "half.txt"]  # work that may go on
    assert toy.run("--config.names=other") == 2
    assert "another config" in capsys.readouterr().err


def test_a_key_that_came_with_new_code_is_a_difference(toy, capsys):
    toy.run()
    record = json.loads(Path("runs/toy/config.json").read_text())
    del record["config"]["rate"], record["crc32"]
    Path("runs/toy/config.json").write_text(json.dumps({**record, "experiment": "toy"}))
    assert toy.run() == 2
    assert "rate was absent and is now 0.1" in capsys.readouterr().err
    Path("runs/toy/config.json").write_text(json.dumps({**record, "experiment": "game"}))
    assert toy.run() == 2
    assert "holds a run of game" in capsys.readouterr().err


def test_overwrite_replaces_a_run(toy):
    toy.run("--config.steps=3")
    (Path("runs/toy/plots")).mkdir()
    Path("runs/toy/plots/a.png").touch()
    assert toy.run("--overwrite") == 0
    assert sorted(os.listdir("runs/toy")) == [".lock", "config.json", "summary.json", "summary.md"]
    assert json.loads(Path("runs/toy/config.json").read_text())["config"]["steps"] == 100
    assert toy.run("--overwrite", "--workdir=new") == 0


def test_overwrite_removes_nothing_but_a_run(toy, capsys):
    Path("thesis").mkdir()
    Path("thesis/chapter.tex").write_text("years of work")
    for arguments in (["--overwrite"], []):
        assert toy.run("--workdir=thesis", *arguments) == 2
        assert "is not a run: it holds chapter.tex and no config.json" in capsys.readouterr().err
    Path("thesis/config.json").write_text('{"someone": "else"}')
    assert toy.run("--workdir=thesis", "--overwrite") == 2
    assert "config.json is not what a run writes" in capsys.readouterr().err
    assert sorted(os.listdir("thesis")) == ["chapter.tex", "config.json"]
    assert toy.run("--workdir=thesis/chapter.tex", "--overwrite") == 2
    assert "Not a directory" in capsys.readouterr().err


def test_overwrite_follows_no_link_out_of_the_run(toy):
    toy.run()
    Path("precious").mkdir()
    Path("precious/data.npz").touch()
    Path("runs/toy/link").symlink_to(Path("precious").resolve())
    assert toy.run("--overwrite") == 0
    assert not Path("runs/toy/link").is_symlink()
    assert Path("precious/data.npz").exists()


def test_a_directory_left_before_the_record_was_written_is_empty(toy):
    Path("runs/toy").mkdir(parents=True)
    for name in (".lock", ".config.json", ".probe-1234"):
        Path("runs/toy", name).touch()
    assert toy.run() == 0
    assert workdir.is_finished(Path("runs/toy"))


def test_a_second_process_may_not_even_overwrite(toy, capsys):
    codes = []
    toy.behaviour = lambda config, directory: codes.append(cli.execute(toy.main, toy.Config, ["--overwrite"]))
    assert toy.run() == 0
    assert codes == [2]
    assert "in use by process" in capsys.readouterr().err
    assert Path("runs/toy/config.json").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_the_loop_and_the_same_command_goes_on(toy, capfd, number, code):
    def play(config, directory):
        os.kill(os.getpid(), number)
        (directory / "saved").touch()
        loop.raise_if_stopped("playing")

    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    toy.behaviour = play
    assert toy.run() == code
    assert capfd.readouterr().err.splitlines() == [
        "",
        "stopping at the end of this chunk; once more to quit at once",
        "stopped playing; rerun the same command to go on",
    ]
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before
    assert loop.stop_request.signal_number is None
    toy.behaviour = lambda config, directory: (directory / "saved").rename(directory / "summary.json")
    assert toy.run() == 0


def test_other_ends(toy, capsys):
    def diverge(config, directory):
        raise NotFinite("the loss is NaN at step 3")

    def fail(config, directory):
        raise ZeroDivisionError("a bug")

    toy.behaviour = diverge
    assert toy.run() == 3
    assert capsys.readouterr().err == "the loss is NaN at step 3\n"
    toy.behaviour = fail
    with pytest.raises(ZeroDivisionError):
        toy.run()


PROCESS = """


def play(config, workdir):
    import os, signal
    if config.quick:
        raise ZeroDivisionError("a bug")
    os.kill(os.getpid(), signal.SIGINT)
    print("still here", flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    print("never printed")


behaviour = play
if __name__ == "__main__":
    cli.run(main, Config)
"""


@pytest.mark.parametrize(("argv", "code"), [((), 143), (("--config.quick",), 1)])
def test_a_process(tmp_path, argv, code):
    """What only a process shows: a second signal ends it at once, and a bug leaves its traceback."""
    file = tmp_path / "toy.py"
    file.write_text(TOY.lstrip() + PROCESS)
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "xla")}
    done = subprocess.run(
        [sys.executable, file, *argv], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == code
    assert ("still here" in done.stdout) == (code == 143)
    assert "never printed" not in done.stdout
    assert ("Traceback" in done.stderr) == (code == 1)
    assert (tmp_path / "runs/toy/config.json").exists()


def test_a_reader_that_leaves_ends_the_process_quietly(tmp_path):
    file = tmp_path / "toy.py"
    file.write_text(TOY.lstrip() + PROCESS.replace("os.kill(os.getpid(), signal.SIGINT)", "print('x' * 10**6)"))
    words = [sys.executable, str(file)]
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "xla")}
    with subprocess.Popen(words, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as toy:
        toy.stdout.readline()
        toy.stdout.close()
        err = toy.stderr.read()
    assert (toy.returncode, err) == (141, b"")


def test_the_command_of_a_config_asks_for_the_same_config():
    @dataclasses.dataclass(frozen=True)
    class Settings:
        preset: str = ""
        steps: int = 3
        sizes: tuple[int, ...] = (1, 2)
        path: str = ""
        presets: ClassVar = {"quick": {"steps": 1}}

    for argv in ([], ["--config.preset=quick"], ["--config.preset=quick", "--config.steps=3", "--config.path=a b"]):
        asked = flags.parse(Settings, argv, "runs/toy").config
        words = shlex.split(cli.command("toy", asked))
        assert words[:3] == ["python", "-m", "experiments.toy"]
        assert words[3:] == argv
        assert flags.parse(Settings, words[3:], "runs/toy").config == asked
