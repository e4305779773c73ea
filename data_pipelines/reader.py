"""States of a store by position, as tensors ready for a network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from data_pipelines.variables import Channel

# A store smaller than this is read once and kept.
KEEP_BELOW_BYTES = 2**30


class StateReader:
    """Random access to the states of an analysis store.

    Parameters
    ----------
    analysis
        Opened with `data_pipelines.store.open_analysis`.
    channels
        Names of the fields, in the order wanted.
    keep_below
        Stores with fewer bytes than this in `channels` are read once and kept in memory.

    Raises
    ------
    ValueError
        If a field is not in the store.
    """

    def __init__(self, analysis: xr.Dataset, channels: Sequence[str], *, keep_below: int = KEEP_BELOW_BYTES) -> None:
        self._fields = [_select(analysis, Channel.parse(name)) for name in channels]
        self._states: Float[Tensor, "time channel lat lon"] | None = None
        if sum(field.size for field in self._fields) * 4 <= keep_below:
            self._states = self._load(slice(None))

    def read(self, index: Iterable[int]) -> Float[Tensor, "state channel lat lon"]:
        """States at these positions of the time axis, in raw units, float32."""
        positions = np.fromiter(index, dtype=np.int64)
        if self._states is not None:
            return self._states[torch.from_numpy(positions)]
        return self._load(positions)

    def _load(self, positions: np.ndarray | slice) -> Float[Tensor, "state channel lat lon"]:
        arrays = [np.asarray(field.isel(time=positions).values, dtype=np.float32) for field in self._fields]
        return torch.from_numpy(np.stack(arrays, axis=1))


def _select(analysis: xr.Dataset, channel: Channel) -> xr.DataArray:
    if channel.variable not in analysis:
        raise ValueError(
            f"variable {channel.variable} is missing: {channel} was asked for; the store has {sorted(map(str, analysis.data_vars))}. "
            "Rebuild it with variables=..."
        )
    field = analysis[channel.variable]
    if channel.level is None:
        return field
    levels = [int(level) for level in field["level"].values]
    if channel.level not in levels:
        raise ValueError(f"level {channel.level} hPa is missing: {channel} was asked for; the store has {levels}. Rebuild it with levels=...")
    return field.sel(level=channel.level)
