"""Which library an array belongs to, and CUDA kernels on arrays that lie on a GPU. The only module that imports CuPy."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

CUDA_SOURCES = Path(__file__).parent / "cuda"
TILE, THREADS = 1024, 128  # values and threads of a block, as in log_bessel_kernels.cuh
# Contraction would break the compensated sums, see double_double.cuh.
COMPILER_OPTIONS = ("-std=c++17", "--fmad=false", f"-I{CUDA_SOURCES}")


def library_of(**arguments: Any) -> str:
    """Name the library of the arrays among `arguments`: "numpy", "cupy" or "torch".

    Numbers, lists and NumPy scalars go with any of them; without any array the answer is "numpy".

    Raises
    ------
    TypeError
        If arrays of two libraries are mixed, or torch tensors of two devices.
    """
    owners: dict[str, str] = {}
    for name, value in arguments.items():
        root = type(value).__module__.partition(".")[0]
        if root in ("cupy", "torch"):
            owners[name] = root
        elif isinstance(value, np.ndarray) and value.ndim > 0:
            owners[name] = "numpy"
    if len(set(owners.values())) > 1:
        found = ", ".join(f"{name} is of {library}" for name, library in owners.items())
        raise TypeError(f"all arrays must be of one library; {found}. Convert one of them.")
    devices = {name: str(arguments[name].device) for name, library in owners.items() if library == "torch"}
    if len(set(devices.values())) > 1:
        found = ", ".join(f"{name} is on {device}" for name, device in devices.items())
        raise TypeError(f"all tensors must be on one device; {found}. Move one with .to(device).")
    return next(iter(owners.values()), "numpy")


def cupy() -> ModuleType:
    """Import CuPy.

    Raises
    ------
    ImportError
        If it is not installed.
    """
    if importlib.util.find_spec("cupy") is None:
        raise ImportError("arrays on a GPU need CuPy, which is not installed. Install it: pip install 'skysolve[gpu-cuda13]'.")
    import cupy as module

    return module


def kernel_source(entry: str, family: str, outputs: int, dtype: str, *, sorted_by_regime: bool) -> str:
    """CUDA C++ of one kernel `entry` on arrays of `dtype`, "float64" or "float32"."""
    macro = "SKYSOLVE_BY_REGIME" if sorted_by_regime else "SKYSOLVE_EACH"
    element = {"float64": "double", "float32": "float"}[dtype]
    arguments = f"{family}, {outputs}, {element}" if sorted_by_regime else f"{outputs}, {element}, {family}"
    return f'#include "log_bessel_kernels.cuh"\n{macro}({entry}, {arguments})\n'


@functools.cache
def _compiled(family: str, outputs: int, dtype: str, sorted_by_regime: bool) -> Any:
    entry = f"{family}_{dtype}"
    source = kernel_source(entry, family, outputs, dtype, sorted_by_regime=sorted_by_regime)
    return cupy().RawModule(code=source, options=COMPILER_OPTIONS, backend="nvrtc").get_function(entry)


@functools.cache
def raw_kernel(source: str, entry: str, options: tuple[str, ...]) -> Any:
    """The kernel `entry` of CUDA C++ `source`, compiled at the first call."""
    return _raw_module(source, options).get_function(entry)


@functools.cache
def _raw_module(source: str, options: tuple[str, ...]) -> Any:
    return cupy().RawModule(code=source, options=options, backend="nvrtc")


def run_kernel(family: str, outputs: int, v: Any, x: Any, *, scaled: float, sorted_by_regime: bool) -> Sequence[Any]:
    """Run one kernel on CuPy arrays.

    Parameters
    ----------
    family, outputs, sorted_by_regime
        What `log_bessel_kernels.cuh` calls it, how many arrays it gives, and by which of its two macros.
    v, x
        CuPy arrays of one shape and dtype, float32 or float64, C-contiguous.
    scaled
        1.0 for logs of exponentially scaled functions.

    Returns
    -------
    sequence of cupy.ndarray
        `outputs` arrays of the shape and dtype of `v`.
    """
    results = cupy().empty((outputs, *v.shape), dtype=v.dtype)
    if v.size:
        kernel = _compiled(family, outputs, v.dtype.name, sorted_by_regime)
        blocks = -(-v.size // TILE)
        kernel((blocks,), (THREADS,), (v, x, results, np.int64(v.size), np.float64(scaled)))
    return results


def namespace(library: str) -> Any:
    """The module whose functions act on arrays of `library`."""
    if library == "torch":
        import torch

        return torch
    return cupy() if library == "cupy" else np


def namespace_of(array: Any) -> Any:
    """The module whose functions act on `array`."""
    return namespace(library_of(array=array))


def to_dtype(array: Any, like: Any) -> Any:
    """The same numbers in the dtype of `like`."""
    return array.to(like.dtype) if hasattr(array, "to") else array.astype(like.dtype)


def integers(library: str, values: np.ndarray, *, like: Any) -> Any:
    """Integers as an array of `library` on the device of `like`."""
    if library == "torch":
        import torch

        return torch.as_tensor(values, device=like.device)
    return namespace(library).asarray(values)


def as_floating(library: str, value: Any, *, beside: Any = None) -> Any:
    """An array of `library` of dtype float32 or float64; numbers of Python take dtype and device of the array `beside` them."""
    if library == "torch":
        import torch

        other = beside if isinstance(beside, torch.Tensor) else None
        if not isinstance(value, torch.Tensor):
            dtype = other.dtype if other is not None and other.is_floating_point() else torch.float64
            return torch.as_tensor(value, dtype=dtype, device=None if other is None else other.device)
        return value if value.dtype in (torch.float32, torch.float64) else value.to(torch.float64)
    array = namespace(library).asarray(value)
    number = isinstance(value, int | float) and not isinstance(value, np.generic)
    if number and getattr(beside, "dtype", None) == np.float32 and abs(value) <= float(np.finfo(np.float32).max):
        return array.astype(np.float32)
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float64)


def as_float64(array: Any) -> Any:
    """The same in float64."""
    return array.double() if hasattr(array, "double") else array.astype(np.float64, copy=False)


def to_wider(*arrays: Any) -> tuple[Any, ...]:
    """All in float64 if one of them is."""
    wide = any(str(array.dtype).endswith("float64") for array in arrays)
    return tuple(as_float64(array) for array in arrays) if wide else arrays


def concatenate(xp: Any, parts: Sequence[Any]) -> Any:
    """Join along the last axis; leading axes broadcast."""
    shape = np.broadcast_shapes(*(tuple(part.shape[:-1]) for part in parts))
    return xp.concatenate([xp.broadcast_to(part, (*shape, part.shape[-1])) for part in parts], -1)


class Draws:
    """Random numbers of one library, with the dtype and on the device of `like`.

    Parameters
    ----------
    library
        "numpy", "cupy" or "torch".
    rng
        None, a seed, or a generator of that library.
    like
        An array of that library.
    """

    def __init__(self, library: str, rng: Any, *, like: Any) -> None:
        self.library, self.like = library, like
        self.rng: Any
        if library == "torch":
            import torch

            self.rng = rng if isinstance(rng, torch.Generator) else torch.Generator(like.device)
            if rng is None:
                self.rng.seed()
            elif self.rng is not rng:
                self.rng.manual_seed(rng)
        else:
            self.rng = namespace(library).random.default_rng(rng)

    def uniform(self, shape: tuple[int, ...]) -> Any:
        """In (0, 1]."""
        if self.library == "torch":
            import torch

            return 1 - torch.rand(shape, generator=self.rng, dtype=self.like.dtype, device=self.like.device)
        return 1 - self.rng.random(shape, dtype=self.like.dtype)

    def normal(self, shape: tuple[int, ...]) -> Any:
        """Standard normal."""
        if self.library == "torch":
            import torch

            return torch.randn(shape, generator=self.rng, dtype=self.like.dtype, device=self.like.device)
        return self.rng.standard_normal(shape, dtype=self.like.dtype)

    def symmetric_beta(self, a: float, shape: tuple[int, ...]) -> Any:
        """Beta(a, a), from two gamma variates."""
        if self.library == "torch":
            import torch

            rates = torch.full((2, *shape), a, dtype=self.like.dtype, device=self.like.device)
            first, second = torch._standard_gamma(rates, generator=self.rng)
        else:
            first, second = self.rng.standard_gamma(a, (2, *shape), dtype=self.like.dtype)
        return first / (first + second)
