"""What sets members apart: bred vectors, earlier starts, other checkpoints, dropout; whoever makes them, in whatever batch."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from forecast import checkpoint
from forecast.breeding import breed
from forecast.cascade import Cascade
from forecast.checkpoint import save_checkpoint
from forecast.dropout import MemberDropout, dropping, install
from forecast.ensemble import EnsembleConfig, Variant, sizes_of
from forecast.forecast_store import create_forecast_store, open_forecast_store
from forecast.forecaster import ForecastError
from forecast.job import RunConfig, run_forecasts
from forecast.manifest import Journal
from forecast.work import Work
from tests.forecast.test_job import store_analysis
from tests.helpers.analyses import make_analysis
from tests.helpers.forecasters import Extrapolation, extrapolation, requirements_of
from tests.helpers.puyun import make_puyun

CHANNELS = ("temperature_500", "temperature_850", "mean_sea_level_pressure")
ANALYSIS = make_analysis(rows=13, columns=24).drop_vars("land_sea_mask")
TIME = np.datetime64("2021-03-01T12", "ns")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """An analysis store, two forecasters that can be computed by hand, and two networks of the same form."""
    folder = tmp_path_factory.mktemp("members")
    store_analysis(folder / "analysis.zarr", ANALYSIS)
    need = replace(requirements_of(ANALYSIS), channels=CHANNELS)
    one, other = make_puyun(need, dropout=0.3), make_puyun(need, dropout=0.3)
    with torch.no_grad():
        for value in other.parameters():
            value.mul_(1.1)
    models = {"up": extrapolation(ANALYSIS), "down": extrapolation(ANALYSIS, gain=-0.25), "one": one, "other": other}
    models["turned"] = extrapolation(ANALYSIS, gain=-0.25, channels=CHANNELS[::-1])
    models["slow"] = extrapolation(ANALYSIS, step_hours=12)
    models["fewer"] = extrapolation(ANALYSIS, channels=CHANNELS[1:])
    models["forgetful"] = extrapolation(ANALYSIS, history=1)
    checkpoint.MODELS["Extrapolation"] = "tests.helpers.forecasters"
    for name, model in models.items():
        save_checkpoint(folder / name, model, training_span=("2019-01-01", "2020-06-30"), data_hash="data")
    yield folder
    del checkpoint.MODELS["Extrapolation"]


@pytest.fixture
def job(inputs, tmp_path):
    def job(name, *, network="up", first="2021-03-01T12", last="2021-03-02T00", lead="18h", batch_size=3, **ensemble):
        return RunConfig(
            str(inputs / "analysis.zarr"), first, last, str(tmp_path / name), lead=lead, cascade=[str(inputs / network)],
            device="cpu", precision="fp32", batch_size=batch_size, progress=False, ensemble=EnsembleConfig(**ensemble),
        )  # fmt: skip

    return job


def made(config):
    return open_forecast_store(run_forecasts(config).out).load()


def fields(dataset):
    return np.concatenate([dataset[name].values.reshape(*dataset[name].shape[:2], -1) for name in dataset.data_vars], axis=-1)


def test_an_earlier_start_is_the_longer_forecast_from_then(job):
    lagged = made(job("lagged", members=3, start="none", earlier=["6h", "12h"]))
    for number, hours in enumerate((0, 6, 12)):
        lag = np.timedelta64(hours, "h")
        begin, end = (str(np.datetime64(time) - lag) for time in ("2021-03-01T12", "2021-03-02T00"))
        alone = made(job(f"alone{number}", first=begin, last=end, lead=f"{18 + hours}h"))
        wanted = alone.sel(prediction_timedelta=slice(np.timedelta64(hours + 6, "h"), None))
        np.testing.assert_array_equal(fields(lagged.sel(number=number)), fields(wanted))


def test_members_of_other_checkpoints_are_what_these_make(job, inputs):
    both = made(
        job("both", members=3, start="none", cascades=[str(inputs / "turned"), f"12h:{inputs / 'down'},1d:{inputs / 'up'}"])
    )
    np.testing.assert_array_equal(fields(both.sel(number=0)), fields(made(job("first"))))
    np.testing.assert_array_equal(fields(both.sel(number=1)), fields(made(job("second", network="down"))))
    third = replace(job("third"), cascade=[f"12h:{inputs / 'down'}", f"1d:{inputs / 'up'}"])
    np.testing.assert_array_equal(fields(both.sel(number=2)), fields(made(third)))
    assert len(both.attrs["checkpoint_sha256"]) == 4


def test_pairs_take_turns_and_the_control_stays_the_first():
    config = EnsembleConfig(members=9, earlier=["6h"], cascades=["10d:a"])
    turns = [(0, 0), (0, 6), (0, 6), (1, 0), (1, 0), (1, 6), (1, 6), (0, 0), (0, 0)]
    assert [config.variant(number) for number in config.numbers] == [Variant(*turn) for turn in turns]
    assert config.variant(None) == Variant(0, 0)
    assert EnsembleConfig(members=2, start="none", earlier=["6h", "3d"]).longest_lag == 6


class Growing(Extrapolation):
    """Differences from the mean state grow where it is warm, by 1.5 a step, and are halved elsewhere: linear."""

    def forward(self, frames, forcings, features):
        return frames[:, -1] * self.growth(frames)

    def growth(self, frames):
        return torch.linspace(0.5, 1.5, frames.shape[-2])[:, None].expand(frames.shape[-2:])


def test_a_bred_vector_of_a_linear_model_is_its_power_applied_to_the_seed():
    """After n steps growth^n * seed, of the size that was asked for: relative to the change, its mean square over channels."""
    cascade = Cascade.of(Growing(requirements_of(ANALYSIS)), 3)
    rng = np.random.default_rng(0)
    drawn = rng.normal(0, [[[1.0]], [[1.0]], [[100.0]]], (2, 3, 13, 24)).astype(np.float32)
    drawn[1] = 0
    change = rng.normal(0, [[[2.0]], [[3.0]], [[500.0]]], (2, 3, 13, 24)).astype(np.float32)
    config = EnsembleConfig(members=3, start="bred", breeding_steps=5, amplitude=0.3)
    bred = breed(cascade, ANALYSIS, np.array([TIME, TIME]), drawn, change, config, "cpu", "fp32")
    wanted = drawn[0] * np.linspace(0.5, 1.5, 13)[:, None] ** 5
    latitude = cascade.latitude
    ratio = sizes_of(wanted.astype(np.float32), latitude) / sizes_of(change[0], latitude)
    wanted *= 0.3 / np.sqrt(np.mean(ratio**2))
    # Differences of pressures of 1e5 Pa carry their rounding, 8e-3 Pa a step.
    np.testing.assert_allclose(bred[0, :2], wanted[:2], atol=3e-4)
    np.testing.assert_allclose(bred[0, 2], wanted[2], atol=0.1)
    assert not bred[1].any()


def test_breeding_reads_the_steps_before_and_the_control_stays_the_analysis(job):
    config = job("bred", members=3, start="bred", breeding_steps=4)
    ensemble, single = made(config), made(job("single"))
    np.testing.assert_array_equal(fields(ensemble.sel(number=0)), fields(single))
    plus, minus, control = (fields(ensemble.sel(number=number)) for number in (1, 2, 0))
    assert np.abs(plus - control).max() > 0.1
    np.testing.assert_allclose((plus + minus) / 2, control, rtol=1e-6, atol=1e-3)  # linear, but for float32's rounding
    early = job("early", first="2021-02-27T12", members=3, start="bred", breeding_steps=4)
    with pytest.raises(ForecastError, match="analysis of 2021-02-26T12 is missing: the store covers 2021-02-27T00"):
        run_forecasts(early)


def test_dropout_leaves_out_its_share_and_keeps_the_mean():
    layer = MemberDropout(0.3)
    x = torch.ones(2, 20000, 1, 1)
    assert torch.equal(layer(x), x)
    with dropping([layer], [np.random.default_rng(0), None]):
        got, again = layer(x), layer(x)
    assert torch.equal(got[1], x[1])
    assert got[0].unique().tolist() == pytest.approx([0, 1 / 0.7])
    # The share of 20000 draws is known to sqrt(0.21 / 20000) = 0.003; five times that is allowed.
    assert float((got[0] == 0).float().mean()) == pytest.approx(0.3, abs=0.016)
    assert not torch.equal(got[0], again[0])
    assert torch.equal(layer(x), x)


def test_every_layer_with_dropout_draws_and_nothing_else_changes():
    model = make_puyun(dropout=0.1)
    layers = install(model, 0.4)
    assert len(layers) == sum(isinstance(module, MemberDropout) for module in model.modules()) == 2
    assert not any(isinstance(module, nn.Dropout2d) for module in model.modules())
    assert {layer.share for layer in layers} == {0.4}


def test_members_with_dropout_differ_and_the_control_leaves_nothing_out(job):
    one = {"network": "one", "batch_size": 1}  # the last bits depend on the place in a batch
    dropped = made(job("dropped", members=3, start="none", dropout=0.3, **one))
    control, first, second = (fields(dropped.sel(number=number)) for number in range(3))
    np.testing.assert_array_equal(control, fields(made(job("single", **one))))
    for one, other in ((control, first), (control, second), (first, second)):
        assert np.abs(one - other).max() > 1e-3
    seeded = made(job("seeded", network="one", members=2, start="none", dropout=0.3, seed=1))
    assert np.abs(fields(seeded.sel(number=1)) - first).max() > 1e-3


@pytest.fixture
def everything(job, inputs):
    """Settings of a job whose members differ in every way."""
    ways = {"start": "bred", "breeding_steps": 2, "earlier": ["6h"], "cascades": [str(inputs / "other")], "dropout": 0.3}
    return partial(job, network="one", last="2021-03-01T18", lead="12h", members=5, seed=3, **ways)


def test_members_are_the_same_in_whatever_order_and_process_they_are_made(everything, tmp_path):
    """Workers that load the job anew and make its batches from the last to the first give the same bits."""
    whole = made(everything("whole"))
    config = everything("backwards")
    work = Work(config)
    create_forecast_store(config.out, work.layout, work.attributes(work.outputs[0]))
    batches = work.batches()
    assert [{config.ensemble.variant(member) for _, member in batch.forecasts} for batch in batches] == [
        {Variant(0, 0)}, {Variant(0, 6)}, {Variant(0, 6)}, {Variant(1, 0)}, {Variant(1, 0)},
    ]  # fmt: skip
    for batch in batches[::-1]:
        Work(config).make(batch, Journal(tmp_path / "runs"))
    np.testing.assert_array_equal(fields(open_forecast_store(config.out).load()), fields(whole))


def test_members_do_not_depend_on_the_batch_but_for_rounding(everything):
    small, large = fields(made(everything("small", batch_size=2))), fields(made(everything("large", batch_size=5)))
    np.testing.assert_allclose(small, large, rtol=1e-5, atol=1e-3 * small.std())


@pytest.mark.parametrize(
    ("network", "ensemble", "what"),
    [
        ("forgetful", {"members": 2}, "ensemble.members needs a first stage that reads 2 or more states"),
        ("up", {"members": 2, "dropout": 0.1}, "ensemble.dropout needs networks that have layers with dropout; Extrapolation"),
        ("up", {"members": 5, "cascades": ["fewer"]}, r"ensemble.cascades\[0\] must have the channels of cascade"),
        ("up", {"members": 5, "cascades": ["slow"]}, "members that start 0 h earlier must make the lead times of the others"),
        (
            "slow",
            {"members": 5, "earlier": ["6h"]},
            r"stage 0 \(slow\) makes a state every 12 h and must cover a multiple of that; got 0 to 30 h",
        ),
        ("up", {"members": 5, "earlier": ["9d"]}, "analysis of 2021-02-20T12 is missing"),
    ],
)
def test_members_that_cannot_be_made_are_refused_before_a_store_is(job, inputs, network, ensemble, what):
    ensemble["cascades"] = [str(inputs / name) for name in ensemble.get("cascades", [])]
    config = job("refused", network=network, lead="24h", **ensemble)
    with pytest.raises(ForecastError, match=what):
        run_forecasts(config)
    assert not Path(config.out).exists()


@pytest.mark.parametrize("way", [{"earlier": ["6h"]}, {"cascades": ["down"]}, {"dropout": 0.1}])
def test_branches_refuse_members_that_share_no_steps(job, inputs, way):
    config = job("one", members=3, **way)
    with pytest.raises(ForecastError, match=f"branches cannot hold members that differ by ensemble.{next(iter(way))}"):
        replace(config, branches={"two": [str(inputs / "up")]})


def test_branches_hold_the_bred_members_of_jobs_of_their_own(job, inputs, tmp_path):
    """Their first stages differ, so each is bred by its own."""
    bred = {"members": 3, "start": "bred", "breeding_steps": 2}
    both = replace(job("up", **bred), branches={str(tmp_path / "turned"): [str(inputs / "turned")]})
    run_forecasts(both)
    for name in ("up", "turned"):
        alone = made(job(f"{name} alone", network=name, **bred))
        together = open_forecast_store(tmp_path / name).load()
        np.testing.assert_array_equal(fields(together), fields(alone))


def test_a_bred_vector_that_dies_out_is_told():
    class Forgets(Extrapolation):
        def forward(self, frames, forcings, features):
            return torch.zeros_like(frames[:, -1])

    ones = np.ones((1, 3, 13, 24), np.float32)
    cascade = Cascade.of(Forgets(requirements_of(ANALYSIS)), 1)
    with pytest.raises(ForecastError, match="a bred vector died out"):
        breed(cascade, ANALYSIS, np.array([TIME]), ones, ones, EnsembleConfig(members=2, start="bred"), "cpu", "fp32")


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"start": "guess"}, "ensemble.start must be one of matern, bred, none; got 'guess'"),
        ({"breeding_steps": 0}, "ensemble.breeding_steps must be at least 1; got 0"),
        ({"dropout": 1.0}, r"ensemble.dropout must lie in \[0, 1\); got 1.0"),
        ({"earlier": ["6h", "6h"]}, "ensemble.earlier must hold each time once"),
        ({"earlier": ["0h"]}, "ensemble.earlier must be a number of hours or days"),
        ({"start": "none", "members": 5, "earlier": ["6h"], "cascades": ["a"]}, "ensemble.members must be at most 4 .*got 5"),
    ],
)
def test_members_that_make_no_sense_are_refused(changes, what):
    with pytest.raises(ForecastError, match=what):
        EnsembleConfig(**changes)
