"""Units of a comparison on the workers of Dask: processes of this machine, of a batch system, of any Dask cluster.

Nothing of ours runs as a server. Dask starts the scheduler and the workers, or they are there; a run joins them for as
long as it takes, and hands `protocol` an executor of `concurrent.futures`.

sites      what --cluster=... says, and the Dask cluster that it asks for
parcels     work on its way: programs by value, large arrays once for each worker
workers     a worker's side: whether it fits, what it is set to, and a unit carried out
pool        the executor, and a run's time on a cluster
"""

from jaxtl.cluster.sites import Site

__all__ = ["Site"]  # the rest needs the extra `jaxtl[cluster]`
