"""Names at the door of the verification: dimensions, levels and variables become WeatherBench 2's, in the vocabulary's units.

Nothing is read here but coordinates.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from data_pipelines.standardise import (
    LATITUDE_NAMES,
    LEVEL_NAMES,
    LONGITUDE_NAMES,
    MEMBER_NAMES,
    PRESSURE_IN_PA,
    STEP_NAMES,
    split_level,
)
from data_pipelines.units import conversion, spell, to_hectopascals, usual_units
from data_pipelines.variables import VARIABLES, Variable, find_variable

GRID_NAMES = {
    "latitude": LATITUDE_NAMES,
    "longitude": LONGITUDE_NAMES,
    "level": LEVEL_NAMES,
    "number": MEMBER_NAMES,
}
INITIAL_TIME_NAMES = (
    "time", "init_time", "initial_time", "forecast_reference_time", "reference_time", "start_time", "init", "base_time",
)  # fmt: skip
LEAD_NAMES = ("prediction_timedelta", "lead_time", "lead", "leadtime", *STEP_NAMES, "tau", "fhour")
FORECAST_NAMES = {"time": INITIAL_TIME_NAMES, "prediction_timedelta": tuple(dict.fromkeys(LEAD_NAMES)), **GRID_NAMES}
TRUTH_NAMES = {"time": ("time", "valid_time", "date"), **GRID_NAMES}
ALONG_ANOTHER = ("time", "prediction_timedelta", "latitude", "longitude")  # may lie along dimensions of other names
ONE_MAY_BE_SCALAR = ("time", "prediction_timedelta", "level")


class VerificationError(ValueError):
    """A forecast, a truth or a setting that cannot be scored as asked."""


def rename(dataset: xr.Dataset, name: str, names: Mapping[str, Sequence[str]]) -> xr.Dataset:
    """Call dimensions and variables by WeatherBench 2's names, and give variables the vocabulary's units, lazily."""
    for target, known in names.items():
        # what a file carries beside its dimensions (cfgrib's valid_time and step) names none of them
        found = [alias for alias in dict.fromkeys((target, *known)) if alias in dataset.dims]
        if len(found) > 1:
            raise VerificationError(f"{name}: several names for one dimension: {sorted(found)}. Keep one of each.")
        if not found and target in ALONG_ANOTHER:
            dataset, found = _along_another(dataset, (target, *known), names)
        if found and found[0] not in dataset.coords:
            beside = [alias for alias in known if alias in dataset.coords and dataset[alias].dims == (found[0],)]
            if beside:  # files with a scalar of that name, put behind one another along a new dimension
                dataset = dataset.swap_dims({found[0]: beside[0]})
                found = beside
        scalars = [one for one in (target, *known) if one in dataset.coords and dataset[one].ndim == 0]
        if not found and scalars and target in ONE_MAY_BE_SCALAR:
            dataset = _expand(dataset, scalars[0], only_on_levels=target == "level")
            found = scalars[:1]
        if target == "level" and found:
            dataset = _levels_in_hectopascals(dataset, found[0], name)
        if found and found[0] != target:
            dataset = dataset.drop_vars(target, errors="ignore").rename({found[0]: target})
    return _by_vocabulary(dataset, name)


def _along_another(
    dataset: xr.Dataset, aliases: Sequence[str], names: Mapping[str, Sequence[str]]
) -> tuple[xr.Dataset, list[str]]:
    """Make a coordinate the dimension along which it lies, where that is none of its own: lead times along valid times."""
    taken = {dim for known in names.values() for dim in known}
    used = [dim for alias in taken if alias in dataset.coords for dim in dataset[alias].dims]
    of_fields = {dim for array in dataset.data_vars.values() if array.ndim > 1 for dim in array.dims}
    for alias in aliases:
        if alias not in dataset.coords or dataset[alias].ndim != 1:
            continue
        dim = dataset[alias].dims[0]
        if dim in of_fields - taken and used.count(dim) == 1:  # a list of stations has two along it, and so has a curved grid
            return dataset.swap_dims({dim: alias}), [alias]
    return dataset, []


def without_single(dataset: xr.Dataset, dims: Sequence[str]) -> xr.Dataset:
    """Drop dimensions of length 1 other than `dims` of fields on the grid, as the height of a temperature."""
    fields = [array for array in dataset.data_vars.values() if {"latitude", "longitude"} <= set(array.dims)]
    single = {dim for array in fields for dim in array.dims if dim not in dims and dataset.sizes[dim] == 1}
    return dataset.squeeze(list(single), drop=True) if single else dataset


def refuse_other_dimensions(dataset: xr.Dataset, variables: Iterable[str], dims: Sequence[str], name: str) -> None:
    """Refuse variables that are to be scored and have other dimensions than `dims`."""
    for variable in variables:
        for dim in dataset[variable].dims:
            if dim not in dims:
                raise VerificationError(
                    f"{name}: {variable} has the dimension {dim!r} of {dataset.sizes[dim]}, which is none of "
                    f"{', '.join(dims)}. If these are members, say so: ds.rename({{{dim!r}: 'number'}}); if not, choose one: "
                    f"ds.isel({dim}=0, drop=True); or score others with variables=[...]."
                )


def _expand(dataset: xr.Dataset, coordinate: str, only_on_levels: bool) -> xr.Dataset:
    """Make a scalar coordinate a dimension: of all variables, or of those that lie on pressure levels."""
    dataset = lazily(dataset)
    if not only_on_levels:
        return dataset.expand_dims(coordinate)
    known = {key: _known(key, on_levels=True) for key in dataset.data_vars}
    return dataset.assign(
        {key: dataset[key].expand_dims(coordinate) for key, variable in known.items() if variable and variable.on_levels}
    )


def lazily(dataset: xr.Dataset) -> xr.Dataset:
    """Make dask arrays of what is still in a file: xarray would read the whole of it to put a dimension in front."""
    return dataset.assign(
        {
            key: array.chunk("auto")
            for key, array in dataset.data_vars.items()
            if array.chunks is None and not array.variable._in_memory and array.dtype.kind in "fiu"
        }
    )


def _levels_in_hectopascals(dataset: xr.Dataset, coordinate: str, name: str) -> xr.Dataset:
    levels = dataset[coordinate]
    units = spell(str(levels.attrs.get("units") or ("Pa" if coordinate in PRESSURE_IN_PA else "hPa")))
    values = to_hectopascals(levels.values, units)
    whole = None if values is None else values.round().astype(np.int32)
    if values is None or whole is None or np.abs(whole - values).max() > 1e-3 or np.unique(whole).size != whole.size:
        raise VerificationError(
            f"{name}: {coordinate} must hold pressures in whole hPa (or in Pa), each once; got {some(levels.values)} in "
            f"{units!r}. Choose those that are, or correct its attribute units."
        )
    return dataset.assign_coords({coordinate: (levels.dims, whole)})


def _known(key: Hashable, on_levels: bool) -> Variable | None:
    return VARIABLES.get(str(key)) or find_variable(str(key), on_levels) or find_variable(str(key), not on_levels)


def _by_vocabulary(dataset: xr.Dataset, name: str) -> xr.Dataset:
    """Variables under the vocabulary's names and in its units; those that it does not know stay as they are."""
    names: dict[Hashable, str] = {}
    levels: dict[Hashable, int] = {}
    scaled: dict[Hashable, xr.DataArray] = {}
    for key, array in dataset.data_vars.items():
        variable = _known(key, on_levels="level" in array.dims)
        split = split_level(str(key)) if variable is None else None
        if split is not None:
            variable, levels[key] = split
        if variable is None:
            continue
        same = [other for other, known in names.items() if known == variable.name and levels.get(other) == levels.get(key)]
        if same or (key in levels and _has_level(dataset, names, variable.name, levels[key])):
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
    whole = {key: new for key, new in names.items() if key not in levels and key != new}
    return _stacked(decoded.rename(whole), {key: (names[key], level) for key, level in levels.items()})


def _has_level(dataset: xr.Dataset, names: Mapping[Hashable, str], variable: str, level: int) -> bool:
    """Whether a variable with the dimension `level` already holds one."""
    whole = [key for key, known in names.items() if known == variable and "level" in dataset[key].dims]
    return bool(whole) and level in dataset["level"].values


def _stacked(dataset: xr.Dataset, flat: Mapping[Hashable, tuple[str, int]]) -> xr.Dataset:
    """Put fields of single levels (z500, z850) above one another, and above those that have levels already."""
    if not flat:
        return dataset
    dataset = lazily(dataset)
    rest = dataset.drop_vars(list(flat))
    stacked = []
    for variable in dict.fromkeys(variable for variable, _ in flat.values()):
        parts = [
            dataset[key].reset_coords(drop=True).expand_dims(level=np.array([level], dtype=np.int32)).rename(variable)
            for key, (known, level) in flat.items()
            if known == variable
        ]
        if variable in rest:
            parts.append(rest[variable].reset_coords(drop=True))
            rest = rest.drop_vars(variable)
        joined = xr.concat(parts, "level", combine_attrs="override", coords="minimal", compat="override", join="exact")
        stacked.append(joined.sortby("level").to_dataset())
    if "level" in rest.dims and not any("level" in array.dims for array in rest.data_vars.values()):
        rest = rest.drop_vars("level")
    return xr.merge([rest, *stacked], join="outer", compat="override", combine_attrs="override")


def require(dataset: xr.Dataset, dims: Sequence[str], name: str, names: Mapping[str, Sequence[str]]) -> None:
    """Refuse a dataset without some dimensions, and say under which names they are known."""
    missing = [dim for dim in dims if dim not in dataset.dims or dim not in dataset.coords]
    if not missing:
        return
    curved = [dim for dim in missing if dim in dataset.coords and dataset[dim].ndim == 2]
    if curved:
        raise VerificationError(
            f"{name}: {curved[0]} has the dimensions {dataset[curved[0]].dims}: a curved or projected grid. Bring it to "
            f"latitudes and longitudes first."
        )
    known = {dim for aliases in names.values() for dim in aliases}
    free = [str(dim) for dim in dataset.dims if dim not in known]
    meant = {"time": "initial time" if "prediction_timedelta" in names else "time", "prediction_timedelta": "lead time"}
    wanted = "; ".join(f"{meant.get(dim, dim)} ({', '.join(names[dim])})" for dim in missing)
    example = f"ds.rename({{{free[0]!r}: {missing[0]!r}}})" if free else f"ds.assign_coords({missing[0]}=...)"
    raise VerificationError(
        f"{name} has no dimension with coordinate {missing}; it has {sorted(map(str, dataset.dims))}. "
        f"Known names are: {wanted}. Call yours by one of them, as {example}."
    )


def some(values: NDArray[Any]) -> str:
    """The values of a coordinate for a message, those in the middle left out; times without digits that nobody needs."""
    if values.dtype.kind in "mM":
        values = values.astype(f"{values.dtype.kind}8[{'h' if values.dtype.kind == 'm' else 'm'}]")
    shown = [str(value) for value in np.atleast_1d(values)]
    return ", ".join(shown) if len(shown) <= 6 else f"{shown[0]}, {shown[1]}, ..., {shown[-1]}"
