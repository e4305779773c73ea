"""The batch job: forecasts from many initial times into stores, by this process or by many, resumed by what is missing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from data_pipelines.locations import is_url
from data_pipelines.store import exists
from forecast.exits import StopRequest, UnfinishedError, stop_on_signal, unfinished
from forecast.forecast_store import refuse_existing, writing_to
from forecast.job_config import RunConfig
from forecast.lease import lease, lease_folder
from forecast.manifest import Journal, Manifest, runs_folder
from forecast.output import missing_from
from forecast.slurm_array import refuse_queued, run_array
from forecast.spread import check_workers, run_on_dask
from forecast.work import Batch, Work

Share = Callable[[str], None]  # shares the stores with jobs that were submitted


@dataclass(frozen=True)
class JobResult:
    """What a job did: forecasts in each store, how many of them this run made, their lead times; or what it submitted."""

    out: str | Path
    branches: tuple[str, ...]
    forecasts: int
    made: int
    lead_hours: int
    manifest: Path
    submitted: str = ""


def run_forecasts(config: RunConfig) -> JobResult:
    """Make the forecasts that a config asks for.

    Everything that can be wrong with the input is looked at before the first forecast. After a kill, a full disk or any
    other failure the forecasts marked complete are kept, and the same config with `resume` makes the others.

    Raises
    ------
    ForecastError, StoreError, ValueError
        If settings, checkpoints, analysis and store do not fit together, or the store cannot be written.
    UnfinishedError
        If SIGTERM or SIGUSR1 came, or workers died too often; what is complete is kept.
    """
    if not config.resume:
        for path in config.cascades:
            refuse_existing(path)
    work = Work(config)
    attributes = {output.path: work.attributes(output) for output in work.outputs}
    folder = runs_folder(config.out, config.runs)
    with stop_on_signal() as stop, ExitStack() as leases:
        with writing_to(config.out):
            folder.mkdir(parents=True, exist_ok=True)
        shares = [leases.enter_context(lease(path, lease_folder(config, path), stop.set)) for path in config.cascades]
        if not (config.resume and all(map(exists, config.cascades)) and not missing_from(config.cascades)):
            refuse_queued(config)
            if config.cluster in ("dask", "slurm", "pbs"):
                check_workers(config)
        for output in work.outputs:
            output.prepare(attributes[output.path])
        batches = work.batches()
        todo = sum(len(batch.wanted) for batch in batches)
        stores = [{"path": path, "attributes": values} for path, values in attributes.items()]
        facts = {"stores": stores, "initial_times": len(config.initial_times), "to_make": todo}
        with writing_to(config.out):
            manifest = Manifest(folder, config, facts)
        submitted: list[str] = []

        def share(jobs: str) -> None:
            submitted.append(jobs)
            for share_with in shares:
                share_with(jobs)

        made = _run(work, batches, folder, manifest, stop, share)
        return JobResult(
            out=config.out if is_url(config.out) else Path(config.out),
            branches=tuple(config.branches),
            forecasts=len(config.initial_times) * max(1, len(work.layout.members)),
            made=made,
            lead_hours=work.layout.lead_hours[-1],
            manifest=manifest.path,
            submitted="" if config.workers.wait else "".join(submitted),
        )


def _run(work: Work, batches: Sequence[Batch], folder: Path, manifest: Manifest, stop: StopRequest, share: Share) -> int:
    """Make the batches and note in the manifest how it went."""
    try:
        made = _spread(work, batches, folder, stop, share)
        missing = len(missing_from(work.config.cascades))
        if missing and not (work.config.cluster == "slurm_array" and not work.config.workers.wait):
            forecasts = len(work.layout.initial_times) * max(1, len(work.layout.members))
            raise unfinished(stop.reason or "workers ended early", missing, forecasts)
    except UnfinishedError as error:
        manifest.end_if_possible("unfinished", exit_code=error.exit_code, reason=str(error))
        raise
    except BaseException as error:
        manifest.end_if_possible("failed", reason=f"{type(error).__name__}: {error}")
        raise
    manifest.end_if_possible("complete" if not missing else "submitted", exit_code=0, made=made)
    return made


def _spread(work: Work, batches: Sequence[Batch], folder: Path, stop: StopRequest, share: Share) -> int:
    config = work.config
    steps = work.steps if config.cluster == "local" else 1
    unit = "steps" if config.cluster == "local" else "forecasts"
    with _progress(config.progress, unit, steps * sum(len(batch.wanted) for batch in batches)) as advance:
        if config.cluster == "local":
            return _here(work, batches, Journal(folder), advance, stop)
        if config.cluster == "slurm_array":
            return run_array(config, batches, folder, advance, stop, share)
        return run_on_dask(config, batches, folder, advance, stop)


def _here(work: Work, batches: Sequence[Batch], journal: Journal, advance: Any, stop: StopRequest) -> int:
    made = 0
    for batch in batches:
        if stop:
            break
        made += work.make(batch, journal, advance)
    return made


@contextmanager
def _progress(shown: bool, unit: str, total: int) -> Iterator[Any]:
    columns = (
        TextColumn("forecasting"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(f"{unit},"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), disable=not shown) as bar:
        task = bar.add_task("forecasting", total=total)
        yield lambda count: bar.advance(task, count)
