"""UniRepLKNet's large filter (Ding et al., 2023, arXiv 2311.15599): a large kernel learned beside small dilated ones.

Filters that act on the same field side by side add up to one: a small kernel dilated by d is a large one with zeros between its
taps. The original merges them after training, since batch normalisation stands behind each branch; here, where a factor per
channel stands instead, the sum is exact at any time, so that training too runs one convolution.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from forecast.layers.globe import WHOLE, WholeGlobe
from forecast.layers.latent import Latent, SphericalStrip, filter_sphere

SIZE = 13
BRANCHES = ((5, 1), (7, 2), (3, 3), (3, 4), (3, 5))  # size and dilation of those beside 13 x 13 (UniRepLKNet's table 9)


class DilatedReparam(nn.Module):
    """1x1, GELU, one 13x13 filter made of six, scaled 1x1."""

    def __init__(self, width: int, latent: Latent) -> None:
        super().__init__()
        self.has_poles = latent.has_poles
        self.globe: WholeGlobe = WHOLE
        self.project_in = latent.pointwise(width, width)
        large = SphericalStrip(width, SIZE, SIZE, has_poles=latent.has_poles)
        self.weight, self.bias = large.weight, large.bias
        small = (torch.empty(width, 1, size, size) for size, _ in BRANCHES)
        self.small = nn.ParameterList(nn.init.trunc_normal_(taps, std=0.02) for taps in small)
        self.gains = nn.Parameter(torch.ones(len(BRANCHES), width))
        self.project_out = latent.scaled_pointwise(width, width)

    def merged(self) -> Float[Tensor, "channel 1 13 13"]:
        """The one filter that all branches are together."""
        total = self.weight
        for small, gain, (size, dilation) in zip(self.small, self.gains, BRANCHES, strict=True):
            total = total + gain.view(-1, 1, 1, 1) * spread_taps(small, size, dilation)
        return total

    def forward(self, x: Float[Tensor, "batch channel lat lon"]) -> Float[Tensor, "batch channel lat lon"]:
        """Filter with the sum of all branches."""
        values = F.gelu(self.project_in(x))
        return self.project_out(filter_sphere(self.globe, values, self.merged(), self.bias, has_poles=self.has_poles))


def spread_taps(small: Float[Tensor, "channel 1 size size"], size: int, dilation: int) -> Float[Tensor, "channel 1 13 13"]:
    """A dilated filter as a plain one of the full size."""
    reach = dilation * (size // 2)
    spread = small.new_zeros(*small.shape[:2], SIZE, SIZE)
    taps = slice(SIZE // 2 - reach, SIZE // 2 + reach + 1, dilation)
    spread[..., taps, taps] = small
    return spread
