"""Bred vectors: the perturbations that a forecast itself lets grow (Toth and Kalnay, Mon. Wea. Rev. 1997).

Some steps before the initial time a random field is added to the analysis. Then, step by step: forecast from the analysis and
from the perturbed analysis, take the difference, scale it back to the size of the beginning, add it to the next analysis. What
does not grow dies out; what is left at the initial time are the directions in which errors of the analysis will have grown.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float32

from forecast.cascade import Cascade
from forecast.ensemble import EnsembleConfig, sizes_of
from forecast.forecaster import ForecastError
from forecast.rollout import rollout

Fields = Float32[np.ndarray, "batch channel lat lon"]


def breed(
    cascade: Cascade,
    analysis: xr.Dataset,
    initial_times: np.ndarray,
    drawn: Fields,
    change: Fields,
    config: EnsembleConfig,
    device: torch.device | str = "cpu",
    precision: str = "auto",
) -> Fields:
    """Breed perturbations for some initial times, by the cascade's first stage.

    Parameters
    ----------
    initial_times
        datetime64, (batch,).
    drawn
        Random fields that are added to the analyses of the beginning, physical units. A forecast whose field is 0 stays
        unperturbed.
    change
        Change of the analysis over a step before the initial times, physical units: what sizes are relative to.

    Raises
    ------
    ForecastError
        If the analysis does not reach back far enough, or a difference is lost in rounding.
    """
    first = Cascade.of(cascade.stages[0].model, 1)
    step = np.timedelta64(first.until_hours, "h")
    sizes = np.stack([sizes_of(one, cascade.latitude) for one in change])
    starts = initial_times - config.breeding_steps * step
    difference = drawn
    perturbed = np.asarray(drawn.any(axis=(1, 2, 3)))
    for time in (starts + number * step for number in range(config.breeding_steps)):
        forecasts = [
            next(rollout(first, analysis, time, 1, device, precision, added, calibrated=False)).fields
            for added in (difference, None)
        ]
        difference = (forecasts[0] - forecasts[1]).cpu().numpy()
        difference = _scaled(difference, sizes, config.amplitude, perturbed, cascade.latitude)
    return difference


def _scaled(
    difference: Fields, sizes: np.ndarray, amplitude: float, perturbed: np.ndarray, latitude: Sequence[float]
) -> Fields:
    """One factor for all channels, which keeps their balance: their mean square in units of `sizes` becomes `amplitude`'s."""
    now = np.stack([sizes_of(one, tuple(latitude)) for one in difference])
    relative = np.divide(now, sizes, out=np.zeros_like(now), where=sizes > 0)  # a field that never changes has no size
    norm = np.sqrt(np.mean(relative**2, axis=1))
    if (norm[perturbed] == 0).any():
        raise ForecastError("a bred vector died out: the first stage forecasts the same from different states.")
    factor = np.where(perturbed, amplitude / np.where(norm > 0, norm, 1), 0)
    return (difference * factor[:, None, None, None]).astype(np.float32)
