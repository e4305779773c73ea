"""Cut a network into latitude bands, one per process: the same numbers, each process with its band of every field.

The weights are on all processes. Rows that a filter needs from a neighbour are exchanged before it (forecast/layers/globe.py),
so memory for activations, and arithmetic apart from the halos, are divided by the number of bands.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.distributed as dist

from forecast.layers.globe import Band, SeesGlobe
from forecast.puyun import PuYun

BY_ROW = ("mean_field", "deviation_field", "position")


def even_borders(rows: int, bands: int) -> list[int]:
    """Borders of bands as equally thick as can be.

    Raises
    ------
    ValueError
        If there are more bands than rows.
    """
    if bands > rows:
        raise ValueError(f"bands must not be more than the {rows} rows of the latent field; got {bands}. Use fewer.")
    return [rows * band // bands for band in range(bands + 1)]


def shard_by_latitude(model: PuYun, group: Any = None, borders: Sequence[int] | None = None) -> slice:
    """Leave a network on whole globes with the band of this process, in place.

    Parameters
    ----------
    model
        From now on it takes and returns the rows of its band: `frames[..., rows, :]`.
    group
        The processes that share every field, north to south; None for all.
    borders
        Latent rows at which the bands begin, and their number last; as even as can be by default. A latent row of a grid with
        poles is centred on every `patch`-th row of the grid.

    Returns
    -------
    The rows of the grid that are here.

    Raises
    ------
    ValueError
        If the borders are not as many as the processes, do not increase, or do not end at the last row.
    """
    bands, number = dist.get_world_size(group), dist.get_rank(group)
    latent, (rows, _), patch = model.latent.rows, model.requirements.grid_shape, model.config.patch
    if any(getattr(module, "needs_whole_globe", False) for module in model.modules()):
        raise ValueError(f"mixer={model.config.mixer} needs all rows of the globe at once, so bands must be 1; got {bands}.")
    borders = even_borders(latent, bands) if borders is None else list(borders)
    if len(borders) != bands + 1 or borders[-1] != latent:
        raise ValueError(
            f"borders must be {bands + 1} numbers from 0 to {latent}, one band for each of {bands} processes; got {borders}."
        )
    on_patches = [patch * border for border in borders]
    on_grid = [*on_patches[:-1], rows]
    for module in model.modules():
        if isinstance(module, SeesGlobe):
            module.globe = Band(borders, number, group)
    model.embedding.globe = Band(on_grid, number, group)
    model.head.globe = Band(on_patches, number, group)
    model.rows = slice(on_grid[number], on_grid[number + 1])
    for name in BY_ROW:
        setattr(model, name, getattr(model, name)[..., model.rows, :].clone())
    return model.rows
