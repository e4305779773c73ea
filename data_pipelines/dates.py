"""Dates as people write them on a command line: read strictly, because NumPy takes 20200131 for the year 20,200,131.

And the units in which files say how long something is.
"""

from __future__ import annotations

import re

import numpy as np

from data_pipelines.errors import StoreError

_PLAIN = re.compile(r"\d{4}(-\d{2}(-\d{2}([T ]\d{2}(:\d{2}(:\d{2}(\.\d{1,9})?)?)?)?)?)?")
_COMPACT = re.compile(r"(\d{4})(\d{2})(\d{2})(?:T?(\d{2})(?::?(\d{2}))?)?")  # 20200131, 2020013106, 20200131T0630
FIRST_YEAR, LAST_YEAR = 1678, 2262  # what int64 nanoseconds can hold, in whole years
DURATIONS = {
    **dict.fromkeys(("day", "d"), 86400), **dict.fromkeys(("hour", "hr", "h"), 3600),
    **dict.fromkeys(("minute", "min"), 60), **dict.fromkeys(("second", "sec", "s"), 1),
}  # fmt: skip


def seconds_of(unit: str) -> int | None:
    """Seconds of a unit of time under one of its usual names, in the singular or the plural; None where it is none."""
    name = unit.strip().lower()
    return DURATIONS.get(name) or DURATIONS.get(name.removesuffix("s"))


def parse_date(text: str, name: str, error: type[ValueError] = StoreError) -> np.datetime64:
    """Read a date in UTC, to the precision in which it is written.

    Parameters
    ----------
    text
        ISO 8601 from the year down to the second, as in ``"2020"``, ``"2020-01-31"``, ``"2020-01-31T06:30"``, with or without
        a Z at its end; or compact, as in ``"20200131"``, ``"2020013106"``.
    name
        What the message calls it.
    error
        What to raise.

    Returns
    -------
    datetime64 whose unit says how much was written: days for ``"2020-01-31"``. Fits int64 nanoseconds.

    Raises
    ------
    StoreError
        If it is no date, names another time zone, or lies beyond the years 1678 to 2261.
    """
    plain = str(text).strip().removesuffix("Z")
    compact = _COMPACT.fullmatch(plain)
    if compact is not None:
        year, month, day, hour, minute = compact.groups()
        plain = f"{year}-{month}-{day}" + (f"T{hour}" if hour else "") + (f":{minute}" if minute else "")
    try:
        if not _PLAIN.fullmatch(plain):
            raise ValueError
        date = np.datetime64(plain)
        if not FIRST_YEAR <= int(plain[:4]) < LAST_YEAR:
            raise ValueError
    except ValueError:
        raise error(f"{name} must be a date in UTC such as 2020-01-31 or 2020-01-31T06; got {text!r}.") from None
    return date


def first_moment(text: str, name: str, error: type[ValueError] = StoreError) -> np.datetime64:
    """The first moment [ns] that a date names. Arguments and errors: `parse_date`."""
    return parse_date(text, name, error).astype("datetime64[ns]")


def last_moment(text: str, name: str, error: type[ValueError] = StoreError) -> np.datetime64:
    """The last moment [ns] that a date names: a day includes its last nanosecond, a month its last day."""
    return (parse_date(text, name, error) + 1).astype("datetime64[ns]") - np.timedelta64(1, "ns")


def time_slice(
    start: str | None, end: str | None, names: tuple[str, str] = ("start", "end"), error: type[ValueError] = StoreError
) -> slice:
    """Labels for `Dataset.sel`: from the first moment of `start` to the last of `end`; None or "" sets no bound.

    Errors: `parse_date`, with `names` for what the two are called.
    """
    return slice(
        first_moment(start, names[0], error) if start else None,
        last_moment(end, names[1], error) if end else None,
    )
