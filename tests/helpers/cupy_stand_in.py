"""NumPy in CuPy's clothes, where there is no GPU: arrays that call themselves CuPy's and refuse NumPy's; emulated kernels."""

from __future__ import annotations

import ctypes
import types
from typing import Any

import numpy as np


class ndarray(np.ndarray):
    """An array by the name that `library_of` asks for, with what CuPy's arrays have and NumPy's have not."""

    @property
    def data(self) -> Any:
        return types.SimpleNamespace(ptr=self.ctypes.data)

    def get(self) -> np.ndarray:
        return np.array(self)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, out: Any = (), **settings: Any) -> Any:
        for value in (*inputs, *out):
            if type(value) is np.ndarray and value.ndim > 0:
                raise TypeError(f"Unsupported type {type(value)}: CuPy does not mix with NumPy.")
        plain = [value.view(np.ndarray) if isinstance(value, ndarray) else value for value in inputs]
        if out:
            settings["out"] = tuple(value.view(np.ndarray) for value in out)
        result = getattr(ufunc, method)(*plain, **settings)
        return out[0] if out else dressed(result)


ndarray.__module__ = "cupy"


def dressed(value: Any) -> Any:
    """What CuPy would give: arrays of its own, scalars as arrays without axes."""
    if isinstance(value, np.ndarray | np.generic):
        return np.asarray(value).view(ndarray)
    return [dressed(one) for one in value] if isinstance(value, list | tuple) else value


class Namespace:
    """`cupy`, or a part of it: NumPy's functions by their names, giving CuPy's arrays."""

    def __init__(self, module: Any, **own: Any) -> None:
        self.module = module
        self.__dict__.update(own)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.module, name)
        if isinstance(found, types.ModuleType):
            return Namespace(found)
        return found if isinstance(found, type) or not callable(found) else lambda *a, **k: dressed(found(*a, **k))


class Kernel:
    """An emulated kernel `run_<entry>(blocks, threads, ...)`, called as CuPy calls a raw one."""

    def __init__(self, library: ctypes.CDLL, entry: str, launches: list[str]) -> None:
        self.run, self.entry, self.launches = getattr(library, f"run_{entry}"), entry, launches
        self.run.restype = None

    def __call__(self, grid: tuple[int, ...], block: tuple[int, ...], arguments: tuple[Any, ...]) -> None:
        given = []
        for value in arguments:
            if isinstance(value, ndarray):
                assert value.flags.c_contiguous, "a kernel takes contiguous arrays"
                given.append(ctypes.c_void_p(value.ctypes.data))
            else:
                assert type(value) is np.int32, f"a kernel takes arrays and 32-bit numbers, not {type(value)}"
                given.append(ctypes.c_int(int(value)))
        self.launches.append(self.entry)
        self.run(ctypes.c_int(grid[0]), ctypes.c_int(block[0]), *given)


def stand_in(library: ctypes.CDLL, launches: list[str]) -> Namespace:
    """A module `cupy` whose raw kernels are those of the emulated library; `launches` is told their names."""

    def raw_module(code: str, options: tuple[str, ...], backend: str) -> Any:
        assert backend == "nvrtc"
        return types.SimpleNamespace(get_function=lambda entry: Kernel(library, entry, launches))

    return Namespace(np, RawModule=raw_module, ndarray=ndarray)
