"""NetCDF sources: the new and the legacy CDS layout, CF files of others, and CDS's ZIP of two files."""

from __future__ import annotations

import atexit
import shutil
import tempfile
import warnings
import zipfile
from pathlib import Path, PureWindowsPath

import xarray as xr

from data_pipelines.combine import Piece
from data_pipelines.standardise import Selection, SourceError, standardise

_UNREADABLE = "is truncated or no NetCDF file that can be read ({reason}). Download or copy it again."


def open_netcdf_source(path: Path, selection: Selection) -> Piece:
    """Open a NetCDF file lazily.

    Raises
    ------
    SourceError
        If the file is damaged or lacks something wanted.
    """
    try:
        with warnings.catch_warnings():
            # Packed files with several fill values: each of them is masked, which is what is wanted.
            warnings.filterwarnings("ignore", category=xr.SerializationWarning)
            raw = xr.open_dataset(path, engine="netcdf4", chunks=None, decode_timedelta=False)
    except (OSError, ValueError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise SourceError(f"{path} {_UNREADABLE.format(reason=reason)}") from error
    return Piece(path.name, standardise(raw, selection, origin=path.name))


def unpack(path: Path) -> list[Path]:
    """Unpack a ZIP file into a temporary folder that goes when the program ends.

    Raises
    ------
    SourceError
        If the file is damaged or empty, or a member's name leads out of the folder; then nothing is unpacked.
    """
    folder = Path(tempfile.mkdtemp(prefix="skysolve_unpacked_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    try:
        with zipfile.ZipFile(path) as archive:
            names = [info for info in archive.infolist() if not info.is_dir()]
            _refuse_leading_out(path, names)
            members = [Path(archive.extract(info, folder)) for info in names]
    except (zipfile.BadZipFile, EOFError, ValueError) as error:
        raise SourceError(f"{path} is a truncated or damaged ZIP file ({error}). Download it again.") from error
    if not members:
        raise SourceError(f"{path} is a ZIP file that holds no file.")
    return sorted(members)


def _refuse_leading_out(path: Path, members: list[zipfile.ZipInfo]) -> None:
    """Windows' rules also know POSIX's separator and root, so that a name means the same on every system."""
    for member in members:
        name = PureWindowsPath(member.filename)
        if name.anchor or ".." in name.parts:
            raise SourceError(
                f"{path} holds a member called {member.filename!r}, which leads out of the folder that it is unpacked into; "
                "nothing was unpacked. The Climate Data Store makes no such file: download it again from there."
            )
