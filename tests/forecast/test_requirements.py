"""What a model needs and what it says when a store lacks it."""

import numpy as np
import pytest

from forecast.requirements import Requirements
from tests.helpers.analyses import make_analysis

CHANNELS = ("temperature_850", "mean_sea_level_pressure")


def test_requirements_of_an_analysis_accept_it() -> None:
    analysis = make_analysis()
    need = Requirements.of(analysis, CHANNELS)
    need.check(analysis)
    assert need.grid_shape == (7, 12)
    assert need.step_hours == 6
    assert need.has_poles


def test_states_lie_an_interval_apart_and_not_a_step() -> None:
    need = Requirements.of(make_analysis(), CHANNELS, step_hours=12)
    assert (need.step_hours, need.interval_hours, need.phases_per_day) == (12, 6, 4)
    need.check(make_analysis())
    with pytest.raises(ValueError, match="the model's states are 6 h apart; the store's 12 h. Rebuild it with every=6h"):
        need.check(make_analysis(step_hours=12))


def test_grid_between_the_poles_has_none() -> None:
    assert not Requirements(CHANNELS, (67.5, 22.5, -22.5, -67.5), (0.0, 90.0, 180.0, 270.0)).has_poles


@pytest.mark.parametrize(("change", "message"), [
    (lambda a: a.drop_vars("mean_sea_level_pressure"), "variable mean_sea_level_pressure is missing.*Rebuild it with var"),
    (lambda a: a.sel(level=[500]), r"level 850 hPa is missing for temperature.*the store has levels \[500\].*levels="),
    (lambda a: a.isel(longitude=slice(0, 11)), "longitude differs: the model was trained on 12 points.*11 points.*Regrid"),
    (lambda a: a.assign_coords(latitude=a.latitude * 0.99), "latitude differs: .*90 to -90.*89.1 to -89.1"),
    (lambda a: a.isel(time=slice(None, None, 2)), "time step differs: the model's states are 6 h apart; the store's 12 h"),
])  # fmt: skip
def test_store_that_does_not_fit_is_refused(change, message: str) -> None:
    analysis = make_analysis()
    with pytest.raises(ValueError, match=message):
        Requirements.of(analysis, CHANNELS).check(change(analysis))


@pytest.mark.parametrize(("settings", "message"), [
    ({"history": 0}, "history must be at least 1"),
    ({"step_hours": 0}, "step_hours must be at least 1"),
    ({"interval_hours": 4}, "step_hours must be a multiple of interval_hours; got 6 and 4"),
    ({"interval_hours": -6}, "step_hours must be a multiple of interval_hours; got 6 and -6"),
    ({"latitude": (-90.0, 0.0, 90.0)}, "latitude must run from north to south"),
    ({"longitude": (180.0, 0.0)}, "longitude must increase"),
])  # fmt: skip
def test_wrong_values_are_refused_by_name(settings: dict, message: str) -> None:
    values = {"channels": CHANNELS, "latitude": (90.0, 0.0, -90.0), "longitude": tuple(np.arange(4) * 90.0)} | settings
    with pytest.raises(ValueError, match=message):
        Requirements(**values)
