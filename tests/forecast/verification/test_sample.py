"""The same initial times for all, each where truth verifies it, and none that was trained on."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from forecast.verification.inputs import VerificationError
from forecast.verification.sample import choose_sample, refuse_training_times, training_spans
from tests.helpers.verification import STEP, drifting_truth, imperfect_forecast


@pytest.fixture(scope="module")
def truth() -> xr.Dataset:
    return drifting_truth(steps=30)


@pytest.fixture(scope="module")
def made(truth: xr.Dataset) -> xr.Dataset:
    return imperfect_forecast(truth, 20, 29, leads=8)


def test_each_lead_time_has_the_initial_times_that_verify(truth, made):
    """Truth ends 9, 8, ... 1 steps after the nine initial times."""
    sample = choose_sample({"forecast": made}, truth)
    np.testing.assert_array_equal(sample.counts, [9, 8, 7, 6, 5, 4, 3, 2])
    assert sample.spacing == STEP
    np.testing.assert_array_equal(sample.inside[0], [True] * 8)
    np.testing.assert_array_equal(sample.inside[8], [True] + [False] * 7)


def test_rivals_share_the_sample(truth, made):
    sample = choose_sample({"forecast": made, "rival": made.isel(time=slice(2, None))}, truth)
    np.testing.assert_array_equal(sample.initial_times, made["time"].values[2:])
    assert "2 initial times are not in rival" in " ".join(sample.dropped)


def test_initial_times_without_history_are_dropped_for_all(truth, made):
    late = truth.isel(time=slice(20, None))
    sample = choose_sample({"forecast": made}, late, history=2, step=STEP)
    assert sample.initial_times[0] == made["time"].values[1]
    assert "lack 2 analyses" in " ".join(sample.dropped)


def test_span_of_initial_times(truth, made):
    first = str(made["time"].values[3])
    assert choose_sample({"forecast": made}, truth, start=first).initial_times.size == 6
    assert choose_sample({"forecast": made}, truth, end=first).initial_times.size == 4


def test_initial_and_lead_times_that_never_verify_are_dropped(truth, made):
    sample = choose_sample({"forecast": made}, truth.isel(time=slice(0, 25)))
    assert (sample.initial_times.size, sample.leads.size) == (4, 4)
    assert "no valid time in truth" in " ".join(sample.dropped)
    alone = choose_sample({"forecast": made.isel(time=[0])}, truth)
    assert alone.spacing == np.timedelta64(1, "D")


def test_no_overlap_tells_both_spans(truth, made):
    with pytest.raises(VerificationError, match=r"no valid time of forecast is in truth.*2026-01-06T00.*2026-01-01T00"):
        choose_sample({"forecast": made}, truth.isel(time=slice(0, 10)))


def test_training_spans_are_read(made):
    spans = training_spans(made.assign_attrs(training_span="2025-12-01/2026-01-20; 1990-01-01T00Z/1999-12-31T18Z"))
    assert len(spans) == 2
    assert spans[0] == (np.datetime64("2025-12-01", "ns"), np.datetime64("2026-01-21", "ns") - np.timedelta64(1, "ns"))
    assert spans[1][1] == np.datetime64("1999-12-31T19", "ns") - np.timedelta64(1, "ns")
    assert training_spans(made.drop_attrs()) == []
    compact = training_spans(made.assign_attrs(training_span="20251201/20260120T18"))
    assert compact == [(spans[0][0], np.datetime64("2026-01-20T19", "ns") - np.timedelta64(1, "ns"))]


@pytest.mark.parametrize("text", ["last winter", "2025-12-01", "202512/202601", "2025-12-01/2026-01-20/2026-02-01"])
def test_an_unreadable_training_span_is_refused(made, text):
    with pytest.raises(VerificationError, match="start/end"):
        training_spans(made.assign_attrs(training_span=text))


def test_a_compact_date_is_a_day_and_no_year(truth, made):
    """NumPy takes 20260106 for a year."""
    first = choose_sample({"forecast": made}, truth).initial_times[0]
    assert choose_sample({"forecast": made}, truth, start="20260106", end="20260106").initial_times[0] == first
    with pytest.raises(VerificationError, match="end must be a date in UTC such as"):
        choose_sample({"forecast": made}, truth, end="soon")


def test_what_was_trained_on_is_refused(truth, made):
    sample = choose_sample({"forecast": made}, truth)
    before = (np.datetime64("2025-12-01", "ns"), np.datetime64("2026-01-05T18", "ns"))
    refuse_training_times(sample, [before], "forecast")
    initial = (np.datetime64("2026-01-06T00", "ns"), np.datetime64("2026-01-06T01", "ns"))
    with pytest.raises(VerificationError, match=r"1 initial times.*training span of forecast.*score_training_span=true"):
        refuse_training_times(sample, [initial], "forecast")
    valid = (np.datetime64("2026-01-08T06", "ns"), np.datetime64("2026-01-08T07", "ns"))
    with pytest.raises(VerificationError, match="1 valid times"):
        refuse_training_times(sample, [valid], "forecast")
