"""Figures of scores: against lead time, against a rival, on maps, in a Taylor diagram."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from data_pipelines.variables import Channel
from forecast.verification.display import colours_of, label_of, lead_label, title_of
from forecast.verification.inputs import VerificationError
from forecast.verification.plots.choosing import (
    MOST_LEADS,
    Results,
    better,
    by_name,
    channels_in,
    choose_leads,
    in_days,
    make_panels,
    make_plain,
    metric_label,
    metric_title,
    one_channel,
    pick,
    put_legend,
    scale_of,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TAYLOR = ("acc_pooled", "activity_pooled", "activity_truth_pooled")


def curves(
    results: Results, metric: str = "rmse", *, variables: Sequence[str] | None = None, region: str | None = None
) -> Figure:
    """Draw a metric against lead time, one panel per variable and level; the shade is the interval, if results hold one.

    Parameters
    ----------
    results
        What `score` gave; of several forecasts by name.
    metric
        Name of a metric in them.
    variables
        Names; None: all.
    region
        None: the first.

    Raises
    ------
    VerificationError
        If a result lacks the metric, region or a variable.
    """
    named = by_name(results)
    first = next(iter(named.values()))
    figure, panels = make_panels(channels_in(first, variables))
    for axes, channel in panels:
        scale = scale_of(metric, channel)
        for name, colour in colours_of(list(named)).items():
            values = scale * pick(named[name], channel, region=region, metric=metric)
            days = in_days(values)
            whole = "bound" in values.dims
            line = values.sel(bound="value") if whole else values
            axes.plot(days, line, color=colour, linewidth=2.0, marker="o", markersize=2.5, label=label_of(name))
            if whole:
                low, high = (values.sel(bound=bound) for bound in ("low", "high"))
                axes.fill_between(days, low, high, color=colour, alpha=0.18, linewidth=0)
        _finish_curves(axes, metric, channel, float(in_days(values).max()))
    put_legend(figure, panels, len(named))
    return figure


def _finish_curves(axes: Axes, metric: str, channel: Channel, last: float) -> None:
    axes.set_title(title_of(channel), fontsize=10.5)
    axes.set_ylabel(metric_label(metric, channel), fontsize=9)
    axes.set_xlabel("lead time [days]", fontsize=9)
    axes.set_xlim(0, last)
    if metric in ("bias", "mse_skill") or metric.startswith("acc"):
        axes.axhline(0, color="#999999", linewidth=0.8)
    elif better(metric) == "lower":
        axes.set_ylim(bottom=0)
    make_plain(axes)


def scorecard(
    comparison: xr.Dataset,
    metric: str = "rmse",
    *,
    regions: Sequence[str] | None = None,
    leads: Sequence[np.timedelta64] | None = None,
    significant: float = 0.05,
    rival: str = "rival",
) -> Figure:
    """Draw the relative difference from a rival: rows of variables, levels and regions, columns of lead times.

    Green is better than the rival, red worse, whichever way the metric points; a star marks what is significant, a question
    mark a sample too short to tell.

    Parameters
    ----------
    comparison
        What `compare` gave.
    metric
        One that has a better direction.
    regions, leads
        None: all regions; lead times spread over the forecast, a dozen at most.
    significant
        Probability of no difference below which a star is set.
    rival
        Its name, for the title.

    Raises
    ------
    VerificationError
        If the metric is no better when higher or lower, or is not in the comparison.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    from forecast.verification.scorecard import shade

    direction = better(metric)
    if direction is None:
        raise VerificationError(
            f"{metric} is neither better when higher nor when lower. Choose another metric for a scorecard."
        )
    chosen = list(comparison["region"].values) if regions is None else list(regions)
    rows = [(channel, region) for channel in channels_in(comparison, None) for region in chosen]
    shown = choose_leads(comparison, leads, 12)
    left = 0.115 * max(len(_row_label(channel, region, chosen)) for channel, region in rows)
    figure = Figure(figsize=(left + 0.72 * len(shown) + 0.1, 0.3 * len(rows) + 1.35), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(-left / 0.72, len(shown) + 0.14)
    axes.set_ylim(len(rows) + 1.7, -2.8)
    axes.axis("off")
    axes.text(
        -left / 0.72 + 0.1, -2.1, f"{metric_title(metric)} relative to {rival}", fontsize=11.5, fontweight="bold", va="center"
    )
    for column, lead in enumerate(shown):
        axes.text(column + 0.5, -0.45, lead_label(lead), fontsize=9, ha="center", va="center", fontweight="bold")
    for row, (channel, region) in enumerate(rows):
        axes.text(-0.12, row + 0.5, _row_label(channel, region, chosen), fontsize=9, ha="right", va="center")
        values = pick(comparison, channel, region=region, metric=metric)
        for column, lead in enumerate(shown):
            at = values.sel(prediction_timedelta=lead)
            relative, p = float(at.sel(statistic="relative")), float(at.sel(statistic="p"))
            worse = relative if direction == "lower" else -relative
            colour = shade(worse) if np.isfinite(relative) else "white"
            axes.add_patch(
                Rectangle((column + 0.02, row + 0.03), 0.96, 0.94, facecolor=colour, edgecolor="#dddddd", linewidth=0.5)
            )
            mark = "?" if not np.isfinite(p) else "*" if p < significant else ""
            text = f"{100 * relative:+.1f}{mark}" if np.isfinite(relative) else "–"
            axes.text(column + 0.5, row + 0.52, text, fontsize=8.5, ha="center", va="center")
    note = f"per cent; green better, red worse; * significant at {100 * significant:g} %, ? sample too short to tell"
    axes.text(-left / 0.72 + 0.1, len(rows) + 0.9, note, fontsize=8, color="#444444", va="center")
    return figure


def _row_label(channel: Channel, region: str, regions: Sequence[str]) -> str:
    return title_of(channel) if len(regions) == 1 else f"{title_of(channel)}, {region}"


def maps(
    result: xr.Dataset,
    metric: str = "rmse",
    *,
    variables: Sequence[str] | None = None,
    leads: Sequence[np.timedelta64] | None = None,
) -> Figure:
    """Draw a metric at every point on Robinson maps with coastlines: rows of variables and levels, columns of lead times.

    Parameters
    ----------
    result
        What `maps` gave, on a global grid.
    metric
        One of its metrics.
    variables, leads
        None: all variables, and up to three lead times.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    from forecast.verification.maps import colour_limits, draw_field, map_projection

    shown, channels = choose_leads(result, leads, 3), channels_in(result, variables)
    width, height = 4.1, 2.9
    size = (width * len(shown), height * len(channels) + 0.1)
    figure = Figure(figsize=size, facecolor="white")
    for row, channel in enumerate(channels):
        fields = scale_of(metric, channel) * pick(result, channel, metric=metric)
        fields = fields.sel(prediction_timedelta=shown).transpose("prediction_timedelta", "latitude", "longitude")
        signed = metric == "bias" or metric.startswith("acc") or metric == "mse_skill"
        low, high = colour_limits(fields.values, signed)
        base = 1 - (row + 1) * height / size[1]
        for column, lead in enumerate(shown):
            place = (column / len(shown) + 0.006, base + 0.66 / size[1], 1 / len(shown) - 0.012, (height - 1.0) / size[1])
            axes = figure.add_axes(place, projection=map_projection())
            colours = ("RdBu" if better(metric) == "higher" else "RdBu_r") if signed else "YlOrRd"
            image = draw_field(
                axes, fields["latitude"].values, fields["longitude"].values, fields.values[column], (low, high), colours
            )
            axes.set_title(f"{title_of(channel)}, {lead_label(lead)}", fontsize=9.5, pad=3)
        bar_place = figure.add_axes((0.5 - 0.2, base + 0.44 / size[1], 0.4, 0.12 / size[1]))
        bar = figure.colorbar(image, cax=bar_place, orientation="horizontal", extend="both", spacing="proportional")
        bar.locator = MaxNLocator(8)
        bar.update_ticks()
        bar.set_label(metric_label(metric, channel), fontsize=8.5, labelpad=1)
        bar.ax.tick_params(labelsize=8)
    return figure


def taylor(
    results: Results,
    *,
    variable: str | None = None,
    level: int | None = None,
    region: str | None = None,
    leads: Sequence[np.timedelta64] | None = None,
) -> Figure:
    """Draw a Taylor diagram (2001) of anomalies from climatology, one point per forecast and lead time.

    Distance from the origin is the forecast's activity, the angle its pooled anomaly correlation, both relative to the truth's
    activity; the distance to the truth's point is then the RMSE (uncentred: the bias counts), which grey arcs measure.

    Parameters
    ----------
    results
        What `score` gave for the metrics of `TAYLOR`; of several forecasts by name.
    variable, level, region
        None: the first.
    leads
        None: up to four.
    """
    from matplotlib.figure import Figure

    named = by_name(results)
    first = next(iter(named.values()))
    channel = one_channel(first, variable, level)
    shown = choose_leads(first, leads, MOST_LEADS)
    figure = Figure(figsize=(6.4, 5.4), facecolor="white")
    axes: Any = figure.add_axes((0.08, 0.08, 0.82, 0.8), projection="polar")
    furthest, least = 1.2, 0.0
    for name, colour in colours_of(list(named)).items():
        values = [pick(named[name], channel, region=region, metric=metric) for metric in TAYLOR]
        values = [value.sel(bound="value") if "bound" in value.dims else value for value in values]
        correlation, ours, truth = (value.sel(prediction_timedelta=shown).values for value in values)
        amplitude = ours / truth
        axes.plot(np.arccos(np.clip(correlation, -1, 1)), amplitude, "-", color=colour, linewidth=0.8, zorder=4)
        for lead, angle, radius in zip(shown, np.arccos(np.clip(correlation, -1, 1)), amplitude, strict=True):
            axes.plot(angle, radius, "o", color=colour, markersize=6, zorder=5)
            axes.annotate(lead_label(lead), (angle, radius), xytext=(5, 4), textcoords="offset points", fontsize=8)
        axes.plot([], [], "o", color=colour, label=label_of(name))
        furthest, least = max(furthest, 1.1 * np.nanmax(amplitude, initial=0)), min(least, np.nanmin(correlation, initial=0))
    axes.plot(0, 1, "*", color="black", markersize=13, label="truth", clip_on=False, zorder=6)
    _finish_taylor(axes, furthest, least)
    axes.set_title(f"{title_of(channel)}: activity relative to the truth's, and anomaly correlation", fontsize=10.5)
    axes.legend(fontsize=9, frameon=False, loc="upper right", bbox_to_anchor=(1.12, 1.0))
    return figure


def _finish_taylor(axes: Any, furthest: float, least: float) -> None:
    widest = np.pi if least < 0 else np.pi / 2
    axes.set_thetamin(0)
    axes.set_thetamax(np.rad2deg(widest))
    axes.set_ylim(0, furthest)
    ticks = [1.0, 0.99, 0.95, 0.9, 0.8, 0.6, 0.4, 0.2, 0.0] + ([-0.2, -0.4, -0.6, -0.8, -1.0] if least < 0 else [])
    axes.set_thetagrids(np.rad2deg(np.arccos(ticks)), [f"{tick:g}" for tick in ticks], fontsize=8.5)
    axes.set_rgrids([tick for tick in (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0) if tick < furthest], fontsize=8.5)
    axes.grid(color="#e5e5e5", linewidth=0.6)
    around = np.linspace(0, 2 * np.pi, 721)
    for distance in (0.25, 0.5, 0.75, 1.0):
        x, y = 1 + distance * np.cos(around), distance * np.sin(around)
        angle, radius = np.arctan2(y, x), np.hypot(x, y)
        inside = (angle >= 0) & (angle <= widest) & (radius <= furthest)
        axes.plot(np.where(inside, angle, np.nan), radius, color="#999999", linewidth=0.7, linestyle=":")
