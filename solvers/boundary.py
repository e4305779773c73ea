"""What lies behind the faces of the box: Dirichlet, Neumann or periodic, each axis and side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

DIRICHLET, NEUMANN, PERIODIC = "dirichlet", "neumann", "periodic"
KINDS = (DIRICHLET, NEUMANN, PERIODIC)

Sides: TypeAlias = tuple[tuple[str, str], ...]
BoundaryArgument: TypeAlias = str | Sequence[str | tuple[str, str]]


def box_sides(boundary: BoundaryArgument, dimensions: int) -> Sides:
    """Spell out `boundary` as (low, high) for each axis.

    Parameters
    ----------
    boundary
        One kind for all faces; or for each axis one kind, or a pair (low, high).
    dimensions
        2 or 3.

    Raises
    ------
    ValueError
        If there is another number of axes, an unknown kind, or an axis that is periodic on one side only.
    """
    axes = [boundary] * dimensions if isinstance(boundary, str) else list(boundary)
    if len(axes) != dimensions:
        raise ValueError(f"boundary must name {dimensions} axes, one of each of cells; got {len(axes)}: {boundary!r}.")
    sides = tuple((axis, axis) if isinstance(axis, str) else tuple(axis) for axis in axes)
    for axis, pair in enumerate(sides):
        if len(pair) != 2 or not set(pair) <= set(KINDS):
            raise ValueError(f"boundary of axis {axis} must be one of {KINDS} or a pair of them; got {pair!r}.")
        if pair.count(PERIODIC) == 1:
            raise ValueError(f"boundary of axis {axis} is periodic on one side only: {pair!r}. Make both sides periodic.")
    return sides  # type: ignore[return-value]  # pairs were checked
