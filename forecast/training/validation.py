"""Scores of the averaged network on days that it has not learned from, and its calibration on them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from data_pipelines.dates import first_moment, last_moment
from forecast.calibration import Moments, fit_weights, from_step, moments_of
from forecast.forecaster import Forecaster
from forecast.losses import row_weights
from forecast.tendency_network import TendencyNetwork
from forecast.training.config import TrainingConfig
from forecast.training.parallel import Place
from forecast.training.source import Source, Streamed
from forecast.training.subject import Subject

BATCH = 8


class Forecasts(NamedTuple):
    """Forecasts of `lead` steps from `initial` states at `initial_time`, and their truths; all (batch, channel, lat, lon)."""

    lead: int
    initial_time: np.ndarray
    initial: Tensor
    forecast: Tensor
    truth: Tensor


@dataclass
class Stepper:
    """Carries frames one step further, by any network, without a gradient."""

    subject: Subject
    device: torch.device
    in_bfloat16: bool

    @torch.no_grad()
    def advance(
        self, model: Forecaster, frames: Tensor, sources: Sequence[Streamed], index: np.ndarray, lead: np.ndarray
    ) -> Tensor:
        """Frames (batch, history, channel, lat, lon) one step on; they end at state `index` of their source, at step `lead`."""
        forcings, features = self.subject.inputs(model, sources, index, lead, self.device)
        frames = frames.to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.in_bfloat16):
            following = model(frames, forcings, features)
        return torch.cat([frames[:, 1:], following[:, None]], dim=1).cpu()


def refuse_learned_times(config: TrainingConfig, learned: np.ndarray) -> None:
    """Refuse a validation span that holds states which the first source is learned from.

    Parameters
    ----------
    config
        A stage's settings, with a validation span.
    learned
        Times of those states, datetime64.

    Raises
    ------
    ValueError
        If there are such states.
    """
    start = first_moment(config.validation_start, "validation_start", ValueError)
    end = last_moment(config.validation_end, "validation_end", ValueError)
    seen = int(((learned >= start) & (learned <= end)).sum())
    if seen:
        name = next(iter(config.sources))
        raise ValueError(
            f"validation_start={config.validation_start} to validation_end={config.validation_end} holds {seen} states that "
            f"are learned from: errors there say nothing about forecasts. End sources.{name} before, or leave those days "
            f"out of training with sources.{name}.held_out_start and held_out_end."
        )


class Validation:
    """Forecasts that are valid in the validation span, each rank's share of them.

    Every forecast starts from an analysis (before or in the span) and runs through the earlier stages first. Where days are
    held out, none starts before those: what has been learned from would score too well. `whole` is the first source over all
    that its store holds.
    """

    def __init__(
        self,
        config: TrainingConfig,
        stepper: Stepper,
        whole: Source,
        earlier: Sequence[Forecaster],
        average: TendencyNetwork,
        place: Place,
    ) -> None:
        self.config, self.stepper, self.whole = config, stepper, whole
        self.earlier, self.average, self.place = earlier, average, place
        self.requirements = average.requirements
        step = self.requirements.step_hours
        self.leads = [
            hours // step for hours in config.validation_leads if hours <= config.lead_until_hours and hours % step == 0
        ]
        if config.validation_start and not self.leads:
            raise ValueError(
                f"validation_leads must hold a lead time that the stage makes, in steps of {step} h to "
                f"{config.lead_until_hours} h; got {config.validation_leads}. Add {config.lead_until_hours}, for instance."
            )
        self.first_lead, self.last_lead = stepper.subject.first_lead, stepper.subject.last_lead

    def scores(self) -> dict[str, float]:
        """RMSE by channel and lead time."""
        leads = self.leads
        count, channels = torch.zeros(max(leads) + 1, dtype=torch.float64), len(self.config.channels)
        squares = torch.zeros(max(leads) + 1, channels, dtype=torch.float64)
        for batch in self.forecasts(max(leads)):
            if batch.lead in leads:
                model, device = self._model_at(batch.lead - 1), self.stepper.device
                shown = model.calibrated(
                    batch.forecast.to(device), batch.initial.to(device), batch.initial_time,
                    batch.lead * self.requirements.step_hours,
                ).cpu()  # fmt: skip
                error = (shown - batch.truth).square() * row_weights(self.requirements.latitude)
                squares[batch.lead] += error.mean(dim=(2, 3)).sum(dim=0)
                count[batch.lead] += len(error)
        rmse = (self.place.add(squares) / self.place.add(count)[:, None]).sqrt()
        return {
            f"{name} {lead * self.requirements.step_hours} h": float(rmse[lead, channel])
            for lead in leads
            for channel, name in enumerate(self.config.channels)
        }

    def calibrate(self) -> Moments:
        """Calibrate the averaged network; returns the moments that its weights were fitted to."""
        moments = torch.zeros(self.last_lead, 5, *self.average.calibration.shape[2:])
        count = torch.zeros(self.last_lead)
        for batch in self.forecasts(self.last_lead):
            if batch.lead > self.first_lead and len(batch.truth):
                usual = self.average.usual_state(batch.initial_time + batch.lead * self.requirements.step).cpu()
                initial = batch.initial - self.average.usual_state(batch.initial_time).cpu()
                own = moments_of(batch.forecast - usual, initial, batch.truth - usual)
                moments[batch.lead - 1] = own * len(batch.truth)
                count[batch.lead - 1] = len(batch.truth)
        moments = self.place.add(moments) / self.place.add(count).clamp(min=1).view(-1, 1, 1, 1)
        self.average.calibration.copy_(from_step(fit_weights(moments, self.requirements.latitude), self.first_lead))
        return moments

    def forecasts(self, deepest: int) -> Iterator[Forecasts]:
        """For each lead time in steps, this rank's share of the forecasts that are valid in the span."""
        config = self.config
        settings = next(iter(config.sources.values()))
        whole = self.whole
        first = first_moment(config.validation_start, "validation_start", ValueError)
        last = last_moment(config.validation_end, "validation_end", ValueError)
        earliest = first - deepest * whole.step
        if settings.held_out_start:
            earliest = max(earliest, first_moment(settings.held_out_start, "held_out_start", ValueError))
        oldest = np.arange(len(whole) - config.history + 1)
        starts = oldest[whole.all_connected(oldest, config.history - 1)] + config.history - 1
        starts = starts[(whole.times[starts] >= earliest) & (whole.times[starts] + whole.step <= last)]
        starts = starts[self.place.rank :: self.place.ranks]
        history = np.arange(1 - config.history, 1)
        frames = whole.states((starts[:, None] + history).flatten()).unflatten(0, (len(starts), config.history))
        initial = frames[:, -1]
        for lead in range(deepest):
            keep = whole.all_connected(starts, lead + 1) & (whole.times[starts] + (lead + 1) * whole.step <= last)
            starts, frames, initial = starts[keep], frames[keep], initial[keep]
            frames = self._advance(frames, whole, starts + lead, lead)
            inside = whole.times[starts + lead + 1] >= first
            truth = whole.states(starts[inside] + lead + 1)
            yield Forecasts(lead + 1, whole.times[starts[inside]], initial[inside], frames[inside, -1], truth)

    def _advance(self, frames: Tensor, whole: Source, index: np.ndarray, lead: int) -> Tensor:
        model, sources, leads = self._model_at(lead), [whole] * BATCH, np.full(len(index), lead)
        parts = [slice(begin, begin + BATCH) for begin in range(0, len(index), BATCH)]
        advanced = [self.stepper.advance(model, frames[part], sources, index[part], leads[part]) for part in parts]
        return torch.cat(advanced) if advanced else frames

    def _model_at(self, lead: int) -> Forecaster:
        for stage, until in zip(self.earlier, self.config.earlier_until_hours, strict=True):
            if lead < until // self.requirements.step_hours:
                return stage
        return self.average
