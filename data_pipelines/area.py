"""Area of grid cells on the sphere, in the definition that WeatherBench 2 scores with.

A cell reaches to the midpoints between neighbouring latitudes; the first and the last cell of a global grid reach to the
poles. Of a grid that ends further from a pole than its step is wide (a region), the last cell reaches as far out as in:
WeatherBench 2's own code lets it reach to the pole there too, so that one row outweighs all others. A cell's weight
is sin(upper edge) - sin(lower edge), divided by the mean over latitudes (google-research/weatherbench2
weatherbench2/metrics.py, `_latitude_cell_bounds` and `get_lat_weights`). Pole rows therefore count as the small caps that
they are; cos(latitude) would give them nothing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

# Latitudes stored as float32 or rounded decimals may pass a pole by a rounding error; more than this is not a latitude.
POLE_TOLERANCE_DEGREES = 1e-4


def latitude_edges(latitude: ArrayLike) -> NDArray[np.float64]:
    """Give the edges of latitude cells: midpoints between neighbours, and the two poles where the grid reaches them.

    Parameters
    ----------
    latitude : array_like, shape (n,)
        Cell centres in degrees north, strictly ascending or strictly descending.

    Returns
    -------
    ndarray of float64, shape (n + 1,)
        Edges in degrees north, in the direction of `latitude`.

    Raises
    ------
    ValueError
        If `latitude` is not one-dimensional, holds fewer than two values, is not strictly monotone, or leaves [-90, 90].
    """
    centres = np.asarray(latitude, dtype=np.float64)
    if centres.ndim != 1 or centres.size < 2:
        raise ValueError(
            f"latitude must be one-dimensional with at least 2 values, because cells end midway between neighbours; "
            f"got shape {centres.shape}. Pass the coordinate of a whole global grid."
        )
    steps = np.diff(centres)
    if not (np.all(steps > 0) or np.all(steps < 0)):
        raise ValueError(
            f"latitude must be strictly ascending or strictly descending without NaN; got {centres[:3]} ... {centres[-3:]}. "
            f"Sort it first."
        )
    if np.abs(centres).max() > 90 + POLE_TOLERANCE_DEGREES:
        raise ValueError(
            f"latitude must lie in [-90, 90] degrees; got {centres.min()} to {centres.max()}. "
            f"Check that latitude and longitude are not swapped and that the unit is degrees, not radians."
        )
    pole = 90.0 if steps[0] > 0 else -90.0
    midpoints = (centres[:-1] + centres[1:]) / 2
    first, last = _outer_edge(centres[0], -steps[0], -pole), _outer_edge(centres[-1], steps[-1], pole)
    return np.concatenate([[first], midpoints, [last]])


def _outer_edge(centre: float, outward: float, pole: float) -> float:
    """The pole where it is no further than a step, else half a step outward."""
    return pole if abs(pole - centre) <= abs(outward) + POLE_TOLERANCE_DEGREES else centre + outward / 2


def cell_area_weights(latitude: ArrayLike) -> NDArray[np.float64]:
    """Give each latitude's cell area, normalised to mean 1, as WeatherBench 2 does.

    Parameters
    ----------
    latitude : array_like, shape (n,)
        Cell centres in degrees north, strictly ascending or strictly descending.

    Returns
    -------
    ndarray of float64, shape (n,)
        Area weights with mean 1, in the order of `latitude`.

    Raises
    ------
    ValueError
        As `latitude_edges`.

    Examples
    --------
    >>> cell_area_weights([90, 0, -90]).round(6)
    array([0.43934 , 2.12132 , 0.43934 ])
    """
    areas = np.abs(np.diff(np.sin(np.deg2rad(latitude_edges(latitude)))))
    return np.asarray(areas / areas.mean(), dtype=np.float64)
