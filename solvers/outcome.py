"""How a solve ended: an `int` by SciPy's contract that also says which, why and how well."""

from __future__ import annotations


class Outcome(int):
    """What `conjugate_directions` returns as `info`.

    As a number it keeps the contract of `scipy.sparse.linalg.cg`: 0 converged, above 0 the iterations after which it had not,
    below 0 a breakdown.

    Parameters
    ----------
    value
        That number.
    iterations
        Directions that were followed.
    residual_norm
        2-norm of the true residual b - A x of what is returned, recomputed at the end.
    reason
        One sentence.
    history
        Norm of the residual before each direction and after the last one.
    """

    iterations: int
    residual_norm: float
    reason: str
    history: tuple[float, ...]

    def __new__(  # noqa: D102 - told in the class
        cls, value: int, *, iterations: int, residual_norm: float, reason: str, history: tuple[float, ...] = ()
    ) -> Outcome:
        self = super().__new__(cls, value)
        self.iterations, self.residual_norm, self.reason, self.history = iterations, residual_norm, reason, history
        return self

    @property
    def converged(self) -> bool:
        """Whether the true residual met the tolerance."""
        return self == 0

    def scaled(self, factor: float) -> Outcome:
        """The same of a problem whose right-hand side is `factor` times as large."""
        norms = tuple(norm * factor for norm in self.history)
        return type(self)(
            int(self), iterations=self.iterations, residual_norm=self.residual_norm * factor, reason=self.reason, history=norms
        )

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({int(self)}, iterations={self.iterations}, residual_norm={self.residual_norm:.3g}, "
            f"reason={self.reason!r})"
        )


class Converged(Outcome):
    """The true residual meets the tolerance."""


class NotConverged(Outcome):
    """`maxiter` came first."""


class Stalled(Outcome):
    """The recursion said converged, the true residual did not, and starting again from it no longer helped."""


class NotPositiveDefinite(Outcome):
    """A direction of negative curvature: A or M is not positive definite."""


class NotFinite(Outcome):
    """A or M gave NaN or inf."""


class NotSolved(ArithmeticError):
    """`solve` could not meet the tolerance.

    Attributes
    ----------
    solution
        The best grid of values so far.
    info
        The `Outcome` that says which and why.
    """

    def __init__(self, message: str, solution: object, info: Outcome) -> None:
        super().__init__(message)
        self.solution, self.info = solution, info
