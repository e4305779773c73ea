"""The batch job: forecasts from many initial times into one store, in batches, resumed by what is missing."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float32
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from data_pipelines.store import data_hash, open_analysis
from forecast.cascade import Cascade, Stage
from forecast.checkpoint import Description, code_version, load_checkpoint, read_description
from forecast.forecast_store import (
    ForecastLayout,
    check_same_job,
    create_forecast_store,
    local_path,
    missing_forecasts,
    refuse_existing,
    remove_leftovers,
    write_forecast,
    writing_to,
)
from forecast.forecaster import ForecastError
from forecast.rollout import check_initial_times, choose_device, computes_in_bfloat16, rollout

SHIPPED = ("short", "medium")  # checkpoints that come with the package


@dataclass
class RunConfig:
    """Settings of `python -m forecast.run`.

    Parameters
    ----------
    analysis
        Analysis store (folder or URL) that holds the initial times and the history before them.
    start, end
        First and last initial time, ISO 8601, both included.
    every
        Time between initial times, as in 6h or 1d.
    lead
        Longest lead time, as in 10d or 240h.
    out
        Forecast store, a new folder; with `resume` an existing one.
    cascade
        Stages in order, each UNTIL:CHECKPOINT, as in 5d:short or 10d:runs/medium; a single CHECKPOINT runs to `lead`.
        `short` and `medium` are the checkpoints that come with the package.
    device
        auto (a GPU where there is one), cpu, cuda, cuda:1 ...
    precision
        What the networks compute in: bf16, fp32, or auto (bf16 where the device has instructions for it). States and the
        store are float32.
    batch_size
        Initial times that run together.
    resume
        Go on with an existing store: make what is missing.
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
    cascade: list[str] = field(default_factory=lambda: ["5d:short", "10d:medium"])
    device: str = "auto"
    precision: str = "auto"
    batch_size: int = 8
    resume: bool = False
    buffer_gigabytes: float = 4.0
    progress: bool = True

    def __post_init__(self) -> None:
        if not self.start_time <= self.end_time:
            raise ForecastError(f"end must not be before start; got start={self.start} end={self.end}.")
        for name in ("every", "lead"):
            parse_hours(getattr(self, name), name)
        if self.batch_size < 1:
            raise ForecastError(f"batch_size must be at least 1; got {self.batch_size}.")
        if self.buffer_gigabytes < 0:
            raise ForecastError(f"buffer_gigabytes must not be negative; got {self.buffer_gigabytes}.")
        if not self.cascade:
            raise ForecastError("cascade is empty; give at least one checkpoint, as in cascade=5d:short,10d:medium.")

    @property
    def start_time(self) -> np.datetime64:
        """First initial time."""
        return parse_date(self.start, "start")

    @property
    def end_time(self) -> np.datetime64:
        """Last initial time."""
        return parse_date(self.end, "end")

    @property
    def initial_times(self) -> np.ndarray:
        """All initial times, datetime64[ns]."""
        step = np.timedelta64(parse_hours(self.every, "every"), "h")
        return np.arange(self.start_time, self.end_time + np.timedelta64(1, "ns"), step)


@dataclass(frozen=True)
class JobResult:
    """What a job did: forecasts in the store, how many of them this run made, and its lead times."""

    out: Path
    forecasts: int
    made: int
    lead_hours: int


def run_forecasts(config: RunConfig) -> JobResult:
    """Make the forecasts that a config asks for.

    Everything that can be wrong with the input is looked at before the first forecast. After a kill, a full disk or any
    other failure the forecasts marked complete are kept, and the same config with `resume` makes the others.

    Raises
    ------
    ForecastError, StoreError, ValueError
        If settings, checkpoints, analysis and store do not fit together, or the disk is full.
    """
    out = local_path(config.out)
    if not config.resume:
        refuse_existing(out)
    analysis = open_analysis(config.analysis)
    cascade, descriptions = load_cascade(config.cascade, parse_hours(config.lead, "lead"))
    steps = cascade.steps_until(parse_hours(config.lead, "lead"))
    times = config.initial_times
    for stage in cascade.stages:
        stage.model.requirements.check(analysis.isel(time=slice(1)))
    check_initial_times(cascade, analysis, times, steps)
    computes_in_bfloat16(config.precision, choose_device(config.device))
    layout = _layout(cascade, steps, times)
    attributes = _attributes(cascade, descriptions, analysis, times, steps)
    if out.exists():
        check_same_job(out, layout, attributes)
        remove_leftovers(out)
    else:
        create_forecast_store(out, layout, attributes, [stage.name for stage in cascade.stages])
    todo = np.array([time for time, _ in missing_forecasts(out)], "datetime64[ns]")
    with _progress(config.progress, len(todo) * steps) as (bar, task):
        for first in range(0, len(todo), config.batch_size):
            batch = todo[first : first + config.batch_size]
            _run_batch(config, cascade, analysis, batch, layout, bar, task)
    return JobResult(out, len(times), len(todo), layout.lead_hours[-1])


def load_cascade(stages: Sequence[str], lead_hours: int) -> tuple[Cascade, list[Description]]:
    """Load the stages that forecasts of some length need, and what their checkpoints say.

    Parameters
    ----------
    stages
        As `RunConfig.cascade`.
    lead_hours
        Stages that start at or after it are not loaded.

    Raises
    ------
    ForecastError
        If a stage is not UNTIL:CHECKPOINT, a checkpoint cannot be loaded, or the stages do not fit together.
    """
    loaded: list[Stage] = []
    descriptions: list[Description] = []
    for text in stages:
        if loaded and loaded[-1].until_hours >= lead_hours:
            break
        until, folder = _parse_stage(text, lead_hours if len(stages) == 1 else None)
        path = shipped_checkpoint(folder) if folder in SHIPPED and not Path(folder).exists() else Path(folder)
        descriptions.append(read_description(path))
        loaded.append(Stage(until, load_checkpoint(path), Path(folder).name))
    return Cascade(loaded), descriptions


def shipped_checkpoint(name: str) -> Path:
    """Folder of a checkpoint that comes with the package, "short" or "medium"."""
    return Path(str(files("forecast") / "shipped" / name))


def parse_hours(text: str, name: str) -> int:
    """Read a duration, as in 6h or 10d [h].

    Raises
    ------
    ForecastError
        If it is none, or 0.
    """
    match = re.fullmatch(r"(\d+)\s*(h|d)", str(text).strip())
    hours = int(match[1]) * (24 if match[2] == "d" else 1) if match else 0
    if hours < 1:
        raise ForecastError(f"{name} must be a number of hours or days, as in 6h or 10d; got {text!r}.")
    return hours


def parse_date(text: str, name: str) -> np.datetime64:
    """Read a date, as in 2026-01-27 or 2026-01-27T06.

    Raises
    ------
    ForecastError
        If it is none.
    """
    try:
        date = np.datetime64(str(text).strip().removesuffix("Z"))
    except ValueError:
        date = np.datetime64("NaT")
    if np.isnat(date):
        raise ForecastError(f"{name} must be a date, as in 2026-01-27 or 2026-01-27T06; got {text!r}.")
    return date.astype("datetime64[ns]")


def _parse_stage(text: str, until: int | None) -> tuple[int, str]:
    match = re.fullmatch(r"(\d+[hd]):(.+)", text)
    if match:
        return parse_hours(match[1], "cascade"), match[2]
    if until is None:
        raise ForecastError(f"cascade must hold UNTIL:CHECKPOINT for each stage, as in 5d:short,10d:medium; got {text!r}.")
    return until, text


def _layout(cascade: Cascade, steps: int, times: np.ndarray) -> ForecastLayout:
    schedule = cascade.schedule[:steps]
    return ForecastLayout(
        initial_times=times,
        lead_hours=tuple(step.lead_hours for step in schedule),
        stages=tuple(step.stage for step in schedule),
        channels=cascade.channels,
        latitude=cascade.latitude,
        longitude=cascade.longitude,
    )


def _attributes(
    cascade: Cascade, descriptions: Sequence[Description], analysis: xr.Dataset, times: np.ndarray, steps: int
) -> dict[str, Any]:
    spans = [description.training_span.split("/") for description in descriptions]
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    stages = "; ".join(
        f"{stage.name} to {stage.until_hours} h ({description.model}, {stage.model.requirements.step_hours} h steps)"
        for stage, description in zip(cascade.stages, descriptions, strict=True)
    )
    return {
        "checkpoint_sha256": [description.weights_sha256 for description in descriptions],
        "summary": f"Forecasts from {len(times)} initial times by the cascade: {stages}.",
        "source": f"skysolve {code_version()}, cascade: {stages}",
        "cascade": stages,
        "training_span": f"{min(start for start, _ in spans)}/{max(end for _, end in spans)}",
        "training_data_sha256": [description.data_hash for description in descriptions],
        "analysis_source": str(analysis.attrs.get("source", "not stated")),
        "analysis_sha256": _hash_of_initial_states(cascade, analysis, times, steps),
        "license": str(analysis.attrs.get("license", "not stated")),
        "code_version": code_version(),
        "date_created": now,
        "history": f"{now} created by skysolve {code_version()} (forecast.run)",
    }


def _hash_of_initial_states(cascade: Cascade, analysis: xr.Dataset, times: np.ndarray, steps: int) -> str:
    """Hash what the forecasts read of the analysis, not the rest: the store may grow, and may be very large."""
    read = np.unique(np.concatenate([times + np.timedelta64(lead, "h") for lead in cascade.analysis_leads(steps)]))
    names = sorted({channel.variable for channel in _layout(cascade, steps, times).parsed})
    return data_hash(analysis[names].sel(time=read))


def _run_batch(
    config: RunConfig,
    cascade: Cascade,
    analysis: xr.Dataset,
    times: np.ndarray,
    layout: ForecastLayout,
    bar: Progress,
    task: TaskID,
) -> None:
    shape = (len(times), len(layout.lead_hours), len(layout.channels), len(layout.latitude), len(layout.longitude))
    with _buffer(Path(config.out), shape, config.buffer_gigabytes) as forecasts:
        states = rollout(cascade, analysis, times, len(layout.lead_hours), config.device, config.precision)
        for place, state in enumerate(states):
            forecasts[:, place] = state.fields.cpu().numpy()
            bar.advance(task, len(times))
        for time, fields in zip(times, forecasts, strict=True):
            write_forecast(config.out, layout, time, fields)


@contextmanager
def _buffer(out: Path, shape: tuple[int, ...], gigabytes: float) -> Iterator[Float32[np.ndarray, "batch lead channel lat lon"]]:
    """Memory for a batch of forecasts: a shard is written whole, so its lead times wait here for the last one."""
    size = 4 * int(np.prod(shape, dtype=np.int64))
    if size <= gigabytes * 2**30:
        yield np.empty(shape, np.float32)
        return
    with tempfile.TemporaryFile(dir=out.parent) as file:
        with writing_to(out):
            os.posix_fallocate(file.fileno(), 0, size)  # a full disk is an error here; under the map it would be a SIGBUS
        yield np.memmap(file, np.float32, "r+", shape=shape)


@contextmanager
def _progress(shown: bool, total: int) -> Iterator[tuple[Progress, TaskID]]:
    columns = (
        TextColumn("forecasting"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("steps,"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), disable=not shown) as bar:
        yield bar, bar.add_task("forecasting", total=total)
