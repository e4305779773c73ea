"""The compiled functions of two arrays: NumPy ufuncs and CUDA kernels, and who is at fault when one refuses its arguments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gpu import _log_bessel, backend


@dataclass(frozen=True)
class Function:
    """How one function is called on each machine."""

    ufunc: np.ufunc
    family: str  # in log_bessel_kernels.cuh
    outputs: int = 1
    scaled: float = 0.0
    sorted_by_regime: bool = True

    def on_gpu(self, v: Any, x: Any) -> Any:
        """Run the CUDA kernel on contiguous CuPy arrays of one shape and dtype; see `backend.run_kernel`."""
        return backend.run_kernel(self.family, self.outputs, v, x, scaled=self.scaled, sorted_by_regime=self.sorted_by_regime)


FUNCTIONS = {
    "log_iv": Function(_log_bessel.log_iv, "LogI"),
    "log_ive": Function(_log_bessel.log_ive, "LogI", scaled=1.0),
    "log_kv": Function(_log_bessel.log_kv, "LogK"),
    "log_kve": Function(_log_bessel.log_kve, "LogK", scaled=1.0),
    "log_iv_derivatives": Function(_log_bessel.log_iv_derivatives, "DerivativesI", outputs=5),
    "log_ive_derivatives": Function(_log_bessel.log_ive_derivatives, "DerivativesI", outputs=5, scaled=1.0),
    "log_kv_derivatives": Function(_log_bessel.log_kv_derivatives, "DerivativesK", outputs=5),
    "log_kve_derivatives": Function(_log_bessel.log_kve_derivatives, "DerivativesK", outputs=5, scaled=1.0),
    "iv_ratio": Function(_log_bessel.iv_ratio, "any_ratio_to_lower_order", sorted_by_regime=False),
    "ratio_and_complement": Function(_log_bessel.ratio_and_complement, "any_ratio", outputs=2, sorted_by_regime=False),
    "ratio_inverse": Function(_log_bessel.ratio_inverse, "any_ratio_inverse", sorted_by_regime=False),
}


def on_numpy(name: str, v: Any, x: Any, *, out: Any = None, where: Any = True) -> Any:
    """Call the ufunc; say which argument it refused."""
    ufunc = FUNCTIONS[name].ufunc
    try:
        return ufunc(v, x, where=where) if out is None else ufunc(v, x, out=out, where=where)
    except (TypeError, ValueError):
        _check_numpy(name, v, x, out)
        raise


def _check_numpy(name: str, v: Any, x: Any, out: Any) -> None:
    """Raise the error that names the argument at fault, if one of the usual ones is."""
    shapes = {}
    for argument, value in (("v", v), ("x", x)):
        try:
            array = np.asarray(value)
        except ValueError as error:
            raise ValueError(f"{argument} of {name} must be a number or a rectangular array; got {value!r}.") from error
        if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
            raise TypeError(f"{argument} of {name} must be real, float64 at most; got {array.dtype}. Convert it to float64.")
        shapes[argument] = array.shape
    try:
        shape = np.broadcast_shapes(*shapes.values())
    except ValueError:
        raise ValueError(f"v and x of {name} must broadcast; got shapes {shapes['v']} and {shapes['x']}.") from None
    first = out[0] if isinstance(out, tuple) and out else out
    if isinstance(first, np.ndarray) and first.shape != shape:
        raise ValueError(f"out of {name} must have shape {shape}; got {first.shape}.")
    if isinstance(first, np.ndarray) and first.dtype.kind != "f":
        raise TypeError(f"out of {name} must be of a floating dtype; got {first.dtype}.")


def on_cupy(name: str, v: Any, x: Any, *, out: Any = None) -> Any:
    """Run the CUDA kernel; broadcast and make contiguous first."""
    function, cp = FUNCTIONS[name], backend.cupy()
    arrays = {"v": cp.asarray(v), "x": cp.asarray(x)}
    for argument, array in arrays.items():
        if array.dtype.kind not in "biuf":
            raise TypeError(f"{argument} of {name} must be real, float64 at most; got {array.dtype}. Convert it to float64.")
    # A Python number takes the dtype of the array beside it, as in NumPy.
    strong = [array.dtype for (argument, array), value in zip(arrays.items(), (v, x), strict=True) if not _is_weak(value)]
    dtype = np.result_type(np.float32 if all(one.itemsize <= 2 or one == np.float32 for one in strong) else np.float64)
    try:
        v, x = cp.broadcast_arrays(*(array.astype(dtype, copy=False) for array in arrays.values()))
    except ValueError:
        shapes = [array.shape for array in arrays.values()]
        raise ValueError(f"v and x of {name} must broadcast; got shapes {shapes[0]} and {shapes[1]}.") from None
    if out is not None:
        if function.outputs > 1 or out.shape != v.shape:
            raise ValueError(f"out of {name} must have shape {v.shape}; got {out.shape}.")
        if out.dtype.kind != "f":
            raise TypeError(f"out of {name} must be of a floating dtype; got {out.dtype}.")
    results = function.on_gpu(cp.ascontiguousarray(v), cp.ascontiguousarray(x))
    if out is not None:
        out[...] = results[0]
        return out
    return results[0] if function.outputs == 1 else tuple(results)


def _is_weak(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, np.generic)
