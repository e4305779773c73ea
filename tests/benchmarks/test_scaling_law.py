"""The law of scaling is found again where it holds, and says what to buy with more."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.skill.scaling_law import EXPONENTS, Law, band, fit, resample

LAW = Law(0.2, (0.1, 0.15, 0.05), (0.5, 0.8, 1.0), (1e5, 300.0, 12.0))
GRID = np.array([[n, s, d] for n in (1e4, 5e4, 2e5, 1e6) for s in (40.0, 160.0, 640.0) for d in (1.0, 6.0, 36.0)])


def test_a_law_is_found_again_without_noise() -> None:
    found = fit(GRID, LAW(GRID))
    assert found.exponents == pytest.approx(LAW.exponents, rel=1e-3)
    assert found.floor == pytest.approx(LAW.floor, rel=1e-3)
    np.testing.assert_allclose(found(GRID), LAW(GRID), rtol=1e-6)


def test_bands_hold_the_truth_about_as_often_as_they_say() -> None:
    """Two trainings of every budget, which share most of what they differ from the law by."""
    held, twice = [], np.repeat(GRID, 2, axis=0)
    for seed in range(8):
        random = np.random.default_rng(seed)
        shared = np.repeat(random.normal(0, 0.01, len(GRID)), 2)
        error = LAW(twice) * np.exp(shared + random.normal(0, 0.002, len(twice)))
        laws = resample(fit(twice, error, seed), twice, error, count=30, seed=seed)
        for place, exponent in enumerate(LAW.exponents):
            low, high = band([law.exponents[place] for law in laws])
            held.append(low < exponent < high)
            assert high - low < exponent
    assert np.mean(held) > 0.85


def test_an_exponent_at_its_bound_is_none() -> None:
    assert not LAW.is_bounded
    assert Law(0.2, LAW.shares, (0.5, EXPONENTS[1], 1.0), LAW.references).is_bounded
    assert Law(0.2, LAW.shares, (EXPONENTS[0], 0.5, 1.0), LAW.references).is_bounded
    beyond = Law(0.2, (0.1, 1e6, 0.1), (0.5, EXPONENTS[0], 1.0), LAW.references)
    assert beyond.steps_for(1e9) > 1e200  # and still a number


def test_the_best_budget_is_the_lowest_point_of_its_line() -> None:
    product = 2e7
    parameters, steps, error = LAW.best(product, 36.0)
    assert parameters * steps == pytest.approx(product)
    along = np.geomspace(1e3, 1e7, 4001)
    line = LAW(np.stack([along, product / along, np.full_like(along, 36.0)], axis=1))
    assert along[line.argmin()] == pytest.approx(parameters, rel=0.01)
    assert error == pytest.approx(line.min(), rel=1e-6)
    assert LAW.steps_for(parameters) == pytest.approx(steps)
    larger = LAW.best(100 * product, 36.0)
    to_parameters, to_steps = LAW.compound
    assert larger[0] / parameters == pytest.approx(100**to_parameters)
    assert larger[1] / steps == pytest.approx(100**to_steps)


@pytest.mark.parametrize(
    ("budget", "error", "told"),
    [
        (np.repeat(GRID[:6], 2, axis=0), np.ones(12), "at least 7 different rows"),
        (GRID[GRID[:, 2] == 1], np.ones(12), "the same data in all rows"),
        (GRID, np.zeros(len(GRID)), "must be positive"),
    ],
)
def test_what_cannot_be_fitted_is_refused(budget: np.ndarray, error: np.ndarray, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        fit(budget, error)


def test_seven_budgets_have_no_band() -> None:
    seven = GRID[[0, 1, 3, 9, 14, 26, 35]]
    with pytest.raises(ValueError, match="more than 7 different rows"):
        resample(fit(seven, LAW(seven)), seven, LAW(seven))
