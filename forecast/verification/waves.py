"""The verification of wave forecasts: scores, curves, contact sheet, animation and one page that holds them all."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import xarray as xr

from data_pipelines.store import open_waves
from forecast.verification.config import VerifyConfig
from forecast.verification.inputs import VerificationError
from forecast.verification.wave_scores import score_waves


@dataclass
class WaveVerification:
    """What a verification of waves found.

    Attributes
    ----------
    scores
        As `score_waves` gives them.
    costs
        By forecast: parameters, seconds and peak memory [MB] of its training, seconds a sample takes and the peak memory of the
        process that made it; of "finite elements" the last two alone.
    forecasts, truth
        What was scored.
    """

    scores: xr.Dataset
    costs: dict[str, dict[str, float]]
    forecasts: dict[str, xr.Dataset] = field(repr=False)
    truth: xr.Dataset = field(repr=False)


FINITE_ELEMENTS = "finite elements"


def verify_waves(config: VerifyConfig) -> WaveVerification:
    """Score wave forecasts and write scores, figures and report to the folder `config.out`.

    Scored are the samples that truth and all forecasts hold, from `start` to `end` (numbers of samples here).

    Raises
    ------
    VerificationError
        If out exists, stores do not fit together, or a forecast learned from what it is scored on.
    """
    out = Path(config.out)
    if out.exists():
        raise VerificationError(f"out {out} exists; nothing is overwritten. Remove it, or choose another folder.")
    truth = open_waves(config.truth)
    forecasts = {name: open_waves(path) for name, path in {config.name: config.forecast, **config.compare}.items()}
    samples = _samples(config, forecasts, truth)
    if not config.score_training_span:
        for name, forecast in forecasts.items():
            _refuse_learned(name, forecast, truth, samples)
    history = {int(forecast.attrs.get("history_frames", 1)) for forecast in forecasts.values()}
    scores = score_waves(forecasts, truth, samples, max(history))
    found = WaveVerification(scores, _costs(forecasts, truth, samples), forecasts, truth)
    from forecast.verification.wave_report import write_wave_report  # matplotlib takes a second

    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as folder:
        unfinished = Path(folder) / out.name
        unfinished.mkdir()
        scores.to_netcdf(unfinished / "scores.nc")
        write_wave_report(found, unfinished)
        unfinished.rename(out)  # whole or not at all
    return found


def _samples(config: VerifyConfig, forecasts: dict[str, xr.Dataset], truth: xr.Dataset) -> list[int]:
    common = set(truth["sample"].values.tolist())
    for forecast in forecasts.values():
        common &= set(forecast["sample"].values.tolist())
    ends = []
    for name, text in (("start", config.start), ("end", config.end)):
        if text is not None and not str(text).isdigit():
            raise VerificationError(f"{name} must be the number of a sample for waves, as in 400; got {text!r}.")
        ends.append(None if text is None else int(text))
    chosen = sorted(
        sample for sample in common if (ends[0] is None or sample >= ends[0]) and (ends[1] is None or sample <= ends[1])
    )
    if not chosen:
        raise VerificationError(
            "truth and all forecasts have no sample in common from start to end. Give the truth they are of."
        )
    return chosen


def _refuse_learned(name: str, forecast: xr.Dataset, truth: xr.Dataset, samples: list[int]) -> None:
    """Raise VerificationError if a forecast's simulator learned from samples that it is scored on."""
    learned = json.loads(forecast.attrs.get("trained_stores", "{}"))
    span = learned.get(str(truth.attrs.get("data_hash")))
    seen = [sample for sample in samples if span and span[0] <= sample <= span[1]]
    if seen:
        raise VerificationError(
            f"{name} learned from samples {span[0]} to {span[1]} of this truth, so sample {seen[0]} is no test of it. Choose "
            "start= and end= outside, another draw, or score_training_span=true."
        )


def _costs(forecasts: dict[str, xr.Dataset], truth: xr.Dataset, samples: list[int]) -> dict[str, dict[str, float]]:
    costs = {}
    for name, data in {**forecasts, FINITE_ELEMENTS: truth}.items():
        said = ("parameters", "training_seconds", "training_memory_mb")
        kept = {key: float(data.attrs[key]) for key in said if data.attrs.get(key) is not None}
        if "solve_seconds" in data.coords:
            kept["seconds_per_sample"] = float(np.median(data["solve_seconds"].sel(sample=samples)))
        if "peak_memory_mb" in data.coords:
            kept["memory_mb"] = float(data["peak_memory_mb"].sel(sample=samples).max())
        costs[name] = kept
    return costs
