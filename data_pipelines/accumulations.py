"""Sums of rain and radiation over longer spans than a source's own: six hours out of hourly files.

A source with hourly sums of which every sixth hour were kept would lose five sixths of the rain. WeatherBench 2 names sums by
their hours (`total_precipitation_6hr`); what a source calls `total_precipitation` sums up over the source's own time step.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from operator import add
from types import MappingProxyType

import numpy as np
import xarray as xr

from data_pipelines.contracts import CONTRACT
from data_pipelines.selection import as_slice
from data_pipelines.standardise import LEFT_OUT, NOTES, Selection, SourceError, as_step, meanings
from data_pipelines.variables import VARIABLES, canonical_order

HOUR = np.timedelta64(1, "h")


@dataclass(frozen=True)
class Sum:
    """A variable that sums up `hours` of another one."""

    name: str
    source: str
    hours: int


SUMS: Mapping[str, Sum] = MappingProxyType(
    {
        name: Sum(name, name.removesuffix(f"_{hours}hr"), hours)
        for name, variable in VARIABLES.items()
        if (hours := variable.accumulation_hours)
    }
)


def sum_called(name: str) -> Sum | None:
    """The sum that a name or alias stands for, or None if it is none."""
    return next((SUMS[meaning] for meaning in meanings(name) if meaning in SUMS), None)


def of_own_step(names: Iterable[object]) -> list[str]:
    """Those variables that sum up over the time step of their source, whatever it is."""
    return [str(name) for name in names if str(name) in VARIABLES and VARIABLES[str(name)].accumulation_hours is None]


def sums_instead(names: Iterable[str], step: np.timedelta64, selection: Selection) -> list[Sum]:
    """The sums to store in place of what `selection.every` would thin out; none where it keeps every step.

    Parameters
    ----------
    names
        Variables that sum up over the source's own step.
    step
        That step.
    selection
        What was asked for.

    Raises
    ------
    SourceError
        If one of them was asked for by name, or the vocabulary has no sum of so many hours.
    """
    if selection.every is None or as_step(selection.every) <= step:
        return []
    hours = as_step(selection.every) / HOUR
    instead = []
    for name in names:
        found = next((one for one in SUMS.values() if one.source == name and one.hours == hours), None)
        if found is None or selection.variables is not None:
            offered = [one.name for one in SUMS.values() if one.source == name]
            raise SourceError(
                f"{name} is a sum over the source's step of {step / HOUR:g} h, and every={selection.every} would keep one of "
                f"{hours / (step / HOUR):g}. Ask for a sum that fits, among {', '.join(offered)}, with variables=[...], "
                f"or for all steps, without every."
            )
        instead.append(found)
    return instead


def with_sums(dataset: xr.Dataset, hourly: xr.Dataset, sums: Iterable[Sum], kept: Iterable[str]) -> xr.Dataset:
    """Put sums beside the other variables, at their times.

    Parameters
    ----------
    dataset
        At the times that are wanted.
    hourly
        What the sums are made of, at all times of the source.
    sums
        Which.
    kept
        Variables of `dataset` to keep.

    Raises
    ------
    SourceError
        If a sum is shorter than the source's step or no multiple of it, or no time has all that is summed up.
    """
    times, found, notes = dataset["time"].values, {}, []
    hourly = hourly.isel(time=np.unique(hourly["time"].values, return_index=True)[1])
    step = time_step_of(hourly)
    for one in sums:
        count = one.hours * HOUR / step
        if count < 1 or count % 1:
            raise SourceError(
                f"{one.name} cannot be summed up from {one.source} at steps of {step / HOUR:g} h. Choose a sum over a multiple "
                f"of that, or a source with shorter steps."
            )
        wanted = times[:, None] - np.arange(int(count)) * step
        places = hourly.indexes["time"].get_indexer(wanted.ravel()).reshape(wanted.shape)
        whole = (places >= 0).all(axis=1)
        if not whole.any():
            raise SourceError(f"no time of the source has the {one.hours} h before it that {one.name} sums up.")
        if not whole.all():
            notes.append(f"{(~whole).sum()} times without all of the {one.hours} h that {one.name} sums up are left out")
        parts = [hourly[one.source].isel(time=as_slice(column)).assign_coords(time=times[whole]) for column in places[whole].T]
        found[one.name] = _named(reduce(add, parts), one, int(count), step)
    common = sorted(set.intersection(*(set(array["time"].values.tolist()) for array in found.values())))
    there = np.isin(times.astype("datetime64[ns]").astype(np.int64), common)
    dropped = [name for name in dataset.data_vars if str(name) not in set(kept)]
    out = dataset.drop_vars(dropped).isel(time=as_slice(np.flatnonzero(there)))
    out = out.assign({name: array.sel(time=times[there]) for name, array in found.items()})
    made = [f"{one.name} summed up from {one.source} at steps of {step / HOUR:g} h" for one in sums]
    out.attrs = {
        **dataset.attrs,
        NOTES: [*dataset.attrs.get(NOTES, []), *made],
        LEFT_OUT: [*dataset.attrs.get(LEFT_OUT, []), *notes],
    }
    return out[canonical_order(str(name) for name in out.data_vars)].unify_chunks()


def time_step_of(dataset: xr.Dataset) -> np.timedelta64:
    """The smallest step between different times; an hour where there is one time."""
    steps = np.diff(np.unique(dataset["time"].values))
    return np.timedelta64(steps.min(), "ns") if steps.size else HOUR


def _named(array: xr.DataArray, one: Sum, count: int, step: np.timedelta64) -> xr.DataArray:
    attributes = {
        "long_name": one.name.replace("_", " "),
        "units": VARIABLES[one.name].units,
        "source_name": one.source,
        "cell_methods": "time: sum",
        "comment": f"sum of {count} values, {step / HOUR:g} h apart, the last at the time itself",
    }
    return array.astype(CONTRACT.dtype).assign_attrs(attributes)
