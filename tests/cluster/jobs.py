"""What the cluster tests share: a job on the shipped sample and checkpoints, and the comparison of stores, byte by byte."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).parent / "results"
# One thread and a stated precision: the last bits depend on both.
COMMON = ("every=6h", "lead=12h", "cascade=[6h:first,12h:short]", "precision=fp32", "threads=1", "progress=false")


def environment(**more: str) -> dict[str, str]:
    """Environment of a job that finds this checkout."""
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | more


def analysis_store(folder: Path) -> Path:
    """Build the analysis store of the shipped sample."""
    path = folder / "analysis.zarr"
    if not path.exists():
        command = [sys.executable, "-m", "data_pipelines.build_store", "source=sample", f"out={path}"]
        subprocess.run(command, env=environment(), check=True, capture_output=True)
    return path


def run_command(analysis: Path, out: str | Path, *settings: str, times: int = 24) -> list[str]:
    """The command of a job from some initial times, 6 hours apart."""
    last = f"2026-01-{27 + (times - 1) // 4:02d}T{6 * ((times - 1) % 4):02d}" if times <= 20 else "2026-02-01T18"
    given = [f"analysis={analysis}", "start=2026-01-27T00", f"end={last}", f"out={out}", *COMMON, *settings]
    return [sys.executable, "-m", "forecast.run", *given]


def contents(store: Path) -> dict[str, str]:
    """SHA-256 of every file that holds values: shards, marks, coordinates."""
    files = (path for path in store.glob("*/c/**/*") if path.is_file() and path.suffix != ".partial")
    return {str(path.relative_to(store)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
