"""Other people's solvers of the same matrix, each as it is recommended, preconditioning conjugate gradients; where installed.

A peer is a function of the problem that sets up and gives a solver: right-hand side in, (x, iterations, converged) out. PETSc's
Python bindings of a distribution belong to its own Python and NumPy, so PETSc runs in a process of its own, `petsc_solve.py`,
which measures its times itself.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from solvers import PoissonProblem

Solver = Callable[[np.ndarray], tuple[np.ndarray, int, bool]]
PETSC_SCRIPT = Path(__file__).with_name("petsc_solve.py")
PETSC = {
    "petsc-gamg": ["-pc_type", "gamg"],
    "petsc-hypre": ["-pc_type", "hypre", "-pc_hypre_boomeramg_strong_threshold", "0.5"],
}


def pyamg(problem: PoissonProblem, rtol: float, maxiter: int) -> Solver:
    """Smoothed aggregation as it comes, one V-cycle."""
    import pyamg as package
    from scipy.sparse import csr_matrix

    matrix = csr_matrix(problem.matrix())
    matrix.indptr, matrix.indices = matrix.indptr.astype(np.int32), matrix.indices.astype(np.int32)
    hierarchy = package.smoothed_aggregation_solver(matrix)

    def solver(b: np.ndarray) -> tuple[np.ndarray, int, bool]:
        norms: list[float] = []
        x, info = hierarchy.solve(b, tol=rtol, maxiter=maxiter, accel="cg", residuals=norms, return_info=True)
        return x, len(norms) - 1, info == 0

    return solver


def amgcl(problem: PoissonProblem, rtol: float, maxiter: int) -> Solver:
    """Smoothed aggregation with SPAI-0 smoothing, AMGCL's default."""
    import pyamgcl
    from scipy.sparse import csr_matrix

    matrix = csr_matrix(problem.matrix())
    smoother = {"coarsening.type": "smoothed_aggregation", "relax.type": "spai0"}
    run = pyamgcl.solver(pyamgcl.amg(matrix, smoother), {"type": "cg", "tol": rtol, "maxiter": maxiter})

    def solver(b: np.ndarray) -> tuple[np.ndarray, int, bool]:
        x = run(b)
        return x, int(run.iters), bool(run.error <= rtol)

    return solver


IN_PROCESS = {"pyamg-smoothed-aggregation": pyamg, "amgcl-smoothed-aggregation": amgcl}
MODULES = {"pyamg-smoothed-aggregation": "pyamg", "amgcl-smoothed-aggregation": "pyamgcl"}


@cache
def petsc_python() -> tuple[str, str] | None:
    """A Python that imports petsc4py, and PETSc's version; None if there is none. SKYSOLVE_PETSC_PYTHON names another one."""
    for python in (os.environ.get("SKYSOLVE_PETSC_PYTHON", sys.executable), "/usr/bin/python3"):
        asked = "import petsc4py, numpy; petsc4py.init([]); from petsc4py import PETSc; print(*PETSc.Sys.getVersion(), sep='.')"
        found = subprocess.run([python, "-c", asked], capture_output=True, text=True, check=False, env=_plain_environment())
        if found.returncode == 0:
            return python, found.stdout.strip()
    return None


def versions() -> dict[str, str]:
    """Of every peer that is installed, by its kind."""
    found = {kind: importlib.metadata.version(module) for kind, module in MODULES.items() if importlib.util.find_spec(module)}
    there = petsc_python()
    return found | (dict.fromkeys(PETSC, there[1]) if there else {})


def petsc(problem: PoissonProblem, kind: str, rights: dict[str, np.ndarray], rtol: float, maxiter: int) -> dict[str, Any]:
    """Set-up seconds; for each right-hand side x, seconds, iterations and whether it converged: measured by PETSc's process."""
    there = petsc_python()
    if there is None:
        raise ImportError("petsc4py is not installed; name a Python that has it by SKYSOLVE_PETSC_PYTHON.")
    matrix = problem.matrix()
    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder) / "given.npz", Path(folder) / "made.npz"
        arrays = {"start": matrix.indptr.astype(np.int32), "column": matrix.indices.astype(np.int32), "value": matrix.data}
        np.savez(given, **arrays, **{f"b_{name}": problem.to_vector(grid) for name, grid in rights.items()})
        command = [there[0], str(PETSC_SCRIPT), str(given), str(made), str(rtol), str(maxiter), *PETSC[kind]]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=_plain_environment())
        result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        with np.load(made) as file:
            for name in rights:
                result[name]["x"] = file[name]
    return result


def _plain_environment() -> dict[str, str]:
    """Without what belongs to this Python."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
