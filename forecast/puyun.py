"""The LKA-FCN cascade network: large-kernel attention at one resolution, from two states to the next one.

After PuYun (Zhu et al., 2024, arXiv 2409.02123), as far as it is public: two input frames, a convolutional patch
embedding, blocks of large-kernel attention at one resolution, a time embedding of the previous, the current
and the next time, and one network per range of lead times. Widths, depths and kernels are not public; ours are
stated below. Three departures: the clock is embedded with its 2 pi, the network learns the tendency in
units of its own standard deviation, and it knows the lead time of its input.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute

from forecast.layers.compression import CompressionConfig, approximate, closed
from forecast.layers.large_kernel_attention import ChannelNorm
from forecast.layers.latent import Latent, branch_scale_of
from forecast.layers.mixers import MIXERS
from forecast.layers.patches import check_patch, patch_embedding, patch_unembedding
from forecast.layers.time_embedding import TimeEmbedding, feature_count
from forecast.requirements import Requirements
from forecast.tendency_network import TendencyNetwork


@dataclass
class PuYunConfig:
    """Size and form of the network.

    Parameters
    ----------
    width
        Channels of the latent field.
    depth
        Blocks in each stage; the outputs of all stages are concatenated before the head.
    patch
        Cells per latent cell and direction.
    mixer
        How a point of the latent field sees the others, a name of `forecast.layers.mixers.MIXERS`.
    expansion
        Width of the point-wise dense layers relative to `width`.
    dropout
        Share of latent channels dropped in training.
    gradient_checkpointing
        Recompute blocks in the backward pass instead of keeping their activations.
    calibrated_steps
        Steps for which weights of the forecast and of the initial anomaly are kept, see `PuYun.calibrated`; later steps have
        the last one's, 0 is none.
    mirrored
        Make each step the mean of the network's and of its step on the globe mirrored at the equator, see
        `TendencyNetwork.mirrored_tendency`: twice the time, and best for networks that were trained so
        (`TrainingConfig.mirrored`).
    fast_filters
        Run depthwise filters by the routes that are fast on CPUs (the same numbers); see `SphericalDepthwiseConv2d`.
    compression
        Replaces dense convolutions before training; see `CompressionConfig`.
    """

    width: int = 64
    depth: tuple[int, ...] = (2, 2)
    patch: int = 1
    mixer: str = "gated_large_kernel"
    expansion: int = 3
    dropout: float = 0.0
    gradient_checkpointing: bool = False
    calibrated_steps: int = 0
    mirrored: bool = False
    fast_filters: bool = True
    compression: CompressionConfig = field(default_factory=CompressionConfig)

    def __post_init__(self) -> None:
        self.depth = tuple(self.depth)
        if isinstance(self.compression, Mapping):  # of a checkpoint's JSON
            self.compression = CompressionConfig(**self.compression)
        if self.mixer not in MIXERS:
            raise ValueError(f"mixer must be one of {sorted(MIXERS)}; got {self.mixer!r}.")
        for name, value in {"width": self.width, "patch": self.patch, "expansion": self.expansion}.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1; got {value}.")
        if not self.depth or min(self.depth) < 1:
            raise ValueError(f"depth must hold at least one stage of at least one block; got {self.depth}.")
        if self.calibrated_steps < 0:
            raise ValueError(f"calibrated_steps must be at least 0, which is none; got {self.calibrated_steps}.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1); got {self.dropout}.")


class Block(nn.Module):
    """A mixer and a point-wise dense layer, each normalised, the latter conditioned on time."""

    def __init__(self, config: PuYunConfig, latent: Latent, *, clocked: bool = True) -> None:
        super().__init__()
        width = config.width
        self.norm_attention = ChannelNorm(width)
        self.attention = MIXERS[config.mixer](width, latent)
        self.norm_dense = ChannelNorm(width)
        self.dense = nn.Sequential(
            latent.pointwise(width, config.expansion * width),
            nn.GELU(),
            nn.Dropout2d(config.dropout),
            latent.scaled_pointwise(config.expansion * width, width),
        )
        self.time = nn.Linear(width, 2 * width) if clocked else None
        if self.time is not None:
            nn.init.zeros_(self.time.weight)
            nn.init.zeros_(self.time.bias)

    def forward(
        self, x: Float[Tensor, "batch width lat lon"], time: Float[Tensor, "batch width"] | None = None
    ) -> Float[Tensor, "batch width lat lon"]:
        """Add what mixer and dense layer make of `x`; a block without a clock is given no time."""
        if self.time is None:
            x = x + self.attention(self.norm_attention(x))
            return x + self.dense(self.norm_dense(x))
        gain, shift = self.time(time)[:, :, None, None].chunk(2, dim=1)
        x = x + self.attention(self.norm_attention(x))
        return x + self.dense(torch.addcmul(shift, self.norm_dense(x), 1 + gain))


class PuYun(TendencyNetwork):
    """Forecaster from `requirements.history` states to the next one, in physical units on both sides.

    Sizes in `configs/forecast/model`, with their trainable parameters (a test counts them):

    =============  ============  ======  =====  ======  =====  ===========
    config         grid          fields  width  blocks  patch  parameters
    =============  ============  ======  =====  ======  =====  ===========
    puyun_tiny     73 x 144      2       96     6       2      627,272
    puyun_1p5deg   121 x 240     69      256    24      2      20,435,220
    puyun_0p25deg  721 x 1440    69      512    48      8      174,145,856
    =============  ============  ======  =====  ======  =====  ===========

    Parameters
    ----------
    config
        Size and form.
    requirements
        Channels, grid, history, forcings.
    statistics
        `data_pipelines.statistics.compute_statistics` of the training span. Without it the normalisation is
        the identity until a state dict is loaded.

    Raises
    ------
    ValueError
        If the grid cannot be divided into patches, or the statistics lack a channel, are of another grid, or cannot
        normalise: a field that never changes has a standard deviation of 0.
    """

    config_class = PuYunConfig

    def __init__(self, config: PuYunConfig, requirements: Requirements, statistics: xr.Dataset | None = None) -> None:
        super().__init__(config, requirements, statistics)
        rows, columns = requirements.grid_shape
        has_poles = requirements.has_poles
        check_patch(rows, columns, config.patch, has_poles)
        latent_rows = (rows - 1) // config.patch + 1 if has_poles else rows // config.patch
        self.latent = Latent(
            latent_rows, columns // config.patch, has_poles, fast_filters=config.fast_filters, compression=config.compression,
            branch_scale=branch_scale_of(sum(config.depth)),
        )  # fmt: skip
        edges: dict[str, Any] = {"has_poles": has_poles, "compression": config.compression}
        self.embedding = patch_embedding(self.input_count, config.width, config.patch, **edges)
        self.time_embedding = TimeEmbedding(feature_count(requirements.history + 1), config.width)
        self.stages = nn.ModuleList(nn.ModuleList(Block(config, self.latent) for _ in range(blocks)) for blocks in config.depth)
        outputs = config.width * len(config.depth)
        self.head = patch_unembedding(outputs, len(requirements.channels), config.patch, **edges)
        closed(self.head)

    def compressed(self, compression: CompressionConfig) -> tuple[PuYun, dict[str, float]]:
        """The same network with compressed convolutions that approximate its own: a start to fine-tune from.

        Returns
        -------
        The network with this one's statistics, and what each convolution left, see `forecast.layers.compression.approximate`.
        """
        other = PuYun(replace(self.config, compression=compression), self.requirements)
        errors = approximate(other, self)
        for name, value in self.named_buffers():
            other.get_buffer(name).copy_(value)
        return other.to(self.position.device), errors

    def normalised_tendency(
        self,
        frames: Float[Tensor, "batch history channel lat lon"],
        forcings: Float[Tensor, "batch forcing lat lon"],
        features: Float[Tensor, "batch feature"],
    ) -> Float[Tensor, "batch channel lat lon"]:
        """Change over one step in units of its standard deviation."""
        x = self.normalised_input(frames, forcings).contiguous(memory_format=torch.channels_last)
        x = self.embedding(x, self.odd_input)
        time = self.time_embedding(features)
        outputs = []
        for stage in self.stages:
            for block in cast(nn.ModuleList, stage):
                x = recompute(block, x, time, use_reentrant=False) if self._recomputes() else block(x, time)
            outputs.append(x)
        return self.head(torch.cat(outputs, dim=1))

    def _recomputes(self) -> bool:
        return self.config.gradient_checkpointing and self.training and torch.is_grad_enabled()
