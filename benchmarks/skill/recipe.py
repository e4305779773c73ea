"""The recipe, one factor at a time: what each setting of a training is worth, at the same number of samples learned from.

    python -m benchmarks.skill.recipe --simulated STORE [--rows recipe L1 ...] [--seeds 0 1] [--only-make]
    python -m benchmarks.skill.recipe --table
    python -m benchmarks.skill.recipe --figure

STORE is the simulated atmosphere of `benchmarks.skill.peers`. Every row is `RECIPE` with one thing changed: the first three
years of the first run are learned from, its fourth year is forecast, and nobody looks at the test years of the peers. Rows that
change the batch, or the steps of one gradient, change the number of steps, so that all learn from as many states. `MADE` are
rows that are no single training: trainings in two parts, networks of other time steps, a second stage, roundings, and means of
forecasts. Several processes can make disjoint rows with `--only-make`; rows that are made of others come last. Writes
`benchmarks/results/recipe.json`.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.machine import describe_machine
from benchmarks.skill.command import run_study, simulated_parser
from benchmarks.skill.recipe_rows import blended_row, in_two_parts, mean_of_members, mean_row, of_other_step, rounded_row
from benchmarks.skill.report import draw, table
from benchmarks.skill.study import HAND_OVER, Study, make_all, part_of, scored, trained
from data_pipelines.sources import Selection

RESULT = Path(__file__).parents[1] / "results" / "recipe.json"
FIGURE = Path(__file__).parents[2] / "docs" / "images" / "recipe.png"
OUT = Path("outputs/recipe_study")
TRAIN = ("2002-06-01T00", "2005-05-31T18")
CHOOSE = ("2005-06-10T00", "2006-05-16T00")
LEADS = (24, 72, 120, 144, 240)  # hours
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
    "a tenth of the draws fresh": ["fresh_share=0.1"],  # with the recipe's 0.3, one in a thousand forecasts is five days old
    "a tenth fresh and ten days ahead": ["fresh_share=0.1", "lead_until_hours=240"],
    "gradient through two steps": ["unroll=2", f"steps={STEPS // 2}"],
    "batch of 4": [f"batch_size={BATCH // 2}", f"steps={2 * STEPS}"],
    "batch of 16": [f"batch_size={2 * BATCH}", f"steps={STEPS // 2}"],
    "hardest half of the batch": ["hardest=0.5"],
    "sharpness-aware": ["sharpness=0.05"],
    "mirrored globes": ["mirrored=0.5"],
    "mirrored globes and mean of both steps": ["mirrored=0.5", "model.mirrored=true"],
    "state in place of tendency": [
        "network=StatePuYun",
        "network_settings={width: 64, depth: [2, 2], patch: 2, expansion: 2, mixer: ls}",
    ],
    "gated_large_kernel": ["model.mixer=gated_large_kernel"],
    "dilated_reparam": ["model.mixer=dilated_reparam"],
}
ONE_STEP = ["lead_until_hours=6", f"steps={STEPS // 2}"]
HALF = [f"steps={STEPS // 2}"]
SECOND_STAGE = {"second stage from day 5": "recipe"}
AT_A_TENTH = ["learning_rate=0.001", "fresh_share=0.06", f"steps={STEPS // 2}"]
MADE: dict[str, partial[dict[str, Any]]] = {
    "one step ahead first": partial(in_two_parts, settings=RECIPE, first=ONE_STEP, second=HALF),
    "gradients through four after one step": partial(
        in_two_parts, settings=RECIPE, first=ONE_STEP, second=["unroll=4", f"steps={STEPS // 8}"]
    ),
    "masked first": partial(in_two_parts, settings=RECIPE, first=[*ONE_STEP, "masked=0.6"], second=HALF),
    "step of 12 h": partial(of_other_step, settings=[*RECIPE, f"steps={STEPS}"], hours=12),
    "step of 24 h": partial(of_other_step, settings=[*RECIPE, f"steps={STEPS}"], hours=24),
    "second stage from day 5": partial(trained, settings=[*RECIPE, *AT_A_TENTH]),
    "weights of 8 bits": partial(rounded_row, of="recipe", bits=8),
    "weights of 4 bits": partial(rounded_row, of="recipe", bits=4),
    "mean of three steps": partial(mean_row, of=("recipe", "step of 12 h", "step of 24 h")),
    "mean of nine dropout members": partial(mean_of_members, of="dropout", members=9, dropout=0.1),
    "second stage blended over two days": partial(
        blended_row, first="recipe", second="second stage from day 5", begin=HAND_OVER, end=HAND_OVER + 48
    ),
}


def main() -> None:
    run_study(
        simulated_parser(__doc__, "rows", [*ROWS, *MADE]), RESULT, make,
        lambda result: table(result, "row", CHANNELS), lambda result: draw(result, FIGURE, CHANNELS),
    )  # fmt: skip


def make(given: argparse.Namespace) -> dict[str, Any] | None:
    """Train, forecast and score."""
    study = prepare(given.simulated)
    rows_to_make = {name: [*RECIPE, f"steps={STEPS}", *ROWS[name]] if name in ROWS else MADE[name] for name in given.rows}
    rows, failed = make_all(study, rows_to_make, given.seeds)
    if given.only_make:
        return None
    return {
        "what": "trainings that differ from the recipe in one setting, scored on a year that none learned from",
        "experiment": [*RECIPE, f"steps={STEPS}"],
        "settings": {name: ROWS[name] if name in ROWS else told(MADE[name]) for name in given.rows},
        "train": list(TRAIN), "test": [*CHOOSE, study.every], "machine": describe_machine(),
        "reference": study.reference, "rows": scored(study, rows), "failed": failed,
        "left_out": [name for name in (*ROWS, *MADE) if name not in given.rows],
    }  # fmt: skip


def told(row: partial[dict[str, Any]]) -> dict[str, Any]:
    """What makes a row that is no single training."""
    return {"made by": row.func.__name__, **row.keywords}


def prepare(simulated: Path, out: Path = OUT, reference: str = "recipe") -> Study:
    """A study of the recipe's years, its training years in a store of their own."""
    learn_from = part_of([simulated], out / "training.zarr", Selection(start=TRAIN[0], end=TRAIN[1]))
    return Study(
        out, ("simulated", learn_from), simulated, TRAIN, *CHOOSE, reference, every="10d", leads=LEADS, behind=SECOND_STAGE
    )


if __name__ == "__main__":
    main()
