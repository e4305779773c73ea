"""Training on one process and on two: seconds per step, memory per process; and what to expect of many GPUs.

    python -m benchmarks.training_at_scale

Each way trains the same network on the same batch of two forecasts: one process; two with copies of the weights (DDP) or
pieces of them (FSDP2), one forecast each; two with a latitude band of both forecasts each. All processes run on the cores of
this machine, one thread each, and exchange by gloo. Writes `benchmarks/results/training_at_scale.json`.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.machine import describe_machine, store_result
from forecast.losses import WeightedError
from forecast.puyun import PuYun, PuYunConfig
from forecast.requirements import Requirements
from forecast.spatial_sharding import shard_by_latitude
from forecast.training.objective import Ahead, Unrolled
from forecast.training.parallel import joined, spread

RESULT = Path(__file__).parent / "results" / "training_at_scale.json"
ROWS, COLUMNS, BATCH, ROUNDS = 121, 240, 2, 3
CHANNELS = ("mean_sea_level_pressure", "vorticity_850")
SETTINGS = {"width": 64, "depth": (3, 3), "patch": 2, "mixer": "gated_large_kernel", "expansion": 3}
WAYS = {"one process": (1, "ddp", 1), "ddp": (2, "ddp", 1), "fsdp": (2, "fsdp", 1), "bands": (2, "ddp", 2)}


class Kept:
    """Bytes of the tensors that the forward pass keeps for the backward pass, each storage once."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.weights = {value.untyped_storage().data_ptr() for value in model.parameters()}
        self.storages: dict[int, int] = {}

    def note(self, value: torch.Tensor) -> torch.Tensor:
        """Hook for `torch.autograd.graph.saved_tensors_hooks`."""
        storage = value.untyped_storage()
        if storage.data_ptr() not in self.weights:
            self.storages[storage.data_ptr()] = storage.nbytes()
        return value


def train(kind: str, bands: int) -> dict[str, Any] | None:
    """Train some steps in the way given; the first process returns what was measured."""
    torch.set_num_threads(1)
    with joined(bands, "cpu") as place:
        torch.manual_seed(0)
        latitude = np.linspace(90, -90, ROWS)
        need = Requirements(CHANNELS, tuple(latitude), tuple(np.arange(COLUMNS) * 360 / COLUMNS))
        model = PuYun(PuYunConfig(**SETTINGS), need).train()
        rows = shard_by_latitude(model, place.group) if bands > 1 else model.rows
        error = WeightedError("l2", latitude.tolist(), torch.ones(len(CHANNELS)), rows)
        share = (rows.stop - rows.start) * bands / ROWS
        objective = spread(Unrolled(model, error, share, False), model, place, kind)
        optimiser = torch.optim.AdamW(model.parameters())
        own = BATCH // place.copies
        frames = torch.randn(own, need.history, len(CHANNELS), rows.stop - rows.start, COLUMNS)
        inputs = model.inputs_at(np.array(["2026-01-01"] * own, "datetime64[ns]"), np.zeros(own))
        steps = [Ahead(*inputs, torch.zeros_like(frames[:, 0]), torch.ones(own))]
        seconds = []
        for _ in range(ROUNDS + 1):
            place.wait()
            started = time.perf_counter()
            kept = Kept(model)
            with torch.autograd.graph.saved_tensors_hooks(kept.note, lambda value: value):
                loss, _, _ = objective(frames, steps)
            loss.backward()
            optimiser.step()
            optimiser.zero_grad()
            place.wait()
            seconds.append(round(time.perf_counter() - started, 3))
        measured = torch.tensor([sum(kept.storages.values()), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0])
        megabytes = (place.gather(measured) / 1e6).round().int().tolist()
    if not place.is_first:
        return None
    return {
        "seconds_per_step": seconds[1:],
        "median_seconds_per_step": statistics.median(seconds[1:]),
        "kept_for_the_backward_pass_MB": [kept for kept, _ in megabytes],
        "peak_resident_MB": [peak for _, peak in megabytes],
    }


def start(processes: int, kind: str, bands: int) -> dict[str, Any]:
    """Have torchrun start a way of training, and read what its first process wrote."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [*launcher, "-m", "benchmarks.training_at_scale", kind, str(bands)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


@dataclass(frozen=True)
class Machine:
    """What the estimate supposes of a GPU and its network; an H100 with NVLink within 8 and 400 Gb/s per GPU beyond."""

    flops: float = 989e12  # bfloat16, dense
    reached: float = 0.4  # share of it that training reaches: supposed
    memory_bandwidth: float = 3.35e12  # bytes/s
    link_within: float = 450e9  # bytes/s
    link_beyond: float = 50e9
    latency: float = 3e-5  # s of one exchange between bands
    storage: float = 20e9  # bytes/s that 8 GPUs read together


def estimate(gpus: int, bands: int, machine: Machine = Machine()) -> dict[str, float]:
    """Seconds per step of `puyun_0p25deg` (721 x 1440, 69 fields) with one forecast per copy, blocks recomputed.

    Arithmetic: four passes (forward, recomputed, two backward) x 2 x weights x latent cells. Memory: sixty passes over a
    latent field per block and pass. Exchange: gradients around a ring, half of it behind the backward pass; halos of 2 and 9
    latent rows on both sides of a band, three times per block. Reading, behind all that: one true state per forecast, and two
    more for the tenth that is fresh; bands of one globe lie on one machine and share what its page cache holds.
    """
    weights, width, blocks, rows, columns = 174.1e6, 512, 48, 91, 180
    field = width * rows * columns * 2.0  # bytes of a latent field in bfloat16
    arithmetic = 4 * 2 * weights * rows * columns / (machine.flops * machine.reached) / bands
    memory = 4 * 60 / 3 * blocks * field / machine.memory_bandwidth / bands
    link = machine.link_within if gpus <= 8 else machine.link_beyond
    gradients = 0.5 * 2 * (gpus - 1) / gpus * weights * 4 / link
    halo = 0.0
    if bands > 1:
        halo = 3 * blocks * (2 * (2 + 9) * width * columns * 2 / machine.link_within + 2 * machine.latency)
    computing = arithmetic + memory + gradients + halo
    reading = 8 / bands * 1.2 * 69 * 721 * 1440 * 4 / machine.storage
    step, copies = max(computing, reading), gpus // bands
    return {
        "gpus": gpus,
        "bands": bands,
        "forecasts_per_step": copies,
        "seconds_computing": round(computing, 3),
        "seconds_reading": round(reading, 3),
        "hours_per_epoch": round(39 * 1461 / copies * step / 3600, 2),  # 39 years, every 6 hours
    }


def main() -> None:
    if len(sys.argv) > 1:
        measured = train(sys.argv[1], int(sys.argv[2]))
        if measured is not None:
            print(json.dumps(measured), flush=True)
        return
    result = {
        "what": f"training step of a network on {ROWS} x {COLUMNS}, {BATCH} forecasts, float32, one thread per process, gloo",
        "machine": describe_machine(),
        "settings": SETTINGS,
        "measured": {name: start(*way) for name, way in WAYS.items()},
        "supposed": Machine().__dict__,
        "estimate": [estimate(gpus, bands) for bands in (1, 2, 4) for gpus in (8, 16, 32, 64)],
    }
    store_result(RESULT, result)


if __name__ == "__main__":
    main()
