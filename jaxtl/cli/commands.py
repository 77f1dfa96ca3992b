"""From labelled pictures or texts to a model.

usage: jaxtl finetune DIR [--trunk=NAME] [--budget=10min] [...]   learn from a folder per class, or a table
       jaxtl predict RUN DIR [--csv=out.csv]                      what the model says of others
       jaxtl export RUN --to=model.onnx                           for others: .onnx, .stablehlo, .safetensors
       jaxtl data [...]                                           data sets by name, as python -m jaxtl.data

jaxtl COMMAND --help says the rest. Experiments are run by python -m experiments.NAME, or make run.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Mapping, Sequence
from typing import NoReturn

from jaxtl import cli
from jaxtl.cli import flags
from jaxtl.devices import processes
from jaxtl.errors import InputError, suggest

COMMANDS = ("finetune", "predict", "export", "data")  # a module of this room each, with main(arguments)


def run() -> NoReturn:
    """The console script."""
    code = execute(sys.argv[1:])
    processes.leave(code)
    sys.exit(code)


def execute(arguments: Sequence[str]) -> int:
    """Do what a command line asks.

    Args:
        arguments: the command and what follows it.

    Returns:
        The exit code, as `cli` has them.
    """
    return cli.guarded(lambda: _dispatch(list(arguments)))


def _dispatch(arguments: list[str]) -> None:
    if not arguments or arguments[0] in flags.HELP:
        print(inspect.cleandoc(__doc__))
        return
    command, *rest = arguments
    if command not in COMMANDS:
        raise InputError("no such command", where=f"jaxtl {command}", todo=suggest(command, COMMANDS))
    module = importlib.import_module(f"jaxtl.cli.{command}")
    if command != "data" and any(argument in flags.HELP for argument in rest):
        print(module.help_text())
    else:
        module.main(rest)


def words(command: str, arguments: Sequence[str], names: Sequence[str], options: Mapping[str, str]) -> list[str]:
    """What a command line of a few names and options says.

    Args:
        command: for messages.
        arguments: behind the command.
        names: what has to be given, in order.
        options: flag -> its value where it is left out; a flag is given as --flag=value or --flag value.

    Returns:
        The value of every name, then of every option.

    Raises:
        InputError: too few or too many names, an unknown flag, one without a value.

    Example:
        >>> words("predict", ["runs/a", "--csv", "out.csv", "new"], ["RUN", "DIR"], {"--csv": ""})
        ['runs/a', 'new', 'out.csv']
    """
    found, given, rest = dict(options), list[str](), list(arguments)
    while rest:
        word = rest.pop(0)
        flag, equals, value = word.partition("=")
        if not word.startswith("--"):
            given.append(word)
            continue
        if flag not in options:
            raise InputError("no such option", where=f"jaxtl {command} {flag}", todo=suggest(flag, options))
        if not equals and not rest:
            raise InputError("needs a value", where=flag, todo=f"write {flag}=...")
        found[flag] = value if equals else rest.pop(0)
    if len(given) != len(names):
        usage = f"jaxtl {command} {' '.join([*names, *(f'{flag}=...' for flag in options)])}"
        what = f"takes {' and '.join(names)}, not {len(given)} names"
        raise InputError(what, where=f"jaxtl {command}", todo=f"usage: {usage}")
    return [*given, *found.values()]
