"""Door to the CPU kernels of depthwise convolutions on the sphere (gpu/cpu/spherical_depthwise_kernels.cpp).

The three functions take torch tensors on the CPU, float32 or bfloat16, in channels-last order, and check nothing else:
`forecast.layers.depthwise` calls them and has checked.
"""

from __future__ import annotations

import ctypes
from functools import cache

import torch
from torch import Tensor

from gpu.native import load_library

KERNEL_SIZES = (5, 7)  # those of large-kernel attention
_library = cache(load_library)  # at the first call: a GPU never makes one


class _Shape(ctypes.Structure):
    _fields_ = (
        ("batch", ctypes.c_int64),
        ("rows", ctypes.c_int64),
        ("columns", ctypes.c_int64),
        ("channels", ctypes.c_int64),
        ("kernel", ctypes.c_int),
        ("dilation", ctypes.c_int),
        ("has_poles", ctypes.c_bool),
    )


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int, has_poles: bool) -> Tensor:
    """Filter `x` (batch, channel, row, column) with `weight` (channel, 1, k, k), both continued over the sphere's edges."""
    out = _like(x)
    _call("forward", x, weight.shape[-1], dilation, has_poles, x, _float(weight), _float(bias), out)
    return out


def input_gradient(gradient: Tensor, weight: Tensor, dilation: int, has_poles: bool) -> Tensor:
    """Gradient of the input, from that of the output."""
    out = _like(gradient)
    _call("input_gradient", gradient, weight.shape[-1], dilation, has_poles, gradient, _float(weight), out)
    return out


def filter_gradient(x: Tensor, gradient: Tensor, kernel: int, dilation: int, has_poles: bool) -> tuple[Tensor, Tensor]:
    """Gradients of the filters (channel, 1, k, k) and of the bias (channel,), in float32."""
    batch, channels = x.shape[:2]
    sums = x.new_empty(batch, kernel * kernel + 1, channels, dtype=torch.float32)
    _call("filter_gradient", x, kernel, dilation, has_poles, x, gradient, sums)
    total = sums.sum(dim=0).T
    return total[:, :-1].reshape(channels, 1, kernel, kernel), total[:, -1].contiguous()


def _call(name: str, field: Tensor, kernel: int, dilation: int, has_poles: bool, *tensors: Tensor | None) -> None:
    batch, channels, rows, columns = field.shape
    shape = _Shape(batch, rows, columns, channels, kernel, dilation, has_poles)
    pointers = [None if tensor is None else ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors]
    half = ctypes.c_int(field.dtype == torch.bfloat16)
    function = getattr(_library("spherical_depthwise"), f"spherical_depthwise_{name}_skysolve_{instructions()}")
    if function(ctypes.byref(shape), half, ctypes.c_int(torch.get_num_threads()), *pointers):
        raise ValueError(f"kernel must be one of {KERNEL_SIZES}; got {kernel}.")


def _like(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.channels_last)


def _float(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.detach().float().contiguous()


@cache
def instructions() -> str:
    """Which of the compiled variants this processor runs best."""
    capability = torch.backends.cpu.get_cpu_capability()
    return {"AVX512": "avx512", "AVX2": "avx2"}.get(capability, "portable")
