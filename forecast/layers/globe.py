"""What a layer sees beyond the rows that it is given: the one place that knows whether a process has the whole globe.

`WHOLE` has all rows and continues them around the sphere. A `Band` has some of them, and gets the others that a layer needs
from the processes that have them (halo exchange): the bands of one field lie one below the other, each on one process of a
group. Layers ask their `globe` and are the same for both.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol, runtime_checkable

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from forecast.layers.spherical_padding import check_halo, pad_sphere

Field = Float[Tensor, "batch channel lat lon"]


class WholeGlobe:
    """All rows are here."""

    def pad(
        self,
        x: Float[Tensor, "batch channel lat lon"],
        north: int,
        west: int,
        *,
        south: int | None = None,
        east: int | None = None,
        has_poles: bool,
        odd_channels: Float[Tensor, " channel"] | None = None,
    ) -> Float[Tensor, "batch channel padded_lat padded_lon"]:
        """As `pad_sphere`."""
        return pad_sphere(x, north, west, south=south, east=east, has_poles=has_poles, odd_channels=odd_channels)

    def extend(
        self, x: Float[Tensor, "batch channel lat lon"], rows: int, *, has_poles: bool
    ) -> Float[Tensor, "batch channel more_lat lon"]:
        """Add what a filter that continues rows over the poles itself needs: nothing."""
        check_halo(x.shape, rows, rows, has_poles=has_poles)
        return x

    def trim(self, x: Float[Tensor, "batch channel lat lon"], rows: int) -> Float[Tensor, "batch channel fewer_lat lon"]:
        """Remove what `extend` added."""
        return x

    def crop(
        self, x: Float[Tensor, "batch channel lat lon"], before: int, after: int
    ) -> Float[Tensor, "batch channel fewer_lat lon"]:
        """The field without its first and last rows; borders between bands move south by `before`."""
        return x[..., before : x.shape[-2] - after, :]


class Band(WholeGlobe):
    """A latitude band of a field whose other bands are on the other processes of a group.

    Parameters
    ----------
    borders
        Rows at which bands begin, north to south, and the number of rows of the globe last.
    number
        Which band is here: this process's rank in the group.
    group
        The processes of torch.distributed that have the bands, in order; None for all there are.
    """

    def __init__(self, borders: Sequence[int], number: int, group: Any = None) -> None:
        if list(borders) != sorted(set(borders)) or borders[0] != 0:
            raise ValueError(f"borders must begin with 0 and increase, so that every band has a row; got {list(borders)}.")
        self.borders, self.number, self.group = tuple(borders), number, group

    @property
    def rows(self) -> slice:
        """The rows that are here."""
        return slice(self.borders[self.number], self.borders[self.number + 1])

    def pad(
        self,
        x: Float[Tensor, "batch channel lat lon"],
        north: int,
        west: int,
        *,
        south: int | None = None,
        east: int | None = None,
        has_poles: bool,
        odd_channels: Float[Tensor, " channel"] | None = None,
    ) -> Float[Tensor, "batch channel padded_lat padded_lon"]:
        """Rows of the neighbours, and beyond a pole those on this side of it, half-way around; columns around the globe."""
        south = north if south is None else south
        east = west if east is None else east
        rows, columns = self.borders[-1], x.shape[-1]
        check_halo((*x.shape[:2], rows, columns), max(north, south), max(west, east), has_poles=has_poles)
        if north or south:
            route = route_of_halo(self.borders, self.number, north, south, has_poles)
            halo = _Exchange.apply(x, route, self.group)
            over_north, over_south = (_turned(part, columns, odd_channels) for part in route.beyond(halo))
            middle = halo[..., route.over_north : halo.shape[-2] - route.over_south, :]
            cut = north - route.over_north
            x = torch.cat([over_north, middle[..., :cut, :], x, middle[..., cut:, :], over_south], dim=-2)
        if west or east:
            x = torch.cat([x[..., columns - west :], x, x[..., :east]], dim=-1)
        return x

    def extend(
        self, x: Float[Tensor, "batch channel lat lon"], rows: int, *, has_poles: bool
    ) -> Float[Tensor, "batch channel more_lat lon"]:
        """Add rows to the north and south, so that what a filter of that reach makes of the rows between is right."""
        return self.pad(x, rows, 0, has_poles=has_poles)

    def trim(self, x: Float[Tensor, "batch channel lat lon"], rows: int) -> Float[Tensor, "batch channel fewer_lat lon"]:
        """Remove what `extend` added."""
        return x[..., rows : x.shape[-2] - rows, :]

    def crop(
        self, x: Float[Tensor, "batch channel lat lon"], before: int, after: int
    ) -> Float[Tensor, "batch channel fewer_lat lon"]:
        """The field without its first and last rows; borders between bands move south by `before`."""
        if before:
            x = self.pad(x, 0, 0, south=before, has_poles=False)[..., before:, :]
        is_last = self.number == len(self.borders) - 2
        return x[..., : x.shape[-2] - before - after, :] if is_last else x


WHOLE = WholeGlobe()


@runtime_checkable
class SeesGlobe(Protocol):
    """A layer that asks its globe for what lies beyond the rows that it is given."""

    globe: WholeGlobe


@dataclass(frozen=True)
class Route:
    """Which rows go where in one exchange; the same for all fields of one set of borders.

    Parameters
    ----------
    sent
        Own rows, counted from the band's first, in the order in which they are sent.
    sent_to
        How many of them go to each process.
    received_from
        How many rows come from each process.
    order
        Where, among those received, the rows of the halo lie, north to south.
    over_north, over_south
        How many rows of the halo lie beyond each pole.
    """

    sent: tuple[int, ...]
    sent_to: tuple[int, ...]
    received_from: tuple[int, ...]
    order: tuple[int, ...]
    over_north: int
    over_south: int

    def beyond(self, halo: Field) -> tuple[Field, Field]:
        """The rows of a halo beyond the north and the south pole."""
        return halo[..., : self.over_north, :], halo[..., halo.shape[-2] - self.over_south :, :]


@lru_cache(maxsize=256)
def route_of_halo(borders: tuple[int, ...], number: int, north: int, south: int, has_poles: bool) -> Route:
    """Find the route for halos of `north` and `south` rows around every band, however thin the bands are."""
    rows, bands = borders[-1], len(borders) - 1
    # needs[a][b]: rows of band b in the halo of band a, in the order of the halo.
    needs: list[list[list[int]]] = [[[] for _ in range(bands)] for _ in range(bands)]
    for band in range(bands):
        for row in _halo(borders, band, north, south):
            on_globe = _folded(row, rows, has_poles)
            needs[band][bisect_right(borders, on_globe) - 1].append(on_globe)
    own_halo = _halo(borders, number, north, south)
    owners = [bisect_right(borders, _folded(row, rows, has_poles)) - 1 for row in own_halo]
    by_owner = sorted(range(len(owners)), key=owners.__getitem__)  # stable: as each owner sends them
    return Route(
        sent=tuple(row - borders[number] for band in range(bands) for row in needs[band][number]),
        sent_to=tuple(len(needs[band][number]) for band in range(bands)),
        received_from=tuple(len(needs[number][band]) for band in range(bands)),
        order=tuple(sorted(range(len(by_owner)), key=by_owner.__getitem__)),
        over_north=sum(row < 0 for row in own_halo),
        over_south=sum(row >= rows for row in own_halo),
    )


def _halo(borders: Sequence[int], band: int, north: int, south: int) -> list[int]:
    begin, end = borders[band], borders[band + 1]
    return [*range(begin - north, begin), *range(end, end + south)]


def _folded(row: int, rows: int, has_poles: bool) -> int:
    """The row of the globe that a row beyond a pole is."""
    if row < 0:
        return -1 - row + has_poles
    return row if row < rows else 2 * rows - 1 - has_poles - row


def _turned(rows: Field, columns: int, odd_channels: Float[Tensor, " channel"] | None) -> Field:
    """Rows beyond a pole as they look from there: half-way around, vector components turned over."""
    if not rows.shape[-2]:
        return rows
    rows = rows.roll(columns // 2, -1)
    return rows if odd_channels is None else rows * odd_channels.view(-1, 1, 1).to(rows.dtype)


class _Exchange(torch.autograd.Function):
    """Rows of this band's halo from the bands that have them; gradients go back the same way and are added up."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, route: Route, group: Any) -> Tensor:
        ctx.route, ctx.group, ctx.shape = route, group, x.shape
        ctx.sent = torch.tensor(route.sent, dtype=torch.long, device=x.device)
        ctx.order = torch.tensor(route.order, dtype=torch.long, device=x.device)
        outgoing = x.index_select(-2, ctx.sent).permute(2, 0, 1, 3).contiguous()
        incoming = outgoing.new_empty(len(route.order), *outgoing.shape[1:])
        dist.all_to_all_single(incoming, outgoing, list(route.received_from), list(route.sent_to), group=group)
        return incoming[ctx.order].permute(1, 2, 0, 3)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        route = ctx.route
        by_row = gradient.permute(2, 0, 1, 3)
        outgoing = torch.empty_like(by_row, memory_format=torch.contiguous_format)
        outgoing[ctx.order] = by_row
        incoming = outgoing.new_empty(len(route.sent), *outgoing.shape[1:])
        dist.all_to_all_single(incoming, outgoing, list(route.sent_to), list(route.received_from), group=ctx.group)
        to_x = gradient.new_zeros(ctx.shape).index_add(-2, ctx.sent, incoming.permute(1, 2, 0, 3))
        return to_x, None, None
