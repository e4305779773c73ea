"""Neighborhood attention (Hassani et al., 2023, arXiv 2204.07143): every point attends to the 7 x 7 points around it.

A reference beside the filters: what attention in a window finds, on the sphere. Written with the tools of torch; fused kernels
for it exist on GPUs only.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from forecast.layers.globe import WHOLE, WholeGlobe
from forecast.layers.latent import Latent

SIZE = 7
HEAD = 8  # channels of a head


class NeighborhoodAttention(nn.Module):
    """Queries, keys and values by 1x1, softmax over 49 neighbours with a bias learned for each, scaled 1x1: reach 3."""

    def __init__(self, width: int, latent: Latent) -> None:
        super().__init__()
        if width % HEAD:
            raise ValueError(f"mixer=neighborhood_attention needs a width divisible by {HEAD}, a head's channels; got {width}.")
        self.heads = width // HEAD
        self.has_poles = latent.has_poles
        self.globe: WholeGlobe = WHOLE
        self.project_in = latent.pointwise(width, 3 * width)
        self.place = nn.Parameter(torch.zeros(self.heads, SIZE**2))
        self.project_out = latent.scaled_pointwise(width, width)

    def forward(self, x: Float[Tensor, "batch channel lat lon"]) -> Float[Tensor, "batch channel lat lon"]:
        """Attend to the neighbours."""
        batch, channels, rows, columns = x.shape
        queries, keys, values = self.project_in(x).chunk(3, dim=1)
        queries = queries.reshape(batch, self.heads, HEAD, rows, columns) * HEAD**-0.5
        near = [self._around(part, rows, columns) for part in (keys, values)]  # each (batch, head, HEAD, 49, lat, lon)
        likeness = (queries[:, :, :, None] * near[0]).sum(dim=2) + self.place.view(1, self.heads, -1, 1, 1)
        mixed = (likeness.softmax(dim=2)[:, :, None] * near[1]).sum(dim=3)
        return self.project_out(mixed.reshape(batch, channels, rows, columns).contiguous(memory_format=torch.channels_last))

    def _around(self, x: Tensor, rows: int, columns: int) -> Tensor:
        padded = self.globe.pad(x, SIZE // 2, SIZE // 2, has_poles=self.has_poles)
        padded = padded.reshape(x.shape[0], self.heads, HEAD, *padded.shape[-2:])
        places = [padded[..., y : y + rows, z : z + columns] for y in range(SIZE) for z in range(SIZE)]
        return torch.stack(places, dim=3)
