"""A forecast that its labels call another thing than it is does not pass in silence; one that is merely bad does."""

from __future__ import annotations

import re

import numpy as np
import pytest
import xarray as xr

import forecast.verification  # noqa: F401  (registers the accessor)
from forecast.verification.inputs import VerificationError
from forecast.verification.plausible import VerificationWarning, doubts
from forecast.verification.skill import Conventions, make_contest
from tests.helpers.verification import STEP, drifting_truth, imperfect_forecast


@pytest.fixture
def truth() -> xr.Dataset:
    two = drifting_truth(steps=40)
    other = drifting_truth(steps=40, seed=1)["vorticity"].assign_coords(level=[500])
    return two.drop_vars("vorticity").drop_vars("level").assign(vorticity=xr.concat([other, two["vorticity"]], "level"))


@pytest.fixture
def made(truth) -> xr.Dataset:
    return imperfect_forecast(truth, 10, 16).drop_attrs(deep=False)


def found(forecast: xr.Dataset, truth: xr.Dataset) -> list[str]:
    with pytest.warns(VerificationWarning) as warned:
        contest = make_contest({"theirs": forecast}, truth, None, Conventions(), None)
    sentences = doubts(contest)
    assert [str(warning.message) for warning in warned] == sentences
    return sentences


def test_a_good_a_bad_and_a_dull_forecast_raise_no_doubt(truth, made):
    dull = made.map(lambda field: field * 0 + field.mean(), keep_attrs=True)
    noise = made.map(lambda field: field.copy(data=np.random.default_rng(0).permuted(field.values)), keep_attrs=True)
    for theirs in (made, dull, noise):
        assert doubts(make_contest({"theirs": theirs}, truth, None, Conventions(), None)) == []


def test_blank_parts_of_truth_are_told(truth, made):
    blank = truth.where(truth["latitude"] < 60)
    (first, *others) = found(made, blank)
    pattern = r"truth holds no mean_sea_level_pressure at \d+.\d% of the grid points at 2026.*"
    assert re.fullmatch(pattern, first)
    assert len(others) == 2
    theirs, sea = (
        (dataset[["mean_sea_level_pressure"]].drop_attrs() / 350).rename(mean_sea_level_pressure="sea_surface_temperature")
        for dataset in (made, blank)
    )
    assert doubts(make_contest({"theirs": theirs}, sea, None, Conventions(), None)) == []


def test_other_units_are_doubted_where_no_range_tells(truth, made):
    scaled = made.assign(vorticity=(made["vorticity"] * 9.8).assign_attrs(units="s-1"))
    sentences = found(scaled, truth)
    assert len(sentences) == 2
    assert sentences[0].startswith("theirs: vorticity_500 is 9.")
    assert "Is it in s-1? If not, say its units" in sentences[0]
    smaller = made.assign(vorticity=made["vorticity"] / 9.8)
    assert found(smaller, truth)[0].startswith("theirs: vorticity_500 is 0.1")


def test_what_is_upside_down_or_turned_is_doubted(truth, made):
    latitude, longitude = made["latitude"].values, made["longitude"].values
    upside_down = made.assign_coords(latitude=latitude[::-1])
    assert all("nearer to truth upside down" in sentence for sentence in found(upside_down, truth))
    assert len(found(upside_down, truth)) == 3
    turned = made.assign_coords(longitude=(longitude + 180) % 360)
    assert all("turned by half a globe" in sentence for sentence in found(turned, truth))


def test_swapped_levels_are_doubted(truth, made):
    sentences = found(made.assign_coords(level=made["level"].values[::-1]), truth)
    assert [sentence.split(" (")[0] for sentence in sentences] == [
        "theirs: vorticity_500 is nearer to truth taken for that of 850 hPa",
        "theirs: vorticity_850 is nearer to truth taken for that of 500 hPa",
    ]


def rain(accumulate: bool, leads: int = 6) -> tuple[xr.Dataset, xr.Dataset]:
    rng = np.random.default_rng(2)
    coords = {"latitude": np.linspace(90, -90, 7), "longitude": np.arange(8) * 45.0}
    time = np.datetime64("2026-01-01", "ns") + np.arange(20) * STEP
    steps = rng.gamma(0.5, 2e-3, size=(20, 7, 8)).astype(np.float32)
    dims = ("time", "latitude", "longitude")
    truth = xr.Dataset({"total_precipitation_6hr": (dims, steps)}, {"time": time, **coords})
    fields = np.stack([steps[k + 1 : k + 1 + leads] for k in range(4)])
    fields = fields.cumsum(axis=1) if accumulate else fields
    lead = np.arange(1, leads + 1) * STEP
    forecast = xr.Dataset(
        {"total_precipitation_6hr": (("time", "prediction_timedelta", "latitude", "longitude"), fields)},
        {"time": time[:4], "prediction_timedelta": lead, **coords},
    )
    return forecast, truth


def test_rain_summed_up_since_the_initial_time_is_doubted():
    (sentence,) = found(*rain(accumulate=True))
    assert "total_precipitation_6hr never becomes less with lead time" in sentence
    assert "the first as it is: ds.diff('step')" in sentence
    fields, sums = rain(accumulate=False)
    wetter = fields * xr.DataArray(np.arange(1.0, 7.0), dims="prediction_timedelta")
    for theirs, truth in ((fields, sums), (wetter, sums), rain(accumulate=True, leads=3)):
        assert doubts(make_contest({"theirs": theirs}, truth, None, Conventions(), None)) == []


def test_forecasts_of_far_times_are_not_compared(truth, made):
    late = made.assign_coords(prediction_timedelta=made["prediction_timedelta"] + np.timedelta64(5, "D"))
    late = late.assign_coords(time=made["time"] - np.timedelta64(5, "D"), latitude=made["latitude"].values[::-1])
    contest = make_contest({"theirs": late}, truth, None, Conventions(), None)
    assert contest.sample.inside.any()
    assert doubts(contest) == []


def test_truth_and_climatology_in_other_units_are_refused(truth, made):
    pressure = ["mean_sea_level_pressure"]
    hectopascals = truth[pressure] / 100
    with pytest.raises(VerificationError, match=r"truth: mean_sea_level_pressure is about 1\d+; wanted .* as forecast's"):
        made[pressure].skill.rmse(hectopascals)
    climatology = truth[pressure].mean("time") / 100
    with pytest.raises(VerificationError, match=r"climatology: mean_sea_level_pressure is about 1\d+; wanted .* as truth's"):
        made[pressure].skill.acc(truth, climatology)
    both = made[pressure] / 100
    both.skill.rmse(hectopascals)  # alike, whatever they are
