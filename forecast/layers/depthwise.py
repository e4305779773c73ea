"""Depthwise convolutions on the sphere, with fast paths.

CPU libraries have no fast kernel for dilated depthwise convolutions, and none at all for the gradients of depthwise filters.
On CPUs our own kernels run them, halo included. Elsewhere a convolution dilated by d runs as d x d independent plain
ones, each on every d-th row and column, folded into the batch. Both give the same numbers (measured in
benchmarks/training_step.py).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from forecast.layers.globe import WHOLE, WholeGlobe
from gpu import spherical_depthwise


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


class _NativeDepthwise(torch.autograd.Function):
    """The kernels of `gpu.spherical_depthwise` with their gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, dilation: int, has_poles: bool) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.form = (dilation, has_poles)
        return spherical_depthwise.forward(x, weight, bias, dilation, has_poles)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        to_x = spherical_depthwise.input_gradient(gradient, weight, *ctx.form) if ctx.needs_input_grad[0] else None
        to_weight, to_bias = spherical_depthwise.filter_gradient(x, gradient, weight.shape[-1], *ctx.form)
        return to_x, to_weight, to_bias, None, None


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
        Whether filters run on our own kernels on CPUs, and a dilated filter as `dilation`^2 plain ones elsewhere: the same
        sums, several times faster. False leaves all to the library.
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
        self.globe: WholeGlobe = WHOLE

    def forward(self, x: Float[Tensor, "batch channel lat lon"]) -> Float[Tensor, "batch channel lat lon"]:
        """Filter the field, continued over its edges."""
        if self._runs_native(x):
            if torch.is_autocast_enabled("cpu"):
                x = x.to(torch.get_autocast_dtype("cpu"))
            x = self.globe.extend(x, self.reach, has_poles=self.has_poles).contiguous(memory_format=torch.channels_last)
            filtered = _NativeDepthwise.apply(x, self.weight, self.bias, self.dilation[0], self.has_poles)
            return self.globe.trim(filtered, self.reach)
        if not self.fast_filters or self.dilation[0] == 1:
            return super().forward(self.globe.pad(x, self.reach, self.reach, has_poles=self.has_poles))
        return self._forward_by_phases(x)

    def _runs_native(self, x: Tensor) -> bool:
        return (
            self.fast_filters
            and x.device.type == "cpu"
            and x.dtype in (torch.float32, torch.bfloat16)
            and self.kernel_size[0] in spherical_depthwise.KERNEL_SIZES
            and not torch.compiler.is_compiling()
        )

    def _forward_by_phases(self, x: Float[Tensor, "batch channel lat lon"]) -> Float[Tensor, "batch channel lat lon"]:
        rows, columns = x.shape[-2:]
        dilation = self.dilation[0]
        extra_rows, extra_columns = -(rows + 2 * self.reach) % dilation, -(columns + 2 * self.reach) % dilation
        padded = self.globe.pad(x, self.reach, self.reach, east=self.reach + extra_columns, has_poles=self.has_poles)
        padded = F.pad(padded, (0, 0, 0, extra_rows))  # no row that is kept looks at these
        phases = F.conv2d(split_phases(padded, dilation), self.weight, self.bias, groups=self.groups)
        return merge_phases(phases, dilation)[..., :rows, :columns]


class PlaneDepthwiseConv2d(SphericalDepthwiseConv2d):
    """One filter per channel on a plane, with zeros beyond the edges of the field.

    Runs on the same kernels: the field is put into a frame of zeros as wide as the filter reaches, so that what these see
    around the globe and over the poles is zero too.
    """

    def __init__(self, channels: int, kernel_size: int, *, dilation: int = 1) -> None:
        super().__init__(channels, kernel_size, dilation=dilation, has_poles=False)

    def forward(self, x: Float[Tensor, "batch channel y x"]) -> Float[Tensor, "batch channel y x"]:
        """Filter the field."""
        rows, columns = x.shape[-2:]
        reach = self.reach
        # The sphere's rows are turned by half a circle at the poles: an even number of columns.
        framed = F.pad(x, (reach, reach + columns % 2, reach, reach))
        return super().forward(framed)[..., reach : reach + rows, reach : reach + columns]
