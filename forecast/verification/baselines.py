"""Rivals that any forecast must beat: persistence, climatology and damped persistence; and what all rivals share.

All are fitted on a training span and nothing else. Each makes a forecast in WeatherBench 2's schema, so that it is scored by
the code that scores everybody. The two regressions live in `linear_inverse_model` and `stencil_ridge`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import xarray as xr
from jaxtyping import Float, Float32

from data_pipelines.selection import select
from data_pipelines.variables import Channel
from forecast.verification.inputs import VerificationError, stack, unstack
from forecast.verification.training import Climatology, TrainingData

BASELINES = ("persistence", "climatology", "damped_persistence", "linear_inverse_model", "stencil_ridge")


@runtime_checkable
class Baseline(Protocol):
    """A forecast rule in anomalies from climatology.

    Attributes
    ----------
    name
        As in `BASELINES`.
    description
        What was fitted and chosen, in one sentence, for the report.
    history
        Analyses that it starts from, the last of them at the initial time.
    """

    name: str
    description: str
    history: int

    def predict(
        self, frames: Float32[np.ndarray, "init frame channel lat lon"], steps: Sequence[int]
    ) -> Float[np.ndarray, "init lead channel lat lon"]:
        """Forecast anomalies `steps` analysis steps (ascending) after the last of the anomaly frames."""
        ...


class ClimatologyForecast:
    """The climatology of the valid time."""

    name = "climatology"
    history = 1

    def __init__(self, climatology: Climatology):
        self.description = f"Climatology of the valid time: {climatology.description}."

    def predict(self, frames: np.ndarray, steps: Sequence[int]) -> np.ndarray:
        """Forecast anomalies; see `Baseline.predict`."""
        return np.zeros((frames.shape[0], len(steps), *frames.shape[2:]), dtype=np.float32)


class Persistence:
    """The analysis of the initial time, unchanged (WeatherBench 2's persistence: the field, not its anomaly).

    It needs no climatology, so it makes fields, not anomalies: see `baseline_fields`.
    """

    name = "persistence"
    description = "Persistence: the analysis of the initial time, unchanged."
    history = 1

    def predict(self, frames: np.ndarray, steps: Sequence[int]) -> np.ndarray:
        """Forecast anomalies; see `Baseline.predict`."""
        return np.repeat(frames[:, -1:], len(steps), axis=1)


class DampedPersistence:
    """Anomaly of the initial time times a factor fitted per channel, latitude and lead time.

    The factor is the regression coefficient of the anomaly on itself `lead` steps earlier, over longitudes and times of the
    training span, limited to [0, 1]: over a few weeks, minus their own mean, long-lead coefficients are negative by nature.
    """

    name = "damped_persistence"
    description = (
        "Damped persistence: climatology plus the initial anomaly times a regression coefficient in [0, 1], "
        "fitted per channel, latitude and lead time."
    )
    history = 1

    def __init__(self, training: TrainingData, steps: Sequence[int]):
        self.factor = damping(training, steps)

    def predict(self, frames: np.ndarray, steps: Sequence[int]) -> np.ndarray:
        """Forecast anomalies; see `Baseline.predict`."""
        last = frames[:, -1]
        return np.stack([last * self.factor[step][:, :, None] for step in steps], axis=1)


def damping(training: TrainingData, steps: Collection[int]) -> dict[int, Float32[np.ndarray, "channel lat"]]:
    """Regression coefficients of anomalies on those so many analyses earlier, in [0, 1]; 0 where no pair is that far apart."""
    shape = (len(training.channels), training.latitude.size)
    products, squares = ({step: np.zeros(shape) for step in steps} for _ in range(2))
    for anomaly in training.anomalies():  # once: their climatology is read for each
        for step in products:
            if anomaly.shape[0] > step:
                start, end = anomaly[: anomaly.shape[0] - step], anomaly[step:]
                products[step] += np.einsum("tcyx,tcyx->cy", start, end, dtype=np.float64)
                squares[step] += np.einsum("tcyx,tcyx->cy", start, start, dtype=np.float64)
    return {
        step: np.divide(product, squares[step], out=np.zeros(shape), where=squares[step] > 0).clip(0, 1).astype(np.float32)
        for step, product in products.items()
    }


def baseline_forecast(
    baseline: Baseline,
    climatology: Climatology,
    analysis: xr.Dataset,
    initial_times: np.ndarray,
    leads: np.ndarray,
    step: np.timedelta64,
) -> xr.Dataset:
    """Make a baseline's forecast in WeatherBench 2's schema.

    Parameters
    ----------
    baseline
        A fitted baseline.
    climatology
        The training span's.
    analysis
        Analyses in the layout of `inputs`, holding the initial times and the history before them.
    initial_times, leads
        datetime64 and timedelta64; leads are multiples of `step`, ascending.
    step
        Time between the analyses on which the baseline was fitted.

    Returns
    -------
    xarray.Dataset
        Dimensions (time, prediction_timedelta, [level], latitude, longitude), float32.
    """
    values = baseline_fields(baseline, climatology, analysis, climatology.channels, initial_times, leads, step)
    dataset = unstack(
        values,
        climatology.channels,
        ("time", "prediction_timedelta", "channel", "latitude", "longitude"),
        {
            "time": initial_times,
            "prediction_timedelta": leads,
            "latitude": analysis["latitude"].values,
            "longitude": analysis["longitude"].values,
        },
    )
    return dataset.assign_attrs(title=f"Baseline forecast: {baseline.name}", comment=baseline.description)


def baseline_fields(
    baseline: Baseline,
    climatology: Climatology | None,
    analysis: xr.Dataset,
    channels: Sequence[Channel],
    initial_times: np.ndarray,
    leads: np.ndarray,
    step: np.timedelta64,
) -> Float32[np.ndarray, "init lead channel lat lon"]:
    """As `baseline_forecast`, as a plain array; persistence alone works without a climatology."""
    steps = lead_steps(leads, step)
    history = initial_times[:, None] + np.arange(1 - baseline.history, 1) * step
    unique, place = np.unique(history, return_inverse=True)
    fields = stack(select(analysis, time=unique), channels)
    if climatology is None or isinstance(baseline, Persistence):
        return baseline.predict(fields[place.reshape(history.shape)], steps).astype(np.float32, copy=False)
    frames = (fields - climatology.at(unique))[place.reshape(history.shape)]
    anomaly = baseline.predict(frames, steps).astype(np.float32, copy=False)
    valid = initial_times[:, None] + np.asarray(leads)
    unique, place = np.unique(valid, return_inverse=True)
    return anomaly + climatology.at(unique)[place.reshape(valid.shape)]


def lead_steps(leads: np.ndarray, step: np.timedelta64) -> list[int]:
    """Express lead times in analysis steps.

    Raises
    ------
    VerificationError
        If a lead time is negative or no multiple of the step.
    """
    ratio = np.asarray(leads) / step
    if (ratio < 0).any() or (ratio != ratio.round()).any():
        bad = [str(np.timedelta64(lead, "m")) for lead, value in zip(leads, ratio, strict=True) if value < 0 or value % 1]
        raise VerificationError(
            f"lead times must be multiples of the analysis step, {np.timedelta64(step, 'm')}; got {bad[:5]}. "
            f"Score against a truth with a finer step."
        )
    return [int(value) for value in ratio]
