"""The wave equation by finite elements: orders of accuracy, energy, stability, refusals."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from data_pipelines.finite_elements.errors import (
    FiniteElementError,
    InvertedElementError,
    UncoveredGridError,
    UnstableStepError,
)
from data_pipelines.finite_elements.meshes import gmsh_mesh, signed_areas, structured_mesh, triangle_mesh
from data_pipelines.finite_elements.sampling import sample_on_grid
from data_pipelines.finite_elements.shapes import Ellipse
from data_pipelines.finite_elements.time_stepping import CentralDifferences, Newmark, largest_frequency, stable_step
from data_pipelines.finite_elements.wave_equation import WaveProblem, assemble, hole_edges

skfem = pytest.importorskip("skfem", reason="the extra `waves` is not installed")

OMEGA = math.pi * math.sqrt(13)
UNTIL = 0.3  # s: the wave has gone through half a period and neither field is near zero
HOLE = Ellipse(0.5, 0.45, 0.2, 0.12, 0.7)


def standing(points: np.ndarray, time: float) -> np.ndarray:
    """Solves u_tt = u_xx + u_yy with u = 0 on the unit square's edge."""
    return np.sin(3 * np.pi * points[0]) * np.sin(2 * np.pi * points[1]) * math.cos(OMEGA * time)


def one(points: np.ndarray) -> np.ndarray:
    return np.ones(points.shape[1:])


def two_media(points: np.ndarray) -> np.ndarray:
    return np.where(points[0] < 0.5, 1.0, 2.0)


def square(cells: int, degree: int = 1, **options: Any) -> WaveProblem:
    return assemble(structured_mesh(1, 1, (cells, cells)), degree, options.pop("speed", one), **options)


def error_of(problem: WaveProblem, scheme: Callable[..., Any], steps: int) -> float:
    """Relative error in L2 after `UNTIL`, by quadrature over the elements."""
    start = problem.interpolate(lambda points: standing(points, 0))
    stepper = scheme(problem, start, 0 * start, UNTIL / steps)
    stepper.advance(steps)
    got = problem.basis.interpolate(stepper.state()[0])
    squared = skfem.Functional(lambda w: (w["got"] - standing(w.x, UNTIL)) ** 2).assemble(problem.basis, got=got)
    return math.sqrt(squared) / 0.5


def order(coarse: float, fine: float, ratio: float = 2) -> float:
    return math.log(coarse / fine) / math.log(ratio)


@pytest.mark.parametrize("scheme", [CentralDifferences, Newmark])
@pytest.mark.parametrize(("degree", "cells", "wanted"), [(1, (20, 40), 2), (2, (9, 18), 3)])
def test_error_falls_with_the_cell_at_the_order_of_the_element(
    scheme: Callable[..., Any], degree: int, cells: tuple[int, int], wanted: int
) -> None:
    """The step is so short that time adds less than 1 % to the error of space. Row-sum lumping of P2 would not run at all."""
    errors = [error_of(square(n, degree, outer="dirichlet"), scheme, 600 if degree == 2 else 240) for n in cells]
    assert order(*errors) == pytest.approx(wanted, abs=0.2)
    assert errors[1] < 0.01


@pytest.mark.parametrize("scheme", [CentralDifferences, Newmark])
def test_error_falls_with_the_step_at_second_order(scheme: Callable[..., Any]) -> None:
    """Against the same mesh with a step so short that nothing of time is left: error of time alone."""
    problem = square(10, outer="dirichlet")
    start = problem.interpolate(lambda points: standing(points, 0))

    def after(steps: int) -> np.ndarray:
        stepper = scheme(problem, start, 0 * start, UNTIL / steps)
        stepper.advance(steps)
        return np.concatenate(stepper.state())

    reference = after(3200)
    errors = [float(np.abs(after(steps) - reference).max()) for steps in (40, 80)]
    assert order(*errors) == pytest.approx(2, abs=0.1), errors


@pytest.mark.parametrize("degree", [1, 2])
@pytest.mark.parametrize("scheme", [CentralDifferences, Newmark])
@pytest.mark.parametrize("edges", [{"outer": "dirichlet"}, {"outer": "neumann", "holes": "dirichlet"}])
def test_energy_is_kept_to_rounding_where_nothing_absorbs(
    scheme: Callable[..., Any], degree: int, edges: dict[str, str]
) -> None:
    """Heterogeneous medium with a hole, steps near the limit. Rounding grows at most with the number of steps."""
    mesh = structured_mesh(1, 1, (12, 12), [HOLE])
    problem = assemble(mesh, degree, two_media, **edges)
    start = problem.interpolate(lambda points: standing(points, 0))
    stepper = scheme(problem, start, start, stable_step(problem))
    before, steps = stepper.energy(), 500
    stepper.advance(steps)
    rounding = steps * 8 * np.finfo(float).eps  # the implicit solve adds a few roundings a step
    assert abs(stepper.energy() / before - 1) < rounding


def test_an_absorbing_edge_lets_a_wave_out_that_meets_it_upright() -> None:
    """A plane pulse in a channel: less than 1 % of the amplitude comes back, where a free edge sends all of it."""
    free = assemble(structured_mesh(1, 0.05, (200, 10)), 1, one)
    mesh = free.basis.mesh
    ends = mesh.facets_satisfying(lambda x: (x[0] < 1e-9) | (x[0] > 1 - 1e-9))
    left = {}
    for name, problem in {"free": free, "absorbing": replace(free, damping=free.edge_load(ends, one))}.items():
        start = problem.interpolate(lambda points: np.exp(-0.5 * ((points[0] - 0.5) / 0.04) ** 2))
        stepper = CentralDifferences(problem, start, 0 * start, 0.5 * stable_step(problem))
        stepper.advance(round(1.0 / stepper.step))
        left[name] = float(np.abs(stepper.state()[0]).max())
    assert left["free"] > 0.9
    assert left["absorbing"] < 0.01


def test_largest_frequency_is_that_of_the_dense_eigenvalue_problem() -> None:
    problem = square(6, 2, speed=two_media, outer="dirichlet")
    free = ~problem.fixed
    scale = 1 / np.sqrt(problem.mass[free])
    dense = np.linalg.eigvalsh(scale[:, None] * problem.stiffness.toarray()[np.ix_(free, free)] * scale)
    assert largest_frequency(problem) == pytest.approx(math.sqrt(dense[-1]), rel=0.01)
    assert largest_frequency(problem) <= math.sqrt(dense[-1]) * (1 + 1e-12)


def test_step_above_the_limit_is_refused_and_would_have_grown() -> None:
    problem = square(12, outer="dirichlet")
    start = np.where(problem.fixed, 0, np.random.default_rng(0).standard_normal(problem.mass.size))
    limit = stable_step(problem, 1.0)
    with pytest.raises(UnstableStepError, match=r"time_step must be positive and at most .* got .*: a longer one makes"):
        CentralDifferences(problem, start, 0 * start, 1.05 * limit, limit=limit)
    with pytest.raises(UnstableStepError, match="time_step must be positive"):
        CentralDifferences(problem, start, 0 * start, 0.0)
    sizes = {}
    for share in (0.95, 1.05):
        stepper = CentralDifferences(problem, start, 0 * start, share * limit, limit=2 * limit)
        stepper.advance(200)
        sizes[share] = float(np.abs(stepper.state()[0]).max())
    assert sizes[0.95] < 20
    assert sizes[1.05] > 1e6
    with pytest.raises(FiniteElementError, match="time_step must be positive"):
        Newmark(problem, start, start, -1.0)


def test_single_precision_follows_double() -> None:
    problem = square(16, outer="neumann", speed=two_media)
    start = problem.interpolate(lambda points: standing(points, 0))
    both = [CentralDifferences(problem, start, 0 * start, stable_step(problem), dtype=dtype) for dtype in (float, np.float32)]
    for stepper in both:
        stepper.advance(100)
    double, single = (stepper.state()[0] for stepper in both)
    assert 0 < np.abs(single - double).max() < 100 * np.finfo(np.float32).eps


def test_lumped_mass_is_the_area_and_edges_are_their_length() -> None:
    for degree in (1, 2):
        problem = square(5, degree, outer="absorbing", speed=lambda points: 3 * one(points))
        assert problem.mass.sum() == pytest.approx(1, rel=1e-12)
        assert problem.mass.min() > 0
        assert problem.damping.sum() == pytest.approx(4 * 3, rel=1e-12)


def test_structured_mesh_follows_the_edge_of_a_hole() -> None:
    """The area left out is that of the ellipse to 2 %; a staircase of cells errs by 5 to 10 % here."""
    mesh = structured_mesh(1, 1, (32, 32), [HOLE])
    area = np.abs(signed_areas(mesh.p, mesh.t)).sum()
    assert 1 - area == pytest.approx(math.pi * HOLE.a * HOLE.b, rel=0.02)
    edge = mesh.p[:, np.unique(mesh.facets[:, hole_edges(mesh)])]
    assert np.abs(HOLE.distance(edge)).max() < 1 / 32, "no node of the edge is farther from it than a cell"
    # A staircase has none on it; those farther than 0.45 cells stay where they are.
    assert (np.abs(HOLE.radius(edge) - 1) < 1e-3).mean() > 0.5


def test_gmsh_fits_holes_and_inclusions() -> None:
    pytest.importorskip("gmsh", reason="the extra `geometry` is not installed")
    inclusion = Ellipse(0.2, 0.8, 0.05, 0.1)
    mesh = gmsh_mesh(1, 1, 1 / 24, [HOLE], [inclusion])
    area = np.abs(signed_areas(mesh.p, mesh.t)).sum()
    assert 1 - area == pytest.approx(math.pi * HOLE.a * HOLE.b, rel=0.02)
    radius = inclusion.radius(mesh.p[:, mesh.t])
    assert not ((radius.min(axis=0) < 0.99) & (radius.max(axis=0) > 1.01)).any(), "no triangle crosses the edge"


def test_gmsh_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gmsh", None)
    with pytest.raises(ImportError, match=r"package gmsh; install it with: pip install 'skysolve\[geometry\]'"):
        gmsh_mesh(1, 1, 0.1)


def test_scikit_fem_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    mesh = structured_mesh(1, 1, (2, 2))
    monkeypatch.setitem(sys.modules, "skfem", None)
    for call in (lambda: structured_mesh(1, 1, (2, 2)), lambda: assemble(mesh, 1, one)):
        with pytest.raises(ImportError, match=r"package scikit-fem; install it with: pip install 'skysolve\[waves\]'"):
            call()


def test_inverted_triangles_are_refused_by_name() -> None:
    points = np.array([[0.0, 1.0, 1.0, 0.0], [0.0, 0.0, 1.0, 1.0]])
    triangles = np.array([[0, 0], [1, 2], [2, 3]])
    assert triangle_mesh(points, triangles[::-1]).t.shape == (3, 2)  # all clockwise is a good mesh too
    over = points.copy()
    over[:, 3] = 0.9, 0.3  # the corner is pushed across the diagonal: its triangle lies over the other one
    with pytest.raises(InvertedElementError, match=r"1 of 2 triangles are inverted or flat: number \d at \("):
        triangle_mesh(over, triangles)
    flat = points.copy()
    flat[:, 3] = 0.5, 0.5
    with pytest.raises(InvertedElementError, match="has the area 0 m2"):
        triangle_mesh(flat, triangles)


@pytest.mark.parametrize("degree", [1, 2])
def test_sampling_is_exact_for_what_the_element_holds(degree: int) -> None:
    problem = assemble(structured_mesh(1, 1, (9, 9), [HOLE]), degree, one)
    y, x = (np.arange(20) + 0.5) / 20, (np.arange(16) + 0.5) / 16
    sampling = sample_on_grid(problem.basis, y, x)

    def plane(points: np.ndarray) -> np.ndarray:
        return 1 + 2 * points[0] - 3 * points[1] + (points[0] * points[1] if degree == 2 else 0)

    grid = np.stack(np.broadcast_arrays(x[None], y[:, None]))
    inside = HOLE.radius(grid) > 1
    assert (sampling.mask == inside).mean() > 0.97
    assert not sampling.mask[HOLE.radius(grid) < 0.8].any()
    np.testing.assert_allclose(sampling(plane(problem.points)), np.where(sampling.mask, plane(grid), 0), atol=1e-12)


def test_mesh_that_does_not_cover_the_grid_is_refused_by_name() -> None:
    problem = assemble(structured_mesh(1, 1, (6, 6), [HOLE]), 1, one)
    inside = (np.arange(8) + 0.5) / 8
    with pytest.raises(
        UncoveredGridError, match=r"8 of 64 grid points lie outside it, the first at \(x, y\) = \(1.062, 0.0625\)"
    ):
        sample_on_grid(problem.basis, inside, inside + 1 / 8)
    with pytest.raises(UncoveredGridError, match="does not cover the grid"):
        sample_on_grid(problem.basis, inside, inside, outside=np.zeros((8, 8), dtype=bool))  # the hole was not announced


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: structured_mesh(0, 1, (2, 2)), "a mesh needs a positive width, height and number of cells; got 0"),
        (lambda: structured_mesh(1, 1, (4, 4), [Ellipse(0.5, 0.5, 3, 3)]), "nothing is left of the rectangle"),
        (lambda: Ellipse(0, 0, 0, 1), "semi-axes of an ellipse must be positive"),
        (lambda: square(2, 3), "degree must be 1 or 2; got 3"),
        (lambda: square(2, outer="open"), "outer must be one of .* got 'open'"),
        (lambda: square(2, speed=lambda points: 0 * one(points)), "speed must be positive and finite"),
    ],
)
def test_argument_out_of_range_is_refused(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(FiniteElementError, match=message):
        call()
