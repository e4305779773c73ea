"""A plain U-Net in the manner of U-Cast (2604.09041, ICML 2026): 3x3 convolutions on several resolutions.

Residual blocks of group normalisation, SiLU and 3x3 convolutions, several per level, whose widths grow by 1, 2, 3, ...; the
clock scales and shifts each block; dropout between its convolutions; full self-attention on the coarsest level; skips are
concatenated.

Departures: the blocks' halos follow the sphere over the poles too, where U-Cast pads with zeros and shows artefacts for it; the
coarser grids keep the poles as rows (every second row and column), so that they are globes again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
import xarray as xr
from jaxtyping import Float
from torch import Tensor, nn

from forecast.checkpoint import register_network
from forecast.layers.compression import closed
from forecast.layers.spherical_padding import pad_sphere
from forecast.layers.time_embedding import TimeEmbedding, feature_count
from forecast.requirements import Requirements
from forecast.tendency_network import TendencyNetwork

HEAD = 16  # channels of a head of attention


@dataclass
class UNetConfig:
    """Size of the network.

    Parameters
    ----------
    width
        Channels of the finest level.
    widths
        Channels of each level, finest first, in units of `width`.
    blocks
        Residual blocks of each level on the way down; one more on the way up.
    groups
        Of group normalisation; divides all widths.
    dropout
        Share of values dropped in training.
    calibrated_steps
        See `forecast.tendency_network.TendencyNetwork.calibrated`.
    """

    width: int = 32
    widths: Sequence[int] = (1, 2, 3)
    blocks: int = 2
    groups: int = 8
    dropout: float = 0.1
    calibrated_steps: int = 0

    def __post_init__(self) -> None:
        self.widths = tuple(self.widths)
        if self.width % self.groups or self.width * self.widths[-1] % HEAD:
            raise ValueError(
                f"width must be divisible by groups, and the coarsest level's by {HEAD}, a head's channels; got width "
                f"{self.width}, widths {self.widths}, groups {self.groups}."
            )


class SphericalConv(nn.Conv2d):
    """A dense 3x3 convolution on a globe with poles; with `stride` 2 onto every second row and column."""

    def __init__(self, in_channels: int, channels: int, stride: int = 1) -> None:
        super().__init__(in_channels, channels, 3, stride=stride)

    def forward(
        self, x: Float[Tensor, "batch channel lat lon"], odd_channels: Float[Tensor, " channel"] | None = None
    ) -> Float[Tensor, "batch out out_lat out_lon"]:
        """Convolve; -1 in `odd_channels` tells components of vectors."""
        return super().forward(pad_sphere(x, 1, 1, has_poles=True, odd_channels=odd_channels))


class ResidualBlock(nn.Module):
    """Normalise, SiLU, 3x3, twice; the clock between."""

    def __init__(self, in_channels: int, channels: int, clock: int, config: UNetConfig) -> None:
        super().__init__()
        self.norm_in = nn.GroupNorm(config.groups, in_channels)
        self.first = SphericalConv(in_channels, channels)
        self.clock = nn.Linear(clock, 2 * channels)
        self.norm_middle = nn.GroupNorm(config.groups, channels)
        self.dropout = nn.Dropout(config.dropout)
        self.second = SphericalConv(channels, channels)
        closed(self.second)
        self.shortcut = nn.Conv2d(in_channels, channels, 1) if in_channels != channels else nn.Identity()

    def forward(
        self, x: Float[Tensor, "batch channel lat lon"], clock: Float[Tensor, "batch clock"]
    ) -> Float[Tensor, "batch out lat lon"]:
        """Add what two convolutions make of `x`."""
        gain, shift = self.clock(clock)[:, :, None, None].chunk(2, dim=1)
        inner = self.norm_middle(self.first(F.silu(self.norm_in(x)))) * (1 + gain) + shift
        return self.shortcut(x) + self.second(self.dropout(F.silu(inner)))


class GlobalAttention(nn.Module):
    """Every point of the coarsest level attends to all."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.heads = channels // HEAD
        self.norm = nn.GroupNorm(groups, channels)
        self.project_in = nn.Conv2d(channels, 3 * channels, 1)
        self.project_out = closed(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Float[Tensor, "batch channel lat lon"]) -> Float[Tensor, "batch channel lat lon"]:
        """Attend and add."""
        batch, channels, rows, columns = x.shape
        parts = self.project_in(self.norm(x)).reshape(batch, 3 * self.heads, HEAD, rows * columns).transpose(2, 3)
        mixed = F.scaled_dot_product_attention(*parts.chunk(3, dim=1))
        return x + self.project_out(mixed.transpose(2, 3).reshape(batch, channels, rows, columns))


class Up(nn.Module):
    """Onto twice the resolution by linear interpolation, then 3x3."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.convolution = SphericalConv(in_channels, channels)

    def forward(self, x: Float[Tensor, "batch channel lat lon"]) -> Float[Tensor, "batch out fine_lat fine_lon"]:
        """Interpolate: around the globe along longitude, from pole to pole along latitude."""
        x = torch.stack([x, (x + x.roll(-1, -1)) / 2], dim=-1).flatten(-2)
        between = torch.stack([x[..., :-1, :], (x[..., :-1, :] + x[..., 1:, :]) / 2], dim=-2).flatten(-3, -2)
        return self.convolution(torch.cat([between, x[..., -1:, :]], dim=-2))


@register_network
class UNet(TendencyNetwork):
    """Down over the levels, attention, up again.

    Raises
    ------
    ValueError
        If the grid has no poles, or its rows less one and its columns cannot be halved as often as there are coarser levels.
    """

    config_class = UNetConfig

    def __init__(self, config: UNetConfig, requirements: Requirements, statistics: xr.Dataset | None = None) -> None:
        super().__init__(config, requirements, statistics)
        rows, columns = requirements.grid_shape
        factor = 2 ** len(config.widths)  # the coarsest level has an even number of columns, to look across the poles
        if not requirements.has_poles or (rows - 1) % (factor // 2) or columns % factor:
            raise ValueError(
                f"a U-Net of {len(config.widths)} levels needs a grid with poles, rows - 1 divisible by {factor // 2} and "
                f"columns by {factor}; got {rows} x {columns}. Use fewer levels (widths) or another grid."
            )
        widths = [config.width * share for share in config.widths]
        clock = 2 * config.width
        self.time_embedding = TimeEmbedding(feature_count(requirements.history + 1), clock)
        self.embedding = SphericalConv(self.input_count, widths[0])
        self.down, self.to_coarser, self.up, self.to_finer = (nn.ModuleList() for _ in range(4))
        for level, width in enumerate(widths):
            self.down.append(nn.ModuleList(ResidualBlock(width, width, clock, config) for _ in range(config.blocks)))
            inner = 2 * width if level < len(widths) - 1 else width  # with the skip
            sizes = [inner, *[width] * config.blocks]
            self.up.append(nn.ModuleList(ResidualBlock(size, width, clock, config) for size in sizes))
            if level:
                self.to_coarser.append(SphericalConv(widths[level - 1], width, stride=2))
                self.to_finer.append(Up(width, widths[level - 1]))
        self.attention = nn.ModuleList(GlobalAttention(widths[-1], config.groups) for _ in range(2))
        self.norm_out = nn.GroupNorm(config.groups, widths[0])
        self.head = closed(SphericalConv(widths[0], len(requirements.channels)))

    def normalised_tendency(
        self,
        frames: Float[Tensor, "batch history channel lat lon"],
        forcings: Float[Tensor, "batch forcing lat lon"],
        features: Float[Tensor, "batch feature"],
    ) -> Float[Tensor, "batch channel lat lon"]:
        """Change over one step in units of its standard deviation."""
        clock = self.time_embedding(features)
        x = self.normalised_input(frames, forcings).contiguous(memory_format=torch.channels_last)
        x = self.embedding(x, self.odd_input)
        skips: list[Tensor] = []
        for level, blocks in enumerate(self.down):
            x = self.to_coarser[level - 1](skips[-1]) if level else x
            for block in blocks:
                x = block(x, clock)
            skips.append(x)
        x = self.attention[0](skips.pop())
        for level in range(len(self.down) - 1, -1, -1):
            if skips and level < len(self.down) - 1:
                x = torch.cat([self.to_finer[level](x), skips.pop()], dim=1)
            for block in self.up[level]:
                x = block(x, clock)
            if level == len(self.down) - 1:
                x = self.attention[1](x)
        return self.head(F.silu(self.norm_out(x)))
