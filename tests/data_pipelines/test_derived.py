import dask.array
import numpy as np
import pytest
import xarray as xr

from data_pipelines.area import cell_area_weights
from data_pipelines.derived import (
    DERIVATIONS,
    EARTH_RADIUS,
    derive,
    geopotential_to_height,
    height_to_geopotential,
    relative_humidity,
    saturation_pressure,
    vorticity,
    wind_speed,
)
from data_pipelines.variables import VARIABLES


def on_grid(values, latitude, longitude):
    shape = (latitude.size, longitude.size)
    return xr.DataArray(
        np.broadcast_to(values, shape).copy(), {"latitude": latitude, "longitude": longitude}, ("latitude", "longitude")
    )


def angles(latitude, longitude):
    return np.deg2rad(latitude)[:, None], np.deg2rad(longitude)[None, :]


def solid_rotation(latitude, longitude, speed=40.0):
    phi, _ = angles(latitude, longitude)
    return on_grid(speed * np.cos(phi), latitude, longitude), on_grid(0.0, latitude, longitude)


LONGITUDE = np.arange(12) * 30.0
ROWS = {
    "poles, descending": np.linspace(90, -90, 19),
    "poles, ascending": np.linspace(-90, 90, 19),
    "no poles": np.linspace(-85, 85, 18),
    "uneven": np.array([88.0, 70, 55, 30, 10, -5, -40, -62, -90]),
}


@pytest.mark.parametrize("latitude", ROWS.values(), ids=ROWS.keys())
def test_solid_rotation_has_vorticity_two_u_sine_over_radius(latitude):
    """To second order in the widest spacing; a pole has the mean over its cap, U (1 + sin(next row)) / a, exactly."""
    u, v = solid_rotation(latitude, LONGITUDE)
    got = vorticity(u, v).values
    widest = np.deg2rad(np.abs(np.diff(latitude)).max())
    expected = np.repeat(80 * np.sin(np.deg2rad(latitude))[:, None] / EARTH_RADIUS, 12, 1)
    np.testing.assert_allclose(got, expected, atol=40 / EARTH_RADIUS * widest**2 / 2)
    for end, neighbour in ((0, 1), (-1, -2)):
        if abs(latitude[end]) == 90:
            inner = np.sin(np.deg2rad(abs(latitude[neighbour])))
            np.testing.assert_allclose(got[end], np.sign(latitude[end]) * 40 * (1 + inner) / EARTH_RADIUS, rtol=1e-12)


def harmonic_flow(rows, columns):
    """psi = a U [P_3^1 and P_2^2 parts], whose Laplacian is -n(n+1)/a^2 times each (n = 3, 2): flow over the poles, too."""
    latitude, longitude = np.linspace(90, -90, rows), np.arange(columns) * 360 / columns
    phi, lam = angles(latitude, longitude)
    s, c, speed = np.sin(phi), np.cos(phi), 30.0
    third, second = c * (5 * s**2 - 1) * np.cos(lam), c**2 * np.sin(2 * lam + 0.5)
    zeta = -speed * (12 * third + 6 * second) / EARTH_RADIUS
    third_north = (-s * (5 * s**2 - 1) + 10 * s * c**2) * np.cos(lam)
    second_north = -2 * s * c * np.sin(2 * lam + 0.5)
    u = -speed * (third_north + second_north)
    v = speed * (-(5 * s**2 - 1) * np.sin(lam) + 2 * c * np.cos(2 * lam + 0.5))
    return on_grid(u, latitude, longitude), on_grid(v, latitude, longitude), zeta


def test_vorticity_error_falls_at_second_order_poles_included():
    errors, polar = [], []
    for factor in (1, 2, 4):
        u, v, zeta = harmonic_flow(18 * factor + 1, 36 * factor)
        error = np.abs(vorticity(u, v).values - zeta)
        errors.append(error.max())
        polar.append(error[[0, -1]].max())
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.2)
    assert errors[1] / errors[2] == pytest.approx(4, rel=0.2)
    assert max(polar) < 1e-19  # the flow has no circulation around the poles, and the ring mean sees none


def test_vorticity_is_one_value_at_each_pole_and_wraps_around_the_globe():
    u, v, _ = harmonic_flow(19, 36)
    zeta = vorticity(u, v)
    for row in (0, -1):
        assert np.ptp(zeta.values[row]) == 0
    turned = vorticity(u.roll(longitude=7), v.roll(longitude=7))
    np.testing.assert_allclose(turned, zeta.roll(longitude=7), atol=1e-18)


def test_vorticity_without_pole_rows_converges_too():
    errors = []
    for rows in (18, 36, 72):
        latitude, longitude = np.linspace(90 - 90 / rows, -90 + 90 / rows, rows), np.arange(2 * rows) * 180 / rows
        phi, _ = angles(latitude, longitude)
        u = on_grid(30 * np.cos(phi) * np.sin(phi) ** 2, latitude, longitude)
        s = np.sin(phi)
        expected = 30 * (4 * s**3 - 2 * s) / EARTH_RADIUS  # -d[(1 - m^2) m^2]/dm / a with m = sin(latitude)
        errors.append(np.abs(vorticity(u, u * 0).values - expected).max())
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.3)
    assert errors[1] / errors[2] == pytest.approx(4, rel=0.3)


def test_total_vorticity_of_the_globe_vanishes():
    """Stokes on a closed surface; to second order."""
    u, v, _ = harmonic_flow(73, 144)
    zeta = vorticity(u + 20, v).values
    total = (cell_area_weights(u["latitude"].values)[:, None] * zeta).mean()
    assert abs(total) < 1e-3 * np.abs(zeta).mean()


def test_vorticity_is_lazy_and_keeps_dtype_and_dims():
    u, v, _ = harmonic_flow(19, 36)
    stack = xr.concat([u, 2 * u, 3 * u], "time").astype(np.float32), xr.concat([v, 2 * v, 3 * v], "time").astype(np.float32)
    expected = vorticity(*stack)
    lazy = vorticity(*(wind.chunk(time=1, longitude=6) for wind in stack))
    assert isinstance(lazy.data, dask.array.Array)
    assert lazy.dtype == np.float32
    assert lazy.dims == ("time", "latitude", "longitude")
    assert lazy.attrs["units"] == "s-1"
    np.testing.assert_array_equal(lazy, expected)
    np.testing.assert_allclose(expected[2], 3 * expected[0], rtol=1e-5, atol=1e-9)


def test_uneven_longitudes_and_two_rows_are_refused():
    u, v = solid_rotation(np.linspace(90, -90, 19), LONGITUDE)
    with pytest.raises(ValueError, match="longitude must be even around the globe"):
        vorticity(u.isel(longitude=slice(0, 6)), v.isel(longitude=slice(0, 6)))
    with pytest.raises(ValueError, match="at least 3 rows"):
        vorticity(u.isel(latitude=[0, 9]), v.isel(latitude=[0, 9]))


def test_wind_speed_of_three_and_four_is_five():
    speed = wind_speed(xr.DataArray([3.0, -5.0]), xr.DataArray([-4.0, 12.0]))
    np.testing.assert_array_equal(speed, [5, 13])
    assert speed.attrs["units"] == "m s-1"


@pytest.mark.parametrize(
    ("kelvin", "pascal"),
    [
        (300.0, 611.21 * np.exp(17.502 * 26.84 / 267.81)),  # 3532 Pa; Smithsonian tables 3537
        (273.16, 611.21),
        (250.16, 611.21 * np.exp(22.587 * -23 / 250.86)),
        (233.15, 611.21 * np.exp(22.587 * -40.01 / 233.85)),  # 12.8 Pa; Smithsonian tables 12.84 over ice
        (261.66, 0.25 * 611.21 * np.exp(17.502 * -11.5 / 229.47) + 0.75 * 611.21 * np.exp(22.587 * -11.5 / 262.36)),
    ],
)
def test_saturation_over_water_ice_and_between_by_hand(kelvin, pascal):
    """Half way between 250.16 and 273.16 K a quarter counts as water."""
    assert float(saturation_pressure(xr.DataArray(kelvin))) == pytest.approx(pascal, rel=1e-12)


def test_relative_humidity_by_hand_and_at_saturation():
    """1000 hPa, 300 K, 10 g/kg: e = 1e5 x 0.01 / (0.62198 + 0.37802 x 0.01) = 1598 Pa of 3532."""
    temperature = xr.DataArray([300.0])
    epsilon = 287.0597 / 461.525
    vapour = 1e5 * 0.01 / (epsilon + (1 - epsilon) * 0.01)
    got = relative_humidity(xr.DataArray([0.01]), temperature, xr.DataArray(1e5))
    assert float(got[0]) == pytest.approx(vapour / (611.21 * np.exp(17.502 * 26.84 / 267.81)), rel=1e-12)
    assert float(got[0]) == pytest.approx(0.4525, abs=1e-3)
    saturated = saturation_pressure(temperature)
    humidity = epsilon * saturated / (1e5 - (1 - epsilon) * saturated)  # the other way round
    assert float(relative_humidity(humidity, temperature, xr.DataArray(1e5))[0]) == pytest.approx(1, rel=1e-12)


def test_height_and_geopotential_are_inverse():
    height = geopotential_to_height(xr.DataArray([9.80665, 49033.25], attrs={"units": "m2 s-2"}))
    np.testing.assert_allclose(height, [1, 5000], rtol=1e-15)
    assert height.attrs["units"] == "m"
    geopotential = height_to_geopotential(height)
    np.testing.assert_allclose(geopotential, [9.80665, 49033.25], rtol=1e-15)
    assert geopotential.attrs["units"] == "m2 s-2"


def winds():
    rng = np.random.default_rng(0)
    latitude, longitude = np.linspace(90, -90, 7), np.arange(8) * 45.0
    dims = ("time", "level", "latitude", "longitude")
    names = {"u_component_of_wind": 10, "v_component_of_wind": 5, "temperature": 5, "specific_humidity": 1e-4}
    fields = {name: (dims, rng.normal(size=(2, 3, 7, 8)).astype(np.float32) * scale) for name, scale in names.items()}
    fields["temperature"] = (dims, 270 + fields["temperature"][1])
    fields["specific_humidity"] = (dims, np.abs(fields["specific_humidity"][1]))
    fields["10m_u_component_of_wind"] = (("time", "latitude", "longitude"), fields["u_component_of_wind"][1][:, 0])
    fields["10m_v_component_of_wind"] = (("time", "latitude", "longitude"), fields["v_component_of_wind"][1][:, 0])
    coords = {
        "time": np.array(["2020-01-01", "2020-01-02"], "datetime64[ns]"),
        "level": np.array([250, 500, 850], np.int32),
        "latitude": latitude,
        "longitude": longitude,
    }
    return xr.Dataset(fields, coords)


def test_derive_adds_every_variable_in_the_stores_terms():
    dataset = winds()
    got = derive(dataset, list(DERIVATIONS))
    for name in DERIVATIONS:
        assert got[name].attrs["units"] == VARIABLES[name].units
        assert got[name].dtype == np.float32, name
        assert got[name].dims == (
            dataset["temperature"].dims if VARIABLES[name].on_levels else ("time", "latitude", "longitude")
        )
    assert got["10m_wind_speed"].attrs["short_name"] == "si10"
    at_850 = dataset.sel(level=850)
    expected = relative_humidity(at_850["specific_humidity"], at_850["temperature"], xr.DataArray(85000.0))
    np.testing.assert_allclose(got["relative_humidity"].sel(level=850), expected, rtol=1e-5)
    np.testing.assert_array_equal(got["vorticity"], vorticity(dataset["u_component_of_wind"], dataset["v_component_of_wind"]))


def test_derive_keeps_what_is_there():
    dataset = winds().assign(vorticity=lambda d: d["temperature"])
    xr.testing.assert_identical(derive(dataset, ["vorticity"]), dataset)


def test_what_cannot_be_derived_is_refused_by_name():
    with pytest.raises(ValueError, match="'divergence' cannot be derived; known are wind_speed"):
        derive(winds(), ["divergence"])
    with pytest.raises(ValueError, match="'vorticity' needs .*; v_component_of_wind is missing: the dataset has"):
        derive(winds().drop_vars("v_component_of_wind"), ["vorticity"])
