"""Finds what a verification finds: opens, checks, fits, scores and tests; writes nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import xarray as xr
from rich.progress import Progress

from data_pipelines.selection import as_slice
from data_pipelines.variables import Channel
from forecast.verification import tables
from forecast.verification.baselines import Baseline, ClimatologyForecast, Persistence, lead_steps
from forecast.verification.blocks import Contest
from forecast.verification.config import VerifyConfig
from forecast.verification.display import lead_label
from forecast.verification.fitting import check_baselines, fit_baselines
from forecast.verification.inputs import (
    VerificationError,
    check_same_grid,
    forecast_channels,
    open_dataset,
    open_forecast,
    open_truth,
    require_channels,
    time_step,
)
from forecast.verification.plausible import doubts
from forecast.verification.regions import region_weights, regions_on
from forecast.verification.sample import Sample, choose_sample, refuse_training_times, training_spans
from forecast.verification.score import Results, score
from forecast.verification.training import Climatology, TrainingData, given_climatology, load_training

SHORT = "short"
WITHOUT_FIT = frozenset({"persistence", "climatology"})
TRAINING_MEMORY = 4  # times the memory limit of a block


@dataclass(frozen=True)
class Verification:
    """What a verification found.

    Attributes
    ----------
    contest, results
        What was scored, and the arrays that came out.
    scores, significance, spectra, by_initial_time, rank_histogram
        The same as labelled datasets, as written; the last is empty if no forecast has members.
    targets
        What the forecast was held to, each with whether it was met.
    doubts
        What the forecasts' labels do not tell (`plausible.doubts`), and lead times without truth.
    """

    contest: Contest
    results: Results
    scores: xr.Dataset
    significance: xr.Dataset
    spectra: xr.Dataset
    by_initial_time: xr.Dataset
    rank_histogram: xr.Dataset
    targets: list[tables.Target]
    doubts: list[str]

    def significance_of(self, rival: str, lead: int, channel: int) -> float:
        """Probability (Diebold-Mariano) that the difference from a rival is chance; NaN where not testable."""
        label = self.contest.channels[channel]
        values = self.significance[label.variable].sel(rival=rival, statistic="p").isel(prediction_timedelta=lead)
        return float(values if label.level is None else values.sel(level=label.level))


def evaluate(config: VerifyConfig) -> Verification:
    """Score a forecast without writing anything.

    Returns
    -------
    Verification
        Scores as arrays and as labelled datasets, for notebooks.

    Raises
    ------
    VerificationError
        If forecast, truth, training span and settings do not fit together.
    StoreError
        If a chunk cannot be read.
    """
    check_baselines(config.baselines)
    truth = open_truth(config.truth)
    forecasts = {config.name: open_forecast(config.forecast)}
    if config.short:
        forecasts[SHORT] = open_forecast(config.short)
    forecasts |= {name: open_forecast(path) for name, path in config.compare.items()}
    channels = forecast_channels(forecasts[config.name], truth, config.variables)
    for name, forecast in forecasts.items():
        check_same_grid(forecast, truth, name)
        require_channels(forecast, channels, name)
    history = 2 if "stencil_ridge" in config.baselines else 1
    step = time_step(truth)
    if config.leads is not None:
        forecasts[config.name] = _at_leads(forecasts[config.name], config.leads, config.name)
    sample = choose_sample(forecasts, truth, history=history, step=step, start=config.start, end=config.end)
    if not config.score_training_span:
        for name, forecast in forecasts.items():
            refuse_training_times(sample, training_spans(forecast), name)
    with _bars(config.progress) as bars:
        given = None
        if config.climatology is not None:
            given = given_climatology(open_dataset(config.climatology), truth, channels)
        training = _training(config, forecasts[config.name], truth, channels, sample, given)
        climatology = given if training is None else training.climatology
        steps = lead_steps(sample.leads, step)
        task = bars.add_task("Fit baselines", total=len(config.baselines))
        fitted: dict[str, Baseline] = {}
        for name in config.baselines:
            bars.update(task, description=f"Fit {name}")
            fitted |= _fit(training, climatology, name, steps)
            bars.advance(task)
        latitude, longitude = truth["latitude"].values, truth["longitude"].values
        regions = regions_on(config.regions, latitude, longitude)
        land = truth.get("land_sea_mask")
        weights = region_weights(regions, latitude, longitude, land)
        contest = Contest(forecasts, fitted, truth, channels, sample, climatology, step, weights)
        task = bars.add_task("Score", total=sample.initial_times.size)
        results = score(
            contest,
            spectrum_leads=positions_of(config.spectrum_leads, sample.leads),
            memory_limit=config.memory_limit_mb * 2**20,
            allow_missing=config.allow_missing,
            progress=lambda done: bars.advance(task, done),
        )
    left_out = _left_out(contest, results)
    contest = replace(contest, sample=replace(sample, dropped=(*sample.dropped, *left_out)))
    scores = tables.scores_dataset(contest, results, regions)
    significance = tables.significance_dataset(contest, results)
    return Verification(
        contest,
        results,
        scores,
        significance,
        tables.spectra_dataset(contest, results),
        tables.mse_dataset(contest, results),
        tables.ranks_dataset(contest, results, regions),
        tables.judge(config.targets, contest, results, SHORT),
        [*sample.unverified, *left_out, *_absent_leads(config, sample.leads), *doubts(contest)],
    )


def _at_leads(forecast: xr.Dataset, hours: Sequence[int], name: str) -> xr.Dataset:
    there = forecast["prediction_timedelta"].values
    chosen = positions_of(hours, there)
    if not chosen or len(chosen) < len(set(hours)):
        raise VerificationError(
            f"leads must name lead times of {name} in hours; got {list(hours)}, and it has {_hours(there)}. Choose among "
            "those, or leave leads out to score all."
        )
    return forecast.isel(prediction_timedelta=as_slice(np.array(chosen)))


def _left_out(contest: Contest, results: Results) -> list[str]:
    """What NaN took out of the sample, a sentence for each channel."""
    sentences = []
    for place, channel in enumerate(contest.channels):
        lost = contest.sample.counts - results.counts[:, place]
        if lost.any():
            worst, all_of_it = int(lost.argmax()), contest.sample.counts
            sentences.append(
                f"{int(lost.sum())} of {int(all_of_it.sum())} fields of {channel} hold NaN and are left out for all, "
                f"{int(lost[worst])} of {int(all_of_it[worst])} at {lead_label(contest.sample.leads[worst])}."
            )
    return sentences


def _absent_leads(config: VerifyConfig, leads: np.ndarray) -> list[str]:
    if not config.key_leads or positions_of(config.key_leads, leads):
        return []
    return [
        f"none of key_leads={config.key_leads} is a lead time that is scored; tables show others. There are {_hours(leads)} h."
    ]


def _hours(leads: np.ndarray) -> str:
    return ", ".join(f"{lead / np.timedelta64(1, 'h'):g}" for lead in leads[:8]) + (", ..." if leads.size > 8 else "")


def positions_of(hours: Sequence[int], leads: np.ndarray) -> list[int]:
    """Positions of lead times given in hours, those that are there."""
    available = (leads / np.timedelta64(1, "h")).tolist()
    return [available.index(hour) for hour in sorted(set(hours)) if hour in available]


def _training(
    config: VerifyConfig,
    forecast: xr.Dataset,
    truth: xr.Dataset,
    channels: tuple[Channel, ...],
    sample: Sample,
    climatology: Climatology | None,
) -> TrainingData | None:
    """Read what baselines are fitted on; None where no span is known and none that is asked for is fitted."""
    source = truth if config.train is None else open_truth(config.train)
    if config.train is not None:
        check_same_grid(source, truth, "train")
        require_channels(source, channels, "train")
        if time_step(source) != time_step(truth):
            raise VerificationError(
                f"train has a time step of {np.timedelta64(time_step(source), 'm')}, truth of "
                f"{np.timedelta64(time_step(truth), 'm')}: baselines start from truth. Give a train store with truth's step."
            )
    spans = training_spans(forecast) if config.train_span is None and config.train is None else []
    if config.train_span is not None:
        span = (config.train_span[0], config.train_span[1])
    elif spans:
        span = (str(min(start for start, _ in spans)), str(max(end for _, end in spans)))
    elif config.train is not None:
        span = (str(source["time"].values[0]), str(source["time"].values[-1]))
    elif set(config.baselines) <= {"persistence"} | ({"climatology"} if config.climatology else set()):
        return None
    else:
        raise VerificationError(
            "train_span is needed to fit baselines and climatology: the forecast store has no attribute training_span. "
            "Give train_span=[FIRST,LAST] or train=STORE, or score against persistence alone, without ACC: "
            "baselines=[persistence]; with climatology=STORE also against that: baselines=[persistence,climatology]."
        )
    training = load_training(
        source,
        channels,
        span,
        climatology=climatology,
        memory_limit=TRAINING_MEMORY * config.memory_limit_mb * 2**20,
        allow_nan=set(config.baselines) <= WITHOUT_FIT,
    )
    if not config.score_training_span:
        first, last = training.segments[0].time[0], training.segments[-1].time[-1]
        refuse_training_times(sample, [(first, last)], "the baselines")
    return training


def _fit(
    training: TrainingData | None, climatology: Climatology | None, name: str, steps: Sequence[int]
) -> dict[str, Baseline]:
    """Fit a baseline; without training data only those that need none were let through."""
    if training is not None:
        return fit_baselines(training, [name], steps)
    return {name: Persistence() if climatology is None or name == "persistence" else ClimatologyForecast(climatology)}


@contextlib.contextmanager
def _bars(show: bool) -> Iterator[Progress]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description:<26}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, disable=not show, transient=True) as progress:
        yield progress
