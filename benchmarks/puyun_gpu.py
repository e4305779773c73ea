"""The network of ERA5's own grid on a GPU: seconds and memory of a forecast step and of a training step.

    python -m benchmarks.puyun_gpu

`puyun_0p25deg` (721 x 1440, 69 fields, 48 blocks of width 512) and `puyun_1p5deg` (121 x 240) with random weights, bfloat16 by
autocast as `forecast.run` and `forecast.train` use it, one forecast at a time. A training step is forward, backward (blocks
recomputed in the large one) and AdamW. Peak memory is PyTorch's, weights and optimiser included. Writes
`benchmarks/results/puyun_gpu.json`. Needs a CUDA device.
"""

from __future__ import annotations

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

RESULT = Path(__file__).parent / "results" / "puyun_gpu.json"
MODELS = Path(__file__).parents[1] / "configs" / "forecast" / "model"
UPPER = ("geopotential", "temperature", "u_component_of_wind", "v_component_of_wind", "specific_humidity")
SURFACE = ("2m_temperature", "10m_u_component_of_wind", "10m_v_component_of_wind", "mean_sea_level_pressure")
CHANNELS = (*(f"{name}_{level}" for name in UPPER for level in THIRTEEN_LEVELS), *SURFACE)
SIZES = {"puyun_0p25deg": (721, 1440), "puyun_1p5deg": (121, 240)}
ROUNDS = 5


def measured(call: Callable[[], Any]) -> dict[str, float]:
    """Median seconds of a call after one to warm up, and the peak of memory."""
    call()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        call()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return {"seconds": round(float(np.median(seconds)), 4), "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2)}


def measure(name: str) -> dict[str, Any]:
    """A forecast step and a training step of a configuration."""
    rows, columns = SIZES[name]
    settings = yaml.safe_load((MODELS / f"{name}.yaml").read_text())
    settings["compression"] = CompressionConfig(**settings.get("compression", {}))
    latitude = np.linspace(90, -90, rows)
    need = Requirements(CHANNELS, tuple(latitude), tuple(np.arange(columns) * 360 / columns))
    torch.manual_seed(0)
    model = PuYun(PuYunConfig(**settings), need).to("cuda")
    frames = torch.randn(1, need.history, len(CHANNELS), rows, columns, device="cuda")
    inputs = model.inputs_at(np.array(["2026-01-01"], "datetime64[ns]"), np.zeros(1), torch.device("cuda"))
    row: dict[str, Any] = {"network": name, "weights": sum(value.numel() for value in model.parameters())}

    def step() -> None:
        with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16):
            model(frames, *inputs)

    model.eval()
    row["forecast_step"] = measured(step)
    row["ten_days_of_6_h_steps_seconds"] = round(40 * row["forecast_step"]["seconds"], 2)
    model.train()
    error = WeightedError("l2", latitude.tolist(), torch.ones(len(CHANNELS))).to("cuda")
    optimiser = torch.optim.AdamW(model.parameters(), fused=True)
    truth = torch.randn_like(frames[:, 0])

    def learn() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            change = model.normalised_tendency(frames, *inputs)
        loss = error(change.float() - truth).mean()
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()

    row["training_step"] = measured(learn)
    return row


def main() -> None:
    if not torch.cuda.is_available():
        raise SystemExit("no CUDA device is here; run this on a machine with one.")
    rows = []
    for name in SIZES:
        try:
            rows.append(measure(name))
        except Exception as failure:  # noqa: BLE001 - one network that fails must not lose the other
            rows.append({"network": name, "failed": f"{type(failure).__name__}: {failure}"})
        torch.cuda.empty_cache()
        print(rows[-1], flush=True)
        what = "seconds and GPU memory of forecast and training steps, bfloat16, one forecast at a time"
        store_result(RESULT, {"what": what, "machine": describe_machine(), "rows": rows})


if __name__ == "__main__":
    main()
