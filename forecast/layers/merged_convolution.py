"""Compressed convolutions in fewer calls, for inference: the same function, with the filters of a chain merged.

Chains of one-way filters have few weights and operations, and many calls: R times the number of axes and one more. On a small
field the calls cost more than the arithmetic. Merged are, where it costs little arithmetic,

- the filters along all axes of all terms to one convolution of two-way (three-way) filters, each over one channel, and the
  mixing of channels of all terms to one matrix: two calls;
- or everything to the dense kernel: one call;
- the two filters of a compressed 1x1 convolution to the matrix that they make.

Nothing is approximated: outputs differ by rounding.
"""

from __future__ import annotations

import math
from copy import deepcopy
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from forecast.layers.compressed_convolution import (
    CONVOLVE,
    MEMORY_FORMAT,
    CompressedConv2d,
    CompressedConv3d,
    CompressedPointwise,
)
from forecast.layers.padding import convolution_padding, pad_axes
from forecast.layers.scaled_pointwise import CompressedScaledPointwise

Network = TypeVar("Network", bound=nn.Module)
# Dense kernels multiply about twice as fast as filters of single channels (AVX2, oneDNN, 16 channels).
DENSE_SPEED = 2.0
PLAIN = (CompressedConv2d, CompressedConv3d, CompressedPointwise, CompressedScaledPointwise)
# So many times the arithmetic of one-way filters is worth fewer calls on fields of a thousand points, and on any.
ON_SMALL_FIELDS, ON_ANY_FIELD = 4.0, 1.5


class MergedConv(nn.Module):
    """A compressed convolution without groups in two calls; its weights are buffers, for it does not learn.

    Parameters
    ----------
    chains
        The convolution; its weights are copied.
    """

    kernels: Tensor
    mixing: Tensor
    bias: Tensor | None

    def __init__(self, chains: CompressedConv2d | CompressedConv3d) -> None:
        super().__init__()
        if chains.channel_filter is None or chains.groups > 1:
            raise ValueError(f"chains must mix channels, without groups; got {chains}. Use its to_dense().")
        self.axes, self.terms, self.mixes_last = chains.axes, chains.terms, chains.mixes_last
        self.stride, self.dilation = chains.stride, chains.dilation
        self.edges, self.reach = chains.edges, chains.reach
        self.pads, self.zeros = convolution_padding(chains.reach, chains.edges)
        letters = "hwt"[: self.axes]
        with torch.no_grad():
            names = ",".join(f"rc{letter}" for letter in letters)
            kernels = torch.einsum(f"{names}->rc{letters}", *chains.axis_filters).unsqueeze(2)
            mixing = chains.channel_filter.detach()  # (term, out, in)
            mixing = mixing.transpose(0, 1).flatten(1) if self.mixes_last else mixing.flatten(0, 1)
            self.register_buffer("kernels", kernels.flatten(0, 1).contiguous())
            self.register_buffer("mixing", mixing.reshape(*mixing.shape, *[1] * self.axes).contiguous())
            self.register_buffer("bias", None if chains.bias is None else chains.bias.detach().clone())

    def forward(self, x: Float[Tensor, "batch channel *grid"]) -> Float[Tensor, "batch out *small_grid"]:
        """Convolve."""
        x = x.contiguous(memory_format=MEMORY_FORMAT[self.axes])
        if self.mixes_last:
            x = pad_axes(x, self.reach, self.edges) if self.pads else x
            return CONVOLVE[self.axes](self._filtered(torch.cat([x] * self.terms, dim=1)), self.mixing, self.bias)
        mixed = CONVOLVE[self.axes](x, self.mixing)
        mixed = pad_axes(mixed, self.reach, self.edges) if self.pads else mixed
        total = self._filtered(mixed).unflatten(1, (self.terms, -1)).sum(1)
        return total if self.bias is None else total + self.bias.view(-1, *[1] * self.axes)

    def _filtered(self, x: Tensor) -> Tensor:
        return CONVOLVE[self.axes](x, self.kernels, None, self.stride, self.zeros, self.dilation, x.shape[1])


def merged(network: Network, most_arithmetic: float = ON_SMALL_FIELDS) -> Network:
    """A copy of a network for inference, its compressed convolutions merged as far as that saves time.

    Parameters
    ----------
    network
        Any network; it stays as it is.
    most_arithmetic
        Merge where that does not multiply the arithmetic by more, that of dense kernels counted half: `ON_SMALL_FIELDS` (a few
        thousand points in a batch), or `ON_ANY_FIELD`.

    Returns
    -------
    The copy: the same function to rounding, more numbers in memory. Layers that are more than a compressed convolution, as the
    patches of the weather network, and all others are plain copies.
    """
    whole = nn.Sequential(deepcopy(network))  # so that the network itself may be one such layer
    for parent in [*whole.modules()]:
        for name, child in [*parent.named_children()]:
            setattr(parent, name, _faster(child, most_arithmetic))
    return whole[0]  # type: ignore[return-value]


def _faster(layer: nn.Module, most_arithmetic: float) -> nn.Module:
    """A merged layer, or the layer as it is. What derives from a layer does more than convolve, as patches do, and stays."""
    if isinstance(layer, CompressedConv2d | CompressedConv3d) and type(layer) in PLAIN:
        return _merged(layer, most_arithmetic)
    if isinstance(layer, CompressedPointwise) and type(layer) in PLAIN and _is_worth_a_matrix(layer, most_arithmetic):
        return layer.to_dense()
    return layer


def _merged(chains: CompressedConv2d | CompressedConv3d, most_arithmetic: float) -> nn.Module:
    """The form of a layer that takes the least time, by its multiplications for a point of the input."""
    taps, ways = math.prod(chains.kernel_size), sum(chains.kernel_size)
    if chains.channel_filter is None:  # each channel for itself: terms add up in one kernel
        return chains.to_dense() if taps <= most_arithmetic * chains.terms * ways else chains
    mixing = chains.channel_filter.numel()
    one_way = mixing + chains.terms * chains.filtered_channels * ways
    two_way = mixing + chains.terms * chains.filtered_channels * taps if chains.groups == 1 else math.inf
    dense = chains.out_channels * chains.in_channels // chains.groups * taps / DENSE_SPEED
    if min(dense, two_way) > most_arithmetic * one_way:
        return chains
    return MergedConv(chains) if two_way < dense else chains.to_dense()


def _is_worth_a_matrix(layer: CompressedPointwise, most_arithmetic: float) -> bool:
    rank, inputs, outputs = layer.narrow.out_channels, layer.narrow.in_channels, layer.wide.out_channels
    return inputs * outputs <= most_arithmetic * rank * (inputs + outputs)
