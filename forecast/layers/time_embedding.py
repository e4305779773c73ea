"""Season, hour and lead time as numbers that a network can use."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from data_pipelines.forcings import calendar_features

# Lead times are given to the network relative to PuYun's hand-over from the short to the medium stage.
LEAD_SCALE_HOURS = 120.0


def time_features(times: Sequence[np.ndarray], lead_hours: np.ndarray) -> Float[np.ndarray, "batch feature"]:
    """Sines and cosines of season and hour at each of `times`, and the lead time.

    Parameters
    ----------
    times
        For each frame, past to future, the valid times (datetime64) of the batch.
    lead_hours
        Lead time of the last input frame [h], shape (batch,): 0 for an analysis.
    """
    calendar = [calendar_features(time) for time in times]
    lead = np.asarray(lead_hours, dtype="float32")[:, None] / LEAD_SCALE_HOURS
    return np.concatenate([*calendar, lead, np.exp(-lead * LEAD_SCALE_HOURS / 24.0)], axis=1, dtype="float32")


def half_a_year_later(features: Float[Tensor, "batch feature"]) -> Float[Tensor, "batch feature"]:
    """The features of the same hours and lead times in the other half of the year."""
    frames = (features.shape[1] - 2) // 4
    return features * torch.tensor([-1.0, -1.0, 1.0, 1.0] * frames + [1.0, 1.0], device=features.device)


def feature_count(frames: int) -> int:
    """Number of features for `frames` times."""
    return 4 * frames + 2


class TimeEmbedding(nn.Sequential):
    """Two dense layers from the features of the times to one vector for all blocks."""

    def __init__(self, features: int, channels: int) -> None:
        super().__init__(nn.Linear(features, channels), nn.SiLU(), nn.Linear(channels, channels), nn.SiLU())

    def forward(self, features: Float[Tensor, "batch feature"]) -> Float[Tensor, "batch channel"]:
        """Embed the features."""
        return super().forward(features)
