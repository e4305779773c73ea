"""Set-up and solve time, iterations and true residual of every preconditioner that fits, and of every peer that is installed.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python -m benchmarks.poisson [64] [128] [256]

To a relative residual of 1e-6, on one thread. Set-up is all that depends on the flags alone and comes before `solve`: for ours
`PoissonProblem` and `preconditioner`, for peers (`poisson_peers.py`) the problem, its matrix and their set-up. The first solve,
of the smooth right-hand side, also finds what `PoissonProblem` caches (pools, links, the matrix); the second, of white noise,
does not wait for pools again. Every repetition starts from the flags; the fastest of up to three counts, all kinds alike. White
noise is left out where the first solve took over 3 s. Residuals are those of the operator, in float64, computed here.

`settings` holds solve times of `multigrid` with one or two sweeps and with relaxation 1 or 1.15, as a share of the shipped
settings' time. Writes `benchmarks/results/poisson.json`; sizes that are not asked for keep what was stored.
"""

from __future__ import annotations

import json
import sys
import time
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import poisson_peers
from benchmarks.machine import describe_machine, store_result
from benchmarks.poisson_peers import Solver
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
PEERS = (*poisson_peers.IN_PROCESS, *poisson_peers.PETSC)
LARGE_SCENES = ("sphere", "tank", "splash")
APART = ("dcdm", "learned")  # by published_network.py and learned_preconditioner.py


def our_solver(problem: PoissonProblem, kind: str) -> Solver:
    """`solve` with a preconditioner that is made here."""
    M = preconditioner(problem, kind=kind)

    def solver(rhs: np.ndarray) -> tuple[np.ndarray, int, bool]:
        grid, (info,) = solve_with_info(problem, rhs, rtol=RTOL, maxiter=MAXITER, M=M)
        return grid, info.iterations, info.converged

    return solver


def run_once(kind: str, cells: np.ndarray, boundary: Any, rhs: dict[str, np.ndarray]) -> dict[str, Any]:
    """Set up, solve one or two right-hand sides, and look at the residuals."""
    start = time.perf_counter()
    problem = PoissonProblem(cells, boundary=boundary)
    if kind in poisson_peers.PETSC:
        return _run_petsc(kind, problem, rhs, start)
    solver = our_solver(problem, kind) if kind in HOMES else _peer_solver(problem, kind)
    row: dict[str, Any] = {"set_up_seconds": time.perf_counter() - start}
    for name, right in rhs.items():
        start = time.perf_counter()
        grid, iterations, converged = solver(right)
        seconds = time.perf_counter() - start
        row[name] = _judged(problem, right, grid, seconds, iterations, converged)
        if seconds > CHEAP_SECONDS:
            break
    return row


def _peer_solver(problem: PoissonProblem, kind: str) -> Solver:
    """A peer's solver of vectors as one of grids."""
    made = poisson_peers.IN_PROCESS[kind](problem, RTOL, MAXITER)

    def solver(rhs: np.ndarray) -> tuple[np.ndarray, int, bool]:
        x, iterations, converged = made(problem.to_vector(rhs))
        return problem.to_grid(x), iterations, converged

    return solver


def _run_petsc(kind: str, problem: PoissonProblem, rhs: dict[str, np.ndarray], start: float) -> dict[str, Any]:
    """As `run_once`: its set-up is the matrix, made here, and what PETSc makes of it."""
    problem.matrix()
    ours = time.perf_counter() - start
    found = poisson_peers.petsc(problem, kind, rhs, RTOL, MAXITER)
    row: dict[str, Any] = {"set_up_seconds": ours + found["set_up_seconds"]}
    for name, right in rhs.items():
        one = found[name]
        grid = problem.to_grid(one["x"])
        row[name] = _judged(problem, right, grid, one["seconds"], one["iterations"], one["converged"])
    return row


def _judged(
    problem: PoissonProblem, right: np.ndarray, grid: np.ndarray, seconds: float, iterations: int, converged: bool
) -> dict[str, Any]:
    """What is stored of one solve, with its true residual."""
    b = problem.compatible(problem.to_vector(right))
    residual = np.linalg.norm(b - problem.to_vector(problem.apply(grid))) / np.linalg.norm(b)
    solved = bool(converged and residual <= RTOL * 1.0001)
    return {"seconds": seconds, "iterations": iterations, "residual": float(f"{residual:.2e}"), "converged": solved}


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


def cases(sizes: list[int], installed: dict[str, str]) -> list[tuple[int, str, str]]:
    """Size, scene and kind of all that is to be measured."""
    chosen = {
        64: (tuple(SCENES), (*HOMES, *PEERS)),
        128: (LARGE_SCENES, ("multigrid", "fast-transform", *PEERS)),
        256: (LARGE_SCENES[:1], ("multigrid",)),
    }
    found = [(n, scene, kind) for n in sizes for scene in chosen[n][0] for kind in chosen[n][1]]
    return [(n, scene, kind) for n, scene, kind in found if (kind in HOMES and kind not in APART) or kind in installed]


def main() -> None:
    """Measure, print, store beside what is stored of other sizes."""
    if thread_count() != 1:
        raise SystemExit("measured on one thread: set OMP_NUM_THREADS=1 and OPENBLAS_NUM_THREADS=1.")
    sizes = [int(argument) for argument in sys.argv[1:]] or [64, 128, 256]
    machine, installed = describe_machine(), poisson_peers.versions()
    machine["versions"] |= installed
    stored = json.loads(RESULT.read_text()) if RESULT.exists() else {"rows": [], "settings": []}
    rows = [row for row in stored["rows"] if row["n"] not in sizes]
    for n, scene, kind in cases(sizes, installed):
        cells, boundary = SCENES[scene](n)
        row = {"n": n, "scene": scene, "kind": kind, **measure(kind, cells, boundary, right_hand_sides(n))}
        print(row, flush=True)
        rows.append(row)
    settings = stored["settings"]
    if 64 in sizes:
        settings = compare_settings(64, tuple(scene for scene in SCENES if scene != "channels"))
    missing = sorted(set(PEERS) - set(installed))
    result = {"machine": machine, "threads": 1, "rtol": RTOL, "maxiter": MAXITER, "not_installed": missing}
    store_result(RESULT, {**result, "rows": sorted(rows, key=lambda row: row["n"]), "settings": settings})


if __name__ == "__main__":
    main()
