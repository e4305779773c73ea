"""The door: every layout comes out in the contract, and nothing is guessed silently."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from data_pipelines.contracts import CONTRACT
from data_pipelines.standardise import LEFT_OUT, NOTES, MissingVariable, Selection, SourceError, standardise
from tests.helpers import raw_layouts as layouts


def check_in_contract(data: xr.Dataset) -> None:
    CONTRACT.check(data)
    for array in data.data_vars.values():
        assert array.chunks is not None, "fields stay lazy"


def test_weatherbench_store_with_south_first_and_longitude_before_latitude() -> None:
    raw = layouts.weatherbench()
    out = standardise(raw)
    check_in_contract(out)
    point = {"time": 1, "level": 1}
    wanted = raw["geopotential"].isel(point).sel(latitude=raw["latitude"][3], longitude=45.0)
    assert out["geopotential"].isel(point).sel(latitude=raw["latitude"][3], longitude=45.0) == wanted
    assert out["geopotential"].attrs["units"] == "m2 s-2"
    assert out["level"].dtype == np.int32
    assert out["geopotential_at_surface"].dims == ("latitude", "longitude")
    assert "latitude ran from south to north; turned" in out.attrs[NOTES]


def test_arco_is_read_only_where_its_attributes_say_it_is_valid() -> None:
    """Padding is NaN on both sides; the last valid day is preliminary (ERA5T) and comes only when asked for."""
    final = standardise(layouts.arco())
    assert final.sizes["time"] == 3
    assert not np.isnan(final["temperature"]).any()
    assert standardise(layouts.arco(), Selection(preliminary=True)).sizes["time"] == 4
    with pytest.raises(SourceError, match=r"end=2020-03-03 is after the source ends: it spans 2020-02-28"):
        standardise(layouts.arco(), Selection(end="2020-03-03"))
    nowhere = layouts.arco().assign_attrs(valid_time_start="1900-01-01", valid_time_stop="1900-01-02")
    with pytest.raises(SourceError, match="valid from 1900-01-01 to 1900-01-02, and holds no time between"):
        standardise(nowhere)


def test_new_cds_layout() -> None:
    raw = layouts.cds_new()
    out = standardise(raw)
    check_in_contract(out.drop_vars("expver"))
    np.testing.assert_array_equal(out["level"], [500, 850])
    np.testing.assert_array_equal(out["temperature"].sel(level=850), raw["t"].sel(pressure_level=850))
    np.testing.assert_array_equal(out["expver"], ["0001", "0001", "0001", "0005"])
    assert set(out.coords) == {"time", "level", "latitude", "longitude", "expver"}
    assert not any(key.startswith("GRIB_") for key in out["temperature"].attrs)


@pytest.mark.parametrize("as_text", [False, True])
def test_legacy_cds_layout_combines_final_and_preliminary(as_text: bool) -> None:
    raw = layouts.cds_legacy()
    wanted = raw["msl"].isel(expver=0, drop=True).fillna(raw["msl"].isel(expver=1, drop=True))
    if as_text:
        raw = raw.assign_coords(expver=["0001", "0005"])
    out = standardise(raw)
    check_in_contract(out.drop_vars("expver"))
    np.testing.assert_array_equal(out["mean_sea_level_pressure"], wanted.transpose("time", "latitude", "longitude"))
    np.testing.assert_array_equal(out["expver"], ["0001", "0001", "0001", "0005"])
    assert "dimension expver combined: 0001 where it has values, else ['0005']" in out.attrs[NOTES]


def test_expver_of_size_one_is_removed() -> None:
    out = standardise(layouts.cds_legacy(preliminary=0).isel(expver=[0]))
    assert out["mean_sea_level_pressure"].dims == ("time", "latitude", "longitude")


@pytest.mark.parametrize("name", ["lon", "longitude"])
def test_longitude_from_minus_180_is_rolled_with_its_values(name: str) -> None:
    raw = layouts.cds_new().assign_coords(longitude=np.arange(8) * 45.0 - 180).rename(longitude=name)
    out = standardise(raw)
    np.testing.assert_array_equal(out["longitude"], np.arange(8) * 45.0)
    np.testing.assert_array_equal(out["temperature"].sel(longitude=270), raw["t"].sel({name: -90.0}).sortby("pressure_level"))


def test_cyclic_column_is_left_out() -> None:
    raw = layouts.cds_new()
    closed = xr.concat([raw, raw.isel(longitude=[0]).assign_coords(longitude=[360.0])], dim="longitude", data_vars="minimal")
    out = standardise(closed)
    assert out.sizes["longitude"] == 8
    assert any("repeats 0" in note for note in out.attrs[NOTES])


def test_shuffled_axes_are_sorted_with_their_values() -> None:
    raw = layouts.cds_new()
    order = {"latitude": [2, 0, 4, 1, 3], "longitude": [3, 1, 0, 2, 7, 5, 4, 6], "valid_time": [2, 0, 1, 3]}
    out, wanted = standardise(raw.isel(order)), standardise(raw)
    np.testing.assert_array_equal(out["temperature"], wanted["temperature"])
    np.testing.assert_array_equal(out["time"], wanted["time"])


@pytest.mark.parametrize(
    ("name", "units"), [("plev", None), ("plev", "Pa"), ("isobaricInPa", None), ("lev", "Pa"), ("level", "hPa")]
)
def test_pressure_in_pa_is_told_by_units_name_or_size(name: str, units: str | None) -> None:
    raw = layouts.cds_new().rename(pressure_level=name).assign_coords({name: [85000.0, 50000.0]})
    if units is not None:
        raw[name].attrs["units"] = units
    np.testing.assert_array_equal(standardise(raw)["level"], [500, 850])


def test_single_level_beside_the_field_becomes_a_dimension() -> None:
    raw = layouts.cds_new().isel(pressure_level=0)
    out = standardise(raw)
    assert out["temperature"].dims == ("time", "level", "latitude", "longitude")
    np.testing.assert_array_equal(out["level"], [850])


def test_levels_in_names_are_stacked() -> None:
    raw = layouts.cds_new()
    split = xr.Dataset({f"t{level}": raw["t"].sel(pressure_level=level, drop=True) for level in (850, 500)}, attrs=raw.attrs)
    out = standardise(split)
    np.testing.assert_array_equal(out["temperature"], standardise(raw)["temperature"])
    underscore = split.rename(t850="temperature_850", t500="temperature_500hPa")
    np.testing.assert_array_equal(standardise(underscore)["temperature"], out["temperature"])


def test_wanted_levels_come_in_order_and_missing_ones_are_named() -> None:
    out = standardise(layouts.cds_new(), Selection(levels=[850]))
    np.testing.assert_array_equal(out["level"], [850])
    with pytest.raises(
        SourceError, match=r"level 925 hPa of temperature is missing: wanted are \[850, 925\]; .* has \[500, 850\]"
    ):
        standardise(layouts.cds_new(), Selection(levels=[925, 850]))


@pytest.mark.parametrize("asked", ["temperature", "t", "air_temperature"])
def test_variable_may_be_asked_for_by_any_name(asked: str) -> None:
    assert list(standardise(layouts.cds_new(), Selection(variables=[asked])).data_vars) == ["temperature"]


def test_missing_variable_is_named_with_what_is_there() -> None:
    with pytest.raises(
        MissingVariable, match=r"variable msl is missing: wanted were \['msl'\]; the source has \['temperature'\]"
    ):
        standardise(layouts.cds_new(), Selection(variables=["msl"]))


def test_what_is_not_asked_for_or_not_known_is_recorded() -> None:
    raw = layouts.weatherbench().assign(nonsense=("time", np.zeros(5)), odd=(("latitude", "longitude"), np.zeros((32, 64))))
    left_out = " | ".join(standardise(raw).attrs[LEFT_OUT])
    assert "nonsense is no map" in left_out
    assert "odd is no variable of the vocabulary" in left_out
    left_out = " | ".join(standardise(raw, Selection(variables=["geopotential"])).attrs[LEFT_OUT])
    assert "mean_sea_level_pressure was not asked for" in left_out


def test_blocks_follow_the_stored_chunks(tmp_path: Path) -> None:
    """Times 3 to 10 out of chunks of four: nothing is read twice."""
    layouts.weatherbench(steps=12).chunk(time=4).to_zarr(tmp_path / "a.zarr", zarr_format=2)
    with xr.open_zarr(tmp_path / "a.zarr", chunks=None) as raw:
        out = standardise(raw, Selection(start="2020-02-27T18", end="2020-02-29T12", variables=["msl"]))
        assert out["mean_sea_level_pressure"].chunksizes["time"] == (1, 4, 3)
        every = standardise(raw, Selection(every="12h"))
        assert every["geopotential"].chunksizes["time"] == (2, 2, 2)


def test_span_and_step_select_times() -> None:
    raw = layouts.cds_new(steps=9)
    out = standardise(raw, Selection(start="2020-02-28", end="2020-02-28", every="12h"))
    np.testing.assert_array_equal(out["time"], np.array(["2020-02-28T00", "2020-02-28T12"], dtype="datetime64[ns]"))
    np.testing.assert_array_equal(out["temperature"].isel(level=0, time=1), raw["t"].isel(valid_time=6, pressure_level=1))
    month = standardise(layouts.cds_new(steps=12), Selection(end="2020-02"))
    assert str(month["time"].values[-1])[:13] == "2020-02-29T18"


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        ({"start": "2020-01-01"}, r"start=2020-01-01 is before the source begins: it spans 2020-02-27.* to 2020-02-27T18"),
        ({"end": "2021-01-01"}, "end=2021-01-01 is after the source ends"),
        ({"start": "2020-02-27T01", "end": "2020-02-27T02"}, "no time is left: start=2020-02-27T01"),
    ],
)
def test_span_outside_the_source_is_refused(selection: dict[str, str], message: str) -> None:
    with pytest.raises(SourceError, match=message):
        standardise(layouts.cds_new(), Selection(**selection))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        ({"start": "yesterday"}, "start must be a date in UTC such as 2020-01-31"),
        ({"every": "often"}, "every must be a step such as 6h"),
        ({"every": "0h"}, "every must be a step"),
        ({"units": {"tmp": "K"}}, r"units names \['tmp'\]"),
    ],
)
def test_selection_that_makes_no_sense_is_refused(selection: dict[str, Any], message: str) -> None:
    with pytest.raises(SourceError, match=message):
        Selection(**selection)


def test_ensemble_of_one_is_squeezed_and_of_many_needs_a_choice() -> None:
    raw = layouts.cds_new().drop_vars("number")
    assert standardise(raw.expand_dims(number=[0])).sizes.keys() == {"time", "level", "latitude", "longitude"}
    many = xr.concat([raw, raw + 1], dim=xr.DataArray([0, 7], dims="realization", name="realization"), data_vars="all")
    out = standardise(many, Selection(member=7))
    np.testing.assert_array_equal(out["temperature"], standardise(raw + 1)["temperature"])
    for member in (None, 3):
        with pytest.raises(SourceError, match=rf"member={member} is not one of the source's 2 members \[0, 7\]"):
            standardise(many, Selection(member=member))
    with pytest.raises(SourceError, match="member=3 was asked for; the source holds member 0 only"):
        standardise(layouts.cds_new(), Selection(member=3))


def test_initial_time_and_step_become_valid_time() -> None:
    """Accumulated ERA5 fields in GRIB: two forecasts a day, twelve steps each."""
    start, step = layouts.times(2, hours=12), np.arange(1, 4) * np.timedelta64(4, "h").astype("timedelta64[ns]")
    values = np.arange(2 * 3 * 5 * 8, dtype="float32").reshape(2, 3, 5, 8) / 1e5
    raw = xr.Dataset(
        {"tp": (("time", "step", "latitude", "longitude"), values, {"units": "m"})},
        {
            "time": start,
            "step": step,
            "valid_time": (("time", "step"), start[:, None] + step[None]),
            "latitude": np.linspace(90, -90, 5),
            "longitude": np.arange(8) * 45.0,
        },
    )
    out = standardise(raw)
    np.testing.assert_array_equal(out["time"], layouts.times(7, hours=4)[1:])
    np.testing.assert_array_equal(out["total_precipitation"], values.reshape(6, 5, 8))


def test_forecast_steps_without_valid_time_are_refused() -> None:
    raw = layouts.cds_new().rename(valid_time="time").expand_dims(prediction_timedelta=3)
    with pytest.raises(SourceError, match="forecast dimension prediction_timedelta with 3 steps"):
        standardise(raw)


@pytest.mark.parametrize(
    ("name", "lead"),
    [
        ("prediction_timedelta", np.timedelta64(86_400 * 10**9, "ns")),
        ("step", xr.DataArray(1440, attrs={"units": "minutes"})),
        ("lead_time", xr.DataArray(24.0, attrs={"units": "hours"})),
    ],
)
def test_one_lead_of_a_forecast_holds_a_lead_after_its_initial_time(name: str, lead: Any) -> None:
    """What `forecast.isel(prediction_timedelta=4)` leaves: a number beside the fields, and initial times."""
    raw = layouts.cds_new().drop_vars("expver").rename(valid_time="time")
    out = standardise(raw.assign_coords({name: lead}))
    np.testing.assert_array_equal(out["time"], raw["time"].values + np.timedelta64(24, "h"))
    assert f"time is the initial time; {name}, 24 h, added to it" in out.attrs[NOTES]


def test_lead_beside_a_valid_time_is_not_added_again() -> None:
    """CF keeps the valid time in `time`, and says `forecast_period` and the initial time beside it."""
    raw = layouts.cds_new().drop_vars("expver").rename(valid_time="time")
    lead = xr.DataArray(24, attrs={"units": "hours"})
    for beside in ({"forecast_period": lead}, {"step": lead, "forecast_reference_time": raw["time"] - np.timedelta64(24, "h")}):
        np.testing.assert_array_equal(standardise(raw.assign_coords(beside))["time"], raw["time"])
    initial = raw.rename(time="forecast_reference_time").assign_coords(forecast_period=lead)
    np.testing.assert_array_equal(standardise(initial)["time"], raw["time"].values + np.timedelta64(24, "h"))
    moment = initial.isel(forecast_reference_time=0)
    assert standardise(moment)["time"].values[0] == raw["time"].values[0] + np.timedelta64(24, "h")
    named = raw.assign_coords(forecast_period=lead)
    named["time"].attrs["standard_name"] = "forecast_reference_time"
    np.testing.assert_array_equal(standardise(named)["time"], raw["time"].values + np.timedelta64(24, "h"))


def test_lead_beside_valid_times_is_not_added_to_them() -> None:
    lead = xr.DataArray(24, attrs={"units": "hours"})
    raw = layouts.cds_new().assign_coords(step=lead)
    np.testing.assert_array_equal(standardise(raw)["time"], raw["valid_time"])


def test_lead_without_units_cannot_say_when_the_fields_hold() -> None:
    raw = layouts.cds_new().drop_vars("expver").rename(valid_time="time")
    with pytest.raises(SourceError, match="has step 24 with units '1'; a lead time in"):
        standardise(raw.assign_coords(step=24))
    np.testing.assert_array_equal(standardise(raw.assign_coords(step=0))["time"], raw["time"])


def test_times_that_float32_blurs_are_whole_seconds_again() -> None:
    raw = layouts.cds_new()
    blurred = raw["valid_time"].values + np.array([0, 110, -110, 0]) * np.timedelta64(1, "ms")
    out = standardise(raw.assign_coords(valid_time=blurred))
    np.testing.assert_array_equal(out["time"], raw["valid_time"])
    assert "times rounded to whole seconds" in out.attrs[NOTES]
    assert "times rounded to whole seconds" not in standardise(raw).attrs[NOTES]


def test_valid_time_beside_the_time_axis_wins() -> None:
    raw = layouts.cds_new().drop_vars("expver").rename(valid_time="time")
    shifted = raw["time"].values + np.timedelta64(24, "h")
    out = standardise(raw.assign_coords(valid_time=("time", shifted)))
    np.testing.assert_array_equal(out["time"], shifted)


def test_axes_are_known_by_standard_name_too() -> None:
    raw = layouts.cds_new().rename(latitude="rows", longitude="columns")
    raw["rows"].attrs["standard_name"], raw["columns"].attrs["standard_name"] = "latitude", "longitude"
    np.testing.assert_array_equal(standardise(raw)["temperature"], standardise(layouts.cds_new())["temperature"])


def test_valid_time_along_the_initial_time_becomes_the_axis() -> None:
    raw = layouts.cds_new().drop_vars("expver")
    initial = raw.rename(valid_time="forecast_reference_time")
    valid = initial["forecast_reference_time"].values + np.timedelta64(6, "h")
    out = standardise(initial.assign_coords(valid_time=("forecast_reference_time", valid)))
    np.testing.assert_array_equal(out["time"], valid)


def test_single_moment_gets_a_time_axis_and_static_fields_do_not() -> None:
    raw = layouts.weatherbench().isel(time=2)
    out = standardise(raw)
    np.testing.assert_array_equal(out["time"], [raw["time"].values])
    assert out["geopotential"].dims == ("time", "level", "latitude", "longitude")
    assert out["geopotential_at_surface"].dims == ("latitude", "longitude")


def test_file_without_time_needs_to_be_told() -> None:
    raw = layouts.cds_new().isel(valid_time=0).drop_vars("valid_time")
    with pytest.raises(SourceError, match=r"the source has no time: .* time=2020-01-01T00"):
        standardise(raw)
    out = standardise(raw, Selection(time="2020-01-01T06"))
    np.testing.assert_array_equal(out["time"], np.array(["2020-01-01T06"], dtype="datetime64[ns]"))
    static = layouts.weatherbench()[["geopotential_at_surface"]]
    assert "time" not in standardise(static).dims


def test_static_field_repeated_in_time_is_taken_once() -> None:
    raw = layouts.cds_legacy(preliminary=0).isel(expver=0, drop=True).rename(msl="lsm")
    raw["lsm"].attrs["units"] = "(0 - 1)"
    assert standardise(raw)["land_sea_mask"].dims == ("latitude", "longitude")


def test_integer_dates_are_read() -> None:
    raw = (
        layouts.cds_new(steps=3)
        .drop_vars("expver")
        .rename(valid_time="date")
        .assign_coords(date=[20200101, 20200201, 20200301])
    )
    np.testing.assert_array_equal(standardise(raw)["time"], np.array(["2020-01", "2020-02", "2020-03"], dtype="datetime64[ns]"))


def test_time_that_holds_no_dates_is_refused() -> None:
    with pytest.raises(SourceError, match="holds no dates"):
        standardise(layouts.cds_new().assign_coords(valid_time=np.arange(4)))
    noleap = xr.date_range("2020-02-27", periods=4, freq="6h", calendar="360_day", use_cftime=True)
    with pytest.raises(SourceError, match="calendar 360_day"):
        standardise(layouts.cds_new().assign_coords(valid_time=noleap))
    with pytest.raises(SourceError, match="has no time step"):
        standardise(layouts.cds_new().isel(valid_time=slice(0, 0)))


def test_units_are_converted_and_said() -> None:
    raw = layouts.cds_new()
    celsius = raw.assign(t=(raw["t"] - 273.15).assign_attrs(units="C"))
    out = standardise(celsius)
    np.testing.assert_allclose(out["temperature"], standardise(raw)["temperature"], atol=1e-4)  # float32 at 300: 3e-5
    assert any("converted from C to K" in note for note in out.attrs[NOTES])
    assert out["temperature"].attrs["source_units"] == "C"


def test_wrong_units_are_refused_and_can_be_set_right_by_name() -> None:
    raw = layouts.cds_new()
    raw["t"].attrs["units"] = "m s**-1"
    with pytest.raises(
        SourceError, match=r"t in the source has units 'm s\*\*-1', which cannot become 'K'.* units.temperature="
    ):
        standardise(raw)
    out = standardise(raw, Selection(units={"temperature": "K"}))
    assert any("as told by units=" in note for note in out.attrs[NOTES])


def test_missing_units_are_assumed_and_said() -> None:
    raw = layouts.cds_new()
    del raw["t"].attrs["units"]
    assert "temperature says no units; taken to be in K" in standardise(raw).attrs[NOTES]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: raw.drop_vars("latitude"), "has no coordinate latitude"),
        (
            lambda raw: raw.stack(values=("latitude", "longitude")).reset_index("values"),
            "reduced Gaussian or unstructured grid",
        ),
        (lambda raw: raw.assign_coords(latitude=(("latitude", "longitude"), np.zeros((5, 8)))), "curved or projected grid"),
        (lambda raw: raw.assign_coords(latitude=[90, 45, 45, 0, -90]), "a latitude twice"),
        (lambda raw: raw.assign_coords(longitude=[0, 1, 2, 3, 4, 5, 6, 6]), "a longitude twice"),
        (lambda raw: raw.assign_coords(pressure_level=[0.5, 850.0]), "labels levels with whole hPa"),
        (lambda raw: raw.assign_coords(pressure_level=("pressure_level", [1, 2], {"units": "m"})), "levels in 'm'"),
        (lambda raw: raw.rename(t="nonsense"), "no variable that an analysis can hold: nonsense is no variable"),
        (lambda raw: raw.rename(pressure_level="hybrid"), "t lies on hybrid, not on pressure levels"),
        (lambda raw: raw.expand_dims(realm=3), "are too many"),
    ],
)
def test_source_that_cannot_become_an_analysis_says_why(change: Callable[[xr.Dataset], xr.Dataset], message: str) -> None:
    with pytest.raises(SourceError, match=message):
        standardise(change(layouts.cds_new()))


def test_different_levels_cannot_share_one_axis() -> None:
    raw = layouts.cds_new()
    both = raw.assign(z=raw["t"].isel(pressure_level=0).assign_attrs(units="m**2 s**-2"))
    with pytest.raises(
        SourceError, match=r"lie on different levels: geopotential has \[850\]; temperature has \[500, 850\].*levels=\[850\]"
    ):
        standardise(both.assign(z=both["z"].expand_dims(level=[850]).assign_attrs(units="m**2 s**-2")))


@pytest.mark.parametrize("name", ["gh", "geopotential_height", "gh500", "z"])
def test_height_without_units_is_in_metres(name: str) -> None:
    """5500 is a height [m], and a geopotential [m2 s-2] that the audit would let pass."""
    raw = layouts.cds_new().isel(pressure_level=0).rename(t=name)
    raw[name].attrs = {}
    out = standardise(raw.drop_vars("pressure_level") if name == "gh500" else raw)
    factor, units = (1.0, "m2 s-2") if name == "z" else (9.80665, "m")
    np.testing.assert_allclose(out["geopotential"].isel(level=0), raw[name] * factor, rtol=1e-6)
    assert f"geopotential says no units; taken to be in {units}" in out.attrs[NOTES]


def test_second_name_of_the_same_field_is_left_out() -> None:
    raw = layouts.cds_new()
    out = standardise(raw.assign(ta=raw["t"] + 1))
    assert "ta is temperature as well, like t" in out.attrs[LEFT_OUT]
    np.testing.assert_array_equal(out["temperature"], standardise(raw)["temperature"])


def test_float32_degrees_are_rounded_to_what_they_mean() -> None:
    raw = layouts.cds_new().assign_coords(longitude=(np.arange(8) * 0.1).astype("float32"))
    np.testing.assert_array_equal(standardise(raw)["longitude"], np.round(np.arange(8) * 0.1, 5))
