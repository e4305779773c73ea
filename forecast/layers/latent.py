"""The latent field that a mixer works on, and the filters that follow the sphere on it."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from forecast.layers.compression import CompressionConfig, pointwise
from forecast.layers.depthwise import PlaneDepthwiseConv2d, SphericalDepthwiseConv2d
from forecast.layers.globe import WHOLE, WholeGlobe
from forecast.layers.scaled_pointwise import CompressedScaledPointwise, ScaledPointwise


@dataclass(frozen=True)
class Latent:
    """Where a field lies and how its filters are computed: what all layers of one network share.

    Parameters
    ----------
    rows, columns
        Of the whole globe, pole to pole and once around; of a plane they are 0, since the filters fit any size.
    has_poles
        On the globe: whether the first and the last row are the poles themselves, see `pad_sphere`.
    plane
        The field lies on a plane with nothing beyond its edges, not on the globe. Large-kernel attention alone knows planes.
    fast_filters
        Whether square filters run on our own kernels where those are, see `SphericalDepthwiseConv2d`.
    compression
        Of the 1x1 convolutions.
    branch_scale
        What the outputs of every branch are multiplied by at first; it is learned from there. See `branch_scale_of`.
    """

    rows: int = 0
    columns: int = 0
    has_poles: bool = False
    plane: bool = False
    fast_filters: bool = True
    compression: CompressionConfig = field(default_factory=CompressionConfig)
    branch_scale: float = 1.0

    def depthwise(self, channels: int, kernel_size: int, dilation: int = 1) -> nn.Module:
        """One square filter per channel."""
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
            return ScaledPointwise(in_channels, channels, self.branch_scale)
        return CompressedScaledPointwise(
            in_channels, channels, self.compression.rank_of(in_channels, channels), self.branch_scale
        )


def branch_scale_of(blocks: int) -> float:
    """Where the branches of this many blocks, two each, begin: all of them together are about half of what they are added to.

    A branch with the initial weights of its layers is about a fifth of its input, and independent branches add up with the root
    of their number, so that no depth outgrows its input (GPT-2's rule; Radford et al., 2019, section 2.3). VAN's 1e-2 (arXiv
    2202.09741) keeps branches closed for hundreds of steps, which is most of a small budget.
    """
    return min(1.0, 2 * blocks**-0.5)


def filter_sphere(
    globe: WholeGlobe,
    x: Float[Tensor, "batch channel lat lon"],
    weight: Float[Tensor, "channel 1 height width"],
    bias: Float[Tensor, " channel"] | None,
    *,
    has_poles: bool,
) -> Float[Tensor, "batch channel lat lon"]:
    """Depthwise filters of odd height and width over a field that is continued around the globe and over the poles."""
    height, width = weight.shape[-2:]
    padded = globe.pad(x, height // 2, width // 2, has_poles=has_poles)
    return F.conv2d(padded, weight, bias, groups=x.shape[1])


class SphericalStrip(nn.Conv2d):
    """One filter of any odd height and width per channel, as (1, 11) or (11, 1)."""

    def __init__(self, channels: int, height: int, width: int, *, has_poles: bool) -> None:
        if height % 2 == 0 or width % 2 == 0:
            raise ValueError(f"height and width must be odd, so that a filter has a centre; got {height} and {width}.")
        super().__init__(channels, channels, (height, width), groups=channels)
        self.has_poles = has_poles
        self.globe: WholeGlobe = WHOLE

    def forward(self, x: Float[Tensor, "batch channel lat lon"]) -> Float[Tensor, "batch channel lat lon"]:
        """Filter the field."""
        return filter_sphere(self.globe, x, self.weight, self.bias, has_poles=self.has_poles)
