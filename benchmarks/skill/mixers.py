"""The mixers side by side: the same small network, data, steps and seeds, scored on the days on which things are chosen.

    python -m benchmarks.skill.mixers [--mixers lka inception] [--seeds 0 1 2] [steps=400 ...]
    python -m benchmarks.skill.mixers --table
    python -m benchmarks.skill.mixers --figure

Each network is trained by the experiment `mixer_study` (KEY=VALUE changes it for all) on the ERA5 sample until January 10 and
forecasts from January 11 to 26. The store that it reads ends there, so that nothing can look at the report span. Forecasts
are scored beside the fitted baselines by `benchmarks.skill.scoring`. Trainings and forecasts that are there already are kept
(those that were killed go on), those that failed or were left out are listed with their reason. Writes
`benchmarks/results/mixers.json`; `--table` prints the table of what is stored there, `--figure` draws it for docs/mixers.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine import describe_machine
from benchmarks.skill.command import run_study, study_parser
from benchmarks.skill.report import draw, table
from benchmarks.skill.study import Study, make_all, part_of, scored
from data_pipelines.sample import sample_sources
from data_pipelines.standardise import Selection
from forecast.layers.mixers import MIXERS

RESULT = Path(__file__).parents[1] / "results" / "mixers.json"
FIGURE = Path(__file__).parents[2] / "docs" / "images" / "mixers.png"
OUT = Path("outputs/mixer_study")
REFERENCE = "gated_large_kernel"  # the shipped stages' mixer; the others are tested against it
TRAIN = ["2025-12-01T00", "2026-01-10T18"]
CHOOSE = ("2026-01-11T00", "2026-01-26T18")


def main() -> None:
    parser = study_parser(__doc__, "mixers", MIXERS, (0, 1, 2))
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings of forecast.train")
    run_study(parser, RESULT, make, table, lambda result: draw(result, FIGURE))


def make(given: argparse.Namespace) -> dict[str, Any]:
    """Train, forecast and score."""
    return study(given.mixers, given.seeds, given.overrides)


def study(mixers: Sequence[str], seeds: Sequence[int], overrides: Sequence[str], out: Path = OUT) -> dict[str, Any]:
    """Train every mixer with every seed, forecast, score; return what is stored."""
    analysis = part_of(sample_sources(), out / "analysis.zarr", Selection(end=CHOOSE[1]))
    shared = Study(out, ("era5", analysis), analysis, TRAIN, *CHOOSE, REFERENCE)
    rows, failed = make_all(
        shared, {name: ["experiment=mixer_study", *overrides, f"model.mixer={name}"] for name in mixers}, seeds
    )
    return {
        "what": "mixers in the same small network: same data, steps and seeds, scored on January 11 to 26",
        "experiment": ["mixer_study", *overrides],
        "machine": describe_machine(),
        "reference": REFERENCE,
        "rows": scored(shared, rows),
        "left_out": sorted(set(MIXERS) - set(mixers)),
        "failed": failed,
    }


if __name__ == "__main__":
    main()
