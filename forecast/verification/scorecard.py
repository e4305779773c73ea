"""The scorecard: RMSE by lead time against every rival, coloured against the best baseline, with what is significant."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from data_pipelines.variables import Channel
from forecast.verification.display import decimals_for, display_of, label_of, lead_label, title_of
from forecast.verification.evaluation import Verification
from forecast.verification.tables import Target

SIGNIFICANT = 0.05
FULL_COLOUR = 0.25  # relative difference at which colours saturate
MAX_CHANNELS = 12  # tables in one picture
LEGEND_WIDTH = 8.4  # inches that the line below the tables takes
MAX_MISSED = 8  # missed targets that are spelled out below it


def draw_scorecard(found: Verification, leads: Sequence[int], channels: Sequence[int] | None = None) -> Figure:
    """Draw one table per channel.

    Parameters
    ----------
    found
        A verification.
    leads
        Positions of the lead times shown.
    channels
        Positions of the channels shown; None: the first dozen.

    Returns
    -------
    matplotlib.figure.Figure
    """
    from matplotlib.figure import Figure

    contest = found.contest
    shown = list(range(len(contest.channels)))[:MAX_CHANNELS] if channels is None else list(channels)
    rows = len(contest.names)
    missed = [target.text for target in found.targets if not target.met]
    table_height = 0.30 * (rows + 2.2)
    notes_height = 0.75 + 0.23 * (1 + min(len(missed), MAX_MISSED + 1))
    width = max(2.9 + 0.86 * len(leads), LEGEND_WIDTH)
    height = table_height * len(shown) + notes_height
    figure = Figure(figsize=(width, height), facecolor="white")
    for place, channel in enumerate(shown):
        bottom = 1 - (place + 1) * table_height / height
        axes = figure.add_axes((0.01, bottom, 0.98, table_height / height))
        _draw_table(axes, found, channel, leads)
    _write_notes(figure, found.targets, missed, notes_height / height, height)
    return figure


def _draw_table(axes: Axes, found: Verification, channel: int, leads: Sequence[int]) -> None:
    from matplotlib.patches import Rectangle

    contest, rmse = found.contest, found.results.scores["rmse"][:, 0]
    label = contest.channels[channel]
    shown = display_of(label)
    names = contest.names
    decimals = decimals_for(shown.decimals, rmse[:, list(leads), channel] * shown.scale)
    axes.set_xlim(-3.4, len(leads))
    axes.set_ylim(len(names) + 0.2, -2.0)
    axes.axis("off")
    axes.text(-3.35, -1.45, f"{title_of(label)}: RMSE [{shown.units}]", fontsize=11, fontweight="bold", va="center")
    axes.text(-3.35, -0.5, "lead time (initial times)", fontsize=8.5, color="#555555", va="center")
    for column, lead in enumerate(leads):
        axes.text(
            column + 0.5, -0.62, lead_label(contest.sample.leads[lead]), fontsize=9, ha="center", va="center", fontweight="bold"
        )
        axes.text(
            column + 0.5,
            -0.2,
            f"({found.results.counts[lead, channel]})",
            fontsize=7,
            ha="center",
            va="center",
            color="#555555",
        )
    for row, name in enumerate(names):
        weight = "bold" if row == 0 else "normal"
        axes.text(-3.35, row + 0.5, label_of(name), fontsize=9.5, va="center", fontweight=weight)
        for column, lead in enumerate(leads):
            value = rmse[row, lead, channel] * shown.scale
            colour, mark = ("white", "")
            if row == 0:
                colour, mark = _verdict(found, channel, lead)
            elif name in contest.baselines and name == _best_baseline(found, channel, lead):
                colour = "#e6e6e6"
            axes.add_patch(
                Rectangle((column + 0.02, row + 0.03), 0.96, 0.94, facecolor=colour, edgecolor="#dddddd", linewidth=0.5)
            )
            text = "–" if not np.isfinite(value) else f"{value:.{decimals}f}{mark}"
            axes.text(column + 0.5, row + 0.52, text, fontsize=9, ha="center", va="center", fontweight=weight)


def _best_baseline(found: Verification, channel: int, lead: int) -> str | None:
    contest = found.contest
    values = {name: found.results.scores["rmse"][contest.names.index(name), 0, lead, channel] for name in contest.baselines}
    values = {name: value for name, value in values.items() if np.isfinite(value)}
    return min(values, key=lambda name: values[name]) if values else None


def _verdict(found: Verification, channel: int, lead: int) -> tuple[str, str]:
    """Colour of the cell and mark behind the number: against the best baseline at this lead time."""
    best = _best_baseline(found, channel, lead)
    if best is None:
        return "white", ""
    rmse = found.results.scores["rmse"][:, 0, lead, channel]
    relative = rmse[0] / rmse[found.contest.names.index(best)] - 1
    p = found.significance_of(best, lead, channel)
    mark = "" if not np.isfinite(p) else (" *" if p < SIGNIFICANT else "")
    return shade(relative), mark + (" ?" if not np.isfinite(p) else "")


def shade(relative: float) -> str:
    """Green below zero, red above, white at zero; full at a quarter."""
    strength = min(abs(relative) / FULL_COLOUR, 1.0) * 0.75 + 0.15
    target = np.array([0.10, 0.60, 0.25]) if relative < 0 else np.array([0.85, 0.15, 0.12])
    red, green, blue = 1 - strength * (1 - target)
    return f"#{int(red * 255):02x}{int(green * 255):02x}{int(blue * 255):02x}"


def _write_notes(figure: Figure, targets: Sequence[Target], missed: Sequence[str], share: float, height: float) -> None:
    line = 0.23 / height
    y = share - 0.22 / height
    legend = (
        "green / red: below / above the best baseline at that lead time (grey cell);  *  difference significant at 5 %;  "
        "?  sample too short to tell"
    )
    figure.text(0.012, y, legend, fontsize=8, color="#444444", va="top")
    y -= 1.25 * line
    if not targets:
        figure.text(0.012, y, "No target could be judged on this sample.", fontsize=9, va="top")
        return
    met = len(targets) - len(missed)
    headline = f"Targets: {met} of {len(targets)} met" + ("." if not missed else "; missed:")
    figure.text(0.012, y, headline, fontsize=9.5, fontweight="bold", va="top", color="#1a7a34" if not missed else "#a31515")
    more = [f"and {len(missed) - MAX_MISSED} more (see the report)"] if len(missed) > MAX_MISSED else []
    for text in [*missed[:MAX_MISSED], *more]:
        y -= line
        figure.text(0.02, y, text, fontsize=8.5, va="top", color="#a31515")


def channels_by_variable(channels: Sequence[Channel]) -> dict[str, list[int]]:
    """Positions of channels, by variable."""
    groups: dict[str, list[int]] = {}
    for position, channel in enumerate(channels):
        groups.setdefault(channel.variable, []).append(position)
    return groups
