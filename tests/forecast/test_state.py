"""States are checked when built; reading them says what an analysis lacks."""

import numpy as np
import pytest
import torch

from forecast.forecaster import ForecastError
from forecast.state import State, check_times, read_states
from tests.helpers.analyses import make_analysis
from tests.helpers.forecasters import CHANNELS

TIMES = np.array(["2021-02-27T06", "2021-02-27T12"], "datetime64[ns]")


def state(fields=None, **changes):
    analysis = make_analysis()
    given = {
        "fields": torch.arange(2 * 3 * 7 * 12, dtype=torch.float32).view(2, 3, 7, 12) if fields is None else fields,
        "channels": CHANNELS,
        "initial_times": TIMES,
        "lead_hours": 18,
        "latitude": tuple(analysis["latitude"].values),
        "longitude": tuple(analysis["longitude"].values),
        "stage": 1,
    }
    return State(**(given | changes))


def test_valid_time_is_initial_time_plus_lead_time():
    np.testing.assert_array_equal(state().valid_times, TIMES + np.timedelta64(18, "h"))


def test_dataset_of_a_state_has_every_field_at_its_place():
    dataset = state().to_dataset()
    fields = state().fields.numpy()
    assert dataset["temperature"].dims == ("time", "prediction_timedelta", "level", "latitude", "longitude")
    np.testing.assert_array_equal(dataset["temperature"].sel(level=850).values[:, 0], fields[:, 1])
    np.testing.assert_array_equal(dataset["mean_sea_level_pressure"].values[:, 0], fields[:, 2])
    assert dataset["prediction_timedelta"].values[0] == np.timedelta64(18, "h")
    assert dataset["cascade_stage"].values.tolist() == [1]
    assert dataset["temperature"].attrs["units"] == "K"


def test_shape_that_does_not_fit_the_coordinates_is_refused():
    with pytest.raises(ForecastError, match=r"fields must have shape \(2, 3, 7, 12\).*got \(2, 3, 12, 7\)"):
        state(torch.zeros(2, 3, 12, 7))


def test_value_that_is_not_finite_is_named_by_channel_lead_and_initial_time():
    fields = torch.zeros(2, 3, 7, 12)
    fields[1, 2, 3, 4] = torch.inf
    with pytest.raises(ForecastError, match="mean_sea_level_pressure is not finite in 1 of 84 cells, 18 h after 2021-02-27T12"):
        state(fields)


def test_states_are_read_in_the_order_of_channels_and_times():
    analysis = make_analysis()
    times = np.array([TIMES[1], TIMES[0], TIMES[1]])
    states = read_states(analysis, CHANNELS[::-1], times)
    assert states.dtype == np.float32
    for place, time in enumerate(times):
        now = analysis.sel(time=time)
        np.testing.assert_array_equal(states[place, 0], now["mean_sea_level_pressure"])
        np.testing.assert_array_equal(states[place, 1], now["temperature"].sel(level=850))
        np.testing.assert_array_equal(states[place, 2], now["temperature"].sel(level=500))


def test_a_missing_time_is_named_with_what_the_store_covers():
    for time in ("2021-02-26T18", "2021-03-04T00", "2021-03-04T03"):
        covers = f"analysis of {time} is missing: the store covers 2021-02-27T00 to 2021-03-03T18 every 6 h. Choose start= and"
        with pytest.raises(ForecastError, match=covers):
            read_states(make_analysis(), CHANNELS, np.array([time], "datetime64[ns]"))


def test_a_time_between_those_of_the_store_is_told_with_its_step():
    between = (
        "analysis of 2021-02-27T09 is missing: the store from 2021-02-27T00 to 2021-03-03T18 holds one every 6 h.*every= a"
    )
    with pytest.raises(ForecastError, match=between):
        read_states(make_analysis(), CHANNELS, np.array(["2021-02-27T09"], "datetime64[ns]"))


def test_a_gap_at_the_store_s_own_step_is_not_blamed_on_the_step():
    analysis = make_analysis()
    gap = analysis.isel(time=[0, 1, 2, 3, 5, 6])
    with pytest.raises(ForecastError, match="analysis of 2021-02-28T00 is missing: the store covers"):
        check_times(gap, analysis.time.values[4:5])


def test_a_missing_time_says_who_needs_it():
    with pytest.raises(ForecastError, match="2021-02-26T18 is missing, says the test"):
        check_times(make_analysis(), TIMES[:1] - np.timedelta64(12, "h"), ", says the test")


def test_nan_in_the_analysis_is_named_by_channel_and_time():
    analysis = make_analysis()
    analysis["temperature"][2, 1, 3, 4] = np.nan
    with pytest.raises(ForecastError, match="2021-02-27T12 holds values that are not finite in temperature_850"):
        read_states(analysis, CHANNELS, TIMES)
