"""Calibration of what is shown: a regression of the truth on the forecast and the initial anomaly, by lead time.

A network that has learned from few days forecasts too strong anomalies at far lead times, and loses slow ones that the
initial state still shows. Fitted on the days that it learned from, a correction would find it perfect. So networks that
each held some days out give the moments of their forecasts on those days; weights come from the moments of all, and a
shrinkage towards climatology from what weights of the others are worth on the days of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from forecast.losses import row_weights

FILE = "calibration.safetensors"
# A band of a few storm sizes: one row's regression on a few days would follow their accidents.
WINDOW_DEGREES = 10.0
PENALTY = 0.1  # on the initial anomaly, as a share of its variance
SHRINKAGE_HOURS = 24  # lead times to each side that share one shrinkage

Moments = Float[Tensor, "step five channel lat"]
Weights = Float[Tensor, "step two channel lat"]


def moments_of(
    forecast: Float[Tensor, "batch channel lat lon"],
    initial: Float[Tensor, "batch channel lat lon"],
    truth: Float[Tensor, "batch channel lat lon"],
) -> Float[Tensor, "five channel lat"]:
    """Mean products of anomalies: forecast squared, with initial; initial squared; truth with forecast, with initial."""
    pairs = ((forecast, forecast), (forecast, initial), (initial, initial), (forecast, truth), (initial, truth))
    return torch.stack([(one * other).mean(dim=(0, 3)) for one, other in pairs])


def fit_weights(moments: Moments, latitude: Sequence[float]) -> Weights:
    """Weights of the forecast and the initial anomaly that bring them nearest to the truth, each in [0, 1].

    The regression is done by channel in a smooth window of latitudes. A penalty keeps the initial state out where it says the
    same as the forecast, at the first lead times. Without moments the forecast stays as it is.
    """
    rows = torch.tensor(latitude)
    window = row_weights(latitude).flatten() * torch.exp(-0.5 * ((rows[:, None] - rows) / WINDOW_DEGREES) ** 2)
    forecast, cross, initial, with_forecast, with_initial = (moments @ window.T).unbind(dim=1)
    initial = initial * (1 + PENALTY)
    determinant = forecast * initial - cross.square()
    of_forecast = (with_forecast * initial - with_initial * cross) / determinant
    of_initial = (with_initial * forecast - with_forecast * cross) / determinant
    known = determinant > 0
    return torch.stack([of_forecast.where(known, 1.0), of_initial.where(known, 0.0)], dim=1).clamp(0, 1)


def shrinkage(parts: Sequence[Moments], latitude: Sequence[float], step_hours: int) -> Float[Tensor, "step channel"]:
    """Factor in [0, 1] that weights fitted on all parts but one want on that one, by lead time and channel; 1 for one part."""
    steps, _, channels, _ = parts[0].shape
    gain, square = torch.zeros(2, steps, channels)
    area = row_weights(latitude).flatten()
    for number, part in enumerate(parts):
        others = [other for place, other in enumerate(parts) if place != number]
        if not others:
            return torch.ones(steps, channels)
        one, other = fit_weights(torch.stack(others).mean(dim=0), latitude).unbind(dim=1)
        forecast, cross, initial, with_forecast, with_initial = part.unbind(dim=1)
        gain += ((one * with_forecast + other * with_initial) * area).mean(dim=-1)
        square += ((one.square() * forecast + 2 * one * other * cross + other.square() * initial) * area).mean(dim=-1)
    known = square > 0
    around = SHRINKAGE_HOURS // step_hours
    gain, square = (F.avg_pool1d(F.pad(x.T, (around, around)), 2 * around + 1, stride=1).T for x in (gain, square))
    return (gain / square).where(known, 1.0).clamp(0, 1)


def combine(parts: Sequence[Moments], latitude: Sequence[float], step_hours: int) -> Weights:
    """Weights from the moments of all parts, shrunk as far as the parts disagree."""
    weights = fit_weights(torch.stack(list(parts)).mean(dim=0), latitude)
    return weights * shrinkage(parts, latitude, step_hours)[:, None, :, None]


def from_step(weights: Weights, first: int) -> Weights:
    """Weights of a stage that begins after `first` steps: before its first step they are those of its first step.

    Nothing was fitted there, and half a step after the hand-over what is shown lies between the two.
    """
    return torch.cat([weights[first : first + 1].expand(first, *weights.shape[1:]), weights[first:]])


def save_moments(folder: Path, moments: Moments) -> None:
    """Write moments into a training's folder."""
    save_file({"moments": moments.contiguous()}, folder / FILE)


def load_moments(folders: Sequence[str], steps: int) -> list[Moments]:
    """Read the moments in trainings' folders.

    Raises
    ------
    ValueError
        If a folder has none, they are damaged, or they are for another number of steps, channels or latitudes.
    """
    parts = []
    for folder in folders:
        path = Path(folder) / FILE
        if not path.exists():
            raise ValueError(
                f"calibration_from must name folders of trainings with calibrate=true; {folder} has no {FILE}. Train it so."
            )
        try:
            parts.append(load_file(path)["moments"])
        except (SafetensorError, KeyError) as error:
            raise ValueError(f"{path} is damaged or holds no moments ({error}). Train with calibrate=true again.") from error
        if len(parts[-1]) != steps:
            raise ValueError(
                f"calibration_from must name trainings that were calibrated for {steps} steps; {folder} was for "
                f"{len(parts[-1])}. Give both the same lead_until_hours."
            )
        if parts[-1].shape != parts[0].shape:
            raise ValueError(
                f"calibration_from must name trainings of the same channels and grid; {folders[0]} has (channels, latitudes) = "
                f"{tuple(parts[0].shape[2:])}, {folder} has {tuple(parts[-1].shape[2:])}."
            )
    return parts
