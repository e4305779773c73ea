"""Compiled CPU kernels: hatch_build.py makes the libraries, ctypes loads them."""

from __future__ import annotations

import ctypes
from pathlib import Path


def load_library(name: str) -> ctypes.CDLL:
    """Load gpu/lib<name>.so.

    Raises
    ------
    ImportError
        If it was not built.
    """
    path = Path(__file__).parent / f"lib{name}.so"
    if not path.exists():
        raise ImportError(f"{path.name} was not built; install the package again (make test does) with a C++ compiler at hand.")
    return ctypes.CDLL(str(path))
