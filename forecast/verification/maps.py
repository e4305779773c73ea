"""Maps of forecast, truth and error with coastlines from the package's own files: no network, ever."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from data_pipelines.variables import Channel
from forecast.verification.display import Display, display_of, lead_label, title_of

WIDTH, ROW, TOP, BOTTOM = 13.2, 2.35, 0.42, 0.66  # inches
COASTLINES = Path(__file__).parent / "natural_earth"
COLOURS = 20  # steps of colour, at round values
COLOUR_QUANTILE = 0.99  # limits of colours leave out the most extreme points


def draw_maps(
    channel: Channel,
    latitude: np.ndarray,
    longitude: np.ndarray,
    forecast: np.ndarray,
    truth: np.ndarray,
    leads: Sequence[np.timedelta64],
    initial_time: np.datetime64,
    name: str,
) -> Figure:
    """Draw forecast, truth and error (columns) at several lead times (rows) on Robinson maps.

    Parameters
    ----------
    channel
        What the fields are, for units and colours.
    latitude, longitude
        Global grid [degrees].
    forecast, truth
        (lead, lat, lon) in stored units.
    leads, initial_time, name
        For titles.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    shown = display_of(channel)
    fields = [shown.scale * (field.astype(np.float64) + shown.offset) for field in (forecast, truth)]
    low, high = _limits(shown, np.stack(fields))
    error = fields[0] - fields[1]
    largest = float(np.nanquantile(np.abs(error), COLOUR_QUANTILE)) or 1.0
    rows = len(leads)
    total = ROW * rows + TOP + BOTTOM  # inches
    figure = Figure(figsize=(WIDTH, total), facecolor="white")
    projection = map_projection()
    images: list[Any] = [None, None]
    for row, lead in enumerate(leads):
        valid = _time_label(initial_time + lead)
        base = (BOTTOM + ROW * (rows - 1 - row)) / total
        panels = ((name, fields[0][row]), ("truth", fields[1][row]), ("error", error[row]))
        for column, (title, field) in enumerate(panels):
            axes = figure.add_axes((0.035 + column * 0.325, base, 0.31, 0.86 * ROW / total), projection=projection)
            is_error = column == 2
            limits = (-largest, largest) if is_error else (low, high)
            images[is_error] = draw_field(axes, latitude, longitude, field, limits, "RdBu_r" if is_error else shown.colours)
            if not is_error and shown.contour:
                _draw_contours(axes, latitude, longitude, field, shown.contour)
            text = (
                f"{title}, RMSE {_rmse(field, latitude):.{shown.decimals}f} {shown.units}" if is_error else f"{title}, {valid}"
            )
            axes.set_title(text, fontsize=9, pad=3)
        style: dict[str, Any] = {"rotation": 90, "fontsize": 11, "fontweight": "bold", "va": "center", "ha": "center"}
        figure.text(0.018, base + 0.43 * ROW / total, lead_label(lead), **style)
    heading = f"{title_of(channel)} [{shown.units}], forecast of {_time_label(initial_time)}"
    figure.text(0.5, 1 - 0.2 / total, heading, fontsize=12.5, ha="center", va="center")
    for left, width, image, text in ((0.15, 0.4, images[0], shown.units), (0.715, 0.22, images[1], f"error [{shown.units}]")):
        place = figure.add_axes((left, 0.40 / total, width, 0.13 / total))
        bar = figure.colorbar(image, cax=place, orientation="horizontal", extend="both", spacing="proportional")
        bar.locator = MaxNLocator(8)
        bar.update_ticks()
        bar.set_label(text, fontsize=8.5, labelpad=1)
        bar.ax.tick_params(labelsize=8)
    return figure


def _time_label(time: np.datetime64) -> str:
    return np.datetime_as_string(time, unit="h").replace("T", " ") + " UTC"


def map_projection() -> Any:
    """Robinson, on a sphere; the coastlines are looked for in the package only."""
    load_projections()
    import cartopy
    import cartopy.crs as ccrs

    cartopy.config["pre_existing_data_dir"] = str(COASTLINES)
    return ccrs.Robinson(central_longitude=0)


def load_projections() -> None:
    """Import pyproj such that it uses its own PROJ library, whatever was loaded before.

    ECMWF's eccodes (which xarray loads when it guesses a file's format, if cfgrib is installed) brings another PROJ and makes
    it visible to all; pyproj then takes half of its functions from there, and the process dies.
    """
    flags = sys.getdlopenflags()
    sys.setdlopenflags(flags | getattr(os, "RTLD_DEEPBIND", 0))
    try:
        import pyproj  # noqa: F401
    finally:
        sys.setdlopenflags(flags)


def draw_field(
    axes: Axes, latitude: np.ndarray, longitude: np.ndarray, field: np.ndarray, limits: tuple[float, float], colours: str
) -> Any:
    """Draw one global field (lat, lon) in steps of colour, with coastlines; gives what a colour bar needs."""
    from matplotlib import colormaps
    from matplotlib.colors import BoundaryNorm

    values, edges = _from_dateline(field, longitude)
    rows = np.concatenate([[90.0], (latitude[:-1] + latitude[1:]) / 2, [-90.0]])
    boundaries = _boundaries(limits)
    norm = BoundaryNorm(boundaries, colormaps[colours].N, extend="both")
    # The cell on the dateline is drawn on both sides of it, each side as far as the edge of the map.
    x, y = _project(axes, *np.meshgrid(np.append(edges, edges[0] + 360), rows))
    image = axes.pcolormesh(x, y, np.append(values, values[:, :1], axis=1), cmap=colours, norm=norm, rasterized=True)
    axes.add_feature(_coastline(), facecolor="none", edgecolor="#333333", linewidth=0.5)  # type: ignore[attr-defined]
    axes.set_global()  # type: ignore[attr-defined]
    axes.spines["geo"].set_linewidth(0.6)
    return image


@cache
def _coastline() -> Any:
    """Coastlines in map coordinates, projected once for all panels: half of a page's time otherwise."""
    import cartopy.feature as cfeature

    projection = map_projection()
    lines = cfeature.NaturalEarthFeature("physical", "coastline", "110m")
    return cfeature.ShapelyFeature([projection.project_geometry(line, lines.crs) for line in lines.geometries()], projection)


def _project(axes: Axes, longitude: np.ndarray, latitude: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Map coordinates of points from -180 to 180: what is drawn in them needs no polygon to be cut at the dateline."""
    import cartopy.crs as ccrs

    inside = np.clip(longitude, -179.999, 179.999)
    points = axes.projection.transform_points(ccrs.PlateCarree(), inside, latitude)  # type: ignore[attr-defined]
    return points[..., 0], points[..., 1]


def _boundaries(limits: tuple[float, float]) -> np.ndarray:
    """Steps of colour at round values; around zero where the limits are symmetric, so that zero has a colour of its own."""
    from matplotlib.ticker import MaxNLocator

    values = np.asarray(MaxNLocator(COLOURS).tick_values(*limits))
    if limits[0] != -limits[1]:
        return values
    step = values[1] - values[0]
    count = round(limits[1] / step)
    return step * (np.arange(-count, count + 2) - 0.5)


def _draw_contours(axes: Axes, latitude: np.ndarray, longitude: np.ndarray, field: np.ndarray, spacing: float) -> None:
    levels = np.arange(np.floor(np.nanmin(field) / spacing), np.ceil(np.nanmax(field) / spacing) + 1) * spacing
    values, edges = _from_dateline(field, longitude)
    centres = (edges[:-1] + edges[1:]) / 2
    closed = np.concatenate([centres, [centres[0] + 360]])
    ring = np.concatenate([values, values[:, :1]], axis=1)
    axes.contour(
        *_project(axes, *np.meshgrid(closed, latitude)), ring, levels=levels, colors="#222222", linewidths=0.35, alpha=0.7
    )


def _from_dateline(field: np.ndarray, longitude: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Turn columns so that they run from -180 eastward; give the edges too."""
    centred = (longitude + 180) % 360 - 180
    order = np.argsort(centred)
    spacing = 360 / longitude.size
    centres = centred[order]
    return field[:, order], np.concatenate([centres - spacing / 2, [centres[-1] + spacing / 2]])


def _limits(shown: Display, fields: np.ndarray) -> tuple[float, float]:
    return shown.limits if shown.limits is not None else colour_limits(fields, shown.symmetric)


def colour_limits(fields: np.ndarray, symmetric: bool) -> tuple[float, float]:
    """Limits of colours that leave out the most extreme points; `symmetric` about zero."""
    if symmetric:
        largest = float(np.nanquantile(np.abs(fields), COLOUR_QUANTILE)) or 1.0
        return -largest, largest
    low, high = np.nanquantile(fields, [1 - COLOUR_QUANTILE, COLOUR_QUANTILE])
    return (float(low), float(high)) if high > low else (float(low) - 1, float(low) + 1)


def _rmse(error: np.ndarray, latitude: np.ndarray) -> float:
    from data_pipelines.area import cell_area_weights

    return float(np.sqrt(np.nanmean(error**2 * cell_area_weights(latitude)[:, None])))
