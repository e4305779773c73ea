"""How fields and forecasts are shown: units that forecasters read, names, colours, lead times."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike

from data_pipelines.variables import VARIABLES, Channel


@dataclass(frozen=True)
class Display:
    """How a variable is drawn.

    Attributes
    ----------
    scale, offset
        Shown value = scale * (stored value + offset).
    units
        Units as shown.
    decimals
        Digits behind the point in tables of errors.
    colours
        Colour map of the field; errors always use one that is white at zero.
    symmetric
        Whether the field's colours are centred at zero.
    contour
        Spacing of contour lines in shown units; 0 for none.
    title
        Name in titles.
    limits
        Fixed colour limits in shown units; None: from the field.
    """

    scale: float = 1.0
    offset: float = 0.0
    units: str = ""
    decimals: int = 2
    colours: str = "viridis"
    symmetric: bool = False
    contour: float = 0.0
    title: str = ""
    limits: tuple[float, float] | None = None


DISPLAYS = MappingProxyType(
    {
        "mean_sea_level_pressure": Display(
            0.01, 0.0, "hPa", 2, "RdYlBu_r", False, 8.0, "Mean sea level pressure", (960.0, 1060.0)
        ),
        "surface_pressure": Display(0.01, 0.0, "hPa", 2, "viridis", False, 0.0, "Surface pressure"),
        "vorticity": Display(100000.0, 0.0, "10⁻⁵ s⁻¹", 2, "PuOr_r", True, 0.0, "Relative vorticity"),
        "geopotential": Display(0.1 / 9.80665, 0.0, "dam", 2, "Spectral_r", False, 8.0, "Geopotential height"),
        "temperature": Display(1.0, -273.15, "°C", 2, "RdYlBu_r", False, 5.0, "Temperature"),
        "2m_temperature": Display(1.0, -273.15, "°C", 2, "RdYlBu_r", False, 0.0, "2 m temperature"),
        "specific_humidity": Display(1000.0, 0.0, "g kg⁻¹", 2, "YlGnBu", False, 0.0, "Specific humidity"),
        "u_component_of_wind": Display(1.0, 0.0, "m s⁻¹", 2, "PuOr_r", True, 0.0, "Zonal wind"),
        "v_component_of_wind": Display(1.0, 0.0, "m s⁻¹", 2, "PuOr_r", True, 0.0, "Meridional wind"),
        "2m_dewpoint_temperature": Display(1.0, -273.15, "°C", 2, "RdYlBu_r", False, 0.0, "2 m dewpoint temperature"),
        "sea_surface_temperature": Display(1.0, -273.15, "°C", 2, "RdYlBu_r", False, 0.0, "Sea surface temperature"),
        **{
            f"total_precipitation{span}": Display(1000.0, 0.0, "mm", 2, "YlGnBu", False, 0.0, f"Precipitation{title}")
            for span, title in (("", ""), ("_6hr", " in 6 h"), ("_12hr", " in 12 h"), ("_24hr", " in 24 h"))
        },
        "10m_u_component_of_wind": Display(1.0, 0.0, "m s⁻¹", 2, "PuOr_r", True, 0.0, "10 m zonal wind"),
        "10m_v_component_of_wind": Display(1.0, 0.0, "m s⁻¹", 2, "PuOr_r", True, 0.0, "10 m meridional wind"),
    }
)

COLOURS = MappingProxyType(
    {
        "persistence": "#8c8c8c",
        "climatology": "#222222",
        "damped_persistence": "#b07aa1",
        "linear_inverse_model": "#59a14f",
        "stencil_ridge": "#e08214",
        "short": "#6baed6",
    }
)
OURS = "#08519c"
OTHERS = ("#d62728", "#17becf", "#bcbd22", "#e377c2")


def display_of(channel: Channel) -> Display:
    """Find how a variable is drawn; unknown ones as they are stored."""
    if channel.variable in DISPLAYS:
        return DISPLAYS[channel.variable]
    known = VARIABLES.get(channel.variable)
    title = channel.variable.replace("_", " ")
    return Display(units="" if known is None else known.units, title=title[:1].upper() + title[1:])


def decimals_for(least: int, values: ArrayLike) -> int:
    """Digits behind the point that show three figures of the largest of some values: `least`, or more where all are small."""
    known = np.abs(np.asarray(values, dtype=float))
    largest = known[np.isfinite(known)].max(initial=0.0)
    return least if largest == 0 else max(least, 2 - int(np.floor(np.log10(largest))))


def title_of(channel: Channel) -> str:
    """Name a channel: "Relative vorticity, 850 hPa"."""
    title = display_of(channel).title
    return title if channel.level is None else f"{title}, {channel.level} hPa"


def label_of(name: str) -> str:
    """Name a forecast or baseline in figures."""
    names = {"stencil_ridge": "ridge on 9×9 stencil", "short": "short stage alone"}
    return names.get(name, name.replace("_", " "))


def lead_label(lead: np.timedelta64 | float) -> str:
    """A lead time (timedelta64, or hours) as forecasters write it: hours up to a day, then days."""
    hours = lead / np.timedelta64(1, "h") if isinstance(lead, np.timedelta64) else float(lead)
    return f"{hours:g} h" if hours < 24 else f"{hours / 24:.3g} d"


def colours_of(names: list[str]) -> dict[str, str]:
    """One colour per forecast and baseline, the first one's the strongest."""
    free = iter(OTHERS * (1 + len(names) // len(OTHERS)))
    return {name: OURS if name == names[0] else COLOURS.get(name) or next(free) for name in names}
