"""Large-kernel attention: depthwise filters that see far, and a product with what they look at.

The decomposition of a large filter into a small one, a dilated one and a 1x1 is that of the Visual Attention Network (Guo et
al., 2022, arXiv 2202.09741); the gated form is ConvFormer's (Wu et al., 2024, arXiv 2401.05633). Batch normalisation is
replaced by layer normalisation over channels, which does not depend on the other samples in a roll-out, and padding follows
the sphere.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from forecast.layers.compressed_convolution import CompressedPointwise
from forecast.layers.compression import CompressionConfig, pointwise
from forecast.layers.depthwise import PlaneDepthwiseConv2d, SphericalDepthwiseConv2d

# VAN starts its branches nearly closed (layer scale 1e-2, arXiv 2202.09741): the product is unbounded.
LAYER_SCALE = 1e-2


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of every grid point."""

    def forward(self, x: Float[Tensor, "batch channel lat lon"]) -> Float[Tensor, "batch channel lat lon"]:
        """Normalise each point."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@dataclass(frozen=True)
class Form:
    """Where a field lies and how its filters are computed: what all layers of one network share.

    Parameters
    ----------
    has_poles
        On the sphere: whether the first and the last row are the poles themselves, see `pad_sphere`.
    plane
        The field lies on a plane with nothing beyond its edges, not on the sphere.
    fast_filters
        See `SphericalDepthwiseConv2d`.
    compression
        Of the 1x1 convolutions.
    """

    has_poles: bool = False
    plane: bool = False
    fast_filters: bool = True
    compression: CompressionConfig = field(default_factory=CompressionConfig)

    def depthwise(self, channels: int, kernel_size: int, dilation: int = 1) -> nn.Module:
        """One filter per channel."""
        if self.plane:
            return PlaneDepthwiseConv2d(channels, kernel_size, dilation=dilation)
        fast = self.fast_filters or dilation == 1
        return SphericalDepthwiseConv2d(channels, kernel_size, dilation=dilation, has_poles=self.has_poles, fast_filters=fast)

    def pointwise(self, in_channels: int, channels: int) -> nn.Module:
        """A 1x1 convolution."""
        return pointwise(in_channels, channels, self.compression)

    def scaled_pointwise(self, in_channels: int, channels: int) -> nn.Module:
        """The closing 1x1 convolution of a branch."""
        if not self.compression.rank:
            return ScaledPointwise(in_channels, channels)
        return CompressedScaledPointwise(in_channels, channels, self.compression.rank_of(in_channels, channels))


class LargeKernel(nn.Sequential):
    """5x5 depthwise, 7x7 depthwise dilated by 3, 1x1: a reach of 11 cells to each side (2202.09741, section 3.1)."""

    def __init__(self, channels: int, form: Form) -> None:
        super().__init__(
            form.depthwise(channels, 5), form.depthwise(channels, 7, dilation=3), form.pointwise(channels, channels)
        )


class ScaledPointwise(nn.Conv2d):
    """A 1x1 convolution whose outputs are scaled by channel: the closing layer of a branch with its layer scale.

    The scale is folded into the weights, which saves two passes over the field, and three in the backward pass.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__(in_channels, channels, 1)
        self.scale = nn.Parameter(torch.full((channels,), LAYER_SCALE))

    def forward(self, x: Float[Tensor, "batch channel lat lon"]) -> Float[Tensor, "batch out lat lon"]:
        """Convolve with the scaled weights."""
        bias = None if self.bias is None else self.bias * self.scale
        return F.conv2d(x, self.weight * self.scale.view(-1, 1, 1, 1), bias)


class CompressedScaledPointwise(CompressedPointwise):
    """A `ScaledPointwise` through few channels."""

    def __init__(self, in_channels: int, channels: int, rank: int) -> None:
        super().__init__(in_channels, channels, rank)
        self.scale = nn.Parameter(torch.full((channels,), LAYER_SCALE))

    def forward(self, x: Float[Tensor, "batch channel lat lon"]) -> Float[Tensor, "batch out lat lon"]:
        """Mix channels through the narrow field, with the scaled weights."""
        bias = None if self.wide.bias is None else self.wide.bias * self.scale
        return F.conv2d(self.narrow(x), self.wide.weight * self.scale.view(-1, 1, 1, 1), bias)

    @torch.no_grad()
    def to_dense(self) -> ScaledPointwise:
        """The `ScaledPointwise` that computes the same function (to rounding)."""
        plain, dense = super().to_dense(), ScaledPointwise(self.narrow.in_channels, self.wide.out_channels)
        dense.load_state_dict({**plain.state_dict(), "scale": self.scale})
        return dense.to(self.scale.device, self.scale.dtype)


class LargeKernelAttention(nn.Module):
    """1x1, GELU, product with its own large-kernel response, scaled 1x1 (VAN's attention without the shortcut)."""

    def __init__(self, channels: int, form: Form) -> None:
        super().__init__()
        self.project_in = form.pointwise(channels, channels)
        self.large_kernel = LargeKernel(channels, form)
        self.project_out = form.scaled_pointwise(channels, channels)

    def forward(self, x: Float[Tensor, "batch channel lat lon"]) -> Float[Tensor, "batch channel lat lon"]:
        """Multiply values by their large-kernel response."""
        values = F.gelu(self.project_in(x))
        return self.project_out(values * self.large_kernel(values))


class GatedLargeKernelAttention(nn.Module):
    """The gate and the gated values have 1x1 projections of their own (ConvFormer's form)."""

    def __init__(self, channels: int, form: Form) -> None:
        super().__init__()
        self.project_in = form.pointwise(channels, 2 * channels)
        self.large_kernel = LargeKernel(channels, form)
        self.project_out = form.scaled_pointwise(channels, channels)

    def forward(self, x: Float[Tensor, "batch channel lat lon"]) -> Float[Tensor, "batch channel lat lon"]:
        """Multiply values by the large-kernel response of the gate."""
        gate, values = self.project_in(x).chunk(2, dim=1)
        gate = gate.contiguous(memory_format=torch.channels_last)  # CPUs take 8 times as long over a part of the channels
        return self.project_out(self.large_kernel(F.gelu(gate)) * values)


ATTENTIONS = {"lka": LargeKernelAttention, "gated": GatedLargeKernelAttention}
