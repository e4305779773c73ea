"""Grid in, grid out: the best preconditioner, float64 residuals, singular pools made compatible, and a projection in one
call.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from gpu.poisson import Solved
from solvers.directions import conjugate_directions
from solvers.outcome import Converged, NotConverged, NotFinite, NotPositiveDefinite, NotSolved, Outcome, Stalled
from solvers.preconditioners import preconditioner
from solvers.preconditioners.multigrid import Multigrid
from solvers.problem import PoissonProblem
from solvers.threads import thread_count

MAXITER = 1000

ENDS: dict[str, tuple[type[Outcome], int, str]] = {
    "converged": (Converged, 0, "the true residual meets the tolerance"),
    "maxiter": (NotConverged, 1, "maxiter came before the tolerance"),
    "curvature": (NotPositiveDefinite, -1, "a direction of curvature <= 0: rounding took over, or the problem is not definite"),
    "not finite": (NotFinite, -2, "NaN or inf came up"),
    "stalled": (Stalled, 1, "rounding keeps the true residual above the tolerance"),
}


def solve(
    problem: PoissonProblem,
    rhs: Any,
    *,
    rtol: float = 1e-6,
    atol: float = 0.0,
    maxiter: int = MAXITER,
    M: Any = None,
    x0: Any = None,
) -> Any:
    """Solve A p = rhs, A the problem's -div(c grad), for one right-hand side or a batch.

    On a pool of fluid that no Dirichlet value holds, p is known up to a constant and rhs must sum to zero: its mean
    there is removed
    from rhs, and p is returned with mean zero.

    Parameters
    ----------
    problem
        The `PoissonProblem`.
    rhs
        Grid of shape (*cells.shape) or (batch, *cells.shape); what lies outside the fluid is ignored.
    rtol, atol
        |rhs - A p| <= max(rtol |rhs|, atol) in the 2-norm over fluid cells, of the residual recomputed in float64.
    maxiter
        Most iterations, >= 1.
    M
        A preconditioner, or the name of its kind; None is "auto".
    x0
        First guess, shape of rhs.

    Returns
    -------
    array
        p, float64, shape of rhs; 0 outside the fluid.

    Raises
    ------
    NotSolved
        If the tolerance was not met; it holds the best `solution` and the `info`.
    ValueError
        If a shape does not fit, rhs or x0 hold NaN or inf in the fluid, a kind is unknown, or a setting is out of range.
    TypeError
        If rhs is complex or not numbers.
    """
    grid, info = solve_with_info(problem, rhs, rtol=rtol, atol=atol, maxiter=maxiter, M=M, x0=x0)
    worst = max(info, key=lambda outcome: (not outcome.converged, outcome.residual_norm), default=None)
    if worst is not None and not worst.converged:
        raise NotSolved(
            f"not solved after {worst.iterations} iterations: {worst.reason}; residual {worst.residual_norm:.3g}.", grid, worst
        )
    return grid


def solve_with_info(
    problem: PoissonProblem,
    rhs: Any,
    *,
    rtol: float = 1e-6,
    atol: float = 0.0,
    maxiter: int = MAXITER,
    M: Any = None,
    x0: Any = None,
) -> tuple[Any, list[Outcome]]:
    """`solve`, but failures are returned: the grid, and an `Outcome` for each right-hand side of the batch."""
    vectors = _vectors(problem, "rhs", rhs)
    guesses = problem.xp.zeros_like(vectors) if x0 is None else _vectors(problem, "x0", x0)
    if guesses.shape != vectors.shape:
        raise ValueError(f"x0 must have the shape of rhs; got {x0.shape} and {rhs.shape}.")
    if maxiter < 1 or not 0 <= rtol < 1 or not 0 <= atol < float("inf"):
        raise ValueError(f"wanted maxiter >= 1, 0 <= rtol < 1 and finite atol >= 0; got {maxiter}, {rtol} and {atol}.")
    M = M if M is not None and not isinstance(M, str) else preconditioner(problem, kind=M or "auto")
    solved, outcomes = problem.xp.empty_like(vectors), []
    for index, (b, guess) in enumerate(zip(problem.compatible(vectors), guesses, strict=True)):
        scale = _power_of_two(b)
        b, guess = b / scale, guess / scale
        x, info = _solve_vector(problem, b, guess, rtol, atol / scale, maxiter, M)
        if int(info) != 0 and not isinstance(info, NotConverged) and isinstance(M, Multigrid) and M.device is None:
            # float32 is too coarse for the coefficients of this problem: go on in float64
            again = preconditioner(problem, kind="incomplete-cholesky")
            x, info = _solve_vector(problem, b, x, rtol, atol / scale, maxiter, again)
        solved[index] = problem.compatible(x) * scale
        outcomes.append(info if scale == 1 else info.scaled(scale))
    return problem.to_grid(solved).reshape(rhs.shape), outcomes


def project(problem: PoissonProblem, velocities: Sequence[Any], **settings: Any) -> tuple[list[Any], Any]:
    """Make face velocities free of divergence in the fluid.

    Parameters
    ----------
    problem
        The `PoissonProblem`.
    velocities
        One array an axis, with one face more than cells along it. On walls they are kept as given and count in the divergence;
        on a pool of fluid without Dirichlet values what they bring in on balance stays as divergence, spread evenly.
    settings
        Those of `solve`.

    Returns
    -------
    velocities, p
        The velocities less grad p, and the p that was subtracted.

    Raises
    ------
    NotSolved
        As `solve`.
    """
    p = solve(problem, -problem.divergence(velocities), **settings)
    return [velocity - slope for velocity, slope in zip(velocities, problem.gradient(p), strict=True)], p


def _power_of_two(b: Any) -> float:
    """What to divide by so that squares of b stay within float64; 1 where they do anyway."""
    largest = float(abs(b).max()) if b.size else 0.0
    return 1.0 if largest == 0 or 1e-100 < largest < 1e100 else 2.0 ** (math.frexp(largest)[1] - 1)


def _vectors(problem: PoissonProblem, name: str, grid: Any) -> Any:
    """The fluid cells' values, (batch, n), float64 and finite."""
    xp = problem.xp
    grid = xp.asarray(grid)
    if grid.dtype.kind not in "fiub":
        raise TypeError(f"{name} must hold real numbers; got dtype {grid.dtype}.")
    if grid.ndim - len(problem.shape) not in (0, 1):
        raise ValueError(f"{name} must have shape {problem.shape} or (batch, {str(problem.shape)[1:]}; got {grid.shape}.")
    batch = 1 if grid.ndim == len(problem.shape) else grid.shape[0]
    vectors = problem.to_vector(grid.astype(float)).reshape(batch, problem.n)
    if not bool(xp.isfinite(vectors).all()):
        raise ValueError(f"{name} must be finite in fluid cells; it holds NaN or inf.")
    return vectors


def _solve_vector(
    problem: PoissonProblem, b: Any, guess: Any, rtol: float, atol: float, maxiter: int, M: Any
) -> tuple[Any, Outcome]:
    if not (isinstance(M, Multigrid) and M.device is None and problem.has_plain_faces):
        A = problem.operator() if problem.library == "cupy" else problem.matrix()
        return conjugate_directions(A, b, guess, rtol=rtol, atol=atol, maxiter=maxiter, M=M)
    right, first = (problem.to_grid(vector).reshape(M.hierarchy.shape) for vector in (b / M.largest, guess))
    wanted = max(rtol * float(np.linalg.norm(b)), atol) / M.largest  # of b, whatever the first guess leaves
    solved = M.hierarchy.solve(right, first, wanted, maxiter, thread_count())
    return problem.to_vector(solved.solution.reshape(problem.shape)), _outcome(solved, M.largest)


def _outcome(solved: Solved, scale: float) -> Outcome:
    kind, value, reason = ENDS[solved.end]
    return kind(
        value * (max(1, solved.iterations) if value > 0 else 1),
        iterations=solved.iterations,
        residual_norm=solved.residual_norm * scale,
        reason=reason,
        history=tuple(norm * scale for norm in solved.history),
    )
