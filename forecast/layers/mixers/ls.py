"""LSNet's see large, focus small (Wang et al., 2025, arXiv 2503.23135).

A large filter looks around and decides, point by point, with which 3 x 3 weights the neighbours are added up: like a learned
semi-Lagrangian stencil, which looks where the air comes from.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from forecast.layers.globe import WHOLE, WholeGlobe
from forecast.layers.latent import Latent

GROUP = 8  # channels that share their weights
SMALL = 3


class LargeSmall(nn.Module):
    """1x1, 7x7 depthwise, 1x1 to nine weights per point and group; neighbours added up with them, scaled 1x1: reach 3."""

    def __init__(self, width: int, latent: Latent) -> None:
        super().__init__()
        if width % GROUP:
            raise ValueError(f"mixer=ls needs a width divisible by {GROUP}, channels that share weights; got {width}.")
        self.groups = width // GROUP
        self.has_poles = latent.has_poles
        self.globe: WholeGlobe = WHOLE
        self.project_in = latent.pointwise(width, width)
        self.look = latent.depthwise(width, 7)
        self.weigh = latent.pointwise(width, self.groups * SMALL**2)
        self.project_out = latent.scaled_pointwise(width, width)

    def forward(self, x: Float[Tensor, "batch channel lat lon"]) -> Float[Tensor, "batch channel lat lon"]:
        """Add up the neighbours with weights of the place."""
        values = self.project_in(x)
        batch, channels, rows, columns = values.shape
        weights = self.weigh(F.gelu(self.look(values))).view(batch, self.groups, 1, SMALL**2, rows, columns)
        padded = self.globe.pad(values, SMALL // 2, SMALL // 2, has_poles=self.has_poles)
        grouped = padded.reshape(batch, self.groups, GROUP, *padded.shape[-2:])
        mixed = torch.zeros_like(grouped[..., :rows, :columns])
        for row in range(SMALL):
            for column in range(SMALL):
                neighbour = grouped[..., row : row + rows, column : column + columns]
                mixed = torch.addcmul(mixed, weights[:, :, :, SMALL * row + column], neighbour)
        return self.project_out(mixed.reshape(batch, channels, rows, columns).contiguous(memory_format=torch.channels_last))
