"""Dilated convolution with learnable spacings (Khalfaoui-Hassani et al., arXiv 2112.03740; Gaussian form 2306.00817).

A filter of 17 x 17 cells has 26 weights per channel at places that are learned: each weight is a Gaussian bump, of which the
mean and the width are parameters. The data choose how far the filter looks.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from forecast.layers.globe import WHOLE, WholeGlobe
from forecast.layers.latent import Latent, filter_sphere

SIZE = 17
TAPS = 26
FIRST_WIDTH, LEAST_WIDTH = 0.23, 0.27  # cells: the bumps' standard deviation is |width| + 0.27 (2306.00817, section 3)


class LearnableSpacing(nn.Module):
    """1x1, GELU, a filter of 26 weights at learned places, scaled 1x1; a reach of at most 8 cells."""

    def __init__(self, width: int, latent: Latent) -> None:
        super().__init__()
        self.has_poles = latent.has_poles
        self.globe: WholeGlobe = WHOLE
        self.project_in = latent.pointwise(width, width)
        self.weight = nn.Parameter(torch.empty(width, TAPS).uniform_(-1, 1) * TAPS**-0.5)
        self.bias = nn.Parameter(torch.zeros(width))
        self.places = nn.Parameter(torch.randn(2, width, TAPS) * SIZE / 8)  # from the centre [cells], rows and columns
        self.widths = nn.Parameter(torch.full((2, width, TAPS), FIRST_WIDTH))
        self.project_out = latent.scaled_pointwise(width, width)

    def filters(self) -> Float[Tensor, "channel 1 17 17"]:
        """The dense filters that the weights make at their places."""
        cells = torch.arange(SIZE, device=self.places.device) - SIZE // 2
        places = self.places.clamp(-(SIZE // 2), SIZE // 2)
        bumps = torch.exp(-0.5 * ((cells - places[..., None]) / (self.widths[..., None].abs() + LEAST_WIDTH)).square())
        rows, columns = (bumps / bumps.sum(dim=-1, keepdim=True)).unbind(0)
        return torch.einsum("cm,cmy,cmx->cyx", self.weight, rows, columns)[:, None]

    def forward(self, x: Float[Tensor, "batch channel lat lon"]) -> Float[Tensor, "batch channel lat lon"]:
        """Filter with the weights at their places."""
        values = F.gelu(self.project_in(x))
        return self.project_out(filter_sphere(self.globe, values, self.filters(), self.bias, has_poles=self.has_poles))
