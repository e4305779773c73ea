import threading
import tracemalloc

import dask
import dask.array
import numpy as np
import pytest
import xarray as xr

from data_pipelines.area import cell_area_weights
from data_pipelines.statistics import SECTIONS_PER_VARIABLE, compute_statistics, select_span
from tests.helpers.analyses import make_analysis


def as_channels(analysis):
    """(time, channel, latitude, longitude) in float64: temperature's levels, then pressure."""
    temperature, pressure = analysis["temperature"].values, analysis["mean_sea_level_pressure"].values
    return np.concatenate([temperature, pressure[:, None]], axis=1).astype(np.float64)


def test_statistics_equal_plain_float64_numpy():
    analysis = make_analysis(steps=37)
    values = as_channels(analysis)
    weights = np.broadcast_to(cell_area_weights(analysis["latitude"].values)[None, None, :, None], values.shape)

    def spread(x):
        w = weights[: len(x)]
        mean = (w * x).sum(axis=(0, 2, 3)) / w.sum(axis=(0, 2, 3))
        return mean, np.sqrt((w * (x - mean[:, None, None]) ** 2).sum(axis=(0, 2, 3)) / w.sum(axis=(0, 2, 3)))

    got = compute_statistics(analysis)
    assert list(got["channel"].values) == ["temperature_500", "temperature_850", "mean_sea_level_pressure"]
    assert list(got["units"].values) == ["K", "K", "Pa"]
    mean, deviation = spread(values)
    np.testing.assert_allclose(got["mean"], mean, rtol=1e-13)
    np.testing.assert_allclose(got["standard_deviation"], deviation, rtol=1e-12)
    np.testing.assert_allclose(got["tendency_standard_deviation"], spread(np.diff(values, axis=0))[1], rtol=1e-12)
    np.testing.assert_array_equal(got["minimum"], values.min(axis=(0, 2, 3)))
    np.testing.assert_array_equal(got["maximum"], values.max(axis=(0, 2, 3)))
    np.testing.assert_allclose(got["mean_field"], values.mean(axis=0), rtol=1e-7)  # stored as float32
    np.testing.assert_allclose(got["standard_deviation_field"], values.std(axis=0), rtol=1e-6)


def test_two_steps_have_statistics_computed_by_hand():
    """Three rows weigh 0.439, 2.121, 0.439 (test_area); every row is constant along longitude."""
    rows = np.array([[1.0, 2.0, 3.0], [3.0, 2.0, 7.0]])
    analysis = xr.Dataset(
        {"mean_sea_level_pressure": (("time", "latitude", "longitude"), np.repeat(rows[:, :, None], 4, 2))},
        {
            "time": np.array(["2020-01-01T00", "2020-01-01T06"], "datetime64[ns]"),
            "latitude": [90, 0, -90],
            "longitude": range(4),
        },
    )
    cap, band = (1 - np.sqrt(0.5)) / 2, np.sqrt(0.5)  # shares of the sphere
    mean = cap * (1 + 3) / 2 + band * 2 + cap * (3 + 7) / 2
    squares = cap * (1 + 9) / 2 + band * 4 + cap * (9 + 49) / 2
    change = cap * 2 + cap * 4
    got = compute_statistics(analysis).isel(channel=0)
    assert float(got["mean"]) == pytest.approx(mean, rel=1e-14)
    assert float(got["standard_deviation"]) == pytest.approx(np.sqrt(squares - mean**2), rel=1e-13)
    assert float(got["tendency_standard_deviation"]) == pytest.approx(np.sqrt(cap * 4 + cap * 16 - change**2), rel=1e-13)


@pytest.mark.parametrize("chunk", [1, 2, 5, 29, 64])
def test_result_does_not_depend_on_chunks(chunk, monkeypatch):
    analysis = make_analysis(steps=29)
    expected = compute_statistics(analysis)
    monkeypatch.setattr("data_pipelines.statistics.BLOCK_BYTES", 1)  # one chunk a block, so that seams are many
    got = compute_statistics(analysis.chunk(time=chunk))
    xr.testing.assert_allclose(got, expected, rtol=1e-12)


def test_latitude_may_run_either_way():
    analysis = make_analysis()
    got, expected = compute_statistics(analysis.isel(latitude=slice(None, None, -1))), compute_statistics(analysis)
    xr.testing.assert_allclose(got.sortby("latitude"), expected.sortby("latitude"), rtol=1e-12)


def test_missing_points_are_left_out_one_by_one():
    analysis = make_analysis(steps=11)
    field = analysis["temperature"].values
    field[3] = np.nan  # a missing day
    field[:, 1, 2, 5] = np.nan  # a point that never is
    values = as_channels(analysis)
    present = np.isfinite(values)
    weights = cell_area_weights(analysis["latitude"].values)[:, None] * present
    mean = (weights * np.where(present, values, 0)).sum(axis=(0, 2, 3)) / weights.sum(axis=(0, 2, 3))
    got = compute_statistics(analysis.chunk(time=2))
    np.testing.assert_allclose(got["mean"], mean, rtol=1e-13)
    assert np.isfinite(got["tendency_standard_deviation"]).all()
    assert np.isnan(got["mean_field"].values[1, 2, 5])
    assert np.isnan(got["standard_deviation_field"].values[1, 2, 5])
    assert int(np.isnan(got["mean_field"]).sum()) == 1


def test_a_variable_that_is_all_missing_gives_nan_without_a_warning():
    analysis = make_analysis()
    analysis["temperature"][:] = np.nan
    got = compute_statistics(analysis)
    for name in got.data_vars:
        assert np.isnan(got[name].values[:2]).all(), name
        assert np.isfinite(got[name].values[2]).all(), name


@pytest.mark.parametrize("chunk", [1, 4, 30])
def test_a_change_across_a_gap_is_no_tendency(chunk, monkeypatch):
    monkeypatch.setattr("data_pipelines.statistics.BLOCK_BYTES", 1)
    analysis = make_analysis(steps=24)
    analysis["mean_sea_level_pressure"][12:] += 5000  # would dominate if it counted
    holed = analysis.isel(time=[*range(10), *range(14, 24)]).chunk(time=chunk)
    values = holed["mean_sea_level_pressure"].values.astype(np.float64)
    changes = np.delete(np.diff(values, axis=0), 9, axis=0)
    weights = cell_area_weights(analysis["latitude"].values)[:, None]
    mean = (weights * changes).mean()
    expected = np.sqrt((weights * (changes - mean) ** 2).mean())
    assert float(compute_statistics(holed)["tendency_standard_deviation"][2]) == pytest.approx(expected, rel=1e-12)


def test_span_takes_both_ends_and_is_written_down():
    analysis = make_analysis(steps=20)  # from 2021-02-27T00
    got = compute_statistics(analysis, ("2021-02-28", "2021-03-01"))
    xr.testing.assert_allclose(got, compute_statistics(analysis.isel(time=slice(4, 12))))
    assert got.attrs["first_time"] == "2021-02-28T00:00:00"
    assert got.attrs["last_time"] == "2021-03-01T18:00:00"
    assert (got.attrs["steps"], got.attrs["time_step_hours"]) == (8, 6.0)


def test_every_step_is_read_once_and_memory_stays_flat(monkeypatch):
    """The field is made on demand; all of it would take four times the memory allowed here."""
    steps, rows, columns = 512, 61, 96
    reads, lock = np.zeros(steps, int), threading.Lock()

    def make(block_info=None):
        begin, end = block_info[None]["array-location"][0]
        with lock:
            reads[begin:end] += 1
        return np.random.default_rng(begin).normal(size=(end - begin, rows, columns)).astype(np.float32)

    data = dask.array.map_blocks(
        make, chunks=((4,) * (steps // 4), (rows,), (columns,)), dtype=np.float32, meta=np.empty(0, "f4")
    )
    analysis = xr.Dataset(
        {"mean_sea_level_pressure": (("time", "latitude", "longitude"), data)},
        {
            "time": np.datetime64("2000-01-01", "ns") + np.arange(steps) * np.timedelta64(6, "h"),
            "latitude": np.linspace(90, -90, rows),
            "longitude": np.arange(columns) * 3.75,
        },
    )
    monkeypatch.setattr("data_pipelines.statistics.BLOCK_BYTES", 1)
    compute_statistics(make_analysis().chunk(time=3))  # dask's first computation imports more than the fields weigh
    tracemalloc.start()
    try:
        with dask.config.set(num_workers=2):
            compute_statistics(analysis)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(reads, 1)
    # Five fields are kept per section; two workers hold copies of a block of 4 steps; the rest is dask's own.
    fields_allowed = SECTIONS_PER_VARIABLE * 5 + 2 * 4 * 8
    assert peak < fields_allowed * rows * columns * 8
    assert steps > 4 * fields_allowed


def test_a_dataset_without_time_is_refused():
    with pytest.raises(ValueError, match="at least one step along the dimension 'time'"):
        select_span(make_analysis().drop_dims("time"), None)


def test_a_span_outside_is_refused_with_what_there_is():
    with pytest.raises(ValueError, match="holds no step: the analysis reaches from 2021-02-27T00:00 to"):
        compute_statistics(make_analysis(), ("1999-01-01", "1999-02-01"))


def test_a_single_step_is_refused():
    with pytest.raises(ValueError, match="at least 2 steps"):
        compute_statistics(make_analysis(steps=1))


def test_times_that_repeat_are_refused():
    with pytest.raises(ValueError, match="strictly increasing"):
        compute_statistics(make_analysis().isel(time=[0, 1, 1, 2]))


def test_a_dataset_in_which_nothing_varies_is_refused():
    with pytest.raises(ValueError, match="must hold a variable with the dimension 'time'"):
        compute_statistics(make_analysis()[["land_sea_mask", "time"]])
