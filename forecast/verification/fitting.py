"""Fits the baselines that are asked for, on one training span."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from forecast.verification.baselines import BASELINES, Baseline, ClimatologyForecast, DampedPersistence, Persistence
from forecast.verification.inputs import VerificationError
from forecast.verification.linear_inverse_model import fit_linear_inverse_model
from forecast.verification.stencil_ridge import fit_stencil_ridge
from forecast.verification.training import TrainingData

FITS: dict[str, Callable[[TrainingData, Sequence[int]], Baseline]] = {
    "persistence": lambda training, steps: Persistence(),
    "climatology": lambda training, steps: ClimatologyForecast(training.climatology),
    "damped_persistence": DampedPersistence,
    "linear_inverse_model": fit_linear_inverse_model,
    "stencil_ridge": fit_stencil_ridge,
}


def check_baselines(names: Sequence[str]) -> None:
    """Refuse a name that is no baseline.

    Raises
    ------
    VerificationError
        For an unknown or a repeated name.
    """
    unknown = [name for name in names if name not in BASELINES]
    if unknown or len(set(names)) != len(names):
        raise VerificationError(f"baselines must be different names among {list(BASELINES)}; got {list(names)}.")


def fit_baselines(
    training: TrainingData, names: Sequence[str], steps: Sequence[int], progress: Callable[[str], None] | None = None
) -> dict[str, Baseline]:
    """Fit baselines for lead times given in analysis steps; `progress` is told each name before it is fitted."""
    check_baselines(names)
    fitted = {}
    for name in names:
        if progress is not None:
            progress(name)
        fitted[name] = FITS[name](training, steps)
    return fitted
