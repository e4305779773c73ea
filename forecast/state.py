"""A state: fields and their coordinates, checked when built; and how states are read from an analysis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float32
from torch import Tensor

from data_pipelines.selection import select
from data_pipelines.store import load_checked
from data_pipelines.variables import VARIABLES, Channel
from forecast.forecaster import ForecastError


@dataclass(frozen=True)
class State:
    """Fields of some forecasts at one lead time.

    Parameters
    ----------
    fields
        Physical units, (batch, channel, latitude, longitude), one entry of the batch per initial time.
    channels
        Names along the second axis, as in ``"vorticity_850"``.
    initial_times
        datetime64, (batch,).
    lead_hours
        Lead time [h]; 0 is the analysis itself.
    latitude, longitude
        Degrees; north to south, west to east.
    stage
        Number of the cascade's stage that made it, from 0.

    Raises
    ------
    ForecastError
        If shapes and coordinates disagree, or a value is not finite.
    """

    fields: Float32[Tensor, "batch channel lat lon"]
    channels: tuple[str, ...]
    initial_times: np.ndarray
    lead_hours: int
    latitude: tuple[float, ...]
    longitude: tuple[float, ...]
    stage: int = 0

    def __post_init__(self) -> None:
        wanted = (len(self.initial_times), len(self.channels), len(self.latitude), len(self.longitude))
        if tuple(self.fields.shape) != wanted:
            raise ForecastError(
                f"fields must have shape {wanted} (initial times, channels, latitudes, longitudes); "
                f"got {tuple(self.fields.shape)}."
            )
        if not torch.isfinite(self.fields).all():
            raise ForecastError(self._what_is_not_finite())

    @property
    def valid_times(self) -> np.ndarray:
        """Times at which the fields hold, datetime64[ns], (batch,)."""
        return self.initial_times.astype("datetime64[ns]") + np.timedelta64(self.lead_hours, "h")

    def to_dataset(self) -> xr.Dataset:
        """Give the state in WeatherBench 2's schema, with a lead time axis of one."""
        values = self.fields.cpu().numpy()
        parsed = [Channel.parse(name) for name in self.channels]
        base = {
            "time": self.initial_times.astype("datetime64[ns]"),
            "prediction_timedelta": np.array([self.lead_hours], "timedelta64[h]").astype("timedelta64[ns]"),
            "latitude": np.asarray(self.latitude),
            "longitude": np.asarray(self.longitude),
        }
        variables = []
        for name in dict.fromkeys(channel.variable for channel in parsed):
            places = [place for place, channel in enumerate(parsed) if channel.variable == name]
            levels = [parsed[place].level for place in places]
            if levels == [None]:
                variables.append(xr.Dataset({name: (tuple(base), values[:, None, places[0]])}, base))
            else:
                dims = ("time", "prediction_timedelta", "level", "latitude", "longitude")
                field = xr.Dataset({name: (dims, values[:, None, places])}, {**base, "level": np.array(levels, np.int32)})
                variables.append(field.sortby("level"))
            if name in VARIABLES:
                variables[-1][name].attrs["units"] = VARIABLES[name].units
        return xr.merge(variables, join="outer", compat="override").assign_coords(
            cascade_stage=("prediction_timedelta", np.array([self.stage], np.int8))
        )

    def _what_is_not_finite(self) -> str:
        bad = ~torch.isfinite(self.fields)
        batch, channel = (int(place) for place in bad.flatten(2).any(2).nonzero()[0])
        return (
            f"{self.channels[channel]} is not finite in {int(bad[batch, channel].sum())} of {bad[batch, channel].numel()} "
            f"cells, {self.lead_hours} h after {_hour(self.initial_times[batch])}. Look at the analysis of that time, or "
            "use another checkpoint."
        )


def read_states(
    analysis: xr.Dataset, channels: Sequence[str], times: np.ndarray
) -> Float32[np.ndarray, "time channel lat lon"]:
    """Read the states of some times, in the order of `channels`.

    Parameters
    ----------
    analysis
        As `data_pipelines.store.open_analysis` gives it.
    channels
        Names as in ``"vorticity_850"``.
    times
        datetime64; each must be in the analysis.

    Raises
    ------
    ForecastError
        If a time is missing, or a field holds NaN.
    StoreError
        If a chunk cannot be read.
    """
    times = np.asarray(times).astype("datetime64[ns]")
    check_times(analysis, times)
    parsed = [Channel.parse(name) for name in channels]
    unique, place = np.unique(times, return_inverse=True)
    names = list(dict.fromkeys(channel.variable for channel in parsed))
    loaded = load_checked(select(analysis[names], time=unique))
    fields = [
        loaded[channel.variable].values if channel.level is None else loaded[channel.variable].sel(level=channel.level).values
        for channel in parsed
    ]
    states = np.stack(fields, axis=1).astype(np.float32, copy=False)
    bad = ~np.isfinite(states).all(axis=(2, 3))
    if bad.any():
        time, channel = np.argwhere(bad)[0]
        raise ForecastError(
            f"the analysis of {_hour(unique[time])} holds values that are not finite in {channels[channel]}, so no forecast "
            "can start from it. Choose start= and end= around it, or rebuild the store without that day."
        )
    return states[place]


def check_times(analysis: xr.Dataset, times: np.ndarray, needed_by: str = "") -> None:
    """Raise ForecastError that names the first of `times` that is not in the analysis, if any."""
    have = analysis["time"].values.astype("datetime64[ns]")
    missing = np.setdiff1d(np.asarray(times).astype("datetime64[ns]"), have)
    if missing.size:
        step = f" every {(have[1] - have[0]) / np.timedelta64(1, 'h'):g} h" if len(have) > 1 else ""
        if have[0] < missing[0] < have[-1] and (missing[0] - have[0]) % (have[1] - have[0]):
            raise ForecastError(
                f"the analysis of {_hour(missing[0])} is missing{needed_by}: the store from {_hour(have[0])} to "
                f"{_hour(have[-1])} holds one{step}. Choose start= at one of its times and every= a multiple of its step."
            )
        raise ForecastError(
            f"the analysis of {_hour(missing[0])} is missing{needed_by}: the store covers {_hour(have[0])} to {_hour(have[-1])}"
            f"{step}. Choose start= and end= inside it, or build a store that holds it."
        )


def _hour(time: np.datetime64) -> str:
    return str(time.astype("datetime64[h]"))
