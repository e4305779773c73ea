"""Settings of `python -m forecast.run`."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields

import numpy as np

from data_pipelines.dates import first_moment
from forecast.ensemble import EnsembleConfig
from forecast.forecaster import ForecastError
from forecast.stages import parse_hours

_QUEUE = ("cores", "memory", "walltime", "queue", "account", "directives", "setup", "logs")
# What makes the forecasts, and which settings of workers it reads.
CLUSTERS = {
    "local": (),
    "dask": ("number", "minimum", "scheduler", "dashboard"),
    "slurm": ("number", "minimum", "dashboard", "interface", *_QUEUE),
    "pbs": ("number", "minimum", "dashboard", "interface", *_QUEUE),
    "slurm_array": ("number", "wait", *_QUEUE),
}


@dataclass
class WorkersConfig:
    """Processes that share a job, where `cluster` is not local.

    Parameters
    ----------
    number
        Worker processes; with `minimum` the most there are.
    minimum
        0 or more: dask starts and ends workers as the work asks for, between this number and `number`. -1: always `number`.
    scheduler
        cluster=dask: address of a dask scheduler that is running, as in tcp://host:8786. Empty: processes of this machine.
    dashboard
        Address of dask's dashboard, as in :8787 (:0 takes any free port); empty: none.
    cores, memory
        slurm, pbs, slurm_array: what one worker asks the queue for, as in 4 and 8GB.
    walltime
        slurm, pbs, slurm_array: longest time of a worker, HH:MM:SS. A dask worker ends two minutes before, after its batch.
    queue, account
        slurm, pbs, slurm_array: partition or queue, and account; empty: the cluster's own choice.
    directives
        slurm, pbs: more lines for the queue, as in ["--gres=gpu:1"]. slurm_array: the same.
    setup
        slurm, pbs, slurm_array: shell lines before Python starts, as in ["module load cuda"].
    interface
        slurm, pbs: network interface between scheduler and workers, as in ib0; empty: dask's choice.
    logs
        slurm, pbs, slurm_array: folder of the workers' logs; empty: beside the manifest.
    wait
        slurm_array: wait for the end and show progress; false: submit and return.
    """

    number: int = 2
    minimum: int = -1
    scheduler: str = ""
    dashboard: str = ":0"
    cores: int = 1
    memory: str = "4GB"
    walltime: str = "01:00:00"
    queue: str = ""
    account: str = ""
    directives: list[str] = field(default_factory=list)
    setup: list[str] = field(default_factory=list)
    interface: str = ""
    logs: str = ""
    wait: bool = True

    def __post_init__(self) -> None:
        if self.number < 1:
            raise ForecastError(f"workers.number must be at least 1; got {self.number}.")
        if not -1 <= self.minimum <= self.number:
            raise ForecastError(f"workers.minimum must be -1, or 0 to workers.number={self.number}; got {self.minimum}.")
        if self.cores < 1:
            raise ForecastError(f"workers.cores must be at least 1; got {self.cores}.")
        if not re.fullmatch(r"\d+(\.\d+)?\s*[KMGT]i?B", self.memory):
            raise ForecastError(f"workers.memory must be a size, as in 8GB; got {self.memory!r}.")
        if not re.fullmatch(r"\d+:[0-5]\d:[0-5]\d", self.walltime) or self.walltime_seconds < 240:
            raise ForecastError(f"workers.walltime must be HH:MM:SS, at least 00:04:00; got {self.walltime!r}.")

    @property
    def walltime_seconds(self) -> int:
        """The walltime [s]."""
        hours, minutes, seconds = (int(part) for part in self.walltime.split(":"))
        return 3600 * hours + 60 * minutes + seconds


@dataclass
class RunConfig:
    """Settings of `python -m forecast.run`.

    Parameters
    ----------
    analysis
        Analysis store (folder or URL) that holds the initial times and the history before them; or a wave store.
    start, end
        First and last initial time, ISO 8601, both included; of waves the numbers of the first and the last sample.
    every
        Time between initial times, as in 6h or 1d.
    lead
        Longest lead time, as in 10d or 240h; of waves in seconds, as in 1.2s.
    out
        Forecast store, a new folder or the URL of a place in an object store; with `resume` an existing one.
    cascade
        Stages in order, each UNTIL:CHECKPOINT, as in 5d:short or 10d:runs/medium; a single CHECKPOINT runs to `lead`.
        `first`, `short` and `medium` are the checkpoints that come with the package; the last two go 12 h in a step, so that
        `first` makes the first 6 h.
    branches
        More stores, each with the stages of a cascade of its own, as in {short.zarr:[6h:first,10d:short]}: filled beside `out`
        by the same job. Steps in which cascades begin alike are made once; every store has the bits of a job of its own.
        Members may differ by `ensemble.start`.
    device
        auto (a GPU where there is one), cpu, cuda, cuda:1 ...
    precision
        What the networks compute in: bf16, fp32, or auto (bf16 where the device has instructions for it). States and the
        store are float32.
    threads
        Threads of the networks in each process; 0: all cores in a local run, 1 in workers. The last bits of a forecast
        depend on it, as on `batch_size` and `precision`.
    batch_size
        Initial times that run together.
    resume
        Go on with an existing store: make what is missing.
    cluster
        Who makes the forecasts: local (this process), dask (processes of this machine, or a dask scheduler that runs), slurm or
        pbs (dask workers as jobs of the queue), slurm_array (an array of jobs without dask).
    workers
        The processes, where cluster is not local.
    ensemble
        Members of each forecast, from perturbed states.
    runs
        Folder of manifests and journals; empty: beside `out`, as in forecast.zarr.runs (for a URL in the current folder).
    buffer_gigabytes
        A batch of forecasts is kept in memory until it is complete; above this size in a temporary file beside `out`.
    progress
        Whether to show a bar with the time that is left.
    """

    analysis: str
    start: str
    end: str
    out: str
    every: str = "6h"
    lead: str = "10d"
    cascade: list[str] = field(default_factory=lambda: ["6h:first", "5d:short", "10d:medium"])
    branches: dict[str, list[str]] = field(default_factory=dict)
    device: str = "auto"
    precision: str = "auto"
    threads: int = 0
    batch_size: int = 8
    resume: bool = False
    cluster: str = "local"
    workers: WorkersConfig = field(default_factory=WorkersConfig)
    ensemble: EnsembleConfig = field(default_factory=EnsembleConfig)
    runs: str = ""
    buffer_gigabytes: float = 4.0
    progress: bool = True

    def __post_init__(self) -> None:
        parse_hours(self.every, "every")
        # Seconds and numbers of samples are for waves: `forecast.wave_job` reads these three.
        if not re.fullmatch(r"[\d.]+\s*s", self.lead):
            parse_hours(self.lead, "lead")
            if not all(re.fullmatch(r"\d{1,7}", str(text)) for text in (self.start, self.end)):
                _ = self.initial_times  # raises
        if self.batch_size < 1:
            raise ForecastError(f"batch_size must be at least 1; got {self.batch_size}.")
        if self.threads < 0:
            raise ForecastError(f"threads must be at least 1, or 0 for the default; got {self.threads}.")
        if self.cluster not in CLUSTERS:
            raise ForecastError(f"cluster must be one of {', '.join(CLUSTERS)}; got {self.cluster!r}.")
        self._refuse_unread()
        if self.buffer_gigabytes < 0:
            raise ForecastError(f"buffer_gigabytes must not be negative; got {self.buffer_gigabytes}.")
        for out, stages in self.cascades.items():
            if not stages:
                raise ForecastError(
                    f"the cascade of {out} is empty; give at least one checkpoint, as in cascade=6h:first,5d:short,10d:medium."
                )
        if self.out in self.branches:
            raise ForecastError(f"branches must name other stores than out; got {self.out} in both.")
        unshared = [name for name in ("earlier", "cascades", "dropout") if getattr(self.ensemble, name)]
        if self.branches and self.ensemble.members and unshared:
            raise ForecastError(
                f"branches cannot hold members that differ by ensemble.{unshared[0]}: their steps are not those of other "
                "cascades. Run one job for each store, or leave members to differ by ensemble.start."
            )
        if self.cluster != "local":
            self.threads = self.threads or 1  # workers share the cores of a machine

    def _refuse_unread(self) -> None:
        """Refuse settings of workers that the chosen cluster would pass over in silence."""
        default = WorkersConfig()
        for setting in fields(WorkersConfig):
            name, given = setting.name, getattr(self.workers, setting.name)
            if given != getattr(default, name) and name not in CLUSTERS[self.cluster]:
                others = ", ".join(cluster for cluster, read in CLUSTERS.items() if name in read)
                raise ForecastError(
                    f"workers.{name}={given} has no effect with cluster={self.cluster}; it is read with cluster={others}. "
                    "Leave it out, or choose one of these."
                )

    @property
    def cascades(self) -> dict[str, list[str]]:
        """The stages of every store that the job fills, `out` first."""
        return {self.out: self.cascade} | self.branches

    @property
    def start_time(self) -> np.datetime64:
        """First initial time."""
        return first_moment(self.start, "start", ForecastError)

    @property
    def end_time(self) -> np.datetime64:
        """Last initial time."""
        return first_moment(self.end, "end", ForecastError)

    @property
    def initial_times(self) -> np.ndarray:
        """All initial times, datetime64[ns]."""
        if not self.start_time <= self.end_time:
            raise ForecastError(f"end must not be before start; got start={self.start} end={self.end}.")
        step = np.timedelta64(parse_hours(self.every, "every"), "h")
        return np.arange(self.start_time, self.end_time + np.timedelta64(1, "ns"), step)
