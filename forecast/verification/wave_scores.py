"""Scores of wave forecasts against finite-element solutions, sample by sample and lead time by lead time.

For fields f (forecast) and t (truth) over the points of the medium, with equal cells:

- relative L2 error: |f - t| / |t|, of displacement and of velocity;
- energy drift: (E(f) - E(t)) / E(t at the start), with E the kinetic and potential energy of the grid's own differences,
  no flux through edges and holes. Truth is measured by the same differences, so that only the forecast's loss is left;
- phase error: the shift in time [s] that explains most of the difference to first order, (f - t, v) / (v, v) with v the true
  velocity: positive where the forecast runs ahead;
- amplitude: |f| / |t| - 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from jaxtyping import Float

from forecast.verification.inputs import VerificationError

UNITS = {"relative_l2": "1", "relative_l2_velocity": "1", "energy_drift": "1", "phase_error": "s", "amplitude": "1"}
PERSISTENCE = "persistence"

Maps = Float[np.ndarray, "time y x"]


@dataclass(frozen=True)
class Medium:
    """Where waves run: points of the medium, speed [m s-1], and the size of a cell [m]."""

    mask: np.ndarray
    speed: np.ndarray
    dy: float
    dx: float


def score_sample(
    displacement: Maps, velocity: Maps, true_displacement: Maps, true_velocity: Maps, start_energy: float, medium: Medium
) -> dict[str, Float[np.ndarray, " time"]]:
    """Scores of one sample at every lead time; names as in `UNITS`."""
    inside = medium.mask > 0
    u, v, true_u, true_v = (field[:, inside].astype(np.float64) for field in (
        displacement, velocity, true_displacement, true_velocity))  # fmt: skip
    off = u - true_u
    own = energy(displacement, velocity, medium) - energy(true_displacement, true_velocity, medium)
    return {
        "relative_l2": _ratio(_norm(off), _norm(true_u)),
        "relative_l2_velocity": _ratio(_norm(v - true_v), _norm(true_v)),
        "energy_drift": own / start_energy,
        "phase_error": _ratio((off * true_v).sum(axis=1), (true_v**2).sum(axis=1)),
        "amplitude": _ratio(_norm(u), _norm(true_u)) - 1,
    }


def energy(displacement: Maps, velocity: Maps, medium: Medium) -> Float[np.ndarray, " time"]:
    """Kinetic and potential energy of waves on the grid [m4 s-2 per unit density]."""
    inside = medium.mask > 0
    squared = np.where(inside, medium.speed.astype(np.float64) ** 2, 0)
    cell = medium.dy * medium.dx
    total = cell * (np.where(inside, velocity.astype(np.float64), 0) ** 2).sum(axis=(1, 2))
    for axis, size in ((0, medium.dy), (1, medium.dx)):
        slope = np.diff(displacement.astype(np.float64), axis=axis + 1) / size
        low, high = (_but_end(inside, axis, end) for end in (-1, 0))
        stiffness = 0.5 * (_but_end(squared, axis, -1) + _but_end(squared, axis, 0))
        total = total + cell * (np.where(low & high, stiffness, 0) * slope**2).sum(axis=(1, 2))
    return 0.5 * total


def _but_end(values: np.ndarray, axis: int, end: int) -> np.ndarray:
    """All along an axis but the last (-1), or but the first (0)."""
    keep = slice(None, -1) if end else slice(1, None)
    return values[keep] if axis == 0 else values[:, keep]


def _norm(values: np.ndarray) -> np.ndarray:
    return np.sqrt((values**2).sum(axis=1))


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.full(above.shape, np.nan), where=below > 0)


def score_waves(forecasts: Mapping[str, xr.Dataset], truth: xr.Dataset, samples: Sequence[int], history: int) -> xr.Dataset:
    """Score forecasts, and persistence, of some samples.

    Parameters
    ----------
    forecasts
        Wave stores by name; each begins with `history` frames that were given to it.
    truth
        Wave store with the same samples, grid and step, which may be longer.
    samples
        Numbers of the samples.
    history
        Frames at the start that are not scored.

    Returns
    -------
    Over (forecast, sample, lead): the scores named in `UNITS`. `lead` [s] counts from the last frame that was given.

    Raises
    ------
    VerificationError
        If grids or times do not fit together.
    """
    times, place = _common_times(forecasts, truth)
    names = [*forecasts, PERSISTENCE]
    shape = (len(names), len(samples), len(times) - history)
    out = {name: np.full(shape, np.nan) for name in UNITS}
    for row, sample in enumerate(samples):
        true = truth[["displacement", "velocity", "wave_speed", "mask"]].sel(sample=sample).isel(time=place).load()
        medium = medium_of(true)
        fields = [true[name].values for name in ("displacement", "velocity")]
        start = float(energy(fields[0][history - 1 : history], fields[1][history - 1 : history], medium)[0])
        given = [np.broadcast_to(field[history - 1], field[history:].shape) for field in fields]
        made = [
            [data[name].sel(sample=sample).values[history : len(times)] for name in ("displacement", "velocity")]
            for data in forecasts.values()
        ]
        for number, (displacement, velocity) in enumerate([*made, given]):
            found = score_sample(displacement, velocity, fields[0][history:], fields[1][history:], start, medium)
            for name, values in found.items():
                out[name][number, row] = values
    dims = ("forecast", "sample", "lead")
    data = {name: (dims, values, {"units": UNITS[name]}) for name, values in out.items()}
    lead = times[history:] - times[history - 1]
    return xr.Dataset(data, {"forecast": names, "sample": list(samples), "lead": ("lead", lead, {"units": "s"})})


def medium_of(sample: xr.Dataset) -> Medium:
    """The medium of one sample of a wave store."""
    y, x = sample["y"].values, sample["x"].values
    return Medium(sample["mask"].values, sample["wave_speed"].values, float(y[1] - y[0]), float(x[1] - x[0]))


def _common_times(forecasts: Mapping[str, xr.Dataset], truth: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Times of the shortest forecast, and where they are in truth."""
    shortest = min(forecasts, key=lambda name: forecasts[name].sizes["time"])
    times, true_times = forecasts[shortest]["time"].values, truth["time"].values
    step = float(times[1] - times[0])
    place = np.abs(true_times[:, None] - times).argmin(axis=0)
    if not np.allclose(true_times[place], times, rtol=0, atol=1e-6 * step):
        raise VerificationError(
            f"{shortest} has times {times[0]:g} to {times[-1]:g} s every {step:g} s, which truth has not: it covers "
            f"{true_times[0]:g} to {true_times[-1]:g} s. Give the truth that the forecast started from."
        )
    for name, data in forecasts.items():
        if not np.allclose(data["time"].values[: len(times)], times, rtol=0, atol=1e-6 * step):
            raise VerificationError(f"{name} has other times than {shortest}; compare forecasts of one step.")
        for axis in ("y", "x"):
            if not np.array_equal(data[axis].values, truth[axis].values):
                raise VerificationError(f"{name} has another grid than truth along {axis}; compare on one grid.")
    return times, place
