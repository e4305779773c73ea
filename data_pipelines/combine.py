"""Several standardised datasets -> one: months joined in time, levels in height, variables side by side.

Nothing is filled in: pieces must fit, or the error says where they do not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import xarray as xr

from data_pipelines.standardise import LEFT_OUT, NOTES, SourceError, same_levels
from data_pipelines.variables import canonical_order

Join = Literal["exact", "inner"]


@dataclass(frozen=True)
class Piece:
    """A standardised dataset and what to call it in messages."""

    origin: str
    data: xr.Dataset


def combine(pieces: Sequence[Piece], join: Join = "exact") -> xr.Dataset:
    """Combine pieces that hold different times, different levels or different variables.

    Parameters
    ----------
    pieces
        Standardised datasets.
    join
        What to do where different variables come at different times: "exact" refuses, "inner" keeps the times
        that all of them have.

    Raises
    ------
    SourceError
        If grids, levels or times do not fit; with both spans where times do not.
    """
    if not pieces:
        raise SourceError("nothing to combine: no dataset was given.")
    if len(pieces) == 1:
        return pieces[0].data
    _same_grid(pieces)
    pieces = [_in_levels(group) for group in _grouped([_in_time(group) for group in _grouped(pieces, with_levels=True)])]
    _disjoint(pieces)
    pieces = _same_times(pieces, join)
    fields = {name: piece.data[name] for piece in pieces for name in canonical_order(str(v) for v in piece.data.data_vars)}
    same_levels(fields, " + ".join(piece.origin for piece in pieces))
    expver = next((piece.data["expver"] for piece in pieces if "expver" in piece.data.coords), None)
    merged = xr.merge([piece.data.reset_coords(drop=True) for piece in pieces], join="exact", combine_attrs="override")
    merged = merged[canonical_order(str(name) for name in merged.data_vars)]
    if expver is not None:
        merged = merged.assign_coords(expver=("time", expver.values))
    merged.attrs = _attributes([piece.data for piece in pieces])
    return merged


def _same_grid(pieces: Sequence[Piece]) -> None:
    first = pieces[0]
    for piece in pieces[1:]:
        for axis in ("latitude", "longitude"):
            if not np.array_equal(first.data[axis].values, piece.data[axis].values):
                raise SourceError(
                    f"grids differ: {first.origin} has {grid_text(first.data)}, {piece.origin} has "
                    f"{grid_text(piece.data)}. Bring one to "
                    "the other's grid first (build each with grid=...)."
                )


def grid_text(dataset: xr.Dataset) -> str:
    """A grid in a few words: `73 x 144, latitude 90 to -90, longitude 0 to 357.5`."""
    latitude, longitude = dataset["latitude"].values, dataset["longitude"].values
    return (
        f"{latitude.size} x {longitude.size}, latitude {latitude[0]:g} to {latitude[-1]:g}, "
        f"longitude {longitude[0]:g} to {longitude[-1]:g}"
    )


def _grouped(pieces: Sequence[Piece], with_levels: bool = False) -> list[list[Piece]]:
    """Pieces that hold the same variables (on the same levels)."""
    groups: dict[tuple[object, ...], list[Piece]] = {}
    for piece in pieces:
        levels = tuple(piece.data["level"].values.tolist()) if with_levels and "level" in piece.data.dims else ()
        groups.setdefault((tuple(sorted(str(name) for name in piece.data.data_vars)), levels), []).append(piece)
    return list(groups.values())


def _in_time(group: Sequence[Piece]) -> Piece:
    """The same variables on the same levels: one after the other in time."""
    if len(group) == 1:
        return group[0]
    origin = f"{group[0].origin} ... {group[-1].origin}"
    if "time" not in group[0].data.dims:
        return group[0]
    data = [piece.data for piece in group]
    if any("expver" in part.coords for part in data):
        data = [
            part if "expver" in part.coords else part.assign_coords(expver=("time", ["unknown"] * part.sizes["time"]))
            for part in data
        ]
    joined = xr.concat(
        data, dim="time", data_vars="minimal", coords="minimal", compat="override", join="exact", combine_attrs="override"
    )
    times = joined["time"].values
    if (np.diff(times) < np.timedelta64(0, "ns")).any():
        joined = joined.isel(time=np.argsort(times, kind="stable"))
    joined.attrs = _attributes(data)
    return Piece(origin, joined)


def _in_levels(group: Sequence[Piece]) -> Piece:
    """The same variables on different levels: one above the other."""
    if len(group) == 1:
        return group[0]
    origin = " + ".join(piece.origin for piece in group)
    levels = np.concatenate([piece.data["level"].values for piece in group])
    if len(np.unique(levels)) != levels.size:
        raise SourceError(
            f"levels overlap: {origin} hold {sorted(levels.tolist())} hPa. Leave one of them out, or choose levels=..."
        )
    group = _same_times(group, "exact")
    data = [piece.data for piece in group]
    joined = xr.concat(
        data, dim="level", data_vars="minimal", coords="minimal", compat="override", join="exact", combine_attrs="override"
    ).sortby("level")
    joined.attrs = _attributes(data)
    return Piece(origin, joined)


def _disjoint(pieces: Sequence[Piece]) -> None:
    seen: dict[str, str] = {}
    for piece in pieces:
        for name in piece.data.data_vars:
            if str(name) in seen:
                raise SourceError(
                    f"variable {name} is in {seen[str(name)]} and in {piece.origin}, which hold different sets of "
                    "variables. Choose with "
                    "variables=..., or build them one by one."
                )
            seen[str(name)] = piece.origin


def _same_times(pieces: Sequence[Piece], join: Join) -> list[Piece]:
    timed = [piece for piece in pieces if "time" in piece.data.dims]
    if len(timed) < 2 or all(np.array_equal(timed[0].data["time"].values, piece.data["time"].values) for piece in timed[1:]):
        return list(pieces)
    listed = "; ".join(f"{piece.origin} {_span_text(piece.data)}" for piece in timed)
    if join == "exact":
        raise SourceError(
            f"times differ between sources: {listed}. Choose a span that all have with start=... end=... every=..., or "
            "keep the "
            "times that all have with join=inner."
        )
    common = timed[0].data["time"].values
    for piece in timed[1:]:
        common = np.intersect1d(common, piece.data["time"].values)
    if common.size == 0:
        raise SourceError(f"no time is common to all sources: {listed}.")
    note = f"times joined: {common.size} steps that all sources have are kept ({listed})"
    kept: list[Piece] = []
    for piece in pieces:
        if "time" not in piece.data.dims:
            kept.append(piece)
            continue
        data = piece.data.isel(time=np.flatnonzero(np.isin(piece.data["time"].values, common)))
        data.attrs = {**piece.data.attrs, NOTES: [*piece.data.attrs.get(NOTES, []), note]}
        kept.append(Piece(piece.origin, data))
    return kept


def _span_text(dataset: xr.Dataset) -> str:
    times = dataset["time"].values
    return f"{np.datetime_as_string(times[0], 'm')} to {np.datetime_as_string(times[-1], 'm')} ({times.size} steps)"


def _attributes(datasets: Sequence[xr.Dataset]) -> dict[str, object]:
    """Sentences of all, each once; other attributes where all agree, else all values joined."""
    out: dict[str, object] = {}
    for key in (NOTES, LEFT_OUT):
        out[key] = list(dict.fromkeys(sentence for data in datasets for sentence in data.attrs.get(key, [])))
    for key in dict.fromkeys(str(key) for data in datasets for key in data.attrs):
        if key not in out:
            out[key] = "; ".join(dict.fromkeys(str(data.attrs[key]) for data in datasets if key in data.attrs))
    return out
