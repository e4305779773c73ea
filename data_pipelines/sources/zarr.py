"""Zarr sources: WeatherBench 2, ARCO-ERA5 or anybody's store, local or in an object store.

Only the chunks of the wanted variables and times are read: nothing but metadata and coordinates when it is opened.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import xarray as xr

from data_pipelines.combine import Piece
from data_pipelines.locations import zarr_store
from data_pipelines.standardise import Selection, SourceError, standardise


def open_zarr_source(location: str | Path, selection: Selection) -> Piece:
    """Open a Zarr store, format 2 or 3, by path or URL.

    Raises
    ------
    SourceError
        If there is no Zarr group, or it lacks something wanted.
    """
    try:
        with warnings.catch_warnings():
            # About consolidated metadata that a store has not, or has against the specification: both are read.
            warnings.simplefilter("ignore")
            raw = xr.open_zarr(zarr_store(location), chunks=None, decode_timedelta=False)
    except ImportError:
        raise
    except Exception as error:  # object stores raise classes of their own
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise SourceError(
            f"{location} cannot be opened as a Zarr store ({type(error).__name__}: {reason}). Check the path or URL, "
            "and for a private "
            "bucket the credentials in the environment."
        ) from error
    return Piece(str(location), standardise(raw, selection, origin=str(location)))
