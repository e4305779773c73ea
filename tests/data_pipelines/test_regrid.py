import dask.array
import numpy as np
import pytest
import xarray as xr

from data_pipelines.area import cell_area_weights
from data_pipelines.regrid import (
    ConservativeRegridder,
    latitude_weights,
    longitude_edges,
    longitude_weights,
    regrid_conservative,
)
from tests.helpers.analyses import make_analysis

GLOBAL = {
    "with poles": (np.linspace(90, -90, 37), np.arange(72) * 5.0),
    "coarser, with poles": (np.linspace(-90, 90, 13), np.arange(24) * 15.0),
    "coarser, without poles": (np.linspace(86.25, -86.25, 24), np.arange(40) * 9.0),
    "finer": (np.linspace(90, -90, 61), np.arange(100) * 3.6),
    "from the date line": (np.linspace(90, -90, 19), -180 + np.arange(36) * 10.0),
    "half cells off": (np.linspace(80, -80, 9), 10 + np.arange(18) * 20.0),
}


def field_on(latitude, longitude, seed=0):
    return np.random.default_rng(seed).normal(size=(latitude.size, longitude.size))


def integral(field, latitude, longitude):
    """Area mean; longitude cells of these grids are all equal."""
    return (cell_area_weights(latitude)[:, None] * field).mean()


def test_longitude_shares_computed_by_hand():
    """Quarters to halves: the half around 0 reaches from -90 to 90, over the quarter at 0 and half of two others."""
    weights = longitude_weights([0, 90, 180, 270], [0, 180]).toarray()
    np.testing.assert_allclose(weights, [[0.5, 0.25, 0, 0.25], [0, 0.25, 0.5, 0.25]], atol=1e-15)


def test_longitude_shares_do_not_depend_on_where_the_circle_is_cut():
    source, target = np.arange(0, 360, 30.0), np.arange(0, 360, 45.0)
    expected = longitude_weights(source, target).toarray()
    shifted = longitude_weights(source - 180, target - 720).toarray()
    np.testing.assert_allclose(np.roll(shifted, (0, -6), axis=(0, 1)), expected, atol=1e-15)


def test_latitude_shares_computed_by_hand():
    """Rows every 45 degrees (edges 22.5 and 67.5) to poles and equator (edges 45): areas are differences of sines."""

    def sine(degrees):
        return np.sin(np.deg2rad(degrees))

    cap = (1 - sine(67.5)) / (1 - sine(45))
    middle = sine(22.5) / sine(45)
    expected = [[cap, 1 - cap, 0, 0, 0], [0, (1 - middle) / 2, middle, (1 - middle) / 2, 0], [0, 0, 0, 1 - cap, cap]]
    got = latitude_weights([90, 45, 0, -45, -90], [90, 0, -90]).toarray()
    np.testing.assert_allclose(got, expected, atol=1e-15)
    np.testing.assert_allclose(latitude_weights([-90, -45, 0, 45, 90], [90, 0, -90]).toarray(), np.fliplr(expected), atol=1e-15)


@pytest.mark.parametrize("source", GLOBAL)
@pytest.mark.parametrize("target", GLOBAL)
def test_area_integral_is_conserved_and_constants_stay(source, target):
    regridder = ConservativeRegridder(*GLOBAL[source], *GLOBAL[target])
    field = field_on(*GLOBAL[source])
    assert integral(regridder(field), *GLOBAL[target]) == pytest.approx(integral(field, *GLOBAL[source]), abs=1e-14)
    np.testing.assert_allclose(regridder(np.full_like(field, 7.0)), 7.0, rtol=1e-14)
    assert regridder(field).min() >= field.min()
    assert regridder(field).max() <= field.max()


@pytest.mark.parametrize("name", GLOBAL)
def test_the_same_grid_gives_the_same_field(name):
    """Exactly; and coordinates rounded to float32 take no slivers of the neighbours."""
    latitude, longitude = GLOBAL[name]
    field = field_on(latitude, longitude)
    rounded = ConservativeRegridder(latitude.astype(np.float32), longitude.astype(np.float32), latitude, longitude)
    np.testing.assert_allclose(rounded(field), field, atol=2e-5)
    np.testing.assert_array_equal(ConservativeRegridder(latitude, longitude, latitude, longitude)(field), field)


# WeatherBench 2's ConservativeRegridder (commit 021c0b3, JAX in float64) on the field and grids of the test below.
WEATHERBENCH2 = [
    [None, None, None, None],
    [290.464275201, 290.767273338, 291.191575325, 290.7496883],
    [293.755952981, 298.591841848, 301.409395304, 296.434617547],
    [300.187361889, 300.251203026, 301.16009301, 299.896519431],
    [301.548284193, 297.825708517, None, None],
    [291.330464214, 290.4996883, 290.325386313, 291.017273338],
    [279.706776197, 284.373893217, 287.102339413, 282.296333504],
]


def test_values_equal_weatherbench2s_poles_and_missing_points_included():
    latitude, longitude = np.linspace(-90, 90, 19), np.arange(36) * 10.0
    phi, lam = np.deg2rad(latitude)[:, None], np.deg2rad(longitude)
    field = 280 + 20 * np.cos(phi) + 5 * np.sin(3 * phi) * np.cos(2 * lam + 0.3) + np.arange(36) / 36
    field[latitude < -75] = np.nan
    field[10:14, 5:20] = np.nan
    got = ConservativeRegridder(latitude, longitude, np.linspace(-90, 90, 7), np.arange(8) * 45.0)(field)
    np.testing.assert_allclose(got[:, :4], np.array(WEATHERBENCH2, dtype=float), rtol=1e-11)


def test_missing_points_are_left_out_of_the_mean_by_hand():
    """Both ways at once: one of four equal-area source cells of each target cell is missing."""
    field = np.array([[1.0, 2.0, 3.0, 4.0], [5.0, np.nan, 7.0, 8.0], [np.nan] * 4, [np.nan] * 4])
    regridder = ConservativeRegridder([48, 14, -14, -48], [45, 135, 225, 315], [60, -60], [90, 270])
    shares = regridder.along_latitude.toarray()[0]
    expected = [
        (shares[0] * (1 + 2) + shares[1] * 5) / (2 * shares[0] + shares[1]),
        (shares[0] * (3 + 4) + shares[1] * (7 + 8)) / (2 * shares[0] + 2 * shares[1]),
    ]
    got = regridder(field)
    np.testing.assert_allclose(got[0], expected, rtol=1e-14)
    assert np.isnan(got[1]).all()


def test_a_dataset_keeps_its_order_dtype_attributes_and_static_fields():
    analysis = make_analysis(rows=19, columns=36).assign_attrs(source="a test").assign(flag=("time", np.arange(20)))
    analysis["temperature"] = analysis["temperature"].transpose("time", "longitude", "level", "latitude")
    latitude, longitude = GLOBAL["coarser, without poles"]
    got = regrid_conservative(analysis, latitude, longitude)
    assert got["temperature"].dims == ("time", "longitude", "level", "latitude")
    assert got["temperature"].dtype == np.float32
    assert got["temperature"].attrs == analysis["temperature"].attrs
    assert got.attrs == {"source": "a test"}
    np.testing.assert_array_equal(got["flag"], analysis["flag"])
    np.testing.assert_array_equal(got["latitude"], latitude)
    regridder = ConservativeRegridder(analysis["latitude"], analysis["longitude"], latitude, longitude)
    np.testing.assert_array_equal(got["land_sea_mask"], regridder(analysis["land_sea_mask"].values))
    one = regridder(analysis["temperature"].isel(time=3).sel(level=850).transpose("latitude", "longitude").values)
    np.testing.assert_array_equal(got["temperature"].isel(time=3).sel(level=850).transpose("latitude", "longitude"), one)


def test_regridding_is_lazy_and_reads_a_chunk_once():
    analysis = make_analysis(rows=19, columns=36)
    expected = regrid_conservative(analysis, *GLOBAL["coarser, with poles"])
    got = regrid_conservative(analysis.chunk(time=4, longitude=9), *GLOBAL["coarser, with poles"])
    assert isinstance(got["temperature"].data, dask.array.Array)
    assert got["temperature"].chunks[0] == (4,) * 5
    xr.testing.assert_identical(got.compute(), expected)


@pytest.mark.parametrize("chunks", [None, {"time": 1}])
def test_directions_are_averaged_as_unit_vectors(chunks):
    latitude, longitude = np.linspace(67.5, -67.5, 4), np.arange(8) * 45.0
    degrees = np.tile([350.0, 10.0, 80.0, 100.0, 170.0, 190.0, 260.0, 280.0], (1, 4, 1)).astype(np.float32)
    dataset = xr.Dataset(
        {"mean_wave_direction": (("time", "latitude", "longitude"), degrees, {"units": "degree"})},
        {"time": [np.datetime64("2020-01-01", "ns")], "latitude": latitude, "longitude": longitude},
    )
    dataset = dataset if chunks is None else dataset.chunk(chunks)
    got = regrid_conservative(dataset, latitude, 22.5 + np.arange(4) * 90.0)["mean_wave_direction"]
    assert got.dtype == np.float32
    assert got.attrs == {"units": "degree"}
    difference = (got.values - np.array([0.0, 90.0, 180.0, 270.0]) + 180) % 360 - 180
    np.testing.assert_allclose(difference, 0, atol=1e-4)


@pytest.mark.parametrize(
    ("latitude", "longitude", "words"),
    [
        (np.linspace(75, 35, 17), np.arange(0, 360, 2.5), "source grid must cover the globe; got latitude 35 to 75"),
        (np.linspace(90, -90, 73), np.arange(0, 60, 2.5), "source grid must cover the globe; got .* longitude 0 to 57.5"),
        (np.linspace(90, -90, 73), np.arange(0, 362.5, 2.5), "must not name a meridian twice"),
        (np.linspace(90, -90, 73), np.arange(360, 0, -2.5), "longitude must be one-dimensional and strictly ascending"),
    ],
)
def test_grids_that_do_not_cover_the_globe_once_are_refused(latitude, longitude, words):
    dataset = xr.Dataset(
        {"land_sea_mask": (("latitude", "longitude"), np.zeros((latitude.size, longitude.size)))},
        {"latitude": latitude, "longitude": longitude},
    )
    with pytest.raises(ValueError, match=words):
        regrid_conservative(dataset, *GLOBAL["finer"])


def test_a_target_that_is_a_region_is_refused():
    with pytest.raises(ValueError, match="target grid must cover the globe"):
        ConservativeRegridder(*GLOBAL["finer"], np.linspace(60, 30, 7), np.arange(0, 360, 10.0))


def test_a_dataset_without_latitude_is_refused_by_name():
    with pytest.raises(ValueError, match="latitude is missing"):
        regrid_conservative(make_analysis().rename(latitude="lat"), *GLOBAL["finer"])


def test_edges_go_once_around():
    west, east = longitude_edges([0, 90, 180, 350])
    np.testing.assert_array_equal(west, [-5, 45, 135, 265])
    np.testing.assert_array_equal(east, [45, 135, 265, 355])


def test_least_share_keeps_gaps_that_weatherbench_fills() -> None:
    latitude, longitude = np.linspace(90, -90, 19), np.arange(0, 360, 10.0)
    field = np.ones((19, 36))
    field[9] = np.nan
    dataset = xr.Dataset({"2m_temperature": (("latitude", "longitude"), field)}, {"latitude": latitude, "longitude": longitude})
    coarse = np.linspace(90, -90, 10)  # its row at 10 N overlaps the missing one by a quarter
    for share, rows in ((0.0, 0), (0.7, 0), (0.8, 2), (1.0, 2)):
        regridded = regrid_conservative(dataset, coarse, longitude, least_share=share)["2m_temperature"]
        assert np.isnan(regridded).any("longitude").sum() == rows
    with pytest.raises(ValueError, match=r"least_share must lie in \[0, 1\]"):
        regrid_conservative(dataset, coarse, longitude, least_share=2.0)
