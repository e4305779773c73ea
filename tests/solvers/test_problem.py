"""The discrete operator: known matrices, order of accuracy, symmetry, and its divergence and gradient."""

import numpy as np
import pytest
from scipy.sparse.csgraph import connected_components

from solvers import AIR, FLUID, SOLID, PoissonProblem, solve
from tests.solvers.geometries import BOUNDARIES, random_problem


def test_the_empty_box_is_the_textbook_matrix():
    """Eigenvalues of the Dirichlet box with ghost centres: sums of 2 - 2 cos(pi k / (n + 1))."""
    problem = PoissonProblem(np.zeros((3, 4, 5), np.uint8), boundary="dirichlet")
    axes = [2 - 2 * np.cos(np.pi * np.arange(1, n + 1) / (n + 1)) for n in (3, 4, 5)]
    wanted = np.sort((axes[0][:, None, None] + axes[1][:, None] + axes[2]).ravel())
    np.testing.assert_allclose(np.linalg.eigvalsh(problem.matrix().toarray()), wanted, rtol=1e-12)


def test_each_side_of_an_axis_is_what_its_boundary_says():
    """A wall takes one from the diagonal, an air face does not."""
    problem = PoissonProblem(np.zeros((3, 2), np.uint8), boundary=[("neumann", "dirichlet"), ("dirichlet", "neumann")])
    wanted = np.array([[1, 2, 2]]).T + np.array([[2, 1]])
    np.testing.assert_array_equal(problem.to_grid(problem.matrix().diagonal()), wanted)


def test_number_of_entries_is_that_of_the_published_sphere():
    N = 64
    x, y, z = np.meshgrid(*[(np.arange(N) + 0.5) / N] * 3, indexing="ij", sparse=True)
    inside = (x - 0.45) ** 2 + (y - 0.52) ** 2 + (z - 0.40) ** 2 <= 0.18**2
    matrix = PoissonProblem(np.where(inside, SOLID, FLUID).astype(np.uint8), boundary="dirichlet").matrix()
    assert (matrix.shape[0], matrix.nnz) == (255_735, 1_763_057)


@pytest.mark.parametrize("shape", [(9, 12, 10), (11, 8)])
@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("faces", [False, True])
def test_matrix_operator_and_minus_divergence_of_gradient_agree(shape, boundary, faces):
    problem = random_problem(3, shape, boundary, faces)
    x = np.random.default_rng(0).standard_normal(problem.n)
    matrix = problem.matrix()
    assert abs(matrix - matrix.T).max() < 1e-12
    np.testing.assert_allclose(problem.operator() @ x, matrix @ x, atol=1e-11)
    np.testing.assert_allclose(
        problem.to_vector(-problem.divergence(problem.gradient(problem.to_grid(x)))), matrix @ x, atol=1e-11
    )
    assert x @ (matrix @ x) > 0


@pytest.mark.parametrize("n", [1, 2, 3])
def test_short_periodic_axes_agree_too(n):
    problem = PoissonProblem(np.zeros((n, 4, 5), np.uint8), boundary=["periodic", "dirichlet", "periodic"])
    x = np.random.default_rng(0).standard_normal(problem.n)
    np.testing.assert_allclose(problem.operator() @ x, problem.matrix() @ x, atol=1e-12)


def manufactured(kinds, n, length):
    """cos, sin or exact quarter wave on one axis, at cell centres; ghost centres hold the Dirichlet value."""
    wave = {
        ("dirichlet", "dirichlet"): lambda x: np.sin(np.pi * x),
        ("neumann", "neumann"): lambda x: np.cos(np.pi * x),
        ("periodic", "periodic"): lambda x: np.cos(2 * np.pi * x),
        ("neumann", "dirichlet"): lambda x: np.cos(np.pi * x / 2),
    }[kinds]
    number = {"dirichlet": np.pi, "neumann": np.pi, "periodic": 2 * np.pi}[kinds[0]] * (0.5 if kinds[0] != kinds[1] else 1)
    cells = n + {("dirichlet", "dirichlet"): 1, ("neumann", "dirichlet"): 0.5}.get(kinds, 0)
    h = length / cells
    centres = (np.arange(n) + (1 if kinds == ("dirichlet", "dirichlet") else 0.5)) * h / length
    return wave(centres), (number / length) ** 2, h


@pytest.mark.parametrize(
    "kinds", [("dirichlet", "dirichlet"), ("neumann", "neumann"), ("periodic", "periodic"), ("neumann", "dirichlet")]
)
def test_error_falls_at_second_order(kinds):
    errors = []
    for n in (8, 16, 32):
        x, kx, hx = manufactured(kinds, n, 1.0)
        y, ky, hy = manufactured(("dirichlet", "dirichlet"), n - 1, 1.5)  # n steps: halved exactly
        z, kz, hz = manufactured(kinds, 2 * n, 0.7)
        exact = x[:, None, None] * y[:, None] * z
        problem = PoissonProblem(np.zeros(exact.shape, np.uint8), (hx, hy, hz), boundary=[kinds, "dirichlet", kinds])
        p = solve(problem, (kx + ky + kz) * exact, rtol=1e-10, M="multigrid")
        errors.append(np.abs(p - exact).max())
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    assert (orders > 1.7).all(), errors
    assert orders[-1] < 2.4, errors


def test_pools_are_those_without_a_dirichlet_value():
    cells = np.full((9, 5), SOLID, np.uint8)
    cells[1:3, 1:4], cells[4:6, 1:4], cells[7, 2] = FLUID, FLUID, FLUID
    cells[4, 1] = AIR
    problem = PoissonProblem(cells)
    assert sorted(problem.pools.sizes) == [1, 6]
    label = problem.to_grid(problem.pools.label + 1.0)
    assert (label[4:6] == 0).all()
    assert label[7, 2] > 0
    r = problem.compatible(np.arange(1.0, problem.n + 1))
    assert abs(problem.to_grid(r)[1:3].sum()) < 1e-12
    assert problem.to_grid(r)[7, 2] == 0


@pytest.mark.parametrize("shape", [(9, 12, 10), (15, 11)])
@pytest.mark.parametrize("boundary", ["dirichlet", "neumann", "tank", "periodic"])
def test_pools_of_flags_are_the_components_whose_rows_sum_to_zero(boundary, shape):
    """Those of the matrix' graph: coefficients of 1 on every face describe the same problem and take the way over faces."""
    rng = np.random.default_rng(3)
    cells = rng.choice(np.array([FLUID, SOLID, AIR], np.uint8), shape, p=[0.35, 0.6, 0.05])
    kinds = BOUNDARIES[boundary]
    kinds = kinds if isinstance(kinds, str) else kinds[-len(shape) :]
    plain = PoissonProblem(cells, 0.5, boundary=kinds)
    ones = [np.ones(tuple(n + (a == b) for b, n in enumerate(shape))) for a in range(len(shape))]
    listed = PoissonProblem(cells, 0.5, boundary=kinds, coefficients=ones)
    assert plain.pools.number == listed.pools.number > (0 if boundary == "dirichlet" else 1)
    assert np.array_equal(plain.pools.label, listed.pools.label)
    assert np.array_equal(plain.pools.sizes, listed.pools.sizes)
    inside = plain.pools.label >= 0
    count, component = connected_components(plain.matrix(), directed=False)
    assert len(set(component[inside])) == plain.pools.number
    sums = np.abs(np.bincount(component, plain.matrix().sum(axis=1), count)) < 1e-9
    assert np.array_equal(inside, sums[component])


def test_vectors_and_grids_turn_into_each_other():
    problem = random_problem(1)
    batch = np.random.default_rng(0).standard_normal((2, problem.n))
    assert np.array_equal(problem.to_vector(problem.to_grid(batch)), batch)


CELLS = np.zeros((3, 4), np.uint8)
GOOD = [np.ones((4, 4)), np.ones((3, 5))]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: PoissonProblem(CELLS.astype(int)), TypeError, "cells must be a uint8"),
        (lambda: PoissonProblem(CELLS[0]), ValueError, "cells must have shape"),
        (lambda: PoissonProblem(CELLS + np.uint8(3)), ValueError, "it holds 3"),
        (lambda: PoissonProblem(CELLS, -1.0), ValueError, "spacing must be"),
        (lambda: PoissonProblem(CELLS, 0.0), ValueError, "spacing must be"),
        (lambda: PoissonProblem(CELLS, np.inf), ValueError, "spacing must be"),
        (lambda: PoissonProblem(CELLS, (1, 2, 3)), ValueError, "spacing must be"),
        (lambda: PoissonProblem(CELLS, boundary="wall"), ValueError, "boundary of axis 0 must be one of"),
        (lambda: PoissonProblem(CELLS, boundary=["neumann"]), ValueError, "boundary must name 2 axes"),
        (lambda: PoissonProblem(CELLS, boundary=[("periodic", "neumann"), "neumann"]), ValueError, "one side only"),
        (lambda: PoissonProblem(CELLS, boundary=[("neumann",) * 3, "neumann"]), ValueError, "or a pair of them"),
        (lambda: PoissonProblem(CELLS, boundary=[("neumann",), "neumann"]), ValueError, "or a pair of them"),
        (lambda: PoissonProblem(CELLS, fractions=GOOD[:1]), ValueError, "fractions must hold 2"),
        (lambda: PoissonProblem(CELLS, fractions=GOOD[::-1]), ValueError, r"fractions\[0\] must have shape"),
        (lambda: PoissonProblem(CELLS, fractions=[2 * GOOD[0], GOOD[1]]), ValueError, r"fractions\[0\] must lie in"),
        (lambda: PoissonProblem(CELLS, fractions=[GOOD[0], -GOOD[1]]), ValueError, r"fractions\[1\] must lie in"),
        (lambda: PoissonProblem(CELLS, coefficients=[-GOOD[0], GOOD[1]]), ValueError, r"coefficients\[0\] must lie in"),
        (lambda: PoissonProblem(CELLS, coefficients=[np.nan * GOOD[0], GOOD[1]]), ValueError, "be finite"),
        (
            lambda: PoissonProblem(CELLS, boundary="periodic", fractions=[GOOD[0] * np.array([[1], [1], [1], [0.5]]), GOOD[1]]),
            ValueError,
            "the same at both ends",
        ),
        (lambda: PoissonProblem(CELLS).to_vector(np.ones((4, 4))), ValueError, "grid must have shape"),
        (lambda: PoissonProblem(CELLS).to_grid(np.ones(5)), ValueError, "vector must have shape"),
        (lambda: PoissonProblem(CELLS).divergence(GOOD[:1]), ValueError, "velocities must hold 2"),
        (lambda: PoissonProblem(CELLS).divergence(GOOD[::-1]), ValueError, r"velocities\[0\] must have shape"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_gradient_and_divergence_are_per_length_of_each_axis():
    problem = PoissonProblem(np.zeros((4, 5, 6), np.uint8), (0.5, 2.0, 0.25))
    centres = [(np.arange(n) + 0.5) * h for n, h in zip(problem.shape, problem.spacing, strict=True)]
    faces = [np.arange(n + 1) * h for n, h in zip(problem.shape, problem.spacing, strict=True)]
    slopes = problem.gradient(3 * centres[0][:, None, None] + 5 * centres[1][:, None] + 7 * centres[2])
    velocities = []
    for axis, slope in enumerate((3, 5, 7)):
        inner = np.moveaxis(slopes[axis], axis, 0)
        np.testing.assert_allclose(inner[1:-1], slope)
        assert not inner[[0, -1]].any()
        line = slope * faces[axis].reshape([-1 if other == axis else 1 for other in range(3)])
        velocities.append(np.broadcast_to(line, slopes[axis].shape))
    np.testing.assert_allclose(problem.divergence(velocities), 15)


def test_what_lies_outside_the_fluid_counts_nowhere():
    problem = random_problem(3)
    inside = np.where(problem.fluid, np.random.default_rng(0).standard_normal(problem.shape), 0.0)
    grid = np.where(problem.fluid, inside, 1e6)
    np.testing.assert_array_equal(problem.apply(grid), problem.apply(inside))
    assert not problem.apply(grid)[~problem.fluid].any()
    for slope, wanted in zip(problem.gradient(grid), problem.gradient(inside), strict=True):
        np.testing.assert_array_equal(slope, wanted)


def test_compatible_leaves_its_argument_as_it_is():
    problem = PoissonProblem(np.zeros((3, 4), np.uint8))
    given = np.arange(12.0)
    assert abs(problem.compatible(given).sum()) < 1e-12
    np.testing.assert_array_equal(given, np.arange(12.0))
