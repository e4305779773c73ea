"""Mean states by hour of day, by hand."""

import numpy as np
import pytest

from data_pipelines.daily_cycle import hour_of_day, mean_by_group


def test_hours_are_those_of_the_day_whatever_the_unit():
    times = np.array(["2020-02-28T00:00", "2020-02-29T06:59", "1950-01-01T23:00"], "datetime64[ns]")
    assert hour_of_day(times).tolist() == [0, 6, 23]
    assert hour_of_day(times.astype("datetime64[m]")).tolist() == [0, 6, 23]


def test_groups_are_averaged_over_all_parts_and_a_group_without_states_is_nan():
    """An unweighted mean of the parts' means would be 3, 5 for the first group."""
    parts = [
        (np.array([0, 2, 0]), np.array([[1.0, 2.0], [7.0, 9.0], [3.0, 4.0]], np.float32)),
        (np.array([0]), np.array([[5.0, 9.0]], np.float32)),
    ]
    mean = mean_by_group(parts, 3)
    assert mean.dtype == np.float32
    np.testing.assert_array_equal(mean, [[3, 5], [np.nan, np.nan], [7, 9]])


def test_sums_are_float64():
    """In float32 the sum of a million pressures loses pascals."""
    states = np.full((200_000, 1), 101_325.1, np.float32)
    np.testing.assert_array_equal(mean_by_group([(np.zeros(len(states), int), states)], 1), states[:1])


def test_no_part_is_refused():
    with pytest.raises(ValueError, match="parts is empty"):
        mean_by_group([], 4)
