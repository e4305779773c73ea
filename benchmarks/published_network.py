"""The published network ("dcdm") against the classical preconditioners that it was published against, and multigrid.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python -m benchmarks.published_network [folder of weights]

Iterations of `conjugate_directions` to a relative residual of 1e-4, the published tolerance, and CPU seconds of one thread
without set-up, on a scene of `poisson_scenes.py` that no training saw: the shipped weights know the empty box of up to 32
cells a side only. At 64 cells a side, at most 100 iterations of the network, the published limit. The network is neither
linear nor symmetric and goes through the published loop of two stored directions; all others are conjugate gradients.
Writes `benchmarks/results/published_network.json`.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import describe_machine, store_result
from benchmarks.poisson_scenes import SCENES, right_hand_sides
from solvers import PoissonProblem, conjugate_directions, preconditioner
from solvers.preconditioners.dcdm import PublishedDirections
from solvers.threads import thread_count
from solvers.weights import SHIPPED, load_weights

RESULT = Path(__file__).parent / "results" / "published_network.json"
SIZES = {64: ("sphere", "tank", "splash")}
RTOL, MOST, MOST_OF_NETWORK = 1e-4, 5000, 100
KINDS = ("none", "incomplete-cholesky", "fast-transform", "multigrid", "dcdm")


def measure(problem: PoissonProblem, b: np.ndarray, kind: str, M: Any) -> dict[str, Any]:
    """Iterations, CPU seconds and the true residual of one solve."""
    A, most = problem.operator(), MOST_OF_NETWORK if kind == "dcdm" else MOST
    start = time.process_time()
    x, info = conjugate_directions(A, b, rtol=RTOL, maxiter=most, M=M, n_orthogonal=2 if kind == "dcdm" else 1)
    seconds = time.process_time() - start
    residual = np.linalg.norm(b - A @ x) / np.linalg.norm(b)
    solved = bool(info.converged and residual <= RTOL * 1.0001)
    return {
        "iterations": info.iterations,
        "cpu_seconds": round(seconds, 4),
        "residual": float(f"{residual:.2e}"),
        "converged": solved,
    }


def rows_of(n: int, scene: str, folder: Path) -> list[dict[str, Any]]:
    """Every kind and right-hand side of one scene."""
    cells, boundary = SCENES[scene](n)
    problem = PoissonProblem(cells, boundary=boundary)
    rows = []
    for kind in KINDS:
        if kind == "dcdm":
            M: Any = PublishedDirections(problem, folder)
        else:
            M = None if kind == "none" else preconditioner(problem, kind)
        row: dict[str, Any] = {"n": n, "scene": scene, "kind": kind}
        for name, rhs in right_hand_sides(n).items():
            row[name] = measure(problem, problem.to_vector(rhs), kind, M)
        print(row, flush=True)
        rows.append(row)
    return rows


def main() -> None:
    """Measure, print, store."""
    if thread_count() != 1:
        raise SystemExit("measured on one thread: set OMP_NUM_THREADS=1 and OPENBLAS_NUM_THREADS=1.")
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else SHIPPED / "dcdm"
    settings, _, training = load_weights(folder, "dcdm")
    rows = [row for n, scenes in SIZES.items() for scene in scenes for row in rows_of(n, scene, folder)]
    about = {"threads": 1, "rtol": RTOL, "most_iterations": MOST, "most_iterations_of_network": MOST_OF_NETWORK}
    store_result(RESULT, {"machine": describe_machine(), **about, "network": settings, "training": training, "rows": rows})


if __name__ == "__main__":
    main()
