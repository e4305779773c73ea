"""Times as features: periodic, with the 2 pi."""

import numpy as np
import torch

from forecast.layers.time_embedding import TimeEmbedding, feature_count, time_features


def test_features_have_the_stated_number_and_tell_hours_apart() -> None:
    times = [np.array(["2026-01-01T00", "2026-01-01T12"], dtype="datetime64[ns]")] * 3
    features = time_features(times, np.array([0.0, 120.0]))
    assert features.shape == (2, feature_count(3))
    assert features.dtype == np.float32
    # Sine and cosine of noon are those of midnight, turned by half a circle.
    np.testing.assert_allclose(features[0, 2:4], -features[1, 2:4], atol=1e-6)


def test_the_year_closes() -> None:
    """Without the 2 pi the end of December would be far from the beginning of January."""
    end = time_features([np.array(["2025-12-31T18"], dtype="datetime64[ns]")], np.zeros(1))
    begin = time_features([np.array(["2026-01-01T18"], dtype="datetime64[ns]")], np.zeros(1))
    assert np.abs(end - begin).max() < 0.03


def test_lead_time_is_told() -> None:
    time = [np.array(["2026-01-01T00"] * 2, dtype="datetime64[ns]")]
    features = time_features(time, np.array([0.0, 120.0]))
    np.testing.assert_allclose(features[:, -2:], [[0.0, 1.0], [1.0, np.exp(-5.0)]], rtol=1e-5)


def test_embedding_has_the_width_asked_for() -> None:
    assert TimeEmbedding(14, 8)(torch.zeros(3, 14)).shape == (3, 8)
