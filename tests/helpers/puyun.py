"""Small and full-size networks for tests."""

from __future__ import annotations

from importlib.resources import files

import numpy as np
import torch
import xarray as xr
import yaml

from data_pipelines.variables import THIRTEEN_LEVELS
from forecast.puyun import PuYun, PuYunConfig
from forecast.requirements import Requirements

ON_LEVELS = ("geopotential", "temperature", "u_component_of_wind", "v_component_of_wind", "relative_humidity")
SURFACE = ("2m_temperature", "10m_u_component_of_wind", "10m_v_component_of_wind", "mean_sea_level_pressure")
# PuYun's 69 fields in the order of its authors' plug-in.
SIXTY_NINE = tuple(f"{name}_{level}" for name in ON_LEVELS for level in THIRTEEN_LEVELS) + SURFACE


def make_requirements(
    rows: int = 13,
    columns: int = 24,
    channels: tuple[str, ...] = ("mean_sea_level_pressure", "u_component_of_wind_850"),
    **settings: object,
) -> Requirements:
    """Requirements on a regular grid; an odd number of rows has the poles."""
    half = 0.0 if rows % 2 else 90.0 / rows
    latitude = tuple(float(value) for value in np.linspace(90 - half, half - 90, rows))
    longitude = tuple(float(value) for value in np.arange(columns) * 360 / columns)
    return Requirements(channels, latitude, longitude, **settings)


def make_statistics(requirements: Requirements) -> xr.Dataset:
    """Statistics that differ by channel, row and column."""
    rng = np.random.default_rng(1)
    channels, (rows, columns) = len(requirements.channels), requirements.grid_shape
    scale = 10.0 ** np.arange(channels)
    field = rng.normal(size=(channels, rows, columns)) * scale[:, None, None]
    return xr.Dataset(
        {
            "mean": ("channel", 5 * scale),
            "standard_deviation": ("channel", 2 * scale),
            "tendency_standard_deviation": ("channel", 0.5 * scale),
            "mean_field": (("channel", "latitude", "longitude"), field + 5 * scale[:, None, None]),
            "standard_deviation_field": (("channel", "latitude", "longitude"), np.abs(field) + scale[:, None, None]),
        },
        coords={
            "channel": list(requirements.channels),
            "latitude": list(requirements.latitude),
            "longitude": list(requirements.longitude),
        },
    )


def make_puyun(requirements: Requirements | None = None, *, awake: bool = True, **settings: object) -> PuYun:
    """A small network; `awake` gives the layers that start at zero some weight, so that every part matters."""
    torch.manual_seed(0)
    requirements = requirements or make_requirements()
    config = {"width": 8, "depth": (1, 1), "patch": 1, "expansion": 2} | settings
    model = PuYun(PuYunConfig(**config), requirements, make_statistics(requirements))
    if awake:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "scale" in name or "head" in name or ".time." in name:
                    parameter.normal_(std=0.3)
    return model.eval()


def model_config(name: str) -> PuYunConfig:
    """A size that ships."""
    return PuYunConfig(**yaml.safe_load(files("configs").joinpath(f"forecast/model/{name}.yaml").read_text()))
