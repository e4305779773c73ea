"""Mean, spread and tendency of every channel, in one pass over a store that need not fit in memory.

Each variable's time axis is cut into sections; dask runs one task per section, which walks through it block by block and
keeps float64 moments; the sections are merged in order by the pairwise formula of Chan, Golub and LeVeque (1983). So a
step is read once, memory does not grow with the length of the store, and the result does not depend on how the work
was cut (to rounding).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import numpy as np
import xarray as xr
from dask.base import compute
from dask.delayed import delayed
from numpy.typing import NDArray

from data_pipelines.area import cell_area_weights
from data_pipelines.dates import time_slice
from data_pipelines.variables import Channel, channels_of

# A section longer than this many blocks only costs parallelism; shorter ones cost merges of whole fields.
SECTIONS_PER_VARIABLE = 8
BLOCK_BYTES = 32 * 2**20  # of float64, where the array does not say how it is chunked


def _merge_moments(
    count: NDArray[np.float64],
    mean: NDArray[np.float64],
    spread: NDArray[np.float64],
    other_count: NDArray[np.float64],
    other_mean: NDArray[np.float64],
    other_spread: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Join counts, means and sums of squared deviations of two samples (Chan, Golub and LeVeque 1983)."""
    total = count + other_count
    share = np.divide(other_count, total, out=np.zeros_like(total), where=total > 0)
    difference = other_mean - mean
    return total, mean + difference * share, spread + other_spread + difference**2 * count * share


@dataclass
class Moments:
    """What is kept of a stretch of time of one variable; fields are (level, latitude, longitude) and float64."""

    count: NDArray[np.float64]
    mean: NDArray[np.float64]
    spread: NDArray[np.float64]  # sum of squared deviations from the mean
    minimum: NDArray[np.float64]  # (level,)
    maximum: NDArray[np.float64]  # (level,)
    tendency_weight: NDArray[np.float64]  # (level,): area weight times number of differences
    tendency_mean: NDArray[np.float64]  # (level,)
    tendency_spread: NDArray[np.float64]  # (level,)
    first: NDArray[np.float64]
    last: NDArray[np.float64]
    first_time: np.datetime64
    last_time: np.datetime64

    def followed_by(self, later: Moments, step: np.timedelta64, weights: NDArray[np.float64]) -> Moments:
        """Join with the stretch that comes next, the tendency across the seam included if it is one step long."""
        count, mean, spread = _merge_moments(self.count, self.mean, self.spread, later.count, later.mean, later.spread)
        tendency = (self.tendency_weight, self.tendency_mean, self.tendency_spread)
        if later.first_time - self.last_time == step:
            seam = _weighted_moments((later.first - self.last)[None], weights)
            tendency = _merge_moments(*tendency, *seam)
        tendency = _merge_moments(*tendency, later.tendency_weight, later.tendency_mean, later.tendency_spread)
        return Moments(
            count,
            mean,
            spread,
            np.fmin(self.minimum, later.minimum),
            np.fmax(self.maximum, later.maximum),
            *tendency,
            self.first,
            later.last,
            self.first_time,
            later.last_time,
        )


def _weighted_moments(
    values: NDArray[np.float64], weights: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Area-weighted count, mean and squared deviations per level of (time, level, latitude, longitude), NaN left out."""
    present = np.isfinite(values)
    weight = np.einsum("tlyx,y->l", present, weights)
    total = np.einsum("tlyx,y->l", np.where(present, values, 0), weights)
    mean = np.divide(total, weight, out=np.zeros_like(total), where=weight > 0)
    deviation = np.where(present, values - mean[:, None, None], 0)
    return weight, mean, np.einsum("tlyx,tlyx,y->l", deviation, deviation, weights, optimize=False)


def _moments_of_block(
    values: NDArray[np.float64], time: NDArray[np.datetime64], step: np.timedelta64, weights: NDArray[np.float64]
) -> Moments:
    present = np.isfinite(values)
    count = present.sum(axis=0, dtype=np.float64)
    mean = np.divide(np.where(present, values, 0).sum(axis=0), count, out=np.zeros_like(count), where=count > 0)
    spread = (np.where(present, values - mean, 0) ** 2).sum(axis=0)
    one_step = np.diff(time) == step
    per_level = (0, 2, 3)
    return Moments(
        count,
        mean,
        spread,
        np.fmin.reduce(values, axis=per_level),
        np.fmax.reduce(values, axis=per_level),
        *_weighted_moments(np.diff(values, axis=0)[one_step], weights),
        values[0].copy(),  # a view would keep the whole block
        values[-1].copy(),
        time[0],
        time[-1],
    )


def _with_level(values: NDArray[Any]) -> NDArray[np.float64]:
    """Bring a block to float64 (time, level, latitude, longitude)."""
    block = np.asarray(values, dtype=np.float64)
    return block if block.ndim == 4 else block[:, None]


def _moments_of_section(field: xr.DataArray, block: int, step: np.timedelta64, weights: NDArray[np.float64]) -> Moments:
    section: Moments | None = None
    for begin in range(0, field.sizes["time"], block):
        piece = field.isel(time=slice(begin, begin + block))
        # This task is dask's unit of work already; inside it a lazy array is computed by this thread alone.
        values = _with_level(piece.compute(scheduler="synchronous").values)
        moments = _moments_of_block(values, piece["time"].values, step, weights)
        section = moments if section is None else section.followed_by(moments, step, weights)
    return cast(Moments, section)


def _join(sections: list[Moments], step: np.timedelta64, weights: NDArray[np.float64]) -> Moments:
    total = sections[0]
    for section in sections[1:]:
        total = total.followed_by(section, step, weights)
    return total


def _steps_per_block(field: xr.DataArray) -> int:
    """Whole chunks, so that no chunk is decoded twice; several of them where they are small."""
    chunk = 1
    if field.chunks is not None:
        chunk = max(field.chunks[field.get_axis_num("time")])
    elif (stored := field.encoding.get("chunks")) is not None and len(stored) == field.ndim:
        chunk = int(stored[field.get_axis_num("time")])
    bytes_per_step = max(field.size // field.sizes["time"] * 8, 1)
    return max(chunk, BLOCK_BYTES // bytes_per_step // chunk * chunk)


def _delayed_moments(field: xr.DataArray, step: np.timedelta64, weights: NDArray[np.float64]) -> Any:
    """One dask task per section, and one that joins them."""
    length, block = field.sizes["time"], _steps_per_block(field)
    blocks = -(-length // block)
    section = -(-blocks // SECTIONS_PER_VARIABLE) * block
    sections = []
    for start in range(0, length, section):
        piece = field.isel(time=slice(start, start + section))
        # delayed() computes a lazy array among a call's arguments whole before the call; inside a partial it stays lazy.
        walk = partial(_moments_of_section, piece, block, step, weights)
        sections.append(delayed(walk, pure=False)())
    return delayed(_join, pure=False)(sections, step, weights)


def select_span(analysis: xr.Dataset, span: tuple[str, str] | None) -> xr.Dataset:
    """Keep the steps from the first to the last moment of `span`, both included.

    Raises
    ------
    ValueError
        If the dataset has no time, the span is reversed, or no step lies inside.
    """
    if "time" not in analysis.dims or analysis.sizes["time"] == 0:
        raise ValueError("analysis must have at least one step along the dimension 'time'; it has none. Check the store.")
    if span is None:
        return analysis
    chosen = analysis.sel(time=time_slice(*span, ("span", "span"), ValueError))
    if chosen.sizes["time"] == 0:
        first, last = analysis["time"].values[[0, -1]].astype("datetime64[m]")
        raise ValueError(f"span {span[0]} to {span[1]} holds no step: the analysis reaches from {first} to {last}.")
    return chosen


def _time_step(analysis: xr.Dataset) -> np.timedelta64:
    time = analysis["time"].values
    if time.size < 2:
        raise ValueError(
            f"analysis must hold at least 2 steps, because the tendency needs a difference; got {time.size}. Widen the span."
        )
    steps = np.diff(time)
    if not np.all(steps > np.timedelta64(0)):
        raise ValueError("analysis must have strictly increasing times; got a repeated or earlier time. Rebuild the store.")
    return cast(np.timedelta64, steps.min())


def _channel_rows(
    name: str, levels: tuple[int | None, ...], moments: Moments, weights: NDArray[np.float64]
) -> dict[str, list[Any]]:
    weight = moments.count * weights[:, None]
    total = weight.sum(axis=(1, 2))
    safe = np.where(total > 0, total, np.nan)
    mean = (weight * moments.mean).sum(axis=(1, 2)) / safe
    between = weights[:, None] * (moments.spread + moments.count * (moments.mean - mean[:, None, None]) ** 2)
    nowhere = moments.count == 0
    tendency_weight = np.where(moments.tendency_weight > 0, moments.tendency_weight, np.nan)
    variance_field = np.divide(moments.spread, moments.count, out=np.full_like(moments.spread, np.nan), where=~nowhere)
    return {
        "channel": [str(Channel(name, level)) for level in levels],
        "mean": list(mean),
        "standard_deviation": list(np.sqrt(between.sum(axis=(1, 2)) / safe)),
        "tendency_standard_deviation": list(np.sqrt(moments.tendency_spread / tendency_weight)),
        "minimum": list(moments.minimum),
        "maximum": list(moments.maximum),
        "mean_field": list(np.where(nowhere, np.nan, moments.mean).astype(np.float32)),
        "standard_deviation_field": list(np.sqrt(variance_field).astype(np.float32)),
    }


LONG_NAMES = {
    "mean": "area-weighted mean over time",
    "standard_deviation": "area-weighted standard deviation over time and area",
    "tendency_standard_deviation": "area-weighted standard deviation of the change over one time step",
    "minimum": "smallest value",
    "maximum": "largest value",
    "mean_field": "mean over time",
    "standard_deviation_field": "standard deviation over time",
}


def compute_statistics(analysis: xr.Dataset, span: tuple[str, str] | None = None) -> xr.Dataset:
    """Compute the statistics that normalise a model, in one pass and any amount of data.

    NaN is left out point by point. Differences over a gap are no tendencies and are left out. Standard deviations divide by
    the number of values (ddof 0). Areas are WeatherBench 2's (`data_pipelines.area`).

    Parameters
    ----------
    analysis : xr.Dataset
        In the analysis store's contract, lazy or in memory; variables without the dimension `time` are left out.
    span : (str, str), optional
        First and last moment, both included, e.g. ``("2025-12-01", "2026-01-20")``; the whole store by default.

    Returns
    -------
    xr.Dataset
        Over `channel` (str, variable-major, levels as stored), float64, in the channel's units: `mean`,
        `standard_deviation`, `tendency_standard_deviation` (of the change over one time step), `minimum`, `maximum`; over
        (channel, latitude, longitude), float32: `mean_field`, `standard_deviation_field`. The coordinate `units` gives each
        channel's units; attributes say the span, the number of steps and the time step in hours.

    Raises
    ------
    ValueError
        If nothing varies in time, fewer than 2 steps lie in the span, or times do not increase.
    """
    chosen = select_span(analysis, span)
    names = list(dict.fromkeys(channel.variable for channel in channels_of(chosen)))
    if not names:
        raise ValueError(f"analysis must hold a variable with the dimension 'time'; got {list(chosen.data_vars)}.")
    step = _time_step(chosen)
    weights = cell_area_weights(chosen["latitude"].values)
    order = ("time", "level", "latitude", "longitude")
    fields = {name: chosen[name].transpose(*order, missing_dims="ignore") for name in names}
    moments = compute(*(_delayed_moments(field, step, weights) for field in fields.values()))
    rows: dict[str, list[Any]] = {}
    for (name, field), moment in zip(fields.items(), moments, strict=True):
        levels = tuple(int(level) for level in field["level"].values) if "level" in field.dims else (None,)
        new_rows = _channel_rows(name, levels, moment, weights)
        new_rows["units"] = [field.attrs.get("units", "1")] * len(levels)
        for key, values in new_rows.items():
            rows.setdefault(key, []).extend(values)
    return _as_dataset(rows, chosen, step)


def _as_dataset(rows: dict[str, list[Any]], chosen: xr.Dataset, step: np.timedelta64) -> xr.Dataset:
    channel, units = rows.pop("channel"), rows.pop("units")
    fields = {
        key: (("channel", "latitude", "longitude") if key.endswith("_field") else ("channel",), np.stack(values))
        for key, values in rows.items()
    }
    coordinates = {
        "channel": np.array(channel),
        "units": ("channel", np.array(units)),
        "latitude": chosen["latitude"].variable,
        "longitude": chosen["longitude"].variable,
    }
    time = chosen["time"].values
    attributes = {
        "title": "Statistics of an analysis, for the normalisation of models",
        "first_time": str(time[0].astype("datetime64[s]")),
        "last_time": str(time[-1].astype("datetime64[s]")),
        "steps": int(time.size),
        "time_step_hours": float(step / np.timedelta64(1, "h")),
        "area_weights": "WeatherBench 2: sin(upper edge) - sin(lower edge), midpoints and poles",
        "ddof": 0,
    }
    statistics = xr.Dataset(fields, coordinates, attributes)
    for name, text in LONG_NAMES.items():
        statistics[name].attrs = {"long_name": text, "comment": "in the channel's units"}
    return statistics
