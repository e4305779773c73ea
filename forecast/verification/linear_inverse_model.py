"""Linear inverse model: leading EOFs of all channels together, moved forward by a matrix fitted to their lag covariance.

Penland and Sardeshmukh (J. Climate 1995): with x the principal components, G(tau) = C(tau) C(0)^-1 for one training lag and
G(n tau) = G(tau)^n. How many EOFs, how strongly C(0) is regularised (a span of weeks makes C(0)^-1 mostly noise), and what
becomes of the part of the initial state that the EOFs leave out, is chosen by a hold-out inside the training span.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64

from forecast.verification.baselines import damping
from forecast.verification.hold_out import hold_out_mse, scored_steps
from forecast.verification.training import TrainingData

TRUNCATIONS = (5, 10, 20, 40, 80, 120)
PENALTIES = (0.0, 0.1, 0.3, 1.0)  # added to the diagonal of C(0), as a fraction of its mean
MAX_SNAPSHOTS = 2000  # the EOFs come from the covariance between states: its size is the number of states


class LinearInverseModel:
    """A linear inverse model with the given number of EOFs.

    Parameters
    ----------
    training
        States to fit on.
    truncation
        Number of EOFs.
    penalty
        Regularisation of C(0), as a fraction of the mean variance of the components.
    rest
        What the part of the initial anomaly outside the EOFs is multiplied by, (channel, lat) for every lead time in analysis
        steps that will be asked for: damped persistence's factors. None drops it.
    basis
        At least as many EOFs of `training`, where they were made before.
    """

    name = "linear_inverse_model"
    history = 1

    def __init__(
        self,
        training: TrainingData,
        truncation: int,
        penalty: float,
        rest: Mapping[int, np.ndarray] | None = None,
        basis: Basis | None = None,
    ):
        basis = basis or basis_of(training, truncation)
        self._scale, self._patterns = basis.scale, basis.patterns[:truncation]
        self._step_matrix = _propagator([component[:, :truncation] for component in basis.components], penalty)
        self._damping = rest
        self.description = (
            f"Linear inverse model: {self._patterns.shape[0]} EOFs of all channels, fitted at a lag of "
            f"{np.timedelta64(training.step, 'h')} with regularisation {penalty:g}; the rest of the initial anomaly is "
            f"{'damped as in damped persistence' if rest else 'dropped'}. All three chosen on the last third of the "
            f"training span."
        )

    def predict(self, frames: np.ndarray, steps: Sequence[int]) -> Float[np.ndarray, "init lead channel lat lon"]:
        """Forecast anomalies; see `Baseline.predict`."""
        last = frames[:, -1]
        component = _project(last, self._patterns, self._scale)
        rest = last - _expand(component, self._patterns, self._scale, last.shape[1:]) if self._damping is not None else None
        forecasts, done = [], 0
        for step in steps:
            component = component @ np.linalg.matrix_power(self._step_matrix, step - done).T
            done = step
            field = _expand(component, self._patterns, self._scale, last.shape[1:])
            if self._damping is not None and rest is not None:
                field = field + rest * self._damping[step][:, :, None]
            forecasts.append(field.astype(np.float32))
        return np.stack(forecasts, axis=1)


def fit_linear_inverse_model(training: TrainingData, steps: Sequence[int]) -> LinearInverseModel:
    """Choose truncation and treatment of the rest on a hold-out, then fit on the whole training span."""
    first, last = training.split()
    leads = scored_steps(steps, last)
    states = sum(segment.time.size for segment in first.segments)
    rests = {True: damping(first, leads), False: None}
    candidates = [
        (truncation, penalty, keep_rest)
        for truncation in TRUNCATIONS
        if truncation <= max(states // 3, TRUNCATIONS[0])
        for penalty in PENALTIES
        for keep_rest in (False, True)
    ]
    basis = basis_of(first, max(truncation for truncation, _, _ in candidates))
    scores = {
        (truncation, penalty, keep_rest): hold_out_mse(
            LinearInverseModel(first, truncation, penalty, rests[keep_rest], basis), last, leads
        ).mean()
        for truncation, penalty, keep_rest in candidates
    }
    truncation, penalty, keep_rest = min(scores, key=lambda candidate: scores[candidate])
    rest = damping(training, steps) if keep_rest else None
    return LinearInverseModel(training, truncation, penalty, rest)


@dataclass(frozen=True)
class Basis:
    """Leading EOFs of a training span, the most energetic first.

    Parameters
    ----------
    scale
        What standardises anomalies and weighs them by area, (channel, lat).
    patterns
        Orthonormal, (mode, point).
    components
        Principal components of the training states, (state, mode) for each run without a gap.
    """

    scale: Float64[np.ndarray, "channel lat"]
    patterns: Float64[np.ndarray, "mode point"]
    components: list[Float64[np.ndarray, "state mode"]]


def basis_of(training: TrainingData, truncation: int) -> Basis:
    """The first `truncation` EOFs, or as many as there are."""
    scale = (training.scale()[:, None] / np.sqrt(training.weights)).astype(np.float64)
    patterns = _eofs(training, truncation, scale)
    return Basis(scale, patterns, [_project(anomaly, patterns, scale) for anomaly in training.anomalies()])


def _eofs(training: TrainingData, truncation: int, scale: np.ndarray) -> Float64[np.ndarray, "mode point"]:
    """Leading patterns of the area-weighted, standardised anomalies, orthonormal, from the covariance between states."""
    snapshots = np.concatenate(
        [(anomaly / scale[:, :, None]).reshape(anomaly.shape[0], -1) for anomaly in training.anomalies()]
    )
    snapshots = snapshots[:: max(1, -(-snapshots.shape[0] // MAX_SNAPSHOTS))].astype(np.float32)
    values, vectors = np.linalg.eigh((snapshots @ snapshots.T).astype(np.float64))
    positive = np.flatnonzero(values > values[-1] * 1e-6)[::-1][:truncation]
    return (vectors[:, positive].T @ snapshots) / np.sqrt(values[positive])[:, None]


def _project(anomaly: np.ndarray, patterns: np.ndarray, scale: np.ndarray) -> Float64[np.ndarray, "state mode"]:
    return (anomaly / scale[:, :, None]).reshape(anomaly.shape[0], -1) @ patterns.T


def _expand(component: np.ndarray, patterns: np.ndarray, scale: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    return (component @ patterns).reshape(-1, *shape) * scale[:, :, None]


def _propagator(components: Sequence[Float64[np.ndarray, "state mode"]], penalty: float) -> Float64[np.ndarray, "mode mode"]:
    """C(one step) C(0)^-1 of the principal components."""
    lagged = sum(component[1:].T @ component[:-1] for component in components)
    simultaneous = sum(component[:-1].T @ component[:-1] for component in components)
    size = len(lagged)
    simultaneous += penalty * np.trace(simultaneous) / size * np.eye(size)
    return np.linalg.solve(simultaneous.T, lagged.T).T
