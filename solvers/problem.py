"""A Poisson problem on a regular grid: flags and box faces in; operator, matrix, divergence and gradient out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.linalg import LinearOperator

from gpu import poisson_on_gpu
from gpu.backend import library_of, namespace
from solvers.boundary import NEUMANN, PERIODIC, BoundaryArgument, box_sides
from solvers.cells import AIR, FLUID, SOLID
from solvers.components import Pools, remove_means, singular_pools, singular_pools_of_flags
from solvers.faces import along, beyond, checked_faces, open_faces


class PoissonProblem:
    """-div(c grad p) = f on the FLUID cells of a regular 2-D or 3-D grid.

    Unknowns lie at cell centres. Behind a SOLID cell or a Neumann face of the box nothing flows. An AIR cell, and the
    ghost cell
    behind a Dirichlet face of the box, hold p = 0 at *their* centre. So with spacing 1 the matrix has -1 for each fluid
    neighbour and
    on the diagonal the number of neighbours that are not solid. It is symmetric; it is singular on every pool of fluid
    that touches
    no Dirichlet value (`pools`).

    Parameters
    ----------
    cells
        uint8, shape (nx, ny) or (nx, ny, nz), of FLUID, SOLID and AIR; NumPy or CuPy.
    spacing
        Edge of a cell: one number, or one for each axis; > 0.
    boundary
        What lies behind the box: "neumann" (a wall), "dirichlet", "periodic"; one for all, or for each axis one or
        a (low, high) pair.
    fractions
        For each axis the open part of each face, in [0, 1] (cut cells): shape of `cells` with one more along that
        axis; face i lies
        below cell i. None: faces are open or closed as the flags say. A fraction only narrows a face that the flags leave open.
    coefficients
        For each axis c on each face, >= 0, for example 1 / density. Same shapes. None: 1.

    Raises
    ------
    TypeError
        If `cells` is not uint8.
    ValueError
        If a shape, a flag, a kind or a range does not fit.
    """

    def __init__(
        self,
        cells: Any,
        spacing: float | Sequence[float] = 1.0,
        *,
        boundary: BoundaryArgument = NEUMANN,
        fractions: Sequence[Any] | None = None,
        coefficients: Sequence[Any] | None = None,
    ) -> None:
        self.library = library_of(cells=cells)
        self.xp: Any = namespace(self.library)
        self.cells = _checked_cells(self.xp, cells)
        self.shape: tuple[int, ...] = tuple(self.cells.shape)
        self.spacing = _checked_spacing(spacing, self.cells.ndim)
        self.sides = box_sides(boundary, self.cells.ndim)
        self.fractions = checked_faces(self.xp, "fractions", fractions, self.shape, self.sides, 1.0)
        self.coefficients = checked_faces(self.xp, "coefficients", coefficients, self.shape, self.sides, np.inf)
        self.fluid: Any = self.cells == FLUID
        self.n = int(self.fluid.sum())

    @property
    def has_plain_faces(self) -> bool:
        """Whether every open face has coefficient 1: the flags say everything."""
        return self.fractions is None and self.coefficients is None

    @cached_property
    def open(self) -> list[Any]:
        """For each axis, which faces let flux pass: bool, n + 1 of them along that axis."""
        return open_faces(self.xp, self.cells, self.sides)

    @cached_property
    def face_weights(self) -> list[Any]:
        """For each axis the off-diagonal entries with changed sign: fraction times coefficient over spacing
        squared, 0 if closed.
        """
        weights = []
        for axis, is_open in enumerate(self.open):
            weight = is_open / self.spacing[axis] ** 2
            for factor in (self.fractions, self.coefficients):
                weight = weight if factor is None else weight * factor[axis]
            weights.append(weight)
        return weights

    @cached_property
    def diagonal(self) -> Any:
        """The matrix's diagonal on the grid; 0 outside the fluid and in isolated cells."""
        total = self.xp.zeros(self.shape)
        for axis, weight in enumerate(self.face_weights):
            low, high = (weight[along(axis, part, len(self.shape))] for part in (slice(None, -1), slice(1, None)))
            total += low + high
        return self.xp.where(self.fluid, total, 0.0)

    def to_vector(self, grid: Any) -> Any:
        """The fluid cells' values of a grid in C order: (..., *shape) -> (..., n).

        Raises
        ------
        ValueError
            If the last axes are not the grid's.
        """
        grid = self.xp.asarray(grid)
        if tuple(grid.shape[-len(self.shape) :]) != self.shape:
            raise ValueError(
                f"grid must have shape (..., {', '.join(map(str, self.shape))}) as cells; got {tuple(grid.shape)}."
            )
        return grid[..., self.fluid]

    def to_grid(self, vector: Any) -> Any:
        """The grid that holds these values in its fluid cells and 0 elsewhere: (..., n) -> (..., *shape).

        Raises
        ------
        ValueError
            If the last axis is not n.
        """
        vector = self.xp.asarray(vector)
        if vector.ndim == 0 or vector.shape[-1] != self.n:
            raise ValueError(f"vector must have shape (..., {self.n}), a value for each fluid cell; got {tuple(vector.shape)}.")
        grid = self.xp.zeros((*vector.shape[:-1], *self.shape), dtype=vector.dtype)
        grid[..., self.fluid] = vector
        return grid

    def apply(self, grid: Any) -> Any:
        """A p on the grid, float64: p counts in fluid cells only, and the result is 0 elsewhere."""
        if self.library == "cupy":
            return poisson_on_gpu.apply(grid, self.diagonal, self.face_weights, [PERIODIC in kinds for kinds in self.sides])
        values = self.xp.where(self.fluid, grid, 0.0)
        total = self.diagonal * values
        for axis, weight in enumerate(self.face_weights):
            around = beyond(self.xp, values, axis, self.sides[axis], (0.0, 0.0))
            for faces, neighbours in ((slice(None, -1), slice(None, -2)), (slice(1, None), slice(2, None))):
                total -= weight[along(axis, faces, values.ndim)] * around[along(axis, neighbours, values.ndim)]
        return self.xp.where(self.fluid, total, 0.0)

    def operator(self) -> LinearOperator:
        """The matrix-free operator on vectors of the fluid cells' values, shape (n, n), float64."""
        return GridOperator(self, self.apply)

    def matrix(self) -> csr_array:
        """The same as a SciPy CSR matrix (on the host), with sorted indices and nothing stored that is zero but the
        diagonal.
        """
        first, second, weight = self._links
        diagonal = _on_host(self.to_vector(self.diagonal)) - self._wrapped
        own = np.arange(self.n)
        rows, columns = np.concatenate([own, first, second]), np.concatenate([own, second, first])
        matrix = csr_array((np.concatenate([diagonal, -weight, -weight]), (rows, columns)), shape=(self.n, self.n))
        matrix.sum_duplicates()
        return matrix

    @cached_property
    def _links(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Numbers of the two unknowns beside each open face between fluid cells, and its weight; on the host."""
        fluid = _on_host(self.fluid)
        number = np.full(self.shape, -1, np.int64)
        number[fluid] = np.arange(self.n)
        found: list[list[np.ndarray]] = [[], [], []]
        for axis, weight in enumerate(map(_on_host, self.face_weights)):
            around = beyond(np, number, axis, self.sides[axis], (-1, -1))
            last = slice(1 if PERIODIC in self.sides[axis] else 0, None)  # a periodic axis' first face is its last one
            low, high = (around[along(axis, part, number.ndim)] for part in (slice(None, -1), slice(1, None)))
            low, high, weight = (array[along(axis, last, number.ndim)] for array in (low, high, weight))
            both = (low >= 0) & (high >= 0) & (weight > 0) & (low != high)
            for part, array in zip(found, (low, high, weight), strict=True):
                part.append(array[both])
        first, second, weights = (np.concatenate(part) for part in found)
        return first, second, weights

    @cached_property
    def pools(self) -> Pools:
        """The pools of fluid that no Dirichlet value holds; isolated cells are pools of one."""
        held = _on_host(self.to_vector(self.apply(self.fluid) > 1e-9 * self.diagonal))  # rows whose sum is not zero
        if self.has_plain_faces and not any(PERIODIC in kinds for kinds in self.sides):
            pools = singular_pools_of_flags(_on_host(self.fluid), held)
        else:
            first, second, _ = self._links
            pools = singular_pools(first, second, held)
        return Pools(self.xp.asarray(pools.label), pools.number, self.xp.asarray(pools.sizes))

    @cached_property
    def _wrapped(self) -> np.ndarray:
        """What an axis of one periodic cell adds to the diagonal: the cell is its own neighbour, on both sides."""
        total = np.zeros(self.n)
        for axis, (kinds, weight) in enumerate(zip(self.sides, self.face_weights, strict=True)):
            if PERIODIC in kinds and self.shape[axis] == 1:
                total += 2 * _on_host(self.to_vector(weight[along(axis, slice(0, 1), len(self.shape))]))
        return total

    def compatible(self, vector: Any) -> Any:
        """`vector` (..., n) less its mean over each singular pool: what the operator can reach, and what a solution
        may lack.
        """
        return remove_means(self.xp, vector, self.pools)

    def on_host(self) -> PoissonProblem:
        """The same problem on NumPy arrays; itself if it is on them."""
        if self.library == "numpy":
            return self
        faces = [
            None if given is None else [_on_host(array) for array in given] for given in (self.fractions, self.coefficients)
        ]
        return PoissonProblem(
            _on_host(self.cells), self.spacing, boundary=self.sides, fractions=faces[0], coefficients=faces[1]
        )

    def gradient(self, grid: Any) -> list[Any]:
        """The slopes c grad p on the faces of each axis (n + 1 along it), 0 on closed faces; `grid` counts in fluid cells only.

        With `divergence`: divergence(gradient(p)) = -A p in every fluid cell.
        """
        values = self.xp.where(self.fluid, grid, 0.0)
        slopes = []
        for axis, is_open in enumerate(self.open):
            around = beyond(self.xp, values, axis, self.sides[axis], (0.0, 0.0))
            low, high = (around[along(axis, part, values.ndim)] for part in (slice(None, -1), slice(1, None)))
            factor = is_open if self.coefficients is None else is_open * self.coefficients[axis]
            slopes.append((high - low) * factor / self.spacing[axis])
        return slopes

    def divergence(self, velocities: Sequence[Any]) -> Any:
        """Divergence of face velocities in the fluid cells, 0 elsewhere; each face counts with its open fraction.

        Parameters
        ----------
        velocities
            For each axis the velocity along it on its faces: shape of the cells with one more along that axis.
            On closed faces it is
            what a moving solid prescribes, 0 if it rests.

        Raises
        ------
        ValueError
            If a shape does not fit.
        """
        if len(velocities) != len(self.shape):
            raise ValueError(f"velocities must hold {len(self.shape)} arrays, one for each axis; got {len(velocities)}.")
        total = self.xp.zeros(self.shape)
        for axis, velocity in enumerate(velocities):
            wanted = tuple(n + (axis == other) for other, n in enumerate(self.shape))
            if tuple(velocity.shape) != wanted:
                raise ValueError(f"velocities[{axis}] must have shape {wanted}; got {tuple(velocity.shape)}.")
            flux = velocity if self.fractions is None else velocity * self.fractions[axis]
            low, high = (flux[along(axis, part, len(self.shape))] for part in (slice(None, -1), slice(1, None)))
            total += (high - low) / self.spacing[axis]
        return self.xp.where(self.fluid, total, 0.0)

    def __repr__(self) -> str:
        return f"PoissonProblem(shape={self.shape}, fluid={self.n}, spacing={self.spacing}, boundary={self.sides})"


class VectorOperator(LinearOperator):
    """A symmetric operator on vectors of the fluid cells' values, NumPy or CuPy; a subclass defines `_matvec`."""

    def __init__(self, problem: PoissonProblem) -> None:
        self.problem = problem
        super().__init__(np.dtype(np.float64), (problem.n, problem.n))

    def _adjoint(self) -> VectorOperator:
        return self

    def __matmul__(self, x: Any) -> Any:
        # SciPy's product would turn CuPy arrays into NumPy ones.
        return self._matvec(x) if getattr(x, "ndim", 0) == 1 and x.shape == (self.problem.n,) else super().__matmul__(x)


class GridOperator(VectorOperator):
    """A symmetric operator on grids, which takes and gives vectors."""

    def __init__(self, problem: PoissonProblem, on_grid: Any) -> None:
        super().__init__(problem)
        self.on_grid = on_grid

    def _matvec(self, x: Any) -> Any:
        return self.problem.to_vector(self.on_grid(self.problem.to_grid(x.ravel())))


def _on_host(array: Any) -> np.ndarray:
    return np.asarray(array.get() if hasattr(array, "get") else array)


def _checked_cells(xp: Any, cells: Any) -> Any:
    if getattr(cells, "dtype", None) != np.uint8:
        raise TypeError(
            f"cells must be a uint8 array of FLUID, SOLID and AIR; got {getattr(cells, 'dtype', type(cells).__name__)}."
        )
    if cells.ndim not in (2, 3) or cells.size == 0:
        raise ValueError(f"cells must have shape (nx, ny) or (nx, ny, nz), none of them 0; got {tuple(cells.shape)}.")
    if int(cells.max()) > max(FLUID, SOLID, AIR):
        raise ValueError(f"cells must hold FLUID={FLUID}, SOLID={SOLID} or AIR={AIR} only; it holds {int(cells.max())}.")
    return xp.ascontiguousarray(cells)


def _checked_spacing(spacing: float | Sequence[float], dimensions: int) -> tuple[float, ...]:
    values = tuple(float(value) for value in np.atleast_1d(np.asarray(spacing, dtype=np.float64)))
    values = values * dimensions if len(values) == 1 else values
    if len(values) != dimensions or not all(0 < value < np.inf for value in values):
        raise ValueError(f"spacing must be a number above 0, or {dimensions} of them; got {spacing!r}.")
    return values
