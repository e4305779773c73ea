"""The recipe, one factor at a time: what each setting of a training is worth, at the same number of samples learned from.

    python -m benchmarks.skill.recipe --simulated STORE [--rows recipe L1 ...] [--seeds 0 1] [--only-make]
    python -m benchmarks.skill.recipe --table
    python -m benchmarks.skill.recipe --figure

STORE is the simulated atmosphere of `benchmarks.skill.peers`. Every row is `RECIPE` with one thing changed: the first three
years of the first run are learned from, its fourth year is forecast, and nobody looks at the test years of the peers. Rows that
change the batch, or the steps of one gradient, change the number of steps, so that all learn from as many states. Rows of
`ROUNDED` are the recipe's networks with their weights rounded after training. Several processes can make disjoint rows with
`--only-make`. Writes `benchmarks/results/recipe.json`.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.machine import describe_machine
from benchmarks.skill.command import run_study, simulated_parser
from benchmarks.skill.report import draw, table
from benchmarks.skill.study import Study, make_all, part_of, scored, write_whole
from data_pipelines.sources import Selection
from forecast.checkpoint import load_checkpoint, read_description, save_checkpoint

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
    "sharpness-aware": ["sharpness=0.05"],
    "gated_large_kernel": ["model.mixer=gated_large_kernel"],
    "dilated_reparam": ["model.mixer=dilated_reparam"],
}
SMALLEST = 1e-30  # stands for the largest weight of a filter of zeros
ROUNDED = {"weights of 8 bits": 8, "weights of 4 bits": 4}  # the recipe's networks, after training


def main() -> None:
    run_study(
        simulated_parser(__doc__, "rows", [*ROWS, *ROUNDED]), RESULT, make,
        lambda result: table(result, "row", CHANNELS), lambda result: draw(result, FIGURE, CHANNELS),
    )  # fmt: skip


def make(given: argparse.Namespace) -> dict[str, Any] | None:
    """Train, forecast and score."""
    study = prepare(given.simulated)
    recipes = {name: [*RECIPE, f"steps={STEPS}", *ROWS[name]] for name in given.rows if name in ROWS}
    after = {name: partial(rounded_row, bits=ROUNDED[name]) for name in given.rows if name in ROUNDED}
    rows, failed = make_all(study, recipes | after, given.seeds)
    if given.only_make:
        return None
    return {
        "what": "trainings that differ from the recipe in one setting, scored on a year that none learned from",
        "experiment": [*RECIPE, f"steps={STEPS}"], "settings": {name: ROWS.get(name, []) for name in given.rows},
        "train": list(TRAIN), "test": [*CHOOSE, study.every], "machine": describe_machine(),
        "reference": study.reference, "rows": scored(study, rows), "failed": failed,
        "left_out": [name for name in (*ROWS, *ROUNDED) if name not in given.rows],
    }  # fmt: skip


def rounded_row(study: Study, name: str, seed: int, bits: int) -> dict[str, Any]:
    """Round the weights of the recipe's network of this seed."""
    first, folder = study.folder("recipe", seed), study.folder(name, seed)
    row = folder / "row.json"
    if not (first / "row.json").exists():
        raise ValueError(f"{name} needs the row recipe of seed {seed}; make that first.")
    known = read_description(first / "checkpoint")
    if not row.exists():
        model: Any = rounded(load_checkpoint(first / "checkpoint"), bits)
        save_checkpoint(folder / "checkpoint", model, training_span=known.training_span, data_hash=known.data_hash)
        of_recipe = json.loads((first / "row.json").read_text())
        write_whole(row, of_recipe | {"name": name, "rounded_from": known.weights_sha256})
    found: dict[str, Any] = json.loads(row.read_text())
    if found["rounded_from"] != known.weights_sha256:
        raise ValueError(f"{folder} was rounded from other weights than {first} has; delete it.")
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


def prepare(simulated: Path, out: Path = OUT, reference: str = "recipe") -> Study:
    """A study of the recipe's years, its training years in a store of their own."""
    learn_from = part_of([simulated], out / "training.zarr", Selection(start=TRAIN[0], end=TRAIN[1]))
    return Study(out, ("simulated", learn_from), simulated, TRAIN, *CHOOSE, reference, every="10d", leads=LEADS)


if __name__ == "__main__":
    main()
