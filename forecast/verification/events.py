"""Events: whether a value is above or below a threshold, a fixed one or a climatological quantile of place and season.

All scores of an event come from one statistic, a histogram of how many of the M members forecast it, once over all points and
once over those where it happened. Brier score, reliability, ROC and contingency tables are sums over its bins, so that they
combine over chunks, regions and times exactly. A forecast without members is an ensemble of one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float64
from scipy import ndimage

from data_pipelines.dates import time_slice
from data_pipelines.standardise import meanings
from data_pipelines.variables import VARIABLES, Channel
from forecast.verification.fields import Fields
from forecast.verification.inputs import VerificationError, normalise_grid
from forecast.verification.statistics import Means, Statistic, of_masked_field, ratio

CLIP = 1e-6  # of rates in SEDI, as weatherbenchX


@dataclass(frozen=True)
class Event:
    """A value above a threshold (or below it).

    Attributes
    ----------
    threshold
        By variable (any name of the vocabulary): a number in the vocabulary's units, as scores have them (Pa, K, m), or an
        array with any of the dimensions latitude, longitude, level, month,
        dayofyear and hour, as from `climatological_quantile`. Variables that are not named have no such event.
    above
        Whether the event is to lie above the threshold, or below it; the threshold itself is outside.
    name
        What results call it.
    """

    threshold: Mapping[str, float | xr.DataArray]
    above: bool = True
    name: str = "event"
    _arrays: dict[str, xr.DataArray] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        known = {given: _canonical(given) for given in self.threshold}
        if len(set(known.values())) < len(known):
            raise VerificationError(f"threshold names a variable twice: {list(known)}. Keep one name of each.")
        object.__setattr__(self, "threshold", {known[given]: value for given, value in self.threshold.items()})
        for name, value in self.threshold.items():
            if not isinstance(value, xr.DataArray):
                _refuse_impossible(name, value)
            else:
                unknown = set(value.dims) - {"latitude", "longitude", "lat", "lon", "level", "month", "dayofyear", "hour"}
                if unknown:
                    raise VerificationError(
                        f"threshold of {name} has the dimensions {sorted(map(str, unknown))}, which no field has. "
                        f"Choose one of each, as threshold.sel(quantile=0.95)."
                    )
                self._arrays[name] = normalise_grid(value.to_dataset(name=name), f"threshold of {name}")[name].load()

    def happens(self, values: np.ndarray, fields: Fields) -> Bool[np.ndarray, "*members pair channel lat lon"]:
        """Whether it happens in values laid out as the fields are."""
        threshold = self._thresholds(fields)
        return values > threshold if self.above else values < threshold

    def _thresholds(self, fields: Fields) -> Float64[np.ndarray, "pair channel lat lon"]:
        """NaN, which nothing is above or below, where a channel has no threshold."""
        result = np.full(fields.o.shape, np.nan)
        for place, channel in enumerate(fields.channels):
            if channel.variable in self._arrays:
                result[:, place] = self._at(self._arrays[channel.variable], channel, fields.valid)
            elif channel.variable in self.threshold:
                result[:, place] = np.float32(self.threshold[channel.variable])  # as fields are, so that equal is equal
        return result

    @staticmethod
    def _at(threshold: xr.DataArray, channel: Channel, valid: np.ndarray | None) -> np.ndarray:
        if "level" in threshold.dims:
            threshold = threshold.sel(level=channel.level)
        times = xr.DataArray(valid, dims="pair")
        chosen = {name: getattr(times.dt, name) for name in ("month", "dayofyear", "hour") if name in threshold.dims}
        values = threshold.sel(chosen).values if chosen else threshold.values
        return values if chosen else values[None]


def _canonical(given: str) -> str:
    meant = meanings(given)
    return meant[0] if meant else given


def _refuse_impossible(name: str, threshold: float) -> None:
    """Refuse a threshold that is in other units, as one of pressure in hPa: all or nothing would be above it."""
    if name not in VARIABLES:
        return
    low, high = VARIABLES[name].valid_range
    if not low <= threshold <= high:
        raise VerificationError(
            f"threshold of {name} is {threshold:g}; wanted {low:g} to {high:g} {VARIABLES[name].units}, what the atmosphere "
            f"can show. Give it in {VARIABLES[name].units}."
        )


def climatological_quantile(
    analysis: xr.Dataset, quantiles: float | Sequence[float], span: tuple[str, str] | None = None, by: str | None = None
) -> xr.Dataset:
    """Quantiles of every grid point over a span that forecasts are not scored on: thresholds of what is extreme there.

    Parameters
    ----------
    analysis
        Analyses (time, [level], latitude, longitude).
    quantiles
        In (0, 1).
    span
        First and last time, both included (ISO 8601); None: all.
    by
        None, or "month" or "hour" for quantiles of each; a year or more of analyses, please, for the first.

    Returns
    -------
    xarray.Dataset
        Dimensions ([month | hour], [quantile], [level], latitude, longitude).

    Raises
    ------
    VerificationError
        If a quantile lies outside (0, 1), the span holds nothing, or `by` is unknown.
    """
    wanted = np.atleast_1d(quantiles)
    if not ((wanted > 0) & (wanted < 1)).all():
        raise VerificationError(f"quantiles must lie in (0, 1), as 0.95; got {quantiles}.")
    if by not in (None, "month", "hour"):
        raise VerificationError(f"by must be None, 'month' or 'hour'; got {by!r}.")
    chosen = analysis if span is None else analysis.sel(time=time_slice(*span, ("span", "span"), VerificationError))
    if chosen.sizes["time"] == 0:
        raise VerificationError(
            f"span {span} holds none of the analyses. Give FIRST,LAST inside {analysis.time.values[[0, -1]]}."
        )
    grouped = chosen if by is None else chosen.groupby(f"time.{by}")
    return grouped.quantile(quantiles, dim="time", skipna=False).assign_attrs(
        comment=f"quantiles over {chosen.time.values[0]} to {chosen.time.values[-1]}"
    )


def event_statistics(event: Event) -> dict[str, Statistic]:
    """Statistics of an event: shares of the area by number of members that forecast it, over all and over where it happened."""

    def histogram(where_it_happened: bool) -> Statistic:
        def compute(means: Means) -> Float64[np.ndarray, "pair channel region bin"]:
            fields = means.fields
            count = event.happens(fields.members, fields).sum(axis=0)
            amount = event.happens(fields.o, fields).astype(np.float64) if where_it_happened else np.ones(fields.o.shape)
            unknown = ~np.isfinite(fields.f + fields.o + event._thresholds(fields))
            amount[unknown] = np.nan
            found = means.space.histogram(count, fields.members.shape[0] + 1, fields.present, amount)
            return found + 0 * found.sum(axis=-1, keepdims=True)  # one NaN, and no share is known

        return Statistic(compute, bins="members")

    return {"event": histogram(False), "event_happened": histogram(True)}


def event_scores(share: np.ndarray, happened: np.ndarray) -> dict[str, Float64[np.ndarray, "*rest"]]:
    """Scores of an event from its two histograms, averaged over times; arrays (*rest, members + 1).

    `brier`; `brier_fair`, for any number of members (Ferro 2014; WeatherBench 2's DebiasedEnsembleBrierScore); its skill
    against the event's frequency in the sample; Murphy's parts of it; the area under the ROC; and of the table whether at least
    half of the members forecast it: hit rate, false alarm rate, false alarm ratio, critical success index, frequency bias,
    equitable threat score, Peirce's skill score and the symmetric extremal dependence index.
    """
    members = share.shape[-1] - 1
    p = np.arange(members + 1) / members
    not_happened = share - happened
    frequency = happened.sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        brier = (happened * (1 - p) ** 2 + not_happened * p**2).sum(axis=-1)
        observed = np.where(share > 0, happened / np.where(share > 0, share, 1), 0)
        fair = brier - (share * p * (1 - p)).sum(axis=-1) / (members - 1) if members > 1 else np.full_like(brier, np.nan)
        uncertainty = frequency * (1 - frequency)
        rates = roc_curve(share, happened)
        area = -np.trapezoid(rates["hit_rate"], rates["false_alarm_rate"], axis=-1)
        yes = p >= 0.5
        return {
            "brier": brier,
            "brier_fair": fair,
            "brier_skill": 1 - ratio(brier, uncertainty),
            "reliability": (share * (p - observed) ** 2).sum(axis=-1),
            "resolution": (share * (observed - frequency[..., None]) ** 2).sum(axis=-1),
            "uncertainty": uncertainty,
            "roc_area": area,
            **contingency_scores(
                happened[..., yes].sum(-1),
                happened[..., ~yes].sum(-1),
                not_happened[..., yes].sum(-1),
                not_happened[..., ~yes].sum(-1),
            ),
        }


def contingency_scores(a: np.ndarray, c: np.ndarray, b: np.ndarray, d: np.ndarray) -> dict[str, np.ndarray]:
    """Scores of a table: hits a, misses c, false alarms b, correct rejections d, as shares of one whole."""
    hit_rate, false_alarm_rate = ratio(a, a + c), ratio(b, b + d)
    chance = (a + b) * (a + c) / (a + b + c + d)
    h, f = np.clip(hit_rate, CLIP, 1 - CLIP), np.clip(false_alarm_rate, CLIP, 1 - CLIP)
    top = np.log(f) - np.log(h) + np.log(1 - h) - np.log(1 - f)
    return {
        "hit_rate": hit_rate,
        "false_alarm_rate": false_alarm_rate,
        "false_alarm_ratio": ratio(b, a + b),
        "critical_success_index": ratio(a, a + b + c),
        "frequency_bias": ratio(a + b, a + c),
        "equitable_threat_score": ratio(a - chance, a + b + c - chance),
        "peirce": hit_rate - false_alarm_rate,
        "sedi": top / (np.log(f) + np.log(h) + np.log(1 - h) + np.log(1 - f)),
    }


def roc_curve(share: np.ndarray, happened: np.ndarray) -> dict[str, Float64[np.ndarray, "*rest threshold"]]:
    """Hit and false alarm rate if the event is warned of when at least k members forecast it, k = 0 to members + 1."""

    def warned(histogram: np.ndarray) -> np.ndarray:
        above = np.cumsum(histogram[..., ::-1], axis=-1)[..., ::-1]
        return np.concatenate([above, np.zeros((*above.shape[:-1], 1))], axis=-1)

    def rate(histogram: np.ndarray) -> np.ndarray:
        found = warned(histogram)
        return ratio(found, np.broadcast_to(found[..., :1], found.shape))

    return {"hit_rate": rate(happened), "false_alarm_rate": rate(share - happened)}


def fraction_statistics(event: Event, neighbourhood: int) -> dict[str, Statistic]:
    """Statistics of the fractions skill score (Roberts and Lean 2008): of the fraction of a square that has the event.

    Squares wrap around the globe in longitude; points whose square reaches over a pole or holds a missing point are left out.

    Parameters
    ----------
    event
        What.
    neighbourhood
        Side of the square in grid points, odd.

    Raises
    ------
    VerificationError
        If `neighbourhood` is not odd and positive.
    """
    if neighbourhood < 1 or neighbourhood % 2 == 0:
        raise VerificationError(f"neighbourhood must be odd and at least 1 (grid points); got {neighbourhood}.")

    def fraction(values: np.ndarray, fields: Fields) -> np.ndarray:
        happens = event.happens(values, fields).astype(np.float64)
        return _square_mean(happens if happens.ndim == fields.o.ndim else happens.mean(axis=0), neighbourhood)

    def mask(fields: Fields) -> np.ndarray:
        known = np.isfinite(fields.f + fields.o + event._thresholds(fields))
        if fields.present is not None:
            known &= fields.present
        whole = _square_mean(known.astype(np.float64), neighbourhood) > 1 - 0.5 / neighbourhood**2
        edge = neighbourhood // 2
        if edge:
            whole[..., :edge, :] = whole[..., -edge:, :] = False
        return whole

    return {
        "fss_error": of_masked_field(lambda x: (fraction(x.members, x) - fraction(x.o, x)) ** 2, mask),
        "fss_reference": of_masked_field(lambda x: fraction(x.members, x) ** 2 + fraction(x.o, x) ** 2, mask),
    }


def _square_mean(values: np.ndarray, size: int) -> np.ndarray:
    across = ndimage.uniform_filter1d(values, size, axis=-1, mode="wrap")
    return ndimage.uniform_filter1d(across, size, axis=-2, mode="nearest")
