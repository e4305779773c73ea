"""Small truths with known dynamics, and forecasts of them in WeatherBench 2's schema."""

from __future__ import annotations

import numpy as np
import xarray as xr

STEP = np.timedelta64(6, "h")


def drifting_truth(steps: int = 120, rows: int = 9, columns: int = 16, seed: int = 0, noise: float = 0.05) -> xr.Dataset:
    """Pressure and vorticity that drift one column eastward a step, decay, and are stirred: an advection with a known answer.

    The noise is white in time and smooth in longitude. Latitude 90..-90, both poles hold one value each.
    """
    rng = np.random.default_rng(seed)
    weather = np.zeros((steps, 2, rows, columns))
    state = _smooth(rng.normal(size=(2, rows, columns)))
    for step in range(steps):
        state = 0.97 * np.roll(state, 1, axis=-1) + noise * _smooth(rng.normal(size=(2, rows, columns)))
        weather[step] = state
    weather[..., 0, :] = weather[..., 0, :].mean(-1, keepdims=True)
    weather[..., -1, :] = weather[..., -1, :].mean(-1, keepdims=True)
    time = np.datetime64("2026-01-01T00", "ns") + np.arange(steps) * STEP
    latitude, longitude = np.linspace(90, -90, rows), np.arange(columns) * 360 / columns
    daily = 100 * np.cos(2 * np.pi * np.arange(steps) / 4)[:, None, None]
    return xr.Dataset(
        {
            "mean_sea_level_pressure": (
                ("time", "latitude", "longitude"),
                (1e5 + daily + 500 * weather[:, 0]).astype(np.float32),
                {"units": "Pa"},
            ),
            "vorticity": (
                ("time", "level", "latitude", "longitude"),
                (1e-5 * weather[:, 1, None]).astype(np.float32),
                {"units": "s-1"},
            ),
        },
        {"time": time, "level": np.array([850], np.int32), "latitude": latitude, "longitude": longitude},
        {"license": "made for tests"},
    )


def imperfect_forecast(truth: xr.Dataset, start: int, stop: int, leads: int = 8, error: float = 0.1) -> xr.Dataset:
    """Forecast truth plus an error that grows with lead time, from the analyses start..stop; valid times may be past truth."""
    rng = np.random.default_rng(1)
    times = truth["time"].values[start:stop]
    lead = np.arange(1, leads + 1) * STEP
    longer = truth.pad(time=(0, leads), mode="edge")
    positions = np.arange(start, stop)[:, None] + np.arange(1, leads + 1)
    result = xr.Dataset(coords={"time": times, "prediction_timedelta": lead})
    for name, field in longer.data_vars.items():
        values = field.values[positions]
        scale = error * float(truth[name].std()) * np.sqrt(np.arange(1, leads + 1)).reshape(-1, *[1] * (values.ndim - 2))
        noisy = (values + scale * rng.normal(size=values.shape)).astype(np.float32)
        result[name] = (("time", "prediction_timedelta", *field.dims[1:]), noisy, {"units": field.attrs["units"]})
    result = result.assign_coords({dim: truth[dim] for dim in ("level", "latitude", "longitude")})
    return result.assign_attrs(training_span="2026-01-01/2026-01-20")


def _smooth(field: np.ndarray) -> np.ndarray:
    return (np.roll(field, 1, -1) + 2 * field + np.roll(field, -1, -1)) / 4
