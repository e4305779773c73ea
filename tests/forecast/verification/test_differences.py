"""Where other libraries' scores are not ours, by hand: what ours is, what theirs is, and that the two are not equal.

Beside these: the Nyquist coefficient in test_spectra, a single member in test_ensemble, the dry threshold in test_events.
`benchmarks/verification_agreement.py` finds the same differences in the libraries themselves.
"""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from forecast.verification import Conventions

NAME = "mean_sea_level_pressure"
ROWS, COLUMNS, MEMBERS = 9, 16, 6
LATITUDE, LONGITUDE = np.linspace(80, -80, ROWS), np.arange(COLUMNS) * 22.5
PLAIN = Conventions(weights="none", missing="skip_points")
TIME = np.datetime64("2026-01-01", "ns")


@pytest.fixture(scope="module")
def fields():
    """Members, truth and climatology of one time; a third of truth is missing, where members spread most."""
    rng = np.random.default_rng(2)
    climatology = 1013e2 + 500 * rng.standard_normal((ROWS, COLUMNS))
    truth = climatology + 300 * rng.standard_normal((ROWS, COLUMNS))
    missing = rng.random((ROWS, COLUMNS)) < 1 / 3
    members = truth + np.where(missing, 400, 100) * rng.standard_normal((MEMBERS, ROWS, COLUMNS))
    made = members, members[0], np.where(missing, np.nan, truth), climatology
    return tuple(values.astype(np.float32) for values in made)


def score(metric: str, forecast: np.ndarray, truth: np.ndarray, climatology: np.ndarray) -> float:
    dims = ("time", "prediction_timedelta", "number", "latitude", "longitude")
    dims = dims if forecast.ndim == 3 else tuple(dim for dim in dims if dim != "number")
    plane = {"latitude": LATITUDE, "longitude": LONGITUDE}
    lead = {"prediction_timedelta": np.array([0], "timedelta64[ns]")}
    made = xr.Dataset({NAME: (dims, forecast[None, None])}, {"time": [TIME], **lead, **plane})
    known = xr.Dataset(
        {NAME: (("time", "latitude", "longitude"), np.stack([truth, truth]))},
        {"time": [TIME, TIME + np.timedelta64(6, "h")], **plane},
    )
    mean = xr.Dataset({NAME: (("hour", "latitude", "longitude"), climatology[None])}, {"hour": [0], **plane})
    found = made.skill.score(known, [metric], climatology=mean, options=PLAIN, interval=None)
    return found[NAME].sel(metric=metric, region="global").item()


@pytest.mark.filterwarnings("ignore:truth holds no")
@pytest.mark.parametrize("side", ["truth", "forecast"])
def test_a_correlation_with_points_missing_is_over_the_points_that_both_have(fields, side):
    """WeatherBench 2 takes each of its three means where it can, so that theirs is no correlation of anything."""
    _, forecast, truth, climatology = fields
    there = np.isfinite(truth)
    if side == "forecast":
        forecast, truth = np.where(there, forecast, np.nan), np.where(there, truth, climatology + 900)
    f, o = forecast.astype(float) - climatology, truth.astype(float) - climatology
    ours = (f * o)[there].sum() / np.sqrt((f**2)[there].sum() * (o**2)[there].sum())
    theirs = np.nanmean(f * o) / np.sqrt(np.nanmean(f**2) * np.nanmean(o**2))
    assert score("acc", forecast, truth, climatology) == pytest.approx(ours, rel=1e-9)
    assert abs(theirs / ours - 1) > 0.01


@pytest.mark.filterwarnings("ignore:truth holds no")
@pytest.mark.parametrize("metric", ["spread", "crps", "energy_score"])
def test_the_spread_with_points_missing_in_truth_is_over_the_points_that_truth_has(fields, metric):
    """WeatherBench 2 takes the skill over these points and the spread over all."""
    members, _, truth, climatology = fields
    there = np.isfinite(truth)
    x, o = members.astype(float), truth.astype(float)
    pairs = [(a, b) for a in range(MEMBERS) for b in range(a)]
    distance = np.mean([np.abs(x[a] - x[b]) for a, b in pairs], axis=0)
    norm = {points: np.mean([np.sqrt(np.mean((x[a] - x[b])[mask] ** 2)) for a, b in pairs])
            for points, mask in (("there", there), ("all", np.ones_like(there)))}  # fmt: skip
    variance = x.var(axis=0, ddof=1)
    skill = np.abs(x - o)[:, there].mean()
    away = np.sqrt(((x - o) ** 2)[:, there].mean(axis=-1)).mean()
    ours, theirs = {
        "spread": (np.sqrt(variance[there].mean()), np.sqrt(variance.mean())),
        "crps": (skill - distance[there].mean() / 2, skill - distance.mean() / 2),
        "energy_score": (away - norm["there"] / 2, away - norm["all"] / 2),
    }[metric]
    assert score(metric, members, truth, climatology) == pytest.approx(ours, rel=1e-9)
    assert abs(theirs / ours - 1) > 0.1


def test_an_energy_score_is_over_all_pairs_of_members_and_steadier_than_over_neighbours():
    """WeatherBench 2 pairs each member with the next one only: the same on average, with more noise."""
    rng = np.random.default_rng(3)
    drawn = rng.standard_normal((400, MEMBERS, 4)).astype(np.float32)

    def norm(a: int, b: int) -> np.ndarray:
        return np.sqrt(((drawn[:, a].astype(float) - drawn[:, b]) ** 2).mean(axis=-1))

    every = np.mean([norm(a, b) for a in range(MEMBERS) for b in range(a)], axis=0)
    neighbours = np.mean([norm(a, a + 1) for a in range(MEMBERS - 1)], axis=0)
    assert every.mean() == pytest.approx(neighbours.mean(), abs=4 * neighbours.std() / 20)
    assert neighbours.std() > 1.1 * every.std()
    truth = np.zeros((ROWS, COLUMNS), np.float32)
    members = np.tile(drawn[0], (1, ROWS * COLUMNS // 4)).reshape(MEMBERS, ROWS, COLUMNS)
    away = np.sqrt((drawn[0].astype(float) ** 2).mean(axis=-1)).mean()
    assert score("energy_score", members, truth, truth) == pytest.approx(away - every[0] / 2, rel=1e-9)
    assert abs((away - neighbours[0] / 2) / (away - every[0] / 2) - 1) > 1e-3


def test_the_crps_that_is_not_fair_pairs_members_with_themselves(fields):
    """xskillscore's: the same as ours with M^2 pairs instead of M (M - 1), which punishes small ensembles."""
    members, _, truth, climatology = fields
    truth = np.nan_to_num(truth, nan=1013e2)
    x = members.astype(float)
    skill = np.abs(x - truth).mean()
    spread = np.abs(x[:, None] - x[None]).sum(axis=(0, 1)).mean()
    assert score("crps_ecdf", members, truth, climatology) == pytest.approx(skill - spread / MEMBERS**2 / 2, rel=1e-9)
    fair = skill - spread / (MEMBERS * (MEMBERS - 1)) / 2
    assert score("crps", members, truth, climatology) == pytest.approx(fair, rel=1e-9)
