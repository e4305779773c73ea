"""What a model needs from the data that is fed to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from data_pipelines.daily_cycle import hour_of_day
from data_pipelines.store import time_step
from data_pipelines.variables import Channel

# WeatherBench 2 matches grids to a thousandth of a degree (scripts/evaluate.py); so do we.
GRID_TOLERANCE = 1e-3  # degrees


@dataclass(frozen=True)
class Requirements:
    """Variables, grid, history and forcings that a model was built for.

    Parameters
    ----------
    channels
        Names of the two-dimensional fields in the model's order, e.g. ``"vorticity_850"``.
    latitude, longitude
        Coordinates of the grid [degrees], latitude from north to south.
    history
        Number of past states in the input, the current one included.
    step_hours
        Time between two states, in the input and from input to output [h].
    forcings
        Names of the computed fields (`data_pipelines.forcings.FORCINGS`) at the target time.
    interval_hours
        Time between the states that it makes [h], where it is shorter than a step: with steps of 12 h and an interval of 6 h
        the state at 18 h comes from the one at 6 h, that at 24 h from the one at 12 h. 0 for `step_hours`, kept as that: who
        replaces one replaces both.
    """

    channels: tuple[str, ...]
    latitude: tuple[float, ...]
    longitude: tuple[float, ...]
    history: int = 2
    step_hours: int = 6
    forcings: tuple[str, ...] = ("cos_zenith",)
    interval_hours: int = 0

    def __post_init__(self) -> None:
        if not self.channels:
            raise ValueError("channels is empty: a model needs at least one, e.g. ('mean_sea_level_pressure',).")
        if self.history < 1:
            raise ValueError(f"history must be at least 1 (the current state); got {self.history}.")
        if self.step_hours < 1:
            raise ValueError(f"step_hours must be at least 1; got {self.step_hours}.")
        if not self.interval_hours:
            object.__setattr__(self, "interval_hours", self.step_hours)
        if self.interval_hours < 1 or self.step_hours % self.interval_hours:
            raise ValueError(
                f"step_hours must be a multiple of interval_hours; got {self.step_hours} and {self.interval_hours}."
            )
        if not np.all(np.diff(self.latitude) < 0):
            raise ValueError(
                "latitude must run from north to south; it does not. Open the store with open_analysis, which sorts it."
            )
        if not np.all(np.diff(self.longitude) > 0):
            raise ValueError("longitude must increase from west to east; it does not.")

    @classmethod
    def of(
        cls,
        analysis: xr.Dataset,
        channels: Sequence[str],
        *,
        history: int = 2,
        forcings: Sequence[str] = (),
        step_hours: int = 0,
    ) -> Requirements:
        """Requirements of a model trained on `analysis`: its grid, its interval, and its step unless one is given."""
        steps = np.unique(np.diff(analysis["time"].values))
        if len(steps) != 1:
            raise ValueError(
                f"analysis must have one time step; it has {len(steps)} different ones. Choose a span without gaps."
            )
        interval_hours = int(time_step(analysis) / np.timedelta64(1, "h"))
        return cls(
            channels=tuple(channels),
            latitude=tuple(float(value) for value in analysis["latitude"].values),
            longitude=tuple(float(value) for value in analysis["longitude"].values),
            history=history,
            step_hours=step_hours or interval_hours,
            forcings=tuple(forcings),
            interval_hours=interval_hours,
        )

    @property
    def step(self) -> np.timedelta64:
        """Time from input to output."""
        return np.timedelta64(self.step_hours, "h")

    @property
    def phases_per_day(self) -> int:
        """Different hours of day that its states fall on; 1 where a day is no multiple of their interval."""
        return 24 // self.interval_hours if 24 % self.interval_hours == 0 else 1

    def phase_of_day(self, time: np.ndarray) -> np.ndarray:
        """Which of them each time (datetime64) falls on."""
        return hour_of_day(time) // self.interval_hours % self.phases_per_day

    @property
    def grid_shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return len(self.latitude), len(self.longitude)

    @property
    def has_poles(self) -> bool:
        """Whether the first and the last row are the poles themselves."""
        return abs(self.latitude[0] - 90.0) < GRID_TOLERANCE and abs(self.latitude[-1] + 90.0) < GRID_TOLERANCE

    def check(self, analysis: xr.Dataset) -> None:
        """Raise ValueError that tells what `analysis` lacks for this model, if anything."""
        for text in self.channels:
            channel = Channel.parse(text)
            if channel.variable not in analysis:
                raise ValueError(
                    f"variable {channel.variable} is missing: the model needs {list(self.channels)}; the store has "
                    f"{sorted(map(str, analysis.data_vars))}. Rebuild it with variables=..."
                )
            if channel.level is not None:
                levels = [int(level) for level in np.atleast_1d(analysis["level"].values)] if "level" in analysis.coords else []
                if channel.level not in levels:
                    raise ValueError(
                        f"level {channel.level} hPa is missing for {channel.variable}: the model needs {list(self.channels)}; "
                        f"the store has levels {levels}. Rebuild it with levels=..."
                    )
        self._check_axis("latitude", self.latitude, analysis)
        self._check_axis("longitude", self.longitude, analysis)
        times = analysis["time"].values
        have = (times[1] - times[0]) / np.timedelta64(1, "h") if len(times) > 1 else self.interval_hours
        if have != self.interval_hours:
            raise ValueError(
                f"time step differs: the model's states are {self.interval_hours} h apart; the store's {have:g} h. "
                f"Rebuild it with every={self.interval_hours}h."
            )

    @staticmethod
    def _check_axis(name: str, wanted: tuple[float, ...], analysis: xr.Dataset) -> None:
        have = np.asarray(analysis[name].values, dtype=float)
        if len(have) == len(wanted) and np.allclose(have, wanted, atol=GRID_TOLERANCE, rtol=0):
            return
        raise ValueError(
            f"{name} differs: the model was trained on {_describe(np.asarray(wanted))}; the store has {_describe(have)}. "
            "Regrid it with data_pipelines.build_store grid=..., or use a checkpoint for this grid."
        )


def _describe(axis: np.ndarray) -> str:
    return f"{len(axis)} points from {axis[0]:g} to {axis[-1]:g} degrees"
