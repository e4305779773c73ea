"""Compile the CPU kernels of `gpu` while the package is built; hatchling calls it for wheels and editable installs alike.

A family of kernels is one line in FAMILIES. gpu/cpu/<name>_kernels.cpp is compiled once for each instruction set, and
gpu/cpu/<name>_loops.cpp, where there is one, once; both make the library gpu/lib<name>.so, which Python loads by ctypes. So
neither Python's nor NumPy's headers are needed, and one wheel serves all versions of both.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any, NamedTuple

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Family(NamedTuple):
    """Kernels that are compiled together, and their flags."""

    name: str
    flags: tuple[str, ...]


FAMILIES = (
    # No contraction: the compensated sums are written as they must be rounded (gpu/cuda/double_double.cuh).
    Family("log_bessel", ("-ffp-contract=off", "-pthread")),
    Family("spherical_depthwise", ("-ffp-contract=fast", "-fopenmp")),
    Family("poisson", ("-ffp-contract=fast", "-fopenmp")),
)
FLAGS = ["-std=gnu++17", "-O3", "-fPIC", "-fno-math-errno", "-fno-trapping-math", "-fvisibility=hidden", "-w"]
X86 = {"avx2": ["-mavx2", "-mfma"], "avx512": ["-mavx2", "-mfma", "-mavx512f", "-mavx512dq"]}


class KernelBuildHook(BuildHookInterface):
    """Adds the compiled families to what is built."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile every family in place and name the results to the builder."""
        if self.target_name != "wheel":
            return
        compiler = find_compiler()
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
        for family in FAMILIES:
            linked = build(Path(self.root) / "gpu", family, compiler)
            relative = str(linked.relative_to(self.root))
            build_data["artifacts"].append(relative)
            build_data["force_include"][str(linked)] = relative


def stop(message: str) -> None:
    """End with one line: pip and uv show it; a traceback of the build would bury it."""
    raise SystemExit(f"skysolve: {message}")


def find_compiler() -> list[str]:
    """CXX if it is set, c++, g++ or clang++ if not."""
    wanted = shlex.split(os.environ.get("CXX", "")) or [next(filter(shutil.which, ("c++", "g++", "clang++")), "")]
    if not wanted[0] or not shutil.which(wanted[0]):
        stop("a C++17 compiler is missing, the kernels are compiled on installing. Install it: sudo apt-get install g++")
    return wanted


def build(gpu: Path, family: Family, compiler: list[str]) -> Path:
    """Compile and link one family; return what was linked."""
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    folder = gpu.parent / "build" / "kernels" / family.name
    folder.mkdir(parents=True, exist_ok=True)
    objects = []

    def compile_to(name: str, *arguments: str) -> None:
        objects.append(folder / f"{name}.o")
        run([*compiler, *FLAGS, *family.flags, "-c", *arguments, "-o", str(objects[-1])])

    loops = gpu / "cpu" / f"{family.name}_loops.cpp"
    if loops.exists():
        compile_to("loops", str(loops), *(["-DSKYSOLVE_X86"] if x86 else []))
    for name, flags in {"portable": [], **(X86 if x86 else {})}.items():
        compile_to(name, str(gpu / "cpu" / f"{family.name}_kernels.cpp"), *flags, f"-DSKYSOLVE_NAMESPACE=skysolve_{name}")
    linked = gpu / f"lib{family.name}.so"
    partial = linked.with_suffix(".partial")  # a running process keeps the file that it loaded
    run([*compiler, "-shared", *family.flags, *map(str, objects), "-o", str(partial)])
    partial.replace(linked)
    return linked


def run(command: list[str]) -> None:
    """Run the compiler; on failure show what it said, and end."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        stop(f"compiling the kernels failed: {shlex.join(command)}\n{done.stdout}{done.stderr}")
