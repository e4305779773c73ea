"""The streaming loader beside the same read done with plain threads, and how long a training loop waits for it.

    python -m benchmarks.streaming

Reading: 69 channels on 181 x 360 points in an uncompressed store, page cache warm. The loader delivers shuffled windows of
three frames; beside it the same bytes are read by as many plain threads over whole chunks: through zarr, and as raw files
into one buffer that is kept (the fastest way there is to have the data). All in turns within one process, so that whatever
else the machine does falls on each. A new stream also makes its buffers and looks every step over for NaN, once; its
first batches are measured too.

Waiting: `puyun_tiny` trains on windows of the shipped ERA5 sample, once from memory and once read from disk at every step;
the share of the loop's time that `WindowStream` made it wait. Writes `benchmarks/results/streaming.json`.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
import zarr

from benchmarks.machine import describe_machine, store_result
from benchmarks.training_step import CASES, build, fast_dtype
from data_pipelines.build import build_analysis_store
from data_pipelines.sample import sample_sources
from data_pipelines.store import create_analysis_store, open_analysis, write_analysis
from data_pipelines.streaming import WindowStream
from data_pipelines.variables import THIRTEEN_LEVELS, channels_of

RESULT = Path(__file__).parent / "results" / "streaming.json"
STEPS, ROWS, COLUMNS = 32, 181, 360
ON_LEVELS = ("geopotential", "temperature", "u_component_of_wind", "v_component_of_wind", "relative_humidity")
AT_SURFACE = ("2m_temperature", "10m_u_component_of_wind", "10m_v_component_of_wind", "mean_sea_level_pressure")
THREADS = 2
ROUNDS = 15
WARM_UP = 4  # rounds, until the loader has seen every step
BATCHES = 5  # a round of the loader: 5 batches of 2 windows of 3 frames
TRAINING_BATCHES = 10
MEGABYTE = 1e6


def make_store(path: Path) -> None:
    """Fill an uncompressed store with noise."""
    rng = np.random.default_rng(0)
    plane = ("latitude", "longitude")
    units = {"geopotential": "m2 s-2", "temperature": "K", "relative_humidity": "1", "2m_temperature": "K"}
    units["mean_sea_level_pressure"] = "Pa"
    fields: dict[str, Any] = {
        name: (("time", "level", *plane), rng.random((STEPS, len(THIRTEEN_LEVELS), ROWS, COLUMNS), np.float32))
        for name in ON_LEVELS
    }
    fields |= {name: (("time", *plane), rng.random((STEPS, ROWS, COLUMNS), np.float32)) for name in AT_SURFACE}
    coordinates = {
        "time": np.datetime64("2020-01-01", "ns") + np.arange(STEPS) * np.timedelta64(6, "h"),
        "level": np.array(THIRTEEN_LEVELS, np.int32),
        "latitude": np.linspace(90, -90, ROWS),
        "longitude": np.arange(COLUMNS) * 360 / COLUMNS,
    }
    dataset = xr.Dataset(fields, coordinates)
    for name in dataset.data_vars:
        dataset[name].attrs["units"] = units.get(str(name), "m s-1")
    create_analysis_store(path, dataset, compression="none")
    write_analysis(path, dataset)


def read_by_zarr(path: Path) -> float:
    """Read every chunk of the store by plain threads through zarr; MB/s."""
    group = zarr.open_group(path, mode="r")
    arrays: list[Any] = [group[name] for name in (*ON_LEVELS, *AT_SURFACE)]
    tasks = [(array, start) for array in arrays for start in range(0, STEPS, array.chunks[0])]
    began = time.perf_counter()
    with ThreadPoolExecutor(THREADS) as pool:
        sizes = pool.map(lambda task: task[0][task[1] : task[1] + task[0].chunks[0]].nbytes, tasks)
        total = sum(sizes)
    return total / MEGABYTE / (time.perf_counter() - began)


class RawFiles:
    """The store's chunk files, read by plain threads into one buffer that is kept."""

    def __init__(self, path: Path) -> None:
        folders = [path / name / "c" for name in (*ON_LEVELS, *AT_SURFACE)]
        self.files = [file for folder in folders for file in sorted(folder.rglob("*")) if file.is_file()]
        sizes = [file.stat().st_size for file in self.files]
        self.buffer = np.ones(sum(sizes), np.uint8)  # written to, so that its pages are there
        self.starts = np.cumsum([0, *sizes])

    def _read_one(self, number: int) -> int:
        with self.files[number].open("rb", buffering=0) as file:
            return file.readinto(self.buffer[self.starts[number] : self.starts[number + 1]].data) or 0

    def __call__(self) -> float:
        """Read all of them; MB/s."""
        began = time.perf_counter()
        with ThreadPoolExecutor(THREADS) as pool:
            total = sum(pool.map(self._read_one, range(len(self.files))))
        return total / MEGABYTE / (time.perf_counter() - began)


def read_by_stream(stream: WindowStream) -> float:
    """Take batches as fast as they come; MB/s."""
    total = 0
    began = time.perf_counter()
    for _ in range(BATCHES):
        total += next(stream).fields.nbytes
    elapsed = time.perf_counter() - began
    stream.load_state_dict(stream.state_dict())  # drops what was read ahead, so that it does not run into the next turn
    return total / MEGABYTE / elapsed


def compare_reading(folder: Path) -> dict[str, Any]:
    """Measure all in turns; ratios are medians of each round's own ratio."""
    path = folder / "noise.zarr"
    make_store(path)
    channels = channels_of(open_analysis(path))

    def new_stream() -> WindowStream:
        return WindowStream(path, channels, batch_size=2, threads=THREADS, prefetch=2, memory_limit=0)

    def read_by_new_stream() -> float:
        stream = new_stream()
        speed = read_by_stream(stream)
        stream.close()
        return speed

    stream, raw_files = new_stream(), RawFiles(path)
    for _ in range(WARM_UP):
        read_by_stream(stream), read_by_zarr(path), raw_files()
    ways: dict[str, Callable[[], float]] = {
        "loader": lambda: read_by_stream(stream),
        "loader_just_made": read_by_new_stream,
        "zarr_threads": lambda: read_by_zarr(path),
        "raw_threads": raw_files,
    }
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    for _, name in product(range(ROUNDS), ways):
        speeds[name].append(ways[name]())
    stream.close()
    ratios = {
        f"{one}_to_{other}": [a / b for a, b in zip(speeds[one], speeds[other], strict=True)]
        for one in ("loader", "loader_just_made")
        for other in ("zarr_threads", "raw_threads")
    }
    return {
        "store": f"{len(channels)} channels, {ROWS} x {COLUMNS}, {STEPS} steps, uncompressed, page cache warm",
        "threads": THREADS,
        "megabytes_per_second": {name: round(statistics.median(values)) for name, values in speeds.items()},
        "ratios": {name: round(statistics.median(values), 2) for name, values in ratios.items()},
        "ratios_by_round": {name: [round(value, 2) for value in values] for name, values in ratios.items()},
        "wanted": "loader at least 0.8 of plain threads",
    }


def train(stream: WindowStream) -> dict[str, float]:
    """Train on the stream; seconds per step and the share of them spent waiting for data."""
    torch.manual_seed(0)
    model = build(CASES[0], fast=True).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def step() -> None:
        window = next(stream)
        forcings, features = model.inputs_at(window.time[:, 1], np.zeros(window.time.shape[0]))
        with torch.autocast("cpu", torch.bfloat16, enabled=fast_dtype() == torch.bfloat16):
            loss = model.normalised_tendency(window.fields[:, :2], forcings, features).float().square().mean()
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()

    step()
    waited, began = stream.wait_seconds, time.perf_counter()
    for _ in range(TRAINING_BATCHES):
        step()
    elapsed = time.perf_counter() - began
    waited = stream.wait_seconds - waited
    stream.close()
    return {"seconds_per_step": round(elapsed / TRAINING_BATCHES, 4), "share_waited": round(waited / elapsed, 5)}


def measure_waiting(folder: Path) -> dict[str, Any]:
    """Train on the sample, kept in memory and read at every step."""
    path = folder / "sample.zarr"
    build_analysis_store(sample_sources(), path)
    channels = [str(channel) for channel in channels_of(open_analysis(path))]
    limits = {"kept_in_memory": 2**30, "read_at_every_step": 0}
    return {
        "consumer": f"puyun_tiny, {fast_dtype()}, batch 4, {TRAINING_BATCHES} steps, {torch.get_num_threads()} torch threads",
        **{name: train(WindowStream(path, channels, batch_size=4, memory_limit=limit)) for name, limit in limits.items()},
        "wanted": "share_waited below 0.05",
    }


def main() -> None:
    result: dict[str, Any] = {
        "what": "WindowStream beside plain threads, and how long a training loop waits for it",
        "machine": describe_machine(),
    }
    with tempfile.TemporaryDirectory() as folder:
        result["reading"] = compare_reading(Path(folder))
        result["waiting"] = measure_waiting(Path(folder))
    store_result(RESULT, result)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
