"""Matrix-free geometric multigrid in float32: one V-cycle of red-black sweeps, interpolation linear along open faces."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.sparse.linalg import LinearOperator

from gpu.poisson import CycleSettings, Hierarchy
from gpu.poisson_on_gpu import DeviceHierarchy
from solvers.boundary import DIRICHLET, PERIODIC
from solvers.cells import AIR, FLUID, SOLID
from solvers.faces import along, beyond
from solvers.problem import PoissonProblem, VectorOperator
from solvers.threads import thread_count

# benchmarks/poisson.py measures sweeps of 1 and 2 and relaxation of 1 and 1.15.
SETTINGS = {"sweeps_fine": 2, "sweeps_coarse": 2, "over_fine": 1.0, "over_coarse": 1.15, "tie": 1.0, "stiffness": 1.0}


class Multigrid(VectorOperator):
    """One V-cycle on vectors of the fluid cells' values; symmetric positive definite to float32's rounding.

    Parameters
    ----------
    problem
        On NumPy or CuPy arrays; levels are made on the host, the cycle runs where the problem is.
    settings
        A value for each field of `gpu.poisson.CycleSettings`.
    coarsening
        Learned corrections of the coarse levels (`solvers.preconditioners.learned`).
    """

    def __init__(
        self, problem: PoissonProblem, settings: dict[str, float] | None = None, coarsening: np.ndarray | None = None
    ) -> None:
        super().__init__(problem)
        host = problem.on_host()
        weights = [1 / spacing**2 for spacing in problem.spacing]
        lead = 3 - len(weights)
        self.largest = max(weights)
        periodic = [False] * lead + [PERIODIC in kinds for kinds in problem.sides]
        scaled = [1.0] * lead + [weight / self.largest for weight in weights]
        faces, excess = (None, None) if problem.has_plain_faces else stored_faces(host, self.largest)
        self.hierarchy = Hierarchy(
            with_halo(host), scaled, periodic, CycleSettings(**{**SETTINGS, **(settings or {})}), faces, excess, coarsening
        )
        isolated = problem.to_vector(problem.diagonal) == 0
        self.isolated = isolated if bool(isolated.any()) else None
        fluid = host.fluid.reshape(self.hierarchy.shape)
        self.device = DeviceHierarchy(self.hierarchy, fluid) if problem.library == "cupy" else None

    def _matvec(self, x: Any) -> Any:
        x = x.ravel()
        cycled = self.hierarchy.cycle(x, thread_count()) if self.device is None else self.device.cycle(x)
        z = cycled / self.largest
        if self.isolated is not None:  # their row is zero; any positive value keeps the preconditioner definite
            z[self.isolated] = x[self.isolated]
        return z


def build(problem: PoissonProblem) -> LinearOperator:
    """The tuned cycle."""
    return Multigrid(problem)


def with_halo(problem: PoissonProblem) -> np.ndarray:
    """The flags, and around them what lies behind the box; two dimensions become (1, nx, ny) between walls."""
    cells = problem.cells
    for axis, kinds in enumerate(problem.sides):
        low, high = (AIR if kind == DIRICHLET else SOLID for kind in kinds)
        cells = beyond(np, cells, axis, kinds, (low, high))
    return np.pad(cells[None], ((1, 1), (0, 0), (0, 0)), constant_values=SOLID) if cells.ndim == 2 else cells


def stored_faces(problem: PoissonProblem, largest: float) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Upper faces between fluid cells, and what Dirichlet neighbours below and above add to the diagonal; float32,
    three axes.
    """
    shape = problem.shape
    missing = 3 - len(shape)
    full = (1,) * missing + shape
    faces = [np.zeros(full, np.float32) for _ in range(missing)]
    excess = [np.zeros(full, np.float32) for _ in range(2 * missing)]
    for axis, weight in enumerate(problem.face_weights):
        around = beyond(np, problem.cells, axis, problem.sides[axis], (AIR, AIR))
        below, above = (around[along(axis, part, len(shape))] for part in (slice(None, -2), slice(2, None)))
        low, high = (weight[along(axis, part, len(shape))] / largest for part in (slice(None, -1), slice(1, None)))
        faces.append(_float32(np.where(problem.fluid & (above == FLUID), high, 0.0), full))
        excess.append(_float32(np.where(problem.fluid & (below != FLUID), low, 0.0), full))
        excess.append(_float32(np.where(problem.fluid & (above != FLUID), high, 0.0), full))
    return faces, excess


def _float32(array: Any, shape: tuple[int, ...]) -> np.ndarray:
    return np.ascontiguousarray(array, dtype=np.float32).reshape(shape)
