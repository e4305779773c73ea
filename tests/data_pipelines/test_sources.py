"""Stores, files, folders, ZIPs and URLs: what is read, how much of it, and what is said of what cannot be read."""

from __future__ import annotations

import dataclasses
import shutil
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from data_pipelines.locations import beside, is_url, zarr_store
from data_pipelines.sample import is_sample, sample_sources
from data_pipelines.sources import Selection, SourceError, open_source, open_sources
from data_pipelines.sources.grib import _message_length
from data_pipelines.standardise import LEFT_OUT, NOTES, standardise
from tests.helpers.raw_layouts import arco, cds_legacy, cds_new, times, weatherbench
from tests.helpers.web_server import web_server

GOLDEN = Path(__file__).parents[1] / "golden" / "data_pipelines"


def test_shipped_sample_is_whole() -> None:
    data = open_sources(sample_sources())
    assert dict(data.sizes) == {"time": 280, "level": 1, "latitude": 73, "longitude": 144}
    assert list(data.data_vars) == ["vorticity", "mean_sea_level_pressure"]
    first = data["mean_sea_level_pressure"].isel(time=0).values
    assert (first.min(), first.max()) == (np.float32(96060.875), np.float32(104771.875))
    assert all(is_sample(path) for path in sample_sources())
    assert not is_sample(GOLDEN)


def test_sample_without_its_data_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("data_pipelines.sample._FOLDER", tmp_path)
    with pytest.raises(FileNotFoundError, match="the ERA5 sample is incomplete"):
        sample_sources()


@pytest.mark.parametrize("version", [2, 3])
def test_zarr_of_either_format_with_or_without_consolidated_metadata(tmp_path: Path, version: int) -> None:
    raw = weatherbench()
    for consolidated in (True, False):
        path = tmp_path / f"{consolidated}.zarr"
        raw.to_zarr(path, zarr_format=version, consolidated=consolidated)
        xr.testing.assert_equal(open_source(path).load(), standardise(raw).load())


def test_remote_store_sends_only_the_chunks_asked_for(tmp_path: Path) -> None:
    raw = weatherbench(steps=12).chunk(time=2)
    raw.to_zarr(tmp_path / "era5.zarr", zarr_format=2, consolidated=True)
    with web_server(tmp_path) as requests:
        data = open_source(
            f"{requests.url}/era5.zarr", Selection(variables=["z"], start="2020-02-27T12", end="2020-02-28T06", levels=[850])
        )
        fields = {path.split("/")[1] for path in requests.chunks()}
        assert fields <= {"time", "level", "latitude", "longitude"}, "opening reads coordinates only"
        requests.forget()
        loaded = data.load()
        assert requests.chunks() == {"era5.zarr/geopotential/1.0.0.0", "era5.zarr/geopotential/2.0.0.0"}
    wanted = standardise(raw)["geopotential"].isel(time=slice(2, 6)).sel(level=[850])
    np.testing.assert_array_equal(loaded["geopotential"], wanted)


def test_remote_shards_are_read_by_byte_ranges(tmp_path: Path) -> None:
    """Four steps to a shard, one to a chunk: one step costs a fraction of the shard."""
    raw = weatherbench(steps=8)[["geopotential"]]
    encoding = {"geopotential": {"chunks": (1, 2, 64, 32), "shards": (4, 2, 64, 32), "compressors": None}}
    raw.to_zarr(tmp_path / "era5.zarr", zarr_format=3, encoding=encoding, consolidated=True)
    with web_server(tmp_path) as requests:
        data = open_source(f"{requests.url}/era5.zarr", Selection(start="2020-02-28T06", end="2020-02-28T06"))
        requests.forget()
        loaded = data.load()
        step = raw["geopotential"].isel(time=0).nbytes
        assert requests.chunks() == {"era5.zarr/geopotential/c/1/0/0/0"}
        assert step <= requests.sent < 1.2 * step
    np.testing.assert_array_equal(loaded["geopotential"], standardise(raw)["geopotential"].isel(time=[5]))


def test_store_that_is_not_there_says_so(tmp_path: Path) -> None:
    with web_server(tmp_path) as requests, pytest.raises(SourceError, match="cannot be opened as a Zarr store"):
        open_source(f"{requests.url}/nothing.zarr")
    with pytest.raises(SourceError, match="does not exist"):
        open_source(tmp_path / "nothing.zarr")


def test_urls_open_object_stores_without_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "GOOGLE_APPLICATION_CREDENTIALS"):
        monkeypatch.delenv(name, raising=False)
    for url in ("gs://bucket/a.zarr", "s3://bucket/a.zarr", "https://host/a.zarr"):
        assert is_url(url)
        assert type(zarr_store(url)).__name__ == "ObjectStore"
    assert type(zarr_store("memory://a.zarr")).__name__ == "FsspecStore"
    assert type(zarr_store("file:///a.zarr")).__name__ == "LocalStore"
    assert beside("gs://bucket/a.zarr", ".audit.json") == Path("a.zarr.audit.json")
    assert beside("/some/a.zarr", ".audit.json") == Path("/some/a.zarr.audit.json")


def test_url_without_obstore_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    with pytest.raises(ImportError, match=r"skysolve\[cloud\]"):
        zarr_store("gs://bucket/a.zarr")
    with pytest.raises(ImportError, match=r"skysolve\[cloud\]"):
        open_source("gs://bucket/a.zarr")


def test_new_cds_files_levels_and_surface_together() -> None:
    data = open_sources([GOLDEN / "cds_new_pressure.nc", GOLDEN / "cds_new_surface.nc"])
    assert data.sizes["level"] == 6
    assert data.sizes["time"] == 4
    assert {"geopotential", "2m_temperature", "surface_pressure"} <= set(data.data_vars)
    assert set(data["expver"].values) == {"0005"}
    with xr.open_dataset(GOLDEN / "cds_new_pressure.nc") as raw:
        np.testing.assert_array_equal(data["geopotential"].sel(level=500), raw["z"].sel(pressure_level=500))


def test_variables_are_sought_in_all_sources() -> None:
    both = [GOLDEN / "cds_new_pressure.nc", GOLDEN / "cds_new_surface.nc"]
    assert list(open_sources(both, Selection(variables=["sp", "t"])).data_vars) == ["temperature", "surface_pressure"]
    with pytest.raises(SourceError, match=r"variable msl is missing: wanted were \['sp', 'msl'\]; .*cds_new_surface.nc hold"):
        open_sources(both, Selection(variables=["sp", "msl"]))
    with pytest.raises(SourceError, match="source is empty"):
        open_sources([])


def test_longitude_first_from_minus_180_with_cf_names() -> None:
    data = open_source(GOLDEN / "era5_longitude_first.nc")
    with xr.open_dataset(GOLDEN / "era5_longitude_first.nc") as raw:
        wanted = raw["eastward_wind"].isel(time=1, level=2, longitude=0, latitude=3)
    got = data["u_component_of_wind"].isel(time=1).sel(level=300, longitude=180.0, latitude=float(wanted["latitude"]))
    assert float(got) == pytest.approx(float(wanted), rel=1e-6)


def test_gaussian_moment_with_scalar_time() -> None:
    data = open_source(GOLDEN / "era5_gaussian_moment.nc")
    assert data.sizes["time"] == 1
    assert data["latitude"].values[0] > 80
    assert {"sea_surface_temperature", "geopotential"} <= set(data.data_vars)


def test_packed_file_with_months_instead_of_time_is_refused() -> None:
    with pytest.raises(SourceError, match=r"has no time: its dimensions are \['month'"):
        open_source(GOLDEN / "eraint_packed_month.nc")


def test_levels_in_variable_names() -> None:
    data = open_source(GOLDEN / "eraint_level_in_name.nc", Selection(variables=["geopotential", "msl"]))
    assert data["geopotential"].sizes["level"] == 1
    assert "z500 taken as geopotential at 500 hPa" in data.attrs[NOTES]
    with pytest.raises(SourceError, match="lie on different levels"):
        open_source(GOLDEN / "eraint_level_in_name.nc")


def test_geopotential_height_and_celsius_are_converted() -> None:
    data = open_source(GOLDEN / "ncep_monthly_height.nc", Selection(variables=["geopotential", "sst"]))
    with xr.open_dataset(GOLDEN / "ncep_monthly_height.nc") as raw:
        height = float(raw["z500"].isel(time=0).sel(lat=45.0, lon=120.0))
        assert float(data["geopotential"].isel(time=0).sel(level=500, latitude=45, longitude=120)) == pytest.approx(
            height * 9.80665, rel=1e-6
        )
    assert 270 < float(data["sea_surface_temperature"].max()) < 310


def test_grib_members_and_levels() -> None:
    data = open_source(GOLDEN / "era5_members.grib", Selection(member=3))
    assert dict(data.sizes) == {"time": 2, "level": 2, "latitude": 61, "longitude": 120}
    np.testing.assert_array_equal(data["level"], [500, 850])
    with pytest.raises(SourceError, match=r"member=None is not one of .*'s 2 members \[0, 3\]"):
        open_source(GOLDEN / "era5_members.grib")


def test_grib_of_mixed_level_types() -> None:
    data = open_source(GOLDEN / "gfs_mixed_levels.grib2")
    assert list(data.data_vars) == [
        "geopotential",
        "temperature",
        "2m_temperature",
        "mean_sea_level_pressure",
        "total_precipitation",
    ]
    np.testing.assert_array_equal(data["time"], np.array(["2022-11-08T00"], dtype="datetime64[ns]"))
    assert any("r2 is no variable" in sentence for sentence in data.attrs[LEFT_OUT])
    assert 4.5e4 < float(data["geopotential"].mean()) < 6e4
    assert float(data["total_precipitation"].max()) < 0.5
    only = open_source(GOLDEN / "gfs_mixed_levels.grib2", Selection(variables=["t2m"]))
    assert list(only.data_vars) == ["2m_temperature"]
    with pytest.raises(SourceError, match=r"variable sst is missing: .*prmsl"):
        open_source(GOLDEN / "gfs_mixed_levels.grib2", Selection(variables=["t2m", "sst"]))


def test_grib_across_greenwich_and_no_index_beside_it(tmp_path: Path) -> None:
    shutil.copy(GOLDEN / "era5_uk_hourly.grib", tmp_path)
    data = open_source(tmp_path / "era5_uk_hourly.grib")
    assert data.sizes["time"] == 24
    assert (np.diff(data["longitude"]) > 0).all()
    data.load()
    assert [file.name for file in tmp_path.iterdir()] == ["era5_uk_hourly.grib"]


def test_reduced_gaussian_grid_is_refused() -> None:
    with pytest.raises(SourceError, match="reduced Gaussian or unstructured grid"):
        open_source(GOLDEN / "eraint_reduced_gaussian.grb")


def test_grib_without_cfgrib_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cfgrib", None)
    with pytest.raises(ImportError, match=r"skysolve\[grib\]"):
        open_source(GOLDEN / "era5_members.grib")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("era5_members.grib", "is truncated or damaged: the GRIB message at byte"),
        ("gfs_mixed_levels.grib2", "is truncated or damaged: the GRIB message at byte"),
        ("cds_new_surface.nc", "is truncated or no NetCDF file"),
    ],
)
def test_truncated_file_is_named(tmp_path: Path, name: str, message: str) -> None:
    content = (GOLDEN / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(SourceError, match=rf"{name} {message}.*again"):
        open_source(tmp_path / name)


def test_grib_with_damaged_content_is_named(tmp_path: Path) -> None:
    content = bytearray((GOLDEN / "era5_members.grib").read_bytes())
    content[8:40] = b"\xff" * 32
    (tmp_path / "bad.grib").write_bytes(content)
    with pytest.raises(SourceError, match="bad.grib"):
        open_source(tmp_path / "bad.grib", Selection(member=0)).load()


def test_grib_that_cfgrib_cannot_read_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreadable(*_: object, **__: object) -> None:
        raise EOFError("no message")

    monkeypatch.setattr("cfgrib.open_datasets", unreadable)
    with pytest.raises(SourceError, match=r"era5_members.grib cannot be read as GRIB \(no message\)"):
        open_source(GOLDEN / "era5_members.grib", Selection(member=0))


def test_part_of_a_grib_that_cannot_be_used_is_recorded(tmp_path: Path) -> None:
    """A reduced Gaussian mask beside good fields: left out, unless it is what was asked for."""
    both = (GOLDEN / "era5_uk_hourly.grib").read_bytes() + (GOLDEN / "eraint_reduced_gaussian.grb").read_bytes()
    (tmp_path / "both.grib").write_bytes(both)
    data = open_source(tmp_path / "both.grib")
    assert list(data.data_vars) == ["2m_temperature"]
    assert any("reduced Gaussian" in sentence for sentence in data.attrs[LEFT_OUT])
    with pytest.raises(SourceError, match="reduced Gaussian"):
        open_source(tmp_path / "both.grib", Selection(variables=["lsm"]))


def test_grib_messages_too_large_to_say_their_length_are_left_to_eccodes() -> None:
    large = b"GRIB" + (0x800001).to_bytes(3, "big") + b"\x01" + bytes(8)
    assert _message_length(large) is None
    assert _message_length(b"GRIB\0\0\0\x02" + (2**40).to_bytes(8, "big")) == 2**40


def test_padding_between_grib_messages_is_no_damage(tmp_path: Path) -> None:
    content = (GOLDEN / "era5_uk_hourly.grib").read_bytes()
    (tmp_path / "padded.grib").write_bytes(content + b"\0" * 100)
    assert open_source(tmp_path / "padded.grib").sizes["time"] == 24


def zipped(path: Path, files: dict[str, xr.Dataset], folder: Path) -> Path:
    folder.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            data.to_netcdf(folder / name)
            archive.write(folder / name, name)
    return path


def test_zip_of_instant_and_accumulated_fields_called_nc(tmp_path: Path) -> None:
    """What CDS gives out for instant and accumulated variables together, even when asked for it unarchived."""
    rain = cds_new().isel(pressure_level=0, drop=True).rename(t="tp")
    rain["tp"] = ((rain["tp"] - 200) / 1e5).assign_attrs(units="m")
    files = {
        "data_stream-oper_stepType-instant.nc": cds_new(),
        "data_stream-oper_stepType-accum.nc": rain,
    }
    data = open_source(zipped(tmp_path / "download.nc", files, tmp_path / "parts"))
    assert list(data.data_vars) == ["temperature", "total_precipitation"]
    np.testing.assert_array_equal(data["temperature"], standardise(cds_new())["temperature"])


def test_damaged_zip_is_named(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", {"a.nc": cds_new()}, tmp_path / "parts")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(SourceError, match="a.zip is a truncated or damaged ZIP file"):
        open_source(path)
    with zipfile.ZipFile(tmp_path / "empty.zip", "w") as archive:
        archive.mkdir("folder")
    with pytest.raises(SourceError, match="holds no file"):
        open_source(tmp_path / "empty.zip")


def test_folder_and_glob_of_months(tmp_path: Path) -> None:
    raw = cds_new(steps=6)
    raw.isel(valid_time=slice(0, 4)).to_netcdf(tmp_path / "era5_1.nc")
    raw.isel(valid_time=slice(4, 6)).to_netcdf(tmp_path / "era5_2.nc")
    (tmp_path / "notes.txt").write_text("not data")
    for source in (tmp_path, f"{tmp_path}/era5_*.nc"):
        np.testing.assert_array_equal(open_source(source)["temperature"], standardise(raw)["temperature"])


def months(folder: Path) -> Path:
    """Four days, a file each."""
    folder.mkdir()
    for day in range(10, 14):
        cds_new(steps=4, start=f"2020-02-{day}").drop_vars("expver").to_netcdf(folder / f"{day}.nc")
    return folder


def test_span_of_a_folder_reaches_over_its_files(tmp_path: Path) -> None:
    """No single file has it all, and the files outside do not count."""
    folder = months(tmp_path / "months")
    data = open_source(folder, Selection(start="2020-02-11T06", end="2020-02-12"))
    np.testing.assert_array_equal(data["time"], times(7, "2020-02-11T06"))
    assert "2 of 4 files hold no time of those asked for" in data.attrs[LEFT_OUT]
    assert "span" not in data.attrs
    one_file = open_source(folder, Selection(start="20200211", end="2020-02-11", variables=["t"]))
    np.testing.assert_array_equal(one_file["temperature"], standardise(cds_new(start="2020-02-11"))["temperature"])


@pytest.mark.parametrize(
    ("span", "message"),
    [
        ({"start": "2020-02-09"}, "start=2020-02-09 is before .*months begins: it spans 2020-02-10T00.* to 2020-02-13T18"),
        ({"end": "2020-02-14"}, "end=2020-02-14 is after .*months ends: it spans 2020-02-10"),
        ({"start": "2020-02-11T01", "end": "2020-02-11T05"}, "no time is left: start=2020-02-11T01"),
    ],
)
def test_span_beyond_all_files_of_a_folder_is_refused(tmp_path: Path, span: dict[str, str], message: str) -> None:
    with pytest.raises(SourceError, match=message):
        open_source(months(tmp_path / "months"), Selection(**span))


def test_span_that_would_lose_a_variable_is_refused(tmp_path: Path) -> None:
    """The only file with pressure holds none of the times: without it the store would lack a variable that was there."""
    folder = months(tmp_path / "months")
    cds_legacy().isel(expver=0, drop=True).to_netcdf(tmp_path / "surface.nc")
    wanted = Selection(start="2020-02-11", end="2020-02-11")
    with pytest.raises(SourceError, match="no time is left.*surface.nc spans 2020-02-27"):
        open_sources([folder, tmp_path / "surface.nc"], wanted)
    only = dataclasses.replace(wanted, variables=["temperature"])
    assert list(open_sources([folder, tmp_path / "surface.nc"], only).data_vars) == ["temperature"]


def test_grib_outside_the_span_is_no_missing_variable(tmp_path: Path) -> None:
    for number in range(2):
        shutil.copy(GOLDEN / "era5_uk_hourly.grib", tmp_path / f"{number}.grib")
    with pytest.raises(SourceError, match=r"start=1900-01-01 is before .* begins"):
        open_source(tmp_path, Selection(start="1900-01-01", end="1900-01-02", variables=["t2m"]))


def test_zip_gives_the_variables_asked_for_though_no_member_has_all(tmp_path: Path) -> None:
    rain = cds_new().isel(pressure_level=0, drop=True).rename(t="tp")
    rain["tp"] = ((rain["tp"] - 200) / 1e5).assign_attrs(units="m")
    path = zipped(tmp_path / "download.nc", {"instant.nc": cds_new(), "accum.nc": rain}, tmp_path / "parts")
    data = open_source(path, Selection(variables=["tp", "t"]))
    assert list(data.data_vars) == ["temperature", "total_precipitation"]


def test_folder_of_stores_and_files_is_put_side_by_side(tmp_path: Path) -> None:
    cds_new().to_zarr(tmp_path / "levels.zarr", zarr_format=2)
    cds_legacy().to_netcdf(tmp_path / "surface.nc")
    assert list(open_source(tmp_path).data_vars) == ["temperature", "mean_sea_level_pressure"]


def test_what_is_no_source_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="holds no Zarr store and no NetCDF"):
        open_source(tmp_path)
    (tmp_path / "a.nc").write_text("<html>")
    with pytest.raises(SourceError, match="it begins with b'<html>'"):
        open_source(tmp_path / "a.nc")
    (tmp_path / "b.nc").touch()
    with pytest.raises(SourceError, match="it is empty"):
        open_source(tmp_path / "b.nc")
    (tmp_path / "c.zarr").mkdir()
    (tmp_path / "c.zarr" / "zarr.json").write_text("{")
    with pytest.raises(SourceError, match="cannot be opened as a Zarr store"):
        open_source(tmp_path / "c.zarr")


def test_arco_store_from_disk(tmp_path: Path) -> None:
    arco().to_zarr(tmp_path / "arco.zarr", zarr_format=2)
    data = open_source(tmp_path / "arco.zarr", Selection(preliminary=True))
    assert data.sizes["time"] == 4
    assert not np.isnan(data["temperature"]).any()
