"""A pool of forecasts under way, so that a network learns from the states that it makes itself.

Every training step draws forecasts from the pool, carries them one step further, learns from the error and
puts them back (the replay buffer of FengWu, arXiv 2304.02948). A forecast that has reached its last lead time, or the
end of the data, makes room for a fresh one. No gradient runs through more than the steps of one draw.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


@dataclass
class Draw:
    """Forecasts taken from the pool: `frames` end at state `index` of store `source`, `lead` steps after the analysis."""

    frames: Float[Tensor, "batch history channel lat lon"]
    source: np.ndarray
    index: np.ndarray
    lead: np.ndarray
    slot: np.ndarray

    def __len__(self) -> int:
        return len(self.slot)


@dataclass
class ReplayBuffer:
    """Forecasts under way, with a share of fresh ones in every draw.

    Parameters
    ----------
    size
        Forecasts held.
    start
        `start(rng) -> (frames, source, index, lead)`: a fresh forecast, from an analysis or from an earlier stage.
    can_advance
        `can_advance(source, index, lead) -> bool`: whether a truth exists one step ahead, within the range of lead times.
    fresh_share
        Share of every draw that is fresh.
    """

    size: int
    start: Callable[[np.random.Generator], tuple[Tensor, int, int, int]]
    can_advance: Callable[[int, int, int], bool]
    rng: np.random.Generator
    fresh_share: float = 0.25
    slots: list[tuple[Tensor, int, int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size must be at least 1; got {self.size}.")
        if not 0 < self.fresh_share <= 1:
            raise ValueError(f"fresh_share must lie in (0, 1]; got {self.fresh_share}.")

    def draw(self, batch: int) -> Draw:
        """Take `batch` different forecasts, `fresh_share` of them fresh."""
        if batch > self.size:
            raise ValueError(
                f"batch of {batch} is larger than the buffer of {self.size}; enlarge replay_buffer or take smaller batches."
            )
        while len(self.slots) < min(self.size, batch):
            self.slots.append(self.start(self.rng))
        if len(self.slots) < self.size:
            self.slots.append(self.start(self.rng))
        chosen = self.rng.choice(len(self.slots), batch, replace=False)
        fresh = int(self.rng.binomial(batch, self.fresh_share))
        for slot in chosen[:fresh]:
            self.slots[slot] = self.start(self.rng)
        items = [self.slots[slot] for slot in chosen]
        return Draw(
            frames=torch.stack([frames for frames, *_ in items]),
            source=np.array([source for _, source, _, _ in items]),
            index=np.array([index for _, _, index, _ in items]),
            lead=np.array([lead for *_, lead in items]),
            slot=chosen,
        )

    def put_back(self, draw: Draw, frames: Float[Tensor, "batch history channel lat lon"], steps: int = 1) -> None:
        """Store forecasts `steps` further on; start fresh ones in place of those that are done."""
        for row, slot in enumerate(draw.slot):
            source, index, lead = int(draw.source[row]), int(draw.index[row]) + steps, int(draw.lead[row]) + steps
            if self.can_advance(source, index, lead):
                self.slots[slot] = (frames[row].detach().cpu().clone(), source, index, lead)
            else:
                self.slots[slot] = self.start(self.rng)

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on exactly."""
        return {"slots": list(self.slots), "rng": self.rng.bit_generator.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.slots = list(state["slots"])
        self.rng.bit_generator.state = state["rng"]
