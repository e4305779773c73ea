"""The CUDA source without a GPU: to a cubin by NVRTC, and to a shared library that runs its thread blocks on the CPU."""

from __future__ import annotations

import ctypes
import importlib.util
import shutil
import subprocess
from pathlib import Path

import numpy as np

from gpu.array_functions import FUNCTIONS
from gpu.backend import COMPILER_OPTIONS, CUDA_SOURCES, THREADS, TILE, kernel_source

HEADER = Path(__file__).parents[1] / "gpu" / "thread_block.h"

# The layout of slots, and a family that tells how often each argument was computed: `v` is its regime, `x` its place.
SORTING = """
extern "C" int lay_out(const int* count, int* next) { return skysolve::lay_out(count, next); }
extern "C" int sizes(int k) { return k == 0 ? skysolve::MOST_REGIMES : k == 1 ? skysolve::ROOM : skysolve::WARP; }
namespace skysolve {
static int* calls;
struct Counted {
  static int regime(double v, double) { return (int)v; }
  static void compute(int regime, double, double x, double, double* out) { calls[(int)x]++, out[0] = regime; }
};
}
SKYSOLVE_BY_REGIME(counted, Counted, 1, double)
extern "C" void run_counted(const double* v, const double* x, double* out, int64_t n, int* calls) {
  skysolve::calls = calls;
  thread_block::launch((n + skysolve::TILE - 1) / skysolve::TILE, skysolve::THREADS, counted, v, x, out, n, 0.0);
}
"""


def entries(*single: str) -> dict[str, str]:
    """Source of every float64 kernel that the door may ask for, and of the float32 ones of the functions `single`, by name."""
    made = {}
    for name, function in FUNCTIONS.items():
        for dtype in ("float64", "float32") if name in single else ("float64",):
            entry = f"{function.family}_{dtype}"
            made[entry] = kernel_source(
                entry, function.family, function.outputs, dtype, sorted_by_regime=function.sorted_by_regime
            )
    return made


def nvrtc() -> ctypes.CDLL | None:
    """NVRTC from the wheel nvidia-cuda-nvrtc or from a CUDA toolkit; None if there is none."""
    found = importlib.util.find_spec("nvidia")
    folders = [Path(folder) for folder in (found.submodule_search_locations or [])] if found else []
    paths = [path for folder in folders for path in sorted(folder.glob("**/libnvrtc.so.*"))]
    compiler = shutil.which("nvcc")
    if compiler:
        paths += sorted(Path(compiler).resolve().parents[1].glob("**/libnvrtc.so.*"))
    for path in paths:
        try:
            for builtins in path.parent.glob("libnvrtc-builtins.so.*"):  # found by name later, if it is loaded already
                ctypes.CDLL(str(builtins), ctypes.RTLD_GLOBAL)
            return ctypes.CDLL(str(path))
        except OSError:
            continue
    return None


def cubin(library: ctypes.CDLL, source: str, architecture: str, options: tuple[str, ...] = COMPILER_OPTIONS) -> bytes:
    """Compile for one architecture, such as "sm_90".

    Raises
    ------
    RuntimeError
        With NVRTC's log, if it does not compile.
    """
    program = ctypes.c_void_p()
    assert library.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernels.cu", 0, None, None) == 0
    given = [*options, f"--gpu-architecture={architecture}"]
    array = (ctypes.c_char_p * len(given))(*(option.encode() for option in given))
    status = library.nvrtcCompileProgram(program, len(given), array)
    size = ctypes.c_size_t()
    if status != 0:
        library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value)
        library.nvrtcGetProgramLog(program, log)
        raise RuntimeError(log.value.decode())
    library.nvrtcGetCUBINSize(program, ctypes.byref(size))
    binary = ctypes.create_string_buffer(size.value)
    library.nvrtcGetCUBIN(program, binary)
    library.nvrtcDestroyProgram(ctypes.byref(program))
    return binary.raw


def emulate(folder: Path, *single: str) -> ctypes.CDLL:
    """Compile the kernels of `entries` for the CPU, each behind `run_<entry>(v, x, out, n, scaled)`."""
    lines = ["#include <cstdint>", f'#include "{HEADER}"']
    for entry, source in entries(*single).items():
        element = "double" if entry.endswith("64") else "float"
        lines += [
            source,
            f'extern "C" void run_{entry}(const {element}* v, const {element}* x, {element}* out, int64_t n, double scaled) {{',
            f"  thread_block::launch((n + {TILE - 1}) / {TILE}, {THREADS}, {entry}, v, x, out, n, scaled);",
            "}",
        ]
    lines.append(SORTING)
    return _compiled(folder / "emulated", lines)


POISSON = {  # the arguments of each kernel of poisson_kernels.cuh
    "relax": "const Level* levels, int number, int colour, int how",
    "residual": "const Level* levels, int number, int both",
    "restrict": "const Level* levels, int number",
    "prolong": "const Level* levels, int number, int both",
    "bottom": "const Level* levels, int number, const float* inverse, const int64* cells, int count",
    "wrap": "const Level* levels, int number",
    "apply": "const double* p, const double* diagonal, const double* w0, const double* w1, const double* w2, "
    "double* out, int n0, int n1, int n2, int periodic",
}


def emulate_poisson(folder: Path) -> ctypes.CDLL:
    """Compile poisson_kernels.cuh for the CPU, each kernel behind `run_poisson_<name>(blocks, threads, ...)`."""
    lines = [f'#include "{HEADER}"', '#include "poisson_kernels.cuh"']
    for name, parameters in POISSON.items():
        names = ", ".join(parameter.split()[-1] for parameter in parameters.split(", "))
        lines += [
            f'extern "C" void run_poisson_{name}(int blocks, int threads, {parameters}) {{',
            f"  thread_block::launch_without_barriers(blocks, threads, poisson_{name}, {names});",
            "}",
        ]
    return _compiled(folder / "poisson", lines)


def _compiled(stem: Path, lines: list[str]) -> ctypes.CDLL:
    path, library = stem.with_suffix(".cpp"), stem.with_suffix(".so")
    path.write_text("\n".join(lines))
    compiler = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))))
    flags = ["-std=gnu++17", "-O1", "-ffp-contract=off", "-fPIC", "-shared", "-w", f"-I{CUDA_SOURCES}"]
    subprocess.run([compiler, *flags, str(path), "-o", str(library)], check=True)
    return ctypes.CDLL(str(library))


def run_emulated(library: ctypes.CDLL, name: str, v: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Outputs of one function of FUNCTIONS, shape (outputs, n)."""
    function = FUNCTIONS[name]
    out = np.full((function.outputs, v.size), -1, v.dtype)
    run = getattr(library, f"run_{function.family}_{v.dtype.name}")
    run.argtypes = [ctypes.c_void_p] * 3 + [ctypes.c_longlong, ctypes.c_double]
    run.restype = None
    run(v.ctypes.data, x.ctypes.data, out.ctypes.data, v.size, function.scaled)
    return out
