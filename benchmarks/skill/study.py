"""Rows of a study: networks that are trained alike and forecast alike, each resumed where it stopped, and scored together."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import xarray as xr

from benchmarks.skill.scoring import LEADS, score
from configs.compose import compose
from data_pipelines.build import build_analysis_store
from data_pipelines.sources import Selection
from forecast.exits import UnfinishedError, stop_on_signal
from forecast.job import run_forecasts
from forecast.job_config import RunConfig
from forecast.training import Trainer, TrainingConfig

FORECAST = "forecast.zarr"  # in the folder of the training
HAND_OVER = 120  # hours, from the first stage of a cascade to the second


@dataclass(frozen=True)
class Study:
    """What all rows of a study share.

    Parameters
    ----------
    out
        Folder of trainings and forecasts.
    learn_from
        Store of the training, by the name of its source in the experiment: ("era5", PATH).
    analysis
        Store of initial states and truth.
    train_span
        First and last time that networks and baselines learn from; the baselines' is in `analysis`, or in `train_analysis`.
    start, end, every
        Initial times that are scored.
    reference
        The row that the others are tested against.
    leads
        Lead times that are scored [h].
    variables
        Those that are scored; None for all.
    train_analysis
        Store on which baselines are fitted; None for `analysis`.
    behind
        Rows that are a second stage, by the row whose networks they take over from, and begin as, at `HAND_OVER`.
    """

    out: Path
    learn_from: tuple[str, Path]
    analysis: Path
    train_span: Sequence[str]
    start: str
    end: str
    reference: str
    every: str = "6h"
    leads: Sequence[int] = LEADS
    variables: Sequence[str] | None = None
    train_analysis: Path | None = None
    behind: Mapping[str, str] = field(default_factory=dict)

    def folder(self, name: str, seed: int) -> Path:
        """Of one training."""
        return self.out / f"{name}-{seed}"

    def checkpoint(self, name: str, seed: int) -> Path:
        """Of one training."""
        return self.folder(name, seed) / "checkpoint"


Made = Callable[[Study, str, int], dict[str, Any]]  # makes the forecasts of a row and seed, and says what it is


def part_of(sources: Sequence[str | Path], out: Path, selection: Selection) -> Path:
    """A store that holds no more than a study may look at, built unless it is there."""
    if not out.exists():
        build_analysis_store(sources, out, selection)
    return out


def train(study: Study, name: str, seed: int, settings: Sequence[str]) -> dict[str, Any]:
    """Train one network, unless it is there; say what it is and what it took.

    Raises
    ------
    ValueError
        If it is there with other settings.
    """
    folder = study.folder(name, seed)
    row = folder / "row.json"
    settings = [*settings, f"seed={seed}"]
    if name in study.behind:
        first = study.checkpoint(study.behind[name], seed)
        settings += [
            f"initial=[{first}]", f"earlier_stages=[{first}]", f"earlier_until_hours=[{HAND_OVER}]",
            f"lead_until_hours={study.leads[-1]}",
        ]  # fmt: skip
    if row.exists():
        known: dict[str, Any] = json.loads(row.read_text())
        if known["settings"] != settings:
            raise ValueError(
                f"{folder} was trained with {known['settings']}; this is {settings}. Move it away, or give its own."
            )
        return known
    trainer = Trainer(training_config(study, [*settings, f"out={folder}", "resume=true"]))
    trainer.run()
    found = {
        "name": name, "seed": seed, "settings": settings, "parameters": trainer.model.parameter_count(),
        "steps": trainer.step, "seconds": round(trainer.seconds, 1),
    }  # fmt: skip
    write_whole(row, found)
    return found


def training_config(study: Study, settings: Sequence[str]) -> TrainingConfig:
    """The settings of a training on the study's store."""
    config = compose(TrainingConfig, "forecast/train", list(settings))
    source, store = study.learn_from
    config.sources[source].store = str(store)
    return config


def write_whole(path: Path, found: dict[str, Any]) -> None:
    """Write JSON that is there whole or not at all."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(found, indent=1) + "\n")
    partial.replace(path)


def forecast_job(study: Study, name: str, seed: int, out: Path) -> RunConfig:
    """Forecasts by one trained network from the initial times, as far as the store does not have them."""
    lead = f"{study.leads[-1]}h"
    cascade = [f"{lead}:{study.checkpoint(name, seed)}"]
    if name in study.behind:
        cascade = [f"{HAND_OVER}h:{study.checkpoint(study.behind[name], seed)}", *cascade]
    return RunConfig(
        str(study.analysis), study.start, study.end, str(out), every=study.every, lead=lead,
        cascade=cascade, resume=out.exists(), threads=1, progress=False,
    )  # fmt: skip


def forecast(study: Study, name: str, seed: int) -> None:
    """Forecast by one trained network, as far as that is not done.

    The store lies in the training's folder and belongs to its checkpoint: a job with another one refuses to go on with it.
    """
    run_forecasts(forecast_job(study, name, seed, study.folder(name, seed) / FORECAST))


def trained(study: Study, name: str, seed: int, settings: Sequence[str]) -> dict[str, Any]:
    """A row that is one training."""
    row = train(study, name, seed, settings)
    forecast(study, name, seed)
    return row


def make_all(
    study: Study, networks: Mapping[str, Sequence[str] | Made], seeds: Sequence[int]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Train networks of these settings and forecast with them, or make rows otherwise, one seed of all before the next one.

    Returns
    -------
    Rows, and name, seed and error of those that failed.

    Raises
    ------
    RuntimeError
        If all failed.
    UnfinishedError
        After SIGTERM or SIGUSR1; what is made is kept, and the same call goes on.
    """
    rows, failed = [], []
    with stop_on_signal() as stop:
        for seed in seeds:
            for name, settings in networks.items():
                try:
                    make = settings if callable(settings) else partial(trained, settings=settings)
                    rows.append(make(study, name, seed))
                except UnfinishedError:
                    stop.set("a training or forecast was")
                except (ValueError, RuntimeError) as error:
                    failed.append({"name": name, "seed": seed, "error": f"{type(error).__name__}: {error}"})
                if stop:
                    raise UnfinishedError(
                        f"stopped ({stop.reason}) at {name}, seed {seed}; what is made is kept. The same command goes on."
                    )
    if not rows:
        raise RuntimeError(
            f"none of {len(failed)} rows was made; the first one, {failed[0]['name']}, told: {failed[0]['error']}"
        )
    return rows, failed


def scored(study: Study, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per network, over its seeds, one for the mean of its seeds' forecasts, and one per baseline."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["name"], []).append(row)
    members = {name: [f"{name}-{row['seed']}" for row in found] for name, found in groups.items()}
    stores = {f"{row['name']}-{row['seed']}": study.folder(row["name"], row["seed"]) / FORECAST for row in rows}
    for name, several in list(members.items()):
        if len(several) > 1:
            of_seeds = mean_of_seeds(name)
            stores[of_seeds] = average([stores[one] for one in several], study.out / f"{of_seeds}.zarr")
            members[of_seeds] = [of_seeds]
    reference = study.reference if study.reference in members else next(iter(members))
    scores = score(
        stores, members, reference, study.analysis, study.train_span,
        leads=study.leads, variables=study.variables, train=study.train_analysis,
    )  # fmt: skip
    costs = {
        name: {
            "seeds": [row["seed"] for row in found], "parameters": found[0]["parameters"], "steps": found[0]["steps"],
            "seconds": [row["seconds"] for row in found],
        }
        for name, found in groups.items()
    }  # fmt: skip
    return [{"name": name, **costs.get(name, {}), "scores": found} for name, found in scores.items()]


def mean_of_seeds(name: str) -> str:
    """What the mean forecast of a network's seeds is called."""
    return f"{name} (mean of seeds)"


def average(forecasts: Sequence[Path], out: Path) -> Path:
    """Write the mean of forecasts with the same initial times and leads: the mean of an ensemble of networks."""
    with ExitStack() as opened:
        several = [opened.enter_context(xr.open_zarr(path)) for path in forecasts]
        with xr.set_options(keep_attrs=True):
            mean = sum(several[1:], several[0]) / len(several)
        return write_titled(mean, out, f"mean of {len(several)} forecasts")


def write_titled(forecasts: xr.Dataset, out: Path, title: str) -> Path:
    """Write forecasts that are made of others, in place of what is there."""
    forecasts.drop_encoding().assign_attrs(title=title).to_zarr(out, mode="w", consolidated=False)
    return out
