"""The multigrid cycle of gpu/cuda/poisson.cuh in torch, differentiable: what training needs and the kernels cannot give.

Grids are (batch, x, y, z), two-dimensional ones with one cell along x. Values outside the fluid are 0. No periodic axes, and
one weight for all open faces of the finest level.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from solvers.cells import AIR, FLUID

BOTTOM = 64  # cells of a level that is solved exactly
MOST_SEPARATED = 0.2  # share of the pairs across a wall up to which an axis is halved


@dataclass
class Level:
    """One grid: for each axis faces between a cell and the next one, and Dirichlet neighbours below and above."""

    face: list[Tensor]
    excess: list[Tensor]
    h: list[float]  # edges of a cell, in finest ones
    choosy: bool = True  # whether walls may keep an axis from being halved: not on the finest level
    tie: list[Tensor] = field(default_factory=list)  # as a coarser level, (n + 1 along the axis): towards the neighbour below
    over: Tensor | float = 1.0

    def __post_init__(self) -> None:
        self.shape = tuple(self.face[0].shape)
        total = sum(self.excess)
        for axis, face in enumerate(self.face):
            total = total + face + shifted(face, axis, 1)
        self.diagonal: Tensor = torch.as_tensor(total)
        self.fluid: Bool[Tensor, "x y z"] = self.diagonal > 0
        self.inverse = torch.where(self.fluid, 1 / torch.where(self.fluid, self.diagonal, 1.0), 0.0)
        x, y, z = (torch.arange(n) for n in self.shape)
        self.coarsens = chosen_axes(self)
        self.red: Bool[Tensor, "x y z"] = (x[:, None, None] + y[:, None] + z) % 2 == 0

    def neighbours(self, x: Float[Tensor, "batch x y z"]) -> Float[Tensor, "batch x y z"]:
        """What the cells around add to a row, with changed sign."""
        total = torch.zeros_like(x)
        for axis, face in enumerate(self.face):
            total = total + face * shifted(x, axis, -1) + shifted(face * x, axis, 1)
        return total

    def residual(self, x: Tensor, b: Tensor) -> Tensor:
        """B - A x in the fluid."""
        return torch.where(self.fluid, b - self.diagonal * x + self.neighbours(x), 0.0)

    def apply(self, x: Tensor) -> Tensor:
        """A x."""
        return self.diagonal * x - self.neighbours(x)

    def relax(self, x: Tensor, b: Tensor, red: bool) -> Tensor:
        """Solve the rows of one colour; the red ones are taken `over` times as far."""
        solved = self.inverse * (b + self.neighbours(x))
        if red:
            return torch.where(self.red, x + self.over * (solved - x), x)
        return torch.where(self.red, x, solved)


def shifted(values: Tensor, axis: int, by: int) -> Tensor:
    """Each cell gets the value of the cell `by` cells below; 0 comes in. `axis` counts from x, the last three are x, y, z."""
    axis = axis - 3
    nothing = torch.zeros_like(values.narrow(axis, 0, 1))
    n = values.shape[axis]
    return torch.cat([nothing, values.narrow(axis, 0, n - 1)] if by > 0 else [values.narrow(axis, 1, n - 1), nothing], axis)


def finest_level(cells: Tensor, over: Tensor | float = 1.0) -> Level:
    """The problem's own grid from uint8 flags with a halo that says what lies behind the box, spacing 1."""
    inner = (slice(1, -1),) * 3
    fluid = cells[inner] == FLUID
    face, excess = [], []
    for axis, n in enumerate(fluid.shape):
        below, above = (cells.narrow(axis, start, n)[_others(axis)] for start in (0, 2))
        face.append((fluid & (above == FLUID)).float())
        excess += [(fluid & (side == AIR)).float() for side in (below, above)]
    return Level(face, excess, [1.0] * 3, choosy=False, over=over)


def chosen_axes(level: Level) -> list[bool]:
    """The axes along which cells are closest, but for those that would merge what walls keep apart, if others are left."""
    long = [axis for axis, n in enumerate(level.shape) if n > 1]
    open_ = [axis for axis in long if not level.choosy or _separated(level, axis) <= MOST_SEPARATED]
    candidates = open_ or long
    least = min((level.h[axis] for axis in candidates), default=0.0)
    return [axis in candidates and level.h[axis] <= 1.5 * least for axis in range(3)]


def _separated(level: Level, axis: int) -> float:
    """Share of the pairs that halving the axis would merge although a wall is between them, in every second row."""
    every_second = tuple(slice(None) if other == axis else slice(None, None, 2) for other in range(3))
    n = level.shape[axis] // 2 * 2
    fluid = level.fluid[every_second].narrow(axis, 0, n).unflatten(axis, (-1, 2))
    open_ = (level.face[axis][every_second] > 0).narrow(axis, 0, n).unflatten(axis, (-1, 2)).select(axis + 1, 0)
    pairs = fluid.all(axis + 1)
    return float((pairs & ~open_).sum()) / max(1, int(pairs.sum()))


def _others(axis: int) -> tuple[slice, ...]:
    return tuple(slice(None) if other == axis else slice(1, -1) for other in range(3))


def coarser(fine: Level, tie: float = 1.0, over: Tensor | float = 1.0) -> Level:
    """The next level as the discretisation has it."""
    face = []
    for axis in range(3):
        outermost = _outermost(fine.face[axis], axis) if fine.coarsens[axis] else fine.face[axis]
        face.append((0.5 if fine.coarsens[axis] else 1.0) * children(outermost, fine.coarsens))
    # a Dirichlet value lies half a finest cell behind the wall
    held = [(h + 1) / (2 * h + 1) if halves else 1.0 for h, halves in zip(fine.h, fine.coarsens, strict=True)]
    excess = [held[number // 2] * children(values, fine.coarsens) for number, values in enumerate(fine.excess)]
    coarse = Level(face, excess, [h * (1 + halves) for h, halves in zip(fine.h, fine.coarsens, strict=True)], over=over)
    coarse.tie = [ties(coarse, axis, 0.25 * tie) for axis in range(3)]
    return coarse


def _outermost(face: Tensor, axis: int) -> Tensor:
    """Upper faces of the coarse cells: those of every second cell, and of the last one."""
    n = face.shape[axis]
    index = torch.arange(n)
    kept = (index % 2 == 1) | (index == n - 1)
    return face * kept.reshape([-1 if other == axis else 1 for other in range(3)])


def children(values: Tensor, coarsens: list[bool]) -> Tensor:
    """Sums over the fine cells of each coarse one."""
    for number, halves in enumerate(coarsens):
        if halves:
            if values.shape[number] % 2:
                values = torch.cat([values, torch.zeros_like(values.narrow(number, 0, 1))], number)
            values = values.unflatten(number, (-1, 2)).sum(number + 1)
    return values


def ties(coarse: Level, axis: int, full: float) -> Tensor:
    """`full` across open faces and towards Dirichlet values, 0 through walls: (n + 1 along the axis), face i below cell i."""
    nothing = torch.zeros_like(coarse.fluid.narrow(axis, 0, 1))
    open_ = torch.cat([nothing, coarse.face[axis] > 0], axis)
    lower_fluid, upper_fluid = torch.cat([nothing, coarse.fluid], axis), torch.cat([coarse.fluid, nothing], axis)
    held_above = torch.cat([nothing, coarse.excess[2 * axis + 1] > 0], axis)
    held_below = torch.cat([coarse.excess[2 * axis] > 0, nothing], axis)
    tied = open_ | (held_above & ~upper_fluid) | (held_below & ~lower_fluid)
    return full * tied.float()


def prolonged(fine: Level, coarse: Level, e: Float[Tensor, "batch X Y Z"]) -> Float[Tensor, "batch x y z"]:
    """A fine cell takes its coarse cell's value and, along halved axes, `tie` of the step towards the neighbour on its side."""
    steps = []
    for axis in range(3):
        if fine.coarsens[axis]:
            n = coarse.shape[axis]
            low, high = coarse.tie[axis].narrow(axis, 0, n), coarse.tie[axis].narrow(axis, 1, n)
            steps.append((axis, low * (shifted(e, axis, 1) - e), high * (shifted(e, axis, -1) - e)))
    value = _spread(e, fine)
    for axis, low, high in steps:
        side = torch.arange(fine.shape[axis]).reshape([-1 if other == axis else 1 for other in range(3)]) % 2 == 1
        value = value + torch.where(side, _spread(high, fine), _spread(low, fine))
    return torch.where(fine.fluid, value, 0.0)


def _spread(values: Tensor, fine: Level) -> Tensor:
    for axis, halves in enumerate(fine.coarsens):
        if halves:
            values = values.repeat_interleave(2, axis - 3).narrow(axis - 3, 0, fine.shape[axis])
    return values


def restricted(fine: Level, coarse: Level, r: Float[Tensor, "batch x y z"]) -> Float[Tensor, "batch X Y Z"]:
    """The transpose of `prolonged`."""
    r = torch.where(fine.fluid, r, 0.0)
    total = _gather(r, fine)
    for axis in range(3):
        if fine.coarsens[axis]:
            n = coarse.shape[axis]
            low, high = coarse.tie[axis].narrow(axis, 0, n), coarse.tie[axis].narrow(axis, 1, n)
            side = torch.arange(fine.shape[axis]).reshape([-1 if other == axis else 1 for other in range(3)]) % 2 == 1
            from_low = low * _gather(torch.where(side, 0.0, r), fine)
            from_high = high * _gather(torch.where(side, r, 0.0), fine)
            total = total - from_low - from_high + shifted(from_low, axis, -1) + shifted(from_high, axis, 1)
    return torch.where(coarse.fluid, total, 0.0)


def _gather(values: Tensor, fine: Level) -> Tensor:
    return torch.stack([children(grid, fine.coarsens) for grid in values])


def build_levels(cells: Tensor, over_fine: float = 1.0, over_coarse: float = 1.0, tie: float = 1.0) -> list[Level]:
    """All levels down to one of at most `BOTTOM` cells."""
    levels = [finest_level(cells, over_fine)]
    while levels[-1].fluid.numel() > BOTTOM:
        levels.append(coarser(levels[-1], tie, over_coarse))
    return levels


def cycle(levels: list[Level], b: Float[Tensor, "batch x y z"], sweeps: int = 2) -> Float[Tensor, "batch x y z"]:
    """One V-cycle from zero: `sweeps` red-black sweeps before and after."""
    level = levels[0]
    if len(levels) == 1:
        return exact(level, b)
    x = torch.zeros_like(b)
    for _ in range(sweeps):
        x = level.relax(level.relax(x, b, red=True), b, red=False)
    e = cycle(levels[1:], restricted(level, levels[1], level.residual(x, b)), sweeps)
    x = x + prolonged(level, levels[1], e)
    for _ in range(sweeps):
        x = level.relax(level.relax(x, b, red=False), b, red=True)
    return x


def exact(level: Level, b: Float[Tensor, "batch x y z"]) -> Float[Tensor, "batch x y z"]:
    """The bottom's solution; on a pool that no Dirichlet value holds the last cell is 0."""
    cells = level.fluid.numel()
    unit = torch.eye(cells).reshape(cells, *level.shape)
    matrix = level.apply(unit).reshape(cells, cells).double()
    fluid = level.fluid.reshape(-1)
    kept = torch.nonzero(fluid)[:, 0]
    inner = matrix[kept][:, kept]
    inner = inner + 1e-9 * inner.diagonal().mean() * torch.eye(len(kept), dtype=torch.float64)
    found = torch.linalg.solve(inner, b.reshape(len(b), -1)[:, kept].double().T).T
    return torch.zeros(len(b), cells).index_copy(1, kept, found.float()).reshape(b.shape)
