"""Whatever order, direction and spelling a forecast comes in, it is read as the same; what does not fit is refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas
import pytest
import xarray as xr

from data_pipelines.store import StoreError
from data_pipelines.variables import VARIABLES, Channel, channels_of
from forecast.verification.inputs import (
    VerificationError,
    check_same_grid,
    forecast_channels,
    normalise_forecast,
    normalise_truth,
    open_dataset,
    open_forecast,
    open_truth,
    require_channels,
    stack,
    time_step,
    unstack,
)
from tests.helpers.verification import drifting_truth, imperfect_forecast

GOLDEN = Path(__file__).parents[2] / "golden" / "data_pipelines"


@pytest.fixture
def truth() -> xr.Dataset:
    return drifting_truth(steps=30)


@pytest.fixture
def made(truth: xr.Dataset) -> xr.Dataset:
    return imperfect_forecast(truth, 10, 14)


def spell_differently(forecast: xr.Dataset) -> xr.Dataset:
    """As NeuralGCM and GraphCast publish theirs: lon before lat, ascending, -180..180, lead_time, float levels."""
    turned = forecast.isel(latitude=slice(None, None, -1)).roll(longitude=8, roll_coords=True)
    turned = turned.assign_coords(longitude=(turned["longitude"] + 180) % 360 - 180, level=turned["level"].astype(float))
    turned = turned.transpose("longitude", "prediction_timedelta", "level", "latitude", "time")
    return turned.rename(latitude="lat", longitude="lon", prediction_timedelta="lead_time", time="init_time")


def test_every_spelling_reads_as_the_same(made):
    xr.testing.assert_identical(normalise_forecast(spell_differently(made)), normalise_forecast(made))
    assert normalise_forecast(made)["vorticity"].dims == (
        "time", "prediction_timedelta", "level", "latitude", "longitude",
    )  # fmt: skip


@pytest.mark.parametrize(("values", "units"), [([6, 12], "hours"), ([0.25, 0.5], "days"), ([21600, 43200], "seconds")])
def test_numbers_of_hours_or_days_are_lead_times(made, values, units):
    numbers = made.isel(prediction_timedelta=slice(0, 2)).assign_coords(
        prediction_timedelta=("prediction_timedelta", values, {"units": units})
    )
    found = normalise_forecast(numbers)["prediction_timedelta"].values
    np.testing.assert_array_equal(found, np.array([6, 12], dtype="timedelta64[h]"))


def test_lead_times_in_years_are_refused(made):
    odd = made.assign_coords(prediction_timedelta=("prediction_timedelta", np.arange(8), {"units": "years"}))
    with pytest.raises(VerificationError, match="years"):
        normalise_forecast(odd)


def test_names_and_units_of_other_centres_become_the_vocabularys(made, tmp_path):
    pressure = made["mean_sea_level_pressure"]
    theirs = made.assign(mean_sea_level_pressure=(pressure / 100).assign_attrs(units="hPa"))
    theirs = theirs.rename(mean_sea_level_pressure="msl", vorticity="vo")
    theirs["vo"].attrs["units"] = "s**-1"
    theirs.to_zarr(tmp_path / "theirs.zarr")
    for dataset in (theirs, open_dataset(tmp_path / "theirs.zarr"), theirs.chunk()):
        found = normalise_forecast(dataset)
        assert set(found.data_vars) == {"mean_sea_level_pressure", "vorticity"}
        assert found["mean_sea_level_pressure"].attrs["units"] == "Pa"
        assert dataset["msl"].variable._in_memory or not found["mean_sea_level_pressure"].variable._in_memory
        np.testing.assert_allclose(found["mean_sea_level_pressure"], pressure, rtol=2e-7)
        np.testing.assert_array_equal(found["vorticity"], made["vorticity"])
    analysis = found.isel(prediction_timedelta=0, drop=True)
    assert [str(channel) for channel in forecast_channels(found, analysis, ["msl"])] == ["mean_sea_level_pressure"]


def test_units_that_mean_something_else_and_two_names_of_one_variable_are_refused(made):
    kelvin = made.assign(mean_sea_level_pressure=made["mean_sea_level_pressure"].assign_attrs(units="K"))
    with pytest.raises(VerificationError, match="mean_sea_level_pressure has units 'K', which cannot become 'Pa'"):
        normalise_forecast(kelvin)
    pressure = made[["mean_sea_level_pressure"]].rename(mean_sea_level_pressure="msl")
    aliases = pressure.assign(prmsl=pressure["msl"])
    for twice in (made.assign(msl=made["mean_sea_level_pressure"]), made.rename(vorticity="msl"), aliases):
        with pytest.raises(VerificationError, match="several names for mean_sea_level_pressure"):
            normalise_forecast(twice)


def test_what_lies_beside_the_dimensions_names_none_of_them(made):
    valid = made["time"] + made["prediction_timedelta"]
    as_cfgrib = made.assign_coords(valid_time=valid, surface=0.0, number=0)
    as_others = made.rename(time="init_time", prediction_timedelta="lead_time").assign_coords(
        time=valid.rename(time="init_time", prediction_timedelta="lead_time"),
        step=("lead_time", np.arange(8)),
    )
    wanted = normalise_forecast(made)
    for dataset in (as_cfgrib, as_others):
        found = normalise_forecast(dataset)
        xr.testing.assert_equal(found[list(wanted.data_vars)].reset_coords(drop=True), wanted)


def test_one_time_and_one_level_may_be_scalars(made):
    one = made.isel(time=0, level=0).rename(level="isobaricInhPa")
    xr.testing.assert_identical(normalise_forecast(one), normalise_forecast(made.isel(time=[0], level=[0])))


def test_wrong_forecasts_are_refused(made):
    with pytest.raises(VerificationError, match=r"no dimension with coordinate \['prediction_timedelta'\]"):
        normalise_forecast(made.isel(prediction_timedelta=0, drop=True))
    with pytest.raises(VerificationError, match="time holds 2026-01-03T12:00 twice"):
        normalise_forecast(made.isel(time=[0, 0, 1]))
    with pytest.raises(VerificationError, match=r"time must hold dates \(datetime64\); got <U1, a, b"):
        normalise_forecast(made.isel(time=[0, 1]).assign_coords(time=["a", "b"]))
    plane = made.isel(latitude=0, drop=True).rename(longitude="x").expand_dims(y=2)
    curved = plane.assign_coords(latitude=(("y", "x"), np.zeros((2, 16))), longitude=("x", np.arange(16)))
    with pytest.raises(VerificationError, match=r"latitude has the dimensions \('y', 'x'\): a curved or projected grid"):
        normalise_forecast(curved)
    with pytest.raises(VerificationError, match="one meridian twice"):
        normalise_forecast(made.assign_coords(longitude=np.linspace(0, 360, 16)))
    with pytest.raises(VerificationError, match="several names for one dimension"):
        normalise_forecast(made.rename(time="init_time").expand_dims(forecast_reference_time=1))


def test_wrong_truth_is_refused(truth):
    with pytest.raises(VerificationError, match="time must hold at least 2 analyses"):
        normalise_truth(truth.isel(time=[1]))
    with pytest.raises(VerificationError, match="time holds 2026-01-01T06:00 twice"):
        normalise_truth(truth.isel(time=[0, 1, 1]))
    with pytest.raises(VerificationError, match="no dimension"):
        normalise_truth(truth.isel(latitude=0))


def test_missing_variables_and_levels_are_named(truth, made):
    with pytest.raises(VerificationError, match=r"truth lacks \['vorticity_850'\]"):
        forecast_channels(made, truth.drop_vars("vorticity"))
    with pytest.raises(VerificationError, match=r"truth lacks \['vorticity_850'\]"):
        forecast_channels(made, truth.assign_coords(level=[500]))
    with pytest.raises(VerificationError, match=r"score what both have: variables=\[mean_sea_level_pressure\]"):
        forecast_channels(made, truth.drop_vars("vorticity"))
    with pytest.raises(VerificationError, match=r"\['geopotential'\] are missing in the forecast, which .*'vorticity_850'"):
        forecast_channels(made, truth, ["geopotential"])
    with pytest.raises(VerificationError, match=r"rival lacks \['vorticity_850'\]; it has .* on levels \[500\]"):
        require_channels(made.assign_coords(level=[500]), [Channel("vorticity", 850)], "rival")
    with pytest.raises(VerificationError, match="no variable with a lead time"):
        forecast_channels(made[[]], truth)


def test_channels_that_were_not_forecast_are_left_out(truth, made):
    made.attrs["channels"] = ["vorticity_850"]
    assert forecast_channels(made, truth) == (Channel("vorticity", 850),)


def test_channels_are_chosen_by_any_name_that_means_them(truth, made):
    two = [data.isel(level=[0, 0]).assign_coords(level=[500, 850]) for data in (made, truth)]
    for asked in ("vorticity_500", "vo500", "vo_500"):
        assert forecast_channels(*two, [asked]) == (Channel("vorticity", 500),)
    both = (Channel("vorticity", 500), Channel("vorticity", 850))
    assert forecast_channels(*two, ["vo"]) == forecast_channels(*two, ["vorticity_500", "vorticity"]) == both
    assert forecast_channels(two[0], truth, ["vorticity_850"]) == both[1:], "levels that truth lacks can be left out"


def test_levels_in_pascals_and_under_other_names_are_read(made):
    two = made.isel(level=[0, 0]).assign_coords(level=[850, 500])
    wanted = normalise_forecast(two)
    np.testing.assert_array_equal(wanted["level"], [500, 850])
    for name, units in (("plev", {}), ("isobaricInPa", {}), ("pressure", {"units": "Pa"}), ("isobaricInhPa", {"units": "Pa"})):
        pascals = two.rename(level=name).assign_coords({name: (name, [85000.0, 50000.0], units)})
        xr.testing.assert_equal(normalise_forecast(pascals), wanted)
    high = two.rename(level="plev").assign_coords(plev=[1000.0, 100.0])
    np.testing.assert_array_equal(normalise_forecast(high)["level"], [1, 10])
    for values, units in (([85, 50], "m"), ([850.4, 850.2], "hPa"), ([850, 850], "hPa")):
        with pytest.raises(VerificationError, match="level must hold pressures in whole hPa"):
            normalise_forecast(two.assign_coords(level=("level", values, {"units": units})))


def test_fields_with_their_level_in_the_name_are_stacked(made, tmp_path):
    two = made.isel(level=[0, 0]).assign_coords(level=[500, 850])
    two["vorticity"] = two["vorticity"] * xr.DataArray([1.0, 2.0], dims="level").astype(np.float32)
    wanted = normalise_forecast(two)
    flat = two.drop_vars("vorticity").drop_vars("level")
    flat = flat.assign(
        vo500=two["vorticity"].sel(level=500, drop=True), vorticity_850=two["vorticity"].sel(level=850, drop=True)
    )
    mixed = two.sel(level=[850]).assign(vo500=two["vorticity"].sel(level=500, drop=True))
    flat.to_netcdf(tmp_path / "flat.nc")
    for dataset in (flat, mixed, xr.open_dataset(tmp_path / "flat.nc", decode_timedelta=True)):
        found = normalise_forecast(dataset)
        xr.testing.assert_allclose(found[list(wanted.data_vars)], wanted)
    assert found["vorticity"].chunks is not None, "nothing is read to put a dimension in front"
    with pytest.raises(VerificationError, match="several names for vorticity, vo850 among them"):
        normalise_forecast(two.assign(vo850=two["vorticity"].sel(level=850, drop=True)))


def test_any_order_of_times_and_leads_is_read_as_the_same(made):
    shuffled = made.isel(time=[2, 0, 3, 1], prediction_timedelta=slice(None, None, -1))
    xr.testing.assert_identical(normalise_forecast(shuffled), normalise_forecast(made))


def test_lead_times_without_units_are_refused(made):
    bare = made.assign_coords(prediction_timedelta=[0.25 * k for k in range(8)])
    with pytest.raises(VerificationError, match=r"got '' with 0.0, 0.25, ..., 1.75. Say them: .*'hours'"):
        normalise_forecast(bare)


def test_files_with_a_scalar_time_joined_along_a_new_dimension(made):
    joined = xr.concat([made.isel(time=k) for k in range(4)], "init_time", coords="different", compat="equals")
    assert joined["time"].dims == ("init_time",)
    xr.testing.assert_equal(normalise_forecast(joined), normalise_forecast(made))


def test_valid_times_that_contradict_are_refused(made):
    valid = made["time"] + made["prediction_timedelta"]
    with pytest.raises(VerificationError, match="valid_time is not initial time plus lead time, but 12.0 h later"):
        normalise_forecast(made.assign_coords(valid_time=valid + np.timedelta64(12, "h")))
    with pytest.raises(VerificationError, match=r"but 6.0, -0.0 h later"):
        normalise_forecast(made.assign_coords(valid_time=valid.where(valid > valid[0, 0], valid + np.timedelta64(6, "h"))))
    numbers = made.assign_coords(valid_time=("time", np.arange(4)))  # dates that nobody decoded say nothing
    assert "valid_time" in normalise_forecast(numbers).coords


def test_unknown_dimensions_are_asked_to_be_renamed(made):
    strange = made.rename(time="run", latitude="row")
    with pytest.raises(VerificationError, match=r"initial time \(time, init_time, .*ds.rename\({'run': 'time'}\)"):
        normalise_forecast(strange)


def test_other_dimensions_of_fields_are_refused_and_those_of_length_one_are_dropped(truth, made):
    members = xr.concat([made, made + 1, made - 1], "perturbation")
    whole = normalise_truth(truth)
    with pytest.raises(VerificationError, match=r"has the dimension 'perturbation' of 3.*rename\({'perturbation': 'number'}\)"):
        forecast_channels(normalise_forecast(members), whole)
    for dim in ("perturbation", "prediction_timedelta"):
        with pytest.raises(VerificationError, match=f"truth: .* has the dimension '{dim}' of 3"):
            forecast_channels(normalise_forecast(made), normalise_truth(xr.concat([truth] * 3, dim)))
    with pytest.raises(VerificationError, match="rival: .* has the dimension 'perturbation'"):
        require_channels(normalise_forecast(members), channels_of(whole), "rival")
    assert normalise_forecast(members.rename(perturbation="ensemble_member")).sizes["number"] == 3
    soil = truth.assign(soil=truth["mean_sea_level_pressure"].expand_dims(depth=4))
    assert len(forecast_channels(normalise_forecast(made), normalise_truth(soil))) == 2, "nobody scores it"
    high = made.expand_dims(height=[2.0]).assign(bounds=(("time", "edges"), np.zeros((4, 2))))
    xr.testing.assert_identical(normalise_forecast(high).drop_vars("bounds"), normalise_forecast(made))


def test_lead_times_along_valid_times_are_the_dimension(made):
    """As of one run, whose files carry the dates for which they hold."""
    one = made.isel(time=[0])
    valid = (one["time"] + one["prediction_timedelta"]).squeeze("time", drop=True)
    run = one.squeeze("time").assign_coords(valid_time=valid).rename(prediction_timedelta="step").swap_dims(step="valid_time")
    assert set(run.dims) >= {"valid_time"}
    xr.testing.assert_equal(normalise_forecast(run), normalise_forecast(one))
    beside = made.assign_coords(pressure=("z", [1000.5, 2.25]), sample=("y", [1, 1])).assign(profile=("z", [0.0, 1.0]))
    found = normalise_forecast(beside)
    xr.testing.assert_equal(found["vorticity"].reset_coords(drop=True), normalise_forecast(made)["vorticity"])


def test_points_in_a_list_are_no_grid(made):
    stations = made.isel(latitude=xr.DataArray([0, 1], dims="station"), longitude=xr.DataArray([2, 3], dims="station"))
    with pytest.raises(VerificationError, match=r"no dimension with coordinate \['latitude', 'longitude'\]"):
        normalise_forecast(stations)


@pytest.mark.parametrize("units", ["hr", "hrs", "Hours", "h", "hours since the initial time"])
def test_hours_are_read_in_any_spelling(made, units):
    hours = made.assign_coords(prediction_timedelta=("prediction_timedelta", np.arange(1, 9) * 6, {"units": units}))
    xr.testing.assert_equal(normalise_forecast(hours), normalise_forecast(made))


@pytest.mark.parametrize(
    ("values", "how"),
    [
        (np.arange(2026010400, 2026010404), "format='%Y%m%d%H'"),
        (np.array(["20260104", "20260105", "20260106", "20260107"]), "format='%Y%m%d'"),
        (np.arange(1104504.0, 1104508.0), "decode_cf.*hours since"),
        (np.arange(2026010400.0, 2026010404.0), "astype\\(int\\).astype\\(str\\), format='%Y%m%d%H'"),
        (np.arange(1767225600, 1767225604), "decode_cf.*hours since"),
        (xr.date_range("2026-01-04", periods=4, calendar="360_day", use_cftime=True).values, "not those of truth"),
        (xr.date_range("2026-01-04", periods=4, calendar="noleap", use_cftime=True).values, "convert_calendar.*noleap"),
    ],
)
def test_advice_on_dates_is_of_what_came_and_works(made, values, how):
    with pytest.raises(VerificationError, match=f"time must hold dates.*{how}"):
        normalise_forecast(made.assign_coords(time=values))
    if "format" in how:
        numbers = made.assign_coords(time=values).time
        numbers = numbers.astype(int) if values.dtype.kind == "f" else numbers
        assert pandas.to_datetime(numbers.astype(str), format=how.split("'")[1])[0] == pandas.Timestamp("2026-01-04")


def test_members_of_the_same_label_are_refused(made):
    with pytest.raises(VerificationError, match="number holds 0 twice"):
        normalise_forecast(xr.concat([made, made, made], xr.DataArray([0, 0, 1], dims="number")))


def test_what_is_no_dataset_and_a_name_alone_are_refused(truth, made):
    with pytest.raises(VerificationError, match="truth must be an xarray.Dataset; got DataArray. Give truth.to_dataset"):
        normalise_truth(truth["vorticity"])
    with pytest.raises(VerificationError, match=r"variables must be a list of names, as \['msl'\]; got a string"):
        forecast_channels(normalise_forecast(made), normalise_truth(truth), "msl")


def test_unknown_names_and_rain_over_other_hours_are_told_what_to_do(truth, made):
    pressure = made["mean_sea_level_pressure"]
    truth = normalise_truth(truth.assign(total_precipitation_6hr=truth["mean_sea_level_pressure"].drop_attrs() * 0))
    theirs = normalise_forecast(made.assign(APCP=pressure))
    advice = r"APCP is no name .* ds.rename\({'APCP': ...}\), or score what both have: variables=\["
    with pytest.raises(VerificationError, match=advice):
        forecast_channels(theirs, truth)
    rain = normalise_forecast(made.assign(tp=pressure.drop_attrs() * 0))
    with pytest.raises(VerificationError, match="total_precipitation and total_precipitation_6hr are sums over other hours"):
        forecast_channels(rain, truth)
    both = normalise_forecast(made.assign(tp6=pressure.drop_attrs() * 0, tp24=pressure.drop_attrs() * 0))
    with pytest.raises(VerificationError, match=r"Build a truth that has them, or score what both have: .*_6hr"):
        forecast_channels(both, truth)
    heights = made[["vorticity"]].rename(vorticity="zg").drop_attrs()
    found = normalise_forecast(heights)["geopotential"]
    np.testing.assert_allclose(found, normalise_forecast(made)["vorticity"] * 9.80665, rtol=1e-6)


def test_files_of_one_member_each_are_one_ensemble(made, tmp_path):
    for member in range(3):
        (made + member).assign_coords(realization=member).to_netcdf(tmp_path / f"{member}.nc")
    found = open_forecast(tmp_path / "*.nc")
    wanted = normalise_forecast(xr.concat([made + member for member in range(3)], xr.DataArray(range(3), dims="number")))
    xr.testing.assert_equal(found, wanted)
    made.assign_coords(number=9).to_netcdf(tmp_path / "x_control.nc")
    found.rename(number="realization").drop_encoding().to_netcdf(tmp_path / "x_perturbed.nc")
    assert open_forecast(tmp_path / "x_*.nc")["number"].values.tolist() == [0, 1, 2, 9]
    for place in range(4):
        made.isel(time=[place]).assign_coords(realization=0).to_netcdf(tmp_path / f"control_{place}.nc")
    assert "number" not in open_forecast(tmp_path / "control_*.nc").dims, "one label for all says no member"


def test_files_of_a_folder_or_glob_are_one_forecast(truth, made, tmp_path):
    (tmp_path / "centre").mkdir()
    for k in range(4):
        one = made.isel(time=k).rename(mean_sea_level_pressure="msl", vorticity="vo")
        one[["msl"]].to_netcdf(tmp_path / "centre" / f"surface_{9 - k}.nc")
        one[["vo"]].to_netcdf(tmp_path / "centre" / f"levels_{k}.nc")
    wanted = normalise_forecast(made)
    for path in (tmp_path / "centre", tmp_path / "centre" / "*.nc"):
        found = open_forecast(path)
        xr.testing.assert_equal(found[list(wanted.data_vars)], wanted)
        assert found["vorticity"].chunks is not None
    for part in range(3):
        truth.isel(time=slice(part * 10, part * 10 + 10)).to_netcdf(tmp_path / f"truth_{part}.nc")
    opened = open_truth(tmp_path / "truth_*.nc")
    xr.testing.assert_equal(opened, normalise_truth(truth))
    assert opened["vorticity"].chunks is not None, "lazy"
    (tmp_path / "centre" / "levels_3.nc").rename(tmp_path / "levels_3.nc")
    with pytest.raises(VerificationError, match="the 7 files .* do not make one whole"):
        open_forecast(tmp_path / "centre")
    (tmp_path / "levels_3.nc").rename(tmp_path / "centre" / "levels_3.nc")
    (made.isel(time=[0]) + 1).to_netcdf(tmp_path / "centre" / "levels_4.nc")
    with pytest.raises(VerificationError, match="the 9 files .* do not make one whole"):
        open_forecast(tmp_path / "centre")


def test_grib_is_read_too(tmp_path):
    pytest.importorskip("cfgrib", reason="the extra `grib` is not installed", exc_type=ImportError)
    (tmp_path / "centre").mkdir()
    (tmp_path / "centre" / "uk.grib").symlink_to(GOLDEN / "era5_uk_hourly.grib")
    found = open_truth(tmp_path / "centre")
    xr.testing.assert_equal(found, open_truth(GOLDEN / "era5_uk_hourly.grib"))
    assert set(found.data_vars) <= set(VARIABLES)
    assert found["latitude"].values[0] > found["latitude"].values[-1]


def test_another_grid_is_refused(truth, made):
    with pytest.raises(VerificationError, match="different grids: latitude"):
        check_same_grid(made.assign_coords(latitude=made["latitude"] * 0.99), truth, "forecast")
    with pytest.raises(VerificationError, match="different grids: longitude"):
        check_same_grid(made.isel(longitude=slice(0, 8)), truth, "forecast")
    check_same_grid(made.assign_coords(latitude=made["latitude"] + 5e-4), truth, "forecast")


def test_stores_and_files_open_alike(truth, made, tmp_path):
    made.to_zarr(tmp_path / "forecast.zarr", zarr_format=3, consolidated=False)  # anybody's store may lack them
    made.to_netcdf(tmp_path / "forecast.nc")
    xr.testing.assert_equal(open_forecast(tmp_path / "forecast.zarr"), open_forecast(tmp_path / "forecast.nc"))
    truth.to_netcdf(tmp_path / "truth.nc")
    assert time_step(open_truth(tmp_path / "truth.nc")) == np.timedelta64(6, "h")


def test_unfinished_forecasts_are_left_out(made, tmp_path):
    marked = made.assign_coords(complete=("time", np.array([1, 0, 1, 1], dtype=np.int8)))
    marked.to_zarr(tmp_path / "forecast.zarr", zarr_format=3)
    np.testing.assert_array_equal(open_forecast(tmp_path / "forecast.zarr")["time"], made["time"][[0, 2, 3]])
    none = made.assign_coords(complete=("time", np.zeros(4, dtype=np.int8)))
    none.to_netcdf(tmp_path / "none.nc")
    with pytest.raises(StoreError, match="no forecast in .* is complete"):
        open_forecast(tmp_path / "none.nc")


def test_what_is_not_there_or_no_store_is_refused(tmp_path):
    with pytest.raises(VerificationError, match="does not exist"):
        open_dataset(tmp_path / "nothing.zarr")
    with pytest.raises(VerificationError, match=r"nothing\*.nc matches no file"):
        open_dataset(tmp_path / "nothing*.nc")
    (tmp_path / "text.nc").write_text("no data")
    with pytest.raises(VerificationError, match="cannot be opened"):
        open_dataset(tmp_path / "text.nc")


def test_a_corrupt_chunk_is_named(truth, tmp_path):
    path = tmp_path / "truth.zarr"
    truth.chunk(time=10).to_zarr(path, zarr_format=3)
    chunk = path / "mean_sea_level_pressure" / "c" / "1" / "0" / "0"
    chunk.write_bytes(chunk.read_bytes()[:20])
    opened = open_truth(path)
    with pytest.raises(StoreError, match="mean_sea_level_pressure at 2026-01-03T12"):
        stack(opened, channels_of(opened))


def test_stack_and_unstack_undo_each_other(truth):
    two = xr.concat(
        [truth, truth.assign_coords(level=[500]) + 1],
        dim="level",
        data_vars="minimal",
        coords="minimal",
        join="outer",
        compat="override",
    )
    channels = channels_of(two)
    assert len(channels) == 3
    fields = stack(two, channels)
    assert fields.shape == (30, 3, 9, 16)
    back = unstack(fields, channels, ("time", "channel", "latitude", "longitude"), dict(two.drop_vars("level").coords))
    xr.testing.assert_equal(back, two[list(back.data_vars)])
