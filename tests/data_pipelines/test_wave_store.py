"""The wave store keeps its contract, and training windows of it are what was written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
import zarr

from data_pipelines.contracts import WAVES
from data_pipelines.store import (
    StoreError,
    create_wave_store,
    data_hash,
    load_checked,
    open_analysis,
    open_store,
    open_waves,
    steps_per_chunk,
    write_sample_coordinates,
    write_samples,
)
from data_pipelines.streaming import WindowStream
from tests.helpers.analyses import make_analysis
from tests.helpers.waves import make_waves

CHANNELS = ["displacement", "velocity"]


def build_store(path: Path, waves: xr.Dataset, compression: str = "none") -> Path:
    create_wave_store(path, waves, compression=compression)
    for sample in reversed(range(waves.sizes["sample"])):
        write_samples(path, waves.isel(sample=[sample]))
    return path


@pytest.fixture(scope="module")
def waves() -> xr.Dataset:
    return make_waves()


@pytest.mark.parametrize("compression", ["none", "lz4", "zstd"])
def test_what_goes_in_comes_out(tmp_path: Path, waves: xr.Dataset, compression: str) -> None:
    path = build_store(tmp_path / "w.zarr", waves, compression)
    stored = load_checked(open_waves(path))
    xr.testing.assert_equal(stored, waves[list(stored.data_vars)])
    assert data_hash(stored) == data_hash(waves)
    assert stored.attrs["contract"] == "skysolve waves"
    xr.testing.assert_equal(open_store(path), stored)


def test_hash_knows_values_and_samples(waves: xr.Dataset) -> None:
    changed = waves.copy(deep=True)
    changed["wave_speed"][1, 2, 3] += 0.001
    hashes = {data_hash(one) for one in (waves, changed, waves.assign_coords(sample=[0, 1, 3]))}
    assert len(hashes) == 3


def test_a_sample_is_a_chunk_and_nothing_is_there_before_it_is_written(tmp_path: Path, waves: xr.Dataset) -> None:
    create_wave_store(tmp_path / "w.zarr", waves)
    write_samples(tmp_path / "w.zarr", waves.isel(sample=[1]))
    group: Any = zarr.open_group(tmp_path / "w.zarr", mode="r")
    assert group["displacement"].chunks == (1, 8, 6, 5)
    assert group["mask"].chunks == (1, 6, 5)
    assert steps_per_chunk(tmp_path / "w.zarr") == 1
    assert np.isnan(open_waves(tmp_path / "w.zarr")["mask"]).all(("y", "x")).values.tolist() == [True, False, True]


def test_one_number_per_sample_is_a_coordinate(tmp_path: Path, waves: xr.Dataset) -> None:
    path = build_store(tmp_path / "w.zarr", waves)
    seeds = xr.DataArray(np.array([5, 6, 7]), dims="sample", attrs={"long_name": "seed of the draw"})
    before = data_hash(open_waves(path))
    write_sample_coordinates(path, {"seed": seeds})
    stored = open_waves(path)
    assert stored["seed"].values.tolist() == [5, 6, 7]
    assert "seed" in stored.coords
    assert data_hash(stored) == before
    with pytest.raises(StoreError, match="it must have one value for each of 3 samples"):
        write_sample_coordinates(path, {"energy": seeds[:2]})


def attribute(waves: xr.Dataset, name: str, units: str | None) -> xr.Dataset:
    changed = waves.copy()
    changed[name].attrs["units"] = units
    return changed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda waves: waves.drop_vars("mask"), r"variables \['mask'\] are missing; a wave store holds"),
        (lambda waves: attribute(waves, "velocity", "km s-1"), "velocity has units 'km s-1'; the store holds it in 'm s-1'"),
        (lambda waves: waves.assign(extra=waves["mask"].drop_attrs()), "extra has units None"),
        (lambda waves: waves.assign(mask=waves["displacement"].assign_attrs(units="1")), "mask has dimensions"),
        (lambda waves: waves.transpose("sample", "time", "x", "y"), "the order must be"),
        (lambda waves: waves.astype("float64"), "it must be float32"),
        (lambda waves: waves.assign_coords(sample=[0, 2, 1]), "sample must be whole numbers from 0 that rise"),
        (lambda waves: waves.assign_coords(sample=[-1, 0, 1]), "sample must be whole numbers from 0 that rise"),
        (lambda waves: waves.assign_coords(sample=[0.0, 1.0, 2.0]), "sample must be whole numbers"),
        (lambda waves: waves.assign_coords(time=np.arange(8.0) ** 2), r"time must rise in equal steps \[s\]"),
        (lambda waves: waves.assign_coords(y=waves["y"][::-1].values), r"y must rise in equal steps \[m\]"),
        (lambda waves: waves.isel(x=[0]), "x must be at least 2 finite numbers"),
        (lambda waves: waves.drop_vars("x"), "coordinate x is missing"),
        (lambda waves: waves[[]], "no variable is in it; a wave store holds"),
        (lambda waves: waves.rename(y="latitude"), "a wave store knows only"),
    ],
)
def test_template_that_breaks_the_contract_is_refused(
    tmp_path: Path, waves: xr.Dataset, change: Callable[[xr.Dataset], xr.Dataset], message: str
) -> None:
    with pytest.raises(StoreError, match=message):
        create_wave_store(tmp_path / "w.zarr", change(waves))
    assert not (tmp_path / "w.zarr").exists()


def test_what_does_not_fit_the_store_is_refused(tmp_path: Path, waves: xr.Dataset) -> None:
    path = build_store(tmp_path / "w.zarr", waves)
    with pytest.raises(StoreError, match="sample 9 is not in .*w.zarr, which holds 0 to 2"):
        write_samples(path, waves.isel(sample=[0]).assign_coords(sample=[9]))
    with pytest.raises(StoreError, match="y of the data differs from that of"):
        write_samples(path, waves.assign_coords(y=waves["y"] + 1))


def test_one_kind_of_store_is_not_taken_for_the_other(tmp_path: Path, waves: xr.Dataset) -> None:
    path = build_store(tmp_path / "w.zarr", waves)
    with pytest.raises(StoreError, match="is not an analysis store: variable displacement"):
        open_analysis(path)
    with pytest.raises(StoreError, match=r"there is no wave store at .*none.zarr"):
        open_waves(tmp_path / "none.zarr")
    with pytest.raises(ValueError, match="stores of one kind; got analysis and waves"):
        WindowStream([waves, make_analysis().rename(mean_sea_level_pressure="displacement")], ["displacement"])


def test_damaged_chunk_is_named_by_sample(tmp_path: Path, waves: xr.Dataset) -> None:
    path = build_store(tmp_path / "w.zarr", waves, "lz4")
    chunk = path / "displacement" / "c" / "2" / "0" / "0" / "0"
    chunk.write_bytes(chunk.read_bytes()[:-20])
    with pytest.raises(StoreError, match="displacement at sample 2 cannot be read"):
        load_checked(open_waves(path))
    with pytest.raises(StoreError, match="displacement at 0.1 s of sample 2 cannot be read"):
        next(WindowStream(path, CHANNELS, batch_size=3, shuffle=False, memory_limit=0, span=(0, 0.1)))


@pytest.fixture(scope="module", params=["plain", "lz4", "in memory", "dataset", "dask", "chunked in time"])
def source(request: pytest.FixtureRequest, waves: xr.Dataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, int]:
    """Every way to the same fields, with the memory limit that makes the stream take it."""
    folder = tmp_path_factory.mktemp("stores")
    match request.param:
        case "dataset":
            return waves, 0
        case "dask":
            return waves.chunk(sample=1, time=3), 0
        case "chunked in time":
            with pytest.MonkeyPatch.context() as patch:
                small = type(WAVES)(chunk_bytes=2 * 6 * 5 * 4)
                patch.setattr("data_pipelines.store.WAVES", small)
                return build_store(folder / "w.zarr", waves), 0
    return build_store(folder / "w.zarr", waves, "lz4" if request.param == "lz4" else "none"), (
        2**30 if request.param == "in memory" else 0
    )


@pytest.mark.parametrize(("history", "steps_ahead"), [(1, 1), (2, 3)])
def test_windows_hold_the_fields_of_their_sample(
    source: tuple[Any, int], waves: xr.Dataset, history: int, steps_ahead: int
) -> None:
    """No window crosses from one sample to the next, and static fields are those of the window's sample."""
    path, limit = source
    frames = history + steps_ahead
    static = ["wave_speed", "mask"]
    stream = WindowStream(
        path, CHANNELS, static=static, history=history, steps_ahead=steps_ahead, batch_size=2, memory_limit=limit
    )
    assert stream.window_count == 3 * (8 - frames + 1)
    step = np.timedelta64(33333333, "ns")
    for _ in range(len(stream) + 1):
        batch = next(stream)
        assert (np.diff(batch.time, axis=1) == step).all()
        for row in range(2):
            one = waves.isel(sample=int(batch.sample[row]))
            first = round(batch.time[row, 0] / step)
            wanted = np.stack([one[name].values[first : first + frames] for name in CHANNELS], axis=1)
            np.testing.assert_array_equal(batch.fields[row].numpy(), wanted)
            np.testing.assert_array_equal(batch.static[row].numpy(), np.stack([one[name].values for name in static]))
    np.testing.assert_array_equal(stream.latitude, waves["y"])
    stream.close()


def test_span_and_step_are_in_seconds(waves: xr.Dataset) -> None:
    stream = WindowStream(waves, CHANNELS, span=(0.06, 0.21), step_seconds=2 / 30, history=1, batch_size=1, shuffle=False)
    assert stream.window_count == 3 * 3  # frames 2 to 6, two apart
    batch = next(stream)
    np.testing.assert_array_equal(batch.fields[0, :, 0].numpy(), waves["displacement"].values[0, [2, 4]])
    with pytest.raises(ValueError, match="multiple of the analysis' step of 0.0333333 s; got 0.05 s"):
        WindowStream(waves, CHANNELS, step_seconds=0.05)
    with pytest.raises(ValueError, match="step_hours or step_seconds, not both"):
        WindowStream(waves, CHANNELS, step_seconds=0.1, step_hours=1)
    with pytest.raises(ValueError, match=r"0 windows of 3 frames in span 5.0 to 6.0 \(it reaches from 0 s to 0.233333 s\)"):
        WindowStream(waves, CHANNELS, span=(5.0, 6.0))


def test_some_samples_are_chosen_with_xarray(waves: xr.Dataset) -> None:
    stream = WindowStream(waves.isel(sample=[0, 2]), CHANNELS, batch_size=12)
    assert set(next(stream).sample.tolist()) == {0, 2}


def test_static_fields_of_an_analysis_go_with_its_windows() -> None:
    analysis = make_analysis()
    batch = next(WindowStream(analysis, ["mean_sea_level_pressure"], static=["land_sea_mask"], batch_size=3))
    assert torch.equal(batch.static, torch.from_numpy(analysis["land_sea_mask"].values).expand(3, 1, 7, 12))
    assert batch.sample.tolist() == [-1, -1, -1]
    with pytest.raises(ValueError, match=r"static has \['temperature'\], which must be fields without time"):
        WindowStream(analysis, ["mean_sea_level_pressure"], static=["temperature"])


def test_stores_whose_steps_differ_by_rounding_are_one_stream(waves: xr.Dataset) -> None:
    """A tenth of a second is three steps of one and one step of the other."""
    slower = waves.assign_coords(time=np.arange(8) / 10)
    stream = WindowStream([waves, slower], CHANNELS, step_seconds=0.1, history=1, batch_size=1)
    assert stream.window_count == 3 * (8 - 3) + 3 * 7
    with pytest.raises(ValueError, match="multiple of the analysis' step of 0.1 s; got 0.0333333 s"):
        WindowStream([waves, slower], CHANNELS)
