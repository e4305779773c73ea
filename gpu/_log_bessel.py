"""NumPy universal functions of the compiled log-Bessel kernels.

The library holds plain inner loops (gpu/cpu/log_bessel_loops.cpp); NumPy's C function that makes a universal function of
loops is called through its table of C functions, as every extension does. So nothing is compiled against Python or NumPy,
and one library serves all their versions.
"""

from __future__ import annotations

import ctypes
import importlib
from typing import Any

import numpy as np

from gpu.native import load_library

# In the order of `functions` in gpu/cpu/log_bessel_loops.cpp.
DOCUMENTATION = {
    "log_iv": "log I_v(x)",
    "log_ive": "log I_v(x) - x",
    "log_kv": "log K_v(x)",
    "log_kve": "log K_v(x) + x",
    "log_iv_derivatives": "d/dv, d/dx, d2/dv2, d2/dvdx, d2/dx2 of log I_v(x)",
    "log_ive_derivatives": "the same of log I_v(x) - x",
    "log_kv_derivatives": "the same of log K_v(x)",
    "log_kve_derivatives": "the same of log K_v(x) + x",
    "iv_ratio": "I_v(x) / I_{v-1}(x)",
    "ratio_and_complement": "A = I_{v+1}(x) / I_v(x) and 1 - A",
    "ratio_inverse": "the x at which I_{v+1}(x) / I_v(x) is the second argument",
}
MOST_THREADS = 4096
_FROM_FUNC_AND_DATA = 1  # place of PyUFunc_FromFuncAndData in NumPy's table
_NO_IDENTITY = -1  # PyUFunc_None
_INPUTS = 2


def _load() -> ctypes.CDLL:
    library = load_library("log_bessel")
    for name in ("loop", "data"):
        getattr(library, f"log_bessel_{name}").restype = ctypes.c_void_p
    library.log_bessel_instruction_set.restype = ctypes.c_char_p
    return library


_LIBRARY = _load()
_KEPT: list[Any] = []  # a universal function keeps pointers to what it was made of


def _make_ufunc(number: int, name: str, documentation: str) -> np.ufunc:
    get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
    get_pointer.restype, get_pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    capsule = importlib.import_module("numpy._core._multiarray_umath")._UFUNC_API  # where NumPy's own headers find it
    table = ctypes.cast(get_pointer(capsule, None), ctypes.POINTER(ctypes.c_void_p))
    make = ctypes.PYFUNCTYPE(
        ctypes.py_object, *[ctypes.c_void_p] * 3, *[ctypes.c_int] * 4, *[ctypes.c_char_p] * 2, ctypes.c_int,
    )(table[_FROM_FUNC_AND_DATA])  # fmt: skip
    outputs = _LIBRARY.log_bessel_outputs(number)
    loops = (ctypes.c_void_p * 2)(_LIBRARY.log_bessel_loop(0), _LIBRARY.log_bessel_loop(1))
    data = (ctypes.c_void_p * 2)(*[_LIBRARY.log_bessel_data(number)] * 2)
    types = bytes(np.dtype(kind).num for kind in (np.float32, np.float64) for _ in range(_INPUTS + outputs))
    kept = (loops, data, ctypes.create_string_buffer(types), name.encode(), documentation.encode())
    _KEPT.append(kept)
    made: np.ufunc = make(*kept[:3], 2, _INPUTS, outputs, _NO_IDENTITY, *kept[3:], 0)
    return made


_UFUNCS = [_make_ufunc(number, *named) for number, named in enumerate(DOCUMENTATION.items())]
(
    log_iv, log_ive, log_kv, log_kve, log_iv_derivatives, log_ive_derivatives, log_kv_derivatives, log_kve_derivatives,
    iv_ratio, ratio_and_complement, ratio_inverse,
) = _UFUNCS  # fmt: skip


def set_threads(count: int) -> None:
    """Set the most threads that one call on a large array may use."""
    if not 1 <= count <= MOST_THREADS:
        raise ValueError(f"threads must lie in 1 .. {MOST_THREADS}; got {count}.")
    _LIBRARY.log_bessel_set_threads(count)


def get_threads() -> int:
    """Give the most threads that one call on a large array may use."""
    return int(_LIBRARY.log_bessel_get_threads())


def instruction_sets() -> list[str]:
    """Name the kernels that this processor can run, the widest last."""
    return list(_NUMBERS)


def instruction_set() -> str:
    """Name the kernels in use: the widest that the processor has."""
    return _chosen[0]


def set_instruction_set(name: str) -> None:
    """Choose the kernels; for tests and benchmarks."""
    if name not in _NUMBERS:
        raise ValueError(f"instruction set {name!r} is not available here; choose from {instruction_sets()}.")
    _LIBRARY.log_bessel_choose(_NUMBERS[name])
    _chosen[0] = name


def _available() -> dict[str, int]:
    found, number = {}, 0
    while name := _LIBRARY.log_bessel_instruction_set(number):
        if _LIBRARY.log_bessel_is_available(number):
            found[name.decode()] = number
        number += 1
    return found


_NUMBERS = _available()
_chosen = [""]
set_instruction_set(list(_NUMBERS)[-1])
