"""The vocabulary: names, aliases and channels."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from data_pipelines.units import spell
from data_pipelines.variables import (
    _FRACTIONS,
    _NON_NEGATIVE,
    OCEAN_VARIABLES,
    STATIC_VARIABLES,
    VARIABLES,
    Channel,
    channels_of,
    find_variable,
    physical_bounds,
)


def test_no_name_means_two_variables_on_the_same_kind_of_level() -> None:
    for on_levels in (True, False):
        names = [n for v in VARIABLES.values() if v.on_levels == on_levels for n in (v.name, v.short_name, *v.aliases)]
        assert len(names) == len(set(names))


def test_every_variable_is_spelled_and_bounded() -> None:
    for variable in VARIABLES.values():
        assert spell(variable.units) == variable.units
        assert variable.valid_range[0] < variable.valid_range[1]
    assert set(VARIABLES) >= OCEAN_VARIABLES | STATIC_VARIABLES


def test_wind_components_and_nothing_else_change_sign_across_the_pole() -> None:
    odd = {name for name, variable in VARIABLES.items() if variable.odd_across_pole}
    assert odd == {f"{height}{c}_component_of_wind" for height in ("", "10m_", "100m_") for c in "uv"}


def test_z_is_geopotential_on_levels_and_orography_without() -> None:
    assert find_variable("z", True) is VARIABLES["geopotential"]
    assert find_variable("z", False) is VARIABLES["geopotential_at_surface"]
    assert find_variable("nonsense", True) is None


@pytest.mark.parametrize("text", ["vorticity_850", "mean_sea_level_pressure", "2m_temperature", "total_precipitation_6hr"])
def test_channel_text_survives_the_round_trip(text: str) -> None:
    assert str(Channel.parse(text)) == text


def test_soil_layer_number_is_no_level() -> None:
    assert Channel.parse("volumetric_soil_water_layer_1") == Channel("volumetric_soil_water_layer_1")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("temperature", "lacks its level"),
        ("mean_sea_level_pressure_850", "surface variable"),
        ("", "is no name"),
        ("t 850", "is no name"),
    ],
)
def test_channel_that_cannot_be_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Channel.parse(text)


def test_channels_are_variable_major_and_leave_static_fields_out() -> None:
    data = xr.Dataset(
        {
            "vorticity": (("time", "level", "latitude", "longitude"), np.zeros((1, 2, 1, 1))),
            "mean_sea_level_pressure": (("time", "latitude", "longitude"), np.zeros((1, 1, 1))),
            "land_sea_mask": (("latitude", "longitude"), np.zeros((1, 1))),
        },
        {"level": [500, 850]},
    )
    assert [str(channel) for channel in channels_of(data)] == ["vorticity_500", "vorticity_850", "mean_sea_level_pressure"]


def test_physical_bounds_are_of_known_variables_and_within_what_is_valid():
    bounded = {name: physical_bounds(name) for name in VARIABLES if physical_bounds(name) != (-np.inf, np.inf)}
    assert bounded["total_cloud_cover"] == (0, 1)
    assert bounded["total_precipitation_6hr"] == (0, np.inf)
    assert {"geopotential", "vertical_velocity", "2m_temperature", "mean_wave_direction"}.isdisjoint(bounded)
    assert len(bounded) == len(_NON_NEGATIVE | _FRACTIONS)  # a misspelt name would bound nothing
    for name, (low, high) in bounded.items():
        lowest, highest = VARIABLES[name].valid_range
        assert lowest <= low < highest <= max(high, 1.01)
    assert physical_bounds("unknown") == (-np.inf, np.inf)
