"""Solves a stored problem: `python -m solvers.solve problem=FILE`."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from configs.compose import entry
from solvers.job import SolveConfig, solve_stored
from solvers.solution import solve


@entry(SolveConfig, "solvers/solve")
def main(config: SolveConfig) -> str:
    """Solve, and say where the solution is."""
    return solve_stored(config)


class _CalledAsSolve(ModuleType):
    """Importing this module binds `solvers.solve`, the function's name, to it; so it can be called like the function."""

    def __call__(self, *arguments: Any, **settings: Any) -> Any:
        return solve(*arguments, **settings)


sys.modules[__name__].__class__ = _CalledAsSolve

if __name__ == "__main__":
    main()
