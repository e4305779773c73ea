"""The multigrid cycle with learned coarse levels: the same work in each iteration, fewer iterations.

What is learned are factors on the faces and Dirichlet values of coarse cells, ties of interpolation, and two
relaxations (solvers/learning/coarsening.py; `python -m solvers.train kind=learned`). They come from the flags, once for
each problem, and are positive: the cycle is symmetric positive definite whatever the weights are, and conjugate
gradients is right for it.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from scipy.sparse.linalg import LinearOperator

from solvers.preconditioners.multigrid import Multigrid
from solvers.problem import PoissonProblem
from solvers.weights import SHIPPED, WeightsError, load_weights

# As gpu/cpu/poisson/learned_coarsening.h reads them, one behind the other; the first layer's by feature, not by hidden unit.
LAYOUT = {
    f"{network}.{layer}.{part}": shape
    for network, outputs in (("face", 2), ("side", 1))
    for layer, part, shape in (
        (0, "weight", (16, 15)),
        (0, "bias", (16,)),
        (2, "weight", (outputs, 16)),
        (2, "bias", (outputs,)),
    )
}


class Learned(Multigrid):
    """`Multigrid` with coarse levels as the shipped weights, or those of a folder, make them.

    Learned for open faces that are all alike, in three dimensions: with fractions or coefficients, or in two
    dimensions, only the relaxations are used.

    Parameters
    ----------
    problem
        On NumPy arrays.
    weights
        Folder that `python -m solvers.train kind=learned` wrote.

    Raises
    ------
    WeightsError
        If the folder holds no weights of this kind, or of other shapes.
    """

    def __init__(self, problem: PoissonProblem, weights: str | Path = SHIPPED / "learned") -> None:
        over, coarsening = packed(Path(weights))
        fits = problem.has_plain_faces and len(problem.shape) == 3
        super().__init__(problem, {"over_fine": over[0], "over_coarse": over[1]}, coarsening if fits else None)


def build(problem: PoissonProblem) -> LinearOperator:
    """The cycle with the shipped weights.

    Raises
    ------
    TypeError
        For a problem on CuPy arrays.
    """
    if problem.library != "numpy":
        raise TypeError("learned needs a problem on NumPy arrays; got CuPy. Take kind='fast-transform' or 'jacobi' there.")
    return Learned(problem)


@cache
def packed(folder: Path) -> tuple[tuple[float, float], np.ndarray]:
    """Relaxations of the first colour, finest and coarser levels, and the networks' weights as the kernels read them."""
    _, weights, _ = load_weights(folder, "learned")
    wanted = {**LAYOUT, "over": (2,)}
    if {name: value.shape for name, value in weights.items()} != wanted:
        raise WeightsError(f"weights in {folder} must have the shapes {wanted}. Train them again with this version.")
    over = 1 + 0.5 / (1 + np.exp(-weights["over"]))
    parts = [weights[name].T if name.endswith("0.weight") else weights[name] for name in LAYOUT]
    return (float(over[0]), float(over[1])), np.concatenate([part.astype(np.float32).ravel() for part in parts])
