"""The forecast store: WeatherBench 2's schema, whole shards, marks that are true at any moment."""

import json

import numpy as np
import pytest
import xarray as xr
import zarr
from zarr.storage import LocalStore

from data_pipelines.store import StoreError
from forecast.forecast_store import (
    CONTRACT,
    ForecastLayout,
    check_same_job,
    create_forecast_store,
    drop_incomplete,
    missing_forecasts,
    open_forecast_store,
    remove_leftovers,
    write_forecast,
)

TIMES = np.array(["2021-02-27T12", "2021-02-28T00", "2021-02-28T12"], "datetime64[ns]")
CHANNELS = ("temperature_850", "mean_sea_level_pressure", "temperature_500", "geopotential_500")


class Killed(Exception):
    pass


def layout(**changes):
    given = {
        "initial_times": TIMES,
        "lead_hours": (6, 12, 24, 48),
        "stages": (0, 0, 1, 1),
        "channels": CHANNELS,
        "latitude": (90.0, 30.0, -30.0, -90.0),
        "longitude": (0.0, 72.0, 144.0, 216.0, 288.0),
    }
    return ForecastLayout(**(given | changes))


def fields_of(number):
    return (np.arange(4 * 4 * 4 * 5, dtype=np.float32).reshape(4, 4, 4, 5) + 1000 * number).astype(np.float32)


@pytest.fixture
def store(tmp_path):
    path = tmp_path / "forecast.zarr"
    create_forecast_store(path, layout(), {"license": "CC-BY-4.0"}, ["short", "medium"])
    return path


def filled(path, members=()):
    for number, time in enumerate(TIMES):
        for member in members or (None,):
            write_forecast(path, layout(members=members), time, fields_of(number + 10 * (member or 0)), member)


def test_what_is_written_is_read_at_its_place(store):
    filled(store)
    dataset = open_forecast_store(store)
    assert dataset["temperature"].dims == ("time", "prediction_timedelta", "level", "latitude", "longitude")
    assert dataset["mean_sea_level_pressure"].dims == ("time", "prediction_timedelta", "latitude", "longitude")
    for number, time in enumerate(TIMES):
        for place, hours in enumerate((6, 12, 24, 48)):
            now = dataset.sel(time=time, prediction_timedelta=np.timedelta64(hours, "h"))
            np.testing.assert_array_equal(now["temperature"].sel(level=850), fields_of(number)[place, 0])
            np.testing.assert_array_equal(now["mean_sea_level_pressure"], fields_of(number)[place, 1])
            np.testing.assert_array_equal(now["temperature"].sel(level=500), fields_of(number)[place, 2])
            np.testing.assert_array_equal(now["geopotential"].sel(level=500), fields_of(number)[place, 3])
            assert np.isnan(now["geopotential"].sel(level=850)).all()


def test_coordinates_and_attributes_are_cf(store):
    filled(store)
    dataset = open_forecast_store(store)
    raw = zarr.open_group(store, mode="r")
    assert raw["time"].attrs["units"] == "hours since 1900-01-01"
    assert (raw["time"].dtype, raw["prediction_timedelta"].dtype) == (np.dtype("int64"), np.dtype("int64"))
    assert dataset["time"].attrs["standard_name"] == "forecast_reference_time"
    assert dataset["prediction_timedelta"].attrs["standard_name"] == "forecast_period"
    assert dataset["prediction_timedelta"].dtype == np.dtype("timedelta64[ns]")
    assert dataset["level"].values.tolist() == [500, 850]
    assert dataset["level"].attrs["units"] == "hPa"
    assert dataset["temperature"].attrs == {
        "long_name": "temperature", "units": "K", "short_name": "t", "standard_name": "air_temperature",
    }  # fmt: skip
    assert dataset.attrs["Conventions"] == "CF-1.11, ACDD-1.3"
    assert dataset.attrs["license"] == "CC-BY-4.0"
    assert dataset.attrs["time_coverage_end"] == "2021-03-02T12:00:00Z"
    assert set(dataset.data_vars) == {"temperature", "mean_sea_level_pressure", "geopotential"}


def test_stage_that_made_a_lead_time_is_a_coordinate(store):
    filled(store)
    stage = open_forecast_store(store)["cascade_stage"]
    assert stage.dims == ("prediction_timedelta",)
    assert (stage.values.tolist(), stage.dtype) == ([0, 0, 1, 1], np.dtype("int8"))
    assert stage.attrs["flag_meanings"] == "short medium"


def test_a_plain_reader_finds_the_same(store):
    """What WeatherBench 2 does: xarray.open_zarr with nothing else."""
    filled(store)
    with xr.open_zarr(store, decode_timedelta=True) as plain:
        xr.testing.assert_identical(plain.load(), open_forecast_store(store).load())


def test_a_forecast_is_one_file_per_variable(store):
    write_forecast(store, layout(), TIMES[1], fields_of(1))
    files = sorted(str(file.relative_to(store)) for file in store.glob("*/c/**/*") if file.is_file())
    assert [file for file in files if file.startswith("temperature")] == ["temperature/c/1/0/0/0/0"]
    assert [file for file in files if file.startswith("mean_sea")] == ["mean_sea_level_pressure/c/1/0/0/0"]
    assert [file for file in files if file.startswith("complete")] == ["complete/c/1"]


def test_large_fields_lie_in_chunks_of_one_map():
    from forecast.forecast_store import _chunk

    dims = ("time", "prediction_timedelta", "level", "latitude", "longitude")
    assert _chunk(dims, (1, 40, 13, 721, 1440)) == (1, 1, 1, 721, 1440)
    assert _chunk(dims, (1, 40, 13, 73, 144)) == (1, 1, 13, 73, 144)
    assert _chunk(dims, (1, 40, 2, 73, 144)) == (1, 10, 2, 73, 144)


def test_members_have_shards_and_marks_of_their_own(tmp_path):
    path = tmp_path / "ensemble.zarr"
    create_forecast_store(path, layout(members=(0, 3)), {})
    write_forecast(path, layout(members=(0, 3)), TIMES[0], fields_of(7), member=3)
    assert missing_forecasts(path)[:2] == [(TIMES[0], 0), (TIMES[1], 0)]
    filled(path, members=(0, 3))
    dataset = open_forecast_store(path)
    assert dataset["temperature"].dims[:3] == ("time", "number", "prediction_timedelta")
    np.testing.assert_array_equal(dataset["mean_sea_level_pressure"].sel(time=TIMES[2], number=3), fields_of(32)[:, 1])


def test_forecasts_that_are_not_complete_are_listed_and_left_out(store):
    write_forecast(store, layout(), TIMES[1], fields_of(1))
    assert missing_forecasts(store) == [(TIMES[0], None), (TIMES[2], None)]
    assert open_forecast_store(store)["time"].values.tolist() == TIMES[1:2].tolist()
    everything = open_forecast_store(store, complete_only=False)
    assert everything["complete"].values.tolist() == [0, 1, 0]
    assert np.isnan(everything["temperature"].isel(time=0)).all()


def test_marks_are_true_wherever_writing_is_interrupted(store, monkeypatch):
    """Dies at the first, second ... file; whatever is marked complete then holds every value."""
    original, died = LocalStore.set, 0
    for last in range(10):
        writes = iter(range(last + 1))

        async def dies(self, key, value, writes=writes):
            if next(writes, None) is None:
                raise Killed
            await original(self, key, value)

        monkeypatch.setattr(LocalStore, "set", dies)
        try:
            write_forecast(store, layout(), TIMES[0], fields_of(last))
        except Killed:
            died += 1
        monkeypatch.setattr(LocalStore, "set", original)
        dataset = open_forecast_store(store, complete_only=False)
        if dataset["complete"].values[0]:
            now = dataset["mean_sea_level_pressure"].isel(time=0).values
            np.testing.assert_array_equal(now, fields_of(last)[:, 1])
            np.testing.assert_array_equal(dataset["geopotential"].isel(time=0, level=0), fields_of(last)[:, 3])
            break
    assert died == 3  # three variables are written before the mark


def test_an_existing_path_is_not_overwritten(store):
    with pytest.raises(
        StoreError, match=r"exists already; nothing is overwritten. Choose another out=, or go on with it: resume=true"
    ):
        create_forecast_store(store, layout(), {})


def test_a_store_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("zarr.consolidate_metadata", full)
    with pytest.raises(StoreError, match="no space is left on the disk that holds"):
        create_forecast_store(tmp_path / "forecast.zarr", layout(), {})
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_keeps_what_is_complete_and_says_how_to_go_on(store, monkeypatch):
    write_forecast(store, layout(), TIMES[0], fields_of(0))

    def full(path, value, exclusive=False):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("zarr.storage._local._put", full)
    with pytest.raises(
        StoreError, match="every forecast marked complete is kept. Free some space, then run the same command with resume=true"
    ):
        write_forecast(store, layout(), TIMES[1], fields_of(1))
    monkeypatch.undo()
    assert open_forecast_store(store)["time"].values.tolist() == TIMES[:1].tolist()


def test_an_error_that_is_not_of_the_disk_stays_what_it_is(store, monkeypatch):
    def broken(path, value, exclusive=False):
        raise RuntimeError("something else")

    monkeypatch.setattr("zarr.storage._local._put", broken)
    with pytest.raises(RuntimeError, match="something else"):
        write_forecast(store, layout(), TIMES[1], fields_of(1))


def test_halves_of_files_are_removed(store):
    leftover = store / "temperature" / "c" / "0.partial"
    leftover.parent.mkdir(parents=True)
    leftover.write_bytes(b"half")
    remove_leftovers(store)
    assert not leftover.exists()


@pytest.mark.parametrize("path", ["nowhere", "empty"])
def test_a_path_that_holds_no_store_is_told(tmp_path, path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(StoreError, match="there is no forecast store at|is no readable Zarr group"):
        open_forecast_store(tmp_path / path)


def test_another_kind_of_store_is_refused(tmp_path):
    zarr.create_group(tmp_path / "other.zarr")
    with pytest.raises(StoreError, match="is no forecast store: its attribute contract is None"):
        open_forecast_store(tmp_path / "other.zarr")
    with pytest.raises(StoreError, match="is no forecast store, so no job can go on with it"):
        check_same_job(tmp_path / "other.zarr", layout(), {})
    with pytest.raises(StoreError, match="is no forecast store, so no job can go on with it"):
        missing_forecasts(tmp_path / "other.zarr")


def test_an_array_that_is_a_group_is_told(tmp_path):
    zarr.create_group(tmp_path / "other.zarr", attributes={"contract": CONTRACT}).create_group("time")
    with pytest.raises(StoreError, match="time must be an array; it is a Group"):
        missing_forecasts(tmp_path / "other.zarr")


def test_a_store_without_a_complete_forecast_is_not_opened(store):
    with pytest.raises(StoreError, match="no forecast in .* is complete. Go on with the job"):
        open_forecast_store(store)


def test_stores_of_others_have_no_marks_and_are_left_as_they_are():
    dataset = xr.Dataset({"t": ("time", [1.0])})
    assert drop_incomplete(dataset) is dataset


def test_the_same_job_may_go_on(store):
    check_same_job(store, layout(), {"license": "CC-BY-4.0", "date_created": "later"})


@pytest.mark.parametrize(
    ("changes", "attributes", "what"),
    [
        ({"initial_times": TIMES[:2]}, {}, "its time is .*3 values.*this job's is .*2 values"),
        ({"lead_hours": (6, 12, 24, 30)}, {}, "its prediction_timedelta is 6 to 48"),
        ({"latitude": (80.0, 30.0, -30.0, -80.0)}, {}, "its latitude is 90.0 to -90.0"),
        ({"channels": CHANNELS[:3]}, {}, r"its variables is \['geopotential', .*this job's is \['mean_sea"),
        ({"channels": CHANNELS[1:2]}, {}, "its variables is"),
        ({"members": (0, 1)}, {}, "its number is none; this job's is 0 to 1"),
        ({}, {"checkpoint_sha256": ["b"]}, r"its checkpoint_sha256 is None; this job's is \['b'\]"),
        ({}, {"license": "other"}, "its license is CC-BY-4.0; this job's is other"),
    ],
)
def test_another_job_is_refused_by_what_differs(store, changes, attributes, what):
    with pytest.raises(StoreError, match=f"holds another job: {what}"):
        check_same_job(store, layout(**changes), {"license": "CC-BY-4.0"} | attributes)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"channels": ()}, "channels is empty"),
        ({"initial_times": TIMES[::-1]}, "initial_times must rise without duplicates"),
        ({"latitude": (-90.0, 90.0)}, "latitude must fall without duplicates"),
        ({"lead_hours": (6, 6, 12, 18)}, "lead_hours must rise without duplicates"),
        ({"lead_hours": (0, 6, 12, 18)}, "lead_hours must be above 0, the analysis is not stored; got 0"),
        ({"stages": (0,)}, "stages must have one number per lead time, 4; got 1"),
        ({"channels": ("temperature_850", "temperature_850")}, "channels must differ"),
        ({"initial_times": TIMES + np.timedelta64(30, "m")}, "initial_times must be whole hours"),
    ],
)
def test_a_layout_that_no_store_can_have_is_refused(changes, what):
    with pytest.raises(StoreError, match=what):
        layout(**changes)


def test_a_forecast_that_does_not_belong_into_the_store_is_refused(store):
    with pytest.raises(
        StoreError, match="initial time 2020-01-01T00:00:00.000000000 is not in the store, which holds 2021-02-27T12"
    ):
        write_forecast(store, layout(), np.datetime64("2020-01-01", "ns"), fields_of(0))
    with pytest.raises(StoreError, match="member must be one of None; got 1"):
        write_forecast(store, layout(), TIMES[0], fields_of(0), member=1)
    with pytest.raises(StoreError, match=r"fields must have shape \(4, 4, 4, 5\).*got \(3, 4, 4, 5\)"):
        write_forecast(store, layout(), TIMES[0], fields_of(0)[:3])


def test_a_damaged_shard_is_found_when_it_is_read(store):
    filled(store)
    shard = store / "temperature" / "c" / "1" / "0" / "0" / "0" / "0"
    data = bytearray(shard.read_bytes())
    data[20] ^= 0xFF
    shard.write_bytes(bytes(data))
    with pytest.raises(ValueError, match="checksum"):
        open_forecast_store(store)["temperature"].sel(time=TIMES[1]).load()
    open_forecast_store(store)["temperature"].sel(time=TIMES[0]).load()


def test_metadata_is_consolidated(store):
    assert json.loads((store / "zarr.json").read_text())["consolidated_metadata"]["metadata"].keys() >= {"time", "temperature"}
