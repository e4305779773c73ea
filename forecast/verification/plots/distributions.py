"""Figures of distributions: spectra, reliability, ROC, ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from forecast.verification.display import display_of, lead_label, title_of
from forecast.verification.plots.choosing import (
    BY_LEAD,
    MOST_LEADS,
    channels_in,
    choose_leads,
    event_title,
    lead_colours,
    make_panels,
    make_plain,
    one_channel,
    pick,
    put_legend,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOWEST_ENERGY = 1e-8  # of the largest: what lies below is rounding


def spectra(
    result: xr.Dataset, *, variables: Sequence[str] | None = None, leads: Sequence[np.timedelta64] | None = None
) -> Figure:
    """Draw energy against zonal wavenumber, truth in black and the forecast at a few lead times.

    Parameters
    ----------
    result
        What `spectra` gave.
    variables, leads
        None: all variables, and up to four lead times.
    """
    shown = choose_leads(result, leads, MOST_LEADS)
    figure, panels = make_panels(channels_in(result, variables))
    for axes, channel in panels:
        shown_as = display_of(channel)
        energy = shown_as.scale**2 * pick(result, channel)
        wavenumber = energy["zonal_wavenumber"].values[1:]
        truth = energy.sel(source="truth").mean("prediction_timedelta").values[1:]
        axes.loglog(wavenumber, truth, color="black", linewidth=2.2, label="truth", zorder=5)
        lines = [truth]
        for lead, colour in zip(shown, lead_colours(shown), strict=True):
            lines.append(energy.sel(source="forecast", prediction_timedelta=lead).values[1:])
            axes.loglog(wavenumber, lines[-1], color=colour, linewidth=1.5, label=lead_label(lead))
        positive = np.concatenate(lines)
        positive = positive[positive > 0]
        if positive.size:
            axes.set_ylim(max(positive.min(), positive.max() * LOWEST_ENERGY) / 2, positive.max() * 3)
        axes.set_xticks([tick for tick in (1, 2, 5, 10, 20, 50, 100, 200, 500) if tick <= wavenumber[-1]])
        axes.set_xticks([], minor=True)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_title(title_of(channel), fontsize=10.5)
        axes.set_xlabel("zonal wavenumber", fontsize=9)
        axes.set_ylabel(f"energy [({shown_as.units})² m]", fontsize=9)
        make_plain(axes)
    put_legend(figure, panels, 1 + len(shown))
    return figure


def reliability(
    result: Mapping[str, xr.Dataset],
    *,
    variable: str | None = None,
    level: int | None = None,
    region: str | None = None,
    leads: Sequence[np.timedelta64] | None = None,
) -> Figure:
    """Draw a reliability diagram: observed frequency against forecast probability, and below how often each is forecast.

    The dotted line is the event's frequency in the sample, at the first lead time.

    Parameters
    ----------
    result
        What `reliability` gave.
    variable, level, region
        None: the first.
    leads
        None: up to four.
    """
    from matplotlib.figure import Figure

    observed, share = result["observed"], result["share"]
    channel = one_channel(observed, variable, level)
    shown = choose_leads(observed, leads, MOST_LEADS)
    figure = Figure(figsize=(4.6, 5.4), facecolor="white", layout="constrained")
    upper, lower = figure.subplots(2, 1, height_ratios=(3, 1), sharex=True)
    upper.plot([0, 1], [0, 1], color="#999999", linewidth=0.9)
    frequency, forecast = (pick(dataset, channel, region=region) for dataset in (observed, share))
    probability = frequency["probability"].values
    width = 0.8 / (probability.size * len(shown))
    for place, (lead, colour) in enumerate(zip(shown, lead_colours(shown), strict=True)):
        seen, often = (values.sel(prediction_timedelta=lead).values for values in (frequency, forecast))
        upper.plot(probability, seen, "o-", color=colour, linewidth=1.6, markersize=4, label=lead_label(lead))
        lower.bar(probability + (place - (len(shown) - 1) / 2) * width, often, width, color=colour)
        if place == 0:
            upper.axhline(float(np.nansum(seen * often)), color="#555555", linewidth=0.8, linestyle=":")
    upper.set(xlim=(-0.06, 1.06), ylim=(-0.03, 1.03), ylabel="observed frequency", title=event_title(observed, channel))
    lower.set(xlabel="forecast probability", ylabel="share of forecasts", yscale="log")
    upper.legend(fontsize=8.5, frameon=False, loc="upper left")
    for axes in (upper, lower):
        make_plain(axes)
    return figure


def roc(
    result: Mapping[str, xr.Dataset],
    *,
    variable: str | None = None,
    level: int | None = None,
    region: str | None = None,
    leads: Sequence[np.timedelta64] | None = None,
) -> Figure:
    """Draw the ROC: hit rate against false alarm rate if so many members are enough to warn; the legend gives the area.

    Parameters
    ----------
    result
        What `roc` gave.
    variable, level, region
        None: the first.
    leads
        None: up to four.
    """
    from matplotlib.figure import Figure

    channel = one_channel(result["hit_rate"], variable, level)
    shown = choose_leads(result["hit_rate"], leads, MOST_LEADS)
    figure = Figure(figsize=(4.6, 4.4), facecolor="white", layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="#999999", linewidth=0.9)
    hits, alarms = (pick(result[key], channel, region=region) for key in ("hit_rate", "false_alarm_rate"))
    for lead, colour in zip(shown, lead_colours(shown), strict=True):
        hit, alarm = (values.sel(prediction_timedelta=lead).values for values in (hits, alarms))
        area = -np.trapezoid(hit, alarm)
        axes.plot(alarm, hit, "o-", color=colour, linewidth=1.6, markersize=4, label=f"{lead_label(lead)}, area {area:.2f}")
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel="false alarm rate", ylabel="hit rate", aspect="equal")
    axes.set_title(event_title(result["hit_rate"], channel), fontsize=10.5)
    axes.legend(fontsize=8.5, frameon=False, loc="lower right")
    make_plain(axes)
    return figure


def rank_histogram(
    result: xr.Dataset,
    *,
    variable: str | None = None,
    level: int | None = None,
    region: str | None = None,
    leads: Sequence[np.timedelta64] | None = None,
) -> Figure:
    """Draw how often truth has each rank among the members; the line is what a reliable ensemble has.

    Parameters
    ----------
    result
        What `rank_histogram` gave.
    variable, level, region
        None: the first.
    leads
        None: up to four, a panel each.
    """
    from matplotlib.figure import Figure

    channel = one_channel(result, variable, level)
    shown = choose_leads(result, leads, MOST_LEADS)
    figure = Figure(figsize=(2.9 * len(shown), 2.8), facecolor="white", layout="constrained")
    panels = figure.subplots(1, len(shown), squeeze=False, sharey=True)[0]
    values = pick(result, channel, region=region)
    for axes, lead in zip(panels, shown, strict=True):
        share = values.sel(prediction_timedelta=lead).values
        axes.bar(np.arange(share.size), share, 0.9, color=BY_LEAD[0])
        axes.axhline(1 / share.size, color="black", linewidth=1.0, linestyle="--")
        axes.set_title(lead_label(lead), fontsize=10)
        axes.set_xlabel("rank of the truth", fontsize=9)
        make_plain(axes)
    panels[0].set_ylabel("share", fontsize=9)
    figure.suptitle(title_of(channel), fontsize=10.5)
    return figure
