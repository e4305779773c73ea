"""Scores by WeatherBench 2's conventions, and by others under other names.

A is the area-weighted mean over a region, M the mean over initial times, f and o forecast and truth, ' an anomaly from
climatology at the valid time. Weights are WeatherBench 2's: exact cell areas, pole caps included (`data_pipelines.area`).

    rmse          sqrt(M A (f - o)^2)         root last, as WeatherBench 2 defines it
    mae           M A |f - o|
    bias          M A (f - o)
    acc           M [A f'o' / sqrt(A f'^2 A o'^2)]               WeatherBench 2: uncentred, mean of correlations
    acc_pooled    M A f'o' / sqrt(M A f'^2 M A o'^2)             weatherbenchX: one correlation over space and times
    acc_centred   M [cov_A(f', o') / sqrt(var_A f' var_A o')]    earth2studio, miles-credit
    activity      sqrt(M var_A f')            ECMWF's forecast activity; activity_truth is the same of o'
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from jaxtyping import Float, Float64

METRICS = MappingProxyType(
    {
        "rmse": "root of the mean over initial times of the area-weighted mean square error (WeatherBench 2)",
        "mae": "area-weighted mean absolute error (WeatherBench 2)",
        "bias": "area-weighted mean of forecast minus truth (WeatherBench 2)",
        "acc": "mean over initial times of the uncentred anomaly correlation (WeatherBench 2)",
        "acc_pooled": "one uncentred anomaly correlation over space and initial times (weatherbenchX)",
        "acc_centred": "mean over initial times of the centred anomaly correlation (earth2studio, miles-credit)",
        "activity": "root of the mean over initial times of the area-weighted variance of forecast anomalies",
        "activity_truth": "the same of the truth's anomalies",
    }
)
DIMENSIONLESS = frozenset({"acc", "acc_pooled", "acc_centred"})
STATISTICS = ("mse", "mae", "bias", "ff", "oo", "fo", "f", "o")


def spatial_statistics(
    forecast: Float[np.ndarray, "*shape lat lon"],
    truth: Float[np.ndarray, "*shape lat lon"],
    climatology: Float[np.ndarray, "*shape lat lon"] | None,
    weights: Float64[np.ndarray, "region lat lon"],
) -> dict[str, Float64[np.ndarray, "*shape region"]]:
    """Average over regions what all scores are made of.

    Parameters
    ----------
    forecast, truth, climatology
        Fields of the same shape; climatology of the valid times, or None: then the anomaly statistics are NaN.
    weights
        As from `regions.region_weights`. Points where truth is NaN (sea surface temperature on land) are left out and the
        rest weighted up. A NaN of the forecast elsewhere makes its statistics NaN.

    Returns
    -------
    dict
        Keys `STATISTICS`; float64 whatever the fields are, because a score is compared to six digits.
    """
    f, o = np.asarray(forecast, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    average = _average(np.isfinite(o), weights)
    error = f - o
    result = {"mse": average(error**2), "mae": average(np.abs(error)), "bias": average(error)}
    if climatology is None:
        return result | {name: np.full_like(result["mse"], np.nan) for name in STATISTICS[3:]}
    f, o = f - climatology, o - climatology
    return result | {"ff": average(f**2), "oo": average(o**2), "fo": average(f * o), "f": average(f), "o": average(o)}


class _average:
    """Weighted mean over latitude and longitude where truth is there."""

    def __init__(self, present: np.ndarray, weights: np.ndarray):
        self._flat = weights.reshape(weights.shape[0], -1).T
        self._present = None if present.all() else present.reshape(*present.shape[:-2], -1)

    def __call__(self, field: np.ndarray) -> np.ndarray:
        flat = field.reshape(*field.shape[:-2], -1)
        if self._present is None:
            return flat @ self._flat
        # A forecast's NaN over land would make 0 x NaN: leave those points out before weighting.
        sums = np.where(self._present, flat, 0.0) @ self._flat
        share = self._present @ self._flat
        return np.divide(sums, share, out=np.full_like(sums, np.nan), where=share > 0)


def summands(statistics: Mapping[str, Float64[np.ndarray, "*rest"]]) -> dict[str, Float64[np.ndarray, "*rest"]]:
    """Turn statistics of one initial time into what is averaged over initial times."""
    ff, oo, fo, f, o = (statistics[name] for name in ("ff", "oo", "fo", "f", "o"))
    f_variance, o_variance = _positive(ff - f**2), _positive(oo - o**2)
    return {
        **{name: statistics[name] for name in ("mse", "mae", "bias", "ff", "oo", "fo")},
        "acc": _ratio(fo, np.sqrt(ff * oo)),
        "acc_centred": _ratio(fo - f * o, np.sqrt(f_variance * o_variance)),
        "f_variance": f_variance,
        "o_variance": o_variance,
    }


def scores(means: Mapping[str, Float64[np.ndarray, "*rest"]]) -> dict[str, Float64[np.ndarray, "*rest"]]:
    """Turn `summands`, averaged over initial times, into scores; keys as in `METRICS`."""
    return {
        "rmse": np.sqrt(means["mse"]),
        "mae": means["mae"],
        "bias": means["bias"],
        "acc": means["acc"],
        "acc_pooled": _ratio(means["fo"], np.sqrt(means["ff"] * means["oo"])),
        "acc_centred": means["acc_centred"],
        "activity": np.sqrt(means["f_variance"]),
        "activity_truth": np.sqrt(means["o_variance"]),
    }


def _ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """Quotient; NaN where the denominator is 0: an anomaly that vanishes (climatology's) correlates with nothing."""
    return np.divide(top, bottom, out=np.full(np.shape(top), np.nan), where=bottom > 0)


def _positive(variance: np.ndarray) -> np.ndarray:
    """A difference of means that rounding can push below zero."""
    return np.maximum(variance, 0.0)
