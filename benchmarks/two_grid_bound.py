"""What the coarse levels could still gain: multigrid and the learned cycle beside one whose coarse level is solved exactly.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python -m benchmarks.two_grid_bound

Iterations of conjugate gradients to 1e-6 on every scene at 32 cells a side. "exact" is a cycle of the same sweeps and
transfers on the finest level, its coarse level the Galerkin product, factorised: no coarse level, learned or not, does better
with these transfers. Writes `benchmarks/results/two_grid_bound.json`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from scipy.sparse.linalg import LinearOperator, splu

from benchmarks.machine import describe_machine, store_result
from benchmarks.poisson_scenes import SCENES, right_hand_sides
from solvers import PoissonProblem, conjugate_directions, preconditioner
from solvers.learning.cycle import Level, coarser, finest_level, prolonged
from solvers.preconditioners.multigrid import SETTINGS, with_halo

RESULT = Path(__file__).parent / "results" / "two_grid_bound.json"
SIDE, RTOL, MOST = 32, 1e-6, 300
COLUMNS = 256  # of the interpolation made at once
SINGULAR = 1e-10  # added to the coarse diagonal: a pool without Dirichlet values has a coarse null space


def interpolation(problem: PoissonProblem, fine: Level, coarse: Level) -> sp.csc_matrix:
    """What one coarse cell says to the fluid cells, a column for each coarse fluid cell."""
    cells = np.flatnonzero(coarse.fluid.numpy())
    parts = []
    for start in range(0, cells.size, COLUMNS):
        some = cells[start : start + COLUMNS]
        units = torch.zeros(some.size, coarse.fluid.numel())
        units[torch.arange(some.size), torch.from_numpy(some)] = 1
        spread = prolonged(fine, coarse, units.reshape(-1, *coarse.shape))
        parts.append(sp.csr_matrix(problem.to_vector(spread.double().numpy())))
    return sp.vstack(parts).T.tocsc()


def exact_two_grid(problem: PoissonProblem) -> LinearOperator:
    """The cycle with an exact coarse level, symmetric positive definite as multigrid's is."""
    fine = finest_level(torch.from_numpy(with_halo(problem)), SETTINGS["over_fine"])
    P = interpolation(problem, fine, coarser(fine, SETTINGS["tie"], SETTINGS["over_coarse"]))
    A = problem.matrix().tocsc()
    A = A * (problem.to_vector(fine.diagonal.double().numpy())[0] / A.diagonal()[0])  # in the level's units
    factors = splu((P.T @ A @ P + SINGULAR * sp.eye(P.shape[1])).tocsc())
    sweeps = int(SETTINGS["sweeps_fine"])

    def cycle(r: np.ndarray) -> np.ndarray:
        b = torch.from_numpy(problem.to_grid(r)).float()[None]
        x = torch.zeros_like(b)
        for _ in range(sweeps):
            x = fine.relax(fine.relax(x, b, red=True), b, red=False)
        left = problem.to_vector(fine.residual(x, b)[0].double().numpy())
        x = x + torch.from_numpy(problem.to_grid(P @ factors.solve(P.T @ left))).float()[None]
        for _ in range(sweeps):
            x = fine.relax(fine.relax(x, b, red=False), b, red=True)
        return problem.to_vector(x[0].double().numpy())

    return LinearOperator((problem.n, problem.n), matvec=cycle, dtype=np.float64)


def main() -> None:
    """Measure, print, store."""
    rows: list[dict[str, Any]] = []
    for scene, make in SCENES.items():
        cells, boundary = make(SIDE)
        problem = PoissonProblem(cells, boundary=boundary)
        A = problem.operator()
        kinds = {kind: preconditioner(problem, kind) for kind in ("multigrid", "learned")} | {"exact": exact_two_grid(problem)}
        for name, rhs in right_hand_sides(SIDE).items():
            b = problem.compatible(problem.to_vector(rhs)[None])[0]
            row: dict[str, Any] = {"scene": scene, "rhs": name}
            for kind, M in kinds.items():
                x, info = conjugate_directions(A, b, rtol=RTOL, maxiter=MOST, M=M, n_orthogonal=1)
                residual = np.linalg.norm(b - A @ x) / np.linalg.norm(b)
                if not info.converged or residual > 1.001 * RTOL:
                    raise SystemExit(f"{kind} did not solve {scene}, {name}: {info.reason}, residual {residual:.1e}.")
                row[kind] = info.iterations
            print(row, flush=True)
            rows.append(row)
    total = {kind: sum(row[kind] for row in rows) for kind in ("multigrid", "learned", "exact")}
    store_result(RESULT, {"machine": describe_machine(), "side": SIDE, "rtol": RTOL, "rows": rows, "total": total})


if __name__ == "__main__":
    main()
