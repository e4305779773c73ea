"""Scores of any forecast in WeatherBench 2's schema, from Python: statistics that combine, and the scores that they make.

    >>> import forecast.verification
    >>> found = forecast_dataset.skill.score(truth, ["rmse", "acc"], climatology=climatology)  # doctest: +SKIP

Datasets may lie on disk or be dask arrays of any size: blocks of initial times are read one after another.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float64

from data_pipelines.variables import Channel
from forecast.verification.blocks import Block, Contest, blocks
from forecast.verification.fields import MISSING, Points, wind_partners
from forecast.verification.inputs import (
    VerificationError,
    check_same_grid,
    forecast_channels,
    normalise_forecast,
    normalise_truth,
    require_channels,
    time_step,
    unstack,
)
from forecast.verification.metrics import METRICS, scores, statistics_for
from forecast.verification.plausible import VerificationWarning, doubts
from forecast.verification.regions import LAND, WEIGHTS, region_weights
from forecast.verification.sample import Sample, choose_sample
from forecast.verification.significance import RESAMPLES, block_resamples, overlap_of, testable
from forecast.verification.statistics import STATISTICS, Statistic
from forecast.verification.training import given_climatology

POOLING = {
    "fields": "mean over initial times of means over space (WeatherBench 2)",
    "points": "one mean over space and initial times: times with fewer points count less (weatherbenchX, scores, xskillscore)",
}


@dataclass(frozen=True)
class Conventions:
    """How scores are averaged; results carry it as attributes.

    Attributes
    ----------
    regions
        Names in `regions.KNOWN`, each also with "_land" behind it.
    weights
        Of grid points: "cell", "cos" or "none".
    land
        "fraction" or "any": what a cell counts in a land region.
    missing
        What to do about NaN: "refuse", "skip_fields", "skip_points" or "propagate".
    pooling
        "fields" or "points": whether times with fewer points count less.
    memory_limit
        Bytes of one forecast's fields in memory at a time.
    """

    regions: Sequence[str] = ("global",)
    weights: str = "cell"
    land: str = "fraction"
    missing: str = "refuse"
    pooling: str = "fields"
    memory_limit: int = 2**27

    def __post_init__(self) -> None:
        known: tuple[tuple[str, Mapping[str, str]], ...] = (
            ("weights", WEIGHTS),
            ("land", LAND),
            ("missing", MISSING),
            ("pooling", POOLING),
        )
        for name, among in known:
            if getattr(self, name) not in among:
                raise VerificationError(f"{name} must be one of {', '.join(among)}; got {getattr(self, name)!r}.")
        if isinstance(self.regions, str) or not self.regions:
            raise VerificationError(f"regions must be a list of names, as ['global', 'europe']; got {self.regions!r}.")

    def attributes(self) -> dict[str, str]:
        """Attributes of results."""
        return {
            "weights_convention": f"{self.weights}: {WEIGHTS[self.weights]}",
            "land_convention": f"{self.land}: {LAND[self.land]}",
            "missing_convention": f"{self.missing}: {MISSING[self.missing]}",
            "pooling_convention": f"{self.pooling}: {POOLING[self.pooling]}",
        }


@dataclass(frozen=True)
class Statistics:
    """Sums over space of what scores are made of, of one forecast; those of different times combine.

    Attributes
    ----------
    sums
        By name, each (time, lead, channel, region or lat and lon, [bin]): statistic times weight.
    weights
        Under "" for all statistics without a mask of their own, under their names for the others: (time, lead, channel, ...).
    times
        Initial times of the first axis; empty where the sums are over all of them.
    leads, channels, regions
        Of the other axes.
    members
        Size of the ensemble.
    grid
        Latitude and longitude of maps, else None.
    units, conventions, climatology
        For the attributes of results.
    """

    sums: Mapping[str, Float64[np.ndarray, "time lead channel *space_and_bins"]]
    weights: Mapping[str, Float64[np.ndarray, "time lead channel *space"]]
    times: np.ndarray
    leads: np.ndarray
    channels: tuple[Channel, ...]
    members: int
    regions: tuple[str, ...]
    units: Mapping[str, str]
    conventions: Conventions
    grid: tuple[np.ndarray, np.ndarray] | None = None
    climatology: str = "none"

    def combine(self, *others: Statistics) -> Statistics:
        """Join statistics of other initial times of the same forecast, in order of time.

        Raises
        ------
        VerificationError
            If lead times, channels, regions or conventions differ, or a time occurs twice.
        """
        parts = [self, *others]
        same = [(p.leads.tolist(), p.channels, p.regions, p.members, p.conventions, sorted(p.sums)) for p in parts]
        if any(one != same[0] for one in same):
            raise VerificationError(
                "statistics differ in lead times, channels, regions, members or conventions: score them alike."
            )
        times = np.concatenate([part.times for part in parts])
        if np.unique(times).size != times.size:
            raise VerificationError("an initial time is in two of the statistics: its forecasts would count twice.")
        order = np.argsort(times)
        if times.size == 0:  # sums over all times
            sums = {name: np.sum([part.sums[name] for part in parts], axis=0) for name in self.sums}
            return replace(self, sums=sums, weights={n: np.sum([p.weights[n] for p in parts], axis=0) for n in self.weights})
        sums = {name: np.concatenate([part.sums[name] for part in parts])[order] for name in self.sums}
        weights = {name: np.concatenate([part.weights[name] for part in parts])[order] for name in self.weights}
        return replace(self, sums=sums, weights=weights, times=times[order])

    def select(self, chosen: np.ndarray) -> Statistics:
        """Keep some initial times: a boolean array or positions."""
        sums = {name: values[chosen] for name, values in self.sums.items()}
        return replace(self, sums=sums, weights={n: v[chosen] for n, v in self.weights.items()}, times=self.times[chosen])

    def means(self, names: Iterable[str]) -> dict[str, np.ndarray]:
        """Mean of statistics over initial times, (lead, channel, region, [bin]); NaN where nothing was scored."""
        return {name: _divide(self.sums[name].sum(axis=0), self._weight(name).sum(axis=0)) for name in names}

    def resampled_means(self, names: Iterable[str], lead: int, multiplicity: np.ndarray) -> dict[str, np.ndarray]:
        """As `means` at one lead time for resamples of initial times, `multiplicity` (resample, time); resample in front."""
        return {
            name: _divide(
                np.tensordot(multiplicity, self.sums[name][:, lead], axes=1),
                np.tensordot(multiplicity, self._weight(name)[:, lead], axes=1),
            )
            for name in names
        }

    def scores(self, metrics: Sequence[str]) -> xr.Dataset:
        """Make scores: dimensions (metric, region, prediction_timedelta, [level]); of maps latitude and longitude for region.

        Raises
        ------
        VerificationError
            If a metric needs statistics that are not here.
        """
        absent = [name for name in statistics_for(list(metrics)) if name not in self.sums]
        if absent:
            raise VerificationError(
                f"statistics {absent} of {list(metrics)} were not worked out. Name the metrics when scoring."
            )
        found = scores(self.means(statistics_for(list(metrics))), list(metrics), self.members)
        return self.labelled(np.stack([found[name] for name in metrics]), metrics)

    def labelled(self, values: np.ndarray, metrics: Sequence[str], front: Sequence[tuple[str, Any]] = ()) -> xr.Dataset:
        """Put scores (*front, metric, lead, channel, region or lat and lon) into variables with their conventions."""
        space = ("region",) if self.grid is None else ("latitude", "longitude")
        dims = [*(name for name, _ in front), "metric", *space, "prediction_timedelta", "channel"]
        n_front = len(front) + 1
        moved = np.moveaxis(values, range(n_front + 2, values.ndim), range(n_front, n_front + len(space)))
        coords: dict[str, Any] = dict(front) | {
            "metric": np.asarray(list(metrics), dtype=object),
            "prediction_timedelta": self.leads,
        }
        if self.times.size:
            scored = (self.weights[""] > 0).any(axis=(2, 3)).sum(axis=0)
            coords["initial_times"] = (
                "prediction_timedelta",
                scored.astype(np.int32),
                {"long_name": "initial times that are scored at this lead time"},
            )
        coords |= (
            {"region": np.asarray(self.regions, dtype=object)}
            if self.grid is None
            else dict(zip(space, self.grid, strict=True))
        )
        dataset = unstack(moved, self.channels, dims, coords)
        for name in dataset.data_vars:
            dataset[name].attrs = {"long_name": f"scores of {name}", "units": self.units.get(str(name), "")}
        described = [name for name in metrics if name in METRICS]
        dataset["metric"].attrs = {
            "comment": "; ".join(f"{name}: {METRICS[name].description}" for name in described),
            "dimensionless": " ".join(name for name in described if METRICS[name].dimensionless),
        }
        return dataset.assign_attrs(self.attributes())

    def attributes(self) -> dict[str, Any]:
        """Conventions and sample, for results."""
        sample: dict[str, Any] = {"initial_times": int(self.times.size)} if self.times.size else {}
        if self.times.size:
            sample |= {
                "first_initial_time": str(np.datetime64(self.times[0], "h")),
                "last_initial_time": str(np.datetime64(self.times[-1], "h")),
            }
        return {**self.conventions.attributes(), "climatology": self.climatology, "members": self.members, **sample}

    def _weight(self, name: str) -> np.ndarray:
        weight = self.weights.get(name, self.weights[""])
        return weight.reshape(*weight.shape, *[1] * (self.sums[name].ndim - weight.ndim))


def _divide(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    return np.divide(top, bottom, out=np.full(top.shape, np.nan), where=np.broadcast_to(bottom > 0, top.shape))


def make_contest(
    forecasts: Mapping[str, xr.Dataset],
    truth: xr.Dataset,
    climatology: xr.Dataset | None,
    conventions: Conventions,
    variables: Sequence[str] | None,
) -> Contest:
    """Bring forecasts, truth and climatology together.

    Raises
    ------
    VerificationError
        If they do not fit together.
    """
    truth = normalise_truth(truth)
    ready = {name: normalise_forecast(dataset, name) for name, dataset in forecasts.items()}
    channels = forecast_channels(next(iter(ready.values())), truth, variables)
    for name, dataset in ready.items():
        check_same_grid(dataset, truth, name)
        require_channels(dataset, channels, name)
    latitude, longitude = truth["latitude"].values, truth["longitude"].values
    weights = region_weights(
        conventions.regions, latitude, longitude, truth.get("land_sea_mask"), conventions.weights, conventions.land
    )
    sample = choose_sample(ready, truth, history=0)
    mean = None if climatology is None else given_climatology(climatology, truth, channels, conventions.memory_limit)
    contest = Contest(ready, {}, truth, channels, sample, mean, time_step(truth), weights)
    for sentence in (*sample.unverified, *doubts(contest)):
        warnings.warn(sentence, VerificationWarning, stacklevel=3)
    return contest


def statistics(
    contest: Contest,
    conventions: Conventions,
    wanted: Sequence[str],
    *,
    known: Mapping[str, Statistic] = STATISTICS,
    maps: bool = False,
    by_time: bool = True,
) -> dict[str, Statistics]:
    """Work out statistics of every forecast of a contest.

    Parameters
    ----------
    contest
        As from `make_contest`.
    conventions
        How to average.
    wanted
        Names of statistics in `known`.
    known
        Statistics by name.
    maps
        At every grid point instead of over regions; then summed over initial times.
    by_time
        Keep initial times apart, for tests and for scores of some times; else their sums, in constant memory.
    """
    sample, truth = contest.sample, contest.truth
    grid = (truth["latitude"].values, truth["longitude"].values) if maps else None
    space = Points(*(axis.size for axis in grid)) if grid is not None else None
    shape = (1 if maps or not by_time else sample.initial_times.size, sample.leads.size, len(contest.channels))
    gathered: list[tuple[dict[str, np.ndarray], dict[str, np.ndarray]]] = [({}, {}) for _ in contest.names]
    made = blocks(contest, known, wanted, space=space, missing=conventions.missing, memory_limit=conventions.memory_limit)
    for block in made:
        for found, (sums, weights) in zip(block.statistics, gathered, strict=True):
            _gather(block, found, sums, weights, shape, conventions.pooling)
    units = {channel.variable: str(truth[channel.variable].attrs.get("units", "")) for channel in contest.channels}
    description = "none" if contest.climatology is None else contest.climatology.description
    kept_times = sample.initial_times if by_time and not maps else sample.initial_times[:0]
    common = (tuple(conventions.regions), units, conventions, grid, description)
    return {
        name: Statistics(sums, weights, kept_times, sample.leads, contest.channels, contest.members[name], *common)
        for name, (sums, weights) in zip(contest.names, gathered, strict=True)
    }


def _gather(
    block: Block,
    found: Mapping[str, np.ndarray],
    sums: dict[str, np.ndarray],
    weights: dict[str, np.ndarray],
    shape: tuple[int, int, int],
    pooling: str,
) -> None:
    """Put a block's statistics, times their weights, in their places; where one initial time stands for all, add."""
    single = shape[0] == 1
    where = (slice(0, 1), block.leads) if single else (block.inits, block.leads)

    def add(store: dict[str, np.ndarray], name: str, values: np.ndarray) -> None:
        kept = store.setdefault(name, np.zeros((*shape, *values.shape[3:])))
        kept[where] += values.sum(axis=0, keepdims=True) if single else values

    weight = {name: share if pooling == "points" else (share > 0).astype(np.float64) for name, share in block.shares.items()}
    for name, values in weight.items():
        add(weights, name, values)
    for name, values in found.items():
        own = weight.get(name, weight[""])
        own = own.reshape(*own.shape, *[1] * (values.ndim - own.ndim))
        add(sums, name, np.where(own > 0, values * own, 0.0))


def possible_metrics(contest: Contest) -> list[str]:
    """All metrics that a contest has the data for."""
    offers = set() if contest.climatology is None else {"climatology"}
    offers |= {"ensemble"} if contest.has_ensembles else set()
    offers |= {"vector"} if wind_partners(contest.channels) else set()
    return [name for name, metric in METRICS.items() if metric.needs <= offers]


def score_intervals(
    first: Statistics, second: Statistics | None, metrics: Sequence[str], sample: Sample, level: float = 0.95,
    resamples: int = RESAMPLES, seed: int = 0,
) -> Float64[np.ndarray, "bound metric lead channel region"]:  # fmt: skip
    """Interval of scores, or of the difference of two forecasts' scores, and the probability of a difference of 0.

    Initial times are resampled in circular blocks as long as the forecasts overlap, the same for both forecasts, and every
    score is worked out anew from the resampled statistics (`significance.block_bootstrap` tells more).

    Returns
    -------
    ndarray
        low, high, p; NaN where the sample is too short to tell.
    """
    names = statistics_for(list(metrics))
    n, n_leads = first.times.size, first.leads.size
    result: np.ndarray | None = None
    for lead in range(n_leads):
        overlap = overlap_of(first.leads[lead], sample.spacing)
        inside = np.flatnonzero(first.weights[""][:, lead].reshape(n, -1).any(axis=1))
        if not testable(inside.size, overlap):
            continue
        index, widening = block_resamples(inside.size, overlap, resamples, seed)
        multiplicity = np.zeros((resamples, n))
        np.add.at(multiplicity, (np.arange(resamples)[:, None], inside[index]), 1.0)
        drawn, whole = np.zeros(1), np.zeros(1)
        for statistic, sign in ((first, 1.0), (second, -1.0)):
            if statistic is None:
                continue
            resampled = scores(statistic.resampled_means(names, lead, multiplicity), list(metrics), statistic.members)
            once = scores(statistic.resampled_means(names, lead, np.ones((1, n))), list(metrics), statistic.members)
            drawn = drawn + sign * np.stack([resampled[name] for name in metrics])
            whole = whole + sign * np.stack([once[name] for name in metrics])
        widened = whole + widening * (drawn - whole)  # (metric, resample, channel, region)
        low, high = np.quantile(widened, [(1 - level) / 2, (1 + level) / 2], axis=1)
        fewer = np.minimum((widened <= 0).sum(axis=1), (widened >= 0).sum(axis=1))
        p = np.where(np.isnan(low), np.nan, np.minimum(1.0, 2 * (fewer + 1) / (resamples + 1)))
        if result is None:
            result = np.full((3, low.shape[0], n_leads, *low.shape[1:]), np.nan)
        result[:, :, lead] = [low, high, p]
    if result is None:
        space = first.weights[""].shape[3:]
        return np.full((3, len(metrics), n_leads, len(first.channels), *space), np.nan)
    return result
