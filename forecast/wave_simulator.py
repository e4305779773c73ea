"""Wave simulators: from the displacement and velocity of a wave field, and its medium, to those one step later.

Three networks behind one face. `cnn` is a classical convolutional network, or with `compression` one of one-way filters;
`lka` has the blocks of the weather network, on a plane. All begin as persistence and learn the change over one step.

The wave equation is linear in the waves and not in the medium. `cnn` is built like that: what it makes of the medium are
gates, one field per layer and channel, by which linear convolutions of the waves are multiplied. So waves superpose exactly,
whatever was learned, and gates are computed once for a roll-out. `lka` normalises over channels and is not linear; it sees
waves in units of their own root mean square, so that both scale with the amplitude.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import xarray as xr
from jaxtyping import Float
from torch import Tensor, nn

from forecast.layers.compression import CompressionConfig, closed, pointwise, spatial
from forecast.layers.latent import Latent, branch_scale_of
from forecast.puyun import Block, PuYunConfig
from forecast.wave_requirements import WaveRequirements

Prepared = tuple[Tensor, ...]  # fields of the medium, (batch, some, y, x) each
LAYOUT = torch.channels_last  # small convolutions of few channels are up to twice as fast so on processors
SMALLEST = 1e-12  # stands for the mean square of waves that are nowhere


@dataclass
class SimulatorConfig:
    """Size and form of a wave simulator.

    Parameters
    ----------
    network
        "cnn" or "lka".
    width
        Channels of the latent field.
    depth
        Convolutions between the first and the last one, or blocks.
    kernel_size
        Cells along each way of every kernel of "cnn", odd; "lka" has 5 x 5 and 7 x 7 dilated by 3.
    medium_width
        Channels of the network that makes gates of the medium ("cnn").
    expansion
        Width of the point-wise dense layers relative to `width` ("lka").
    compression
        Replaces dense convolutions before training; see `CompressionConfig`.
    """

    network: str = "cnn"
    width: int = 24
    depth: int = 4
    kernel_size: int = 5
    medium_width: int = 16
    expansion: int = 2
    compression: CompressionConfig = field(default_factory=CompressionConfig)

    def __post_init__(self) -> None:
        if isinstance(self.compression, Mapping):  # of a checkpoint's JSON
            self.compression = CompressionConfig(**self.compression)
        if self.network not in NETWORKS:
            raise ValueError(f"simulator.network must be one of {sorted(NETWORKS)}; got {self.network!r}.")
        for name in ("width", "depth", "kernel_size", "medium_width", "expansion"):
            if getattr(self, name) < 1:
                raise ValueError(f"simulator.{name} must be at least 1; got {getattr(self, name)}.")
        if self.kernel_size % 2 == 0:
            raise ValueError(f"simulator.kernel_size must be odd, so that a kernel has a centre; got {self.kernel_size}.")


class GatedConvolutions(nn.Module):
    """Convolutions that are linear in the waves, multiplied by gates that the medium makes."""

    def __init__(self, config: SimulatorConfig, waves: int, medium: int, channels: int) -> None:
        super().__init__()
        width, size, compression = config.width, config.kernel_size, config.compression
        self.lift = spatial(waves, width, size, compression, bias=False)
        self.body = nn.ModuleList(spatial(width, width, size, compression, bias=False) for _ in range(config.depth))
        self.head = closed(spatial(width, channels, size, compression, bias=False))
        inner = config.medium_width
        self.medium = nn.Sequential(
            spatial(medium + 1, inner, 3, compression), nn.GELU(), spatial(inner, inner, 3, compression), nn.GELU(),
            pointwise(inner, width * (config.depth + 1), compression),
        )  # fmt: skip

    def prepare(self, medium: Float[Tensor, "batch static y x"]) -> Prepared:
        """Make the gates of every layer of the medium; a field of ones shows where the plane ends."""
        medium = F.pad(medium, (0, 0, 0, 0, 0, 1), value=1.0).contiguous(memory_format=LAYOUT)
        first, *others = self.medium(medium).chunk(len(self.body) + 1, dim=1)
        return tuple(gate.contiguous(memory_format=LAYOUT) for gate in (1 + first, *others))

    def forward(self, waves: Float[Tensor, "batch input y x"], gates: Prepared) -> Float[Tensor, "batch channel y x"]:
        """The change over one step."""
        first, *others = gates
        x = self.lift(waves.contiguous(memory_format=LAYOUT)) * first
        for convolution, gate in zip(self.body, others, strict=True):
            x = torch.addcmul(x, convolution(x), gate)
        return self.head(x)


class PlaneAttention(nn.Module):
    """The weather network's blocks of large-kernel attention on a plane, without its clock."""

    def __init__(self, config: SimulatorConfig, waves: int, medium: int, channels: int) -> None:
        super().__init__()
        latent = Latent(plane=True, compression=config.compression, branch_scale=branch_scale_of(config.depth))
        blocks = PuYunConfig(width=config.width, expansion=config.expansion)
        self.lift = pointwise(waves + medium + 1, config.width, config.compression)
        self.body = nn.ModuleList(Block(blocks, latent, clocked=False) for _ in range(config.depth))
        self.head = closed(pointwise(config.width, channels, config.compression))

    def prepare(self, medium: Float[Tensor, "batch static y x"]) -> Prepared:
        """Add a field of ones, which shows where the plane ends."""
        return (F.pad(medium, (0, 0, 0, 0, 0, 1), value=1.0),)

    def forward(self, waves: Float[Tensor, "batch input y x"], prepared: Prepared) -> Float[Tensor, "batch channel y x"]:
        """The change over one step, of the amplitude of the waves."""
        (medium,) = prepared
        scale = waves.square().mean(dim=(1, 2, 3), keepdim=True).clamp_min(SMALLEST).sqrt()
        x = self.lift(torch.cat([waves / scale, medium], dim=1))
        for block in self.body:
            x = block(x)
        return scale * self.head(x)


NETWORKS: dict[str, type[GatedConvolutions | PlaneAttention]] = {"cnn": GatedConvolutions, "lka": PlaneAttention}


class Simulator(nn.Module):
    """Forecaster of waves: `requirements.history` states and a medium to the next state, in physical units on both sides.

    Parameters
    ----------
    config
        Size and form.
    requirements
        Channels, grid, step, static fields.
    statistics
        `wave_statistics` of the training samples. Without it the normalisation is the identity until a state dict is loaded.
    """

    requirements_class = WaveRequirements
    deviation: Tensor
    tendency: Tensor
    static_mean: Tensor
    static_deviation: Tensor

    def __init__(
        self, config: SimulatorConfig, requirements: WaveRequirements, statistics: Mapping[str, np.ndarray] | None = None
    ) -> None:
        super().__init__()
        self.config, self.requirements = config, requirements
        channels, static = len(requirements.channels), len(requirements.static)
        self.rows = slice(0, requirements.grid_shape[0])
        for name, count in (("deviation", channels), ("tendency", channels), ("static_deviation", static)):
            values = np.ones(count) if statistics is None else statistics[name]
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32).view(-1, 1, 1))
        mean = np.zeros(static) if statistics is None else statistics["static_mean"]
        self.register_buffer("static_mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1))
        self.mask_at = requirements.static.index("mask")
        network = NETWORKS[config.network]
        self.network = network(config, channels * requirements.history, static, channels)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], requirements: WaveRequirements) -> Simulator:
        """The network of a checkpoint's JSON, without its weights."""
        return cls(SimulatorConfig(**config), requirements)

    def to_config(self) -> dict[str, Any]:
        """What `from_config` needs."""
        return asdict(self.config)

    def load_weights_of(self, others: Sequence[Simulator]) -> None:
        """Take over the mean of the trained parameters of simulators of the same form; this one's statistics stay.

        Raises
        ------
        ValueError
            If one of them has another form.
        """
        for other in others:
            if other.to_config() != self.to_config():
                raise ValueError(
                    f"the initial checkpoint has another form than the simulator: {other.to_config()}. Give it that."
                )
        with torch.no_grad():
            for name, value in self.named_parameters():
                value.copy_(torch.stack([one.get_parameter(name) for one in others]).mean(dim=0))

    def inputs_of(
        self, static: Float[Tensor, "batch static y x"]
    ) -> tuple[Float[Tensor, "batch static y x"], Float[Tensor, "batch 0"]]:
        """What `forward` needs beside the waves: the static fields, and no features, for no clock drives them."""
        return static, static.new_zeros(len(static), 0)

    def forward(
        self,
        frames: Float[Tensor, "batch history channel y x"],
        static: Float[Tensor, "batch static y x"],
        features: Float[Tensor, "batch 0"],
    ) -> Float[Tensor, "batch channel y x"]:
        """The state one step after the last of `frames`, in the same physical units."""
        return self.step(frames, self.prepare(static), static[:, self.mask_at, None])

    def prepare(self, static: Float[Tensor, "batch static y x"]) -> Prepared:
        """What depends on the medium alone, once for all steps of a roll-out."""
        mask = static[:, self.mask_at, None]
        return self.network.prepare((static - self.static_mean) / self.static_deviation * mask)

    def step(
        self,
        frames: Float[Tensor, "batch history channel y x"],
        prepared: Prepared,
        mask: Float[Tensor, "batch 1 y x"],
    ) -> Float[Tensor, "batch channel y x"]:
        """As `forward`, with the medium prepared."""
        change = self.network((frames / self.deviation).flatten(1, 2), prepared)
        return (frames[:, -1] + self.tendency * change.float()) * mask

    def normalised_tendency(
        self,
        frames: Float[Tensor, "batch history channel y x"],
        static: Float[Tensor, "batch static y x"],
        features: Float[Tensor, "batch 0"],
    ) -> Float[Tensor, "batch channel y x"]:
        """Change over one step in units of its standard deviation, 0 outside the mask."""
        change = self.network((frames / self.deviation).flatten(1, 2), self.prepare(static))
        return change * static[:, self.mask_at, None]

    def parameter_count(self) -> int:
        """Trainable numbers."""
        return sum(parameter.numel() for parameter in self.parameters())


def wave_statistics(waves: xr.Dataset, requirements: WaveRequirements) -> dict[str, np.ndarray]:
    """Sizes by which a simulator measures its fields, over the points of the medium of all samples.

    Returns
    -------
    `deviation` and `tendency`: root mean squares of the channels and of their change over a step (waves swing about 0, so no
    mean is taken off and linear networks stay linear); `static_mean` and `static_deviation` of the static fields, 0 and 1
    for the mask. One number per field, in its units.
    """
    inside = waves["mask"] > 0
    deviation, tendency, mean, spread = [], [], [], []
    for name in requirements.channels:
        field_of = waves[name].where(inside)
        deviation.append(float((field_of**2).mean()) ** 0.5)
        tendency.append(float((field_of.diff("time") ** 2).mean()) ** 0.5)
    for name in requirements.static:
        of_mask = name == "mask"
        mean.append(0.0 if of_mask else float(waves[name].where(inside).mean()))
        spread.append(1.0 if of_mask else float(waves[name].where(inside).std()) or 1.0)
    names = ("deviation", "tendency", "static_mean", "static_deviation")
    return {name: np.array(values) for name, values in zip(names, (deviation, tendency, mean, spread), strict=True)}
