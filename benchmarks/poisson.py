"""Set-up and solve time, iterations and true residual of every preconditioner that fits, and of PyAMG where it is installed.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python -m benchmarks.poisson

To a relative residual of 1e-6, on one thread. Set-up is all that depends on the flags alone and comes before `solve`: for ours
`PoissonProblem` and `preconditioner`, for PyAMG the problem, its matrix and the hierarchy. The first solve, of the smooth
right-hand side, also finds what `PoissonProblem` caches (pools, links, the matrix); the second, of white noise, does not wait
for pools again. Every repetition starts from the flags; the fastest of up to three counts, all kinds alike. White noise is left
out where the first solve took over 3 s. Residuals are those of the matrix, in float64, computed here.

`settings` holds solve times of `multigrid` with one or two sweeps and with relaxation 1 or 1.15, as a share of the shipped
settings' time. Writes `benchmarks/results/poisson.json`.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import describe_machine, store_result
from benchmarks.poisson_scenes import SCENES, right_hand_sides
from solvers import PoissonProblem, preconditioner, solve_with_info
from solvers.preconditioners import HOMES
from solvers.preconditioners.multigrid import SETTINGS, Multigrid
from solvers.threads import thread_count

RESULT = Path(__file__).parent / "results" / "poisson.json"
RTOL = 1e-6
MAXITER = 1000
REPEATS, ENOUGH_SECONDS = 3, 2.0  # repeat a case until either
CHEAP_SECONDS = 3.0  # a first solve above this is not followed by a second one
PEER = "pyamg-smoothed-aggregation"
LARGE = {"scenes": ("sphere", "tank", "splash"), "kinds": ("multigrid", "fast-transform", PEER)}

Solver = Callable[[np.ndarray], tuple[np.ndarray, int, bool]]


def our_solver(problem: PoissonProblem, kind: str) -> Solver:
    """`solve` with a preconditioner that is made here."""
    M = preconditioner(problem, kind=kind)

    def solver(rhs: np.ndarray) -> tuple[np.ndarray, int, bool]:
        grid, (info,) = solve_with_info(problem, rhs, rtol=RTOL, maxiter=MAXITER, M=M)
        return grid, info.iterations, info.converged

    return solver


def pyamg_solver(problem: PoissonProblem) -> Solver:
    """Smoothed aggregation as it comes, one V-cycle preconditioning PyAMG's own conjugate gradients."""
    import pyamg
    from scipy.sparse import csr_matrix

    matrix = csr_matrix(problem.matrix())
    matrix.indptr, matrix.indices = matrix.indptr.astype(np.int32), matrix.indices.astype(np.int32)
    hierarchy = pyamg.smoothed_aggregation_solver(matrix)

    def solver(rhs: np.ndarray) -> tuple[np.ndarray, int, bool]:
        norms: list[float] = []
        b = problem.to_vector(rhs)
        x, info = hierarchy.solve(b, tol=RTOL, maxiter=MAXITER, accel="cg", residuals=norms, return_info=True)
        return problem.to_grid(x), len(norms) - 1, info == 0

    return solver


def run_once(kind: str, cells: np.ndarray, boundary: Any, rhs: dict[str, np.ndarray]) -> dict[str, Any]:
    """Set up, solve one or two right-hand sides, and look at the residuals."""
    start = time.perf_counter()
    problem = PoissonProblem(cells, boundary=boundary)
    solver = pyamg_solver(problem) if kind == PEER else our_solver(problem, kind)
    row: dict[str, Any] = {"set_up_seconds": time.perf_counter() - start}
    for name, right in rhs.items():
        start = time.perf_counter()
        grid, iterations, converged = solver(right)
        seconds = time.perf_counter() - start
        b = problem.to_vector(right)
        residual = np.linalg.norm(b - problem.matrix() @ problem.to_vector(grid)) / np.linalg.norm(b)
        row[name] = {"seconds": seconds, "iterations": iterations, "residual": float(f"{residual:.2e}")}
        row[name]["converged"] = bool(converged and residual <= RTOL * 1.0001)
        if seconds > CHEAP_SECONDS:
            break
    return row


def measure(kind: str, cells: np.ndarray, boundary: Any, rhs: dict[str, np.ndarray]) -> dict[str, Any]:
    """The fastest times of a few repetitions."""
    start, rows = time.perf_counter(), []
    while len(rows) < REPEATS and (not rows or time.perf_counter() - start < ENOUGH_SECONDS):
        rows.append(run_once(kind, cells, boundary, rhs))
    best = min(rows, key=lambda row: row["set_up_seconds"] + row["smooth"]["seconds"])
    best["set_up_seconds"] = round(best["set_up_seconds"], 4)
    for name in rhs.keys() & best.keys():
        best[name]["seconds"] = round(min(row[name]["seconds"] for row in rows if name in row), 4)
    return {**best, "repetitions": len(rows)}


def compare_settings(n: int, scenes: tuple[str, ...]) -> list[dict[str, Any]]:
    """Solve time of multigrid by sweeps and relaxation over that of the shipped settings, and iterations, scene by scene."""
    rows = [
        {"sweeps_fine": fine, "sweeps_coarse": coarse, "over_fine": over_fine, "over_coarse": over_coarse}
        for fine, coarse, over_fine, over_coarse in product((1, 2), (1, 2), (1.0, 1.15), (1.0, 1.15))
    ]
    shipped = next(i for i, row in enumerate(rows) if all(SETTINGS[name] == value for name, value in row.items()))
    seconds, iterations = np.zeros((len(rows), len(scenes))), np.zeros((len(rows), len(scenes)), int)
    for column, scene in enumerate(scenes):
        cells, boundary = SCENES[scene](n)
        problem, rhs = PoissonProblem(cells, boundary=boundary), right_hand_sides(n)["smooth"]
        _ = problem.pools
        for row, settings in enumerate(rows):
            seconds[row, column], iterations[row, column] = _solve_seconds(problem, rhs, Multigrid(problem, dict(settings)))
    share = seconds / seconds[shipped]
    return [
        {
            **row,
            "n": n,
            "median_share": round(float(np.median(share[i])), 3),
            "share": dict(zip(scenes, share[i].round(3).tolist(), strict=True)),
            "iterations": dict(zip(scenes, iterations[i].tolist(), strict=True)),
        }
        for i, row in enumerate(rows)
    ]


def _solve_seconds(problem: PoissonProblem, rhs: np.ndarray, M: Multigrid) -> tuple[float, int]:
    """The faster of two solves, and its iterations."""
    times = []
    for _ in range(2):
        start = time.perf_counter()
        _, (info,) = solve_with_info(problem, rhs, rtol=RTOL, maxiter=MAXITER, M=M)
        times.append(time.perf_counter() - start)
    return min(times), info.iterations


def main() -> None:
    """Measure, print, store."""
    if thread_count() != 1:
        raise SystemExit("measured on one thread: set OMP_NUM_THREADS=1 and OPENBLAS_NUM_THREADS=1.")
    machine = describe_machine()
    missing = [] if importlib.util.find_spec("pyamg") else [PEER]
    if not missing:
        machine["versions"]["pyamg"] = importlib.metadata.version("pyamg")
    rows = []
    for n, scenes, kinds in ((64, tuple(SCENES), (*HOMES, PEER)), (128, LARGE["scenes"], LARGE["kinds"])):
        rhs = right_hand_sides(n)
        for scene in scenes:
            cells, boundary = SCENES[scene](n)
            for kind in kinds:
                if kind not in missing:
                    row = {"n": n, "scene": scene, "kind": kind, **measure(kind, cells, boundary, rhs)}
                    print(row, flush=True)
                    rows.append(row)
    settings = compare_settings(64, tuple(scene for scene in SCENES if scene != "channels"))
    result = {"machine": machine, "threads": 1, "rtol": RTOL, "maxiter": MAXITER, "not_installed": missing}
    store_result(RESULT, {**result, "rows": rows, "settings": settings})


if __name__ == "__main__":
    main()
