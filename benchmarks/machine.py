"""Say on what a measurement was made: every stored result carries this."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from gpu.cores import usable_cores

PACKAGES = ("numpy", "torch", "xarray", "zarr", "dask", "scipy")
GIBIBYTE = 2**30


def describe_machine() -> dict[str, Any]:
    """Describe processor, memory, accelerator and versions; no host names, no paths.

    Returns
    -------
    dict
        `date` (UTC), `cpu`, `cores` (usable by this process), `torch_threads`, `memory_gib`, `gpu` (name, or None),
        `load_average` (1 minute, before the measurement: other work on the machine), `system`, `python` and `versions`.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIBIBYTE
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "cpu": _processor(),
        "cores": usable_cores(),
        "torch_threads": torch.get_num_threads(),
        "memory_gib": round(memory, 1),
        "gpu": gpu,
        "load_average": round(os.getloadavg()[0], 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
    }


def store_result(path: Path, result: dict[str, Any]) -> None:
    """Write a measurement as JSON and say where it is."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(f"stored in {path.relative_to(Path.cwd())}")


def _processor() -> str:
    """The model's name from /proc/cpuinfo (Linux), or what the platform knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
