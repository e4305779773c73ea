"""The work of a job, cut into batches that any process can make: the same bits, whoever makes them, in whatever order.

What a network makes of a state depends, in the last bits, on how many states run with it, at which place of the batch, and on
the number of threads. So the batches of a job are fixed: each forecast has its batch and its place there, and one that is left
over from a broken batch runs again at its place, beside copies. That is why a job that is killed and resumed, or spread over
workers, fills its store with the bits of an uninterrupted run.
"""

from __future__ import annotations

import os
import tempfile
import time as clock
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float32

from data_pipelines.locations import is_url, redacted
from data_pipelines.store import data_hash, open_analysis
from forecast.cascade import Cascade
from forecast.checkpoint import Description, code_version
from forecast.ensemble import perturbations
from forecast.forecast_store import ForecastLayout, is_complete, missing_forecasts, write_forecast, writing_to
from forecast.forecaster import ForecastError
from forecast.manifest import Journal
from forecast.rollout import check_initial_times, choose_device, computes_in_bfloat16, rollout
from forecast.stages import load_cascade, parse_hours
from forecast.state import read_states

if TYPE_CHECKING:
    from forecast.job import RunConfig

Forecast = tuple[np.datetime64, int | None]  # initial time and member


@dataclass(frozen=True)
class Batch:
    """Forecasts that run together, in order of their places; only those at the places of `wanted` are kept."""

    forecasts: tuple[Forecast, ...]
    wanted: tuple[int, ...]

    @property
    def initial_times(self) -> np.ndarray:
        """Initial times of all places, datetime64[ns]."""
        return np.array([time for time, _ in self.forecasts], "datetime64[ns]")


class Work:
    """Everything that a process needs to make forecasts of a job: analysis, cascade, layout; loaded once.

    Parameters
    ----------
    config
        The job's settings.

    Raises
    ------
    ForecastError, StoreError, ValueError
        If settings, checkpoints and analysis do not fit together.
    """

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.threads = _set_threads(config.threads)
        self.device = choose_device(config.device)
        self.in_bfloat16 = computes_in_bfloat16(config.precision, self.device)
        self.analysis = open_analysis(config.analysis)
        lead_hours = parse_hours(config.lead, "lead")
        self.cascade, self.descriptions = load_cascade(config.cascade, lead_hours)
        self.steps = self.cascade.steps_until(lead_hours)
        for stage in self.cascade.stages:
            stage.model.requirements.check(self.analysis.isel(time=slice(1)))
        check_initial_times(self.cascade, self.analysis, config.initial_times, self.steps)
        self.layout = _layout(self.cascade, self.steps, config.initial_times, config.ensemble.numbers)
        if config.ensemble.members and self._first_change is None:
            raise ForecastError(
                "ensemble.members needs a first stage that reads 2 or more states: their change scales perturbations."
            )

    @property
    def stage_names(self) -> list[str]:
        """Names of the cascade's stages."""
        return [stage.name for stage in self.cascade.stages]

    def attributes(self) -> dict[str, Any]:
        """Global attributes of the store; what they say identifies the job, and reading the initial states takes a while."""
        described = _attributes(self.cascade, self.descriptions, self.analysis, self.config.initial_times, self.steps)
        return {**described, "precision": "bf16" if self.in_bfloat16 else "fp32", **self._last_bits()} | (
            self.config.ensemble.describe()
        )

    def batches(self) -> list[Batch]:
        """What the store lacks, in the job's fixed batches."""
        missing = set(missing_forecasts(self.config.out))
        members: tuple[int | None, ...] = self.layout.members or (None,)
        forecasts = [(time, member) for time in self.layout.initial_times for member in members]
        size = self.config.batch_size
        whole = [forecasts[first : first + size] for first in range(0, len(forecasts), size)]
        places = [[place for place, forecast in enumerate(group) if forecast in missing] for group in whole]
        return [batch for group, left in zip(whole, places, strict=True) if (batch := _with_copies(group, left))]

    def make(self, batch: Batch, journal: Journal, on_step: Callable[[int], object] = lambda count: None) -> int:
        """Make the wanted forecasts of a batch, except those that another process completed meanwhile; give their number."""
        looked = clock.time()
        places = [place for place in batch.wanted if not self._is_complete(batch.forecasts[place])]
        left = _with_copies(batch.forecasts, places)
        if left is None:
            return 0
        begin = clock.monotonic()
        with writing_to(self.config.out):
            for place in left.wanted:
                journal.note("started", at=looked, **_named(left.forecasts[place]))
        with _buffer(self.config, self._shape(len(left.forecasts))) as fields:
            self._roll_out(left, fields, on_step)
            for place in left.wanted:
                time, member = left.forecasts[place]
                write_forecast(self.config.out, self.layout, time, fields[place], member)
                with writing_to(self.config.out):
                    journal.note("complete", seconds=round(clock.monotonic() - begin, 3), **_named(left.forecasts[place]))
        return len(left.wanted)

    def _roll_out(self, batch: Batch, fields: np.ndarray, on_step: Callable[[int], object]) -> None:
        precision = "bf16" if self.in_bfloat16 else "fp32"
        added = self._perturbations(batch) if self.config.ensemble.members else None
        states = rollout(self.cascade, self.analysis, batch.initial_times, self.steps, self.device, precision, added)
        for place, state in enumerate(states):
            fields[:, place] = state.fields.cpu().numpy()
            on_step(len(batch.wanted))

    @property
    def _first_change(self) -> int | None:
        """The last lead time [h] before 0 that the first step reads; None where it reads none."""
        earlier = [lead for lead in self.cascade.schedule[0].inputs if lead < 0]
        return max(earlier) if earlier else None

    def _perturbations(self, batch: Batch) -> Float32[np.ndarray, "batch channel lat lon"]:
        times, channels = batch.initial_times, self.cascade.channels
        before = np.timedelta64(self._first_change or 0, "h")
        now, then = np.split(read_states(self.analysis, channels, np.concatenate([times, times + before])), 2)
        grid = (tuple(self.cascade.latitude), tuple(self.cascade.longitude))
        return np.stack(
            [
                perturbations(self.config.ensemble, time, member, change, *grid)
                for (time, member), change in zip(batch.forecasts, now - then, strict=True)
            ]
        )

    def _is_complete(self, forecast: Forecast) -> bool:
        return is_complete(self.config.out, self.layout, *forecast)

    def _shape(self, forecasts: int) -> tuple[int, ...]:
        layout = self.layout
        return (forecasts, len(layout.lead_hours), len(layout.channels), len(layout.latitude), len(layout.longitude))

    def _last_bits(self) -> dict[str, int]:
        """What the last bits of a forecast depend on beside its inputs; a store that is gone on with must have the same."""
        threads = self.threads if self.device.type == "cpu" else 0
        return {"batch_size": self.config.batch_size, "threads": threads}


def _with_copies(forecasts: Sequence[Forecast], wanted: Sequence[int]) -> Batch | None:
    """The batch with copies of a wanted forecast at the places of the others; None where none is wanted."""
    if not wanted:
        return None
    kept = set(wanted)
    copy = forecasts[wanted[0]]
    return Batch(tuple(forecast if place in kept else copy for place, forecast in enumerate(forecasts)), tuple(wanted))


def _named(forecast: Forecast) -> dict[str, Any]:
    time, member = forecast
    return {"initial_time": str(time.astype("datetime64[h]")), "member": member}


def _set_threads(threads: int) -> int:
    if threads and torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    return torch.get_num_threads()


def _layout(cascade: Cascade, steps: int, times: np.ndarray, members: tuple[int, ...] = ()) -> ForecastLayout:
    schedule = cascade.schedule[:steps]
    return ForecastLayout(
        initial_times=times,
        lead_hours=tuple(step.lead_hours for step in schedule),
        stages=tuple(step.stage for step in schedule),
        channels=cascade.channels,
        latitude=cascade.latitude,
        longitude=cascade.longitude,
        members=members,
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
        "analysis_source": redacted(analysis.attrs.get("source", "not stated")),
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


@contextmanager
def _buffer(config: RunConfig, shape: tuple[int, ...]) -> Iterator[Float32[np.ndarray, "batch lead channel lat lon"]]:
    """Memory for a batch of forecasts: a shard is written whole, so its lead times wait here for the last one."""
    size = 4 * int(np.prod(shape, dtype=np.int64))
    if size <= config.buffer_gigabytes * 2**30:
        yield np.empty(shape, np.float32)
        return
    folder = None if is_url(config.out) else Path(config.out).parent
    with tempfile.TemporaryFile(dir=folder) as file:
        with writing_to(config.out):
            os.posix_fallocate(file.fileno(), 0, size)  # a full disk is an error here; under the map it would be a SIGBUS
        yield np.memmap(file, np.float32, "r+", shape=shape)
