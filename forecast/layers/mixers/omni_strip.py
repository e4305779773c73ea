"""Omni-Kernel's strips (Cui et al., AAAI 2024): a long row, a long column and the point itself, added up.

The original adds a 63 x 63 square, which costs sixty times the strips, and gates in frequency space; `frequency_filter` has the
latter.
"""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from forecast.layers.latent import Latent, SphericalStrip

LENGTH = 31


class OmniStrip(nn.Module):
    """1x1, GELU, the sum of 1x31, 31x1 and 1x1 depthwise, GELU, scaled 1x1: a reach of 15 cells along both axes."""

    def __init__(self, width: int, latent: Latent) -> None:
        super().__init__()
        self.project_in = latent.pointwise(width, width)
        shapes = ((1, LENGTH), (LENGTH, 1), (1, 1))
        self.strips = nn.ModuleList(SphericalStrip(width, *shape, has_poles=latent.has_poles) for shape in shapes)
        self.project_out = latent.scaled_pointwise(width, width)

    def forward(self, x: Float[Tensor, "batch channel lat lon"]) -> Float[Tensor, "batch channel lat lon"]:
        """Add up the strips."""
        values = F.gelu(self.project_in(x))
        return self.project_out(F.gelu(values + sum(strip(values) for strip in self.strips)))
