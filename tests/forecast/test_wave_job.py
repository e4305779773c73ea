"""Waves through roll-out, job and verification: right fields in a wave store, resumed whole, scored by what is known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

import forecast.wave_job
from data_pipelines.store import StoreError, holds_waves, open_waves, set_attributes
from forecast.checkpoint import save_checkpoint
from forecast.forecaster import ForecastError
from forecast.job_config import RunConfig
from forecast.layers.compressed_convolution import CompressedConv2d
from forecast.layers.merged_convolution import MergedConv
from forecast.verification.config import VerifyConfig
from forecast.verification.inputs import VerificationError
from forecast.verification.wave_scores import Medium, energy, score_sample, score_waves
from forecast.verification.waves import verify_waves
from forecast.wave_job import run_wave_forecasts
from forecast.wave_requirements import WaveRequirements
from forecast.wave_rollout import SMALL_FIELD, for_samples, read_start, rollout_waves, steps_of
from forecast.wave_simulator import Simulator, SimulatorConfig
from tests.helpers.training import wave_store
from tests.helpers.waves import make_waves

CHANNELS = ("displacement", "velocity")


def small_simulator(waves: xr.Dataset, history: int = 1, channels: tuple[str, ...] = CHANNELS, **form: object) -> Simulator:
    torch.manual_seed(0)
    need = WaveRequirements.of(waves, channels, ("wave_speed", "mask"), history=history)
    model = Simulator(SimulatorConfig(**{"width": 4, "depth": 1, "kernel_size": 3, **form}), need)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    return model.eval()


@pytest.fixture
def store(tmp_path: Path) -> str:
    path = wave_store(tmp_path / "waves.zarr", make_waves(samples=5))
    set_attributes(path, {"data_hash": "of these waves"})
    return path


@pytest.fixture
def checkpoint(tmp_path: Path, store: str) -> str:
    folder = tmp_path / "checkpoint"
    notes = {"seconds": 7, "peak_memory_mb": 321, "stores": {"of these waves": [0, 1]}}
    save_checkpoint(folder, small_simulator(open_waves(store)), training_span="sample 0/sample 1", data_hash="1", extra=notes)
    return str(folder)


def run_config(store: str, checkpoint: str, out: Path, **settings: object) -> RunConfig:
    values = {"start": "1", "end": "4", "lead": "0.1s", "cascade": [checkpoint], "batch_size": 3, "device": "cpu"}
    values["precision"] = "fp32"  # what a machine computes in is its own matter
    return RunConfig(analysis=store, out=str(out), **(values | settings))


# Roll-out


@pytest.mark.parametrize("history", [1, 2])
def test_rollout_applies_the_simulator_again_and_again(store: str, history: int) -> None:
    waves = open_waves(store)
    model = small_simulator(waves, history)
    states = list(rollout_waves(model, waves, [3, 1], 3, "cpu", "fp32"))
    assert [state.lead_seconds for state in states] == pytest.approx([1 / 30, 2 / 30, 3 / 30])
    for place, sample in enumerate([3, 1]):
        data = waves.sel(sample=sample).load()
        frames = [torch.from_numpy(np.stack([data[name].values[frame] for name in CHANNELS])) for frame in range(history)]
        static = torch.from_numpy(np.stack([data[name].values for name in ("wave_speed", "mask")]))[None]
        for state in states:
            with torch.no_grad():
                frames.append(model(torch.stack(frames[-history:])[None], *model.inputs_of(static))[0])
            torch.testing.assert_close(state.fields[place], frames[-1])


def test_one_way_filters_are_merged_the_more_the_fewer_the_samples(store: str) -> None:
    waves = open_waves(store)
    few = SMALL_FIELD // (waves.sizes["y"] * waves.sizes["x"])
    for size, with_many in ((3, MergedConv), (5, CompressedConv2d)):
        model = small_simulator(waves, width=8, kernel_size=size, compression={"terms": 1, "rank": 0.5})
        kinds = [type(for_samples(model, count).network.body[0]) for count in (1, few - 1, few + 1)]
        assert kinds == [MergedConv, MergedConv, with_many]
    plain = small_simulator(waves)
    assert for_samples(plain, 1) is plain  # nothing to merge


def test_a_rollout_is_in_the_form_of_its_samples(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    waves, asked = open_waves(store), []
    model = small_simulator(waves, width=8, kernel_size=5, compression={"terms": 2, "rank": 0.5})
    monkeypatch.setattr(
        "forecast.wave_rollout.for_samples", lambda *given: asked.append((type(given[0]), given[1])) or for_samples(*given)
    )
    frames, static = read_start(model, waves, np.array([1, 3]))
    wanted = [state.fields for state in steps_of(model, frames, static, np.array([1, 3]), 3, False)]
    for state, fields in zip(rollout_waves(model, waves, [1, 3], 3, "cpu", "fp32"), wanted, strict=True):
        torch.testing.assert_close(state.fields, fields)
    assert asked == [(Simulator, 2)]


def test_rollout_refuses_what_it_cannot_start_from(store: str) -> None:
    waves = open_waves(store).load()
    model = small_simulator(waves)
    with pytest.raises(ForecastError, match="steps must be at least 1; got 0"):
        rollout_waves(model, waves, [0], 0)
    with pytest.raises(ForecastError, match="sample 9 is missing: the store holds 0 to 4"):
        rollout_waves(model, waves, [1, 9], 1)
    waves["velocity"].values[2, 0, 1, 1] = np.nan
    with pytest.raises(ForecastError, match="the start of a sample holds values that are not finite"):
        rollout_waves(model, waves, [2], 1)


def test_an_unstable_simulator_is_told_by_sample_and_time(store: str) -> None:
    waves = open_waves(store)
    model = small_simulator(waves)
    model.tendency.fill_(1e30)
    with pytest.raises(ForecastError, match=r"(displacement|velocity) of sample 1 is not finite 0.0\d+ s after its start"):
        list(rollout_waves(model, waves, [1], 4, "cpu", "fp32"))


# Job


def test_job_writes_a_wave_store_of_what_the_rollout_makes(store: str, checkpoint: str, tmp_path: Path) -> None:
    out = tmp_path / "forecast.zarr"
    done = run_wave_forecasts(run_config(store, checkpoint, out))
    assert (done.samples, done.made, done.lead_seconds) == (4, 4, pytest.approx(0.1))
    made, waves = open_waves(out), open_waves(store)
    assert holds_waves(out)
    assert made["sample"].values.tolist() == [1, 2, 3, 4]
    np.testing.assert_allclose(made["time"], [0, 1 / 30, 2 / 30, 3 / 30], atol=1e-12)
    for name in CHANNELS:
        np.testing.assert_array_equal(made[name].isel(time=0), waves[name].sel(sample=[1, 2, 3, 4]).isel(time=0))
    np.testing.assert_array_equal(made["mask"], waves["mask"].sel(sample=[1, 2, 3, 4]))
    model = small_simulator(waves)
    for step, state in enumerate(rollout_waves(model, waves, [1, 2, 3], 3, "cpu", "fp32"), 1):
        np.testing.assert_array_equal(made["velocity"].isel(time=step).sel(sample=[1, 2, 3]), state.fields[:, 1])
    assert made.attrs["parameters"] == model.parameter_count()
    assert made.attrs["training_seconds"] == 7
    assert made.attrs["training_memory_mb"] == 321
    assert (made["solve_seconds"] > 0).all()
    assert (made["peak_memory_mb"] > 50).all()  # an interpreter with torch


@pytest.mark.parametrize(("kept", "batches"), [(2, 2), (3, 1)], ids=["in a batch", "between batches"])
def test_a_job_that_was_stopped_makes_only_what_is_missing(
    store: str, checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: int, batches: int
) -> None:
    whole, out = tmp_path / "whole.zarr", tmp_path / "forecast.zarr"
    run_wave_forecasts(run_config(store, checkpoint, whole))
    make, made = forecast.wave_job.Ensemble.make, []

    def stopped(self, sample, simulation):
        if len(made) == kept:
            raise KeyboardInterrupt
        made.append(sample)
        return make(self, sample, simulation)

    monkeypatch.setattr(forecast.wave_job.Ensemble, "make", stopped)
    with pytest.raises(KeyboardInterrupt):
        run_wave_forecasts(run_config(store, checkpoint, out))
    assert not out.exists()
    with pytest.raises(ForecastError, match="an unfinished job is at .*. Go on with it: resume=true"):
        run_wave_forecasts(run_config(store, checkpoint, out))
    monkeypatch.setattr(forecast.wave_job.Ensemble, "make", make)
    ran = []
    monkeypatch.setattr(forecast.wave_job, "rollout_waves", lambda *given: ran.append(given[2]) or rollout_waves(*given))
    done = run_wave_forecasts(run_config(store, checkpoint, out, resume=True))
    assert (made, done.made, len(ran)) == ([1, 2, 3][:kept], 4 - kept, batches)
    xr.testing.assert_identical(
        open_waves(out).drop_vars(["solve_seconds", "peak_memory_mb"]).load().drop_attrs(deep=False),
        open_waves(whole).drop_vars(["solve_seconds", "peak_memory_mb"]).load().drop_attrs(deep=False),
    )
    with pytest.raises(StoreError, match="exists already"):
        run_wave_forecasts(run_config(store, checkpoint, out))


@pytest.mark.parametrize(("settings", "message"), [
    ({"cluster": "dask"}, "waves run on one machine, a single forecast per sample; set cluster=local"),
    ({"cascade": ["a", "b"]}, r"cascade must hold the one checkpoint of a simulator for waves; got \['a', 'b'\]"),
    ({"cascade": ["short"]}, "there is no checkpoint in short"),
    ({"start": "2021-01-01", "end": "2021-01-02"}, "start must be the number of a sample for waves, as in 400; got '2021"),
    ({"start": "7", "end": "9"}, "no sample from 7 to 9 is there: the store holds 0 to 4"),
    ({"lead": "10d"}, "lead must be a multiple of the simulator's step of 0.0333333 s, as in 1.2s; got '10d'"),
    ({"lead": "0.05s"}, "lead must be a multiple of the simulator's step .* got '0.05s'"),
])  # fmt: skip
def test_wrong_jobs_are_refused_by_name(store: str, checkpoint: str, tmp_path: Path, settings: dict, message: str) -> None:
    with pytest.raises(ForecastError, match=message):
        run_wave_forecasts(run_config(store, checkpoint, tmp_path / "f.zarr", **settings))


def test_other_networks_are_refused_by_name(
    store: str, checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = small_simulator(open_waves(store), channels=("displacement",))
    monkeypatch.setattr(forecast.wave_job, "load_checkpoint", lambda path: half)
    with pytest.raises(ForecastError, match=r"a wave store holds displacement and velocity; .* carries \['displacement'\]"):
        run_wave_forecasts(run_config(store, checkpoint, tmp_path / "f.zarr"))
    monkeypatch.setattr(forecast.wave_job, "load_checkpoint", lambda path: nn.Linear(1, 1))
    with pytest.raises(ForecastError, match="is a Linear, which forecasts the weather; waves need a Simulator"):
        run_wave_forecasts(run_config(store, checkpoint, tmp_path / "f.zarr"))


# Scores


def travelling(phase: float = 0.0, size: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """A wave that runs along x at 2 m/s, 24 cells of 0.25 m around, at 5 times 0.1 s apart; displacement and velocity."""
    x, time = np.arange(24) * 0.25, np.arange(5)[:, None] * 0.1 + phase
    k = 2 * np.pi / 6
    along = k * (x - 2 * time)
    field = np.broadcast_to(np.stack([np.sin(along), -2 * k * np.cos(along)])[:, :, None], (2, 5, 4, 24))
    return size * field[0], size * field[1]


MEDIUM = Medium(np.ones((4, 24)), np.full((4, 24), 2.0), 0.5, 0.25)


def test_a_perfect_forecast_has_no_error() -> None:
    scores = score_sample(*travelling(), *travelling(), 1.0, MEDIUM)
    assert all(not values.any() for values in scores.values())


def test_a_forecast_that_runs_ahead_has_that_phase_error() -> None:
    """To first order: 0.01 s of a period of 3 s is right to a part in ten thousand; it leaves an error of 2 sin(pi / 300)."""
    scores = score_sample(*travelling(phase=0.01), *travelling(), 1.0, MEDIUM)
    np.testing.assert_allclose(scores["phase_error"], 0.01, rtol=1e-4)
    np.testing.assert_allclose(scores["relative_l2"], 2 * np.sin(np.pi / 300), rtol=1e-6)
    np.testing.assert_allclose(scores["amplitude"], 0, atol=1e-12)


def test_a_forecast_that_is_too_large_has_that_amplitude_and_energy() -> None:
    true = travelling()
    start = float(energy(true[0][:1], true[1][:1], MEDIUM)[0])
    scores = score_sample(*travelling(size=1.1), *true, start, MEDIUM)
    np.testing.assert_allclose(scores["amplitude"], 0.1, rtol=1e-6)
    np.testing.assert_allclose(scores["relative_l2"], 0.1, rtol=1e-6)
    np.testing.assert_allclose(scores["relative_l2_velocity"], 0.1, rtol=1e-6)
    np.testing.assert_allclose(scores["energy_drift"], 0.21 * energy(*true, MEDIUM) / start, rtol=1e-9)
    np.testing.assert_allclose(scores["phase_error"], 0, atol=1e-12)


def test_energy_is_that_of_the_grids_own_differences() -> None:
    """A slope of 3 in x and 5 in y under the speed 2: (9 + 25) x 4 / 2 for every pair of neighbours; no pair across a hole."""
    y, x = np.arange(4)[:, None] * 0.5, np.arange(24) * 0.25
    field = np.broadcast_to(3 * x + 5 * y, (1, 4, 24))
    cell = 0.5 * 0.25
    along_x, along_y = 4 * 23, 3 * 24
    assert float(energy(field, 0 * field, MEDIUM)[0]) == pytest.approx(0.5 * cell * 4 * (9 * along_x + 25 * along_y))
    assert float(energy(0 * field, field + 1, MEDIUM)[0]) == pytest.approx(0.5 * cell * ((field + 1) ** 2).sum())
    mask = np.ones((4, 24))
    mask[1, 5] = 0
    holed = Medium(mask, 2.0 * mask, 0.5, 0.25)
    assert float(energy(field, 0 * field, holed)[0]) == pytest.approx(0.5 * cell * 4 * (9 * (along_x - 2) + 25 * (along_y - 2)))


def test_what_lies_in_holes_is_not_scored() -> None:
    displacement, velocity = (field.copy() for field in travelling())
    mask = np.ones((4, 24))
    mask[2, 3] = 0
    displacement[:, 2, 3] = 99
    scores = score_sample(displacement, velocity, *travelling(), 1.0, Medium(mask, 2 * mask, 0.5, 0.25))
    assert not scores["relative_l2"].any()
    assert not scores["energy_drift"].any()


def test_persistence_stands_beside_and_leads_count_from_the_last_frame_given() -> None:
    waves = make_waves()
    scores = score_waves({"same": waves.isel(time=slice(5))}, waves, [0, 2], history=2)
    assert scores["forecast"].values.tolist() == ["same", "persistence"]
    np.testing.assert_allclose(scores["lead"], [1 / 30, 2 / 30, 3 / 30])
    assert not scores["relative_l2"].sel(forecast="same").any()
    u, inside = waves["displacement"].values[2], waves["mask"].values[2] > 0
    wanted = [np.linalg.norm((u[1] - u[frame])[inside]) / np.linalg.norm(u[frame][inside]) for frame in (2, 3, 4)]
    np.testing.assert_allclose(scores["relative_l2"].sel(forecast="persistence", sample=2), wanted, rtol=1e-6)


def test_forecasts_that_do_not_fit_are_refused_by_name() -> None:
    waves = make_waves()
    late = waves.assign_coords(time=waves["time"] + 0.01)
    with pytest.raises(VerificationError, match="a has times 0.01 to .* which truth has not: it covers 0 to"):
        score_waves({"a": late}, waves, [0], 1)
    with pytest.raises(VerificationError, match="b has other times than a; compare forecasts of one step"):
        score_waves({"a": waves.isel(time=slice(3)), "b": late}, waves, [0], 1)
    with pytest.raises(VerificationError, match="a has another grid than truth along x"):
        score_waves({"a": waves.assign_coords(x=waves["x"] + 1)}, waves, [0], 1)


# Verification


def test_verification_writes_scores_figures_and_a_page(store: str, checkpoint: str, tmp_path: Path) -> None:
    out = tmp_path / "forecast.zarr"
    run_wave_forecasts(run_config(store, checkpoint, out, start="2"))
    config = VerifyConfig(str(out), store, str(tmp_path / "v"), name="classical", compare={"again": str(out)})
    found = verify_waves(config)
    assert found.scores["forecast"].values.tolist() == ["classical", "again", "persistence"]
    assert found.scores["sample"].values.tolist() == [2, 3, 4]
    assert found.costs["classical"]["training_seconds"] == 7
    assert found.costs["classical"]["training_memory_mb"] == 321
    assert found.costs["classical"]["memory_mb"] == float(open_waves(out)["peak_memory_mb"].max())
    with xr.open_dataset(tmp_path / "v" / "scores.nc") as stored:
        xr.testing.assert_equal(stored.load(), found.scores)
    assert (tmp_path / "v" / "waves.gif").stat().st_size > 5000
    page = (tmp_path / "v" / "report.html").read_text()
    assert page.count("data:image/png") == 1 + 3
    assert "classical" in page
    assert "<td>321</td>" in page
    with pytest.raises(VerificationError, match="exists; nothing is overwritten"):
        verify_waves(config)


def test_samples_that_were_learned_from_are_no_test(store: str, checkpoint: str, tmp_path: Path) -> None:
    out = tmp_path / "forecast.zarr"
    run_wave_forecasts(run_config(store, checkpoint, out))
    assert json.loads(open_waves(out).attrs["trained_stores"]) == {"of these waves": [0, 1]}
    with pytest.raises(VerificationError, match="forecast learned from samples 0 to 1 of this truth, so sample 1 is no test"):
        verify_waves(VerifyConfig(str(out), store, str(tmp_path / "v")))
    with pytest.raises(VerificationError, match="start must be the number of a sample for waves, as in 400; got 'x'"):
        verify_waves(VerifyConfig(str(out), store, str(tmp_path / "v"), start="x"))
    with pytest.raises(VerificationError, match="truth and .*forecasts have no sample in common from start to end"):
        verify_waves(VerifyConfig(str(out), store, str(tmp_path / "v"), start="9"))
