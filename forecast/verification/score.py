"""Scores forecasts and baselines on one sample, a block of initial times at a time.

Nothing larger than `memory_limit` is read at once: blocks of initial times, and of lead times where a single forecast is
larger than that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import xarray as xr
from jaxtyping import Float, Float32, Float64

from data_pipelines.variables import Channel
from forecast.verification.baselines import Baseline, baseline_fields
from forecast.verification.inputs import VerificationError, stack
from forecast.verification.metrics import scores, spatial_statistics, summands
from forecast.verification.sample import Sample
from forecast.verification.spectra import band_spectrum
from forecast.verification.training import Climatology

TRUTH = "truth"


@dataclass(frozen=True)
class Contest:
    """Everything that is scored together.

    Attributes
    ----------
    forecasts
        By name, in the layout of `inputs`; the one under test first.
    baselines
        Fitted, by name.
    truth
        In the layout of `inputs`.
    channels
        What is scored.
    sample
        On which initial and lead times.
    climatology
        For anomalies; None leaves ACC and activity NaN.
    step
        Time step of the analyses from which baselines start.
    weights
        (region, lat, lon), the first one global.
    """

    forecasts: Mapping[str, xr.Dataset]
    baselines: Mapping[str, Baseline]
    truth: xr.Dataset
    channels: tuple[Channel, ...]
    sample: Sample
    climatology: Climatology | None
    step: np.timedelta64
    weights: Float64[np.ndarray, "region lat lon"]

    @property
    def names(self) -> list[str]:
        """Forecasts, then baselines."""
        return [*self.forecasts, *self.baselines]


@dataclass
class Results:
    """What came out, as arrays.

    Attributes
    ----------
    scores
        By metric: (forecast, region, lead, channel).
    counts
        Initial times that entered, (lead, channel).
    mse
        Mean square error over the first region, (forecast, initial time, lead, channel); NaN where not scored.
    spectra
        (forecast and truth, lead, channel, wavenumber), means over initial times, for `spectrum_leads`.
    """

    scores: dict[str, Float64[np.ndarray, "forecast region lead channel"]]
    counts: np.ndarray
    mse: Float64[np.ndarray, "forecast time lead channel"]
    spectra: Float64[np.ndarray, "entry lead channel wavenumber"]
    spectrum_leads: list[int] = field(default_factory=list)


def score(
    contest: Contest,
    *,
    spectrum_leads: Sequence[int] = (),
    memory_limit: int = 2**28,
    allow_missing: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Results:
    """Score every forecast and baseline.

    Parameters
    ----------
    contest
        What.
    spectrum_leads
        Positions among the sample's lead times for which spectra are made.
    memory_limit
        Bytes of one forecast's fields that are in memory at a time.
    allow_missing
        Leave pairs out for all where one forecast holds NaN, instead of refusing.
    progress
        Told the number of initial times done after each block.

    Raises
    ------
    VerificationError
        If a forecast holds NaN where truth does not, and `allow_missing` is not set.
    StoreError
        If a chunk cannot be read.
    """
    sample, names = contest.sample, contest.names
    shape = (len(names), len(contest.weights), sample.leads.size, len(contest.channels))
    totals: dict[str, np.ndarray] = {}
    counts = np.zeros(shape[2:], dtype=np.int64)
    mse = np.full((shape[0], sample.initial_times.size, *shape[2:]), np.nan)
    wavenumbers = contest.truth.sizes["longitude"] // 2 + 1
    spectra = np.zeros((len(names) + 1, len(spectrum_leads), shape[3], wavenumbers))
    spectrum_counts = np.zeros((len(spectrum_leads), shape[3]))
    for inits, leads in _blocks(contest, memory_limit):
        truth, climatology, inside = _verifying_fields(contest, inits, leads)
        entrants = [_fields(contest, name, inits, leads) for name in names]
        usable = _usable(contest, entrants, truth, inside, inits, leads, allow_missing)
        for position, forecast in enumerate(entrants):
            parts = summands(spatial_statistics(forecast, truth, climatology, contest.weights))
            mse[position, inits, leads] = np.where(usable, parts["mse"][..., 0], np.nan)
            for key, values in parts.items():
                total = totals.setdefault(key, np.zeros(shape))
                kept = np.where(usable[..., None], values, 0.0)  # (init, lead, channel, region)
                total[position][:, leads] += np.moveaxis(kept.sum(axis=0), -1, 0)
        counts[leads] += usable.sum(axis=0)
        for place, lead in enumerate(spectrum_leads):
            if leads.start <= lead < leads.stop:
                keep = usable[:, lead - leads.start]
                for entry, fields in enumerate([*entrants, truth]):
                    energy = band_spectrum(fields[:, lead - leads.start], contest.truth["latitude"].values)
                    spectra[entry, place] += np.where(keep[..., None], energy, 0.0).sum(axis=0)
                spectrum_counts[place] += keep.sum(axis=0)
        if progress is not None and leads.stop == sample.leads.size:
            progress(inits.stop - inits.start)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = {key: total / counts for key, total in totals.items()}
        spectra /= spectrum_counts[..., None]
    return Results(scores(means), counts, mse, spectra, list(spectrum_leads))


def _blocks(contest: Contest, memory_limit: int) -> Iterator[tuple[slice, slice]]:
    """Cut the sample into blocks of initial times, and of lead times where one forecast is too large."""
    latitude, longitude = contest.truth.sizes["latitude"], contest.truth.sizes["longitude"]
    members = max(forecast.sizes.get("number", 1) for forecast in contest.forecasts.values())
    per_lead = 4 * members * len(contest.channels) * latitude * longitude
    n_leads = contest.sample.leads.size
    inits_at_once = max(1, memory_limit // (per_lead * n_leads))
    leads_at_once = n_leads if memory_limit >= per_lead * n_leads else max(1, memory_limit // per_lead)
    for init in range(0, contest.sample.initial_times.size, inits_at_once):
        for lead in range(0, n_leads, leads_at_once):
            yield (
                slice(init, min(init + inits_at_once, contest.sample.initial_times.size)),
                slice(lead, min(lead + leads_at_once, n_leads)),
            )


def _verifying_fields(
    contest: Contest, inits: slice, leads: slice
) -> tuple[Float[np.ndarray, "init lead channel lat lon"], Float[np.ndarray, "init lead channel lat lon"] | None, np.ndarray]:
    """Truth and climatology of a block's valid times; where truth has none, those of another time, and False in the mask."""
    inside = contest.sample.inside[inits, leads]
    valid = contest.sample.initial_times[inits, None] + contest.sample.leads[leads]
    valid = np.where(inside, valid, valid[inside][0] if inside.any() else contest.truth["time"].values[0])
    unique, place = np.unique(valid, return_inverse=True)
    place = place.reshape(valid.shape)
    truth = stack(contest.truth.sel(time=unique), contest.channels)[place]
    climatology = None if contest.climatology is None else contest.climatology.at(unique)[place]
    return truth, climatology, inside


def _fields(contest: Contest, name: str, inits: slice, leads: slice) -> Float32[np.ndarray, "init lead channel lat lon"]:
    times, lead_times = contest.sample.initial_times[inits], contest.sample.leads[leads]
    if name in contest.baselines:
        return baseline_fields(
            contest.baselines[name], contest.climatology, contest.truth, contest.channels, times, lead_times, contest.step
        )
    forecast = contest.forecasts[name]
    has = np.isin(lead_times, forecast["prediction_timedelta"].values)
    fields = stack(forecast.sel(time=times, prediction_timedelta=lead_times[has]), contest.channels)
    if "number" in forecast.dims:
        fields = fields.mean(axis=1)
    if has.all():
        return fields
    padded = np.full((fields.shape[0], has.size, *fields.shape[2:]), np.nan, dtype=np.float32)
    padded[:, has] = fields
    return padded


def _usable(
    contest: Contest,
    entrants: Sequence[np.ndarray],
    truth: np.ndarray,
    inside: np.ndarray,
    inits: slice,
    leads: slice,
    allow_missing: bool,
) -> np.ndarray:
    """(init, lead, channel): in truth, and complete in every forecast that has the lead time at all."""
    usable = np.broadcast_to(inside[..., None], truth.shape[:3]).copy()
    present = np.isfinite(truth)
    usable &= present.any(axis=(-2, -1))
    lead_times = contest.sample.leads[leads]
    for name, forecast in zip(contest.names, entrants, strict=True):
        bad = (~np.isfinite(forecast) & present).any(axis=(-2, -1)) & usable
        if name in contest.forecasts:  # a lead time that a rival does not have stays NaN for it alone
            bad[:, ~np.isin(lead_times, contest.forecasts[name]["prediction_timedelta"].values)] = False
        if bad.any() and not allow_missing:
            init, lead, channel = np.argwhere(bad)[0]
            raise VerificationError(
                f"{name} holds NaN in {contest.channels[channel]} at initial time "
                f"{np.datetime64(contest.sample.initial_times[inits][init], 'h')}, lead time "
                f"{np.timedelta64(lead_times[lead], 'h')} (and {bad.sum() - 1} more in this block), where truth has values. "
                f"Run the forecast again, or set allow_missing=true to leave such pairs out for all."
            )
        usable &= ~bad
    return usable
