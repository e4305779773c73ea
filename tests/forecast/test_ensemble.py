"""Perturbed members: the covariance is the one that was asked for, pairs cancel, members depend on nothing but their names."""

import math

import numpy as np
import pytest

from data_pipelines.area import cell_area_weights
from forecast.ensemble import EnsembleConfig, perturbations
from forecast.forecaster import ForecastError
from forecast.random_fields import EARTH_RADIUS_KM, SphericalFields, matern

LATITUDE = tuple(np.linspace(90, -90, 37))
LONGITUDE = tuple(np.arange(72) * 5.0)
TIME = np.datetime64("2026-01-27T06", "ns")
CHANGE = np.random.default_rng(3).normal(0, [[[2.0]], [[500.0]]], (2, 37, 72)).astype(np.float32)


def test_matern_of_half_integer_smoothness_is_elementary():
    """nu = 1/2: exp(-r/l); nu = 3/2: (1 + a) exp(-a), a = sqrt(3) r/l (Rasmussen and Williams, 4.2.1)."""
    r = np.linspace(0, 9000, 50)
    a = math.sqrt(3) * r / 800
    np.testing.assert_allclose(matern(r, 800, 0.5), np.exp(-r / 800), rtol=1e-12)
    np.testing.assert_allclose(matern(r, 800, 1.5), (1 + a) * np.exp(-a), rtol=1e-12)


def test_the_spectrum_sums_to_the_covariance_at_every_distance():
    """Addition theorem: C(angle) = sum of (2l+1)/(4 pi) C_l P_l(cos angle). The degrees above 36 hold 0.2 % of it."""
    fields = SphericalFields(LATITUDE, LONGITUDE, 2500, 1.5)
    angle = np.linspace(0, np.pi, 40)
    weights = (2 * np.arange(fields.degree + 1) + 1) / (4 * np.pi) * fields.spectrum
    wanted = matern(2 * EARTH_RADIUS_KM * np.sin(angle / 2), 2500, 1.5)
    np.testing.assert_allclose(np.polynomial.legendre.legval(np.cos(angle), weights), wanted, atol=3e-3)


def test_fields_have_the_covariance_that_was_asked_for():
    """Over 4000 draws a covariance is known to 1/sqrt(4000) = 0.016; five times that is allowed."""
    drawer = SphericalFields(LATITUDE[::2], LONGITUDE[::2], 2500, 1.5)
    fields = drawer.draw(np.random.default_rng(0), 4000)
    latitude, longitude = np.deg2rad(LATITUDE[::2]), np.deg2rad(LONGITUDE[::2])
    for row, column in ((0, 0), (5, 3), (9, 20)):
        sample = (fields * fields[:, row, column][:, None, None]).mean(0)
        cosine = np.sin(latitude[row]) * np.sin(latitude)[:, None] + np.cos(latitude[row]) * np.cos(latitude)[:, None] * np.cos(
            longitude - longitude[column]
        )
        wanted = matern(EARTH_RADIUS_KM * np.sqrt(np.maximum(2 - 2 * cosine, 0)), 2500, 1.5)
        assert np.abs(sample - wanted).max() < 0.08


def test_the_pole_is_one_point():
    field = SphericalFields(LATITUDE, LONGITUDE, 800, 1.5).draw(np.random.default_rng(0), 1)[0]
    assert np.ptp(field[0]) < 1e-12
    assert np.ptp(field[18]) > 1


def member(number, **changes):
    return perturbations(EnsembleConfig(members=9, **changes), TIME, number, CHANGE, LATITUDE, LONGITUDE)


def test_pairs_cancel_and_the_control_is_the_analysis():
    assert not member(0).any()
    np.testing.assert_array_equal(member(3), -member(4))
    assert np.abs(member(3) - member(5)).max() > 0.1


def test_a_perturbation_is_a_share_of_the_change_of_each_channel():
    weights = cell_area_weights(np.array(LATITUDE))[:, None] / 72
    sizes = [np.sqrt((member(number) ** 2 * weights / (weights.sum() * 72)).sum((1, 2))) for number in range(1, 41, 2)]
    np.testing.assert_allclose(np.mean(sizes, 0), [0.3 * 2, 0.3 * 500], rtol=0.1)


def test_draws_depend_on_seed_time_and_member_only():
    np.testing.assert_array_equal(member(1), member(1))
    assert not np.array_equal(member(1), member(1, seed=1))
    later = perturbations(EnsembleConfig(members=9), TIME + np.timedelta64(6, "h"), 1, CHANGE, LATITUDE, LONGITUDE)
    assert not np.array_equal(member(1), later)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"members": -1}, "ensemble.members must not be negative; got -1"),
        ({"amplitude": 0.0}, "ensemble.amplitude must be above 0; got 0.0"),
        ({"seed": -1}, "ensemble.seed must not be negative"),
    ],
)
def test_an_ensemble_that_makes_no_sense_is_refused(changes, what):
    with pytest.raises(ForecastError, match=what):
        EnsembleConfig(**changes)


def test_a_field_without_length_is_refused():
    with pytest.raises(ValueError, match="length_km and smoothness must be above 0; got 0 and 1.5"):
        SphericalFields(LATITUDE, LONGITUDE, 0, 1.5)
