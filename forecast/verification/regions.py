"""Regions over which scores are averaged: WeatherBench 2's names and bounds, as weights on the grid.

Bounds are inclusive and in degrees. Unlike WeatherBench 2's extra-tropics, whose threshold cannot be changed, every bound
here is the one that is used. A land region weights each cell by the fraction of land in it, as WeatherBench 2 does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import xarray as xr
from jaxtyping import Float64

from data_pipelines.area import cell_area_weights
from forecast.verification.inputs import VerificationError

TOLERANCE = 1e-6  # degrees: coordinates stored as float32 still lie on their bounds


@dataclass(frozen=True)
class Region:
    """A box, or all but a band.

    Attributes
    ----------
    south, north
        Latitudes [degrees north], both included.
    west, east
        Longitudes [degrees east]; the box goes eastward from west to east, across 0 where east < west.
    outside
        Whether the region is what lies outside of the open latitude band instead.
    """

    south: float = -90.0
    north: float = 90.0
    west: float = 0.0
    east: float = 360.0
    outside: bool = False

    def mask(self, latitude: np.ndarray, longitude: np.ndarray) -> np.ndarray:
        """Give 1.0 inside and 0.0 outside; (lat, lon)."""
        if self.outside:
            lat = (latitude <= self.south + TOLERANCE) | (latitude >= self.north - TOLERANCE)
        else:
            lat = (latitude >= self.south - TOLERANCE) & (latitude <= self.north + TOLERANCE)
        width = (self.east - self.west) % 360 or 360.0
        lon = (longitude - self.west + TOLERANCE) % 360 <= width + 2 * TOLERANCE
        return (lat[:, None] & lon[None, :]).astype(np.float64)


REGIONS = MappingProxyType(
    {
        "global": Region(),
        "tropics": Region(south=-20.0, north=20.0),
        "extra-tropics": Region(south=-20.0, north=20.0, outside=True),
        "northern-hemisphere": Region(south=20.0),
        "southern-hemisphere": Region(north=-20.0),
        "europe": Region(35.0, 75.0, 347.5, 42.5),
        "north-america": Region(25.0, 60.0, 240.0, 285.0),
        "north-atlantic": Region(25.0, 65.0, 290.0, 350.0),
        "north-pacific": Region(25.0, 60.0, 145.0, 230.0),
        "east-asia": Region(25.0, 60.0, 102.5, 150.0),
        "ausnz": Region(-45.0, -12.5, 120.0, 175.0),
        "arctic": Region(south=60.0),
        "antarctic": Region(north=-60.0),
    }
)
WEATHERBENCHX_REGIONS = MappingProxyType(
    {
        "northern-africa": Region(5.0, 32.5, 347.5, 37.5),
        "southern-africa": Region(-30.0, 5.0, 12.5, 37.5),
        "south-america": Region(-40.0, 5.0, 285.0, 315.0),
        "west-asia": Region(15.0, 60.0, 42.5, 102.5),
        "south-east-asia": Region(-12.5, 25.0, 95.0, 125.0),
    }
)
KNOWN = MappingProxyType({**REGIONS, **WEATHERBENCHX_REGIONS})
WEIGHTS = MappingProxyType(
    {
        "cell": "exact cell areas, pole caps included (WeatherBench 2, weatherbenchX)",
        "cos": "cosine of latitude, nothing at the poles (earth2studio, miles-credit)",
        "none": "every grid point alike",
    }
)
LAND = MappingProxyType(
    {
        "fraction": "a land region weights each cell by its fraction of land (WeatherBench 2)",
        "any": "a land region holds every cell with any land, in full (weatherbenchX)",
    }
)


def region_weights(
    names: Sequence[str],
    latitude: np.ndarray,
    longitude: np.ndarray,
    land_fraction: xr.DataArray | None = None,
    weights: str = "cell",
    land: str = "fraction",
) -> Float64[np.ndarray, "region lat lon"]:
    """Give the weight of each grid cell in each region; weights of a region sum to 1.

    Parameters
    ----------
    names
        Names in `KNOWN`, each also with "_land" behind it.
    latitude, longitude
        Grid [degrees].
    land_fraction
        Land-sea mask (latitude, longitude), 0..1; needed for the land regions.
    weights
        Among `WEIGHTS`: "cell", "cos" or "none".
    land
        Among `LAND`: "fraction" or "any".

    Raises
    ------
    VerificationError
        If a name is unknown, a land region has no mask, or a region holds no grid point.
    """
    for name, value, known in (("weights", weights, WEIGHTS), ("land", land, LAND)):
        if value not in known:
            raise VerificationError(f"{name} must be one of {', '.join(known)}; got {value!r}.")
    area = np.broadcast_to(_row_weights(latitude, weights)[:, None], (latitude.size, longitude.size))
    result = []
    for name in names:
        box = name.removesuffix("_land")
        if box not in KNOWN:
            raise VerificationError(f"regions holds {name!r}; known are {list(KNOWN)}, each also with _land behind it.")
        weight = area * KNOWN[box].mask(latitude, longitude)
        if name.endswith("_land"):
            if land_fraction is None:
                raise VerificationError(
                    f"region {name!r} needs land_sea_mask in truth, which lacks it. Add it, or leave _land away."
                )
            weight = weight * (land_fraction.values if land == "fraction" else land_fraction.values > 0)
        if not weight.sum() > 0:
            raise VerificationError(f"region {name!r} holds no point of the grid. Leave it out of regions=[...].")
        result.append(weight / weight.sum())
    return np.stack(result)


def _row_weights(latitude: np.ndarray, weights: str) -> Float64[np.ndarray, " lat"]:
    if weights == "cell":
        return cell_area_weights(latitude)
    if weights == "cos":
        return np.clip(np.cos(np.deg2rad(np.asarray(latitude, dtype=np.float64))), 0, None)
    return np.ones(latitude.size)


def regions_on(names: Sequence[str], latitude: np.ndarray, longitude: np.ndarray) -> list[str]:
    """Keep the regions that hold at least one point of a grid: a coarse or regional grid lacks some."""
    return [name for name in names if KNOWN.get(name.removesuffix("_land"), Region()).mask(latitude, longitude).any()]
