"""The batch job on waves: simulators carry samples of a wave store on, into a store that keeps the same contract.

What comes out can be opened, streamed and drawn like the truth, and is scored against it sample by sample. A sample is written
whole and then marked, as in `data_pipelines.wave_ensemble`; a job that was killed goes on with what has no mark.
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from data_pipelines.locations import beside
from data_pipelines.store import exists, open_waves
from data_pipelines.wave_ensemble import Ensemble
from forecast.checkpoint import code_version, load_checkpoint, read_description
from forecast.forecaster import ForecastError
from forecast.rollout import choose_device, computes_in_bfloat16
from forecast.wave_rollout import rollout_waves
from forecast.wave_simulator import Simulator

if TYPE_CHECKING:
    from forecast.job_config import RunConfig


@dataclass(frozen=True)
class WaveJobResult:
    """What a job did: samples in the store, how many of them this run made, and how far they go [s]."""

    out: Path
    samples: int
    made: int
    lead_seconds: float


def run_wave_forecasts(config: RunConfig) -> WaveJobResult:
    """Carry the samples `start` to `end` of a wave store on to `lead` (as in 1.2s) by the one checkpoint of `cascade`.

    Raises
    ------
    ForecastError, StoreError, ValueError
        If settings, checkpoint and store do not fit together, or the store cannot be written.
    """
    model, path = _simulator(config)
    waves = open_waves(config.analysis)
    model.requirements.check(waves)
    samples = _samples(config, waves)
    steps = _steps(config.lead, model.requirements.step_seconds)
    ensemble = Ensemble(config.out, _template(model, waves, samples, steps), _attributes(config, path, model, waves), "lz4")
    if exists(beside(ensemble.out, ".partial")) and not config.resume:
        raise ForecastError(f"an unfinished job is at {ensemble.partial}. Go on with it: resume=true, or remove it.")
    ensemble.prepare()
    made = 0
    with ensemble.closing():
        missing = set(ensemble.missing())
        for begin in range(0, len(samples), config.batch_size):
            batch = samples[begin : begin + config.batch_size]  # whole, so that a resumed job makes the same bits
            if missing & set(batch):
                made_here = _roll_out(model, waves, batch, steps, config)
                for sample in [sample for sample in batch if sample in missing]:
                    ensemble.make(sample, made_here.__getitem__)
                    made += 1
    ensemble.finish(allow=("nan_fields", "constant_fields", "repeated_fields", "out_of_range"))
    return WaveJobResult(ensemble.out, len(samples), made, steps * model.requirements.step_seconds)


def _simulator(config: RunConfig) -> tuple[Simulator, Path]:
    if config.cluster != "local" or config.ensemble.members:
        raise ForecastError("waves run on one machine, a single forecast per sample; set cluster=local and ensemble.members=0.")
    if len(config.cascade) != 1:
        raise ForecastError(f"cascade must hold the one checkpoint of a simulator for waves; got {config.cascade}.")
    path = Path(config.cascade[0])
    model = load_checkpoint(path)
    if not isinstance(model, Simulator):
        raise ForecastError(f"{path} is a {type(model).__name__}, which forecasts the weather; waves need a Simulator.")
    if set(model.requirements.channels) != {"displacement", "velocity"}:
        raise ForecastError(
            f"a wave store holds displacement and velocity; {path} carries {list(model.requirements.channels)}."
        )
    return model, path


def _samples(config: RunConfig, waves: xr.Dataset) -> list[int]:
    """Samples from `start` to `end`, which are numbers here."""
    for name in ("start", "end"):
        if not str(getattr(config, name)).isdigit():
            raise ForecastError(f"{name} must be the number of a sample for waves, as in 400; got {getattr(config, name)!r}.")
    numbers = waves["sample"].values
    chosen = numbers[(numbers >= int(config.start)) & (numbers <= int(config.end))]
    if not chosen.size:
        raise ForecastError(
            f"no sample from {config.start} to {config.end} is there: the store holds {numbers[0]} to {numbers[-1]}."
        )
    return [int(number) for number in chosen]


def _steps(lead: str, step_seconds: float) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*s", lead.strip())
    steps = round(float(match[1]) / step_seconds) if match else 0
    if not match or steps < 1 or not np.isclose(steps * step_seconds, float(match[1]), rtol=1e-6):
        raise ForecastError(f"lead must be a multiple of the simulator's step of {step_seconds:g} s, as in 1.2s; got {lead!r}.")
    return steps


def _template(model: Simulator, waves: xr.Dataset, samples: list[int], steps: int) -> xr.Dataset:
    """What the store will hold: the history that was given, and every state made of it."""
    need = model.requirements
    time = waves["time"].values[0] + np.arange(need.history + steps) * need.step_seconds
    chosen = waves[["displacement", "velocity", "wave_speed", "mask"]].sel(sample=samples).isel(time=0, drop=True)
    fields = {}
    for name, array in chosen.data_vars.items():
        field = array.drop_vars([key for key in array.coords if key not in ("sample", "y", "x")])
        fields[name] = field.expand_dims(time=time, axis=1) if name in need.channels else field
    return xr.Dataset(fields).chunk({"sample": 1})


def _roll_out(
    model: Simulator, waves: xr.Dataset, batch: list[int], steps: int, config: RunConfig
) -> dict[int, tuple[xr.Dataset, dict[str, float]]]:
    need = model.requirements
    made_of = rollout_waves(model, waves, batch, steps, config.device, config.precision)  # has read its start
    began = time.perf_counter()
    states = [state.fields.cpu().numpy() for state in made_of]
    seconds = (time.perf_counter() - began) / len(batch)
    found = {}
    for place, sample in enumerate(batch):
        template = _template(model, waves, [sample], steps).load()
        given = waves.sel(sample=[sample]).isel(time=slice(need.history))
        for channel, name in enumerate(need.channels):
            made = np.stack([state[place, channel] for state in states])
            template[name].values[:] = np.concatenate([given[name].values[0], made])[None]
        found[sample] = (template, {"solve_seconds": seconds, "steps": float(steps)})
    return found


def _attributes(config: RunConfig, path: Path, model: Simulator, waves: xr.Dataset) -> dict[str, Any]:
    said = read_description(path)
    precision = "bf16" if computes_in_bfloat16(config.precision, choose_device(config.device)) else "fp32"
    return {
        "title": "Waves by a simulator that learned from finite-element solutions",
        "source": f"skysolve {code_version()}, {said.model} {path.name}",
        "checkpoint_sha256": said.weights_sha256,
        "training_span": said.training_span,
        "training_data_sha256": said.data_hash,
        "trained_stores": json.dumps(said.notes.get("stores", {}), sort_keys=True),
        "analysis_sha256": str(waves.attrs.get("data_hash", "not stated")),
        "license": str(waves.attrs.get("license", "not stated")),
        "parameters": model.parameter_count(),
        "training_seconds": said.notes.get("seconds"),
        "training_memory_mb": said.notes.get("peak_memory_mb"),
        "history_frames": model.requirements.history,
        "precision": precision,
        "batch_size": config.batch_size,
    }
