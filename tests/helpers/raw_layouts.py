"""Small datasets as the public archives lay them out: what sources give before the door."""

from __future__ import annotations

import numpy as np
import xarray as xr

PLAUSIBLE = {"geopotential": (5.5e4, 1e3), "temperature": (270.0, 10.0), "mean_sea_level_pressure": (1.01e5, 5e2)}


def fields(name: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Random fields of a plausible size, float32, different at every point."""
    centre, spread = PLAUSIBLE[name]
    return np.random.default_rng([seed, len(name)]).normal(centre, spread / 3, shape).astype("float32")


def times(steps: int, start: str = "2020-02-27", hours: int = 6) -> np.ndarray:
    """Equally spaced times."""
    return np.datetime64(start, "ns") + np.arange(steps) * np.timedelta64(hours, "h")


def weatherbench(steps: int = 5) -> xr.Dataset:
    """WeatherBench 2's 64x32 stores: longitude before latitude, south first, no pole, ECMWF's units, int64 levels."""
    latitude = np.linspace(-90 + 2.8125, 90 - 2.8125, 32)
    levels = np.array([500, 850], dtype="int64")
    shape = (steps, 2, 64, 32)
    data = xr.Dataset(
        {
            "geopotential": (
                ("time", "level", "longitude", "latitude"),
                fields("geopotential", shape),
                {"units": "m**2 s**-2", "long_name": "Geopotential", "short_name": "z"},
            ),
            "mean_sea_level_pressure": (
                ("time", "longitude", "latitude"),
                fields("mean_sea_level_pressure", (steps, 64, 32)),
                {"units": "Pa"},
            ),
            "geopotential_at_surface": (("longitude", "latitude"), fields("geopotential", (64, 32)), {"units": "m**2 s**-2"}),
        },
        {"time": times(steps), "level": levels, "longitude": np.arange(64) * 5.625, "latitude": latitude},
    )
    return data


def arco(steps: int = 6, valid: tuple[int, int] = (1, 4)) -> xr.Dataset:
    """ARCO-ERA5: the time axis is longer than the data, which NaN pads; attributes say where they are."""
    axis = times(steps, hours=24)
    values = fields("temperature", (steps, 2, 5, 8))
    values[: valid[0]] = np.nan
    values[valid[1] + 1 :] = np.nan
    day = [str(time)[:10] for time in axis]
    return xr.Dataset(
        {"temperature": (("time", "level", "latitude", "longitude"), values, {"units": "K", "short_name": "t"})},
        {"time": axis, "level": np.array([500, 850]), "latitude": np.linspace(90, -90, 5), "longitude": np.arange(8) * 45.0},
        {
            "valid_time_start": day[valid[0]],
            "valid_time_stop": day[valid[1] - 1],
            "valid_time_stop_era5t": day[valid[1]],
            "last_updated": "2020-03-10 00:00:00+00:00",
        },
    )


def cds_new(steps: int = 4, start: str = "2020-02-27") -> xr.Dataset:
    """The new CDS NetCDF: valid_time, pressure_level from below, number, string expver."""
    return xr.Dataset(
        {
            "t": (
                ("valid_time", "pressure_level", "latitude", "longitude"),
                fields("temperature", (steps, 2, 5, 8)),
                {"units": "K", "GRIB_paramId": 130},
            )
        },
        {
            "valid_time": ("valid_time", times(steps, start), {"standard_name": "time"}),
            "pressure_level": ("pressure_level", [850.0, 500.0], {"units": "hPa", "stored_direction": "decreasing"}),
            "latitude": ("latitude", np.linspace(90, -90, 5), {"units": "degrees_north", "stored_direction": "decreasing"}),
            "longitude": ("longitude", np.arange(8) * 45.0, {"units": "degrees_east"}),
            "number": 0,
            "expver": ("valid_time", np.array(["0001"] * (steps - 1) + ["0005"])),
        },
        {"Conventions": "CF-1.7", "GRIB_centre": "ecmf", "institution": "European Centre for Medium-Range Weather Forecasts"},
    )


def cds_legacy(steps: int = 4, preliminary: int = 1) -> xr.Dataset:
    """The legacy CDS NetCDF: time, expver as a dimension (1 final, 5 preliminary), missing where the other has data."""
    values = fields("mean_sea_level_pressure", (steps, 2, 5, 8))
    values[steps - preliminary :, 0] = np.nan
    values[: steps - preliminary, 1] = np.nan
    return xr.Dataset(
        {"msl": (("time", "expver", "latitude", "longitude"), values, {"units": "Pa"})},
        {
            "time": times(steps),
            "expver": np.array([1, 5], dtype="int32"),
            "latitude": np.linspace(90, -90, 5).astype("float32"),
            "longitude": (np.arange(8) * 45.0).astype("float32"),
        },
    )
