"""Events, SEEPS and fractions: by hand, by identity, and through the accessor."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from forecast.verification import Conventions, Event, climatological_quantile
from forecast.verification.events import contingency_scores, event_scores, fraction_statistics, roc_curve
from forecast.verification.inputs import VerificationError
from forecast.verification.seeps import scoring_matrix, seeps_statistic
from tests.helpers.verification import STEP

RAIN = "total_precipitation_24hr"
LATITUDE, LONGITUDE = np.linspace(90, -90, 7), np.arange(8) * 45.0


def dataset(rng, times=24, leads=2, members=None, name="2m_temperature", offset=0.0):
    shape = (times, *([members] if members else []), leads, 7, 8)
    dims = ("time", *(["number"] if members else []), "prediction_timedelta", "latitude", "longitude")
    return xr.Dataset(
        {name: (dims, (280 + offset + 5 * rng.normal(size=shape)).astype(np.float32))},
        {
            "time": np.datetime64("2020-01-01", "ns") + np.arange(times) * STEP,
            "prediction_timedelta": np.arange(1, leads + 1) * STEP,
            "latitude": LATITUDE,
            "longitude": LONGITUDE,
        },
    )


@pytest.fixture
def truth():
    made = dataset(np.random.default_rng(0), times=30, leads=1).isel(prediction_timedelta=0, drop=True)
    return made


@pytest.fixture
def members():
    return dataset(np.random.default_rng(1), members=4)


PLAIN = Conventions(weights="none")
WARM = Event({"2m_temperature": 282.0}, name="warm")


def loops(members, truth, event, lead=0):
    """Number of members with the event, and whether it happened, at every point and time."""
    name = "2m_temperature"
    valid = members["time"].values + members["prediction_timedelta"].values[lead]
    f = members[name].isel(prediction_timedelta=lead).sel(time=members["time"].values[np.isin(valid, truth["time"].values)])
    o = truth[name].sel(time=valid[np.isin(valid, truth["time"].values)])
    limit = event.threshold[name]
    happens = (lambda x: x > limit) if event.above else (lambda x: x < limit)
    return happens(f.values).sum(axis=1), happens(o.values)


@pytest.mark.parametrize("above", [True, False])
def test_brier_and_its_relatives_equal_loops(members, truth, above):
    event = Event({"2m_temperature": 282.0}, above=above)
    found = members.skill.events(truth, event, PLAIN)["2m_temperature"].isel(prediction_timedelta=0, region=0)
    count, happened = loops(members, truth, event)
    p = count / 4
    assert float(found.sel(metric="brier")) == pytest.approx(((p - happened) ** 2).mean(), rel=1e-12)
    fair = ((p - happened) ** 2 - p * (1 - p) / 3).mean()
    assert float(found.sel(metric="brier_fair")) == pytest.approx(fair, rel=1e-12)
    frequency = happened.mean()
    skill = 1 - ((p - happened) ** 2).mean() / (frequency * (1 - frequency))
    assert float(found.sel(metric="brier_skill")) == pytest.approx(skill, rel=1e-10)
    hits = (happened & (p >= 0.5)).mean()
    assert float(found.sel(metric="hit_rate")) == pytest.approx(hits / frequency, rel=1e-12)


def test_brier_is_reliability_minus_resolution_plus_uncertainty(members, truth):
    """Murphy (1973), exact with one bin for each number of members."""
    found = members.skill.events(truth, WARM, Conventions(regions=["global", "tropics"]))["2m_temperature"]
    parts = found.sel(metric="reliability") - found.sel(metric="resolution") + found.sel(metric="uncertainty")
    np.testing.assert_allclose(parts, found.sel(metric="brier"), rtol=1e-12)


def test_reliability_diagram_is_the_frequency_for_each_number_of_members(members, truth):
    diagram = members.skill.reliability(truth, WARM, PLAIN)
    count, happened = loops(members, truth, WARM)
    observed, share = (diagram[key]["2m_temperature"].isel(prediction_timedelta=0, region=0) for key in ("observed", "share"))
    assert observed["probability"].values.tolist() == [0, 0.25, 0.5, 0.75, 1]
    for k in range(5):
        assert float(observed[k]) == pytest.approx(happened[count == k].mean(), rel=1e-12)
        assert float(share[k]) == pytest.approx((count == k).mean(), rel=1e-12)


def test_roc_of_a_perfect_and_of_an_ignorant_forecast():
    perfect = event_scores(np.array([0.7, 0.0, 0.3]), np.array([0.0, 0.0, 0.3]))
    assert perfect["roc_area"] == pytest.approx(1)
    assert perfect["brier"] == 0
    ignorant = np.array([0.2, 0.5, 0.3])
    assert event_scores(ignorant, 0.4 * ignorant)["roc_area"] == pytest.approx(0.5)
    curve = roc_curve(ignorant, 0.4 * ignorant)
    assert curve["hit_rate"].tolist() == pytest.approx([1, 0.8, 0.3, 0])


def test_roc_area_is_the_chance_that_an_event_was_given_the_higher_probability(members, truth):
    """Mann and Whitney: ties count half."""
    found = members.skill.events(truth, WARM, PLAIN)["2m_temperature"].isel(prediction_timedelta=0, region=0)
    count, happened = loops(members, truth, WARM)
    yes, no = count[happened], count[~happened]
    chance = (yes[:, None] > no).mean() + (yes[:, None] == no).mean() / 2
    assert float(found.sel(metric="roc_area")) == pytest.approx(chance, rel=1e-12)
    roc = members.skill.roc(truth, WARM, PLAIN)
    assert float(roc["hit_rate"]["2m_temperature"].isel(warned_at=0, region=0, prediction_timedelta=0)) == 1


def test_contingency_scores_by_hand():
    """Finley's tornadoes (1884): 28 hits, 23 misses, 72 false alarms, 2680 correct rejections."""
    a, c, b, d = np.array([28, 23, 72, 2680]) / 2803
    found = contingency_scores(a, c, b, d)
    assert found["hit_rate"] == pytest.approx(0.549, abs=5e-4)
    assert found["false_alarm_ratio"] == pytest.approx(0.720, abs=5e-4)
    assert found["critical_success_index"] == pytest.approx(0.228, abs=5e-4)
    assert found["equitable_threat_score"] == pytest.approx(0.216, abs=5e-4)
    assert found["peirce"] == pytest.approx(0.523, abs=5e-4)
    assert found["frequency_bias"] == pytest.approx(1.96, abs=5e-3)
    h, f = 28 / 51, 72 / 2752
    sedi = (np.log(f) - np.log(h) - np.log(1 - f) + np.log(1 - h)) / (np.log(f) + np.log(h) + np.log(1 - f) + np.log(1 - h))
    assert found["sedi"] == pytest.approx(sedi, rel=1e-12)


def test_a_forecast_without_members_is_an_ensemble_of_one(members, truth):
    one = members.isel(number=0, drop=True)
    found = one.skill.events(truth, WARM, PLAIN)["2m_temperature"].isel(prediction_timedelta=0, region=0)
    count, happened = loops(members.isel(number=[0]), truth, WARM)
    assert float(found.sel(metric="brier")) == pytest.approx((count != happened).mean(), rel=1e-12)
    assert np.isnan(found.sel(metric="brier_fair"))


@pytest.mark.filterwarnings("ignore:truth holds no")
def test_missing_points_count_for_no_event(members, truth):
    spoilt = truth.copy(deep=True)
    spoilt["2m_temperature"][:, :3] = np.nan
    found = members.skill.events(spoilt, WARM, PLAIN)["2m_temperature"]
    rest = members.isel(latitude=slice(3, None)).skill.events(truth.isel(latitude=slice(3, None)), WARM, PLAIN)[
        "2m_temperature"
    ]
    np.testing.assert_allclose(found, rest, rtol=1e-12)


def test_an_extreme_is_what_lies_above_the_quantile_of_its_place_and_hour():
    """Over the span that they are made of, a fifth of all values lies above the quantile 0.8."""
    truth = dataset(np.random.default_rng(2), times=120, leads=1).isel(prediction_timedelta=0, drop=True)
    members = dataset(np.random.default_rng(3), times=110, members=4)
    for by in (None, "hour", "month"):
        limit = climatological_quantile(truth, [0.5, 0.8], by=by)["2m_temperature"].sel(quantile=0.8)
        event = Event({"2m_temperature": limit.isel(latitude=slice(None, None, -1))})
        found = members.skill.events(truth, event, PLAIN)["2m_temperature"].isel(prediction_timedelta=0, region=0)
        p = np.sqrt(0.25 - float(found.sel(metric="uncertainty")))
        assert 0.5 - p == pytest.approx(0.2, abs=0.04), by
    with pytest.raises(VerificationError, match="threshold of 2m_temperature has the dimensions .'quantile'"):
        Event({"2m_temperature": climatological_quantile(truth, [0.5, 0.8])["2m_temperature"]})


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"quantiles": 1.5}, "quantiles must lie"), ({"by": "week"}, "by must be"), ({"span": ("1990", "1991")}, "holds none")],
)
def test_quantiles_that_cannot_be_made_are_refused(truth, changes, message):
    with pytest.raises(VerificationError, match=message):
        climatological_quantile(truth, **{"quantiles": 0.5} | changes)


def test_fractions_of_one_point_are_the_brier_scores_relative(members, truth):
    """Neighbourhood 1: 1 - mean (f - o)^2 / mean (f^2 + o^2)."""
    one = members.isel(number=0, drop=True)
    found = one.skill.fractions_skill_score(truth, WARM, [1], PLAIN)["2m_temperature"].isel(prediction_timedelta=0, region=0)
    count, happened = loops(members.isel(number=[0]), truth, WARM)
    assert found.item() == pytest.approx(1 - (count != happened).mean() / (count.mean() + happened.mean()), rel=1e-12)


def test_fractions_forgive_a_shift_within_the_square_and_wrap_around(truth):
    """One column of events, forecast one column beside it, across longitude 0: no skill at one point, some in squares of 3."""
    o = xr.zeros_like(truth)
    o["2m_temperature"][..., 0] = 300
    f = o.roll(longitude=-1).isel(time=slice(0, 20)).expand_dims(prediction_timedelta=[STEP], axis=1)
    found = f.skill.fractions_skill_score(o, Event({"2m_temperature": 282.0}), [1, 3], PLAIN)["2m_temperature"].squeeze()
    # Squares of 3: fractions 1/3 in columns (-1, 0, 1) and (-2, -1, 0): 2 of 4 differ by 1/3: 1 - (2/9) / (6/9)
    np.testing.assert_allclose(found, [0, 1 - 2 / 6], atol=1e-12)
    with pytest.raises(VerificationError, match="odd"):
        fraction_statistics(WARM, 4)


@pytest.mark.filterwarnings("ignore:truth holds no")
def test_squares_over_a_pole_or_with_a_missing_point_are_left_out(truth, members):
    one = members.isel(number=0, drop=True)
    spoilt = truth.copy(deep=True)
    spoilt["2m_temperature"][:, 0] = np.nan  # the pole row, which squares of 3 leave out anyway, and the row beside it with it
    found = one.skill.fractions_skill_score(spoilt, WARM, [3], PLAIN)["2m_temperature"].values
    whole = one.skill.fractions_skill_score(truth, WARM, [3], PLAIN)["2m_temperature"].values
    assert not np.allclose(found, whole)
    moved = truth.copy(deep=True)
    moved["2m_temperature"][:, 0] = 999.0
    third = moved.copy(deep=True)
    third["2m_temperature"][:, 0] = np.nan
    np.testing.assert_allclose(one.skill.fractions_skill_score(third, WARM, [3], PLAIN)["2m_temperature"], found, rtol=1e-12)


def climatology_of_rain():
    """Dry fraction 0.3 (but 0.05 in the north, not scored), wet threshold 5 mm."""
    p1 = np.full((4, 366, 7, 8), 0.3)
    p1[:, :, 0] = 0.05
    dims = ("hour", "dayofyear", "latitude", "longitude")
    coords = {"hour": [0, 6, 12, 18], "dayofyear": np.arange(1, 367), "latitude": LATITUDE, "longitude": LONGITUDE}
    return xr.Dataset(
        {f"{RAIN}_seeps_dry_fraction": (dims, p1), f"{RAIN}_seeps_threshold": (dims, np.full_like(p1, 5e-3))}, coords
    )


def rain(values):
    made = dataset(np.random.default_rng(0), times=6, leads=1, name=RAIN)
    return made.copy(data={RAIN: np.broadcast_to(np.asarray(values)[:, None, None, None], (6, 1, 7, 8))})


def test_seeps_by_hand():
    """Forecast and truth in mm; a value equal to the dry threshold is dry (WeatherBench 2 gives it to no category)."""
    truth = rain([0.0, 0.0, 1e-3, 0.25e-3, 5e-3, 9e-3]).isel(prediction_timedelta=0, drop=True)
    forecast = rain([0.0, 9e-3, 0.0, 0.1e-3, 1e-3, 9e-3]).assign_coords(prediction_timedelta=[np.timedelta64(0, "h")])
    p1 = 0.3
    costs = [0, 0.5 * (1 / p1 + 3 / (2 + p1)), 0.5 / (1 - p1), 0, 0.5 * 3 / (1 - p1), 0]
    found = forecast.skill.seeps(truth, climatology_of_rain(), options=PLAIN)
    assert found.dims == ("region", "prediction_timedelta")
    assert found.item() == pytest.approx(np.mean(costs), rel=1e-12)


@pytest.mark.parametrize("category", [0, 1, 2])
@pytest.mark.parametrize("p1", [0.15, 0.5, 0.8])
def test_a_constant_forecast_of_any_category_scores_one(category, p1):
    """Where light is twice as frequent as heavy."""
    frequencies = np.array([p1, 2 * (1 - p1) / 3, (1 - p1) / 3])
    assert scoring_matrix(np.array(p1))[category] @ frequencies == pytest.approx(1, rel=1e-12)


def test_seeps_needs_its_climatology_and_a_threshold():
    with pytest.raises(VerificationError, match="climatology lacks"):
        seeps_statistic(climatology_of_rain().drop_vars(f"{RAIN}_seeps_threshold"))
    other = climatology_of_rain().rename({name: name.replace(RAIN, "rain") for name in climatology_of_rain()})
    with pytest.raises(VerificationError, match="dry_threshold of rain is not known"):
        seeps_statistic(other, "rain")


def test_events_are_named_by_any_name_and_thresholds_in_other_units_are_refused(members, truth):
    wanted = members.skill.events(truth, Event({"2m_temperature": 285.0}))
    found = members.rename({"2m_temperature": "t2m"}).skill.events(truth, Event({"t2m": 285.0}))
    xr.testing.assert_identical(found, wanted)
    celsius = xr.DataArray(285.0 - 273.15, attrs={"units": "degC"}).expand_dims(latitude=LATITUDE, longitude=LONGITUDE)
    xr.testing.assert_equal(members.skill.events(truth, Event({"2t": celsius})), wanted)
    with pytest.raises(VerificationError, match=r"threshold of 2m_temperature is 11.85; wanted 150 to 350 K"):
        Event({"t2m": 11.85})
    with pytest.raises(VerificationError, match="threshold names a variable twice"):
        Event({"t2m": 285.0, "2t": 285.0})
