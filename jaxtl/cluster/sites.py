"""What --cluster=... says, and the Dask cluster that it asks for.

local:4                  four processes of this machine, a GPU each where there are several
tcp://HOST:PORT          a Dask cluster that is there; tls:// with the certificates of Dask's configuration
slurm:8                  eight jobs of a batch system, as dask-jobqueue's configuration describes one
kubernetes:8             eight workers by Dask's operator, as dask-kubernetes' configuration describes one
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from jaxtl.bounds import shortened
from jaxtl.errors import InputError, suggest

FLAG = "--cluster"
INSTALL = 'pip install "jaxtl[cluster]"'
JOBS = "dask_jobqueue"
KINDS = {  # of clusters that are started: where Dask has them, and what to install
    "local": ("distributed", "", INSTALL),
    "slurm": (JOBS, "SLURMCluster", "pip install dask-jobqueue"),
    "pbs": (JOBS, "PBSCluster", "pip install dask-jobqueue"),
    "sge": (JOBS, "SGECluster", "pip install dask-jobqueue"),
    "lsf": (JOBS, "LSFCluster", "pip install dask-jobqueue"),
    "oar": (JOBS, "OARCluster", "pip install dask-jobqueue"),
    "htcondor": (JOBS, "HTCondorCluster", "pip install dask-jobqueue"),
    "kubernetes": ("dask_kubernetes.operator", "KubeCluster", "pip install dask-kubernetes"),
}
MOST = 10_000  # workers


class Site(NamedTuple):
    """Where units are made.

    Attributes:
        kind: one of `KINDS`, or "" for a cluster that is there.
        workers: how many are asked for; of a batch system jobs, which may hold several.
        address: of the scheduler that is there.
    """

    kind: str
    workers: int = 0
    address: str = ""

    @classmethod
    def of(cls, text: str) -> Site:
        """What a command line says.

        Raises:
            InputError: it says nothing that Dask has.

        Example:
            >>> Site.of("local:4")
            Site(kind='local', workers=4, address='')
        """
        kind, colon, rest = text.partition(":")
        if kind in ("tcp", "tls"):
            if not re.fullmatch(r"//[^\s/]+:\d{1,5}", rest):
                what = f"'{shortened(text)}' is no address"
                raise InputError(what, where=FLAG, todo=f"for example {kind}://scheduler:8786")
            return cls("", address=text)
        if kind not in KINDS:
            todo = f"{suggest(kind, KINDS)}; or the address of a scheduler, such as tcp://scheduler:8786"
            raise InputError(f"'{shortened(text)}' is no cluster", where=FLAG, todo=todo)
        if (not colon and kind == "local") or (colon and not re.fullmatch(r"\d{1,5}", rest)):
            raise InputError(f"'{shortened(text)}' does not say how many", where=FLAG, todo=f"for example {kind}:4")
        count = int(rest or 1)
        if not 1 <= count <= MOST:
            raise InputError(f"{count} workers", where=FLAG, todo=f"use 1 to {MOST}")
        return cls(kind, count)

    def check(self) -> None:
        """Before the work.

        Raises:
            InputError: what it needs is not installed.
        """
        module, _, install = KINDS[self.kind or "local"]
        for needed, how in (("distributed", INSTALL), ("cloudpickle", INSTALL), (module, install)):
            package = needed.partition(".")[0]
            if importlib.util.find_spec(package) is None:
                raise InputError(f"needs {package.replace('_', '-')}", where=FLAG, todo=how)

    def start(self) -> Any:
        """The cluster of Dask; None where it is there.

        Raises:
            InputError: Dask does not start it, for want of a configuration as a rule.
        """
        if not self.kind:
            return None
        if self.kind == "local":
            return _local(self.workers)
        module, name, _ = KINDS[self.kind]
        try:
            cluster = getattr(importlib.import_module(module), name)()
            cluster.scale(**({"n": self.workers} if self.kind == "kubernetes" else {"jobs": self.workers}))
        except Exception as error:  # of a package of others, in its own words
            todo = f"see the configuration of {module.partition('.')[0].replace('_', '-')}"
            raise InputError(" ".join(str(error).split()), where=f"{FLAG}={self.kind}", todo=todo) from error
        return cluster


def environment(worker: int, visible: Mapping[str, str], gpus: int) -> dict[str, str]:
    """Variables that a process of this machine starts with: its GPU, of whose memory it takes what it needs.

    Args:
        worker: its number, from 0.
        visible: the variables of this process.
        gpus: that this process sees.

    Example:
        >>> environment(5, {"CUDA_VISIBLE_DEVICES": "2,3"}, 2)["CUDA_VISIBLE_DEVICES"]
        '3'
    """
    found = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    if gpus > 1:
        names = visible.get("CUDA_VISIBLE_DEVICES", "").split(",") if visible.get("CUDA_VISIBLE_DEVICES") else []
        found["CUDA_VISIBLE_DEVICES"] = names[worker % gpus] if len(names) >= gpus else str(worker % gpus)
    return found


def _local(workers: int) -> Any:
    import dask
    from distributed import Nanny, Scheduler, SpecCluster

    # what this process computes must leave room for them on a GPU: it is told before jax looks for one
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    gpus = jax.local_device_count() if jax.default_backend() == "gpu" else 0
    common = {"nthreads": 1, "host": "127.0.0.1", "memory_limit": None, "silence_logs": 50}
    nannies = {
        k: {"cls": Nanny, "options": {**common, "env": environment(k, os.environ, gpus)}} for k in range(workers)
    }
    own = {"host": "127.0.0.1", "port": 0, "dashboard_address": "127.0.0.1:0"}
    as_here = dask.config.set({"distributed.nanny.pre-spawn-environ": {}})  # Dask would change the threads of sums
    with as_here:
        return SpecCluster(scheduler={"cls": Scheduler, "options": own}, workers=nannies, silence_logs=50)
