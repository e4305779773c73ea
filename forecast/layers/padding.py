"""Edges of a field, one axis at a time, and the dense convolutions that have them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from forecast.layers.spherical_padding import pad_sphere

MODES = ("zeros", "circular", "reflect", "replicate", "sphere")
Reach = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Padding:
    """How a field goes on beyond its edges.

    Parameters
    ----------
    mode
        "zeros", "circular", "reflect", "replicate" as in `torch.nn.Conv2d`, or "sphere": the last axis around the globe, the
        last but one over the poles (`pad_sphere`), axes before them with zeros.
    has_poles
        With "sphere": whether the first and the last row are the poles themselves.
    """

    mode: str = "zeros"
    has_poles: bool = False

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"padding_mode must be one of {MODES}; got {self.mode!r}.")


def per_axis(name: str, value: int | Sequence[int], axes: int) -> tuple[int, ...]:
    """One positive number per axis."""
    values = (value,) * axes if isinstance(value, int) else tuple(value)
    if len(values) != axes or min(values) < 1:
        raise ValueError(f"{name} must be one number of at least 1, or {axes} of them; got {value}.")
    return values


def axis_reach(
    padding: int | Sequence[int] | str, kernel_size: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> Reach:
    """Points before and after each axis.

    Parameters
    ----------
    padding
        One number, one per axis, or "same": as many as the filter covers, so that the field keeps its size; "valid": none.
    kernel_size, stride, dilation
        One number per axis.

    Raises
    ------
    ValueError
        If padding is none of these, or "same" with a stride.
    """
    axes = len(kernel_size)
    if padding == "same":
        if any(step != 1 for step in stride):
            raise ValueError(f"padding='same' needs stride 1; got {tuple(stride)}. Give the padding as a number.")
        covered = [step * (size - 1) for size, step in zip(kernel_size, dilation, strict=True)]
        return tuple((total // 2, total - total // 2) for total in covered)
    if padding == "valid":
        padding = 0
    values = (padding,) * axes if isinstance(padding, int) else padding
    if isinstance(values, str) or len(values) != axes or min(values) < 0:
        raise ValueError(f"padding must be a number of at least 0, {axes} of them, 'same' or 'valid'; got {padding!r}.")
    return tuple((value, value) for value in values)


def pad_axis(x: Float[Tensor, "batch channel *grid"], axis: int, before: int, after: int, edges: Padding) -> Tensor:
    """Continue a field beyond both ends of one axis.

    Parameters
    ----------
    x
        Two or three axes after batch and channel.
    axis
        -1 for the last axis, -2 for the one before it, ...
    before, after
        Points to add.

    Raises
    ------
    ValueError
        If the field is too small for so many points.
    """
    if not before and not after:
        return x
    if edges.mode == "sphere":
        if axis == -1:
            return pad_sphere(x, 0, before, east=after, has_poles=edges.has_poles)
        if axis == -2:
            return pad_sphere(x, before, 0, south=after, has_poles=edges.has_poles)
    amounts = [0] * (2 * (x.ndim - 2))
    amounts[-2 * axis - 2], amounts[-2 * axis - 1] = before, after
    if edges.mode in ("zeros", "sphere"):
        return F.pad(x, amounts)
    limit = x.shape[axis] - (edges.mode == "reflect")
    if edges.mode != "replicate" and max(before, after) > limit:
        raise ValueError(
            f"padding {max(before, after)} with mode {edges.mode} does not fit an axis of {x.shape[axis]} points; use a "
            "smaller kernel or a finer grid."
        )
    return F.pad(x, amounts, mode=edges.mode)


def pad_axes(x: Float[Tensor, "batch channel *grid"], reach: Reach, edges: Padding) -> Tensor:
    """Continue a field beyond the edges of every axis, first axis first."""
    for axis, (before, after) in enumerate(reach):
        x = pad_axis(x, axis - len(reach), before, after, edges)
    return x


def convolution_padding(reach: Reach, edges: Padding) -> tuple[bool, tuple[int, ...]]:
    """Whether a field must be padded before a library's convolution, and what the convolution is to pad by itself.

    It adds the same number of zeros on both sides of an axis without a copy of the field.
    """
    if edges.mode != "zeros" or any(before != after for before, after in reach):
        return True, (0,) * len(reach)
    return False, tuple(before for before, _ in reach)


class _Edged:
    """A dense convolution that pads as `edges` says."""

    edges: Padding
    reach: Reach

    def __init__(self, *sizes: Any, reach: Reach, edges: Padding, **form: Any) -> None:
        self.pads, form["padding"] = convolution_padding(reach, edges)
        super().__init__(*sizes, **form)
        self.reach, self.edges = reach, edges

    def forward(self, x: Float[Tensor, "batch channel *grid"]) -> Float[Tensor, "batch out *small_grid"]:
        """Pad and convolve."""
        return super().forward(pad_axes(x, self.reach, self.edges) if self.pads else x)  # type: ignore[misc]


class DenseConv2d(_Edged, nn.Conv2d):
    """`torch.nn.Conv2d` with the edges of `Padding`; `reach` has the points before and after each axis."""


class DenseConv3d(_Edged, nn.Conv3d):
    """`torch.nn.Conv3d` with the edges of `Padding`; `reach` has the points before and after each axis."""
