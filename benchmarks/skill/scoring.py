"""Scores of a study's networks: error, correlation and sharpness, and whether a difference from the reference is chance.

Networks of one form that differ in their seed are one row: its mean square error at an initial time is the mean over the seeds.
The paired differences from the reference's are resampled in blocks of initial times that share weather
(`forecast.verification.significance.block_bootstrap`); where the 95 % interval holds 0, the two are tied. Sharpness stands
beside every error: activity over the truth's, and the energy at short waves over the truth's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from data_pipelines.variables import Channel
from forecast.verification.config import VerifyConfig
from forecast.verification.evaluation import Verification, evaluate
from forecast.verification.significance import block_bootstrap, overlap_of

LEADS = (6, 24, 72, 120)  # hours
SHORT_WAVES = 15  # zonal wavenumbers from here on: shorter than 1,900 km at 45 degrees


def score(
    stores: Mapping[str, Path],
    members: Mapping[str, Sequence[str]],
    reference: str,
    analysis: Path,
    span: Sequence[str],
    *,
    leads: Sequence[int] = LEADS,
    variables: Sequence[str] | None = None,
    train: Path | None = None,
) -> dict[str, dict[str, Any]]:
    """Score forecast stores and the fitted baselines.

    Parameters
    ----------
    stores
        Forecast store of every network.
    members
        Names in `stores` of the networks that are one row, by name of the row.
    reference
        The row that the others are tested against.
    analysis, span
        Truth, and the first and last time that networks and baselines learned from.
    leads, variables
        Lead times [h], and variables (None: all).
    train
        Store on which baselines are fitted; None for `analysis`.

    Returns
    -------
    {row: {channel: {lead time [h]: numbers}}}, the numbers told in `_numbers`.
    """
    first, *others = stores
    found = evaluate(
        VerifyConfig(
            str(stores[first]), str(analysis), "unused", name=first, compare={name: str(stores[name]) for name in others},
            train=str(train or analysis), train_span=list(span), regions=["global"], leads=list(leads),
            spectrum_leads=list(leads), variables=None if variables is None else list(variables), progress=False,
        )
    )  # fmt: skip
    rows = dict(members) | {name: [name] for name in found.contest.baselines}
    return {
        row: {
            str(channel): {str(lead): _numbers(found, channel, lead, names, rows[reference]) for lead in leads}
            for channel in found.contest.channels
        }
        for row, names in rows.items()
    }


def _numbers(
    found: Verification, channel: Channel, lead: int, names: Sequence[str], reference: Sequence[str]
) -> dict[str, float | list[float] | None]:
    """RMSE (of the mean MSE over seeds, and of each), ACC, activity, short waves, and the test against the reference.

    `against` is the mean difference of the MSE as a share of the reference's, with the ends of its 95 % interval: below 0 where
    the row is better.
    """
    mse, scores, spectra = (_of(data, channel, lead) for data in (found.by_initial_time, found.scores, found.spectra))
    of_scores = scores.sel(forecast=list(names), region="global").mean("forecast")
    energy = spectra.isel(zonal_wavenumber=slice(SHORT_WAVES, None)).sum("zonal_wavenumber", skipna=False)
    ours, theirs = (mse.sel(forecast=list(one)).mean("forecast").values for one in (names, reference))
    both = np.isfinite(ours) & np.isfinite(theirs)
    sample = found.contest.sample
    difference = block_bootstrap((ours - theirs)[both], overlap_of(np.timedelta64(lead, "h"), sample.spacing))
    size = float(theirs[both].mean())
    return {
        "rmse": _number(np.sqrt(np.nanmean(ours))),
        "rmse_by_seed": [_number(value) or float("nan") for value in np.sqrt(mse.sel(forecast=list(names)).mean("time"))],
        "acc": _number(of_scores.sel(metric="acc")),
        "activity": _number(of_scores.sel(metric="activity") / of_scores.sel(metric="activity_truth")),
        "short_waves": _number(energy.sel(forecast=list(names)).mean() / energy.sel(forecast="truth")),
        "against": None
        if list(names) == list(reference) or not np.isfinite(difference.low)
        else [_number(value / size) or 0.0 for value in (difference.mean, difference.low, difference.high)],
    }


def _of(data: xr.Dataset, channel: Channel, lead: int) -> xr.DataArray:
    values = data[channel.variable].sel(prediction_timedelta=np.timedelta64(lead, "h"))
    return values if channel.level is None else values.sel(level=channel.level)


def _number(value: Any) -> float | None:
    return float(f"{float(value):.5g}") if np.isfinite(value) else None
