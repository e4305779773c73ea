"""Units: spelling and conversion against values anyone can check."""

from __future__ import annotations

import pytest

from data_pipelines.units import conversion, spell
from data_pipelines.variables import VARIABLES


@pytest.mark.parametrize(
    ("given", "spelled"),
    [
        ("m s**-1", "m s-1"),
        ("m/s", "m s-1"),
        ("m.s^-1", "m s-1"),
        ("m**2 s**-2", "m2 s-2"),
        ("m2/s2", "m2 s-2"),
        ("kg kg**-1", "kg kg-1"),
        ("K m**2 kg**-1 s**-1", "K m2 kg-1 s-1"),
        ("s**-1", "s-1"),
        ("1/s", "s-1"),
        ("(0 - 1)", "1"),
        ("millibars", "hPa"),
        ("gpm", "m"),
        ("C", "degC"),
        ("Degree true", "degree"),
        ("kelvin", "K"),
        (" Pa  s**-1 ", "Pa s-1"),
        ("", "1"),
        ("10 m", "10 m"),
        ("m of water equivalent", "m"),
    ],
)
def test_spelling(given: str, spelled: str) -> None:
    assert spell(given) == spelled


@pytest.mark.parametrize(
    ("variable", "units", "value", "converted"),
    [
        ("mean_sea_level_pressure", "hPa", 1013.25, 101325.0),
        ("2m_temperature", "degC", 0.0, 273.15),
        ("2m_temperature", "degF", 212.0, 373.15),
        ("geopotential", "gpm", 5500.0, 53936.575),
        ("geopotential_at_surface", "m", 100.0, 980.665),
        ("relative_humidity", "%", 50.0, 0.5),
        ("specific_humidity", "g kg**-1", 8.0, 0.008),
        ("total_precipitation", "kg m**-2", 2.0, 0.002),
        ("total_precipitation_6hr", "mm", 3.0, 0.003),
        ("10m_u_component_of_wind", "kt", 1.0, 1852 / 3600),
        ("10m_u_component_of_wind", "km/h", 36.0, 10.0),
    ],
)
def test_conversion(variable: str, units: str, value: float, converted: float) -> None:
    change = conversion(VARIABLES[variable], units)
    assert change is not None
    assert change.changes_values
    assert value * change.scale + change.offset == pytest.approx(converted, rel=1e-12)


def test_spelling_alone_changes_no_value() -> None:
    change = conversion(VARIABLES["vorticity"], "s**-1")
    assert change is not None
    assert not change.changes_values


@pytest.mark.parametrize(
    ("variable", "units"),
    [
        ("mean_sea_level_pressure", "K"),
        ("significant_height_of_total_swell", "kg m-2"),
        ("temperature", "m"),
        ("vorticity", "m2"),
    ],
)
def test_what_cannot_be_converted_says_so(variable: str, units: str) -> None:
    """Metres become geopotential and kg m-2 become metres for those variables only that mean it."""
    assert conversion(VARIABLES[variable], units) is None
