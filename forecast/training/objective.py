"""What is made small: the error of the steps of a draw, balanced over lead times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn


@dataclass
class Ahead:
    """One step of a draw: what is given at it, the truth after it, and how much each forecast's error counts."""

    forcings: Float[Tensor, "batch forcing lat lon"]
    features: Float[Tensor, "batch feature"]
    truth: Float[Tensor, "batch channel lat lon"]
    weight: Float[Tensor, " batch"]


class Unrolled(nn.Module):
    """Several steps under one gradient. As a module, so that it can be spread over processes as a whole.

    Parameters
    ----------
    model
        The network, or its latitude band; it has `normalised_tendency` and `tendency`.
    error
        On the rows of the model.
    share
        Rows of the model over the mean number of rows of a band: so the mean over bands of a band's error is the globe's.
    in_bfloat16
        Run the network in bfloat16 where that is exact enough (autocast).
    hardest
        Share of the batch that the mean is over, those with the largest weighted error.
    """

    def __init__(self, model: Any, error: nn.Module, share: float, in_bfloat16: bool, hardest: float = 1.0) -> None:
        super().__init__()
        self.model = model
        self.error = error
        self.share = share
        self.in_bfloat16 = in_bfloat16
        self.hardest = hardest

    def forward(
        self, frames: Float[Tensor, "batch history channel lat lon"], steps: Sequence[Ahead], mirrored: bool = False
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "ahead batch"], Float[Tensor, "batch history channel lat lon"]]:
        """The mean weighted error, the error of every forecast after every step, and the frames after the last one.

        With `mirrored` the network sees the globe mirrored at the equator (`TendencyNetwork.mirrored_tendency`).
        """
        make = self.model.mirrored_tendency if mirrored else self.model.normalised_tendency
        errors = []
        for ahead in steps:
            with torch.autocast(frames.device.type, torch.bfloat16, enabled=self.in_bfloat16):
                tendency = make(frames, ahead.forcings, ahead.features).float()
            errors.append(self.share * self.error(tendency - (ahead.truth - frames[:, -1]) / self.model.tendency))
            frames = torch.cat([frames[:, 1:], (frames[:, -1] + self.model.tendency * tendency)[:, None]], dim=1)
        weighted = torch.stack([error * ahead.weight for error, ahead in zip(errors, steps, strict=True)]).mean(dim=0)
        if self.hardest < 1:
            weighted = weighted.topk(hardest_of(len(weighted), self.hardest)).values
        return weighted.mean(), torch.stack(errors).detach(), frames.detach()


def hardest_of(forecasts: int, share: float) -> int:
    """How many of so many forecasts are a share of them, at least one."""
    return max(1, round(share * forecasts))


class LeadBalance:
    """Running mean error at each lead time, 1 to begin with: that of an untrained network."""

    def __init__(self, leads: int, rate: float = 0.02) -> None:
        self.mean: Float[Tensor, " lead"] = torch.ones(leads)
        self.seen: Bool[Tensor, " lead"] = torch.zeros(leads, dtype=torch.bool)
        self.rate = rate

    def weights(self, lead: np.ndarray) -> Float[Tensor, " batch"]:
        """One over the mean error at these lead times [steps]."""
        return 1.0 / self.mean[lead]

    def update(self, lead: np.ndarray, error: Float[Tensor, " batch"]) -> None:
        """Take new errors into the means."""
        for position, value in zip(lead, error, strict=True):
            rate = self.rate if self.seen[position] else 1.0
            self.mean[position] += rate * (value - self.mean[position])
            self.seen[position] = True
