"""What is learned: by how much the faces, Dirichlet values and ties of coarse cells differ from the discretisation's.

Two small networks look at a coarse face (or side) and the fine cells of the two coarse cells beside it, the same on all
levels, axes and directions. Their factors are positive, so every level stays symmetric positive definite whatever the
weights are. They run once for each geometry; a cycle with them does the same work as one without.
gpu/cpu/poisson/learned_coarsening.h is the same in C++.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from solvers.learning.cycle import BOTTOM, Level, children, coarser, finest_level, ties

PER_CELL = 7  # features of a coarse cell as seen from one of its sides
FEATURES = 2 * PER_CELL + 1
HIDDEN = 16
LARGEST = 1.5  # logarithm of the largest factor
FIRST_RELAXATION = -0.85  # 1 + sigmoid / 2 is 1.15

Seen = Float[Tensor, "X Y Z features"]


class Coarsening(nn.Module):
    """Makes the levels of a cycle: a network for faces, one for sides with Dirichlet values, and two relaxations."""

    def __init__(self) -> None:
        super().__init__()
        self.face = nn.Sequential(nn.Linear(FEATURES, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 2))
        self.side = nn.Sequential(nn.Linear(FEATURES, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1))
        self.over = nn.Parameter(torch.full((2,), FIRST_RELAXATION))
        for network in (self.face, self.side):  # begin with the discretisation
            for parameter in network[-1].parameters():
                nn.init.zeros_(parameter)

    def levels(self, cells: Tensor) -> list[Level]:
        """All levels for uint8 flags with a halo."""
        over_fine, over_coarse = 1 + torch.sigmoid(self.over) / 2
        levels, unit = [finest_level(cells, over_fine)], [1.0] * 3
        volume = levels[0].fluid.float()
        while levels[-1].fluid.numel() > BOTTOM:
            fine = levels[-1]
            levels.append(self.adjusted(fine, coarser(fine, over=over_coarse), volume, unit))
            count = 2 ** sum(fine.coarsens)
            volume = children(volume, fine.coarsens) / count
            unit = [value * (count / 4 if halves else count) for value, halves in zip(unit, fine.coarsens, strict=True)]
        return levels

    def adjusted(self, fine: Level, coarse: Level, volume: Tensor, unit: list[float]) -> Level:
        """The coarse level with other faces, Dirichlet values and ties along halved axes; `unit`: an open fine face."""
        face, excess = list(coarse.face), list(coarse.excess)
        tie = [ties(coarse, axis, 0.25) for axis in range(3)]
        for axis in (axis for axis in range(3) if fine.coarsens[axis]):
            low, high = seen_from_sides(fine, volume, unit, axis)
            whole = unit[axis] * 2 ** (sum(fine.coarsens) - 1) / 2  # an open coarse face
            # face i lies below cell i, n + 1 of them
            below, above = padded(high, axis, before=True), padded(low, axis, before=False)
            share = padded(coarse.face[axis][..., None] / whole, axis, before=True)
            both = self.face(torch.cat([below, above, share], -1)) + self.face(torch.cat([above, below, share], -1))
            face[axis] = coarse.face[axis] * bounded(both[..., 0].narrow(axis, 1, coarse.shape[axis]))
            tie[axis] = tie[axis] * 2 * torch.sigmoid(both[..., 1])
            for number, near, far in ((2 * axis, low, high), (2 * axis + 1, high, low)):
                held = coarse.excess[number][..., None] / whole
                excess[number] = coarse.excess[number] * bounded(self.side(torch.cat([near, far, held], -1))[..., 0])
        made = Level(face, excess, coarse.h, over=coarse.over)
        made.tie = tie
        return made


def bounded(value: Tensor) -> Tensor:
    """A factor between exp(-LARGEST) and exp(LARGEST), 1 at 0."""
    return torch.exp(LARGEST * torch.tanh(value))


def padded(values: Tensor, axis: int, before: bool) -> Tensor:
    """With one more cell along the axis, of zeros."""
    nothing = torch.zeros_like(values.narrow(axis, 0, 1))
    return torch.cat([nothing, values] if before else [values, nothing], axis)


def seen_from_sides(fine: Level, volume: Tensor, unit: list[float], axis: int) -> tuple[Seen, Seen]:
    """Features of each coarse cell as seen from its lower and from its upper side along a halved axis.

    Volume of the near and of the far half; open faces between the halves; Dirichlet faces of the near half towards the side, of
    either half away from it, and of the near and of the far half across. All are shares of what a full cell has.
    """
    n = fine.shape[axis]
    odd = (torch.arange(n) % 2 == 1).reshape([-1 if other == axis else 1 for other in range(3)])
    cells = 2 ** (sum(fine.coarsens) - 1)  # fine ones in a half
    across = sum(fine.excess[2 * other] + fine.excess[2 * other + 1] for other in range(3) if other != axis)
    others = sum(unit[other] for other in range(3) if other != axis)

    def halves(values: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        low, high = torch.where(odd, 0.0, values), torch.where(odd, values, 0.0)
        return children(low, fine.coarsens) / (cells * scale), children(high, fine.coarsens) / (cells * scale)

    low_volume, high_volume = halves(volume, 1.0)
    middle, _ = halves(fine.face[axis], unit[axis])
    low_down, high_down = halves(fine.excess[2 * axis], unit[axis])
    low_up, high_up = halves(fine.excess[2 * axis + 1], unit[axis])
    low_across, high_across = halves(torch.as_tensor(across), others)
    from_low = [low_volume, high_volume, middle, low_down, high_up + low_up + high_down, low_across, high_across]
    from_high = [high_volume, low_volume, middle, high_up, low_down + low_up + high_down, high_across, low_across]
    return torch.stack(from_low, -1), torch.stack(from_high, -1)
