"""log-Bessel functions of torch tensors: differentiable twice in both arguments, under torch.func and vmap.

Tensors on the CPU share memory with NumPy arrays, tensors on a GPU with CuPy arrays (DLPack); nothing is copied on the way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.dlpack import from_dlpack

from gpu import backend
from gpu.array_functions import FUNCTIONS, on_cupy, on_numpy

SECOND = 2  # how often a result may be differentiated


def call(name: str, v: Any, x: Any) -> Any:
    """`name` of FUNCTIONS at two tensors, or a tensor and a number.

    Raises
    ------
    TypeError
        If a tensor is complex, or on a device that is neither the CPU nor CUDA.
    ValueError
        If the shapes do not broadcast.
    """
    v, x = as_tensors(name, v, x)
    if f"{name}_derivatives" in FUNCTIONS:
        return _LogBessel.apply(name, v, x)
    if (v.requires_grad or x.requires_grad) and torch.is_grad_enabled():
        raise TypeError(f"{name} is not differentiable. Detach v and x, or differentiate log_iv.")
    results = evaluate(name, v, x)
    return results[0] if len(results) == 1 else results


def mean_resultant_length(
    slope: Callable[[float, Tensor], Tensor], order: float, concentration: Tensor
) -> tuple[Tensor, Tensor]:
    """A = I_{v+1}(kappa)/I_v(kappa) and 1 - A, differentiable once in kappa by `slope`, A' at (order, kappa)."""
    length, complement = _MeanResultantLength.apply(slope, order, concentration)
    return length, complement


def as_tensors(name: str, v: Any, x: Any) -> tuple[Tensor, Tensor]:
    """Two tensors of one floating dtype on one device; numbers and lists take both from the tensor beside them."""
    given = [value for value in (v, x) if isinstance(value, Tensor)]
    device = given[0].device
    if device.type not in ("cpu", "cuda"):
        raise TypeError(f"tensors of {name} must be on the CPU or a CUDA device; got {device}. Move them with .to('cpu').")
    for argument, value in (("v", v), ("x", x)):
        if value.is_complex() if isinstance(value, Tensor) else np.iscomplexobj(value):
            raise TypeError(f"{argument} of {name} must be real; got {getattr(value, 'dtype', 'complex numbers')}.")
    dtype = torch.result_type(*given) if len(given) == 2 else given[0].dtype
    if dtype not in (torch.float32, torch.float64):
        dtype = torch.float32 if dtype.is_floating_point else torch.get_default_dtype()
    tensors = [value if isinstance(value, Tensor) else torch.as_tensor(value, dtype=dtype, device=device) for value in (v, x)]
    try:
        torch.broadcast_shapes(*(tensor.shape for tensor in tensors))
    except RuntimeError:
        shapes = [tuple(tensor.shape) for tensor in tensors]
        raise ValueError(f"v and x of {name} must broadcast; got shapes {shapes[0]} and {shapes[1]}.") from None
    first, second = (tensor.to(device=device, dtype=dtype) for tensor in tensors)
    return first, second


def evaluate(name: str, v: Tensor, x: Tensor) -> tuple[Tensor, ...]:
    """All outputs of `name`, without a graph."""
    v, x = v.detach(), x.detach()
    if v.device.type == "cpu":
        results = on_numpy(name, v.numpy(), x.numpy())
        results = results if isinstance(results, tuple) else (results,)
        return tuple(torch.as_tensor(result, dtype=v.dtype) for result in results)
    cp = backend.cupy()
    with cp.cuda.Device(v.device.index), cp.cuda.ExternalStream(torch.cuda.current_stream(v.device).cuda_stream):
        results = on_cupy(name, cp.from_dlpack(v), cp.from_dlpack(x))
    results = results if isinstance(results, tuple) else (results,)
    return tuple(from_dlpack(result) for result in results)


class _LogBessel(torch.autograd.Function):
    """One of the four logs; its gradient is made of `_FirstDerivatives`."""

    @staticmethod
    def forward(name: str, v: Tensor, x: Tensor) -> Tensor:
        return evaluate(name, v, x)[0]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[str, Tensor, Tensor], output: Tensor) -> None:
        ctx.name, v, x = inputs
        ctx.save_for_backward(v, x)
        ctx.save_for_forward(v, x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, Tensor]:
        v, x = ctx.saved_tensors
        to_v, to_x = _FirstDerivatives.apply(ctx.name, v, x)
        return None, (gradient * to_v).sum_to_size(v.shape), (gradient * to_x).sum_to_size(x.shape)

    @staticmethod
    def jvp(ctx: Any, _: None, v_tangent: Tensor | None, x_tangent: Tensor | None) -> Tensor:
        slopes = _FirstDerivatives.apply(ctx.name, *ctx.saved_tensors)
        return _add_up(slopes, (v_tangent, x_tangent))

    @staticmethod
    def vmap(info: Any, in_dims: tuple[None, int | None, int | None], name: str, v: Tensor, x: Tensor) -> tuple[Tensor, int]:
        return _LogBessel.apply(name, *_batch_first(in_dims[1:], v, x)), 0


class _FirstDerivatives(torch.autograd.Function):
    """d/dv and d/dx of one of the four logs; differentiable once."""

    @staticmethod
    def forward(name: str, v: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        to_v, to_x = evaluate(f"{name}_derivatives", v, x)[:2]
        return to_v, to_x

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[str, Tensor, Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.name, v, x = inputs
        ctx.save_for_backward(v, x)
        ctx.save_for_forward(v, x)

    @staticmethod
    def backward(ctx: Any, v_gradient: Tensor, x_gradient: Tensor) -> tuple[None, Tensor, Tensor]:
        v, x = ctx.saved_tensors
        vv, vx, xx = _SecondDerivatives.apply(ctx.name, v, x)
        to_v, to_x = v_gradient * vv + x_gradient * vx, v_gradient * vx + x_gradient * xx
        return None, to_v.sum_to_size(v.shape), to_x.sum_to_size(x.shape)

    @staticmethod
    def jvp(ctx: Any, _: None, v_tangent: Tensor | None, x_tangent: Tensor | None) -> tuple[Tensor, Tensor]:
        vv, vx, xx = _SecondDerivatives.apply(ctx.name, *ctx.saved_tensors)
        tangents = (v_tangent, x_tangent)
        return _add_up((vv, vx), tangents), _add_up((vx, xx), tangents)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[None, int | None, int | None], name: str, v: Tensor, x: Tensor
    ) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
        return _FirstDerivatives.apply(name, *_batch_first(in_dims[1:], v, x)), (0, 0)


class _SecondDerivatives(torch.autograd.Function):
    """d2/dv2, d2/dvdx, d2/dx2 of one of the four logs; refuses to be differentiated."""

    @staticmethod
    def forward(name: str, v: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        vv, vx, xx = evaluate(f"{name}_derivatives", v, x)[2:]
        return vv, vx, xx

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[str, Tensor, Tensor], output: tuple[Tensor, ...]) -> None:
        ctx.name = inputs[0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> None:
        raise NotImplementedError(f"{ctx.name} can be differentiated {SECOND} times; a third derivative was asked for.")

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[None, int | None, int | None], name: str, v: Tensor, x: Tensor
    ) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[int, int, int]]:
        return _SecondDerivatives.apply(name, *_batch_first(in_dims[1:], v, x)), (0, 0, 0)


class _MeanResultantLength(torch.autograd.Function):
    """A = I_{v+1}(kappa)/I_v(kappa) and 1 - A; differentiable once in kappa."""

    @staticmethod
    def forward(slope: Callable[[float, Tensor], Tensor], order: float, concentration: Tensor) -> tuple[Tensor, Tensor]:
        length, complement = evaluate("ratio_and_complement", torch.full_like(concentration, order), concentration)
        return length, complement

    @staticmethod
    def setup_context(
        ctx: Any, inputs: tuple[Callable[[float, Tensor], Tensor], float, Tensor], output: tuple[Tensor, Tensor]
    ) -> None:
        ctx.slope, ctx.order, concentration = inputs
        ctx.save_for_backward(concentration)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_length: Tensor, to_complement: Tensor) -> tuple[None, None, Tensor]:
        return None, None, (to_length - to_complement) * ctx.slope(ctx.order, ctx.saved_tensors[0])


def _add_up(slopes: tuple[Tensor, Tensor], tangents: tuple[Tensor | None, Tensor | None]) -> Tensor:
    terms = [slope * tangent for slope, tangent in zip(slopes, tangents, strict=True) if tangent is not None]
    return terms[0] if len(terms) == 1 else terms[0] + terms[1]


def _batch_first(dims: tuple[int | None, int | None], *tensors: Tensor) -> list[Tensor]:
    """Bring the batch dimension to the front and level the others, so that the rest broadcasts as it would one by one."""
    width = max(tensor.ndim - (dim is not None) for tensor, dim in zip(tensors, dims, strict=True))
    moved = []
    for tensor, dim in zip(tensors, dims, strict=True):
        front = tensor.movedim(dim, 0) if dim is not None else tensor.unsqueeze(0)
        missing = width - (front.ndim - 1)
        moved.append(front.reshape(front.shape[0], *(1,) * missing, *front.shape[1:]))
    return moved
