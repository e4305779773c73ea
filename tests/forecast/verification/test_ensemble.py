"""Ensembles: values by hand, expectations of perfect ensembles, and the way through the command."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from forecast.verification.config import VerifyConfig
from forecast.verification.ensemble import mean_distance_of_members, mean_distance_to_truth
from forecast.verification.fields import Fields, Points, Regions
from forecast.verification.metrics import METRICS, scores, statistics_for
from forecast.verification.regions import region_weights
from forecast.verification.statistics import STATISTICS, Means
from forecast.verification.verification import verify
from tests.helpers.verification import drifting_truth, imperfect_forecast

LATITUDE, LONGITUDE = np.array([60.0, 20.0, -10.0, -50.0]), np.arange(5) * 72.0
WEIGHTS = region_weights(["global", "northern-hemisphere"], LATITUDE, LONGITUDE)
NAMES = [name for name, metric in METRICS.items() if metric.needs <= {"ensemble"}]


def means_of(members: np.ndarray, truth: np.ndarray, present=None, space=None) -> Means:
    return Means(Fields(members, truth, None, present), space or Regions(WEIGHTS), STATISTICS)


def score(members: np.ndarray, truth: np.ndarray) -> dict[str, np.ndarray]:
    found = means_of(members, truth)
    means = {name: found[name].mean(axis=0)[0] for name in statistics_for(NAMES)}
    return scores(means, NAMES, members.shape[0])


def draw(rng, members, pairs, spread=1.0):
    """Members and truth from one distribution about a mean that is known to both."""
    centre = rng.normal(size=(pairs, 1, 4, 5))
    return centre + spread * rng.normal(size=(members, pairs, 1, 4, 5)), centre + rng.normal(size=(pairs, 1, 4, 5))


def test_crps_of_two_members_by_hand():
    """Members 0 and 2, truth 3: skill (3 + 1) / 2 = 2; spread over pairs 2: fair 1; with a member's own pairs 1.5."""
    members = np.array([0.0, 2.0])[:, None, None, None, None] * np.ones((2, 1, 1, 4, 5))
    found = score(members, np.full((1, 1, 4, 5), 3.0))
    np.testing.assert_allclose(found["crps"], 1.0, rtol=1e-14)
    np.testing.assert_allclose(found["crps_ecdf"], 1.5, rtol=1e-14)
    np.testing.assert_allclose(found["energy_score"], 1.0, rtol=1e-14)
    np.testing.assert_allclose(found["spread"], np.sqrt(2), rtol=1e-14)
    np.testing.assert_allclose(found["debiased_rmse"], np.sqrt(4 - 2 / 2), rtol=1e-14)


def test_spread_from_sorted_members_is_that_over_all_pairs():
    members = np.random.default_rng(0).normal(size=(7, 3, 4))
    pairs = np.abs(members[:, None] - members).sum(axis=(0, 1)) / (7 * 6)
    np.testing.assert_allclose(mean_distance_of_members(members), pairs, rtol=1e-13)
    truth = np.zeros((3, 4))
    np.testing.assert_allclose(mean_distance_to_truth(members, truth), np.abs(members).mean(axis=0), rtol=1e-14)


def test_fair_scores_do_not_depend_on_the_number_of_members_and_others_do():
    """Fair CRPS of N(0, 1) against itself is 1 / sqrt(pi), for 2 members as for 20; the ECDF's is 1 + 1 / M times that."""
    rng = np.random.default_rng(1)
    few, many = (score(*draw(rng, members, 4000)) for members in (2, 20))
    expected = 1 / np.sqrt(np.pi)
    for found in (few, many):
        np.testing.assert_allclose(found["crps"], expected, atol=0.01)
        np.testing.assert_allclose(found["spread_skill"], 1, atol=0.02)
        np.testing.assert_allclose(found["debiased_rmse"], 1, atol=0.02)
    np.testing.assert_allclose(few["crps_ecdf"], 1.5 * expected, atol=0.01)
    np.testing.assert_allclose(few["spread_error"], np.sqrt(1 / 1.5), atol=0.02)
    np.testing.assert_allclose(few["energy_score"], many["energy_score"], rtol=0.02)


def test_an_ensemble_without_enough_spread_shows():
    found = score(*draw(np.random.default_rng(2), 10, 2000, spread=0.5))
    np.testing.assert_allclose(found["spread_skill"], 0.5, atol=0.02)


def test_a_single_member_has_no_fair_score():
    """WeatherBench 2 gives a single member a spread of 0, so that its CRPS is the absolute error; we say that it is unknown."""
    members, truth = draw(np.random.default_rng(3), 1, 5)
    found = score(members, truth)
    for name in ("crps", "energy_score", "spread", "debiased_rmse", "spread_skill"):
        assert np.isnan(found[name]).all(), name
    skill = means_of(members, truth)["mae"].mean(axis=0)[0]
    np.testing.assert_allclose(means_of(members, truth)["crps_skill"].mean(axis=0)[0], skill, rtol=1e-14)


def test_a_forecast_without_members_has_none_of_these_scores():
    truth = np.zeros((2, 1, 4, 5))
    assert np.isnan(means_of(truth + 1, truth)["crps_skill"]).all()


def test_ranks_count_area_below_and_spread_ties_evenly():
    """Members 0, 1, 1 and truth 1 (rank 1 to 3), -1 (rank 0), 2 (rank 3), 0 (rank 0 or 1), by latitude."""
    members = np.array([0.0, 1.0, 1.0])[:, None, None, None, None] * np.ones((3, 1, 1, 4, 5))
    truth = np.array([1.0, -1.0, 2.0, 0.0])[:, None] * np.ones((1, 1, 4, 5))
    share = WEIGHTS[0].sum(axis=1)
    want = [share[1] + share[3] / 2, share[0] / 3 + share[3] / 2, share[0] / 3, share[0] / 3 + share[2]]
    found = means_of(members, truth)["rank_histogram"]
    assert found.shape == (1, 1, 2, 4)
    np.testing.assert_allclose(found[0, 0, 0], want, atol=1e-14)
    np.testing.assert_allclose(found.sum(axis=-1), 1, rtol=1e-14)
    at_points = means_of(members, truth, space=Points(4, 5))["rank_histogram"]
    np.testing.assert_allclose(np.einsum("pcyxb,yx->b", at_points, WEIGHTS[0]), want, atol=1e-14)


def test_ranks_of_a_reliable_ensemble_are_flat():
    members, truth = draw(np.random.default_rng(4), 4, 4000)
    np.testing.assert_allclose(means_of(members, truth)["rank_histogram"].mean(axis=0)[0], 0.2, atol=0.01)


@pytest.mark.parametrize("ties", [False, True])
def test_a_point_that_is_missing_has_no_rank(ties):
    members, truth = draw(np.random.default_rng(5), 3, 2)
    if ties:
        members[0] = truth
    truth[0, 0, 0, 0] = np.nan
    present = np.isfinite(truth)
    found = means_of(members, truth, present)["rank_histogram"]
    np.testing.assert_allclose(found.sum(axis=-1), 1, rtol=1e-13)
    spoilt = means_of(members, truth)["rank_histogram"]  # a NaN that nobody marked: shares are unknown
    assert np.isnan(spoilt[0]).all()
    assert np.isfinite(spoilt[1]).all()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Ten members about a forecast, scored by the command's code."""
    folder = tmp_path_factory.mktemp("ensemble")
    truth = drifting_truth(steps=110)
    truth.to_zarr(folder / "truth.zarr", zarr_format=3)
    rng = np.random.default_rng(0)
    made = []
    for _ in range(6):
        member = imperfect_forecast(truth, 82, 100, leads=4, error=0.0)
        noise = {
            name: (field.dims, 0.1 * float(truth[name].std()) * rng.normal(size=field.shape)) for name, field in member.items()
        }
        made.append((member + xr.Dataset(noise)).astype("float32"))
    xr.concat(made, "number").assign_attrs(training_span="2026-01-01/2026-01-20").to_zarr(folder / "e.zarr", zarr_format=3)
    settings = {"key_leads": [6], "map_leads": [6], "spectrum_leads": [6], "progress": False, "regions": ["global", "tropics"]}
    config = VerifyConfig(
        str(folder / "e.zarr"), str(folder / "truth.zarr"), str(folder / "out"), baselines=["climatology"], **settings
    )
    return verify(config), folder / "out"


def test_the_command_scores_ensembles(found):
    """Members differ from truth by independent noise s: variance s^2, the mean of six by s / sqrt(6)."""
    result, out = found
    scores = xr.open_dataset(out / "scores.nc", decode_timedelta=True)["mean_sea_level_pressure"].sel(region="global")
    own = scores.sel(forecast="forecast")
    s = 0.1 * float(result.contest.truth["mean_sea_level_pressure"].std())
    np.testing.assert_allclose(own.sel(metric="spread"), s, rtol=0.05)
    np.testing.assert_allclose(own.sel(metric="rmse"), s / np.sqrt(6), rtol=0.05)
    # E|X - o| = s sqrt(2 / pi), E|X - X'| = 2 s / sqrt(pi)
    np.testing.assert_allclose(own.sel(metric="crps"), s * (np.sqrt(2 / np.pi) - 1 / np.sqrt(np.pi)), rtol=0.05)
    assert np.isnan(scores.sel(forecast="climatology", metric="crps")).all()
    assert np.isfinite(scores.sel(forecast="climatology", metric="rmse")).all()


def test_the_command_writes_rank_histograms(found):
    _, out = found
    ranks = xr.open_dataset(out / "rank_histogram.nc", decode_timedelta=True)["mean_sea_level_pressure"]
    assert ranks.dims == ("forecast", "region", "prediction_timedelta", "rank")
    assert ranks["forecast"].values.tolist() == ["forecast"]
    np.testing.assert_allclose(ranks.sum("rank"), 1, rtol=1e-12)
    assert float(ranks.sel(rank=3).mean()) > 0.2  # truth is in the middle of members that spread about it
