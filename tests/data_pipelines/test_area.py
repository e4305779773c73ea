import numpy as np
import pytest

from data_pipelines.area import cell_area_weights, latitude_edges

GRIDS = {
    "with poles, descending": np.linspace(90, -90, 73),
    "with poles, ascending": np.linspace(-90, 90, 121),
    "without poles": np.linspace(-87.1875, 87.1875, 32),
    "uneven": np.array([-80.0, -30.0, -10.0, 0.5, 40.0, 89.0]),
}


@pytest.mark.parametrize("latitude", GRIDS.values(), ids=GRIDS.keys())
def test_weights_have_mean_one_and_follow_the_direction_of_latitude(latitude):
    weights = cell_area_weights(latitude)
    assert weights.dtype == np.float64
    assert weights.mean() == pytest.approx(1, abs=1e-15)
    np.testing.assert_array_equal(cell_area_weights(latitude[::-1]), weights[::-1])


def test_three_rows_have_weights_computed_by_hand():
    """Edges -90, -45, 45, 90: areas 1 - sqrt(1/2), 2 sqrt(1/2), 1 - sqrt(1/2), whose mean is 2/3."""
    half = np.sqrt(0.5)
    np.testing.assert_allclose(cell_area_weights([-90, 0, 90]), np.array([1 - half, 2 * half, 1 - half]) * 1.5, rtol=1e-14)


@pytest.mark.parametrize(("rows", "polar_weight"), [(121, 0.00518), (721, 0.00086)])
def test_pole_rows_count_as_weatherbench2_counts_them(rows, polar_weight):
    """Values measured with WeatherBench 2's own function; cos(latitude) would give about 0."""
    assert cell_area_weights(np.linspace(90, -90, rows))[0] == pytest.approx(polar_weight, abs=5e-6)


def test_weights_equal_cosine_where_rows_are_even_and_off_the_poles():
    """sin(b) - sin(a) = 2 cos((a+b)/2) sin((b-a)/2): identical to cos after normalisation on the 64x32 grid."""
    latitude = np.linspace(-87.1875, 87.1875, 32)
    cosine = np.cos(np.deg2rad(latitude))
    np.testing.assert_allclose(cell_area_weights(latitude), cosine / cosine.mean(), rtol=1e-12)


def test_a_quadratic_in_sin_latitude_integrates_to_its_exact_mean():
    """The mean of sin(latitude)^2 over the sphere is 1/3; the midpoint-like rule is of second order in the step."""
    errors = []
    for rows in (46, 91, 181):
        latitude = np.linspace(90, -90, rows)
        errors.append(abs((cell_area_weights(latitude) * np.sin(np.deg2rad(latitude)) ** 2).mean() - 1 / 3))
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(4, rel=0.1)


def test_edges_end_at_the_poles_in_both_directions():
    np.testing.assert_array_equal(latitude_edges([60, 20, -40]), [90, 40, -10, -90])
    np.testing.assert_array_equal(latitude_edges([-40, 20, 60]), [-90, -10, 40, 90])


@pytest.mark.parametrize("rows", [slice(4, 30), slice(0, 30), slice(40, None)])
def test_rows_of_a_region_keep_the_areas_that_they_have_on_the_globe(rows):
    """A region's last row ends half a step further out; reaching to the pole it would outweigh all others."""
    latitude = np.linspace(90, -90, 73)
    region, globe = cell_area_weights(latitude[rows]), cell_area_weights(latitude)[rows]
    np.testing.assert_allclose(region, globe / globe.mean(), rtol=1e-10)
    np.testing.assert_allclose(cell_area_weights(latitude[rows][::-1]), region[::-1], rtol=1e-14)


@pytest.mark.parametrize(
    ("latitude", "words"),
    [
        ([[0.0, 1.0]], "one-dimensional"),
        ([10.0], "at least 2 values"),
        ([10.0, 20.0, 15.0], "strictly ascending"),
        ([10.0, np.nan, 30.0], "without NaN"),
        ([80.0, 90.5], r"in \[-90, 90\]"),
    ],
)
def test_latitudes_that_are_no_grid_are_refused(latitude, words):
    with pytest.raises(ValueError, match=words):
        cell_area_weights(latitude)
