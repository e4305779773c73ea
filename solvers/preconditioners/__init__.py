"""Approximate inverses of a Poisson problem behind one door: `preconditioner(problem, kind=...)`.

A kind is one module with a function `build(problem) -> LinearOperator` and one line in `HOMES`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator

    from solvers.problem import PoissonProblem

HOMES = {
    "jacobi": "solvers.preconditioners.jacobi",
    "incomplete-cholesky": "solvers.preconditioners.incomplete_cholesky",
    "fast-transform": "solvers.preconditioners.fast_transform",
    "multigrid": "solvers.preconditioners.multigrid",
    "learned": "solvers.preconditioners.learned",
    "dcdm": "solvers.preconditioners.dcdm",
}


def preconditioner(problem: PoissonProblem, kind: str = "auto") -> LinearOperator:
    """Make an approximate inverse of the problem's operator, symmetric and positive definite but for "dcdm".

    Parameters
    ----------
    problem
        Whose operator is to be inverted.
    kind
        "auto" (the fastest for this problem), or one of `HOMES`.

    Returns
    -------
    LinearOperator
        Shape (n, n), on vectors of the fluid cells' values.

    Raises
    ------
    ValueError
        If the kind is unknown.
    """
    if kind == "auto":
        kind = best_kind(problem)
    if kind not in HOMES:
        raise ValueError(f"kind must be 'auto' or one of {sorted(HOMES)}; got {kind!r}.")
    operator: LinearOperator = importlib.import_module(HOMES[kind]).build(problem)
    return operator


def best_kind(problem: PoissonProblem) -> str:
    """What "auto" stands for: what measured fastest.

    On the empty box the transform is exact, yet a transform costs as much as several cycles: on one thread the two are within a
    quarter of each other up to 32^3 and 512^2; multigrid is 1.1 to 1.5 times faster at 64^3, 1.8 to 4 times at 128^3.
    """
    from solvers.preconditioners.fast_transform import is_exact

    return "fast-transform" if problem.library == "cupy" and is_exact(problem) else "multigrid"
