"""No rain is lost between an hourly source and a store with longer steps: it is summed up and named so, or refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from data_pipelines.accumulations import SUMS, sum_called
from data_pipelines.build import build_analysis_store
from data_pipelines.sources import Selection, SourceError, open_source, open_sources
from data_pipelines.standardise import LEFT_OUT, NOTES
from data_pipelines.store import open_analysis


def hourly(first: str, hours: int, step: int = 1) -> xr.Dataset:
    """Rain [mm], another in every hour, and pressure, as a centre's file has them."""
    time = np.datetime64(first, "ns") + np.arange(hours) * np.timedelta64(step, "h")
    since = (time - np.datetime64("2020-01-01", "ns")) / np.timedelta64(1, "h")
    pattern = 1 + np.linspace(0, 1, 40).reshape(5, 8)  # 1 at the first point
    rain = ((since % 29)[:, None, None] * pattern).astype(np.float32)
    coords = {"time": time, "latitude": np.linspace(90, -90, 5), "longitude": np.arange(0, 360, 45.0)}
    dims = ("time", "latitude", "longitude")
    pressure = (dims, (1e5 + rain).astype(np.float32) + 10 * pattern.astype(np.float32), {"units": "Pa"})
    return xr.Dataset({"tp": (dims, rain, {"units": "mm"}), "msl": pressure}, coords)


@pytest.fixture
def days(tmp_path: Path) -> Path:
    """Two files, a day each, so that the first sum of the second day needs the first file."""
    hourly("2020-01-01T00", 24).to_netcdf(tmp_path / "rain_1.nc")
    hourly("2020-01-02T00", 24).to_netcdf(tmp_path / "rain_2.nc")
    return tmp_path


def rain_before(time: np.datetime64, hours: int) -> float:
    """Metres at the first point, from the formula of `hourly`."""
    last = round((time - np.datetime64("2020-01-01", "ns")) / np.timedelta64(1, "h"))
    return sum(hour % 29 for hour in range(last - hours + 1, last + 1)) / 1000


def check(data: xr.Dataset, hours: int) -> None:
    field = data[f"total_precipitation_{hours}hr"]
    for time in data["time"].values:
        np.testing.assert_allclose(field.sel(time=time).values[0, 0], rain_before(time, hours), rtol=1e-6)
    assert field.attrs["units"] == "m"


def test_thinned_hours_become_sums_over_the_step(days):
    data = open_source(days, Selection(every="6h"))
    assert list(data.data_vars) == ["mean_sea_level_pressure", "total_precipitation_6hr"]
    assert all(array.chunks for array in data.data_vars.values()), "still lazy"
    np.testing.assert_array_equal(
        data["time"], np.arange("2020-01-01T06", "2020-01-03", np.timedelta64(6, "h"), dtype="datetime64[ns]")
    )
    check(data, 6)
    assert "total_precipitation_6hr summed up from total_precipitation at steps of 1 h" in data.attrs[NOTES]
    assert "1 times without all of the 6 h that total_precipitation_6hr sums up are left out" in data.attrs[LEFT_OUT]


def test_hours_before_the_start_are_summed_up_too(days):
    data = open_source(days, Selection(every="12h", start="2020-01-02", end="2020-01-02"))
    np.testing.assert_array_equal(data["time"], np.array(["2020-01-02T00", "2020-01-02T12"], dtype="datetime64[ns]"))
    check(data, 12)
    assert not any("without all" in note for note in data.attrs[LEFT_OUT])


def test_sums_can_be_asked_for_by_name_also_where_they_overlap(days):
    data = open_source(days, Selection(variables=["tp24", "tp6"], every="6h"))
    assert list(data.data_vars) == ["total_precipitation_6hr", "total_precipitation_24hr"]
    assert data["time"].values[0] == np.datetime64("2020-01-01T23") + np.timedelta64(1, "h")
    check(data, 24)
    check(data, 6)
    every_hour = open_source(days, Selection(variables=["tp", "total_precipitation_6hr"]))
    assert list(every_hour.data_vars) == ["total_precipitation", "total_precipitation_6hr"]
    assert every_hour.sizes["time"] == 48 - 5
    check(every_hour, 6)


def test_a_source_that_has_the_sum_or_the_step_is_read_as_it_is(tmp_path):
    six = hourly("2020-01-01T00", 8, step=6)
    six.to_netcdf(tmp_path / "six.nc")
    assert "total_precipitation" in open_source(tmp_path / "six.nc", Selection(every="6h"))
    six.rename(tp="total_precipitation_6hr").to_netcdf(tmp_path / "sums.nc")
    data = open_source(tmp_path / "sums.nc", Selection(variables=["tp6"], every="12h"))
    np.testing.assert_allclose(data["total_precipitation_6hr"][1, 0, 0], 12e-3)
    assert "total_precipitation" in open_source(tmp_path / "six.nc"), "without every= nothing is thinned"


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        (
            Selection(every="6h", variables=["tp"]),
            r"every=6h would keep one of 6\. Ask for a sum that fits, among total_precipit",
        ),
        (Selection(every="3h"), "every=3h would keep one of 3"),
        (Selection(variables=["toa_incident_solar_radiation_6hr"]), "variable toa_incident_solar_radiation is missing"),
        (Selection(variables=["tp6"], end="2020-01-01T03"), "no time of the source has the 6 h before it"),
    ],
)
def test_what_would_lose_rain_is_refused(days, selection, message):
    with pytest.raises(SourceError, match=message):
        open_source(days, selection)


def test_sums_shorter_than_the_step_are_refused(tmp_path):
    hourly("2020-01-01T00", 8, step=12).to_netcdf(tmp_path / "twelve.nc")
    with pytest.raises(
        SourceError, match="total_precipitation_6hr cannot be summed up from total_precipitation at steps of 12 h"
    ):
        open_source(tmp_path / "twelve.nc", Selection(variables=["tp6"]))


def test_all_rain_is_in_the_store(days, tmp_path):
    audit = build_analysis_store([days / "rain_1.nc", days / "rain_2.nc"], tmp_path / "own.zarr", Selection(every="6h"))
    assert audit.accepted
    stored = open_analysis(tmp_path / "own.zarr")
    first, last = (
        int((time - np.datetime64("2020-01-01")) / np.timedelta64(1, "h")) for time in stored["time"].values[[0, -1]]
    )
    rain = open_sources([days / "rain_1.nc", days / "rain_2.nc"])["total_precipitation"].isel(time=slice(first - 5, last + 1))
    np.testing.assert_allclose(stored["total_precipitation_6hr"].sum("time"), rain.sum("time"), rtol=1e-6)


def test_the_vocabularys_sums_are_known():
    assert {(one.source, one.hours) for one in SUMS.values()} == {
        (f"{name}", hours) for name in ("total_precipitation", "toa_incident_solar_radiation") for hours in (6, 12, 24)
    }
    assert sum_called("tp12") is SUMS["total_precipitation_12hr"]
    assert sum_called("msl") is None
