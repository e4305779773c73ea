"""First-order conservative regridding between rectilinear global grids, as WeatherBench 2 defines it.

A target cell's value is the mean over the source cells it overlaps, weighted by the overlap. Latitude cells end at midpoints
and at the poles, longitude cells at midpoints around the globe; the overlap's area is the product of a difference in
sin(latitude) and one in longitude, so a grid needs only two small sparse matrices. Points that are NaN are left out of
the mean (google-research/weatherbench2, weatherbench2/regridding.py, `ConservativeRegridder`); how much of a cell may be NaN
is for the caller to say.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
import scipy.sparse
import xarray as xr
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray

from data_pipelines.area import latitude_edges
from data_pipelines.variables import VARIABLES

FULL_CIRCLE = 360.0
# A global grid leaves no hole wider than this many of its usual steps, and ends at most one step from a pole.
WIDEST_HOLE_IN_STEPS = 1.5
LARGEST_ROUNDING = 1e-5  # of a cell: coordinates stored as float32 overlap by that much where they only touch


def longitude_edges(longitude: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Give the west and east edges of longitude cells around the globe: midpoints between neighbours.

    Parameters
    ----------
    longitude : array_like, shape (n,)
        Degrees east, ascending around the globe; may begin anywhere (0 to 360, -180 to 180).

    Returns
    -------
    west, east : ndarray of float64, shape (n,)
        Degrees; `east[i] == west[i + 1]`, and `east[-1] == west[0] + 360`.

    Raises
    ------
    ValueError
        If there are fewer than 2 values, they do not ascend, or they span 360 degrees or more.
    """
    centres = np.asarray(longitude, dtype=np.float64)
    if centres.ndim != 1 or centres.size < 2 or not np.all(np.diff(centres) > 0):
        raise ValueError(
            f"longitude must be one-dimensional and strictly ascending with at least 2 values; got {centres}. Sort it first."
        )
    if centres[-1] - centres[0] >= FULL_CIRCLE - LARGEST_ROUNDING:
        raise ValueError(
            f"longitude must not name a meridian twice; got {centres[0]} to {centres[-1]}. Drop the column that repeats."
        )
    beyond = np.concatenate([[centres[-1] - FULL_CIRCLE], centres, [centres[0] + FULL_CIRCLE]])
    midpoints = (beyond[:-1] + beyond[1:]) / 2
    return midpoints[:-1], midpoints[1:]


def _rows_that_sum_to_one(overlap: NDArray[np.float64], smallest: float) -> scipy.sparse.csr_array:
    overlap = np.where(overlap > smallest, overlap, 0)
    return scipy.sparse.csr_array(overlap / overlap.sum(axis=1, keepdims=True))


def latitude_weights(source: ArrayLike, target: ArrayLike) -> scipy.sparse.csr_array:
    """Compute the share of each source row in each target row, by area.

    Parameters
    ----------
    source, target : array_like, shapes (n,) and (m,)
        Degrees north, either direction.

    Returns
    -------
    scipy.sparse.csr_array of float64, shape (m, n)
        Rows sum to 1.
    """
    source_sine, target_sine = (np.sin(np.deg2rad(latitude_edges(rows))) for rows in (source, target))
    source_low, source_high = np.sort([source_sine[:-1], source_sine[1:]], axis=0)
    target_low, target_high = np.sort([target_sine[:-1], target_sine[1:]], axis=0)
    overlap = np.minimum(target_high[:, None], source_high) - np.maximum(target_low[:, None], source_low)
    return _rows_that_sum_to_one(overlap, LARGEST_ROUNDING * float((target_high - target_low).min()))


def longitude_weights(source: ArrayLike, target: ArrayLike) -> scipy.sparse.csr_array:
    """Compute the share of each source column in each target column, around the globe.

    Parameters
    ----------
    source, target : array_like, shapes (n,) and (m,)
        Degrees east, ascending; each may begin anywhere.

    Returns
    -------
    scipy.sparse.csr_array of float64, shape (m, n)
        Rows sum to 1.
    """
    source_west, source_east = longitude_edges(source)
    target_west, target_east = longitude_edges(target)
    overlap = np.zeros((target_west.size, source_west.size))
    nearest = FULL_CIRCLE * np.round((target_west[0] - source_west[0]) / FULL_CIRCLE)
    for turn in (-FULL_CIRCLE, 0.0, FULL_CIRCLE):
        west, east = source_west + nearest + turn, source_east + nearest + turn
        overlap += np.maximum(np.minimum(target_east[:, None], east) - np.maximum(target_west[:, None], west), 0)
    return _rows_that_sum_to_one(overlap, LARGEST_ROUNDING * float((target_east - target_west).min()))


def _check_global(latitude: NDArray[np.float64], longitude: NDArray[np.float64], which: str) -> None:
    """Refuse a region: the outermost cells would be stretched over the rest of the globe."""
    rows = np.sort(latitude)
    columns = np.sort(longitude)
    usual_row, usual_column = np.median(np.diff(rows)), np.median(np.diff(columns))
    ends = max(rows[0] + 90, 90 - rows[-1])
    hole = max(np.diff(columns).max(), columns[0] + FULL_CIRCLE - columns[-1])
    if ends > WIDEST_HOLE_IN_STEPS * usual_row or hole > WIDEST_HOLE_IN_STEPS * usual_column:
        raise ValueError(
            f"the {which} grid must cover the globe; got latitude {rows[0]:g} to {rows[-1]:g} and longitude {columns[0]:g} to "
            f"{columns[-1]:g} in steps of {usual_row:g} and {usual_column:g} degrees. Conservative means need the whole globe."
        )


class ConservativeRegridder:
    """Means over target cells, for arrays (..., latitude, longitude).

    Parameters
    ----------
    source_latitude, source_longitude, latitude, longitude : array_like
        Degrees; latitudes in either direction, longitudes ascending from anywhere.
    least_share : float
        As in `regrid_conservative`.

    Raises
    ------
    ValueError
        If a coordinate is no grid, a grid does not cover the globe, or the share lies outside [0, 1].
    """

    def __init__(
        self,
        source_latitude: ArrayLike,
        source_longitude: ArrayLike,
        latitude: ArrayLike,
        longitude: ArrayLike,
        least_share: float = 0.0,
    ) -> None:
        if not 0 <= least_share <= 1:
            raise ValueError(f"least_share must lie in [0, 1], a part of a cell's area; got {least_share}.")
        self.least_share = min(max(least_share, LARGEST_ROUNDING), 1 - LARGEST_ROUNDING)
        for which, rows, columns in (("source", source_latitude, source_longitude), ("target", latitude, longitude)):
            latitude_edges(rows), longitude_edges(columns)  # these refuse what is no grid at all
            _check_global(np.asarray(rows, np.float64), np.asarray(columns, np.float64), which)
        self.along_latitude = latitude_weights(source_latitude, latitude)
        self.along_longitude = longitude_weights(source_longitude, longitude)

    def __call__(self, values: Float[np.ndarray, "... lat lon"]) -> Float[np.ndarray, "... newlat newlon"]:
        """Regrid; NaN is left out of the means, and a cell without any value is NaN. Sums are float64."""
        shape = (*values.shape[:-2], self.along_latitude.shape[0], self.along_longitude.shape[0])
        regridded = np.empty(shape, dtype=values.dtype)
        for index in np.ndindex(values.shape[:-2]):
            regridded[index] = self._mean_of_present(values[index].astype(np.float64))
        return regridded

    def _mean(self, field: NDArray[np.float64]) -> NDArray[np.float64]:
        along = self.along_longitude @ field.T  # (newlon, lat)
        return np.asarray(self.along_latitude @ along.T)

    def _mean_of_present(self, field: NDArray[np.float64]) -> NDArray[np.float64]:
        missing = np.isnan(field)
        if not missing.any():
            return self._mean(field)
        share = self._mean(1.0 - missing)
        total = self._mean(np.where(missing, 0, field))
        # Weights that sum to one only to rounding leave up to 1e-16 of a share where nothing is.
        return np.divide(total, share, out=np.full_like(total, np.nan), where=share > self.least_share)


def _regrid_field(
    field: xr.DataArray, regridder: ConservativeRegridder, latitude: ArrayLike, longitude: ArrayLike
) -> xr.DataArray:
    plane = ("latitude", "longitude")
    if field.chunks is not None:
        field = field.chunk(latitude=-1, longitude=-1)
    regridded: xr.DataArray = xr.apply_ufunc(
        regridder,
        field,
        input_core_dims=[plane],
        output_core_dims=[plane],
        exclude_dims=set(plane),
        dask="parallelized",
        output_dtypes=[field.dtype],
        dask_gufunc_kwargs={"output_sizes": {"latitude": np.size(latitude), "longitude": np.size(longitude)}},
        keep_attrs=True,
    )
    return regridded.transpose(*field.dims)


def _is_direction(name: Hashable) -> bool:
    return str(name) in VARIABLES and VARIABLES[str(name)].units == "degree"


def _regrid_direction(
    field: xr.DataArray, regridder: ConservativeRegridder, latitude: ArrayLike, longitude: ArrayLike
) -> xr.DataArray:
    """The direction of the mean unit vector: 359 and 1 degrees make 0, not 180."""
    east, north = (
        _regrid_field(xr.apply_ufunc(part, field, dask="allowed"), regridder, latitude, longitude) for part in (_sine, _cosine)
    )
    angle: xr.DataArray = xr.apply_ufunc(np.arctan2, east, north, dask="allowed")
    return (angle * (FULL_CIRCLE / (2 * np.pi)) % FULL_CIRCLE).astype(field.dtype).assign_attrs(field.attrs)


def _sine(degrees: Any) -> Any:
    return np.sin(np.deg2rad(degrees))


def _cosine(degrees: Any) -> Any:
    return np.cos(np.deg2rad(degrees))


def regrid_conservative(
    dataset: xr.Dataset, latitude: ArrayLike, longitude: ArrayLike, *, least_share: float = 0.0
) -> xr.Dataset:
    """Regrid every field of a dataset by area-weighted means; lazy where the dataset is.

    Equal to WeatherBench 2's `ConservativeRegridder` for global grids, NaN and poles included. Directions (unit degree, as
    wave directions) are averaged as unit vectors. Classes (soil type) come out as means: regrid them by another method.

    Parameters
    ----------
    dataset : xr.Dataset
        With the dimensions `latitude` (either direction) and `longitude` (ascending, from anywhere), covering the globe.
    latitude, longitude : array_like, shapes (m,) and (k,)
        The new coordinates in degrees, in the order wanted.
    least_share : float
        Part of a new cell's area, in [0, 1], above which values must lie for it to have one. 0, WeatherBench 2's rule, fills
        gaps from their neighbours; 1 keeps every NaN.

    Returns
    -------
    xr.Dataset
        The same variables, dtypes, order of dimensions and attributes on the new grid; variables without both
        dimensions as they were.

    Raises
    ------
    ValueError
        If a dimension is missing, a coordinate is no grid, a grid does not cover the globe, or the share lies outside [0, 1].
    """
    missing = [name for name in ("latitude", "longitude") if name not in dataset.coords]
    if missing:
        raise ValueError(
            f"dataset must have the coordinates latitude and longitude; {', '.join(missing)} is missing. Rename it."
        )
    regridder = ConservativeRegridder(dataset["latitude"].values, dataset["longitude"].values, latitude, longitude, least_share)
    fields = {}
    for name, field in dataset.data_vars.items():
        if not {"latitude", "longitude"} <= set(field.dims):
            fields[name] = field
            continue
        regrid = _regrid_direction if _is_direction(name) else _regrid_field
        fields[name] = regrid(field, regridder, latitude, longitude)
    others = {name: coord for name, coord in dataset.coords.items() if not {"latitude", "longitude"} & set(coord.dims)}
    regridded = xr.Dataset(fields, attrs=dataset.attrs).assign_coords(others)
    new = {
        "latitude": ("latitude", np.asarray(latitude), dataset["latitude"].attrs),
        "longitude": ("longitude", np.asarray(longitude), dataset["longitude"].attrs),
    }
    return regridded.assign_coords(new)
