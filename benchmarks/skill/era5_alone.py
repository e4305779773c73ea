"""What networks make of the seven weeks of ERA5 alone, on the days of the report: how long each is skilful, ours among them.

    python -m benchmarks.skill.era5_alone [--networks NAME ...] [--seeds 0]
    python -m benchmarks.skill.era5_alone --table

The networks of `benchmarks.skill.peers` learn from the days of the shipped stages, without the simulated atmosphere that those
learn from first, for equally many steps, at the learning rates that the study of peers chose for them. They are scored beside
the shipped short stage and the fitted baselines on the days of the report. Writes `benchmarks/results/era5_alone.json`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.machine import describe_machine
from benchmarks.skill.command import run_study, study_parser
from benchmarks.skill.peers.__main__ import NETWORKS
from benchmarks.skill.peers.__main__ import RESULT as PEERS
from benchmarks.skill.report import draw, table
from benchmarks.skill.shipped import last_skilful, until_when
from benchmarks.skill.study import FORECAST, Made, Study, forecast_job, make_all, part_of, scored
from data_pipelines.sample import sample_sources
from data_pipelines.standardise import Selection
from forecast.checkpoint import load_checkpoint
from forecast.job import run_forecasts
from forecast.stages import shipped_checkpoint

RESULT = Path(__file__).parents[1] / "results" / "era5_alone.json"
FIGURE = Path(__file__).parents[2] / "docs" / "images" / "era5_alone.png"
OUT = Path("outputs/era5_alone")
SHIPPED = "shipped short stage"
TRAIN = ("2025-12-01T00", "2026-01-20T18")
REPORT = ("2026-01-27T00", "2026-02-08T12")
LEADS = tuple(range(6, 121, 6))  # hours
SHOWN = ("6", "24", "48", "72", "120")
PRESSURE = "mean_sea_level_pressure"


def main() -> None:
    parser = study_parser(__doc__, "networks", [SHIPPED, *NETWORKS], (0,))
    run_study(parser, RESULT, make, tables, lambda result: draw(shown(result), FIGURE))


def make(given: argparse.Namespace) -> dict[str, Any]:
    """Train, forecast and score."""
    analysis = part_of(sample_sources(), OUT / "analysis.zarr", Selection())
    study = Study(OUT, ("era5", analysis), analysis, TRAIN, *REPORT, SHIPPED, leads=LEADS)
    rates = {row["name"]: row["trial"]["chosen"] for row in json.loads(PEERS.read_text())["rows"] if "trial" in row}
    rows: dict[str, list[str] | Made] = {
        name: ["experiment=era5_alone", *NETWORKS[name], f"learning_rate={rates[name]}"] if name in NETWORKS else shipped_row
        for name in given.networks
    }
    made, failed = make_all(study, rows, given.seeds)
    return {
        "what": "networks that learned from seven weeks of ERA5 alone, and the shipped stage, on the days of the report",
        "experiment": ["era5_alone"], "train": list(TRAIN), "test": [*REPORT, study.every], "machine": describe_machine(),
        "reference": SHIPPED, "rows": scored(study, made), "failed": failed,
        "left_out": [name for name in (SHIPPED, *NETWORKS) if name not in given.networks],
    }  # fmt: skip


def shipped_row(study: Study, name: str, seed: int) -> dict[str, Any]:
    """Forecasts of the stage that comes with the package, the same for every seed."""
    out = study.folder(name, seed) / FORECAST
    run_forecasts(replace(forecast_job(study, name, seed, out), cascade=["6h:first", f"{study.leads[-1]}h:short"]))
    model: Any = load_checkpoint(shipped_checkpoint("short"))
    return {"name": name, "seed": seed, "parameters": model.parameter_count(), "steps": 0, "seconds": 0.0}


def skilful_until(scores: Mapping[str, Any]) -> int:
    """The last lead time [h] until which the correlation of a channel's anomalies stays above 0.6; 0 for none."""
    return last_skilful(LEADS, [scores[str(lead)]["acc"] or 0.0 for lead in LEADS])


def shown(result: Mapping[str, Any]) -> dict[str, Any]:
    """The result at the lead times of tables."""
    rows = [
        row | {"scores": {channel: {lead: found[lead] for lead in SHOWN} for channel, found in row["scores"].items()}}
        for row in result["rows"]
    ]
    return dict(result) | {"rows": rows}


def tables(result: Mapping[str, Any]) -> str:
    """How long each is skilful in pressure, then errors with their sharpness."""
    lines = ["| network | ACC of msl above 0.6 |", "|---|---|"]
    for row in sorted(result["rows"], key=lambda row: -skilful_until(row["scores"][PRESSURE])):
        lines.append(f"| {row['name']} | {until_when(skilful_until(row['scores'][PRESSURE]))} |")
    return "\n\n".join(["\n".join(lines), table(shown(result), "network")])


if __name__ == "__main__":
    main()
