"""How fast conjugate gradients with a cycle reduce the error: what training a cycle minimises."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from solvers.learning.cycle import Level, cycle, shifted

Grids = Float[Tensor, "batch x y z"]


def digits_per_iteration(levels: list[Level], rhs: Grids, solution: Grids, iterations: int) -> Float[Tensor, ""]:
    """Mean over the batch of log10 of the error's A-norm before over after, by iteration; float64 around float32 cycles."""
    level = levels[0]
    x, r = torch.zeros_like(rhs), rhs
    p, rz = torch.zeros_like(rhs), torch.ones(len(rhs), 1, 1, 1, dtype=rhs.dtype)
    for step in range(iterations):
        z = cycle(levels, r.float()).double()
        fresh = _dot(r, z)
        p = z if step == 0 else z + fresh / rz * p
        Ap = apply(level, p)
        alpha = fresh / _dot(p, Ap)
        x, r, rz = x + alpha * p, r - alpha * Ap, fresh
    error = solution - x
    return -0.5 * torch.log10(_dot(error, apply(level, error)) / _dot(solution, rhs)).mean() / iterations


def apply(level: Level, x: Grids) -> Grids:
    """A x in the precision of x."""
    total = level.diagonal.to(x.dtype) * x
    for axis, face in enumerate(level.face):
        face = face.to(x.dtype)
        total = total - face * shifted(x, axis, -1) - shifted(face * x, axis, 1)
    return total


def _dot(a: Grids, b: Grids) -> Tensor:
    return (a * b).sum((1, 2, 3), keepdim=True)
