"""Dropout that stays on in forecasts: members whose networks leave out other latent channels in each step.

torch's layer draws for a whole batch from one generator, so what it draws for a forecast depends on those beside it. Here
each forecast of the batch has a generator of its own, seeded by what it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from forecast.forecaster import ForecastError


class MemberDropout(nn.Module):
    """Leaves out channels of those forecasts of a batch that have a generator, and scales the others up.

    Parameters
    ----------
    share
        Share of channels that are left out on average.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share
        self.generators: Sequence[np.random.Generator | None] = ()

    def forward(self, x: Float[Tensor, "batch channel lat lon"]) -> Float[Tensor, "batch channel lat lon"]:
        """Leave out channels; without generators, none."""
        if not any(self.generators):
            return x
        drawn = [
            np.ones(x.shape[1]) if rng is None else (rng.random(x.shape[1]) >= self.share) / (1 - self.share)
            for rng in self.generators
        ]
        return x * torch.from_numpy(np.stack(drawn)).to(x)[:, :, None, None]


def install(model: Any, share: float) -> list[MemberDropout]:
    """Put such layers where a network has dropout.

    Raises
    ------
    ForecastError
        If it has none.
    """
    places = [
        (parent, name)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.Dropout2d)
    ]
    if not places:
        raise ForecastError(
            f"ensemble.dropout needs networks that have layers with dropout; {type(model).__name__} has none. Set it to 0."
        )
    layers = [MemberDropout(share) for _ in places]
    for (parent, name), layer in zip(places, layers, strict=True):
        setattr(parent, name, layer)
    return layers


@contextmanager
def dropping(layers: Sequence[MemberDropout], generators: Sequence[np.random.Generator | None]) -> Iterator[None]:
    """Have the layers draw from one generator per forecast while the block runs; None leaves nothing out of that forecast."""
    for layer in layers:
        layer.generators = generators
    try:
        yield
    finally:
        for layer in layers:
            layer.generators = ()
