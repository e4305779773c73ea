"""Halo rows and columns of a latitude-longitude field, as the sphere has them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def pad_sphere(
    x: Float[Tensor, "batch channel *time lat lon"],
    north: int,
    west: int,
    *,
    south: int | None = None,
    east: int | None = None,
    has_poles: bool,
    odd_channels: Float[Tensor, " channel"] | None = None,
) -> Float[Tensor, "batch channel *time padded_lat padded_lon"]:
    """Extend a global field beyond its edges: around in longitude, over the poles in latitude.

    The row beyond a pole is the row on this side of it, half-way around the globe.

    Parameters
    ----------
    x
        Rows from pole to pole (either direction), columns once around the globe.
    north, west, south, east
        Rows before and after, columns before and after; `south` and `east` are `north` and `west`
        unless given.
    has_poles
        Whether the first and last rows are the poles themselves (73, 121, 721 rows); they are then
        not repeated. Otherwise the poles lie half a cell beyond (32, 120, 720 rows).
    odd_channels
        +1 or -1 for each channel: -1 for raw components of a vector (u, v), whose direction turns
        over at the pole. Scalars, vorticity and divergence included, and latent channels keep their sign.

    Raises
    ------
    ValueError
        If the number of columns is odd (half-way around would fall between columns) or the halo is
        larger than the field.
    """
    south = north if south is None else south
    east = west if east is None else east
    check_halo(x.shape, max(north, south), max(west, east), has_poles=has_poles)
    rows, columns = x.shape[-2:]
    if north or south:
        first = int(has_poles)
        over_north = x[..., first : first + north, :].flip(-2).roll(columns // 2, -1)
        over_south = x[..., rows - first - south : rows - first, :].flip(-2).roll(columns // 2, -1)
        if odd_channels is not None:
            sign = odd_channels.view(-1, 1, 1).to(x.dtype)
            over_north, over_south = over_north * sign, over_south * sign
        x = torch.cat([over_north, x, over_south], dim=-2)
    if west or east:
        x = torch.cat([x[..., columns - west :], x, x[..., :east]], dim=-1)
    return x


def check_halo(shape: Sequence[int], rows: int, columns: int, *, has_poles: bool) -> None:
    """Raise ValueError if a field of `shape` is too small for a halo of `rows` and `columns` or has no half-way around."""
    there_rows, there_columns = shape[-2:]
    if rows > there_rows - has_poles or columns > there_columns:
        raise ValueError(
            f"a halo of {rows} rows and {columns} columns does not fit a field of {there_rows} x {there_columns}; "
            "use a smaller kernel, a smaller patch or a finer grid."
        )
    if rows and there_columns % 2:
        raise ValueError(f"longitude must have an even number of points to look across the pole; got {there_columns}.")
