"""Scores by WeatherBench 2's conventions, and by others under other names.

A is the area-weighted mean over a region, M the mean over initial times, f and o forecast and truth, ' an anomaly from
climatology at the valid time. Weights are WeatherBench 2's unless others are asked for: exact cell areas, pole caps included
(`data_pipelines.area`). Of an ensemble f is the mean of its members X, var their unbiased variance.

    rmse          sqrt(M A (f - o)^2)         root last, as WeatherBench 2 defines it
    rmse_by_time  M sqrt(A (f - o)^2)         WeatherBench 2's RMSESqrtBeforeTimeAvg
    mae           M A |f - o|
    bias          M A (f - o)
    mse_skill     1 - M A (f - o)^2 / M A o'^2                   against climatology
    acc           M [A f'o' / sqrt(A f'^2 A o'^2)]               WeatherBench 2: uncentred, mean of correlations
    acc_pooled    M A f'o' / sqrt(M A f'^2 M A o'^2)             weatherbenchX: one correlation over space and times
    acc_centred   M [cov_A(f', o') / sqrt(var_A f' var_A o')]    earth2studio, miles-credit
    activity      sqrt(M var_A f')            spatial; activity_truth is the same of o'
    activity_pooled  sqrt(M A f'^2)           weatherbenchX's PredictionActivity; activity_truth_pooled is the same of o'
    vector_rmse   sqrt(M A |u - u_o|^2)       of the wind vector, given with both of its components
    vector_mae    M A |u - u_o|
    crps          M A [E|X - o| - E|X - X'| / 2]                 fair; crps_ecdf counts a member with itself, and is not
    energy_score  M [E sqrt(A (X - o)^2) - E sqrt(A (X - X')^2) / 2]     fair
    spread        sqrt(M A var)
    debiased_rmse sqrt(M A [(f - o)^2 - var / members])          of the mean of infinitely many members
    spread_skill  spread / debiased_rmse      1 of a perfect ensemble of any size (weatherbenchX's UnbiasedSpreadSkillRatio)
    spread_error  spread / rmse               1 only in the limit of many members
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from jaxtyping import Float64

from forecast.verification.statistics import STATISTICS, ratio

Values = Mapping[str, Float64[np.ndarray, "*rest"]]


@dataclass(frozen=True)
class Metric:
    """A score.

    Attributes
    ----------
    description
        What it is and whose convention, for the attributes of results.
    statistics
        Names in `STATISTICS` that it is made of.
    value
        From their means over initial times, in that order, to the score. `members` is the size of the ensemble.
    dimensionless
        Whether it has no unit.
    best
        The value of a perfect forecast.
    members
        Whether `value` also takes the number of members, as its last argument.
    """

    description: str
    statistics: tuple[str, ...]
    value: Callable[..., np.ndarray]
    dimensionless: bool = False
    best: float = 0.0
    members: bool = False

    @property
    def needs(self) -> frozenset[str]:
        """What the fields must offer: "climatology", "ensemble", "vector"."""
        return frozenset().union(*(STATISTICS[name].needs for name in self.statistics))

    @property
    def additive(self) -> bool:
        """Whether it makes sense at a point."""
        return all(STATISTICS[name].additive for name in self.statistics)


def _same(value: np.ndarray) -> np.ndarray:
    return value


def _root(value: np.ndarray) -> np.ndarray:
    """Square root; NaN below 0, which a debiased mean square can be by chance."""
    return np.sqrt(np.where(value >= 0, value, np.nan))


METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "rmse": Metric(
            "root of the mean over initial times of the area-weighted mean square error (WeatherBench 2)", ("mse",), np.sqrt
        ),
        "mae": Metric("area-weighted mean absolute error (WeatherBench 2)", ("mae",), _same),
        "bias": Metric("area-weighted mean of forecast minus truth (WeatherBench 2)", ("bias",), _same),
        "acc": Metric(
            "mean over initial times of the uncentred anomaly correlation (WeatherBench 2)", ("acc",), _same, True, 1.0
        ),
        "acc_pooled": Metric(
            "one uncentred anomaly correlation over space and initial times (weatherbenchX)",
            ("fo", "ff", "oo"),
            lambda fo, ff, oo: ratio(fo, np.sqrt(ff * oo)),
            True,
            1.0,
        ),
        "acc_centred": Metric(
            "mean over initial times of the centred anomaly correlation (earth2studio, miles-credit)",
            ("acc_centred",),
            _same,
            True,
            1.0,
        ),
        "activity": Metric(
            "root of the mean over initial times of the area-weighted variance of forecast anomalies", ("f_variance",), np.sqrt
        ),
        "activity_truth": Metric("the same of the truth's anomalies", ("o_variance",), np.sqrt),
        "activity_pooled": Metric(
            "root of the mean square of forecast anomalies (weatherbenchX's PredictionActivity)", ("ff",), np.sqrt
        ),
        "activity_truth_pooled": Metric("the same of the truth's anomalies", ("oo",), np.sqrt),
        "rmse_by_time": Metric(
            "mean over initial times of the root of the area-weighted mean square error (WeatherBench 2's SqrtBeforeTimeAvg)",
            ("rmse",),
            _same,
        ),
        "mse_skill": Metric(
            "1 - mean square error / mean square error of climatology",
            ("mse", "oo"),
            lambda mse, oo: 1 - ratio(mse, oo),
            True,
            1.0,
        ),
        "vector_rmse": Metric(
            "root of the mean square length of the wind vector's error, given with both components", ("vector_mse",), np.sqrt
        ),
        "vector_mae": Metric("mean length of the wind vector's error, given with both components", ("vector_mae",), _same),
        "crps": Metric(
            "continuous ranked probability score, fair: unbiased for any number of members; NaN of a single one",
            ("crps_skill", "crps_spread"),
            lambda skill, spread: skill - spread / 2,
        ),
        "crps_ecdf": Metric(
            "continuous ranked probability score of the members' empirical distribution (not fair; xskillscore, properscoring)",
            ("crps_skill", "crps_spread"),
            lambda skill, spread, members: skill - (spread * (1 - 1 / members) / 2 if members > 1 else 0),
            members=True,
        ),
        "energy_score": Metric(
            "energy score of whole fields over the region, fair; the norm is the root of the area-weighted mean square",
            ("energy_skill", "energy_spread"),
            lambda skill, spread: skill - spread / 2,
        ),
        "spread": Metric("root of the mean unbiased variance of the members", ("variance",), np.sqrt),
        "debiased_rmse": Metric(
            "root of the mean square error of the ensemble mean, less what a finite number of members adds",
            ("debiased_mse",),
            _root,
        ),
        "spread_skill": Metric(
            "spread / debiased_rmse: 1 of a perfect ensemble of any size (weatherbenchX's UnbiasedSpreadSkillRatio)",
            ("variance", "debiased_mse"),
            lambda variance, mse: np.sqrt(ratio(variance, mse)),
            True,
            1.0,
        ),
        "spread_error": Metric(
            "spread / RMSE of the ensemble mean: 1 of a perfect ensemble only in the limit of many members",
            ("variance", "mse"),
            lambda variance, mse: np.sqrt(ratio(variance, mse)),
            True,
            1.0,
        ),
    }
)
DETERMINISTIC = ("rmse", "mae", "bias", "acc", "acc_pooled", "acc_centred", "activity", "activity_truth")
VECTOR = ("vector_rmse",)
ENSEMBLE = ("crps", "energy_score", "spread", "debiased_rmse", "spread_skill")
DIMENSIONLESS = frozenset(name for name, metric in METRICS.items() if metric.dimensionless)


def statistics_for(metrics: tuple[str, ...] | list[str]) -> tuple[str, ...]:
    """Names of the statistics that some metrics are made of, each once."""
    return tuple(dict.fromkeys(name for metric in metrics for name in METRICS[metric].statistics))


def scores(means: Values, metrics: tuple[str, ...] | list[str], members: int = 1) -> dict[str, Float64[np.ndarray, "*rest"]]:
    """Turn statistics, averaged over initial times, into scores.

    Parameters
    ----------
    means
        By name, at least `statistics_for(metrics)`.
    metrics
        Names in `METRICS`.
    members
        Size of the ensemble, for the scores that depend on it.
    """
    with np.errstate(invalid="ignore"):
        return {
            name: METRICS[name].value(
                *(means[key] for key in METRICS[name].statistics), *([members] if METRICS[name].members else [])
            )
            for name in metrics
        }
