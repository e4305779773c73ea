"""Compile the CPU kernels of `gpu` while the package is built; hatchling calls it for wheels and editable installs alike.

A family of kernels is one line in FAMILIES: gpu/cpu/<name>_module.cpp, its Python module `gpu._<name>`, and
gpu/cpu/<name>_kernels.cpp, which is compiled once for each instruction set.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FAMILIES = ("log_bessel",)

# No contraction: the compensated sums are written as they must be rounded (gpu/cuda/double_double.cuh).
FLAGS = [
    "-std=gnu++17",
    "-O3",
    "-fPIC",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fvisibility=hidden",
    "-w",
]
X86 = {"avx2": ["-mavx2", "-mfma"], "avx512": ["-mavx2", "-mfma", "-mavx512f", "-mavx512dq"]}


class KernelBuildHook(BuildHookInterface):
    """Adds `gpu/_<family>.so` to what is built."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile every family in place and name the results to the builder."""
        if self.target_name != "wheel":
            return
        compiler, include = find_compiler(), find_headers()
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        for family in FAMILIES:
            extension = build(Path(self.root) / "gpu", family, compiler, include)
            relative = str(extension.relative_to(self.root))
            build_data["artifacts"].append(relative)
            build_data["force_include"][str(extension)] = relative


def stop(message: str) -> None:
    """End with one line: pip and uv show it; a traceback of the build would bury it."""
    raise SystemExit(f"skysolve: {message}")


def find_compiler() -> list[str]:
    """CXX if it is set, c++, g++ or clang++ if not."""
    wanted = shlex.split(os.environ.get("CXX", "")) or [next(filter(shutil.which, ("c++", "g++", "clang++")), "")]
    if not wanted[0] or not shutil.which(wanted[0]):
        stop("a C++17 compiler is missing: the kernels are compiled on installing. Install one: sudo apt-get install g++")
    return wanted


def find_headers() -> list[str]:
    """Folders of the headers of Python and NumPy."""
    import numpy as np

    python = sysconfig.get_path("include")
    if not (Path(python) / "Python.h").exists():
        stop("Python's headers are missing: the kernels are compiled on installing. Install: sudo apt-get install python3-dev")
    return [f"-I{python}", f"-I{np.get_include()}"]


def build(gpu: Path, family: str, compiler: list[str], include: list[str]) -> Path:
    """Compile and link one family; return the extension module."""
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    objects_folder = gpu.parent / "build" / "kernels" / family
    objects_folder.mkdir(parents=True, exist_ok=True)
    module = objects_folder / "module.o"
    commands = [[str(gpu / "cpu" / f"{family}_module.cpp"), *include, *(["-DSKYSOLVE_X86"] if x86 else []), "-o", str(module)]]
    objects = [module]
    for name, flags in {"portable": [], **(X86 if x86 else {})}.items():
        objects.append(objects_folder / f"{name}.o")
        source = str(gpu / "cpu" / f"{family}_kernels.cpp")
        commands.append([source, *flags, f"-DSKYSOLVE_NAMESPACE=skysolve_{name}", "-o", str(objects[-1])])
    for command in commands:
        run([*compiler, *FLAGS, "-c", *command])
    extension = gpu / f"_{family}{sysconfig.get_config_var('EXT_SUFFIX')}"
    partial = extension.with_suffix(".partial")  # a running process keeps the file that it loaded
    run([*compiler, "-shared", "-pthread", *map(str, objects), "-o", str(partial)])
    partial.replace(extension)
    return extension


def run(command: list[str]) -> None:
    """Run the compiler; on failure show what it said, and end."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        stop(f"compiling the kernels failed: {shlex.join(command)}\n{done.stdout}{done.stderr}")
