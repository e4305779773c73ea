"""From the model grid to a coarser latent grid and back, poles staying poles.

On a grid with poles and patch size p, latent row i is centred on row p i, so that the first and the last
latent rows are the poles again and `pad_sphere` holds on the latent grid too: 721 rows and p = 8 give
91 latent rows. On a grid without poles patches tile the rows.
"""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

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


class PatchEmbedding(nn.Conv2d):
    """Strided convolution onto the latent grid."""

    def __init__(self, in_channels: int, channels: int, patch: int, *, has_poles: bool) -> None:
        overlap = has_poles and patch > 1
        super().__init__(in_channels, channels, patch + 1 if overlap and patch % 2 == 0 else patch, stride=patch)
        self.has_poles = has_poles
        self.halo = patch // 2 if overlap else 0
        self.globe: WholeGlobe = WHOLE

    def forward(
        self, x: Float[Tensor, "batch channel lat lon"], odd_channels: Float[Tensor, " channel"] | None = None
    ) -> Float[Tensor, "batch latent latent_lat latent_lon"]:
        """Embed; `odd_channels` as in `pad_sphere`."""
        if self.halo:
            x = self.globe.pad(x, self.halo, self.halo, has_poles=self.has_poles, odd_channels=odd_channels)
        return super().forward(x)


class PatchUnembedding(nn.Conv2d):
    """1x1 convolution and pixel shuffle back onto the model grid."""

    def __init__(self, channels: int, out_channels: int, patch: int, *, has_poles: bool) -> None:
        super().__init__(channels, out_channels * patch * patch, 1)
        self.patch = patch
        self.has_poles = has_poles
        self.globe: WholeGlobe = WHOLE

    def forward(self, x: Float[Tensor, "batch latent latent_lat latent_lon"]) -> Float[Tensor, "batch channel lat lon"]:
        """Spread latent channels over the cells of their patch."""
        x = F.pixel_shuffle(super().forward(x), self.patch)
        if not self.has_poles or self.patch == 1:
            return x
        before = self.patch // 2
        return self.globe.crop(x, before, self.patch - 1 - before).roll(-before, -1)
