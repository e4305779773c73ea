"""The table and the figure of a stored study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

BLURRED = 0.8  # activity over the truth's; below it a forecast is called blurred
NOISY = 1.5  # energy at short waves over the truth's; above it a forecast is called noisy
UNITS = {
    "mean_sea_level_pressure": ("msl [Pa]", 1.0), "vorticity_850": ("vorticity 850 hPa [1e-5 s-1]", 1e5),
    "geopotential_500": ("z500 [m² s-2]", 1.0), "temperature_850": ("t850 [K]", 1.0),
}  # fmt: skip
SORTED_AT = "24"  # hours
KINDS = {"better": "#1b7837", "tie": "#888888", "worse": "#b2182b", "reference": "#000000"}


def verdict(numbers: Mapping[str, Any], reference: Mapping[str, Any]) -> str:
    """Better, worse or tie: better where the interval of the difference lies below 0 and every seed below every seed of the
    reference's; "untested" where the sample is too short for an interval.
    """
    if numbers["against"] is None:
        return "untested"
    _, low, high = numbers["against"]
    ours, theirs = numbers["rmse_by_seed"], reference["rmse_by_seed"]
    if high < 0 and max(ours) < min(theirs):
        return "better"
    return "worse" if low > 0 and min(ours) > max(theirs) else "tie"


def table(result: Mapping[str, Any], rows_are: str = "mixer", channels: Sequence[str] | None = None) -> str:
    """One table per channel as Markdown, the lowest error at a day first, then costs, what was left out and what failed."""
    parts = [channel_table(result, channel) for channel in channels or _channels(result)]
    return "\n\n".join([*parts, costs(result, rows_are), notes(result)])


def costs(result: Mapping[str, Any], rows_are: str) -> str:
    """Size, steps and time of the networks, the cheapest first."""
    rows = [row for row in result["rows"] if "seeds" in row]
    lines = [f"| {rows_are} | parameters | steps | training, by seed [s] |", "|---|---|---|---|"]
    lines += [
        f"| {row['name']} | {row['parameters']:,} | {row['steps']} | {', '.join(f'{one:.0f}' for one in row['seconds'])} |"
        for row in sorted(rows, key=lambda row: float(np.mean(row["seconds"])))
    ]
    return "\n".join(lines)


def notes(result: Mapping[str, Any]) -> str:
    """On what it was measured, what was left out, and what failed."""
    lines = [
        f"Experiment: {' '.join(result['experiment'])}; {result['machine']['cpu']}, load {result['machine']['load_average']}."
    ]
    if result["left_out"]:
        lines.append(f"Left out: {', '.join(result['left_out'])}.")
    return "\n\n".join([*lines, *failures(result)])


def failures(result: Mapping[str, Any]) -> list[str]:
    """What failed, and why."""
    return [f"Failed: {one['name']}, seed {one['seed']}: {one['error']}" for one in result["failed"]]


def channel_table(result: Mapping[str, Any], channel: str) -> str:
    """Errors of one channel with their verdicts, correlation and sharpness, the lowest error at a day first."""
    title, factor = UNITS.get(channel, (channel, 1.0))
    leads = list(result["rows"][0]["scores"][channel])
    lines = [
        f"| {title} | {' | '.join(f'{lead} h' for lead in leads)} | ACC at {leads[-1]} h "
        f"| sharpness at {SORTED_AT} and {leads[-1]} h |",
        "|---" * (len(leads) + 3) + "|",
    ]
    for row in sorted(result["rows"], key=lambda row: row["scores"][channel][SORTED_AT]["rmse"]):
        found = row["scores"][channel]
        cells = [_error(found[lead], factor, _verdict(result, row, channel, lead)) for lead in leads]
        acc = found[leads[-1]]["acc"]
        sharp = ", ".join(_sharpness(found[lead]) for lead in (SORTED_AT, leads[-1]))
        name = row["name"] if "seeds" in row else f"*{row['name']}*"
        lines.append(f"| {name} | {' | '.join(cells)} | {'' if acc is None else f'{acc:.2f}'} | {sharp} |")
    return "\n".join(lines)


def _verdict(result: Mapping[str, Any], row: Mapping[str, Any], channel: str, lead: str) -> str:
    reference = next(one for one in result["rows"] if one["name"] == result["reference"])
    return "reference" if row is reference else verdict(row["scores"][channel][lead], reference["scores"][channel][lead])


def _error(numbers: Mapping[str, Any], factor: float, said: str) -> str:
    by_seed = numbers["rmse_by_seed"]
    half = float(f"{factor * (max(by_seed) - min(by_seed)) / 2:.2g}")
    spread = f" ± {half:g}" if len(by_seed) > 1 else ""
    return f"{factor * numbers['rmse']:.4g}{spread}, {said}"


def _sharpness(numbers: Mapping[str, Any]) -> str:
    activity, waves = numbers["activity"], numbers["short_waves"]
    if activity is None or waves is None:
        return "none"
    return f"{activity:.2f} / {waves:.2f}{' blurred' if activity < BLURRED else ''}{' noisy' if waves > NOISY else ''}"


def _channels(result: Mapping[str, Any]) -> list[str]:
    return list(result["rows"][0]["scores"])


def draw(result: Mapping[str, Any], path: Path, channels: Sequence[str] | None = None) -> None:
    """Error of each mixer relative to the reference, with its interval, by lead time; sharpness as numbers beside it."""
    from matplotlib.figure import Figure  # drawn only when asked for

    networks = [row for row in result["rows"] if "seeds" in row]
    channels = channels or _channels(result)
    leads = list(networks[0]["scores"][channels[0]])
    networks = sorted(networks, key=lambda row: -row["scores"][channels[0]][SORTED_AT]["rmse"])
    figure = Figure(figsize=(2.9 * len(leads) + 1.2, 0.32 * len(networks) * len(channels) + 1.6), layout="constrained")
    axes = figure.subplots(len(channels), len(leads), sharey=True, squeeze=False)
    for line, channel in zip(axes, channels, strict=True):
        for panel, lead in zip(line, leads, strict=True):
            for height, row in enumerate(networks):
                numbers = row["scores"][channel][lead]
                mean, low, high = numbers["against"] or (0.0, 0.0, 0.0)
                kind = _verdict(result, row, channel, lead)
                color = KINDS.get(kind, KINDS["tie"])
                if kind != "untested":
                    panel.plot([100 * low, 100 * high], [height, height], color=color, lw=2)
                    panel.plot(100 * mean, height, "o", color=color)
                activity = numbers["activity"]
                panel.text(1.01, height, f"{activity:.2f}", transform=panel.get_yaxis_transform(), va="center", fontsize=7)
            panel.axvline(0, color="black", lw=0.6)
            panel.set_title(f"{UNITS.get(channel, (channel,))[0]}, {lead} h", fontsize=9)
            panel.tick_params(labelsize=8)
        line[0].set_yticks(range(len(networks)), [row["name"] for row in networks])
    figure.supxlabel(
        f"MSE over {result['reference']}'s, minus 1 [%], with 95 % intervals: green better, red worse, grey tied; "
        "numbers: activity over the truth's",
        fontsize=9,
    )
    figure.savefig(path, dpi=110)
