"""What `python -m solvers.solve` does: a stored problem in, a stored solution out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from solvers.solution import solve_with_info
from solvers.stored_problem import load_problem, save_solution


@dataclass
class SolveConfig:
    """Which problem to solve, and how well.

    Parameters
    ----------
    problem
        File that `solvers.stored_problem.save_problem` wrote.
    out
        File for the solution; null is `problem` with `.solution.npz` instead of its suffix.
    kind
        Of the preconditioner; "auto" takes the fastest for the problem.
    rtol, maxiter
        As for `solvers.solve`.
    """

    problem: str
    out: str | None = None
    kind: str = "auto"
    rtol: float = 1e-6
    maxiter: int = 1000


class UnsolvedError(ValueError):
    """A solve that missed its tolerance; what it reached is stored."""


def solve_stored(config: SolveConfig) -> str:
    """Solve, store the solution and its history, and say how it went in one line.

    Raises
    ------
    UnsolvedError
        If a right-hand side was not solved; the best solution is stored all the same.
    """
    problem, rhs = load_problem(config.problem)
    solution, outcomes = solve_with_info(problem, rhs, rtol=config.rtol, maxiter=config.maxiter, M=config.kind)
    out = config.out or str(Path(config.problem).with_suffix(".solution.npz"))
    save_solution(out, solution, outcomes)
    failed = [outcome for outcome in outcomes if not outcome.converged]
    if failed:
        raise UnsolvedError(f"{len(failed)} of {len(outcomes)} not solved: {failed[0].reason}. What was reached is in {out}.")
    iterations = ", ".join(str(outcome.iterations) for outcome in outcomes)
    return f"Solved {problem.n} unknowns in {iterations} iterations; solution and history in {out}."
