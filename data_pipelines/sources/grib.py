"""GRIB sources through cfgrib: editions 1 and 2, files of mixed level types split into one dataset each.

No index file is written: `.idx` files beside a user's data go stale and litter read-only archives.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import BinaryIO

import xarray as xr

from data_pipelines.combine import Piece
from data_pipelines.standardise import (
    LEFT_OUT,
    MissingVariable,
    OtherMember,
    OutsideSpan,
    Selection,
    SourceError,
    restricted,
    standardise,
)


def open_grib_source(path: Path, selection: Selection) -> list[Piece]:
    """Open a GRIB file lazily; one piece per set of messages that form a hypercube.

    Raises
    ------
    SourceError
        If the file is damaged or nothing wanted is in it.
    ImportError
        If cfgrib is not installed.
    """
    pieces: list[Piece] = []
    problems: list[SourceError] = []
    wanted = set(selection.variables or ())
    found: set[str] = set()
    parts = _open_parts(path)
    for part in parts:
        origin = f"{path.name} ({_level_type(part)})" if len(parts) > 1 else path.name
        asked = selection
        while True:
            try:
                pieces.append(Piece(origin, standardise(part, asked, origin=origin)))
                found |= set(asked.variables or ())
            except MissingVariable as error:
                rest = [name for name in asked.variables or () if name != error.variable]
                problems.append(error)
                if rest:
                    asked = restricted(asked, variables=rest)
                    continue
            except SourceError as error:
                if len(parts) == 1 or (_holds_wanted(part, wanted) and not isinstance(error, OtherMember | OutsideSpan)):
                    raise
                problems.append(error)
            break
    outside = next((problem for problem in problems if isinstance(problem, OutsideSpan)), None)
    if outside is not None and not pieces:
        raise outside
    if wanted - found:
        missing = sorted(wanted - found)[0]
        raise MissingVariable(
            f"variable {missing} is missing: wanted were {sorted(wanted)}; {path.name} has "
            f"{sorted({str(name) for part in parts for name in part.data_vars})} (GRIB short names). Choose with variables=...",
            missing,
        )
    if not pieces:
        raise problems[0]
    unused = [str(problem) for problem in problems if not isinstance(problem, MissingVariable)]
    first = pieces[0].data
    first.attrs[LEFT_OUT] = [*first.attrs[LEFT_OUT], *unused]
    return pieces


def _holds_wanted(part: xr.Dataset, wanted: set[str]) -> bool:
    from data_pipelines.standardise import meanings

    return any(set(meanings(str(name))) & {m for want in wanted for m in meanings(want)} for name in part.data_vars)


def _open_parts(path: Path) -> list[xr.Dataset]:
    try:
        import cfgrib
        import eccodes
    except ImportError as error:
        raise ImportError(f"reading {path} needs the package cfgrib; install it with: pip install 'skysolve[grib]'") from error
    _refuse_truncated(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return list(cfgrib.open_datasets(str(path), backend_kwargs={"indexpath": ""}))
    except (OSError, ValueError, KeyError, EOFError, eccodes.CodesInternalError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise SourceError(f"{path} cannot be read as GRIB ({reason}). Download or copy it again.") from error


def _refuse_truncated(path: Path) -> None:
    """Walk over the messages by their stated lengths: cfgrib would skip a cut one without a word."""
    size = path.stat().st_size
    with path.open("rb") as file:
        position = 0
        while position + _HEADER <= size:
            file.seek(position)
            header = file.read(_HEADER)
            if not header.startswith(b"GRIB"):
                position = _next_message(file, position + 1)
                continue
            length = _message_length(header)
            if length is None:
                return
            end = position + length
            file.seek(end - 4)
            if end > size or file.read(4) != b"7777":
                raise SourceError(
                    f"{path} is truncated or damaged: the GRIB message at byte {position} should end at byte {end}, the "
                    "file has "
                    f"{size}. Download or copy it again."
                )
            position = end


_HEADER = 16  # bytes that hold the length of a message in either edition
_LARGE_MESSAGE = 0x800000  # edition 1 marks messages above 8 MiB so, and hides their length elsewhere


def _message_length(header: bytes) -> int | None:
    """Length in bytes as the message states it; None where edition 1 cannot say it plainly."""
    if header[7] == 2:
        return int.from_bytes(header[8:16], "big")
    length = int.from_bytes(header[4:7], "big")
    return None if length >= _LARGE_MESSAGE else length


def _next_message(file: BinaryIO, position: int) -> int:
    """The place of the next message after padding; beyond the end of the file if there is none."""
    file.seek(position)
    found = file.read().find(b"GRIB")
    return position + found if found >= 0 else file.tell()


def _level_type(part: xr.Dataset) -> str:
    types = {str(array.attrs.get("GRIB_typeOfLevel", "unknown level")) for array in part.data_vars.values()}
    return ", ".join(sorted(types))
