"""The analysis store keeps its contract, and says what breaks it."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr

from data_pipelines import build
from data_pipelines.store import (
    COMPRESSIONS,
    StoreError,
    consolidate,
    create_analysis_store,
    data_hash,
    encode_time,
    load_checked,
    open_analysis,
    refuse_existing,
    set_attributes,
    steps_per_chunk,
    time_step,
    write_analysis,
)
from tests.helpers.analyses import make_analysis


def build_store(path: Path, data: xr.Dataset, **options: Any) -> xr.Dataset:
    create_analysis_store(path, data, **options)
    write_analysis(path, data.drop_vars("land_sea_mask", errors="ignore"))
    return open_analysis(path)


def chunk_files(store: Path, variable: str) -> list[Path]:
    return sorted(file for file in (store / variable / "c").rglob("*") if file.is_file())


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_what_goes_in_comes_out(tmp_path: Path, compression: str) -> None:
    data = make_analysis()
    stored = build_store(
        tmp_path / "a.zarr", data, compression=compression, attributes={"source": "a test", "license": "CC0-1.0"}
    )
    xr.testing.assert_equal(load_checked(stored), data[list(stored.data_vars)])
    assert stored.attrs["source"] == "a test"
    assert stored["temperature"].attrs["units"] == "K"
    assert stored["temperature"].attrs["standard_name"] == "air_temperature"


def test_layout_on_disk_is_the_contract(tmp_path: Path) -> None:
    build_store(tmp_path / "a.zarr", make_analysis())
    group: Any = zarr.open_group(tmp_path / "a.zarr", mode="r")
    assert group.metadata.zarr_format == 3
    assert group["time"].dtype == np.int64
    assert group["time"].attrs["units"] == "hours since 1900-01-01"
    assert group["level"].dtype == np.int32
    assert group["temperature"].dtype == np.float32
    assert group["temperature"].metadata.dimension_names == ("time", "level", "latitude", "longitude")
    assert group["latitude"].attrs["stored_direction"] == "decreasing"


def test_chunk_is_whole_globes_of_about_four_megabytes(tmp_path: Path) -> None:
    """A field of 73 x 144 is 42 kB: 99 make 4 MiB. 64, the power of two below, makes chunks of all variables end together."""
    template = make_analysis(steps=200, rows=73, columns=144, levels=(50, 100, 200, 500, 850))
    create_analysis_store(tmp_path / "a.zarr", template)
    group: Any = zarr.open_group(tmp_path / "a.zarr", mode="r")
    assert group["mean_sea_level_pressure"].chunks == (64, 73, 144)
    assert group["temperature"].chunks == (16, 5, 73, 144)
    assert steps_per_chunk(tmp_path / "a.zarr") == 64


def test_regions_in_any_order_fill_the_store(tmp_path: Path) -> None:
    data = make_analysis(steps=9)
    create_analysis_store(tmp_path / "a.zarr", data)
    changing = data.drop_vars("land_sea_mask")
    for steps in ([7, 8], [0, 2, 1][:2], [1], [3, 4, 5, 6]):
        write_analysis(tmp_path / "a.zarr", changing.isel(time=sorted(steps))[["temperature"]])
    stored = open_analysis(tmp_path / "a.zarr")
    np.testing.assert_array_equal(stored["temperature"], data["temperature"])
    assert np.isnan(stored["mean_sea_level_pressure"]).all(), "what nobody wrote is missing, not zero"


def test_half_hourly_times_are_stored_in_seconds(tmp_path: Path) -> None:
    data = make_analysis(steps=3)
    half = data["time"].values[0] + np.arange(3) * np.timedelta64(30, "m")
    stored = build_store(tmp_path / "a.zarr", data.assign_coords(time=half))
    np.testing.assert_array_equal(stored["time"], half)
    assert stored["time"].encoding["units"] == "seconds since 1900-01-01"


def test_fraction_of_a_second_is_refused() -> None:
    with pytest.raises(StoreError, match="whole seconds"):
        encode_time(np.array(["2020-01-01T00:00:00.5"], dtype="datetime64[ns]"))


def test_hash_knows_values_and_coordinates_but_no_chunks(tmp_path: Path) -> None:
    data = make_analysis(steps=6)
    wanted = data_hash(data)
    assert data_hash(build_store(tmp_path / "a.zarr", data, compression="zstd")) == wanted
    assert data_hash(data.chunk(time=1, latitude=2)) == wanted
    changed = data.copy(deep=True)
    changed["temperature"][3, 0, 2, 1] += 0.001
    assert data_hash(changed) != wanted
    assert data_hash(data.assign_coords(time=data["time"] + np.timedelta64(6, "h"))) != wanted


def test_time_step_is_the_shortest_distance() -> None:
    data = make_analysis(steps=5)
    assert time_step(data.isel(time=[0, 2, 3])) == np.timedelta64(6, "h")
    with pytest.raises(StoreError, match="a step needs two"):
        time_step(data.isel(time=[0]))


def test_store_that_exists_is_not_overwritten(tmp_path: Path) -> None:
    build_store(tmp_path / "a.zarr", make_analysis())
    with pytest.raises(StoreError, match="exists already; nothing is overwritten"):
        create_analysis_store(tmp_path / "a.zarr", make_analysis())
    refuse_existing(tmp_path / "b.zarr")


def broken(data: xr.Dataset, how: str) -> xr.Dataset:
    time = data["time"].values.copy()
    if how == "gap":
        return data.isel(time=[0, 1, 3, 4])
    if how == "uneven":
        time[3] += np.timedelta64(1, "h")
        return data.assign_coords(time=time)
    if how == "twice":
        time[3] = time[2]
        return data.assign_coords(time=time)
    if how == "nat":
        time[3] = np.datetime64("NaT")
        return data.assign_coords(time=time)
    if how == "units":
        data = data.copy()
        data["mean_sea_level_pressure"].attrs["units"] = "hPa"
        return data
    if how == "no units":
        return data[["temperature"]].rename(temperature="my_own").drop_attrs()
    changes: dict[str, Any] = {
        "upside down": lambda: data.sortby("latitude"),
        "latitude twice": lambda: data.isel(latitude=[0, 1, 1, 2]),
        "latitude range": lambda: data.assign_coords(latitude=data["latitude"] * 2),
        "west": lambda: data.assign_coords(longitude=data["longitude"] - 180),
        "longitude order": lambda: data.isel(longitude=slice(None, None, -1)),
        "level order": lambda: data.isel(level=slice(None, None, -1)),
        "level float": lambda: data.assign_coords(level=data["level"].astype("float64")),
        "dims": lambda: data.transpose("time", "level", "longitude", "latitude"),
        "extra dim": lambda: data.expand_dims(number=2),
        "no map": lambda: data[["temperature"]].isel(latitude=0, drop=True),
        "dtype": lambda: data.astype("float64"),
        "backwards": lambda: data.isel(time=slice(None, None, -1)),
        "no dates": lambda: data.assign_coords(time=np.arange(data.sizes["time"])),
        "surface on level": lambda: data[["temperature"]].rename(temperature="2m_temperature"),
        "level missing": lambda: (
            data[["mean_sea_level_pressure"]].rename(mean_sea_level_pressure="temperature").pipe(in_kelvin)
        ),
        "empty": lambda: data[[]],
        "no coordinate": lambda: data.drop_vars("latitude"),
    }
    return changes[how]()


def in_kelvin(data: xr.Dataset) -> xr.Dataset:
    return data.assign(temperature=data["temperature"].assign_attrs(units="K"))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("gap", "time step is not uniform: 6 h at first, 12 h from 2021-02-27T06"),
        ("uneven", "time step is not uniform: 6 h at first, 7 h from"),
        ("twice", "2021-02-27T12.* is there twice"),
        ("nat", "1 missing values"),
        ("backwards", "time falls at"),
        ("no dates", "must be dates"),
        ("units", "mean_sea_level_pressure has units 'hPa'; the store holds it in 'Pa'"),
        ("no units", "my_own has units None"),
        ("upside down", "latitude is upside down: it runs from -90.0 to 90.0"),
        ("latitude twice", "a repeated row"),
        ("latitude range", r"latitude must lie in \[-90, 90\]"),
        ("west", r"longitude must lie in \[0, 360\)"),
        ("longitude order", "longitude must rise"),
        ("level order", r"level must rise .* got \[850, 500\]"),
        ("level float", "level must be whole hPa"),
        ("dims", "the order must be"),
        ("extra dim", "knows only"),
        ("no map", "every field is a map"),
        ("dtype", "is float64; it must be float32"),
        ("surface on level", "has a level dimension; it must have no level"),
        ("level missing", "has no level dimension; it must have a level"),
        ("empty", "no variable is in it"),
        ("no coordinate", "coordinate latitude is missing"),
    ],
)
def test_template_that_breaks_the_contract_is_refused(tmp_path: Path, how: str, message: str) -> None:
    data = broken(make_analysis(steps=5), how)
    with pytest.raises(StoreError, match=message):
        create_analysis_store(tmp_path / "a.zarr", data)
    assert not (tmp_path / "a.zarr").exists()


def test_gap_is_kept_where_it_was_accepted_by_name(tmp_path: Path) -> None:
    data = make_analysis(steps=5).isel(time=[0, 1, 3, 4]).assign_attrs(accepted=["gaps"])
    assert build_store(tmp_path / "a.zarr", data).sizes["time"] == 4
    with pytest.raises(StoreError, match="not uniform"):
        create_analysis_store(tmp_path / "b.zarr", broken(data.assign_attrs(accepted=["gaps"]), "uneven"))


@pytest.mark.parametrize("how", ["upside down", "west", "gap", "units"])
def test_foreign_store_is_refused_when_opened(tmp_path: Path, how: str) -> None:
    broken(make_analysis(steps=5), how).to_zarr(tmp_path / "a.zarr", zarr_format=3)
    with pytest.raises(StoreError, match=r"is not an analysis store: .*(upside down|longitude|uniform|hPa)"):
        open_analysis(tmp_path / "a.zarr")


def test_unfinished_store_is_refused_until_it_is_finished(tmp_path: Path) -> None:
    build_store(tmp_path / "a.zarr", make_analysis())
    set_attributes(tmp_path / "a.zarr", {"incomplete": "being built since noon"})
    with pytest.raises(StoreError, match="unfinished: being built since noon"):
        open_analysis(tmp_path / "a.zarr")
    set_attributes(tmp_path / "a.zarr", {"incomplete": None})
    open_analysis(tmp_path / "a.zarr")


def test_what_is_no_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"there is no analysis store at .*build_store"):
        open_analysis(tmp_path / "nothing.zarr")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StoreError, match="not a readable Zarr group"):
        open_analysis(tmp_path / "folder")
    with pytest.raises(StoreError, match="there is no store"):
        steps_per_chunk(tmp_path / "folder")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda data: data.assign_coords(time=data["time"] + np.timedelta64(900, "h")),
            "is not in .* Create the store with every",
        ),
        (lambda data: data.assign_coords(longitude=data["longitude"] + 1), "longitude of the data differs"),
        (lambda data: data.assign_coords(level=[300, 850]), "level of the data differs"),
        (lambda data: data.rename(temperature="vorticity"), r"vorticity is not in .* it holds"),
        (lambda data: data.transpose("time", "latitude", ...), "the store's are"),
        (lambda data: data.drop_vars("time"), "must have the coordinate time, which says where they go"),
    ],
)
def test_write_that_does_not_fit_is_refused(tmp_path: Path, change: Any, message: str) -> None:
    data = make_analysis()
    create_analysis_store(tmp_path / "a.zarr", data)
    with pytest.raises(StoreError, match=message):
        write_analysis(tmp_path / "a.zarr", change(data.drop_vars("land_sea_mask")))


def test_static_field_in_a_region_is_written_whole_and_not_over_its_rows(tmp_path: Path) -> None:
    """Its first axis is latitude: at the positions of times 2 and 3 it would lose rows 2 and 3."""
    data = make_analysis()
    create_analysis_store(tmp_path / "a.zarr", data)
    data["land_sea_mask"] = data["land_sea_mask"] * 0.5
    write_analysis(tmp_path / "a.zarr", data.isel(time=slice(2, 4)))
    np.testing.assert_array_equal(open_analysis(tmp_path / "a.zarr")["land_sea_mask"], data["land_sea_mask"])
    write_analysis(tmp_path / "a.zarr", data[["land_sea_mask"]] * 2)
    np.testing.assert_array_equal(open_analysis(tmp_path / "a.zarr")["land_sea_mask"], data["land_sea_mask"] * 2)


def test_group_inside_a_store_is_refused(tmp_path: Path) -> None:
    build_store(tmp_path / "a.zarr", make_analysis())
    zarr.open_group(tmp_path / "a.zarr", mode="r+").create_group("vorticity")
    consolidate(tmp_path / "a.zarr")
    with pytest.raises(StoreError, match="an analysis store is flat"):
        write_analysis(tmp_path / "a.zarr", make_analysis()[["temperature"]].rename(temperature="vorticity"))


def test_unknown_compression_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="compression must be one of .*; got 'brotli'"):
        create_analysis_store(tmp_path / "a.zarr", make_analysis(), compression="brotli")


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("damage", ["truncated", "corrupt"])
def test_damaged_chunk_is_named_by_variable_and_time(tmp_path: Path, compression: str, damage: str) -> None:
    """Chunks of one step here; a bit that flips in an uncompressed chunk leaves a valid number, so that is not found."""
    data = make_analysis(steps=3, rows=601, columns=1200)
    store = tmp_path / "a.zarr"
    build_store(store, data, compression=compression)
    file = store / "temperature" / "c" / "2" / "0" / "0" / "0"
    content = bytearray(file.read_bytes())
    if damage == "truncated":
        file.write_bytes(content[: len(content) // 2])
    else:
        content[len(content) // 2] ^= 0xFF
        file.write_bytes(content)
    opened = open_analysis(store)[["temperature"]].isel(latitude=slice(0, 50))
    if compression == "none" and damage == "corrupt":
        load_checked(opened)
        return
    with pytest.raises(StoreError, match=r"temperature at 2021-02-27T12.*truncated or corrupt"):
        load_checked(opened)


def test_damaged_static_field_is_named(tmp_path: Path) -> None:
    store = tmp_path / "a.zarr"
    build_store(store, make_analysis())
    file = chunk_files(store, "land_sea_mask")[0]
    file.write_bytes(file.read_bytes()[:30])
    with pytest.raises(StoreError, match="land_sea_mask cannot be read"):
        load_checked(open_analysis(store))


def test_storage_that_fails_once_is_called_unreliable() -> None:
    """A chunk that fails and then reads well is no damage, and is not passed off as good either."""
    data = make_analysis(steps=2)[["temperature"]]
    failures = iter([True])

    def flaky(block: np.ndarray) -> np.ndarray:
        if next(failures, False):
            raise OSError("connection reset")
        return block

    lazy = data.chunk().map(lambda array: array.copy(data=array.data.map_blocks(flaky, meta=array.data._meta)))
    with pytest.raises(StoreError, match=r"temperature could not be read at first \(connection reset\), then could"):
        load_checked(lazy)


@pytest.mark.parametrize("failing", ["load_checked", "compute"])
def test_no_memory_is_not_called_damage(failing: str) -> None:
    def exhausted(block: np.ndarray) -> np.ndarray:
        raise MemoryError("too large")

    data = make_analysis(steps=2)[["temperature"]].chunk()
    lazy = data.map(lambda array: array.copy(data=array.data.map_blocks(exhausted, meta=array.data._meta)))
    with pytest.raises(MemoryError):
        load_checked(lazy) if failing == "load_checked" else build._read(lazy, False)


def test_attributes_that_json_cannot_hold_are_written_as_text(tmp_path: Path) -> None:
    given = {"scale": np.float32(0.5), "flags": np.array([1, 2]), "when": np.datetime64("2020-01-01"), "nothing": None}
    stored = build_store(tmp_path / "a.zarr", make_analysis(steps=1), attributes=given)
    assert (stored.attrs["scale"], stored.attrs["flags"]) == (0.5, [1, 2])
    assert stored.attrs["when"] == "2020-01-01"
    assert "nothing" not in stored.attrs


def test_full_disk_is_told_and_what_was_written_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_analysis(steps=4).drop_vars("land_sea_mask")
    store = tmp_path / "a.zarr"
    create_analysis_store(store, data)
    write_analysis(store, data[["temperature"]])

    def full(*_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("zarr.storage._local._put", full)
    with pytest.raises(StoreError, match="no space is left on the disk that holds .*a.zarr"):
        write_analysis(store, data[["mean_sea_level_pressure"]])
    np.testing.assert_array_equal(open_analysis(store)["temperature"], data["temperature"])


def test_full_disk_when_creating_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("zarr.storage._local._put", full)
    with pytest.raises(StoreError, match="no space is left"):
        create_analysis_store(tmp_path / "a.zarr", make_analysis())


def test_moved_store_still_opens(tmp_path: Path) -> None:
    data = make_analysis()
    build_store(tmp_path / "a.zarr", data)
    shutil.move(tmp_path / "a.zarr", tmp_path / "b.zarr")
    assert data_hash(open_analysis(tmp_path / "b.zarr", chunks={})) == data_hash(data)
