"""Simulations spread over processes of this machine, a running dask scheduler, or jobs of a Slurm cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from queue import Empty, Queue
from typing import Any, TypeVar

from data_pipelines.errors import StoreError

Asked = TypeVar("Asked")
Made = TypeVar("Made")
LOOK_SECONDS = 2.0  # between two looks at what long simulations have made


@dataclass
class DaskConfig:
    """Where simulations run.

    Attributes
    ----------
    workers
        Processes; 1 and no scheduler: this one, without dask.
    scheduler
        null (processes of this machine), the address of a running dask scheduler (tcp://...), or slurm.
    queue, walltime, memory
        Of a Slurm job, which is one worker.
    """

    workers: int = 1
    scheduler: str | None = None
    queue: str | None = None
    walltime: str = "01:00:00"
    memory: str = "4GB"

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise StoreError(f"dask.workers must be at least 1; got {self.workers}.")
        if self.scheduler not in (None, "slurm") and "://" not in str(self.scheduler):
            raise StoreError(f"dask.scheduler must be null, slurm or an address (tcp://host:port); got {self.scheduler!r}.")

    @property
    def is_here(self) -> bool:
        """Whether simulations run in this process, without dask."""
        return self.workers == 1 and self.scheduler is None


def spread(
    task: Callable[[Asked], Made], todo: Sequence[Asked], dask: DaskConfig, look: Callable[[], None] | None = None
) -> Iterator[Made]:
    """Do tasks where `dask` says, and yield what they return as they end; the first that fails ends all.

    Parameters
    ----------
    task
        What to do with one of `todo`; for several workers it is pickled.
    todo
        What each task is given, a number or settings of a simulation.
    dask
        Where.
    look
        Called every `LOOK_SECONDS` seconds while workers work, to show how far tasks are.

    Raises
    ------
    ImportError
        If a package is missing that several workers need.
    """
    if not todo:
        return
    if dask.is_here:
        yield from map(task, todo)
        return
    try:
        import distributed  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "several workers need the package distributed; install it with: pip install 'skysolve[cluster]', or set "
            "dask.workers=1."
        ) from error
    ended: Queue[Any] = Queue()
    with _client(dask, len(todo)) as client:
        futures = client.map(task, todo, pure=False, retries=0)
        for future in futures:
            future.add_done_callback(ended.put)
        for _ in futures:
            yield _next(ended, look).result()


def _next(ended: Queue[Any], look: Callable[[], None] | None) -> Any:
    """The next task that has ended; `look` while there is none."""
    while True:
        try:
            return ended.get(timeout=LOOK_SECONDS)
        except Empty:
            if look is not None:
                look()


@contextmanager
def _client(dask: DaskConfig, tasks: int) -> Iterator[Any]:
    from distributed import Client, LocalCluster

    if dask.scheduler not in (None, "slurm"):
        with Client(dask.scheduler) as client:
            yield client
        return
    workers = max(1, min(dask.workers, tasks))
    cluster: Any = _slurm(dask, workers) if dask.scheduler == "slurm" else None
    cluster = cluster or LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None)
    with cluster, Client(cluster) as client:
        yield client


def _slurm(dask: DaskConfig, workers: int) -> Any:
    try:
        jobqueue: Any = import_module("dask_jobqueue")  # has types in some versions, and none in others
    except ImportError as error:
        raise ImportError(
            "dask.scheduler=slurm needs the package dask-jobqueue; install it with: pip install 'skysolve[cluster]'"
        ) from error
    cluster = jobqueue.SLURMCluster(queue=dask.queue, cores=1, processes=1, memory=dask.memory, walltime=dask.walltime)
    cluster.scale(jobs=workers)
    return cluster
