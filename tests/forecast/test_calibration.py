"""Weights of forecast and initial anomaly: found where they are known, and given up where they do not hold elsewhere."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from forecast.calibration import PENALTY, combine, fit_weights, load_moments, moments_of, save_moments, shrinkage

LATITUDE = tuple(float(value) for value in torch.linspace(90, -90, 13))
SHAPE = (300, 2, 13, 24)


def anomalies(seed: int) -> tuple[Tensor, Tensor]:
    return torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(seed)).unbind()


def part(of_forecast: float, of_initial: float, seed: int, noise: float = 1.0) -> Tensor:
    """Moments of one lead time at which the truth is made of both, and of noise."""
    forecast, initial = anomalies(seed)
    own = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1000 + seed))  # not what another test has drawn
    truth = of_forecast * forecast + of_initial * initial + noise * own
    return moments_of(forecast, initial, truth)[None]


def test_weights_are_what_the_truth_was_made_of() -> None:
    of_forecast, of_initial = fit_weights(part(0.6, 0.2, seed=0), LATITUDE)[0]
    torch.testing.assert_close(of_forecast, torch.full((2, 13), 0.6), rtol=0, atol=0.03)
    torch.testing.assert_close(of_initial, torch.full((2, 13), 0.2 / (1 + PENALTY)), rtol=0, atol=0.03)


def test_a_forecast_that_is_its_initial_state_keeps_the_weight() -> None:
    """Both say the same, as persistence does: the penalty gives the forecast the whole share."""
    initial, noise = anomalies(0)
    weights = fit_weights(moments_of(initial, initial, 0.5 * initial + noise)[None], LATITUDE)[0]
    torch.testing.assert_close(weights[0], torch.full((2, 13), 0.5), rtol=0, atol=0.05)
    torch.testing.assert_close(weights[1], torch.zeros(2, 13), rtol=0, atol=0.05)


def test_without_moments_the_forecast_stays_as_it_is() -> None:
    of_forecast, of_initial = fit_weights(torch.zeros(3, 5, 2, 13), LATITUDE).unbind(dim=1)
    assert (of_forecast == 1).all()
    assert (of_initial == 0).all()
    assert (shrinkage([torch.zeros(3, 5, 2, 13)] * 2, LATITUDE, 6) == 1).all()


def test_parts_that_agree_are_hardly_shrunk_and_parts_that_do_not_are() -> None:
    agree = shrinkage([part(0.5, 0.1, seed=0), part(0.5, 0.1, seed=1)], LATITUDE, 6)
    assert (agree > 0.95).all()
    differ = shrinkage([part(0.6, 0.0, seed=0), part(0.2, 0.0, seed=1)], LATITUDE, 6)
    # Each part wants of the other's weights: 0.6 * 0.2 twice, over 0.6 squared and 0.2 squared.
    torch.testing.assert_close(differ, torch.full((1, 2), 2 * 0.12 / 0.40), rtol=0, atol=0.05)
    assert (shrinkage([part(0.6, 0.0, seed=0), part(-0.6, 0.0, seed=1)], LATITUDE, 6) == 0).all()
    assert (shrinkage([part(0.6, 0.0, seed=0)], LATITUDE, 6) == 1).all()


def test_lead_times_of_two_days_share_one_shrinkage_however_long_the_steps_are() -> None:
    far = [torch.zeros(9, 5, 2, 13) for _ in range(2)]
    for place, own in enumerate(far):
        own[:3] = part(0.6, 0.0, seed=place)
        own[3:] = part(0.6 if place else -0.6, 0.0, seed=place)
    of_short, of_long = (shrinkage(far, LATITUDE, hours) for hours in (6, 24))
    assert (of_long[0] > 0.9).all()  # its neighbour a day on agrees
    assert (of_short[0] < 0.9).all()  # that too, and two more do not
    assert (of_short[0] > 0).all()


def test_combined_weights_are_those_of_all_parts_shrunk() -> None:
    parts = [part(0.6, 0.0, seed=0), part(0.2, 0.0, seed=1)]
    weights = combine(parts, LATITUDE, 6)
    torch.testing.assert_close(weights[0, 0], torch.full((2, 13), 0.4 * 0.6), rtol=0, atol=0.03)


def test_moments_are_read_as_they_were_written(tmp_path: Path) -> None:
    moments = part(0.6, 0.1, seed=0)
    save_moments(tmp_path, moments)
    torch.testing.assert_close(load_moments([str(tmp_path)], 1)[0], moments, rtol=0, atol=0)
    with pytest.raises(ValueError, match="calibrated for 2 steps; .* was for 1. Give both the same lead_until_hours"):
        load_moments([str(tmp_path)], 2)
    with pytest.raises(ValueError, match="calibrate=true; .*none has no calibration.safetensors. Train it so"):
        load_moments([str(tmp_path / "none")], 1)
    (tmp_path / "other").mkdir()
    save_moments(tmp_path / "other", moments[..., :7])
    with pytest.raises(ValueError, match=r"same channels and grid; .* = \(2, 13\), .*other has \(2, 7\)"):
        load_moments([str(tmp_path), str(tmp_path / "other")], 1)
