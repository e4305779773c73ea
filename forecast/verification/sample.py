"""Which initial times are scored at which lead time: the same for every forecast and baseline, and none that was trained on."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from data_pipelines.dates import first_moment, last_moment, time_slice
from forecast.verification.inputs import VerificationError, time_step


@dataclass(frozen=True)
class Sample:
    """The scored sample.

    Attributes
    ----------
    initial_times
        datetime64, ascending.
    leads
        timedelta64, ascending.
    inside
        (initial time, lead): whether the valid time is in truth, so that the pair is scored.
    dropped
        Why initial times and lead times of the forecast are not here, one sentence each.
    unverified
        Those of them that tell of whole lead times.
    """

    initial_times: np.ndarray
    leads: np.ndarray
    inside: np.ndarray
    dropped: tuple[str, ...] = ()
    unverified: tuple[str, ...] = ()

    @property
    def counts(self) -> np.ndarray:
        """Number of initial times per lead time."""
        return self.inside.sum(axis=0)

    @property
    def spacing(self) -> np.timedelta64:
        """Time between initial times (the smallest); a day where there is one initial time."""
        if self.initial_times.size < 2:
            return np.timedelta64(1, "D")
        return np.diff(self.initial_times).min()


def choose_sample(
    forecasts: Mapping[str, xr.Dataset],
    truth: xr.Dataset,
    *,
    history: int = 1,
    step: np.timedelta64 | None = None,
    start: str | None = None,
    end: str | None = None,
) -> Sample:
    """Find the initial times that every forecast has, and where truth verifies them.

    Parameters
    ----------
    forecasts
        Forecasts by name, the one under test first; its lead times count.
    truth
        Analyses.
    history, step
        Baselines start from `history` analyses, `step` apart (None: truth's step): initial times without them in truth are
        dropped, for all.
    start, end
        First and last initial time to score (ISO 8601); None for all.

    Raises
    ------
    VerificationError
        If nothing is left to score; the message tells the spans of both sides.
    """
    first, *others = forecasts.values()
    name = next(iter(forecasts))
    times = first["time"].sel(time=time_slice(start, end, error=VerificationError)).values
    dropped = []
    for other_name, other in zip(list(forecasts)[1:], others, strict=True):
        kept = np.intersect1d(times, other["time"].values)
        if kept.size < times.size:
            dropped.append(f"{times.size - kept.size} initial times are not in {other_name}.")
        times = kept
    analyses = truth["time"].values
    step = time_step(truth) if step is None else step
    kept = times
    for back in range(history):
        kept = kept[np.isin(kept - back * step, analyses)]
    if kept.size < times.size:
        dropped.append(
            f"{times.size - kept.size} initial times lack {'the analysis' if history == 1 else f'{history} analyses'} "
            f"in truth that baselines start from."
        )
    leads = first["prediction_timedelta"].values
    inside = np.isin(kept[:, None] + leads, analyses)
    used, verified = inside.any(axis=1), inside.any(axis=0)
    if not used.any():
        limits = "".join(f", {which}={given}" for which, given in (("start", start), ("end", end)) if given is not None)
        raise VerificationError(
            f"no valid time of {name} is in truth: initial times {_span(first['time'].values)}{limits}, "
            f"lead times up to {np.timedelta64(leads[-1], 'h')}, truth {_span(analyses)}. "
            f"{''.join(f'{why} ' for why in dropped)}Give a truth that covers the forecasts."
        )
    if not used.all():
        dropped.append(f"{(~used).sum()} initial times have no valid time in truth.")
    unverified = []
    if not verified.all():
        lost = leads[~verified] / np.timedelta64(1, "h")
        unverified = [
            f"{lost.size} of {leads.size} lead times of {name} have no valid time in truth and are not scored: "
            f"{', '.join(f'{hours:g}' for hours in lost[:4])}{', ...' if lost.size > 4 else ''} h (truth's step is "
            f"{time_step(truth) / np.timedelta64(1, 'h'):g} h)."
        ]
    return Sample(kept[used], leads[verified], inside[np.ix_(used, verified)], (*dropped, *unverified), tuple(unverified))


def training_spans(dataset: xr.Dataset) -> list[tuple[np.datetime64, np.datetime64]]:
    """Read the attribute `training_span` ("start/end" in ISO 8601, several separated by ";"); empty where there is none.

    Raises
    ------
    VerificationError
        If it is there and cannot be read: then nobody knows what the model has seen.
    """
    text = dataset.attrs.get("training_span")
    if not text:
        return []
    spans = []
    parts = [part.strip() for part in re.split(r"[;,]", str(text)) if part.strip()]
    for part in parts:
        try:
            start, end = part.split("/")
            spans.append((first_moment(start, "training_span"), last_moment(end, "training_span")))
        except ValueError as error:
            raise VerificationError(
                f"attribute training_span must read 'start/end' in ISO 8601; got {text!r}. Correct it, or set "
                f"score_training_span=true to score without that safeguard."
            ) from error
    return spans


def refuse_training_times(
    sample: Sample, spans: Sequence[tuple[np.datetime64, np.datetime64]], whose: str, override: str = "score_training_span"
) -> None:
    """Refuse to score what was trained on.

    Raises
    ------
    VerificationError
        If a scored initial or valid time lies in one of the spans.
    """
    valid = (sample.initial_times[:, None] + sample.leads)[sample.inside]
    for start, end in spans:
        for kind, times in (("initial", sample.initial_times), ("valid", valid)):
            seen = times[(times >= start) & (times <= end)]
            if seen.size:
                raise VerificationError(
                    f"{np.unique(seen).size} {kind} times, {_span(np.sort(seen))}, lie in the training span of {whose}, "
                    f"{_span(np.asarray([start, end]))}: scores there say nothing about forecasts. Score later times "
                    f"(start=DATE), or set {override}=true and say so with the scores."
                )


def _span(times: np.ndarray) -> str:
    return f"{np.datetime64(times[0], 'h')} to {np.datetime64(times[-1], 'h')}" if times.size else "none"
