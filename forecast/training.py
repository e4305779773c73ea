"""Training of one stage of a cascade: one step ahead first, then on the states that the stage makes itself.

One loop does both. Every batch is drawn from a `ReplayBuffer`; with `lead_until_hours` equal to one step all of it is
analyses (one-step training), with more it holds forecasts under way. A later stage starts from states that the
stages before it produced (`earlier_stages`), so that it is trained on what it will be given.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from data_pipelines.frames import InMemory, open_reader
from data_pipelines.statistics import compute_statistics
from data_pipelines.store import data_hash, time_step
from data_pipelines.streaming import MEMORY_LIMIT, WindowStream
from data_pipelines.variables import Channel
from forecast.calibration import Moments, combine, fit_weights, load_moments, moments_of, save_moments
from forecast.checkpoint import load_checkpoint, save_checkpoint
from forecast.forecaster import Forecaster
from forecast.losses import WeightedError, channel_weights, row_weights
from forecast.puyun import PuYun, PuYunConfig
from forecast.replay import Draw, ReplayBuffer
from forecast.requirements import Requirements
from forecast.rollout import PRECISIONS, choose_device, computes_in_bfloat16
from forecast.training_curves import draw_training_curves

MINIMUM_STATES = 3
READING_THREADS = 2
VALIDATION_BATCH = 8


@dataclass
class SourceConfig:
    """One analysis store to learn from.

    Parameters
    ----------
    store
        Path or URL.
    start, end
        First and last day of training (inclusive); empty for the whole store.
    held_out_start, held_out_end
        Days between them that count in the statistics and are not learned from, so that a stage can be calibrated on
        them (`TrainingConfig.calibrate`); empty for none.
    share
        How much of every draw comes from it, relative to the other sources; 0 for nothing but its grid and statistics.
    lead_until_hours
        Last lead time that is learned from it [h]; 0: the stage's. A short record is memorised at far lead times; let it
        teach the near ones, beside a long record that teaches all.
    match_statistics
        Shift and scale its fields to the mean field and standard deviation of the first source. For simulated
        data beside observed ones.
    """

    store: str = ""
    start: str = ""
    end: str = ""
    held_out_start: str = ""
    held_out_end: str = ""
    share: float = 1.0
    lead_until_hours: int = 0
    match_statistics: bool = False

    def __post_init__(self) -> None:
        if self.share < 0:
            raise ValueError(
                f"share must not be negative; got {self.share}. 0 takes grid and statistics from a source and no more."
            )
        if bool(self.held_out_start) != bool(self.held_out_end):
            raise ValueError(
                f"held_out_start and held_out_end go together; got {self.held_out_start!r} and {self.held_out_end!r}. Give "
                "both, or neither."
            )


@dataclass
class TrainingConfig:
    """One stage's training.

    Parameters
    ----------
    out
        Folder for the checkpoint, the log (`log.jsonl`) and the curves (`curves.png`).
    sources
        Stores to learn from, by any name; the first one gives the grid and the statistics, and its span is the training span.
    channels
        Fields of the state.
    initial
        Checkpoints to start from, the mean of their weights where there are several; none for random weights.
    earlier_stages
        Checkpoints of the stages before this one, first to last.
    earlier_until_hours
        Lead time at which each of them hands over [h].
    lead_until_hours
        Last lead time that this stage is trained to reach [h].
    validation_start, validation_end
        Valid times of validation (never trained on); empty for none.
    validation_leads
        Lead times scored [h].
    calibrate
        Calibrate on the validation span after training, see `forecast.calibration`.
    calibration_from
        Folders of calibrated trainings (`out`) to calibrate from instead: a network that learned from all days has none left,
        others that held some of them out have.
    steps, batch_size, replay_buffer, fresh_share, unroll
        Optimiser steps (0: only average and calibrate); forecasts per step; forecasts in the pool;
        share of fresh ones; steps with one gradient.
    learning_rate, warm_up, final_learning_rate, weight_decay, clip, ema
        AdamW with a linear warm-up over `warm_up` steps, then a cosine to `final_learning_rate` (a share of
        `learning_rate`); gradient norm; decay of the averaged weights.
    penalty, variable_weights, weight_by_level
        See `forecast.losses`.
    balance_lead_times
        Divide the error at each lead time by its running mean, so that far leads do not drown near ones.
    noise
        Standard deviation of noise added to analyses, in standard deviations of the tendency.
    precision
        "bf16", "fp32", or "auto": bfloat16 where the device has instructions for it, see `forecast.rollout`.
    """

    out: str = "outputs/training"
    sources: dict[str, SourceConfig] = field(default_factory=dict)
    channels: list[str] = field(default_factory=lambda: ["mean_sea_level_pressure", "vorticity_850"])
    forcings: list[str] = field(default_factory=lambda: ["cos_zenith"])
    history: int = 2
    model: PuYunConfig = field(default_factory=PuYunConfig)
    initial: list[str] = field(default_factory=list)
    earlier_stages: list[str] = field(default_factory=list)
    earlier_until_hours: list[int] = field(default_factory=list)
    lead_until_hours: int = 6
    validation_start: str = ""
    validation_end: str = ""
    validation_leads: list[int] = field(default_factory=lambda: [6, 24, 48, 72, 120])
    validate_every: int = 500
    calibrate: bool = False
    calibration_from: list[str] = field(default_factory=list)
    steps: int = 2000
    batch_size: int = 4
    replay_buffer: int = 256
    fresh_share: float = 0.3
    unroll: int = 1
    learning_rate: float = 1e-3
    warm_up: int = 200
    final_learning_rate: float = 0.02
    weight_decay: float = 0.05
    clip: float = 1.0
    ema: float = 0.999
    penalty: str = "l2"
    variable_weights: dict[str, float] = field(default_factory=dict)
    weight_by_level: bool = False
    balance_lead_times: bool = True
    noise: float = 0.0
    precision: str = "auto"
    device: str = "auto"
    threads: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 0 or (not self.steps and not self.initial):
            raise ValueError(f"steps must be at least 1, or 0 to calibrate what initial holds; got {self.steps}.")
        for name in ("batch_size", "replay_buffer", "unroll", "validate_every", "lead_until_hours"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}.")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {PRECISIONS}; got {self.precision!r}.")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema must lie in [0, 1); got {self.ema}.")
        if self.sources and not any(source.share for source in self.sources.values()):
            raise ValueError("the share of every one of sources is 0; give at least one of them a share to learn from.")
        if self.calibrate and not (self.validation_start and self.validation_end):
            raise ValueError("calibrate needs a validation span; give validation_start and validation_end.")
        if self.calibrate and self.calibration_from:
            raise ValueError("calibrate fits the weights that calibration_from would give; set one of them.")
        if len(self.earlier_stages) != len(self.earlier_until_hours):
            raise ValueError(
                f"earlier_until_hours must name one hand-over for each of earlier_stages; got {len(self.earlier_until_hours)} "
                f"for {len(self.earlier_stages)}."
            )


class Source:
    """States of one store: fresh windows in a shuffled, prefetched stream, and any state by its position."""

    def __init__(self, config: SourceConfig, channels: Sequence[str]) -> None:
        self.channels = list(channels)
        dataset, reader = open_reader(config.store, [Channel.parse(name) for name in channels])
        times = dataset["time"].values
        positions = np.arange(len(times))[dataset.indexes["time"].slice_indexer(config.start or None, config.end or None)]
        self.analysis = dataset.isel(time=positions)
        if config.held_out_start:
            held_out = self.analysis.indexes["time"].slice_indexer(config.held_out_start, config.held_out_end)
            positions = np.delete(positions, held_out)
        self.positions, self.times = positions, times[positions]
        if len(self.times) < MINIMUM_STATES:
            raise ValueError(
                f"span {config.start or 'start'}..{config.end or 'end'} holds {len(self.times)} states of {config.store}, "
                f"which runs from {times[0]} to {times[-1]}; at least {MINIMUM_STATES} are needed. Widen start and end."
            )
        self.learned = dataset.isel(time=positions)
        self.step = time_step(self.analysis)
        self.shape = (len(self.channels), dataset.sizes["latitude"], dataset.sizes["longitude"])
        self.share = config.share
        self.last_lead = config.lead_until_hours // int(self.step / np.timedelta64(1, "h")) or None
        self.reader = reader
        if len(times) * int(np.prod(self.shape)) * 4 <= MEMORY_LIMIT:
            self.reader = InMemory(reader, len(times), self.shape, threads=READING_THREADS)
        self.shift: Tensor | float = 0.0
        self.scale: Tensor | float = 1.0
        self.stream: WindowStream | None = None
        self.steps_behind = 0

    def __len__(self) -> int:
        return len(self.times)

    def match(self, own: xr.Dataset, wanted: xr.Dataset) -> None:
        """Map this store's mean field and standard deviation onto those of `wanted`."""
        own, wanted = own.sel(channel=self.channels), wanted.sel(channel=self.channels)
        scale = _root_mean_square(wanted["standard_deviation_field"]) / _root_mean_square(own["standard_deviation_field"])
        self.scale = torch.tensor(scale.values, dtype=torch.float32).view(-1, 1, 1)
        self.shift = torch.tensor(wanted["mean_field"].values, dtype=torch.float32) - self.scale * torch.tensor(
            own["mean_field"].values, dtype=torch.float32
        )

    def open_stream(self, history: int, steps_behind: int, seed: int) -> None:
        """Begin to draw windows that have `steps_behind` states after them."""
        self.steps_behind = steps_behind
        self.stream = WindowStream(
            self.learned.isel(time=slice(None, len(self) - steps_behind + 1)),
            self.channels,
            history=history,
            batch_size=1,
            seed=seed,
        )

    def fresh(self) -> tuple[Float[Tensor, "history channel lat lon"], int]:
        """The next window's frames up to its initial time, and the position of that time."""
        if self.stream is None:
            raise RuntimeError("open_stream comes first.")
        while True:
            window = next(self.stream)
            index = int(np.searchsorted(self.times, window.time[0, self.stream.history - 1]))
            if self.connected(index, self.steps_behind):
                return self._matched(window.fields[0, : self.stream.history].clone()), index

    def states(self, index: Sequence[int]) -> Float[Tensor, "state channel lat lon"]:
        """States at these positions in the span, raw or matched."""
        values = np.empty((len(index), *self.shape), dtype=np.float32)
        for row, position in enumerate(index):
            stored = int(self.positions[position])
            self.reader.read(range(stored, stored + 1), values[row : row + 1])
        return self._matched(torch.from_numpy(values))

    def connected(self, index: int, ahead: int) -> bool:
        """Whether the state `ahead` steps after `index` is there, with no gap between."""
        return index + ahead < len(self) and self.times[index + ahead] - self.times[index] == ahead * self.step

    def _matched(self, fields: Tensor) -> Tensor:
        return fields * self.scale + self.shift


def _load_puyun(path: str) -> PuYun:
    model = load_checkpoint(Path(path), "cpu")
    if not isinstance(model, PuYun):
        raise ValueError(
            f"initial must hold checkpoints of PuYun; {path} is a {type(model).__name__}. Train it with its own code."
        )
    return model


def _root_mean_square(field: xr.DataArray) -> xr.DataArray:
    return (field**2).mean(["latitude", "longitude"]) ** 0.5


class TrainingError(ValueError):
    """A training that cannot go on."""


class ValidationForecasts(NamedTuple):
    """Forecasts of `lead` steps from `initial` states at `initial_time`, and their truths; all (batch, channel, lat, lon)."""

    lead: int
    initial_time: np.ndarray
    initial: Tensor
    forecast: Tensor
    truth: Tensor


class LeadBalance:
    """Running mean error at each lead time."""

    def __init__(self, leads: int, rate: float = 0.02) -> None:
        self.mean = torch.ones(leads)
        self.seen = torch.zeros(leads, dtype=torch.bool)
        self.rate = rate

    def weights(self, lead: np.ndarray) -> Float[Tensor, " batch"]:
        """One over the mean error at these lead times [steps]."""
        return 1.0 / self.mean[lead]

    def update(self, lead: np.ndarray, error: Float[Tensor, " batch"]) -> None:
        """Take new errors into the means."""
        for position, value in zip(lead, error.detach().float().cpu(), strict=True):
            rate = self.rate if self.seen[position] else 1.0
            self.mean[position] += rate * (value - self.mean[position])
            self.seen[position] = True


class Trainer:
    """Everything that training one stage needs, built once from its configuration."""

    def __init__(self, config: TrainingConfig) -> None:
        if not config.sources:
            raise ValueError(
                "sources is empty: name at least one analysis store to learn from, as in sources.era5.store=STORE."
            )
        self.config = config
        self.out = Path(config.out)
        if (self.out / "checkpoint").exists():
            raise FileExistsError(f"out {self.out} already holds a checkpoint; choose another folder, or delete it.")
        if config.threads:
            torch.set_num_threads(config.threads)
        torch.manual_seed(config.seed)
        self.rng = np.random.default_rng(config.seed)
        self.device = choose_device(config.device)
        self.in_bfloat16 = computes_in_bfloat16(config.precision, self.device)
        self.sources = [Source(source, config.channels) for source in config.sources.values()]
        first = self.sources[0].analysis
        self.requirements = Requirements.of(first, config.channels, history=config.history, forcings=config.forcings)
        self.earlier = [load_checkpoint(Path(path), self.device) for path in config.earlier_stages]
        self.first_lead = config.earlier_until_hours[-1] // self.requirements.step_hours if config.earlier_until_hours else 0
        self.last_lead = config.lead_until_hours // self.requirements.step_hours
        self.model = self._build_model(first).to(self.device)
        self.average = copy.deepcopy(self.model).eval().requires_grad_(False)
        if self.last_lead <= self.first_lead:
            raise ValueError(
                f"lead_until_hours must lie beyond the earlier stages' {self.first_lead * self.requirements.step_hours} h; "
                f"got {config.lead_until_hours}."
            )
        weights = channel_weights(config.channels, config.variable_weights, config.weight_by_level)
        self.error = WeightedError(config.penalty, self.requirements.latitude, weights).to(self.device)
        self.balance = LeadBalance(self.last_lead + 1)
        self.optimiser = torch.optim.AdamW(
            _parameter_groups(self.model, config.weight_decay), lr=config.learning_rate, betas=(0.9, 0.98)
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimiser, self._learning_rate)
        for number, source in enumerate(self.sources):
            source.open_stream(config.history, self.first_lead + config.unroll, config.seed + number)
        self.buffer = ReplayBuffer(config.replay_buffer, self._start, self._can_advance, self.rng, config.fresh_share)
        self.step = 0
        self.waited = 0.0
        self.started = time.perf_counter()

    def _build_model(self, analysis: xr.Dataset) -> PuYun:
        statistics = compute_statistics(analysis)
        for source, settings in zip(self.sources[1:], list(self.config.sources.values())[1:], strict=True):
            if settings.match_statistics:
                source.match(compute_statistics(source.analysis), statistics)
        initial = [_load_puyun(path) for path in self.config.initial]
        calibrated_steps = self.last_lead if self.config.calibrate or self.config.calibration_from else 0
        model = PuYun(replace(self.config.model, calibrated_steps=calibrated_steps), self.requirements, statistics)
        if initial:
            model.load_weights_of(initial)
        if calibrated_steps:
            model.daily_cycle.copy_(self._daily_cycle())
        if self.config.calibration_from:
            parts = load_moments(self.config.calibration_from, self.last_lead)
            model.calibration.copy_(combine(parts, self.requirements.latitude))
        return model

    def _daily_cycle(self) -> Float[Tensor, "phase channel lat lon"]:
        """Mean state by phase of the day, over the span that gives the statistics."""
        settings = next(iter(self.config.sources.values()))
        whole = Source(SourceConfig(settings.store, settings.start, settings.end), self.config.channels)
        phases = self.requirements.phase_of_day(whole.times)
        cycle = torch.zeros(self.requirements.phases_per_day, *whole.shape, dtype=torch.float64)
        for position, phase in enumerate(phases):
            cycle[phase] += whole.states([position])[0] / int((phases == phase).sum())
        return cycle.float()

    def _learning_rate(self, step: int) -> float:
        if step < self.config.warm_up:
            return (step + 1) / self.config.warm_up
        progress = (step - self.config.warm_up) / max(1, self.config.steps - self.config.warm_up)
        floor = self.config.final_learning_rate
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

    # Forecasts under way

    def _start(self, rng: np.random.Generator) -> tuple[Tensor, int, int, int]:
        """A fresh forecast: an analysis, or what the earlier stages made of one."""
        shares = np.array([source.share for source in self.sources])
        number = int(rng.choice(len(self.sources), p=shares / shares.sum()))
        source = self.sources[number]
        frames, index = source.fresh()
        if self.config.noise:
            noise = torch.from_numpy(rng.standard_normal(frames.shape, dtype=np.float32))
            frames = frames + self.config.noise * self.model.tendency.cpu() * noise
        lead = 0
        for stage, until in zip(self.earlier, self.config.earlier_until_hours, strict=True):
            while lead < until // self.requirements.step_hours:
                frames = self._advance(stage, frames[None], [source], np.array([index]), np.array([lead]))[0]
                index, lead = index + 1, lead + 1
        return frames, number, index, lead

    def _can_advance(self, source: int, index: int, lead: int) -> bool:
        last = min(self.last_lead, self.sources[source].last_lead or self.last_lead)
        return lead + self.config.unroll <= last and self.sources[source].connected(index, self.config.unroll)

    @torch.no_grad()
    def _advance(
        self, model: Forecaster, frames: Tensor, sources: Sequence[Source], index: np.ndarray, lead: np.ndarray
    ) -> Tensor:
        times = np.array([source.times[position] for source, position in zip(sources, index, strict=False)])
        forcings, features = model.inputs_at(times, lead * self.requirements.step_hours, self.device)
        frames = frames.to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.in_bfloat16):
            following = model(frames, forcings, features)
        return torch.cat([frames[:, 1:], following[:, None]], dim=1).cpu()

    # Learning

    def _truth(self, draw: Draw, ahead: int) -> Float[Tensor, "batch channel lat lon"]:
        return torch.cat(
            [self.sources[source].states([index + ahead]) for source, index in zip(draw.source, draw.index, strict=True)]
        )

    def train_step(self) -> dict[str, float]:
        """Draw, predict, learn, put back; returns what the log holds."""
        started = time.perf_counter()
        draw = self.buffer.draw(self.config.batch_size)
        truths = [self._truth(draw, ahead + 1).to(self.device) for ahead in range(self.config.unroll)]
        self.waited += time.perf_counter() - started
        self.model.train()
        frames = draw.frames.to(self.device)
        total = torch.zeros((), device=self.device)
        for ahead, truth in enumerate(truths):
            lead = draw.lead + ahead
            times = np.array([self.sources[s].times[i + ahead] for s, i in zip(draw.source, draw.index, strict=True)])
            forcings, features = self.model.inputs_at(times, lead * self.requirements.step_hours, self.device)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.in_bfloat16):
                tendency = self.model.normalised_tendency(frames, forcings, features).float()
            error = self.error(tendency - (truth - frames[:, -1]) / self.model.tendency)
            self.balance.update(lead, error)
            weights = self.balance.weights(lead).to(self.device) if self.config.balance_lead_times else 1.0
            total = total + (error * weights).mean() / len(truths)
            frames = torch.cat([frames[:, 1:], (frames[:, -1] + self.model.tendency * tendency)[:, None]], dim=1)
        loss = float(total.detach())
        if not np.isfinite(loss):
            raise TrainingError(
                f"the loss is {loss} at step {self.step}; lower learning_rate, or look for bad data with the store's audit."
            )
        total.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.schedule.step()
        self._update_average()
        self.buffer.put_back(draw, frames.detach(), len(truths))
        self.step += 1
        return {
            "step": self.step,
            "loss": loss,
            "error": float(error.detach().mean()),
            "lead_hours": float(lead.mean() * self.requirements.step_hours),
            "gradient_norm": float(norm),
            "learning_rate": float(self.schedule.get_last_lr()[0]),
        }

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        for averaged, current in zip(self.average.parameters(), self.model.parameters(), strict=True):
            averaged.lerp_(current, 1 - decay)

    # Validation

    def validate(self) -> dict[str, float]:
        """RMSE of the averaged weights by channel and lead time, for valid times in the validation span.

        Every forecast starts from an analysis (before or in the span) and runs through the earlier stages first.
        """
        leads = [
            hours // self.requirements.step_hours
            for hours in self.config.validation_leads
            if hours <= self.config.lead_until_hours
        ]
        scores: dict[str, float] = {}
        for batch in self._validation_forecasts(max(leads)):
            if batch.lead in leads:
                hours = batch.lead * self.requirements.step_hours
                forecast, initial = batch.forecast.to(self.device), batch.initial.to(self.device)
                shown = self._model_at(batch.lead - 1).calibrated(forecast, initial, batch.initial_time, hours).cpu()
                errors = ((shown - batch.truth).square() * row_weights(self.requirements.latitude)).mean(dim=(0, 2, 3)).sqrt()
                scores |= {f"{name} {hours} h": float(error) for name, error in zip(self.config.channels, errors, strict=True)}
        return scores

    def calibrate(self) -> Moments:
        """Calibrate the averaged network on the validation span; returns the moments that its weights were fitted to."""
        moments = torch.zeros(self.last_lead, 5, *self.average.calibration.shape[2:])
        for batch in self._validation_forecasts(self.last_lead):
            if batch.lead > self.first_lead:
                usual = self.average.usual_state(batch.initial_time + batch.lead * self.requirements.step).cpu()
                initial = batch.initial - self.average.usual_state(batch.initial_time).cpu()
                moments[batch.lead - 1] = moments_of(batch.forecast - usual, initial, batch.truth - usual)
        self.average.calibration.copy_(fit_weights(moments, self.requirements.latitude))
        return moments

    def _validation_forecasts(self, deepest: int) -> Iterator[ValidationForecasts]:
        """For each lead time in steps, the forecasts that are valid in the validation span.

        They start before or in the span; where days are held out, not before those: what has been learned from would score
        too well.
        """
        config = self.config
        settings = next(iter(config.sources.values()))
        whole = Source(SourceConfig(store=settings.store), config.channels)
        begin, end = np.datetime64(config.validation_start), np.datetime64(config.validation_end) + np.timedelta64(1, "D")
        first, last = np.searchsorted(whole.times, np.array([begin, end], dtype=whole.times.dtype))
        earliest = first - deepest
        if settings.held_out_start:
            earliest = max(earliest, int(np.searchsorted(whole.times, np.datetime64(settings.held_out_start))))
        starts = np.arange(max(config.history - 1, earliest), last - 1)
        frames = torch.stack([whole.states(range(start - config.history + 1, start + 1)) for start in starts])
        initial = frames[:, -1]
        for lead in range(deepest):
            keep = starts + lead + 1 < last
            starts, frames, initial = starts[keep], frames[keep], initial[keep]
            parts = [slice(begin, begin + VALIDATION_BATCH) for begin in range(0, len(starts), VALIDATION_BATCH)]
            model = self._model_at(lead)
            sources, leads = [whole] * VALIDATION_BATCH, np.full(len(starts), lead)
            frames = torch.cat(
                [self._advance(model, frames[part], sources, starts[part] + lead, leads[part]) for part in parts]
            )
            inside = starts + lead + 1 >= first
            truth = whole.states(starts[inside] + lead + 1)
            yield ValidationForecasts(lead + 1, whole.times[starts[inside]], initial[inside], frames[inside, -1], truth)

    def _model_at(self, lead: int) -> Forecaster:
        for stage, until in zip(self.earlier, self.config.earlier_until_hours, strict=True):
            if lead < until // self.requirements.step_hours:
                return stage
        return self.average

    def run(self) -> Path:
        """Train, validate, log, draw the curves, save; returns the checkpoint's folder.

        The averaged weights are also saved after every validation.
        """
        self.out.mkdir(parents=True, exist_ok=True)
        self.started = time.perf_counter()
        with (self.out / "log.jsonl").open("a") as log, _progress(self.config.steps) as progress:
            bar = progress.add_task("training", total=self.config.steps, loss="", speed="")
            for entry in self._entries():
                if "validation" in entry or entry["step"] % 10 == 0:
                    log.write(json.dumps(entry) + "\n")
                    log.flush()
                speed = self.step * self.config.batch_size / (time.perf_counter() - self.started)
                if "loss" in entry:
                    progress.update(bar, completed=self.step, loss=f"{entry['loss']:.3f}", speed=f"{speed:.1f}")
        if self.config.calibrate:
            with (self.out / "log.jsonl").open("a") as log:
                save_moments(self.out, self.calibrate())
                weights = self.average.calibration[self.first_lead :].mean(dim=-1)  # (step, two, channel)
                calibration = {
                    name: dict(zip(self.config.channels, weights[:, place].T.tolist(), strict=True))
                    for place, name in enumerate(("forecast", "initial"))
                }
                log.write(json.dumps({"step": self.step, "calibration": calibration, "validation": self.validate()}) + "\n")
        draw_training_curves(self.out / "log.jsonl", self.out / "curves.png")
        return self.save()

    def _entries(self) -> Iterator[dict[str, Any]]:
        while self.step < self.config.steps:
            yield self.train_step()
            if self.config.validation_start and (self.step % self.config.validate_every == 0 or self.step == self.config.steps):
                yield {"step": self.step, "validation": self.validate()}
                self.save()

    def save(self) -> Path:
        """Write the averaged weights as a checkpoint."""
        first = self.sources[0]
        folder = self.out / "checkpoint"
        save_checkpoint(
            folder,
            self.average,
            training_span=(str(first.analysis.time.values[0])[:13], str(first.analysis.time.values[-1])[:13]),
            data_hash=data_hash(first.analysis[list(first.analysis.data_vars)]),
            extra={
                "training": asdict(self.config),
                "steps": self.step,
                "seconds": round(time.perf_counter() - self.started),
                "seconds_waited_for_data": round(self.waited, 1),
            },
        )
        return folder


def _parameter_groups(model: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Decay matrices and filters, not biases, norms and layer scales."""
    decayed = [parameter for name, parameter in model.named_parameters() if parameter.ndim > 1 and "scale" not in name]
    others = [parameter for name, parameter in model.named_parameters() if parameter.ndim <= 1 or "scale" in name]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def _progress(steps: int) -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("loss {task.fields[loss]}"),
        TextColumn("{task.fields[speed]} samples/s"), TimeRemainingColumn(), disable=steps < 2,
    )  # fmt: skip
