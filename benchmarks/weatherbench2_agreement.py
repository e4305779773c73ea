"""WeatherBench 2's own evaluation code reads our forecast store: does it find the same RMSE, MAE, bias and ACC as ours.

WeatherBench 2 is not on PyPI and is no part of this project: give the path of a checkout, and run from this project's folder in
an environment that has its requirements (apache-beam, jax, xarray-beam, scikit-learn, zarr, dask, netCDF4) and rich:

    python -m benchmarks.weatherbench2_agreement CHECKOUT FORECAST TRUTH

FORECAST is a forecast store with the attribute `training_span`, TRUTH an analysis store with that span and the valid times. The
anomalies of both are from the mean by hour of day of the training span, given to WeatherBench 2 in its own layout.

Two comparisons, both by its own functions:
- `evaluate_in_memory`, from the stores on disk to its NetCDF file, over the initial times that verify at every lead time;
- its reader and its loop over metrics and regions, lead time by lead time, over all initial times that verify there.
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from forecast.verification.config import VerifyConfig
from forecast.verification.evaluation import Verification, evaluate

REGIONS = ["global", "tropics", "extra-tropics", "northern-hemisphere", "europe", "arctic"]
METRICS = ("rmse", "mae", "bias", "acc")
DIGITS = 6
RESULT = Path(__file__).parent / "results" / "weatherbench2_agreement.json"


def score_here(forecast: str, truth: str, **changes: Any) -> Verification:
    """Score with this project's code."""
    config = VerifyConfig(forecast, truth, "unused", baselines=["climatology"], regions=REGIONS, progress=False, **changes)
    return evaluate(config)


def their_settings(module: Any, climatology: xr.Dataset) -> Any:
    """WeatherBench 2's metrics and regions under its own names."""
    from weatherbench2 import evaluation, metrics, regions

    band = regions.SliceRegion
    return module.Eval(
        metrics={
            "mse": metrics.MSE(),
            "mae": metrics.MAE(),
            "bias": metrics.Bias(),
            "acc": metrics.ACC(evaluation.make_latitude_increasing(climatology)),
        },
        regions={
            "global": band(),
            "tropics": band(lat_slice=slice(-20, 20)),
            "extra-tropics": regions.ExtraTropicalRegion(),
            "northern-hemisphere": band(lat_slice=slice(20, None)),
            "europe": band(lat_slice=slice(35, 75), lon_slice=[slice(347.5, None), slice(0, 42.5)]),
            "arctic": band(lat_slice=slice(60, None)),
        },
    )


def relative_difference(theirs: xr.Dataset, found: Verification, leads: np.ndarray) -> dict[str, float]:
    """Largest relative difference per metric over variables, regions and lead times; of biases relative to the RMSE."""
    ours = found.scores.sel(forecast=found.contest.names[0], prediction_timedelta=leads)
    theirs = theirs.rename(lead_time="prediction_timedelta")
    result = {}
    for metric in METRICS:
        worst = 0.0
        for name in {channel.variable for channel in found.contest.channels}:
            mine = ours[name].sel(metric=metric, drop=True)
            their_own = theirs[name].sel(metric="mse" if metric == "rmse" else metric, drop=True)
            their_own = np.sqrt(their_own) if metric == "rmse" else their_own
            scale = ours[name].sel(metric="rmse", drop=True) if metric == "bias" else np.abs(mine)
            ratio = np.abs(their_own.sel(region=REGIONS).transpose(*mine.dims).values - mine.values) / scale.values
            worst = max(worst, float(ratio.max()))
        result[metric] = worst
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("checkout", "forecast", "truth"):
        parser.add_argument(name)
    parser.add_argument("--result", default=str(RESULT))
    parser.add_argument("--note", default="", help="what the forecast is, where its store does not say")
    arguments = parser.parse_args()
    sys.path.insert(0, arguments.checkout)
    from weatherbench2 import config, evaluation

    logging.disable(logging.WARNING)
    found = score_here(arguments.forecast, arguments.truth)
    sample = found.contest.sample
    climatology = found.contest.climatology
    if climatology is None or "dayofyear" in climatology.dataset.dims:
        raise SystemExit(
            "the forecast must name a training span of less than two years, whose mean by hour of day both sides use"
        )
    repeated = climatology.dataset.expand_dims(dayofyear=np.arange(1, 367)).transpose("hour", "dayofyear", ...)
    settings = their_settings(config, repeated)
    variables = list(dict.fromkeys(channel.variable for channel in found.contest.channels))
    whole = sample.initial_times[sample.inside.all(axis=1)]

    def data(first: np.datetime64, last: np.datetime64, folder: str = "") -> Any:
        selection = config.Selection(variables=variables, time_slice=slice(first, last))
        paths = config.Paths(forecast=arguments.forecast, obs=arguments.truth, output_dir=folder)
        return config.Data(selection=selection, paths=paths, by_init=True)

    opened, truth, _ = evaluation.open_forecast_and_truth_datasets(
        data(sample.initial_times[0], sample.initial_times[-1]), settings, use_dask=True
    )
    by_lead = dict.fromkeys(METRICS, 0.0)
    for place, lead in enumerate(sample.leads):
        one = opened.sel(lead_time=[lead], init_time=sample.initial_times[sample.inside[:, place]])
        theirs = evaluation._metric_and_region_loop(one, truth.sel(time=one.valid_time), settings, skipna=False).compute()
        for metric, value in relative_difference(theirs, found, sample.leads[[place]]).items():
            by_lead[metric] = max(by_lead[metric], value)
    with tempfile.TemporaryDirectory() as folder:
        evaluation.evaluate_in_memory(data(whole[0], whole[-1], folder), {"agreement": settings})
        theirs = xr.open_dataset(Path(folder) / "agreement.nc", decode_timedelta=True).load()
    subset = score_here(arguments.forecast, arguments.truth, start=str(whole[0]), end=str(whole[-1]))
    on_disk = relative_difference(theirs, subset, sample.leads)
    worst = max(*by_lead.values(), *on_disk.values())
    result = {
        "what": "largest relative difference between our scores and WeatherBench 2's own code's (bias: relative to the RMSE)",
        "forecast": opened.attrs.get("title", ""),
        "note": arguments.note,
        "digits_wanted": DIGITS,
        "agree": worst < 0.5 * 10.0**-DIGITS,
        "each_lead_time_over_its_initial_times": by_lead,
        "evaluate_in_memory_from_disk": on_disk,
        "variables": [str(channel) for channel in found.contest.channels],
        "regions": REGIONS,
        "lead_times": int(sample.leads.size),
        "initial_times": {"at the shortest lead": int(sample.counts[0]), "at the longest lead": int(sample.counts[-1])},
        "first_initial_time": str(np.datetime64(sample.initial_times[0], "h")),
        "machine": platform.machine(),
        "versions": {"python": platform.python_version(), "xarray": xr.__version__, "numpy": np.__version__},
    }
    Path(arguments.result).parent.mkdir(parents=True, exist_ok=True)
    Path(arguments.result).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))
    if not result["agree"]:
        raise SystemExit(f"the scores differ within the first {DIGITS} digits")


if __name__ == "__main__":
    main()
