"""Scores worked out by hand on a grid of two caps and a belt, and identities."""

from __future__ import annotations

import numpy as np
import pytest

from forecast.verification.metrics import METRICS, STATISTICS, scores, spatial_statistics, summands
from forecast.verification.regions import region_weights

LATITUDE, LONGITUDE = np.array([90.0, 0.0, -90.0]), np.array([0.0, 180.0])
CAP, BELT = (1 - np.sqrt(0.5)) / 2, np.sqrt(0.5)  # shares of the sphere: poleward of 45 degrees, and between
WEIGHTS = region_weights(["global"], LATITUDE, LONGITUDE)


def rows(north: float, equator: float, south: float) -> np.ndarray:
    return np.repeat(np.array([[north], [equator], [south]], dtype=np.float64), 2, axis=1)


def score(forecasts: list[np.ndarray], truths: list[np.ndarray]) -> dict[str, float]:
    parts = summands(spatial_statistics(np.stack(forecasts), np.stack(truths), np.zeros((len(truths), 3, 2)), WEIGHTS))
    means = {key: values.mean(axis=0) for key, values in parts.items()}
    return {key: float(value[0]) for key, value in scores(means).items()}


def test_weights_are_the_caps_and_the_belt():
    np.testing.assert_allclose(WEIGHTS[0], rows(CAP, BELT, CAP) / 2, rtol=1e-14)


def test_rmse_takes_the_root_after_the_mean_over_initial_times():
    """Errors (2, 1, 0) by row and then none: MSE 4 cap + belt = 1.292893 and 0, RMSE sqrt(0.646447) = 0.804019."""
    found = score([rows(2, 1, 0), rows(5, 5, 5)], [rows(0, 0, 0), rows(5, 5, 5)])
    assert found["rmse"] == pytest.approx(0.804019, abs=1e-6)
    assert found["rmse"] != pytest.approx((np.sqrt(1.292893) + 0) / 2, abs=1e-3)


def test_mae_and_bias_by_hand():
    """Errors (2, -1, 0): MAE 2 cap + belt = 1, bias 2 cap - belt = 0.292893 - 0.707107."""
    found = score([rows(2, -1, 0)], [rows(0, 0, 0)])
    assert found["mae"] == pytest.approx(1.0, abs=1e-12)
    assert found["bias"] == pytest.approx(0.2928932 - 0.7071068, abs=1e-6)


def test_acc_is_the_mean_of_correlations_and_pooled_acc_one_correlation():
    """f' = 1 with o' = (1, 1, -1): 0.707107; f' = 2 o': 1. WeatherBench 2: 0.853553; pooled: 1.353553 / sqrt(2.5)."""
    truth = rows(1, 1, -1)
    found = score([rows(1, 1, 1), 2 * truth], [truth, truth])
    assert found["acc"] == pytest.approx(0.853553, abs=1e-6)
    assert found["acc_pooled"] == pytest.approx(1.3535534 / np.sqrt(2.5), abs=1e-6)


def test_centred_acc_removes_the_regional_mean():
    """f' = o' + 3 is perfectly correlated once centred, and is not before."""
    truth = rows(1, 0, -1)
    found = score([truth + 3], [truth])
    assert found["acc_centred"] == pytest.approx(1.0, abs=1e-12)
    assert found["acc"] < 0.6


def test_activity_is_the_spatial_standard_deviation_of_anomalies():
    """(2, 0, -2): variance 8 cap = 1.171573."""
    found = score([rows(2, 0, -2) + 7], [rows(0, 0, 0)])
    assert found["activity"] == pytest.approx(np.sqrt(1.1715729), abs=1e-6)
    assert found["activity_truth"] == 0


def test_truth_scores_perfectly():
    rng = np.random.default_rng(0)
    truth = [rng.normal(size=(3, 2)) for _ in range(4)]
    found = score(truth, truth)
    assert found["rmse"] == found["mae"] == found["bias"] == 0
    assert found["acc"] == pytest.approx(1, abs=1e-14)
    assert found["acc_pooled"] == pytest.approx(1, abs=1e-14)


def test_climatology_correlates_with_nothing():
    found = score([rows(0, 0, 0)], [rows(1, 2, 3)])
    assert np.isnan(found["acc"])
    assert np.isnan(found["acc_pooled"])


def test_points_without_truth_are_left_out_and_the_rest_weighted_up():
    truth = rows(0, 0, 0)
    truth[0] = np.nan
    forecast = rows(np.nan, 1, 3)
    found = spatial_statistics(forecast[None], truth[None], None, WEIGHTS)
    assert found["mse"][0, 0] == pytest.approx((BELT + 9 * CAP) / (BELT + CAP))


def test_forecast_nan_where_truth_is_shows():
    forecast = rows(0, np.nan, 0)
    assert np.isnan(spatial_statistics(forecast[None], rows(0, 0, 0)[None], None, WEIGHTS)["mse"]).all()


def test_without_climatology_anomaly_statistics_are_nan_and_the_rest_is_not():
    found = spatial_statistics(rows(1, 1, 1)[None], rows(0, 0, 0)[None], None, WEIGHTS)
    assert set(found) == set(STATISTICS)
    assert found["mse"][0, 0] == pytest.approx(1)
    assert np.isnan(found["ff"]).all()


def test_every_metric_is_described():
    assert set(score([rows(1, 2, 3)], [rows(1, 2, 4)])) == set(METRICS)
