import subprocess
import sys

import numpy as np
import pytest

from data_pipelines.area import cell_area_weights
from data_pipelines.forcings import (
    FORCINGS,
    SOLAR_CONSTANT,
    STATIC_FORCINGS,
    calendar_features,
    cos_zenith,
    forcing_fields,
    sun_position,
    toa_incident_solar_radiation,
)

LATITUDE = np.linspace(90, -90, 37)
LONGITUDE = np.arange(0, 360, 15.0)


def instant(text):
    return np.array([text], dtype="datetime64[ns]")


@pytest.mark.parametrize(
    ("moment", "degrees"),
    [("2024-03-20T03:06", 0.0), ("2024-06-20T20:51", 23.44), ("2024-09-22T12:44", 0.0), ("2024-12-21T09:21", -23.44)],
)
def test_declination_at_the_equinoxes_and_solstices_of_2024(moment, degrees):
    """Moments published by the U.S. Naval Observatory; the formulae are stated as good to about 1' = 0.017 degrees."""
    assert np.rad2deg(sun_position(instant(moment))[0][0]) == pytest.approx(degrees, abs=0.017)


@pytest.mark.parametrize(
    ("day", "minutes"), [("2024-02-11", -14.2), ("2024-05-14", 3.7), ("2024-07-26", -6.5), ("2024-11-03", 16.4)]
)
def test_equation_of_time_at_its_four_extremes(day, minutes):
    assert np.rad2deg(sun_position(instant(f"{day}T12"))[1][0]) * 4 == pytest.approx(minutes, abs=0.1)


def test_distance_at_perihelion_and_aphelion():
    assert sun_position(instant("2025-01-04T13:28"))[2][0] == pytest.approx(0.98333, abs=1e-4)
    assert sun_position(instant("2025-07-03T19:55"))[2][0] == pytest.approx(1.01664, abs=1e-4)


def test_sun_stands_overhead_where_declination_and_equation_of_time_put_it():
    """At 12 UTC the sun is overhead at latitude = declination, longitude = -equation of time."""
    moment = instant("2024-11-03T12")
    declination, equation_of_time, _ = sun_position(moment)
    place = np.rad2deg(declination), -np.rad2deg(equation_of_time)
    assert cos_zenith(moment, *place)[0, 0, 0] == pytest.approx(1, abs=1e-14)
    assert place[1][0] == pytest.approx(-4.1, abs=0.03)


def test_cosine_at_the_pole_is_sine_of_declination_for_every_longitude_and_hour():
    moments = np.arange("2024-06-20", "2024-06-21", np.timedelta64(6, "h"), dtype="datetime64[ns]")
    expected = np.sin(sun_position(moments)[0])
    np.testing.assert_allclose(cos_zenith(moments, [90.0], LONGITUDE)[:, 0, :], np.repeat(expected[:, None], 24, 1), atol=1e-14)


def test_cosine_moves_west_by_fifteen_degrees_an_hour():
    moments = np.array(["2024-04-15T06", "2024-04-15T07"], dtype="datetime64[ns]")
    first, second = cos_zenith(moments, LATITUDE, LONGITUDE)
    np.testing.assert_allclose(second, np.roll(first, -1, axis=-1), atol=5e-4)  # declination moves 0.015 degrees an hour


@pytest.mark.parametrize("moment", ["2024-01-01T06", "2024-03-20T18", "2024-06-21T12", "2024-10-03T00"])
@pytest.mark.parametrize("step_hours", [1.0, 6.0, 24.0])
def test_accumulated_radiation_equals_brute_force_quadrature(moment, step_hours):
    """Midpoint rule of 20 s on the instantaneous flux, sun position of every instant; kinks at sunrise are O(step^2).

    Freezing the declination at the middle of the step is what is left: below 0.1 % of the largest value.
    """
    count = int(step_hours * 180)
    end = instant(moment)
    seconds = (np.arange(count) + 0.5) * 20 - step_hours * 3600
    instants = end + (seconds * 1e9).astype("timedelta64[ns]")
    latitude, longitude = np.array([90, 66.5, 31, 0, -12, -70, -90.0]), np.array([0, 77.0, 191, 303])
    distance = sun_position(instants)[2]
    flux = SOLAR_CONSTANT * np.maximum(cos_zenith(instants, latitude, longitude), 0) / distance[:, None, None] ** 2
    expected = flux.sum(axis=0) * 20
    got = toa_incident_solar_radiation(end, latitude, longitude, step_hours=step_hours)[0]
    np.testing.assert_allclose(got, expected, atol=1e-3 * expected.max())


def test_radiation_of_steps_adds_up_to_the_radiation_of_the_day():
    hours = np.arange("2024-05-01T01", "2024-05-02T01", np.timedelta64(1, "h"), dtype="datetime64[ns]")
    total = toa_incident_solar_radiation(hours, LATITUDE, LONGITUDE, step_hours=1).sum(axis=0)
    day = toa_incident_solar_radiation(hours[-1:], LATITUDE, LONGITUDE, step_hours=24)[0]
    np.testing.assert_allclose(total, day, rtol=0, atol=2e-3 * day.max())


def test_annual_global_mean_is_a_quarter_of_the_solar_constant():
    """Kepler: the mean of 1/r^2 over an orbit is 1/sqrt(1-e^2), e = 0.0167."""
    days = np.arange("2023-01-02", "2024-01-02", dtype="datetime64[D]")
    radiation = toa_incident_solar_radiation(days, LATITUDE, [0.0], step_hours=24)[:, :, 0]
    mean = (radiation.mean(axis=0) * cell_area_weights(LATITUDE)).mean() / 86400
    # Caps and bands sample the latitudes to second order: 0.1 % at 5 degrees.
    assert mean == pytest.approx(SOLAR_CONSTANT / 4 / np.sqrt(1 - 0.0167**2), rel=2e-3)


def test_polar_night_is_exactly_dark_and_polar_day_has_its_closed_form():
    night = toa_incident_solar_radiation(instant("2024-12-21T12"), [90.0, 80.0], LONGITUDE)
    np.testing.assert_array_equal(night, 0)
    middle = instant("2024-06-21T09")
    declination, _, distance = sun_position(middle)
    expected = SOLAR_CONSTANT * 6 * 3600 * np.sin(declination) / distance**2
    np.testing.assert_allclose(
        toa_incident_solar_radiation(instant("2024-06-21T12"), [90.0], LONGITUDE)[0, 0], expected[0], rtol=1e-12
    )


def test_calendar_and_clock_turn_once_a_year_and_once_a_day():
    """Without the 2 pi (PuYun's plug-in) noon would give sin(0.5), not sin(pi) = 0."""
    moments = np.array(["2023-01-01T00", "2023-07-02T12", "2024-01-01T06", "2024-12-31T18"], dtype="datetime64[ns]")
    quarter_day = 2 * np.pi * 0.25 / 366
    sine, cosine = np.sin(quarter_day), np.cos(quarter_day)
    expected = [[0, 1, 0, 1], [0, -1, 0, -1], [sine, cosine, 1, 0], [-sine, cosine, -1, 0]]
    np.testing.assert_allclose(calendar_features(moments), expected, atol=1e-12)
    assert calendar_features(moments.reshape(2, 2)).shape == (2, 2, 4)


def test_calendar_is_continuous_over_new_year_after_a_leap_year():
    before, after = calendar_features(np.array(["2024-12-31T23:59:59", "2025-01-01T00"], dtype="datetime64[ns]"))
    np.testing.assert_allclose(before, after, atol=1e-4)


def test_fields_come_in_the_order_asked_and_of_order_one():
    static = {
        "land_sea_mask": np.random.default_rng(0).random((37, 24)),
        "geopotential_at_surface": np.full((37, 24), 9.80665 * 2500),
    }
    names = ["geopotential_at_surface", *FORCINGS, "land_sea_mask"]
    moments = np.array(["2024-01-01T06", "2024-07-01T18"], dtype="datetime64[ns]")
    fields = forcing_fields(names, moments, LATITUDE, LONGITUDE, static=static)
    assert fields.dtype == np.float32
    assert fields.shape == (2, len(names), 37, 24)
    assert np.abs(fields).max() <= 2.5 + 1e-6
    np.testing.assert_allclose(fields[:, 0], 2.5, rtol=1e-6)
    np.testing.assert_allclose(fields[1, names.index("cos_zenith")], cos_zenith(moments, LATITUDE, LONGITUDE)[1], atol=1e-7)
    np.testing.assert_allclose(fields[0, -1], static["land_sea_mask"], rtol=1e-6)
    features = calendar_features(moments)
    for index, name in enumerate(("sin_year", "cos_year", "sin_day", "cos_day")):
        np.testing.assert_allclose(fields[:, names.index(name), 3, 5], features[:, index], atol=1e-7)


def test_radiation_field_is_the_mean_flux_over_the_solar_constant():
    moments = instant("2024-03-20T12")
    for hours in (1.0, 6.0):
        share = forcing_fields(["toa_incident_solar_radiation"], moments, LATITUDE, LONGITUDE, step_hours=hours)[0, 0]
        joules = toa_incident_solar_radiation(moments, LATITUDE, LONGITUDE, step_hours=hours)[0]
        np.testing.assert_allclose(share, joules / (hours * 3600 * SOLAR_CONSTANT), rtol=1e-6)


def test_every_static_forcing_asks_for_its_field():
    for name in STATIC_FORCINGS:
        with pytest.raises(ValueError, match=rf"{name}.*was not given.*\(37, 24\)"):
            forcing_fields([name], instant("2024-01-01"), LATITUDE, LONGITUDE)


@pytest.mark.parametrize(
    ("field", "words"), [(np.zeros((24, 37)), r"got \(24, 37\)"), (np.full((37, 24), np.nan), "finite everywhere")]
)
def test_a_misshapen_or_unfinished_static_field_is_refused(field, words):
    with pytest.raises(ValueError, match=words):
        forcing_fields(["land_sea_mask"], instant("2024-01-01"), LATITUDE, LONGITUDE, static={"land_sea_mask": field})


def test_an_unknown_forcing_is_refused_with_the_nearest_name():
    with pytest.raises(ValueError, match=r"'cos_zenit' is unknown\. Did you mean 'cos_zenith'"):
        forcing_fields(["cos_zenit"], instant("2024-01-01"), LATITUDE, LONGITUDE)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((np.array([3.0]), LATITUDE, LONGITUDE), "datetime64"),
        ((np.array(["NaT"], dtype="datetime64[ns]"), LATITUDE, LONGITUDE), "NaT"),
        ((instant("2024-01-01"), LATITUDE[None], LONGITUDE), "latitude must be one-dimensional"),
        ((instant("2024-01-01"), LATITUDE, [0.0, np.nan]), "longitude must be finite"),
        ((instant("2024-01-01"), LONGITUDE, LATITUDE), "Is longitude there"),
    ],
)
def test_coordinates_that_are_none_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        cos_zenith(*arguments)


@pytest.mark.parametrize("step_hours", [0.0, -6.0, np.nan])
def test_a_step_that_is_no_length_is_refused(step_hours):
    with pytest.raises(ValueError, match="step_hours must be positive"):
        toa_incident_solar_radiation(instant("2024-01-01"), LATITUDE, LONGITUDE, step_hours=step_hours)


def test_forcings_need_neither_torch_nor_dask_nor_xarray():
    code = "import sys, data_pipelines.forcings; print([m for m in ('torch', 'dask', 'xarray') if m in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert loaded == "[]"
