"""From two stores to scores, figures and one page; and every way in which they may not fit together."""

from __future__ import annotations

import re
import socket
import subprocess
import sys

import numpy as np
import pytest
import xarray as xr

from configs.compose import compose
from data_pipelines.area import cell_area_weights
from forecast.verification.config import TargetsConfig, VerifyConfig
from forecast.verification.display import lead_label
from forecast.verification.evaluation import evaluate
from forecast.verification.inputs import VerificationError
from forecast.verification.maps import draw_maps
from forecast.verification.score import score
from forecast.verification.scorecard import draw_scorecard, shade
from forecast.verification.verification import verify
from tests.helpers.verification import STEP, drifting_truth, imperfect_forecast

LEADS = {"key_leads": [6, 24, 48], "map_leads": [24, 48], "spectrum_leads": [24]}


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Truth of 40 days and a forecast of the last days of it, a worse one, and one with errors in time order."""
    folder = tmp_path_factory.mktemp("stores")
    truth = drifting_truth(steps=120)
    truth.to_zarr(folder / "truth.zarr", zarr_format=3)
    for name, error in (("good", 0.05), ("bad", 0.2)):
        made = imperfect_forecast(truth, 82, 118, error=error)
        made.to_zarr(folder / f"{name}.zarr", zarr_format=3)
    return folder


def config(stores, out="out", **changes):
    settings = {"forecast": stores / "good.zarr", "truth": stores / "truth.zarr", "out": stores / out} | changes
    settings = {
        key: str(value) if key in ("forecast", "truth", "out", "short", "train") else value for key, value in settings.items()
    }
    return VerifyConfig(**{"progress": False, "regions": ["global", "tropics"]} | LEADS | settings)


@pytest.fixture(scope="module")
def found(stores):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", lambda *_: pytest.fail("a socket was opened"))
        return verify(config(stores, short=stores / "bad.zarr", compare={"third": str(stores / "bad.zarr")}))


def test_rmse_equals_a_calculation_of_its_own(stores, found):
    truth, made = xr.open_zarr(stores / "truth.zarr"), xr.open_zarr(stores / "good.zarr")
    weights = xr.DataArray(cell_area_weights(truth["latitude"].values), dims="latitude")
    for lead in made["prediction_timedelta"].values:
        times = [time for time in made["time"].values if time + lead in truth["time"].values]
        name = "mean_sea_level_pressure"
        a = made[name].sel(time=times, prediction_timedelta=lead).values.astype(float)
        b = truth[name].sel(time=np.array(times) + lead).values.astype(float)
        mse = (
            xr.DataArray((a - b) ** 2, dims=("time", "latitude", "longitude")).weighted(weights).mean(("latitude", "longitude"))
        )
        stored = found.scores[name].sel(metric="rmse", region="global", forecast="forecast", prediction_timedelta=lead)
        assert float(stored) == pytest.approx(float(np.sqrt(mse.mean())), rel=1e-12)
        assert int(found.scores["initial_times"].sel(prediction_timedelta=lead)) == len(times)


def test_chosen_lead_times_alone_score_as_among_all(stores, found):
    chosen = evaluate(config(stores, leads=[48, 24], short=stores / "bad.zarr", compare={"third": str(stores / "bad.zarr")}))
    all_of_them = found.scores.sel(prediction_timedelta=chosen.scores["prediction_timedelta"])
    assert [lead_label(lead) for lead in chosen.contest.sample.leads] == ["1 d", "2 d"]
    others = {"forecast": [name for name in found.scores["forecast"].values if name != "stencil_ridge"]}
    xr.testing.assert_allclose(chosen.scores.sel(others), all_of_them.sel(others), rtol=1e-12)
    ridge = {"forecast": "stencil_ridge", "metric": "rmse"}  # chooses its form at the lead times that are scored
    xr.testing.assert_allclose(chosen.scores.sel(ridge), all_of_them.sel(ridge), rtol=1e-2)


@pytest.mark.parametrize("leads", [[], [24, 25]])
def test_lead_times_that_are_not_there_cannot_be_chosen(stores, leads):
    said = re.escape(f"leads must name lead times of forecast in hours; got {leads}, and it has 6, 12,")
    with pytest.raises(VerificationError, match=said):
        evaluate(config(stores, leads=leads))


def test_scores_file_says_what_it_holds(stores, found):
    scores = xr.open_dataset(stores / "out" / "scores.nc", decode_timedelta=True)
    assert scores["vorticity"].dims == ("forecast", "metric", "region", "prediction_timedelta", "level")
    assert scores["vorticity"].attrs["units"] == "s-1"
    assert "WeatherBench 2" in scores.attrs["acc_convention"]
    assert "training span" in scores.attrs["baseline_stencil_ridge"]
    assert scores["initial_times"].values[[0, -1]].tolist() == [36, 30]
    assert list(scores["forecast"].values[:3]) == ["forecast", "short", "third"]
    xr.testing.assert_equal(scores, found.scores)


def test_significance_tells_better_from_equal(stores, found):
    tests = xr.open_dataset(stores / "out" / "significance.nc", decode_timedelta=True)["mean_sea_level_pressure"]
    short = tests.sel(rival="short").isel(prediction_timedelta=0)
    assert short.sel(statistic="p") < 0.01
    assert short.sel(statistic="difference") < 0
    assert short.sel(statistic="dm_high") < 0
    assert short.sel(statistic="bootstrap_high") < 0
    assert found.significance_of("short", 0, 1) < 0.01


def test_errors_by_initial_time_average_to_the_scores(stores, found):
    by_time = xr.open_dataset(stores / "out" / "by_initial_time.nc", decode_timedelta=True)
    mean = np.sqrt(by_time["vorticity"].mean("time"))
    wanted = found.scores["vorticity"].sel(metric="rmse", region="global", drop=True)
    np.testing.assert_allclose(mean.transpose(*wanted.dims), wanted, rtol=1e-12)
    assert np.isnan(by_time["vorticity"].sel(time=by_time["time"][-1]).isel(prediction_timedelta=-1)).all()


def test_spectra_of_truth_and_forecasts(stores):
    spectra = xr.open_dataset(stores / "out" / "spectra.nc", decode_timedelta=True)
    assert spectra["forecast"].values[-1] == "truth"
    assert spectra.sizes["zonal_wavenumber"] == 9
    assert (spectra["mean_sea_level_pressure"].sel(forecast="truth") > 0).all()


def test_report_is_one_page_that_needs_nothing_else(stores, found):
    page = (stores / "out" / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 5  # scorecard, curves, spectra, two maps
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    assert "<script" not in page
    assert "http" not in page
    for words in ("made for tests", "Natural Earth", "Targets", "WeatherBench 2", "width=device-width", "p, against"):
        assert words in page
    files = {path.name for path in (stores / "out").iterdir()}
    assert files >= {"scorecard.png", "curves.png", "spectra.png", "map_vorticity_850.png", "report.html", "scores.nc"}


def test_targets_are_judged(found):
    assert all(target.met for target in found.targets)
    assert any("every baseline" in target.text for target in found.targets)


def test_missed_targets_are_told(stores):
    missed = evaluate(config(stores, forecast=stores / "bad.zarr", short=stores / "good.zarr", baselines=["climatology"],
                             targets=TargetsConfig([], [], [24])))  # fmt: skip
    assert [target.met for target in missed.targets] == [False, False]
    assert "not above short" in missed.targets[0].text
    theirs = float(missed.scores["mean_sea_level_pressure"].sel(forecast="short", metric="rmse", region="global")[3]) / 100
    pressure = next(target.text for target in missed.targets if "pressure" in target.text)
    assert pressure.startswith("Mean sea level pressure at 1 d: RMSE not above short (+")
    assert f"% against {theirs:.3f} hPa)" in pressure, "in the units of the table above"
    texts = [text.get_text() for text in draw_scorecard(missed, [0, 3]).texts]
    assert any("missed" in text for text in texts)
    assert any("not above short" in text for text in texts)


def test_blocks_of_any_size_give_the_same_scores(stores, found):
    """One lead time of one forecast in memory at a time."""
    baselines = ["persistence", "climatology", "damped_persistence"]
    small = config(stores, short=stores / "bad.zarr", baselines=baselines, start="2026-01-28")
    whole = evaluate(small)
    blocked = score(whole.contest, spectrum_leads=[3], memory_limit=3 * 4 * 2 * 9 * 16)
    for name, values in blocked.scores.items():
        np.testing.assert_allclose(values, whole.results.scores[name], rtol=1e-12)
    np.testing.assert_allclose(blocked.spectra, whole.results.spectra, rtol=1e-12)
    np.testing.assert_array_equal(blocked.counts, whole.results.counts)


def test_truth_scores_perfectly_and_correlates_fully(stores, tmp_path):
    truth = xr.open_zarr(stores / "truth.zarr").load()
    imperfect_forecast(truth, 82, 100, error=0.0).to_zarr(tmp_path / "exact.zarr", zarr_format=3)
    scores = evaluate(config(stores, forecast=tmp_path / "exact.zarr", baselines=["climatology"])).scores
    exact = scores["vorticity"].sel(forecast="forecast", region="global")
    assert (exact.sel(metric="rmse") == 0).all()
    for metric in ("acc", "acc_pooled", "acc_centred"):
        np.testing.assert_allclose(exact.sel(metric=metric), 1, rtol=1e-12)
    assert np.isnan(scores["vorticity"].sel(forecast="climatology", metric="acc")).all()


def test_an_ensemble_is_scored_by_its_mean(stores, tmp_path):
    made = xr.open_zarr(stores / "good.zarr").load()
    members = xr.concat([made * 1.001, made * 0.999], dim=xr.DataArray([0, 1], dims="number"))
    members.assign_attrs(made.attrs).to_netcdf(tmp_path / "members.nc")
    single = evaluate(config(stores, baselines=["persistence"])).scores["mean_sea_level_pressure"]
    pair = evaluate(config(stores, forecast=tmp_path / "members.nc", baselines=["persistence"])).scores[
        "mean_sea_level_pressure"
    ]
    np.testing.assert_allclose(pair.sel(metric="rmse"), single.sel(metric="rmse"), rtol=1e-4)


def test_a_rival_with_fewer_lead_times_stays_nan_there_for_itself_alone(stores, tmp_path):
    made = xr.open_zarr(stores / "bad.zarr").load().isel(prediction_timedelta=slice(0, 3))
    made.to_netcdf(tmp_path / "short.nc")
    result = evaluate(config(stores, compare={"brief": str(tmp_path / "short.nc")}, baselines=["climatology"]))
    rmse = result.scores["vorticity"].sel(metric="rmse", region="global").squeeze()
    assert np.isnan(rmse.sel(forecast="brief")[3:]).all()
    assert np.isfinite(rmse.sel(forecast="forecast")).all()
    assert np.isfinite(rmse.sel(forecast="brief")[:3]).all()


def test_nan_in_a_forecast_is_refused_by_time_or_left_out_for_all(stores, tmp_path):
    made = xr.open_zarr(stores / "good.zarr").load()
    made["vorticity"].values[4, 2, 0, 3, 3] = np.nan
    made.to_netcdf(tmp_path / "hole.nc")
    broken = config(stores, forecast=tmp_path / "hole.nc", baselines=["climatology"])
    with pytest.raises(VerificationError, match=r"NaN in vorticity_850 at initial time 2026-01-22T12, lead time 18 hours"):
        evaluate(broken)
    broken.allow_missing = True
    broken.key_leads = [5]
    found = evaluate(broken)
    counts = found.scores
    said = "1 of 267 fields of vorticity_850 hold NaN and are left out for all, 1 of 35 at 18 h."
    assert said in found.doubts
    assert said in counts.attrs["sample_dropped"]
    assert any(sentence.startswith("none of key_leads=[5] is a lead time") for sentence in found.doubts)
    assert counts["vorticity_initial_times"].isel(prediction_timedelta=2).item() == 34
    assert counts["mean_sea_level_pressure_initial_times"].isel(prediction_timedelta=2).item() == 35


def test_training_times_are_refused_unless_asked_for_by_name(stores, tmp_path):
    made = xr.open_zarr(stores / "good.zarr").load().assign_attrs(training_span="2026-01-01/2026-01-25")
    made.to_netcdf(tmp_path / "seen.nc")
    seen = config(stores, forecast=tmp_path / "seen.nc", baselines=["climatology"])
    with pytest.raises(VerificationError, match="training span of forecast"):
        evaluate(seen)
    seen.score_training_span = True
    assert evaluate(seen).contest.sample.initial_times.size == 36
    with pytest.raises(VerificationError, match="training span of the baselines"):
        evaluate(config(stores, train_span=["2026-01-01", "2026-01-25"], baselines=["climatology"]))


def test_without_any_training_span_only_persistence_is_possible(stores, tmp_path):
    xr.open_zarr(stores / "good.zarr").load().drop_attrs(deep=False).to_netcdf(tmp_path / "anybody.nc")
    anybody = config(stores, forecast=tmp_path / "anybody.nc")
    with pytest.raises(VerificationError, match="train_span is needed"):
        evaluate(anybody)
    anybody.baselines = ["persistence"]
    anybody.out = str(tmp_path / "report")
    result = verify(anybody)
    assert np.isnan(result.scores["vorticity"].sel(metric="acc")).all()
    assert np.isfinite(result.scores["vorticity"].sel(metric="rmse")).all()
    assert result.scores.attrs["climatology"] == "none"


def test_a_training_store_of_its_own(stores, tmp_path):
    drifting_truth(steps=70, seed=5).to_netcdf(tmp_path / "train.nc")
    result = evaluate(config(stores, train=tmp_path / "train.nc", baselines=["climatology"]))
    assert "2026-01-01T00 to 2026-01-18T06" in result.scores.attrs["climatology"]
    drifting_truth(steps=70, seed=5).isel(time=slice(None, None, 2)).to_netcdf(tmp_path / "coarse.nc")
    with pytest.raises(VerificationError, match="time step of 720 minutes"):
        evaluate(config(stores, train=tmp_path / "coarse.nc", baselines=["climatology"]))


def test_fields_with_holes_are_scored_against_what_needs_no_fit(stores, tmp_path):
    """As sea surface temperature on land: NaN in truth and forecast at the same points."""
    for name in ("truth", "good"):
        field = xr.open_zarr(stores / f"{name}.zarr").load()
        field["vorticity"] = field["vorticity"].where(field["longitude"] > 100)
        field.to_netcdf(tmp_path / f"{name}.nc")
    holes = config(stores, forecast=tmp_path / "good.nc", truth=tmp_path / "truth.nc", baselines=["persistence", "climatology"])
    scores = evaluate(holes).scores["vorticity"].sel(region="global", forecast="forecast")
    assert np.isfinite(scores).all()
    holes.baselines = ["damped_persistence"]
    with pytest.raises(VerificationError, match=r"NaN in \['vorticity_850'\]"):
        evaluate(holes)


def test_a_given_climatology(stores, tmp_path):
    truth = xr.open_zarr(stores / "truth.zarr").load()
    given = (
        truth.sel(time=slice("2026-01-01", "2026-01-20")).groupby("time.hour").mean().expand_dims(dayofyear=np.arange(1, 367))
    )
    given.isel(latitude=slice(None, None, -1)).to_netcdf(tmp_path / "climatology.nc")
    settings = {"baselines": ["climatology"], "climatology": str(tmp_path / "climatology.nc")}
    own, other = evaluate(config(stores, baselines=["climatology"])), evaluate(config(stores, **settings))
    np.testing.assert_allclose(other.scores["vorticity"], own.scores["vorticity"], rtol=1e-3, atol=1e-7)
    xr.open_zarr(stores / "good.zarr").load().drop_attrs(deep=False).to_netcdf(tmp_path / "anybody.nc")
    settings["baselines"] = ["persistence", "climatology"]
    anybody = evaluate(config(stores, forecast=tmp_path / "anybody.nc", **settings))
    rmse = anybody.scores["vorticity"].sel(forecast="climatology", metric="rmse")
    np.testing.assert_allclose(rmse, other.scores["vorticity"].sel(forecast="climatology", metric="rmse"))
    given.drop_vars("vorticity").to_netcdf(tmp_path / "lacking.nc")
    with pytest.raises(VerificationError, match=r"climatology lacks \['vorticity_850'\]"):
        evaluate(config(stores, baselines=["climatology"], climatology=str(tmp_path / "lacking.nc")))


def test_out_that_exists_is_refused_and_nothing_is_left_behind(stores, tmp_path):
    (tmp_path / "there").mkdir()
    with pytest.raises(VerificationError, match="exists; nothing is overwritten"):
        verify(config(stores, out=tmp_path / "there"))
    with pytest.raises(VerificationError, match="map_time 2020-01-01"):
        verify(config(stores, out=tmp_path / "new", baselines=["persistence"], map_time="2020-01-01"))
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_settings_are_checked():
    settings = {"forecast": "a", "truth": "b", "out": "c"}
    with pytest.raises(VerificationError, match="train_span"):
        VerifyConfig(**settings, train_span=["2020-01-01"])
    with pytest.raises(VerificationError, match="memory_limit_mb"):
        VerifyConfig(**settings, memory_limit_mb=0)
    with pytest.raises(VerificationError, match="different names"):
        VerifyConfig(**settings, name="climatology")
    with pytest.raises(VerificationError, match="regions"):
        VerifyConfig(**settings, regions=[])
    with pytest.raises(VerificationError, match=r"targets\.not_above_short"):
        TargetsConfig(not_above_short=[0])


def test_the_yaml_holds_the_defaults():
    composed = compose(VerifyConfig, "forecast/verify", ["forecast=a", "truth=b", "out=c"])
    assert composed == VerifyConfig("a", "b", "c")


def test_lead_times_read_as_forecasters_write_them():
    assert [lead_label(hours) for hours in (6, 24, 36, 240)] == ["6 h", "1 d", "1.5 d", "10 d"]


def test_colours_tell_better_from_worse():
    def green_minus_red(colour: str) -> int:
        return int(colour[3:5], 16) - int(colour[1:3], 16)

    assert green_minus_red(shade(-0.2)) > green_minus_red(shade(-0.02)) > 0 > green_minus_red(shade(0.1))
    assert shade(-0.5) == shade(-5.0)


def test_a_map_has_coastlines_and_a_symmetric_error(monkeypatch, found):
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("a socket was opened"))
    contest = found.contest
    rng = np.random.default_rng(0)
    fields = rng.normal(size=(1, 9, 16)).astype(np.float32) * 1e-5
    figure = draw_maps(
        contest.channels[1], contest.truth["latitude"].values, contest.truth["longitude"].values, fields, fields * 0.5,
        [STEP * 4], contest.sample.initial_times[0], "forecast",
    )  # fmt: skip
    figure.canvas.draw()
    maps = [axes for axes in figure.axes if hasattr(axes, "projection")]
    assert len(maps) == 3
    assert all(any("FeatureArtist" in type(artist).__name__ for artist in axes.get_children()) for axes in maps)
    boundaries = maps[2].collections[0].norm.boundaries
    np.testing.assert_allclose(boundaries, -boundaries[::-1])


def test_maps_survive_the_other_proj_library_of_eccodes():
    """Whoever reads GRIB and then draws a map in one process must not lose it: pyproj's PROJ against eccodes' own."""
    pytest.importorskip("eccodes")
    code = (
        "import eccodes, forecast.verification.maps as maps; maps.load_projections(); import cartopy.crs as crs;"
        "print(round(crs.Robinson().transform_point(10, 20, crs.PlateCarree())[0]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "927952"
