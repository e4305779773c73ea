"""March the discrete wave equation in time: explicit central differences, or implicit Newmark with beta = 1/4.

Both are of second order and keep a discrete energy to rounding where nothing absorbs. Central differences are stable
below 2 / sqrt(largest eigenvalue of M^-1 K), damping on the diagonal or not; the eigenvalue comes from Lanczos.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import scipy.sparse
from scipy.sparse.csgraph import reverse_cuthill_mckee
from scipy.sparse.linalg import eigsh, splu

from data_pipelines.finite_elements.errors import FiniteElementError, UnstableStepError
from data_pipelines.finite_elements.wave_equation import Vector, WaveProblem

SCHEMES = ("central_differences", "newmark")
SAFETY = 0.95  # share of the limit that a step may take: Lanczos finds the eigenvalue from below, to 1 %
_LANCZOS_TOLERANCE = 1e-2


@dataclass(frozen=True)
class Drive:
    """Forces, each a load vector times a signal in time: what wave makers at an edge do.

    Attributes
    ----------
    loads
        (drive, unknown).
    signal
        Time [s] -> (drive,).
    until
        When all signals have ended [s].
    """

    loads: np.ndarray
    signal: Callable[[float], np.ndarray]
    until: float

    def force(self, time: float) -> Vector | float:
        """Load vector at a time."""
        return 0.0 if time > self.until else self.signal(time) @ self.loads


class Stepper(Protocol):
    """A scheme with its state."""

    step: float  # s
    time: float  # s

    def advance(self, steps: int) -> None:
        """March on."""

    def state(self) -> tuple[Vector, Vector]:
        """Displacement and velocity now, in the order of the problem's unknowns."""

    def energy(self) -> float:
        """The energy that the scheme keeps."""


def largest_frequency(problem: WaveProblem) -> float:
    """Square root of the largest eigenvalue of M^-1 K on the free unknowns [rad s-1], by Lanczos, to 1 % from below."""
    free = np.flatnonzero(~problem.fixed)
    scale = scipy.sparse.diags_array(1.0 / np.sqrt(problem.mass[free]))
    matrix = scale @ problem.stiffness[free][:, free] @ scale
    if free.size < 3:
        return math.sqrt(float(np.linalg.eigvalsh(matrix.toarray())[-1])) if free.size else 0.0
    start = np.random.default_rng(0).standard_normal(free.size)  # the same step for the same problem
    value = eigsh(matrix, k=1, which="LA", tol=_LANCZOS_TOLERANCE, v0=start, return_eigenvectors=False)
    return math.sqrt(float(value[0]))


def stable_step(problem: WaveProblem, safety: float = SAFETY) -> float:
    """Longest time step [s] that `CentralDifferences` takes."""
    return safety * 2.0 / largest_frequency(problem)


class CentralDifferences:
    """Explicit: (M/dt^2 + C/2dt) u+ = (2M/dt^2 - K) u - (M/dt^2 - C/2dt) u- + f.

    A step is one sparse product and one product of vectors: all factors are multiplied into one matrix, and unknowns
    are ordered by reverse Cuthill-McKee, so that neighbours lie close in memory.

    Parameters
    ----------
    problem
        Assembled.
    displacement, velocity
        At time 0, in the order of the problem's unknowns.
    step
        Time step [s].
    drive
        Force at an edge.
    dtype
        float64, or float32: half the memory traffic, and rounding that grows with the square root of the steps.
    limit
        Longest stable step [s], if it is known already.

    Raises
    ------
    UnstableStepError
        If the step is not positive or too long.
    """

    def __init__(
        self,
        problem: WaveProblem,
        displacement: Vector,
        velocity: Vector,
        step: float,
        *,
        drive: Drive | None = None,
        dtype: Any = np.float64,
        limit: float | None = None,
    ) -> None:
        limit = stable_step(problem) if limit is None else limit
        if not 0 < step <= limit * (1 + 1e-12):
            raise UnstableStepError(
                f"time_step must be positive and at most {limit:.6g} s for central differences on this mesh; got {step:.6g} s: "
                "a longer one makes the shortest waves grow without bound. Shorten it, coarsen the mesh, or use newmark."
            )
        self.problem, self.step, self.time, self.drive = problem, step, 0.0, drive
        self.order = reverse_cuthill_mckee(scipy.sparse.csr_matrix(problem.stiffness), symmetric_mode=True)
        self.back = np.argsort(self.order)
        mass, damping = problem.mass, problem.damping * (step / 2)
        free = np.where(problem.fixed, 0.0, 1.0)
        inverse = free / (mass + damping)
        matrix = scipy.sparse.diags_array(inverse * 2 * mass) - scipy.sparse.diags_array(step**2 * inverse) @ problem.stiffness
        self.matrix = scipy.sparse.csr_array(scipy.sparse.csr_array(matrix)[self.order][:, self.order], dtype=dtype)
        self.matrix.sort_indices()
        self.factor = (inverse * (mass - damping))[self.order].astype(dtype)  # 1 where nothing absorbs
        self.scale = (step**2 * inverse)[self.order]
        start = free * displacement
        acceleration = inverse_mass(problem) * (self._force(0.0) - problem.stiffness @ start - problem.damping * velocity)
        before = free * (displacement - step * velocity + 0.5 * step**2 * acceleration)
        self.now, self.before = start[self.order].astype(dtype), before[self.order].astype(dtype)

    def _force(self, time: float) -> Any:
        return 0.0 if self.drive is None else self.drive.force(time)

    def advance(self, steps: int) -> None:
        """March on by some steps."""
        for _ in range(steps):
            later = self._later()
            self.now, self.before = later, self.now
            self.time += self.step

    def _later(self) -> np.ndarray:
        later = self.matrix @ self.now
        np.multiply(self.before, self.factor, out=self.before)
        np.subtract(later, self.before, out=later)
        if self.drive is not None and self.time <= self.drive.until:
            later += (self.scale * self._force(self.time)[self.order]).astype(later.dtype)
        return later

    def state(self) -> tuple[Vector, Vector]:
        """Displacement and velocity now; the velocity by the central difference around now."""
        kept = self.before.copy()
        later = self._later()
        self.before = kept
        velocity = (later.astype(np.float64) - kept) / (2 * self.step)
        return self.now[self.back].astype(np.float64), velocity[self.back]

    def energy(self) -> float:
        """Half of v M v + u K u-, half a step before now, with v the difference quotient: exactly kept without damping."""
        now, before = (values[self.back].astype(np.float64) for values in (self.now, self.before))
        velocity = (now - before) / self.step
        potential = now @ (self.problem.stiffness @ before)
        return 0.5 * float(velocity @ (self.problem.mass * velocity) + potential)


class Newmark:
    """Implicit, average acceleration (beta 1/4, gamma 1/2): stable for every step. Parameters as `CentralDifferences`."""

    def __init__(
        self, problem: WaveProblem, displacement: Vector, velocity: Vector, step: float, *, drive: Drive | None = None
    ) -> None:
        if step <= 0:
            raise FiniteElementError(f"time_step must be positive [s]; got {step}.")
        self.problem, self.step, self.time, self.drive = problem, step, 0.0, drive
        self.free = np.flatnonzero(~problem.fixed)
        free = np.where(problem.fixed, 0.0, 1.0)
        diagonal = scipy.sparse.diags_array(problem.mass + 0.5 * step * problem.damping)
        matrix = (diagonal + 0.25 * step**2 * problem.stiffness)[self.free][:, self.free]
        self.factorised = splu(scipy.sparse.csc_matrix(matrix), permc_spec="MMD_AT_PLUS_A", options={"SymmetricMode": True})
        self.displacement, self.velocity = free * displacement, free * velocity
        right = self._force(0.0) - problem.stiffness @ self.displacement - problem.damping * self.velocity
        self.acceleration = inverse_mass(problem) * right

    def _force(self, time: float) -> Any:
        return 0.0 if self.drive is None else self.drive.force(time)

    def advance(self, steps: int) -> None:
        """March on by some steps."""
        dt = self.step
        for _ in range(steps):
            self.time += dt
            displacement = self.displacement + dt * self.velocity + 0.25 * dt**2 * self.acceleration
            velocity = self.velocity + 0.5 * dt * self.acceleration
            right = self._force(self.time) - self.problem.stiffness @ displacement - self.problem.damping * velocity
            acceleration = np.zeros_like(displacement)
            acceleration[self.free] = self.factorised.solve(right[self.free])
            self.displacement = displacement + 0.25 * dt**2 * acceleration
            self.velocity = velocity + 0.5 * dt * acceleration
            self.acceleration = acceleration

    def state(self) -> tuple[Vector, Vector]:
        """Displacement and velocity now."""
        return self.displacement, self.velocity

    def energy(self) -> float:
        """Half of v M v + u K u: exactly kept without damping."""
        return self.problem.energy(self.displacement, self.velocity)


def inverse_mass(problem: WaveProblem) -> Vector:
    """1 / M, 0 at fixed unknowns."""
    return np.where(problem.fixed, 0.0, 1.0 / problem.mass)


def steps_per_frame(interval: float, limit: float) -> int:
    """Fewest equal steps of at most `limit` that make the time between two frames [s]."""
    return max(1, math.ceil(interval / limit - 1e-9))


def frames(stepper: Stepper, count: int, steps: int) -> Iterator[tuple[Vector, Vector]]:
    """Displacement and velocity now and after every `steps` steps, `count` times in all."""
    for frame in range(count):
        if frame:
            stepper.advance(steps)
        yield stepper.state()
