"""A job's batches on dask workers: processes of this machine, of a scheduler that runs already, or jobs of Slurm or PBS."""

from __future__ import annotations

import functools
import importlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.errors import first_line
from data_pipelines.locations import redacted
from forecast.ensemble import EnsembleConfig
from forecast.exits import StopRequest, UnfinishedError
from forecast.forecaster import ForecastError
from forecast.job_config import RunConfig, WorkersConfig
from forecast.manifest import Journal
from forecast.work import Batch, Work
from gpu.host_memory import keep_freed_memory

_log = logging.getLogger(__name__)

# How often a batch may be begun on workers that die before it is given up: workers die of the queue and not of the batch, so
# this is far above dask's own 3. A batch that kills its worker every time ends the job nevertheless.
MAY_DIE = 20
POLL = 0.5  # seconds between two looks for a signal
ANSWERS = 20  # seconds in which a scheduler that runs must answer
GRACE = 120  # seconds before the walltime in which a worker takes no new batch


class Secretly:
    """A value that tasks carry and no log shows: dask prints the arguments of a task that failed."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return "Secretly(...)"


def run_on_dask(
    config: RunConfig, batches: Sequence[Batch], folder: Path, advance: Callable[[int], object], stop: StopRequest
) -> int:
    """Make batches on workers; give how many forecasts they made.

    Raises
    ------
    ForecastError
        If the scheduler cannot be reached, or a batch failed on a worker.
    UnfinishedError
        If a worker of this machine died while it started.
    """
    if not batches:
        return 0
    settings = Secretly(json.dumps(asdict(config)))
    queue = Queue()
    with _client(config, folder, queue) as client:
        if config.progress and client.dashboard_link and config.workers.dashboard:
            _say(f"dask dashboard: {redacted(client.dashboard_link)}")
        futures = [
            client.submit(make_batch, settings, plain(batch), str(folder), pure=False, key=f"batch-{number}")
            for number, batch in enumerate(batches)
        ]
        return _collect(client, futures, advance, stop, queue)


class Queue:
    """What became of the workers that a queue was asked for.

    dask-jobqueue asks once for each worker and only logs a refusal, so that a job without workers would wait for ever.
    """

    def __init__(self) -> None:
        self.workers: set[int] = set()  # queued or running
        self.refusal = ""

    def noting(self, job_class: type) -> type:
        """Derive a class of dask-jobqueue's jobs that notes here what becomes of them."""
        from distributed.core import Status

        queue = self

        class NotedJob(job_class):
            async def start(self) -> None:
                try:
                    await super().start()
                except (RuntimeError, OSError, ValueError) as error:
                    queue.refusal = what_queue_said(str(error))
                    self.status = Status.failed  # else the cluster does not close
                    raise
                queue.workers.add(id(self))

            async def close(self) -> None:
                queue.workers.discard(id(self))
                await super().close()

        return NotedJob

    def check(self) -> None:
        """Raise ForecastError if workers were refused and none is left to do the work."""
        if self.refusal and not self.workers:
            raise ForecastError(
                f"the queue refused the workers: {self.refusal}. Mend workers.queue, account, cores, memory, walltime or "
                "directives and run the same command with resume=true; what is complete is kept."
            )


def what_queue_said(text: str) -> str:
    """Give the words of a command of the queue that failed, in one line."""
    said = text.rpartition("stderr:")[2] if "stderr:" in text else text  # dask-jobqueue tells of the whole command
    lines = [re.sub(r"^\w+( error)?: (error: )?", "", line.strip()) for line in said.splitlines() if line.strip()]
    return "; ".join(dict.fromkeys(line.rstrip(".") for line in lines)) or "it gave no reason"


def check_command(command: str, cluster: str) -> None:
    """Raise ForecastError if a command of the queue is not there."""
    if shutil.which(command) is None:
        raise ForecastError(
            f"cluster={cluster} needs the command {command}, which was not found. Run it where jobs are submitted from, as a "
            "login node, or choose another cluster=."
        )


def check_workers(config: RunConfig) -> None:
    """Check what workers need of this machine, before a store is made for them.

    Raises
    ------
    ForecastError
        If a package, a command of the queue or a network interface is not there.
    """
    try:
        importlib.import_module("distributed")
    except ImportError as error:
        raise ForecastError(
            f"cluster={config.cluster} needs the package distributed; install it with: pip install 'skysolve[cluster]'."
        ) from error
    if config.cluster == "dask":
        return
    check_command(_queue_class(config.cluster).job_cls.submit_command.split()[0], config.cluster)
    import psutil  # of distributed

    there = sorted(psutil.net_if_addrs())
    if config.workers.interface and config.workers.interface not in there:
        raise ForecastError(
            f"workers.interface must be one of this machine's, {there}; got {config.workers.interface!r}. Name the one "
            "by which workers reach this machine, or leave it out."
        )


def make_batch(settings: Secretly, batch: tuple[Any, ...], folder: str) -> int:
    """Make a batch in a worker, which loads the job's models when it makes its first; give how many forecasts it made."""
    forecasts, wanted = batch
    places = tuple((np.datetime64(time, "ns"), member) for time, member in forecasts)
    return _work(settings.text).make(Batch(places, tuple(wanted)), Journal(Path(folder)))


@functools.lru_cache(maxsize=1)
def _work(text: str) -> Work:
    keep_freed_memory()  # dask has workers give it back at every chance
    config = config_from(text)
    if config.device == "auto":
        config.device = _device_of_worker()
    return Work(config)


def config_from(text: str) -> RunConfig:
    """Build settings from their JSON."""
    values = json.loads(text)
    parts = {"workers": WorkersConfig(**values["workers"]), "ensemble": EnsembleConfig(**values["ensemble"])}
    return RunConfig(**(values | parts))


def _device_of_worker() -> str:
    """A GPU of its own for each worker of a machine that has several; workers of a queue see only theirs."""
    import torch
    from distributed import get_worker

    count = torch.cuda.device_count()
    if not count:
        return "auto"
    try:
        number = int(get_worker().name)
    except (TypeError, ValueError):
        number = os.getpid()
    return f"cuda:{number % count}"


def plain(batch: Batch) -> tuple[Any, ...]:
    """Give a batch as plain values, as `make_batch` reads them."""
    return tuple((str(time), member) for time, member in batch.forecasts), batch.wanted


def _collect(client: Any, futures: list[Any], advance: Callable[[int], object], stop: StopRequest, queue: Queue) -> int:
    from distributed import wait

    made, left = 0, set(futures)
    while left and not stop:
        try:
            done = wait(left, timeout=POLL, return_when="FIRST_COMPLETED").done
        except TimeoutError:
            queue.check()
            continue
        left -= done
        for future in done:
            count = _result(client, future, left)
            made += count
            advance(count)
    if left:
        _let_running_batches_end(client, left)
    return made


def _result(client: Any, future: Any, left: set[Any]) -> int:
    from distributed.scheduler import KilledWorker

    try:
        return int(future.result())
    except KilledWorker as error:
        client.cancel(list(left))
        raise ForecastError(
            f"a batch ended more than {MAY_DIE} workers, so it is given up: memory may be too small (workers.memory, "
            "batch_size), or the walltime too short. What is complete is kept; the workers' logs say more."
        ) from error
    except Exception:
        client.cancel(list(left))
        raise


def _let_running_batches_end(client: Any, left: set[Any]) -> None:
    """Cancel what waits; a batch that runs is published when it ends, because its worker closes after it."""
    processing = {key for keys in client.processing().values() for key in keys}
    client.cancel([future for future in left if future.key not in processing])
    from distributed import wait

    running = [future for future in left if future.key in processing]
    try:
        wait(running, timeout=GRACE)
    except TimeoutError:
        _log.warning("%d batches were still running %d s after the stop", len(running), GRACE)


@contextmanager
def _client(config: RunConfig, folder: Path, queue: Queue) -> Iterator[Any]:
    import dask
    from distributed import Client

    for noisy in ("distributed", "dask_jobqueue"):  # after the import, which sets them up
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.getLogger("tornado.application").setLevel(logging.CRITICAL)  # tracebacks of what `Queue` notes
    chosen = {"distributed.scheduler.allowed-failures": MAY_DIE, "distributed.worker.daemon": False}
    with dask.config.set(chosen):
        if config.workers.scheduler:
            try:
                client = Client(config.workers.scheduler, timeout=ANSWERS)
            except OSError as error:
                address = redacted(config.workers.scheduler)
                raise ForecastError(
                    f"no dask scheduler answers at workers.scheduler={address}: {first_line(error)}. Start it, or correct the "
                    "address, and run the same command with resume=true."
                ) from error
            with client:
                yield client
            return
        with _cluster(config, folder, queue) as cluster, Client(cluster) as client:
            if config.workers.minimum >= 0:
                cluster.adapt(minimum=config.workers.minimum, maximum=config.workers.number)
            yield client


def _cluster(config: RunConfig, folder: Path, queue: Queue) -> Any:
    workers = config.workers
    adaptive = workers.minimum >= 0
    if config.cluster == "dask":
        return _local_cluster(workers, max(workers.minimum, 0) if adaptive else workers.number)
    cluster_class = _queue_class(config.cluster)
    cluster = cluster_class(
        job_cls=queue.noting(cluster_class.job_cls),
        cores=1,
        processes=1,
        memory=workers.memory,
        walltime=workers.walltime,
        queue=workers.queue or None,
        account=workers.account or None,
        interface=workers.interface or None,
        job_extra_directives=workers.directives,
        job_script_prologue=workers.setup,
        log_directory=workers.logs or str(folder / "logs"),
        worker_extra_args=["--lifetime", f"{workers.walltime_seconds - GRACE}s", "--lifetime-stagger", "20s"],
        scheduler_options=_dashboard(workers.dashboard),
        **_cores(config),
    )
    if not adaptive:
        cluster.adapt(minimum=workers.number, maximum=workers.number)  # unlike scale(), it replaces workers that end
    return cluster


def _local_cluster(workers: WorkersConfig, number: int) -> Any:
    from distributed import LocalCluster

    try:
        return LocalCluster(
            n_workers=number,
            threads_per_worker=1,  # batches of one process would share its threads
            processes=True,
            scheduler_kwargs=_dashboard(workers.dashboard),
            memory_limit=0,  # a worker that dask ends for its memory would begin the same batch again
            silence_logs=logging.ERROR,
        )
    except RuntimeError as error:
        raise UnfinishedError(
            f"a worker died while it started ({first_line(error.__cause__ or error)}); what is complete is kept. Go on with "
            "the same command and resume=true."
        ) from error


def _dashboard(address: str) -> dict[str, Any]:
    """The scheduler always serves its health; without a dashboard on any free port, to this machine only."""
    return {"dashboard": bool(address), "dashboard_address": address or "127.0.0.1:0"}


def _cores(config: RunConfig) -> dict[str, Any]:
    cores = config.workers.cores
    if config.cluster == "slurm":
        return {"job_cpu": cores}
    return {"resource_spec": f"select=1:ncpus={cores}:mem={config.workers.memory}"}


def _queue_class(name: str) -> Any:
    try:
        jobqueue = importlib.import_module("dask_jobqueue")
    except ImportError as error:
        raise ForecastError(
            f"cluster={name} needs the package dask-jobqueue; install it with: pip install 'skysolve[cluster]'."
        ) from error
    return getattr(jobqueue, {"slurm": "SLURMCluster", "pbs": "PBSCluster"}[name])


def _say(line: str) -> None:
    from rich.console import Console

    Console(stderr=True, highlight=False).print(line, soft_wrap=True)
