"""What a study makes of its rows' forecasts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import xarray as xr

from benchmarks.skill.study import average


def test_mean_of_seeds_is_the_mean_of_their_forecasts_in_the_same_units(tmp_path: Path) -> None:
    paths = []
    for seed, value in enumerate((1.0, 2.0, 6.0)):
        paths.append(tmp_path / f"net-{seed}.zarr")
        fields = {"mean_sea_level_pressure": (("time", "longitude"), np.full((2, 3), value, "f4"), {"units": "Pa"})}
        xr.Dataset(fields, {"time": [0, 1]}).to_zarr(paths[-1], zarr_format=2, consolidated=True)
    mean = xr.open_zarr(average(paths, tmp_path / "mean.zarr"), consolidated=False).load()
    np.testing.assert_array_equal(mean["mean_sea_level_pressure"], np.full((2, 3), 3.0))
    assert mean["mean_sea_level_pressure"].attrs["units"] == "Pa"
    assert mean.attrs["title"] == "mean of net-0, net-1, net-2"
