"""Small wave datasets in the wave store's contract whose fields vary along every axis."""

from __future__ import annotations

import numpy as np
import xarray as xr


def make_waves(samples: int = 3, frames: int = 8, rows: int = 6, columns: int = 5, *, seed: int = 0) -> xr.Dataset:
    """Make the four fields of a wave store, float32; a step of 1/30 s, which binary numbers do not hold; a hole in each."""
    rng = np.random.default_rng(seed)
    moving = ("sample", "time", "y", "x")
    mask = np.ones((samples, rows, columns), np.float32)
    mask[np.arange(samples), 2, np.arange(samples) % columns] = 0
    fields = {
        "displacement": (moving, rng.normal(size=(samples, frames, rows, columns)) * mask[:, None], "m"),
        "velocity": (moving, rng.normal(size=(samples, frames, rows, columns)) * mask[:, None], "m s-1"),
        "wave_speed": (("sample", "y", "x"), rng.uniform(0.5, 2, mask.shape) * mask, "m s-1"),
        "mask": (("sample", "y", "x"), mask, "1"),
    }
    return xr.Dataset(
        {name: (dims, values.astype(np.float32), {"units": units}) for name, (dims, values, units) in fields.items()},
        {
            "sample": np.arange(samples),
            "time": np.arange(frames) / 30,
            "y": (np.arange(rows) + 0.5) / rows,
            "x": (np.arange(columns) + 0.5) / columns,
        },
    )
