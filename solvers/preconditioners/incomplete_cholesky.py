"""Incomplete Cholesky factor with no fill-in, IC(0), of the problem's matrix."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.sparse.linalg import LinearOperator

from gpu.poisson import pivots, triangular_solves
from solvers.problem import PoissonProblem


def build(problem: PoissonProblem) -> LinearOperator:
    """Solve with L L^T, L = (D + E) D^-1/2, E the strict lower triangle of the matrix, D_i = a_ii - sum_j a_ij^2 / D_j.

    No two neighbours of a cell are neighbours, so IC(0) leaves the off-diagonal entries as they are.

    Raises
    ------
    TypeError
        For a problem on CuPy arrays: the factor is sequential.
    """
    if problem.library != "numpy":
        raise TypeError(
            "incomplete-cholesky needs a problem on NumPy arrays; got CuPy. Its solves are sequential; take another kind."
        )
    A = problem.matrix()
    start, column = A.indptr.astype(np.int64), A.indices.astype(np.int64)
    pivot = pivots(problem.n, start, column, A.data)

    def matvec(r: Any) -> Any:
        return triangular_solves(start, column, A.data, pivot, np.ravel(r))

    return LinearOperator((problem.n, problem.n), matvec=matvec, rmatvec=matvec, dtype=np.float64)
