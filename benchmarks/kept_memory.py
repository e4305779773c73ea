"""Roll-out of the shipped size with freed memory kept (gpu/host_memory.py) and handed back, in turns.

    python -m benchmarks.kept_memory

Each turn is a process of its own, since the setting lasts for one. Writes `benchmarks/results/kept_memory.json`.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from benchmarks.machine import describe_machine, store_result
from benchmarks.training_step import CASES, Step, build, fast_dtype
from gpu.host_memory import keep_freed_memory

RESULT = Path(__file__).parent / "results" / "kept_memory.json"
ROUNDS = 5
STEPS = 6
BATCH = 8


def measure(kept: bool) -> dict[str, float]:
    """Milliseconds of wall clock and of the system's own time, per forecast and step."""
    if kept:
        keep_freed_memory()
    step = Step(build(CASES[0], fast=True), fast_dtype(), BATCH)
    step.model.eval()
    with torch.inference_mode():
        step.forward(), step.forward()
        before, started = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        for _ in range(STEPS):
            step.forward()
        elapsed = time.perf_counter() - started
    system = resource.getrusage(resource.RUSAGE_SELF).ru_stime - before.ru_stime
    return {"wall_ms": 1e3 * elapsed / STEPS / BATCH, "system_ms": 1e3 * system / STEPS / BATCH}


def in_process(kept: bool) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.kept_memory", "kept" if kept else "handed_back"]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    if sys.argv[1:]:
        print(json.dumps(measure(sys.argv[1] == "kept")))
        return
    turns = [(in_process(True), in_process(False)) for _ in range(ROUNDS)]
    result = {
        "what": f"puyun_tiny, {BATCH} forecasts at once: milliseconds per forecast and step, memory kept and handed back",
        "machine": describe_machine(),
        "kept": [kept for kept, _ in turns],
        "handed_back": [back for _, back in turns],
        "ratio_of_medians": round(
            statistics.median(back["wall_ms"] for _, back in turns) / statistics.median(kept["wall_ms"] for kept, _ in turns), 2
        ),
    }
    store_result(RESULT, result)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
