"""Tables and figure of the stored study of peers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.skill.report import UNITS, channel_table, failures
from benchmarks.skill.study import mean_of_seeds

CHANNELS = ("geopotential_500", "temperature_850", "mean_sea_level_pressure")
NETWORK_STYLES = {
    "PuYun-ls": ("#000000", "o"), "PuYun": ("#777777", "P"), "UNet": ("#0072b2", "s"),
    "WindowAttention": ("#d55e00", "^"), "SphericalOperator": ("#009e73", "D"), "IcosahedralGraph": ("#cc79a7", "v"),
}  # fmt: skip
BOLD_STYLES = {"PuYun-ls cascade": "--", mean_of_seeds("PuYun-ls cascade"): ":"}
BASELINE_STYLES = {"stencil_ridge": "-", "linear_inverse_model": "--", "persistence": ":"}
GREY = "#999999"


def table(result: Mapping[str, Any]) -> list[str]:
    """Errors of the three channels, costs, and what the study was."""
    return [*(channel_table(result, channel) for channel in CHANNELS), costs(result), notes(result)]


def costs(result: Mapping[str, Any]) -> str:
    """Size, rate, steps and time of the networks."""
    lines = ["| network | parameters | learning rate | s a step | steps | training, by seed [s] |", "|---" * 6 + "|"]
    for row in (row for row in result["rows"] if "seeds" in row):
        seconds = ", ".join(f"{one:.0f}" for one in row["seconds"])
        trial = row.get("trial")
        tried = f"{trial['chosen']:g} | {trial['seconds_per_step']:.2f}" if trial else " | "
        lines.append(f"| {row['name']} | {row['parameters']:,} | {tried} | {row['steps']} | {seconds} |")
    return "\n".join(lines)


def notes(result: Mapping[str, Any]) -> str:
    """On what it was measured, and what failed."""
    first, last = (text[:10] for text in result["train"])
    begin, end, every = result["test"]
    lines = [
        f"{result['seconds_of_training']:g} processor seconds each; learned {first} to {last}, forecasts from {begin[:10]} to "
        f"{end[:10]} every {every}; {result['machine']['cpu']}, {result['machine']['date']}."
    ]
    return "\n".join([*lines, *failures(result)])


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Error over climatology's by lead time, and activity over the truth's beneath it, one column per channel."""
    from matplotlib.figure import Figure  # drawn only when asked for

    figure = Figure(figsize=(11, 6.2), layout="constrained")
    axes = figure.subplots(2, len(CHANNELS), sharex=True, sharey="row", height_ratios=[3, 2])
    rows = {row["name"]: row for row in result["rows"]}
    for channel, errors, activities in zip(CHANNELS, *axes, strict=True):
        days = [int(lead) / 24 for lead in rows["climatology"]["scores"][channel]]
        usual = [one["rmse"] for one in rows["climatology"]["scores"][channel].values()]
        for name, row in rows.items():
            style = _style(name)
            if style is None:
                continue
            numbers = list(row["scores"][channel].values())
            errors.plot(days, [one["rmse"] / of for one, of in zip(numbers, usual, strict=True)], label=_label(name), **style)
            activities.plot(days, [one["activity"] for one in numbers], **style)
        errors.axhline(1, color="black", lw=0.7)
        activities.axhline(1, color="black", lw=0.7)
        errors.set_title(UNITS[channel][0].split(" ")[0])
        activities.set_xticks(days)
        activities.set_xlabel("lead time [days]")
    axes[0, 0].set_ylim(bottom=0, top=1.6)
    axes[1, 0].set_ylim(bottom=0, top=1.5)
    axes[0, 0].set_ylabel("RMSE over climatology's\n(1: no better than climatology)")
    axes[1, 0].set_ylabel("activity over the truth's\n(below 0.8: blurred)")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(path, dpi=110)


def _style(name: str) -> dict[str, Any] | None:
    if name in BOLD_STYLES:
        return {"color": "black", "ls": BOLD_STYLES[name], "lw": 1.4}
    if name in NETWORK_STYLES:
        color, marker = NETWORK_STYLES[name]
        return {"color": color, "marker": marker, "lw": 2.2 if name == "PuYun-ls" else 1.4, "ms": 5}
    if name in BASELINE_STYLES:
        return {"color": GREY, "ls": BASELINE_STYLES[name], "lw": 1.6}
    return None


def _label(name: str) -> str:
    return name.replace("_", " ")
