"""Large-kernel attention as the Visual Attention Network has it (Guo et al., 2022, arXiv 2202.09741)."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from forecast.layers.large_kernel_attention import LargeKernel
from forecast.layers.latent import Latent


class LargeKernelAttention(nn.Module):
    """1x1, GELU, product with its own large-kernel response, scaled 1x1 (VAN's attention without the shortcut)."""

    def __init__(self, width: int, latent: Latent) -> None:
        super().__init__()
        self.project_in = latent.pointwise(width, width)
        self.large_kernel = LargeKernel(width, latent)
        self.project_out = latent.scaled_pointwise(width, width)

    def forward(self, x: Float[Tensor, "batch channel lat lon"]) -> Float[Tensor, "batch channel lat lon"]:
        """Multiply values by their large-kernel response."""
        values = F.gelu(self.project_in(x))
        return self.project_out(values * self.large_kernel(values))
