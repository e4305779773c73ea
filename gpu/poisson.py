"""Door to the CPU kernels of the Poisson equation (gpu/cpu/poisson): multigrid, its solve loop, triangular solves.

It checks nothing: `solvers` calls it and has checked. Grids are (nx, ny, nz); two-dimensional ones have nx = 1.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gpu.native import load_library

ENDS = ("converged", "maxiter", "curvature", "not finite", "stalled")


class CycleSettings(ctypes.Structure):
    """What a V-cycle does.

    sweeps_fine, sweeps_coarse: red-black sweeps before and after, each. over_fine, over_coarse: relaxation of the first colour.
    tie: interpolation across faces, 1 is linear and 0 constant. stiffness: of coarse faces, 1 is the discretisation's.
    """

    _fields_ = (
        ("sweeps_fine", ctypes.c_int),
        ("sweeps_coarse", ctypes.c_int),
        ("threads", ctypes.c_int),
        ("reserved", ctypes.c_int),
        ("over_fine", ctypes.c_float),
        ("over_coarse", ctypes.c_float),
        ("tie", ctypes.c_float),
        ("stiffness", ctypes.c_float),
    )


class HostLevel(ctypes.Structure):
    """A level of the cycle: `Level` of gpu/cuda/poisson.cuh, which tells the fields."""

    _fields_ = (
        ("n", ctypes.c_int * 3),
        ("half", ctypes.c_int),
        ("pitch", ctypes.c_int),
        ("row", ctypes.c_long),
        ("plane", ctypes.c_long),
        ("coarsens", ctypes.c_int * 3),
        ("periodic", ctypes.c_int * 3),
        ("weight", ctypes.c_double * 3),
        ("over", ctypes.c_float),
        *((name, ctypes.c_void_p) for name in ("code", "face_x", "face_y", "face_z", "diagonal", "tie_x", "tie_y", "tie_z")),
        *((name, ctypes.c_void_p) for name in ("x", "b", "r")),
    )

    @property
    def cells(self) -> int:
        """Of the grid, walls included."""
        return int(np.prod(self.n))

    @property
    def values(self) -> int:
        """Of one colour, walls included."""
        return int(self.n[0] * self.n[1] * self.half)

    @property
    def has_odd_wrap(self) -> bool:
        """Whether a periodic axis of odd length ties cells of one colour."""
        return any(wraps and n % 2 for n, wraps in zip(self.n, self.periodic, strict=True))


class _Report(ctypes.Structure):
    _fields_ = (
        ("residual", ctypes.c_double),
        ("tolerance", ctypes.c_double),
        ("iterations", ctypes.c_int),
        ("end", ctypes.c_int),
        ("updates", ctypes.c_int),
        ("capacity", ctypes.c_int),
    )


class Solved(NamedTuple):
    """Solution (nx, ny, nz), how it ended (one of ENDS), norm of the true residual, tolerance, and the norms step by step."""

    solution: np.ndarray
    end: str
    residual_norm: float
    tolerance: float
    iterations: int
    history: tuple[float, ...]


class Hierarchy:
    """Levels of a multigrid cycle for one geometry.

    Parameters
    ----------
    cells
        uint8 flags (0 fluid, 1 solid, 2 air) with a halo that says what lies behind the box, (nx + 2, ny + 2, nz + 2).
    weight
        Of a face along each axis, the largest of them 1.
    periodic
        For each axis.
    faces, excess
        None where all open faces have `weight`; else three and six float32 arrays (nx, ny, nz).
    coarsening
        None for the discretisation's own coarse levels; else the float32 weights of gpu/cpu/poisson/learned_coarsening.h,
        one array behind the other.
    """

    def __init__(
        self,
        cells: np.ndarray,
        weight: Sequence[float],
        periodic: Sequence[bool],
        settings: CycleSettings,
        faces: Sequence[np.ndarray] | None = None,
        excess: Sequence[np.ndarray] | None = None,
        coarsening: np.ndarray | None = None,
    ) -> None:
        self.shape, self.settings = tuple(n - 2 for n in cells.shape), settings
        create = _function("create")
        create.restype = ctypes.c_void_p
        cells = np.ascontiguousarray(cells)
        self._handle = ctypes.c_void_p(
            create(
                (ctypes.c_int * 3)(*self.shape),
                (ctypes.c_int * 3)(*map(int, periodic)),
                (ctypes.c_double * 3)(*weight),
                _pointer(cells),
                _pointers(faces),
                _pointers(excess),
                ctypes.byref(settings),
                None if coarsening is None else _pointer(coarsening),
            )
        )
        weakref.finalize(self, _function("free"), self._handle)

    @property
    def count(self) -> int:
        """How many levels there are."""
        count = _function("count")
        count.restype = ctypes.c_int
        return int(count(self._handle))

    def level(self, number: int) -> tuple[HostLevel, int]:
        """One level, its pointers to the host's arrays, and how many values each of them holds."""
        describe, level = _function("level"), HostLevel()
        describe.restype = ctypes.c_int64
        return level, int(describe(self._handle, ctypes.c_int(number), ctypes.byref(level)))

    def bottom(self) -> tuple[np.ndarray, np.ndarray]:
        """The coarsest level's inverse, float32 (m, m), and the places of its m cells, int64."""
        function = _function("bottom")
        function.restype = ctypes.c_int64
        m = int(function(self._handle, None, None))
        inverse, cells = np.zeros((m, m), np.float32), np.zeros(m, np.int64)
        function(self._handle, _pointer(inverse), _pointer(cells))
        return inverse, cells

    def cycle(self, r: np.ndarray, threads: int) -> np.ndarray:
        """One V-cycle from zero on a vector of the fluid cells' values; computed in float32."""
        r = np.ascontiguousarray(r, dtype=np.float64)
        z = np.empty_like(r)
        scale = float(np.abs(r).max(initial=0.0)) or 1.0
        _function("cycle")(self._handle, _pointer(r), _pointer(z), ctypes.c_double(scale), ctypes.c_int(threads))
        return z * scale

    def solve(self, right: np.ndarray, guess: np.ndarray, tolerance: float, maxiter: int, threads: int) -> Solved:
        """Conjugate gradients to |right - A x| <= tolerance: float32 directions, float64 solution; plain faces only."""
        right, result = np.ascontiguousarray(right, np.float64), np.array(guess, np.float64, order="C")
        scale = max(float(np.abs(right).max()), float(np.abs(result).max())) or 1.0
        history, report = np.zeros(maxiter + 1), _Report()
        _function("solve")(
            self._handle,
            _pointer(right),
            _pointer(result),
            *map(ctypes.c_double, (scale, tolerance)),
            *map(ctypes.c_int, (maxiter, threads, history.size)),
            _pointer(history),
            ctypes.byref(report),
        )
        steps = tuple(history[: report.iterations + 1].tolist())
        return Solved(result, ENDS[report.end], report.residual, report.tolerance, report.iterations, steps)


def pivots(n: int, start: np.ndarray, column: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Pivots of IC(0) of a CSR matrix with int64 indices."""
    found = np.empty(n)
    _function("pivots")(ctypes.c_int64(n), *map(_pointer, (start, column, value, found)))
    return found


def triangular_solves(start: np.ndarray, column: np.ndarray, value: np.ndarray, pivot: np.ndarray, r: np.ndarray) -> np.ndarray:
    """Solve (D + E) D^-1 (D + E)^T z = r."""
    r = np.ascontiguousarray(r, dtype=np.float64)
    z = np.empty_like(r)
    _function("triangular")(ctypes.c_int64(r.size), *map(_pointer, (start, column, value, pivot, r, z)))
    return z


def _pointer(array: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def _pointers(arrays: Sequence[np.ndarray] | None) -> Any:
    return None if arrays is None else (ctypes.c_void_p * len(arrays))(*(array.ctypes.data for array in arrays))


@cache
def _function(name: str) -> Any:
    function = getattr(load_library("poisson"), f"poisson_{name}_skysolve_{instructions()}")
    function.restype = None
    return function


@cache
def instructions() -> str:
    """Which of the compiled variants this processor runs best, by what Linux says of it; the portable one elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "portable"
    flags = set(next((line for line in lines if line.startswith("flags")), "").split())
    if {"avx2", "fma", "avx512f", "avx512dq"} <= flags:
        return "avx512"
    return "avx2" if {"avx2", "fma"} <= flags else "portable"
