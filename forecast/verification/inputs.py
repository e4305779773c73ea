"""Opening of forecasts and truth, in whatever order, direction and spelling they come, and the checks between the two.

Everything behind this door sees one layout: the vocabulary's names and units, latitude 90..-90, longitude 0 <= lon < 360
ascending, level int32 hPa ascending, float32 fields, dimensions (time, [number], prediction_timedelta, [level], latitude,
longitude). Nothing is read here but coordinates; `stack` reads the fields of the block of times that it is given.
"""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float32
from numpy.typing import NDArray

from data_pipelines.locations import is_url, zarr_store
from data_pipelines.selection import as_slice
from data_pipelines.store import load_checked
from data_pipelines.units import conversion, usual_units
from data_pipelines.variables import VARIABLES, Channel, Variable, channels_of, find_variable
from forecast.forecast_store import drop_incomplete

DIMENSION_ALIASES = {
    "lat": "latitude",
    "lon": "longitude",
    "valid_time": "time",
    "init_time": "time",
    "forecast_reference_time": "time",
    "lead_time": "prediction_timedelta",
    "step": "prediction_timedelta",
    "forecast_period": "prediction_timedelta",
    "pressure_level": "level",
    "isobaricInhPa": "level",
    "realization": "number",
    "member": "number",
    "ensemble": "number",
}
ONE_MAY_BE_SCALAR = ("time", "prediction_timedelta", "level")
ORDER = ("time", "number", "prediction_timedelta", "level", "latitude", "longitude")
SAME_GRID_TOLERANCE = 1e-3  # degrees; WeatherBench 2's own tolerance (evaluation.py, _ensure_aligned_grid)


class VerificationError(ValueError):
    """A forecast, a truth or a setting that cannot be scored as asked."""


def open_dataset(path: str | Path) -> xr.Dataset:
    """Open a Zarr store (folder or URL) or a NetCDF file lazily, without dask.

    Raises
    ------
    VerificationError
        If nothing is there, or it is neither.
    """
    text = str(path)
    if not is_url(path) and not Path(text).exists():
        raise VerificationError(f"{text} does not exist. Give the path of a Zarr store or of a NetCDF file.")
    try:
        if text.endswith((".nc", ".nc4", ".netcdf")):
            return xr.open_dataset(text, engine="netcdf4", decode_timedelta=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # stores without consolidated metadata are fine
            return xr.open_zarr(zarr_store(path), chunks=None, decode_timedelta=True)
    except (OSError, ValueError, KeyError) as error:
        raise VerificationError(f"{text} cannot be opened as Zarr or NetCDF: {error}") from error


def open_forecast(path: str | Path) -> xr.Dataset:
    """Open a forecast and bring it into the layout of this module.

    Raises
    ------
    VerificationError
        If a dimension of a forecast is missing, or times or leads are not what they should be.
    """
    return drop_incomplete(normalise_forecast(open_dataset(path), str(path)), str(path))


def normalise_forecast(forecast: xr.Dataset, name: str = "forecast") -> xr.Dataset:
    """Bring a forecast into the layout of this module, lazily.

    Parameters
    ----------
    forecast
        Initial time, lead time and grid under any name of `DIMENSION_ALIASES`, variables under any name of the vocabulary
        (`data_pipelines.variables`), in units that can become the vocabulary's. Lead times are timedelta64, or integers
        with `units` in hours or that are taken for hours. One initial time, lead time or level may be a scalar coordinate.
    name
        What errors call it.
    """
    forecast = _rename(forecast, name)
    _require(forecast, ("time", "prediction_timedelta", "latitude", "longitude"), name)
    lead = forecast["prediction_timedelta"]
    if lead.dtype.kind in "iuf":
        forecast = forecast.assign_coords(prediction_timedelta=_hours_to_timedelta(lead, name))
    forecast = _sort_grid(forecast, name)
    for coordinate in ("time", "prediction_timedelta"):
        values = forecast[coordinate].values
        if values.size and not (np.diff(values) > np.timedelta64(0)).all():
            raise VerificationError(
                f"{name}: {coordinate} must ascend without duplicates; got {_some(values)}. Sort it, or remove the duplicates."
            )
    return forecast.transpose(*ORDER, ..., missing_dims="ignore")


def open_truth(path: str | Path) -> xr.Dataset:
    """Open an analysis to score against, and bring it into the layout of this module.

    Raises
    ------
    VerificationError
        If a dimension is missing, or time has duplicates or does not ascend.
    """
    return normalise_truth(open_dataset(path), str(path))


def normalise_truth(truth: xr.Dataset, name: str = "truth") -> xr.Dataset:
    """Bring an analysis into the layout of this module, lazily."""
    truth = _rename(truth, name)
    _require(truth, ("time", "latitude", "longitude"), name)
    truth = _sort_grid(truth, name)
    time = truth["time"].values
    if time.size < 2 or not (np.diff(time) > np.timedelta64(0)).all():
        raise VerificationError(
            f"{name}: time must ascend without duplicates and hold at least 2 values; got {_some(time)}. "
            f"Rebuild it with python -m data_pipelines.build_store."
        )
    return truth.transpose(*ORDER, ..., missing_dims="ignore")


def normalise_grid(dataset: xr.Dataset, name: str) -> xr.Dataset:
    """Bring a dataset without initial times (a climatology, thresholds, a land mask) into the layout of this module, lazily."""
    dataset = _rename(dataset, name)
    _require(dataset, ("latitude", "longitude"), name)
    return _sort_grid(dataset, name).transpose(..., "latitude", "longitude")


def forecast_channels(forecast: xr.Dataset, truth: xr.Dataset, variables: Sequence[str] | None = None) -> tuple[Channel, ...]:
    """Say which channels are scored: those of the forecast (or of `variables`), all of which truth must hold.

    Raises
    ------
    VerificationError
        If a variable or a level that is to be scored is in only one of the two.
    """
    time_dependent = forecast[[name for name in forecast.data_vars if "prediction_timedelta" in forecast[name].dims]]
    if variables is not None:
        known = {name: _known(name, on_levels=True) for name in variables if name not in time_dependent.data_vars}
        variables = [found.name if (found := known.get(name)) else name for name in variables]
        missing = [name for name in variables if name not in time_dependent.data_vars]
        if missing:
            raise VerificationError(
                f"variables {missing} are missing in the forecast, which holds {list(time_dependent.data_vars)}. "
                f"Choose among those with variables=[...]."
            )
        time_dependent = time_dependent[list(variables)]
    wanted = channels_of(time_dependent)
    if "channels" in forecast.attrs:  # a store with one list of levels for all variables names what was forecast
        made = {str(name) for name in np.atleast_1d(forecast.attrs["channels"])}
        wanted = tuple(channel for channel in wanted if str(channel) in made)
    if not wanted:
        raise VerificationError("the forecast holds no variable with a lead time. Give a store in WeatherBench 2's schema.")
    held = set(channels_of(truth[[name for name in truth.data_vars if "time" in truth[name].dims]]))
    absent = [str(channel) for channel in wanted if channel not in held]
    if absent:
        raise VerificationError(
            f"truth lacks {absent}, which the forecast holds; truth has {sorted(map(str, held))}. "
            f"Rebuild truth with them, or score fewer with variables=[...]."
        )
    return wanted


def check_same_grid(dataset: xr.Dataset, truth: xr.Dataset, name: str) -> None:
    """Refuse two grids that differ by more than 0.001 degree anywhere."""
    for coordinate in ("latitude", "longitude"):
        ours, theirs = dataset[coordinate].values, truth[coordinate].values
        if ours.shape != theirs.shape or not np.allclose(ours, theirs, atol=SAME_GRID_TOLERANCE, rtol=0):
            raise VerificationError(
                f"{name} and truth lie on different grids: {coordinate} of {name} is {_some(ours)} ({ours.size} values), "
                f"of truth {_some(theirs)} ({theirs.size}). Regrid one of them (data_pipelines.regrid.regrid_conservative)."
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


def _rename(dataset: xr.Dataset, name: str) -> xr.Dataset:
    """Call dimensions and variables by WeatherBench 2's names, and give variables the vocabulary's units, lazily."""
    names: dict[str, str] = {}
    for target in dict.fromkeys(DIMENSION_ALIASES.values()):
        if target in dataset.dims:
            continue
        aliases = [alias for alias, meant in DIMENSION_ALIASES.items() if meant == target]
        # what a file carries beside its dimensions (cfgrib's valid_time and step) names none of them
        found = [alias for alias in aliases if alias in dataset.dims]
        if len(found) > 1:
            raise VerificationError(f"{name}: several names for one dimension: {sorted(found)}. Keep one of each.")
        scalars = [one for one in (target, *aliases) if one in dataset.coords and dataset[one].ndim == 0]
        if found:
            names[found[0]] = target
        elif scalars and target in ONE_MAY_BE_SCALAR:
            dataset = _expand_level(dataset, scalars[0]) if target == "level" else dataset.expand_dims(scalars[0])
            if scalars[0] != target:
                names[scalars[0]] = target
    in_the_way = [target for target in names.values() if target in dataset.coords]
    return _by_vocabulary(dataset.drop_vars(in_the_way).rename(names), name)


def _expand_level(dataset: xr.Dataset, coordinate: str) -> xr.Dataset:
    """Give variables that lie on pressure levels the one level that a file holds."""
    known = {key: _known(key, on_levels=True) for key in dataset.data_vars}
    return dataset.assign(
        {key: dataset[key].expand_dims(coordinate) for key, variable in known.items() if variable and variable.on_levels}
    )


def _known(key: Hashable, on_levels: bool) -> Variable | None:
    return VARIABLES.get(str(key)) or find_variable(str(key), on_levels) or find_variable(str(key), not on_levels)


def _by_vocabulary(dataset: xr.Dataset, name: str) -> xr.Dataset:
    """Variables under the vocabulary's names and in its units; those that it does not know stay as they are."""
    names: dict[Hashable, str] = {}
    scaled: dict[Hashable, xr.DataArray] = {}
    for key, array in dataset.data_vars.items():
        variable = _known(key, on_levels="level" in array.dims)
        if variable is None:
            continue
        if variable.name in names.values():
            raise VerificationError(f"{name}: several names for {variable.name}, {key} among them. Keep one of them.")
        names[key] = variable.name
        units = str(array.attrs.get("units") or usual_units(variable, str(key)))
        change = conversion(variable, units)
        if change is None:
            raise VerificationError(
                f"{name}: {key} has units {units!r}, which cannot become {variable.units!r} for {variable.name}. "
                f"Convert it, or correct its attribute units."
            )
        attributes = {**array.attrs, "units": variable.units}
        if change.changes_values:  # decoded on reading, as packed numbers are
            attributes |= {"scale_factor": change.scale, "add_offset": change.offset}
        scaled[key] = array.assign_attrs(attributes)
    decoded = xr.decode_cf(dataset.assign(scaled), decode_times=False, decode_coords=False)
    return decoded.rename({key: new for key, new in names.items() if key != new})


def _require(dataset: xr.Dataset, dims: Sequence[str], name: str) -> None:
    missing = [dim for dim in dims if dim not in dataset.dims or dim not in dataset.coords]
    if missing:
        raise VerificationError(
            f"{name} has no dimension with coordinate {missing}; it has {sorted(map(str, dataset.dims))}. "
            f"WeatherBench 2's schema is (time, [number], prediction_timedelta, [level], latitude, longitude) for forecasts, "
            f"(time, [level], latitude, longitude) for truth."
        )


def _hours_to_timedelta(lead: xr.DataArray, name: str) -> NDArray[np.timedelta64]:
    units = str(lead.attrs.get("units", "hours")).split(" ")[0]
    scale = {"hours": 3600, "hour": 3600, "h": 3600, "days": 86400, "day": 86400, "minutes": 60, "seconds": 1, "s": 1}.get(
        units
    )
    if scale is None:
        raise VerificationError(f"{name}: units of the lead time must be hours, days, minutes or seconds; got {units!r}.")
    return (np.asarray(lead.values, dtype=np.float64) * scale * 1e9).round().astype("timedelta64[ns]")


def _sort_grid(dataset: xr.Dataset, name: str) -> xr.Dataset:
    longitude = dataset["longitude"].values
    if longitude.min() < 0 or longitude.max() >= 360:
        wrapped = dataset["longitude"] % 360
        if np.unique(wrapped.values).size != longitude.size:
            raise VerificationError(f"{name}: longitude holds one meridian twice: {_some(longitude)}. Drop one of them.")
        dataset = dataset.assign_coords(longitude=wrapped)
    if "level" in dataset.dims:
        dataset = dataset.assign_coords(level=dataset["level"].values.round().astype(np.int32))
    for coordinate, ascending in (("latitude", False), ("longitude", True), ("level", True)):
        if coordinate in dataset.dims:
            order = np.argsort(dataset[coordinate].values)
            order = order if ascending else order[::-1]
            if not np.array_equal(order, np.arange(order.size)):
                dataset = dataset.isel({coordinate: as_slice(order)})
    return dataset


def _some(values: NDArray[Any]) -> str:
    if values.size <= 6:
        return str([str(value) for value in values])
    return f"{values[0]}, {values[1]}, ..., {values[-1]}"
