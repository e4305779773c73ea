"""Labels become slices where they can, and select the same."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from data_pipelines.selection import as_slice, select

TIMES = np.datetime64("2020-01-01", "ns") + np.arange(12) * np.timedelta64(6, "h")
DATA = xr.Dataset(
    {"field": (("time", "row"), np.random.default_rng(0).standard_normal((12, 3)))}, {"time": TIMES, "row": [30, 20, 10]}
)


@pytest.mark.parametrize(
    ("positions", "wanted"),
    [
        ([3], slice(3, 4)),
        ([2, 3, 4], slice(2, 5, 1)),
        ([1, 4, 7], slice(1, 8, 3)),
        ([5, 4, 3], slice(5, 2, -1)),
        ([2, 1, 0], slice(2, None, -1)),
    ],
)
def test_equally_spaced_positions_are_a_slice(positions, wanted):
    assert as_slice(np.array(positions)) == wanted
    np.testing.assert_array_equal(np.arange(12)[wanted], positions)


@pytest.mark.parametrize("positions", [[], [0, 1, 3], [2, 2], [3, 1, 2]])
def test_other_positions_stay(positions):
    np.testing.assert_array_equal(as_slice(np.array(positions, dtype=np.intp)), positions)


@pytest.mark.parametrize("positions", [[], [0], [11], [0, 1, 2], [1, 5, 9], [0, 1, 5], [9, 4, 4]])
def test_selects_what_sel_selects(positions):
    xr.testing.assert_identical(
        select(DATA, time=TIMES[positions], row=[10, 30]), DATA.sel(time=TIMES[positions], row=[10, 30])
    )


def test_labels_that_are_not_there_are_named():
    with pytest.raises(KeyError, match=r"row lacks \[15\]"):
        select(DATA, time=TIMES[:2], row=[10, 15])
