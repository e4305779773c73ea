"""A Poisson problem and its right-hand sides in one `.npz` file, and the solution in another. Loading executes nothing.

Arrays of a problem: `cells` (uint8), `rhs`, `spacing` (one for each axis), `boundary` (axes, 2) of words, and where they are
given `fraction_0`, `coefficient_0` and so on for each axis. Of a solution: `solution`, `iterations`, `residual_norm`,
`converged` and `history_0` and so on, one for each right-hand side.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from solvers.outcome import Outcome
from solvers.problem import PoissonProblem

REQUIRED = ("cells", "rhs", "spacing", "boundary")
PER_AXIS = {"fraction": "fractions", "coefficient": "coefficients"}


def save_problem(path: str | Path, problem: PoissonProblem, rhs: np.ndarray) -> None:
    """Write a problem on NumPy arrays and a right-hand side, or a batch of them, on its grid."""
    arrays = {"cells": problem.cells, "rhs": rhs, "spacing": np.array(problem.spacing), "boundary": np.array(problem.sides)}
    for word, name in PER_AXIS.items():
        for axis, values in enumerate(getattr(problem, name) or ()):
            arrays[f"{word}_{axis}"] = values
    with Path(path).open("wb") as file:
        np.savez_compressed(file, **arrays)


def load_problem(path: str | Path) -> tuple[PoissonProblem, np.ndarray]:
    """Read what `save_problem`, or anybody's `numpy.savez`, wrote.

    Raises
    ------
    ValueError
        If the file is none, an array is missing, unknown or holds objects, or does not make a problem.
    OSError
        If the file cannot be read.
    """
    try:
        with Path(path).open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, zipfile.BadZipFile, EOFError, AttributeError) as error:
        raise ValueError(
            f"{path} is no .npz file of plain arrays ({error}). Write it with solvers.stored_problem.save_problem."
        ) from error
    axes = range(arrays["cells"].ndim) if "cells" in arrays else range(0)
    faces = {name: [arrays.pop(f"{word}_{axis}", None) for axis in axes] for word, name in PER_AXIS.items()}
    missing, unknown = sorted(set(REQUIRED) - set(arrays)), sorted(set(arrays) - set(REQUIRED))
    missing += [name for name, values in faces.items() if 0 < sum(value is None for value in values) < len(values)]
    if missing or unknown:
        raise ValueError(
            f"{path} must hold the arrays {list(REQUIRED)}; missing: {missing or 'none'}, unknown: {unknown or 'none'}."
        )
    given: dict[str, Any] = {name: None if not values or values[0] is None else values for name, values in faces.items()}
    boundary = [tuple(str(kind) for kind in kinds) for kinds in arrays["boundary"]]
    return PoissonProblem(arrays["cells"], arrays["spacing"].tolist(), boundary=boundary, **given), arrays["rhs"]  # type: ignore[arg-type]


def save_solution(path: str | Path, solution: np.ndarray, outcomes: list[Outcome]) -> None:
    """Write a solution and how each right-hand side ended."""
    arrays = {
        "solution": solution,
        "iterations": np.array([outcome.iterations for outcome in outcomes]),
        "residual_norm": np.array([outcome.residual_norm for outcome in outcomes]),
        "converged": np.array([outcome.converged for outcome in outcomes]),
    }
    arrays |= {f"history_{number}": np.array(outcome.history) for number, outcome in enumerate(outcomes)}
    with Path(path).open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
