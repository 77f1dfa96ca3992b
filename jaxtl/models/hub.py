"""Weights on the Hugging Face hub, by name and commit, through its own client, which keeps them in its own cache.

    trunk = load_trunk("hub:timm/resnet18.a1_in1k@491b427b45c94c7fb0e78b5474cc919aff584bbf")

A commit pins what is read: under a name alone, weights may change from one run to the next. Only the safetensors are
asked for, and what the repository's config.json says of inputs and licence; no code of a repository is run.
"""

from __future__ import annotations

import json
import logging
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

from jaxtl import files
from jaxtl.errors import InputError

PREFIX = "hub:"
WEIGHTS, CONFIG = "model.safetensors", "config.json"
MOST_CONFIG = 2**20  # bytes
EDGES = (16, 1024)  # pixels, of the inputs of a trunk


class HubFile(NamedTuple):
    """Weights of a repository at a commit.

    Attributes:
        path: of the weights, in the client's cache.
        origin: "OWNER/NAME@COMMIT".
        size: edge of the inputs in pixels; None where it is not said.
        mean, std: of the inputs by channel, in units of 0..255; None where they are not said.
        licence: as config.json states it; "" where it does not.
    """

    path: Path
    origin: str
    size: int | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    licence: str


def from_hub(name: str) -> HubFile:
    """The weights of "hub:OWNER/NAME@COMMIT", from the client's cache or fetched now.

    Args:
        name: with a commit of 40 hexadecimal digits.

    Returns:
        Where they are, and what the repository says of their inputs.

    Raises:
        InputError: no such form, no commit, no client, nothing to be had.

    Example:
        >>> from_hub("hub:timm/resnet18.a1_in1k")
        Traceback (most recent call last):
        jaxtl.errors.InputError: hub:timm/resnet18.a1_in1k: does not say which commit
          write hub:timm/resnet18.a1_in1k@COMMIT, the 40 digits under "Files and versions" on its page
    """
    repository, _, commit = name.removeprefix(PREFIX).partition("@")
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", repository):
        raise InputError("is no repository", where=name, todo=f"write {PREFIX}OWNER/NAME@COMMIT")
    if not re.fullmatch(r"[0-9a-f]{40}", commit):
        todo = f'write {PREFIX}{repository}@COMMIT, the 40 digits under "Files and versions" on its page'
        raise InputError("does not say which commit" if not commit else "is no commit", where=name, todo=todo)
    weights, config = (_fetched(name, repository, commit, file) for file in (WEIGHTS, CONFIG))
    if weights is None:
        raise InputError(f"holds no {WEIGHTS}", where=name, todo="give its weights as a file: ARCHITECTURE:PATH")
    return HubFile(weights, f"{repository}@{commit}", *_said(config, name))


def _fetched(name: str, repository: str, commit: str, file: str) -> Path | None:
    """A file of the repository; None where it has no such file."""
    try:
        import huggingface_hub
        from huggingface_hub import errors
    except ImportError:
        todo = 'pip install "jaxtl[hub]", or give a file of its weights: ARCHITECTURE:PATH'
        raise InputError("needs huggingface_hub", where=name, todo=todo) from None
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it tells of every one of its attempts
    offline = bool(os.environ.get("JAXTL_OFFLINE"))
    try:
        return Path(huggingface_hub.hf_hub_download(repository, file, revision=commit, local_files_only=offline))
    except errors.LocalEntryNotFoundError:
        what = "is not kept, and was not fetched because JAXTL_OFFLINE is set" if offline else "could not be fetched"
        todo = "unset it, or give a file" if offline else "check the connection, or give a file"
        raise InputError(what, where=name, todo=f"{todo} of its weights: ARCHITECTURE:PATH") from None
    except errors.EntryNotFoundError:
        return None
    except errors.HfHubHTTPError as error:
        code = getattr(error.response, "status_code", "no answer")
        todo = "check owner, name and commit; one that asks for a consent needs `hf auth login`"
        raise InputError(f"the hub refuses it ({code})", where=name, todo=todo) from None
    except OSError as error:
        todo = "check the connection, or give a file of its weights: ARCHITECTURE:PATH"
        raise InputError(f"could not be fetched ({type(error).__name__})", where=name, todo=todo) from None


Inputs = tuple[int | None, tuple[float, ...] | None, tuple[float, ...] | None, str]


def _said(config: Path | None, name: str) -> Inputs:
    """(size, mean, std, licence) of a config.json as timm writes it."""
    if config is None:
        return None, None, None, ""
    try:
        told: Any = json.loads(files.content(config, MOST_CONFIG))["pretrained_cfg"]
        size = told["input_size"][-1] if "input_size" in told else None
        mean, std = (tuple(255.0 * float(x) for x in told[key]) if key in told else None for key in ("mean", "std"))
        licence = str(told.get("license") or "")[:80]
    except (ValueError, TypeError, KeyError, IndexError, RecursionError):
        return None, None, None, ""  # of another library: inputs are then those of the architecture's usual weights
    where, todo = f"{name} {CONFIG}", "give its weights as a file: ARCHITECTURE:PATH"
    for what, values, least in (("mean", mean, 0.0), ("std", std, 1.0)):
        if values is not None and not (len(values) == 3 and all(least <= x <= 255 for x in values)):
            raise InputError(f"{what} of its inputs is not three numbers that can be", where=where, todo=todo)
    if not (size is None or (type(size) is int and EDGES[0] <= size <= EDGES[1])):
        raise InputError(f"its inputs cannot be {size} pixels wide", where=where, todo=todo)
    return size, mean, std, licence
