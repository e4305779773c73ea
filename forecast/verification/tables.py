"""Results as labelled datasets, and judged against targets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from forecast.verification.blocks import Contest
from forecast.verification.config import TargetsConfig
from forecast.verification.display import decimals_for, display_of, lead_label, title_of
from forecast.verification.inputs import unstack
from forecast.verification.metrics import DIMENSIONLESS, METRICS
from forecast.verification.score import TRUTH, Results
from forecast.verification.significance import Difference, block_bootstrap, diebold_mariano, overlap_of
from forecast.verification.spectra import BAND

CONVENTIONS = {
    "rmse_convention": (
        "WeatherBench 2: square root of the mean over initial times of the area-weighted mean square error; the root comes last"
    ),
    "acc_convention": (
        "acc is WeatherBench 2's (uncentred, mean over initial times of correlations); acc_pooled is weatherbenchX's (one "
        "correlation over space and initial times); acc_centred is earth2studio's and miles-credit's"
    ),
    "weights_convention": (
        "WeatherBench 2: exact cell area sin(upper edge) - sin(lower edge), edges midway between latitudes and at the poles, "
        "divided by its mean"
    ),
    "region_convention": "WeatherBench 2's names and bounds, bounds included; land regions weight by the land fraction",
    "sample_convention": (
        "each lead time is scored over the initial times whose valid time is in truth, the same for every forecast and "
        "baseline; initial_times counts them"
    ),
    "spectrum_convention": (
        "WeatherBench 2's zonal energy spectrum with the Nyquist coefficient counted once, mean over latitudes "
        f"{BAND[0]:g} to {BAND[1]:g} degrees of both hemispheres"
    ),
    "significance_convention": (
        "difference of mean square errors over the first region, initial time by initial time: p and the 95 % interval "
        "dm_low..dm_high by Diebold-Mariano with an equal-weighted cosine estimate of the long-run variance, whose degrees of "
        "freedom fall with the overlap of the forecasts; bootstrap_low..bootstrap_high by circular blocks of the overlap's "
        "length, widened for the number of blocks; NaN where the sample is shorter than twice the overlap; not adjusted for "
        "the number of tests"
    ),
}
STATISTIC = ("difference", "p", "dm_low", "dm_high", "bootstrap_low", "bootstrap_high")


@dataclass(frozen=True)
class Target:
    """One thing that the forecast was held to.

    Attributes
    ----------
    text
        What, in words with numbers.
    met
        Whether.
    """

    text: str
    met: bool


def scores_dataset(contest: Contest, results: Results, regions: list[str]) -> xr.Dataset:
    """Scores in WeatherBench 2's layout with one more dimension: (forecast, metric, region, prediction_timedelta, [level])."""
    metrics = list(results.scores)
    values = np.stack([results.scores[name] for name in metrics], axis=1)
    coords = {
        "forecast": np.asarray(contest.names, dtype=object),
        "metric": np.asarray(metrics, dtype=object),
        "region": np.asarray(regions, dtype=object),
        "prediction_timedelta": contest.sample.leads,
    }
    dataset = unstack(values, contest.channels, ("forecast", "metric", "region", "prediction_timedelta", "channel"), coords)
    counts = unstack(
        results.counts, contest.channels, ("prediction_timedelta", "channel"), {"prediction_timedelta": contest.sample.leads}
    )
    dataset["initial_times"] = (
        ("prediction_timedelta",),
        contest.sample.counts,
        {"long_name": "number of initial times whose valid time is in truth", "units": "1"},
    )
    for name in counts.data_vars:
        label = f"{name}_initial_times"
        dataset[label] = counts[name].assign_attrs(
            long_name=f"number of initial times that entered the scores of {name}", units="1"
        )
    _units(dataset, contest)
    dataset["metric"].attrs = {
        "comment": "; ".join(f"{name}: {METRICS[name].description}" for name in metrics),
        "dimensionless": " ".join(sorted(DIMENSIONLESS & set(metrics))),
    }
    return dataset.assign_attrs(_provenance(contest) | {"title": "Scores of forecasts and baselines"})


def significance_dataset(contest: Contest, results: Results) -> xr.Dataset:
    """Tests of the forecast under test against every other one: (rival, statistic, prediction_timedelta, [level])."""
    rivals = contest.names[1:]
    leads = contest.sample.leads
    values = np.full((len(rivals), len(STATISTIC), leads.size, len(contest.channels)), np.nan)
    for rival in range(len(rivals)):
        for lead in range(leads.size):
            for channel in range(len(contest.channels)):
                dm, bootstrap = test_difference(contest, results, rival + 1, lead, channel)
                values[rival, :, lead, channel] = (dm.mean, dm.p, dm.low, dm.high, bootstrap.low, bootstrap.high)
    coords = {
        "rival": np.asarray(rivals, dtype=object),
        "statistic": np.asarray(STATISTIC, dtype=object),
        "prediction_timedelta": leads,
    }
    dataset = unstack(values, contest.channels, ("rival", "statistic", "prediction_timedelta", "channel"), coords)
    for name in dataset.data_vars:
        units = _units_of(contest, str(name))
        dataset[name].attrs = {
            "long_name": f"difference of the mean square errors of {name}: {contest.names[0]} minus rival",
            "units": f"({units})2" if units else "",
            "comment": "below 0 where the forecast under test is better; p has no unit",
        }
    return dataset.assign_attrs(_provenance(contest) | {"title": "Significance of differences between forecasts"})


def test_difference(contest: Contest, results: Results, rival: int, lead: int, channel: int) -> tuple[Difference, Difference]:
    """Diebold-Mariano and block bootstrap for the forecast under test minus the rival at a position in `contest.names`."""
    pair = results.mse[:, :, lead, channel]
    difference = pair[0] - pair[rival]
    difference = difference[np.isfinite(difference)]
    overlap = overlap_of(contest.sample.leads[lead], contest.sample.spacing)
    return diebold_mariano(difference, overlap), block_bootstrap(difference, overlap)


test_difference.__test__ = False  # type: ignore[attr-defined]  # pytest takes the name for a test


def spectra_dataset(contest: Contest, results: Results) -> xr.Dataset:
    """Mean zonal spectra: (forecast, prediction_timedelta, [level], zonal_wavenumber); the last entry is truth."""
    coords = {
        "forecast": np.asarray([*contest.names, TRUTH], dtype=object),
        "prediction_timedelta": contest.sample.leads[results.spectrum_leads],
        "zonal_wavenumber": np.arange(results.spectra.shape[-1]),
    }
    dims = ("forecast", "prediction_timedelta", "channel", "zonal_wavenumber")
    dataset = unstack(results.spectra, contest.channels, dims, coords)
    for name in dataset.data_vars:
        dataset[name].attrs = {
            "long_name": f"zonal energy spectrum of {name}",
            "units": f"({_units_of(contest, str(name))})2 m",
        }
    return dataset.assign_attrs(_provenance(contest) | {"title": "Zonal energy spectra of forecasts, baselines and truth"})


def ranks_dataset(contest: Contest, results: Results, regions: list[str]) -> xr.Dataset:
    """Rank histograms of the ensembles: (forecast, region, prediction_timedelta, [level], rank); empty without ensembles.

    An ensemble of fewer members than the largest is NaN at the ranks that it does not have.
    """
    if not results.ranks:
        return xr.Dataset()
    bins = max(values.shape[-1] for values in results.ranks.values())
    padded = [
        np.pad(values, [*[(0, 0)] * (values.ndim - 1), (0, bins - values.shape[-1])], constant_values=np.nan)
        for values in results.ranks.values()
    ]
    coords = {
        "forecast": np.asarray(list(results.ranks), dtype=object),
        "region": np.asarray(regions, dtype=object),
        "prediction_timedelta": contest.sample.leads,
        "rank": np.arange(bins),
    }
    dims = ("forecast", "region", "prediction_timedelta", "channel", "rank")
    dataset = unstack(np.stack(padded), contest.channels, dims, coords)
    for name in dataset.data_vars:
        dataset[name].attrs = {
            "long_name": f"share of area and initial times where truth of {name} has a rank among the members",
            "units": "1",
            "comment": "rank 0: below all members; even shares of a reliable ensemble: 1 / (members + 1); ties spread evenly",
        }
    return dataset.assign_attrs(_provenance(contest) | {"title": "Rank histograms of ensembles"})


def mse_dataset(contest: Contest, results: Results) -> xr.Dataset:
    """Mean square error over the first region by initial time: (forecast, time, prediction_timedelta, [level])."""
    coords = {
        "forecast": np.asarray(contest.names, dtype=object),
        "time": contest.sample.initial_times,
        "prediction_timedelta": contest.sample.leads,
    }
    dataset = unstack(results.mse, contest.channels, ("forecast", "time", "prediction_timedelta", "channel"), coords)
    for name in dataset.data_vars:
        dataset[name].attrs = {"long_name": f"mean square error of {name}", "units": f"({_units_of(contest, str(name))})2"}
    return dataset.assign_attrs(_provenance(contest) | {"title": "Mean square errors by initial time"})


def judge(targets: TargetsConfig, contest: Contest, results: Results, short: str) -> list[Target]:
    """Hold the forecast under test (first in `contest.names`) to the targets that the sample can decide."""
    rmse = {name: results.scores["rmse"][position, 0] for position, name in enumerate(contest.names)}
    hours = (contest.sample.leads / np.timedelta64(1, "h")).tolist()
    kinds: list[tuple[list[int], list[str], bool]] = [
        (targets.below_all_baselines, list(contest.baselines), True),
        (targets.not_above_climatology, [name for name in ("climatology",) if name in contest.baselines], False),
        (targets.not_above_short, [short] if short in contest.forecasts else [], False),
    ]
    return [
        _judge_one(contest.channels[channel], channel, hours.index(lead), lead, rmse, rivals, contest.names[0], strictly)
        for leads, rivals, strictly in kinds
        for lead in leads
        if rivals and lead in hours
        for channel in range(len(contest.channels))
    ]


def _judge_one(
    label: Any,
    channel: int,
    place: int,
    lead: int,
    rmse: Mapping[str, np.ndarray],
    rivals: list[str],
    name: str,
    strictly: bool,
) -> Target:
    ours = rmse[name][place, channel]
    best = min(rivals, key=lambda rival: rmse[rival][place, channel])
    theirs = rmse[best][place, channel]
    met = bool(ours < theirs if strictly else ours <= theirs)
    who = "every baseline" if strictly else best.replace("_", " ")
    best_note = f", best baseline {best.replace('_', ' ')}" if strictly else ""
    shown = display_of(label)
    value = theirs * shown.scale
    theirs_shown = f"{value:.{decimals_for(shown.decimals, value)}f} {shown.units}"
    return Target(
        f"{title_of(label)} at {lead_label(lead)}: RMSE {'below' if strictly else 'not above'} {who} "
        f"({100 * (ours / theirs - 1):+.1f} % against {theirs_shown}{best_note})",
        met,
    )


def _units_of(contest: Contest, name: str) -> str:
    forecast = next(iter(contest.forecasts.values()))
    return str(contest.truth[name].attrs.get("units", forecast[name].attrs.get("units", "")))


def _units(dataset: xr.Dataset, contest: Contest) -> None:
    for name in {channel.variable for channel in contest.channels}:
        dataset[name].attrs = {
            "long_name": f"scores of {name}",
            "units": _units_of(contest, name),
            "comment": "units hold for all metrics but those listed as dimensionless by the coordinate metric",
        }


def _provenance(contest: Contest) -> dict[str, Any]:
    descriptions = {f"baseline_{name}": baseline.description for name, baseline in contest.baselines.items()}
    times = contest.sample.initial_times
    return {
        **CONVENTIONS,
        **descriptions,
        "forecast_under_test": contest.names[0],
        "climatology": "none" if contest.climatology is None else contest.climatology.description,
        "first_initial_time": str(np.datetime64(times[0], "h")),
        "last_initial_time": str(np.datetime64(times[-1], "h")),
        "sample_dropped": " ".join(contest.sample.dropped) or "nothing",
        "references": "Rasp et al., WeatherBench 2, J. Adv. Model. Earth Syst. 2024, doi:10.1029/2023MS004019",
    }
