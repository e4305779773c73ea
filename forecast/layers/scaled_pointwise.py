"""The closing 1x1 convolution of a branch, nearly closed at first, dense or through few channels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from forecast.layers.compressed_convolution import CompressedPointwise

# VAN starts its branches nearly closed (layer scale 1e-2, arXiv 2202.09741): the product is unbounded.
LAYER_SCALE = 1e-2


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
