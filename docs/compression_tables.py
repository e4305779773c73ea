"""Print the tables of `compression.md` from the stored benchmarks; a test holds the page to them.

python docs/compression_tables.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

SHOWN = (
    "dense 7", "lean 2 chains 7", "deep 2 chains 3", "deep dense 7", "deep dense 3", "wide chain 7", "dense 3",
    "narrow dense 3", "shallow dense 3", "lka",
)  # fmt: skip
DRAWS = {"choose": "the draw that chose", "test": "another draw", "outside": "outside the range"}
TIMES = {"batch": "in batches of 16", "alone": "alone, merged", "alone, as chains": "alone, as chains"}
RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"


def waves(result: dict[str, Any]) -> list[str]:
    """Every training of a wave simulator."""
    lines = [
        "| kernels | seed | parameters | error, another draw | error, outside the range | one simulation, in batches | alone | "
        "training |",
        "|---" * 8 + "|",
    ]
    for row in sorted(result["rows"].values(), key=lambda row: (row["parameters"], row["seed"])):
        lines.append(
            f"| {_name(row['form'])} | {row['seed']} | {row['parameters']:,} | {_percent(row['test'])} "
            f"| {_percent(row['outside'])} | {1e3 * row['seconds']['batch']:.2f} ms | {1e3 * row['seconds']['alone']:.2f} ms "
            f"| {row['training_seconds']} s |"
        )
    return lines


def pairs(result: dict[str, Any]) -> list[str]:
    """Compressed networks over classical ones: what is held to the bounds."""
    found = result["pairs"]
    names = [f"{_name(one['compressed'])} over {_name(one['classical'])}" for one in found]
    rows = [["compressed over classical", *names], ["---"] * (1 + len(found))]
    for draw, label in DRAWS.items():
        by_seed = [", ".join(f"{value:.2f}" for value in one["error_ratios"][draw]) for one in found]
        means = [one["error_ratio"][draw] for one in found]
        rows.append([f"error, {label} (by seed)", *(f"{mean:.2f} ({each})" for mean, each in zip(means, by_seed, strict=True))])
    rows.append(["parameters", *(f"1 / {1 / one['parameter_ratio']:.1f}" for one in found)])
    for key, label in TIMES.items():
        rows.append([f"time of a simulation, {label}", *(f"{one['time_ratio'][key]:.2f}" for one in found)])
    return [f"| {' | '.join(row)} |" for row in rows]


def finite_elements(result: dict[str, Any]) -> list[str]:
    """What finite elements cost at which error, and the simulators beside them: how much faster than the mesh of the truth."""
    meshes = result["finite_elements"]["meshes"]
    truth = meshes[f"P1 {result['waves']['cells']}"]
    lines = ["| | error at 1.2 s | mean error | time of one simulation | faster than the truth's mesh |", "|---" * 5 + "|"]
    for name, row in meshes.items():
        solve, whole = row["solve_seconds"], row["with_mesh_and_assembly_seconds"]
        time = f"{1e3 * solve:.2f} ms ({1e3 * whole:.0f} ms with mesh and assembly)"
        errors = f"{100 * row['last']:.2f} % | {100 * row['mean']:.2f} %"
        lines.append(f"| finite elements, {name} cells | {errors} | {time} | {_faster(truth, solve, whole)} |")
    for row in result["rows"].values():
        if row["seed"] == 0 and row["form"] in SHOWN:
            time = f"{1e3 * row['seconds']['batch']:.2f} ms in batches, {1e3 * row['seconds']['alone']:.2f} ms alone"
            errors = f"{100 * row['test']['last']:.2f} % | {100 * row['test']['mean']:.2f} %"
            faster = _faster(truth, row["seconds"]["batch"], row["seconds"]["batch"])
            lines.append(f"| {_name(row['form'])} | {errors} | {time} | {faster} |")
    return lines


def _faster(truth: dict[str, float], solve: float, whole: float) -> str:
    return f"{truth['solve_seconds'] / solve:.1f} × ({truth['with_mesh_and_assembly_seconds'] / whole:.0f} ×)"


def weather(result: dict[str, Any]) -> list[str]:
    """The weather network in all forms."""
    leads = list(next(iter(result["rows"].values()))["after"])
    lines = [
        "| convolutions | parameters | weights left out | time of a step of 4 | "
        + " | ".join(f"{_short(lead)}: before, after" for lead in leads) + " |",
        "|---" * (4 + len(leads)) + "|",
    ]  # fmt: skip
    for name, row in result["rows"].items():
        scores = " | ".join(f"{_score(row['before'][lead])}, {_score(row['after'][lead])}" for lead in leads)
        lines.append(
            f"| {name} | {row['parameters']:,} | {100 * row['left_of_weights']:.0f} % | {1e3 * row['step_seconds']:.0f} ms "
            f"| {scores} |"
        )
    return lines


def machine(result: dict[str, Any]) -> list[str]:
    """On what it was measured."""
    made = result["machine"]
    versions = ", ".join(f"{name} {made['versions'][name]}" for name in ("torch", "numpy", "scipy"))
    return [f"Measured on {made['cpu']}, {made['cores']} cores, {versions}, {made['date']}."]


def tables() -> str:
    """All of them."""
    of_waves = json.loads((RESULTS / "wave_simulators.json").read_text())
    parts = [machine(of_waves), pairs(of_waves), waves(of_waves), finite_elements(of_waves)]
    of_weather = RESULTS / "weather_compression.json"
    if of_weather.exists():
        stored = json.loads(of_weather.read_text())
        parts += [machine(stored), weather(stored)]
    return "\n\n".join("\n".join(part) for part in parts)


def _name(form: str) -> str:
    if form == "lka":
        return "large-kernel attention"
    kind, size = form.rsplit(" ", 1)
    return f"{kind} {size} × {size}"


def _percent(errors: dict[str, float]) -> str:
    return f"{100 * errors['mean']:.1f} % ({100 * errors['last']:.1f} %)"


def _short(label: str) -> str:
    return label.replace("mean_sea_level_pressure", "pressure [Pa]").replace("vorticity_850", "vorticity [1e-5/s]")


def _score(value: float) -> str:
    return f"{value:.0f}" if value > 1 else f"{1e5 * value:.2f}"


if __name__ == "__main__":
    print(tables())  # noqa: T201
