"""The executor, and a run's time on a cluster."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Executor, Future
from typing import Any, NamedTuple

from jaxtl.cluster import parcels, workers
from jaxtl.cluster.sites import FLAG, Site
from jaxtl.devices.peers import LOST
from jaxtl.errors import InputError, Stop
from jaxtl.text import printable

CONNECTING = 20  # seconds until a scheduler has to answer
FRESH = 1.0  # seconds for which the number of workers holds
AGAIN = "rerun the same command to go on"
ENDED = f"the scheduler has ended\n  {AGAIN}"
KEPT = 2  # pieces of work whose parcels stay on the workers

logger = logging.getLogger("jaxtl")


class Gone(Stop):
    """The cluster has failed the run: what has arrived is kept."""

    exit_code = LOST


class Sent(NamedTuple):
    """A parcel on its way: results of Dask, which stay as long as they are referred to."""

    work: Callable
    key: str
    body: Any
    digests: list[str]
    arrays: list[Any]


class Pool(Executor):
    """Dask's executor, for work that goes to each worker once.

    Args:
        client: of Dask.
        resource: that workers offer which fit.
    """

    def __init__(self, client: Any, resource: str):
        self._client, self._resource = client, resource
        self._how = {"pure": False, "resources": {resource: 1}}
        self._executor = client.get_executor(**self._how)
        self._sent: OrderedDict[int, Sent] = OrderedDict()
        self._counted = (0.0, 0)

    def submit(self, work: Callable, unit: Any, /) -> Future:  # type: ignore[override]
        """What work makes of a unit, in a worker that fits."""
        sent = self._sent_of(work)
        return self._executor.submit(workers.carried_out, sent.key, sent.body, sent.digests, sent.arrays, unit)

    @property
    def ahead(self) -> int:
        """Units to be given at once: one that is made and one that waits, for each worker that fits."""
        asked, count = self._counted
        if time.monotonic() - asked > FRESH:
            count = len(self.addresses())
            self._counted = time.monotonic(), count
        return 2 * max(1, count)

    def addresses(self) -> list[str]:
        """The workers that fit, now.

        Raises:
            Gone: the scheduler has ended.
        """
        try:
            there = self._client.scheduler_info(n_workers=-1)["workers"]
        except (KeyError, OSError) as error:  # nothing is told where the scheduler no longer answers
            raise Gone(ENDED) from error
        return [address for address, worker in there.items() if self._resource in worker["resources"]]

    def _sent_of(self, work: Callable) -> Sent:
        """Of work that was packed before, its parcel; `work` is kept with it, so that no other has its number."""
        if id(work) not in self._sent:
            try:
                parcel = parcels.packed(work)
            except Exception as error:  # whatever an object says that cannot be sent
                what = f"the work cannot be sent to other processes: {one_line(error)}"
                raise InputError(what, where=FLAG, todo="run it without") from error
            hold = {digest: self._hold(f"jaxtl-array-{digest}", content) for digest, content in parcel.arrays.items()}
            body = self._hold(f"jaxtl-work-{parcel.key}", parcel.body)
            self._sent[id(work)] = Sent(work, parcel.key, body, [*hold], [*hold.values()])
            while len(self._sent) > KEPT:
                self._sent.popitem(last=False)
        self._sent.move_to_end(id(work))
        return self._sent[id(work)]

    def _hold(self, key: str, content: bytes) -> Any:
        how = {**self._how, "pure": True, "key": key}
        return self._client.submit(workers.held, content, **how)


@contextlib.contextmanager
def joined(site: Site) -> Iterator[Pool]:
    """A cluster's workers for a run, as an executor; what was started for it ends with the `with` block.

    Args:
        site: which cluster.

    Yields:
        The executor. Workers may come and go meanwhile.

    Raises:
        InputError: nobody answers, or no worker that is there fits.
        Gone: the scheduler has ended, or a unit has taken several workers down with it.
    """
    import dask
    from distributed import KilledWorker

    quiet = dask.config.set({"distributed.admin.large-graph-warning-threshold": "1 TiB"})  # of weights, not of tasks
    with quiet, _unheard(), site.start() or contextlib.nullcontext() as cluster, _client(site, cluster) as client:
        try:
            with _welcomed(client, site) as resource:
                yield Pool(client, resource)
        except KilledWorker as error:
            raise Gone(f"a unit has ended every worker that it was given to: {one_line(error)}\n  {AGAIN}") from error
        except CancelledError as error:
            raise Gone(ENDED) from error


@contextlib.contextmanager
def _unheard() -> Iterator[None]:
    """What Dask says to its own log does not come between the lines of the run."""
    log = logging.getLogger("distributed")
    before, log.propagate = log.propagate, False
    try:
        yield
    finally:
        log.propagate = before


def _client(site: Site, cluster: Any) -> Any:
    from distributed import Client

    try:
        return Client(cluster or site.address, timeout=CONNECTING, set_as_default=False)
    except (OSError, ValueError, RuntimeError) as error:  # refused, no name, another protocol, no certificates
        what, todo = f"nobody answers there as a scheduler of Dask: {one_line(error)}", "start one: dask scheduler"
        raise InputError(what, where=f"{FLAG}={site.address}", todo=todo) from error


@contextlib.contextmanager
def _welcomed(client: Any, site: Site) -> Iterator[str]:
    """Every worker is asked whether it fits, now and when it joins; the resource that those offer which do."""
    first = workers.itself(workers.beside())
    resource = f"jaxtl-{hashlib.sha256(json.dumps(first, sort_keys=True).encode()).hexdigest()[:12]}"
    topic, refusals = f"{resource}-{client.id}", list[str]()

    def refuse(event: tuple[float, str]) -> None:
        refusals.append(printable(event[1]))
        logger.warning(refusals[-1])

    client.subscribe_topic(topic, refuse)
    client.register_plugin(workers.fitting(first, topic, resource, workers.threads(), ours=site.kind == "local"))
    try:
        there = client.scheduler_info(n_workers=-1)["workers"]
        fit = [address for address, worker in there.items() if resource in worker["resources"]]
        if there and not fit:
            raise InputError(
                _said(refusals), where=FLAG, todo="start workers with the jaxtl and libraries of this process"
            )
        print(f"cluster   {_counted(len(fit))} at {client.scheduler.address}, {_dashboard(client)}")
        yield resource
    finally:
        with contextlib.suppress(Exception):  # a scheduler that has ended
            client.unregister_worker_plugin(topic)


def _said(refusals: list[str]) -> str:
    """Why the first worker was refused, once it is told."""
    for _ in range(100):
        if refusals:
            return refusals[0]
        time.sleep(0.05)
    return "no worker fits; its own output says why"


def _counted(count: int) -> str:
    return f"{count or 'no'} worker{'' if count == 1 else 's'}{'' if count else ' yet'}"


def _dashboard(client: Any) -> str:
    known = importlib.util.find_spec("bokeh") and client.dashboard_link
    return printable(f"dashboard {client.dashboard_link}") if known else "no dashboard (pip install bokeh)"


def one_line(error: Exception) -> str:
    """What it says, or what it is called."""
    return " ".join(str(error).split()) or type(error).__name__
