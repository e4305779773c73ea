"""When would a 0.25 degree ensemble be ready? A simulated schedule on 8 to 64 GPUs: python -m benchmarks.forecast_schedule.

The job: every 6 hours 50 members from one analysis, 10 days, 69 fields on 721 x 1440 (`puyun_0p25deg`, steps of 6 h), one
worker per GPU, one member per batch, as `python -m forecast.run` spreads it.

Measured here, on one core: loading the network, reading what a first step reads, writing a forecast through the store's own
code (megabytes per second of red-noise fields), and a block of the network. On an H200: its step. Supposed: the rest of
`Machine`. The schedule is simulated event by event: workers start, then take the next member when they are free; a member is 40
steps, each handed to host memory, then written; the disks are shared. Writes `benchmarks/results/forecast_schedule.json` and
prints the table of docs/cluster.md.
"""

from __future__ import annotations

import heapq
import os
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from benchmarks.machine import describe_machine, store_result
from forecast.forecast_store import ForecastLayout, create_forecast_store, open_forecast_store, write_forecast
from forecast.puyun import PuYun, PuYunConfig
from forecast.random_fields import SphericalFields
from forecast.requirements import Requirements

RESULT = Path(__file__).parent / "results" / "forecast_schedule.json"
ROWS, COLUMNS, FIELDS, STEPS, MEMBERS, CYCLE_HOURS = 721, 1440, 69, 40, 50, 6
STATE = 4.0 * FIELDS * ROWS * COLUMNS  # bytes
WIDTH, BLOCKS, LATENT, WEIGHTS = 512, 48, (91, 180), 174.1e6


@dataclass(frozen=True)
class Machine:
    """What the schedule supposes of a machine of 8 GPUs, with 12 cores for each; the network alone was measured."""

    network: float = 0.106  # s of a forecast step in bfloat16, measured on an H200: benchmarks/results/puyun_gpu.json
    to_host: float = 20e9  # bytes/s from a GPU to its host
    writers: int = 8  # cores of a worker that compress and write at once; chunks of a shard are compressed side by side
    disks: float = 20e9  # bytes/s that all workers together can write
    start: float = 20.0  # s until a worker has imported everything, without its network


@dataclass(frozen=True)
class Costs:
    """Measured on one core [s, bytes/s]."""

    load: float
    read: float
    write_rate: float
    stored_share: float


def step_seconds(machine: Machine) -> float:
    """One step of one member on a GPU, its copy to the host included."""
    return machine.network + STATE / machine.to_host


def simulate(gpus: int, costs: Costs, machine: Machine, members: int = MEMBERS) -> dict[str, Any]:
    """Seconds until all members are in the store, and what the GPUs did meanwhile."""
    computing = STEPS * step_seconds(machine)
    size = STEPS * STATE
    alone = size / (costs.write_rate * machine.writers)
    shared = size * costs.stored_share * min(gpus, members) / machine.disks  # if all write at once
    writing = max(alone, shared)
    ready = [machine.start + costs.load] * gpus
    heapq.heapify(ready)
    ends = []
    for _ in range(members):
        begin = heapq.heappop(ready)
        ends.append(begin + costs.read + computing + writing)
        heapq.heappush(ready, ends[-1])
    end = max(ends)
    return {
        "gpus": gpus,
        "members_one_after_another": -(-members // gpus),
        "first_member_minutes": round(min(ends) / 60, 1),
        "all_members_minutes": round(end / 60, 1),
        "network_share_of_gpu_time": round(members * computing / (gpus * end), 3),
        "share_of_the_cycle": round(end / 3600 / CYCLE_HOURS, 3),
        "bound_by": "disks" if shared > alone else "compression",
    }


def measure() -> dict[str, Any]:
    """Everything on this machine, on one core."""
    torch.set_num_threads(1)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # Zarr compresses on threads of its own
    with tempfile.TemporaryDirectory() as folder:
        return {**measure_network(Path(folder)), **measure_store(Path(folder))}


def measure_network(folder: Path) -> dict[str, Any]:
    """Seconds to load the weights, and of a step: embedding and head as they are, one block taken 48 times."""
    latitude, longitude = np.linspace(90, -90, ROWS), np.arange(COLUMNS) * 360 / COLUMNS
    names = tuple(f"temperature_{level}" for level in range(100, 100 + FIELDS))
    need = Requirements(names, tuple(latitude), tuple(longitude))
    small = PuYun(PuYunConfig(width=WIDTH, depth=(1,), patch=8), need).eval()
    save_file({str(number): torch.randn(10_000_000) for number in range(int(WEIGHTS // 1e7))}, folder / "weights")
    begin = time.perf_counter()
    _ = [value.clone() for value in load_file(folder / "weights").values()]  # it maps the file: what is not touched is not read
    load = time.perf_counter() - begin
    x = torch.randn(1, WIDTH, *LATENT).contiguous(memory_format=torch.channels_last)
    features = torch.randn(1, WIDTH)
    block = small.stages[0][0]  # type: ignore[index]
    with torch.inference_mode():
        block(x, features)
        begin = time.perf_counter()
        block(x, features)
        of_block = time.perf_counter() - begin
    of_blocks = 2 * sum(value.numel() for value in block.parameters()) * LATENT[0] * LATENT[1]
    return {
        "load_seconds": round(load, 2),
        "block_seconds_on_one_core": round(of_block, 3),
        "block_gflops_on_one_core": round(of_blocks / of_block / 1e9, 1),
        "weights_of_blocks_millions": round(BLOCKS * sum(value.numel() for value in block.parameters()) / 1e6, 1),
    }


def measure_store(folder: Path) -> dict[str, Any]:
    """Bytes per second of writing a forecast of 13 levels and 4 lead times, and of reading two states of it back."""
    levels, leads = 13, (6, 12, 18, 24)
    latitude, longitude = np.linspace(90, -90, ROWS), np.arange(COLUMNS) * 360 / COLUMNS
    channels = tuple(f"temperature_{50 * (1 + level)}" for level in range(levels))
    layout = ForecastLayout(
        np.array(["2026-01-01"], "datetime64[ns]"), leads, (0,) * len(leads), channels, tuple(latitude), tuple(longitude)
    )
    drawn = SphericalFields(latitude.tolist(), longitude.tolist(), 500, 1.5).draw(np.random.default_rng(0), levels + len(leads))
    fields = np.stack([250 + 10 * (drawn[lead : lead + levels]) for lead in range(len(leads))]).astype(np.float32)
    create_forecast_store(folder / "store", layout, {})
    begin = time.perf_counter()
    write_forecast(folder / "store", layout, layout.initial_times[0], fields)
    seconds = time.perf_counter() - begin
    stored = sum(path.stat().st_size for path in (folder / "store").rglob("*") if path.is_file())
    begin = time.perf_counter()
    loaded = open_forecast_store(folder / "store").load()
    reading = time.perf_counter() - begin
    return {
        "write_bytes_per_second": round(fields.nbytes / seconds),
        "stored_share": round(stored / fields.nbytes, 3),
        "read_bytes_per_second": round(loaded.nbytes / reading),
    }


def rows(schedules: list[dict[str, Any]]) -> list[str]:
    """Give the rows of the table in docs/cluster.md."""
    shown = [[value for name, value in schedule.items() if name != "share_of_the_cycle"] for schedule in schedules]
    return ["| " + " | ".join(str(value) for value in row) + " |" for row in shown]


def main() -> None:
    measured = measure()
    costs = Costs(
        load=measured["load_seconds"],
        read=2 * STATE / measured["read_bytes_per_second"],
        write_rate=measured["write_bytes_per_second"],
        stored_share=measured["stored_share"],
    )
    schedules = [simulate(gpus, costs, Machine()) for gpus in (8, 16, 32, 64)]
    result = {"what": __doc__.splitlines()[0], "machine": describe_machine(), "measured": measured, "costs": asdict(costs)}
    result |= {
        "supposed": asdict(Machine()),
        "step_seconds_on_a_gpu": round(step_seconds(Machine()), 4),
        "schedules": schedules,
    }
    store_result(RESULT, result)
    print("\n".join(rows(schedules)))


if __name__ == "__main__":
    main()
