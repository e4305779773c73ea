"""Rows of a study that are no single training: two parts, other time steps, rounded weights, means of forecasts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor, nn

from benchmarks.skill.study import (
    FORECAST,
    Study,
    average,
    forecast,
    forecast_job,
    part_of,
    train,
    trained,
    write_titled,
    write_whole,
)
from data_pipelines.sources import Selection
from forecast.checkpoint import load_checkpoint, read_description, register_network, save_checkpoint
from forecast.ensemble import EnsembleConfig
from forecast.forecast_store import missing_forecasts
from forecast.job import run_forecasts
from forecast.puyun import PuYun

SMALLEST = 1e-30  # stands for the largest weight of a filter of zeros
MEMBERS = "members.zarr"  # in the folder of the row


@register_network
class StatePuYun(PuYun):
    """Makes the anomaly of the next state, in units of its standard deviation, in place of the tendency."""

    def normalised_tendency(
        self,
        frames: Float[Tensor, "batch history channel lat lon"],
        forcings: Float[Tensor, "batch forcing lat lon"],
        features: Float[Tensor, "batch feature"],
    ) -> Float[Tensor, "batch channel lat lon"]:
        """The change to that state, in units of the tendency."""
        _, mean_field, _ = self.climate()
        state = mean_field + self.deviation * super().normalised_tendency(frames, forcings, features)
        return (state - frames[:, -1]) / self.tendency


def in_two_parts(
    study: Study, name: str, seed: int, settings: Sequence[str], first: Sequence[str], second: Sequence[str]
) -> dict[str, Any]:
    """Train with the settings of `first`, and go on from those weights with the settings of `second`."""
    before = f"first part of {name}"
    begun = train(study, before, seed, [*settings, *first])
    weights = read_description(study.checkpoint(before, seed)).weights_sha256
    goes_on_from = _folder(study, name, seed) / "begun_from"
    if goes_on_from.exists() and goes_on_from.read_text() != weights:
        raise ValueError(f"{goes_on_from.parent} went on from other weights than {study.folder(before, seed)} has; delete it.")
    goes_on_from.write_text(weights)
    row = trained(study, name, seed, [*settings, *second, f"initial=[{study.checkpoint(before, seed)}]"])
    return row | {key: begun[key] + row[key] for key in ("steps", "seconds")}


def of_other_step(study: Study, name: str, seed: int, settings: Sequence[str], hours: int) -> dict[str, Any]:
    """Train a network that goes this far in a step, on the states at whole steps of a day."""
    source, store = study.learn_from
    thinned = part_of([store], study.out / f"training-{hours}h.zarr", Selection(every=f"{hours}h"))
    return trained(replace(study, learn_from=(source, thinned)), name, seed, settings)


def rounded_row(study: Study, name: str, seed: int, of: str, bits: int) -> dict[str, Any]:
    """Round the weights of another row's network of this seed."""
    made_from, folder = _row(study, name, seed, of), study.folder(name, seed)
    known = read_description(study.checkpoint(of, seed))
    row = folder / "row.json"
    if not row.exists():
        model: Any = rounded(load_checkpoint(study.checkpoint(of, seed)), bits)
        save_checkpoint(folder / "checkpoint", model, training_span=known.training_span, data_hash=known.data_hash)
        write_whole(row, made_from | {"name": name, "rounded_from": known.weights_sha256})
    found: dict[str, Any] = json.loads(row.read_text())
    if found["rounded_from"] != known.weights_sha256:
        raise ValueError(f"{folder} was rounded from other weights than {study.folder(of, seed)} has; delete it.")
    forecast(study, name, seed)
    return found


@torch.no_grad()
def rounded(model: nn.Module, bits: int) -> nn.Module:
    """Round all weights but biases and scales to integers of so many bits, in units of the largest of their output."""
    most = 2 ** (bits - 1) - 1
    for value in model.parameters():
        if value.ndim > 1:
            filters = value.flatten(1)
            unit = filters.abs().amax(dim=1, keepdim=True).clamp_min(SMALLEST) / most
            value.copy_(((filters / unit).round() * unit).view_as(value))
    return model


def mean_row(study: Study, name: str, seed: int, of: Sequence[str]) -> dict[str, Any]:
    """The mean of other rows' forecasts of this seed, at the lead times that all have."""
    rows = [_row(study, name, seed, one) for one in of]
    average([study.folder(one, seed) / FORECAST for one in of], _folder(study, name, seed) / FORECAST)
    return rows[0] | {"name": name} | {key: sum(row[key] for row in rows) for key in ("parameters", "steps", "seconds")}


def mean_of_members(study: Study, name: str, seed: int, of: str, members: int, dropout: float) -> dict[str, Any]:
    """The mean of members of another row's network that differ in the channels which they leave out."""
    row, folder = _row(study, name, seed, of), _folder(study, name, seed)
    job = forecast_job(study, of, seed, folder / MEMBERS)
    run_forecasts(replace(job, ensemble=EnsembleConfig(members=members, start="none", dropout=dropout, seed=seed)))
    with xr.open_zarr(folder / MEMBERS) as several:
        write_titled(several.mean("number", keep_attrs=True), folder / FORECAST, f"mean of {members} members")
    return row | {"name": name}


def blended_row(study: Study, name: str, seed: int, first: str, second: str, begin: int, end: int) -> dict[str, Any]:
    """From one row's forecasts to another's, linearly in lead time between two hours."""
    row = _row(study, name, seed, second)
    _row(study, name, seed, first)
    blend(*(study.folder(one, seed) / FORECAST for one in (first, second)), _folder(study, name, seed) / FORECAST, begin, end)
    return row | {"name": name}


def blend(first: Path, second: Path, out: Path, begin: int, end: int) -> Path:
    """Write forecasts that are the first's until a lead time [h], the second's from another on, and between both in part."""
    with xr.open_zarr(first) as early, xr.open_zarr(second) as late:
        hours = early["prediction_timedelta"] / np.timedelta64(1, "h")
        share = ((hours - begin) / (end - begin)).clip(0, 1).astype("float32").drop_attrs()
        with xr.set_options(keep_attrs=True):
            mixed = early * (1 - share) + late * share
        return write_titled(mixed, out, f"two forecasts, blended from {begin} to {end} h")


def _folder(study: Study, name: str, seed: int) -> Path:
    folder = study.folder(name, seed)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _row(study: Study, name: str, seed: int, of: str) -> dict[str, Any]:
    """What another row of this seed is, which must be there."""
    row, made = study.folder(of, seed) / "row.json", study.folder(of, seed) / FORECAST
    if not (row.exists() and made.exists()) or missing_forecasts(made):
        raise ValueError(f"{name} needs the row {of} of seed {seed}, with all its forecasts; make that first.")
    found: dict[str, Any] = json.loads(row.read_text())
    return found
