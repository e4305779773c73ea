"""What a wave simulator needs from the data that is fed to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

GRID_TOLERANCE = 1e-6  # of a cell


@dataclass(frozen=True)
class WaveRequirements:
    """Fields, grid, step and static fields that a simulator was built for.

    Parameters
    ----------
    channels
        Names of the fields that it carries on, e.g. ``("displacement", "velocity")``.
    y, x
        Coordinates of the grid [m], rising in equal steps.
    step_seconds
        Time between two states [s].
    history
        Number of past states in the input, the current one included.
    static
        Fields without time that it is given at every step; ``"mask"`` must be among them: outside it waves are 0.
    """

    channels: tuple[str, ...]
    y: tuple[float, ...]
    x: tuple[float, ...]
    step_seconds: float
    history: int = 1
    static: tuple[str, ...] = ("wave_speed", "mask")

    def __post_init__(self) -> None:
        if not self.channels:
            raise ValueError("channels is empty: a simulator needs at least one, e.g. ('displacement', 'velocity').")
        if self.history < 1:
            raise ValueError(f"history must be at least 1 (the current state); got {self.history}.")
        if not self.step_seconds > 0:
            raise ValueError(f"step_seconds must be positive; got {self.step_seconds}.")
        if "mask" not in self.static:
            raise ValueError(f"static must hold mask, outside of which waves are 0; got {list(self.static)}. Add it.")

    @classmethod
    def of(cls, waves: xr.Dataset, channels: Sequence[str], static: Sequence[str], *, history: int = 1) -> WaveRequirements:
        """Requirements of a simulator that is trained on `waves`: its grid and its time step."""
        return cls(
            channels=tuple(channels),
            y=tuple(float(value) for value in waves["y"].values),
            x=tuple(float(value) for value in waves["x"].values),
            step_seconds=step_of(waves),
            history=history,
            static=tuple(static),
        )

    @property
    def grid_shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return len(self.y), len(self.x)

    def check(self, waves: xr.Dataset) -> None:
        """Raise ValueError that tells what `waves` lacks for this simulator, if anything."""
        missing = [name for name in (*self.channels, *self.static) if name not in waves]
        if missing:
            raise ValueError(
                f"variables {missing} are missing: the simulator needs {[*self.channels, *self.static]}; the store has "
                f"{sorted(map(str, waves.data_vars))}. Build a store that holds them."
            )
        for name, wanted in (("y", self.y), ("x", self.x)):
            have = np.asarray(waves[name].values, dtype=float)
            cell = abs(wanted[1] - wanted[0])
            if len(have) != len(wanted) or not np.allclose(have, wanted, rtol=0, atol=GRID_TOLERANCE * cell):
                raise ValueError(
                    f"{name} differs: the simulator was trained on {len(wanted)} points from {wanted[0]:g} to "
                    f"{wanted[-1]:g} m; the store has {len(have)} from {have[0]:g} to {have[-1]:g} m. Build it on that grid."
                )
        if len(waves["time"]) > 1 and not np.isclose(step_of(waves), self.step_seconds, rtol=1e-6):
            raise ValueError(
                f"time step differs: the simulator steps {self.step_seconds:g} s; the store has {step_of(waves):g} s. Build "
                "the store with waves.frame_seconds of the simulator."
            )


def step_of(waves: xr.Dataset) -> float:
    """Time between two states [s]."""
    time = waves["time"].values
    return float((time[-1] - time[0]) / (len(time) - 1))
