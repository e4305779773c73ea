"""Scores against lead time, and spectra: one panel per channel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from forecast.verification.display import colours_of, display_of, label_of, lead_label, title_of
from forecast.verification.evaluation import Verification
from forecast.verification.metrics import DIMENSIONLESS
from forecast.verification.spectra import BAND

PANEL = (5.4, 3.5)  # inches
TITLES = {
    "rmse": "RMSE",
    "acc": "Anomaly correlation",
    "bias": "Bias",
    "activity": "Activity",
}
LOWEST_ENERGY = 1e-8  # of the largest: what lies below is rounding
WAVENUMBER_TICKS = (1, 2, 5, 10, 20, 50, 100, 200, 500)


def draw_curves(found: Verification, metrics: Sequence[str], channels: Sequence[int]) -> Figure:
    """Draw metrics (rows) against lead time for channels (columns), over the first region."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(PANEL[0] * len(channels), PANEL[1] * len(metrics) + 0.55), facecolor="white", layout="constrained")
    panels = figure.subplots(len(metrics), len(channels), squeeze=False)
    for row, metric in enumerate(metrics):
        for column, channel in enumerate(channels):
            _draw_metric(panels[row, column], found, metric, channel)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)), fontsize=9, frameon=False)
    return figure


def _draw_metric(axes: Axes, found: Verification, metric: str, channel: int) -> None:
    contest = found.contest
    shown = display_of(contest.channels[channel])
    scale = 1.0 if metric in DIMENSIONLESS else shown.scale
    days = contest.sample.leads / np.timedelta64(24, "h")
    values = found.results.scores[metric][:, 0, :, channel] * scale
    for name, colour in colours_of(contest.names).items():
        position = contest.names.index(name)
        if not np.isfinite(values[position]).any():
            continue
        style: dict[str, Any] = {"linewidth": 2.4, "zorder": 5} if position == 0 else {"linewidth": 1.3}
        dash = "--" if name in contest.baselines else "-"
        axes.plot(days, values[position], dash, color=colour, label=label_of(name), **style)
    if metric == "activity":
        truth = found.results.scores["activity_truth"][0, 0, :, channel] * scale
        axes.plot(days, truth, ":", color="black", linewidth=1.6, label="truth")
    if metric == "bias":
        axes.axhline(0, color="#999999", linewidth=0.8)
    units = "" if metric in DIMENSIONLESS else f" [{shown.units}]"
    axes.set_title(f"{title_of(contest.channels[channel])}", fontsize=10.5)
    axes.set_ylabel(f"{TITLES.get(metric, metric)}{units}", fontsize=9)
    axes.set_xlabel("lead time [days]", fontsize=9)
    axes.set_xlim(0, max(days))
    axes.set_xticks(np.arange(0, np.floor(max(days)) + 1, max(1, round(max(days) / 10))))
    axes.tick_params(labelsize=8.5)
    axes.grid(color="#e5e5e5", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    if metric == "rmse":
        axes.set_ylim(bottom=0, top=_rmse_top(values, contest.names))
    if metric == "acc":
        axes.axhline(0.6, color="#999999", linewidth=0.8, linestyle=":")
        axes.set_ylim(min(-0.05, np.nanmin(values)) if np.isfinite(values).any() else 0, 1)


def _rmse_top(values: np.ndarray, names: Sequence[str]) -> float:
    """Top of the axis: persistence may leave the panel, nobody else."""
    others = [position for position, name in enumerate(names) if name != "persistence"]
    top = np.nanmax(values[others]) if others else np.nanmax(values)
    return float(1.12 * min(np.nanmax(values), 1.15 * top))


def draw_spectra(found: Verification, channels: Sequence[int]) -> Figure:
    """Draw zonal spectra of forecast, its first rival stage and truth: lead times (rows) by channels (columns)."""
    from matplotlib.figure import Figure

    contest, leads = found.contest, found.results.spectrum_leads
    figure = Figure(figsize=(PANEL[0] * len(channels), PANEL[1] * len(leads) + 0.5), facecolor="white", layout="constrained")
    panels = figure.subplots(len(leads), len(channels), squeeze=False)
    for row, lead in enumerate(leads):
        for column, channel in enumerate(channels):
            _draw_spectrum(panels[row, column], found, row, channel)
            title = f"{title_of(contest.channels[channel])}, lead time {lead_label(contest.sample.leads[lead])}"
            panels[row, column].set_title(title, fontsize=10)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=9, frameon=False)
    return figure


def _draw_spectrum(axes: Axes, found: Verification, row: int, channel: int) -> None:
    contest = found.contest
    shown = display_of(contest.channels[channel])
    entries = [name for name in [*contest.forecasts, "stencil_ridge", "climatology"] if name in contest.names]
    colours = colours_of(contest.names)
    wavenumber = np.arange(found.results.spectra.shape[-1])[1:]
    spectra = found.results.spectra[:, row, channel, 1:] * shown.scale**2
    axes.loglog(wavenumber, spectra[-1], color="black", linewidth=2.0, label="truth")
    for name in entries:
        style: dict[str, Any] = {"linewidth": 2.2} if name == contest.names[0] else {"linewidth": 1.2}
        dash = "--" if name in contest.baselines else "-"
        axes.loglog(wavenumber, spectra[contest.names.index(name)], dash, color=colours[name], label=label_of(name), **style)
    shown_entries = spectra[[contest.names.index(name) for name in entries] + [-1]]
    positive = shown_entries[shown_entries > 0]
    if positive.size:
        axes.set_ylim(max(positive.min(), positive.max() * LOWEST_ENERGY) / 2, positive.max() * 3)
    axes.set_xticks([tick for tick in WAVENUMBER_TICKS if tick <= wavenumber[-1]])
    axes.set_xticks([], minor=True)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel(f"zonal wavenumber ({BAND[0]:g}–{BAND[1]:g}° N and S)", fontsize=9)
    axes.set_ylabel(f"energy [({shown.units})² m]", fontsize=9)
    axes.tick_params(labelsize=8.5)
    axes.grid(color="#e5e5e5", linewidth=0.6, which="major")
    axes.spines[["top", "right"]].set_visible(False)
