import threading

import dask.array
import numpy as np
import pytest
import xarray as xr

import data_pipelines.climatology as module
from data_pipelines.climatology import compute_climatology, triangular_window
from tests.helpers.analyses import make_analysis


def days(first, last, hours=(0, 12)):
    """Every given hour of the days from first to last, both included."""
    dates = np.arange(first, np.datetime64(last) + 1, dtype="datetime64[D]")
    return (dates[:, None].astype("datetime64[ns]") + np.array(hours) * np.timedelta64(1, "h")).ravel()


def analysis_at(time, values=None, rows=3, columns=4):
    """Pressure only; `values` (time,) alone, or random weather on every point."""
    shape = (time.size, rows, columns)
    fields = np.random.default_rng(0).normal(100000, 500, shape)
    if values is not None:
        fields = np.broadcast_to(np.asarray(values)[:, None, None], shape)
    return xr.Dataset(
        {"mean_sea_level_pressure": (("time", "latitude", "longitude"), fields.astype(np.float32), {"units": "Pa"})},
        {"time": time, "latitude": np.linspace(90, -90, rows), "longitude": np.arange(columns) * 360 / columns},
    )


def brute_force(analysis, window_days=61):
    """For every day: every sample within the window, wherever it lies, weighted; float64 and slow."""
    field = analysis["mean_sea_level_pressure"].values.astype(np.float64)
    time = analysis["time"].values
    hour = (time - time.astype("datetime64[D]")).astype("timedelta64[h]").astype(int)
    year = time.astype("datetime64[Y]")
    day = (time.astype("datetime64[D]") - year.astype("datetime64[D]")).astype(int)
    samples = [(h, d, f) for h, d, f in zip(hour, day, field, strict=True)]
    for h, y, d, f in zip(hour, year, day, field, strict=True):
        if d == 364 and not ((year == y) & (hour == h) & (day == 365)).any():
            samples.append((h, 365, f))
    half = window_days // 2
    hours = sorted(set(hour))
    total, weight = (np.zeros((len(hours), 366, *field.shape[1:])) for _ in range(2))
    for h, d, f in samples:
        for target in range(d - half, d + half + 1):
            w = 1 - abs(target - d) / max(half, 1)
            present = np.isfinite(f)
            total[hours.index(h), target % 366] += np.where(present, w * f, 0)
            weight[hours.index(h), target % 366] += w * present
    return total / np.where(weight > 0, weight, np.nan)


def test_window_is_a_triangle_that_reaches_zero():
    np.testing.assert_allclose(triangular_window(5), [0, 0.5, 1, 0.5, 0])
    np.testing.assert_array_equal(triangular_window(1), [1])
    assert triangular_window(61).sum() == pytest.approx(30)


def test_one_spike_spreads_over_the_window_by_hand():
    """2019 and 2020, all zero but 2019-03-10 = 1: day 69 gets half of it, a window of five days spreads 1/2, 1/4, 1/4."""
    time = days("2019-01-01", "2020-12-31", hours=(6,))
    values = (time == np.datetime64("2019-03-10T06")).astype(float)
    got = compute_climatology(analysis_at(time, values), window_days=5)["mean_sea_level_pressure"].isel(latitude=1, longitude=2)
    assert got.dims == ("hour", "dayofyear")
    assert got["hour"].values.tolist() == [6]
    # weights 1/2, 1, 1/2 over two years: the day itself has 1 of 4, its neighbours 1/2 of 4
    expected = np.zeros(366)
    expected[[67, 68, 69]] = [0.125, 0.25, 0.125]
    np.testing.assert_allclose(got.values[0], expected, rtol=1e-6)


def test_day_366_comes_from_365_in_common_years_by_hand():
    """Window of one day, value = day of year: leap years give 366 on their day 366, the others 365."""
    time = days("2019-01-01", "2021-12-31", hours=(0,))
    day_of_year = (time.astype("datetime64[D]") - time.astype("datetime64[Y]").astype("datetime64[D]")).astype(int) + 1
    got = compute_climatology(analysis_at(time, day_of_year), window_days=1)["mean_sea_level_pressure"].values[0, :, 0, 0]
    np.testing.assert_allclose(got[:365], np.arange(1, 366))
    assert got[365] == pytest.approx((365 + 366 + 365) / 3)


def test_window_wraps_around_the_end_of_the_year():
    """A spike on January 1 reaches December 31, which is day 366: in 2019 day 365 stands in for it."""
    time = days("2019-01-01", "2019-12-31", hours=(0,))
    values = (time == np.datetime64("2019-01-01")).astype(float)
    got = compute_climatology(analysis_at(time, values), window_days=5)["mean_sea_level_pressure"].values[0, :, 0, 0]
    np.testing.assert_allclose(got[[364, 365, 0, 1, 2]], [0, 0.25, 0.5, 0.25, 0])


@pytest.mark.parametrize(
    "time",
    [days("2019-01-01", "2020-12-31"), days("2019-11-20", "2021-02-10"), days("2020-12-01", "2021-01-20")],
    ids=["whole years", "broken years", "a winter"],
)
def test_climatology_equals_brute_force(time):
    analysis = analysis_at(time)
    got = compute_climatology(analysis)["mean_sea_level_pressure"]
    np.testing.assert_allclose(got, brute_force(analysis), rtol=1e-6)
    assert got.dtype == np.float32
    assert np.isnan(got).any() == (time.size == days("2020-12-01", "2021-01-20").size)


# WeatherBench 2's compute_hourly_stat (commit 021c0b3; window 61, 6 h) on the field of the test below.
WEATHERBENCH2 = [
    [289.64356, 285.159658, 285.033189, 270.682128, 289.601075, 289.625712],
    [289.716675, 285.246015, 285.106028, 270.684137, 289.722303, 289.726427],
    [289.574635, 285.148605, 284.987048, 270.998612, 289.6225, 289.595773],
    [289.664421, 285.130502, 284.974739, 270.590989, 289.641187, 289.646663],
]


def test_values_equal_weatherbench2s():
    time = days("2019-01-01", "2021-12-31", hours=(0, 6, 12, 18))
    number = np.arange(time.size)
    values = 280 + 10 * np.cos(number / 232.4) + 3 * np.sin(number * 1.7) + 2 * np.cos(number**1.5)
    got = compute_climatology(analysis_at(time, values))["mean_sea_level_pressure"].values[:, :, 0, 0]
    np.testing.assert_allclose(got[:, [0, 58, 59, 200, 364, 365]], WEATHERBENCH2, rtol=3e-7)


def test_missing_points_are_left_out_one_by_one():
    analysis = analysis_at(days("2019-01-01", "2020-12-31"))
    values = analysis["mean_sea_level_pressure"].values
    values[100] = np.nan
    values[:, 1, 2] = np.nan
    values[300:500, 0, 1] = np.nan
    expected = brute_force(analysis)
    got = compute_climatology(analysis)["mean_sea_level_pressure"]
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    assert np.isnan(got[:, :, 1, 2]).all()
    assert int(np.isnan(got).sum()) == 2 * 366


@pytest.mark.parametrize(("block_days", "chunk"), [(3, 40), (50, 1), (100, 5), (366, 1000)])
def test_result_does_not_depend_on_blocks_or_chunks(monkeypatch, block_days, chunk):
    analysis = analysis_at(days("2019-07-01", "2021-03-01"))
    expected = compute_climatology(analysis, window_days=31)
    monkeypatch.setattr(module, "BLOCK_BYTES", block_days * 2 * 12 * 8)
    monkeypatch.setattr(module, "READ_BYTES", 7 * 12 * 4)
    got = compute_climatology(analysis.chunk(time=chunk), window_days=31)
    xr.testing.assert_allclose(got, expected, rtol=1e-6)


def test_every_step_is_read_once(monkeypatch):
    time = days("2019-01-01", "2020-12-31")
    reads, lock = np.zeros(time.size, int), threading.Lock()

    def make(block_info=None):
        begin, end = block_info[None]["array-location"][0]
        with lock:
            reads[begin:end] += 1
        return np.ones((end - begin, 3, 4), np.float32)

    chunks = ((1,) * time.size, (3,), (4,))
    data = dask.array.map_blocks(make, chunks=chunks, dtype=np.float32, meta=np.empty(0, np.float32))
    analysis = analysis_at(time)
    analysis["mean_sea_level_pressure"] = analysis["mean_sea_level_pressure"].copy(data=data)
    monkeypatch.setattr(module, "BLOCK_BYTES", 40 * 2 * 12 * 8)
    compute_climatology(analysis)
    np.testing.assert_array_equal(reads, 1)


def test_a_large_result_stays_lazy_and_is_the_same():
    analysis = make_analysis(steps=400, rows=3, columns=4)
    lazy = compute_climatology(analysis, memory_limit=0)
    assert all(isinstance(field.data, dask.array.Array) for field in lazy.data_vars.values())
    got = compute_climatology(analysis)
    assert all(isinstance(field.data, np.ndarray) for field in got.data_vars.values())
    xr.testing.assert_identical(lazy.compute(), got)


def test_layout_is_weatherbench2s():
    got = compute_climatology(make_analysis(steps=60).chunk(time=7), span=("2021-02-27", "2021-03-05"))
    assert set(got.data_vars) == {"temperature", "mean_sea_level_pressure"}
    assert got["temperature"].dims == ("hour", "dayofyear", "level", "latitude", "longitude")
    assert got["temperature"].attrs["units"] == "K"
    assert got["hour"].values.tolist() == [0, 6, 12, 18]
    assert got["dayofyear"].values.tolist() == list(range(1, 367))
    assert got["level"].values.tolist() == [500, 850]
    assert (got.attrs["first_time"], got.attrs["last_time"]) == ("2021-02-27T00:00:00", "2021-03-05T18:00:00")


@pytest.mark.parametrize("window_days", [0, -3, 30, 367])
def test_a_window_without_a_middle_is_refused(window_days):
    with pytest.raises(ValueError, match=f"window_days must be odd, from 1 to 365, to have a middle; got {window_days}"):
        compute_climatology(make_analysis(), window_days=window_days)


def test_a_dataset_in_which_nothing_varies_is_refused():
    with pytest.raises(ValueError, match="must hold a variable with the dimension 'time'"):
        compute_climatology(make_analysis()[["land_sea_mask", "time"]])
