"""Tracks: the series of frames in time of which training windows are cut.

A state is a state: an analysis is one track, whose times are dates; a wave store is one track for every sample, whose
times count from the start of the record. No window crosses from one track to the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr
from jaxtyping import Float32
from numpy.typing import NDArray

from data_pipelines.contracts import contract_of
from data_pipelines.dates import time_slice
from data_pipelines.frames import DatasetReader, Reader, StoreReader, is_raw
from data_pipelines.store import load_checked, open_store
from data_pipelines.variables import Channel

SECOND = 10**9  # ns


@dataclass(frozen=True)
class Track:
    """One series of frames.

    Attributes
    ----------
    dataset
        Where it comes from, for times, grid and messages.
    reader
        Gives its frames.
    time
        datetime64[ns] of an analysis; timedelta64[ns] since the start of a simulation, exactly equally spaced.
    sample
        Number of the simulation; -1 for an analysis.
    static
        The fields asked for that do not change along it.
    """

    dataset: xr.Dataset
    reader: Reader
    time: NDArray[np.datetime64] | NDArray[np.timedelta64]
    sample: int
    static: Float32[np.ndarray, "static lat lon"]

    def inside(self, span: tuple[str, str] | tuple[float, float] | None) -> NDArray[np.bool_]:
        """Which steps lie in a span, both ends included: dates for an analysis, seconds for a simulation."""
        place = xr.DataArray(np.arange(self.time.size), {"time": self.dataset["time"].values}, ("time",))
        kept = np.zeros(self.time.size, dtype=bool)
        if span is None:
            return ~kept
        labels = time_slice(*span, ("span", "span"), ValueError) if isinstance(span[0], str) else slice(*span)
        kept[place.sel(time=labels).values] = True
        return kept


def open_tracks(
    source: xr.Dataset | str | Path, channels: Sequence[Channel], static: Sequence[str] = ()
) -> tuple[xr.Dataset, list[Track]]:
    """Open a store by its path, or take a dataset as it is, and list its tracks.

    Parameters
    ----------
    source
        Analysis or wave store (path or URL; read fastest), or a dataset that keeps one of their contracts.
    channels
        What the readers give, in this order.
    static
        Names of fields without time that go with every window, e.g. ``["wave_speed", "mask"]``; kept in memory.

    Raises
    ------
    StoreError
        If the path is no store.
    ValueError
        If a channel or a static field is missing, or one of them varies in time.
    """
    dataset = source if isinstance(source, xr.Dataset) else open_store(source)
    raw = not isinstance(source, xr.Dataset) and is_raw(dataset, channels)
    reader = StoreReader(str(source), dataset, channels) if raw else DatasetReader(dataset, channels)
    time = time_axis(dataset)
    fixed = _static(dataset, static)
    if contract_of(dataset).lead == "time":
        return dataset, [Track(dataset, reader, time, -1, fixed)]
    samples = [int(sample) for sample in dataset["sample"].values]
    return dataset, [Track(dataset, reader.of_sample(at), time, number, fixed[at]) for at, number in enumerate(samples)]


def time_axis(dataset: xr.Dataset) -> NDArray[np.datetime64] | NDArray[np.timedelta64]:
    """Times that can be counted in steps: dates, or the time since the start [ns] in steps that are equal to the bit."""
    values = dataset["time"].values
    if values.dtype.kind == "M":
        return values.astype("datetime64[ns]")
    step = round((values[-1] - values[0]) / max(values.size - 1, 1) * SECOND)
    return (round(values[0] * SECOND) + np.arange(values.size) * step).astype("timedelta64[ns]")


def _static(dataset: xr.Dataset, names: Sequence[str]) -> Float32[np.ndarray, "*sample static lat lon"]:
    contract = contract_of(dataset)
    missing = [name for name in names if name not in dataset.data_vars or "time" in dataset[name].dims]
    if missing:
        fixed = [str(name) for name, array in dataset.data_vars.items() if "time" not in array.dims]
        raise ValueError(f"static has {missing}, which must be fields without time; the store has {fixed}.")
    samples = tuple(dataset.sizes[dim] for dim in ("sample",) if dim in dataset.dims)
    shape = (*samples, len(names), *(dataset.sizes[dim] for dim in contract.plane))
    out = np.empty(shape, dtype=np.float32)
    loaded = load_checked(dataset[list(names)])
    for slot, name in enumerate(names):
        out[..., slot, :, :] = loaded[name].transpose(*contract.dims, missing_dims="ignore").values
    return out
