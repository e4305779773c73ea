"""Convolutions whose kernels are sums of one-way filters before training: few weights, few operations, large reach.

The kernel of every output channel is a sum of R rank-one terms (a canonical polyadic decomposition),

    W[o, c, h, w] = sum over r of  channel[r, o, c] * height[r, o, h] * width[r, o, w],

so that the convolution is R chains of one-way filters: a 1x1 convolution across channels, then one filter per channel along
each axis. Or the channels are mixed last: filters along the axes of every input channel, then the 1x1 convolution,

    W[o, c, h, w] = sum over r of  channel[r, o, c] * height[r, c, h] * width[r, c, w],

a sum of R C terms for every output channel, whose filters along the axes all outputs share. The filters themselves are learned;
there is no decomposition after training. A kernel over one input channel (a depthwise filter) is two-way and has no channel
filter.

That kernels are replaced by one-way filters before training is the idea of Boukraichi, Akkari, Casenave and Ryckelynck
(2023, arXiv 2304.04964). Their layer is public in outline only: the order of the filters, the number of terms, the
initialisation, the padding on the sphere and all that is below are our choice.

Weights of O output channels: R O (C + sum of kernel sizes) in place of O C x product of kernel sizes; mixed last R C (O + sum
of kernel sizes).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Self

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from forecast.layers.cp_decomposition import decompose
from forecast.layers.padding import DenseConv2d, DenseConv3d, Padding, axis_reach, pad_axis, per_axis

CONVOLVE = {2: F.conv2d, 3: F.conv3d}
MIXES = ("auto", "first", "last")
MEMORY_FORMAT = {2: torch.channels_last, 3: torch.channels_last_3d}


class _CompressedConv(nn.Module):
    """What `CompressedConv2d` and `CompressedConv3d` share; told there."""

    axes: int
    dense: type[DenseConv2d] | type[DenseConv3d]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        *,
        terms: int = 1,
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] | str = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        has_poles: bool = False,
        gain: float = 1.0,
        mix: str = "auto",
    ) -> None:
        super().__init__()
        if mix not in MIXES:
            raise ValueError(f"mix must be one of {MIXES}, where in a chain channels are mixed; got {mix!r}.")
        for name, value in {"terms": terms, "groups": groups, "in_channels": in_channels, "out_channels": out_channels}.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1; got {value}.")
        if in_channels % groups or out_channels % groups:
            raise ValueError(
                f"groups must divide in_channels and out_channels; got {groups} for {in_channels}, {out_channels}."
            )
        self.in_channels, self.out_channels, self.terms, self.groups = in_channels, out_channels, terms, groups
        self.kernel_size = per_axis("kernel_size", kernel_size, self.axes)
        self.stride = per_axis("stride", stride, self.axes)
        self.dilation = per_axis("dilation", dilation, self.axes)
        self.edges = Padding(padding_mode, has_poles)
        self.reach = axis_reach(padding, self.kernel_size, self.stride, self.dilation)
        self.gain = gain
        self.approximation_error = 0.0
        mixed = in_channels // groups
        self.channel_filter = nn.Parameter(torch.empty(terms, out_channels, mixed)) if mixed > 1 else None
        # Of the same cost, and the more filters there are, the more they can do.
        last = mix == "last" or (mix == "auto" and in_channels >= out_channels)
        self.mixes_last = last and self.channel_filter is not None
        self.filtered_channels = in_channels if self.mixes_last else out_channels
        self.axis_filters = nn.ParameterList(
            nn.Parameter(torch.empty(terms, self.filtered_channels, size)) for size in self.kernel_size
        )
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw filters so that white input keeps its variance, times the square of `gain`.

        Every filter has a random direction. Axis filters have the length 1, channel filters `gain` / sqrt(R): a chain then
        scales the variance of white noise by its share exactly, not only in expectation over the draw, whose product of
        squares would have heavy tails. The bias starts at 0.
        """
        filters = [*self.axis_filters] if self.channel_filter is None else [self.channel_filter, *self.axis_filters]
        for parameter in filters:
            direction = torch.randn_like(parameter)
            parameter.copy_(direction / direction.norm(dim=-1, keepdim=True))
        filters[0].mul_(self.gain / math.sqrt(self.terms))
        if self.bias is not None:
            self.bias.zero_()

    def forward(self, x: Float[Tensor, "batch channel *grid"]) -> Float[Tensor, "batch out *small_grid"]:
        """Convolve: the sum of the chains of all terms."""
        x = x.contiguous(memory_format=MEMORY_FORMAT[self.axes])  # libraries filter along one axis several times faster so
        total = self._chain(x, 0, self.bias)
        for term in range(1, self.terms):
            total = total + self._chain(x, term, None)
        return total

    def _chain(self, x: Tensor, term: int, bias: Tensor | None) -> Tensor:
        """The one-way filters of one term, one after the other; the last one adds the bias."""
        if self.channel_filter is None:
            return self._filtered(x, term, self.groups, bias)
        pointwise = self.channel_filter[term].reshape(self.out_channels, -1, *[1] * self.axes)
        if self.mixes_last:
            x = self._filtered(x, term, self.in_channels, None)
            return CONVOLVE[self.axes](x, pointwise, bias, groups=self.groups)
        return self._filtered(CONVOLVE[self.axes](x, pointwise, groups=self.groups), term, self.out_channels, bias)

    def _filtered(self, x: Tensor, term: int, groups: int, bias: Tensor | None) -> Tensor:
        """The filters of one term along every axis."""
        for axis, filters in enumerate(self.axis_filters):
            shape = [1] * self.axes
            shape[axis] = self.kernel_size[axis]
            steps, dilation, zeros = [1] * self.axes, [1] * self.axes, [0] * self.axes
            steps[axis], dilation[axis] = self.stride[axis], self.dilation[axis]
            before, after = self.reach[axis]
            if self.edges.mode == "zeros" and before == after:
                zeros[axis] = before
            else:
                x = pad_axis(x, axis - self.axes, before, after, self.edges)
            last = bias if axis == self.axes - 1 else None
            x = CONVOLVE[self.axes](x, filters[term].view(-1, 1, *shape), last, steps, zeros, dilation, groups)
            groups = self.filtered_channels
        return x

    @torch.no_grad()
    def close(self) -> None:
        """Let the last filter of every chain be 0: the convolution returns its bias, and learns at once."""
        if self.mixes_last and self.channel_filter is not None:
            nn.init.zeros_(self.channel_filter)
        else:
            nn.init.zeros_(self.axis_filters[-1])

    @torch.no_grad()
    def dense_weight(self) -> Float[Tensor, "out channel *kernel"]:
        """The dense kernels that these filters make."""
        letters = "hwt"[: self.axes]
        if self.mixes_last and self.channel_filter is not None:  # g: group, o and c: channel of the group
            filters = [one.unflatten(1, (self.groups, -1)) for one in (self.channel_filter, *self.axis_filters)]
            names = ",".join(["rgoc", *(f"rgc{name}" for name in letters)])
            return torch.einsum(f"{names}->goc{letters}", *filters).flatten(0, 1)
        factors = [*self.axis_filters] if self.channel_filter is None else [self.channel_filter, *self.axis_filters]
        names = letters if self.channel_filter is None else "c" + letters
        weight = torch.einsum(",".join(f"ro{name}" for name in names) + f"->o{names}", *factors)
        return weight.unsqueeze(1) if self.channel_filter is None else weight

    @torch.no_grad()
    def to_dense(self) -> DenseConv2d | DenseConv3d:
        """The dense convolution that computes the same function (to rounding), with weights of its own."""
        dense = self.dense(
            self.in_channels, self.out_channels, self.kernel_size, stride=self.stride, reach=self.reach,
            dilation=self.dilation, groups=self.groups, bias=self.bias is not None, edges=self.edges,
        )  # fmt: skip
        weight = self.dense_weight()
        dense = dense.to(weight.device, weight.dtype)
        dense.weight.copy_(weight)
        if self.bias is not None and dense.bias is not None:
            dense.bias.copy_(self.bias)
        return dense

    @classmethod
    @torch.no_grad()
    def from_dense(
        cls, dense: nn.Conv2d | nn.Conv3d, terms: int, *, sweeps: int = 200, seed: int = 0, mix: str = "auto"
    ) -> Self:
        """Approximate a dense convolution by `terms` chains for each of its kernels, or for each of its input channels.

        Two-way kernels (one input channel per group and two axes, or any kernel that is longer than 1 along two ways only)
        are approximated by their truncated singular value decomposition, which no other `terms` chains beat. Others are fitted
        by alternating least squares, which may end in a local optimum. `approximation_error` of the result is what is
        left: |W - its W| / |W| (Frobenius norm over all kernels, 0 for a dense weight of zeros).

        Parameters
        ----------
        dense
            A convolution of the library, or a `DenseConv2d` / `DenseConv3d`.
        terms
            Chains per output channel; per input channel where channels are mixed last.
        sweeps, seed
            Sweeps of the alternating least squares, and the seed of their starts.
        mix
            As for the class.

        Raises
        ------
        ValueError
            If `dense` is a transposed convolution or has another number of axes.
        """
        if dense.transposed or dense.weight.ndim != cls.axes + 2:
            raise ValueError(
                f"dense must be a convolution over {cls.axes} axes, not transposed; got {type(dense).__name__}. "
                f"Use {'CompressedConv3d' if cls.axes == 2 else 'CompressedConv2d'} for the other number of axes."
            )
        edges, reach = Padding(dense.padding_mode), None
        if isinstance(dense, DenseConv2d | DenseConv3d):
            edges, reach = dense.edges, dense.reach
        layer = cls(
            dense.in_channels, dense.out_channels, dense.kernel_size, terms=terms, stride=dense.stride,
            padding=dense.padding if reach is None else 0, dilation=dense.dilation, groups=dense.groups,
            bias=dense.bias is not None, padding_mode=edges.mode, has_poles=edges.has_poles, mix=mix,
        ).to(dense.weight.device, dense.weight.dtype)  # fmt: skip
        if reach is not None:
            layer.reach = reach
        layer.approximate(dense, sweeps=sweeps, seed=seed)
        return layer

    @torch.no_grad()
    def approximate(self, dense: nn.Conv2d | nn.Conv3d, *, sweeps: int = 200, seed: int = 0) -> float:
        """Take over the weights of a dense convolution of the same sizes as nearly as the terms allow, see `from_dense`.

        Returns
        -------
        `approximation_error`.

        Raises
        ------
        ValueError
            If the sizes differ.
        """
        ours = (self.out_channels, self.in_channels // self.groups, *self.kernel_size)
        if tuple(dense.weight.shape) != ours:
            raise ValueError(f"dense must have kernels of shape {ours}; got {tuple(dense.weight.shape)}. Use from_dense.")
        kernels = dense.weight.squeeze(1) if self.channel_filter is None else dense.weight
        if self.mixes_last:  # the kernels of every input channel, over the outputs of its group
            kernels = kernels.unflatten(0, (self.groups, -1)).transpose(1, 2).flatten(0, 1)
        factors = decompose(kernels, self.terms, sweeps=sweeps, seed=seed)
        if self.channel_filter is not None:
            channel = factors.pop(0)
            if self.mixes_last:
                channel = channel.unflatten(1, (self.groups, -1)).transpose(2, 3).flatten(1, 2)
            self.channel_filter.copy_(channel)
        for own_filter, factor in zip(self.axis_filters, factors, strict=True):
            own_filter.copy_(factor)
        if self.bias is not None and dense.bias is not None:
            self.bias.copy_(dense.bias)
        norm = float(dense.weight.double().norm())
        error = float((self.dense_weight().double() - dense.weight.double()).norm())
        self.approximation_error = error / norm if norm else 0.0
        return self.approximation_error

    def parameter_count(self) -> int:
        """Trainable numbers: R O C / groups, R times the sum of kernel sizes for every filtered channel, and O for a bias.

        Filtered channels are O, or C where channels are mixed last. Where C / groups is 1 there is no channel filter.
        """
        mixed = 0 if self.channel_filter is None else self.in_channels // self.groups
        filters = self.terms * (self.out_channels * mixed + self.filtered_channels * sum(self.kernel_size))
        return filters + self.out_channels * (self.bias is not None)

    def flop_count(self, *grid: int, batch: int = 1) -> int:
        """Multiplications and additions of all filters on a grid of this size, as torch.utils.flop_counter counts them.

        Two per tap and output value, taps beyond the edges included; the sum over terms (R - 1 additions per output value)
        and the bias are left out, as there.

        Parameters
        ----------
        grid
            Points along each axis of the input.
        batch
            Samples.
        """
        if len(grid) != self.axes:
            raise ValueError(f"grid must name {self.axes} sizes, one for each axis; got {grid}.")
        # Without padding in the library's call, halos are rows of the intermediate fields too.
        points, taps = list(grid), 0
        mixing = 0 if self.channel_filter is None else self.out_channels * (self.in_channels // self.groups)
        if not self.mixes_last:
            taps += math.prod(points) * mixing
        for axis, size in enumerate(self.kernel_size):
            covered = self.dilation[axis] * (size - 1) + 1
            points[axis] = (points[axis] + sum(self.reach[axis]) - covered) // self.stride[axis] + 1
            taps += math.prod(points) * size * self.filtered_channels
        if self.mixes_last:
            taps += math.prod(points) * mixing
        return 2 * batch * self.terms * taps

    def extra_repr(self) -> str:
        """Say the form in `print(model)`."""
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, terms={self.terms}, "
            f"stride={self.stride}, dilation={self.dilation}, groups={self.groups}, padding_mode={self.edges.mode}, "
            f"mix={'last' if self.mixes_last else 'first'}"
        )


class CompressedConv2d(_CompressedConv):
    """A two-dimensional convolution as R chains of one-way filters: channels, height, width.

    Parameters
    ----------
    in_channels, out_channels, kernel_size, stride, dilation, groups, bias
        As for `torch.nn.Conv2d`.
    terms
        R, the number of chains: the rank of every output channel's kernel; of every input channel's where channels are mixed
        last.
    padding
        Rows and columns on both sides of an axis, or "same" (stride 1).
    padding_mode
        "zeros", "circular", "reflect", "replicate", or "sphere": around in longitude, over the poles in latitude.
    has_poles
        With "sphere": whether the first and the last row are the poles themselves, see `pad_sphere`.
    gain
        Factor on the standard deviation that white input gets at initialisation; sqrt(2) before a ReLU keeps the mean square.
    mix
        Where in a chain channels are mixed: "first", "last", or "auto": the axes are filtered where there are more channels,
        and with as many outputs as inputs channels are mixed last.

    Attributes
    ----------
    approximation_error
        What `from_dense` left of the dense weights, relative; 0 for a layer that was not made so.

    Raises
    ------
    ValueError
        If a number is not positive, groups do not divide the channels, or padding or mix is none.
    """

    axes = 2
    dense = DenseConv2d


class CompressedConv3d(_CompressedConv):
    """A three-dimensional convolution as R chains of one-way filters: channels, then each axis in its order.

    The arguments are those of `CompressedConv2d`; kernels and grids are in the order of the input's axes, (batch, channel,
    time, height, width) in our fields. With "sphere" the first axis is padded with zeros, and the last two are the globe.
    """

    axes = 3
    dense = DenseConv3d


class CompressedPointwise(nn.Module):
    """A 1x1 convolution through `rank` channels: the two-way matrix of a dense layer as two one-way filters.

    rank (C + O) + O numbers in place of C O + O. Without a non-linearity between them the two are one matrix of that rank.

    Parameters
    ----------
    in_channels, out_channels
        C and O.
    rank
        Channels between the filters, from 1 to min(C, O).
    """

    approximation_error = 0.0

    def __init__(self, in_channels: int, out_channels: int, rank: int, *, bias: bool = True) -> None:
        if not 1 <= rank <= min(in_channels, out_channels):
            raise ValueError(f"rank must lie in 1..{min(in_channels, out_channels)}, the fewer channels; got {rank}.")
        super().__init__()
        self.narrow = nn.Conv2d(in_channels, rank, 1, bias=False)
        self.wide = nn.Conv2d(rank, out_channels, 1, bias=bias)
        nn.init.orthogonal_(self.narrow.weight)  # keeps the variance of white input through the narrow field
        nn.init.normal_(self.wide.weight, std=1 / math.sqrt(rank))
        if self.wide.bias is not None:
            nn.init.zeros_(self.wide.bias)

    @property
    def bias(self) -> Tensor | None:
        """What is added to the outputs, as a dense layer has it."""
        return self.wide.bias

    def forward(self, x: Float[Tensor, "batch channel lat lon"]) -> Float[Tensor, "batch out lat lon"]:
        """Mix channels through the narrow field."""
        return self.wide(self.narrow(x))

    @classmethod
    @torch.no_grad()
    def from_dense(cls, dense: nn.Conv2d, rank: int) -> CompressedPointwise:
        """The nearest matrix of this rank (singular values); `approximation_error` is as in `CompressedConv2d`.

        Raises
        ------
        ValueError
            If `dense` is not a plain 1x1 convolution.
        """
        if dense.kernel_size != (1, 1) or dense.groups != 1 or dense.stride != (1, 1) or dense.padding not in ((0, 0), "same"):
            raise ValueError(
                f"dense must be a 1x1 convolution without groups, stride, padding; got {dense}. Use CompressedConv2d."
            )
        layer = cls(dense.in_channels, dense.out_channels, rank, bias=dense.bias is not None)
        layer = layer.to(dense.weight.device, dense.weight.dtype)
        layer.approximate(dense)
        return layer

    @torch.no_grad()
    def approximate(self, dense: nn.Conv2d) -> float:
        """Take over the nearest matrix of this rank; returns `approximation_error`.

        Raises
        ------
        ValueError
            If the sizes differ.
        """
        rank, ours = self.narrow.out_channels, (self.wide.out_channels, self.narrow.in_channels, 1, 1)
        if tuple(dense.weight.shape) != ours:
            raise ValueError(f"dense must have weights of shape {ours}; got {tuple(dense.weight.shape)}. Use from_dense.")
        left, values, right = torch.linalg.svd(dense.weight[:, :, 0, 0].double(), full_matrices=False)
        self.narrow.weight.copy_(right[:rank, :, None, None])
        self.wide.weight.copy_((left * values)[:, :rank, None, None])
        if self.wide.bias is not None and dense.bias is not None:
            self.wide.bias.copy_(dense.bias)
        total = float(values.norm())
        self.approximation_error = float(values[rank:].norm()) / total if total else 0.0
        return self.approximation_error

    @torch.no_grad()
    def to_dense(self) -> nn.Conv2d:
        """The 1x1 convolution that computes the same function (to rounding), with weights of its own."""
        narrow, wide = self.narrow, self.wide
        dense = nn.Conv2d(narrow.in_channels, wide.out_channels, 1, bias=wide.bias is not None)
        dense = dense.to(narrow.weight.device, narrow.weight.dtype)
        dense.weight.copy_((wide.weight[:, :, 0, 0] @ narrow.weight[:, :, 0, 0])[:, :, None, None])
        if dense.bias is not None and wide.bias is not None:
            dense.bias.copy_(wide.bias)
        return dense

    def parameter_count(self) -> int:
        """Trainable numbers."""
        return sum(parameter.numel() for parameter in self.parameters())

    def flop_count(self, *grid: int, batch: int = 1) -> int:
        """Multiplications and additions on a grid of this size, as torch.utils.flop_counter counts them."""
        narrow, wide = self.narrow, self.wide
        return 2 * batch * math.prod(grid) * narrow.out_channels * (narrow.in_channels + wide.out_channels)
