"""Multigrid and the operator on CuPy arrays: launches of gpu/cuda/poisson_kernels.cuh.

Levels are made on the host (gpu/cpu/poisson) and copied once; a cycle then runs on the device alone. It checks nothing:
`solvers` calls it and has checked.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np

from gpu.backend import CUDA_SOURCES, cupy, raw_kernel
from gpu.poisson import Hierarchy, HostLevel

THREADS = 256  # of a block
OPTIONS = ("-std=c++17", f"-I{CUDA_SOURCES}")
SOURCE = '#include "poisson_kernels.cuh"\n'
FROM_ZERO, OVER, PLAIN = range(3)  # as in poisson.cuh
FIRST, SECOND = 0, 1  # colours
CONSTANT = ("face_x", "face_y", "face_z", "diagonal", "tie_x", "tie_y", "tie_z")


def launch(entry: str, threads: int, *arguments: Any) -> None:
    """Run one kernel with at least this many threads; whole numbers go as 32-bit ones."""
    given = [np.int32(value) if isinstance(value, int) else value for value in arguments]
    raw_kernel(SOURCE, entry, OPTIONS)((-(-threads // THREADS),), (THREADS,), tuple(given))


def apply(grid: Any, diagonal: Any, weights: Sequence[Any], periodic: Sequence[bool]) -> Any:
    """A p on a CuPy grid (nx, ny, nz) or (nx, ny), float64.

    Parameters
    ----------
    grid
        p; what it holds outside the fluid does not count.
    diagonal
        The matrix's diagonal on the grid, 0 outside the fluid.
    weights
        For each axis the faces' off-diagonal entries with changed sign, one more than cells along it.
    periodic
        For each axis.
    """
    cp, missing = cupy(), 3 - grid.ndim
    grid = cp.ascontiguousarray(grid, dtype=np.float64)
    shape = (1,) * missing + grid.shape
    faces = [cp.zeros((2, *shape[1:]))] * missing + [cp.ascontiguousarray(weight, dtype=np.float64) for weight in weights]
    wrapped = sum(1 << (missing + axis) for axis, wraps in enumerate(periodic) if wraps)
    out = cp.empty_like(grid)
    launch("poisson_apply", grid.size, grid, cp.ascontiguousarray(diagonal), *faces, out, *map(int, shape), wrapped)
    return out


class DeviceHierarchy:
    """The levels of a `Hierarchy` on the device.

    Parameters
    ----------
    hierarchy
        On the host; it may go afterwards.
    fluid
        bool, (nx, ny, nz), NumPy: which cells the vectors hold, in C order.
    """

    def __init__(self, hierarchy: Hierarchy, fluid: np.ndarray) -> None:
        cp, self.settings = cupy(), hierarchy.settings
        self.levels = [hierarchy.level(number) for number in range(hierarchy.count)]
        self.arrays = [self._copied(level, size) for level, size in self.levels]
        structs = b"".join(bytes(level) for level, _ in self.levels)
        self.structs = cp.asarray(np.frombuffer(structs, np.uint8).copy())
        inverse, cells = hierarchy.bottom()
        self.inverse, self.cells, self.bottom_count = cp.asarray(inverse), cp.asarray(cells), cells.size
        self.places = cp.asarray(_places(self.levels[0][0], fluid))

    @staticmethod
    def _copied(level: HostLevel, size: int) -> dict[str, Any]:
        """The level's arrays on the device; its pointers then point to them."""
        cp, arrays = cupy(), {}
        for name in (*CONSTANT, "code"):
            if getattr(level, name):
                kind = ctypes.c_uint8 if name == "code" else ctypes.c_float
                host = np.ctypeslib.as_array(ctypes.cast(getattr(level, name), ctypes.POINTER(kind)), (size,))
                arrays[name] = cp.asarray(host.copy())
        arrays |= {name: cp.zeros(size, dtype=np.float32) for name in ("x", "b", "r")}
        for name, array in arrays.items():
            setattr(level, name, array.data.ptr)
        return arrays

    def cycle(self, r: Any) -> Any:
        """One V-cycle from zero on a CuPy vector of the fluid cells' values, float64 in and out; computed in float32."""
        cp = cupy()
        scale = cp.maximum(cp.abs(r).max(), np.finfo(np.float64).tiny)
        self.arrays[0]["b"][self.places] = (r / scale).astype(np.float32)
        last = len(self.levels) - 1
        for number in range(last):
            self._descend(number)
        launch("poisson_bottom", self.bottom_count, self.structs, last, self.inverse, self.cells, self.bottom_count)
        self._wrap(last)
        for number in reversed(range(last)):
            self._ascend(number)
        return self.arrays[0]["x"][self.places].astype(np.float64) * scale

    def _descend(self, number: int) -> None:
        level = self.levels[number][0]
        odd = level.has_odd_wrap
        if odd:
            self.arrays[number]["x"].fill(0)
        for sweep in range(self._sweeps(number)):
            self._relax(number, FIRST, FROM_ZERO if sweep == 0 else OVER)
            self._relax(number, SECOND, OVER if odd else PLAIN)
        launch("poisson_residual", level.values, self.structs, number, int(odd))
        launch("poisson_restrict", self.levels[number + 1][0].cells, self.structs, number)

    def _ascend(self, number: int) -> None:
        level = self.levels[number][0]
        odd = level.has_odd_wrap
        launch("poisson_prolong", level.values, self.structs, number, int(odd))
        self._wrap(number)
        for _ in range(self._sweeps(number)):
            self._relax(number, SECOND, OVER if odd else PLAIN)
            self._relax(number, FIRST, OVER)

    def _relax(self, number: int, colour: int, how: int) -> None:
        launch("poisson_relax", self.levels[number][0].values, self.structs, number, colour, how)
        self._wrap(number)

    def _wrap(self, number: int) -> None:
        level = self.levels[number][0]
        if any(level.periodic):
            nx, ny, nz = level.n
            launch("poisson_wrap", nx * ny + ny * nz + nz * nx, self.structs, number)

    def _sweeps(self, number: int) -> int:
        return int(self.settings.sweeps_coarse if number else self.settings.sweeps_fine)


def _places(level: HostLevel, fluid: np.ndarray) -> np.ndarray:
    """Where each fluid cell's value lies in the finest level's arrays, in C order."""
    i, j, k = np.nonzero(fluid)
    return (i + 1) * level.plane + (j + 1) * level.row + 1 + (k & 1) * level.pitch + k // 2
