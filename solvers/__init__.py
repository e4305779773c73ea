"""Solvers for the Poisson equations that simulation codes wait for.

| name | what |
|---|---|
| `PoissonProblem`, `FLUID`, `SOLID`, `AIR` | flags and box faces in; operator, matrix, divergence and gradient out |
| `solve`, `solve_with_info`, `project` | grids in, grids out |
| `conjugate_directions` | the outer loop, with the contract of `scipy.sparse.linalg.cg` |
| `preconditioner` | approximate inverses by name |
| `Outcome`, `NotSolved` | how a solve ended |

Importing this package loads no torch and no CuPy.
"""

from __future__ import annotations

from solvers.cells import AIR, FLUID, SOLID
from solvers.directions import conjugate_directions
from solvers.outcome import NotSolved, Outcome
from solvers.preconditioners import preconditioner
from solvers.problem import PoissonProblem
from solvers.solution import project, solve, solve_with_info

__all__ = [
    "AIR",
    "FLUID",
    "SOLID",
    "NotSolved",
    "Outcome",
    "PoissonProblem",
    "conjugate_directions",
    "preconditioner",
    "project",
    "solve",
    "solve_with_info",
]
