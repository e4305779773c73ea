"""Any geometry, any right-hand side: a true residual that meets the tolerance, or an error or `info` that says why."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from solvers import AIR, FLUID, SOLID, NotSolved, PoissonProblem, conjugate_directions, preconditioner, solve_with_info
from solvers.outcome import Converged

KINDS = ("multigrid", "incomplete-cholesky", "jacobi", "fast-transform")
SIDES = st.sampled_from(["periodic", "neumann", "dirichlet", ("neumann", "dirichlet"), ("dirichlet", "neumann")])
# Found anew in the same order on every run: a failure is one for everybody. Shrinking one would take minutes.
BOUNDED = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],
)


def checkerboard(shape, rng):
    return (np.indices(shape).sum(0) % 2 * rng.choice([SOLID, AIR])).astype(np.uint8)


def noise(shape, rng):
    shares = rng.dirichlet([1, 1, 0.3])
    return rng.choice(np.array([FLUID, SOLID, AIR], np.uint8), shape, p=shares)


def one_cell(shape, rng):
    cells = np.full(shape, rng.choice([SOLID, AIR]), np.uint8)
    cells[tuple(rng.integers(0, shape))] = FLUID
    return cells


def pools(shape, rng):
    """Slabs of fluid between walls of one cell, one of them with air now and then."""
    cells = np.zeros(shape, np.uint8)
    axis = int(rng.integers(len(shape)))
    cells = np.moveaxis(cells, axis, 0)
    cells[:: int(rng.integers(2, 5))] = SOLID
    if rng.random() < 0.5:
        cells[tuple(rng.integers(0, cells.shape))] = AIR
    return np.ascontiguousarray(np.moveaxis(cells, 0, axis))


def channels(shape, rng):
    """One cell wide, to and fro."""
    cells = np.zeros(shape, np.uint8)
    for number, wall in enumerate(range(1, shape[0], 2)):
        cells[wall] = SOLID
        cells[(wall, -1 if number % 2 else 0, *[0] * (len(shape) - 2))] = FLUID
    return cells


def whole(shape, rng):
    return np.full(shape, rng.choice([FLUID, FLUID, SOLID, AIR]), np.uint8)


MAKERS = (checkerboard, noise, one_cell, pools, channels, whole)
SHAPES = st.one_of(
    st.tuples(*[st.integers(1, 9)] * 3),
    st.tuples(*[st.integers(1, 24)] * 2),
    st.sampled_from([(1, 1, 400), (2, 301, 1), (600, 2), (1, 1)]),
)


@st.composite
def problems(draw):
    """Geometry, box faces, spacing up to 1 : 1000, and faces that are open by a part of 1e-3 or not at all."""
    shape = draw(SHAPES)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    cells = draw(st.sampled_from(MAKERS))(shape, rng)
    boundary = [draw(SIDES) for _ in shape]
    spacing = tuple(10.0 ** rng.uniform(-1.5, 1.5, len(shape))) if draw(st.booleans()) else 1.0
    fractions = None
    if draw(st.booleans()):
        fractions = []
        for axis, kinds in enumerate(boundary):
            faces = rng.choice([0.0, 1e-3, 0.3, 1.0], [n + (axis == other) for other, n in enumerate(shape)])
            if kinds == "periodic":
                np.moveaxis(faces, axis, 0)[-1] = np.moveaxis(faces, axis, 0)[0]
            fractions.append(faces)
    return PoissonProblem(cells, spacing, boundary=boundary, fractions=fractions)


def is_honest(problem, rhs, p, info, rtol):
    """Converged and so by the matrix, or not converged with a reason and the residual that there is."""
    b = problem.compatible(problem.to_vector(rhs))
    scale = np.abs(b).max(initial=0.0) or 1.0
    left = np.linalg.norm((b - problem.matrix() @ problem.to_vector(p)) / scale)
    assert np.isfinite(p).all()
    assert not p[problem.cells != FLUID].any()
    if info.converged:
        assert isinstance(info, Converged)
        # taking the mean out of p at the end costs rounding
        rounding = 1e-13 * np.abs(problem.to_vector(p / scale)).max(initial=0.0) * problem.diagonal.max()
        assert left <= 1.001 * rtol * np.linalg.norm(b / scale) + rounding
    else:
        assert len(info.reason) > 10
        assert info.residual_norm == pytest.approx(left * scale, rel=1e-3)
    return bool(info.converged)


@settings(BOUNDED, max_examples=300)
@given(problems(), st.sampled_from(KINDS), st.integers(0, 100), st.sampled_from([1.0, 1e-290, 1e-30, 1e30, 1e290]))
def test_every_geometry_ends_with_the_true_residual_or_a_reason(problem, kind, seed, magnitude):
    rhs = magnitude * np.random.default_rng(seed).standard_normal(problem.shape)
    p, (info,) = solve_with_info(problem, rhs, M=kind, maxiter=3000)
    assert is_honest(problem, rhs, p, info, 1e-6) or kind != "multigrid", f"multigrid and what it falls back to: {info}"


@settings(BOUNDED, max_examples=300)
@given(problems(), st.sampled_from(KINDS), st.integers(0, 100))
def test_every_preconditioner_is_finite_symmetric_and_positive(problem, kind, seed):
    M = preconditioner(problem, kind)
    u, v = np.random.default_rng(seed).standard_normal((2, problem.n))
    Mu, Mv = M @ u, M @ v
    assert np.isfinite(Mu).all()
    assert abs(v @ Mu - u @ Mv) <= 1e-4 * np.linalg.norm(u) * np.linalg.norm(Mv)
    assert u @ Mu > 0 or problem.n == 0


@settings(BOUNDED, max_examples=40)
@given(problems(), st.sampled_from([math.nan, math.inf, -math.inf]), st.integers(0, 2**31))
def test_what_is_not_finite_in_the_fluid_is_refused_and_does_no_harm_elsewhere(problem, bad, place):
    rhs = np.random.default_rng(0).standard_normal(problem.shape)
    rhs.flat[place % rhs.size] = bad
    if problem.cells.flat[place % rhs.size] == FLUID:
        with pytest.raises(ValueError, match="rhs must be finite in fluid cells"):
            solve_with_info(problem, rhs)
    else:
        p, (info,) = solve_with_info(problem, rhs, maxiter=3000)
        assert np.isfinite(p).all()
        assert info.converged or info.reason


REFUSED = (TypeError, ValueError)


@settings(BOUNDED, max_examples=80)
@given(
    st.sampled_from([np.bool_, np.int8, np.int64, np.uint8, np.float16, np.float32, np.float64, np.complex128, object, "U3"]),
    st.lists(st.integers(0, 5), max_size=5).map(tuple),
)
def test_any_dtype_and_shape_of_the_right_hand_side_solves_or_is_refused_by_name(dtype, shape):
    problem = PoissonProblem(np.zeros((3, 4), np.uint8), boundary="dirichlet")
    rhs = np.ones(shape).astype(dtype)
    fits = shape[-2:] == (3, 4) and len(shape) in (2, 3) and np.dtype(dtype).kind in "fiub"
    if fits:
        p, info = solve_with_info(problem, rhs)
        assert p.shape == shape
        assert p.dtype == np.float64
        assert all(one.converged for one in info)
    else:
        with pytest.raises(REFUSED, match=r"rhs|grid"):
            solve_with_info(problem, rhs)


@settings(BOUNDED, max_examples=80)
@given(
    st.sampled_from([np.bool_, np.int8, np.int64, np.uint8, np.float32, np.complex128, object]),
    st.lists(st.integers(0, 4), max_size=4).map(tuple),
    st.integers(0, 255),
)
def test_any_dtype_shape_and_flag_makes_a_problem_or_is_refused_by_name(dtype, shape, flag):
    cells = np.full(shape, min(flag, 127)).astype(dtype)
    if dtype == np.uint8 and len(shape) in (2, 3) and 0 not in shape and flag <= AIR:
        assert PoissonProblem(cells).n == (cells.size if flag == FLUID else 0)
    else:
        with pytest.raises(REFUSED, match="cells must"):
            PoissonProblem(cells)


@settings(BOUNDED, max_examples=30)
@given(st.integers(1, 12), st.sampled_from([0.0, 1e-300, 1.0, 1e300]), st.integers(0, 1000))
def test_conjugate_directions_never_says_converged_of_what_is_not(n, magnitude, seed):
    """Random symmetric matrices, definite or not, and magnitudes whose squares leave float64."""
    rng = np.random.default_rng(seed)
    root = rng.standard_normal((n, n))
    A = root @ root.T if seed % 2 else root + root.T
    b = magnitude * rng.standard_normal(n)
    if 0 < magnitude != 1:
        with pytest.raises(ValueError, match="Scale it"):
            conjugate_directions(A, b, rtol=1e-8)
        return
    x, info = conjugate_directions(A, b, rtol=1e-8)
    scale = np.abs(b).max() or 1.0
    left = np.linalg.norm(b / scale - A @ (x / scale))
    assert not info.converged or left <= 1.001e-8 * np.linalg.norm(b / scale)
    assert info.converged or len(info.reason) > 10


def test_a_problem_that_cannot_be_solved_says_so():
    """Coefficients 1e30 apart leave no digit: whatever ends it has a reason and the best grid so far."""
    rng = np.random.default_rng(3)
    coefficients = [10.0 ** rng.uniform(-15, 15, (7, 6)), 10.0 ** rng.uniform(-15, 15, (6, 7))]
    problem = PoissonProblem(np.zeros((6, 6), np.uint8), coefficients=coefficients)
    rhs = rng.standard_normal(problem.shape)
    p, (info,) = solve_with_info(problem, rhs, maxiter=200)
    is_honest(problem, rhs, p, info, 1e-6)
    assert not info.converged
    assert issubclass(NotSolved, ArithmeticError)
