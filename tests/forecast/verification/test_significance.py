"""Tests of differences: how often they cry wolf, and whether they see a wolf."""

from __future__ import annotations

import numpy as np
import pytest

from forecast.verification.inputs import VerificationError
from forecast.verification.significance import block_bootstrap, degrees_of_freedom, diebold_mariano, overlap_of


def overlapping_noise(n: int, overlap: int, seed: int) -> np.ndarray:
    """Moving sums: the autocorrelation that forecasts with overlapping lead times have under the null hypothesis."""
    return np.convolve(np.random.default_rng(seed).normal(size=n + overlap - 1), np.ones(overlap), "valid")


@pytest.mark.parametrize(("n", "overlap"), [(51, 1), (40, 12)])
def test_true_null_is_rejected_about_as_rarely_as_promised(n, overlap):
    """5 % promised; a Bartlett sum with normal critical values rejects 30 % at (40, 12)."""
    trials = [overlapping_noise(n, overlap, seed) for seed in range(200)]
    for test in (diebold_mariano, lambda d, h: block_bootstrap(d, h, resamples=200)):
        assert np.mean([test(d, overlap).p < 0.05 for d in trials]) < 0.14


def test_a_clear_difference_is_seen():
    d = overlapping_noise(60, 4, 0) - 15
    for result in (diebold_mariano(d, 4), block_bootstrap(d, 4)):
        assert result.p < 0.01
        assert result.low < result.mean < result.high < 0


def test_a_sample_shorter_than_two_overlaps_says_nothing():
    d = np.random.default_rng(0).normal(size=12) - 100
    for result in (diebold_mariano(d, 40), block_bootstrap(d, 40)):
        assert result.mean == pytest.approx(d.mean())
        assert np.isnan([result.p, result.low, result.high]).all()


def test_no_sample_gives_no_mean():
    assert np.isnan(diebold_mariano(np.array([]), 1).mean)
    assert np.isnan(block_bootstrap(np.array([]), 1).mean)


def test_constant_difference_is_certain_and_none_is_not():
    assert diebold_mariano(np.full(20, -1.0), 1).p == 0
    assert diebold_mariano(np.zeros(20), 1).p == 1


def test_independent_samples_match_students_t_in_spirit():
    """With no overlap the standard error is near s / sqrt(n)."""
    d = np.random.default_rng(3).normal(size=2000)
    result = diebold_mariano(d, 1)
    width = (result.high - result.low) / 2
    assert width == pytest.approx(1.96 / np.sqrt(2000), rel=0.35)


def test_bootstrap_is_reproducible():
    d = overlapping_noise(50, 3, 1)
    assert block_bootstrap(d, 3, seed=4) == block_bootstrap(d, 3, seed=4)
    assert block_bootstrap(d, 3, seed=4) != block_bootstrap(d, 3, seed=5)


def test_overlap_counts_starts_within_the_lead_time():
    hour = np.timedelta64(1, "h")
    assert overlap_of(72 * hour, 6 * hour) == 12
    assert overlap_of(6 * hour, 12 * hour) == 1
    assert degrees_of_freedom(40, 12) == 3
    assert degrees_of_freedom(512, 1) == 25


def test_bad_settings_are_refused():
    with pytest.raises(VerificationError, match="overlap"):
        diebold_mariano(np.zeros(20), 0)
    with pytest.raises(VerificationError, match="level"):
        block_bootstrap(np.zeros(20), 1, level=95.0)
