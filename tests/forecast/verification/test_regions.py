"""Regions: WeatherBench 2's bounds, and errors."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from data_pipelines.area import cell_area_weights
from forecast.verification.inputs import VerificationError
from forecast.verification.regions import REGIONS, region_weights, regions_on

LATITUDE, LONGITUDE = np.linspace(90, -90, 73), np.arange(144) * 2.5


def inside(name: str) -> tuple[np.ndarray, np.ndarray]:
    mask = REGIONS[name].mask(LATITUDE, LONGITUDE).astype(bool)
    return LATITUDE[mask.any(1)], LONGITUDE[mask.any(0)]


def test_weights_sum_to_one_and_follow_cell_areas():
    weights = region_weights(list(REGIONS), LATITUDE, LONGITUDE)
    np.testing.assert_allclose(weights.sum((1, 2)), 1, rtol=1e-13)
    np.testing.assert_allclose(
        weights[0, :, 3] / weights[0, 36, 3], cell_area_weights(LATITUDE) / cell_area_weights(LATITUDE)[36]
    )


def test_bounds_are_included():
    latitude, longitude = inside("europe")
    assert (latitude.max(), latitude.min()) == (75, 35)
    assert sorted(longitude)[:2] == [0, 2.5]
    assert 347.5 in longitude
    assert 42.5 in longitude
    assert 345 not in longitude
    assert 45 not in longitude


def test_tropics_and_extra_tropics_share_their_bounds_only():
    tropics, _ = inside("tropics")
    outside, _ = inside("extra-tropics")
    assert set(tropics) & set(outside) == {20.0, -20.0}
    assert set(tropics) | set(outside) == set(LATITUDE)


def test_any_direction_of_latitude_gives_the_same_weights():
    down = region_weights(["europe"], LATITUDE, LONGITUDE)[0]
    up = region_weights(["europe"], LATITUDE[::-1], LONGITUDE)[0]
    np.testing.assert_array_equal(down, up[::-1])


def test_land_region_weights_by_fraction():
    land = xr.DataArray(np.random.default_rng(0).random((73, 144)), dims=("latitude", "longitude"))
    found = region_weights(["europe_land"], LATITUDE, LONGITUDE, land)[0]
    plain = region_weights(["europe"], LATITUDE, LONGITUDE)[0] * land.values
    np.testing.assert_allclose(found, plain / plain.sum())


def test_errors_name_the_region():
    with pytest.raises(VerificationError, match="atlantis.*known are"):
        region_weights(["atlantis"], LATITUDE, LONGITUDE)
    with pytest.raises(VerificationError, match="land_sea_mask"):
        region_weights(["europe_land"], LATITUDE, LONGITUDE)
    with pytest.raises(VerificationError, match="no point"):
        region_weights(["arctic"], np.array([10.0, 0, -10]), LONGITUDE)


def test_regions_without_a_point_are_found_out():
    assert "arctic" not in regions_on(list(REGIONS), np.array([50.0, 40, 30]), LONGITUDE)
