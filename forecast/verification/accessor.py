"""`dataset.skill`: scores of a forecast in WeatherBench 2's schema, any size, on xarray and dask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from forecast.verification.events import Event, event_scores, event_statistics, fraction_statistics, roc_curve
from forecast.verification.inputs import VerificationError, unstack
from forecast.verification.metrics import METRICS, statistics_for
from forecast.verification.seeps import seeps_statistic
from forecast.verification.significance import diebold_mariano, overlap_of
from forecast.verification.skill import (
    Conventions,
    Statistics,
    make_contest,
    possible_metrics,
    score_intervals,
    statistics,
)
from forecast.verification.spectra import BAND, mean_spectra
from forecast.verification.statistics import Statistic, ratio

ACC = {"wb2": "acc", "wbx": "acc_pooled", "centred": "acc_centred"}
TESTED = {"rmse": "mse", "mae": "mae", "crps": "crps", "bias": "bias"}  # what the Diebold-Mariano test compares
DEFAULT = Conventions()
ITSELF = "forecast"


@xr.register_dataset_accessor("skill")
class Skill:
    """Scores of the forecast that this dataset holds.

    The dataset has initial times (`time`), lead times (`prediction_timedelta`), perhaps members (`number`) and levels
    (`level`), latitude and longitude, in any order and direction and under any of the usual names; `truth` has `time`. Every
    method takes `options`, a `Conventions`, and gives results that carry them as attributes.
    """

    def __init__(self, dataset: xr.Dataset):
        self._dataset = dataset

    def statistics(
        self,
        truth: xr.Dataset,
        metrics: Sequence[str] | None = None,
        *,
        climatology: xr.Dataset | None = None,
        variables: Sequence[str] | None = None,
        by_time: bool = True,
        options: Conventions = DEFAULT,
    ) -> Statistics:
        """Work out what scores are made of: statistics of parts of a forecast combine (`Statistics.combine`).

        Parameters
        ----------
        truth
            Analyses.
        metrics
            Names in `forecast.verification.metrics.METRICS`; None: all that the data allow.
        climatology
            (hour, [dayofyear], ...) as WeatherBench 2's, or without hour; for anomaly scores.
        variables
            Names; None: all of the forecast.
        by_time
            Keep initial times apart; needed for intervals, tests and scores of some times.
        options
            Conventions.

        Raises
        ------
        VerificationError
            If the data do not fit together, lack what a metric needs, or hold a NaN that `options.missing` refuses.
        """
        contest = make_contest({ITSELF: self._dataset}, truth, climatology, options, variables)
        chosen = _metrics(metrics, possible_metrics(contest))
        return statistics(contest, options, statistics_for(chosen), by_time=by_time)[ITSELF]

    def score(
        self,
        truth: xr.Dataset,
        metrics: Sequence[str] | None = None,
        *,
        climatology: xr.Dataset | None = None,
        variables: Sequence[str] | None = None,
        by: str | xr.DataArray | None = None,
        interval: float | None = 0.95,
        options: Conventions = DEFAULT,
    ) -> xr.Dataset:
        """Score, with intervals.

        Parameters
        ----------
        truth, metrics, climatology, variables, options
            As for `statistics`.
        by
            Score groups of initial times apart: "season", "month", "hour" or "year", or labels with the dimension time (weather
            regimes, say).
        interval
            Confidence of the block bootstrap over initial times; None: no intervals.

        Returns
        -------
        xarray.Dataset
            Variables by name, dimensions ([group], [bound], metric, region, prediction_timedelta, [level]), and the coordinate
            `initial_times`, how many are scored at each lead time (and group); bound is "value", and "low" and
            "high" of the interval (NaN where the sample is too short to tell).
        """
        contest = make_contest({ITSELF: self._dataset}, truth, climatology, options, variables)
        chosen = _metrics(metrics, possible_metrics(contest))
        found = statistics(contest, options, statistics_for(chosen))[ITSELF]
        if by is None:
            return _with_interval(found, chosen, contest.sample, interval)
        labels = _labels(by, found.times)
        groups = [
            _with_interval(found.select(labels == label), chosen, contest.sample, interval) for label in np.unique(labels)
        ]
        return xr.concat(groups, "group", combine_attrs="drop_conflicts").assign_coords(group=np.unique(labels))

    def rmse(self, truth: xr.Dataset, options: Conventions = DEFAULT, *, variables: Sequence[str] | None = None) -> xr.Dataset:
        """Root mean square error (WeatherBench 2), dimensions (region, prediction_timedelta, [level])."""
        return self._one("rmse", truth, None, options, variables)

    def mae(self, truth: xr.Dataset, options: Conventions = DEFAULT, *, variables: Sequence[str] | None = None) -> xr.Dataset:
        """Mean absolute error."""
        return self._one("mae", truth, None, options, variables)

    def bias(self, truth: xr.Dataset, options: Conventions = DEFAULT, *, variables: Sequence[str] | None = None) -> xr.Dataset:
        """Mean of forecast minus truth."""
        return self._one("bias", truth, None, options, variables)

    def crps(self, truth: xr.Dataset, options: Conventions = DEFAULT, *, variables: Sequence[str] | None = None) -> xr.Dataset:
        """Fair continuous ranked probability score of an ensemble."""
        return self._one("crps", truth, None, options, variables)

    def acc(
        self,
        truth: xr.Dataset,
        climatology: xr.Dataset,
        convention: str = "wb2",
        options: Conventions = DEFAULT,
        *,
        variables: Sequence[str] | None = None,
    ) -> xr.Dataset:
        """Anomaly correlation by a named convention: "wb2", "wbx" or "centred" (`forecast.verification.metrics`)."""
        if convention not in ACC:
            raise VerificationError(f"convention must be one of {', '.join(ACC)}; got {convention!r}.")
        return self._one(ACC[convention], truth, climatology, options, variables).assign_attrs(acc_convention=convention)

    def maps(
        self,
        truth: xr.Dataset,
        metrics: Sequence[str] = ("rmse", "bias"),
        *,
        climatology: xr.Dataset | None = None,
        variables: Sequence[str] | None = None,
        options: Conventions = DEFAULT,
    ) -> xr.Dataset:
        """Scores over time at every grid point, dimensions (metric, latitude, longitude, prediction_timedelta, [level]).

        Raises
        ------
        VerificationError
            If a metric makes no sense at a point, as a correlation over space.
        """
        contest = make_contest({ITSELF: self._dataset}, truth, climatology, options, variables)
        chosen = _metrics(metrics, possible_metrics(contest))
        spatial = [name for name in chosen if not METRICS[name].additive]
        if spatial:
            raise VerificationError(f"{spatial} are made over space and have no value at a point. Take acc_pooled for acc.")
        return statistics(contest, options, statistics_for(chosen), maps=True)[ITSELF].scores(chosen)

    def compare(
        self,
        rival: xr.Dataset,
        truth: xr.Dataset,
        metrics: Sequence[str] = ("rmse",),
        *,
        climatology: xr.Dataset | None = None,
        variables: Sequence[str] | None = None,
        options: Conventions = DEFAULT,
    ) -> xr.Dataset:
        """Difference from a rival's scores on the same sample, and whether it is luck.

        Returns
        -------
        xarray.Dataset
            Dimensions (statistic, metric, region, prediction_timedelta, [level]); statistic is "difference" (this minus rival),
            "relative" to the rival's score, "low", "high" and "p" of the paired block bootstrap, and "p_dm" of the
            Diebold-Mariano test where the metric is a mean of errors. NaN where the sample is too short to tell.
        """
        contest = make_contest({ITSELF: self._dataset, "rival": rival}, truth, climatology, options, variables)
        chosen = _metrics(metrics, possible_metrics(contest))
        found = statistics(contest, options, statistics_for(chosen))
        ours, theirs = found[ITSELF], found["rival"]
        mine, other = ours.scores(chosen), theirs.scores(chosen)
        low, high, p = score_intervals(ours, theirs, chosen, contest.sample)
        parts = [mine - other, (mine - other) / other]
        parts += [ours.labelled(values, chosen) for values in (low, high, p, _diebold_mariano(ours, theirs, chosen, contest))]
        kind = np.asarray(["difference", "relative", "low", "high", "p", "p_dm"], dtype=object)
        result = xr.concat(parts, "statistic", coords="minimal", compat="override").assign_coords(statistic=kind)
        return result.assign_attrs(ours.attributes())

    def rank_histogram(
        self, truth: xr.Dataset, options: Conventions = DEFAULT, *, variables: Sequence[str] | None = None
    ) -> xr.Dataset:
        """Share of area and times where truth has each rank: (region, prediction_timedelta, [level], rank)."""
        contest = make_contest({ITSELF: self._dataset}, truth, None, options, variables)
        if not contest.has_ensembles:
            raise VerificationError("a rank histogram needs members: the forecast has no dimension number.")
        found = statistics(contest, options, ("rank_histogram",))[ITSELF]
        values = found.means(("rank_histogram",))["rank_histogram"]
        return _binned(found, {"share": values}, "rank", np.arange(values.shape[-1]))["share"]

    def events(self, truth: xr.Dataset, event: Event, options: Conventions = DEFAULT) -> xr.Dataset:
        """All scores of an event (`events.event_scores`): dimensions (metric, region, prediction_timedelta, [level])."""
        found, means = self._event(truth, event, options)
        made = event_scores(means["event"], means["event_happened"])
        return found.labelled(np.stack(list(made.values())), list(made)).assign_attrs(event=event.name)

    def reliability(self, truth: xr.Dataset, event: Event, options: Conventions = DEFAULT) -> Mapping[str, xr.Dataset]:
        """Reliability diagram: "observed" frequency by forecast probability, and the "share" of times that it is forecast.

        Each has the dimensions (region, prediction_timedelta, [level], probability).
        """
        found, means = self._event(truth, event, options)
        share, happened = means["event"], means["event_happened"]
        probability = np.arange(share.shape[-1]) / (share.shape[-1] - 1)
        made = _binned(found, {"observed": ratio(happened, share), "share": share}, "probability", probability)
        return {key: dataset.assign_attrs(event=event.name) for key, dataset in made.items()}

    def roc(self, truth: xr.Dataset, event: Event, options: Conventions = DEFAULT) -> Mapping[str, xr.Dataset]:
        """ROC curve: "hit_rate" and "false_alarm_rate" if so many members are enough to warn.

        Each has the dimensions (region, prediction_timedelta, [level], warned_at).
        """
        found, means = self._event(truth, event, options)
        curves = roc_curve(means["event"], means["event_happened"])
        made = _binned(found, curves, "warned_at", np.arange(curves["hit_rate"].shape[-1]))
        return {key: dataset.assign_attrs(event=event.name) for key, dataset in made.items()}

    def fractions_skill_score(
        self, truth: xr.Dataset, event: Event, neighbourhoods: Sequence[int], options: Conventions = DEFAULT
    ) -> xr.Dataset:
        """Fractions skill score by side of the square [grid points]: (neighbourhood, region, prediction_timedelta, [level])."""
        contest = make_contest({ITSELF: self._dataset}, truth, None, options, _variables(event))
        parts = []
        for size in neighbourhoods:
            known = fraction_statistics(event, size)
            found = statistics(contest, options, list(known), known=known)[ITSELF]
            means = found.means(known)
            values = 1 - ratio(means["fss_error"], means["fss_reference"])
            parts.append(found.labelled(values[None], ["fss"]).isel(metric=0, drop=True))
        return xr.concat(parts, "neighbourhood", coords="minimal", compat="override").assign_coords(
            neighbourhood=list(neighbourhoods)
        )

    def seeps(
        self,
        truth: xr.Dataset,
        climatology: xr.Dataset,
        variable: str = "total_precipitation_24hr",
        dry_threshold: float | None = None,
        options: Conventions = DEFAULT,
    ) -> xr.DataArray:
        """SEEPS of precipitation (`forecast.verification.seeps`): dimensions (region, prediction_timedelta)."""
        contest = make_contest({ITSELF: self._dataset}, truth, None, options, [variable])
        known: dict[str, Statistic] = {"seeps": seeps_statistic(climatology, variable, dry_threshold)}
        found = statistics(contest, options, ["seeps"], known=known)[ITSELF]
        return found.labelled(found.means(["seeps"])["seeps"][None], ["seeps"])[variable].isel(metric=0, drop=True)

    def spectra(
        self,
        truth: xr.Dataset,
        band: tuple[float, float] = BAND,
        options: Conventions = DEFAULT,
        *,
        variables: Sequence[str] | None = None,
    ) -> xr.Dataset:
        """Mean zonal energy spectra of forecast and truth: (source, prediction_timedelta, [level], zonal_wavenumber)."""
        contest = make_contest({ITSELF: self._dataset}, truth, None, options, variables)
        values = mean_spectra(contest, range(contest.sample.leads.size), band, options.missing, options.memory_limit)
        coords = {
            "source": np.asarray([ITSELF, "truth"], dtype=object),
            "prediction_timedelta": contest.sample.leads,
            "zonal_wavenumber": np.arange(values.shape[-1]),
        }
        dims = ("source", "prediction_timedelta", "channel", "zonal_wavenumber")
        return unstack(values, contest.channels, dims, coords).assign_attrs(
            spectrum_convention=f"WeatherBench 2's, Nyquist coefficient once; latitudes {band[0]:g} to {band[1]:g} degrees"
        )

    def _one(
        self,
        metric: str,
        truth: xr.Dataset,
        climatology: xr.Dataset | None,
        options: Conventions,
        variables: Sequence[str] | None,
    ) -> xr.Dataset:
        found = self.statistics(truth, [metric], climatology=climatology, variables=variables, options=options)
        return found.scores([metric]).isel(metric=0, drop=True)

    def _event(self, truth: xr.Dataset, event: Event, options: Conventions) -> tuple[Statistics, dict[str, np.ndarray]]:
        contest = make_contest({ITSELF: self._dataset}, truth, None, options, _variables(event))
        known = event_statistics(event)
        found = statistics(contest, options, list(known), known=known)[ITSELF]
        return found, found.means(known)


def _variables(event: Event) -> list[str]:
    return list(event.threshold)


def _metrics(metrics: Sequence[str] | None, possible: Sequence[str]) -> list[str]:
    if metrics is None:
        return list(possible)
    if isinstance(metrics, str):
        raise VerificationError(f"metrics must be a list of names, as [{metrics!r}]; got a string.")
    unknown = [name for name in metrics if name not in METRICS]
    if unknown:
        raise VerificationError(f"metrics {unknown} are unknown; known are {', '.join(METRICS)}.")
    lacking = {name: sorted(METRICS[name].needs) for name in metrics if name not in possible}
    if lacking:
        raise VerificationError(
            f"the data lack what some metrics need: {lacking}. climatology=... gives anomalies, a dimension number an "
            f"ensemble, both components of wind a vector."
        )
    return list(metrics)


def _labels(by: str | xr.DataArray, times: np.ndarray) -> np.ndarray:
    if isinstance(by, str):
        if by not in ("season", "month", "hour", "year"):
            raise VerificationError(f"by must be season, month, hour or year, or labels with the dimension time; got {by!r}.")
        return np.asarray(getattr(xr.DataArray(times, dims="time").dt, by).values)
    absent = np.setdiff1d(times, by["time"].values)
    if absent.size:
        raise VerificationError(f"by lacks labels of {absent.size} initial times, {absent[0]} the first. Label them all.")
    return np.asarray(by.sel(time=times).values)


def _with_interval(found: Statistics, metrics: Sequence[str], sample: Any, level: float | None) -> xr.Dataset:
    value = found.scores(metrics)
    if level is None:
        return value
    low, high, _ = score_intervals(found, None, metrics, sample, level)
    parts = [value, *(found.labelled(values, metrics) for values in (low, high))]
    bound = np.asarray(["value", "low", "high"], dtype=object)
    joined = xr.concat(parts, "bound", coords="minimal", compat="override").assign_coords(bound=bound)
    return joined.assign_attrs(
        value.attrs | {"interval_convention": f"{level:g} confidence, block bootstrap over initial times (significance.py)"}
    )


def _binned(found: Statistics, values: Mapping[str, np.ndarray], name: str, bins: np.ndarray) -> dict[str, xr.Dataset]:
    """Arrays (lead, channel, region, bin) as datasets (region, prediction_timedelta, [level], bin)."""
    coords = {"region": np.asarray(found.regions, dtype=object), "prediction_timedelta": found.leads, name: bins}
    dims = ("region", "prediction_timedelta", "channel", name)
    return {
        key: unstack(np.moveaxis(array, 2, 0), found.channels, dims, coords).assign_attrs(found.attributes())
        for key, array in values.items()
    }


def _diebold_mariano(ours: Statistics, theirs: Statistics, metrics: Sequence[str], contest: Any) -> np.ndarray:
    """Probability of no difference, (metric, lead, channel, region); NaN for metrics that are no mean of errors."""
    shape = ours.weights[""].shape[1:]
    result = np.full((len(metrics), *shape), np.nan)
    for place, metric in enumerate(metrics):
        if metric not in TESTED:
            continue
        series = [_by_time(one, TESTED[metric]) for one in (ours, theirs)]
        difference = (series[0] - series[1]).reshape(ours.times.size, -1)
        flat = result[place].reshape(-1)
        for position in range(difference.shape[1]):
            lead = position // int(np.prod(shape[1:]))
            values = difference[:, position]
            overlap = overlap_of(ours.leads[lead], contest.sample.spacing)
            flat[position] = diebold_mariano(values[np.isfinite(values)], overlap).p
        result[place] = flat.reshape(shape)
    return result


def _by_time(found: Statistics, name: str) -> np.ndarray:
    if name == "crps":
        return _by_time(found, "crps_skill") - _by_time(found, "crps_spread") / 2
    return ratio(found.sums[name], found.weights[""])
