"""The recipe, one factor at a time: what each setting of a training is worth, at the same number of samples learned from.

    python -m benchmarks.skill.recipe --simulated STORE [--rows recipe L1 ...] [--seeds 0 1] [--only-make]
    python -m benchmarks.skill.recipe --table
    python -m benchmarks.skill.recipe --figure

STORE is the simulated atmosphere of `benchmarks.skill.peers`. Every row is `RECIPE` with one thing changed: the first three
years of the first run are learned from, its fourth year is forecast, and nobody looks at the test years of the peers. Rows that
change the batch, or the steps of one gradient, change the number of steps, so that all learn from as many states. Several
processes can make disjoint rows with `--only-make`. Writes `benchmarks/results/recipe.json`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from benchmarks.machine import describe_machine, store_result
from benchmarks.skill.report import draw, table
from benchmarks.skill.study import Study, make_all, scored
from data_pipelines.build import build_analysis_store
from data_pipelines.sources import Selection

RESULT = Path(__file__).parents[1] / "results" / "recipe.json"
FIGURE = Path(__file__).parents[2] / "docs" / "images" / "recipe.png"
OUT = Path("outputs/recipe_study")
TRAIN = ("2002-06-01T00", "2005-05-31T18")
CHOOSE = ("2005-06-10T00", "2006-05-16T00")
LEADS = (24, 72, 120, 240)  # hours
CHANNELS = ("geopotential_500", "temperature_850", "mean_sea_level_pressure")
STEPS, BATCH = 320, 8
RECIPE = ["experiment=peer_study", "network=PuYun", "model.mixer=ls", "learning_rate=0.01", f"batch_size={BATCH}"]
ROWS = {
    "recipe": [],
    "L1": ["penalty=l1"],
    "Charbonnier": ["penalty=charbonnier"],
    "weights by level": ["weight_by_level=true"],
    "lead times not balanced": ["balance_lead_times=false"],
    "no solar forcing": ["forcings=[]"],
    "one frame": ["history=1"],
    "noise on analyses": ["noise=0.2"],
    "dropout": ["model.dropout=0.1"],
    "no weight decay": ["weight_decay=0.0"],
    "weights not averaged": ["ema=0.0"],
    "one step ahead only": ["lead_until_hours=6"],
    "a day ahead": ["lead_until_hours=24"],
    "ten days ahead": ["lead_until_hours=240"],
    "gradient through two steps": ["unroll=2", f"steps={STEPS // 2}"],
    "batch of 4": [f"batch_size={BATCH // 2}", f"steps={2 * STEPS}"],
    "batch of 16": [f"batch_size={2 * BATCH}", f"steps={STEPS // 2}"],
    "gated_large_kernel": ["model.mixer=gated_large_kernel"],
    "dilated_reparam": ["model.mixer=dilated_reparam"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulated", type=Path, metavar="STORE", help="years of the simulated atmosphere")
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS), metavar="NAME")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--only-make", action="store_true", help="train and forecast these rows, and score nothing yet")
    parser.add_argument("--table", action="store_true", help="print the stored tables, train nothing")
    parser.add_argument("--figure", action="store_true", help="draw what is stored, train nothing")
    given = parser.parse_args()
    if not (given.table or given.figure):
        if given.simulated is None:
            parser.error("give --simulated STORE, or --table or --figure for what is stored")
        study = prepare(given.simulated)
        rows, failed = make_all(study, {name: [*RECIPE, f"steps={STEPS}", *ROWS[name]] for name in given.rows}, given.seeds)
        if given.only_make:
            return
        store_result(
            RESULT,
            {
                "what": "trainings that differ from the recipe in one setting, scored on a year that none learned from",
                "experiment": [*RECIPE, f"steps={STEPS}"], "settings": {name: ROWS[name] for name in given.rows},
                "train": list(TRAIN), "test": [*CHOOSE, study.every], "machine": describe_machine(),
                "reference": study.reference, "rows": scored(study, rows), "failed": failed,
                "left_out": [name for name in ROWS if name not in given.rows],
            },
        )  # fmt: skip
    result = json.loads(RESULT.read_text())
    if given.figure:
        draw(result, FIGURE, CHANNELS)
    else:
        print(table(result, "row", CHANNELS))


def prepare(simulated: Path, out: Path = OUT) -> Study:
    """The study, its training years in a store of their own."""
    learn_from = out / "training.zarr"
    if not learn_from.exists():
        build_analysis_store([simulated], learn_from, Selection(start=TRAIN[0], end=TRAIN[1]))
    return Study(out, ("simulated", learn_from), simulated, TRAIN, *CHOOSE, "recipe", every="10d", leads=LEADS)


if __name__ == "__main__":
    main()
