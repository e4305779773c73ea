"""The study of the recipe: rows that are made after training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks.skill.recipe import RECIPE, ROUNDED, ROWS, STEPS, rounded, rounded_row
from benchmarks.skill.study import Study
from configs.compose import compose
from forecast.checkpoint import load_checkpoint, save_checkpoint
from forecast.puyun import PuYun, PuYunConfig
from forecast.training import TrainingConfig
from tests.helpers.puyun import make_requirements


def network() -> PuYun:
    torch.manual_seed(0)
    model = PuYun(PuYunConfig(width=8, depth=(1,), patch=2, expansion=2, mixer="ls"), make_requirements(33, 64))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    return model


@pytest.mark.parametrize("bits", ROUNDED.values())
def test_weights_are_integers_in_units_of_their_filter(bits: int) -> None:
    model = network()
    before = {name: value.clone() for name, value in model.named_parameters()}
    for name, value in rounded(model, bits).named_parameters():
        if value.ndim < 2:
            torch.testing.assert_close(value, before[name], rtol=0, atol=0)
            continue
        filters, others = value.detach().flatten(1), before[name].flatten(1)
        unit = others.abs().amax(dim=1, keepdim=True) / (2 ** (bits - 1) - 1)
        steps = filters / unit
        torch.testing.assert_close(steps, steps.round(), rtol=0, atol=1e-3)
        assert ((filters - others).abs() <= 0.5001 * unit).all()
        assert all(len(torch.unique(one.round())) < 2**bits for one in steps)


def test_a_rounded_row_is_the_recipes_network_of_its_seed(tmp_path: Path) -> None:
    study = Study(tmp_path, ("era5", tmp_path), tmp_path, ("2019-01-01", "2020-06-30"), "2021-01-01", "2021-01-02", "recipe")
    with pytest.raises(ValueError, match="weights of 4 bits needs the row recipe of seed 3; make that first"):
        rounded_row(study, "weights of 4 bits", 3, bits=4)
    save_checkpoint(study.checkpoint("recipe", 3), network(), training_span=study.train_span, data_hash="1")
    (study.folder("recipe", 3) / "row.json").write_text(json.dumps({"name": "recipe", "seed": 3, "parameters": 7}))
    row = rounded_row(study, "weights of 4 bits", 3, bits=4)
    assert row.items() >= {"name": "weights of 4 bits", "seed": 3, "parameters": 7}.items()
    assert rounded_row(study, "weights of 4 bits", 3, bits=4) == row
    ours = load_checkpoint(study.checkpoint("weights of 4 bits", 3)).state_dict()
    for name, value in rounded(network(), 4).state_dict().items():
        torch.testing.assert_close(ours[name], value)
    save_checkpoint(study.checkpoint("recipe", 3), rounded(network(), 8), training_span=study.train_span, data_hash="1")
    with pytest.raises(ValueError, match="was rounded from other weights than .*recipe-3 has; delete it"):
        rounded_row(study, "weights of 4 bits", 3, bits=4)


@pytest.mark.parametrize("name", ROWS)
def test_every_row_is_a_training(name: str) -> None:
    settings = compose(TrainingConfig, "forecast/train", [*RECIPE, f"steps={STEPS}", *ROWS[name]])
    assert settings.steps * settings.batch_size * settings.unroll == 2560  # all learn from as many states
