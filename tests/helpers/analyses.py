"""Small analyses in the store's contract whose fields vary along every axis."""

from __future__ import annotations

import numpy as np
import xarray as xr


def make_analysis(
    steps: int = 20,
    rows: int = 7,
    columns: int = 12,
    levels: tuple[int, ...] = (500, 850),
    *,
    start: str = "2021-02-27T00",
    step_hours: int = 6,
    seed: int = 0,
) -> xr.Dataset:
    """Make `temperature` on levels, `mean_sea_level_pressure` and the static `land_sea_mask`, float32, latitude descending."""
    rng = np.random.default_rng(seed)
    time = np.datetime64(start, "ns") + np.arange(steps) * np.timedelta64(step_hours, "h")
    latitude, longitude = np.linspace(90, -90, rows), np.arange(columns) * 360 / columns
    warm_equator = 40 * np.cos(np.deg2rad(latitude))[:, None]
    height = np.linspace(240, 280, len(levels))[:, None, None]
    temperature = height + warm_equator + rng.normal(0, 3, (steps, len(levels), rows, columns))
    pressure = 101325 + 1000 * np.sin(np.deg2rad(latitude))[:, None] + rng.normal(0, 700, (steps, rows, columns))
    return xr.Dataset(
        {
            "temperature": (
                ("time", "level", "latitude", "longitude"),
                temperature.astype(np.float32),
                {"units": "K", "long_name": "temperature"},
            ),
            "mean_sea_level_pressure": (("time", "latitude", "longitude"), pressure.astype(np.float32), {"units": "Pa"}),
            "land_sea_mask": (("latitude", "longitude"), rng.random((rows, columns)).astype(np.float32), {"units": "1"}),
        },
        {
            "time": time,
            "level": np.array(levels, dtype=np.int32),
            "latitude": latitude,
            "longitude": longitude,
        },
    )
