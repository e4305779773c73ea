"""Forcings that are computed, not downloaded: sun, calendar and clock; and the static fields a user gives.

Sun position: the low-precision formulae of the Astronomical Almanac (U.S. Naval Observatory, "Computing Approximate Solar
Coordinates"), stated there as good to about 1' between 1800 and 2200. They include the equation of time, which moves
noon by up to 16 minutes (4 degrees of longitude).

Solar constant: 1360.8 W m-2 (Kopp and Lean 2011, doi:10.1029/2010GL045777). ERA5 lets it vary with the solar cycle by
about 1 W m-2; this does not.

Only numpy is needed here, so that a model can make its forcings wherever it runs.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float, Float32, Float64
from numpy.typing import ArrayLike, NDArray

from data_pipelines.area import POLE_TOLERANCE_DEGREES
from data_pipelines.constants import GRAVITY

SOLAR_CONSTANT = 1360.8  # W m-2 at one astronomical unit
SECONDS_PER_HOUR = 3600.0
HOURS_PER_DAY = 24.0
METRES_PER_KILOMETRE = 1000.0

# Declination moves by 0.1 degree in 6 hours at the equinox; held for a day it would leave 0.5 % near the poles.
LONGEST_FROZEN_SUN_HOURS = 6.0

# The Almanac counts days D from noon of 2000-01-01 (Julian date 2451545.0).
J2000 = np.datetime64("2000-01-01T12:00:00", "s")

Field = Float64[np.ndarray, "batch lat lon"]


def _times(time: ArrayLike) -> NDArray[np.datetime64]:
    times = np.asarray(time)
    if not np.issubdtype(times.dtype, np.datetime64):
        raise ValueError(
            f"time must be numpy datetime64 in UTC; got dtype {times.dtype}. Use np.asarray(time, 'datetime64[ns]')."
        )
    if np.isnat(times).any():
        raise ValueError("time must hold no NaT; got at least one. Drop the missing times first.")
    return times


def _grid(latitude: ArrayLike, longitude: ArrayLike) -> tuple[Float64[np.ndarray, " lat"], Float64[np.ndarray, " lon"]]:
    rows, columns = np.asarray(latitude, dtype=np.float64), np.asarray(longitude, dtype=np.float64)
    for name, values in (("latitude", rows), ("longitude", columns)):
        if values.ndim != 1:
            raise ValueError(f"{name} must be one-dimensional, in degrees; got shape {values.shape}.")
        if not np.isfinite(values).all():
            raise ValueError(f"{name} must be finite; got NaN or infinity. Pass the grid's coordinate.")
    if rows.size and np.abs(rows).max() > 90 + POLE_TOLERANCE_DEGREES:
        raise ValueError(f"latitude must lie in [-90, 90] degrees; got {rows.min()} to {rows.max()}. Is longitude there?")
    return np.deg2rad(np.clip(rows, -90, 90)), np.deg2rad(columns)


def sun_position(
    time: ArrayLike,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Compute where the sun stands: declination, equation of time and distance.

    Parameters
    ----------
    time : array_like of datetime64, any shape
        UTC.

    Returns
    -------
    declination : ndarray of float64
        Radians, positive when the sun is north of the equator.
    equation_of_time : ndarray of float64
        Radians of hour angle by which true solar time is ahead of mean solar time.
    distance : ndarray of float64
        Astronomical units.

    Raises
    ------
    ValueError
        If `time` is not datetime64 or holds NaT.
    """
    days = (_times(time).astype("datetime64[ns]") - J2000) / np.timedelta64(1, "D")
    anomaly = np.deg2rad(357.529 + 0.98560028 * days)
    mean_longitude = np.deg2rad(280.459 + 0.98564736 * days)
    longitude = mean_longitude + np.deg2rad(1.915 * np.sin(anomaly) + 0.020 * np.sin(2 * anomaly))
    obliquity = np.deg2rad(23.439 - 0.00000036 * days)
    right_ascension = np.arctan2(np.cos(obliquity) * np.sin(longitude), np.cos(longitude))
    declination = np.arcsin(np.sin(obliquity) * np.sin(longitude))
    difference = mean_longitude - right_ascension
    equation_of_time = np.arctan2(np.sin(difference), np.cos(difference))  # into (-pi, pi]
    distance = 1.00014 - 0.01671 * np.cos(anomaly) - 0.00014 * np.cos(2 * anomaly)
    return declination, equation_of_time, distance


def _fraction_of_day(time: NDArray[np.datetime64]) -> NDArray[np.float64]:
    precise = time.astype("datetime64[ns]")
    return np.asarray((precise - precise.astype("datetime64[D]")) / np.timedelta64(1, "D"), dtype=np.float64)


def _hour_angle(
    time: NDArray[np.datetime64], equation_of_time: NDArray[np.float64], longitude: NDArray[np.float64]
) -> Float64[np.ndarray, "batch lon"]:
    clock = 2 * np.pi * (_fraction_of_day(time) - 0.5) + equation_of_time
    return clock[:, None] + longitude[None, :]


def cos_zenith(time: ArrayLike, latitude: ArrayLike, longitude: ArrayLike) -> Field:
    """Compute the cosine of the solar zenith angle at an instant; negative where the sun is below the horizon.

    Parameters
    ----------
    time : array_like of datetime64, shape (batch,)
        UTC.
    latitude, longitude : array_like, shapes (lat,) and (lon,)
        Degrees north and degrees east.

    Returns
    -------
    ndarray of float64, shape (batch, lat, lon)
        Dimensionless, in [-1, 1].

    Raises
    ------
    ValueError
        If `time` is not datetime64, or a coordinate is not one-dimensional or not in degrees.
    """
    times = np.atleast_1d(_times(time))
    rows, columns = _grid(latitude, longitude)
    declination, equation_of_time, _ = sun_position(times)
    hour_angle = _hour_angle(times, equation_of_time, columns)
    constant = np.sin(declination)[:, None] * np.sin(rows)
    amplitude = np.cos(declination)[:, None] * np.cos(rows)
    return constant[:, :, None] + amplitude[:, :, None] * np.cos(hour_angle)[:, None, :]


def _daylight_integral(
    constant: Float64[np.ndarray, "batch lat"],
    amplitude: Float64[np.ndarray, "batch lat"],
    hour_angle: Float64[np.ndarray, "batch lon"],
) -> Field:
    """Integrate max(0, constant + amplitude cos h) from h = 0 to `hour_angle`, exactly.

    Between sunrise -h0 and sunset h0 the primitive is constant h + amplitude sin h; outside it stands still, and every whole
    turn adds one day's integral. At the poles h0 is 0 (polar night) or pi (polar day).
    """
    tiny = np.finfo(np.float64).tiny
    sunset = np.arccos(np.clip(-constant / np.maximum(amplitude, tiny), -1, 1))[:, :, None]
    turns = np.floor(hour_angle / (2 * np.pi) + 0.5)
    within = np.clip((hour_angle - 2 * np.pi * turns)[:, None, :], -sunset, sunset)
    one_day = 2 * (constant[:, :, None] * sunset + amplitude[:, :, None] * np.sin(sunset))
    return turns[:, None, :] * one_day + constant[:, :, None] * within + amplitude[:, :, None] * np.sin(within)


def _radiation_around(
    middle: NDArray[np.datetime64], rows: NDArray[np.float64], columns: NDArray[np.float64], hours: float
) -> Field:
    declination, equation_of_time, distance = sun_position(middle)
    hour_angle = _hour_angle(middle, equation_of_time, columns)
    half_turn = np.pi * hours / HOURS_PER_DAY
    constant = np.sin(declination)[:, None] * np.sin(rows)
    amplitude = np.cos(declination)[:, None] * np.cos(rows)
    daylight = _daylight_integral(constant, amplitude, hour_angle + half_turn)
    daylight -= _daylight_integral(constant, amplitude, hour_angle - half_turn)
    seconds_per_radian = HOURS_PER_DAY * SECONDS_PER_HOUR / (2 * np.pi)
    # Differences of primitives leave rounding of either sign in the polar night.
    return np.maximum(daylight, 0) * (SOLAR_CONSTANT * seconds_per_radian / distance**2)[:, None, None]


def toa_incident_solar_radiation(
    time: ArrayLike, latitude: ArrayLike, longitude: ArrayLike, *, step_hours: float = 6.0
) -> Field:
    """Compute the solar radiation that reached the top of the atmosphere during the step that ends at `time`.

    The integral over the hour angle is exact, sunrise and sunset included; declination, distance and equation of time are
    held for at most 6 hours, which leaves less than 0.1 % of the largest value.

    Parameters
    ----------
    time : array_like of datetime64, shape (batch,)
        UTC, the end of the accumulation.
    latitude, longitude : array_like, shapes (lat,) and (lon,)
        Degrees north and degrees east.
    step_hours : float
        Length of the accumulation in hours, positive.

    Returns
    -------
    ndarray of float64, shape (batch, lat, lon)
        J m-2.

    Raises
    ------
    ValueError
        As `cos_zenith`; or if `step_hours` is not positive and finite.
    """
    if not (np.isfinite(step_hours) and step_hours > 0):
        raise ValueError(f"step_hours must be positive and finite; got {step_hours}. Pass the store's time step in hours.")
    times = np.atleast_1d(_times(time)).astype("datetime64[ns]")
    rows, columns = _grid(latitude, longitude)
    pieces = math.ceil(step_hours / LONGEST_FROZEN_SUN_HOURS)
    piece_hours = step_hours / pieces
    radiation = np.zeros((times.size, rows.size, columns.size))
    for piece in range(pieces):
        seconds_back = (piece + 0.5) * piece_hours * SECONDS_PER_HOUR
        middle = (times - np.timedelta64(round(seconds_back * 1e9), "ns")).astype("datetime64[ns]")
        radiation += _radiation_around(middle, rows, columns, piece_hours)
    return radiation


def calendar_features(time: ArrayLike) -> Float64[np.ndarray, "... 4"]:
    """Compute sine and cosine of the season and of the clock, each through a whole turn.

    The season is the elapsed fraction of the calendar year, so that it is continuous over New Year in leap years too.
    PuYun's published plug-in leaves out the factor 2 pi (Yu-Kai-dev/ai-models-puyun, ai_models_puyun/model.py); it is here.

    Parameters
    ----------
    time : array_like of datetime64, any shape
        UTC.

    Returns
    -------
    ndarray of float64, shape (..., 4)
        sin(year), cos(year), sin(day), cos(day).

    Raises
    ------
    ValueError
        If `time` is not datetime64 or holds NaT.
    """
    times = _times(time).astype("datetime64[ns]")
    year = times.astype("datetime64[Y]")
    start, end = year.astype("datetime64[ns]"), (year + 1).astype("datetime64[ns]")
    season = 2 * np.pi * ((times - start) / (end - start))
    clock = 2 * np.pi * _fraction_of_day(times)
    return np.stack([np.sin(season), np.cos(season), np.sin(clock), np.cos(clock)], axis=-1)


def _calendar_field(index: int) -> Callable[..., Field]:
    def field(time: ArrayLike, latitude: ArrayLike, longitude: ArrayLike, *, step_hours: float = 6.0) -> Field:
        values = calendar_features(np.atleast_1d(np.asarray(time)))[:, index]
        shape = (values.size, np.size(latitude), np.size(longitude))
        return np.broadcast_to(values[:, None, None], shape)

    return field


def _cos_zenith_field(time: ArrayLike, latitude: ArrayLike, longitude: ArrayLike, *, step_hours: float = 6.0) -> Field:
    return cos_zenith(time, latitude, longitude)


def _toa_field(time: ArrayLike, latitude: ArrayLike, longitude: ArrayLike, *, step_hours: float = 6.0) -> Field:
    """Share of what an overhead sun at one astronomical unit would give in the step: 0 to about 1."""
    radiation = toa_incident_solar_radiation(time, latitude, longitude, step_hours=step_hours)
    return radiation / (SOLAR_CONSTANT * SECONDS_PER_HOUR * step_hours)


# Every computed forcing, as a network sees it: dimensionless and of order 1.
FORCINGS: dict[str, Callable[..., Field]] = {
    "cos_zenith": _cos_zenith_field,
    "toa_incident_solar_radiation": _toa_field,
    "sin_year": _calendar_field(0),
    "cos_year": _calendar_field(1),
    "sin_day": _calendar_field(2),
    "cos_day": _calendar_field(3),
}

# Fields that the user gives, and what divides them to make them of order 1: orography counts in kilometres.
STATIC_FORCINGS: dict[str, float] = {
    "land_sea_mask": 1.0,
    "geopotential_at_surface": GRAVITY * METRES_PER_KILOMETRE,
}


def check_forcings(names: Sequence[str]) -> None:
    """Refuse a name that is neither a computed nor a static forcing.

    Raises
    ------
    ValueError
        If a name is unknown; the message lists the nearest and all known names.
    """
    known = [*FORCINGS, *STATIC_FORCINGS]
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"Did you mean {near[0]!r}? " if near else ""
            raise ValueError(f"forcing {name!r} is unknown. {hint}Known are {', '.join(known)}.")


def _static_field(name: str, static: Mapping[str, ArrayLike] | None, shape: tuple[int, int]) -> Float64[np.ndarray, "lat lon"]:
    if static is None or name not in static:
        raise ValueError(
            f"forcing {name!r} is a static field and was not given: pass static={{{name!r}: array of shape {shape}}}, "
            f"or leave it out of the forcings."
        )
    field = np.asarray(static[name], dtype=np.float64)
    if field.shape != shape:
        raise ValueError(f"static field {name!r} must have shape (latitude, longitude) = {shape}; got {field.shape}.")
    if not np.isfinite(field).all():
        raise ValueError(f"static field {name!r} must be finite everywhere; got NaN or infinity. Fill it first.")
    return field / STATIC_FORCINGS[name]


def forcing_fields(
    names: Sequence[str],
    time: ArrayLike,
    latitude: ArrayLike,
    longitude: ArrayLike,
    *,
    static: Mapping[str, ArrayLike] | None = None,
    step_hours: float = 6.0,
) -> Float32[np.ndarray, "batch forcing lat lon"]:
    """Make the forcing channels of a network, each of order 1.

    Parameters
    ----------
    names : sequence of str
        Keys of `FORCINGS` (computed) or of `STATIC_FORCINGS` (given through `static`), in the order wanted.
    time : array_like of datetime64, shape (batch,)
        UTC; the target time of a step.
    latitude, longitude : array_like, shapes (lat,) and (lon,)
        Degrees north and degrees east.
    static : mapping of str to array_like of shape (lat, lon), optional
        `land_sea_mask` in 0 to 1, `geopotential_at_surface` in m2 s-2.
    step_hours : float
        Length of the step that ends at `time`, in hours; radiation is accumulated over it.

    Returns
    -------
    ndarray of float32, shape (batch, len(names), lat, lon)

    Raises
    ------
    ValueError
        If a name is unknown, a static field is missing, misshapen or not finite, or as `toa_incident_solar_radiation`.
    """
    check_forcings(names)
    times = np.atleast_1d(_times(time))
    grid = (np.size(latitude), np.size(longitude))
    fields: Float[np.ndarray, "batch forcing lat lon"] = np.empty((times.size, len(names), *grid), dtype=np.float32)
    for index, name in enumerate(names):
        if name in FORCINGS:
            fields[:, index] = FORCINGS[name](times, latitude, longitude, step_hours=step_hours)
        else:
            fields[:, index] = _static_field(name, static, grid)
    return fields
