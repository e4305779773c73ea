"""What the networks of research grids cost: seconds and memory of a forecast step and of a training step.

    python -m benchmarks.puyun_cost gpu
    python -m benchmarks.puyun_cost cpu

`puyun_0p25deg` (721 x 1440, 69 fields, 48 blocks of width 512; GPU only) and `puyun_1p5deg` (121 x 240) with random weights,
one forecast at a time; on a GPU in bfloat16 by autocast, on a processor in what `precision=auto` takes there, as `forecast.run`
and `forecast.train` do. A training step is forward, backward (blocks recomputed in the large one) and AdamW. Peak memory is
PyTorch's on a GPU, weights and optimiser included, and the whole process's on a processor. Writes
`benchmarks/results/puyun_gpu.json` and `puyun_cpu.json`.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from benchmarks.machine import describe_machine, store_result
from data_pipelines.variables import THIRTEEN_LEVELS
from forecast.layers.compression import CompressionConfig
from forecast.losses import WeightedError
from forecast.puyun import PuYun, PuYunConfig
from forecast.requirements import Requirements
from forecast.rollout import computes_in_bfloat16

RESULTS = Path(__file__).parent / "results"
MODELS = Path(__file__).parents[1] / "configs" / "forecast" / "model"
UPPER = ("geopotential", "temperature", "u_component_of_wind", "v_component_of_wind", "specific_humidity")
SURFACE = ("2m_temperature", "10m_u_component_of_wind", "10m_v_component_of_wind", "mean_sea_level_pressure")
CHANNELS = (*(f"{name}_{level}" for name in UPPER for level in THIRTEEN_LEVELS), *SURFACE)
SIZES = {"puyun_0p25deg": (721, 1440), "puyun_1p5deg": (121, 240)}
DEVICES = {"gpu": ("cuda", tuple(SIZES)), "cpu": ("cpu", ("puyun_1p5deg",))}
ROUNDS = 5


def measured(call: Callable[[], Any], kind: str) -> dict[str, float]:
    """Median seconds of a call after one to warm up, and the peak of memory."""
    on_gpu = kind == "cuda"
    wait: Callable[[], Any] = torch.cuda.synchronize if on_gpu else lambda: None
    call()
    wait()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        call()
        wait()
        seconds.append(time.perf_counter() - started)
    peak = torch.cuda.max_memory_allocated() if on_gpu else 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": round(float(np.median(seconds)), 4), "peak_gib": round(peak / 2**30, 2)}


def measure(name: str, kind: str) -> dict[str, Any]:
    """A forecast step and a training step of a configuration."""
    in_bfloat16 = computes_in_bfloat16("auto", torch.device(kind))
    rows, columns = SIZES[name]
    settings = yaml.safe_load((MODELS / f"{name}.yaml").read_text())
    settings["compression"] = CompressionConfig(**settings.get("compression", {}))
    latitude = np.linspace(90, -90, rows)
    need = Requirements(CHANNELS, tuple(latitude), tuple(np.arange(columns) * 360 / columns))
    torch.manual_seed(0)
    model = PuYun(PuYunConfig(**settings), need).to(kind)
    frames = torch.randn(1, need.history, len(CHANNELS), rows, columns, device=kind)
    inputs = model.inputs_at(np.array(["2026-01-01"], "datetime64[ns]"), np.zeros(1), torch.device(kind))
    row: dict[str, Any] = {
        "network": name, "weights": model.parameter_count(), "precision": "bfloat16" if in_bfloat16 else "float32",
    }  # fmt: skip

    def step() -> None:
        with torch.inference_mode(), torch.autocast(kind, torch.bfloat16, enabled=in_bfloat16):
            model(frames, *inputs)

    model.eval()
    row["forecast_step"] = measured(step, kind)
    row["ten_days_of_6_h_steps_seconds"] = round(40 * row["forecast_step"]["seconds"], 2)
    model.train()
    error = WeightedError("l2", latitude.tolist(), torch.ones(len(CHANNELS))).to(kind)
    optimiser = torch.optim.AdamW(model.parameters(), fused=True)
    truth = torch.randn_like(frames[:, 0])

    def learn() -> None:
        with torch.autocast(kind, torch.bfloat16, enabled=in_bfloat16):
            change = model.normalised_tendency(frames, *inputs)
        loss = error(change.float() - truth).mean()
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()

    row["training_step"] = measured(learn, kind)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("device", choices=list(DEVICES))
    device = parser.parse_args().device
    kind, names = DEVICES[device]
    if kind == "cuda" and not torch.cuda.is_available():
        raise SystemExit("no CUDA device is here; run this on a machine with one, or: python -m benchmarks.puyun_cost cpu")
    rows = []
    for name in names:
        try:
            rows.append(measure(name, kind))
        except Exception as failure:  # noqa: BLE001 - one network that fails must not lose the other
            rows.append({"network": name, "failed": f"{type(failure).__name__}: {failure}"})
        if kind == "cuda":
            torch.cuda.empty_cache()
        print(rows[-1], flush=True)
        what = "seconds and memory of forecast and training steps, one forecast at a time"
        store_result(RESULTS / f"puyun_{device}.json", {"what": what, "machine": describe_machine(), "rows": rows})


if __name__ == "__main__":
    main()
