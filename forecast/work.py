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
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32

from data_pipelines.locations import is_url
from data_pipelines.store import open_analysis
from forecast.ensemble import perturbations
from forecast.forecast_store import is_complete, write_forecast, writing_to
from forecast.forecaster import Forecaster, ForecastError
from forecast.job_config import RunConfig
from forecast.manifest import Journal
from forecast.output import Forecast, Output, missing_from
from forecast.rollout import check_initial_times, choose_device, computes_in_bfloat16, rollout_branches
from forecast.shared_steps import share_steps
from forecast.stages import load_cascade, parse_hours
from forecast.state import read_states


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
    """Everything that a process needs to make forecasts of a job: analysis, cascades, layouts; loaded once.

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
        models: dict[Path, Forecaster] = {}
        self.outputs = [self._output(path, stages, lead_hours, models) for path, stages in config.cascades.items()]
        self.layout = self.outputs[0].layout

    def _output(self, path: str, stages: Sequence[str], lead_hours: int, models: dict[Path, Forecaster]) -> Output:
        cascade, descriptions = load_cascade(stages, lead_hours, models)
        steps, times = cascade.steps_until(lead_hours), self.config.initial_times
        for stage in cascade.stages:
            stage.model.requirements.check(self.analysis.isel(time=slice(1)))
        check_initial_times(cascade, self.analysis, times, steps)
        output = Output(path, cascade, descriptions, steps, times, self.config.ensemble.numbers)
        if output.members and output.first_change is None:
            raise ForecastError(
                "ensemble.members needs a first stage that reads 2 or more states: their change scales perturbations."
            )
        return output

    @property
    def steps(self) -> int:
        """Steps of a forecast, those that cascades share once."""
        return len(share_steps([output.cascade for output in self.outputs], [output.steps for output in self.outputs]))

    def attributes(self, output: Output) -> dict[str, Any]:
        """Global attributes of one of the stores."""
        precision = {"precision": "bf16" if self.in_bfloat16 else "fp32"}
        return {**output.attributes(self.analysis), **precision, **self._last_bits(), **self.config.ensemble.describe()}

    def batches(self) -> list[Batch]:
        """What the stores lack, in the job's fixed batches."""
        missing = missing_from(output.path for output in self.outputs)
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
        with ExitStack() as buffers:
            fields = [buffers.enter_context(_buffer(self.config, output, len(left.forecasts))) for output in self.outputs]
            self._roll_out(left, fields, on_step)
            for place in left.wanted:
                self._write(left.forecasts[place], [values[place] for values in fields])
                with writing_to(self.config.out):
                    journal.note("complete", seconds=round(clock.monotonic() - begin, 3), **_named(left.forecasts[place]))
        return len(left.wanted)

    def _roll_out(self, batch: Batch, fields: Sequence[np.ndarray], on_step: Callable[[int], object]) -> None:
        cascades = [output.cascade for output in self.outputs]
        steps = [output.steps for output in self.outputs]
        precision = "bf16" if self.in_bfloat16 else "fp32"
        added = [self._perturbations(batch, output) for output in self.outputs] if self.layout.members else None
        places = [0] * len(cascades)
        states = rollout_branches(cascades, self.analysis, batch.initial_times, steps, self.device, precision, added)
        for numbers, state in states:
            for number in numbers:
                fields[number][:, places[number]] = state.fields.cpu().numpy()
                places[number] += 1
            on_step(len(batch.wanted))

    def _write(self, forecast: Forecast, fields: Sequence[np.ndarray]) -> None:
        for output, values in zip(self.outputs, fields, strict=True):
            time, member = forecast
            if not is_complete(output.path, output.layout, time, member):
                write_forecast(output.path, output.layout, time, values, member)

    def _perturbations(self, batch: Batch, output: Output) -> Float32[np.ndarray, "batch channel lat lon"]:
        times, cascade = batch.initial_times, output.cascade
        before = np.timedelta64(output.first_change or 0, "h")
        now, then = np.split(read_states(self.analysis, cascade.channels, np.concatenate([times, times + before])), 2)
        grid = (tuple(cascade.latitude), tuple(cascade.longitude))
        return np.stack(
            [
                perturbations(self.config.ensemble, time, member, change, *grid)
                for (time, member), change in zip(batch.forecasts, now - then, strict=True)
            ]
        )

    def _is_complete(self, forecast: Forecast) -> bool:
        return all(is_complete(output.path, output.layout, *forecast) for output in self.outputs)

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


@contextmanager
def _buffer(config: RunConfig, output: Output, forecasts: int) -> Iterator[Float32[np.ndarray, "batch lead channel lat lon"]]:
    """Memory for a batch of forecasts: a shard is written whole, so its lead times wait here for the last one."""
    layout = output.layout
    shape = (forecasts, len(layout.lead_hours), len(layout.channels), len(layout.latitude), len(layout.longitude))
    size = 4 * int(np.prod(shape, dtype=np.int64))
    if size <= config.buffer_gigabytes * 2**30:
        yield np.empty(shape, np.float32)
        return
    folder = None if is_url(output.path) else Path(output.path).parent
    with tempfile.TemporaryFile(dir=folder) as file:
        with writing_to(output.path):
            os.posix_fallocate(file.fileno(), 0, size)  # a full disk is an error here; under the map it would be a SIGBUS
        yield np.memmap(file, np.float32, "r+", shape=shape)
