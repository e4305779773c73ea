"""Skill of the shipped cascade on the report span, as its model card tells it: what `make forecast` scored, kept.

    make forecast
    python -m benchmarks.skill.shipped            # reads outputs/forecast/verification
    python -m benchmarks.skill.shipped --table    # the table of what is stored, for forecast/shipped/README.md

Writes `benchmarks/results/shipped_skill.json`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from benchmarks.machine import describe_machine, store_result
from benchmarks.skill.report import BLURRED, UNITS
from data_pipelines.variables import Channel
from forecast.verification.plots.choosing import pick

RESULT = Path(__file__).parents[1] / "results" / "shipped_skill.json"
VERIFICATION = Path("outputs/forecast/verification")
LEADS = (6, 24, 72, 120, 168, 240)  # hours
SKILFUL = 0.6  # ACC above which a forecast is called skilful
CHANNELS = ("mean_sea_level_pressure", "vorticity_850")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--verification", type=Path, default=VERIFICATION, metavar="FOLDER")
    parser.add_argument("--table", action="store_true", help="print the stored table")
    given = parser.parse_args()
    if not given.table:
        with xr.open_dataset(given.verification / "scores.nc") as scores:
            store_result(RESULT, result_of(scores.load()))
    print(table(json.loads(RESULT.read_text())))


def result_of(scores: xr.Dataset) -> dict[str, Any]:
    """RMSE, ACC and activity over the truth's of every forecast, by channel and lead time."""
    found = {
        str(name): {channel: _numbers(scores, channel, str(name)) for channel in CHANNELS} for name in scores["forecast"].values
    }
    return {
        "what": "the shipped cascade and the baselines on the report span, globe",
        "machine": describe_machine(), "first": scores.attrs["first_initial_time"], "last": scores.attrs["last_initial_time"],
        "initial_times": int(scores["initial_times"].max()), "leads": list(LEADS), "forecasts": found,
        "skilful_hours": {
            name: {channel: skilful_until(scores, channel, name) for channel in CHANNELS} for name in found
        },
    }  # fmt: skip


def _numbers(scores: xr.Dataset, channel: str, name: str) -> dict[str, list[float]]:
    of = _of(scores, channel).sel(forecast=name, prediction_timedelta=[np.timedelta64(lead, "h") for lead in LEADS])
    activity = of.sel(metric="activity") / of.sel(metric="activity_truth")
    rows = {"rmse": of.sel(metric="rmse"), "acc": of.sel(metric="acc"), "activity": activity}
    return {key: [float(f"{value:.4g}") for value in values.values] for key, values in rows.items()}


def skilful_until(scores: xr.Dataset, channel: str, name: str) -> int:
    """The last lead time [h] until which ACC stays above 0.6; 0 for none."""
    acc = _of(scores, channel).sel(forecast=name, metric="acc")
    return last_skilful(acc["prediction_timedelta"].values / np.timedelta64(1, "h"), acc.values)


def last_skilful(hours: Sequence[float] | np.ndarray, acc: Sequence[float] | np.ndarray) -> int:
    """The last of these lead times [h], ascending, until which ACC stays above 0.6; 0 for none."""
    below = np.flatnonzero(~(np.asarray(acc) > SKILFUL))
    last = below[0] if below.size else len(hours)
    return int(hours[last - 1]) if last else 0


def until_when(hours: int) -> str:
    """Of `last_skilful`, for a table."""
    return f"to {hours} h" if hours else "never"


def _of(scores: xr.Dataset, channel: str) -> xr.DataArray:
    return pick(scores, Channel.parse(channel), region="global")


def table(result: Mapping[str, Any]) -> str:
    """Errors by lead time, and until when each is skilful; a blurred field is called blurred."""
    parts = []
    for channel in CHANNELS:
        title, factor = UNITS[channel]
        lines = [f"| RMSE of {title} | {' | '.join(f'{lead} h' for lead in result['leads'])} | ACC above 0.6 |"]
        lines.append("|---" * (len(result["leads"]) + 2) + "|")
        for name, found in result["forecasts"].items():
            numbers = found[channel]
            cells = [
                f"{factor * rmse:.4g}{' blurred' if activity < BLURRED else ''}"
                for rmse, activity in zip(numbers["rmse"], numbers["activity"], strict=True)
            ]
            lines.append(f"| {name} | {' | '.join(cells)} | {until_when(result['skilful_hours'][name][channel])} |")
        parts.append("\n".join(lines))
    said = f"{result['initial_times']} initial times at most, {result['first'][:10]} to {result['last'][:10]}."
    return "\n\n".join([*parts, said])


if __name__ == "__main__":
    main()
