"""Units at the door: ECMWF's and everybody's spellings -> UDUNITS spelling -> the store's units.

`m s**-1`, `m/s` and `m s^-1` are one unit; `hPa` and `Pa` are two, with a factor between them. Geopotential
height in metres becomes geopotential by WMO's standard gravity, precipitation in kg m-2 becomes metres of water.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from data_pipelines.variables import Variable

STANDARD_GRAVITY = 9.80665  # m s-2, WMO: the definition of geopotential height
ZERO_CELSIUS = 273.15  # K
HIGHEST_PRESSURE_IN_HPA = 1100.0  # a level above this number must be in Pa

_WHOLE = {
    "(0 - 1)": "1",
    "(0-1)": "1",
    "0 - 1": "1",
    "0-1": "1",
    "~": "1",
    "-": "1",
    "dimensionless": "1",
    "unitless": "1",
    "fraction": "1",
    "proportion": "1",
    "numeric": "1",
    "code table": "1",
    "percent": "%",
    "degree true": "degree",
    "degrees true": "degree",
    "degree_true": "degree",
    "degrees": "degree",
    "deg": "degree",
    "radians": "radian",
    "celsius": "degC",
    "degc": "degC",
    "deg c": "degC",
    "deg_c": "degC",
    "c": "degC",
    "°c": "degC",
    "degree_celsius": "degC",
    "degrees_celsius": "degC",
    "degrees celsius": "degC",
    "degf": "degF",
    "fahrenheit": "degF",
    "m of water equivalent": "m",
    "m of water": "m",
    "mm/day": "mm day-1",
}
_SYMBOLS = {
    "kelvin": "K",
    "k": "K",
    "pascal": "Pa",
    "pascals": "Pa",
    "pa": "Pa",
    "hpa": "hPa",
    "hectopascal": "hPa",
    "hectopascals": "hPa",
    "millibar": "hPa",
    "millibars": "hPa",
    "mb": "hPa",
    "mbar": "hPa",
    "kpa": "kPa",
    "gpm": "m",
    "gpdm": "dam",
    "metre": "m",
    "metres": "m",
    "meter": "m",
    "meters": "m",
    "knot": "kt",
    "knots": "kt",
    "kts": "kt",
    "sec": "s",
    "second": "s",
    "seconds": "s",
    "hour": "h",
    "hours": "h",
    "hr": "h",
}
_FACTOR = re.compile(r"([A-Za-z%°_]+)(-?\d+)?")

# (units that came, units of the store) -> scale, offset
_CONVERSIONS: dict[tuple[str, str], tuple[float, float]] = {
    ("hPa", "Pa"): (100.0, 0.0),
    ("kPa", "Pa"): (1000.0, 0.0),
    ("degC", "K"): (1.0, ZERO_CELSIUS),
    ("degF", "K"): (5.0 / 9.0, ZERO_CELSIUS - 160.0 / 9.0),
    ("%", "1"): (0.01, 0.0),
    ("kg kg-1", "1"): (1.0, 0.0),
    ("m3 m-3", "1"): (1.0, 0.0),
    ("1", "m3 m-3"): (1.0, 0.0),
    ("1", "kg kg-1"): (1.0, 0.0),
    ("g kg-1", "kg kg-1"): (1e-3, 0.0),
    ("mm", "m"): (1e-3, 0.0),
    ("cm", "m"): (1e-2, 0.0),
    ("dam", "m"): (10.0, 0.0),
    ("km", "m"): (1e3, 0.0),
    ("km h-1", "m s-1"): (1.0 / 3.6, 0.0),
    ("kt", "m s-1"): (1852.0 / 3600.0, 0.0),
    ("hPa s-1", "Pa s-1"): (100.0, 0.0),
    ("kJ m-2", "J m-2"): (1e3, 0.0),
    ("radian", "degree"): (57.29577951308232, 0.0),
    ("degree", "radian"): (0.017453292519943295, 0.0),
    ("m2 s-2", "m2 s-2"): (1.0, 0.0),
    ("J kg-1", "m2 s-2"): (1.0, 0.0),
    ("K m2 s-1 kg-1", "K m2 kg-1 s-1"): (1.0, 0.0),
}
# Conversions that hold for some variables only, because they use what the variable is.
_GEOPOTENTIAL = {("m", "m2 s-2"): (STANDARD_GRAVITY, 0.0), ("dam", "m2 s-2"): (10.0 * STANDARD_GRAVITY, 0.0)}
_WATER = {("kg m-2", "m"): (1e-3, 0.0)}  # a column of liquid water: 1 kg m-2 is 1 mm
_BY_VARIABLE = {
    "geopotential": _GEOPOTENTIAL,
    "geopotential_at_surface": _GEOPOTENTIAL,
    "total_precipitation": _WATER,
    "total_precipitation_6hr": _WATER,
    "total_precipitation_12hr": _WATER,
    "total_precipitation_24hr": _WATER,
    "snow_depth": _WATER,
}


# Names that say a height [m], not what the store keeps [m2 s-2].
_HEIGHTS = re.compile(r"(gh|hgt|geopotential_height|zg|orog|orography)_?\d*(hPa)?")


@dataclass(frozen=True)
class Conversion:
    """new = scale * old + offset."""

    scale: float
    offset: float

    @property
    def changes_values(self) -> bool:
        """Whether numbers change, not just the spelling."""
        return self.scale != 1.0 or self.offset != 0.0


def spell(units: str) -> str:
    """Spell units as UDUNITS does: `m s**-1`, `m/s`, `m.s^-1` -> `m s-1`; `millibars` -> `hPa`; `(0 - 1)` -> `1`.

    Text that is no product of powers comes back stripped and unchanged.
    """
    text = " ".join(units.split())
    if text.lower() in _WHOLE:
        return _WHOLE[text.lower()]
    bare = text.replace("**", "").replace("^", "").replace("·", " ").replace("*", " ").replace(".", " ")
    factors: list[str] = []
    for position, part in enumerate(bare.split("/")):
        for factor in part.split():
            if factor == "1":
                continue
            match = _FACTOR.fullmatch(factor)
            if match is None:
                return text
            symbol = _SYMBOLS.get(match[1].lower(), match[1]) if match[1] not in ("Pa", "K") else match[1]
            power = int(match[2] or 1) * (-1 if position else 1)
            factors.append(symbol if power == 1 else f"{symbol}{power}")
    return " ".join(factors) or "1"


def conversion(variable: Variable, units: str) -> Conversion | None:
    """How values in `units` become values in the variable's units; None if they cannot.

    Parameters
    ----------
    variable
        What is converted: metres of geopotential height and kg m-2 of water need to know.
    units
        Any spelling.
    """
    spelled = spell(units)
    if spelled == variable.units:
        return Conversion(1.0, 0.0)
    pair = (spelled, variable.units)
    found = _BY_VARIABLE.get(variable.name, {}).get(pair) or _CONVERSIONS.get(pair)
    return None if found is None else Conversion(*found)


def usual_units(variable: Variable, source_name: str) -> str:
    """Units of a field whose file says none: those of the store, and metres where its name says that it is a height."""
    return "m" if _HEIGHTS.fullmatch(source_name) else variable.units


def to_hectopascals(levels: ArrayLike, units: str) -> NDArray[np.float64] | None:
    """Pressure levels in hPa; None if `units`, as `spell` gives them, are no pressure. Numbers above 1100 "hPa" are Pa."""
    values = np.asarray(levels, dtype=np.float64)
    if units not in ("Pa", "hPa"):
        return None
    return values / 100.0 if units == "Pa" or values.max() > HIGHEST_PRESSURE_IN_HPA else values
