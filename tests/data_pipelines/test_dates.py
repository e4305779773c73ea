"""Dates of a command line: nothing that is no date is taken for one."""

from __future__ import annotations

import numpy as np
import pytest

from data_pipelines.dates import first_moment, last_moment, parse_date, seconds_of
from data_pipelines.standardise import SourceError


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        ("2020", "2020-01-01T00:00:00.000000000", "2020-12-31T23:59:59.999999999"),
        ("2020-02", "2020-02-01T00:00:00.000000000", "2020-02-29T23:59:59.999999999"),
        (" 2020-02-29 ", "2020-02-29T00:00:00.000000000", "2020-02-29T23:59:59.999999999"),
        ("20200229", "2020-02-29T00:00:00.000000000", "2020-02-29T23:59:59.999999999"),
        ("2020022906", "2020-02-29T06:00:00.000000000", "2020-02-29T06:59:59.999999999"),
        ("20200229T0630", "2020-02-29T06:30:00.000000000", "2020-02-29T06:30:59.999999999"),
        ("2020-02-29T06Z", "2020-02-29T06:00:00.000000000", "2020-02-29T06:59:59.999999999"),
        ("2020-02-29 06:30:05", "2020-02-29T06:30:05.000000000", "2020-02-29T06:30:05.999999999"),
        ("1678", "1678-01-01T00:00:00.000000000", "1678-12-31T23:59:59.999999999"),
        ("2261-12-31", "2261-12-31T00:00:00.000000000", "2261-12-31T23:59:59.999999999"),
    ],
)
def test_date_spans_what_it_names(text: str, first: str, last: str) -> None:
    assert first_moment(text, "start") == np.datetime64(first)
    assert last_moment(text, "end") == np.datetime64(last)


WORDS = ["", "NaT", "now", "today", "yesterday"]
NUMBERS = ["202002", "2020-13", "2020-02-30", "20200230", "2020-1-1", "20200101000000", "1677", "2262", "31.01.2020"]


@pytest.mark.parametrize("text", [*WORDS, *NUMBERS, "2020-01-01T00+02:00", "2020-01-01T06ZZ"])
def test_what_is_no_date_is_refused_by_name(text: str) -> None:
    """NumPy takes 202002 for the year 202,002, which in nanoseconds is some day of another century, and now for a date."""
    with pytest.raises(SourceError, match="start must be a date in UTC such as 2020-01-31 or .*; got"):
        parse_date(text, "start", SourceError)


@pytest.mark.parametrize(("unit", "seconds"), [
    ("hours", 3600), ("H", 3600), ("hr", 3600), ("days", 86400), ("d", 86400), (" min", 60), ("minutes", 60), ("s", 1),
    ("", None), ("1", None), ("months", None),
])  # fmt: skip
def test_units_of_time_are_known_by_their_usual_names(unit: str, seconds: int | None) -> None:
    assert seconds_of(unit) == seconds
