"""Do our scores agree with WeatherBench 2, weatherbenchX, scores and xskillscore on data that are made to be difficult.

WeatherBench 2 and weatherbenchX are not on PyPI and no part of this project: give the paths of checkouts, and run from this
project's folder in an environment that has the requirements of both (apache-beam, jax, xarray-beam, scikit-learn, zarr, dask),
scores and xskillscore:

    python -m benchmarks.verification_agreement WEATHERBENCH2 WEATHERBENCHX

The data are random: analyses and forecasts of 10 initial times, 3 lead times and 1, 2 or 6 members on a grid with both poles,
latitude in either direction, with points missing in forecast or truth, a lead time missing, and a grid without poles. Every
check gives the largest relative difference; one above the tolerance must be listed in `DIFFERENT`, with the reason, and then
must be there.
"""

from __future__ import annotations

import argparse
import json
import logging
import operator
import platform
import sys
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

import forecast.verification  # noqa: F401  gives datasets the accessor
from forecast.verification import Conventions, Event
from forecast.verification.spectra import zonal_energy_spectrum

TOLERANCE = 1e-6
RESULT = Path(__file__).parent / "results" / "verification_agreement.json"
RAIN = "total_precipitation_24hr"
NAMES = ("geopotential_height", "10m_u_component_of_wind", "10m_v_component_of_wind")
DIFFERENT = {
    "weatherbench2 spectrum, even number of longitudes": "it doubles the Nyquist coefficient: Parseval's identity fails",
    "weatherbench2 crps, single member": "it takes the spread of a single member for 0; ours is unknown (NaN)",
    "weatherbench2 crps, points missing in truth": "it averages skill where truth is, but spread over all points",
    "weatherbench2 acc, points missing in truth": "its three means are over different points",
    "weatherbench2 acc, points missing in the forecast": "its three means are over different points",
    "weatherbench2 spread, single member": "it takes the spread of a single member for 0; ours is unknown (NaN)",
    "weatherbench2 energy score, single member": "it takes the spread of a single member for 0; ours is unknown (NaN)",
    "weatherbench2 spread, points missing in truth": "it averages over all points, though other scores leave some out",
    "weatherbench2 energy score, points missing in truth": "it takes skill where truth is, but spread over all points",
    "weatherbench2 energy score, 6 members": "it takes the spread over neighbouring members only: another, noisier, estimate",
    "weatherbench2 seeps, values equal to the dry threshold": "they fall in no category and cost nothing",
    "xskillscore crps (not fair)": "its members count as pairs with themselves: not fair; our crps_ecdf is the same",
}
Check = tuple[str, Any, Any]


def make(
    seed: int, *, members: int | None = 6, poles: bool = True, descending: bool = False, holes: str = ""
) -> tuple[xr.Dataset, xr.Dataset]:
    """Forecast and analysis; `holes` among "", "forecast", "truth" and "lead"."""
    rng = np.random.default_rng(seed)
    latitude = np.linspace(-90, 90, 13) if poles else np.linspace(-84, 84, 12)
    longitude = np.arange(18) * 20.0
    day = np.timedelta64(1, "D")
    time = np.datetime64("2020-02-20", "ns") + np.arange(14) * day
    grid = {"latitude": latitude[::-1] if descending else latitude, "longitude": longitude}
    shape = (14, latitude.size, 18)
    truth = xr.Dataset(
        {name: (("time", *grid), rng.normal(size=shape).astype(np.float32)) for name in NAMES}, {"time": time, **grid}
    )
    leads = np.arange(1, 4) * day
    axes = (10, *([members] if members else []), 3, *shape[1:])
    dims = ("time", *(["number"] if members else []), "prediction_timedelta", *grid)
    made = xr.Dataset(coords={"time": time[:10], "prediction_timedelta": leads, **grid})
    for name in NAMES:
        valid = truth[name].values[np.arange(10)[:, None] + np.arange(1, 4)]
        valid = valid[:, None] if members else valid
        made[name] = (dims, (0.6 * valid + 0.7 * rng.normal(size=axes)).astype(np.float32))
    if members:
        made = made.assign_coords(number=np.arange(members))
    if holes == "truth":
        truth = truth.where(rng.random(shape) > 0.1)
    if holes == "forecast":
        made = made.where(xr.DataArray(rng.random(shape[1:]) > 0.1, dims=tuple(grid)))
    if holes == "lead":
        made = made.where(made["prediction_timedelta"] != leads[1])
    return made, truth


def climatology_of(truth: xr.Dataset, seed: int = 9) -> xr.Dataset:
    """A climatology (hour, dayofyear, latitude, longitude)."""
    rng = np.random.default_rng(seed)
    coords = {"hour": [0, 6, 12, 18], "dayofyear": np.arange(1, 367), "latitude": truth.latitude, "longitude": truth.longitude}
    shape = tuple(len(axis) for axis in coords.values())
    return xr.Dataset({name: (tuple(coords), 0.3 * rng.normal(size=shape).astype(np.float32)) for name in NAMES}, coords)


def aligned(made: xr.Dataset, truth: xr.Dataset) -> tuple[xr.Dataset, xr.Dataset]:
    """Forecast and truth in WeatherBench 2's inner layout: latitude ascending, init_time, lead_time, valid_time."""
    made, truth = made.sortby("latitude"), truth.sortby("latitude")
    made = made.rename(time="init_time", prediction_timedelta="lead_time")
    made = made.assign_coords(valid_time=made.init_time + made.lead_time)
    return made, truth.sel(time=made.valid_time)


def difference(ours: Any, theirs: Any) -> float:
    """Largest difference relative to the largest value; infinite where only one of the two is NaN."""
    a, b = np.broadcast_arrays(np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64))
    if (np.isnan(a) != np.isnan(b)).any():
        return float("inf")
    known = ~np.isnan(a)
    return float(np.abs(a - b)[known].max() / np.abs(b[known]).max()) if known.any() else 0.0


def our(
    made: xr.Dataset, truth: xr.Dataset, metric: str, climatology: xr.Dataset | None = None, **options: Any
) -> xr.DataArray:
    """One of our scores, (variable, region, lead)."""
    found = made.skill.score(truth, [metric], climatology=climatology, interval=None, options=Conventions(**options))
    return xr.concat([found[name].isel(metric=0, drop=True) for name in NAMES], "variable").transpose("variable", "region", ...)


def weatherbench2(checks: list[Check], first: tuple[xr.Dataset, xr.Dataset], label: str, ensemble: bool, skipna: bool) -> None:
    """Compare with the functions of WeatherBench 2, averaged by its own `compute`."""
    from weatherbench2 import metrics, regions

    made, truth = first
    climatology = climatology_of(truth)
    inner, inner_truth = aligned(made, truth)
    band = regions.SliceRegion
    named = {
        "global": band(),
        "tropics": band(lat_slice=slice(-20, 20)),
        "extra-tropics": regions.ExtraTropicalRegion(),
        "northern-hemisphere": band(lat_slice=slice(20, None)),
        "europe": band(lat_slice=slice(35, 75), lon_slice=[slice(347.5, None), slice(0, 42.5)]),
    }
    options = {"regions": list(named), "missing": "skip_points" if skipna else "propagate"}

    def theirs(metric: Any, power: float = 1.0, data: xr.Dataset = inner) -> np.ndarray:
        found = [metric.compute(data, inner_truth, region=region, skipna=skipna) for region in named.values()]
        return np.stack([[one[name].values ** power for one in found] for name in NAMES])

    def add(name: str, metric: str, other: np.ndarray, with_climatology: bool = False) -> None:
        checks.append(
            (
                f"weatherbench2 {name}{label}",
                our(made, truth, metric, climatology if with_climatology else None, **options),
                other,
            )
        )

    if ensemble:
        add("crps", "crps", theirs(metrics.CRPS(ensemble_dim="number")))
        add("spread", "spread", theirs(metrics.EnsembleVariance(ensemble_dim="number"), 0.5))
        add("ensemble mean rmse", "rmse", theirs(metrics.EnsembleMeanMSE(ensemble_dim="number"), 0.5))
        debiased = theirs(metrics.DebiasedEnsembleMeanMSE(ensemble_dim="number"))
        add("debiased rmse", "debiased_rmse", np.sqrt(np.where(debiased >= 0, debiased, np.nan)))
        add("energy score", "energy_score", theirs(metrics.EnergyScore(ensemble_dim="number")))
        return
    add("rmse", "rmse", theirs(metrics.MSE(), 0.5))
    add("rmse by time", "rmse_by_time", theirs(metrics.RMSESqrtBeforeTimeAvg()))
    add("mae", "mae", theirs(metrics.MAE()))
    add("bias", "bias", theirs(metrics.Bias()))
    add("acc", "acc", theirs(metrics.ACC(climatology.sortby("latitude"))), True)
    vector = metrics.WindVectorMSE(NAMES[1], NAMES[2], "wind")
    found = np.stack([vector.compute(inner, inner_truth, region=region, skipna=skipna) for region in named.values()])
    checks.append((f"weatherbench2 wind vector rmse{label}", our(made, truth, "vector_rmse", **options)[1], np.sqrt(found)))


def weatherbench2_others(checks: list[Check]) -> None:
    """Rank histogram, spectrum, land, SEEPS."""
    from weatherbench2 import derived_variables, metrics, regions

    made, truth = make(20)
    inner, inner_truth = aligned(made, truth)
    theirs = metrics.RankHistogram(ensemble_dim="number", break_ties_randomly=False).compute(inner, inner_truth)
    ours = made.skill.rank_histogram(truth, Conventions(weights="none"))
    theirs = theirs.mean(("latitude", "longitude"))
    for name in NAMES:
        checks.append(("weatherbench2 rank histogram", ours[name].isel(region=0), theirs[name].transpose("lead_time", "bins")))
    land = xr.DataArray(
        np.random.default_rng(3).random((13, 18)),
        dims=("latitude", "longitude"),
        coords={"latitude": truth.latitude, "longitude": truth.longitude},
    )
    one = made.isel(number=0, drop=True)
    inner, inner_truth = aligned(one, truth)
    mse = metrics.MSE().compute(inner, inner_truth, region=regions.LandRegion(land))
    ours = our(one, truth.assign(land_sea_mask=land), "rmse", regions=["global_land"])
    checks.append(("weatherbench2 rmse over land", ours[:, 0], np.sqrt(np.stack([mse[name] for name in NAMES]))))
    for count, name in ((18, "even"), (17, "odd")):
        field = truth[NAMES[0]].isel(longitude=slice(0, count)).assign_coords(longitude=np.arange(count) * 360 / count)
        theirs = derived_variables.ZonalEnergySpectrum(NAMES[0]).compute(field.to_dataset())
        ours = zonal_energy_spectrum(field.values, field.latitude.values)
        checks.append(
            (
                f"weatherbench2 spectrum, {name} number of longitudes",
                ours[:, 1:-1],
                theirs.transpose("time", "latitude", ...).values[:, 1:-1],
            )
        )
    for label, tie in (("", False), (", values equal to the dry threshold", True)):
        made, truth, climatology = rain(tie)
        inner, inner_truth = aligned(made, truth)
        theirs = metrics.SEEPS(climatology, precip_name=RAIN, min_p1=0.1, max_p1=0.85).compute(inner, inner_truth)[RAIN]
        checks.append((f"weatherbench2 seeps{label}", made.skill.seeps(truth, climatology).isel(region=0), theirs))


def rain(tie: bool) -> tuple[xr.Dataset, xr.Dataset, xr.Dataset]:
    """Precipitation [m] and its climatology; with `tie`, truth is often equal to the dry threshold."""
    made, truth = make(30, members=None)
    rename = {NAMES[0]: RAIN}
    made, truth = (1e-3 * np.abs(data[[NAMES[0]]]).rename(rename).astype(np.float32) for data in (made, truth))
    if tie:
        truth = truth.where(truth[RAIN] > 0.5e-3, np.float32(0.25e-3))
    base = climatology_of(truth)[[NAMES[0]]]
    fraction = (0.05 + 0.9 * np.random.default_rng(1).random(base[NAMES[0]].shape[2:])).astype(np.float32)
    climatology = xr.Dataset(
        {
            f"{RAIN}_seeps_threshold": np.float32(1e-3) + np.float32(1e-4) * base[NAMES[0]],
            f"{RAIN}_seeps_dry_fraction": xr.zeros_like(base[NAMES[0]]) + fraction,
        }
    )
    return made, truth, climatology


def weatherbenchx(checks: list[Check]) -> None:
    """Compare with weatherbenchX: its statistics and metrics, its aggregation by grid area."""
    from weatherbenchX import aggregation, weighting
    from weatherbenchX.metrics import base, categorical, deterministic, probabilistic, spatial, wrappers

    made, truth = make(40, descending=True)
    one = made.isel(number=0, drop=True)
    climatology = climatology_of(truth)

    def theirs(
        metric: Any,
        data: xr.Dataset,
        reduce: tuple[str, ...] = ("init_time", "latitude", "longitude"),
        weigh: bool = True,
        skipna: bool = False,
    ) -> Any:
        inner = data.rename(time="init_time", prediction_timedelta="lead_time")
        inner_truth = truth.sel(time=inner.init_time + inner.lead_time).drop_vars("time")
        statistics = base.compute_unique_statistics_for_all_metrics({"m": metric}, dict(inner), dict(inner_truth))
        weights = [weighting.GridAreaWeighting()] if weigh else []
        state = aggregation.Aggregator(reduce, weigh_by=weights, skipna=skipna).aggregate_statistics(statistics)
        return state.metric_values({"m": metric})

    def add(name: str, metric: str, other: Any, data: xr.Dataset, mean: xr.Dataset | None = None, **options: Any) -> None:
        mine = our(data, truth, metric, mean, pooling="points", **options)[:, 0]
        checks.append(
            (
                f"weatherbenchX {name}",
                mine,
                np.stack([other[f"m.{variable}"].transpose("lead_time", ...) for variable in NAMES]),
            )
        )

    add("rmse", "rmse", theirs(deterministic.RMSE(), one), one)
    add("acc", "acc_pooled", theirs(deterministic.ACC(climatology), one), one, climatology)
    add("activity", "activity_pooled", theirs(deterministic.PredictionActivity(climatology), one), one, climatology)
    add("crps", "crps", theirs(probabilistic.CRPSEnsemble(ensemble_dim="number"), made), made)
    add("crps, not fair", "crps_ecdf", theirs(probabilistic.CRPSEnsemble(ensemble_dim="number", fair=False), made), made)
    add("spread-skill", "spread_skill", theirs(probabilistic.UnbiasedSpreadSkillRatio(ensemble_dim="number"), made), made)
    add("unbiased rmse", "debiased_rmse", theirs(probabilistic.UnbiasedEnsembleMeanRMSE(ensemble_dim="number"), made), made)
    add("spread", "spread", theirs(probabilistic.EnsembleRootMeanVariance(ensemble_dim="number"), made), made)
    vector = deterministic.WindVectorRMSE([NAMES[1]], [NAMES[2]], ["wind"])
    checks.append(
        (
            "weatherbenchX wind vector rmse",
            our(one, truth, "vector_rmse", pooling="points")[1, 0],
            theirs(vector, one)["m.wind"],
        )
    )
    energy = theirs(
        probabilistic.EnergyScore(dim=["latitude", "longitude"], ensemble_dim="number"), made, ("init_time",), False
    )
    mine = our(made, truth, "energy_score", weights="none")[:, 0] * np.sqrt(13 * 18)  # its norm is a sum, ours a mean
    checks.append(("weatherbenchX energy score", mine, np.stack([energy[f"m.{variable}"] for variable in NAMES])))
    ranks = theirs(probabilistic.RankHistogram(ensemble_dim="number"), made)
    mine = made.skill.rank_histogram(truth)
    for name in NAMES:
        checks.append(
            ("weatherbenchX rank histogram", mine[name].isel(region=0), ranks[f"m.{name}"].transpose("lead_time", "rank"))
        )
    limit = 0.4
    event = Event(dict.fromkeys(NAMES, limit))
    found = one.skill.events(truth, event)
    binary = wrappers.ContinuousToBinary(which="both", threshold_value=[limit], threshold_dim="threshold")
    for ours_name, metric in {
        "critical_success_index": categorical.CSI(),
        "frequency_bias": categorical.FrequencyBias(),
        "equitable_threat_score": categorical.ETS(),
        "sedi": categorical.SEDI(),
        "hit_rate": categorical.Recall(),
        "false_alarm_ratio": categorical.FalseAlarmRate(),  # its name for false alarms / warnings
    }.items():
        other = theirs(wrappers.WrappedMetric(metric, [binary]), one)
        for name in NAMES:
            checks.append(
                (
                    f"weatherbenchX {ours_name}",
                    found[name].sel(metric=ours_name).isel(region=0),
                    np.squeeze(other[f"m.{name}"].values),
                )
            )
    fss = theirs(wrappers.WrappedMetric(spatial.FSS(3, wrap_longitude=True), [binary]), one)
    mine = one.skill.fractions_skill_score(truth, event, [3])
    for name in NAMES:
        checks.append(
            (
                "weatherbenchX fractions skill score",
                mine[name].isel(region=0, neighbourhood=0),
                np.squeeze(fss[f"m.{name}"].values),
            )
        )


def scores_and_xskillscore(checks: list[Check]) -> None:
    """Compare with scores and xskillscore: weighted, over space and time at once, points missing in truth left out."""
    import scores
    import xskillscore

    for holes in ("", "truth", "forecast"):
        label = f", points missing in {holes}" if holes else ""
        made, truth = make(50, holes=holes)
        valid = truth.sel(time=made.time + made.prediction_timedelta).assign_coords(time=made.time)
        one = made.isel(number=0, drop=True)
        weight = np.cos(np.deg2rad(truth.latitude)).clip(0)
        options = {"weights": "cos", "pooling": "points", "missing": "skip_points"}
        space = ["time", "latitude", "longitude"]
        for place, name in enumerate(NAMES):
            f, o, members = one[name].astype(float), valid[name].astype(float), made[name].astype(float)
            w = weight.broadcast_like(f.isel(prediction_timedelta=0, drop=True))
            pairs = {
                "scores mae": ("mae", one, scores.continuous.mae(f, o, reduce_dims=space, weights=weight)),
                "scores rmse": ("rmse", one, np.sqrt(scores.continuous.mse(f, o, reduce_dims=space, weights=weight))),
                "scores bias": ("bias", one, scores.continuous.additive_bias(f, o, reduce_dims=space, weights=weight)),
                "scores crps fair": (
                    "crps",
                    made,
                    scores.probability.crps_for_ensemble(
                        members, o, "number", method="fair", reduce_dims=space, weights=weight
                    ),
                ),
                "scores crps ecdf": (
                    "crps_ecdf",
                    made,
                    scores.probability.crps_for_ensemble(
                        members, o, "number", method="ecdf", reduce_dims=space, weights=weight
                    ),
                ),
                "xskillscore rmse": ("rmse", one, xskillscore.rmse(f, o, dim=space, weights=w, skipna=True)),
                "xskillscore mae": ("mae", one, xskillscore.mae(f, o, dim=space, weights=w, skipna=True)),
            }
            if not holes:
                pairs["xskillscore crps (ecdf)"] = (
                    "crps_ecdf",
                    made,
                    xskillscore.crps_ensemble(o, members, member_dim="number", dim=space, weights=w),
                )
                pairs["xskillscore crps (not fair)"] = ("crps", made, pairs["xskillscore crps (ecdf)"][2])
            for check, (metric, data, other) in pairs.items():
                checks.append(
                    (
                        check + label * (check != "xskillscore crps (not fair)"),
                        our(data, truth, metric, **options)[place, 0],
                        other,
                    )
                )
            event = Event({name: 0.4})
            found = made.skill.events(truth, event, Conventions(**options))[name].isel(region=0)
            brier = {
                fair: scores.probability.brier_score_for_ensemble(
                    members,
                    o,
                    "number",
                    0.4,
                    reduce_dims=space,
                    weights=weight,
                    fair_correction=fair,
                    event_threshold_operator=operator.gt,
                )
                for fair in (True, False)
            }
            checks.append((f"scores brier fair{label}", found.sel(metric="brier_fair"), brier[True].squeeze()))
            checks.append((f"scores brier{label}", found.sel(metric="brier"), brier[False].squeeze()))
            if not holes:
                chance = (members > 0.4).mean("number")
                plain = Conventions(weights="none")
                events = made.skill.events(truth, event, plain)[name].isel(region=0)
                area = xskillscore.roc(o > 0.4, chance, bin_edges=np.arange(-0.5, 7) / 6, dim=space, return_results="area")
                checks.append(("xskillscore roc area", events.sel(metric="roc_area"), area))
                diagram = xskillscore.reliability(o > 0.4, chance, dim=space, probability_bin_edges=np.arange(-0.5, 7.5) / 6)
                checks.append(
                    (
                        "xskillscore reliability",
                        made.skill.reliability(truth, event, plain)["observed"][name].isel(region=0),
                        diagram.transpose("prediction_timedelta", ...),
                    )
                )
                ranks = xskillscore.rank_histogram(o, members, dim=space, member_dim="number")
                mine = made.skill.rank_histogram(truth, plain)[name].isel(region=0)
                checks.append(
                    ("xskillscore rank histogram", mine, (ranks / ranks.sum("rank")).transpose("prediction_timedelta", "rank"))
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weatherbench2")
    parser.add_argument("weatherbenchx", help="the folder weatherbenchX itself, in a folder of its own")
    parser.add_argument("--result", default=str(RESULT))
    arguments = parser.parse_args()
    sys.path[:0] = [arguments.weatherbench2, str(Path(arguments.weatherbenchx).resolve().parent)]
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    checks: list[Check] = []
    single = {"members": None}
    weatherbench2(checks, make(1, **single), "", False, False)
    weatherbench2(checks, make(2, **single, descending=True), ", latitude descending", False, False)
    weatherbench2(checks, make(3, **single, poles=False), ", no poles", False, False)
    weatherbench2(checks, make(4, **single, holes="forecast"), ", points missing in the forecast", False, True)
    weatherbench2(checks, make(4, **single, holes="truth"), ", points missing in truth", False, True)
    weatherbench2(checks, make(5, **single, holes="lead"), ", a lead time missing", False, False)
    weatherbench2(checks, make(6), ", 6 members", True, False)
    weatherbench2(checks, make(7, members=2, descending=True), ", 2 members, latitude descending", True, False)
    weatherbench2(checks, make(8, members=1), ", single member", True, False)
    weatherbench2(checks, make(9, members=2, holes="truth"), ", points missing in truth", True, True)
    weatherbench2_others(checks)
    weatherbenchx(checks)
    scores_and_xskillscore(checks)
    worst: dict[str, float] = {}
    for name, ours, theirs in checks:
        worst[name] = max(worst.get(name, 0.0), difference(ours, theirs))
    agree = {name: value for name, value in worst.items() if name not in DIFFERENT}
    result = {
        "what": "largest difference between our scores and theirs, relative to the largest value, on random data",
        "tolerance": TOLERANCE,
        "agree": all(value <= TOLERANCE for value in agree.values()),
        "checks": len(checks),
        "relative_difference": dict(sorted(agree.items())),
        "documented_differences": {
            name: {"relative_difference": str(worst[name]), "why": why} for name, why in DIFFERENT.items() if name in worst
        },
        "versions": {name: version(name) for name in ("numpy", "xarray", "scores", "xskillscore")}
        | {"python": platform.python_version()},
        "machine": platform.machine(),
    }
    Path(arguments.result).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))
    unexpected = [name for name, value in agree.items() if value > TOLERANCE]
    vanished = [name for name in DIFFERENT if worst.get(name, 0.0) <= TOLERANCE]
    if unexpected or vanished:
        raise SystemExit(f"differ: {unexpected}; documented, but not found: {vanished}")


if __name__ == "__main__":
    main()
