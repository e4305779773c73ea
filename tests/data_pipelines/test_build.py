"""Building a store: whole or not there, resumable, and nothing lost on the way."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from fsspec.implementations.memory import MemoryFileSystem

import data_pipelines.build as build
from data_pipelines.area import cell_area_weights
from data_pipelines.audit import AuditError
from data_pipelines.build import Recipe, build_analysis_store, parse_grid
from data_pipelines.sample import sample_sources
from data_pipelines.sources import Selection, SourceError, open_sources
from data_pipelines.standardise import standardise
from data_pipelines.store import StoreError, data_hash, open_analysis, write_analysis
from tests.helpers.raw_layouts import cds_legacy, cds_new, times, weatherbench
from tests.helpers.web_server import web_server


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.zarr"
    weatherbench(steps=12).chunk(time=1).to_zarr(path, zarr_format=2)
    return path


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A block and a chunk per step, so that there is a middle to stop in."""
    monkeypatch.setattr(build, "_BLOCK_BYTES", 1)
    monkeypatch.setattr("data_pipelines.store.AnalysisContract.steps_per_chunk", lambda *_: 1)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_sample_becomes_an_analysis_store(tmp_path: Path) -> None:
    out = tmp_path / "new" / "analysis.zarr"
    report = build_analysis_store(sample_sources(), out, Selection(end="2025-12-05"))
    stored = open_analysis(out)
    assert list(stored.data_vars) == ["vorticity", "mean_sea_level_pressure"]
    xr.testing.assert_equal(stored.load(), open_sources(sample_sources()).isel(time=slice(0, 20)).drop_vars("expver").load())
    assert report.data_hash == data_hash(stored) == stored.attrs["data_hash"]
    assert "Contains modified Copernicus Climate Change Service information 2025-2026" in stored.attrs["license"]
    assert "PyStormTracker-Data" in stored.attrs["source"]
    assert names(out.parent) == {"analysis.zarr", "analysis.zarr.audit.json"}
    assert json.loads((tmp_path / "new" / "analysis.zarr.audit.json").read_text())["accepted"] is True


def test_static_fields_levels_and_attributes_arrive(tmp_path: Path, source: Path) -> None:
    report = build_analysis_store(
        [source], tmp_path / "a.zarr", None, Recipe(attributes={"license": "CC0-1.0", "title": "mine"})
    )
    stored = open_analysis(tmp_path / "a.zarr")
    xr.testing.assert_equal(stored.load(), standardise(weatherbench(steps=12)).load())
    assert stored.attrs["license"] == "CC0-1.0"
    assert report.data_hash == data_hash(stored)
    assert {channel.variable for channel in report.channels} == set(stored.data_vars)


def test_reading_over_the_web_gives_the_same_store(tmp_path: Path, source: Path) -> None:
    with web_server(tmp_path) as requests:
        report = build_analysis_store([f"{requests.url}/source.zarr"], tmp_path / "a.zarr", Selection(variables=["msl"]))
    local = build_analysis_store([source], tmp_path / "b.zarr", Selection(variables=["msl"]))
    assert report.data_hash == local.data_hash


def test_output_that_exists_is_not_touched(tmp_path: Path, source: Path) -> None:
    out = tmp_path / "a.zarr"
    out.mkdir()
    (out / "mine.txt").write_text("keep")
    with pytest.raises(StoreError, match="exists already; nothing is overwritten"):
        build_analysis_store([source], out)
    assert (out / "mine.txt").read_text() == "keep"


def interrupted(monkeypatch: pytest.MonkeyPatch, after: int, error: BaseException) -> None:
    """Let `after` blocks be written, then fail once."""
    original, count = write_analysis, iter(range(1000))

    def write(path: Any, dataset: xr.Dataset) -> None:
        if next(count) == after:
            raise error
        original(path, dataset)

    monkeypatch.setattr(build, "write_analysis", write)


@pytest.mark.usefixtures("small_blocks")
def test_killed_build_goes_on_where_it_stopped(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "a.zarr"
    with monkeypatch.context() as patch:
        interrupted(patch, 5, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            build_analysis_store([source], out)
    assert names(tmp_path) == {"source.zarr", "a.zarr.partial", "a.zarr.progress.jsonl"}, "no store that is not whole"
    with (tmp_path / "a.zarr.progress.jsonl").open("a") as file:
        file.write('{"block": 99, "rep')  # the line that was being written
    with monkeypatch.context() as patch:
        interrupted(patch, 2, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            build_analysis_store([source], out)
    with pytest.raises(StoreError, match="is unfinished: being built since"):
        open_analysis(tmp_path / "a.zarr.partial")

    read: list[int] = []
    original = build._read

    def counted(lazy: xr.Dataset, remote: bool) -> xr.Dataset:
        read.append(int((lazy["time"].values[0] - times(1)[0]) / np.timedelta64(6, "h")))
        return original(lazy, remote)

    monkeypatch.setattr(build, "_read", counted)
    report = build_analysis_store([source], out)
    assert read == [7, 8, 9, 10, 11], "five blocks of the first run and two of the second are kept"
    whole = build_analysis_store([source], tmp_path / "b.zarr")
    assert report.data_hash == whole.data_hash == data_hash(open_analysis(out))
    for resumed, straight in zip(report.channels, whole.channels, strict=True):
        assert resumed.mean == pytest.approx(straight.mean, rel=1e-12)
        assert replace(resumed, mean=0) == replace(straight, mean=0)
    assert names(tmp_path) == {"source.zarr", "a.zarr", "a.zarr.audit.json", "b.zarr", "b.zarr.audit.json"}


@pytest.mark.usefixtures("small_blocks")
def test_unfinished_copy_with_other_settings_is_kept_until_told(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "a.zarr"
    with monkeypatch.context() as patch:
        interrupted(patch, 3, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            build_analysis_store([source], out)
    with pytest.raises(StoreError, match=r"an unfinished copy made with other settings, from changed .* restart=true"):
        build_analysis_store([source], out, Selection(variables=["msl"]))
    assert (tmp_path / "a.zarr.partial").exists()
    build_analysis_store([source], out, Selection(variables=["msl"]), Recipe(restart=True))
    assert list(open_analysis(out).data_vars) == ["mean_sea_level_pressure"]


@pytest.mark.usefixtures("small_blocks")
def test_build_killed_before_the_store_was_created_starts_again(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object, **__: object) -> None:
        (tmp_path / "a.zarr.partial").mkdir()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(build, "create_analysis_store", killed)
        with pytest.raises(KeyboardInterrupt):
            build_analysis_store([source], tmp_path / "a.zarr")
    build_analysis_store([source], tmp_path / "a.zarr")
    assert open_analysis(tmp_path / "a.zarr").sizes["time"] == 12


def test_folder_in_the_way_is_not_deleted(tmp_path: Path, source: Path) -> None:
    (tmp_path / "a.zarr.partial").mkdir()
    with pytest.raises(StoreError, match=r"a.zarr.partial is in the way"):
        build_analysis_store([source], tmp_path / "a.zarr")
    assert (tmp_path / "a.zarr.partial").exists()


@pytest.mark.usefixtures("small_blocks")
def test_full_disk_loses_nothing_and_the_same_command_goes_on(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import zarr.storage._local as local

    original, count = local._put, iter(range(1000))

    def full(*args: Any, **options: Any) -> Any:
        if next(count) > 30:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(*args, **options)

    out = tmp_path / "a.zarr"
    with monkeypatch.context() as patch:
        patch.setattr(local, "_put", full)
        with pytest.raises(StoreError, match=r"no space is left on the disk .* run the same command again"):
            build_analysis_store([source], out)
    done = [line for line in (tmp_path / "a.zarr.progress.jsonl").read_text().splitlines() if "block" in line]
    assert 0 < len(done) < 12
    assert not out.exists()
    build_analysis_store([source], out)
    xr.testing.assert_equal(open_analysis(out).load(), standardise(weatherbench(steps=12)).load())


def test_disk_that_is_full_from_the_start_leaves_nothing(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("zarr.storage._local._put", full)
        with pytest.raises(StoreError, match="no space is left"):
            build_analysis_store([source], tmp_path / "a.zarr")
    assert names(tmp_path) == {"source.zarr"}


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A URL to write to; progress and audit of a remote store lie in the current folder."""
    monkeypatch.chdir(tmp_path)
    MemoryFileSystem.store.clear()
    yield "memory://bucket/a.zarr"
    MemoryFileSystem.store.clear()


@pytest.mark.usefixtures("small_blocks")
def test_remote_store_is_built_resumed_and_not_overwritten(
    tmp_path: Path, source: Path, remote: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        interrupted(patch, 5, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            build_analysis_store([source], remote)
    with pytest.raises(StoreError, match="is unfinished"):
        open_analysis(remote)
    report = build_analysis_store([source], remote)
    assert report.data_hash == data_hash(open_analysis(remote))
    assert names(tmp_path) == {"source.zarr", "a.zarr.audit.json"}
    with pytest.raises(StoreError, match="exists already; nothing is overwritten"):
        build_analysis_store([source], remote)


@pytest.mark.usefixtures("small_blocks")
def test_nothing_remote_is_deleted(tmp_path: Path, source: Path, remote: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        interrupted(patch, 5, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            build_analysis_store([source], remote)
    with pytest.raises(StoreError, match="holds an unfinished copy that cannot be used; delete it"):
        build_analysis_store([source], remote, None, Recipe(restart=True))
    (tmp_path / "a.zarr.progress.jsonl").unlink()
    with pytest.raises(StoreError, match="is in the way"):
        build_analysis_store([source], remote)


def test_remote_store_that_refuses_is_named(source: Path, remote: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class PermissionDeniedError(Exception):
        """As obstore's: no OSError."""

    def denied(*_: object, **__: object) -> None:
        raise PermissionDeniedError("403 Forbidden")

    monkeypatch.setattr("zarr.create_group", denied)
    with pytest.raises(StoreError, match=r"memory://bucket/a.zarr cannot be written \(PermissionDeniedError: 403 Forbidden\)"):
        build_analysis_store([source], remote)


def test_static_fields_alone_make_a_store(tmp_path: Path) -> None:
    mask = weatherbench()[["geopotential_at_surface"]]
    report = build_analysis_store([write(tmp_path / "s.zarr", mask)], tmp_path / "a.zarr")
    assert report.steps == 0
    assert report.span is None
    assert open_analysis(tmp_path / "a.zarr").attrs["data_hash"] == report.data_hash


@pytest.mark.parametrize("damage", ["truncated", "corrupt"])
def test_damaged_chunk_of_a_source_is_named(tmp_path: Path, source: Path, damage: str) -> None:
    chunk = source / "mean_sea_level_pressure" / "7.0.0"
    content = chunk.read_bytes()
    chunk.write_bytes(content[:40] if damage == "truncated" else b"\0" * len(content))
    with pytest.raises(StoreError, match=r"mean_sea_level_pressure at 2020-02-28T18:00.*truncated or corrupt"):
        build_analysis_store([source], tmp_path / "a.zarr")
    assert not (tmp_path / "a.zarr").exists()


def write(path: Path, raw: xr.Dataset) -> Path:
    raw.to_zarr(path, zarr_format=2)
    return path


def test_nan_day_is_refused_and_accepting_it_reads_nothing_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = cds_new(steps=8)
    raw["t"][4:6] = np.nan
    path, out = write(tmp_path / "s.zarr", raw), tmp_path / "a.zarr"
    with pytest.raises(
        AuditError, match=r"nan_fields: temperature_500 is missing .* at 2020-02-28T00:00, .*allow=\[nan_fields\]"
    ):
        build_analysis_store([path], out)
    assert not out.exists()
    assert json.loads((tmp_path / "a.zarr.audit.json").read_text())["accepted"] is False
    with monkeypatch.context() as patch:
        patch.setattr(build, "_read", None)
        report = build_analysis_store([path], out, None, Recipe(allow=("nan_fields",)))
    assert report.accepted
    assert open_analysis(out).attrs["accepted"] == ["nan_fields"]
    assert int(open_analysis(out)["temperature"].isnull().all(["level", "latitude", "longitude"]).sum()) == 2


def test_refused_source_that_was_mended_is_read_again(tmp_path: Path) -> None:
    raw = cds_new(steps=8)
    bad = raw.copy(deep=True)
    bad["t"][4] = np.nan
    path, out = write(tmp_path / "s.zarr", bad), tmp_path / "a.zarr"
    with pytest.raises(AuditError):
        build_analysis_store([path], out)
    shutil.rmtree(path)
    write(path, raw)
    build_analysis_store([path], out)
    assert not open_analysis(out)["temperature"].isnull().any()


def test_refused_remote_source_is_read_again_unless_accepted(tmp_path: Path) -> None:
    """Nothing tells from outside that a remote store was mended, so what was refused is not trusted."""
    bad = cds_new(steps=8)
    bad["t"][4] = np.nan
    write(tmp_path / "s.zarr", bad)
    with web_server(tmp_path) as requests:
        url, out = f"{requests.url}/s.zarr", tmp_path / "a.zarr"
        with pytest.raises(AuditError, match="nan_fields"):
            build_analysis_store([url], out)
        shutil.rmtree(tmp_path / "s.zarr")
        write(tmp_path / "s.zarr", cds_new(steps=8))
        build_analysis_store([url], out)
    assert not open_analysis(out)["temperature"].isnull().any()


@pytest.mark.parametrize(
    ("name", "change", "steps"),
    [
        ("gaps", lambda raw: raw.isel(valid_time=[0, 1, 2, 5, 6, 7]), 6),
        ("duplicate_times", lambda raw: raw.isel(valid_time=[0, 1, 2, 2, 3]), 4),
    ],
)
def test_gaps_and_duplicates_are_refused_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, change: Any, steps: int
) -> None:
    path, out = write(tmp_path / "s.zarr", change(cds_new(steps=8))), tmp_path / "a.zarr"
    with monkeypatch.context() as patch:
        patch.setattr(build, "_read", None)
        with pytest.raises(AuditError, match=name):
            build_analysis_store([path], out)
    assert names(tmp_path) == {"s.zarr"}
    report = build_analysis_store([path], out, None, Recipe(allow=(name,)))
    stored = open_analysis(out)
    assert stored.sizes["time"] == steps
    assert stored.attrs["accepted"] == [name]
    assert any(finding.name == name and finding.accepted for finding in report.findings)


def test_uneven_time_step_is_refused(tmp_path: Path) -> None:
    raw = cds_new(steps=4)
    path = write(tmp_path / "s.zarr", raw.assign_coords(valid_time=times(4) + np.array([0, 0, 1, 0]) * np.timedelta64(1, "h")))
    with pytest.raises(AuditError, match="time step is not uniform"):
        build_analysis_store([path], tmp_path / "a.zarr", None, Recipe(allow=("gaps",)))


def test_sources_at_different_times_need_join(tmp_path: Path) -> None:
    one = write(tmp_path / "one.zarr", cds_new(steps=8))
    other = write(tmp_path / "other.zarr", cds_legacy(steps=6, preliminary=0).isel(expver=0, drop=True))
    with pytest.raises(SourceError, match="times differ between sources"):
        build_analysis_store([one, other], tmp_path / "a.zarr")
    build_analysis_store([one, other], tmp_path / "a.zarr", None, Recipe(join="inner"))
    assert open_analysis(tmp_path / "a.zarr").sizes["time"] == 6


@pytest.mark.parametrize(
    ("grid", "shape", "first"),
    [("240x121", (121, 240), 90.0), ("64x32", (32, 64), 87.1875), ("2.5deg", (73, 144), 90.0), ("1.5 deg", (121, 240), 90.0)],
)
def test_grid_text_gives_the_grid_of_weatherbench(grid: str, shape: tuple[int, int], first: float) -> None:
    latitude, longitude = parse_grid(grid)
    assert (latitude.size, longitude.size) == shape
    assert latitude[0] == first
    assert latitude[-1] == -first
    assert longitude[0] == 0
    assert longitude[-1] == 360 - 360 / shape[1]


@pytest.mark.parametrize("grid", ["fine", "7deg", "0deg", "240", "2x1"])
def test_grid_that_makes_no_sense_is_refused(grid: str) -> None:
    with pytest.raises(SourceError, match="grid must be LONGITUDESxLATITUDES"):
        parse_grid(grid)


def test_regridded_store_has_the_grid_asked_for_and_the_same_mean(tmp_path: Path, source: Path) -> None:
    report = build_analysis_store([source], tmp_path / "a.zarr", Selection(variables=["msl"]), Recipe(grid="16x9"))
    stored = open_analysis(tmp_path / "a.zarr")
    assert dict(stored.sizes) == {"time": 12, "latitude": 9, "longitude": 16}
    assert any(change == "regridded conservatively from 32 x 64" for change in report.changes)
    weights = [cell_area_weights(data["latitude"].values) for data in (stored, weatherbench())]
    means = [
        float((data["mean_sea_level_pressure"].mean("longitude") * xr.DataArray(weight, dims="latitude")).mean())
        for data, weight in zip((stored, weatherbench(steps=12)), weights, strict=True)
    ]
    assert means[0] == pytest.approx(means[1], rel=1e-6)
    report = build_analysis_store([write(tmp_path / "cds.zarr", cds_new())], tmp_path / "b.zarr", None, Recipe(grid="4x3"))
    assert report.expver == {"0001": 3, "0005": 1}


def wind(steps: int = 3) -> xr.Dataset:
    raw = cds_new(steps=steps)
    u = (raw["t"] - 270).assign_attrs(units="m s**-1")
    return raw.drop_vars("t").assign(u=u, v=(u * 0.5).assign_attrs(units="m s**-1"))


def test_derived_variable_is_stored_and_its_inputs_only_if_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path / "s.zarr", wind())
    build_analysis_store([path], tmp_path / "a.zarr", Selection(variables=["u"]), Recipe(derive=("wind_speed",)))
    stored = open_analysis(tmp_path / "a.zarr")
    assert list(stored.data_vars) == ["u_component_of_wind", "wind_speed"]
    np.testing.assert_allclose(stored["wind_speed"], np.abs(stored["u_component_of_wind"]) * np.sqrt(1.25), rtol=1e-6)
    asked = Selection(variables=["wind_speed"])  # named twice, as a newcomer does
    build_analysis_store([path], tmp_path / "only.zarr", asked, Recipe(derive=("wind_speed",)))
    assert list(open_analysis(tmp_path / "only.zarr").data_vars) == ["wind_speed"]
    report = build_analysis_store([path], tmp_path / "b.zarr", None, Recipe(derive=("wind_speed",)))
    assert len(open_analysis(tmp_path / "b.zarr").data_vars) == 3
    assert any(change.startswith("wind_speed computed from u_component_of_wind") for change in report.changes)
    with pytest.raises(ValueError, match="cannot be derived"):
        build_analysis_store([path], tmp_path / "c.zarr", None, Recipe(derive=("vortexiness",)))


@pytest.mark.usefixtures("small_blocks")
def test_a_block_is_read_out_of_the_graph_of_some_blocks(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """dask looks at the whole graph for every read: at that of 40 years it took longer than the read."""
    read, tasks = build._read, []
    monkeypatch.setattr(build, "_read", lambda lazy, remote: tasks.append(len(lazy.__dask_graph__())) or read(lazy, remote))
    hashes = set()
    for per_graph in (512, 5, 1):
        monkeypatch.setattr(build, "_BLOCKS_PER_GRAPH", per_graph)
        hashes.add(build_analysis_store([source], tmp_path / f"{per_graph}.zarr").data_hash)
    assert len(hashes) == 1
    assert len(tasks) == 36
    assert max(tasks[24:]) < max(tasks[12:24]) < max(tasks[:12])


def test_progress_reaches_the_end(tmp_path: Path, source: Path) -> None:
    seen: list[tuple[int, int]] = []
    build_analysis_store([source], tmp_path / "a.zarr", progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (12, 12)
