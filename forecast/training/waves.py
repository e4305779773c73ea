"""Training of wave simulators: where their states come from, what they are scored by."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from data_pipelines.frames import InMemory
from data_pipelines.store import data_hash, open_waves
from data_pipelines.streaming import MEMORY_LIMIT, WindowStream
from data_pipelines.tracks import open_tracks
from data_pipelines.variables import Channel
from forecast.checkpoint import load_checkpoint
from forecast.losses import ALL_ROWS, WeightedError, channel_weights
from forecast.training.config import SourceConfig, TrainingConfig
from forecast.training.parallel import Place
from forecast.training.source import READING_THREADS, Streamed
from forecast.wave_requirements import WaveRequirements
from forecast.wave_simulator import Simulator, SimulatorConfig, wave_statistics

BATCH = 16


class WaveSource(Streamed):
    """States of the chosen samples of a wave store; a state is known by its position, sample after sample.

    Raises
    ------
    ValueError
        If no sample is chosen, or what is asked for does not apply to waves.
    """

    def __init__(self, config: SourceConfig, channels: Sequence[str], static: Sequence[str]) -> None:
        for name in ("start", "end", "held_out_start", "lead_until_hours", "match_statistics"):
            if getattr(config, name):
                raise ValueError(f"{name} of a source is for analyses; got {getattr(config, name)} for waves. Use samples.")
        self.channels, self.share, self.last_lead = list(channels), config.share, None
        dataset = open_waves(config.store)
        numbers = dataset["sample"].values
        chosen = np.flatnonzero(_chosen(numbers, config.samples))
        if not chosen.size:
            raise ValueError(
                f"samples {config.samples} are not in {config.store}, which holds {numbers[0]} to {numbers[-1]}. Choose others."
            )
        self.waves = dataset.isel(sample=chosen)
        parsed = [Channel.parse(name) for name in channels]
        _, tracks = open_tracks(config.store, parsed, static)
        self.tracks = [tracks[place] for place in chosen]
        self.frames = len(dataset["time"])
        self.shape = (len(self.channels), dataset.sizes["y"], dataset.sizes["x"])
        self.readers = [track.reader for track in self.tracks]
        if len(self) * int(np.prod(self.shape)) * 4 <= MEMORY_LIMIT:
            self.readers = [InMemory(reader, self.frames, self.shape, READING_THREADS) for reader in self.readers]
        self.place_of = {track.sample: place for place, track in enumerate(self.tracks)}
        self.stream: WindowStream | None = None
        self.steps_behind = 0

    def __len__(self) -> int:
        return len(self.tracks) * self.frames

    def open_stream(self, history: int, steps_behind: int, seed: int, place: Place) -> None:
        """Begin to draw windows that have `steps_behind` states after them, each on one copy of the network only."""
        self.steps_behind = steps_behind
        self.stream = WindowStream(
            self.waves, self.channels, history=history, steps_ahead=steps_behind, batch_size=1, seed=seed,
            rank=place.copy, world_size=place.copies,
        )  # fmt: skip

    def fresh(self) -> tuple[Float[Tensor, "history channel y x"], int]:
        """The next window's frames up to its initial time, and the position of that time."""
        stream = self._opened()
        window = next(stream)
        track = self.place_of[int(window.sample[0])]
        frame = int(np.searchsorted(self.tracks[track].time, window.time[0, stream.history - 1]))
        return window.fields[0, : stream.history].clone(), track * self.frames + frame

    def states(self, index: Sequence[int] | np.ndarray) -> Float[Tensor, "state channel y x"]:
        """States at these positions."""
        values = np.empty((len(index), *self.shape), dtype=np.float32)
        for row, position in enumerate(index):
            track, frame = divmod(int(position), self.frames)
            self.readers[track].read(range(frame, frame + 1), values[row : row + 1])
        return torch.from_numpy(values)

    def static(self, index: int) -> Float[np.ndarray, "static y x"]:
        """Static fields of the sample that a position is in."""
        return self.tracks[int(index) // self.frames].static

    def connected(self, index: int, ahead: int) -> bool:
        """Whether the state `ahead` steps after `index` is of the same sample."""
        return index % self.frames + ahead < self.frames


def _chosen(numbers: np.ndarray, samples: Sequence[int]) -> np.ndarray:
    return np.ones(len(numbers), bool) if not samples else (numbers >= samples[0]) & (numbers <= samples[1])


class Waves:
    """Simulators, trained on finite-element solutions."""

    lead_unit = "seconds"
    score = "relative L2 error"

    def __init__(self, config: TrainingConfig, simulator: SimulatorConfig) -> None:
        _refuse_what_is_of_weather(config)
        self.config, self.simulator = config, simulator
        sources = [WaveSource(source, config.channels, config.static) for source in config.sources.values()]
        self.sources: Sequence[WaveSource] = sources
        self.requirements = WaveRequirements.of(self.sources[0].waves, config.channels, config.static, history=config.history)
        for source in self.sources[1:]:
            self.requirements.check(source.waves)
        self.first_lead, self.last_lead = 0, config.lead_until_steps
        frames = min(source.frames for source in self.sources)
        if not 1 <= self.last_lead <= frames - config.history:
            raise ValueError(
                f"lead_until_steps must lie in 1..{frames - config.history}, what the record of {frames} frames holds after a "
                f"history of {config.history}; got {self.last_lead}."
            )

    def build_model(self) -> Simulator:
        """A simulator with the statistics of the first source."""
        statistics = wave_statistics(self.sources[0].waves, self.requirements)
        model = Simulator(self.simulator, self.requirements, statistics)
        initial = [_load_simulator(path) for path in self.config.initial]
        if initial:
            model.load_weights_of(initial)
        return model

    def error(self, rows: slice = ALL_ROWS) -> WeightedError:
        """All cells count the same."""
        weights = channel_weights(self.config.channels, self.config.variable_weights, by_level=False)
        return WeightedError(self.config.penalty, None, weights, rows)

    def inputs(
        self, model: Any, sources: Sequence[Any], index: np.ndarray, lead: np.ndarray, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Static fields of the samples."""
        static = np.stack([source.static(position) for source, position in zip(sources, index, strict=False)])
        inputs: tuple[Tensor, Tensor] = model.inputs_of(torch.from_numpy(static).to(device))
        return inputs

    def lead(self, steps: float) -> float:
        """Seconds."""
        return steps * self.requirements.step_seconds

    def about(self) -> dict[str, Any]:
        """Samples and hash of the first source."""
        numbers = [track.sample for track in self.sources[0].tracks]
        return {"training_span": f"sample {numbers[0]}/sample {numbers[-1]}", "data_hash": self._data_hash}

    @cached_property
    def _data_hash(self) -> str:
        return data_hash(self.sources[0].waves)

    def notes(self) -> dict[str, Any]:
        """First and last sample of every store that was learned from, by the store's hash: no test of what was learned."""
        seen = {}
        for source in self.sources:
            numbers = [track.sample for track in source.tracks]
            seen[str(source.waves.attrs.get("data_hash"))] = [numbers[0], numbers[-1]]
        return {"stores": seen}

    def data(self, model: nn.Module) -> dict[str, Any]:
        """Samples of the sources, and the tendency."""
        return {
            "states": [[len(source), source.tracks[0].sample, source.tracks[-1].sample] for source in self.sources],
            "tendency": model.get_buffer("tendency").flatten().tolist(),
        }


class WaveValidation:
    """Forecasts of the validation samples from the start of their records, each rank's share of them."""

    def __init__(self, config: TrainingConfig, subject: Waves, average: Simulator, place: Place) -> None:
        self.subject, self.average, self.place, self.history = subject, average, place, config.history
        settings = next(iter(config.sources.values()))
        own = SourceConfig(store=settings.store, samples=config.validation_samples)
        self.source = WaveSource(own, config.channels, config.static) if config.validation_samples else None

    @torch.no_grad()
    def scores(self) -> dict[str, float]:
        """Mean over samples of |forecast - truth| / |truth| by channel, at the first, the middle and the last lead time."""
        if self.source is None:
            return {}
        source, last = self.source, self.subject.last_lead
        leads = sorted({1, (last + 1) // 2, last})
        channels = self.subject.requirements.channels
        totals = torch.zeros(len(leads), len(channels), dtype=torch.float64)
        mine = np.arange(len(source.tracks))[self.place.rank :: self.place.ranks]
        device = next(self.average.parameters()).device
        for begin in range(0, len(mine), BATCH):
            starts = mine[begin : begin + BATCH] * source.frames + self.history - 1
            frames = source.states((starts[:, None] + np.arange(1 - self.history, 1)).flatten())
            frames = frames.unflatten(0, (len(starts), self.history)).to(device)
            static = torch.from_numpy(np.stack([source.static(start) for start in starts])).to(device)
            inputs = self.average.inputs_of(static)
            for lead in range(1, last + 1):
                frames = torch.cat([frames[:, 1:], self.average(frames, *inputs)[:, None]], dim=1)
                if lead in leads:
                    truth = source.states(starts + lead)
                    error = (frames[:, -1].cpu() - truth).flatten(2).norm(dim=2) / truth.flatten(2).norm(dim=2)
                    totals[leads.index(lead)] += error.sum(dim=0)
        mean = self.place.add(totals) / len(source.tracks)
        return {
            f"{name} {self.subject.lead(lead):g} s": float(mean[place, channel])
            for place, lead in enumerate(leads)
            for channel, name in enumerate(channels)
        }


def _refuse_what_is_of_weather(config: TrainingConfig) -> None:
    for name in ("earlier_stages", "calibrate", "calibration_from", "weight_by_level", "validation_start"):
        if getattr(config, name):
            raise ValueError(f"{name} is for stages of the weather; leave it out for a simulator. Got {getattr(config, name)}.")
    if config.bands > 1:
        raise ValueError(f"bands are for the globe; a simulator's fields stay whole. Got bands={config.bands}, use 1.")


def _load_simulator(path: str) -> Simulator:
    model = load_checkpoint(Path(path), "cpu")
    if not isinstance(model, Simulator):
        raise ValueError(f"initial must hold checkpoints of Simulator; {path} is a {type(model).__name__}. Choose another.")
    return model
