"""Baselines against dynamics whose answer is known, and that they see nothing but the training span."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from data_pipelines.variables import channels_of
from forecast.verification.baselines import (
    BASELINES,
    ClimatologyForecast,
    DampedPersistence,
    Persistence,
    baseline_forecast,
    lead_steps,
)
from forecast.verification.fitting import FITS, fit_baselines
from forecast.verification.hold_out import hold_out_mse, scored_steps
from forecast.verification.inputs import VerificationError, stack
from forecast.verification.linear_inverse_model import LinearInverseModel, fit_linear_inverse_model
from forecast.verification.stencil_ridge import (
    RADIUS,
    WIDTH,
    Choice,
    FieldStencil,
    StencilRidge,
    _solve_ridge,
    fit_stencil_ridge,
    fit_steps,
    moments_of,
)
from forecast.verification.training import Climatology, TrainingData, load_training
from tests.helpers.verification import STEP, drifting_truth

SPAN = ("2026-01-01", "2026-01-20")


@pytest.fixture(scope="module")
def truth() -> xr.Dataset:
    return drifting_truth()


@pytest.fixture(scope="module")
def training(truth: xr.Dataset) -> TrainingData:
    return load_training(truth, channels_of(truth), SPAN)


def rmse(forecast: xr.Dataset, truth: xr.Dataset, name: str = "mean_sea_level_pressure") -> np.ndarray:
    valid = forecast["time"].values[:, None] + forecast["prediction_timedelta"].values
    verifying = truth[name].sel(time=xr.DataArray(valid, dims=("time", "prediction_timedelta"))).values
    return np.sqrt(((forecast[name].values - verifying) ** 2).mean(axis=(0, -2, -1)))


def forecast_of(baseline, training, truth, leads=(1, 2, 4)) -> xr.Dataset:
    times = truth["time"].values[90:110]
    return baseline_forecast(baseline, training.climatology, truth, times, np.array(leads) * STEP, STEP)


def test_every_baseline_makes_a_forecast_in_weatherbench_schema(training, truth):
    for name, baseline in fit_baselines(training, BASELINES, [1, 2, 4]).items():
        made = forecast_of(baseline, training, truth)
        assert made["vorticity"].dims == ("time", "prediction_timedelta", "level", "latitude", "longitude")
        assert made["mean_sea_level_pressure"].dims == ("time", "prediction_timedelta", "latitude", "longitude")
        assert made["vorticity"].dtype == np.float32
        assert np.isfinite(made["vorticity"]).all()
        assert made.attrs["title"].endswith(name)
        assert baseline.description.endswith(".")


def test_persistence_is_the_initial_field(training, truth):
    made = forecast_of(Persistence(), training, truth)
    start = truth["mean_sea_level_pressure"].sel(time=made["time"]).values
    np.testing.assert_array_equal(made["mean_sea_level_pressure"].values, np.repeat(start[:, None], 3, 1))


def test_climatology_is_the_training_mean_of_the_hour_of_day(training, truth):
    made = forecast_of(ClimatologyForecast(training.climatology), training, truth)
    first = made["time"].values[0] + STEP
    hour = xr.DataArray(first).dt.hour.item()
    inside = truth.sel(time=slice(*SPAN))
    wanted = inside["mean_sea_level_pressure"].sel(time=inside["time"].dt.hour == hour).astype("float64").mean("time")
    np.testing.assert_allclose(made["mean_sea_level_pressure"].values[0, 0], wanted, rtol=1e-6)


def test_baselines_see_nothing_after_the_training_span(truth):
    """The analyses after the span are spoilt: every fit, and so every forecast from good analyses, stays the same."""
    spoilt = truth.copy(deep=True)
    spoilt["mean_sea_level_pressure"].loc[{"time": slice("2026-01-21", None)}] = np.nan
    spoilt["vorticity"].loc[{"time": slice("2026-01-21", None)}] = 1e9
    for name in BASELINES:
        made = []
        for source in (truth, spoilt):
            data = load_training(source, channels_of(source), SPAN)
            fitted = fit_baselines(data, [name], [1, 3])[name]
            made.append(forecast_of(fitted, data, truth, (1, 3)))
        xr.testing.assert_identical(made[0], made[1])


def test_damping_is_the_regression_coefficient(training):
    """By hand for one channel and latitude at a lag of 2."""
    (anomaly,) = training.anomalies()
    start, end = anomaly[:-2, 0, 3].astype(float), anomaly[2:, 0, 3].astype(float)
    wanted = (start * end).sum() / (start**2).sum()
    assert DampedPersistence(training, [2]).factor[2][0, 3] == pytest.approx(min(max(wanted, 0), 1), rel=1e-5)


def test_damping_is_never_negative_nor_above_one(training):
    factors = DampedPersistence(training, [1, 8, 500]).factor
    assert all(((factor >= 0) & (factor <= 1)).all() for factor in factors.values())
    assert not factors[500].any()  # no two training states are that far apart


def test_stencil_finds_the_advection():
    """Truth moves one column a step: the ridge must come near what is stirred in, which no damped persistence can.

    324 coefficients from 4800 samples that are correlated along longitude: a quarter above it is what a fit can reach.
    """
    truth = drifting_truth(steps=400)
    training = load_training(truth, channels_of(truth), ("2026-01-01", "2026-03-16"))
    made = [DampedPersistence(training, [1, 2, 4]), fit_stencil_ridge(training, [1, 2, 4])]
    times = truth["time"].values[320:380]
    leads = np.array([1, 2, 4]) * STEP
    damped, ridge = (rmse(baseline_forecast(b, training.climatology, truth, times, leads, STEP), truth) for b in made)
    assert (ridge < 0.75 * damped).all()
    stirred = 500 * 0.05 * np.sqrt(6) / 4  # standard deviation, within one step
    assert ridge[0] < 1.25 * stirred


def test_linear_inverse_model_finds_a_linear_oscillation():
    """A noise-free rotation of two patterns has a two-dimensional propagator: the forecast is exact but for rounding."""
    truth = drifting_truth(steps=60)
    phase = 2 * np.pi * np.arange(60)[:, None, None] / 8  # whole turns: the mean by hour of day is 0
    pattern = np.random.default_rng(0).normal(size=(2, 9, 16))
    truth["mean_sea_level_pressure"].values[:] = 1e5 + 300 * (np.cos(phase) * pattern[0] + np.sin(phase) * pattern[1])
    truth["vorticity"].values[:] = 1e-5 * (np.sin(phase) * pattern[0])[:, None]
    data = load_training(truth, channels_of(truth), ("2026-01-01", "2026-01-10"))
    model = LinearInverseModel(data, 2, 0.0)
    made = baseline_forecast(model, data.climatology, truth, truth["time"].values[44:50], np.array([1, 3]) * STEP, STEP)
    assert (rmse(made, truth) < 0.1).all()  # Pa, of 300; float32 resolves 0.008


def test_linear_inverse_model_is_not_far_above_damped_persistence(training, truth):
    damped = rmse(forecast_of(DampedPersistence(training, [1, 2, 4]), training, truth), truth)
    model = rmse(forecast_of(fit_linear_inverse_model(training, [1, 2, 4]), training, truth), truth)
    assert (model < 1.05 * damped).all()


def test_rows_beyond_the_pole_are_those_of_the_opposite_meridian(training):
    """cos(lat) cos(lon) is a plane through the globe: it goes on smoothly over the pole."""
    stencil = FieldStencil(training)
    longitude, latitude = np.deg2rad(training.longitude), np.deg2rad(training.latitude)
    field = np.cos(latitude)[:, None] * np.cos(longitude)
    padded = stencil.pad_rows(np.stack([field, field]).astype(np.float32))
    step = latitude[0] - latitude[1]
    further = latitude[0] + step * np.arange(RADIUS, 0, -1)
    np.testing.assert_allclose(padded[0, :RADIUS], np.cos(further)[:, None] * np.cos(longitude), atol=1e-6)
    np.testing.assert_allclose(padded[0, -RADIUS:], (np.cos(further)[:, None] * np.cos(longitude))[::-1], atol=1e-6)


def test_vector_components_change_sign_over_the_pole(training):
    stencil = FieldStencil(training)
    stencil.signs = np.array([1.0, -1.0], dtype=np.float32)
    field = np.random.default_rng(0).normal(size=(2, 9, 16)).astype(np.float32)
    padded = stencil.pad_rows(field)
    np.testing.assert_array_equal(padded[0, RADIUS - 1], np.roll(field[0, 1], 8))
    np.testing.assert_array_equal(padded[1, RADIUS - 1], -np.roll(field[1, 1], 8))


def stencils(padded, row):
    """Points around every longitude of one latitude, cut out, at every time that has one before it: what is never made."""
    band = padded[:, :, row : row + WIDTH]
    columns = np.arange(-RADIUS, band.shape[-1] + RADIUS) % band.shape[-1]
    windows = np.lib.stride_tricks.sliding_window_view(band[..., columns], WIDTH, axis=-1)
    state = windows.transpose(0, 3, 1, 2, 4).reshape(len(band), band.shape[-1], -1)
    return np.concatenate([state[:-1], state[1:]], axis=-1)  # (time - 1, lon, predictor)


def test_products_of_spectra_equal_sums_over_the_stencil(training):
    stencil = FieldStencil(training)
    fit = fit_steps(training, stencil, {1: (0.1,)})[1, 0.1]
    (anomaly,) = training.anomalies()
    scaled = (anomaly / stencil.scale[:, None, None]).astype(np.float32)
    made = stencil.apply(fit, np.stack([scaled[:-1], scaled[1:]], axis=1))
    padded = stencil.pad_rows(scaled)
    for row in (0, 4, 8):
        direct = (stencils(padded, row) @ fit.weights[0][row]).transpose(0, 2, 1)
        direct += scaled[1:, :, row] * fit.damping[:, row, None]
        np.testing.assert_allclose(made[:, :, row], direct, atol=2e-5)


def test_moments_are_those_of_stencils_that_are_cut_out(training):
    """Two runs of states, of which one ends before the longest lead time."""
    stencil, rng = FieldStencil(training), np.random.default_rng(0)
    runs = [rng.standard_normal((length, 2, 9, 16)).astype(np.float32) for length in (12, 6)]
    spectra = [stencil.spectra(run) for run in runs]
    damping = {2: np.array([0.5, 0.25], np.float32), 7: np.zeros(2, np.float32), 1: np.ones(2, np.float32)}
    for row in (0, 5):
        found = list(moments_of([spectrum[:, :, row : row + WIDTH] for spectrum in spectra], 16, damping))
        assert [step for step, *_ in found] == [7, 2, 1]
        for step, normal, moment, samples in found:
            x, y = [], []
            for run in runs:
                cut, end = stencils(stencil.pad_rows(run), row), max(len(run) - step, 1)
                x.append(cut[: end - 1].reshape(-1, cut.shape[-1]))
                change = run[1 + step :, :, row] - run[1:end, :, row] * damping[step][:, None]
                y.append(change.transpose(0, 2, 1).reshape(-1, 2))
            x, y = np.concatenate(x).astype(float), np.concatenate(y).astype(float)
            assert samples == len(x)
            np.testing.assert_allclose(normal, x.T @ x, atol=2e-4)
            np.testing.assert_allclose(moment, x.T @ y, atol=2e-4)


def test_many_channels_are_fitted_one_by_one(training):
    many = TrainingData(
        tuple(training.channels[:1]) * 5,
        training.latitude,
        training.longitude,
        training.step,
        tuple(type(s)(s.time, np.repeat(s.fields[:, :1], 5, axis=1)) for s in training.segments),
        type(training.climatology)(training.climatology.dataset, training.channels[:1] * 5, "test."),
    )
    assert FieldStencil(many).groups == [[0], [1], [2], [3], [4]]
    ridge = StencilRidge(many, {1: (Choice(True, 0.1),) * 5})
    (anomaly,) = many.anomalies()
    made = ridge.predict(np.stack([anomaly[3:6], anomaly[4:7]], axis=1), [1])
    np.testing.assert_array_equal(made[:, :, 0], made[:, :, 4])
    assert "5 channels separately" in ridge.description


def test_a_lead_time_of_zero_is_the_analysis_itself(training, truth):
    for name in ("persistence", "damped_persistence", "stencil_ridge"):
        made = forecast_of(fit_baselines(training, [name], [0, 1])[name], training, truth, (0, 1))
        start = truth["mean_sea_level_pressure"].sel(time=made["time"]).values
        np.testing.assert_allclose(made["mean_sea_level_pressure"].values[:, 0], start, rtol=1e-6)


def test_a_region_has_no_stencil(training):
    part = TrainingData(
        training.channels, training.latitude, training.longitude[:8], training.step,
        tuple(type(s)(s.time, s.fields[..., :8]) for s in training.segments), training.climatology,
    )  # fmt: skip
    with pytest.raises(VerificationError, match="around the globe"):
        FieldStencil(part)


def test_hold_out_knows_the_climatology_of_the_first_part_only(training):
    first, last = training.split()
    assert first.segments[0].time[-1] < last.segments[0].time[0]
    assert last.climatology is first.climatology
    wanted = first.segments[0].fields[::4].mean(axis=0)
    np.testing.assert_allclose(first.climatology.at(first.segments[0].time[:1])[0], wanted, rtol=1e-5)


def test_hold_out_error_of_climatology_is_the_variance(training):
    _, last = training.split()
    error = hold_out_mse(ClimatologyForecast(last.climatology), last, [1])
    assert error == pytest.approx(1, abs=0.1)


def test_choices_are_made_on_lead_times_that_the_hold_out_holds(training):
    _, last = training.split()
    assert max(scored_steps(range(1, 200), last)) <= last.segments[0].time.size - 10
    assert scored_steps([100, 200], last) == [100]


def test_long_spans_are_represented_by_runs_spread_over_them(truth):
    data = load_training(truth, channels_of(truth), SPAN, memory_limit=40 * 4 * 2 * 9 * 16)
    assert sum(segment.time.size for segment in data.segments) <= 40
    first, last = load_training(truth, channels_of(truth), SPAN, memory_limit=2**30).split()
    assert len(first.segments) == len(last.segments) == 1


def test_gaps_cut_the_span_into_runs(truth):
    gap = truth.isel(time=[*range(20), *range(24, 60)])
    data = load_training(gap, channels_of(gap), SPAN)
    assert [segment.time.size for segment in data.segments] == [20, 36]
    first, last = data.split()
    assert (len(first.segments), len(last.segments)) == (1, 1)


def test_bad_training_data_are_refused(truth):
    channels = channels_of(truth)
    with pytest.raises(VerificationError, match=r"holds 0 of the analyses.*train_span"):
        load_training(truth, channels, ("2020-01-01", "2020-02-01"))
    broken = truth.copy(deep=True)
    broken["vorticity"].values[3] = np.nan
    with pytest.raises(VerificationError, match=r"NaN in \['vorticity_850'\]"):
        load_training(broken, channels, SPAN)
    with pytest.raises(VerificationError, match="valid times need also"):
        load_training(truth, channels, SPAN).climatology.at(np.array([np.datetime64("2026-01-02T03", "ns")]))


def test_given_climatology_replaces_the_spans(truth):
    given = truth.isel(time=slice(0, 4)).groupby("time.hour").mean().expand_dims(dayofyear=np.arange(1, 367))
    mean = Climatology(given.transpose("hour", "dayofyear", ...), channels_of(truth), "given")
    data = load_training(truth, channels_of(truth), SPAN, climatology=mean)
    np.testing.assert_array_equal(
        data.climatology.at(truth["time"].values[:3]), stack(truth.isel(time=slice(0, 3)), data.channels)
    )


def test_lead_times_between_analyses_are_refused():
    assert lead_steps(np.array([6, 24]) * np.timedelta64(1, "h"), STEP) == [1, 4]
    with pytest.raises(VerificationError, match="multiples of the analysis step"):
        lead_steps(np.array([3]) * np.timedelta64(1, "h"), STEP)
    with pytest.raises(VerificationError, match="multiples of the analysis step"):
        lead_steps(np.array([-6]) * np.timedelta64(1, "h"), STEP)


def test_unknown_baselines_are_refused(training):
    assert set(FITS) == set(BASELINES)
    with pytest.raises(VerificationError, match="magic"):
        fit_baselines(training, ["magic"], [1])
    with pytest.raises(VerificationError, match="different names"):
        fit_baselines(training, ["persistence", "persistence"], [1])


def test_ridge_solution_satisfies_its_equations() -> None:
    rng = np.random.default_rng(0)
    x, moment = rng.normal(size=(50, 12)), rng.normal(size=(12, 2))
    solution = _solve_ridge(x.T @ x, 3.0, moment)
    np.testing.assert_allclose((x.T @ x + 3.0 * np.eye(12)) @ solution, moment, rtol=1e-10, atol=1e-10)


def test_span_without_variation_is_refused() -> None:
    with pytest.raises(VerificationError, match="no positive definite system.*Lengthen train_span"):
        _solve_ridge(np.zeros((4, 4)), 0.0, np.ones((4, 1)))
