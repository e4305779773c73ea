"""What a finite-element simulation costs: explicit and implicit, P1 and P2, double and single precision.

    python -m benchmarks.finite_element_waves

Default waves (1.2 s of a medium with a hole and an inclusion, 61 frames of 64 x 64), marched to the error that a P2 solution on
four times as many cells shows. Times are the best of five runs of one sample on one thread; two threads run two
samples in two processes, which is how ensembles are made. Writes `benchmarks/results/finite_element_waves.json`.
"""

from __future__ import annotations

import os
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import describe_machine, store_result
from data_pipelines.sources.finite_element_waves import WaveConfig, prepare, record

RESULT = Path(__file__).parent / "results" / "finite_element_waves.json"
SETTINGS: dict[str, Any] = {
    "samples": 1,
    "holes": [1, 1],
    "inclusions": [1, 1],
    "inclusion_speed": [1.4, 1.6],
    "pulses": [0, 0],
}
RUNS = 5
WAYS: dict[str, dict[str, Any]] = {
    f"{name} {cells} cells": {**options, "cells": cells}
    for name, options, sizes in (
        ("P1 explicit", {}, (64, 96, 128, 192)),
        ("P1 explicit float32", {"dtype": "float32"}, (128,)),
        ("P2 explicit", {"degree": 2}, (32, 48, 64)),
        ("P1 Newmark", {"scheme": "newmark"}, (128,)),
        ("P1 Newmark, one step a frame", {"scheme": "newmark", "time_step": 0.02}, (128,)),
    )
    for cells in sizes
}
REFERENCE = {"degree": 2, "cells": 192}


def main() -> None:
    """Measure every way against the reference."""
    reference = _record({**SETTINGS, **REFERENCE})[0]
    rows = {name: _measure({**SETTINGS, **options}, reference) for name, options in WAYS.items()}
    for name, row in rows.items():
        print(f"{name:40s}", *(f"{key} {value:.4g}" for key, value in row.items()))
    what = "cost of one finite-element simulation of 1.2 s sampled at 61 frames of 64 x 64, best of 5"
    result = {"what": what, "machine": describe_machine(), "settings": SETTINGS, "reference": REFERENCE, "ways": rows}
    result["pair"] = _pair({**SETTINGS, **WAYS["P1 explicit 128 cells"]})
    print(result["pair"])
    store_result(RESULT, result)


def _record(settings: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
    config = WaveConfig(**settings)
    began = time.perf_counter()
    ready = prepare(config, 0)
    prepared = time.perf_counter()
    fields = record(ready, config.frames)
    costs = {
        "prepare_seconds": prepared - began,
        "solve_seconds": time.perf_counter() - prepared,
        "unknowns": float(ready.problem.mass.size),
        "steps": float(ready.steps_per_frame * (config.frames - 1)),
    }
    return fields, ready.sampling.mask, costs


def _measure(settings: dict[str, Any], reference: np.ndarray) -> dict[str, float]:
    best: dict[str, float] = {}
    for _ in range(RUNS):
        fields, mask, costs = _record(settings)
        best = {key: min(value, best.get(key, value)) for key, value in costs.items()}
    error = np.where(mask, fields[0, -1] - reference[0, -1], 0)
    scale = np.linalg.norm(np.where(mask, reference[0, 0], 0))  # what absorbed is not in the scale at the end
    return {"error_of_initial_norm": float(np.linalg.norm(error) / scale), **best}


def _solve(settings: dict[str, Any]) -> float:
    config = WaveConfig(**settings)
    ready = prepare(config, 0)
    began = time.perf_counter()
    record(ready, config.frames)
    return time.perf_counter() - began


def _pair(settings: dict[str, Any]) -> dict[str, float]:
    """Two simulations side by side in two processes."""
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        runs = [list(pool.map(_solve, [settings] * 2)) for _ in range(RUNS)]
    seconds = min(max(run) for run in runs)
    return {"processes": 2, "solve_seconds_of_both": seconds, "solve_seconds_per_simulation": seconds / 2}


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
