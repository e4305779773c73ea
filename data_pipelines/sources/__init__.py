"""Sources: any store, file, folder, glob or URL -> one lazy dataset that keeps the contract.

What a file is, is read from its first bytes, not from its name: CDS gives out ZIP files called `.nc`.
"""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray as xr

from data_pipelines.accumulations import Sum, of_own_step, sum_called, sums_instead, time_step_of, with_sums
from data_pipelines.combine import Join, Piece, combine
from data_pipelines.dates import first_moment
from data_pipelines.locations import is_url, is_zarr
from data_pipelines.standardise import (
    LEFT_OUT,
    SPAN,
    MissingVariable,
    OutsideSpan,
    Selection,
    SourceError,
    meanings,
    restricted,
)

Span = tuple[np.datetime64, np.datetime64]  # first and last time

__all__ = ["Selection", "SourceError", "locations_of", "open_source", "open_sources"]


def open_source(source: str | Path, selection: Selection | None = None, *, join: Join = "exact") -> xr.Dataset:
    """Open one source lazily, in standard names, units and order.

    Parameters
    ----------
    source
        A Zarr store (local path, or a `gs://`, `s3://`, `https://` URL), a NetCDF, GRIB or ZIP file, a folder of
        such files, or a glob.
    selection
        Variables, levels, times wanted; all by default. Only the chunks asked for are read.
    join
        As in `data_pipelines.combine.combine`, for a folder whose files hold different variables.

    Returns
    -------
    Dataset with dask-backed float32 fields; its attributes `standardised` and `left_out` say what the door did.

    Raises
    ------
    SourceError
        If it is not there, is nothing that can be read, or lacks something wanted.
    """
    return open_sources([source], selection, join=join)


def open_sources(sources: Sequence[str | Path], selection: Selection | None = None, *, join: Join = "exact") -> xr.Dataset:
    """Open several sources as one: variables side by side, times one after the other.

    Every variable that is wanted must be in one of them, or be a sum over hours of one that is
    (`data_pipelines.accumulations`). Parameters, result and errors as in `open_source`.
    """
    asked = selection = selection or Selection()
    if not sources:
        raise SourceError("source is empty; give a path, a URL, a folder or a glob.")
    sums: list[Sum] = []
    while True:
        try:
            opened = _open_as_they_are(sources, asked, join)
            break
        except MissingVariable as error:
            if (wanted := sum_called(error.variable)) is None:
                raise
            sums.append(wanted)
            instead = [wanted.source if name == error.variable else name for name in asked.variables or ()]
            asked = restricted(asked, variables=list(dict.fromkeys(instead)))
    own_step = of_own_step(opened.data_vars)
    if not own_step or (asked.every is None and not sums):
        return opened
    every_step = _open_as_they_are(sources, restricted(asked, variables=own_step, start=None, every=None), join)
    names = {meaning for name in selection.variables or [] for meaning in meanings(name)}
    thinned = [name for name in own_step if selection.variables is None or name in names]
    sums += sums_instead(thinned, time_step_of(every_step), selection)
    if not sums:
        return opened
    dropped = {one.source for one in sums} - names
    return with_sums(opened, every_step, sums, [str(name) for name in opened.data_vars if name not in dropped])


def _open_as_they_are(sources: Sequence[str | Path], selection: Selection, join: Join) -> xr.Dataset:
    pieces: list[Piece] = []
    missing: dict[str, list[str]] = {}
    spans: list[Span] = []
    locations = [part for source in sources for location in locations_of(source) for part in _unpacked(location)]
    each = restricted(selection, one_of_several=len(locations) > 1)
    outside: list[OutsideSpan] = []
    for location in locations:
        try:
            opened, lacking = _open_what_it_has(location, each)
        except OutsideSpan as error:
            spans.append(error.span)
            outside.append(error)
            continue
        pieces += opened
        spans += [piece.data.attrs.pop(SPAN) for piece in opened if SPAN in piece.data.attrs]
        for name, why in lacking.items():
            missing.setdefault(name, []).append(why)
    _refuse_beyond(selection, spans, sources)
    held = {str(name) for piece in pieces for name in piece.data.data_vars}
    for one in outside:
        if not one.fields_are_in(held):
            raise one
    _refuse_missing(selection, held, missing, sources)
    combined = combine(pieces, join)
    if outside:
        note = f"{len(outside)} of {len(locations)} files hold no time of those asked for"
        combined.attrs[LEFT_OUT] = [*combined.attrs[LEFT_OUT], note]
    return combined


def _refuse_beyond(selection: Selection, spans: Sequence[Span], sources: Sequence[str | Path]) -> None:
    """Raise SourceError if the span asked for begins before, or ends after, what all sources together have."""
    if not spans:
        return
    first, last = min(span[0] for span in spans), max(span[1] for span in spans)
    listed = ", ".join(str(source) for source in sources)
    if selection.start is not None and first_moment(selection.start, "start") < first:
        raise SourceError(f"start={selection.start} is before {listed} begins: it spans {first} to {last}.")
    if selection.end is not None and first_moment(selection.end, "end") > last:
        raise SourceError(f"end={selection.end} is after {listed} ends: it spans {first} to {last}.")


def _open_what_it_has(location: str | Path, selection: Selection) -> tuple[list[Piece], dict[str, str]]:
    """Open one location with those of the wanted variables that it holds; also say what it lacks, and why."""
    wanted = selection
    lacking: dict[str, str] = {}
    while True:
        try:
            return _open_location(location, wanted), lacking
        except MissingVariable as error:
            lacking[error.variable] = str(error)
            rest = [name for name in wanted.variables or () if name != error.variable]
            if not rest:
                return [], lacking
            wanted = restricted(wanted, variables=rest)


def _refuse_missing(selection: Selection, held: set[str], missing: dict[str, list[str]], sources: Sequence[str | Path]) -> None:
    for name in selection.variables or ():
        if not held & set(meanings(name)):
            reasons = missing.get(name, [])
            if len(reasons) == 1:
                raise MissingVariable(reasons[0], name)
            raise MissingVariable(
                f"variable {name} is missing: wanted were {list(selection.variables or ())}; "
                f"{', '.join(str(s) for s in sources)} "
                f"hold {sorted(held)}. Choose from these with variables=..., or add a source that has it.",
                name,
            )


def locations_of(source: str | Path) -> list[str | Path]:
    """The stores and files that a path, folder, glob or URL names, in alphabetical order.

    Raises
    ------
    SourceError
        If nothing is there.
    """
    if is_url(source):
        return [str(source)]
    path = Path(source)
    if path.is_dir():
        return [path] if is_zarr(path) else _files_in(path)
    if path.exists():
        return [path]
    matches = sorted(glob.glob(str(source), recursive=True))
    if not matches:
        raise SourceError(f"source {source} does not exist: no file, folder or store is there and no file matches it.")
    return [Path(match) for match in matches]


def _files_in(folder: Path) -> list[str | Path]:
    found: list[str | Path] = []
    for child in sorted(folder.iterdir()):
        if child.is_dir():
            if is_zarr(child):
                found.append(child)
        elif _format_of(child) is not None:
            found.append(child)
    if not found:
        raise SourceError(f"folder {folder} holds no Zarr store and no NetCDF, GRIB or ZIP file.")
    return found


def _unpacked(location: str | Path) -> list[str | Path]:
    """A location, or the files in it where it is a ZIP file."""
    if is_url(location) or Path(location).is_dir() or _format_of(Path(location)) != "zip":
        return [location]
    from data_pipelines.sources.netcdf import unpack

    return [part for member in unpack(Path(location)) for part in _unpacked(member)]


def _open_location(location: str | Path, selection: Selection) -> list[Piece]:
    from data_pipelines.sources import grib, netcdf, zarr

    if is_url(location) or Path(location).is_dir():
        return [zarr.open_zarr_source(location, selection)]
    path = Path(location)
    kind = _format_of(path)
    if kind == "netcdf":
        return [netcdf.open_netcdf_source(path, selection)]
    if kind == "grib":
        return grib.open_grib_source(path, selection)
    raise SourceError(f"{path} is no Zarr store and no NetCDF, GRIB or ZIP file: {_first_bytes(path)}.")


def _format_of(path: Path) -> str | None:
    """What a file is, by its first bytes."""
    with path.open("rb") as file:
        start = file.read(8)
    if start.startswith(b"\x89HDF") or start[:3] == b"CDF":
        return "netcdf"
    if start.startswith(b"GRIB"):
        return "grib"
    return "zip" if start.startswith(b"PK\x03\x04") else None


def _first_bytes(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(8)
    return f"it begins with {start!r}" if start else "it is empty"
