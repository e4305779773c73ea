"""Doubts about a forecast that no label tells: numbers in other units, a field upside down or turned, levels swapped, rain
summed up since the initial time. One forecast at its first lead time is looked at; what is found is said, nothing is changed.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import xarray as xr
from jaxtyping import Float32

from data_pipelines.selection import select
from data_pipelines.variables import ACCUMULATED, OCEAN_VARIABLES, VARIABLES, Channel, Variable
from forecast.verification.blocks import Contest
from forecast.verification.inputs import stack

LATEST = np.timedelta64(5, "D")  # a forecast of a later time need not look like truth
OTHER_SCALE = 8.0  # ratio of root mean squares; gravity, of heights taken for geopotential, is 9.8
OTHER_PLACE = 0.5  # ratio of the errors elsewhere and where the labels say
FEW = 4  # lead times that sums since the initial time are told by


class VerificationWarning(UserWarning):
    """A forecast that is scored as it is, and is likely not what its labels say."""


def doubts(contest: Contest) -> list[str]:
    """What is doubtful about the forecasts of a contest, a sentence each; nothing of those that cannot be compared.

    Parameters
    ----------
    contest
        What is to be scored.
    """
    of_forecasts = [f"{name}: {sentence}" for name in contest.forecasts for sentence in _doubts_of(contest, name)]
    return [*_gaps_of_truth(contest), *of_forecasts]


def _gaps_of_truth(contest: Contest) -> Iterator[str]:
    """What truth leaves blank at the first valid time, where it is no field of the ocean."""
    sample = contest.sample
    init, lead = np.argwhere(sample.inside)[0]
    time = sample.initial_times[init] + sample.leads[lead]
    for channel, field in zip(contest.channels, _read(contest.truth, contest.channels, time=[time])[0], strict=True):
        blank = float(np.isnan(field).mean())
        if 0 < blank < 1 and channel.variable not in OCEAN_VARIABLES:
            yield f"truth holds no {channel} at {blank:.1%} of the grid points at {np.datetime64(time, 'h')}."


def _doubts_of(contest: Contest, name: str) -> Iterator[str]:
    sample, forecast = contest.sample, contest.forecasts[name]
    has = np.isin(sample.leads, forecast["prediction_timedelta"].values) & (sample.leads <= LATEST)
    pairs = np.argwhere(sample.inside & has)
    if not pairs.size:
        return
    init, lead = pairs[np.lexsort((pairs[:, 0], pairs[:, 1]))[0]]
    time, first = sample.initial_times[init], sample.leads[lead]
    fields = _read(forecast, contest.channels, time=[time], prediction_timedelta=[first])[0, 0]
    truth = _read(contest.truth, contest.channels, time=[time + first])[0]
    for place, channel in enumerate(contest.channels):
        yield from _other_scale(channel, fields[place], truth[place])
        yield from _other_place(contest, channel, fields[place], truth)
        if channel.variable in ACCUMULATED:
            later = np.flatnonzero(sample.inside[init] & np.isin(sample.leads, forecast["prediction_timedelta"].values))
            yield from _summed_up(contest, channel, name, init, later)


def _read(
    dataset: xr.Dataset, channels: tuple[Channel, ...], **labels: object
) -> Float32[np.ndarray, "*times channel lat lon"]:
    chosen = select(dataset, **labels)  # type: ignore[arg-type]
    return stack(chosen.isel(number=0) if "number" in chosen.dims else chosen, channels)


def _root_mean_square(values: np.ndarray) -> float:
    return float(np.sqrt(np.nanmean(np.square(values, dtype=np.float64)))) if np.isfinite(values).any() else np.nan


def _possible(variable: Variable, values: np.ndarray) -> bool:
    low, high = variable.valid_range
    return not np.isfinite(values).any() or low <= float(np.nanmedian(values)) <= high


def _other_scale(channel: Channel, forecast: np.ndarray, truth: np.ndarray) -> Iterator[str]:
    variable = VARIABLES.get(channel.variable)
    if variable and _possible(variable, forecast) != _possible(variable, truth):
        return  # refused when it is scored
    ours, theirs = _root_mean_square(truth), _root_mean_square(forecast)
    if ours > 0 and theirs > 0 and not 1 / OTHER_SCALE < theirs / ours < OTHER_SCALE:
        units = variable.units if variable else "truth's units"
        yield (
            f"{channel} is {theirs / ours:.3g} times as large as truth (root mean square {theirs:.3g} and {ours:.3g}). Is it "
            f"in {units}? If not, say its units in its attribute units."
        )


def _other_place(contest: Contest, channel: Channel, forecast: np.ndarray, truth: np.ndarray) -> Iterator[str]:
    place = contest.channels.index(channel)
    error = _root_mean_square(forecast - truth[place])
    latitude, columns = contest.truth["latitude"].values, contest.truth.sizes["longitude"]
    candidates = {}
    if np.allclose(latitude, -latitude[::-1], atol=1e-3):
        candidates["upside down"] = (forecast[::-1], truth[place])
    if columns % 2 == 0:
        candidates["turned by half a globe in longitude"] = (np.roll(forecast, columns // 2, axis=-1), truth[place])
    for other, candidate in enumerate(contest.channels):
        if candidate.variable == channel.variable and other != place:
            candidates[f"taken for that of {candidate.level} hPa"] = (forecast, truth[other])
    for what, (moved, against) in candidates.items():
        elsewhere = _root_mean_square(moved - against)
        if elsewhere < OTHER_PLACE * error:
            yield (
                f"{channel} is nearer to truth {what} (error {elsewhere:.3g}, as labelled {error:.3g}). Are its "
                f"coordinates right?"
            )


def _summed_up(contest: Contest, channel: Channel, name: str, init: int, leads: np.ndarray) -> Iterator[str]:
    """Rain that never becomes less with lead time was summed up from the initial time on."""
    if leads.size < FEW:
        return
    time, chosen = contest.sample.initial_times[init], contest.sample.leads[leads]
    forecast = _read(contest.forecasts[name], (channel,), time=[time], prediction_timedelta=chosen)[0, :, 0]
    truth = _read(contest.truth, (channel,), time=time + chosen)[:, 0]
    grows = (np.diff(forecast, axis=0) >= -1e-3 * np.nanmax(np.abs(forecast))).all()
    if grows and np.nanmean(forecast[-1]) > 2 * max(np.nanmean(forecast[0]), np.nanmean(truth[-1])):
        yield (
            f"{channel} never becomes less with lead time, as if summed up since the initial time, and truth's does not. "
            f"Take the sums of each step, the first as it is: ds.diff('step') where the lead time is called step."
        )
