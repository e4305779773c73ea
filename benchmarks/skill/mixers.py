"""The mixers side by side: the same small network, data, steps and seeds, scored on the days on which things are chosen.

    python -m benchmarks.skill.mixers [--mixers lka inception] [--seeds 0 1 2] [steps=400 ...]
    python -m benchmarks.skill.mixers --table

Each network is trained by the experiment `mixer_study` (KEY=VALUE changes it for all) on the ERA5 sample until January 20 and
forecasts from January 21 to 26. The store that it reads ends there, so that nothing can look at the report span. All forecasts
come from one job and are scored by `forecast.verification`, with the fitted baselines beside them; sharpness stands beside the
error as the activity of the forecast over that of the truth. Rows that are there already are kept (a training that was killed
goes on), those that failed are listed with their reason. Writes `benchmarks/results/mixers.json`; `--table` prints the table of
what is stored there.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import describe_machine, store_result
from configs.compose import compose
from data_pipelines.build import build_analysis_store
from data_pipelines.sample import sample_sources
from data_pipelines.standardise import Selection
from forecast.job import run_forecasts
from forecast.job_config import RunConfig
from forecast.layers.mixers import MIXERS
from forecast.training import Trainer, TrainingConfig
from forecast.verification.config import VerifyConfig
from forecast.verification.evaluation import Verification, evaluate

RESULT = Path(__file__).parents[1] / "results" / "mixers.json"
OUT = Path("outputs/mixer_study")
REFERENCE = "gated_large_kernel"  # the shipped stages' mixer; the others are tested against it
TRAIN = ["2025-12-01T00", "2026-01-20T18"]
CHOOSE = ("2026-01-21T00", "2026-01-26T18")
LEADS = (6, 24, 48)  # hours


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mixers", nargs="+", default=list(MIXERS), choices=list(MIXERS), metavar="NAME")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--table", action="store_true", help="print the stored table, train nothing")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings of forecast.train")
    given = parser.parse_args()
    if not given.table:
        store_result(RESULT, study(given.mixers, given.seeds, given.overrides))
    print(table(json.loads(RESULT.read_text())))


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
        "what": "mixers in the same small network: same data, steps and seeds, scored on January 21 to 26",
        "experiment": ["mixer_study", *overrides],
        "machine": describe_machine(),
        **(score(rows, analysis, out) if rows else {"rows": [], "baselines": []}),
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


def score(rows: Sequence[dict[str, Any]], analysis: Path, out: Path) -> dict[str, Any]:
    """Forecast with every network in one job, score all beside the baselines."""
    names = [f"{row['mixer']}-{row['seed']}" for row in rows]
    stores = forecast(names, analysis, out)
    first = next((name for name in names if name.startswith(REFERENCE)), names[0])
    compare = {name: str(stores[name]) for name in names if name != first}
    found = evaluate(
        VerifyConfig(
            str(stores[first]), str(analysis), "unused", name=first, compare=compare, train=str(analysis), train_span=TRAIN,
            regions=["global"], spectrum_leads=[LEADS[-1]], progress=False,
        )
    )  # fmt: skip
    return {
        "reference": first,
        "rows": [row | _scores(found, name, first) for row, name in zip(rows, names, strict=True)],
        "baselines": [{"name": name} | _scores(found, name, first) for name in found.contest.baselines],
    }


def forecast(names: Sequence[str], analysis: Path, out: Path) -> dict[str, Path]:
    """Forecast by every network from the days of choice, and time one forecast of each."""
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


def _scores(found: Verification, name: str, first: str) -> dict[str, Any]:
    """RMSE, activity over the truth's, and the probability that the difference from the reference is chance, by lead time."""
    scores = found.scores.sel(forecast=name, region="global")
    result: dict[str, Any] = {}
    for lead in LEADS:
        at = {"prediction_timedelta": np.timedelta64(lead, "h")}
        for channel in found.contest.channels:
            values = scores[channel.variable].sel(at)
            chance = None
            if name != first:
                chance = found.significance[channel.variable].sel(at).sel(rival=name, statistic="p")
            if channel.level is not None:
                values = values.sel(level=channel.level)
                chance = None if chance is None else chance.sel(level=channel.level)
            result.setdefault(str(channel), {})[str(lead)] = {
                "rmse": _number(values.sel(metric="rmse")),
                "activity": _number(values.sel(metric="activity") / values.sel(metric="activity_truth")),
                "p": None if chance is None else _number(chance),
            }
    return {"scores": result}


def _number(value: Any) -> float | None:
    return float(f"{float(value):.5g}") if np.isfinite(value) else None


def table(result: dict[str, Any]) -> str:
    """The stored rows as Markdown: means over seeds, best first by the first field's error at the middle lead time."""
    channels = list((result["rows"] or result["baselines"])[0]["scores"]) if result["rows"] else []
    columns = [(channel, str(lead)) for channel in channels for lead in LEADS]
    head = ["mixer", "seeds", "parameters", "seconds", *(f"{channel} {lead} h" for channel, lead in columns)]
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in result["rows"]:
        groups.setdefault(row["mixer"], []).append(row)
    for row in result["baselines"]:
        groups[row["name"]] = [row]
    lines = [_line(name, rows, columns) for name, rows in groups.items()]
    order = sorted(lines, key=lambda line: float(line[4 + len(LEADS) // 2].split()[0]))
    failed = [f"Failed: {one['mixer']}, seed {one['seed']}: {one['error']}" for one in result["failed"]]
    body = [" | ".join(line) for line in [head, ["---"] * len(head), *order]]
    note = f"RMSE (activity over the truth's); {result['machine']['cpu']}; {' '.join(result['experiment'])}."
    return "\n".join([*(f"| {line} |" for line in body), "", note, *failed])


def _line(name: str, rows: Sequence[dict[str, Any]], columns: Sequence[tuple[str, str]]) -> list[str]:
    cells = [
        name,
        str(len(rows)) if "seed" in rows[0] else "",
        *(_mean(rows, key, ",.0f") for key in ("parameters", "seconds")),
    ]
    for channel, lead in columns:
        found = [row["scores"][channel][lead] for row in rows]
        error, activity = ([one[key] for one in found if one[key] is not None] for key in ("rmse", "activity"))
        spread = f" ± {(max(error) - min(error)) / 2:.2g}" if len(error) > 1 else ""
        cells.append(f"{np.mean(error):.4g}{spread} ({np.mean(activity):.2f})" if error and activity else "nan")
    return cells


def _mean(rows: Sequence[dict[str, Any]], key: str, form: str) -> str:
    return format(np.mean([row[key] for row in rows]), form) if key in rows[0] else ""


if __name__ == "__main__":
    main()
