"""Discretise u_tt = div(c^2 grad u) on triangles: stiffness, lumped mass, absorbing edges.

P1: linear elements, mass lumped at the corners. P2: quadratic elements enriched by a cubic bubble, mass lumped by the
quadrature of 7 points with weights 1/20 (corners), 2/15 (middles of edges), 9/20 (centre), exact for cubics: row-sum
lumping of plain P2 would give the corners no mass at all (Cohen, Joly, Roberts, Tordjman, SIAM J. Numer. Anal. 38,
2001). Edges are lumped likewise, by the trapezoidal rule and by Simpson's.

The absorbing edge is of first order, c u_n + u_t = 0 (Engquist and Majda 1977): exact for waves that meet it upright.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse
from jaxtyping import Bool, Float

from data_pipelines.finite_elements.errors import FiniteElementError, need

if TYPE_CHECKING:
    from skfem import Basis, MeshTri

Vector = Float[np.ndarray, " unknown"]
Speed = Callable[[np.ndarray], np.ndarray]  # points (2, ...) [m] -> wave speed (...) [m s-1]

EDGES = ("dirichlet", "neumann", "absorbing")
_TRIANGLE_WEIGHTS = {1: [1 / 3] * 3, 2: [1 / 20] * 3 + [2 / 15] * 3 + [9 / 20]}
_EDGE_WEIGHTS = {1: [1 / 2] * 2, 2: [1 / 6] * 2 + [2 / 3]}


@dataclass(frozen=True)
class WaveProblem:
    """M u'' + C u' + K u = f, with u = 0 at fixed unknowns.

    Attributes
    ----------
    basis
        scikit-fem's basis of the unknowns.
    mass, damping
        Diagonals of M and C (lumped): m2 and m2 s-1 with c^2 in K.
    stiffness
        K, CSR, symmetric.
    fixed
        Unknowns on Dirichlet edges.
    """

    basis: Basis
    mass: Vector
    damping: Vector
    stiffness: scipy.sparse.csr_array
    fixed: Bool[np.ndarray, " unknown"]

    @property
    def points(self) -> Float[np.ndarray, "2 unknown"]:
        """Where the unknowns are [m]."""
        return self.basis.doflocs

    def interpolate(self, function: Callable[[np.ndarray], np.ndarray]) -> Vector:
        """Values of a function of points (2, ...) at the unknowns, 0 at fixed ones."""
        return np.where(self.fixed, 0.0, function(self.points))

    def energy(self, displacement: Vector, velocity: Vector) -> float:
        """Kinetic and potential energy, half of v M v + u K u [m4 s-2 per unit density]."""
        return 0.5 * float(velocity @ (self.mass * velocity) + displacement @ (self.stiffness @ displacement))

    def edge_load(self, edges: Any, profile: Callable[[np.ndarray], np.ndarray]) -> Vector:
        """Load vector of a traction c^2 u_n = profile(points) on some edges (facet numbers), lumped as the mass is."""
        return np.asarray(_edge_mass(self.basis, edges) * profile(self.points))


def assemble(mesh: MeshTri, degree: int, speed: Speed, outer: str = "neumann", holes: str = "neumann") -> WaveProblem:
    """Assemble the wave equation on a mesh.

    Parameters
    ----------
    mesh
        Triangles [m].
    degree
        1 (P1) or 2 (P2 enriched).
    speed
        Wave speed [m s-1] at points (2, ...); taken at the quadrature points, so it may jump.
    outer, holes
        "dirichlet" (u = 0), "neumann" (u_n = 0) or "absorbing", on the edges of the mesh's bounding box and on others.

    Raises
    ------
    FiniteElementError
        If an argument is none of these, or the speed is not positive and finite.
    """
    try:
        import skfem
        from skfem.helpers import dot, grad
    except ImportError as error:
        raise ImportError(need("scikit-fem", "waves")) from error
    for name, kind in (("outer", outer), ("holes", holes)):
        if kind not in EDGES:
            raise FiniteElementError(f"{name} must be one of {EDGES}; got {kind!r}.")
    basis = skfem.Basis(mesh, element_of(degree), intorder=(2, 4)[degree - 1])
    c = speed(np.asarray(basis.global_coordinates()))
    if not (np.isfinite(c).all() and (c > 0).all()):
        raise FiniteElementError(f"speed must be positive and finite [m s-1]; it reaches {np.nanmin(c):g} to {np.nanmax(c):g}.")
    form = skfem.BilinearForm(lambda u, v, w: w["squared"] * dot(grad(u), grad(v)))
    stiffness = scipy.sparse.csr_array(form.assemble(basis, squared=c**2))
    fixed, damping = np.zeros(basis.N, dtype=bool), np.zeros(basis.N)
    for kind, edges in ((outer, outer_edges(mesh)), (holes, hole_edges(mesh))):
        if kind == "dirichlet" and edges.size:
            fixed[basis.get_dofs(edges).all()] = True
        elif kind == "absorbing" and edges.size:
            damping += _edge_mass(basis, edges) * speed(basis.doflocs)
    return WaveProblem(basis, _lumped_mass(basis), damping, stiffness, fixed)


def element_of(degree: int) -> Any:
    """The element of a degree: P1, or P2 enriched by a bubble, with one unknown per node of its lumped mass."""
    import skfem

    if degree not in (1, 2):
        raise FiniteElementError(f"degree must be 1 or 2; got {degree}.")
    if degree == 1:
        return skfem.ElementTriP1()
    from data_pipelines.finite_elements.enriched import ElementTriP2Enriched

    return ElementTriP2Enriched()


def outer_edges(mesh: MeshTri) -> np.ndarray:
    """Facets on the mesh's bounding box."""
    return mesh.boundary_facets()[_on_box(mesh)]


def hole_edges(mesh: MeshTri) -> np.ndarray:
    """Facets on the boundary that are not on the bounding box."""
    return mesh.boundary_facets()[~_on_box(mesh)]


def _on_box(mesh: MeshTri) -> np.ndarray:
    low, high = mesh.p.min(axis=1)[:, None, None], mesh.p.max(axis=1)[:, None, None]
    ends = mesh.p[:, mesh.facets[:, mesh.boundary_facets()]]
    close = 1e-9 * (high - low)
    return np.asarray(((np.abs(ends - low) < close).all(axis=1) | (np.abs(ends - high) < close).all(axis=1)).any(axis=0))


def _degree(basis: Basis) -> int:
    return 1 if basis.Nbfun == 3 else 2


def _lumped_mass(basis: Basis) -> Vector:
    corners = basis.mesh.p[:, basis.mesh.t]
    sides = corners[:, 1:] - corners[:, :1]
    area = 0.5 * np.abs(sides[0, 0] * sides[1, 1] - sides[0, 1] * sides[1, 0])
    weights = np.array(_TRIANGLE_WEIGHTS[_degree(basis)])
    return np.bincount(basis.element_dofs.ravel(), (weights[:, None] * area).ravel(), basis.N)


def _edge_mass(basis: Basis, edges: Any) -> Vector:
    mesh = basis.mesh
    ends = mesh.facets[:, edges]
    length = np.hypot(*(mesh.p[:, ends[1]] - mesh.p[:, ends[0]]))
    nodes = [*basis.nodal_dofs[0, ends]]
    if _degree(basis) == 2:
        nodes.append(basis.facet_dofs[0, edges])
    weights = np.array(_EDGE_WEIGHTS[_degree(basis)])
    return np.bincount(np.stack(nodes).ravel(), (weights[:, None] * length).ravel(), basis.N)
