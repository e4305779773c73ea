"""The mixers side by side: the same small network, data, steps and seeds, scored on the days on which things are chosen.

    python -m benchmarks.skill.mixers [--mixers lka inception] [--seeds 0 1 2] [steps=400 ...]
    python -m benchmarks.skill.mixers --table
    python -m benchmarks.skill.mixers --figure

Each network is trained by the experiment `mixer_study` (KEY=VALUE changes it for all) on the ERA5 sample until January 10 and
forecasts from January 11 to 26. The store that it reads ends there, so that nothing can look at the report span. All forecasts
come from one job and are scored beside the fitted baselines by `benchmarks.skill.scoring`. Rows that are there already are kept
(a training that was killed goes on), those that failed or were left out are listed with their reason. Writes
`benchmarks/results/mixers.json`; `--table` prints the table of what is stored there, `--figure` draws it for docs/mixers.md.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine import describe_machine, store_result
from benchmarks.skill.report import draw, table
from benchmarks.skill.scoring import LEADS, score
from configs.compose import compose
from data_pipelines.build import build_analysis_store
from data_pipelines.sample import sample_sources
from data_pipelines.standardise import Selection
from forecast.job import run_forecasts
from forecast.job_config import RunConfig
from forecast.layers.mixers import MIXERS
from forecast.training import Trainer, TrainingConfig

RESULT = Path(__file__).parents[1] / "results" / "mixers.json"
FIGURE = Path(__file__).parents[2] / "docs" / "images" / "mixers.png"
OUT = Path("outputs/mixer_study")
REFERENCE = "gated_large_kernel"  # the shipped stages' mixer; the others are tested against it
TRAIN = ["2025-12-01T00", "2026-01-10T18"]
CHOOSE = ("2026-01-11T00", "2026-01-26T18")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mixers", nargs="+", default=list(MIXERS), choices=list(MIXERS), metavar="NAME")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--table", action="store_true", help="print the stored table, train nothing")
    parser.add_argument("--figure", action="store_true", help="draw what is stored, train nothing")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings of forecast.train")
    given = parser.parse_args()
    if not (given.table or given.figure):
        store_result(RESULT, study(given.mixers, given.seeds, given.overrides))
    result = json.loads(RESULT.read_text())
    if given.figure:
        draw(result, FIGURE)
    else:
        print(table(result))


def study(mixers: Sequence[str], seeds: Sequence[int], overrides: Sequence[str], out: Path = OUT) -> dict[str, Any]:
    """Train every mixer with every seed, forecast, score; return what is stored."""
    analysis = out / "analysis.zarr"
    if not analysis.exists():
        build_analysis_store(sample_sources(), analysis, Selection(end=CHOOSE[1]))
    rows, failed = [], []
    for mixer in mixers:
        for seed in seeds:
            try:
                rows.append(train(mixer, seed, analysis, overrides, out))
            except (ValueError, RuntimeError) as error:
                failed.append({"mixer": mixer, "seed": seed, "error": f"{type(error).__name__}: {error}"})
    return {
        "what": "mixers in the same small network: same data, steps and seeds, scored on January 11 to 26",
        "experiment": ["mixer_study", *overrides],
        "machine": describe_machine(),
        "reference": REFERENCE,
        "rows": scored(rows, analysis, out) if rows else [],
        "left_out": sorted(set(MIXERS) - set(mixers)),
        "failed": failed,
    }


def train(mixer: str, seed: int, analysis: Path, overrides: Sequence[str], out: Path) -> dict[str, Any]:
    """Train one network, unless it is there; say what it is and what it took."""
    folder = out / f"{mixer}-{seed}"
    row = folder / "row.json"
    settings = ["experiment=mixer_study", *overrides, f"model.mixer={mixer}", f"seed={seed}"]
    if row.exists():
        known: dict[str, Any] = json.loads(row.read_text())
        if known["settings"] != settings:
            raise ValueError(
                f"{folder} was trained with {known['settings']}; this is {settings}. Move it away, or give its own."
            )
        return known
    config = compose(TrainingConfig, "forecast/train", [*settings, f"out={folder}", "resume=true"])
    config.sources["era5"].store = str(analysis)
    trainer = Trainer(config)
    trainer.run()
    found = {
        "mixer": mixer, "seed": seed, "settings": settings, "parameters": trainer.model.parameter_count(),
        "steps": trainer.step, "seconds": round(trainer.seconds, 1),
    }  # fmt: skip
    row.write_text(json.dumps(found, indent=1) + "\n")
    return found


def scored(rows: Sequence[dict[str, Any]], analysis: Path, out: Path) -> list[dict[str, Any]]:
    """One row per mixer, over its seeds, and one per baseline."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["mixer"], []).append(row)
    members = {mixer: [f"{mixer}-{row['seed']}" for row in found] for mixer, found in groups.items()}
    stores = forecast([name for names in members.values() for name in names], analysis, out)
    reference = REFERENCE if REFERENCE in members else next(iter(members))
    scores = score(stores, members, reference, analysis, TRAIN)
    costs = {
        mixer: {
            "seeds": [row["seed"] for row in found], "parameters": found[0]["parameters"], "steps": found[0]["steps"],
            "seconds": [row["seconds"] for row in found],
        }
        for mixer, found in groups.items()
    }  # fmt: skip
    return [{"name": name, **costs.get(name, {}), "scores": found} for name, found in scores.items()]


def forecast(names: Sequence[str], analysis: Path, out: Path) -> dict[str, Path]:
    """Forecast by every network from the days of choice."""
    stamp = time.strftime("%Y%m%dT%H%M%S")
    stores = {name: out / "forecasts" / stamp / f"{name}.zarr" for name in names}
    cascades = {str(stores[name]): [str(out / name / "checkpoint")] for name in names}
    first, *others = cascades
    run_forecasts(
        RunConfig(
            str(analysis), *CHOOSE, first, lead=f"{LEADS[-1]}h", cascade=[f"{LEADS[-1]}h:{cascades[first][0]}"],
            branches={path: [f"{LEADS[-1]}h:{cascades[path][0]}"] for path in others}, progress=False,
        )
    )  # fmt: skip
    return stores


if __name__ == "__main__":
    main()
