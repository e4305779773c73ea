"""Weighted errors, by hand."""

import math

import pytest
import torch

from forecast.losses import CHARBONNIER_SCALE, GRAPHCAST_SURFACE_WEIGHTS, WeightedError, channel_weights

LATITUDE = [90.0, 0.0, -90.0]  # areas: caps to 45 degrees and the belt between, 1 - s : 2 s : 1 - s with s = sin 45


def test_error_is_weighted_by_area() -> None:
    error = torch.zeros(2, 1, 3, 4)
    error[0, 0, 0], error[1, 0, 1] = 2.0, 2.0
    got = WeightedError("l1", LATITUDE, torch.ones(1))(error)
    sine = math.sqrt(0.5)
    torch.testing.assert_close(got, torch.tensor([2 * (1 - sine) / 2, 2 * sine]))


@pytest.mark.parametrize(("penalty", "value"), [
    ("l1", 3.0), ("l2", 9.0), ("charbonnier", math.sqrt(9 + CHARBONNIER_SCALE**2) - CHARBONNIER_SCALE)
])  # fmt: skip
def test_penalty_of_three(penalty: str, value: float) -> None:
    assert WeightedError(penalty, LATITUDE, torch.ones(2))(torch.full((1, 2, 3, 4), -3.0)).item() == pytest.approx(
        value, rel=1e-6
    )


def test_channels_count_by_their_weights() -> None:
    error = torch.zeros(1, 2, 3, 4)
    error[:, 1] = 1.0
    assert WeightedError("l1", LATITUDE, torch.tensor([0.5, 1.5]))(error).item() == pytest.approx(0.75)


def test_levels_count_by_pressure() -> None:
    """500 and 1000 hPa: 2/3 and 4/3 of their mean; a surface field counts 1 before all are divided by their mean, 1."""
    weights = channel_weights(["temperature_500", "temperature_1000", "mean_sea_level_pressure"], {}, by_level=True)
    torch.testing.assert_close(weights, torch.tensor([2 / 3, 4 / 3, 1.0]))


def test_graphcast_weights_have_mean_one() -> None:
    weights = channel_weights(["2m_temperature", "mean_sea_level_pressure"], {"mean_sea_level_pressure": 0.1}, by_level=False)
    torch.testing.assert_close(weights, torch.tensor([1 / 0.55, 0.1 / 0.55]))
    assert GRAPHCAST_SURFACE_WEIGHTS["mean_sea_level_pressure"] == 0.1


@pytest.mark.parametrize(("weights", "message"), [
    ({"salinity": 1.0}, "variable_weights names .'salinity'.*predicts"),
    ({"2m_temperature": 0.0}, "variable_weights must be positive"),
])  # fmt: skip
def test_wrong_weights_are_refused(weights: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        channel_weights(["2m_temperature"], weights, by_level=False)


def test_unknown_penalty_is_refused() -> None:
    with pytest.raises(ValueError, match="penalty must be one of .*got 'huber'"):
        WeightedError("huber", LATITUDE, torch.ones(1))
