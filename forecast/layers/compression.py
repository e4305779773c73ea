"""Dense convolutions of a network replaced before training, by its configuration: the drop-in for every one of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from forecast.layers.compressed_convolution import MIXES, CompressedConv2d, CompressedPointwise
from forecast.layers.padding import DenseConv2d, Padding, axis_reach, per_axis


@dataclass
class CompressionConfig:
    """How the dense convolutions of a network are replaced; depthwise filters are two-way already and stay.

    Parameters
    ----------
    terms
        Chains of one-way filters for every kernel that is larger than 1x1 (`CompressedConv2d`); 0 keeps it dense.
    mix
        Where in these chains channels are mixed: "auto", "first" or "last", see `CompressedConv2d`.
    rank
        Channels between the two filters of every 1x1 convolution (`CompressedPointwise`), as a share of the fewer of its
        channels; 0 keeps it dense. Weights become fewer below C O / ((C + O) min(C, O)): one half for C = O.
    """

    terms: int = 0
    rank: float = 0.0
    mix: str = "auto"

    def __post_init__(self) -> None:
        if self.mix not in MIXES:
            raise ValueError(f"compression.mix must be one of {MIXES}; got {self.mix!r}.")
        if self.terms < 0:
            raise ValueError(f"compression.terms must be at least 1, or 0 for dense kernels; got {self.terms}.")
        if not 0 <= self.rank <= 1:
            raise ValueError(f"compression.rank must lie in (0, 1], or be 0 for dense 1x1 convolutions; got {self.rank}.")

    @property
    def is_on(self) -> bool:
        """Whether anything is replaced."""
        return bool(self.terms or self.rank)

    def rank_of(self, in_channels: int, out_channels: int) -> int:
        """Channels between the filters of a 1x1 convolution of this size."""
        return max(1, round(self.rank * min(in_channels, out_channels)))


DENSE = CompressionConfig()


def pointwise(in_channels: int, out_channels: int, compression: CompressionConfig = DENSE) -> nn.Module:
    """A 1x1 convolution, dense or through few channels."""
    if not compression.rank:
        return nn.Conv2d(in_channels, out_channels, 1)
    return CompressedPointwise(in_channels, out_channels, compression.rank_of(in_channels, out_channels))


def spatial(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    compression: CompressionConfig = DENSE,
    *,
    bias: bool = True,
    gain: float = 1.0,
) -> nn.Module:
    """A convolution that keeps the size of a plane field with nothing beyond its edges, dense or as chains.

    Both begin with weights that keep the variance of white input, times the square of `gain`: what is compared is the
    form of the kernels, not how they start.
    """
    if compression.terms:
        return CompressedConv2d(
            in_channels, out_channels, kernel_size,
            terms=compression.terms, padding="same", bias=bias, gain=gain, mix=compression.mix,
        )  # fmt: skip
    sizes = per_axis("kernel_size", kernel_size, 2)
    dense = DenseConv2d(
        in_channels, out_channels, sizes, bias=bias, reach=axis_reach("same", sizes, (1, 1), (1, 1)), edges=Padding("zeros")
    )
    nn.init.normal_(dense.weight, std=gain / (in_channels * sizes[0] * sizes[1]) ** 0.5)
    if dense.bias is not None:
        nn.init.zeros_(dense.bias)
    return dense


@torch.no_grad()
def closed(convolution: nn.Module) -> nn.Module:
    """Let a convolution return zeros until it learns, by the last filter of its chain."""
    ends = convolution.wide if isinstance(convolution, CompressedPointwise) else convolution
    if isinstance(ends, CompressedConv2d):
        ends.close()
    else:
        nn.init.zeros_(ends.get_parameter("weight"))
    bias = getattr(ends, "bias", None)
    if bias is not None:
        nn.init.zeros_(bias)
    return convolution


@torch.no_grad()
def approximate(compressed: nn.Module, dense: nn.Module) -> dict[str, float]:
    """Give a compressed network the function of a trained dense one, as nearly as its form allows.

    Parameters
    ----------
    compressed, dense
        Networks of one form, the dense one without compression.

    Returns
    -------
    For every convolution that was approximated, by name: |W - its W| / |W| (Frobenius norm).

    Raises
    ------
    ValueError
        If the networks differ in more than their convolutions.
    """
    errors: dict[str, float] = {}
    done: set[str] = set()
    theirs = dict(dense.named_modules())
    for name, module in compressed.named_modules():
        if isinstance(module, CompressedConv2d | CompressedPointwise):
            source = theirs.get(name)
            if not isinstance(source, nn.Conv2d):
                raise ValueError(f"{name} is compressed, and the dense network has no convolution there; build both alike.")
            errors[name] = module.approximate(source)
            done.add(name)
    weights = dict(dense.named_parameters())
    for name, value in compressed.named_parameters():
        if any(name.startswith(f"{one}.") for one in done) and name not in weights:
            continue
        if any(name == f"{one}.bias" for one in done):
            continue
        if name not in weights or weights[name].shape != value.shape:
            raise ValueError(f"parameter {name} of the compressed network is not in the dense one; build both alike.")
        value.copy_(weights[name])
    return errors
