"""Ten years of daily global 1.5-degree forecasts: RMSE and anomaly correlation, here and by WeatherBench 2's direct path.

    python -m benchmarks.verification CHECKOUT PYTHON [--years 10] [--folder FOLDER]

WeatherBench 2 is not on a package index and is no part of this project: CHECKOUT is a clone of it, PYTHON the interpreter of
an environment that has its requirements (apache-beam, jax, xarray-beam, scikit-learn, zarr, dask, netCDF4).

Forecasts of two variables at three lead times are synthetic: a seasonal cycle, weather noise, and an error that grows; stores
are Zarr without compression. Each side runs in a process of its own and is timed from opening the stores to its scores,
imports left out. Sides take turns and the page cache is warm for both. The scores of both must agree to 1e-6.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

RESULT = Path(__file__).parent / "results" / "verification.json"
PEER = Path(__file__).parent / "verification_peer.py"
ROWS, COLUMNS = 121, 240
LEADS = np.array([1, 3, 5], "timedelta64[D]").astype("timedelta64[ns]")
VARIABLES = {"2m_temperature": (280.0, 12.0, "K"), "geopotential": (54000.0, 900.0, "m**2 s**-2")}
BLOCK = 60  # initial times written at a time
GIBIBYTE = 2**30
AGREE = 1e-6


def climatology() -> xr.Dataset:
    """WeatherBench 2's layout (hour, dayofyear, [level], latitude, longitude): colder at the poles, warmer in July."""
    latitude, longitude = np.linspace(-90, 90, ROWS), np.arange(COLUMNS) * 1.5
    season = np.cos(2 * np.pi * (np.arange(366) - 200) / 366)[:, None, None]
    shape = np.cos(np.deg2rad(latitude))[:, None] + 0.3 * season * np.sin(np.deg2rad(latitude))[:, None]
    pattern = np.broadcast_to(shape, (366, ROWS, COLUMNS))
    coords = {"hour": [0], "dayofyear": np.arange(1, 367), "latitude": latitude, "longitude": longitude}
    fields = {name: (mean + spread * pattern).astype(np.float32)[None] for name, (mean, spread, _) in VARIABLES.items()}
    dims = ("hour", "dayofyear", "latitude", "longitude")
    made = xr.Dataset({name: (dims, field) for name, field in fields.items()}, coords)
    return _on_level(made)


def make_stores(folder: Path, years: int) -> None:
    """Write truth, forecast and climatology."""
    mean = climatology()
    mean.to_zarr(folder / "climatology.zarr", zarr_format=2, consolidated=True)
    first = np.datetime64("2010-01-01", "ns")
    n = int((np.datetime64(f"{2010 + years}-01-01") - np.datetime64("2010-01-01")) / np.timedelta64(1, "D"))
    longest = int(LEADS[-1] / np.timedelta64(1, "D"))
    times = first + np.arange(n + longest) * np.timedelta64(1, "D")
    for block in range(0, n + longest, BLOCK):
        here = times[block : block + BLOCK]
        truth = _weather(here, mean)
        _append(truth, folder / "truth.zarr", {"time": 10})
    truth = xr.open_zarr(folder / "truth.zarr", chunks=None)
    for block in range(0, n, BLOCK):
        starts = times[block : min(block + BLOCK, n)]
        parts = [_forecast(truth.sel(time=starts + lead), starts, lead) for lead in LEADS]
        _append(xr.concat(parts, "prediction_timedelta"), folder / "forecast.zarr", {"time": 10, "prediction_timedelta": 3})


def _weather(times: np.ndarray, mean: xr.Dataset) -> xr.Dataset:
    days = xr.DataArray(times, dims="time").dt.dayofyear
    truth = mean.isel(hour=0, drop=True).sel(dayofyear=days).drop_vars("dayofyear").assign_coords(time=times)
    rng = np.random.default_rng(int(times[0].astype("int64") // 10**9))
    for name, (_, spread, units) in VARIABLES.items():
        noise = rng.standard_normal(truth[name].shape, dtype=np.float32)
        truth[name] = truth[name] + np.float32(0.3 * spread) * noise
        truth[name].attrs["units"] = units
    return truth


def _forecast(truth: xr.Dataset, starts: np.ndarray, lead: np.timedelta64) -> xr.Dataset:
    made = truth.load().assign_coords(time=starts).expand_dims(prediction_timedelta=[lead], axis=1)
    rng = np.random.default_rng(int(starts[0].astype("int64") // 10**9) + int(lead / np.timedelta64(1, "D")))
    for name, (_, spread, units) in VARIABLES.items():
        error = np.float32(0.1 * spread * np.sqrt(lead / LEADS[0]))
        made[name] = made[name] + error * rng.standard_normal(made[name].shape, dtype=np.float32)
        made[name].attrs["units"] = units
    return made.transpose("time", "prediction_timedelta", ...)


def _on_level(dataset: xr.Dataset) -> xr.Dataset:
    """Geopotential lies on a level, as in WeatherBench 2's stores."""
    dataset["geopotential"] = dataset["geopotential"].expand_dims(level=np.array([500], np.int32), axis=-3)
    return dataset


def _append(dataset: xr.Dataset, path: Path, chunks: dict[str, int]) -> None:
    if path.exists():
        dataset.to_zarr(path, append_dim="time", zarr_format=2, consolidated=True)
        return
    sizes = [{**dataset[name].sizes, **chunks} for name in VARIABLES]
    encoding: dict[str, Any] = {
        name: {"chunks": tuple(size[dim] for dim in dataset[name].dims), "compressors": None}
        for name, size in zip(VARIABLES, sizes, strict=True)
    }
    encoding |= {"time": {"units": "hours since 2010-01-01", "dtype": "int64", "chunks": (100_000,)}}
    dataset.to_zarr(path, encoding=encoding, zarr_format=2, consolidated=True)


def score_here(folder: Path) -> dict[str, Any]:
    """Score with this project's accessor; timed from opening to scores."""
    import forecast.verification  # noqa: F401  gives datasets the accessor `skill`

    start = time.perf_counter()
    opened = {name: xr.open_zarr(folder / f"{name}.zarr", chunks=None, decode_timedelta=True) for name in _STORES}
    scores = opened["forecast"].skill.score(opened["truth"], ["rmse", "acc"], climatology=opened["climatology"], interval=None)
    seconds = time.perf_counter() - start
    found = {
        f"{metric} {name}": scores[name].sel(metric=metric, region="global").values.ravel().tolist()
        for metric in ("rmse", "acc")
        for name in VARIABLES
    }
    return {"seconds": seconds, "scores": found, "first_initial_time": scores.attrs["first_initial_time"]}


_STORES = ("forecast", "truth", "climatology")


def run_apart(command: list[str]) -> dict[str, Any]:
    """Run a side in a process of its own; its last line is JSON. Adds the peak of its resident memory, in GiB."""
    watched = [sys.executable, "-c", _WATCH, *command]
    done = subprocess.run(watched, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{command[:3]} failed:\n{done.stderr[-3000:]}")
    *_, answer, peak = done.stdout.strip().splitlines()
    return {**json.loads(answer), "peak_gib": round(int(peak) * 1024 / GIBIBYTE, 2)}


_WATCH = (
    "import resource, subprocess, sys; code = subprocess.run(sys.argv[1:]).returncode; "
    "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(code)"
)


def main() -> None:
    """Make the stores, let both sides take turns, compare and store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", nargs="?")
    parser.add_argument("python", nargs="?")
    parser.add_argument("--years", type=int, default=10)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where stores are made, or lie from an earlier run")
    parser.add_argument("--ours", type=Path, help="score the stores of a folder here and print the answer")
    arguments = parser.parse_args()
    if arguments.ours:
        print(json.dumps(score_here(arguments.ours)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "forecast.zarr").exists():
            make_stores(folder, arguments.years)
        _compare(folder, arguments)


def _compare(folder: Path, arguments: argparse.Namespace) -> None:
    from benchmarks.machine import describe_machine, store_result

    ours, theirs = [], []
    for _ in range(arguments.turns):
        ours.append(run_apart([sys.executable, "-m", "benchmarks.verification", "--ours", str(folder)]))
        theirs.append(run_apart([arguments.python, str(PEER), arguments.checkout, str(folder)]))
    worst = max(
        float(np.max(np.abs(np.asarray(ours[0]["scores"][key]) / np.asarray(values) - 1)))
        for key, values in theirs[0]["scores"].items()
    )
    best = {name: min(side["seconds"] for side in sides) for name, sides in (("ours", ours), ("theirs", theirs))}
    forecasts = xr.open_zarr(folder / "forecast.zarr", chunks=None, decode_timedelta=True)
    result = {
        "what": "RMSE and ACC of daily global 1.5-degree forecasts: seconds from opening the stores to scores, best of turns",
        "initial_times": forecasts.sizes["time"],
        "lead_times_days": (LEADS / np.timedelta64(1, "D")).tolist(),
        "fields": list(VARIABLES),
        "gigabytes_read": round(sum(forecasts[name].nbytes for name in VARIABLES) * (1 + 1 / LEADS.size) / 1e9, 2),
        "ours": {"seconds": [round(side["seconds"], 2) for side in ours], "peak_gib": max(s["peak_gib"] for s in ours)},
        "weatherbench2": {
            "seconds": [round(side["seconds"], 2) for side in theirs],
            "peak_gib": max(s["peak_gib"] for s in theirs),
        },
        "times_faster": round(best["theirs"] / best["ours"], 2),
        "largest_relative_difference": worst,
        "within_4_gib": max(side["peak_gib"] for side in ours) <= 4,
        "machine": describe_machine(),
    }
    if worst > AGREE:
        raise SystemExit(f"the scores differ by {worst:.2g} relative: {ours[0]['scores']} and {theirs[0]['scores']}")
    print(json.dumps(result, indent=2))
    store_result(RESULT, result)


if __name__ == "__main__":
    main()
