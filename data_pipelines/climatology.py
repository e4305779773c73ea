"""Climatology by hour of day and day of year, in WeatherBench 2's layout and by its definition.

The value of a day is the mean over all years and over a window of days around it with triangular weights, wrapped around the
year's end; where a year has no day 366, its day 365 stands in (google-research/weatherbench2, weatherbench2/utils.py,
`compute_hourly_stat`). Days missing from a year are left out here; WeatherBench 2 puts that year's day 365 there.

Work is cut into blocks of days: one dask task means a block over all years, reading each step once; another smooths it once
its neighbours are there. So memory holds a window of days of each variable at work, whatever the number of years.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import dask.array
import numpy as np
import xarray as xr
from dask.delayed import delayed
from numpy.typing import NDArray

from data_pipelines.daily_cycle import hour_of_day
from data_pipelines.statistics import select_span
from data_pipelines.variables import channels_of

DAYS_OF_YEAR = 366
WINDOW_DAYS = 61
BLOCK_BYTES = 2**28  # of float64 sums that one task holds
READ_BYTES = 2**26  # of float32 read at once
MEMORY_LIMIT = 2**31  # bytes; a larger result stays lazy


@dataclass(frozen=True)
class _DayMeans:
    """Means over years, unsmoothed: (hour, day, ...) float32, and how many values each holds (may broadcast)."""

    mean: NDArray[np.float32]
    count: NDArray[np.float64]


@dataclass(frozen=True)
class _Steps:
    """Where each step of the span belongs: positions of hour and of day of year."""

    hour: NDArray[np.intp]
    day: NDArray[np.intp]  # from 0
    also_last_day: NDArray[np.bool_]  # a day 365 that stands in for a day 366 that its year lacks


def triangular_window(window_days: int) -> NDArray[np.float64]:
    """Give the weights of the days -h .. h around a day, h = window_days // 2: 1 - |days| / h, as WeatherBench 2's.

    The outermost weights are 0, so that 61 days weigh 59. A window of one day is no smoothing.

    Raises
    ------
    ValueError
        If `window_days` is not a positive odd number, or longer than a year.
    """
    if window_days < 1 or window_days % 2 == 0 or window_days > DAYS_OF_YEAR:
        raise ValueError(
            f"window_days must be odd, from 1 to 365, to have a middle; got {window_days}. Take e.g. {WINDOW_DAYS}."
        )
    half = window_days // 2
    return 1 - np.abs(np.arange(-half, half + 1)) / max(half, 1)


def _place_steps(time: NDArray[np.datetime64], hours: NDArray[np.int64]) -> _Steps:
    clock = hour_of_day(time)
    year = time.astype("datetime64[Y]")
    day = (time.astype("datetime64[D]") - year.astype("datetime64[D]")).astype(np.int64)
    year_and_hour = year.astype(np.int64) * 24 + clock
    has_last_day = year_and_hour[day == DAYS_OF_YEAR - 1]
    also = (day == DAYS_OF_YEAR - 2) & ~np.isin(year_and_hour, has_last_day)
    return _Steps(np.searchsorted(hours, clock), day, also)


def _mean_over_years(field: xr.DataArray, steps: _Steps, hours: int, days: range, steps_per_read: int) -> _DayMeans:
    """Mean each hour and day of a block over the steps of `field`, NaN left out point by point."""
    shape = (hours, len(days), *field.shape[1:])
    total = np.zeros(shape)
    count = np.zeros((hours, len(days), *(1,) * (field.ndim - 1)))
    for begin in range(0, field.sizes["time"], steps_per_read):
        values = field.isel(time=slice(begin, begin + steps_per_read)).compute(scheduler="synchronous").values
        for position, value in enumerate(values, start=begin):
            missing = np.isnan(value)
            some_missing = bool(missing.any())
            if some_missing and count.shape != shape:
                count = np.broadcast_to(count, shape).copy()
            own = steps.day[position] - days.start
            for day in (own, own + 1) if steps.also_last_day[position] else (own,):
                place = steps.hour[position], day
                total[place] += np.where(missing, 0, value) if some_missing else value
                count[place] += ~missing if some_missing else 1
    mean = np.divide(total, count, out=np.full(shape, np.nan), where=count > 0).astype(np.float32)
    return _DayMeans(mean, count)


def _smooth(neighbours: list[_DayMeans], offsets: list[int], window: NDArray[np.float64], days: int) -> NDArray[np.float32]:
    """Weighted mean over the window for `days` days; `offsets` say where each neighbour's first day lies from the block's."""
    half = window.size // 2
    total: Any = 0.0
    weight: Any = 0.0
    for block, offset in zip(neighbours, offsets, strict=True):
        distance = offset + np.arange(block.mean.shape[1]) - np.arange(days)[:, None]
        shares = np.where(np.abs(distance) <= half, window[np.clip(distance + half, 0, window.size - 1)], 0)
        contribution = np.where(block.count > 0, block.mean * block.count, 0)
        total = total + np.tensordot(shares, contribution, axes=(1, 1))  # (day, hour, ...)
        weight = weight + np.tensordot(shares, block.count, axes=(1, 1))
    mean = np.divide(total, weight, out=np.full(total.shape, np.nan), where=weight > 0)
    return np.moveaxis(mean, 0, 1).astype(np.float32)


def _day_blocks(length: int) -> list[range]:
    """Cut the year into blocks; days 365 and 366 stay together, because they share steps."""
    starts = [start for start in range(0, DAYS_OF_YEAR, length) if start < DAYS_OF_YEAR - 1]
    return [range(start, stop) for start, stop in zip(starts, [*starts[1:], DAYS_OF_YEAR], strict=True)]


def _steps_in_chunk(field: xr.DataArray) -> int:
    if field.chunks is not None:
        return int(max(field.chunks[0]))
    stored = field.encoding.get("chunks")
    return int(stored[0]) if stored is not None and len(stored) == field.ndim else 1


def _lazy_climatology(field: xr.DataArray, hours: NDArray[np.int64], window: NDArray[np.float64]) -> xr.DataArray:
    """One variable's climatology as a dask array of blocks of days."""
    order = [dim for dim in ("time", "level", "latitude", "longitude") if dim in field.dims]
    field = field.transpose(*order)
    bytes_per_day = 8 * hours.size * field.size // field.sizes["time"]
    steps_per_read = max(READ_BYTES * 2 * hours.size // bytes_per_day, _steps_in_chunk(field))
    steps = _place_steps(field["time"].values, hours)
    blocks = _day_blocks(min(max(BLOCK_BYTES // bytes_per_day, 1), DAYS_OF_YEAR))
    means = []
    for days in blocks:
        inside = np.flatnonzero((steps.day >= days.start) & (steps.day < days.stop))
        own = _Steps(steps.hour[inside], steps.day[inside], steps.also_last_day[inside])
        # delayed() computes a lazy array among a call's arguments whole before the call; inside a partial it stays lazy.
        mean = partial(_mean_over_years, field.isel(time=inside), own, hours.size, days, steps_per_read)
        means.append(delayed(mean, pure=False)())
    half = window.size // 2
    smoothed = []
    for days in blocks:
        near = []
        for number, other in enumerate(blocks):
            for turn in (-DAYS_OF_YEAR, 0, DAYS_OF_YEAR):
                offset = other.start + turn - days.start
                if offset < len(days) + half and offset + len(other) > -half:
                    near.append((number, offset))
        values = delayed(_smooth, pure=False)([means[number] for number, _ in near], [at for _, at in near], window, len(days))
        shape = (hours.size, len(days), *field.shape[1:])
        smoothed.append(dask.array.from_delayed(values, shape, np.float32))
    data = dask.array.concatenate(smoothed, axis=1)
    attributes = {key: value for key, value in field.attrs.items() if key != "valid_range"}
    coordinates = {"hour": xr.Variable("hour", hours), "dayofyear": xr.Variable("dayofyear", np.arange(1, DAYS_OF_YEAR + 1))}
    coordinates |= {str(dim): field[dim].variable for dim in order[1:]}
    return xr.DataArray(data, coordinates, ["hour", "dayofyear", *order[1:]], attrs=attributes)


def compute_climatology(
    analysis: xr.Dataset,
    span: tuple[str, str] | None = None,
    window_days: int = WINDOW_DAYS,
    *,
    memory_limit: int = MEMORY_LIMIT,
) -> xr.Dataset:
    """Compute the climatology by hour of day and day of year.

    Parameters
    ----------
    analysis : xr.Dataset
        In the analysis store's contract, lazy or in memory; variables without the dimension `time` are left out.
    span : (str, str), optional
        First and last moment, both included; whole years, or the mean leans on the seasons that occur more often.
    window_days : int
        Odd length of the triangular window in days.
    memory_limit : int
        Bytes. A smaller result is computed at once; a larger one stays lazy: write it with ``to_zarr``, block by block.

    Returns
    -------
    xr.Dataset
        WeatherBench 2's layout: (hour, dayofyear, [level], latitude, longitude), float32, hours of the day that occur in the
        span, days 1 to 366. NaN where the window holds no value, as for a span of a few months.

    Raises
    ------
    ValueError
        If nothing varies in time, the span holds no step, or `window_days` is not odd.
    """
    window = triangular_window(window_days)
    chosen = select_span(analysis, span)
    names = list(dict.fromkeys(channel.variable for channel in channels_of(chosen)))
    if not names:
        raise ValueError(f"analysis must hold a variable with the dimension 'time'; got {list(chosen.data_vars)}.")
    time = chosen["time"].values
    hours = np.unique(hour_of_day(time))
    fields: dict[str, Any] = {name: _lazy_climatology(chosen[name], hours, window) for name in names}
    attributes = {
        "title": "Climatology by hour of day and day of year",
        "first_time": str(time[0].astype("datetime64[s]")),
        "last_time": str(time[-1].astype("datetime64[s]")),
        "comment": f"all years, triangular window of {window_days} days wrapped around the year's end, day 366 from 365 in "
        "common years: WeatherBench 2's definition",
    }
    climatology = xr.Dataset(fields, attrs=attributes)
    return climatology.compute() if climatology.nbytes <= memory_limit else climatology
