"""The accessor against plain NumPy and the command's own code; chunks, conventions, missing values, significance."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from data_pipelines.area import cell_area_weights
from forecast.verification import Conventions
from forecast.verification.config import VerifyConfig
from forecast.verification.evaluation import evaluate
from forecast.verification.inputs import VerificationError
from forecast.verification.metrics import METRICS
from forecast.verification.plausible import VerificationWarning
from tests.helpers.verification import drifting_truth, imperfect_forecast

NAME = "mean_sea_level_pressure"


@pytest.fixture(scope="module")
def truth():
    made = drifting_truth(steps=120)
    land = np.random.default_rng(5).random((9, 16)) * (np.random.default_rng(6).random((9, 16)) > 0.4)
    return made.assign(land_sea_mask=(("latitude", "longitude"), land))


@pytest.fixture(scope="module")
def forecast(truth):
    return imperfect_forecast(truth[[NAME, "vorticity"]], 60, 118)


@pytest.fixture(scope="module")
def climatology(truth):
    return truth[[NAME, "vorticity"]].isel(time=slice(0, 40)).groupby("time.hour").mean("time")


def own_rmse(forecast, truth, weights):
    """RMSE of pressure by lead time, from loops."""
    result = []
    for lead in forecast["prediction_timedelta"].values:
        errors = []
        for time in forecast["time"].values:
            if time + lead in truth["time"].values:
                error = forecast[NAME].sel(time=time, prediction_timedelta=lead) - truth[NAME].sel(time=time + lead)
                square = error.astype(np.float64).transpose("latitude", "longitude").values ** 2
                errors.append((square * weights[:, None]).sum() / (weights.sum() * square.shape[1]))
        result.append(np.sqrt(np.mean(errors)))
    return np.asarray(result)


@pytest.mark.parametrize("weights", ["cell", "cos", "none"])
def test_rmse_equals_loops_for_all_weights(forecast, truth, weights):
    latitude = truth["latitude"].values
    rows = {"cell": cell_area_weights(latitude), "cos": np.cos(np.deg2rad(latitude)).clip(0), "none": np.ones(9)}[weights]
    found = forecast.skill.rmse(truth, Conventions(weights=weights))
    np.testing.assert_allclose(found[NAME].sel(region="global"), own_rmse(forecast, truth, rows), rtol=1e-12)
    assert found.attrs["weights_convention"].startswith(weights)


def test_the_command_and_the_accessor_give_the_same_scores(tmp_path, forecast, truth, climatology):
    """One definition: all scores over all regions, from stores and from memory."""
    truth.to_zarr(tmp_path / "t.zarr", zarr_format=3)
    forecast.to_zarr(tmp_path / "f.zarr", zarr_format=3)
    climatology.to_zarr(tmp_path / "c.zarr", zarr_format=3)
    regions = ["global", "tropics", "europe", "global_land"]
    stores = [str(tmp_path / name) for name in ("f.zarr", "t.zarr", "out")]
    settings = {"baselines": ["climatology"], "regions": regions, "progress": False, "spectrum_leads": [6, 12]}
    config = VerifyConfig(*stores, climatology=str(tmp_path / "c.zarr"), score_training_span=True, **settings)
    command = evaluate(config)
    found = forecast.skill.score(truth, climatology=climatology, interval=None, options=Conventions(regions=regions))
    for name in (NAME, "vorticity"):
        theirs = command.scores[name].sel(forecast="forecast")
        ours = found[name].sel(metric=theirs["metric"]).transpose(*theirs.dims)
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)
    spectra = forecast.skill.spectra(truth)[NAME].isel(prediction_timedelta=[0, 1])
    both = command.spectra[NAME].sel(forecast=["forecast", "truth"])
    np.testing.assert_allclose(spectra, both, rtol=1e-12)


def test_any_order_direction_and_spelling_give_the_same(forecast, truth, climatology):
    turned = forecast.isel(latitude=slice(None, None, -1)).transpose("longitude", "latitude", ...)
    turned = turned.rename(time="init_time", prediction_timedelta="lead_time", latitude="lat", longitude="lon")
    hours = turned["lead_time"].values / np.timedelta64(1, "h")
    turned = turned.assign_coords(lead_time=("lead_time", hours, {"units": "hours"})).isel(lead_time=slice(None, None, -1))
    turned = turned.isel(init_time=slice(None, None, -1))
    straight = forecast.skill.score(truth, ["rmse", "acc"], climatology=climatology, interval=None)
    other = turned.skill.score(
        truth.isel(latitude=slice(None, None, -1)), ["rmse", "acc"], climatology=climatology.transpose(), interval=None
    )
    xr.testing.assert_allclose(straight, other, rtol=1e-12)


def test_other_names_and_units_give_the_same_and_units_that_nobody_says_are_refused(forecast, truth):
    theirs = (forecast[[NAME]] / 100).rename({NAME: "msl"})
    wanted = forecast[[NAME]].skill.rmse(truth)
    found = theirs.assign(msl=theirs["msl"].assign_attrs(units="hPa")).skill.rmse(truth)
    xr.testing.assert_allclose(found, wanted, rtol=1e-4)
    theirs["msl"].attrs.clear()
    with pytest.raises(VerificationError, match=r"forecast: mean_sea_level_pressure is about 1\d+; wanted 85000 to 110000 Pa"):
        theirs.skill.rmse(truth)


def test_chunks_of_dask_and_small_blocks_change_nothing(forecast, truth, climatology):
    options = Conventions(regions=["global", "tropics"])
    tiny = Conventions(regions=["global", "tropics"], memory_limit=4 * 2 * 9 * 16 * 3)
    whole = forecast.skill.score(truth, climatology=climatology, interval=None, options=options)
    chunked = forecast.chunk({"time": 7, "prediction_timedelta": 3})
    blocked = chunked.skill.score(truth.chunk({"time": 11}), climatology=climatology, interval=None, options=tiny)
    xr.testing.assert_allclose(whole, blocked, rtol=1e-11)


def test_statistics_of_parts_combine_to_those_of_the_whole(forecast, truth, climatology):
    """Also where a score is no mean: RMSE, pooled correlation; in any order."""
    whole = forecast.skill.statistics(truth, climatology=climatology)
    parts = [
        forecast.isel(time=part).skill.statistics(truth, climatology=climatology) for part in (slice(30, None), slice(0, 30))
    ]
    joined = parts[0].combine(parts[1])
    names = ["rmse", "acc_pooled", "acc", "mse_skill"]
    xr.testing.assert_allclose(joined.scores(names), whole.scores(names), rtol=1e-12)
    np.testing.assert_array_equal(joined.times, whole.times)
    sums = [
        forecast.isel(time=part).skill.statistics(truth, climatology=climatology, by_time=False)
        for part in (slice(0, 30), slice(30, None))
    ]
    for name, values in sums[0].combine(sums[1]).scores(names).items():
        np.testing.assert_allclose(values, whole.scores(names)[name], rtol=1e-12)


def test_parts_that_do_not_match_are_refused(forecast, truth):
    found = forecast.skill.statistics(truth, ["rmse"])
    with pytest.raises(VerificationError, match="count twice"):
        found.combine(found)
    with pytest.raises(VerificationError, match="differ in lead times"):
        found.combine(forecast.isel(time=slice(0, 3)).skill.statistics(truth, ["rmse"], options=Conventions(weights="cos")))
    with pytest.raises(VerificationError, match="not worked out"):
        found.scores(["mae"])


def holed(forecast):
    """One point, one whole field and all of a lead time missing."""
    result = forecast.copy(deep=True)
    result[NAME][3, 0, 2, 5] = np.nan
    result[NAME][5, 1] = np.nan
    result[NAME][:, 2] = np.nan
    return result


def test_missing_values_follow_the_convention(forecast, truth):
    spoilt = holed(forecast)
    rmse = {
        missing: spoilt.skill.rmse(truth, Conventions(missing=missing))[NAME].sel(region="global").values
        for missing in ("skip_fields", "skip_points", "propagate")
    }
    whole = forecast.skill.rmse(truth)[NAME].sel(region="global").values
    with pytest.raises(VerificationError, match="holds NaN in mean_sea_level_pressure at initial time"):
        spoilt.skill.rmse(truth)
    for values in rmse.values():
        assert np.isnan(values[2])
        np.testing.assert_allclose(values[3:], whole[3:], rtol=1e-12)
    assert np.isnan(rmse["propagate"][:3]).all()
    without = forecast.drop_isel(time=[3]).skill.rmse(truth)[NAME].sel(region="global").values
    np.testing.assert_allclose(rmse["skip_fields"][0], without[0], rtol=1e-12)
    assert rmse["skip_points"][0] != pytest.approx(without[0], rel=1e-9)
    without = forecast.drop_isel(time=[5]).skill.rmse(truth)[NAME].sel(region="global").values
    np.testing.assert_allclose(rmse["skip_points"][1], without[1], rtol=1e-12)


def test_pooling_says_whether_a_time_with_fewer_points_counts_less(forecast, truth):
    """MSE of two times, one of them with half of its rows: mean of means, or one mean."""
    two = forecast.isel(time=[0, 1], prediction_timedelta=[0], latitude=slice(0, 8))
    cut = truth.isel(latitude=slice(0, 8))
    two = two.copy(deep=True)
    two[NAME][1, 0, :4] = np.nan
    square = {}
    for time in (0, 1):
        valid = two["time"].values[time] + two["prediction_timedelta"].values[0]
        square[time] = (two[NAME][time, 0].astype(np.float64) - cut[NAME].sel(time=valid)).values ** 2
    by_field, by_point = (
        float(two.skill.rmse(cut, Conventions(missing="skip_points", weights="none", pooling=pooling))[NAME].item()) ** 2
        for pooling in ("fields", "points")
    )
    assert by_field == pytest.approx((square[0].mean() + np.nanmean(square[1])) / 2, rel=1e-10)
    assert by_point == pytest.approx(np.nanmean(np.stack([square[0], square[1]])), rel=1e-10)
    assert by_field != pytest.approx(by_point, rel=1e-6)


def test_land_is_a_fraction_or_any(forecast, truth):
    lands = {
        land: forecast.skill.rmse(truth, Conventions(regions=["global_land"], land=land))[NAME] for land in ("fraction", "any")
    }
    area = cell_area_weights(truth["latitude"].values)[:, None]
    for land, mask in (("fraction", truth["land_sea_mask"].values), ("any", truth["land_sea_mask"].values > 0)):
        first = forecast.isel(time=slice(0, 1), prediction_timedelta=slice(0, 1))
        found = first.skill.rmse(truth, Conventions(regions=["global_land"], land=land))[NAME]
        valid = first["time"].values[0] + first["prediction_timedelta"].values[0]
        square = (first[NAME][0, 0].astype(np.float64) - truth[NAME].sel(time=valid)).values ** 2
        assert float(found.squeeze()) == pytest.approx(np.sqrt((square * area * mask).sum() / (area * mask).sum()), rel=1e-12)
    assert not np.allclose(lands["fraction"], lands["any"])


def test_a_regional_forecast_scores_as_the_region_of_a_global_one(forecast, truth):
    """Rows of a region keep their areas: its southern row is no cap that reaches to the other pole."""
    north = [dataset.sel(latitude=slice(90, 20)) for dataset in (forecast, truth)]
    whole = forecast.skill.rmse(truth, Conventions(regions=["northern-hemisphere"]))
    np.testing.assert_allclose(north[0].skill.rmse(north[1])[NAME][0], whole[NAME][0], rtol=1e-12)


def test_maps_are_scores_over_time_at_each_point(forecast, truth, climatology):
    maps = forecast.skill.maps(truth, ["rmse", "bias", "acc_pooled"], climatology=climatology)
    assert maps[NAME].dims == ("metric", "latitude", "longitude", "prediction_timedelta")
    lead = forecast["prediction_timedelta"].values[1]
    times = [time for time in forecast["time"].values if time + lead in truth["time"].values]
    f = forecast[NAME].sel(time=times, prediction_timedelta=lead).values.astype(np.float64)
    o = truth[NAME].sel(time=[time + lead for time in times]).values
    at = maps[NAME].sel(prediction_timedelta=lead)
    np.testing.assert_allclose(at.sel(metric="rmse"), np.sqrt(((f - o) ** 2).mean(axis=0)), rtol=1e-12)
    np.testing.assert_allclose(at.sel(metric="bias"), (f - o).mean(axis=0), rtol=1e-9, atol=1e-9)
    hours = [int(xr.DataArray(time + lead).dt.hour) for time in times]
    mean = climatology[NAME].sel(hour=hours).values
    fa, oa = f - mean, o.astype(np.float64) - mean
    correlation = (fa * oa).mean(0) / np.sqrt((fa**2).mean(0) * (oa**2).mean(0))
    np.testing.assert_allclose(at.sel(metric="acc_pooled"), correlation, rtol=1e-7)
    with pytest.raises(VerificationError, match="no value at a point"):
        forecast.skill.maps(truth, ["acc"], climatology=climatology)


def test_named_correlations_are_three(forecast, truth, climatology):
    every = forecast.skill.score(truth, ["acc", "acc_pooled", "acc_centred"], climatology=climatology, interval=None)[NAME]
    for convention, metric in (("wb2", "acc"), ("wbx", "acc_pooled"), ("centred", "acc_centred")):
        found = forecast.skill.acc(truth, climatology, convention)
        np.testing.assert_allclose(found[NAME], every.sel(metric=metric), rtol=1e-14)
        assert found.attrs["acc_convention"] == convention
    with pytest.raises(VerificationError, match="convention must be one of wb2, wbx, centred"):
        forecast.skill.acc(truth, climatology, "other")


def test_groups_of_times_are_scored_apart(forecast, truth):
    by_hour = forecast.skill.score(truth, ["rmse"], by="hour", interval=None)
    assert by_hour["group"].values.tolist() == [0, 6, 12, 18]
    only = forecast.isel(time=forecast["time"].dt.hour.values == 12).skill.rmse(truth)
    np.testing.assert_allclose(by_hour[NAME].sel(group=12, metric="rmse"), only[NAME], rtol=1e-12)
    labels = xr.DataArray(np.arange(58) % 2, coords={"time": forecast["time"]}, dims="time")
    regimes = forecast.skill.score(truth, ["rmse"], by=labels, interval=None)
    np.testing.assert_allclose(
        regimes[NAME].sel(group=1, metric="rmse"), forecast.isel(time=slice(1, None, 2)).skill.rmse(truth)[NAME], rtol=1e-12
    )
    with pytest.raises(VerificationError, match="lacks labels"):
        forecast.skill.score(truth, ["rmse"], by=labels.isel(time=slice(5, None)))
    with pytest.raises(VerificationError, match="by must be"):
        forecast.skill.score(truth, ["rmse"], by="decade")


def test_intervals_hold_the_score_and_short_samples_have_none(forecast, truth, climatology):
    found = forecast.skill.score(truth, ["rmse", "acc_pooled"], climatology=climatology)[NAME]
    value, low, high = (found.sel(bound=bound) for bound in ("value", "low", "high"))
    assert bool(((low < value) & (value < high)).all())
    assert float(((high - low) / value).sel(metric="rmse").max()) < 0.2
    short = forecast.isel(time=slice(0, 5)).skill.score(truth, ["rmse"])[NAME]
    assert np.isfinite(short.sel(bound="value")).all()
    assert np.isnan(short.sel(bound=["low", "high"])).all()


def test_a_better_forecast_is_found_better_and_an_equal_one_is_not(forecast, truth):
    worse = imperfect_forecast(truth[[NAME, "vorticity"]], 60, 118, error=0.2)
    found = forecast.skill.compare(worse, truth, ["rmse", "mae"])[NAME].sel(region="global")
    assert (found.sel(statistic="difference") < 0).all()
    np.testing.assert_allclose(found.sel(statistic="relative"), -0.5, atol=0.02)
    assert (found.sel(statistic="p") < 0.01).all()
    assert (found.sel(statistic="p_dm") < 0.01).all()
    assert (found.sel(statistic="high") < 0).all()
    rng = np.random.default_rng(9)
    twin = forecast.copy()
    for name in (NAME, "vorticity"):
        scale = 0.1 * float(truth[name].std())
        shape = forecast[name].shape
        grown = np.sqrt(np.arange(1, 9)).reshape(-1, *[1] * (len(shape) - 2))
        valid = forecast["time"].values[:, None] + forecast["prediction_timedelta"].values
        o = truth[name].reindex(time=valid.ravel()).values.reshape(shape)
        twin[name] = (forecast[name].dims, np.where(np.isfinite(o), o + scale * grown * rng.normal(size=shape), 0))
    p = forecast.skill.compare(twin, truth)[NAME].sel(statistic="p")
    assert float((p > 0.05).mean()) > 0.6


def test_coverage_of_the_interval(truth):
    """Independent errors of known variance: the 95 % interval of the RMSE holds the truth about as often as it says."""
    rng = np.random.default_rng(0)
    base = truth[[NAME]].isel(time=slice(0, 61))
    hits = 0
    for _ in range(40):
        times = base["time"].values[:60]
        scale = rng.gamma(4.0, 25.0, size=(60, 1, 1, 1))  # MSE varies from time to time: sqrt(E scale^2) = 111.8
        values = base[NAME].values[1:][:, None] + scale * rng.normal(size=(60, 1, 9, 16))
        made = xr.Dataset(
            {NAME: (("time", "prediction_timedelta", "latitude", "longitude"), values)},
            {
                "time": times,
                "prediction_timedelta": [np.timedelta64(6, "h")],
                **{n: base[n] for n in ("latitude", "longitude")},
            },
        )
        low, high = made.skill.score(base, ["rmse"])[NAME].sel(bound=["low", "high"]).values.ravel()
        hits += low < np.sqrt(4 * 25**2 + 100**2) < high
    assert hits >= 33


def test_metrics_that_lack_their_data_are_refused(forecast, truth):
    with pytest.raises(VerificationError, match="lack what some metrics need.*'acc': .'climatology'"):
        forecast.skill.score(truth, ["acc"])
    with pytest.raises(VerificationError, match="unknown; known are"):
        forecast.skill.score(truth, ["acccc"])
    with pytest.raises(VerificationError, match="must be a list"):
        forecast.skill.score(truth, "rmse")
    with pytest.raises(VerificationError, match="needs members"):
        forecast.skill.rank_histogram(truth)
    with pytest.raises(VerificationError, match="climatology lacks"):
        forecast.skill.score(truth, ["acc"], climatology=truth[["vorticity"]].isel(time=0, drop=True))


@pytest.mark.parametrize("name", ["weights", "land", "missing", "pooling"])
def test_unknown_conventions_are_refused(name):
    with pytest.raises(VerificationError, match=f"{name} must be one of"):
        Conventions(**{name: "other"})


def test_regions_must_be_a_list():
    with pytest.raises(VerificationError, match="regions must be a list"):
        Conventions(regions="global")


def test_a_climatology_without_hours_serves_all_hours(forecast, truth):
    mean = truth[[NAME, "vorticity"]].mean("time")
    found = forecast.skill.score(truth, ["mse_skill"], climatology=mean, interval=None)[NAME]
    first = found.isel(prediction_timedelta=0).item()
    assert 0.9 < first < 1


def test_ensembles_are_scored(forecast, truth):
    rng = np.random.default_rng(3)
    members = xr.concat([forecast * (1 + 1e-4 * rng.normal()) for _ in range(5)], "number")
    every = members.skill.score(truth, interval=None)
    assert set(every["metric"].values) == {name for name, metric in METRICS.items() if metric.needs <= {"ensemble"}}
    np.testing.assert_allclose(members.skill.crps(truth)[NAME], every[NAME].sel(metric="crps"), rtol=1e-14)
    ranks = members.skill.rank_histogram(truth)
    assert ranks[NAME].sizes["rank"] == 6
    np.testing.assert_allclose(ranks[NAME].sum("rank"), 1)


def test_how_many_forecasts_each_lead_time_is_scored_over_is_told(forecast, truth):
    shorter = truth.isel(time=slice(0, -4))
    scores = forecast.skill.score(shorter, ["rmse"], interval=None)
    valid = forecast["time"] + scores["prediction_timedelta"]
    np.testing.assert_array_equal(scores["initial_times"], valid.isin(shorter["time"]).sum("time"))
    assert scores["initial_times"].values.min() < scores["initial_times"].values.max()
    by_hour = forecast.skill.score(shorter, ["rmse"], by="hour", interval=None)
    np.testing.assert_array_equal(by_hour["initial_times"].sum("group"), scores["initial_times"])


def test_lead_times_that_truth_lacks_are_warned_of(forecast, truth):
    daily = truth.isel(time=slice(None, None, 2))
    with pytest.warns(VerificationWarning, match=r"\d+ of \d+ lead times of forecast have .*truth's step is 12 h"):
        forecast.isel(time=slice(None, None, 2)).skill.rmse(daily)


def test_single_scores_are_made_of_chosen_variables(forecast, truth, climatology):
    for score in (
        forecast.skill.rmse(truth, variables=["vo"]),
        forecast.skill.acc(truth, climatology, variables=["vorticity_850"]),
        forecast.skill.spectra(truth, variables=["vorticity"]),
    ):
        assert list(score.data_vars) == ["vorticity"]
