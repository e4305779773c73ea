import dataclasses
import gc
import logging
import pickle
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from torch.utils.data import DataLoader

import data_pipelines.store
from data_pipelines.frames import DatasetReader, StoreReader, open_reader, plan_parts
from data_pipelines.store import StoreError, create_analysis_store, open_analysis, write_analysis
from data_pipelines.streaming import Window, WindowStream, epoch_order
from data_pipelines.tracks import open_tracks
from data_pipelines.variables import Channel
from tests.helpers.analyses import make_analysis

CHANNELS = ["mean_sea_level_pressure", "temperature_850", "temperature_500"]
STEP = np.timedelta64(6, "h")


def build_store(path: Path, analysis: xr.Dataset, compression: str = "none") -> Path:
    create_analysis_store(path, analysis, compression=compression)
    write_analysis(path, analysis)
    return path


def truth(analysis, times):
    """Fields (batch, frame, channel, lat, lon) at the times, in the order of CHANNELS."""
    chosen = analysis.sel(time=times.ravel())
    fields = [chosen["mean_sea_level_pressure"], chosen["temperature"].sel(level=850), chosen["temperature"].sel(level=500)]
    values = np.stack([field.values for field in fields], axis=1)
    return values.reshape(*times.shape, *values.shape[1:])


def take(stream, count):
    return [next(stream) for _ in range(count)]


def same(first: Window, second: Window) -> bool:
    return np.array_equal(first.time, second.time) and torch.equal(first.fields, second.fields)


@pytest.fixture(scope="module")
def analysis():
    return make_analysis(steps=40)


@pytest.fixture(scope="module")
def store(analysis, tmp_path_factory):
    return build_store(tmp_path_factory.mktemp("stores") / "plain.zarr", analysis)


@pytest.fixture(scope="module", params=["none", "lz4", "in memory", "dataset", "dask"])
def source(request, analysis, store, tmp_path_factory):
    """Every way to the same fields, with the memory limit that makes the stream take it."""
    if request.param == "lz4":
        return build_store(tmp_path_factory.mktemp("stores") / "lz4.zarr", analysis, "lz4"), 0
    ways = {"none": (store, 0), "in memory": (store, 2**30), "dataset": (analysis, 0), "dask": (analysis.chunk(time=3), 0)}
    return ways[request.param]


@pytest.mark.parametrize(("history", "steps_ahead"), [(2, 1), (1, 0), (2, 5)])
def test_windows_hold_the_fields_of_their_times(source, analysis, history, steps_ahead):
    path, limit = source
    stream = WindowStream(path, CHANNELS, history=history, steps_ahead=steps_ahead, batch_size=3, memory_limit=limit)
    for batch in take(stream, len(stream) + 1):
        assert batch.fields.dtype == torch.float32
        assert batch.fields.shape == (3, history + steps_ahead, 3, 7, 12)
        assert (np.diff(batch.time, axis=1) == STEP).all()
        np.testing.assert_array_equal(batch.fields.numpy(), truth(analysis, batch.time))
    stream.close()


def test_an_epoch_takes_every_window_once_and_the_next_in_another_order(analysis):
    stream = WindowStream(analysis, CHANNELS, batch_size=2, seed=5)
    assert len(stream) == 19  # 38 windows of 3 frames in 40 steps
    first, second = ([start for batch in take(stream, 19) for start in batch.time[:, 0]] for _ in range(2))
    assert sorted(first) == list(analysis["time"].values[:38])
    assert sorted(second) == sorted(first)
    assert second != first
    assert first != sorted(first)


STORED_ORDER = [0, 6, 2, 1, 3, 7, 4, 5]  # of seed 3, epoch 1, by numpy 2.4


def test_order_is_a_pure_function_of_seed_and_epoch():
    """Stored values: the order must be the same in every version of numpy, or a resumed run goes astray."""
    assert epoch_order(3, 1, 8).tolist() == epoch_order(3, 1, 8).tolist() == STORED_ORDER
    assert epoch_order(3, 2, 8).tolist() != STORED_ORDER
    assert epoch_order(4, 1, 8).tolist() != STORED_ORDER


def test_without_shuffle_windows_come_in_order_of_time(analysis):
    stream = WindowStream(analysis, CHANNELS, batch_size=4, shuffle=False)
    starts = np.concatenate([batch.time[:, 0] for batch in take(stream, 9)])
    np.testing.assert_array_equal(starts, analysis["time"].values[:36])
    np.testing.assert_array_equal(next(stream).time[:, 0], analysis["time"].values[:4])


@pytest.mark.parametrize("taken", [0, 7, 25])
def test_resuming_from_a_step_count_gives_the_same_batches(store, taken):
    """Also in the middle of the second epoch (19 batches each)."""
    whole = WindowStream(store, CHANNELS, batch_size=2, seed=1, memory_limit=0)
    take(whole, taken)
    state = whole.state_dict()
    expected = take(whole, 5)
    resumed = WindowStream(store, CHANNELS, batch_size=2, seed=1, memory_limit=0, threads=3, prefetch=1)
    take(resumed, 3)  # reads ahead that must be dropped
    resumed.load_state_dict(state)
    assert all(same(*pair) for pair in zip(take(resumed, 5), expected, strict=True))
    resumed.load_state_dict({"step": taken})
    assert same(next(resumed), expected[0])


def test_ranks_share_an_epoch_without_overlap(analysis):
    ranks = [WindowStream(analysis, CHANNELS, batch_size=3, seed=2, rank=rank, world_size=4) for rank in range(4)]
    assert [len(stream) for stream in ranks] == [3] * 4  # 36 of 38 windows
    starts = [start for stream in ranks for batch in take(stream, 3) for start in batch.time[:, 0]]
    assert len(set(starts)) == 36


def test_ranks_together_see_the_batches_of_one_process(analysis):
    """Rank r of R takes every R-th batch of the same order: the global batch does not depend on how it is cut."""
    one = next(WindowStream(analysis, CHANNELS, batch_size=6, seed=9)).time
    two = [next(WindowStream(analysis, CHANNELS, batch_size=3, seed=9, rank=rank, world_size=2)).time for rank in range(2)]
    np.testing.assert_array_equal(np.concatenate(two), one)


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_of_a_dataloader_keep_the_order_of_the_batches(store, context):
    stream = WindowStream(store, CHANNELS, batch_size=2, seed=3, memory_limit=0)
    expected = take(stream, 7)  # the parent's threads run before the fork
    stream.load_state_dict({"step": 0})
    loader = DataLoader(stream, batch_size=None, num_workers=2 if context == "fork" else 1, multiprocessing_context=context)
    batches = iter(loader)
    got = [next(batches) for _ in range(7)]
    del batches
    assert all(same(*pair) for pair in zip(got, expected, strict=True))


def test_a_copied_stream_goes_on_where_the_first_was(store):
    stream = WindowStream(store, CHANNELS, batch_size=2, memory_limit=0)
    take(stream, 3)
    copy = pickle.loads(pickle.dumps(stream))
    assert same(next(copy), next(stream))


def test_windows_across_a_gap_are_left_out_and_it_is_said_once(analysis, caplog):
    holed = analysis.isel(time=[*range(15), *range(18, 40)])
    with caplog.at_level(logging.WARNING):
        stream = WindowStream(holed, CHANNELS, batch_size=1, shuffle=False)
        batches = take(stream, 2 * len(stream))
    assert len(stream) == 13 + 20
    assert all((np.diff(batch.time, axis=1) == STEP).all() for batch in batches)
    assert [record.getMessage() for record in caplog.records] == [
        "2 of 35 windows are left out: 2 cross a gap in time, 0 touch a step with NaN or in skip_times."
    ]


@pytest.mark.parametrize("limit", [0, 2**30])
def test_skip_times_are_never_used(analysis, limit):
    skipped = analysis["time"].values[[10, 11]]
    stream = WindowStream(analysis, CHANNELS, batch_size=1, skip_times=skipped, memory_limit=limit)
    assert len(stream) == 38 - 4
    assert not np.isin(skipped, np.concatenate([batch.time for batch in take(stream, len(stream))])).any()


def with_missing(analysis, step):
    holed = analysis.copy(deep=True)
    holed["temperature"][step, 1, 3, 4:6] = np.nan
    return holed


def test_missing_steps_are_left_out_of_an_analysis_kept_in_memory(analysis, caplog):
    with caplog.at_level(logging.WARNING):
        stream = WindowStream(with_missing(analysis, 20), CHANNELS, batch_size=1)
    assert len(stream) == 38 - 3
    assert "3 touch a step with NaN or in skip_times (first 2021-03-04T00)" in caplog.text


@pytest.mark.parametrize("compression", ["none", "lz4"])
def test_missing_values_met_on_reading_are_replaced_by_the_next_clean_window(analysis, tmp_path, caplog, compression):
    path = build_store(tmp_path / "holed.zarr", with_missing(analysis, 20), compression)
    stream = WindowStream(path, CHANNELS, batch_size=2, shuffle=False, memory_limit=0)
    assert len(stream) == 19
    with caplog.at_level(logging.WARNING):
        batches = take(stream, 19)
    starts = np.concatenate([batch.time[:, 0] for batch in batches])
    expected = [step if step not in (18, 19, 20) else 21 for step in range(38)]
    np.testing.assert_array_equal(starts, analysis["time"].values[expected])
    for batch in batches:
        np.testing.assert_array_equal(batch.fields.numpy(), truth(analysis, batch.time))
    assert len(caplog.records) == 1
    assert "NaN in the window from 2021-03-03T12" in caplog.text


def test_a_step_is_looked_at_for_missing_values_once(analysis, monkeypatch):
    looked = []
    original = DatasetReader.read

    def record(self, steps, out, look=True):
        looked.extend(steps if look else [])
        return original(self, steps, out, look)

    monkeypatch.setattr(DatasetReader, "read", record)
    stream = WindowStream(analysis, CHANNELS, batch_size=2, memory_limit=0, threads=1, prefetch=0)
    take(stream, 2 * len(stream))
    assert sorted(set(looked)) == list(range(40))
    assert len(looked) == 40


@pytest.mark.parametrize("step", [0, 39])
def test_a_hole_in_the_first_or_last_step_is_not_taken_for_land(analysis, step):
    stream = WindowStream(with_missing(analysis, step), CHANNELS, batch_size=1, shuffle=False, memory_limit=0)
    starts = [batch.time[0, 0] for batch in take(stream, 38)]
    assert starts[0] == analysis["time"].values[1 if step == 0 else 0]
    assert starts[37] == analysis["time"].values[37 if step == 0 else 0]


@pytest.mark.parametrize("limit", [0, 2**30])
def test_land_in_a_sea_field_is_no_missing_step(analysis, limit):
    sea = analysis.copy(deep=True)
    sea["temperature"][:, 0, :, 3] = np.nan
    stream = WindowStream(sea, CHANNELS, batch_size=2, memory_limit=limit)
    assert len(stream) == 19
    assert torch.isnan(next(stream).fields[:, :, 2, :, 3]).all()


def test_a_store_never_written_is_refused(analysis, tmp_path):
    create_analysis_store(tmp_path / "empty.zarr", analysis, compression="none")
    stream = WindowStream(tmp_path / "empty.zarr", CHANNELS, memory_limit=0)
    with pytest.raises(ValueError, match="NaN in every window"):
        next(stream)
    with pytest.raises(ValueError, match="has 0 windows of 3 frames"):
        WindowStream(tmp_path / "empty.zarr", CHANNELS)


def chunk_files(path: Path, name: str) -> list[Path]:
    return sorted(file for file in (path / name / "c").rglob("*") if file.is_file())


@pytest.mark.parametrize(("compression", "why"), [("none", "truncated"), ("lz4", "")])
@pytest.mark.parametrize("limit", [0, 2**30])
def test_a_truncated_chunk_is_named_by_variable_and_time(analysis, tmp_path, compression, why, limit):
    path = build_store(tmp_path / "cut.zarr", analysis, compression)
    for file in chunk_files(path, "temperature"):
        file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(StoreError, match=rf"temperature at 2021-.* cannot be read: .*{why}.*Copy or build the store again"):
        next(WindowStream(path, CHANNELS, memory_limit=limit))


def test_after_a_failed_read_the_same_batch_is_tried_again(analysis, tmp_path):
    path = build_store(tmp_path / "cut.zarr", analysis)
    stream = WindowStream(path, CHANNELS, batch_size=2, memory_limit=0)
    expected = take(stream, 3)
    stream.load_state_dict({"step": 0})
    files = chunk_files(path, "temperature")
    whole = [file.read_bytes() for file in files]
    for file in files:
        file.write_bytes(b"")
    with pytest.raises(StoreError, match="truncated"):
        take(stream, 3)
    for file, content in zip(files, whole, strict=True):
        file.write_bytes(content)
    assert stream.state_dict()["step"] == 0
    assert all(same(*pair) for pair in zip(take(stream, 3), expected, strict=True))


def test_several_stores_are_one_and_no_window_crosses_between_them(analysis):
    later = make_analysis(steps=10, start="2022-01-01T00", seed=1)
    stream = WindowStream([analysis, later], CHANNELS, batch_size=1, shuffle=False)
    batches = take(stream, len(stream))
    assert len(batches) == 38 + 8
    for batch in batches:
        origin = later if batch.time[0, 0] >= np.datetime64("2022-01-01") else analysis
        np.testing.assert_array_equal(batch.fields.numpy(), truth(origin, batch.time))


def test_a_span_may_miss_some_of_the_stores(analysis):
    later = make_analysis(steps=10, start="2022-01-01T00")
    stream = WindowStream([analysis, later], CHANNELS, batch_size=1, span=("2021-12-01", "2022-01-01"))
    assert len(stream) == 2  # four steps on the day


def test_span_bounds_every_frame(analysis):
    stream = WindowStream(analysis, CHANNELS, span=("2021-03-01", "2021-03-03"), batch_size=1)
    times = np.concatenate([batch.time.ravel() for batch in take(stream, len(stream))])
    assert len(stream) == 10
    assert times.min() == np.datetime64("2021-03-01T00")
    assert times.max() == np.datetime64("2021-03-03T18")


def test_a_longer_step_than_the_stores_strides_over_frames(store, analysis):
    stream = WindowStream(store, CHANNELS, step_hours=12, batch_size=1, shuffle=False, memory_limit=0)
    assert len(stream) == 36
    batch = next(stream)
    assert (np.diff(batch.time, axis=1) == 2 * STEP).all()
    np.testing.assert_array_equal(batch.fields.numpy(), truth(analysis, batch.time))


@pytest.mark.parametrize("steps_per_chunk", [1, 3, 40])
@pytest.mark.parametrize("levels", [(500, 850), (850, 250), (250, 500, 850)])
def test_readers_agree_for_any_chunks_and_choice_of_levels(tmp_path, monkeypatch, steps_per_chunk, levels):
    """The plain chunks that the system reads into place against xarray's own way to the same bytes."""
    analysis = make_analysis(steps=7, levels=(250, 500, 850))
    bytes_per_step = 3 * 7 * 12 * 4
    contract = dataclasses.replace(data_pipelines.store.CONTRACT, chunk_bytes=steps_per_chunk * bytes_per_step)
    monkeypatch.setattr(data_pipelines.store, "CONTRACT", contract)
    path = build_store(tmp_path / "s.zarr", analysis)
    dataset = open_analysis(path)
    channels = [Channel("temperature", levels[0]), Channel("mean_sea_level_pressure")]
    channels += [Channel("temperature", level) for level in levels[1:]]
    reader = StoreReader(path, dataset, channels)
    assert all(plain is not None for plain in reader.plain.values())
    got, expected = np.empty((2, len(channels), 7, 12), np.float32), np.empty((2, len(channels), 7, 12), np.float32)
    reader.read(range(2, 6, 3), got)
    DatasetReader(dataset, channels).read(range(2, 6, 3), expected)
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(got[:, 0], analysis["temperature"].sel(level=levels[0]).values[[2, 5]])


@pytest.mark.parametrize(
    "how",
    [
        {"_FillValue": np.float32(9.96921e36), "compressors": ()},
        {"missing_value": np.float32(-1.0), "_FillValue": np.float32(-1.0), "compressors": ()},
        {"scale_factor": np.float32(16.0), "compressors": ()},
        {"compressors": ()},
    ],
)
def test_store_of_others_gives_by_its_path_what_xarray_decodes(tmp_path, analysis, how):
    """Packed values, and a number for what is missing: the bytes alone are not the fields."""
    data = analysis[["mean_sea_level_pressure"]].copy(deep=True)
    data["mean_sea_level_pressure"][7, 3] = np.nan
    path = tmp_path / "foreign.zarr"
    data.to_zarr(path, zarr_format=3, encoding={"mean_sea_level_pressure": how})
    opened = open_analysis(path)
    _, reader = open_reader(path, [Channel("mean_sea_level_pressure")])
    assert isinstance(reader, StoreReader) == (len(how) == 1)
    for one in (reader, open_tracks(path, [Channel("mean_sea_level_pressure")])[1][0].reader):
        got = np.empty((4, 1, 7, 12), np.float32)
        assert one.read(range(5, 9), got).all()
        np.testing.assert_array_equal(got[:, 0], opened["mean_sea_level_pressure"].values[5:9])


def test_reading_overlaps_with_the_consumer(analysis, monkeypatch):
    """Four batches are read ahead while the consumer sleeps, by two threads, and not more than asked."""
    seen, lock = [], threading.Lock()
    original = DatasetReader.read

    def slow(self, steps, out, look=True):
        with lock:
            seen.append(threading.current_thread().name)
        time.sleep(0.002)
        return original(self, steps, out, look)

    stream = WindowStream(analysis, CHANNELS, batch_size=2, memory_limit=0, prefetch=4, threads=2)
    monkeypatch.setattr(DatasetReader, "read", slow)
    next(stream)
    deadline = time.monotonic() + 20
    while len(seen) < 2 * 5 * 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(seen) == 2 * 5 * 3  # windows, batches (one given, four ahead), chunks of one step
    assert {name.rsplit("_", 1)[0] for name in seen} == {"skysolve-reader"}
    waited = stream.wait_seconds
    next(stream)
    assert stream.wait_seconds > waited
    stream.close()


def test_buffers_are_used_again_only_when_the_consumer_dropped_them(store):
    stream = WindowStream(store, CHANNELS, batch_size=2, memory_limit=0, prefetch=0)
    first = next(stream)
    kept = first.fields[0, 0]
    copy, address = kept.clone(), first.fields.data_ptr()
    del first
    gc.collect()
    addresses = {next(stream).fields.data_ptr() for _ in range(6)}
    assert address not in addresses  # a slice still holds it
    assert torch.equal(kept, copy)
    assert len(addresses) <= 2
    del kept
    gc.collect()
    later = [next(stream).fields for _ in range(3)]
    assert address in {fields.data_ptr() for fields in later}


def test_a_window_moves_to_a_device(analysis):
    batch = next(WindowStream(analysis, CHANNELS)).to("cpu")
    assert batch.fields.device.type == "cpu"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_pinned_windows_reach_the_gpu(analysis, store):
    batch = next(WindowStream(store, CHANNELS, pin_memory=True, memory_limit=0))
    assert batch.fields.is_pinned()
    np.testing.assert_array_equal(batch.to("cuda").fields.cpu().numpy(), truth(analysis, batch.time))


@pytest.mark.skipif(torch.cuda.is_available(), reason="the refusal is for machines without CUDA")
def test_pinned_memory_without_cuda_is_refused(analysis):
    with pytest.raises(ValueError, match="pin_memory=True needs a CUDA device"):
        WindowStream(analysis, CHANNELS, pin_memory=True)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"history": 0}, "history must be at least 1; got 0"),
        ({"steps_ahead": -1}, "steps_ahead must be at least 0"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"threads": 0}, "threads must be at least 1"),
        ({"prefetch": -1}, "prefetch must be at least 0"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"rank": 2, "world_size": 2}, "rank must be below world_size=2; got 2"),
        ({"step_hours": 9}, "step_hours must be a multiple of the analysis' step of 6 h; got 9 h"),
        ({"step_hours": 0}, "step_hours must be a multiple"),
        ({"batch_size": 39}, r"has 38 windows of 3 frames \(it reaches from 2021-02-27T00 to 2021-03-08T18\)"),
        ({"span": ("1999-01-01", "1999-02-01")}, "has 0 windows of 3 frames in span 1999-01-01 to 1999-02-01"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(analysis, settings, words):
    with pytest.raises(ValueError, match=words):
        WindowStream(analysis, CHANNELS, **settings)


@pytest.mark.parametrize(
    ("channels", "words"),
    [
        (["temperature_925"], r"channel temperature_925 is missing: wanted \['temperature_925'\]; the analysis has"),
        (["land_sea_mask"], "channel land_sea_mask is missing"),
        ([], "at least one channel"),
        (["temperature_500", "temperature_850", "temperature_500"], "temperature_500 more than once"),
    ],
)
def test_channels_that_are_not_there_are_refused(analysis, channels, words):
    with pytest.raises(ValueError, match=words):
        WindowStream(analysis, channels)


def test_plan_reads_a_variable_once_whatever_the_order_of_channels(analysis):
    parts = plan_parts(analysis, [Channel.parse(name) for name in CHANNELS])
    assert [(part.name, part.slots.tolist()) for part in parts] == [("mean_sea_level_pressure", [0]), ("temperature", [1, 2])]
    assert parts[1].levels is not None
    assert parts[1].levels.tolist() == [1, 0]


def test_stores_on_different_grids_are_refused(analysis):
    with pytest.raises(ValueError, match=r"number 2 lies on another grid \(9 x 12\) than the first \(7 x 12\)"):
        WindowStream([analysis, make_analysis(rows=9)], CHANNELS)


def test_no_store_and_a_single_step_are_refused(analysis):
    with pytest.raises(ValueError, match="empty list"):
        WindowStream([], CHANNELS)
    with pytest.raises(ValueError, match="at least 2 steps; got 1"):
        WindowStream(analysis.isel(time=[0]), CHANNELS)


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({}, "must hold 'step'"),
        ({"step": -1}, "must hold 'step'"),
        ({"step": 3, "seed": 1}, "made with seed=1; this stream has seed=0"),
        ({"step": 3, "windows": 12}, "made with windows=12; this stream has windows=38"),
    ],
)
def test_a_state_that_means_other_windows_is_refused(analysis, state, words):
    with pytest.raises(ValueError, match=words):
        WindowStream(analysis, CHANNELS).load_state_dict(state)
