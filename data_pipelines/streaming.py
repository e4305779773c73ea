"""Stream windows of an analysis, or of waves, to torch: shuffled, sharded, resumable, and read ahead of the consumer.

A window is `history` frames and the `steps_ahead` frames that follow. Whole steps are read by threads, which scales better
than asyncio or dask here, into buffers that are used again when the consumer has dropped their tensors.

Batch number n is a pure function of (seed, n, the windows there are): nothing else needs to be stored to resume.
"""

from __future__ import annotations

import logging
import os
import time as clock
import weakref
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from data_pipelines.contracts import contract_of
from data_pipelines.frames import Frames, InMemory, Reader
from data_pipelines.tracks import SECOND, Track, open_tracks
from data_pipelines.variables import Channel

logger = logging.getLogger(__name__)

MEMORY_LIMIT = 2**30  # bytes; a smaller analysis is read once and kept


@dataclass
class Window:
    """A batch of windows, in the store's units.

    Attributes
    ----------
    fields : Tensor, shape (batch, frame, channel, lat, lon)
        float32, `history` frames first; of waves lat and lon stand for y and x.
    time : ndarray, shape (batch, frame)
        Valid time of every frame: datetime64[ns], UTC; of waves timedelta64[ns] since the start of the record.
    static : Tensor, shape (batch, static, lat, lon)
        The static fields asked for, float32; none by default.
    sample : ndarray of int64, shape (batch,)
        Number of the simulation; -1 for an analysis.
    """

    fields: Float[Tensor, "batch frame channel lat lon"]
    time: NDArray[Any]
    static: Float[Tensor, "batch static lat lon"]
    sample: Int[np.ndarray, " batch"]

    def pin_memory(self) -> Window:
        """Copy to page-locked memory (torch's DataLoader calls this)."""
        return replace(self, fields=self.fields.pin_memory(), static=self.static.pin_memory())

    def to(self, device: torch.device | str) -> Window:
        """Move the fields to a device, without waiting where they are pinned."""
        fields, static = (tensor.to(device, non_blocking=True) for tensor in (self.fields, self.static))
        return replace(self, fields=fields, static=static)


@dataclass(frozen=True)
class _Source:
    """One track of those streamed: where to read, and at which steps a window may begin."""

    track: Track
    reader: Reader
    time: NDArray[np.datetime64] | NDArray[np.timedelta64]
    starts: Int[np.ndarray, " window"]
    clean: Bool[np.ndarray, " time"]  # steps in which no NaN was found: they are not looked at again


class _Buffers:
    """Buffers of one shape; one comes back by itself when the last tensor over it is gone."""

    def __init__(self, shape: tuple[int, ...], pin_memory: bool) -> None:
        self.shape, self.pin_memory = shape, pin_memory
        self._free: deque[NDArray[np.float32]] = deque()

    def take(self) -> Tensor:
        if self.pin_memory:
            return torch.empty(self.shape, dtype=torch.float32, pin_memory=True)  # torch keeps pinned blocks itself
        try:
            buffer = self._free.pop()
        except IndexError:
            buffer = np.empty(self.shape, dtype=np.float32)
        owned = buffer.view()  # the tensor's storage is the only one that holds this view
        weakref.finalize(owned, self._free.append, buffer).atexit = False
        return torch.from_numpy(owned)


@dataclass
class _Pending:
    """A batch on its way."""

    windows: list[int]
    fields: Tensor
    reads: list[tuple[int, Future[bool]]]  # row, and whether NaN showed up


def epoch_order(seed: int, epoch: int, count: int) -> Int[np.ndarray, " count"]:
    """Shuffle 0 .. count-1, as a pure function of seed and epoch.

    Sorted by raw 64-bit draws, because numpy keeps those the same in every version, and `permutation` not.

    Parameters
    ----------
    seed, epoch : int
        Not negative.
    count : int
        How many windows there are.
    """
    draws = np.random.PCG64(np.random.SeedSequence([seed, epoch])).random_raw(count)
    return np.argsort(draws, kind="stable")


class WindowStream(IterableDataset[Window]):
    """Endless, reproducible and resumable batches of windows.

    Parameters
    ----------
    analysis : xr.Dataset, path or URL, or a sequence of them
        In the contract of the analysis store or of the wave store. A path is read fastest. Several are streamed as one; no
        window crosses from one to the next, nor from sample to sample. Some of the samples: give
        ``open_waves(path).isel(sample=slice(0, 80))``.
    channels : sequence of str or Channel
        In the order wanted, e.g. ``["vorticity_850", "mean_sea_level_pressure"]``.
    history, steps_ahead : int
        Frames up to the initial time, and after it.
    static : sequence of str
        Names of fields without time that go with every window, e.g. ``["wave_speed", "mask"]``.
    span : (str, str) or (float, float), optional
        First and last moment that a frame may have, both included; of waves in seconds since the start of the record.
    step_hours, step_seconds : float, optional
        Time between the frames of a window; the store's own step by default.
    batch_size : int
        Windows per batch and rank.
    seed : int
        Of the shuffle.
    rank, world_size : int
        This process and how many there are; together they take every window of an epoch at most once.
    shuffle : bool
        False: windows in order of time, the same every epoch.
    threads, prefetch : int
        Threads that read, and batches read ahead.
    pin_memory : bool
        Page-locked buffers, for copies to a GPU that overlap with compute.
    memory_limit : int
        Bytes below which the chosen channels are read once and kept.
    skip_times : sequence of datetime64, optional
        Steps never to use, e.g. those an audit found bad.

    Attributes
    ----------
    latitude, longitude : ndarray
        Degrees, as stored; of waves y and x [m].
    channels : tuple of Channel
    wait_seconds : float
        How long the consumer has waited for data so far.

    Raises
    ------
    ValueError
        If an argument is out of range, a channel is missing, the analyses do not fit together, or no window is left.
    StoreError
        If a path is no analysis store; on iteration, if a chunk cannot be read (named by variable and time).

    Notes
    -----
    A window that crosses a gap in time, or touches a step of `skip_times`, is left out, and so is one that touches a step
    with NaN where the analysis is kept in memory. A larger analysis is not read twice for that: if NaN shows up on
    reading, the next clean window in time takes the place, the same on every run. Each is logged once.

    With torch's DataLoader use ``batch_size=None``; workers share the batches such that their order stays the same. The
    stream in the main process does not advance then: count the batches and give ``load_state_dict({"step": count})``.
    """

    def __init__(
        self,
        analysis: xr.Dataset | str | Path | Sequence[xr.Dataset | str | Path],
        channels: Sequence[str | Channel],
        *,
        history: int = 2,
        steps_ahead: int = 1,
        static: Sequence[str] = (),
        span: tuple[str, str] | tuple[float, float] | None = None,
        step_hours: float | None = None,
        step_seconds: float | None = None,
        batch_size: int = 4,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        shuffle: bool = True,
        threads: int = 2,
        prefetch: int = 4,
        pin_memory: bool = False,
        memory_limit: int = MEMORY_LIMIT,
        skip_times: Sequence[np.datetime64] | NDArray[np.datetime64] | None = None,
    ) -> None:
        _check_numbers(history, steps_ahead, batch_size, seed, rank, world_size, threads, prefetch)
        if pin_memory and not torch.cuda.is_available():
            raise ValueError("pin_memory=True needs a CUDA device; torch sees none here. Set pin_memory=False.")
        self.channels = tuple(Channel.parse(name) if isinstance(name, str) else name for name in channels)
        self.history, self.steps_ahead, self.batch_size = history, steps_ahead, batch_size
        self.seed, self.rank, self.world_size, self.shuffle = seed, rank, world_size, shuffle
        self.threads, self.prefetch = threads, prefetch
        many = [analysis] if isinstance(analysis, xr.Dataset | str | Path) else list(analysis)
        opened = [open_tracks(one, self.channels, static) for one in many]
        datasets, tracks = [dataset for dataset, _ in opened], [track for _, some in opened for track in some]
        self.latitude, self.longitude = _common_grid(datasets)
        seconds = step_seconds if step_hours is None else step_hours * 3600
        if step_hours is not None and step_seconds is not None:
            raise ValueError(f"give step_hours or step_seconds, not both; got {step_hours} h and {step_seconds} s.")
        between = _common_step(tracks, seconds)
        frames = history + steps_ahead
        shape = (len(self.channels), self.latitude.size, self.longitude.size)
        steps = sum(track.time.size for track in tracks)
        keep = steps * int(np.prod(shape)) * 4 <= memory_limit
        skipped = np.asarray(skip_times if skip_times is not None else [], dtype=tracks[0].time.dtype)
        load_threads = threads if keep else 0
        self._sources = [
            _source(track, span, step, frames, shape, load_threads, skipped)
            for track, step in zip(tracks, between, strict=True)
        ]
        self._stride = [_stride(track.time, step) for track, step in zip(tracks, between, strict=True)]
        self._first = np.cumsum([0] + [source.starts.size for source in self._sources])
        self.window_count = int(self._first[-1])
        if self.window_count < batch_size * world_size:
            raise ValueError(
                f"a batch needs {batch_size} windows on each of {world_size} ranks; the analysis has {self.window_count} "
                f"windows of {frames} frames{_reach(tracks, span)}. Widen span, or lower batch_size, history or steps_ahead."
            )
        self._buffers = _Buffers((batch_size, frames, *shape), pin_memory)
        self._process, self._worker, self._workers = os.getpid(), 0, 1
        self._step = 0
        self._pending: deque[_Pending] = deque()
        self._pool: ThreadPoolExecutor | None = None
        self._order: tuple[int, Int[np.ndarray, " window"]] | None = None
        self._may_be_missing = self._missing_channels()
        self._told = False
        self.wait_seconds = 0.0

    def __len__(self) -> int:
        """Batches per epoch on this rank; windows that do not fill a batch on every rank are left to another epoch."""
        return self.window_count // (self.batch_size * self.world_size)

    def windows_of(self, step: int) -> list[int]:
        """Say which windows batch number `step` of this rank holds, as positions in order of time."""
        epoch, batch = divmod(step, len(self))
        if self._order is None or self._order[0] != epoch:
            order = epoch_order(self.seed, epoch, self.window_count) if self.shuffle else np.arange(self.window_count)
            self._order = (epoch, order)
        begin = (batch * self.world_size + self.rank) * self.batch_size
        return [int(window) for window in self._order[1][begin : begin + self.batch_size]]

    def __iter__(self) -> WindowStream:
        worker = get_worker_info()
        if worker is not None and self._process != os.getpid():
            # A forked worker inherits threads that do not run in it, and reads that will never end.
            self.__dict__.update(self.__getstate__())
            self._process, self._worker, self._workers = os.getpid(), worker.id, worker.num_workers
        return self

    def __next__(self) -> Window:
        began = clock.perf_counter()
        while len(self._pending) <= self.prefetch:
            ahead = self._step + self._worker + len(self._pending) * self._workers
            self._pending.append(self._start(self.windows_of(ahead)))
        batch = self._pending.popleft()
        try:
            missing = {row for row, read in batch.reads if read.result()}
            for row in missing:
                batch.windows[row] = self._replace(batch.windows[row], batch.fields[row].numpy())
        except BaseException:
            self._drop_pending()  # so that the same batch is tried again
            raise
        self._step += self._workers
        self.wait_seconds += clock.perf_counter() - began
        tracks = [self._locate(window)[0].track for window in batch.windows]
        return Window(
            batch.fields,
            np.stack([self._times(window) for window in batch.windows]),
            torch.from_numpy(np.stack([track.static for track in tracks])),
            np.array([track.sample for track in tracks]),
        )

    def state_dict(self) -> dict[str, int]:
        """How many batches were taken, and what that number means: enough to go on exactly here."""
        return {"step": self._step, **self._identity()}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on after `state["step"]` batches.

        Raises
        ------
        ValueError
            If the step is missing or negative, or the state was made with other windows, seed, batch or world size.
        """
        step = state.get("step")
        if not isinstance(step, int) or step < 0:
            raise ValueError(f"state must hold 'step', a count of batches; got {state}. Pass what state_dict() gave.")
        for name, value in self._identity().items():
            if state.get(name, value) != value:
                raise ValueError(
                    f"state was made with {name}={state[name]}; this stream has {name}={value}, so step {step} would mean "
                    f"other windows. Make the stream as before, or pass only {{'step': {step}}} to accept that."
                )
        self._drop_pending()
        self._step = step

    def close(self) -> None:
        """End the reading threads; the stream starts them again when it is used."""
        self._drop_pending()
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def __getstate__(self) -> dict[str, Any]:
        buffers = _Buffers(self._buffers.shape, self._buffers.pin_memory)
        return {**self.__dict__, "_pool": None, "_pending": deque(), "_buffers": buffers}

    def _identity(self) -> dict[str, int]:
        return {
            "windows": self.window_count,
            "seed": self.seed,
            "batch_size": self.batch_size,
            "world_size": self.world_size,
            "shuffle": int(self.shuffle),
        }

    def _locate(self, window: int) -> tuple[_Source, range]:
        """The source of a window and the steps of its frames."""
        number = int(np.searchsorted(self._first, window, side="right")) - 1
        source, stride = self._sources[number], self._stride[number]
        start = int(source.starts[window - self._first[number]])
        return source, range(start, start + (self.history + self.steps_ahead - 1) * stride + 1, stride)

    def _times(self, window: int) -> NDArray[Any]:
        source, steps = self._locate(window)
        return source.time[list(steps)]

    def _start(self, windows: list[int]) -> _Pending:
        """Hand the reads of a batch to the threads."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="skysolve-reader")
        fields = self._buffers.take()
        out, reads = fields.numpy(), []
        for row, window in enumerate(windows):
            source, steps = self._locate(window)
            for begin, piece in _pieces_by_chunk(steps, source.reader.steps_per_chunk):
                target = out[row, begin : begin + len(piece)]
                reads.append((row, self._pool.submit(self._read, source, piece, target)))
        return _Pending(windows, fields, reads)

    def _drop_pending(self) -> None:
        for batch in self._pending:
            for _, read in batch.reads:
                read.cancel()
        for batch in self._pending:
            for _, read in batch.reads:
                if not read.cancelled():
                    read.exception()  # wait: its buffer must not be written into after it is handed out again
        self._pending.clear()

    def _read(self, source: _Source, steps: range, out: Frames) -> bool:
        """Read, and say whether NaN showed up where there should be none."""
        own = slice(steps.start, steps.stop, steps.step)
        if source.clean[own].all():
            source.reader.read(steps, out, look=False)
            return False
        missing = bool((source.reader.read(steps, out) & ~self._may_be_missing).any())
        source.clean[own] = not missing
        return missing

    def _missing_channels(self) -> NDArray[np.bool_]:
        """Channels whose NaN is no fault, as sea temperature's on land: the same points lack a value first and last."""
        ends = np.empty((2, *self._buffers.shape[2:]), dtype=np.float32)
        first, last = self._locate(0), self._locate(self.window_count - 1)
        first[0].reader.read(first[1][:1], ends[:1], look=False)
        last[0].reader.read(last[1][-1:], ends[1:], look=False)
        holes = np.isnan(ends)
        some = holes[0].any(axis=(1, 2)) & ~holes[0].all(axis=(1, 2))
        return some & (holes[0] == holes[1]).all(axis=(1, 2))

    def _replace(self, window: int, frames: Frames) -> int:
        """Read the next clean window into the place of one in which NaN showed up."""
        if not self._told:
            self._told = True
            first = _moment(self._times(window)[0])
            logger.warning("NaN in the window from %s: the next clean one takes its place (told once).", first)
        for offset in range(1, self.window_count):
            other = (window + offset) % self.window_count
            source, steps = self._locate(other)
            if not self._read(source, steps, frames):
                return other
        raise ValueError("the analysis has NaN in every window. Audit it, or choose other channels.")


def _pieces_by_chunk(steps: range, steps_per_chunk: int) -> list[tuple[int, range]]:
    """Cut a window where it passes from one chunk to the next: (first frame, steps)."""
    pieces, begin = [], 0
    for frame in range(1, len(steps) + 1):
        if frame == len(steps) or steps[frame] // steps_per_chunk != steps[begin] // steps_per_chunk:
            pieces.append((begin, steps[begin:frame]))
            begin = frame
    return pieces


def _stride(time: NDArray[Any], step: np.timedelta64) -> int:
    return int(step // np.diff(time).min())


def _moment(time: Any) -> str:
    """A date to the hour, or seconds since the start of a simulation."""
    return str(time.astype("datetime64[h]")) if isinstance(time, np.datetime64) else f"{time / np.timedelta64(1, 's'):g} s"


def _source(
    track: Track,
    span: tuple[str, str] | tuple[float, float] | None,
    step: np.timedelta64,
    frames: int,
    shape: tuple[int, int, int],
    load_threads: int,
    skipped: NDArray[Any],
) -> _Source:
    """Find the windows of one track; with `load_threads` read it whole."""
    time, reader = track.time, track.reader
    bad = np.isin(time, skipped)
    if load_threads:
        reader = InMemory(reader, time.size, shape, load_threads)
        bad[reader.missing()] = True
    inside = track.inside(span)
    stride = _stride(time, step)
    candidates = np.arange(max(time.size - (frames - 1) * stride, 0))
    touched = candidates[:, None] + np.arange(frames) * stride
    within = inside[touched].all(axis=1)
    gap = (np.diff(time[touched], axis=1) != step).any(axis=1)
    faulty = bad[touched].any(axis=1)
    if (within & (gap | faulty)).any():
        logger.warning(
            "%d of %d windows are left out: %d cross a gap in time, %d touch a step with NaN or in skip_times%s.",
            int((within & (gap | faulty)).sum()),
            int(within.sum()),
            int((within & gap).sum()),
            int((within & faulty & ~gap).sum()),
            f" (first {_moment(time[bad & inside][0])})" if (bad & inside).any() else "",
        )
    return _Source(track, reader, time, candidates[within & ~gap & ~faulty], np.full(time.size, bool(load_threads)))


def _reach(tracks: Sequence[Track], span: tuple[str, str] | tuple[float, float] | None) -> str:
    """Say which times there are, for an error's sake."""
    ends = [track.time[[0, -1]] for track in tracks]
    chosen = f" in span {span[0]} to {span[1]}" if span else ""
    return f"{chosen} (it reaches from {_moment(min(end[0] for end in ends))} to {_moment(max(end[1] for end in ends))})"


def _common_grid(datasets: Sequence[xr.Dataset]) -> tuple[NDArray[Any], NDArray[Any]]:
    if not datasets:
        raise ValueError("analysis must be a store or at least one of them; got an empty list.")
    kinds = {contract_of(dataset).kind for dataset in datasets}
    if len(kinds) > 1:
        raise ValueError(f"analysis must be stores of one kind; got {' and '.join(sorted(kinds))}. Stream them one by one.")
    plane = contract_of(datasets[0]).plane
    rows, columns = (datasets[0][dim].values for dim in plane)
    for number, dataset in enumerate(datasets):
        if not (np.array_equal(dataset[plane[0]], rows) and np.array_equal(dataset[plane[1]], columns)):
            raise ValueError(
                f"analysis number {number + 1} lies on another grid ({dataset.sizes[plane[0]]} x {dataset.sizes[plane[1]]}) "
                f"than the first ({rows.size} x {columns.size}). Regrid it."
            )
    return rows, columns


def _common_step(tracks: Sequence[Track], seconds: float | None) -> list[np.timedelta64]:
    """The time between frames, for each track as a multiple of its own step: they differ by rounding at most."""
    own = []
    for track in tracks:
        if track.time.size < 2:
            raise ValueError(f"analysis must hold at least 2 steps; got {track.time.size}. Check the store.")
        own.append(np.diff(track.time).min())
    wanted = own[0] if seconds is None else np.timedelta64(round(seconds * SECOND), "ns")
    return [_multiple(wanted, one) for one in own]


def _multiple(wanted: np.timedelta64, own: np.timedelta64) -> np.timedelta64:
    """Round the step wanted to a multiple of the own one, which seconds do not hit exactly where it is 1/30 s."""
    count = round(wanted / own)
    if count < 1 or abs(wanted / own - count) > 1e-6:
        raise ValueError(
            f"step_hours must be a multiple of the analysis' step of {_duration(own)}; got {_duration(wanted)}. "
            "Change step_hours (or step_seconds) or the stores."
        )
    return own * count


def _duration(step: np.timedelta64) -> str:
    hour = np.timedelta64(1, "h")
    return f"{step / hour:g} h" if step >= hour or step <= np.timedelta64(0) else f"{step / np.timedelta64(1, 's'):g} s"


def _check_numbers(
    history: int, steps_ahead: int, batch_size: int, seed: int, rank: int, world_size: int, threads: int, prefetch: int
) -> None:
    at_least = {
        "history": (history, 1),
        "steps_ahead": (steps_ahead, 0),
        "batch_size": (batch_size, 1),
        "seed": (seed, 0),
        "rank": (rank, 0),
        "world_size": (world_size, 1),
        "threads": (threads, 1),
        "prefetch": (prefetch, 0),
    }
    for name, (value, lowest) in at_least.items():
        if value < lowest:
            raise ValueError(f"{name} must be at least {lowest}; got {value}.")
    if rank >= world_size:
        raise ValueError(f"rank must be below world_size={world_size}; got {rank}. Ranks count from 0.")
