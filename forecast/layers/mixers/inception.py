"""InceptionNeXt's mixer (Yu et al., 2023, arXiv 2303.16900): most channels pass, the others see a square, a row or a column."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from forecast.layers.latent import Latent, SphericalStrip

BRANCHES = 8  # an eighth of the channels goes to each filter
BAND = 11


class Inception(nn.Module):
    """5/8 of the channels unchanged, an eighth each through 3x3, 1x11 and 11x1; a scaled 1x1 closes the branch."""

    def __init__(self, width: int, latent: Latent) -> None:
        super().__init__()
        share = width // BRANCHES
        if not share:
            raise ValueError(f"mixer=inception needs a width of at least {BRANCHES}, an eighth for each filter; got {width}.")
        self.shares = [width - 3 * share, share, share, share]
        shapes = ((3, 3), (1, BAND), (BAND, 1))
        self.filters = nn.ModuleList(SphericalStrip(share, *shape, has_poles=latent.has_poles) for shape in shapes)
        self.project_out = latent.scaled_pointwise(width, width)

    def forward(self, x: Float[Tensor, "batch channel lat lon"]) -> Float[Tensor, "batch channel lat lon"]:
        """Filter each share of the channels its own way."""
        passed, *parts = x.split(self.shares, dim=1)
        filtered = [layer(part) for layer, part in zip(self.filters, parts, strict=True)]
        return self.project_out(torch.cat([passed, *filtered], dim=1))
