"""From a mesh to a regular grid: one sparse matrix, made once, and a mask of the grid points that the mesh covers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse
from jaxtyping import Bool, Float
from scipy import ndimage

from data_pipelines.finite_elements.errors import UncoveredGridError

if TYPE_CHECKING:
    from skfem import Basis, MeshTri

# A point on an edge belongs to either side, whatever rounding says.
_ON_EDGE = 1e-9


@dataclass(frozen=True)
class GridSampling:
    """Values at the grid points as a product with the values of a solution.

    Attributes
    ----------
    matrix
        CSR (points, unknowns), rows in C order of (y, x); rows of points outside the mesh are empty, so 0 comes out.
    mask
        Where the mesh is, (y, x).
    """

    matrix: scipy.sparse.csr_array
    mask: Bool[np.ndarray, "y x"]

    def __call__(self, values: Float[np.ndarray, " unknown"]) -> Float[np.ndarray, "y x"]:
        """Sample one solution."""
        return (self.matrix @ values).reshape(self.mask.shape)


def sample_on_grid(
    basis: Basis,
    y: Float[np.ndarray, " y"],
    x: Float[np.ndarray, " x"],
    outside: Bool[np.ndarray, "y x"] | None = None,
) -> GridSampling:
    """Prepare the sampling of solutions on a regular grid.

    Parameters
    ----------
    basis
        scikit-fem's, on triangles.
    y, x
        Coordinates that rise in equal steps [m].
    outside
        Grid points that need not be covered, because they are in holes. By default those that the mesh encloses.

    Raises
    ------
    UncoveredGridError
        If other grid points lie outside the mesh.
    """
    triangle, local = locate(basis.mesh, y, x)
    mask = triangle >= 0
    _refuse_uncovered(~mask & ~(enclosed(~mask) if outside is None else outside), y, x, basis.mesh)
    inside = np.flatnonzero(mask)
    weights = np.stack([basis.elem.lbasis(local[:, inside], function)[0] for function in range(basis.Nbfun)])
    columns = basis.element_dofs[:, triangle.ravel()[inside]]
    rows = np.broadcast_to(inside, columns.shape)
    entries = (weights.ravel(), (rows.ravel(), columns.ravel()))
    return GridSampling(scipy.sparse.csr_array(entries, shape=(mask.size, basis.N)), mask)


def locate(mesh: MeshTri, y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the triangle of every grid point, -1 where there is none, and the point's coordinates in the reference triangle.

    Goes from triangle to grid: each looks at the points of its bounding box, whatever sizes triangles have.

    Returns
    -------
    triangle (y, x) of int, and local coordinates (2, points).
    """
    corners = mesh.p[:, mesh.t]  # (2, 3, triangle)
    step_x, step_y = x[1] - x[0], y[1] - y[0]
    first_x, last_x = _columns(corners[0], x[0], step_x, x.size)
    first_y, last_y = _columns(corners[1], y[0], step_y, y.size)
    width, height = last_x - first_x, last_y - first_y
    count = width * height
    who = np.repeat(np.arange(count.size), count)
    number = np.arange(who.size) - np.repeat(np.cumsum(count) - count, count)
    row, column = first_y[who] + number // width[who], first_x[who] + number % width[who]
    a, b, c = corners[:, 0, who], corners[:, 1, who], corners[:, 2, who]
    dx, dy = x[column] - a[0], y[row] - a[1]
    determinant = (b[0] - a[0]) * (c[1] - a[1]) - (c[0] - a[0]) * (b[1] - a[1])
    r = (dx * (c[1] - a[1]) - dy * (c[0] - a[0])) / determinant
    s = (dy * (b[0] - a[0]) - dx * (b[1] - a[1])) / determinant
    hit = np.flatnonzero((r >= -_ON_EDGE) & (s >= -_ON_EDGE) & (r + s <= 1 + _ON_EDGE))
    triangle = np.full((y.size, x.size), -1)
    local = np.zeros((2, triangle.size))
    place = row[hit] * x.size + column[hit]
    triangle.ravel()[place] = who[hit]
    local[:, place] = r[hit], s[hit]
    return triangle, local


def _columns(corners: np.ndarray, origin: float, step: float, size: int) -> tuple[np.ndarray, np.ndarray]:
    """First grid index within each triangle's extent along one axis, and one past the last."""
    slack = 1e-9
    first = np.ceil((corners.min(axis=0) - origin) / step - slack).astype(np.int64)
    last = np.floor((corners.max(axis=0) - origin) / step + slack).astype(np.int64) + 1
    first, last = np.clip(first, 0, size), np.clip(last, 0, size)
    return first, np.maximum(first, last)


def enclosed(points: Bool[np.ndarray, "y x"]) -> Bool[np.ndarray, "y x"]:
    """Those points of a set that are not connected, within it, to the edge of the grid."""
    label, _ = ndimage.label(points)
    edge = np.unique(np.concatenate([label[0], label[-1], label[:, 0], label[:, -1]]))
    return points & ~np.isin(label, edge)


def _refuse_uncovered(bare: np.ndarray, y: np.ndarray, x: np.ndarray, mesh: MeshTri) -> None:
    if not bare.any():
        return
    row, column = np.argwhere(bare)[0]
    low, high = mesh.p.min(axis=1), mesh.p.max(axis=1)
    raise UncoveredGridError(
        f"the mesh does not cover the grid: {int(bare.sum())} of {bare.size} grid points lie outside it, the first at "
        f"(x, y) = ({x[column]:.4g}, {y[row]:.4g}) m; the mesh reaches over x {low[0]:.4g} to {high[0]:.4g}, "
        f"y {low[1]:.4g} to {high[1]:.4g} m. Choose a grid inside the mesh."
    )
