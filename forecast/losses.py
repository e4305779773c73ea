"""Errors of a field, weighted by area, level and variable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from data_pipelines.area import cell_area_weights
from data_pipelines.variables import Channel

# GraphCast's weights of surface variables (weathernext1_graph/graphcast.py): what is easily predicted counts less; others 1.
GRAPHCAST_SURFACE_WEIGHTS = {
    "10m_u_component_of_wind": 0.1,
    "10m_v_component_of_wind": 0.1,
    "mean_sea_level_pressure": 0.1,
    "total_precipitation_6hr": 0.1,
    "2m_temperature": 1.0,
}
# Where Charbonnier's error turns from quadratic to linear, in standard deviations of the tendency.
CHARBONNIER_SCALE = 0.1

ALL_ROWS = slice(None)

PENALTIES = {
    "l1": lambda error: error.abs(),
    "l2": lambda error: error.square(),
    "charbonnier": lambda error: (error.square() + CHARBONNIER_SCALE**2).sqrt() - CHARBONNIER_SCALE,
}


def channel_weights(channels: Sequence[str], weights: Mapping[str, float], by_level: bool) -> Float[Tensor, " channel"]:
    """Weights with mean 1 of the fields of a state.

    Parameters
    ----------
    channels
        Names of the fields.
    weights
        Weight by variable or by field; what is not named counts 1. Give `GRAPHCAST_SURFACE_WEIGHTS` for GraphCast's.
    by_level
        Weight fields on levels by pressure over the mean pressure of that variable's levels (GraphCast, losses.py).

    Raises
    ------
    ValueError
        If `weights` names neither a variable nor a field of the model, or is not positive.
    """
    parsed = [Channel.parse(name) for name in channels]
    known = set(channels) | {channel.variable for channel in parsed}
    unknown = sorted(set(weights) - known)
    if unknown:
        raise ValueError(f"variable_weights names {unknown}, which the model does not predict; it predicts {list(channels)}.")
    if any(weight <= 0 for weight in weights.values()):
        raise ValueError(f"variable_weights must be positive; got {dict(weights)}.")
    values = []
    for name, channel in zip(channels, parsed, strict=True):
        value = weights.get(name, weights.get(channel.variable, 1.0))
        if by_level and channel.level is not None:
            levels = [other.level for other in parsed if other.variable == channel.variable and other.level is not None]
            value *= channel.level / float(np.mean(levels))
        values.append(value)
    return torch.tensor(values) / float(np.mean(values))


def row_weights(latitude: Sequence[float]) -> Float[Tensor, "one lat one"]:
    """Area of the cells of each row [degrees], with mean 1 over rows."""
    return torch.from_numpy(cell_area_weights(np.asarray(latitude))).float().view(1, -1, 1)


class WeightedError(nn.Module):
    """Mean penalty of an error in units of the tendency's standard deviation.

    Parameters
    ----------
    penalty
        "l1", "l2" or "charbonnier". A long forecast is trained with "l2": its minimiser is the mean of what may come.
    latitude
        Rows of the grid [degrees]; a row counts as much as its area. None for a plane, whose rows count alike.
    weights
        One number per channel, see `channel_weights`.
    rows
        Those of the grid that errors are given for; a band's mean error is over its own rows.
    """

    def __init__(
        self, penalty: str, latitude: Sequence[float] | None, weights: Float[Tensor, " channel"], rows: slice = ALL_ROWS
    ) -> None:
        super().__init__()
        if penalty not in PENALTIES:
            raise ValueError(f"penalty must be one of {sorted(PENALTIES)}; got {penalty!r}.")
        self.penalty = PENALTIES[penalty]
        of_rows = torch.ones(1, 1, 1) if latitude is None else row_weights(latitude)[:, rows]
        self.register_buffer("weights", weights.view(-1, 1, 1) * of_rows)

    def forward(self, error: Float[Tensor, "batch channel lat lon"]) -> Float[Tensor, " batch"]:
        """One number per sample."""
        return (self.penalty(error) * self.weights).mean(dim=(1, 2, 3))
