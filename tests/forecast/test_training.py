"""Training: it learns, it starts later stages where earlier ones end, and it says what is wrong."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

from data_pipelines.area import cell_area_weights
from data_pipelines.statistics import compute_statistics
from data_pipelines.store import ACCEPTED, open_analysis
from forecast.calibration import combine, load_moments
from forecast.checkpoint import load_checkpoint, read_description
from forecast.puyun import PuYun
from forecast.rollout import rollout
from forecast.stages import load_cascade
from forecast.state import read_states
from forecast.training import SourceConfig, Trainer
from forecast.training.objective import Ahead, LeadBalance
from forecast.training.source import Source
from tests.helpers.analyses import make_analysis
from tests.helpers.training import CHANNELS, config_for, moving_wave, store


@pytest.fixture(scope="module")
def wave(tmp_path_factory: pytest.TempPathFactory) -> str:
    return store(tmp_path_factory.mktemp("wave") / "wave.zarr", moving_wave())


def test_training_learns_where_waves_go(tmp_path: Path, wave: str) -> None:
    config = config_for(
        tmp_path, wave, steps=60, batch_size=4, replay_buffer=8, learning_rate=1e-2, ema=0.9, lead_until_hours=12
    )
    trainer = Trainer(config)
    before = trainer.validate()
    folder = trainer.run()
    after = trainer.validate()
    assert set(after) == {f"{name} {hours} h" for name in CHANNELS for hours in (6, 12)}
    assert all(after[key] < 0.5 * before[key] for key in after)

    assert (tmp_path / "run" / "curves.png").stat().st_size > 10_000
    entries = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert entries[-1]["validation"] == after
    assert entries[0]["step"] == 10
    assert read_description(folder).training_span == "2021-02-27T00/2021-03-08T18"
    assert isinstance(load_checkpoint(folder), PuYun)


def test_untrained_validation_is_persistence(tmp_path: Path, wave: str) -> None:
    """An untrained network repeats its last frame: its scores are those of the shifted analysis."""
    analysis = open_analysis(wave)
    got = Trainer(config_for(tmp_path, wave, lead_until_hours=12)).validate()
    inside = analysis.sel(time=slice("2021-03-10", "2021-03-12"))
    area = np.sin(np.deg2rad(np.minimum(90, analysis.latitude + 7.5))) - np.sin(
        np.deg2rad(np.maximum(-90, analysis.latitude - 7.5))
    )
    for hours in (6, 12):
        earlier = analysis.shift(time=hours // 6).sel(time=inside.time)
        error = (
            ((inside - earlier)["mean_sea_level_pressure"] ** 2)
            .weighted(area / area.mean())
            .mean(["time", "latitude", "longitude"])
        )
        assert got[f"mean_sea_level_pressure {hours} h"] == pytest.approx(float(error) ** 0.5, rel=1e-4)


def test_later_stage_starts_from_states_of_the_earlier_one(tmp_path: Path, wave: str) -> None:
    first = Trainer(config_for(tmp_path, wave, steps=4))
    earlier = first.run()
    settings = {
        "out": str(tmp_path / "second"),
        "earlier_stages": [str(earlier)],
        "earlier_until_hours": [12],
        "lead_until_hours": 24,
    }
    trainer = Trainer(config_for(tmp_path, wave, **settings))
    draw = trainer.buffer.draw(2)
    assert (draw.lead == 2).all()

    model, source, index = load_checkpoint(earlier), trainer.sources[0], int(draw.index[0])
    frames = source.states([index - 3, index - 2])
    for step in range(2):
        inputs = model.inputs_at(source.times[[index - 2 + step]], np.array([6.0 * step]))
        with torch.no_grad():
            frames = torch.stack([frames[-1], model(frames[None], *inputs)[0]])
    torch.testing.assert_close(draw.frames[0], frames)
    for _ in range(4):
        trainer.train_step()
    assert all(2 <= lead < 4 for *_, lead in trainer.buffer.slots)


def test_steps_may_be_longer_than_the_stores(tmp_path: Path, wave: str) -> None:
    """Every state is learned from and validated on, each with those a step before and after it."""
    trainer = Trainer(config_for(tmp_path, wave, step_hours=12, lead_until_hours=24, validation_leads=[6, 12, 24]))
    need, source = trainer.requirements, trainer.sources[0]
    assert (need.step_hours, need.interval_hours, need.phases_per_day) == (12, 6, 4)
    seen = set()
    for _ in range(80):
        draw = trainer.buffer.draw(2)
        for index, lead, frames in zip(draw.index, draw.lead, draw.frames, strict=True):
            around = source.times[[index - 1, index, index + 1]]
            assert (np.diff(around) == np.timedelta64(12, "h")).all()
            if lead == 0:
                torch.testing.assert_close(frames, source.states([index - 1, index]), rtol=0, atol=0)
                seen.add(int(around[1].astype("datetime64[h]").astype(int) % 24))
        trainer.buffer.put_back(draw, draw.frames)
    assert seen == {0, 6, 12, 18}

    analysis = open_analysis(wave)
    area = xr.DataArray(cell_area_weights(analysis.latitude.values), dims="latitude")
    over_two = [analysis["mean_sea_level_pressure"][first:40:2].diff("time").weighted(area).std() for first in (0, 1)]
    assert float(trainer.model.tendency[1]) == pytest.approx(np.sqrt(np.mean(np.square(over_two))), rel=1e-4)

    inside = analysis.sel(time=slice("2021-03-10", "2021-03-12"))
    got = trainer.validate()
    assert set(got) == {f"{name} {hours} h" for name in CHANNELS for hours in (12, 24)}
    for hours in (12, 24):  # an untrained network repeats its last frame
        error = (inside - analysis.shift(time=hours // 6).sel(time=inside.time))["mean_sea_level_pressure"] ** 2
        wanted = float(error.weighted(area).mean()) ** 0.5
        assert got[f"mean_sea_level_pressure {hours} h"] == pytest.approx(wanted, rel=1e-4)


def test_a_network_of_long_steps_is_trained_calibrated_and_run_behind_one_of_short_ones(tmp_path: Path, wave: str) -> None:
    settings: dict = {"step_hours": 12, "lead_until_hours": 24, "validation_leads": [12, 24], "calibrate": True}
    long = Trainer(config_for(tmp_path, wave, steps=2, **settings)).run()
    short = Trainer(config_for(tmp_path / "short", wave, steps=2)).run()
    behind: dict = settings | {"earlier_stages": [str(long)], "earlier_until_hours": [24], "lead_until_hours": 48}
    medium = Trainer(config_for(tmp_path / "medium", wave, steps=2, **(behind | {"validation_leads": [36]}))).run()
    cascade, _ = load_cascade([f"6h:{short}", f"24h:{long}", f"48h:{medium}"], 48)
    times = np.array(["2021-03-10T00"], "datetime64[ns]")
    raw = list(rollout(cascade, open_analysis(wave), times, 8, "cpu", calibrated=False))
    assert [(state.lead_hours, state.stage) for state in raw] == [(6, 0), (12, 1), (18, 1), (24, 1)] + [
        (hours, 2) for hours in (30, 36, 42, 48)
    ]

    shown = list(rollout(cascade, open_analysis(wave), times, 8, "cpu"))
    model = load_checkpoint(medium)
    initial = torch.from_numpy(read_states(open_analysis(wave), CHANNELS, times))
    first, second = model.calibration[2:, ..., None]
    for number, weights in ((4, first), (5, first), (6, (first + second) / 2), (7, second)):
        usual = model.usual_state(times + np.timedelta64(raw[number].lead_hours, "h"))
        anomaly = weights[0] * (raw[number].fields - usual) + weights[1] * (initial - model.usual_state(times))
        torch.testing.assert_close(shown[number].fields, usual + anomaly, rtol=1e-5, atol=1e-3)


def test_calibration_shares_a_day_however_long_the_steps_are(tmp_path: Path, wave: str) -> None:
    settings: dict = {"step_hours": 12, "lead_until_hours": 48, "validation_leads": [12]}
    runs = [tmp_path / name / "run" for name in ("a", "b")]
    for seed, run in enumerate(runs):
        first = Trainer(config_for(run.parent, wave, seed=seed, calibrate=True, **settings)).run()
    settings |= {"initial": [str(first)], "calibration_from": [str(run) for run in runs], "steps": 0}
    model = Trainer(config_for(tmp_path, wave, **settings)).model
    parts = load_moments([str(run) for run in runs], 4)
    torch.testing.assert_close(model.calibration, combine(parts, model.requirements.latitude, 12), rtol=0, atol=0)
    assert not torch.equal(model.calibration, combine(parts, model.requirements.latitude, 6))


def test_held_out_days_are_not_learned_from_but_count_in_the_statistics(tmp_path: Path, wave: str) -> None:
    held_out = SourceConfig(
        store=wave, start="2021-02-27", end="2021-03-08", held_out_start="2021-03-02", held_out_end="2021-03-05"
    )
    trainer = Trainer(config_for(tmp_path, wave, sources={"wave": held_out}, lead_until_hours=12))
    whole = Trainer(config_for(tmp_path / "whole", wave))
    torch.testing.assert_close(trainer.model.mean_field, whole.model.mean_field, rtol=0, atol=0)
    source, seen = trainer.sources[0], set()
    for _ in range(60):
        draw = trainer.buffer.draw(2)
        for index in draw.index:
            assert source.connected(int(index), 1)
            seen |= {str(source.times[index + step])[:10] for step in (-1, 0, 1)}
        trainer.buffer.put_back(draw, draw.frames)
    assert seen == {f"2021-{day}" for day in ("02-27", "02-28", "03-01", "03-06", "03-07", "03-08")}


def test_validation_starts_from_held_out_days(tmp_path: Path, wave: str) -> None:
    held_out = SourceConfig(
        store=wave, start="2021-02-27", end="2021-03-12", held_out_start="2021-03-10", held_out_end="2021-03-12"
    )
    trainer = Trainer(config_for(tmp_path, wave, sources={"wave": held_out}, lead_until_hours=24))
    counts = [len(truth) for *_, truth in trainer.validation.forecasts(4)]
    assert counts == [11, 10, 9, 8]
    long = Trainer(
        config_for(
            tmp_path / "long", wave, sources={"wave": held_out}, lead_until_hours=24, step_hours=12, validation_leads=[12]
        )
    )
    forecasts = list(long.validation.forecasts(2))
    assert [len(one.truth) for one in forecasts] == [10, 8]
    assert min(forecasts[0].initial_time) == np.datetime64("2021-03-10T00")
    free = Trainer(config_for(tmp_path / "free", wave, lead_until_hours=24))
    assert [len(truth) for *_, truth in free.validation.forecasts(4)] == [12, 12, 12, 12]


def test_days_that_are_learned_from_do_not_validate(tmp_path: Path, wave: str) -> None:
    into = SourceConfig(store=wave, start="2021-02-27", end="2021-03-11")
    with pytest.raises(ValueError, match=r"holds 8 states that are learned from.*End sources.wave before"):
        Trainer(config_for(tmp_path, wave, sources={"wave": into}))


def test_calibration_comes_from_trainings_that_held_days_out(tmp_path: Path, wave: str) -> None:
    runs = [tmp_path / name / "run" for name in ("a", "b")]
    for seed, run in enumerate(runs):
        first = Trainer(config_for(run.parent, wave, seed=seed, calibrate=True, lead_until_hours=12)).run()
    settings: dict = {"initial": [str(first)], "calibration_from": [str(run) for run in runs], "steps": 0}
    model = load_checkpoint(Trainer(config_for(tmp_path, wave, lead_until_hours=12, **settings)).run())
    wanted = combine(load_moments([str(run) for run in runs], 2), model.requirements.latitude, 6)
    torch.testing.assert_close(model.calibration, wanted, rtol=0, atol=0)
    torch.testing.assert_close(model.head.weight, load_checkpoint(first).head.weight, rtol=0, atol=0)


def test_matched_source_has_the_first_ones_statistics(tmp_path: Path, wave: str) -> None:
    other = moving_wave()
    other["mean_sea_level_pressure"] = (other["mean_sea_level_pressure"] * 3 - 5e4).assign_attrs(units="Pa")
    path = store(tmp_path / "other.zarr", other)
    sources = {"wave": SourceConfig(store=wave), "other": SourceConfig(store=path, match_statistics=True)}
    trainer = Trainer(config_for(tmp_path, wave, sources=sources, validation_start="", validation_end=""))
    wanted = trainer.sources[0].states(range(60))
    torch.testing.assert_close(trainer.sources[1].states(range(60)), wanted, rtol=1e-5, atol=0.2)


def test_first_source_gives_the_statistics(tmp_path: Path, wave: str) -> None:
    trainer = Trainer(config_for(tmp_path, wave))
    wanted = compute_statistics(open_analysis(wave).sel(time=slice("2021-02-27", "2021-03-08"))).sel(channel=CHANNELS)
    np.testing.assert_allclose(trainer.model.tendency.flatten(), wanted["tendency_standard_deviation"], rtol=1e-6)


def test_a_sharp_minimum_is_left_by_the_gradient_from_up_the_loss(tmp_path: Path, wave: str) -> None:
    """By hand: two passes of a trainer without it, the second one with weights moved along the first one's gradient."""
    radius, trainer = 0.05, Trainer(config_for(tmp_path, wave))
    for value in trainer.model.parameters():  # the head begins closed: then nothing before it has a gradient
        value.data.add_(0.1 * torch.randn_like(value))
    weights = {name: value.detach().clone() for name, value in trainer.model.named_parameters()}
    draw = trainer.buffer.draw(2)
    steps = [trainer._ahead(draw, 0)]

    def gradient() -> dict[str, torch.Tensor]:
        trainer.model.zero_grad()
        trainer._passes(draw, steps)
        return {name: value.grad.clone() for name, value in trainer.model.named_parameters()}

    first = gradient()
    trainer.config.sharpness = radius
    trainer._climb(draw, steps)
    got = {name: value.grad.clone() for name, value in trainer.model.named_parameters()}
    for name, value in trainer.model.named_parameters():
        torch.testing.assert_close(value.detach(), weights[name], rtol=0, atol=0)
    length = torch.sqrt(sum((one**2).sum() for one in first.values()))
    for name, value in trainer.model.named_parameters():
        value.data.add_(radius * first[name] / length)
    wanted = gradient()
    for name in wanted:
        torch.testing.assert_close(got[name], wanted[name], rtol=1e-4, atol=1e-6)
    assert max(float((got[name] - first[name]).abs().max()) for name in first) > 1e-3


def test_a_step_goes_along_the_gradient_from_up_the_loss(tmp_path: Path, wave: str) -> None:
    one, other = (Trainer(config_for(tmp_path, wave, sharpness=0.1, clip=0.01)) for _ in range(2))
    for _ in range(2):
        one.train_step()
        draw = other.buffer.draw(2)
        steps = [other._ahead(draw, 0)]
        other.model.train()
        _, errors, frames = other._passes(draw, steps)
        other.balance.update(draw.lead, errors[0])
        other._climb(draw, steps)
        torch.nn.utils.clip_grad_norm_(other.model.parameters(), 0.01)
        other.optimiser.step()
        other.optimiser.zero_grad()
        other.schedule.step()
        other.buffer.put_back(draw, frames, 1)
    for ours, theirs in zip(one.model.parameters(), other.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_a_loss_that_is_lost_up_the_gradient_is_told(tmp_path: Path, wave: str) -> None:
    trainer = Trainer(config_for(tmp_path, wave, sharpness=1e30))
    with pytest.raises(ValueError, match="the loss is (nan|inf) at step 1; lower learning_rate or sharpness"):
        trainer.train_step()
    assert all(torch.isfinite(value).all() for value in trainer.model.parameters())


def test_the_gradient_is_of_the_hardest_forecasts(tmp_path: Path, wave: str) -> None:
    trainer = Trainer(config_for(tmp_path, wave, batch_size=4, hardest=0.5))
    draw = trainer.buffer.draw(4)
    ahead = trainer._ahead(draw, 0)
    ahead.weight = torch.tensor([1.0, 100.0, 1.0, 50.0])
    trainer.model.train()
    loss, errors, _ = trainer._passes(draw, [ahead])
    got = {name: value.grad.clone() for name, value in trainer.model.named_parameters()}
    trainer.optimiser.zero_grad(set_to_none=True)
    kept = [1, 3]
    trainer.objective.hardest = 1.0
    part = Ahead(ahead.forcings[kept], ahead.features[kept], ahead.truth[kept], ahead.weight[kept])
    wanted, _, _ = trainer.objective(draw.frames[kept], [part])
    wanted.backward()
    torch.testing.assert_close(loss, wanted.detach(), rtol=1e-6, atol=0)
    assert errors.shape == (1, 4)  # of all, for the balance of lead times
    for name, value in trainer.model.named_parameters():
        torch.testing.assert_close(got[name], value.grad, rtol=1e-4, atol=1e-5)


def test_hidden_squares_show_the_mean_field_and_nothing_else_changes(tmp_path: Path, wave: str) -> None:
    trainer = Trainer(config_for(tmp_path, wave, masked=0.4))
    frames = torch.randn(50, 2, *trainer.model.mean_field.shape) * 1e3
    seen = trainer._masked(frames)
    hidden = (seen != frames).all(dim=(1, 2))
    torch.testing.assert_close(seen, torch.where(hidden[:, None, None], trainer.model.mean_field, frames), rtol=0, atol=0)
    whole = hidden[:, : hidden.shape[1] // 4 * 4, : hidden.shape[2] // 4 * 4]
    squares = whole.unflatten(1, (-1, 4)).unflatten(3, (-1, 4)).float().mean(dim=(2, 4))
    assert ((squares == 0) | (squares == 1)).all()
    assert float(squares.mean()) == pytest.approx(0.4, abs=0.05)
    assert len(torch.unique(squares.flatten(1), dim=0)) > 40  # each forecast hides other squares


def test_what_is_hidden_is_what_the_network_is_given(tmp_path: Path, wave: str, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(config_for(tmp_path, wave, masked=0.4))
    monkeypatch.setattr(trainer, "_masked", lambda frames: frames + 7.0)
    given, drawn = [], []
    trainer.objective.register_forward_pre_hook(lambda module, inputs: given.append(inputs[0].clone()))
    draw = trainer.buffer.draw
    monkeypatch.setattr(trainer.buffer, "draw", lambda size: drawn.append(draw(size)) or drawn[-1])
    trainer.train_step()
    torch.testing.assert_close(given[0], drawn[0].frames + 7.0, rtol=0, atol=0)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_share_of_the_steps_sees_the_mirrored_globe(tmp_path: Path, wave: str, share: float) -> None:
    trainer = Trainer(config_for(tmp_path, wave, mirrored=share))
    seen = []
    mirrored = trainer.model.mirrored_tendency
    trainer.model.mirrored_tendency = lambda *given: seen.append(1) or mirrored(*given)
    for _ in range(12):
        trainer.train_step()
    assert len(seen) == {0.0: 0, 1.0: 12}.get(share, pytest.approx(6, abs=4))


def test_waiting_for_data_is_counted(tmp_path: Path, wave: str) -> None:
    trainer = Trainer(config_for(tmp_path, wave))
    trainer.train_step()
    assert trainer.waited > 0


def test_lead_times_are_balanced_by_their_running_mean() -> None:
    balance = LeadBalance(3, rate=0.5)
    balance.update(np.array([0, 2]), torch.tensor([4.0, 8.0]))
    balance.update(np.array([0]), torch.tensor([2.0]))
    torch.testing.assert_close(balance.weights(np.array([0, 1, 2])), torch.tensor([1 / 3, 1.0, 1 / 8]))


def test_another_span_of_a_source_shares_what_was_read(wave: str) -> None:
    days = {"held_out_start": "2021-03-01", "held_out_end": "2021-03-02"}
    source = Source(SourceConfig(store=wave, start="2021-02-28", end="2021-03-04", **days), CHANNELS)
    whole = source.spanning()
    assert whole.reader is source.reader
    assert (len(source), len(whole)) == (3 * 4, whole.dataset.sizes["time"])
    assert len(source.spanning("2021-02-28", "2021-03-04")) == 5 * 4
    position = int(np.searchsorted(whole.times, source.times[7]))
    torch.testing.assert_close(whole.states([position]), source.states([7]), rtol=0, atol=0)


def test_forecast_does_not_cross_a_gap(tmp_path: Path) -> None:
    broken = moving_wave(24).isel(time=[*range(10), *range(12, 24)]).assign_attrs({ACCEPTED: ["gaps"]})
    source = Source(SourceConfig(store=store(tmp_path / "gap.zarr", broken)), CHANNELS)
    assert source.connected(8, 1)
    assert not source.connected(9, 1)
    assert not source.connected(21, 1)


def test_long_steps_do_not_cross_a_gap_and_every_start_has_its_truth(tmp_path: Path, wave: str) -> None:
    broken = moving_wave(40).isel(time=[*range(15), *range(18, 40)]).assign_attrs({ACCEPTED: ["gaps"]})
    gap = SourceConfig(store=store(tmp_path / "gap.zarr", broken))
    settings: dict = {"step_hours": 12, "lead_until_hours": 36, "unroll": 3, "replay_buffer": 2, "fresh_share": 1.0}
    sources = {"grid": SourceConfig(store=wave, share=0.0), "gap": gap}
    trainer = Trainer(config_for(tmp_path, wave, sources=sources, validation_start="", validation_end="", **settings))
    source, starts = trainer.sources[1], set()
    for _ in range(80):
        for index in trainer.buffer.draw(2).index:
            starts.add(source.times[index])
            assert (np.diff(source.times[index - 1 : index + 4]) == np.timedelta64(12, "h")).all()
    # Two states of history before each start, six after it: neither may cross the gap.
    every = [times[2 : len(times) - 6] for times in np.split(broken["time"].values, [15])]
    assert starts == set(np.concatenate(every))


@pytest.mark.parametrize(("settings", "message"), [
    ({"steps": 0}, "steps must be at least 1, or 0 to calibrate what initial holds; got 0"),
    ({"precision": "fp16"}, "precision must be one of .*bf16.*; got 'fp16'"),
    ({"ema": 1.0}, r"ema must lie in \[0, 1\)"),
    ({"sharpness": -0.1}, "sharpness must be a radius of at least 0, and is 0 for none; got -0.1"),
    ({"sharpness": float("nan")}, "sharpness must be a radius of at least 0, and is 0 for none; got nan"),
    ({"hardest": 0.0}, "hardest must be a share above 0, and is 1 for the whole batch; got 0.0"),
    ({"hardest": 0.5, "bands": 2}, "hardest needs whole globes, whose errors it ranks; got hardest=0.5, bands=2"),
    ({"hardest": 0.4, "accumulate": 2}, "hardest=0.4 of the 1 forecasts of a pass are all of them; lower it"),
    ({"hardest": 0.9}, "hardest=0.9 of the 2 forecasts of a pass are all of them; lower it"),
    ({"masked": 0.5, "lead_until_hours": 24}, "masked is for the first step.*Got lead_until_hours=24; use 6, or masked=0"),
    ({"mirrored": 1.5}, "mirrored must be a share of the steps, 0 to 1; got 1.5"),
    ({"mirrored": 0.5, "bands": 2}, "mirrored is for whole globes; got 0.5 with a simulator or bands, use 0"),
    ({"step_hours": -6}, "step_hours must be a number of hours, 0 for the stores' own step, and 0 for waves; got -6"),
    ({"step_hours": 9, "lead_until_hours": 9}, "step_hours must be a multiple of the step of .*wave.zarr, 6 h; got 9"),
    ({"step_hours": 12}, "earlier_until_hours and lead_until_hours must be multiples of the step of 12 h; got 6"),
    (
        {"step_hours": 12, "lead_until_hours": 24, "validation_leads": [6, 18]},
        r"validation_leads must hold a lead time that the stage makes, in steps of 12 h to 24 h; got \[6, 18\]. Add 24",
    ),
    (
        {"step_hours": 12, "lead_until_hours": 24, "sources": {"wave": {"lead_until_hours": 6}}},
        "lead_until_hours of .*wave.zarr must be a multiple of the step of 12 h, or 0 for the stage's; got 6",
    ),
    ({"masked": 1.0}, r"masked must lie in \[0, 1\), and is 0 for none; got 1.0"),
    ({"earlier_stages": ["short"]}, "earlier_until_hours must name one hand-over for each"),
    ({"calibrate": True, "validation_end": ""}, "calibrate needs a validation span"),
    ({"calibrate": True, "calibration_from": ["a"]}, "calibrate fits the weights that calibration_from would give"),
    ({"sources": {}}, "sources is empty.*sources.era5.store"),
    ({"sources": {"wave": {"start": "1999-01-01", "end": "1999-02-01"}}}, "span 1999-01-01..1999-02-01 holds 0 states.*Widen"),
    ({"learning_rate": float("inf"), "warm_up": 0}, "the loss is nan at step 2; lower learning_rate"),
])  # fmt: skip
def test_wrong_settings_are_refused_by_name(tmp_path: Path, wave: str, settings: dict, message: str) -> None:
    if settings.get("sources"):
        settings = settings | {"sources": {"wave": SourceConfig(store=wave, **settings["sources"]["wave"])}}
    with pytest.raises(ValueError, match=message):
        Trainer(config_for(tmp_path, wave, **settings)).run()


@pytest.mark.parametrize("has_instructions", [True, False])
def test_precision_left_to_the_machine_is_bfloat16_only_where_it_has_instructions(
    tmp_path: Path, wave: str, monkeypatch: pytest.MonkeyPatch, has_instructions: bool
) -> None:
    """Emulated bfloat16 makes a training step ten times slower than float32."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": has_instructions})
    trainer = Trainer(config_for(tmp_path, wave, precision="auto"))
    seen = []
    trainer.model.head.register_forward_pre_hook(lambda module, inputs: seen.append(torch.is_autocast_enabled("cpu")))
    trainer.train_step()
    assert seen == [has_instructions]


def test_negative_share_is_refused() -> None:
    with pytest.raises(ValueError, match="share must not be negative"):
        SourceConfig(share=-1.0)


def test_calibration_finds_the_mean_field_in_noise(tmp_path: Path) -> None:
    """Noise without memory: an untrained network repeats it, and the best forecast is the mean field."""
    path = store(tmp_path / "noise.zarr", make_analysis(steps=60, rows=13, columns=24))
    trainer = Trainer(config_for(tmp_path, path, calibrate=True, lead_until_hours=48, validation_leads=[6, 48]))
    before = trainer.validate()
    trainer.validation.calibrate()
    after = trainer.validate()
    assert trainer.average.calibration.shape == (8, 2, len(CHANNELS), 13)
    # Persistence would have weights of 1. A mean of ten days is common to both anomalies and is worth something.
    assert float(trainer.average.calibration.sum(dim=1).mean()) < 0.4
    for hours in (6, 48):
        error = before[f"mean_sea_level_pressure {hours} h"]
        assert after[f"mean_sea_level_pressure {hours} h"] == pytest.approx(error / 2**0.5, rel=0.1)


def test_usual_state_is_the_mean_of_the_hour(tmp_path: Path, wave: str) -> None:
    model = Trainer(config_for(tmp_path, wave, calibrate=True)).model
    span = open_analysis(wave).sel(time=slice("2021-02-27", "2021-03-08"))["mean_sea_level_pressure"]
    for hour in (0, 18):
        got = model.usual_state(np.array([f"2022-07-01T{hour:02d}"], "datetime64[ns]"))[0, 1]
        np.testing.assert_allclose(got, span[span.time.dt.hour == hour].mean("time"), rtol=1e-6)


def test_no_steps_only_calibrate(tmp_path: Path, wave: str) -> None:
    first = Trainer(config_for(tmp_path, wave)).run()
    settings = {
        "out": str(tmp_path / "second"),
        "initial": [str(first)],
        "steps": 0,
        "calibrate": True,
        "validation_leads": [6],
    }
    second = load_checkpoint(Trainer(config_for(tmp_path, wave, **settings)).run())
    torch.testing.assert_close(second.head.weight, load_checkpoint(first).head.weight, rtol=0, atol=0)
    assert second.calibration.shape == (1, 2, len(CHANNELS), 13)


def test_calibration_is_in_the_checkpoint_and_the_log(tmp_path: Path, wave: str) -> None:
    trainer = Trainer(config_for(tmp_path, wave, calibrate=True, lead_until_hours=12, validation_leads=[6]))
    folder = trainer.run()
    torch.testing.assert_close(load_checkpoint(folder).calibration, trainer.average.calibration, rtol=0, atol=0)
    last = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[-1])
    logged = np.array([[last["calibration"][kind][name] for kind in ("forecast", "initial")] for name in CHANNELS])
    np.testing.assert_allclose(logged.transpose(2, 1, 0), trainer.average.calibration.mean(-1), rtol=1e-5, atol=1e-7)


def test_stage_must_go_beyond_the_earlier_ones(tmp_path: Path, wave: str) -> None:
    earlier = Trainer(config_for(tmp_path, wave)).run()
    settings = {
        "out": str(tmp_path / "second"),
        "earlier_stages": [str(earlier)],
        "earlier_until_hours": [12],
        "lead_until_hours": 12,
    }
    with pytest.raises(ValueError, match="lead_until_hours must lie beyond the earlier stages' 12 h; got 12"):
        Trainer(config_for(tmp_path, wave, **settings))


def test_earlier_stages_of_another_step_are_refused(tmp_path: Path, wave: str) -> None:
    earlier = Trainer(config_for(tmp_path, wave)).run()
    settings: dict = {"earlier_stages": [str(earlier)], "earlier_until_hours": [12], "lead_until_hours": 24, "step_hours": 12}
    with pytest.raises(ValueError, match="earlier_stages must step as far as this stage, 12 h; .* steps 6 h. Set step_hours"):
        Trainer(config_for(tmp_path / "second", wave, **settings))


def test_checkpoint_is_not_overwritten(tmp_path: Path, wave: str) -> None:
    Trainer(config_for(tmp_path, wave, save_every=0)).run()
    with pytest.raises(FileExistsError, match="already holds a checkpoint; choose another folder"):
        Trainer(config_for(tmp_path, wave))
