"""Regimes of a known mixture are found again; transitions and stays by hand; unfamiliar states are told."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from data_pipelines.area import cell_area_weights
from forecast.regimes import (
    Familiarity,
    RegimeError,
    choose_count,
    directions_of,
    fit_mixture,
    matched_share,
    persistence,
    stability,
    transition_matrix,
)
from gpu import VonMisesFisher


def known(count=900, kappa=(60.0, 90.0, 120.0), dimension=8, seed=0):
    """Directions of three regimes with orthogonal means, and their labels in a chain that mostly stays."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(count, dtype=int)
    for step in range(1, count):
        labels[step] = labels[step - 1] if rng.random() < 0.8 else rng.integers(3)
    means = np.eye(3, dimension)[labels]
    return np.asarray(VonMisesFisher(means, np.asarray(kappa)[labels]).sample(rng=seed)), labels


def test_a_known_mixture_is_recovered():
    """Labels to 99 %; each concentration within 4 standard errors, kappa sqrt(2 / ((p - 1) n))."""
    directions, labels = known(2000)
    mixture = fit_mixture(directions, 3)
    found = mixture.predict(directions)
    assert matched_share(labels, found, 3) >= 0.99
    for regime, kappa in enumerate((60.0, 90.0, 120.0)):
        place = np.bincount(found[labels == regime], minlength=3).argmax()
        error = kappa * np.sqrt(2 / (7 * (labels == regime).sum()))
        assert mixture.concentrations_[place] == pytest.approx(kappa, abs=4 * error)


def test_the_number_is_found_and_stable():
    directions, _ = known(500)
    choice = choose_count(directions, range(2, 5))
    assert (choice.chosen, choice.stable) == (3, True)
    assert choice.stability[1] > 0.97


def test_noise_has_no_stable_regimes():
    noise = np.random.default_rng(0).normal(size=(400, 8))
    assert stability(noise / np.linalg.norm(noise, axis=1, keepdims=True), 4, halvings=2) < 0.7


def test_the_cosine_is_the_anomaly_correlation():
    """With all modes kept, the product of two directions is the uncentred area-weighted correlation of their anomalies."""
    latitude, longitude = np.linspace(90, -90, 5), np.arange(6) * 60.0
    coords = {"time": np.arange(40), "latitude": latitude, "longitude": longitude}
    field = xr.DataArray(np.random.default_rng(1).normal(size=(40, 5, 6)), coords, ("time", "latitude", "longitude"))
    directions = directions_of(field, modes=30)
    assert directions.explained == pytest.approx(1)
    unit = directions.of(field)
    anomaly = (field - field.mean("time")).values
    area = cell_area_weights(latitude)[:, None]
    a, b = anomaly[3], anomaly[8]
    correlation = (area * a * b).sum() / np.sqrt((area * a**2).sum() * (area * b**2).sum())
    assert unit[3] @ unit[8] == pytest.approx(correlation, abs=1e-10)
    back = directions.to_map(unit[[3]])[0]
    assert float((back**2 * area).sum() / (area.sum() * 6)) == pytest.approx(1)
    np.testing.assert_allclose(back / a, (back / a)[0, 0], rtol=1e-8)


def test_transitions_and_stays_by_hand():
    labels = np.array([0, 0, 1, 1, 1, 0, 1])
    np.testing.assert_allclose(transition_matrix(labels, 3), [[1 / 3, 2 / 3, 0], [1 / 3, 2 / 3, 0], [np.nan] * 3])
    np.testing.assert_allclose(persistence(labels, 3), [1.5, 2.0, np.nan])


def test_states_unlike_training_are_flagged_and_others_are_not():
    directions, _ = known(1500)
    told = Familiarity.fit(directions[:1000], directions[1000:], count=3)
    fresh, _ = known(1000, seed=5)
    assert told.unfamiliar(fresh).mean() < 0.03
    assert told.unfamiliar(np.eye(8)[5:] + 0.01).all()


def test_what_cannot_be_done_is_refused():
    field = xr.DataArray(
        np.zeros((3, 2, 2)), {"latitude": [1.0, 0.0], "longitude": [0.0, 1.0]}, ("time", "latitude", "longitude")
    )
    with pytest.raises(RegimeError, match="modes must be below"):
        directions_of(field, modes=3)
    with pytest.raises(RegimeError, match="holds NaN"):
        directions_of(field.where(field > 1), modes=1)
    with pytest.raises(RegimeError, match="rate must lie"):
        Familiarity.fit(np.eye(4), np.eye(4), rate=2.0)
