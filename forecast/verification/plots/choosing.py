"""What is shown of results, and how panels look: channels, lead times, units, titles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from data_pipelines.variables import Channel
from forecast.verification.display import display_of, lead_label, title_of
from forecast.verification.inputs import VerificationError
from forecast.verification.metrics import METRICS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANEL = (4.6, 3.3)  # inches
COLUMNS = 3
MOST_LEADS = 4  # lines or panels where lead times are not named
TITLES = {
    "rmse": "RMSE",
    "mae": "Mean absolute error",
    "bias": "Bias",
    "acc": "Anomaly correlation",
    "acc_pooled": "Anomaly correlation (pooled)",
    "acc_centred": "Anomaly correlation (centred)",
    "mse_skill": "MSE skill against climatology",
    "crps": "Fair CRPS",
    "spread": "Spread",
    "spread_skill": "Spread / skill",
}
BY_LEAD = ("#08519c", "#d95f02", "#1b9e77", "#7570b3")  # a colour for each of a few lead times
Results = xr.Dataset | Mapping[str, xr.Dataset]


def by_name(results: Results) -> dict[str, xr.Dataset]:
    """Results by name of the forecast; a single one is called "forecast"."""
    named = {"forecast": results} if isinstance(results, xr.Dataset) else dict(results)
    if not named:
        raise VerificationError("results must hold at least one forecast's; got none.")
    return named


def channels_in(dataset: xr.Dataset, variables: Sequence[str] | None) -> list[Channel]:
    """Variables and levels of results, those asked for or all."""
    names = [str(name) for name, field in dataset.data_vars.items() if "prediction_timedelta" in field.dims]
    lacking = [name for name in variables or () if name not in names]
    if lacking:
        raise VerificationError(f"variables {lacking} are not among the results; these hold {names}.")
    return [
        Channel(name, None if level is None else int(level))
        for name in (names if variables is None else variables)
        for level in (dataset["level"].values if "level" in dataset[name].dims else [None])
    ]


def one_channel(dataset: xr.Dataset, variable: str | None, level: int | None) -> Channel:
    """The channel asked for; the first of the variable, or of all."""
    channels = channels_in(dataset, None if variable is None else [variable])
    matching = [channel for channel in channels if level is None or channel.level == level]
    if not matching:
        raise VerificationError(f"level {level} hPa is not among the results; these hold {[str(one) for one in channels]}.")
    return matching[0]


def pick(dataset: xr.Dataset, channel: Channel, *, region: str | None = None, metric: str | None = None) -> xr.DataArray:
    """One channel of one region and metric, or a message that says what there is."""
    if channel.variable not in dataset:
        raise VerificationError(f"{channel.variable} is not among the results; these hold {list(dataset.data_vars)}.")
    values = dataset[channel.variable]
    if "level" in values.dims:
        values = values.sel(level=channel.level)
    if "region" in values.dims:
        values = _select(values, "region", region if region is not None else values["region"].values[0])
    return _select(values, "metric", metric) if metric is not None else values


def _select(values: xr.DataArray, dimension: str, wanted: Any) -> xr.DataArray:
    if dimension not in values.dims or wanted not in values[dimension].values:
        there = list(values[dimension].values) if dimension in values.coords else []
        raise VerificationError(f"{dimension} {wanted!r} is not among the results; these hold {there}. Name it when scoring.")
    return values.sel({dimension: wanted})


def choose_leads(dataset: xr.Dataset, wanted: Sequence[np.timedelta64] | None, most: int) -> np.ndarray:
    """Lead times asked for, or some that are spread evenly over all, the first and last among them."""
    there = dataset["prediction_timedelta"].values
    if wanted is None:
        places = np.unique(np.linspace(0, there.size - 1, min(most, there.size)).round().astype(int))
        return there[places]
    chosen = np.asarray(list(wanted)).astype(there.dtype)
    lacking = chosen[~np.isin(chosen, there)]
    if lacking.size or not chosen.size:
        raise VerificationError(
            f"leads must be among {[lead_label(lead) for lead in there]}; got {[lead_label(lead) for lead in chosen]}."
        )
    return chosen


def in_days(values: xr.DataArray) -> np.ndarray:
    """Lead times in days."""
    return np.asarray(values["prediction_timedelta"].values / np.timedelta64(24, "h"))


def lead_colours(leads: np.ndarray) -> list[Any]:
    """One colour for each lead time."""
    from matplotlib import colormaps

    if leads.size <= len(BY_LEAD):
        return list(BY_LEAD[: leads.size])
    return list(colormaps["viridis"](np.linspace(0, 0.92, leads.size)))


def scale_of(metric: str, channel: Channel) -> float:
    """From a metric's stored units to those shown."""
    return 1.0 if metric in METRICS and METRICS[metric].dimensionless else display_of(channel).scale


def better(metric: str) -> str | None:
    """Which way is better: "lower", "higher", or None."""
    if metric.startswith(("acc", "mse_skill")):
        return "higher"
    return "lower" if metric.startswith(("rmse", "mae", "vector_", "crps", "energy_score", "debiased_rmse")) else None


def metric_title(metric: str) -> str:
    """Name of a metric in titles."""
    return TITLES.get(metric, metric.replace("_", " ").capitalize())


def metric_label(metric: str, channel: Channel) -> str:
    """Name and units of a metric, for an axis."""
    units = "" if metric in METRICS and METRICS[metric].dimensionless else display_of(channel).units
    units = "K" if units == "°C" else units  # a difference of temperatures
    return metric_title(metric) + (f" [{units}]" if units else "")


def event_title(dataset: xr.Dataset, channel: Channel) -> str:
    """Name of a channel and of the event that was scored."""
    event = dataset.attrs.get("event")
    return title_of(channel) if not event else f"{title_of(channel)}: {event}"


def make_panels(channels: Sequence[Channel]) -> tuple[Figure, list[tuple[Axes, Channel]]]:
    """A figure with one panel for each channel, three in a row."""
    from matplotlib.figure import Figure

    columns = min(COLUMNS, len(channels))
    rows = -(-len(channels) // columns)
    figure = Figure(figsize=(PANEL[0] * columns, PANEL[1] * rows + 0.4), facecolor="white", layout="constrained")
    every = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in every[len(channels) :]:
        axes.set_visible(False)
    return figure, list(zip(every, channels, strict=False))


def put_legend(figure: Figure, panels: Sequence[tuple[Axes, Channel]], entries: int) -> None:
    """One legend below all panels, where there is something to tell apart."""
    handles, labels = panels[0][0].get_legend_handles_labels()
    if entries > 1:
        figure.legend(handles, labels, loc="outside lower center", ncols=min(5, entries), fontsize=9, frameon=False)


def make_plain(axes: Axes) -> None:
    """Light grid, small labels, no frame."""
    axes.tick_params(labelsize=8.5)
    axes.grid(color="#e5e5e5", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
