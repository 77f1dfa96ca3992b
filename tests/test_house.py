"""The house rules, read from the source: who may import whom, and what is never called."""

from __future__ import annotations

import ast
import graphlib
import json
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Rooms from left to right: a module imports only from rooms to its left, or from its own. Rooms of one group do not
# import each other.
ORDER = (
    "version, text, errors, bounds, files, archives, clients, wheels, terminal, trees, labels, rates, penalties, "
    "transfer, losses, class_losses, detection, proximal, decay, scaling, optimizers, devices, step, program, "
    "checkpoints, writers, loop, data + models, sweep, training, protocol, selection, problems, methods, flower, "
    "report, finetune, cluster, cli, experiments"
)
RANK = {room: rank for rank, group in enumerate(ORDER.split(", ")) for room in group.split(" + ")}
FOUNDATION = {
    "text",
    "errors",
    "files",
    "archives",
    "clients",
    "wheels",
    "trees",
}  # all that data and models may import
READ_WEIGHTS = {"jaxtl.models.pretrained": {"checkpoints", "transfer"}}  # beside these
CORE = {room for room in RANK if RANK[room] <= RANK["program"]}  # all that an equation of a method may import
LONGEST = 350  # lines of a file
ALONE = {
    "flax": "models",
    "matplotlib": "report",
    "dask": "cluster",
    "distributed": "cluster",
}  # a library that only one room imports

FILES = sorted(file for folder in ("jaxtl", "experiments") for file in (ROOT / folder).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
CANARIES = {
    "test_checkpoints",
    "test_mistakes",
    "test_readers",
    "test_torch_files",
}  # they make the pickles that must not be opened
PROGRAMS = {"test_readme"}  # it runs what the README shows


def name_of(file: Path) -> str:
    """The dotted name of a module: "jaxtl.data.loading", and "jaxtl.data" for its __init__.py."""
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def room_of(module: str) -> str:
    """The room of a module of ours, "" for the top of the package: "jaxtl.data.loading" is in "data"."""
    parts = module.split(".")
    return "experiments" if parts[0] == "experiments" else ".".join(parts[1:2])


def imports(source: str) -> set[str]:
    """Every module a source imports, at the top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import hides the room"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def may_import(module: str, other: str) -> bool:
    """Whether a module may import another module of ours."""
    room, target = room_of(module), room_of(other)
    if module == "jaxtl":  # the face hands on the names of all rooms
        return target in RANK and target != "experiments"
    if target not in RANK:  # the package itself; in the house nobody goes through the face
        return room == "experiments"
    if module in ("jaxtl.__main__", "jaxtl.data.__main__") and target == "cli":  # a program of cli each
        return True
    if target == "cli" != room:
        return room == "experiments"
    if room == target == "experiments":
        return module.startswith("experiments.benchmarks.") and other.startswith("experiments.benchmarks.")
    if room == target == "methods":
        return module.split(".")[2:3] == other.split(".")[2:3]
    if is_equation(module):
        return target in CORE
    if room in ("data", "models"):
        return target in FOUNDATION | {room} | READ_WEIGHTS.get(module, set())
    return target == room or RANK[target] < RANK.get(room, 0)


def is_equation(module: str) -> bool:
    """Whether a module of a method is no table of recipes: jaxtl.methods.NAME.EQUATIONS."""
    parts = module.split(".")
    return room_of(module) == "methods" and len(parts) == 4 and not parts[3].endswith("recipes")


def strangers(module: str, source: str) -> list[str]:
    """What a module imports and may not."""
    wrong = []
    for name in sorted(imports(source)):
        top = name.split(".")[0]
        if top in ("jaxtl", "experiments"):
            wrong += [] if may_import(module, name) else [name]
        elif room_of(module) != ALONE.get(top, room_of(module)):
            wrong.append(name)
    return wrong


def dangers(source: str) -> list[str]:
    """Calls that execute what they read."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            unpickles = any(
                word.arg == "allow_pickle" and not (isinstance(word.value, ast.Constant) and word.value.value is False)
                for word in node.keywords
            )
            anywhere = called.endswith((".extractall", ".extract"))  # an archive chooses where its members go
            if unpickles or anywhere or called in ("eval", "exec", "torch.load"):
                found.append(f"line {node.lineno}: {called}")
    names = imports(source)
    return found + sorted(
        name
        for name in names
        if name.split(".")[0] in ("pickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve")
    )


def trusting(source: str) -> list[str]:
    """Calls that let a file choose what reads it: Pillow may start Ghostscript, a builder imports what it is told."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    named = [(ast.unparse(node.func), {word.arg for word in node.keywords}, node.lineno) for node in calls]
    return [
        f"line {line}: {called}"
        for called, words, line in named
        if (called == "Image.open" and "formats" not in words)
        or called.endswith((".builder_from_directory", ".builder_from_files", "tarfile.open"))
    ]


WRITE = {"write_text", "write_bytes", "touch", "savefig", "savez", "savez_compressed", "tofile"}
WRITE_THEMSELVES = {  # modules that write what is no file of a run, or through `files`
    "jaxtl.checkpoints.states": {"os.open"},  # the lock
    "jaxtl.cli": {"os.open"},  # nowhere
    "jaxtl.cli.replicas": {"open"},  # nowhere, and private copies
    "jaxtl.devices.processes": {"os.open"},  # nowhere
    "jaxtl.report.files": {"savefig"},  # into memory
    "jaxtl.clients": {"open"},  # what a client says, in a temporary directory
    "jaxtl.data.fetch": {"open"},  # data sets
    "jaxtl.data.tfds_write": {"open", "os.replace"},
    "jaxtl.protocol.runs": {"open"},  # an archive in memory
    "experiments.benchmarks.practice_data": {"savez"},  # for a process, in a temporary directory
    "experiments.benchmarks.variants": {"savez"},  # likewise
}


def written_by(source: str) -> set[str]:
    """Calls that make or change a file."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            name = called.rpartition(".")[2]
            words = [ast.unparse(argument) for argument in (*node.args, *(word.value for word in node.keywords))]
            if name == "open" and called not in ("os.open", "Image.open"):
                found |= {"open"} if any(re.fullmatch(r"'[rwxab+]*[wxa+][rwxab+]*'", word) for word in words) else set()
            elif called == "os.open":
                found |= {called} if any(re.search("O_(CREAT|WRONLY|RDWR)", word) for word in words) else set()
            elif name in WRITE or called == "os.replace":
                found.add(called if called == "os.replace" else name)
    return found


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_files_of_a_run_are_written_by_one_room(file):
    module = name_of(file)
    if module != "jaxtl.files":
        assert written_by(file.read_text()) <= WRITE_THEMSELVES.get(module, set())


@pytest.mark.parametrize(
    "source",
    [
        "path.write_text('x')",
        "(room / 'x').write_bytes(b'')",
        "open(path, 'w')",
        "path.open('ab')",
        "open(path, mode='r+')",
        "os.open(path, os.O_WRONLY | os.O_CREAT)",
        "figure.savefig(path)",
        "os.replace(a, b)",
        "np.savez(path, x=1)",
    ],
)
def test_the_test_sees_a_file_being_written(source):
    assert written_by(source)
    assert not written_by("open(path); path.open('rb'); a.replace(b, 'w'); os.open(a, os.O_RDONLY); Image.open(x)")


def test_every_module_has_a_room():
    rooms = {room_of(name_of(file)) for file in FILES} - {"", "__main__"}
    assert rooms <= RANK.keys()


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_a_module_imports_only_from_its_left(file):
    assert strangers(name_of(file), file.read_text()) == []


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_a_file_can_be_read_in_one_go(file):
    assert len(file.read_text().splitlines()) <= LONGEST


def imported(sources: Mapping[str, str]) -> dict[str, set[str]]:
    """By module, the modules of ours that it imports: of a name that a package hands on, the one that defines it.

    Args:
        sources: by dotted name; imports within functions and those for types alone count too.
    """
    asked = {module: imports(source) for module, source in sources.items()}
    packages = {module.rpartition(".")[0] for module in sources} & sources.keys()

    def home(name: str) -> str:
        """The module that a dotted name is, or that defines what it names; "" where it is none of ours."""
        if name in sources:
            return name
        module, _, attribute = name.rpartition(".")
        handed_on = [other for other in asked.get(module, ()) if other.rpartition(".")[2] == attribute]
        if module in packages and handed_on:
            return home(handed_on[0])
        return module if module in sources else ""

    return {module: {home(name) for name in names} - {""} for module, names in asked.items()}


def circle(sources: Mapping[str, str]) -> list[str]:
    """Modules that import each other in a circle, the first once more at the end; [] where there is none."""
    try:
        graphlib.TopologicalSorter(imported(sources)).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def test_no_modules_import_each_other_in_a_circle():
    assert circle({name_of(file): file.read_text() for file in FILES}) == []


ROOM = {"jaxtl.room": "from jaxtl.room.a import f\nfrom jaxtl.room.b import g\nown = 1"}


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("from jaxtl.room import b", "import jaxtl.room.a"),
        ("from jaxtl.room.b import g", "def g():\n    from jaxtl.room.a import f"),
        ("from jaxtl.room.b import g", "if TYPE_CHECKING:\n    from jaxtl.room.a import f"),
        ("from jaxtl.room import g", "from jaxtl.room import f"),
        ("from jaxtl.room import own", ""),
    ],
)
def test_the_test_sees_a_circle(a, b):
    assert circle(ROOM | {"jaxtl.room.a": a, "jaxtl.room.b": b})
    assert circle(ROOM | {"jaxtl.room.a": a.replace("own", "g"), "jaxtl.room.b": "import numpy"}) == []


SENDS = {"jaxtl.cluster.parcels": ["cloudpickle", "pickle"]}  # programs of ours, to workers that run them


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_nothing_executes_what_it_reads(file):
    assert dangers(file.read_text()) == SENDS.get(name_of(file), [])
    assert trusting(file.read_text()) == []


@pytest.mark.parametrize("file", TESTS, ids=lambda file: file.stem)
def test_tests_execute_only_what_they_made(file):
    allowed = {"pickle"} if file.stem in CANARIES else {"exec"} if file.stem in PROGRAMS else set()
    assert {danger.rpartition(" ")[2] for danger in dangers(file.read_text())} == allowed


@pytest.mark.parametrize(
    ("module", "source", "wrong"),
    [
        ("jaxtl.step", "def f():\n    from jaxtl import loop", ["jaxtl.loop"]),
        ("jaxtl.step", "from jaxtl.trees import Tree", []),
        ("jaxtl.data.loading", "from jaxtl import labels", ["jaxtl.labels"]),
        ("jaxtl.data.loading", "import jaxtl.models.mlp", ["jaxtl.models.mlp"]),
        ("jaxtl.data.loading", "from jaxtl.data import sampling", []),
        ("jaxtl.data.__main__", "from jaxtl import cli", []),
        ("jaxtl.data.__main__", "from jaxtl import loop", ["jaxtl.loop"]),
        ("jaxtl.data.loading", "from jaxtl import cli", ["jaxtl.cli"]),
        ("jaxtl.data.loading", "from jaxtl import writers", ["jaxtl.writers"]),
        ("jaxtl.methods.domain", "from jaxtl.methods import federated", ["jaxtl.methods.federated"]),
        ("jaxtl.methods.domain", "from jaxtl.methods.domain import mmd", []),
        ("jaxtl.losses", "import flax.linen as nn", ["flax.linen"]),
        ("jaxtl.models.mlp", "import flax.linen as nn", []),
        ("jaxtl.models.mlp", "from jaxtl.checkpoints import load_weights", ["jaxtl.checkpoints.load_weights"]),
        ("jaxtl.models.pretrained", "from jaxtl.checkpoints import load_weights", []),
        ("jaxtl.cli", "def f():\n    import matplotlib", ["matplotlib"]),
        ("jaxtl.cli", "import experiments.cifar_transfer", ["experiments.cifar_transfer"]),
        ("jaxtl.methods.domain.mmd", "from jaxtl.losses import mean_of", []),
        ("jaxtl.methods.domain.mmd", "from jaxtl.problems import FewShot", ["jaxtl.problems.FewShot"]),
        ("jaxtl.methods.domain.mmd", "from jaxtl import sweep", ["jaxtl.sweep"]),
        ("jaxtl.methods.domain.recipes", "from jaxtl.problems import FewShot", []),
        ("jaxtl.problems.few_shot", "from jaxtl.methods.domain import mmd", ["jaxtl.methods.domain.mmd"]),
        ("experiments.cifar_transfer", "from jaxtl import cli, loop", []),
        ("experiments.cifar_transfer", "from jaxtl import fit", []),
        ("jaxtl.step", "from jaxtl import fit", ["jaxtl.fit"]),
        ("jaxtl.step", "import jaxtl", ["jaxtl"]),
        ("jaxtl", "from jaxtl.loop import fit", []),
        ("experiments.multitask", "from experiments import label_trees", ["experiments.label_trees"]),
        ("experiments.benchmarks.step", "from experiments.benchmarks import rows", []),
    ],
)
def test_the_test_sees_a_stranger(module, source, wrong):
    assert strangers(module, source) == wrong


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "def f():\n    from pickle import load",
        "np.load(f, allow_pickle=True)",
        "np.load(f, allow_pickle=flag)",
        "torch.load(f)",
        "eval('1')",
        "with tarfile.open(f) as tar:\n    tar.extractall(here)",
    ],
)
def test_the_test_sees_a_danger(source):
    assert dangers(source)
    assert dangers("np.load(f, allow_pickle=False)\nmodel.eval()") == []


@pytest.mark.parametrize("source", ["Image.open(f)", "tfds.builder_from_directory(path)", "tarfile.open(f)"])
def test_the_test_sees_trust(source):
    assert trusting(source)
    assert trusting("Image.open(f, formats=FORMATS)") == []


EXPERIMENTS = sorted(  # whatever a command line can start, in folders below too
    ".".join(file.relative_to(ROOT / "experiments").with_suffix("").parts)
    for file in (ROOT / "experiments").rglob("*.py")
    if "cli.run(" in file.read_text(encoding="utf-8")
)


# Each is run as `python -m` does it, by one interpreter that has imported JAX.
ASK = """
import contextlib, io, json, runpy, sys
helps = {}
for name in sys.argv[1:]:
    sys.argv, out, err = ["", "--help"], io.StringIO(), io.StringIO()
    sys.modules.pop(f"experiments.{name}", None)  # another has imported it
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            runpy.run_module(f"experiments.{name}", run_name="__main__", alter_sys=True)
        code = None
    except SystemExit as exit:
        code = exit.code
    helps[name] = code, out.getvalue(), err.getvalue()
print(json.dumps(helps))
"""


@pytest.fixture(scope="module")
def helps():
    """{experiment: (exit code, stdout, stderr)} of its --help."""
    asked = [sys.executable, "-c", ASK, *EXPERIMENTS]
    return json.loads(subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, timeout=300, check=True).stdout)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_help_of_an_experiment(name, helps):
    code, said, errors = helps[name]
    assert (code, errors) == (0, "")
    docstring = ast.get_docstring(ast.parse((ROOT / "experiments" / f"{name.replace('.', '/')}.py").read_text()))
    assert docstring, "an experiment says what it asks, how to run it and what came out"
    assert said.startswith(docstring.splitlines()[0])
    assert f"python -m experiments.{name}" in said
    assert "--config." in said
