"""Scores worked out by hand on a grid of two caps and a belt, and identities."""

from __future__ import annotations

import numpy as np
import pytest

from data_pipelines.variables import Channel
from forecast.verification.fields import Fields, Points, Regions
from forecast.verification.metrics import METRICS, scores, statistics_for
from forecast.verification.regions import region_weights
from forecast.verification.statistics import STATISTICS, Means

LATITUDE, LONGITUDE = np.array([90.0, 0.0, -90.0]), np.array([0.0, 180.0])
CAP, BELT = (1 - np.sqrt(0.5)) / 2, np.sqrt(0.5)  # shares of the sphere: poleward of 45 degrees, and between
WEIGHTS = region_weights(["global"], LATITUDE, LONGITUDE)


def rows(north: float, equator: float, south: float) -> np.ndarray:
    return np.repeat(np.array([[north], [equator], [south]], dtype=np.float64), 2, axis=1)


def means_of(forecast, truth, climatology=None, present=None, space=None) -> Means:
    """Statistics of fields (pair, lat, lon), one channel."""
    forecast, truth = np.asarray(forecast)[..., None, :, :], np.asarray(truth)[:, None]
    climatology = None if climatology is None else climatology[:, None]
    present = None if present is None else present[:, None]
    return Means(Fields(forecast, truth, climatology, present), space or Regions(WEIGHTS), STATISTICS)


def score(forecasts: list[np.ndarray], truths: list[np.ndarray]) -> dict[str, float]:
    """All scores; forecasts (pair, lat, lon), or (member, pair, lat, lon)."""
    found = means_of(np.stack(forecasts), np.stack(truths), np.zeros((len(truths), 3, 2)))
    means = {name: found[name].mean(axis=0) for name in statistics_for(list(METRICS))}
    return {key: float(value.squeeze()) for key, value in scores(means, list(METRICS), np.shape(forecasts)[0]).items()}


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
    found = means_of(forecast[None], truth[None], present=np.isfinite(truth)[None])
    assert found["mse"].item() == pytest.approx((BELT + 9 * CAP) / (BELT + CAP))
    assert found.space.share(found.fields.present, (1, 1)).item() == pytest.approx(BELT + CAP)


def test_forecast_nan_where_truth_is_shows():
    forecast = rows(0, np.nan, 0)
    assert np.isnan(means_of(forecast[None], rows(0, 0, 0)[None])["mse"]).all()


def test_a_region_without_any_point_is_nan():
    found = means_of(rows(1, 1, 1)[None], rows(0, 0, 0)[None], present=np.zeros((1, 3, 2), dtype=bool))
    assert np.isnan(found["mse"]).all()


def test_without_climatology_anomaly_statistics_are_nan_and_the_rest_is_not():
    found = means_of(rows(1, 1, 1)[None], rows(0, 0, 0)[None])
    assert found["mse"].item() == pytest.approx(1)
    for name in ("ff", "acc", "f_variance"):
        assert found[name].shape == (1, 1, 1)
        assert np.isnan(found[name]).all()


def test_skill_is_relative_to_climatology():
    """MSE cap + 0: 1 - 2 cap / (4 cap + belt)."""
    found = score([rows(3, 1, 0)], [rows(2, 1, 0)])
    assert found["mse_skill"] == pytest.approx(1 - CAP / (4 * CAP + BELT), abs=1e-12)
    assert score([rows(0, 0, 0)], [rows(2, 1, 0)])["mse_skill"] == pytest.approx(0, abs=1e-12)


def test_root_before_the_mean_is_another_score():
    found = score([rows(2, 1, 0), rows(5, 5, 5)], [rows(0, 0, 0), rows(5, 5, 5)])
    assert found["rmse_by_time"] == pytest.approx((np.sqrt(4 * CAP + BELT) + 0) / 2, abs=1e-12)


def test_at_a_point_scores_are_over_time_alone():
    """Errors 1 and 3 at every point: RMSE sqrt(5) everywhere; pooled ACC is the correlation over time."""
    truth = np.stack([rows(1, 2, 3), rows(-1, 2, -3)])
    found = means_of(truth + np.array([1, 3])[:, None, None], truth, np.zeros((2, 3, 2)), space=Points(3, 2))
    means = {name: found[name].mean(axis=0) for name in statistics_for(["rmse", "acc_pooled"])}
    maps = scores(means, ["rmse", "acc_pooled"])
    np.testing.assert_allclose(maps["rmse"], np.full((1, 3, 2), np.sqrt(5)))
    # f' = (2, 2), o' = (1, -1) in the north: 0 / ...
    np.testing.assert_allclose(maps["acc_pooled"][0, 0], 0, atol=1e-15)


def test_wind_vector_error_joins_both_components():
    """Errors (3, 4): length 5 everywhere, given with u and with v, and not with temperature."""
    channels = [
        Channel("10m_u_component_of_wind"),
        Channel("temperature", 850),
        Channel("10m_v_component_of_wind"),
        Channel("u_component_of_wind", 500),
        Channel("v_component_of_wind", 850),
    ]
    forecast = np.stack([rows(3, 3, 3), rows(1, 1, 1), rows(4, -4, 4), rows(1, 1, 1), rows(1, 1, 1)])[None]
    present = np.ones(forecast.shape, dtype=bool)
    present[0, 0, 0] = False  # one component missing: the vector is
    means = Means(Fields(forecast, 0 * forecast, None, present, channels=channels), Regions(WEIGHTS), STATISTICS)
    np.testing.assert_allclose(np.sqrt(means["vector_mse"][0, [0, 2], 0]), 5, rtol=1e-14)
    np.testing.assert_allclose(means["vector_mae"][0, [0, 2], 0], 5, rtol=1e-14)
    assert np.isnan(means["vector_mse"][0, [1, 3, 4]]).all()
    assert np.isnan(means_of(rows(1, 1, 1)[None], rows(1, 1, 1)[None])["vector_mse"]).all()


def test_every_metric_is_described_and_says_what_it_needs():
    assert METRICS["acc"].needs == {"climatology"}
    assert METRICS["crps"].needs == {"ensemble"}
    assert METRICS["rmse"].needs == set()
    assert METRICS["acc_pooled"].additive
    assert not METRICS["acc"].additive
    assert all(len(metric.description) > 20 for metric in METRICS.values())
