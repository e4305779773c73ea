"""Scores forecasts and baselines on one sample: statistics of `blocks`, averaged over initial times, made into scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float64

from forecast.verification.blocks import Block, Contest, blocks
from forecast.verification.fields import wind_partners
from forecast.verification.metrics import DETERMINISTIC, ENSEMBLE, VECTOR, scores, statistics_for
from forecast.verification.spectra import MeanSpectra
from forecast.verification.statistics import STATISTICS

TRUTH = "truth"


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
    ranks
        Of each ensemble, the share of area and initial times where truth has each rank among the members.
    """

    scores: dict[str, Float64[np.ndarray, "forecast region lead channel"]]
    counts: np.ndarray
    mse: Float64[np.ndarray, "forecast time lead channel"]
    spectra: Float64[np.ndarray, "entry lead channel wavenumber"]
    spectrum_leads: list[int] = field(default_factory=list)
    ranks: dict[str, Float64[np.ndarray, "region lead channel rank"]] = field(default_factory=dict)


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
    metrics = [
        *DETERMINISTIC,
        *(VECTOR if wind_partners(contest.channels) else ()),
        *(ENSEMBLE if contest.has_ensembles else ()),
    ]
    wanted = [*statistics_for(metrics), *(("rank_histogram",) if contest.has_ensembles else ())]
    shape = (len(names), len(contest.weights), sample.leads.size, len(contest.channels))
    totals: list[dict[str, np.ndarray]] = [{} for _ in names]
    counts = np.zeros(shape[2:], dtype=np.int64)
    mse = np.full((shape[0], sample.initial_times.size, *shape[2:]), np.nan)
    spectra = MeanSpectra(contest, spectrum_leads)
    missing = "skip_fields" if allow_missing else "refuse"
    for block in blocks(contest, STATISTICS, wanted, missing=missing, memory_limit=memory_limit):
        for position, parts in enumerate(block.statistics):
            mse[position, block.inits, block.leads] = np.where(block.usable, parts["mse"][..., 0], np.nan)
            for key, values in parts.items():
                add_over_time(totals[position], key, values, block, sample.leads.size)
        counts[block.leads] += block.usable.sum(axis=0)
        spectra.add(block)
        if progress is not None and block.leads.stop == sample.leads.size:
            progress(block.inits.stop - block.inits.start)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = [{key: _mean(total, counts) for key, total in of_one.items()} for of_one in totals]
    found = [scores(mean, metrics, contest.members[name]) for name, mean in zip(names, means, strict=True)]
    # (lead, channel, region) to (forecast, region, lead, channel)
    arranged = {name: np.stack([np.moveaxis(of_one[name], -1, 0) for of_one in found]) for name in metrics}
    ranks = {
        name: np.moveaxis(mean["rank_histogram"], 2, 0)
        for name, mean in zip(names, means, strict=True)
        if contest.members[name] > 1
    }
    return Results(arranged, counts, mse, spectra.means(), list(spectrum_leads), ranks)


def add_over_time(totals: dict[str, np.ndarray], key: str, values: np.ndarray, block: Block, n_leads: int) -> None:
    """Add the sum over a block's usable initial times to the total of a statistic, (lead, channel, region, [bin])."""
    total = totals.setdefault(key, np.zeros((n_leads, *values.shape[2:])))
    usable = block.usable.reshape(*block.usable.shape, *[1] * (values.ndim - 3))
    total[block.leads] += np.where(usable, values, 0.0).sum(axis=0)


def _mean(total: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return total / counts.reshape(*counts.shape, *[1] * (total.ndim - 2))
