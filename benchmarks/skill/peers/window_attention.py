"""Attention in shifted windows in the manner of Swin V2 (2111.09883), as FuXi (2306.12873) forecasts the weather with it.

Patches are embedded and normalised; in every block a point attends to those of its window, and every second block has its
windows shifted by half of one. From Swin V2: the cosine of query and key times a learned scale, a bias that a small network
makes of the logarithm of how far apart two points are, and norms after attention and dense layers, before they are added. The
clock scales and shifts each block's last norm.

Departures: longitude is cyclic, so that windows shift along it without a mask; rows that fill the last window up do not see the
globe's, nor do those of one pole see the other's where a shift brings them together. Frames are channels of one embedding,
where FuXi embeds them in cubes, and all blocks work at one resolution, where FuXi halves it once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
import xarray as xr
from jaxtyping import Bool, Float
from torch import Tensor, nn

from forecast.checkpoint import register_network
from forecast.layers.compression import closed
from forecast.layers.patches import check_patch, patch_embedding, patch_unembedding
from forecast.layers.time_embedding import TimeEmbedding, feature_count
from forecast.requirements import Requirements
from forecast.tendency_network import TendencyNetwork

HEAD = 32  # channels of a head of attention
FIRST_SCALE, LARGEST_SCALE = 10.0, 100.0  # of the cosine (2111.09883: not below a temperature of 0.01)
LARGEST_BIAS = 16.0
BIAS_WIDTH = 512  # hidden channels of the network of relative positions
FARTHEST = 8.0  # what the edge of a window counts as before the logarithm


@dataclass
class WindowAttentionConfig:
    """Size of the network.

    Parameters
    ----------
    width
        Channels of the latent field.
    blocks
        Of attention and dense layers; every second one has its windows shifted.
    patch
        Cells per latent cell and direction.
    window
        Rows and columns of a window, in latent cells.
    expansion
        Width of the dense layers relative to `width`.
    calibrated_steps
        See `forecast.tendency_network.TendencyNetwork.calibrated`.
    """

    width: int = 96
    blocks: int = 6
    patch: int = 2
    window: Sequence[int] = (5, 6)
    expansion: int = 4
    calibrated_steps: int = 0

    def __post_init__(self) -> None:
        self.window = tuple(self.window)
        if self.width % HEAD:
            raise ValueError(f"width must be divisible by {HEAD}, a head's channels; got {self.width}.")
        if len(self.window) != 2 or min(self.window) < 2:
            raise ValueError(f"window must be its rows and its columns, at least 2 each; got {self.window}.")


def split_windows(x: Float[Tensor, "batch lat lon width"], window: Sequence[int]) -> Float[Tensor, "strip window point width"]:
    """Windows of a field; a strip holds those of the same columns, from north to south."""
    batch, rows, columns, width = x.shape
    high, wide = window
    parts = x.reshape(batch, rows // high, high, columns // wide, wide, width).permute(0, 3, 1, 2, 4, 5)
    return parts.reshape(batch * (columns // wide), rows // high, high * wide, width)


def join_windows(
    parts: Float[Tensor, "strip window point width"], window: Sequence[int], columns: int
) -> Float[Tensor, "batch lat lon width"]:
    """The field of its windows."""
    strips, down, _, width = parts.shape
    high, wide = window
    across = columns // wide
    field = parts.reshape(strips // across, across, down, high, wide, width).permute(0, 2, 3, 1, 4, 5)
    return field.reshape(strips // across, down * high, columns, width)


def visible_pairs(rows: int, window: Sequence[int], shift: int) -> Bool[Tensor, "window point point"]:
    """Which points of a window see each other: both of the globe or both of the padding, and not from opposite poles."""
    high, wide = window
    padded = rows + -rows % high
    place = torch.arange(padded)
    from_north = place >= padded - shift  # rows that the shift brings from the first to the last window
    stretch = torch.where(place.roll(-shift) < rows, from_north.long(), 2)
    points = stretch.reshape(-1, high).repeat_interleave(wide, dim=1)
    return points[:, :, None] == points[:, None, :]


class PositionBias(nn.Module):
    """The continuous relative position bias of Swin V2: one number per head for how far a point is from another."""

    offsets: Tensor
    pairs: Tensor

    def __init__(self, heads: int, window: Sequence[int]) -> None:
        super().__init__()
        high, wide = window
        self.network = nn.Sequential(nn.Linear(2, BIAS_WIDTH), nn.ReLU(), nn.Linear(BIAS_WIDTH, heads, bias=False))
        offsets = torch.cartesian_prod(torch.arange(1.0 - high, high), torch.arange(1.0 - wide, wide))
        offsets = FARTHEST * offsets / torch.tensor([high - 1.0, wide - 1.0])
        offsets = offsets.sign() * torch.log2(1 + offsets.abs()) / math.log2(FARTHEST)
        self.register_buffer("offsets", offsets, persistent=False)
        row, column = torch.cartesian_prod(torch.arange(high), torch.arange(wide)).unbind(dim=1)
        down, right = row[:, None] - row + high - 1, column[:, None] - column + wide - 1
        self.register_buffer("pairs", down * (2 * wide - 1) + right, persistent=False)

    def forward(self) -> Float[Tensor, "head point point"]:
        """The bias of every pair of points of a window."""
        return LARGEST_BIAS * torch.sigmoid(self.network(self.offsets))[self.pairs].permute(2, 0, 1)


class ShiftedWindows(nn.Module):
    """Every point attends to those of its window, which lies `shift` rows further south and columns further east."""

    visible: Tensor

    def __init__(self, width: int, rows: int, window: Sequence[int], shift: tuple[int, int]) -> None:
        super().__init__()
        self.window, self.shift, self.heads = window, shift, width // HEAD
        self.query_value = nn.Linear(width, 2 * width)
        self.key = nn.Linear(width, width, bias=False)
        self.log_scale = nn.Parameter(torch.full((self.heads,), math.log(FIRST_SCALE)))
        self.position_bias = PositionBias(self.heads, window)
        self.project_out = nn.Linear(width, width)
        self.register_buffer("visible", visible_pairs(rows, window, shift[0]), persistent=False)

    def forward(self, x: Float[Tensor, "batch lat lon width"]) -> Float[Tensor, "batch lat lon width"]:
        """Attend; the rows are whole windows, those of the globe first."""
        south, east = self.shift
        parts = split_windows(x.roll((-south, -east), (1, 2)), self.window)
        query, value = self.query_value(parts).chunk(2, dim=-1)
        scale = self.log_scale.clamp(max=math.log(LARGEST_SCALE)).exp().repeat(parts.shape[1])[:, None, None]
        query = scale * F.normalize(self._heads(query), dim=-1)
        key = F.normalize(self._heads(self.key(parts)), dim=-1)
        bias = torch.where(self.visible[:, None], self.position_bias(), -torch.inf).flatten(0, 1)
        mixed = F.scaled_dot_product_attention(query, key, self._heads(value), attn_mask=bias, scale=1.0)
        mixed = mixed.unflatten(1, (-1, self.heads)).transpose(2, 3).flatten(3)
        return join_windows(self.project_out(mixed), self.window, x.shape[2]).roll((south, east), (1, 2))

    def _heads(self, parts: Float[Tensor, "strip window point width"]) -> Float[Tensor, "strip window_head point channel"]:
        return parts.unflatten(-1, (self.heads, HEAD)).transpose(2, 3).flatten(1, 2)


class Block(nn.Module):
    """Attention in windows and dense layers, each normalised before it is added, which adds nothing at first but the clock."""

    def __init__(self, config: WindowAttentionConfig, rows: int, shift: tuple[int, int]) -> None:
        super().__init__()
        width = config.width
        self.attention = ShiftedWindows(width, rows, config.window, shift)
        self.norm_attention = nn.LayerNorm(width)
        self.dense = nn.Sequential(
            nn.Linear(width, config.expansion * width), nn.GELU(), nn.Linear(config.expansion * width, width)
        )
        self.norm_dense = nn.LayerNorm(width)
        self.clock = nn.Linear(width, 2 * width)
        for norm in (self.norm_attention, self.norm_dense):
            nn.init.zeros_(norm.weight)

    def forward(
        self, x: Float[Tensor, "batch lat lon width"], clock: Float[Tensor, "batch width"]
    ) -> Float[Tensor, "batch lat lon width"]:
        """Add what attention and dense layers make of `x`."""
        gain, shift = self.clock(clock)[:, None, None].chunk(2, dim=-1)
        x = x + self.norm_attention(self.attention(x))
        return x + self.norm_dense(self.dense(x)) * (1 + gain) + shift


@register_network
class WindowAttention(TendencyNetwork):
    """Patches, blocks of attention in windows, patches back.

    Raises
    ------
    ValueError
        If the grid cannot be divided into patches, or the columns of patches into windows.
    """

    config_class = WindowAttentionConfig

    def __init__(self, config: WindowAttentionConfig, requirements: Requirements, statistics: xr.Dataset | None = None) -> None:
        super().__init__(config, requirements, statistics)
        rows, columns = requirements.grid_shape
        width, patch, has_poles = config.width, config.patch, requirements.has_poles
        check_patch(rows, columns, patch, has_poles)
        high, wide = config.window
        if columns // patch % wide:
            raise ValueError(
                f"window must have columns that divide the {columns // patch} of the latent grid ({columns} columns in patches "
                f"of {patch}), as the globe has no edge to pad; got {wide}. Change window, patch or the grid."
            )
        self.latent_rows = (rows - 1) // patch + 1 if has_poles else rows // patch
        self.padding = -self.latent_rows % high
        self.time_embedding = TimeEmbedding(feature_count(requirements.history + 1), width)
        self.embedding = patch_embedding(self.input_count, width, patch, has_poles=has_poles)
        self.norm_in = nn.LayerNorm(width)
        half = (high // 2 if self.latent_rows > high else 0, wide // 2)  # one window from pole to pole stays where it is
        shifts = [half if block % 2 else (0, 0) for block in range(config.blocks)]
        self.blocks = nn.ModuleList(Block(config, self.latent_rows, shift) for shift in shifts)
        self.head = closed(patch_unembedding(width, len(requirements.channels), patch, has_poles=has_poles))

    def normalised_tendency(
        self,
        frames: Float[Tensor, "batch history channel lat lon"],
        forcings: Float[Tensor, "batch forcing lat lon"],
        features: Float[Tensor, "batch feature"],
    ) -> Float[Tensor, "batch channel lat lon"]:
        """Change over one step in units of its standard deviation."""
        clock = self.time_embedding(features)
        x = self.normalised_input(frames, forcings).contiguous(memory_format=torch.channels_last)
        x = self.norm_in(self.embedding(x, self.odd_input).permute(0, 2, 3, 1))
        x = F.pad(x, (0, 0, 0, 0, 0, self.padding))
        for block in self.blocks:
            x = block(x, clock)
        return self.head(x[:, : self.latent_rows].permute(0, 3, 1, 2))
