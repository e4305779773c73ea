"""The inverse of the empty box by sine, cosine and Fourier transforms: exact where the problem is one, a preconditioner
elsewhere.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import scipy.fft
from scipy.sparse.linalg import LinearOperator

from solvers.boundary import DIRICHLET, NEUMANN, PERIODIC
from solvers.problem import GridOperator, PoissonProblem

WORKERS = 1  # one thread: callers measure and divide cores themselves


def is_exact(problem: PoissonProblem) -> bool:
    """Whether the problem is the empty box: every cell fluid, every coefficient 1."""
    return problem.has_plain_faces and problem.n == problem.cells.size


def build(problem: PoissonProblem) -> LinearOperator:
    """Solve on the empty box with the problem's box faces; what lies outside the fluid is cut off.

    Variable coefficients enter by their mean over open faces. A box that is singular (no Dirichlet face) has its constant mode
    divided by the smallest other eigenvalue, which keeps the operator positive definite.
    """
    axes = [_Axis(problem, axis) for axis in range(len(problem.shape))]
    eigenvalues: Any = 0.0
    for number, axis in enumerate(axes):
        eigenvalues = eigenvalues + axis.eigenvalues.reshape([-1 if number == other else 1 for other in range(len(axes))])
    positive = eigenvalues[eigenvalues > 1e-12 * eigenvalues.max()]
    smallest = positive.min() if positive.size else 1.0
    eigenvalues = np.maximum(eigenvalues, smallest)
    inverse = problem.xp.asarray(1.0 / eigenvalues)

    def on_grid(residual: Any) -> Any:
        values = residual.astype(np.float64)
        for number, axis in enumerate(axes):
            values = axis.forward(values, number)
        values = values * inverse
        for number, axis in reversed(list(enumerate(axes))):
            values = axis.backward(values, number)
        return values

    return GridOperator(problem, on_grid)


class _Axis:
    """Orthonormal eigenvectors of one axis' second difference: a fast transform, or a dense matrix where none is fast.

    Ghost centres hold the Dirichlet value, so low and high Dirichlet is DST-I, two walls DCT-II. A wall on one side only has
    eigenvectors cos((2k+1)(2i+1) pi / (4n+2)), for which SciPy has no transform.
    """

    def __init__(self, problem: PoissonProblem, axis: int) -> None:
        n, self.kinds, self.xp = problem.shape[axis], problem.sides[axis], problem.xp
        k = np.arange(n)
        if self.kinds == (DIRICHLET, DIRICHLET):
            angle = math.pi * (k + 1) / (n + 1)
        elif self.kinds == (NEUMANN, NEUMANN):
            angle = math.pi * k / n
        elif PERIODIC in self.kinds:
            angle = 2 * math.pi * ((k + 1) // 2) / n
        else:
            angle = math.pi * (2 * k + 1) / (2 * n + 1)
        weight = problem.face_weights[axis]
        mean = float(weight.sum()) / max(1, int((weight > 0).sum()))
        self.eigenvalues = mean * (2 - 2 * np.cos(angle))
        is_fast = len(set(self.kinds)) == 1 and problem.library == "numpy" and PERIODIC not in self.kinds
        self.matrix = None if is_fast else self.xp.asarray(_eigenvectors(n, self.kinds, angle))

    def forward(self, values: Any, axis: int) -> Any:
        if self.matrix is not None:
            return self.xp.moveaxis(self.xp.tensordot(self.matrix, values, axes=(0, axis)), 0, axis)
        if self.kinds[0] == DIRICHLET:
            return scipy.fft.dst(values, type=1, axis=axis, norm="ortho", workers=WORKERS)
        return scipy.fft.dct(values, type=2, axis=axis, norm="ortho", workers=WORKERS)

    def backward(self, values: Any, axis: int) -> Any:
        if self.matrix is not None:
            return self.xp.moveaxis(self.xp.tensordot(self.matrix, values, axes=(1, axis)), 0, axis)
        if self.kinds[0] == DIRICHLET:
            return scipy.fft.dst(values, type=1, axis=axis, norm="ortho", workers=WORKERS)
        return scipy.fft.idct(values, type=2, axis=axis, norm="ortho", workers=WORKERS)


def _eigenvectors(n: int, kinds: tuple[str, str], angle: np.ndarray) -> np.ndarray:
    """Orthonormal eigenvectors (cell, mode)."""
    i = np.arange(n)[:, None]
    if PERIODIC in kinds:
        modes = np.where(np.arange(n) % 2 == 1, np.cos(angle * i), np.sin(angle * i))
        modes[:, 0] = 1.0
        if n % 2 == 0:
            modes[:, -1] = (-1.0) ** np.arange(n)
    elif kinds == (DIRICHLET, DIRICHLET):
        modes = np.sin(angle * (i + 1))
    elif kinds[0] == NEUMANN:
        modes = np.cos(angle * (i + 0.5))
    else:
        modes = np.cos(angle * (n - 1 - i + 0.5))
    vectors: np.ndarray = modes / np.linalg.norm(modes, axis=0)
    return vectors
