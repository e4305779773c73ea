"""Poisson problems on a GPU: multigrid beside conjugate gradients of CuPy, and beside the same multigrid on the CPU.

    python -m benchmarks.poisson_gpu

Mixed boundaries (solids, free surfaces, walls), a smooth right-hand side, to a relative residual of 1e-6 in float64.
Times are of whole solves on arrays that lie on the device, host waits included, the median of turns; set-up (levels made on the
host and copied) apart. Writes `benchmarks/results/poisson_gpu.json`. Needs a CUDA device and CuPy.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import describe_machine, store_result
from benchmarks.poisson_scenes import SCENES, right_hand_sides
from gpu import backend
from solvers import PoissonProblem, preconditioner, solve_with_info

RESULT = Path(__file__).parent / "results" / "poisson_gpu.json"
CASES = (("sphere", 64), ("splash", 64), ("sphere", 128), ("tank", 128), ("splash", 128), ("sphere", 256), ("splash", 256))
RTOL, TURNS, MOST = 1e-6, 7, 3000


def timed(cp: Any, call: Callable[[], Any], turns: int = TURNS) -> tuple[float, Any]:
    """Median seconds of a call, and what it gave."""
    answer, seconds = call(), []
    for _ in range(turns):
        cp.cuda.Device().synchronize()
        started = time.perf_counter()
        answer = call()
        cp.cuda.Device().synchronize()
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds)), answer


def residual(problem: PoissonProblem, grid: Any, f: Any) -> float:
    """Relative residual in float64."""
    b = problem.compatible(problem.to_vector(f))
    r = b - problem.operator() @ problem.to_vector(grid)
    return float((r @ r) ** 0.5 / (b @ b) ** 0.5)


def on_device(cp: Any, scene: str, n: int) -> dict[str, Any]:
    """Multigrid and CuPy's conjugate gradients on the device; multigrid on the host."""
    from cupyx.scipy.sparse import csr_matrix
    from cupyx.scipy.sparse.linalg import cg

    cells, boundary = SCENES[scene](n)
    f = right_hand_sides(n)["smooth"]
    host = PoissonProblem(cells, boundary=boundary)
    there, right = PoissonProblem(cp.asarray(cells), boundary=boundary), cp.asarray(f)
    started = time.perf_counter()
    M = preconditioner(there, "multigrid")
    cp.cuda.Device().synchronize()
    row: dict[str, Any] = {"scene": scene, "cells": n, "unknowns": there.n, "multigrid_set_up": time.perf_counter() - started}
    row["multigrid"], (grid, (info,)) = timed(cp, lambda: solve_with_info(there, right, rtol=RTOL, M=M))
    row |= {"iterations": info.iterations, "converged": info.converged, "residual": residual(there, grid, right)}
    once = timed(cp, lambda: M @ there.to_vector(right))[0]
    row["one_cycle"] = once
    on_host = preconditioner(host, "multigrid")
    row["multigrid_on_the_cpu"], _ = timed(cp, lambda: solve_with_info(host, f, rtol=RTOL, M=on_host), 3)
    if n <= 128:
        A, b = csr_matrix(host.matrix()), there.compatible(there.to_vector(right))
        steps: list[int] = []
        settings = {"rtol" if "rtol" in signature(cg).parameters else "tol": RTOL, "maxiter": MOST}
        _, flag = cg(A, b, callback=lambda _: steps.append(1), **settings)
        row["cupyx_cg"], _ = timed(cp, lambda: cg(A, b, **settings), 3)
        row |= {"cupyx_cg_iterations": len(steps), "cupyx_cg_converged": flag == 0}
        row["cupyx_cg_over_multigrid"] = row["cupyx_cg"] / row["multigrid"]
    return {name: float(f"{value:.4g}") if isinstance(value, float) else value for name, value in row.items()}


def main() -> None:
    cp = backend.cupy()
    rows = []
    for scene, n in CASES:
        try:
            rows.append(on_device(cp, scene, n))
        except Exception as error:  # noqa: BLE001 - one case that fails must not lose the others
            rows.append({"scene": scene, "cells": n, "failed": f"{type(error).__name__}: {error}"})
        print(rows[-1], flush=True)
        store_result(
            RESULT,
            {
                "what": "seconds of a solve to 1e-6 on the GPU, beside CuPy's conjugate gradients and the CPU (all its cores)",
                "machine": describe_machine() | {"cupy": cp.__version__},
                "rows": rows,
            },
        )


if __name__ == "__main__":
    main()
