"""Large-kernel attention with a gate of its own, ConvFormer's form (Wu et al., 2024, arXiv 2401.05633)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from forecast.layers.large_kernel_attention import LargeKernel
from forecast.layers.latent import Latent


class GatedLargeKernelAttention(nn.Module):
    """The gate and the gated values have 1x1 projections of their own (ConvFormer's form).

    Values begin around one: a product of two fields around zero has no linear part, and weather is linear before anything else.
    """

    def __init__(self, width: int, latent: Latent) -> None:
        super().__init__()
        self.project_in = latent.pointwise(width, 2 * width)
        self.large_kernel = LargeKernel(width, latent)
        self.project_out = latent.scaled_pointwise(width, width)
        nn.init.ones_(self.project_in.get_parameter("bias")[width:])

    def forward(self, x: Float[Tensor, "batch channel lat lon"]) -> Float[Tensor, "batch channel lat lon"]:
        """Multiply values by the large-kernel response of the gate."""
        gate, values = self.project_in(x).chunk(2, dim=1)
        gate = gate.contiguous(memory_format=torch.channels_last)  # CPUs take 8 times as long over a part of the channels
        return self.project_out(self.large_kernel(F.gelu(gate)) * values)
