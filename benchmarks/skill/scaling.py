"""Scaling: how the error of a forecast falls with parameters, steps of training and months of data, and what more would buy.

    python -m benchmarks.skill.scaling --simulated STORE [--rows NAME ...] [--seeds 0 1] [--only-make]
    python -m benchmarks.skill.scaling --table
    python -m benchmarks.skill.scaling --figure

STORE, the year that is forecast and the years that are learned from are those of `benchmarks.skill.recipe`. Rows differ in the
width and depth of the shipped form, in steps, and in how many months, from the first one, they learn from. The error is the
mean over all fields of the RMSE at `LEAD` hours over climatology's. The law that is fitted to all trainings is told in
`benchmarks.skill.scaling_law`; what it says of the network on ERA5's own grid is an extrapolation over three orders of
magnitude, and its band says so. All rows have one learning rate, and most see no state twice: 36 months are 4,380 states, and
320 steps draw 2,560. Writes `benchmarks/results/scaling.json`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from benchmarks.machine import describe_machine
from benchmarks.skill.command import run_study, simulated_parser
from benchmarks.skill.recipe import CHOOSE, LEADS, TRAIN, prepare
from benchmarks.skill.report import failures
from benchmarks.skill.scaling_law import NAMES, Law, band, fit, resample
from benchmarks.skill.study import make_all, scored

RESULTS = Path(__file__).parents[1] / "results"
RESULT = RESULTS / "scaling.json"
FIGURE = Path(__file__).parents[2] / "docs" / "images" / "scaling.png"
OUT = Path("outputs/scaling_study")
LEAD = "24"  # hours
BATCH = 8
FORM = [
    "experiment=peer_study", "network=PuYun", "model.mixer=gated_large_kernel", "learning_rate=0.01", f"batch_size={BATCH}",
]  # fmt: skip
# Width, blocks in each half, steps, months: first one thing at a time around the first row, then corners.
GRID = (
    (48, 2, 320, 36), (16, 2, 320, 36), (24, 2, 320, 36), (32, 2, 320, 36), (64, 2, 320, 36), (96, 2, 320, 36),
    (48, 1, 320, 36), (48, 4, 320, 36),
    (48, 2, 40, 36), (48, 2, 80, 36), (48, 2, 160, 36), (48, 2, 640, 36),
    (48, 2, 640, 1), (48, 2, 640, 3), (48, 2, 640, 12),
    (16, 2, 80, 36), (16, 2, 640, 36), (96, 2, 80, 36), (96, 2, 640, 36), (16, 2, 320, 1), (96, 2, 320, 3),
)  # fmt: skip
LARGE = "puyun_0p25deg"


def name_of(width: int, depth: int, steps: int, months: int) -> str:
    """What a row is called."""
    return f"width {width}, depth {depth} + {depth}, {steps} steps, {months} months"


def settings_of(width: int, depth: int, steps: int, months: int) -> list[str]:
    """What it differs in."""
    last = np.datetime64(TRAIN[0][:7], "M") + months - 1
    day = (last + 1).astype("datetime64[D]") - 1
    return [f"model.width={width}", f"model.depth=[{depth},{depth}]", f"steps={steps}", f"sources.simulated.end={day}T18"]


ROWS = {name_of(*row): row for row in GRID}


def main() -> None:
    run_study(simulated_parser(__doc__, "rows", ROWS), RESULT, make, table, draw)


def make(given: argparse.Namespace) -> dict[str, Any] | None:
    """Train, forecast and score."""
    study = prepare(given.simulated, OUT, reference=next(iter(ROWS)))
    rows, failed = make_all(study, {name: [*FORM, *settings_of(*ROWS[name])] for name in given.rows}, given.seeds)
    if given.only_make:
        return None
    return {
        "what": f"error at {LEAD} h of networks of one form by parameters, steps of {BATCH} and months of data",
        "experiment": FORM, "grid": {name: list(ROWS[name]) for name in given.rows},
        "train": list(TRAIN), "test": [*CHOOSE, study.every], "leads": list(LEADS), "machine": describe_machine(),
        "reference": study.reference, "rows": scored(study, rows), "failed": failed,
        "left_out": [name for name in ROWS if name not in given.rows],
    }  # fmt: skip


@dataclass(frozen=True)
class Trainings:
    """What a stored study measured, one entry for each row and seed."""

    rows: list[str]
    budget: Float[np.ndarray, "training 3"]  # parameters, steps, months
    error: Float[np.ndarray, " training"]


def trainings(result: Mapping[str, Any]) -> Trainings:
    """The trainings of a stored study."""
    climatology = next(row for row in result["rows"] if row["name"] == "climatology")["scores"]
    rows, budget, error = [], [], []
    for row in result["rows"]:
        if row["name"] not in result["grid"]:
            continue
        _, _, steps, months = result["grid"][row["name"]]
        for seed in range(len(row["seeds"])):
            shares = [
                of_field[LEAD]["rmse_by_seed"][seed] / climatology[field][LEAD]["rmse"]
                for field, of_field in row["scores"].items()
            ]
            rows.append(row["name"])
            budget.append((row["parameters"], steps, months))
            error.append(float(np.mean(shares)))
    return Trainings(rows, np.array(budget, dtype=float), np.array(error))


def found_in(result: Mapping[str, Any]) -> dict[str, Any]:
    """The law of a stored study with its 95 % bands, and what it says of the large network."""
    budget, error = (made := trainings(result)).budget, made.error
    law = fit(budget, error)
    laws = resample(law, budget, error)
    return {
        "law": law, "laws": laws,
        "floor": (law.floor, *band([one.floor for one in laws])),
        "exponents": {
            name: (law.exponents[place], *band([one.exponents[place] for one in laws])) for place, name in enumerate(NAMES)
        },
        "compound": {
            name: (law.compound[place], *band([one.compound[place] for one in laws])) for place, name in enumerate(NAMES[:2])
        },
        "scatter": float(np.std(np.log(error / law(budget)))),
        "large": large(law, laws),
    }  # fmt: skip


def large(law: Law, laws: Sequence[Law]) -> dict[str, Any]:
    """Steps that the network on ERA5's own grid is worth, by growing both together, and what they cost on a GPU."""
    stored = json.loads((RESULTS / "puyun_gpu.json").read_text())
    row = next(row for row in stored["rows"] if row["network"] == LARGE)

    seconds = BATCH * row["training_step"]["seconds"]
    steps = [one.steps_for(row["weights"]) for one in (law, *laws)]
    days = [one * seconds / 86_400 for one in steps]
    return {
        "network": LARGE, "gpu": stored["machine"]["gpu"], "weights": row["weights"],
        "steps": (steps[0], *band(steps[1:])), "gpu_days": (days[0], *band(days[1:])),
    }  # fmt: skip


def table(result: Mapping[str, Any]) -> str:
    """Every row, and the law, as Markdown."""
    made, found = trainings(result), found_in(result)
    heads = ("network and budget", "parameters", f"error at {LEAD} h, by seed", "the law's", "training, by seed [s]")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in (row for row in result["rows"] if row["name"] in result["grid"]):
        mine = [place for place, name in enumerate(made.rows) if name == row["name"]]
        errors = ", ".join(f"{one:.3f}" for one in made.error[mine])
        said = float(found["law"](made.budget[mine[:1]])[0])
        seconds = ", ".join(f"{one:.0f}" for one in row["seconds"])
        lines.append(f"| {row['name']} | {row['parameters']:,} | {errors} | {said:.3f} | {seconds} |")
    law = ["| the law | value | 95 % band |", "|---" * 3 + "|", _line("floor", found["floor"])]
    law += [_line(f"exponent of {name}", values) for name, values in found["exponents"].items()]
    law += [_line(f"power of the cost by which {name} grow", values) for name, values in found["compound"].items()]
    ahead = found["large"]
    law += [
        _line(f"steps of {BATCH} for {ahead['weights']:,} weights (`{ahead['network']}`)", ahead["steps"], ".3g"),
        _line(f"their days on one {ahead['gpu']}", ahead["gpu_days"], ".3g"),
    ]
    parameters, steps, _ = made.budget[0]
    best = found["law"].best(parameters * steps, made.budget[0, 2])
    bounded = sum(one.is_bounded for one in found["laws"])
    said = (
        f"Scatter of the trainings about the law: {100 * found['scatter']:.1f} %. Resampled laws with an exponent at its "
        f"bound: {bounded} of {len(found['laws'])}. For the cost of the first row the law would have {best[0]:,.0f} "
        f"parameters and {best[1]:,.0f} steps."
    )
    return "\n\n".join(["\n".join(lines), "\n".join(law), said, *failures(result)])


def _line(name: str, values: Sequence[float], form: str = ".2f") -> str:
    value, low, high = (format(one, form) for one in values)
    return f"| {name} | {value} | {low} to {high} |"


def draw(result: Mapping[str, Any], path: Path = FIGURE) -> None:
    """The error along each quantity, with the law and its band through the first row of the grid."""
    from matplotlib.figure import Figure  # drawn only when asked for

    made, found = trainings(result), found_in(result)
    budget, error = made.budget, made.error
    centre = budget[made.rows.index(result["reference"]) if result["reference"] in made.rows else 0]
    figure = Figure(figsize=(12, 4), layout="constrained")
    for place, (panel, name) in enumerate(zip(figure.subplots(1, len(NAMES), sharey=True), NAMES, strict=True)):
        others = [other for other in range(len(NAMES)) if other != place]
        along = np.isclose(budget[:, others], centre[others]).all(axis=1)
        line = np.tile(centre, (100, 1))
        line[:, place] = np.geomspace(budget[:, place].min(), budget[:, place].max(), 100)
        low, high = np.quantile([one(line) for one in found["laws"]], [0.025, 0.975], axis=0)
        panel.fill_between(line[:, place], low, high, color="C0", alpha=0.25, lw=0, label="95 % band of the law")
        panel.plot(line[:, place], found["law"](line), color="C0", label="law through the first row")
        panel.plot(budget[~along, place], error[~along], "o", color="0.7", ms=4, label="other rows")
        panel.plot(budget[along, place], error[along], "o", color="C1", ms=5, label=f"rows that differ in {name} alone")
        panel.set(xscale="log", xlabel={"data": "months of data", "steps": f"steps of {BATCH}"}.get(name, name))
        panel.set_title(f"exponent {found['exponents'][name][0]:.2f}", fontsize=10)
        panel.grid(alpha=0.3, which="both")
    figure.axes[0].set_ylabel(f"RMSE over climatology's at {LEAD} h, mean over fields")
    figure.axes[0].legend(fontsize="small")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
