"""Training of wave simulators in the trainer of the weather: it learns, it stays inside a sample, it goes on exactly."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from data_pipelines.store import data_hash, open_waves
from forecast.checkpoint import load_checkpoint, read_description
from forecast.training import SourceConfig, Trainer, TrainingConfig
from forecast.training.waves import WaveSource
from forecast.wave_simulator import Simulator, SimulatorConfig
from tests.helpers.training import moving_bump, wave_config_for, wave_store

CHANNELS, STATIC = ["displacement", "velocity"], ["wave_speed", "mask"]


@pytest.fixture(scope="module")
def bump(tmp_path_factory: pytest.TempPathFactory) -> str:
    return wave_store(tmp_path_factory.mktemp("bump") / "bump.zarr", moving_bump())


def test_training_learns_where_waves_go(tmp_path: Path, bump: str) -> None:
    config = wave_config_for(tmp_path, bump, steps=80, batch_size=4, replay_buffer=8, learning_rate=1e-2, ema=0.9)
    trainer = Trainer(config)
    before = trainer.validate()
    folder = trainer.run()
    after = trainer.validate()
    assert set(after) == {f"{name} {seconds:g} s" for name in CHANNELS for seconds in (1 / 30, 2 / 30, 3 / 30)}
    assert all(after[key] < 0.5 * before[key] for key in after)

    entries = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert entries[-1]["validation"] == after
    assert 0 <= entries[0]["lead_seconds"] <= 3 / 30
    said = read_description(folder)
    assert said.training_span == "sample 0/sample 3"
    assert said.data_hash == data_hash(open_waves(bump).isel(sample=slice(4)))
    assert isinstance(load_checkpoint(folder), Simulator)
    assert (tmp_path / "run" / "curves.png").stat().st_size > 10_000


def test_untrained_validation_is_persistence(tmp_path: Path, bump: str) -> None:
    """A wave that has moved by 1, 2, 3 of 12 cells differs from itself by 2 sin(pi moved / 12), relative to its size."""
    got = Trainer(wave_config_for(tmp_path, bump)).validate()
    for lead in (1, 2, 3):
        wanted = 2 * np.sin(np.pi * lead / 12)
        assert got[f"displacement {lead / 30:g} s"] == pytest.approx(wanted, rel=1e-5)


def test_forecasts_stay_inside_their_sample(bump: str) -> None:
    source = WaveSource(SourceConfig(store=bump, samples=[2, 4]), CHANNELS, STATIC)
    waves = open_waves(bump)
    assert len(source) == 24
    assert source.connected(6, 1)
    assert not source.connected(7, 1)
    assert not source.connected(6, 2)
    states = source.states([0, 7, 8, 23])
    for state, (sample, frame) in zip(states, [(2, 0), (2, 7), (3, 0), (4, 7)], strict=True):
        for channel, name in enumerate(CHANNELS):
            np.testing.assert_array_equal(state[channel], waves[name].sel(sample=sample).isel(time=frame))
    np.testing.assert_array_equal(source.static(8)[0], waves["wave_speed"].sel(sample=3))


def test_what_is_drawn_is_what_its_position_says(tmp_path: Path, bump: str) -> None:
    """Frames, truth and medium of a draw belong together, at every lead time."""
    trainer = Trainer(wave_config_for(tmp_path, bump, history=2, unroll=2, replay_buffer=12, batch_size=4))
    source = trainer.sources[0]
    seen = set()
    for _ in range(12):
        draw = trainer.buffer.draw(4)
        fresh = draw.lead == 0
        for row in np.flatnonzero(fresh):
            index = int(draw.index[row])
            torch.testing.assert_close(draw.frames[row], source.states([index - 1, index]), rtol=0, atol=0)
            assert source.connected(index, 2)
        ahead = trainer._ahead(draw, 1)
        torch.testing.assert_close(ahead.truth, source.states(draw.index + 2), rtol=0, atol=0)
        for row, index in enumerate(draw.index):
            np.testing.assert_array_equal(ahead.forcings[row], source.static(index))
        seen |= {int(index) // source.frames for index in draw.index}
        trainer.buffer.put_back(draw, draw.frames, 2)
    assert seen == {0, 1, 2, 3}


def test_resumed_training_gives_the_same_losses(tmp_path: Path, bump: str) -> None:
    whole = Trainer(wave_config_for(tmp_path / "whole", bump, steps=6))
    losses = [whole.train_step()["loss"] for _ in range(6)]
    first = Trainer(wave_config_for(tmp_path, bump, steps=6))
    for _ in range(3):
        first.train_step()
    first.save_state()
    again = Trainer(wave_config_for(tmp_path, bump, steps=6, resume=True))
    assert [again.train_step()["loss"] for _ in range(3)] == losses[3:]


def test_training_goes_on_from_a_simulator(tmp_path: Path, bump: str) -> None:
    first = Trainer(wave_config_for(tmp_path / "first", bump)).run()
    trainer = Trainer(wave_config_for(tmp_path, bump, initial=[str(first)]))
    wanted = dict(load_checkpoint(first).named_parameters())
    for name, value in trainer.model.named_parameters():
        torch.testing.assert_close(value, wanted[name], rtol=0, atol=0)


@pytest.mark.parametrize(("settings", "message"), [
    ({"lead_until_steps": 0}, "lead_until_steps is the last lead time of a simulator.* got 0 with simulator"),
    ({"simulator": None}, "got 3 without simulator"),
    ({"lead_until_steps": 8}, r"lead_until_steps must lie in 1..7, what the record of 8 frames holds after .* got 8"),
    ({"validation_samples": [5]}, r"validation_samples must be the first and the last sample, or empty; got \[5\]"),
    ({"validation_samples": [9, 9]}, r"samples \[9, 9\] are not in .*, which holds 0 to 5"),
    ({"earlier_stages": ["a"], "earlier_until_hours": [1]}, "earlier_stages is for stages of the weather"),
    ({"masked": 0.5}, "masked hides the weather behind its mean field, and waves have none; got 0.5, use 0"),
    ({"bands": 2}, "bands are for the globe; a simulator's fields stay whole. Got bands=2, use 1"),
])  # fmt: skip
def test_wrong_settings_are_refused_by_name(tmp_path: Path, bump: str, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Trainer(wave_config_for(tmp_path, bump, **settings))


def test_samples_of_a_source_are_a_range() -> None:
    with pytest.raises(ValueError, match=r"samples must be the first and the last sample, or empty; got \[4, 2\]"):
        SourceConfig(samples=[4, 2])


def test_dates_are_not_for_waves(bump: str) -> None:
    with pytest.raises(ValueError, match="start of a source is for analyses; got 2021-01-01 for waves. Use samples"):
        WaveSource(SourceConfig(store=bump, start="2021-01-01"), CHANNELS, STATIC)


def test_another_network_is_no_initial_simulator(tmp_path: Path, bump: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forecast.training.waves.load_checkpoint", lambda path, device: torch.nn.Linear(1, 1))
    with pytest.raises(ValueError, match="initial must hold checkpoints of Simulator; x is a Linear"):
        Trainer(wave_config_for(tmp_path, bump, initial=["x"]))


def test_a_second_store_must_fit_the_first(tmp_path: Path, bump: str) -> None:
    other = wave_store(tmp_path / "other.zarr", moving_bump().isel(x=slice(6)))
    sources = {"waves": SourceConfig(store=bump), "other": SourceConfig(store=other)}
    with pytest.raises(ValueError, match="x differs: the simulator was trained on 12 points"):
        Trainer(wave_config_for(tmp_path, bump, sources=sources))


def test_experiments_compose_into_simulators() -> None:
    from configs.compose import compose

    forms = {"waves": ("cnn", False), "waves_compressed": ("cnn", True), "waves_lka": ("lka", False)}
    for name, (network, compressed) in forms.items():
        config = compose(TrainingConfig, "forecast/train", [f"experiment={name}"])
        assert isinstance(config.simulator, SimulatorConfig)
        assert (config.simulator.network, config.simulator.compression.is_on) == (network, compressed)
