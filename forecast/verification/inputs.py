"""Opening of forecasts and truth, in whatever order, direction and spelling they come, and the checks between the two.

Everything behind this door sees one layout: the vocabulary's names and units, latitude 90..-90, longitude 0 <= lon < 360
ascending, level int32 hPa ascending, float32 fields, dimensions (time, [number], prediction_timedelta, [level], latitude,
longitude). Nothing is read here but coordinates; `stack` reads the fields of the block of times that it is given.
"""

from __future__ import annotations

import glob
import warnings
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import numpy as np
import xarray as xr
from jaxtyping import Float32
from numpy.typing import NDArray

from data_pipelines.dates import seconds_of
from data_pipelines.locations import is_url, zarr_store
from data_pipelines.selection import as_slice
from data_pipelines.standardise import MEMBER_NAMES, meanings, split_level
from data_pipelines.store import load_checked
from data_pipelines.variables import VARIABLES, Channel, channels_of
from forecast.forecast_store import drop_incomplete
from forecast.verification.layout import (
    FORECAST_NAMES,
    GRID_NAMES,
    TRUTH_NAMES,
    lazily,
    refuse_other_dimensions,
    rename,
    require,
    some,
    without_single,
)
from forecast.verification.layout import VerificationError as VerificationError

NETCDF = (".nc", ".nc4", ".netcdf", ".cdf")
GRIB = (".grib", ".grib1", ".grib2", ".grb", ".grb2")
OF_TRUTH = ("time", "number", "level", "latitude", "longitude")
ORDER = ("time", "number", "prediction_timedelta", "level", "latitude", "longitude")
SAME_GRID_TOLERANCE = 1e-3  # degrees; WeatherBench 2's own tolerance (evaluation.py, _ensure_aligned_grid)


def open_dataset(path: str | Path) -> xr.Dataset:
    """Open a Zarr store (folder or URL), a NetCDF or a GRIB file lazily, without dask.

    Raises
    ------
    VerificationError
        If nothing is there, or it is neither.
    """
    text = str(path)
    if not is_url(path) and not Path(text).exists():
        what = "matches no file" if glob.has_magic(text) else "does not exist"
        raise VerificationError(f"{text} {what}. Give a Zarr store, NetCDF or GRIB files, a folder or a glob of them.")
    try:
        if text.endswith(GRIB):
            return xr.open_dataset(text, engine="cfgrib", backend_kwargs={"indexpath": ""}, decode_timedelta=True)
        if text.endswith(NETCDF):
            return xr.open_dataset(text, engine="netcdf4", decode_timedelta=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # stores without consolidated metadata are fine
            return xr.open_zarr(zarr_store(path), chunks=None, decode_timedelta=True)
    except (OSError, ValueError, KeyError) as error:
        raise VerificationError(f"{text} cannot be opened as Zarr, NetCDF or GRIB: {error}") from error


def _open_all(path: str | Path, normalise: Callable[[xr.Dataset, str], xr.Dataset]) -> xr.Dataset:
    """Open one store or file, or those of a folder or glob as one: a file for each initial time, lead time or variable."""
    files = [] if is_url(path) else _files(Path(path))
    if not files:
        return normalise(open_dataset(path), str(path))
    parts = _members_apart([normalise(lazily(open_dataset(file)), str(file)) for file in files])
    try:
        return cast(
            xr.Dataset, xr.combine_by_coords(parts, combine_attrs="drop_conflicts", compat="no_conflicts", join="exact")
        )
    except ValueError as error:
        raise VerificationError(
            f"the {len(files)} files {files[0]} ... {files[-1]} do not make one whole: {error}. Every file must hold the same "
            f"variables of other initial times, lead times or members (each member of all of these), or other variables of the "
            f"same."
        ) from error


def _members_apart(parts: list[xr.Dataset]) -> list[xr.Dataset]:
    """Give files of one member each the dimension `number`; one and the same label in all files says no member."""
    scalars = [
        next((alias for alias in MEMBER_NAMES if alias in part.coords and part[alias].ndim == 0), None) for part in parts
    ]
    labels = {part[name].item() for part, name in zip(parts, scalars, strict=True) if name is not None}
    if len(labels) < 2 and not any("number" in part.dims for part in parts):
        return parts
    return [
        part
        if name is None or "number" in part.dims
        else part.rename({name: "number"}).expand_dims("number").transpose(*ORDER, ..., missing_dims="ignore")
        for part, name in zip(parts, scalars, strict=True)
    ]


def _files(path: Path) -> list[Path]:
    """The files of a folder or of a glob; none where the path is itself a store or a file."""
    if path.is_dir():
        return sorted(file for file in path.iterdir() if file.name.endswith(NETCDF + GRIB))
    if path.exists() or not glob.has_magic(str(path)):
        return []
    return [Path(file) for file in sorted(glob.glob(str(path), recursive=True))]


def open_forecast(path: str | Path) -> xr.Dataset:
    """Open a forecast and bring it into the layout of this module.

    Raises
    ------
    VerificationError
        If a dimension of a forecast is missing, or times or leads are not what they should be.
    """
    return drop_incomplete(_open_all(path, normalise_forecast), str(path))


def normalise_forecast(forecast: xr.Dataset, name: str = "forecast") -> xr.Dataset:
    """Bring a forecast into the layout of this module, lazily.

    Parameters
    ----------
    forecast
        Initial time, lead time and grid under any name of `FORECAST_NAMES`, variables under any name of the vocabulary
        (`data_pipelines.variables`), also with a level behind it (`z500`), in units that can become the vocabulary's. Lead
        times are timedelta64, or numbers with the attribute `units`. One initial time, lead time or level may be a scalar
        coordinate.
    name
        What errors call it.

    Raises
    ------
    VerificationError
        If something is missing, twice there or in units that mean something else, or valid times contradict.
    """
    forecast = rename(_dataset(forecast, name), name, FORECAST_NAMES)
    require(forecast, ("time", "prediction_timedelta", "latitude", "longitude"), name, FORECAST_NAMES)
    forecast = without_single(forecast, ORDER)
    lead = forecast["prediction_timedelta"]
    if lead.dtype.kind in "iuf":
        forecast = forecast.assign_coords(prediction_timedelta=_hours_to_timedelta(lead, name))
    forecast = _sort_grid(forecast, name)
    forecast = _ascending(_ascending(forecast, "time", "M", name), "prediction_timedelta", "m", name)
    if "number" in forecast.coords:
        _refuse_twice(forecast, "number", name)
    return _check_valid_time(forecast, name).transpose(*ORDER, ..., missing_dims="ignore")


def open_truth(path: str | Path) -> xr.Dataset:
    """Open an analysis to score against, and bring it into the layout of this module.

    Raises
    ------
    VerificationError
        If a dimension is missing, or time has duplicates or does not ascend.
    """
    return _with_steps(_open_all(path, _truth_in_layout), str(path))


def normalise_truth(truth: xr.Dataset, name: str = "truth") -> xr.Dataset:
    """Bring an analysis into the layout of this module, lazily."""
    return _with_steps(_truth_in_layout(truth, name), name)


def _truth_in_layout(truth: xr.Dataset, name: str) -> xr.Dataset:
    truth = rename(_dataset(truth, name), name, TRUTH_NAMES)
    require(truth, ("time", "latitude", "longitude"), name, TRUTH_NAMES)
    truth = without_single(truth, OF_TRUTH)
    return _ascending(_sort_grid(truth, name), "time", "M", name).transpose(*ORDER, ..., missing_dims="ignore")


def _with_steps(truth: xr.Dataset, name: str) -> xr.Dataset:
    if truth.sizes["time"] < 2:
        raise VerificationError(
            f"{name}: time must hold at least 2 analyses, so that their step is known; got {some(truth['time'].values)}."
        )
    return truth


def _dataset(given: Any, name: str) -> xr.Dataset:
    if isinstance(given, xr.Dataset):
        return given
    example = f" Give {name}.to_dataset(name='2m_temperature'), under its own name." if isinstance(given, xr.DataArray) else ""
    raise VerificationError(f"{name} must be an xarray.Dataset; got {type(given).__name__}.{example}")


def normalise_grid(dataset: xr.Dataset, name: str) -> xr.Dataset:
    """Bring a dataset without initial times (a climatology, thresholds, a land mask) into the layout of this module, lazily."""
    dataset = rename(dataset, name, GRID_NAMES)
    require(dataset, ("latitude", "longitude"), name, GRID_NAMES)
    return _sort_grid(dataset, name).transpose(..., "latitude", "longitude")


def forecast_channels(forecast: xr.Dataset, truth: xr.Dataset, variables: Sequence[str] | None = None) -> tuple[Channel, ...]:
    """Say which channels are scored: those of the forecast, or those among them that `variables` names; truth must hold all.

    Parameters
    ----------
    forecast, truth
        In the layout of this module.
    variables
        Names of variables (any name of the vocabulary; all levels) or of channels (`geopotential_500`, `z500`).

    Raises
    ------
    VerificationError
        If a variable or a level that is to be scored is in only one of the two.
    """
    held = channels_of(forecast[[name for name in forecast.data_vars if "prediction_timedelta" in forecast[name].dims]])
    if "channels" in forecast.attrs:  # a store with one list of levels for all variables names what was forecast
        made = {str(name) for name in np.atleast_1d(forecast.attrs["channels"])}
        held = tuple(channel for channel in held if str(channel) in made)
    if not held:
        raise VerificationError("the forecast holds no variable with a lead time. Give a store in WeatherBench 2's schema.")
    wanted = held
    if isinstance(variables, str):
        raise VerificationError(f"variables must be a list of names, as [{variables!r}]; got a string.")
    if variables is not None:
        named = {asked: [channel for channel in held if _names_channel(asked, channel)] for asked in variables}
        missing = [asked for asked, found in named.items() if not found]
        if missing:
            raise VerificationError(
                f"variables {missing} are missing in the forecast, which holds {[str(channel) for channel in held]}. "
                f"Choose among those with variables=[...]."
            )
        wanted = tuple(dict.fromkeys(channel for found in named.values() for channel in found))
    absent = [channel for channel in wanted if not _holds(truth, channel)]
    if absent:
        both = [str(channel) for channel in wanted if channel not in absent]
        advice = f", or score what both have: variables=[{','.join(both)}]." if both else "."
        raise VerificationError(
            f"truth lacks {[str(channel) for channel in absent]}, which the forecast holds; truth has "
            f"{[str(channel) for channel in channels_of(truth)]}. {_how_to_have(absent, forecast, truth)}{advice}"
        )
    names = dict.fromkeys(channel.variable for channel in wanted)
    refuse_other_dimensions(forecast, names, ORDER, "forecast")
    refuse_other_dimensions(truth, names, OF_TRUTH, "truth")
    return wanted


def _how_to_have(absent: Sequence[Channel], forecast: xr.Dataset, truth: xr.Dataset) -> str:
    """What to do about channels that truth lacks: unknown names, rain over other hours, or neither."""
    unknown = [channel.variable for channel in absent if channel.variable not in VARIABLES]
    if unknown:
        return f"{unknown[0]} is no name that is known here: rename it to what it is, as ds.rename({{{unknown[0]!r}: ...}})"
    for family in ("total_precipitation", "toa_incident_solar_radiation"):
        ours = [channel.variable for channel in absent if channel.variable.startswith(family)]
        theirs = [str(name) for name in truth.data_vars if str(name).startswith(family) and name not in forecast]
        if ours and theirs:
            return (
                f"{ours[0]} and {theirs[0]} are sums over other hours: make the forecast's the same and rename it {theirs[0]}; "
                f"what is summed up since the initial time, by differences of lead times that lie so far apart, as "
                f"ds.diff('step') where the lead time is called step"
            )
    return "Build a truth that has them"


def require_channels(dataset: xr.Dataset, channels: Sequence[Channel], name: str) -> None:
    """Refuse a dataset that lacks what is scored."""
    absent = [str(channel) for channel in channels if not _holds(dataset, channel)]
    if absent:
        levels = dataset["level"].values.tolist() if "level" in dataset.dims else []
        raise VerificationError(
            f"{name} lacks {absent}; it has {list(map(str, dataset.data_vars))}{f' on levels {levels}' if levels else ''}. "
            f"Give one that has them, or score fewer with variables=[...]."
        )
    if "latitude" in dataset.dims and "prediction_timedelta" in dataset.dims:
        refuse_other_dimensions(dataset, dict.fromkeys(channel.variable for channel in channels), ORDER, name)


def _holds(dataset: xr.Dataset, channel: Channel) -> bool:
    if channel.variable not in dataset.data_vars:
        return False
    on_levels = "level" in dataset[channel.variable].dims
    if channel.level is None or not on_levels:
        return channel.level is None and not on_levels
    return channel.level in dataset["level"].values


def _names_channel(asked: str, channel: Channel) -> bool:
    """Whether a name means a channel: its own, its variable's, an alias, or an alias with its level."""
    if asked in (channel.variable, str(channel)) or channel.variable in meanings(asked):
        return True
    split = split_level(asked)
    return split is not None and (split[0].name, split[1]) == (channel.variable, channel.level)


def check_same_grid(dataset: xr.Dataset, truth: xr.Dataset, name: str) -> None:
    """Refuse two grids that differ by more than 0.001 degree anywhere."""
    for coordinate in ("latitude", "longitude"):
        ours, theirs = dataset[coordinate].values, truth[coordinate].values
        if ours.shape != theirs.shape or not np.allclose(ours, theirs, atol=SAME_GRID_TOLERANCE, rtol=0):
            raise VerificationError(
                f"{name} and truth lie on different grids: {coordinate} of {name} is {some(ours)} ({ours.size} values), "
                f"of truth {some(theirs)} ({theirs.size}). Regrid one of them (data_pipelines.regrid.regrid_conservative)."
            )


def time_step(truth: xr.Dataset) -> np.timedelta64:
    """Give the smallest step between analyses."""
    return np.timedelta64(np.diff(truth["time"].values).min(), "ns")


def stack(dataset: xr.Dataset, channels: Sequence[Channel]) -> Float32[np.ndarray, ...]:
    """Read the fields of some channels into one float32 array, dimensions (..., channel, latitude, longitude).

    Raises
    ------
    StoreError
        If a chunk is truncated or corrupt; it names the variable and the time.
    """
    fields = []
    names = list(dict.fromkeys(channel.variable for channel in channels))
    loaded = load_checked(dataset[names])
    for channel in channels:
        field = loaded[channel.variable]
        if channel.level is not None:
            field = field.sel(level=channel.level)
        fields.append(field.values.astype(np.float32, copy=False))
    return np.stack(fields, axis=-3)


def unstack(values: NDArray[Any], channels: Sequence[Channel], dims: Sequence[str], coords: dict[str, Any]) -> xr.Dataset:
    """Put an array back into variables: the axis called "channel" becomes one variable each, with `level` where it has levels.

    Parameters
    ----------
    values
        Array with one axis per name in `dims`.
    channels
        What lies along the axis "channel".
    dims
        Names of the axes, "channel" among them.
    coords
        Coordinates of the result.
    """
    axis = list(dims).index("channel")
    rest = [dim for dim in dims if dim != "channel"]
    before = rest[:axis]
    variables: dict[str, tuple[list[str], NDArray[Any]]] = {}
    for name in dict.fromkeys(channel.variable for channel in channels):
        positions = [position for position, channel in enumerate(channels) if channel.variable == name]
        if channels[positions[0]].level is None:
            variables[name] = (rest, np.take(values, positions[0], axis=axis))
        else:
            variables[name] = ([*before, "level", *rest[axis:]], np.take(values, positions, axis=axis))
    levels: dict[str, list[int]] = {channel.variable: [] for channel in channels if channel.level is not None}
    for channel in channels:
        if channel.level is not None:
            levels[channel.variable].append(channel.level)
    parts = []
    for name, (names, array) in variables.items():
        own = {**coords, "level": np.asarray(levels[name], dtype=np.int32)} if name in levels else coords
        parts.append(xr.Dataset({name: (names, array)}, coords=own))
    return xr.merge(parts, join="outer", compat="override")


def _hours_to_timedelta(lead: xr.DataArray, name: str) -> NDArray[np.timedelta64]:
    units = str(lead.attrs.get("units", "")).split(" ")[0]
    seconds = seconds_of(units)
    if seconds is None:
        raise VerificationError(
            f"{name}: units of the lead time must be hours, days, minutes or seconds; got {units!r} with {some(lead.values)}. "
            f"Say them: ds['prediction_timedelta'].attrs['units'] = 'hours' (under its name in your file)."
        )
    return (np.asarray(lead.values, dtype=np.float64) * seconds * 1e9).round().astype("timedelta64[ns]")


def _ascending(dataset: xr.Dataset, coordinate: str, kind: str, name: str) -> xr.Dataset:
    """Sort by a coordinate of times, which holds each once."""
    values = dataset[coordinate].values
    if values.dtype.kind != kind:
        wanted = "dates (datetime64)" if kind == "M" else "durations (timedelta64)"
        how = _to_dates(values) if kind == "M" else "as with decode_timedelta=True"
        raise VerificationError(
            f"{name}: {coordinate} must hold {wanted}; got {values.dtype}, {some(values)}. Convert it, {how}."
        )
    unique = _refuse_twice(dataset, coordinate, name)
    return dataset if np.array_equal(unique, values) else dataset.isel({coordinate: as_slice(np.argsort(values))})


def _refuse_twice(dataset: xr.Dataset, coordinate: str, name: str) -> NDArray[Any]:
    """Refuse a coordinate that holds a value more than once; give its values, sorted."""
    unique, counts = np.unique(dataset[coordinate].values, return_counts=True)
    if (counts > 1).any():
        raise VerificationError(f"{name}: {coordinate} holds {some(unique[counts > 1])} twice. Remove the duplicates.")
    return unique


def _to_dates(values: NDArray[Any]) -> str:
    """How dates are made of what stands for them: 2026010500, "2026010500", hours since a date, dates of another calendar."""
    first = values.ravel()[0] if values.size else ""
    if hasattr(first, "calendar"):
        if first.calendar == "360_day":
            return "if you can: days of 30-day months are not those of truth"
        return f"as ds.convert_calendar('standard'), where its calendar ({first.calendar}) has the days of truth"
    text = str(first).removesuffix(".0")
    form = {8: "%Y%m%d", 10: "%Y%m%d%H", 12: "%Y%m%d%H%M"}.get(len(text), "") if text.isdigit() else ""
    if form and _is_date(text, form):
        numbers = "ds.time.astype(int).astype(str)" if values.dtype.kind in "iuf" else "ds.time.astype(str)"
        return f"as ds.assign_coords(time=pandas.to_datetime({numbers}, format='{form}')) under its name in your file"
    if values.dtype.kind in "iuf":
        return "as xr.decode_cf(ds) after ds.time.attrs['units'] = 'hours since 1900-01-01', or what its numbers count"
    return "as ds.assign_coords(time=pandas.to_datetime(ds.time)) under its name in your file"


def _is_date(text: str, form: str) -> bool:
    try:
        datetime.strptime(text, form)
    except ValueError:
        return False
    return True


def _check_valid_time(forecast: xr.Dataset, name: str) -> xr.Dataset:
    """Refuse valid times that are not initial time plus lead time, where a file says both."""
    stated = forecast.coords.get("valid_time")
    if stated is None or stated.dtype.kind != "M" or not set(stated.dims) <= {"time", "prediction_timedelta"}:
        return forecast
    difference = (forecast["time"] + forecast["prediction_timedelta"] - stated).values
    if (difference != np.timedelta64(0)).any():
        hours = np.unique(difference / np.timedelta64(1, "h"))
        raise VerificationError(
            f"{name}: valid_time is not initial time plus lead time, but {some(-hours)} h later. Correct one of them, or drop "
            f"valid_time."
        )
    return forecast.drop_vars("valid_time")


def _sort_grid(dataset: xr.Dataset, name: str) -> xr.Dataset:
    longitude = dataset["longitude"].values
    if longitude.min() < 0 or longitude.max() >= 360:
        wrapped = dataset["longitude"] % 360
        if np.unique(wrapped.values).size != longitude.size:
            raise VerificationError(f"{name}: longitude holds one meridian twice: {some(longitude)}. Drop one of them.")
        dataset = dataset.assign_coords(longitude=wrapped)
    for coordinate, ascending in (("latitude", False), ("longitude", True), ("level", True)):
        if coordinate in dataset.dims:
            order = np.argsort(dataset[coordinate].values)
            order = order if ascending else order[::-1]
            if not np.array_equal(order, np.arange(order.size)):
                dataset = dataset.isel({coordinate: as_slice(order)})
    return dataset
