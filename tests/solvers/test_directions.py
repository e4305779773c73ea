"""The outer loop: conjugate gradients to rounding, one step with the exact inverse, and failures that say which and why."""

import numpy as np
import pytest
import scipy.sparse.linalg

from solvers import conjugate_directions
from solvers.outcome import Converged, NotConverged, NotFinite, NotPositiveDefinite, Stalled
from tests.solvers.geometries import random_problem

PROBLEM = random_problem(5, boundary="tank")
A = PROBLEM.matrix()
B = PROBLEM.compatible(np.random.default_rng(1).standard_normal(PROBLEM.n))


def test_identity_proposal_reproduces_conjugate_gradients():
    iterates, wanted = [], []
    conjugate_directions(A, B, rtol=1e-6, callback=lambda x: iterates.append(x.copy()))
    scipy.sparse.linalg.cg(A, B, rtol=1e-6, callback=lambda x: wanted.append(x.copy()))
    assert len(iterates) == len(wanted) > 20
    for mine, scipys in zip(iterates, wanted, strict=True):
        np.testing.assert_allclose(mine, scipys, atol=1e-7 * np.abs(scipys).max())


def test_exact_inverse_converges_in_one_step():
    matrix = A.toarray() + np.eye(PROBLEM.n)
    x, info = conjugate_directions(matrix, B, M=np.linalg.inv(matrix), rtol=1e-10)
    assert (int(info), info.iterations, type(info)) == (0, 1, Converged)
    np.testing.assert_allclose(matrix @ x, B, atol=1e-9)


def test_two_directions_bear_a_nonlinear_proposal_that_none_does_not():
    class Nonlinear:
        def __matmul__(self, r):
            return r * (1 + 0.5 * np.sin(300 * r))

    steps = [conjugate_directions(A, B, M=Nonlinear(), rtol=1e-5, n_orthogonal=n)[1].iterations for n in (2, 0)]
    assert 2 * steps[0] < steps[1]


def test_first_guess_that_solves_needs_no_step():
    x, _ = conjugate_directions(A, B, rtol=1e-12)
    again, info = conjugate_directions(A, B, x, rtol=1e-6)
    assert info.iterations == 0
    assert np.array_equal(x, again)


def test_maxiter_is_not_convergence():
    x, info = conjugate_directions(A, B, maxiter=3)
    assert (int(info), type(info)) == (3, NotConverged)
    assert info.residual_norm == pytest.approx(np.linalg.norm(B - A @ x))
    assert "maxiter=3" in repr(info)


def test_negative_curvature_is_told():
    _, info = conjugate_directions(-A, B)
    assert (int(info), type(info)) == (-1, NotPositiveDefinite)


def test_nan_of_a_proposal_is_told_and_stays_out_of_the_solution():
    class Broken:
        def __matmul__(self, r):
            return r * np.nan

    x, info = conjugate_directions(A, B, M=Broken())
    assert (int(info), type(info)) == (-2, NotFinite)
    assert np.isfinite(x).all()


def test_a_tolerance_below_rounding_ends_as_stalled():
    _, info = conjugate_directions(A, B, rtol=1e-20, maxiter=10_000)
    assert isinstance(info, Stalled | NotConverged | NotPositiveDefinite)
    assert int(info) != 0


def test_a_first_guess_out_of_range_is_told():
    _, info = conjugate_directions(A, B, x0=np.full(B.size, 1e160), rtol=1e-6)
    assert (int(info), type(info)) == (-2, NotFinite)
    assert "scale" in info.reason


def test_zero_right_hand_side_has_the_zero_solution():
    x, info = conjugate_directions(A, 0 * B)
    assert int(info) == 0
    assert not x.any()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"b": B[:-1]}, ValueError, "A must have shape"),
        ({"b": B[None]}, ValueError, r"b must have shape \(n,\)"),
        ({"b": B * 1j}, TypeError, "b must hold real numbers"),
        ({"b": np.where(B > 1, np.nan, B)}, ValueError, "b must be finite"),
        ({"b": B * 1e200}, ValueError, r"b must lie in \(1e-140, 1e\+140\).* Scale it"),
        ({"b": B * 1e-200}, ValueError, r"b must lie in .* Scale it"),
        ({"x0": B[:-1]}, ValueError, "x0 must have shape"),
        ({"x0": B + np.inf}, ValueError, "x0 must be finite"),
        ({"rtol": 1.0}, ValueError, r"rtol must lie in \[0, 1\)"),
        ({"atol": -1.0}, ValueError, "atol must be"),
        ({"maxiter": 0}, ValueError, "maxiter must be"),
        ({"n_orthogonal": -1}, ValueError, "n_orthogonal must be"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(arguments, error, message):
    with pytest.raises(error, match=message):
        conjugate_directions(**{"A": A, "b": B, **arguments})


def test_an_absolute_tolerance_alone_ends_a_solve():
    _, info = conjugate_directions(A, B, rtol=0.0, atol=0.1)
    assert isinstance(info, Converged)
    assert 1e-3 < info.residual_norm <= 0.1


def test_where_the_recursion_loses_touch_it_starts_again_from_the_true_residual():
    """A guess 1e10 times too large leaves rounding of its own size between the recursion and b - A x."""
    calls = []
    guess = 1e10 * np.random.default_rng(2).standard_normal(B.size)
    x, info = conjugate_directions(A, B, guess, rtol=1e-10, callback=lambda x: calls.append(1))
    assert info.converged
    assert np.linalg.norm(B - A @ x) < 1.001e-10 * np.linalg.norm(B)
    assert info.iterations == len(info.history) - 1 == len(calls)


def test_a_direction_of_no_curvature_is_told():
    _, info = conjugate_directions(np.zeros((2, 2)), np.ones(2))
    assert (int(info), type(info)) == (-1, NotPositiveDefinite)
