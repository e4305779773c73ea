"""What roll-out, cascade and checkpoints ask of a model: nothing but this."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from forecast.requirements import Requirements


class ForecastError(ValueError):
    """A forecast that cannot be made as asked: settings, checkpoint and analysis do not fit, or it left the finite numbers."""


class Forecaster(Protocol):
    """A torch module that takes states in physical units to the state one step later."""

    requirements: Requirements

    def __call__(self, frames: Tensor, forcings: Tensor, features: Tensor, /) -> Tensor:
        """Take (batch, history, channel, lat, lon), oldest first, to (batch, channel, lat, lon), in the same units.

        `forcings` (batch, forcing, lat, lon) and `features` (batch, feature) are what `inputs_at` returned.
        """
        ...

    @property
    def is_calibrated(self) -> bool:
        """Whether readers are shown something else than what is carried on to the next step."""
        ...

    def calibrated(self, fields: Tensor, initial: Tensor, initial_time: np.ndarray, lead_hours: int, /) -> Tensor:
        """Correct the states at a lead time for their readers, given those at the initial times, (batch, channel, lat, lon).

        What is carried on to the next step is the state before; a model that is not calibrated gives it back.
        """
        ...

    def inputs_at(self, time: np.ndarray, lead_hours: np.ndarray, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """Compute forcings and features for valid times (datetime64, (batch,)) and lead times [h] of the last frame."""
        ...

    def to_config(self) -> dict[str, Any]:
        """Give the plain values from which `from_config` builds the same network."""
        ...

    @classmethod
    def from_config(cls, config: Mapping[str, Any], requirements: Requirements) -> Self:
        """Build the network without its weights."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Weights and buffers, as torch.nn.Module has it."""
        ...

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any:
        """Load them, as torch.nn.Module does."""
        ...

    def to(self, device: torch.device | str) -> Self:
        """Move to a device, as torch.nn.Module does."""
        ...

    def eval(self) -> Self:
        """Switch to inference, as torch.nn.Module does."""
        ...
