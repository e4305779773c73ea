"""Parts of large-kernel attention: depthwise filters that see far, and a norm.

The decomposition of a large filter into a small one, a dilated one and a 1x1 is that of the Visual Attention Network (Guo et
al., 2022, arXiv 2202.09741). Batch normalisation is replaced by layer normalisation over channels, which does not depend on the
other samples in a roll-out, and padding follows the sphere. `forecast.layers.mixers` has the products.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from forecast.layers.latent import Latent


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of every grid point."""

    def forward(self, x: Float[Tensor, "batch channel lat lon"]) -> Float[Tensor, "batch channel lat lon"]:
        """Normalise each point."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class LargeKernel(nn.Sequential):
    """5x5 depthwise, 7x7 depthwise dilated by 3, 1x1: a reach of 11 cells to each side (2202.09741, section 3.1)."""

    def __init__(self, channels: int, latent: Latent) -> None:
        super().__init__(
            latent.depthwise(channels, 5), latent.depthwise(channels, 7, dilation=3), latent.pointwise(channels, channels)
        )
