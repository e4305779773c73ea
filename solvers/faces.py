"""Coefficients of the faces between cells: which are open, and how wide."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from solvers.boundary import DIRICHLET, PERIODIC, Sides
from solvers.cells import AIR, FLUID, SOLID


def along(axis: int, index: slice | int, dimensions: int) -> tuple[slice | int, ...]:
    """Index that takes `index` on one axis and all of the others."""
    return tuple(index if other == axis else slice(None) for other in range(dimensions))


def beyond(xp: Any, array: Any, axis: int, sides: tuple[str, str], outside: tuple[Any, Any]) -> Any:
    """`array` with one more layer at both ends of `axis`: wrapped where periodic, `outside` where not."""
    dimensions = array.ndim
    first, last = (array[along(axis, index, dimensions)] for index in (slice(0, 1), slice(-1, None)))
    low, high = (last, first) if PERIODIC in sides else (xp.full_like(first, outside[0]), xp.full_like(last, outside[1]))
    return xp.concatenate([low, array, high], axis=axis)


def open_faces(xp: Any, cells: Any, sides: Sides) -> list[Any]:
    """For each axis, whether flux passes each of its faces: FLUID on one side at least, SOLID on none.

    Face i of an axis lies below cell i, so an axis of n cells has n + 1 faces.
    """
    masks = []
    for axis, kinds in enumerate(sides):
        low_kind, high_kind = (AIR if kind == DIRICHLET else SOLID for kind in kinds)
        around = beyond(xp, cells, axis, kinds, (low_kind, high_kind))
        low, high = (around[along(axis, part, cells.ndim)] for part in (slice(None, -1), slice(1, None)))
        masks.append(((low == FLUID) | (high == FLUID)) & (low != SOLID) & (high != SOLID))
    return masks


def checked_faces(
    xp: Any, name: str, values: Sequence[Any] | None, shape: tuple[int, ...], sides: Sides, highest: float
) -> list[Any] | None:
    """Face arrays as float64, one for each axis; None stays None.

    Raises
    ------
    ValueError
        If their number or a shape does not fit, a value is out of [0, highest] or not finite, or the two ends of a
        periodic axis differ.
    """
    if values is None:
        return None
    if len(values) != len(shape):
        raise ValueError(f"{name} must hold {len(shape)} arrays, one for each axis; got {len(values)}.")
    checked = []
    for axis, value in enumerate(values):
        array = xp.asarray(value, dtype=np.float64)
        wanted = tuple(n + (axis == other) for other, n in enumerate(shape))
        if array.shape != wanted:
            raise ValueError(
                f"{name}[{axis}] must have shape {wanted}, one face more than cells on axis {axis}; got {array.shape}."
            )
        if not bool(xp.isfinite(array).all()) or bool((array < 0).any()) or bool((array > highest).any()):
            raise ValueError(
                f"{name}[{axis}] must lie in [0, {highest:g}] and be finite; its range is [{array.min()}, {array.max()}]."
            )
        ends = [array[along(axis, index, len(shape))] for index in (0, -1)]
        if PERIODIC in sides[axis] and not bool((ends[0] == ends[1]).all()):
            raise ValueError(f"{name}[{axis}] must be the same at both ends of axis {axis}, which is periodic: it is one face.")
        checked.append(array)
    return checked
