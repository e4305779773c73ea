"""Adaptive frequency filtering (Huang et al., 2023, arXiv 2307.14008), made right at the poles.

A mask that the network computes from the spectrum itself multiplies the spectrum: a filter as large as the globe that is
made anew for every state. A latitude-longitude field is not periodic in latitude, but followed over the pole and back on the
other side it is (the double Fourier sphere; Merilees, 1973): so the field is continued over the pole before it is transformed.
The mask is computed from the amplitudes only, so that turning the globe turns the result; the original looks at real and
imaginary parts, whose values depend on where longitude 0 lies.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from forecast.layers.latent import Latent

REDUCTION = 4


class FrequencyFilter(nn.Module):
    """1x1, GELU, product of the spectrum with a mask made of its amplitudes, plus the input, scaled 1x1."""

    needs_whole_globe = True  # a spectrum is of all rows

    def __init__(self, width: int, latent: Latent) -> None:
        super().__init__()
        if latent.columns % 2:
            raise ValueError(f"mixer=frequency_filter needs an even number of columns to cross the pole; got {latent.columns}.")
        hidden = max(width // REDUCTION, 1)
        self.has_poles = latent.has_poles
        self.project_in = latent.pointwise(width, width)
        self.mask = nn.Sequential(latent.pointwise(width, hidden), nn.ReLU(), latent.pointwise(hidden, width))
        self.project_out = latent.scaled_pointwise(width, width)

    def forward(self, x: Float[Tensor, "batch channel lat lon"]) -> Float[Tensor, "batch channel lat lon"]:
        """Filter the globe with a mask of its own."""
        values = F.gelu(self.project_in(x))
        with torch.autocast(x.device.type, enabled=False):  # spectra need float32
            torus = over_the_poles(values.float(), has_poles=self.has_poles)
            spectrum = torch.fft.rfft2(torus, norm="ortho")
            mask = self.mask(torch.log1p(spectrum.abs()))
            filtered = torch.fft.irfft2(spectrum * mask, s=torus.shape[-2:], norm="ortho")[..., : x.shape[-2], :]
        mixed = values + filtered.to(values.dtype)
        return self.project_out(mixed.contiguous(memory_format=torch.channels_last))


def over_the_poles(x: Float[Tensor, "batch channel lat lon"], *, has_poles: bool) -> Float[Tensor, "batch channel twice lon"]:
    """The field from the north pole to the south pole and back on the other side of the globe: periodic in both directions."""
    back = x.flip(-2).roll(x.shape[-1] // 2, -1)
    if has_poles:  # rows at the poles are passed once
        back = back[..., 1:-1, :]
    return torch.cat([x, back], dim=-2)
