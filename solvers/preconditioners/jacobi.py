"""The inverse of the diagonal."""

from __future__ import annotations

from typing import Any

from scipy.sparse.linalg import LinearOperator

from solvers.problem import GridOperator, PoissonProblem


def build(problem: PoissonProblem) -> LinearOperator:
    """Divide by the diagonal; by 1 in isolated cells, whose row is zero."""
    xp = problem.xp
    inverse = 1.0 / xp.where(problem.diagonal > 0, problem.diagonal, 1.0)

    def on_grid(residual: Any) -> Any:
        return residual * inverse

    return GridOperator(problem, on_grid)
