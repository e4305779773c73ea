"""Every preconditioner: symmetric, positive definite, exact where it claims to be; `solve` on any geometry."""

import numpy as np
import pytest

from benchmarks.poisson_scenes import SCENES, right_hand_sides
from gpu.cores import usable_cores
from solvers import (
    AIR,
    FLUID,
    SOLID,
    NotSolved,
    PoissonProblem,
    conjugate_directions,
    preconditioner,
    project,
    solve,
    solve_with_info,
)
from solvers.preconditioners import HOMES, best_kind
from solvers.threads import thread_count
from tests.solvers.geometries import BOUNDARIES, random_problem, residual

KINDS = sorted(set(HOMES) - {"dcdm"})  # the published network is neither linear nor symmetric


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize(
    ("shape", "faces"), [((9, 12, 10), False), ((17, 20), True), ((16, 16, 16), True), ((40, 3, 5), False)]
)
def test_symmetric_and_positive_definite_to_rounding(kind, boundary, shape, faces):
    """float32's 24 bits, times what some thousand terms add up to."""
    problem = random_problem(2, shape, boundary, faces)
    M = preconditioner(problem, kind)
    for seed in range(3):
        u, v = np.random.default_rng(seed).standard_normal((2, problem.n))
        Mu, Mv = M @ u, M @ v
        assert abs(v @ Mu - u @ Mv) < 2e-5 * np.linalg.norm(u) * np.linalg.norm(Mv)
        assert u @ Mu > 0
        assert v @ Mv > 0


def test_auto_is_multigrid_on_the_empty_box_too():
    assert best_kind(PoissonProblem(np.zeros((3, 4), np.uint8), boundary="dirichlet")) == "multigrid"


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("shape", [(6, 5, 8), (7, 4)])
def test_fast_transform_inverts_the_empty_box(boundary, shape):
    kinds = BOUNDARIES[boundary]
    problem = PoissonProblem(np.zeros(shape, np.uint8), 0.3, boundary=kinds if isinstance(kinds, str) else kinds[: len(shape)])
    b = problem.compatible(np.random.default_rng(0).standard_normal(problem.n))
    np.testing.assert_allclose(problem.matrix() @ (preconditioner(problem, "fast-transform") @ b), b, atol=1e-11)


def test_incomplete_cholesky_has_the_matrix_on_its_pattern():
    """L L^T equals A wherever A has an entry: what defines IC(0)."""
    problem = random_problem(4, boundary="dirichlet")
    M, A = preconditioner(problem, "incomplete-cholesky"), problem.matrix().toarray()
    inverse = np.column_stack([M @ column for column in np.eye(problem.n)])
    product = np.linalg.inv(inverse)
    np.testing.assert_allclose(product[A != 0], A[A != 0], atol=1e-9)


@pytest.mark.parametrize("kind", ["multigrid"])
@pytest.mark.parametrize("N", [16, 32])
def test_multigrid_iterations_do_not_grow_with_size(kind, N):
    """Sphere in a Dirichlet box to 1e-6: the prototype with constant interpolation took 8 at 32^3."""
    x, y, z = np.meshgrid(*[(np.arange(N) + 0.5) / N] * 3, indexing="ij", sparse=True)
    inside = (x - 0.45) ** 2 + (y - 0.52) ** 2 + (z - 0.40) ** 2 <= 0.18**2
    problem = PoissonProblem(np.where(inside, SOLID, FLUID).astype(np.uint8), boundary="dirichlet")
    rhs = np.exp(-((x - 0.5) ** 2 + (y - 0.5) ** 2 + (z - 0.12) ** 2) / 0.006)
    _, (info,) = solve_with_info(problem, rhs, M=kind)
    assert info.converged
    assert info.iterations <= 7


@pytest.mark.parametrize("N", [32, 33])
@pytest.mark.parametrize("axes", [(0,), (1,), (2,), (0, 1, 2)])
def test_periodic_axes_cost_multigrid_no_iterations(N, axes):
    """Walls take 5. An odd length costs up to two: its sweeps are damped. A cycle that saw walls there would take dozens."""
    rhs = np.random.default_rng(0).standard_normal((N, N, N))
    boundary = ["periodic" if axis in axes else "neumann" for axis in range(3)]
    _, (info,) = solve_with_info(PoissonProblem(np.zeros(rhs.shape, np.uint8), boundary=boundary), rhs, M="multigrid")
    assert info.converged
    assert info.iterations <= 5 + 2 * (N % 2)


@pytest.mark.parametrize("shape", [(2, 3, 700), (700, 3, 2), (1, 1, 5000), (1, 2, 3000)])
def test_long_closed_channels_stay_with_multigrid(shape):
    """Neighbours of a smooth direction cancel all digits of float32 there, and no Dirichlet value holds the pool."""
    problem = PoissonProblem(np.zeros(shape, np.uint8))
    _, (info,) = solve_with_info(problem, np.random.default_rng(0).standard_normal(shape), M="multigrid")
    assert info.converged
    assert info.iterations <= 6


@pytest.mark.parametrize(("scene", "most"), [("channels", 12), ("thin_gap", 13)])
def test_walls_of_one_cell_are_not_coarsened_away(scene, most):
    """Merged across its walls, the channel to and fro took 255 iterations; the gap took 75 by float32's recursion."""
    cells, boundary = SCENES[scene](32)
    rhs = right_hand_sides(32)["smooth"]
    _, (info,) = solve_with_info(PoissonProblem(cells, boundary=boundary), rhs, M="multigrid")
    assert info.converged
    assert info.iterations <= most


def test_tolerance_is_that_of_the_right_hand_side_whatever_the_guess():
    problem = PoissonProblem(np.zeros((20, 18, 16), np.uint8), boundary="dirichlet")
    rhs, guess = np.random.default_rng(0).standard_normal((2, *problem.shape))
    p = solve(problem, rhs, M="multigrid", x0=1e6 * guess)
    assert residual(problem, p, rhs) < 1.01e-6
    _, (info,) = solve_with_info(problem, rhs, M="multigrid", x0=p)
    assert info.iterations == 0


def test_float32_cycle_solves_to_float64s_accuracy():
    """Weights of 1 / spacing^2 that float32 would round: the residual is that of the matrix, not of rounded weights."""
    problem = PoissonProblem(np.zeros((20, 18, 16), np.uint8), (0.3, 1.0, 0.7), boundary="dirichlet")
    rhs = np.random.default_rng(0).standard_normal(problem.shape)
    assert residual(problem, solve(problem, rhs, M="multigrid", rtol=1e-12), rhs) < 1.1e-12


ADVERSARIAL = {
    "one cell": np.zeros((1, 1, 1), np.uint8),
    "a line": np.zeros((1, 1, 300), np.uint8),
    "a plane": np.zeros((1, 70, 61), np.uint8),
    "all solid": np.full((5, 6, 7), SOLID, np.uint8),
    "checkerboard of solid": (np.indices((8, 9, 10)).sum(0) % 2).astype(np.uint8) * np.uint8(SOLID),
    "checkerboard of air": (np.indices((8, 9, 10)).sum(0) % 2).astype(np.uint8) * np.uint8(AIR),
    "narrow channels": ((np.indices((16, 17, 18))[0] % 2) * (np.indices((16, 17, 18))[1] != 8)).astype(np.uint8),
    "two pools": np.where(np.indices((8, 20, 9))[1] == 7, SOLID, FLUID).astype(np.uint8),
    "extreme aspect": np.zeros((2, 3, 700), np.uint8),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ADVERSARIAL)
@pytest.mark.parametrize("boundary", ["neumann", "dirichlet", "periodic"])
def test_adversarial_geometries_end_with_the_true_residual(kind, name, boundary):
    problem = PoissonProblem(ADVERSARIAL[name], boundary=boundary)
    rhs = np.random.default_rng(0).standard_normal(problem.shape)
    p = solve(problem, rhs, M=kind, maxiter=2000)
    assert residual(problem, p, rhs) < 1.01e-6
    assert not p[problem.cells != FLUID].any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("faces", [False, True])
def test_random_geometries_end_with_the_true_residual(kind, seed, faces):
    boundary = sorted(BOUNDARIES)[seed]
    problem = random_problem(seed, (13, 18, 15), boundary, faces)
    rhs = 1e12 * np.random.default_rng(0).standard_normal((2, *problem.shape))
    p, info = solve_with_info(problem, rhs, M=kind)
    assert all(outcome.converged for outcome in info)
    assert max(residual(problem, *pair) for pair in zip(p, rhs, strict=True)) < 1.01e-6


def test_anisotropic_spacing_keeps_multigrid_fast():
    problem = PoissonProblem(np.zeros((24, 24, 24), np.uint8), (0.1, 1.0, 1.0), boundary="dirichlet")
    _, (info,) = solve_with_info(problem, np.random.default_rng(0).standard_normal(problem.shape), M="multigrid")
    assert info.iterations <= 10


def test_projection_leaves_no_divergence():
    problem = random_problem(6, boundary="tank")
    rng = np.random.default_rng(0)
    velocities = [rng.standard_normal(is_open.shape) * is_open for is_open in problem.open]
    projected, _ = project(problem, velocities, rtol=1e-10)
    before, after = (np.linalg.norm(problem.divergence(field)) for field in (velocities, projected))
    assert after < 1e-9 * before


def test_maxiter_raises_with_the_best_so_far():
    problem = random_problem(0, boundary="dirichlet")
    with pytest.raises(NotSolved, match="maxiter") as caught:
        solve(problem, np.ones(problem.shape), maxiter=1)
    assert caught.value.solution.any()
    assert caught.value.info.iterations == 1


def test_the_loop_of_solve_agrees_with_the_plain_one():
    problem = random_problem(8, boundary="dirichlet")
    b = np.random.default_rng(0).standard_normal(problem.n)
    x, info = conjugate_directions(problem.matrix(), b, M=preconditioner(problem, "multigrid"), rtol=1e-9)
    p, (other,) = solve_with_info(problem, problem.to_grid(b), M="multigrid", rtol=1e-9)
    np.testing.assert_allclose(problem.to_vector(p), x, atol=1e-7 * np.abs(x).max())
    assert abs(other.iterations - info.iterations) <= 2


def test_threads_change_nothing_but_rounding(monkeypatch):
    problem = PoissonProblem(np.zeros((40, 36, 38), np.uint8), boundary="dirichlet")
    rhs = np.random.default_rng(0).standard_normal(problem.shape)
    solutions = []
    for threads in ("1", "2", "3"):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        solutions.append(solve(problem, rhs, M="multigrid", rtol=1e-8))
    for other in solutions[1:]:
        np.testing.assert_allclose(other, solutions[0], atol=1e-6 * np.abs(solutions[0]).max())


PROBLEM = PoissonProblem(np.zeros((3, 4), np.uint8), boundary="dirichlet")
RHS = np.ones((3, 4))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: preconditioner(PROBLEM, "magic"), ValueError, "kind must be 'auto' or one of"),
        (lambda: solve(PROBLEM, RHS * 1j), TypeError, "rhs must hold real numbers"),
        (lambda: solve(PROBLEM, RHS[0]), ValueError, "rhs must have shape"),
        (lambda: solve(PROBLEM, RHS.T), ValueError, "grid must have shape"),
        (lambda: solve(PROBLEM, RHS * np.nan), ValueError, "rhs must be finite"),
        (lambda: solve(PROBLEM, RHS * np.inf), ValueError, "rhs must be finite"),
        (lambda: solve(PROBLEM, RHS, x0=RHS[None].repeat(2, 0)), ValueError, "x0 must have the shape of rhs"),
        (lambda: solve(PROBLEM, RHS, rtol=2), ValueError, "wanted maxiter"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_sequential_kinds_refuse_cupy_by_name():
    problem = random_problem(0)
    problem.library = "cupy"
    with pytest.raises(TypeError, match="got CuPy"):
        preconditioner(problem, "incomplete-cholesky")


@pytest.mark.parametrize("kind", ["jacobi", "multigrid", "learned"])
def test_isolated_cells_keep_their_residual(kind):
    """Their rows are zero; without a value there the preconditioner would not be definite."""
    cells = np.full((6, 7, 8), SOLID, np.uint8)
    cells[:4], cells[5, 3, 3] = FLUID, FLUID
    problem = PoissonProblem(cells, boundary=[("dirichlet", "neumann"), "neumann", "neumann"])
    alone = problem.to_vector((np.arange(cells.size) == 5 * 56 + 3 * 8 + 3).reshape(cells.shape).astype(float))
    np.testing.assert_array_equal(preconditioner(problem, kind) @ alone, alone)


@pytest.mark.parametrize("kind", ["multigrid", "jacobi"])
@pytest.mark.parametrize("magnitude", [1.0, 1e-150, 1e150])
def test_norms_and_absolute_tolerance_are_in_the_units_of_the_right_hand_side(kind, magnitude):
    """Whatever solve divides by inside: the power of two of tiny and huge ones, 1 / spacing^2 of the kernels."""
    problem = PoissonProblem(np.zeros((20, 18, 16), np.uint8), 0.1, boundary="dirichlet")
    rhs = np.random.default_rng(0).standard_normal(problem.shape)
    length = np.linalg.norm(rhs)
    p, (info,) = solve_with_info(problem, magnitude * rhs, M=kind, rtol=0, atol=1e-3 * magnitude * length)
    left = np.linalg.norm(rhs - problem.apply(p / magnitude))
    assert info.converged
    assert 1e-6 * length < left <= 1.001e-3 * length
    assert info.residual_norm / magnitude == pytest.approx(left, rel=1e-6)
    assert info.history[0] / magnitude == pytest.approx(length)


@pytest.mark.parametrize("kind", ["multigrid", "jacobi"])
@pytest.mark.parametrize("magnitude", [1e-150, 1e150])
def test_a_guess_that_solves_needs_no_iteration_at_any_magnitude(kind, magnitude):
    problem = random_problem(0, boundary="dirichlet")
    rhs = magnitude * np.random.default_rng(0).standard_normal(problem.shape)
    p = solve(problem, rhs, M=kind, rtol=1e-8)
    _, (info,) = solve_with_info(problem, rhs, M=kind, x0=p)
    assert info.iterations == 0


def test_one_unsolved_of_a_batch_raises_however_large_the_residuals_of_the_solved_ones_are():
    problem = PoissonProblem(np.zeros((9, 10), np.uint8), boundary="dirichlet")
    x, y = np.indices(problem.shape) + 1
    wave = np.sin(np.pi * x / 10) * np.sin(np.pi * y / 11)  # an eigenvector: one step of conjugate gradients
    noise = np.random.default_rng(0).standard_normal(problem.shape)
    with pytest.raises(NotSolved, match="maxiter") as caught:
        solve(problem, np.stack([1e12 * wave, 1e-9 * noise]), M="jacobi", maxiter=2)
    assert caught.value.info.residual_norm < 1e-7


@pytest.mark.parametrize("kind", ["multigrid", "jacobi", "fast-transform"])
def test_a_pool_without_dirichlet_values_gets_mean_zero_whatever_the_guess(kind):
    cells = np.zeros((8, 20, 9), np.uint8)
    cells[:, 7] = SOLID
    problem = PoissonProblem(cells)
    rhs, guess = np.random.default_rng(0).standard_normal((2, *problem.shape))
    p = solve(problem, rhs, M=kind, x0=guess + 5)
    for pool in (p[:, :7], p[:, 8:]):
        assert abs(pool.mean()) < 1e-12 * np.abs(pool).max()


def test_auto_is_the_transform_on_a_gpu_where_that_is_exact():
    for cells, wanted in ((np.zeros((3, 4), np.uint8), "fast-transform"), (np.eye(3, 4, dtype=np.uint8), "multigrid")):
        problem = PoissonProblem(cells, boundary="dirichlet")
        problem.library = "cupy"
        assert best_kind(problem) == wanted


@pytest.mark.parametrize("boundary", ["dirichlet", "mixed"])
def test_a_small_grid_of_any_faces_is_inverted_by_the_cycle(boundary):
    """Up to 64 cells are one level, which is solved exactly: what the kernels are told of the faces is the matrix."""
    problem = random_problem(1, (4, 4, 4), boundary, faces=True)
    x = np.random.default_rng(0).standard_normal(problem.n)
    np.testing.assert_allclose(preconditioner(problem, "multigrid") @ (problem.matrix() @ x), x, atol=1e-4)


@pytest.mark.parametrize(("given", "wanted"), [("3", 3), ("0", None), ("", None), ("-2", None), ("many", None)])
def test_threads_are_those_of_the_environment_or_the_cores(monkeypatch, given, wanted):
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert thread_count() == (wanted or usable_cores())


@pytest.mark.parametrize("seed", range(8))
def test_what_is_too_coarse_for_float32_goes_on_in_float64(seed):
    """Coefficients 1e18 apart: a third of these ends with multigrid by a curvature below zero."""
    rng = np.random.default_rng(seed)
    coefficients = [10.0 ** rng.uniform(-9, 9, shape) for shape in ((9, 8), (8, 9))]
    problem = PoissonProblem(np.zeros((8, 8), np.uint8), boundary="dirichlet", coefficients=coefficients)
    _, (info,) = solve_with_info(problem, rng.standard_normal(problem.shape), M="multigrid")
    assert info.converged, info
