"""A store to learn from: fresh windows in a shuffled stream, and any state by its position."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from data_pipelines.dates import time_slice
from data_pipelines.frames import InMemory, open_reader
from data_pipelines.store import time_step
from data_pipelines.streaming import MEMORY_LIMIT, WindowStream
from data_pipelines.variables import Channel
from forecast.training.config import SourceConfig
from forecast.training.parallel import Place

MINIMUM_STATES = 3
READING_THREADS = 2


class Streamed:
    """The place in a shuffled stream of windows."""

    share: float
    last_lead: int | None
    stream: WindowStream | None

    @property
    def batches(self) -> int:
        """Windows drawn so far."""
        return self.state_dict()["step"]

    def state_dict(self) -> dict[str, int]:
        """The place in the data."""
        return self._opened().state_dict()

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from a place in the data."""
        self._opened().load_state_dict(state)

    def skip(self, batches: int) -> None:
        """Go on as if so many windows had been drawn."""
        self.load_state_dict({"step": batches})

    def _opened(self) -> WindowStream:
        if self.stream is None:
            raise RuntimeError("open_stream comes first.")
        return self.stream


class Source(Streamed):
    """States of one store: fresh windows in a shuffled, prefetched stream, and any state by its position."""

    def __init__(self, config: SourceConfig, channels: Sequence[str], step_hours: int = 0) -> None:
        self.channels = list(channels)
        self.store = config.store
        self.dataset, self.reader = open_reader(config.store, [Channel.parse(name) for name in channels])
        self.shape = (len(self.channels), self.dataset.sizes["latitude"], self.dataset.sizes["longitude"])
        self.share = config.share
        self.step: np.timedelta64 = np.timedelta64(step_hours, "h")  # 0 until the span is chosen: that of the store there
        self._choose(config)
        hours = int(self.step / np.timedelta64(1, "h"))
        if config.lead_until_hours % hours:
            raise ValueError(
                f"lead_until_hours of {config.store} must be a multiple of the step of {hours} h, or 0 for the stage's; got "
                f"{config.lead_until_hours}."
            )
        self.last_lead = config.lead_until_hours // hours or None
        stored = self.dataset.sizes["time"]
        if stored * int(np.prod(self.shape)) * 4 <= MEMORY_LIMIT:
            self.reader = InMemory(self.reader, stored, self.shape, threads=READING_THREADS)
        self.shift: Tensor | float = 0.0
        self.scale: Tensor | float = 1.0
        self.stream: WindowStream | None = None
        self.steps_behind = 0

    def _choose(self, config: SourceConfig) -> None:
        """Take the states of a span, less those that are held out."""
        times = self.dataset["time"].values
        chosen = time_slice(config.start, config.end, error=ValueError)
        span = self.dataset.indexes["time"].slice_indexer(chosen.start, chosen.stop)
        positions = np.arange(len(times))[span]
        self.analysis = self.dataset.isel(time=positions)
        if config.held_out_start:
            chosen = time_slice(config.held_out_start, config.held_out_end, ("held_out_start", "held_out_end"), ValueError)
            held_out = self.analysis.indexes["time"].slice_indexer(chosen.start, chosen.stop)
            positions = np.delete(positions, held_out)
        if len(positions) < MINIMUM_STATES:
            raise ValueError(
                f"span {config.start or 'start'}..{config.end or 'end'} holds {len(positions)} states of {config.store}, "
                f"which runs from {times[0]} to {times[-1]}; at least {MINIMUM_STATES} are needed. Widen start and end."
            )
        self.learned = self.dataset.isel(time=positions)
        interval = time_step(self.analysis)
        if not self.step:
            self.step = interval
        if self.step % interval:
            hour = np.timedelta64(1, "h")
            raise ValueError(
                f"step_hours must be a multiple of the step of {self.store}, {interval / hour:g} h; got {self.step / hour:g}. "
                "Give another, or 0 for the store's own."
            )
        self.stride = int(self.step // interval)
        # Sorted by phase, so that the next position is one step ahead, however many steps of the store that is.
        phase = (times[positions] - times[positions[0]]) // interval % self.stride
        self.positions = positions[np.argsort(phase, kind="stable")]
        self.times = times[self.positions]

    def spanning(self, start: str = "", end: str = "") -> Source:
        """The same store over another span, all of it by default, nothing held out; what is in memory is shared."""
        other = copy(self)
        other.stream = None
        other._choose(SourceConfig(self.store, start, end))
        return other

    def __len__(self) -> int:
        return len(self.times)

    def match(self, own: xr.Dataset, wanted: xr.Dataset) -> None:
        """Map this store's mean field and standard deviation onto those of `wanted`."""
        own, wanted = own.sel(channel=self.channels), wanted.sel(channel=self.channels)
        scale = _root_mean_square(wanted["standard_deviation_field"]) / _root_mean_square(own["standard_deviation_field"])
        self.scale = torch.tensor(scale.values, dtype=torch.float32).view(-1, 1, 1)
        self.shift = torch.tensor(wanted["mean_field"].values, dtype=torch.float32) - self.scale * torch.tensor(
            own["mean_field"].values, dtype=torch.float32
        )

    def open_stream(self, history: int, steps_behind: int, seed: int, place: Place) -> None:
        """Begin to draw windows that have `steps_behind` states after them, each on one copy of the network only."""
        self.steps_behind = steps_behind
        self.stream = WindowStream(
            self.learned.isel(time=slice(None, len(self) - (steps_behind - 1) * self.stride)),
            self.channels,
            history=history,
            step_hours=float(self.step / np.timedelta64(1, "h")),
            batch_size=1,
            seed=seed,
            rank=place.copy,
            world_size=place.copies,
        )

    def fresh(self) -> tuple[Float[Tensor, "history channel lat lon"], int]:
        """The next window's frames up to its initial time, and the position of that time."""
        stream = self._opened()
        while True:
            window = next(stream)
            index = int(np.flatnonzero(self.times == window.time[0, stream.history - 1])[0])
            if self.connected(index, self.steps_behind):
                return self._matched(window.fields[0, : stream.history].clone()), index

    def states(self, index: Sequence[int] | np.ndarray) -> Float[Tensor, "state channel lat lon"]:
        """States at these positions in the span, raw or matched."""
        values = np.empty((len(index), *self.shape), dtype=np.float32)
        for row, position in enumerate(index):
            stored = int(self.positions[position])
            self.reader.read(range(stored, stored + 1), values[row : row + 1])
        return self._matched(torch.from_numpy(values))

    def connected(self, index: int, ahead: int) -> bool:
        """Whether the state `ahead` steps after `index` is there, with no gap between."""
        return bool(self.all_connected(np.array([index]), ahead)[0])

    def all_connected(self, index: np.ndarray, ahead: int) -> np.ndarray:
        """`connected` for many states at once."""
        there = index + ahead < len(self)
        later = np.where(there, index + ahead, index)
        return there & (self.times[later] - self.times[index] == ahead * self.step)

    def _matched(self, fields: Tensor) -> Tensor:
        return fields * self.scale + self.shift


def _root_mean_square(field: xr.DataArray) -> xr.DataArray:
    return (field**2).mean(["latitude", "longitude"]) ** 0.5
