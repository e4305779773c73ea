"""A cascade as settings name it: UNTIL:CHECKPOINT for each stage."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from forecast.cascade import Cascade, Stage
from forecast.checkpoint import Description, load_checkpoint, read_description
from forecast.forecaster import Forecaster, ForecastError

SHIPPED = ("first", "short", "medium")  # checkpoints that come with the package


def load_cascade(
    stages: Sequence[str], lead_hours: int, loaded: dict[Path, Forecaster] | None = None
) -> tuple[Cascade, list[Description]]:
    """Load the stages that forecasts of some length need, and what their checkpoints say.

    Parameters
    ----------
    stages
        As `RunConfig.cascade`.
    lead_hours
        Stages that start at or after it are not loaded.
    loaded
        Models by folder, taken from here and added to: cascades that are loaded with the same one share their models.

    Raises
    ------
    ForecastError
        If a stage is not UNTIL:CHECKPOINT, a checkpoint cannot be loaded, or the stages do not fit together.
    """
    loaded = {} if loaded is None else loaded
    chosen: list[Stage] = []
    descriptions: list[Description] = []
    for text in stages:
        if chosen and chosen[-1].until_hours >= lead_hours:
            break
        until, folder = _parse_stage(text, lead_hours if len(stages) == 1 else None)
        path = shipped_checkpoint(folder) if folder in SHIPPED and not Path(folder).exists() else Path(folder)
        descriptions.append(read_description(path))
        if path not in loaded:
            loaded[path] = load_checkpoint(path)
        chosen.append(Stage(until, loaded[path], Path(folder).name))
    return Cascade(chosen), descriptions


def shipped_checkpoint(name: str) -> Path:
    """Folder of a checkpoint that comes with the package, one of `SHIPPED`."""
    return Path(str(files("forecast") / "shipped" / name))


def parse_hours(text: str, name: str) -> int:
    """Read a duration, as in 6h or 10d [h].

    Raises
    ------
    ForecastError
        If it is none, or 0.
    """
    match = re.fullmatch(r"(\d+)\s*(h|d)", str(text).strip())
    hours = int(match[1]) * (24 if match[2] == "d" else 1) if match else 0
    if hours < 1:
        raise ForecastError(f"{name} must be a number of hours or days, as in 6h or 10d; got {text!r}.")
    return hours


def _parse_stage(text: str, until: int | None) -> tuple[int, str]:
    match = re.fullmatch(r"(\d+[hd]):(.+)", text)
    if match:
        return parse_hours(match[1], "cascade"), match[2]
    if until is None:
        raise ForecastError(f"cascade must hold UNTIL:CHECKPOINT for each stage, as in 6h:first,5d:short; got {text!r}.")
    return until, text
