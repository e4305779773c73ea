"""A spherical neural operator in the manner of SFNO (Bonev et al., ICML 2023, 2306.03838): filters in spherical harmonics.

Fields are encoded point by point; every block filters them with one complex matrix of channels per degree, adds a linear map of
what came in, and goes on with a two-layer network per point, around which it adds what came in again. A decoder per point sees
the input fields once more.

Departures: the harmonics are fitted by least squares, weighted by area, where the original integrates by quadrature: on 37 rows
that is exact until degree 18 only, and the fit is until `degree`. There is no learned position, as inputs tell the latitude and
the mean state of a place, and a place's number would not turn with the globe. The clock scales and shifts each block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor, nn

from data_pipelines.area import cell_area_weights
from forecast.checkpoint import register_network
from forecast.layers.compression import closed
from forecast.layers.time_embedding import TimeEmbedding, feature_count
from forecast.requirements import Requirements
from forecast.tendency_network import TendencyNetwork


@dataclass
class SphericalOperatorConfig:
    """Size of the network.

    Parameters
    ----------
    width
        Channels of the latent fields.
    blocks
        Of a filter and a network per point.
    degree
        Highest degree of the harmonics.
    expansion
        Width of the networks per point relative to `width`.
    calibrated_steps
        See `forecast.tendency_network.TendencyNetwork.calibrated`.
    """

    width: int = 32
    blocks: int = 4
    degree: int = 31
    expansion: int = 2
    calibrated_steps: int = 0

    def __post_init__(self) -> None:
        for name in ("width", "blocks", "degree", "expansion"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}.")


def legendre_functions(degree: int, sine: Float[np.ndarray, " row"]) -> Float[np.ndarray, "order row degree"]:
    """Associated Legendre functions whose spherical harmonics have a mean square of 1, 0 where the degree is below the order.

    By the recurrence in the degree from the sectoral ones (DLMF 14.10.3 with the norm worked in), stable as it climbs.

    Parameters
    ----------
    degree
        Highest degree and order.
    sine
        Of latitude.
    """
    values = np.zeros((degree + 1, sine.size, degree + 1))
    cosine = np.sqrt(np.maximum(0.0, 1 - sine**2))
    sectoral = np.ones(sine.size)
    for order in range(degree + 1):
        if order:
            sectoral = sectoral * cosine * np.sqrt((2 * order + 1) / (2 * order))
        values[order, :, order] = sectoral
        for n in range(order + 1, degree + 1):
            gain = np.sqrt((4 * n**2 - 1) / (n**2 - order**2))
            back = np.sqrt(((n - 1) ** 2 - order**2) / (4 * (n - 1) ** 2 - 1)) if n > order + 1 else 0.0
            values[order, :, n] = gain * (sine * values[order, :, n - 1] - back * values[order, :, n - 2])
    return values


class Harmonics(nn.Module):
    """Between fields and their spherical harmonics up to a degree.

    Raises
    ------
    ValueError
        If the grid is too coarse for the degree.
    """

    legendre: Tensor
    fit: Tensor

    def __init__(self, degree: int, latitude: Sequence[float], columns: int) -> None:
        super().__init__()
        largest = min(len(latitude) - 3, (columns - 1) // 2)
        if degree > largest:
            raise ValueError(f"degree must be at most {largest} on {len(latitude)} x {columns} points; got {degree}. Lower it.")
        self.columns = columns
        values = legendre_functions(degree, np.sin(np.deg2rad(latitude)))
        root = np.sqrt(cell_area_weights(np.asarray(latitude)))[:, None]
        fit = [np.linalg.pinv(root * of_order[:, order:]) * root.T for order, of_order in enumerate(values)]
        fit = [np.pad(of_order, ((order, 0), (0, 0))) for order, of_order in enumerate(fit)]
        self.register_buffer("legendre", torch.tensor(values, dtype=torch.float32), persistent=False)
        self.register_buffer("fit", torch.tensor(np.stack(fit), dtype=torch.float32), persistent=False)

    def forward(self, x: Float[Tensor, "batch channel lat lon"]) -> Float[Tensor, "degree order batch part channel"]:
        """Real and imaginary parts of the coefficients."""
        spectrum = torch.fft.rfft(x, norm="forward")[..., : self.fit.shape[0]]
        return torch.einsum("mlr,bcrmx->lmbxc", self.fit, torch.view_as_real(spectrum))

    def inverse(self, found: Float[Tensor, "degree order batch part channel"]) -> Float[Tensor, "batch channel lat lon"]:
        """The fields of coefficients."""
        spectrum = torch.einsum("mrl,lmbxc->bcrmx", self.legendre, found)
        return torch.fft.irfft(torch.view_as_complex(spectrum.contiguous()), n=self.columns, norm="forward")


class SpectralFilter(nn.Module):
    """A complex matrix of channels for every degree, whatever the order: it turns with the globe about its axis."""

    def __init__(self, width: int, harmonics: Harmonics) -> None:
        super().__init__()
        self.harmonics = harmonics
        degrees = harmonics.fit.shape[1]
        self.weight = nn.Parameter(torch.randn(degrees, 2, width, width) * (2 * width) ** -0.5)  # keeps the variance

    def forward(self, x: Float[Tensor, "batch width lat lon"]) -> Float[Tensor, "batch width lat lon"]:
        """Filter."""
        found = self.harmonics(x)
        real, imaginary = self.weight.unbind(dim=1)
        matrix = torch.cat([torch.cat([real, imaginary], dim=2), torch.cat([-imaginary, real], dim=2)], dim=1)
        return self.harmonics.inverse((found.flatten(3).flatten(1, 2) @ matrix).view(found.shape))


class Block(nn.Module):
    """A filter over the globe, then a network per point; the clock between."""

    def __init__(self, config: SphericalOperatorConfig, harmonics: Harmonics) -> None:
        super().__init__()
        width = config.width
        self.filter = SpectralFilter(width, harmonics)
        self.norm = nn.InstanceNorm2d(width)
        self.clock = nn.Linear(width, 2 * width)
        self.skip = nn.Conv2d(width, width, 1)
        self.dense = per_point(width, config.expansion * width, width)

    def forward(
        self, x: Float[Tensor, "batch width lat lon"], clock: Float[Tensor, "batch width"]
    ) -> Float[Tensor, "batch width lat lon"]:
        """Add what filter and network make of `x`."""
        gain, shift = self.clock(clock)[:, :, None, None].chunk(2, dim=1)
        filtered = torch.addcmul(shift, self.norm(self.filter(x)), 1 + gain)
        return x + self.dense(nn.functional.gelu(filtered + self.skip(x)))


def per_point(come: int, inner: int, go: int) -> nn.Sequential:
    """Two layers for every point alike."""
    return nn.Sequential(nn.Conv2d(come, inner, 1), nn.GELU(), nn.Conv2d(inner, go, 1))


@register_network
class SphericalOperator(TendencyNetwork):
    """Encoder, blocks of filters in spherical harmonics, decoder.

    Raises
    ------
    ValueError
        If the grid is too coarse for the degree.
    """

    config_class = SphericalOperatorConfig

    def __init__(
        self, config: SphericalOperatorConfig, requirements: Requirements, statistics: xr.Dataset | None = None
    ) -> None:
        super().__init__(config, requirements, statistics)
        width = config.width
        harmonics = Harmonics(config.degree, requirements.latitude, requirements.grid_shape[1])
        self.time_embedding = TimeEmbedding(feature_count(requirements.history + 1), width)
        self.encoder = per_point(self.input_count, config.expansion * width, width)
        self.blocks = nn.ModuleList(Block(config, harmonics) for _ in range(config.blocks))
        self.decoder = per_point(width + self.input_count, config.expansion * width, len(requirements.channels))
        closed(self.decoder[-1])

    def normalised_tendency(
        self,
        frames: Float[Tensor, "batch history channel lat lon"],
        forcings: Float[Tensor, "batch forcing lat lon"],
        features: Float[Tensor, "batch feature"],
    ) -> Float[Tensor, "batch channel lat lon"]:
        """Change over one step in units of its standard deviation."""
        clock = self.time_embedding(features)
        fields = self.normalised_input(frames, forcings)
        x = self.encoder(fields)
        for block in self.blocks:
            x = block(x, clock)
        return self.decoder(torch.cat([x, fields], dim=1))
