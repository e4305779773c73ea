"""From the model grid to a coarser latent grid and back, poles staying poles.

On a grid with poles and patch size p, latent row i is centred on row p i, so that the first and the last
latent rows are the poles again and `pad_sphere` holds on the latent grid too: 721 rows and p = 8 give
91 latent rows. On a grid without poles patches tile the rows.
"""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from forecast.layers.compressed_convolution import CompressedConv2d, CompressedPointwise
from forecast.layers.compression import DENSE, CompressionConfig
from forecast.layers.globe import WHOLE, WholeGlobe


def check_patch(rows: int, columns: int, patch: int, has_poles: bool) -> None:
    """Raise ValueError if a grid cannot be divided into patches."""
    if (rows - has_poles) % patch or columns % patch:
        wanted = "rows - 1 (the grid has poles)" if has_poles else "rows"
        raise ValueError(f"patch {patch} must divide {wanted} and columns; the grid is {rows} x {columns}.")
    if columns // patch % 2:
        raise ValueError(
            f"patch {patch} leaves {columns // patch} latent columns; an even number is needed to look across the poles."
        )


class _Embedding(nn.Module):
    """What `PatchEmbedding` does around its convolution."""

    has_poles: bool
    halo: int
    globe: WholeGlobe

    def forward(
        self, x: Float[Tensor, "batch channel lat lon"], odd_channels: Float[Tensor, " channel"] | None = None
    ) -> Float[Tensor, "batch latent latent_lat latent_lon"]:
        """Embed; `odd_channels` as in `pad_sphere`."""
        if self.halo:
            x = self.globe.pad(x, self.halo, self.halo, has_poles=self.has_poles, odd_channels=odd_channels)
        return super().forward(x)


class PatchEmbedding(_Embedding, nn.Conv2d):
    """Strided convolution onto the latent grid."""

    def __init__(self, in_channels: int, channels: int, patch: int, *, has_poles: bool) -> None:
        super().__init__(in_channels, channels, _window(patch, has_poles), stride=patch)
        self.has_poles, self.halo, self.globe = has_poles, _halo(patch, has_poles), WHOLE


class CompressedPatchEmbedding(_Embedding, CompressedConv2d):
    """`PatchEmbedding` with kernels of few chains of one-way filters."""

    def __init__(self, in_channels: int, channels: int, patch: int, *, has_poles: bool, terms: int, mix: str) -> None:
        super().__init__(in_channels, channels, _window(patch, has_poles), stride=patch, terms=terms, mix=mix)
        self.has_poles, self.halo, self.globe = has_poles, _halo(patch, has_poles), WHOLE


def patch_embedding(
    in_channels: int, channels: int, patch: int, *, has_poles: bool, compression: CompressionConfig = DENSE
) -> PatchEmbedding | CompressedPatchEmbedding:
    """The embedding, dense or compressed; a window of one cell is a matrix and stays dense."""
    if not compression.terms or _window(patch, has_poles) == 1:
        return PatchEmbedding(in_channels, channels, patch, has_poles=has_poles)
    return CompressedPatchEmbedding(
        in_channels, channels, patch, has_poles=has_poles, terms=compression.terms, mix=compression.mix
    )


def _window(patch: int, has_poles: bool) -> int:
    return patch + 1 if has_poles and patch > 1 and patch % 2 == 0 else patch


def _halo(patch: int, has_poles: bool) -> int:
    return patch // 2 if has_poles and patch > 1 else 0


class _Unembedding(nn.Module):
    """What `PatchUnembedding` does after its convolution."""

    patch: int
    has_poles: bool
    globe: WholeGlobe

    def forward(self, x: Float[Tensor, "batch latent latent_lat latent_lon"]) -> Float[Tensor, "batch channel lat lon"]:
        """Spread latent channels over the cells of their patch."""
        x = F.pixel_shuffle(super().forward(x), self.patch)
        if not self.has_poles or self.patch == 1:
            return x
        before = self.patch // 2
        return self.globe.crop(x, before, self.patch - 1 - before).roll(-before, -1)


class PatchUnembedding(_Unembedding, nn.Conv2d):
    """1x1 convolution and pixel shuffle back onto the model grid."""

    def __init__(self, channels: int, out_channels: int, patch: int, *, has_poles: bool) -> None:
        super().__init__(channels, out_channels * patch * patch, 1)
        self.patch, self.has_poles, self.globe = patch, has_poles, WHOLE


class CompressedPatchUnembedding(_Unembedding, CompressedPointwise):
    """`PatchUnembedding` through few channels."""

    def __init__(self, channels: int, out_channels: int, patch: int, *, has_poles: bool, rank: int) -> None:
        super().__init__(channels, out_channels * patch * patch, rank)
        self.patch, self.has_poles, self.globe = patch, has_poles, WHOLE


def patch_unembedding(
    channels: int, out_channels: int, patch: int, *, has_poles: bool, compression: CompressionConfig = DENSE
) -> PatchUnembedding | CompressedPatchUnembedding:
    """The head, dense or compressed."""
    if not compression.rank:
        return PatchUnembedding(channels, out_channels, patch, has_poles=has_poles)
    rank = compression.rank_of(channels, out_channels * patch * patch)
    return CompressedPatchUnembedding(channels, out_channels, patch, has_poles=has_poles, rank=rank)
