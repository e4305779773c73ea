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
from forecast.breeding import breed
from forecast.cascade import Cascade
from forecast.checkpoint import Description
from forecast.dropout import dropping, install
from forecast.ensemble import Variant, generator_of, perturbations
from forecast.forecast_store import is_complete, write_forecast, writing_to
from forecast.forecaster import Forecaster, ForecastError
from forecast.job_config import RunConfig
from forecast.manifest import Journal
from forecast.output import Forecast, Output, missing_from
from forecast.rollout import check_initial_times, choose_device, computes_in_bfloat16, rollout_branches
from forecast.shared_steps import share_steps
from forecast.stages import load_cascade, parse_hours
from forecast.state import read_states

DROPOUT = 1  # sets its draws apart from those of perturbations


@dataclass(frozen=True)
class Batch:
    """Forecasts that run together, in order of their places; only those at the places of `wanted` are kept."""

    forecasts: tuple[Forecast, ...]
    wanted: tuple[int, ...]

    @property
    def initial_times(self) -> np.ndarray:
        """Initial times of all places, datetime64[ns]."""
        return np.array([time for time, _ in self.forecasts], "datetime64[ns]")


@dataclass(frozen=True)
class Run:
    """How the forecasts of a variant of members are made for one store: `steps` of a cascade, of which the first are passed."""

    cascade: Cascade
    passed: int
    steps: int

    @property
    def change(self) -> int | None:
        """The last lead time [h] before 0 that the first step reads; None where it reads none."""
        earlier = [lead for lead in self.cascade.schedule[0].inputs if lead < 0]
        return max(earlier) if earlier else None


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
        self._models: dict[Path, Forecaster] = {}
        more = self._more_cascades(lead_hours)
        self.outputs = [self._output(path, stages, lead_hours, more) for path, stages in config.cascades.items()]
        self.layout = self.outputs[0].layout
        self.runs = {variant: self._runs(variant, [cascade for cascade, _ in more]) for variant in self._variants}
        share = config.ensemble.dropout if config.ensemble.members else 0
        self._dropout = [layer for model in self._models.values() for layer in install(model, share)] if share else []

    @property
    def _variants(self) -> list[Variant]:
        ensemble = self.config.ensemble
        return list(dict.fromkeys(ensemble.variant(member) for member in ensemble.numbers or (None,)))

    def _more_cascades(self, lead_hours: int) -> list[tuple[Cascade, list[Description]]]:
        """Those of `ensemble.cascades` that members use."""
        ensemble = self.config.ensemble
        used = max(variant.cascade for variant in self._variants)
        until = lead_hours + ensemble.longest_lag
        return [load_cascade(text.split(","), until, self._models) for text in ensemble.cascades[:used]]

    def _output(
        self, path: str, stages: Sequence[str], lead_hours: int, more: Sequence[tuple[Cascade, list[Description]]]
    ) -> Output:
        ensemble = self.config.ensemble
        cascade, descriptions = load_cascade(stages, lead_hours + ensemble.longest_lag, self._models)
        descriptions = [*descriptions, *(one for _, others in more for one in others)]
        steps = cascade.steps_until(lead_hours)
        return Output(path, cascade, descriptions, steps, self.config.initial_times, ensemble.numbers)

    def _runs(self, variant: Variant, more: Sequence[Cascade]) -> list[Run]:
        """One for each store. Raises if members cannot be made so: by analysis, channels, grid or lead times."""
        runs = []
        for output in self.outputs:
            cascade, lag = [output.cascade, *more][variant.cascade], variant.earlier_hours
            for stage in cascade.stages:
                stage.model.requirements.check(self.analysis.isel(time=slice(1)))
            _check_alike(cascade, output.cascade, f"ensemble.cascades[{variant.cascade - 1}]")
            run = Run(
                cascade,
                cascade.steps_until(lag) if lag else 0,
                cascade.steps_until(output.layout.lead_hours[-1] + lag),
            )
            leads = tuple(step.lead_hours - lag for step in cascade.schedule[run.passed : run.steps])
            if leads != output.layout.lead_hours:
                raise ForecastError(
                    f"members that start {lag} h earlier must make the lead times of the others, "
                    f"{list(output.layout.lead_hours)} h; they make {list(leads)} h. Change ensemble.earlier or "
                    "ensemble.cascades."
                )
            if self.config.ensemble.perturbs and run.change is None:
                raise ForecastError(
                    "ensemble.members needs a first stage that reads 2 or more states: their change scales perturbations. Or "
                    "give ensemble.start=none."
                )
            for times, begun, steps in self._starts(variant, run):
                check_initial_times(begun, self.analysis, times, steps)
            runs.append(run)
        return runs

    def _starts(self, variant: Variant, run: Run) -> list[tuple[np.ndarray, Cascade, int]]:
        """Times, cascade and steps of all that is made for a variant: of the breeding first, then of its forecasts."""
        times = self.config.initial_times - np.timedelta64(variant.earlier_hours, "h")
        if not (self.config.ensemble.perturbs and self.config.ensemble.start == "bred"):
            return [(times, run.cascade, run.steps)]
        first = Cascade.of(run.cascade.stages[0].model, 1)
        step = np.timedelta64(first.until_hours, "h")
        before = [(times - back * step, first, 1) for back in range(self.config.ensemble.breeding_steps, 0, -1)]
        return [*before, (times, run.cascade, run.steps)]

    @property
    def steps(self) -> int:
        """Steps of a forecast, those that cascades share once."""
        return len(share_steps([output.cascade for output in self.outputs], [output.steps for output in self.outputs]))

    def attributes(self, output: Output) -> dict[str, Any]:
        """Global attributes of one of the stores."""
        place = self.outputs.index(output)
        leads = [
            times + np.timedelta64(lead, "h")
            for variant, runs in self.runs.items()
            for times, cascade, steps in self._starts(variant, runs[place])
            for lead in cascade.analysis_leads(steps)
        ]
        described = output.attributes(self.analysis, np.unique(np.concatenate(leads)))
        return {**described, "precision": self._precision, **self._last_bits(), **self.config.ensemble.describe()}

    def batches(self) -> list[Batch]:
        """What the stores lack, in the job's fixed batches."""
        missing = missing_from(output.path for output in self.outputs)
        members: tuple[int | None, ...] = self.layout.members or (None,)
        size = self.config.batch_size
        whole = []
        for variant in self.runs:  # a batch has one cascade and one lag
            alike = [member for member in members if self.config.ensemble.variant(member) == variant]
            forecasts = [(time, member) for time in self.layout.initial_times for member in alike]
            whole += [forecasts[first : first + size] for first in range(0, len(forecasts), size)]
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
        config = self.config.ensemble
        variant = config.variant(batch.forecasts[0][1])
        runs = self.runs[variant]
        starts = batch.initial_times - np.timedelta64(variant.earlier_hours, "h")
        added = [self._perturbations(batch, run, starts) for run in runs] if config.perturbs else None
        orders = [
            [run.cascade.channels.index(name) for name in output.cascade.channels]
            for run, output in zip(runs, self.outputs, strict=True)
        ]
        cascades, steps = [run.cascade for run in runs], [run.steps for run in runs]
        places = [-run.passed for run in runs]
        with dropping(self._dropout, [self._generator(*forecast) for forecast in batch.forecasts]):
            states = rollout_branches(cascades, self.analysis, starts, steps, self.device, self._precision, added)
            for numbers, state in states:
                kept = [number for number in numbers if places[number] >= 0]
                for number in kept:
                    fields[number][:, places[number]] = state.fields[:, orders[number]].cpu().numpy()
                for number in numbers:
                    places[number] += 1
                if kept:
                    on_step(len(batch.wanted))

    def _generator(self, time: np.datetime64, member: int | None) -> np.random.Generator | None:
        """What a member draws its dropout from; the control has none."""
        return generator_of(self.config.ensemble, time, DROPOUT, member) if member else None

    @property
    def _precision(self) -> str:
        return "bf16" if self.in_bfloat16 else "fp32"

    def _write(self, forecast: Forecast, fields: Sequence[np.ndarray]) -> None:
        for output, values in zip(self.outputs, fields, strict=True):
            time, member = forecast
            if not is_complete(output.path, output.layout, time, member):
                write_forecast(output.path, output.layout, time, values, member)

    def _perturbations(self, batch: Batch, run: Run, starts: np.ndarray) -> Float32[np.ndarray, "batch channel lat lon"]:
        cascade, before = run.cascade, np.timedelta64(run.change or 0, "h")
        now, then = np.split(read_states(self.analysis, cascade.channels, np.concatenate([starts, starts + before])), 2)
        change, config, grid = now - then, self.config.ensemble, (tuple(cascade.latitude), tuple(cascade.longitude))
        drawn = np.stack(
            [
                perturbations(config, time, member, one, *grid)
                for (time, member), one in zip(batch.forecasts, change, strict=True)
            ]
        )
        if config.start != "bred":
            return drawn
        return breed(cascade, self.analysis, starts, drawn, change, config, self.device, self._precision)

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


def _check_alike(cascade: Cascade, first: Cascade, name: str) -> None:
    for what in ("channels", "latitude", "longitude"):
        here, there = getattr(cascade, what), getattr(first, what)
        if sorted(here) != sorted(there):
            raise ForecastError(f"{name} must have the {what} of cascade, {list(there)}; it has {list(here)}.")


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
