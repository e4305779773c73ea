"""Depthwise convolutions on the sphere, with a fast path for dilation.

CPU libraries have no fast kernel for dilated depthwise convolutions. A convolution dilated by d is d x d
independent plain ones, each on every d-th row and column; folded into the batch they run on the
fast kernel and give the same numbers (measured in benchmarks/training_step.py).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from forecast.layers.spherical_padding import pad_sphere


def split_phases(
    x: Float[Tensor, "batch channel lat lon"], dilation: int
) -> Float[Tensor, "phases channel small_lat small_lon"]:
    """Every `dilation`-th row and column, for each offset, stacked along the batch.

    Rows and columns must be divisible by `dilation`.
    """
    batch, channels, rows, columns = x.shape
    x = x.reshape(batch, channels, rows // dilation, dilation, columns // dilation, dilation)
    return (
        x.permute(0, 3, 5, 2, 4, 1)
        .reshape(batch * dilation * dilation, rows // dilation, columns // dilation, channels)
        .permute(0, 3, 1, 2)
    )


def merge_phases(
    x: Float[Tensor, "phases channel small_lat small_lon"], dilation: int
) -> Float[Tensor, "batch channel lat lon"]:
    """The inverse of `split_phases`."""
    _, channels, rows, columns = x.shape
    x = x.permute(0, 2, 3, 1).reshape(-1, dilation, dilation, rows, columns, channels)
    return x.permute(0, 3, 1, 4, 2, 5).reshape(-1, rows * dilation, columns * dilation, channels).permute(0, 3, 1, 2)


class _CpuDepthwise(torch.autograd.Function):
    """Plain depthwise convolution whose weight gradient is taken in float32.

    On CPUs the library's bfloat16 weight gradient of a 5x5 depthwise filter takes 3.5 times as long as the float32
    one, and is less accurate (benchmarks/training_step.py).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        return F.conv2d(x, weight, bias, groups=weight.shape[0])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        channels, reach = weight.shape[0], weight.shape[-1] - 1
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        to_x = F.conv2d(gradient, weight.flip(2, 3), groups=channels, padding=reach) if ctx.needs_input_grad[0] else None
        wide = gradient.float()
        shape = ([1, 1], [0, 0], [1, 1], False, [0, 0], channels, [False, True, ctx.has_bias])
        _, to_weight, to_bias = torch.ops.aten.convolution_backward(
            wide, x.float(), weight.float(), [channels] if ctx.has_bias else None, *shape
        )
        return to_x, to_weight.to(weight.dtype), to_bias.to(weight.dtype) if ctx.has_bias else None


def depthwise(
    x: Float[Tensor, "batch channel lat lon"],
    weight: Float[Tensor, "channel one rows columns"],
    bias: Float[Tensor, " channel"] | None,
) -> Float[Tensor, "batch channel small_lat small_lon"]:
    """Plain depthwise convolution without padding, by whatever route is fastest where `x` lies."""
    if x.device.type != "cpu" or not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return F.conv2d(x, weight, bias, groups=weight.shape[0])
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    return _CpuDepthwise.apply(x, weight, bias)


class SphericalDepthwiseConv2d(nn.Conv2d):
    """One filter per channel over the whole globe, rows and columns continued across the edges.

    Parameters
    ----------
    channels
        Channels in and out.
    kernel_size
        Odd number of rows and columns of the filter.
    dilation
        Distance between neighbouring taps, in cells.
    has_poles
        See `pad_sphere`.
    fast_filters
        Whether a dilated filter runs as `dilation`^2 plain ones, and gradients of filters are taken in float32: the same
        sums, several times faster on CPUs. False leaves both to the library.
    """

    def __init__(
        self, channels: int, kernel_size: int, *, dilation: int = 1, has_poles: bool, fast_filters: bool = True
    ) -> None:
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, so that a filter has a centre; got {kernel_size}.")
        super().__init__(channels, channels, kernel_size, dilation=dilation, groups=channels)
        self.has_poles = has_poles
        self.fast_filters = fast_filters
        self.reach = dilation * (kernel_size // 2)

    def forward(self, x: Float[Tensor, "batch channel lat lon"]) -> Float[Tensor, "batch channel lat lon"]:
        """Filter the padded field."""
        if not self.fast_filters:
            return super().forward(pad_sphere(x, self.reach, self.reach, has_poles=self.has_poles))
        rows, columns = x.shape[-2:]
        dilation = self.dilation[0]
        if dilation == 1:
            return depthwise(pad_sphere(x, self.reach, self.reach, has_poles=self.has_poles), self.weight, self.bias)
        extra_rows, extra_columns = -(rows + 2 * self.reach) % dilation, -(columns + 2 * self.reach) % dilation
        padded = pad_sphere(
            x, self.reach, self.reach, south=self.reach + extra_rows, east=self.reach + extra_columns, has_poles=self.has_poles
        )
        phases = depthwise(split_phases(padded, dilation), self.weight, self.bias)
        return merge_phases(phases, dilation)[..., :rows, :columns]
