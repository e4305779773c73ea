"""A forecaster without a network: what it makes can be computed by hand."""

from __future__ import annotations

import os
import signal
import time as clock
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from forecast.requirements import Requirements

CHANNELS = ("temperature_500", "temperature_850", "mean_sea_level_pressure")


class Extrapolation(nn.Module):
    """last + gain * (last - first) + drift * (lead time [h] of the last frame) / 100 + hour of day of the target / 1000.

    `drift` has a value per channel, so that a wrong order of channels shows.
    """

    def __init__(self, requirements: Requirements, gain: float = 0.5, drift: float = 1.0) -> None:
        super().__init__()
        self.requirements = requirements
        self.gain = nn.Parameter(torch.tensor(gain))
        self.share_of_initial = 0.0  # per hour of lead time, in what is shown
        order = [float(CHANNELS.index(name) + 1) if name in CHANNELS else 0.0 for name in requirements.channels]
        self.register_buffer("drift", drift * torch.tensor(order).view(-1, 1, 1))

    @classmethod
    def from_config(cls, config: Mapping[str, Any], requirements: Requirements) -> Extrapolation:
        return cls(requirements, **config)

    def to_config(self) -> dict[str, Any]:
        return {"gain": float(self.gain.detach())}

    def inputs_at(self, time: np.ndarray, lead_hours: np.ndarray, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        target = time.astype("datetime64[h]") + np.timedelta64(self.requirements.step_hours, "h")
        hour = (target - target.astype("datetime64[D]")).astype(np.float32)
        forcings = torch.from_numpy(hour).view(-1, 1, 1, 1).expand(-1, 1, *self.requirements.grid_shape)
        return forcings.to(device), torch.from_numpy(lead_hours.astype(np.float32)).view(-1, 1).to(device)

    @property
    def is_calibrated(self) -> bool:
        return self.share_of_initial > 0

    def calibrated(self, fields: Tensor, initial: Tensor, initial_time: np.ndarray, lead_hours: int) -> Tensor:
        return fields + self.share_of_initial * lead_hours * (initial - fields)

    def forward(self, frames: Tensor, forcings: Tensor, features: Tensor) -> Tensor:
        clock.sleep(float(os.environ.get("EXTRAPOLATION_SECONDS", 0)))  # a slow machine, where a test wants one
        if dead := os.environ.get("EXTRAPOLATION_DIES"):  # once: whoever makes the file
            with suppress(FileExistsError), open(dead, "x"):
                os.kill(os.getpid(), signal.SIGKILL)
        lead = self.drift * features.view(-1, 1, 1, 1) / 100
        return frames[:, -1] + self.gain * (frames[:, -1] - frames[:, 0]) + lead + forcings / 1000


def requirements_of(
    analysis: xr.Dataset,
    *,
    step_hours: int = 6,
    history: int = 2,
    channels: tuple[str, ...] = CHANNELS,
    interval_hours: int = 0,
) -> Requirements:
    """Requirements of a model of an analysis of `tests.helpers.analyses`."""
    latitude, longitude = (tuple(float(value) for value in analysis[axis].values) for axis in ("latitude", "longitude"))
    return Requirements(channels, latitude, longitude, history, step_hours, interval_hours=interval_hours)


def extrapolation(analysis: xr.Dataset, *, gain: float = 0.5, **settings: Any) -> Extrapolation:
    """The forecaster for such an analysis; settings are those of `requirements_of`."""
    return Extrapolation(requirements_of(analysis, **settings), gain)
