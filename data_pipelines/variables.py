"""The vocabulary of the project: every variable by its WeatherBench 2 name, with units, range and aliases.

Names are WeatherBench 2's long names, units are spelled as UDUNITS reads them. A source's own names
(`t2m`, `VAR_2T`, `air_temperature`) live in `aliases` and are used at the door only; nobody renames after that.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import xarray as xr


@dataclass(frozen=True)
class Variable:
    """What is known of one variable before any of its values is read.

    Attributes
    ----------
    name
        WeatherBench 2 long name.
    short_name
        ECMWF short name.
    standard_name
        CF standard name, or None where CF has none.
    units
        Units in the analysis store, UDUNITS spelling (`"m s-1"`, never `"m s**-1"`).
    on_levels
        Whether the variable has the dimension `level` (pressure in hPa).
    valid_range
        Lowest and highest value, in `units`, that Earth's atmosphere or ocean could show. Values outside are
        an error of units or of the file, not of the weather: the bounds are wide on purpose.
    aliases
        Other names under which files carry the variable.
    odd_across_pole
        True for the components of a vector along longitude or latitude: their sign flips when a
        meridian is followed across a pole.
    odd_across_equator
        True for what changes its sign when the globe is mirrored at the equator: components of a vector along latitude, and
        what turns about the vertical.
    accumulation_hours
        Hours over which the value was accumulated before its valid time; 0 for an instant value, None
        where only the source can tell.
    """

    name: str
    short_name: str
    standard_name: str | None
    units: str
    on_levels: bool
    valid_range: tuple[float, float]
    aliases: tuple[str, ...] = ()
    odd_across_pole: bool = False
    odd_across_equator: bool = False
    accumulation_hours: int | None = 0


_LEVELS = True
_SURFACE = False

# fmt: off
_TABLE: tuple[Variable, ...] = (
    # On pressure levels.
    Variable("geopotential", "z", "geopotential", "m2 s-2", _LEVELS, (-2e4, 9e5), ("gh", "hgt", "geopotential_height", "zg")),
    Variable("temperature", "t", "air_temperature", "K", _LEVELS, (120.0, 370.0), ("ta", "air_temperature")),
    Variable("u_component_of_wind", "u", "eastward_wind", "m s-1", _LEVELS, (-250.0, 250.0),
             ("ua", "eastward_wind", "uwnd"), odd_across_pole=True),
    Variable("v_component_of_wind", "v", "northward_wind", "m s-1", _LEVELS, (-250.0, 250.0),
             ("va", "northward_wind", "vwnd"), odd_across_pole=True, odd_across_equator=True),
    Variable("specific_humidity", "q", "specific_humidity", "kg kg-1", _LEVELS, (-1e-3, 0.1), ("hus",)),
    Variable("relative_humidity", "r", "relative_humidity", "1", _LEVELS, (-0.5, 2.5), ("hur",)),
    Variable("vertical_velocity", "w", "lagrangian_tendency_of_air_pressure", "Pa s-1", _LEVELS, (-150.0, 150.0),
             ("wap", "omega", "lagrangian_tendency_of_air_pressure")),
    Variable("vorticity", "vo", "atmosphere_relative_vorticity", "s-1", _LEVELS, (-0.02, 0.02),
             ("relative_vorticity", "atmosphere_relative_vorticity", "absv_relative"), odd_across_equator=True),
    Variable("divergence", "d", "divergence_of_wind", "s-1", _LEVELS, (-0.02, 0.02), ("divergence_of_wind",)),
    Variable("potential_vorticity", "pv", "ertel_potential_vorticity", "K m2 kg-1 s-1", _LEVELS, (-0.1, 0.1),
             ("ertel_potential_vorticity",), odd_across_equator=True),
    Variable("wind_speed", "ws", "wind_speed", "m s-1", _LEVELS, (0.0, 350.0)),
    Variable("fraction_of_cloud_cover", "cc", "cloud_area_fraction_in_atmosphere_layer", "1", _LEVELS, (-0.01, 1.01),
             ("cloud_area_fraction_in_atmosphere_layer",)),
    Variable("specific_cloud_ice_water_content", "ciwc", None, "kg kg-1", _LEVELS, (-1e-4, 0.05)),
    Variable("specific_cloud_liquid_water_content", "clwc", None, "kg kg-1", _LEVELS, (-1e-4, 0.05)),
    Variable("specific_rain_water_content", "crwc", None, "kg kg-1", _LEVELS, (-1e-4, 0.05)),
    Variable("specific_snow_water_content", "cswc", None, "kg kg-1", _LEVELS, (-1e-4, 0.05)),
    Variable("ozone_mass_mixing_ratio", "o3", "mass_fraction_of_ozone_in_air", "kg kg-1", _LEVELS, (-1e-5, 1e-3),
             ("mass_fraction_of_ozone_in_air",)),
    # Near the surface.
    Variable("2m_temperature", "t2m", "air_temperature", "K", _SURFACE, (150.0, 350.0), ("2t", "VAR_2T", "tas", "t2")),
    Variable("2m_dewpoint_temperature", "d2m", "dew_point_temperature", "K", _SURFACE, (120.0, 330.0), ("2d", "VAR_2D")),
    Variable("10m_u_component_of_wind", "u10", "eastward_wind", "m s-1", _SURFACE, (-150.0, 150.0),
             ("10u", "VAR_10U", "uas"), odd_across_pole=True),
    Variable("10m_v_component_of_wind", "v10", "northward_wind", "m s-1", _SURFACE, (-150.0, 150.0),
             ("10v", "VAR_10V", "vas"), odd_across_pole=True, odd_across_equator=True),
    Variable("10m_wind_speed", "si10", "wind_speed", "m s-1", _SURFACE, (0.0, 200.0), ("10si", "ws10", "sfcWind")),
    Variable("100m_u_component_of_wind", "u100", "eastward_wind", "m s-1", _SURFACE, (-200.0, 200.0),
             ("100u", "VAR_100U"), odd_across_pole=True),
    Variable("100m_v_component_of_wind", "v100", "northward_wind", "m s-1", _SURFACE, (-200.0, 200.0),
             ("100v", "VAR_100V"), odd_across_pole=True, odd_across_equator=True),
    Variable("mean_sea_level_pressure", "msl", "air_pressure_at_mean_sea_level", "Pa", _SURFACE, (8.5e4, 1.1e5),
             ("mslp", "psl", "prmsl", "air_pressure_at_mean_sea_level", "air_pressure_at_sea_level")),
    Variable("surface_pressure", "sp", "surface_air_pressure", "Pa", _SURFACE, (4e4, 1.1e5), ("ps", "surface_air_pressure")),
    Variable("sea_surface_temperature", "sst", "sea_surface_temperature", "K", _SURFACE, (260.0, 320.0), ("tos",)),
    Variable("sea_ice_cover", "siconc", "sea_ice_area_fraction", "1", _SURFACE, (-0.01, 1.01), ("ci", "sea_ice_area_fraction")),
    Variable("skin_temperature", "skt", "surface_temperature", "K", _SURFACE, (150.0, 360.0)),
    Variable("snow_depth", "sd", "lwe_thickness_of_surface_snow_amount", "m", _SURFACE, (-1e-3, 30.0)),
    Variable("total_cloud_cover", "tcc", "cloud_area_fraction", "1", _SURFACE, (-0.01, 1.01), ("clt",)),
    Variable("total_column_water_vapour", "tcwv", "lwe_thickness_of_atmosphere_mass_content_of_water_vapor", "kg m-2",
             _SURFACE, (-1.0, 120.0), ("total_column_vertically_integrated_water_vapour",)),
    Variable("total_column_water", "tcw", None, "kg m-2", _SURFACE, (-1.0, 150.0)),
    Variable("boundary_layer_height", "blh", "atmosphere_boundary_layer_thickness", "m", _SURFACE, (0.0, 1.2e4)),
    Variable("volumetric_soil_water_layer_1", "swvl1", None, "m3 m-3", _SURFACE, (-0.1, 1.0)),
    Variable("volumetric_soil_water_layer_2", "swvl2", None, "m3 m-3", _SURFACE, (-0.1, 1.0)),
    Variable("volumetric_soil_water_layer_3", "swvl3", None, "m3 m-3", _SURFACE, (-0.1, 1.0)),
    Variable("volumetric_soil_water_layer_4", "swvl4", None, "m3 m-3", _SURFACE, (-0.1, 1.0)),
    # Accumulated before the valid time.
    Variable("total_precipitation", "tp", None, "m", _SURFACE, (-1e-4, 3.0), accumulation_hours=None),
    Variable("total_precipitation_6hr", "tp6", None, "m", _SURFACE, (-1e-4, 2.0), accumulation_hours=6),
    Variable("total_precipitation_12hr", "tp12", None, "m", _SURFACE, (-1e-4, 2.5), accumulation_hours=12),
    Variable("total_precipitation_24hr", "tp24", None, "m", _SURFACE, (-1e-4, 3.0), accumulation_hours=24),
    Variable("toa_incident_solar_radiation", "tisr", None, "J m-2", _SURFACE, (-1.0, 1.5e8), accumulation_hours=None),
    Variable("toa_incident_solar_radiation_6hr", "tisr6", None, "J m-2", _SURFACE, (-1.0, 3.5e7), accumulation_hours=6),
    Variable("toa_incident_solar_radiation_12hr", "tisr12", None, "J m-2", _SURFACE, (-1.0, 7e7), accumulation_hours=12),
    Variable("toa_incident_solar_radiation_24hr", "tisr24", None, "J m-2", _SURFACE, (-1.0, 1.5e8), accumulation_hours=24),
    # Ocean waves; directions are where the waves come from.
    Variable("significant_height_of_combined_wind_waves_and_swell", "swh", "sea_surface_wave_significant_height", "m",
             _SURFACE, (0.0, 30.0), ("hs", "sea_surface_wave_significant_height")),
    Variable("significant_height_of_wind_waves", "shww", "sea_surface_wind_wave_significant_height", "m",
             _SURFACE, (0.0, 30.0)),
    Variable("significant_height_of_total_swell", "shts", "sea_surface_swell_wave_significant_height", "m",
             _SURFACE, (0.0, 30.0)),
    Variable("mean_wave_period", "mwp", "sea_surface_wave_mean_period", "s", _SURFACE, (0.0, 40.0)),
    Variable("peak_wave_period", "pp1d", "sea_surface_wave_period_at_variance_spectral_density_maximum", "s",
             _SURFACE, (0.0, 40.0)),
    Variable("mean_wave_direction", "mwd", "sea_surface_wave_from_direction", "degree", _SURFACE, (0.0, 360.0)),
    Variable("model_bathymetry", "wmb", "sea_floor_depth_below_sea_surface", "m", _SURFACE, (-500.0, 1.2e4)),
    # Static.
    Variable("geopotential_at_surface", "z_surface", "surface_geopotential", "m2 s-2", _SURFACE, (-1e4, 9e4),
             ("orography", "orog", "surface_geopotential")),
    Variable("land_sea_mask", "lsm", "land_binary_mask", "1", _SURFACE, (-0.01, 1.01), ("land_binary_mask", "sftlf")),
    Variable("lake_cover", "cl", None, "1", _SURFACE, (-0.01, 1.01)),
    Variable("lake_depth", "dl", None, "m", _SURFACE, (0.0, 2e3)),
    Variable("soil_type", "slt", None, "1", _SURFACE, (0.0, 20.0)),
    Variable("standard_deviation_of_orography", "sdor", None, "m", _SURFACE, (0.0, 2e3)),
    Variable("slope_of_sub_gridscale_orography", "slor", None, "1", _SURFACE, (0.0, 1.0)),
    Variable("angle_of_sub_gridscale_orography", "anor", None, "radian", _SURFACE, (-3.2, 3.2)),
    Variable("anisotropy_of_sub_gridscale_orography", "isor", None, "1", _SURFACE, (0.0, 1.0)),
    Variable("high_vegetation_cover", "cvh", None, "1", _SURFACE, (-0.01, 1.01)),
    Variable("low_vegetation_cover", "cvl", None, "1", _SURFACE, (-0.01, 1.01)),
    Variable("type_of_high_vegetation", "tvh", None, "1", _SURFACE, (0.0, 20.0)),
    Variable("type_of_low_vegetation", "tvl", None, "1", _SURFACE, (0.0, 20.0)),
)
# fmt: on

VARIABLES: Mapping[str, Variable] = MappingProxyType({variable.name: variable for variable in _TABLE})
_CANONICAL_ORDER = {name: position for position, name in enumerate(VARIABLES)}

# Variables whose values are sums over hours: rain and radiation.
ACCUMULATED = frozenset(name for name, variable in VARIABLES.items() if variable.accumulation_hours != 0)

# Pressure levels [hPa] of WeatherBench 2's headline data (Rasp et al. 2024, doi:10.1029/2023MS004019) and of PuYun.
THIRTEEN_LEVELS = (50, 100, 150, 200, 250, 300, 400, 500, 600, 700, 850, 925, 1000)

# Variables that no atmosphere changes: they may lack the dimension `time`.
STATIC_VARIABLES = frozenset(
    {
        "geopotential_at_surface",
        "land_sea_mask",
        "lake_cover",
        "lake_depth",
        "soil_type",
        "standard_deviation_of_orography",
        "slope_of_sub_gridscale_orography",
        "angle_of_sub_gridscale_orography",
        "anisotropy_of_sub_gridscale_orography",
        "high_vegetation_cover",
        "low_vegetation_cover",
        "type_of_high_vegetation",
        "type_of_low_vegetation",
        "model_bathymetry",
    }
)

# Variables of the ocean: missing over land (and, for waves, under sea ice), which is no defect.
OCEAN_VARIABLES = frozenset(
    {
        "sea_surface_temperature",
        "sea_ice_cover",
        "significant_height_of_combined_wind_waves_and_swell",
        "significant_height_of_wind_waves",
        "significant_height_of_total_swell",
        "mean_wave_period",
        "peak_wave_period",
        "mean_wave_direction",
        "model_bathymetry",
    }
)

# What cannot be negative, and what is a part of a whole: analyses hold such values exactly, networks overshoot them.
_NON_NEGATIVE = ACCUMULATED | frozenset(
    {
        "specific_humidity",
        "relative_humidity",
        "wind_speed",
        "specific_cloud_ice_water_content",
        "specific_cloud_liquid_water_content",
        "specific_rain_water_content",
        "specific_snow_water_content",
        "ozone_mass_mixing_ratio",
        "10m_wind_speed",
        "snow_depth",
        "total_column_water_vapour",
        "total_column_water",
        "boundary_layer_height",
        "volumetric_soil_water_layer_1",
        "volumetric_soil_water_layer_2",
        "volumetric_soil_water_layer_3",
        "volumetric_soil_water_layer_4",
        "significant_height_of_combined_wind_waves_and_swell",
        "significant_height_of_wind_waves",
        "significant_height_of_total_swell",
        "mean_wave_period",
        "peak_wave_period",
    }
)
_FRACTIONS = frozenset({"fraction_of_cloud_cover", "total_cloud_cover", "sea_ice_cover"})

# The same name means another variable without a level.
_ON_SURFACE = {
    "z": "geopotential_at_surface",
    "geopotential": "geopotential_at_surface",
    "air_temperature": "2m_temperature",
}


def _index(on_levels: bool) -> dict[str, str]:
    index: dict[str, str] = {}
    for variable in _TABLE:
        if variable.on_levels == on_levels:
            for name in (variable.name, variable.short_name, *variable.aliases):
                index[name] = variable.name
    return index


_LEVEL_INDEX = _index(_LEVELS)
_SURFACE_INDEX = _index(_SURFACE) | _ON_SURFACE


def find_variable(name: str, on_levels: bool) -> Variable | None:
    """The variable that a file calls `name`, or None if the name is not in the vocabulary.

    Parameters
    ----------
    name
        Any name: WeatherBench 2's, ECMWF's short name, or an alias.
    on_levels
        Whether the file gives it on pressure levels: `z` without levels is the surface's geopotential.
    """
    index = _LEVEL_INDEX if on_levels else _SURFACE_INDEX
    found = index.get(name)
    return None if found is None else VARIABLES[found]


def physical_bounds(name: str) -> tuple[float, float]:
    """Lowest and highest value that a variable can have by what it is: rain is not negative, cloud covers no more than all.

    Narrower than `Variable.valid_range`, which tells wrong units, and infinite where the definition sets no bound.
    """
    if name in _FRACTIONS:
        return 0.0, 1.0
    return (0.0 if name in _NON_NEGATIVE else float("-inf")), float("inf")


def canonical_order(names: Iterable[str]) -> list[str]:
    """Names in the order of the vocabulary (levels first), unknown ones last in alphabetical order."""
    return sorted(names, key=lambda name: (_CANONICAL_ORDER.get(name, len(_CANONICAL_ORDER)), name))


_LEVEL_SUFFIX = re.compile(r"(?P<variable>.+)_(?P<level>\d+)")


@dataclass(frozen=True, order=False)
class Channel:
    """One two-dimensional field of a state: a variable, at a level [hPa] where it has levels."""

    variable: str
    level: int | None = None

    def __str__(self) -> str:
        return self.variable if self.level is None else f"{self.variable}_{self.level}"

    @classmethod
    def parse(cls, text: str) -> Channel:
        """Read `"vorticity_850"` or `"mean_sea_level_pressure"`.

        Raises
        ------
        ValueError
            If the text is empty, gives a variable on levels without its level, or a surface variable with one.
        """
        if text in VARIABLES:
            if VARIABLES[text].on_levels:
                raise ValueError(f"channel {text!r} lacks its level: {text} lies on pressure levels; write e.g. {text}_850.")
            return cls(text)
        match = _LEVEL_SUFFIX.fullmatch(text)
        if match is None:
            if not text.isidentifier() and not text.replace("_", "a").isalnum():
                raise ValueError(f"channel {text!r} is no name; write e.g. vorticity_850 or mean_sea_level_pressure.")
            return cls(text)
        variable = match["variable"]
        if variable in VARIABLES and not VARIABLES[variable].on_levels:
            raise ValueError(f"channel {text!r} has a level, but {variable} is a surface variable; write {variable}.")
        return cls(variable, int(match["level"]))


def channels_of(dataset: xr.Dataset) -> tuple[Channel, ...]:
    """The channels of a dataset that varies in time: variable-major, levels in stored order.

    Variables without the dimension `time` (land-sea mask, orography) are no channels.
    """
    channels: list[Channel] = []
    for name, field in dataset.data_vars.items():
        if "time" not in field.dims:
            continue
        if "level" in field.dims:
            channels += [Channel(str(name), int(level)) for level in dataset["level"].values]
        else:
            channels.append(Channel(str(name)))
    return tuple(channels)
