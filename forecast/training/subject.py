"""What a training is about, behind one face: the weather here, waves in `forecast.training.waves`.

The loop of `forecast.training.trainer` draws, predicts, learns and saves; a subject says where states come from, which network
carries them on, what an error is and how lead times count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor, nn

from data_pipelines.daily_cycle import mean_by_group
from data_pipelines.statistics import compute_statistics
from data_pipelines.store import data_hash
from forecast.calibration import combine, from_step, load_moments
from forecast.checkpoint import find_network, load_checkpoint
from forecast.losses import ALL_ROWS, WeightedError, channel_weights
from forecast.puyun import PuYun
from forecast.requirements import Requirements
from forecast.tendency_network import TendencyNetwork
from forecast.training.config import TrainingConfig
from forecast.training.source import Source

AnyNetwork = TypeVar("AnyNetwork", bound=TendencyNetwork)


class Subject(Protocol):
    """What the trainer asks of a subject."""

    requirements: Any
    first_lead: int  # [steps] at which the stage begins
    last_lead: int  # [steps] that it learns to reach
    lead_unit: str  # "hours" or "seconds"
    score: str  # what validation numbers are called

    @property
    def sources(self) -> Sequence[Any]:
        """Stores to learn from, each a `Streamed` with `fresh`, `states` and `connected`."""
        ...

    def build_model(self) -> Any:
        """The network, with the statistics of the data and initial weights."""
        ...

    def error(self, rows: slice) -> nn.Module:
        """From an error in units of the tendency to one number per sample."""
        ...

    def inputs(
        self, model: Any, sources: Sequence[Any], index: np.ndarray, lead: np.ndarray, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """What a network is given beside frames that end at state `index` of their source, `lead` steps after the start."""
        ...

    def lead(self, steps: float) -> float:
        """A lead time in `lead_unit`."""
        ...

    def about(self) -> dict[str, Any]:
        """What a checkpoint says of the data: `training_span` and `data_hash`."""
        ...

    def notes(self) -> dict[str, Any]:
        """More that a checkpoint says of the data."""
        ...

    def data(self, model: nn.Module) -> dict[str, Any]:
        """What must be the same when a training goes on: the states there are, and their statistics."""
        ...


class Weather:
    """Stages of a cascade, trained on analyses."""

    lead_unit = "hours"
    score = "RMSE"

    def __init__(self, config: TrainingConfig) -> None:
        self.config = config
        self.sources: Sequence[Source] = [
            Source(source, config.channels, config.step_hours) for source in config.sources.values()
        ]
        first = self.sources[0].analysis
        self.requirements = Requirements.of(
            first, config.channels, history=config.history, forcings=config.forcings, step_hours=config.step_hours
        )
        step = self.requirements.step_hours
        if odd := [hours for hours in (*config.earlier_until_hours, config.lead_until_hours) if hours % step]:
            raise ValueError(
                f"earlier_until_hours and lead_until_hours must be multiples of the step of {step} h; got {odd[0]}."
            )
        self.first_lead = config.earlier_until_hours[-1] // step if config.earlier_until_hours else 0
        self.last_lead = config.lead_until_hours // step
        if self.last_lead <= self.first_lead:
            raise ValueError(
                f"lead_until_hours must lie beyond the earlier stages' {self.first_lead * step} h; "
                f"got {config.lead_until_hours}."
            )

    def build_model(self) -> TendencyNetwork:
        """PuYun, or the network that is named; calibrated if that is asked for."""
        config = self.config
        statistics = _statistics(self.sources[0])
        for source, of_source in zip(self.sources[1:], list(config.sources.values())[1:], strict=True):
            if of_source.match_statistics:
                source.match(compute_statistics(source.analysis), statistics)
        calibrated_steps = self.last_lead if config.calibrate or config.calibration_from else 0
        network = _network(config.network)
        settings = asdict(config.model) if network is PuYun else config.network_settings
        model = network.from_config(settings | {"calibrated_steps": calibrated_steps}, self.requirements, statistics)
        initial = [load_network(path, network) for path in config.initial]
        if initial:
            model.load_weights_of([_in_form_of(model, one) for one in initial])
        if calibrated_steps:
            model.daily_cycle.copy_(self._daily_cycle())
        if config.calibration_from:
            parts = load_moments(config.calibration_from, self.last_lead)
            weights = combine(parts, self.requirements.latitude, self.requirements.step_hours)
            model.calibration.copy_(from_step(weights, self.first_lead))
        return model

    def _daily_cycle(self) -> Float[Tensor, "phase channel lat lon"]:
        """Mean state by phase of the day, over the span that gives the statistics."""
        settings = next(iter(self.config.sources.values()))
        whole_span = self.sources[0].spanning(settings.start, settings.end)
        phases = self.requirements.phase_of_day(whole_span.times)
        parts = ((phases[[position]], whole_span.states([position]).numpy()) for position in range(len(whole_span)))
        return torch.from_numpy(mean_by_group(parts, self.requirements.phases_per_day))

    def error(self, rows: slice = ALL_ROWS) -> WeightedError:
        """Weighted by area, variable and level."""
        config = self.config
        weights = channel_weights(config.channels, config.variable_weights, config.weight_by_level)
        return WeightedError(config.penalty, self.requirements.latitude, weights, rows)

    def inputs(
        self, model: Any, sources: Sequence[Any], index: np.ndarray, lead: np.ndarray, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Forcings and features of the times."""
        times = np.array([source.times[position] for source, position in zip(sources, index, strict=False)])
        forcings, features = model.inputs_at(times, lead * self.requirements.step_hours, device)
        return forcings, features

    def lead(self, steps: float) -> float:
        """Hours."""
        return steps * self.requirements.step_hours

    def about(self) -> dict[str, Any]:
        """The span and the hash of the first source."""
        times = self.sources[0].analysis.time.values
        return {"training_span": (str(times[0])[:13], str(times[-1])[:13]), "data_hash": self._data_hash}

    @cached_property
    def _data_hash(self) -> str:
        first = self.sources[0].analysis
        return data_hash(first[list(first.data_vars)])

    def notes(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def data(self, model: nn.Module) -> dict[str, Any]:
        """Spans of the sources, mean and tendency."""
        return {
            "states": [[len(source), str(source.times[0]), str(source.times[-1])] for source in self.sources],
            "mean": model.get_buffer("mean").flatten().tolist(),
            "tendency": model.get_buffer("tendency").flatten().tolist(),
        }


def _statistics(source: Source) -> xr.Dataset:
    """Those of the source's span; the tendency is that over a step of the network, which may be several of the store's."""
    statistics = compute_statistics(source.analysis)
    if source.stride > 1:
        name = "tendency_standard_deviation"
        phases = [source.analysis.isel(time=slice(first, None, source.stride)) for first in range(source.stride)]
        squares = sum(compute_statistics(phase)[name] ** 2 for phase in phases)
        statistics[name] = (squares / source.stride) ** 0.5
        statistics.attrs["time_step_hours"] = float(source.step / np.timedelta64(1, "h"))
    return statistics


def _network(name: str) -> type[TendencyNetwork]:
    network = find_network(name)
    if not issubclass(network, TendencyNetwork):
        raise ValueError(f"network must be one of the weather's (a TendencyNetwork); {name} is none. Set simulator for waves.")
    return network


def load_network(path: str, network: type[AnyNetwork]) -> AnyNetwork:
    """Load a checkpoint that must be of this network."""
    model = load_checkpoint(Path(path), "cpu")
    if type(model) is not network:  # a subclass may give its weights another meaning
        raise ValueError(
            f"initial must hold checkpoints of {network.__name__}; {path} is a {type(model).__name__}. Train it with its own "
            "code."
        )
    return model


def _in_form_of(model: TendencyNetwork, initial: TendencyNetwork) -> TendencyNetwork:
    """An initial network as it is, or approximated where the model to train is compressed and it is not."""
    if not (isinstance(model, PuYun) and isinstance(initial, PuYun)):
        return initial
    compression = model.config.compression
    if not compression.is_on or initial.config.compression.is_on:
        return initial
    return initial.compressed(compression)[0]
