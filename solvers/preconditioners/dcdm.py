"""The published network (Kaneda et al., ICML 2023) proposes directions: neither linear nor symmetric.

Its weights (solvers/shipped/dcdm) were trained on the empty box with Dirichlet faces; it sees neither flags nor matrix.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.sparse.linalg import LinearOperator

from solvers.problem import PoissonProblem
from solvers.weights import SHIPPED


class PublishedDirections(LinearOperator):
    """d = |r| f(r / |r|) on vectors of the fluid cells' values, f the network on the whole grid, float32.

    For `conjugate_directions` with `n_orthogonal=2`, the published loop; SciPy's `cg` wants a linear symmetric M: this is none.

    Parameters
    ----------
    problem
        Three-dimensional, on NumPy arrays.
    weights
        Folder that `python -m solvers.train kind=dcdm` wrote.

    Raises
    ------
    WeightsError
        If the folder holds no weights of this kind.
    """

    def __init__(self, problem: PoissonProblem, weights: str | Path = SHIPPED / "dcdm") -> None:
        from solvers.published_network import load_proposer

        self.propose, self.problem = load_proposer(weights), problem
        super().__init__(np.dtype(np.float64), (problem.n, problem.n))

    def _matvec(self, x: np.ndarray) -> np.ndarray:
        length = float(np.linalg.norm(x))
        if length == 0.0:
            return np.zeros(self.problem.n)
        direction = self.propose(self.problem.to_grid(np.ravel(x) / length))
        vector: np.ndarray = self.problem.to_vector(direction) * length
        return vector


def build(problem: PoissonProblem) -> LinearOperator:
    """The network with the shipped weights.

    Raises
    ------
    TypeError
        For a problem on CuPy arrays.
    ValueError
        For a two-dimensional problem.
    """
    if problem.library != "numpy":
        raise TypeError("dcdm needs a problem on NumPy arrays; got CuPy. Take kind='fast-transform' or 'jacobi' there.")
    if len(problem.shape) != 3:
        raise ValueError(f"dcdm needs a problem in three dimensions; got cells of shape {problem.shape}. Take another kind.")
    return PublishedDirections(problem)
