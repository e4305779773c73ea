"""Stages hand over at the right lead times and read the right states."""

import pytest

from forecast.cascade import Cascade, Stage
from forecast.forecaster import ForecastError
from tests.helpers.analyses import make_analysis
from tests.helpers.forecasters import extrapolation

ANALYSIS = make_analysis()


def stage(until, name="", **settings):
    return Stage(until, extrapolation(ANALYSIS, **settings), name)


def test_two_stages_share_the_lead_times_at_the_hand_over():
    cascade = Cascade([stage(12), stage(30)])
    assert [(step.lead_hours, step.stage) for step in cascade.schedule] == [(6, 0), (12, 0), (18, 1), (24, 1), (30, 1)]
    assert cascade.schedule[2].inputs == (6, 12)
    assert cascade.until_hours == 30


def test_a_stage_of_longer_steps_reads_states_its_own_step_apart():
    cascade = Cascade([stage(24, step_hours=6), stage(72, step_hours=24)])
    assert [(step.lead_hours, step.inputs) for step in cascade.schedule[4:]] == [(48, (0, 24)), (72, (24, 48))]


def test_longer_history_reaches_back_into_the_analysis():
    cascade = Cascade([stage(6, history=2), stage(36, step_hours=6, history=3)])
    assert cascade.schedule[1].inputs == (-6, 0, 6)
    assert cascade.analysis_leads() == (-6, 0)
    assert Cascade([stage(6, history=1)]).analysis_leads() == (0,)


def test_analysis_leads_are_those_of_the_steps_asked_for():
    cascade = Cascade([stage(6, history=1), stage(54, step_hours=24, history=1), stage(78, step_hours=24, history=4)])
    assert cascade.analysis_leads(1) == (0,)
    assert cascade.analysis_leads() == (-18, 0)


def test_three_stages_of_any_length_and_the_steps_to_a_lead_time():
    cascade = Cascade([stage(6), stage(18), stage(66, step_hours=12)])
    assert [step.lead_hours for step in cascade.schedule] == [6, 12, 18, 30, 42, 54, 66]
    assert cascade.steps_until(30) == 4
    assert [step.stage for step in Cascade.of(extrapolation(ANALYSIS), 3).schedule] == [0, 0, 0]


def test_a_stage_of_long_steps_makes_the_states_between_them_from_those_of_the_stage_before():
    cascade = Cascade([stage(6), stage(24, step_hours=12, interval_hours=6)])
    assert [(step.lead_hours, step.inputs) for step in cascade.schedule] == [
        (6, (-6, 0)), (12, (-12, 0)), (18, (-6, 6)), (24, (0, 12)),
    ]  # fmt: skip
    assert cascade.analysis_leads() == (-12, -6, 0)


def test_alone_a_stage_of_long_steps_makes_what_comes_from_the_newest_analysis():
    alone = extrapolation(ANALYSIS, step_hours=12, interval_hours=6)
    assert [step.lead_hours for step in Cascade.of(alone, 3).schedule] == [12, 24, 36]
    with pytest.raises(
        ForecastError, match=r"stage 0 \(slow\) must end at a lead time that it makes; in steps of 12 h .* no state at 30 h"
    ):
        Cascade([Stage(30, alone, "slow")])


def test_lead_beyond_the_cascade_is_refused():
    with pytest.raises(ForecastError, match="lead must be at most 12 h, where the cascade ends; got 24 h"):
        Cascade([stage(12)]).steps_until(24)


def test_lead_between_two_steps_is_refused_with_the_nearest():
    with pytest.raises(ForecastError, match="got 16 h, the nearest is 18 h"):
        Cascade([stage(24)]).steps_until(16)


def test_stages_that_do_not_ascend_are_refused():
    with pytest.raises(ForecastError, match=r"stage 1 \(medium\) must end after 12 h, where it starts; got 6 h"):
        Cascade([stage(12), stage(6, "medium")])


def test_a_range_that_is_no_multiple_of_the_step_is_refused():
    with pytest.raises(
        ForecastError,
        match=r"stage 1 \(Extrapolation\) makes a state every 24 h and must cover a multiple of that; got 12 to 48 h",
    ):
        Cascade([stage(12), stage(48, step_hours=24)])


def test_a_state_that_no_stage_makes_is_named():
    with pytest.raises(ForecastError, match="starts at 12 h and needs the state at 9 h, which no earlier stage makes"):
        Cascade([stage(12), stage(24, step_hours=3)])


def test_channels_that_differ_are_refused_and_their_order_is_not():
    Cascade([stage(12), stage(24, channels=("mean_sea_level_pressure", "temperature_850", "temperature_500"))])
    with pytest.raises(ForecastError, match=r"stage 1 .* must make the channels of stage 0.*it makes \['temperature_850'\]"):
        Cascade([stage(12), stage(24, channels=("temperature_850",))])


def test_grids_that_differ_are_refused():
    other = Stage(24, extrapolation(make_analysis(rows=9)))
    with pytest.raises(ForecastError, match="must have the latitude of stage 0, 7 points from 90 to -90; it has 9"):
        Cascade([stage(12), other])


def test_a_cascade_without_stages_is_refused():
    with pytest.raises(ForecastError, match="cascade has no stage"):
        Cascade([])
