"""A network of other code is trained, resumed, saved and forecast with as PuYun is, once it is registered."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from forecast import checkpoint
from forecast.checkpoint import CheckpointError, find_network, load_checkpoint, register_network
from forecast.tendency_network import TendencyNetwork
from forecast.training import Trainer, TrainingConfig
from tests.helpers.puyun import make_puyun, make_requirements
from tests.helpers.training import config_for, moving_wave, store


@dataclass
class PointwiseConfig:
    """Size."""

    width: int = 8
    calibrated_steps: int = 0


class Pointwise(TendencyNetwork):
    """Every point for itself."""

    config_class = PointwiseConfig

    def __init__(self, config: PointwiseConfig, requirements: Any, statistics: Any = None) -> None:
        super().__init__(config, requirements, statistics)
        self.layers = nn.Sequential(
            nn.Conv2d(self.input_count, config.width, 1), nn.GELU(), nn.Conv2d(config.width, len(requirements.channels), 1)
        )

    def normalised_tendency(self, frames: Tensor, forcings: Tensor, features: Tensor) -> Tensor:
        return self.layers(self.normalised_input(frames, forcings))


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "MODELS", dict(checkpoint.MODELS))
    register_network(Pointwise)


@pytest.fixture(scope="module")
def wave(tmp_path_factory: pytest.TempPathFactory) -> str:
    return store(tmp_path_factory.mktemp("own") / "wave.zarr", moving_wave())


def test_registered_network_learns_and_is_found_in_its_checkpoint(tmp_path: Path, wave: str) -> None:
    settings = {"network": "Pointwise", "network_settings": {"width": 12}, "learning_rate": 1e-2, "ema": 0.9}
    trainer = Trainer(config_for(tmp_path, wave, steps=40, **settings))
    before = trainer.validate()
    loaded = load_checkpoint(trainer.run())
    assert isinstance(loaded, Pointwise)
    assert loaded.config == PointwiseConfig(12)
    after = trainer.validate()
    assert all(after[name] < 0.9 * before[name] for name in after)


def test_training_of_a_registered_network_goes_on_and_starts_from_another(tmp_path: Path, wave: str) -> None:
    settings = {"network": "Pointwise", "network_settings": {"width": 12}, "save_every": 2}
    first = Trainer(config_for(tmp_path, wave, steps=4, **settings))
    folder = first.run()
    again = Trainer(config_for(tmp_path, wave, steps=4, resume=True, **settings))
    assert again.step == 4
    for one, other in zip(first.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other)
    started = Trainer(config_for(tmp_path, wave, out=str(tmp_path / "second"), initial=[str(folder)], **settings))
    first._fill_average()
    for one, other in zip(first.average.parameters(), started.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_puyun_does_not_start_from_another_network(tmp_path: Path, wave: str) -> None:
    folder = Trainer(config_for(tmp_path, wave, steps=1, network="Pointwise")).run()
    with pytest.raises(ValueError, match="initial must hold checkpoints of PuYun; .* is a Pointwise. Train it with its own"):
        Trainer(config_for(tmp_path, wave, out=str(tmp_path / "second"), initial=[str(folder)]))


def test_a_network_that_no_code_has_registered_is_refused() -> None:
    with pytest.raises(CheckpointError, match="network must be one of .*'PuYun'.*; got 'Transformer'. Import the code"):
        find_network("Transformer")


def test_a_name_that_is_taken_is_refused() -> None:
    other = type("Pointwise", (), {"__module__": "elsewhere"})
    with pytest.raises(CheckpointError, match="Pointwise is taken by .*test_own_network; rename the network of elsewhere"):
        register_network(other)


def test_registering_again_changes_nothing() -> None:
    before = dict(checkpoint.MODELS)
    assert register_network(Pointwise) is Pointwise
    assert before == checkpoint.MODELS


def test_a_network_of_waves_is_refused_for_the_weather(tmp_path: Path, wave: str) -> None:
    with pytest.raises(ValueError, match="network must be one of the weather's .* Simulator is none. Set simulator for waves"):
        Trainer(config_for(tmp_path, wave, network="Simulator"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"network_settings": {"width": 3}},
            r"are those of another network; PuYun's are model. Got \['width'\]",
        ),
        ({"network": "Pointwise", "bands": 2}, "bands are of PuYun; Pointwise needs whole globes. Got bands=2, use 1"),
    ],
)
def test_settings_of_the_other_network_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainingConfig(**settings)


def test_a_network_must_say_its_tendency() -> None:
    model = TendencyNetwork(PointwiseConfig(), make_requirements())
    need = model.requirements
    with pytest.raises(NotImplementedError):
        model(
            torch.zeros(1, need.history, 2, *need.grid_shape), *model.inputs_at(np.array(["2026-01-01"], "M8[ns]"), np.zeros(1))
        )


def test_a_tendency_of_another_shape_is_refused() -> None:
    """Of one channel, or of one row, torch would spread it over all."""
    model = Pointwise(PointwiseConfig(), make_requirements())
    need = model.requirements
    frames = torch.zeros(1, need.history, len(need.channels), *need.grid_shape)
    inputs = model.inputs_at(np.array(["2026-01-01"], "M8[ns]"), np.zeros(1))
    assert model(frames, *inputs).shape == frames[:, -1].shape
    model.layers[-1] = nn.Conv2d(8, 1, 1)
    wanted, got = (re.escape(str((1, count, *need.grid_shape))) for count in (len(need.channels), 1))
    with pytest.raises(ValueError, match=f"normalised_tendency of Pointwise must give .*, here {wanted}; got {got}"):
        model(frames, *inputs)


def test_a_setting_that_the_network_does_not_have_is_named_with_those_that_it_has() -> None:
    with pytest.raises(ValueError, match=r"the network Pointwise are \['width', 'calibrated_steps'\]; got \['widht'\]"):
        Pointwise.from_config({"widht": 8}, make_requirements())


def test_inputs_are_counted_for_all_networks() -> None:
    model = make_puyun()
    need = model.requirements
    forcings = torch.zeros(1, len(need.forcings), *need.grid_shape)
    fields = model.normalised_input(torch.zeros(1, need.history, len(need.channels), *need.grid_shape), forcings)
    assert fields.shape[1] == model.input_count == len(model.odd_input)
