"""Pieces fit together or say where they do not."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from data_pipelines.combine import Piece, combine
from data_pipelines.standardise import NOTES, SourceError, standardise
from tests.helpers.raw_layouts import cds_legacy, cds_new


def piece(raw: xr.Dataset, origin: str) -> Piece:
    return Piece(origin, standardise(raw, origin=origin))


def pressure(start: int = 0, stop: int = 4) -> xr.Dataset:
    return cds_legacy(preliminary=0).isel(expver=0, drop=True).isel(time=slice(start, stop))


def test_one_piece_is_itself() -> None:
    only = piece(cds_new(), "a")
    assert combine([only]) is only.data
    with pytest.raises(SourceError, match="nothing to combine"):
        combine([])


def test_months_are_joined_in_time_whatever_their_order() -> None:
    raw = cds_new(steps=6)
    parts = [piece(raw.isel(valid_time=slice(4, 6)), "march"), piece(raw.isel(valid_time=slice(0, 4)), "february")]
    joined, whole = combine(parts), standardise(raw)
    np.testing.assert_array_equal(joined["temperature"], whole["temperature"])
    np.testing.assert_array_equal(joined["expver"], whole["expver"])
    assert joined["temperature"].attrs["units"] == "K"


def test_file_without_expver_beside_one_with_it() -> None:
    raw = cds_new(steps=6)
    parts = [piece(raw.isel(valid_time=slice(0, 4)), "a"), piece(raw.isel(valid_time=slice(4, 6)).drop_vars("expver"), "b")]
    np.testing.assert_array_equal(combine(parts)["expver"].values[[3, 4]], ["0001", "unknown"])


def test_levels_are_joined_in_height() -> None:
    raw = cds_new()
    parts = [piece(raw.isel(pressure_level=[0]), "low"), piece(raw.isel(pressure_level=[1]), "high")]
    np.testing.assert_array_equal(combine(parts)["temperature"], standardise(raw)["temperature"])
    with pytest.raises(SourceError, match=r"levels overlap: low \+ all hold"):
        combine([parts[0], piece(raw, "all")])


def test_variables_are_put_side_by_side() -> None:
    joined = combine([piece(pressure(), "surface"), piece(cds_new(), "levels")])
    assert list(joined.data_vars) == ["temperature", "mean_sea_level_pressure"]
    assert joined["mean_sea_level_pressure"].attrs["units"] == "Pa"
    assert list(joined["expver"].values) == ["0001", "0001", "0001", "0005"]


def test_different_times_are_refused_with_both_spans_unless_told() -> None:
    parts = [piece(pressure(1, 3), "surface.nc"), piece(cds_new(), "levels.nc")]
    with pytest.raises(
        SourceError, match=r"surface.nc 2020-02-27T06:00 to .*2 steps.*; levels.nc 2020-02-27T00:00 to .*join=inner"
    ):
        combine(parts)
    joined = combine(parts, "inner")
    np.testing.assert_array_equal(joined["time"], standardise(pressure(1, 3))["time"])
    np.testing.assert_array_equal(joined["temperature"], standardise(cds_new())["temperature"].isel(time=slice(1, 3)))
    assert any(note.startswith("times joined: 2 steps") for note in joined.attrs[NOTES])
    later = pressure()
    apart = piece(later.assign_coords(time=later["time"] + np.timedelta64(900, "D")), "later.nc")
    with pytest.raises(SourceError, match="no time is common to all sources"):
        combine([apart, parts[1]], "inner")


def test_different_grids_are_refused_with_both() -> None:
    other = pressure().assign_coords(longitude=np.arange(8) * 45.0 + 1)
    with pytest.raises(SourceError, match=r"grids differ: a has 5 x 8, .*longitude 1 to 316, b has .*longitude 0 to 315"):
        combine([piece(other, "a"), piece(cds_new(), "b")])


def test_same_variable_beside_others_is_refused() -> None:
    both = xr.merge([pressure(), pressure().rename(msl="sp").map(lambda array: array - 5e3, keep_attrs=True)])
    with pytest.raises(SourceError, match=r"variable mean_sea_level_pressure is in a and in b"):
        combine([piece(pressure(), "a"), piece(both, "b")])


def test_different_levels_are_refused_with_both() -> None:
    other = cds_new().isel(pressure_level=[0]).rename(t="q").map(lambda array: (array / 1e5).assign_attrs(units="kg kg**-1"))
    other["q"].attrs["units"] = "kg kg**-1"
    with pytest.raises(SourceError, match=r"different levels: .*choose with levels=\[850\]"):
        combine([piece(other, "a"), piece(cds_new(), "b")])


def test_static_field_needs_no_time() -> None:
    mask = pressure().isel(time=0, drop=True).rename(msl="lsm").map(lambda array: array / 2e5)
    mask["lsm"].attrs["units"] = "1"
    joined = combine([piece(mask, "mask"), piece(mask, "mask again"), piece(cds_new(), "levels")])
    assert joined["land_sea_mask"].dims == ("latitude", "longitude")
