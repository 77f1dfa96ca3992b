"""What a command line asks of an experiment: its flags, its presets and `--help`.

`Config` is a flat dataclass: fields of type bool, int, float, str, `Literal["a", "b"]` or `tuple[one of these, ...]`,
each with a default and with bounds in its type (`jaxtl.bounds`). It may hold `presets: ClassVar = {"smoke":
{"steps": 5}}` beside a field `preset: str = ""`, `may_change: ClassVar = ("methods",)`, the keys that may differ when a
run goes on, because they only add to it, and `glossary: ClassVar = {"l2": "one pull towards 0"}`, a line for every
method that its tables name.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import inspect
import io
import math
import re
import shlex
import shutil
import textwrap
import tokenize
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from absl import flags
from ml_collections import config_flags

from jaxtl import bounds
from jaxtl.cluster import Site
from jaxtl.errors import InputError, suggest

KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
HELP = ("--help", "-help", "-h", "--helpfull", "--helpshort")
HOW_TO_SET = "settings are given as --config.key=value"
TEAM = {"coordinator": str, "processes": int, "process": int}
OWN_FLAGS = ("workdir", "smoke", "overwrite", "publish", "cluster", *TEAM, "help")
COMMENT_COLUMN = 38


@dataclasses.dataclass(frozen=True)
class Request:
    """A command line, understood."""

    config: Any
    workdir: str
    overwrite: bool
    publish: bool = False
    cluster: Site | None = None


def team(argv: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """What a command line says about several processes, and the rest of it, which all of them have in common.

    Read before anything else, so that a mistake in the rest is told once by all of them.

    Args:
        argv: the arguments after the program's name.

    Returns:
        Arguments of `processes.join`, and the other arguments.

    Raises:
        InputError: a number that is none, or a flag without a value.

    Example:
        >>> team(["--smoke", "--process=1", "--processes", "2"])
        ({'process': 1, 'processes': 2}, ['--smoke'])
    """
    found, rest, words = dict[str, Any](), list[str](), iter(argv)
    for word in words:
        name, equals, value = word.lstrip("-").partition("=")
        if name not in TEAM or not word.startswith("-"):
            rest.append(word)
            continue
        value = value if equals else next(words, "")
        try:
            found[name] = TEAM[name](value)
        except ValueError:
            raise _refusal(name, value, TEAM[name]) from None
    return found, rest


def parse(config_class: type, argv: Sequence[str], default_workdir: str) -> Request:
    """Read the flags of an experiment; a preset fills the keys that the command line leaves open.

    Args:
        config_class: the experiment's `Config`.
        argv: the arguments after the program's name.
        default_workdir: the run directory if none is asked for; "-PRESET" is added.

    Raises:
        InputError: an unknown flag, key, preset or choice, or a value of another type or outside its bounds.
    """
    types = _field_types(config_class)
    values = _define_flags(config_class, types, argv)
    _read(values, types, argv)
    publish = bool(values["publish"].value)
    given = config_flags.get_override_values(values["config"])
    if values["smoke"].value:
        if given.get("preset", "smoke") != "smoke":
            raise InputError(f"asks for another preset than --config.preset={given['preset']}", where="--smoke")
        given = {**given, "preset": "smoke"}
    preset = given.get("preset", getattr(config_class, "preset", ""))
    if publish and preset == "smoke":
        raise InputError("a smoke run is a check, not a result", where="--publish")
    filled = {**_preset(config_class, preset), **given}
    config = config_class(**{name: _checked(name, value, types.get(name)) for name, value in filled.items()})
    bounds.check(config)
    workdir = values["workdir"].value
    if workdir is None:
        workdir = f"{default_workdir}-{preset}" if preset else default_workdir
    elif not workdir:
        raise InputError("names no directory", where="--workdir", todo=f"for example --workdir={default_workdir}")
    elif refusal := bounds.PATH.refusal(workdir):
        raise InputError(refusal.what, where="--workdir", todo=refusal.todo)
    cluster = values["cluster"].value
    site = None if cluster is None else Site.of(cluster)
    return Request(config, workdir, bool(values["overwrite"].value), publish, site)


def _field_types(config_class: type) -> dict[str, Any]:
    """The type of every field. A type no flag can hold is a bug in the experiment, found before anything runs."""
    hints = get_type_hints(config_class)
    types = {field.name: hints[field.name] for field in dataclasses.fields(config_class)}
    for name, hint in types.items():
        if _flag_type(hint) not in KINDS:
            raise TypeError(f"{config_class.__name__}.{name}: {hint} cannot be a flag; see {__name__}")
    return types


def _flag_type(hint: Any) -> Any:
    """The type under which ml_collections reads a field: it knows no choices, and not what a tuple is made of."""
    return str if get_origin(hint) in (Literal, tuple) else hint


def _define_flags(config_class: type, types: dict[str, Any], argv: Sequence[str]) -> flags.FlagValues:
    values = flags.FlagValues()
    flags.DEFINE_string("workdir", None, "the run directory", flag_values=values)
    flags.DEFINE_bool("smoke", False, "the preset smoke", flag_values=values)
    flags.DEFINE_bool("overwrite", False, "replace an earlier run", flag_values=values)
    flags.DEFINE_bool("publish", False, "write the result page", flag_values=values)
    flags.DEFINE_string("cluster", None, "where units of work are made", flag_values=values)
    for argument in argv:
        key = re.match(r"--?(?:no)?(config\.[^=]*|flagfile|undefok)", argument)  # the last two: absl's own, not ours
        if key and key[1].removeprefix("config.") not in types:
            raise _unknown(key[1], types)
        if re.match(r"--?config(=|$)", argument):
            raise InputError("is no flag by itself", where="--config", todo=HOW_TO_SET)
    # A stand-in for Config: ml_collections sets attributes, so Config could not be frozen nor check itself when made,
    # and it reads the types of fields as they are written, which are strings under postponed annotations.
    defaults = config_class()
    stood = []
    for name, hint in types.items():
        value = getattr(defaults, name)
        stood.append((name, _flag_type(hint), shown(value) if isinstance(value, tuple) else value))
    stand_in = dataclasses.make_dataclass(config_class.__name__, stood)()
    config_flags.DEFINE_config_dataclass("config", stand_in, flag_values=values, sys_argv=list(argv))
    return values


def _read(values: flags.FlagValues, types: dict[str, Any], argv: Sequence[str]) -> None:
    """Let absl read the flags. What it refuses is said in our words; absl would print all its help and exit with 1."""
    try:
        extra = values(["", *argv])[1:]
    except flags.UnrecognizedFlagError as error:
        raise _unknown(error.flagname, types) from None
    except flags.IllegalFlagValueError as error:
        refused = re.match(r"flag --(\S+?)=(.*?): ", str(error), re.DOTALL)
        hints = {f"config.{name}": hint for name, hint in types.items()} | {
            "smoke": bool,
            "overwrite": bool,
            "publish": bool,
        }
        if refused is None or refused[1] not in hints:
            raise InputError(" ".join(str(error).split())) from None
        raise _refusal(refused[1], refused[2], hints[refused[1]]) from None
    except flags.Error as error:
        raise InputError(str(error)) from None
    if extra:
        raise InputError(f"unexpected argument '{bounds.shortened(extra[0])}'", todo=HOW_TO_SET)


def _unknown(name: str, types: dict[str, Any]) -> InputError:
    """The refusal of a flag, with the nearest name: of a key, by its letters or its initials, or of another flag."""
    section, _, key = name.rpartition(".")
    flag_of = {} if section else {flag: flag for flag in OWN_FLAGS}
    flag_of |= {key: f"config.{key}" for key in types}
    initials = {"".join(word[0] for word in key.split("_") if word): key for key in types}
    nearest = (difflib.get_close_matches(key, flag_of, n=1) or [initials.get(key, "")])[0]
    todo = f"did you mean --{flag_of[nearest]}?" if nearest else "--help lists the flags"
    return InputError("unknown flag", where=f"--{bounds.shortened(name)}", todo=todo)


def _preset(config_class: type, name: str) -> dict[str, Any]:
    presets = getattr(config_class, "presets", {})
    if name and name not in presets:
        raise InputError(
            f"unknown preset '{bounds.shortened(name)}'", where="--config.preset", todo=suggest(name, presets)
        )
    return presets[name] if name else {}


def _checked(name: str, value: Any, hint: Any) -> Any:
    """The value of a field, read or from a preset, in the type that `Config` promises."""
    if hint is None:
        raise InputError("unknown key in a preset", where=f"Config.{name}")
    if get_origin(hint) is tuple:
        parts = re.split(r"\s*,\s*", value.strip("()[] ")) if isinstance(value, str) else value
        return tuple(_checked(name, part, get_args(hint)[0]) for part in parts if part != "")
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            todo = suggest(str(value), get_args(hint))
            raise InputError(f"unknown choice {bounds.shortened(repr(value))}", where=f"--config.{name}", todo=todo)
        return value
    if isinstance(value, str) or (hint is float and type(value) is int):
        value = _converted(name, value, hint)
    if type(value) is not hint or (hint is float and math.isnan(value)):
        raise _refusal(f"config.{name}", value, hint)
    return value


def _converted(name: str, value: Any, hint: type) -> Any:
    try:
        return {"true": True, "false": False}[value] if hint is bool else hint(value)
    except (ValueError, KeyError):
        raise _refusal(f"config.{name}", value, hint) from None


def _refusal(flag: str, value: Any, hint: Any) -> InputError:
    return InputError(f"{bounds.shortened(repr(value))} is not {KINDS[hint]}", where=f"--{flag}")


def command(experiment: str, config: Any) -> str:
    """The command that asks for this config: its preset, and what differs from it.

    Args:
        experiment: name of the module in `experiments`.
        config: as `main` gets it.
    """
    preset = getattr(config, "presets", {}).get(getattr(config, "preset", ""), {})
    filled = {**dataclasses.asdict(type(config)()), **preset}
    given = {name: value for name, value in dataclasses.asdict(config).items() if value != filled[name]}
    words = [shlex.quote(f"--config.{name}={shown(value)}") for name, value in given.items()]
    return " ".join([f"python -m experiments.{experiment}", *words])


def help_text(main: Callable[..., None], config_class: type, default_workdir: str) -> str:
    """The experiment's docstring, then every flag with its default and the comment beside it in the source."""
    file = Path(inspect.getfile(main))
    folder, names = file.parent, [file.parent.name, file.stem]
    while (folder.parent / "__init__.py").exists():
        folder = folder.parent
        names.insert(0, folder.name)
    command = f"python -m {'.'.join(names)}"
    several_processes = "this is process I (from 0) of N that share the work, and HOST is the machine of process 0; "
    several_processes += "under Slurm, Open MPI and on TPU pods this is known without flags"
    elsewhere = (
        "make the runs of a comparison on Dask's workers: N processes of this machine, a cluster that is there, "
    )
    elsewhere += "or N jobs of a batch system; the run may go on with or without it"
    rows = [
        ("--workdir=W", f"the run directory; by default {default_workdir}, with a preset {default_workdir}-PRESET"),
        ("--smoke", "the same as --config.preset=smoke"),
        ("--overwrite", "start again in a directory that holds an earlier run; that run is removed"),
        (
            "--publish",
            f"write the result page {file.stem}.md beside {file.name}; of a finished run without computing anew",
        ),
        ("--cluster=local:N, tcp://HOST:PORT, slurm:N, ...", elsewhere),
        ("--coordinator=HOST:PORT --processes=N --process=I", several_processes),
        ("--help", "this text"),
    ]
    rows += fields(config_class)
    presets = [
        (name, ", ".join(f"{key}={shown(value)}" for key, value in preset.items()))
        for name, preset in getattr(config_class, "presets", {}).items()
    ]
    glossary = getattr(config_class, "glossary", {})
    return "\n".join(
        [
            inspect.getdoc(inspect.getmodule(main)) or "",
            "",
            f"usage: {command} [--workdir=W] [--smoke] [--overwrite] [--config.key=value ...]",
            *(row(*one) for one in rows),
            *(["", "presets: each fills the keys that the command line leaves open"] if presets else []),
            *(row(*one) for one in presets),
            *(["", "names in its tables"] if glossary else []),
            *(row(*one) for one in glossary.items()),
        ]
    ).lstrip()


def fields(config_class: type, prefix: str = "--config.") -> list[tuple[str, str]]:
    """Every field as a flag with its default, and what it means: choices, the comment in the source, bounds."""
    comments, defaults, rows = _comments(config_class), config_class(), []
    bounded = get_type_hints(config_class, include_extras=True)
    for name, hint in _field_types(config_class).items():
        choices = ", ".join(get_args(hint)) if get_origin(hint) is Literal else ""
        words = ": ".join(filter(None, (choices, comments.get(name))))
        if limits := bounds.words(bounded[name]):
            words = f"{words} ({limits})" if words else limits
        rows.append((f"{prefix}{name}={shown(getattr(defaults, name))}", words))
    return rows


def row(left: str, right: str) -> str:
    """A flag or a name, and what it means beside it, fitted to the terminal."""
    width = max(shutil.get_terminal_size((120, 24)).columns, COMMENT_COLUMN + 30)
    indent = " " * COMMENT_COLUMN
    text = textwrap.fill(right, width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)
    left = f"  {left}"
    if not right or len(left) >= COMMENT_COLUMN:
        return f"{left}\n{text}".rstrip()
    return left + text[len(left) :]


def shown(value: Any) -> str:
    """A value as one would write it on the command line."""
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(shown, value)) if isinstance(value, tuple) else str(value)


def _comments(config_class: type) -> dict[str, str]:
    """The comment beside each field in the source, or above it; those of a class over those of what it builds on."""
    found: dict[str, str] = {}
    for part in reversed(config_class.__mro__):
        if dataclasses.is_dataclass(part):
            found |= _comments_in(part)
    return found


def _comments_in(config_class: type) -> dict[str, str]:
    source = textwrap.dedent(inspect.getsource(config_class))
    lines = source.splitlines()
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}
    found = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            first = node.lineno
            while lines[first - 2].lstrip().startswith("#"):
                first -= 1
            beside = [row for row in (node.lineno, node.end_lineno) if row in comments]
            rows = beside[:1] or range(first, node.lineno)
            found[node.target.id] = " ".join(comments[row] for row in rows)
    return found
