"""The closing 1x1 convolution of a branch with its layer scale, dense or through few channels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from forecast.layers.compressed_convolution import CompressedPointwise


class ScaledPointwise(nn.Conv2d):
    """A 1x1 convolution whose outputs are scaled by channel: the closing layer of a branch with its layer scale.

    The scale is folded into the weights, which saves two passes over the field, and three in the backward pass. It begins at
    `scale`.
    """

    def __init__(self, in_channels: int, channels: int, scale: float) -> None:
        super().__init__(in_channels, channels, 1)
        self.scale = nn.Parameter(torch.full((channels,), scale))

    def forward(self, x: Float[Tensor, "batch channel lat lon"]) -> Float[Tensor, "batch out lat lon"]:
        """Convolve with the scaled weights."""
        bias = None if self.bias is None else self.bias * self.scale
        return F.conv2d(x, self.weight * self.scale.view(-1, 1, 1, 1), bias)


class CompressedScaledPointwise(CompressedPointwise):
    """A `ScaledPointwise` through few channels."""

    def __init__(self, in_channels: int, channels: int, rank: int, scale: float) -> None:
        super().__init__(in_channels, channels, rank)
        self.scale = nn.Parameter(torch.full((channels,), scale))

    def forward(self, x: Float[Tensor, "batch channel lat lon"]) -> Float[Tensor, "batch out lat lon"]:
        """Mix channels through the narrow field, with the scaled weights."""
        bias = None if self.wide.bias is None else self.wide.bias * self.scale
        return F.conv2d(self.narrow(x), self.wide.weight * self.scale.view(-1, 1, 1, 1), bias)

    @torch.no_grad()
    def to_dense(self) -> ScaledPointwise:
        """The `ScaledPointwise` that computes the same function (to rounding)."""
        plain, dense = super().to_dense(), ScaledPointwise(self.narrow.in_channels, self.wide.out_channels, scale=1.0)
        dense.load_state_dict({**plain.state_dict(), "scale": self.scale})
        return dense.to(self.scale.device, self.scale.dtype)
