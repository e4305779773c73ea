"""Stream windows of an analysis to torch: shuffled, sharded, resumable, and read ahead of the consumer.

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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from data_pipelines.frames import Frames, InMemory, Reader, open_reader
from data_pipelines.variables import Channel

logger = logging.getLogger(__name__)

MEMORY_LIMIT = 2**30  # bytes; a smaller analysis is read once and kept


@dataclass
class Window:
    """A batch of windows, in the analysis' units.

    Attributes
    ----------
    fields : Tensor, shape (batch, frame, channel, lat, lon)
        float32, `history` frames first.
    time : ndarray of datetime64[ns], shape (batch, frame)
        Valid time of every frame, UTC.
    """

    fields: Float[Tensor, "batch frame channel lat lon"]
    time: NDArray[np.datetime64]

    def pin_memory(self) -> Window:
        """Copy to page-locked memory (torch's DataLoader calls this)."""
        return Window(self.fields.pin_memory(), self.time)

    def to(self, device: torch.device | str) -> Window:
        """Move the fields to a device, without waiting where they are pinned."""
        return Window(self.fields.to(device, non_blocking=True), self.time)


@dataclass(frozen=True)
class _Source:
    """One analysis of those streamed: where to read, and at which steps a window may begin."""

    reader: Reader
    time: NDArray[np.datetime64]
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
        In the analysis store's contract. A path is read fastest. Several are streamed as one; no window crosses from one
        to the next.
    channels : sequence of str or Channel
        In the order wanted, e.g. ``["vorticity_850", "mean_sea_level_pressure"]``.
    history, steps_ahead : int
        Frames up to the initial time, and after it.
    span : (str, str), optional
        First and last moment that a frame may have, both included.
    step_hours : float, optional
        Time between the frames of a window; the analysis' own step by default.
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
        Degrees, as stored.
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
        span: tuple[str, str] | None = None,
        step_hours: float | None = None,
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
        opened = [open_reader(one, self.channels) for one in many]
        self.latitude, self.longitude = _common_grid([dataset for dataset, _ in opened])
        step = _common_step([dataset for dataset, _ in opened], step_hours)
        frames = history + steps_ahead
        shape = (len(self.channels), self.latitude.size, self.longitude.size)
        steps = sum(dataset.sizes["time"] for dataset, _ in opened)
        keep = steps * int(np.prod(shape)) * 4 <= memory_limit
        skipped = np.asarray(skip_times if skip_times is not None else [], dtype="datetime64[ns]")
        self._sources = [_source(*one, span, step, frames, shape, threads if keep else 0, skipped) for one in opened]
        self._stride = [_stride(source.time, step) for source in self._sources]
        self._first = np.cumsum([0] + [source.starts.size for source in self._sources])
        self.window_count = int(self._first[-1])
        if self.window_count < batch_size * world_size:
            raise ValueError(
                f"a batch needs {batch_size} windows on each of {world_size} ranks; the analysis has {self.window_count} "
                f"windows of {frames} frames{_reach(opened, span)}. Widen span, or lower batch_size, history or steps_ahead."
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
        return Window(batch.fields, np.stack([self._times(window) for window in batch.windows]))

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

    def _times(self, window: int) -> NDArray[np.datetime64]:
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
            first = self._times(window)[0].astype("datetime64[h]")
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


def _stride(time: NDArray[np.datetime64], step: np.timedelta64) -> int:
    return int(step // np.diff(time).min())


def _source(
    dataset: xr.Dataset,
    reader: Reader,
    span: tuple[str, str] | None,
    step: np.timedelta64,
    frames: int,
    shape: tuple[int, int, int],
    load_threads: int,
    skipped: NDArray[np.datetime64],
) -> _Source:
    """Find the windows of one analysis; with `load_threads` read it whole."""
    time = dataset["time"].values.astype("datetime64[ns]")
    bad = np.isin(time, skipped)
    if load_threads:
        reader = InMemory(reader, time.size, shape, load_threads)
        bad[reader.missing()] = True
    inside = np.isin(
        time, (dataset if span is None else dataset.sel(time=slice(*span)))["time"].values.astype("datetime64[ns]")
    )
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
            f" (first {time[bad & inside][0].astype('datetime64[h]')})" if (bad & inside).any() else "",
        )
    return _Source(reader, time, candidates[within & ~gap & ~faulty], np.full(time.size, bool(load_threads)))


def _reach(opened: Sequence[tuple[xr.Dataset, Reader]], span: tuple[str, str] | None) -> str:
    """Say which times there are, for an error's sake."""
    ends = [dataset["time"].values[[0, -1]].astype("datetime64[h]") for dataset, _ in opened]
    chosen = f" in span {span[0]} to {span[1]}" if span else ""
    return f"{chosen} (it reaches from {min(end[0] for end in ends)} to {max(end[1] for end in ends)})"


def _common_grid(datasets: Sequence[xr.Dataset]) -> tuple[NDArray[Any], NDArray[Any]]:
    if not datasets:
        raise ValueError("analysis must be a store or at least one of them; got an empty list.")
    latitude, longitude = datasets[0]["latitude"].values, datasets[0]["longitude"].values
    for number, dataset in enumerate(datasets):
        if not (np.array_equal(dataset["latitude"], latitude) and np.array_equal(dataset["longitude"], longitude)):
            got = (dataset.sizes["latitude"], dataset.sizes["longitude"])
            raise ValueError(
                f"analysis number {number + 1} lies on another grid ({got[0]} x {got[1]}) than the first "
                f"({latitude.size} x {longitude.size}). Regrid it."
            )
    return latitude, longitude


def _common_step(datasets: Sequence[xr.Dataset], step_hours: float | None) -> np.timedelta64:
    """The time between frames; every analysis' own step must divide it."""
    own = []
    for dataset in datasets:
        if dataset.sizes.get("time", 0) < 2:
            raise ValueError(f"analysis must hold at least 2 steps; got {dataset.sizes.get('time', 0)}. Check the store.")
        own.append(np.diff(dataset["time"].values.astype("datetime64[ns]")).min())
    step = own[0] if step_hours is None else np.timedelta64(round(step_hours * 3600), "s").astype("timedelta64[ns]")
    for one in own:
        if step <= np.timedelta64(0) or step % one != np.timedelta64(0):
            raise ValueError(
                f"step_hours must be a multiple of the analysis' step of {one / np.timedelta64(1, 'h'):g} h; "
                f"got {step / np.timedelta64(1, 'h'):g} h. Change step_hours or the stores."
            )
    return step


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
