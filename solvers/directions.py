"""Conjugate directions: the outer loop around every preconditioner, learned or classical."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from gpu.backend import namespace_of
from solvers.outcome import Converged, NotConverged, NotFinite, NotPositiveDefinite, Outcome, Stalled

MOST_RESTARTS = 8  # from the true residual, where the recursion had lost touch with it
SMALLEST = 1e-140  # its square, and that of a residual 1e-14 below it, are float64 numbers
LEAST_GAIN = 0.5  # a restart that leaves more than this of the residual will not get there


class _Direction(NamedTuple):
    p: Any
    Ap: Any
    curvature: float


def conjugate_directions(
    A: Any,
    b: Any,
    x0: Any = None,
    *,
    rtol: float = 1e-5,
    atol: float = 0.0,
    maxiter: int | None = None,
    M: Any = None,
    n_orthogonal: int = 2,
    callback: Callable[[Any], object] | None = None,
) -> tuple[Any, Outcome]:
    """Solve A x = b by conjugate directions that M proposes (Kaneda et al., ICML 2023, arXiv:2205.10763).

    Each proposal M(r / |r|) is made A-orthogonal to the last `n_orthogonal` directions, then followed to the minimum of
    the A-norm of
    the error. With M=None it is the conjugate gradient method; with M linear, symmetric and positive definite the
    preconditioned
    one; M may also be nonlinear (flexible conjugate gradients, Notay 2000), and then `n_orthogonal` of 2 is the published loop.

    Parameters
    ----------
    A
        Symmetric positive (semi)definite, shape (n, n): an array, sparse matrix, or LinearOperator. If it is
        singular, b must lie in
        its range.
    b
        Right-hand side, shape (n,), NumPy or CuPy; computed with as float64.
    x0
        First guess, shape (n,); zero if None.
    rtol, atol
        Converged when |b - A x| <= max(rtol |b|, atol), in the 2-norm, for the residual recomputed at the end.
    maxiter
        Most directions to follow; 10 n if None.
    M
        Approximates the inverse of A: anything that `M @ r` is defined for. None is the identity.
    n_orthogonal
        How many directions to stay A-orthogonal to, >= 0; 0 is steepest descent.
    callback
        Called as callback(xk) after each direction.

    Returns
    -------
    x, info
        The solution (n,), float64, and an `Outcome`: the int 0 if converged, > 0 iterations if not, < 0 on
        breakdown, with `reason`,
        `iterations`, `residual_norm` and `history`.

    Raises
    ------
    ValueError
        If a shape does not fit, b or x0 hold NaN or inf, the square of b leaves float64, or a setting is out of range.
    TypeError
        If b or x0 are complex or not numbers.
    """
    xp = namespace_of(b)
    b = _checked_vector(xp, "b", b)
    _check_settings(A, b, rtol, atol, maxiter, n_orthogonal)
    x = xp.zeros_like(b) if x0 is None else _checked_vector(xp, "x0", x0, like=b).copy()
    r = b.copy() if x0 is None else b - A @ x
    tolerance = max(rtol * _norm_in_range(xp, b), atol)
    return _Loop(A, b, M, tolerance, 10 * b.size if maxiter is None else maxiter, n_orthogonal, callback).run(x, r)


class _Loop:
    """One solve: what stays the same, and the residual's history."""

    def __init__(
        self,
        A: Any,
        b: Any,
        M: Any,
        tolerance: float,
        maxiter: int,
        n_orthogonal: int,
        callback: Callable[[Any], object] | None,
    ) -> None:
        self.A, self.b, self.M, self.tolerance, self.maxiter = A, b, M, tolerance, maxiter
        self.callback = callback
        self.recent: deque[_Direction] = deque(maxlen=n_orthogonal)
        self.history: list[float] = []
        self.xp = namespace_of(b)

    def _norm(self, vector: Any) -> float:
        with np.errstate(over="ignore", invalid="ignore"):  # inf is an answer here: it ends the solve
            return float(self.xp.linalg.norm(vector))

    def run(self, x: Any, r: Any) -> tuple[Any, Outcome]:
        norm = self._norm(r)
        last_restart = math.inf
        for restart in range(MOST_RESTARTS + 1):
            r, norm, failure = self._descend(x, r, norm)
            true = self.b - self.A @ x
            true_norm = self._norm(true)
            if true_norm <= self.tolerance:
                return x, self._outcome(Converged, 0, true_norm, "the true residual meets the tolerance")
            if failure is not None:
                kind, value, reason = failure
                return x, self._outcome(kind, value, true_norm, reason)
            if restart == MOST_RESTARTS or true_norm > LEAST_GAIN * last_restart:
                break
            last_restart, r, norm = true_norm, true, true_norm
            self.recent.clear()
        reason = (
            f"rounding keeps the true residual above the tolerance {self.tolerance:.3g}; ask for less, or scale the problem"
        )
        return x, self._outcome(Stalled, max(1, len(self.history) - 1), true_norm, reason)

    def _descend(self, x: Any, r: Any, norm: float) -> tuple[Any, float, tuple[type[Outcome], int, str] | None]:
        """Follow directions until the recursion's residual meets the tolerance; x is changed in place."""
        self.history = [*self.history[:-1], norm]
        while norm > self.tolerance:
            step = len(self.history) - 1
            if not math.isfinite(norm):
                return r, norm, (NotFinite, -2, "the residual left the range of float64; scale the problem and the first guess")
            if step >= self.maxiter:
                return (
                    r,
                    norm,
                    (NotConverged, max(1, step), f"maxiter={self.maxiter} came before the tolerance {self.tolerance:.3g}"),
                )
            direction, failure = self._direction(r, norm)
            if failure is not None:
                return r, norm, failure
            alpha = float(self.xp.vdot(direction.p, r)) / direction.curvature
            x += alpha * direction.p
            r = r - alpha * direction.Ap
            norm = self._norm(r)
            self.history.append(norm)
            self.recent.append(direction)
            if self.callback is not None:
                self.callback(x)
        return r, norm, None

    def _direction(self, r: Any, norm: float) -> tuple[_Direction, tuple[type[Outcome], int, str] | None]:
        """The next direction, or why there is none."""
        p = _proposal(self.M, r / norm)
        overlaps = [float(self.xp.vdot(p, old.Ap)) / old.curvature for old in self.recent]
        for overlap, old in zip(overlaps, self.recent, strict=True):  # classical Gram-Schmidt, as published
            p = p - overlap * old.p
        Ap = self.A @ p
        curvature = float(self.xp.vdot(p, Ap))
        direction = _Direction(p, Ap, curvature)
        if not math.isfinite(curvature):
            return direction, (NotFinite, -2, "A or M gave NaN or inf")
        if curvature <= 0:
            return direction, (
                NotPositiveDefinite,
                -1,
                f"curvature p.Ap = {curvature:.3g} <= 0: A or M is not positive definite",
            )
        return direction, None

    def _outcome(self, kind: type[Outcome], value: int, true_norm: float, reason: str) -> Outcome:
        steps = len(self.history) - 1
        return kind(value, iterations=steps, residual_norm=true_norm, reason=reason, history=tuple(self.history))


def _proposal(M: Any, r: Any) -> Any:
    return r if M is None else M @ r


def _checked_vector(xp: Any, name: str, value: Any, *, like: Any = None) -> Any:
    array = xp.asarray(value)
    if array.dtype.kind not in "fiub":
        raise TypeError(
            f"{name} must hold real numbers; got dtype {array.dtype}. Solve real and imaginary part one after the other."
        )
    if array.ndim != 1 or (like is not None and array.shape != like.shape):
        wanted = "(n,)" if like is None else f"{like.shape} like b"
        raise ValueError(f"{name} must have shape {wanted}; got {array.shape}.")
    array = array.astype(np.float64)
    if not bool(xp.isfinite(array).all()):
        raise ValueError(f"{name} must be finite; it holds NaN or inf.")
    return array


def _norm_in_range(xp: Any, b: Any) -> float:
    """The 2-norm of b, which must be one that float64 can square."""
    largest = float(xp.abs(b).max()) if b.size else 0.0
    if largest > 0 and not SMALLEST < largest < 1 / SMALLEST:
        raise ValueError(f"b must lie in ({SMALLEST:g}, {1 / SMALLEST:g}); its largest entry is {largest:.3g}. Scale it.")
    return float(xp.linalg.norm(b))


def _check_settings(A: Any, b: Any, rtol: float, atol: float, maxiter: int | None, n_orthogonal: int) -> None:
    if tuple(A.shape) != (b.size, b.size):
        raise ValueError(f"A must have shape {(b.size, b.size)} to go with b; got {tuple(A.shape)}.")
    if not 0 <= rtol < 1:
        raise ValueError(f"rtol must lie in [0, 1); got {rtol}.")
    if not 0 <= atol < math.inf:
        raise ValueError(f"atol must be at least 0 and finite; got {atol}.")
    if maxiter is not None and maxiter < 1:
        raise ValueError(f"maxiter must be at least 1, or None; got {maxiter}.")
    if n_orthogonal < 0:
        raise ValueError(f"n_orthogonal must be at least 0; got {n_orthogonal}.")
