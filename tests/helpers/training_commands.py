"""`python -m forecast.train` for a small training, as people and schedulers start it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")


def training(out: Path, store: str, *settings: str) -> list[str]:
    """Arguments of `python` that train on waves for ten steps."""
    return [
        "-m", "forecast.train", "experiment=sample_pretrain", f"out={out}",
        f"sources.era5.store={store}", "sources.era5.start=''", "sources.era5.end=''", f"sources.simulated.store={store}",
        "channels=[temperature_850,mean_sea_level_pressure]", "forcings=[]", "mirrored=0", "model.mirrored=false",
        "model.width=8", "model.depth=[1]", "model.patch=1", "validation_start=''", "calibrate=false", "lead_until_hours=12",
        "replay_buffer=8", "device=cpu", "threads=1", "batch_size=4", "steps=10", *settings,
    ]  # fmt: skip


def losses(out: Path) -> list[float]:
    """Losses that a training noted."""
    return [json.loads(line)["loss"] for line in (out / "log.jsonl").read_text().splitlines() if "loss" in line]
