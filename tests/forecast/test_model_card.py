"""The model card of the shipped stages says what is stored."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from benchmarks.skill.shipped import RESULT, skilful_until, table

CARD = Path(__file__).parents[2] / "forecast" / "shipped" / "README.md"


def test_tables_of_the_card_are_those_of_the_stored_scores() -> None:
    card = CARD.read_text()
    for part in table(json.loads(RESULT.read_text())).split("\n\n"):
        assert part in card


@pytest.mark.parametrize(
    ("acc", "hours"),
    [([0.9, 0.7, 0.5], 12), ([0.9, 0.7, 0.61], 18), ([0.5, 0.9, 0.9], 0), ([0.9, 0.5, 0.9], 6), ([0.9, np.nan, 0.9], 6)],
)
def test_skill_ends_where_correlation_first_falls(acc: list[float], hours: int) -> None:
    leads = np.array([6, 12, 18], dtype="timedelta64[h]").astype("timedelta64[ns]")
    dims = ("forecast", "metric", "region", "prediction_timedelta")
    coords = {"forecast": ["a"], "metric": ["acc"], "region": ["global"], "prediction_timedelta": leads}
    scores = xr.Dataset({"mean_sea_level_pressure": (dims, np.array(acc)[None, None, None])}, coords)
    assert skilful_until(scores, "mean_sea_level_pressure", "a") == hours
