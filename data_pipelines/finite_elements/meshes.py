"""Triangle meshes of a rectangle with elliptic holes.

Without gmsh: a structured mesh whose nodes next to a hole are moved onto its edge, and whose triangles inside it are
removed. With gmsh (an extra of its own, since it is GPL): a mesh fitted to holes and inclusions alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from data_pipelines.finite_elements.errors import FiniteElementError, InvertedElementError, need
from data_pipelines.finite_elements.shapes import Ellipse

if TYPE_CHECKING:
    from skfem import MeshTri

# A triangle whose area is below this share of the square of its longest edge is flat: an equilateral one has 0.43.
FLAT = 1e-3
# So close to an ellipse, as a share of the cell, a node is moved onto it. More would flatten triangles, less leave steps.
_REACH = 0.45


def structured_mesh(width: float, height: float, cells: tuple[int, int], holes: Sequence[Ellipse] = ()) -> MeshTri:
    """Cut a rectangle into cells of two triangles each, and holes out of it.

    Diagonals alternate from cell to cell, so that no direction is preferred. Nodes within 0.45 cells of the edge of a
    hole are moved onto it; triangles whose centre is then inside are left out.

    Parameters
    ----------
    width, height
        Of the rectangle from (0, 0) [m].
    cells
        Along x and y.
    holes
        Inside the rectangle.

    Raises
    ------
    FiniteElementError
        If a size is not positive, or nothing is left of the rectangle.
    InvertedElementError
        If moving nodes turned a triangle over or flattened it.
    """
    if width <= 0 or height <= 0 or min(cells) < 1:
        raise FiniteElementError(f"a mesh needs a positive width, height and number of cells; got {width}, {height}, {cells}.")
    points, triangles = _grid(width, height, cells)
    cell = min(width / cells[0], height / cells[1])
    for hole in holes:
        _snap(points, hole, cell, width, height)
    for hole in holes:
        triangles = triangles[:, hole.radius(points[:, triangles].mean(axis=1)) > 1.0]
    if not triangles.size:
        raise FiniteElementError(f"nothing is left of the rectangle of {width} x {height} m outside its {len(holes)} holes.")
    return triangle_mesh(points, triangles)


def triangle_mesh(points: Float[np.ndarray, "2 node"], triangles: Int[np.ndarray, "3 triangle"]) -> MeshTri:
    """Make a mesh of nodes [m] and corners; nodes that no triangle uses are dropped.

    Raises
    ------
    InvertedElementError
        If triangles are flat, or some run against the others.
    ImportError
        If scikit-fem is not installed.
    """
    try:
        from skfem import MeshTri
    except ImportError as error:
        raise ImportError(need("scikit-fem", "waves")) from error
    _refuse_inverted(points, triangles)
    used, corners = np.unique(triangles, return_inverse=True)
    return MeshTri(np.ascontiguousarray(points[:, used]), np.ascontiguousarray(corners.reshape(triangles.shape)))


def signed_areas(
    points: Float[np.ndarray, "2 node"], triangles: Int[np.ndarray, "3 triangle"]
) -> Float[np.ndarray, " triangle"]:
    """Area of every triangle [m2], positive if its corners run counter-clockwise."""
    a, b, c = points[:, triangles[0]], points[:, triangles[1]], points[:, triangles[2]]
    return 0.5 * ((b[0] - a[0]) * (c[1] - a[1]) - (c[0] - a[0]) * (b[1] - a[1]))


def _refuse_inverted(points: Float[np.ndarray, "2 node"], triangles: Int[np.ndarray, "3 triangle"]) -> None:
    areas = signed_areas(points, triangles)
    areas = areas if np.median(areas) > 0 else -areas  # all the other way round is as good
    corners = points[:, triangles]
    longest = ((corners - np.roll(corners, 1, axis=1)) ** 2).sum(axis=0).max(axis=0)
    bad = ~(areas > FLAT * longest)
    if bad.any():
        first = int(np.argmax(bad))
        centre = corners[:, :, first].mean(axis=1)
        raise InvertedElementError(
            f"{int(bad.sum())} of {bad.size} triangles are inverted or flat: number {first} at ({centre[0]:.4g}, "
            f"{centre[1]:.4g}) has the area {areas[first]:.3g} m2. Refine the mesh, move holes apart, or mend the mesh file."
        )


def _grid(width: float, height: float, cells: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and corners of a rectangle, diagonals alternating like a chequerboard."""
    nx, ny = cells
    x, y = np.meshgrid(np.linspace(0, width, nx + 1), np.linspace(0, height, ny + 1))
    node = np.arange((nx + 1) * (ny + 1)).reshape(ny + 1, nx + 1)
    sw, se, nw, ne = (part.ravel() for part in (node[:-1, :-1], node[:-1, 1:], node[1:, :-1], node[1:, 1:]))
    row, column = np.divmod(np.arange(nx * ny), nx)
    rising = (row + column) % 2 == 0
    lower = np.where(rising, np.stack([sw, se, ne]), np.stack([sw, se, nw]))
    upper = np.where(rising, np.stack([sw, ne, nw]), np.stack([se, ne, nw]))
    triangles = np.stack([lower, upper], axis=2).reshape(3, -1)
    return np.stack([x.ravel(), y.ravel()]), triangles


def _snap(points: np.ndarray, hole: Ellipse, cell: float, width: float, height: float) -> None:
    """Move the nodes next to a hole's edge onto it; those on the rectangle's own edge stay."""
    interior = (points[0] > 0) & (points[0] < width) & (points[1] > 0) & (points[1] < height)
    near = interior & (np.abs(hole.distance(points)) < _REACH * cell)
    points[:, near] = hole.project(points[:, near])


def gmsh_mesh(
    width: float, height: float, size: float, holes: Sequence[Ellipse] = (), inclusions: Sequence[Ellipse] = ()
) -> MeshTri:
    """Mesh a rectangle with gmsh, fitted to the edges of holes and inclusions.

    Parameters
    ----------
    width, height
        Of the rectangle from (0, 0) [m].
    size
        Wanted length of edges [m].
    holes, inclusions
        Ellipses; inclusions stay filled, and no triangle crosses their edge.

    Raises
    ------
    ImportError
        If gmsh is not installed.
    """
    try:
        import gmsh
    except (ImportError, OSError) as error:  # the wheel is there, a library of the system is not
        raise ImportError(f"{need('gmsh', 'geometry')} ({error})") from error
    gmsh.initialize(interruptible=False)
    try:
        gmsh.option.setNumber("General.Terminal", 0)
        gmsh.option.setNumber("Mesh.MeshSizeMin", size)
        gmsh.option.setNumber("Mesh.MeshSizeMax", size)
        plate = gmsh.model.occ.addRectangle(0, 0, 0, width, height)
        if holes:
            gmsh.model.occ.cut([(2, plate)], [(2, _gmsh_ellipse(gmsh, hole)) for hole in holes])
        if inclusions:
            plates = gmsh.model.occ.getEntities(2)
            gmsh.model.occ.fragment(plates, [(2, _gmsh_ellipse(gmsh, inclusion)) for inclusion in inclusions])
        gmsh.model.occ.synchronize()
        gmsh.model.mesh.generate(2)
        tags, coordinates, _ = gmsh.model.mesh.getNodes()
        _, corners = gmsh.model.mesh.getElementsByType(2)
    finally:
        gmsh.finalize()
    place = np.zeros(int(tags.max()) + 1, dtype=np.int64)
    place[tags] = np.arange(tags.size)
    return triangle_mesh(coordinates.reshape(-1, 3)[:, :2].T, place[corners].reshape(-1, 3).T)


def _gmsh_ellipse(gmsh: object, ellipse: Ellipse) -> int:
    occ = gmsh.model.occ  # type: ignore[attr-defined]
    long, short, turn = ellipse.a, ellipse.b, ellipse.angle
    if short > long:  # gmsh wants the longer axis first
        long, short, turn = short, long, turn + np.pi / 2
    disk = occ.addDisk(ellipse.x, ellipse.y, 0, long, short)
    occ.rotate([(2, disk)], ellipse.x, ellipse.y, 0, 0, 0, 1, turn)
    return int(disk)
