"""WeatherBench 2's side of `benchmarks.verification`, for an environment that has its requirements; imports nothing of ours.

    python verification_peer.py CHECKOUT FOLDER

Its direct path: `weatherbench2.evaluation.evaluate_in_memory`, from the stores to its NetCDF file. It squares errors; the root
is taken here.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import xarray as xr


def main() -> None:
    checkout, folder = sys.argv[1:]
    sys.path.insert(0, checkout)
    from weatherbench2 import config, evaluation, metrics

    logging.disable(logging.WARNING)
    start = time.perf_counter()
    climatology = evaluation.make_latitude_increasing(xr.open_zarr(f"{folder}/climatology.zarr"))
    names = ["2m_temperature", "geopotential"]
    opened = xr.open_zarr(f"{folder}/forecast.zarr", chunks=None)
    span = slice(opened["time"].values[0], opened["time"].values[-1])
    with tempfile.TemporaryDirectory() as out:
        paths = config.Paths(forecast=f"{folder}/forecast.zarr", obs=f"{folder}/truth.zarr", output_dir=out)
        selection = config.Selection(variables=names, time_slice=span, levels=[500])
        wanted = {"direct": config.Eval(metrics={"mse": metrics.MSE(), "acc": metrics.ACC(climatology)})}
        evaluation.evaluate_in_memory(config.Data(selection=selection, paths=paths, by_init=True), wanted)
        scores = xr.open_dataset(Path(out) / "direct.nc", decode_timedelta=True).load()
    seconds = time.perf_counter() - start
    found = {}
    for name in names:
        values = scores[name].squeeze(drop=True).transpose("metric", "lead_time")
        found[f"rmse {name}"] = np.sqrt(values.sel(metric="mse")).values.ravel().tolist()
        found[f"acc {name}"] = values.sel(metric="acc").values.ravel().tolist()
    print(json.dumps({"seconds": seconds, "scores": found}))


if __name__ == "__main__":
    main()
