"""MetaMixer's FFN-ified mixer (Yun et al., 2024, arXiv 2406.02021): filter, GELU, filter, without a product.

Attention is taken apart into keys that are compared, a function, and values that are added up; here both are depthwise filters.
"""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from forecast.layers.latent import Latent

SIZE = 7


class FFNified(nn.Module):
    """1x1, 7x7 depthwise, GELU, 7x7 depthwise, scaled 1x1: a reach of 6 cells."""

    def __init__(self, width: int, latent: Latent) -> None:
        super().__init__()
        self.project_in = latent.pointwise(width, width)
        self.keys = latent.depthwise(width, SIZE)
        self.values = latent.depthwise(width, SIZE)
        self.project_out = latent.scaled_pointwise(width, width)

    def forward(self, x: Float[Tensor, "batch channel lat lon"]) -> Float[Tensor, "batch channel lat lon"]:
        """Compare with the keys, add up the values."""
        return self.project_out(self.values(F.gelu(self.keys(self.project_in(x)))))
