"""States by hour of day: what a span too short for a climatology by day of year can tell."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray


def hour_of_day(time: NDArray[np.datetime64]) -> NDArray[np.int64]:
    """Whole hours since midnight, 0 to 23."""
    since_midnight = time.astype("datetime64[ns]") - time.astype("datetime64[D]")
    return (since_midnight // np.timedelta64(1, "h")).astype(np.int64)


def mean_by_group(parts: Iterable[tuple[NDArray[np.integer[Any]], NDArray[np.float32]]], groups: int) -> NDArray[np.float32]:
    """Mean states by group, as by hour of day where a span is too short for a day-of-year cycle.

    Parameters
    ----------
    parts
        Runs of states (time, ...), each with the group of every state, 0 to groups - 1.
    groups
        How many there are.

    Returns
    -------
    Shape (group, ...), summed in float64; NaN for a group without a state.

    Raises
    ------
    ValueError
        If there is no part.
    """
    total: Any = None
    count = np.zeros(groups)
    for group, states in parts:
        total = np.zeros((groups, *states.shape[1:])) if total is None else total
        for number in np.unique(group):
            total[number] += states[group == number].sum(axis=0, dtype=np.float64)
        count += np.bincount(group, minlength=groups)
    if total is None:
        raise ValueError("parts is empty; a mean needs at least one run of states.")
    with np.errstate(invalid="ignore"):
        return (total / count.reshape(-1, *(1,) * (total.ndim - 1))).astype(np.float32)
