"""Parseval for even and odd numbers of longitudes, and one wave by hand."""

from __future__ import annotations

import numpy as np
import pytest

from forecast.verification.spectra import EARTH_RADIUS, band_spectrum, zonal_energy_spectrum

LATITUDE = np.array([60.0, 30.0, 0.0, -45.0])


@pytest.mark.parametrize("longitudes", [7, 8, 144])
def test_spectrum_sums_to_the_mean_square_times_the_circumference(longitudes):
    """Parseval; doubling the Nyquist coefficient of an even number fails it by 1/L of the variance of noise."""
    field = np.random.default_rng(0).normal(size=(3, LATITUDE.size, longitudes))
    circumference = 2 * np.pi * EARTH_RADIUS * np.cos(np.deg2rad(LATITUDE))
    spectrum = zonal_energy_spectrum(field, LATITUDE)
    assert spectrum.shape == (3, LATITUDE.size, longitudes // 2 + 1)
    np.testing.assert_allclose(spectrum.sum(-1), (field**2).mean(-1) * circumference, rtol=1e-12)


def test_one_wave_has_its_energy_at_its_wavenumber():
    """a cos(3 x) has mean square a^2 / 2."""
    x = np.arange(24) * 2 * np.pi / 24
    spectrum = zonal_energy_spectrum(np.tile(5 * np.cos(3 * x), (4, 1)), LATITUDE)
    assert spectrum[2, 3] == pytest.approx(12.5 * 2 * np.pi * EARTH_RADIUS)
    assert spectrum[2, [0, 1, 2, 4, 12]] == pytest.approx(0, abs=1e-6)


def test_band_mean_weights_by_area_and_leaves_out_other_latitudes():
    field = np.zeros((4, 8))
    field[2] = 1e6  # the equator is not in the band
    field[1] = 1.0
    found = band_spectrum(field, LATITUDE)
    alone = zonal_energy_spectrum(field, LATITUDE)[1]
    assert 0 < found[0] < alone[0]
    assert np.isnan(band_spectrum(field[2:3].repeat(2, 0), np.array([1.0, 0.0]))).all()
