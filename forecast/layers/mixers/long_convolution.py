"""SGConv's kernel as long as the sequence (Li et al., 2022, arXiv 2210.09298), along every circle of latitude.

The kernel is put together from pieces of equal size, each stretched over twice the distance of the one before and half as
strong: as many numbers as the logarithm of its length. Circles of latitude close, so that the convolution is a product of
spectra without padding. Its weights are squashed towards zero (Fu et al., 2023, arXiv 2302.06646): what is smaller than a
threshold is none, and the kernel becomes smooth and sparse. A 5x5 filter before it looks across latitudes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from forecast.layers.latent import Latent

PIECE = 8  # numbers of each piece
DECAY = 0.5
SQUASH = 0.01


class LongConvolution(nn.Module):
    """1x1, 5x5 depthwise, GELU, a kernel around the whole circle to both sides, scaled 1x1."""

    columns: int
    farthest: int

    def __init__(self, width: int, latent: Latent) -> None:
        super().__init__()
        self.project_in = latent.pointwise(width, width)
        self.near = latent.depthwise(width, 5)
        self.columns = latent.columns
        self.farthest = latent.columns // 2 + 1  # how many distances there are, from 0 to half-way around
        pieces = 1
        while PIECE * (2**pieces - 1) < self.farthest:
            pieces += 1
        self.pieces = nn.Parameter(torch.randn(2, pieces, width, PIECE) * PIECE**-0.5)  # eastward, westward
        self.project_out = latent.scaled_pointwise(width, width)

    def kernel(self) -> Float[Tensor, "channel lon"]:
        """The weight of what lies each number of cells to the west, once around the circle."""
        sides = [self._side(pieces) for pieces in self.pieces]
        kernel = sides[0].new_zeros(len(sides[0]), self.columns)
        kernel[:, : self.farthest] = sides[0]
        backwards = -torch.arange(self.farthest, device=kernel.device) % self.columns
        return kernel.index_add(1, backwards, sides[1])

    def _side(self, pieces: Float[Tensor, "piece channel size"]) -> Float[Tensor, "channel half"]:
        stretched = [
            DECAY**number * F.interpolate(piece[None], size=PIECE * 2**number, mode="linear", align_corners=False)[0]
            for number, piece in enumerate(pieces)
        ]
        side = torch.cat(stretched, dim=-1)[:, : self.farthest]
        side = side / side.norm(dim=-1, keepdim=True).clamp(min=1e-6)
        return side.sign() * F.relu(side.abs() - SQUASH)

    def forward(self, x: Float[Tensor, "batch channel lat lon"]) -> Float[Tensor, "batch channel lat lon"]:
        """Convolve every circle with the long kernel."""
        values = F.gelu(self.near(self.project_in(x)))
        with torch.autocast(x.device.type, enabled=False):  # spectra need float32
            spectrum = torch.fft.rfft(values.float(), dim=-1) * torch.fft.rfft(self.kernel().float(), dim=-1)[:, None]
            mixed = torch.fft.irfft(spectrum, n=self.columns, dim=-1)
        return self.project_out(mixed.to(values.dtype).contiguous(memory_format=torch.channels_last))
