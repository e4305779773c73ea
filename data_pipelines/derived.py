"""Variables computed from others: wind speed, vorticity, relative humidity, and height from geopotential.

Functions take and give xarray arrays, lazy or not; `derive` adds variables to a dataset by their names.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Complex, Float
from numpy.typing import NDArray

from data_pipelines.constants import GRAVITY
from data_pipelines.variables import VARIABLES

EARTH_RADIUS = 6371229.0  # m, of the IFS and of ERA5's vorticity (GRIB shape of the earth 6)
PASCALS_PER_HECTOPASCAL = 100.0
POLE_TOLERANCE = 1e-6  # of cos(latitude)

# IFS Documentation CY41R2, Part IV, section 7.4.2, equations 7.4 and 7.5 (Buck 1981; Alduchov and Eskridge 1996).
DRY_TO_VAPOUR = 287.0597 / 461.5250  # ratio of the gas constants of dry air and vapour
FREEZING = 273.16  # K
ALL_ICE = 250.16  # K, below it saturation is over ice alone
SATURATION_AT_FREEZING = 611.21  # Pa
OVER_WATER = (17.502, 32.19)
OVER_ICE = (22.587, -0.7)


def _attributes(name: str) -> dict[str, str]:
    known = VARIABLES[name]
    attributes = {"long_name": name.replace("_", " "), "short_name": known.short_name, "units": known.units}
    return attributes | ({"standard_name": known.standard_name} if known.standard_name else {})


def wind_speed(u: xr.DataArray, v: xr.DataArray) -> xr.DataArray:
    """Compute the speed of the horizontal wind from its components, in their units."""
    speed: xr.DataArray = xr.apply_ufunc(np.hypot, u, v, dask="allowed")
    return speed.assign_attrs(_attributes("wind_speed"))


def vorticity(u: xr.DataArray, v: xr.DataArray) -> xr.DataArray:
    """Compute relative vorticity on the sphere, accurate to second order in the rows' spacing, poles included.

    zeta = ((dv/dlambda + u sin(latitude)) / cos(latitude) - du/dlatitude) / a. Along longitude by Fourier series, because
    there any error would be divided by cos(latitude) and spoil the rows next to a pole; along latitude by differences that
    go on across the poles. A pole's value is the circulation of the row next to it over the area it encloses (Stokes).

    Parameters
    ----------
    u, v : xr.DataArray
        Eastward and northward wind [m s-1] with `latitude` (either direction) and `longitude` (even, around the globe).

    Returns
    -------
    xr.DataArray
        s-1, float32 if the winds are; on a radius of 6371.229 km, as ERA5's.

    Raises
    ------
    ValueError
        If the longitudes are not even around the globe, or there are fewer than 3 latitudes.
    """
    latitude, longitude = u["latitude"].values.astype(np.float64), u["longitude"].values.astype(np.float64)
    steps = np.diff(longitude, append=longitude[0] + 360)
    if not np.allclose(steps, 360 / longitude.size, atol=1e-3):
        raise ValueError(
            f"longitude must be even around the globe for vorticity; got {longitude[0]:g} to {longitude[-1]:g} in "
            f"{longitude.size} steps. Regrid the winds first."
        )
    if latitude.size < 3:
        raise ValueError(f"latitude must hold at least 3 rows for vorticity; got {latitude.size}.")
    plane = ["latitude", "longitude"]
    u, v = (wind.chunk(latitude=-1, longitude=-1) if wind.chunks is not None else wind for wind in (u, v))
    result: xr.DataArray = xr.apply_ufunc(
        _vorticity_of_planes,
        u,
        v,
        kwargs={"latitude": latitude},
        input_core_dims=[plane, plane],
        output_core_dims=[plane],
        dask="parallelized",
        output_dtypes=[np.result_type(u.dtype, v.dtype)],
    )
    return result.transpose(*u.dims).assign_attrs(_attributes("vorticity"))


def _vorticity_of_planes(
    u: Float[np.ndarray, "... lat lon"], v: Float[np.ndarray, "... lat lon"], latitude: NDArray[np.float64]
) -> Float[np.ndarray, "... lat lon"]:
    if latitude[0] > latitude[-1]:
        flipped = _vorticity_of_planes(u[..., ::-1, :], v[..., ::-1, :], latitude[::-1])
        return flipped[..., ::-1, :]
    columns = u.shape[-1]
    waves = np.arange(columns // 2 + 1)
    u_waves, v_waves = np.fft.rfft(u.astype(np.float64)), np.fft.rfft(v.astype(np.float64))
    derivative = 1j * waves
    if columns % 2 == 0:
        derivative[-1] = 0  # the shortest wave's slope cannot be seen on the grid
    phi = np.deg2rad(latitude)
    sine, cosine = np.sin(phi)[:, None], np.cos(phi)[:, None]
    pole = np.abs(cosine) < POLE_TOLERANCE
    zeta = (v_waves * derivative + u_waves * sine) / np.where(pole, 1, cosine) - _gradient_over_the_poles(u_waves, phi)
    zeta = np.fft.irfft(zeta, n=columns) / EARTH_RADIUS
    for row, neighbour, sign in ((0, 1, -1.0), (-1, -2, 1.0)):
        if pole[row]:
            circulation = u_waves[..., neighbour, :1].real / columns * cosine[neighbour]
            zeta[..., row, :] = sign * circulation / (EARTH_RADIUS * (1 - np.abs(sine[neighbour])))
    return zeta.astype(np.result_type(u, v))


def _gradient_over_the_poles(
    u_waves: Complex[np.ndarray, "... lat wave"], phi: NDArray[np.float64]
) -> Complex[np.ndarray, "... lat wave"]:
    """Differentiate eastward wind along latitude; beyond a pole it goes on half a turn away with the other sign."""
    half_turn = (-1.0) ** np.arange(u_waves.shape[-1])
    south, north = (1 if phi[0] < POLE_TOLERANCE - np.pi / 2 else 0), (-2 if phi[-1] > np.pi / 2 - POLE_TOLERANCE else -1)
    rows = np.concatenate([[-np.pi - phi[south]], phi, [np.pi - phi[north]]])
    beyond_south, beyond_north = (-half_turn * u_waves[..., [row], :] for row in (south, north))
    extended = np.concatenate([beyond_south, u_waves, beyond_north], axis=-2)
    return np.asarray(np.gradient(extended, rows, axis=-2)[..., 1:-1, :])


def saturation_pressure(temperature: xr.DataArray) -> xr.DataArray:
    """Compute the saturation vapour pressure as ERA5 does: over water, over ice, and mixed from 250.16 to 273.16 K.

    Parameters
    ----------
    temperature : xr.DataArray
        K.

    Returns
    -------
    xr.DataArray
        Pa. IFS Documentation CY41R2, Part IV, equations 7.4 and 7.5.
    """

    def over(surface: tuple[float, float]) -> Any:
        slope, origin = surface
        return SATURATION_AT_FREEZING * np.exp(slope * (temperature - FREEZING) / (temperature - origin))

    liquid = (((temperature - ALL_ICE) / (FREEZING - ALL_ICE)).clip(0, 1)) ** 2
    return liquid * over(OVER_WATER) + (1 - liquid) * over(OVER_ICE)


def relative_humidity(specific_humidity: xr.DataArray, temperature: xr.DataArray, pressure: xr.DataArray) -> xr.DataArray:
    """Compute relative humidity from specific humidity, with ERA5's saturation over water, ice and mixed phase.

    The vapour pressure is e = p q / (eps + (1 - eps) q), and relative humidity is e / e_saturation(T); it may pass 1.

    Parameters
    ----------
    specific_humidity : xr.DataArray
        kg kg-1.
    temperature : xr.DataArray
        K.
    pressure : xr.DataArray
        Pa; a dataset's `level` in hPa times 100.

    Returns
    -------
    xr.DataArray
        Dimensionless (1 is saturated).
    """
    vapour = pressure * specific_humidity / (DRY_TO_VAPOUR + (1 - DRY_TO_VAPOUR) * specific_humidity)
    humidity = vapour / saturation_pressure(temperature)
    return humidity.transpose(*temperature.dims).astype(temperature.dtype).assign_attrs(_attributes("relative_humidity"))


def geopotential_to_height(geopotential: xr.DataArray) -> xr.DataArray:
    """Give geopotential height [m] of geopotential [m2 s-2]."""
    attributes = {"long_name": "geopotential height", "standard_name": "geopotential_height", "units": "m"}
    return (geopotential / GRAVITY).assign_attrs(attributes)


def height_to_geopotential(height: xr.DataArray) -> xr.DataArray:
    """Give geopotential [m2 s-2] of geopotential height [m]."""
    return (height * GRAVITY).assign_attrs(_attributes("geopotential"))


@dataclass(frozen=True)
class Derivation:
    """What a variable is computed from, and how."""

    inputs: tuple[str, ...]
    compute: Callable[..., xr.DataArray]


def _humidity_on_levels(humidity: xr.DataArray, temperature: xr.DataArray) -> xr.DataArray:
    pressure = (humidity["level"] * PASCALS_PER_HECTOPASCAL).astype(humidity.dtype)
    return relative_humidity(humidity, temperature, pressure)


WIND = ("u_component_of_wind", "v_component_of_wind")

DERIVATIONS: dict[str, Derivation] = {
    "wind_speed": Derivation(WIND, wind_speed),
    "10m_wind_speed": Derivation(
        ("10m_u_component_of_wind", "10m_v_component_of_wind"),
        lambda u, v: wind_speed(u, v).assign_attrs(_attributes("10m_wind_speed")),
    ),
    "vorticity": Derivation(WIND, vorticity),
    "relative_humidity": Derivation(("specific_humidity", "temperature"), _humidity_on_levels),
}


def derive(dataset: xr.Dataset, names: Sequence[str]) -> xr.Dataset:
    """Add variables that are computed from those there.

    Parameters
    ----------
    dataset : xr.Dataset
        In the analysis store's vocabulary and units, lazy or not.
    names : sequence of str
        Keys of `DERIVATIONS`; one that is there already is kept as it is.

    Raises
    ------
    ValueError
        If a name is unknown or an input is missing; the message lists what there is.
    """
    derived: dict[str, Any] = {}
    for name in names:
        if name in dataset:
            continue
        if name not in DERIVATIONS:
            raise ValueError(f"variable {name!r} cannot be derived; known are {', '.join(DERIVATIONS)}. Read it from a source.")
        recipe = DERIVATIONS[name]
        missing = [wanted for wanted in recipe.inputs if wanted not in dataset]
        if missing:
            raise ValueError(
                f"variable {name!r} needs {', '.join(recipe.inputs)}; {', '.join(missing)} is missing: the dataset has "
                f"{', '.join(str(there) for there in dataset.data_vars)}. Read it too."
            )
        derived[name] = recipe.compute(*(dataset[wanted] for wanted in recipe.inputs))
    return dataset.assign(derived)
