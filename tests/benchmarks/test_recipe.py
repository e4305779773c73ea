"""The study of the recipe: rows that are no single training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
import zarr

from benchmarks.skill.recipe import BATCH, MADE, RECIPE, ROWS, SECOND_STAGE, STEPS
from benchmarks.skill.recipe_rows import (
    StatePuYun,
    blended_row,
    in_two_parts,
    mean_of_members,
    mean_row,
    of_other_step,
    rounded,
    rounded_row,
)
from benchmarks.skill.study import FORECAST, Study, forecast, training_config
from configs.compose import compose
from data_pipelines.statistics import compute_statistics
from data_pipelines.store import open_analysis
from forecast.checkpoint import load_checkpoint, save_checkpoint
from forecast.puyun import PuYun, PuYunConfig
from forecast.requirements import Requirements
from forecast.training import TrainingConfig

PRESSURE = "mean_sea_level_pressure"


def made(study: Study, name: str, model: PuYun | None = None, **row: Any) -> None:
    """A row as if it had been trained, with this network, or with the one that is there."""
    if model is not None:
        save_checkpoint(study.checkpoint(name, 0), model, training_span=study.train_span, data_hash="1")
    forecast(study, name, 0)
    (study.folder(name, 0) / "row.json").write_text(json.dumps({"name": name, "seed": 0} | row))


def forecasts(study: Study, name: str) -> xr.Dataset:
    return xr.open_zarr(study.folder(name, 0) / FORECAST, consolidated=False).load()


def small(study: Study, **settings: Any) -> PuYun:
    torch.manual_seed(0)
    need = Requirements.of(open_analysis(study.analysis), [PRESSURE], history=2)
    model = PuYun(PuYunConfig(width=8, depth=(1,), expansion=2, mixer="ls", **settings), need)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model


@pytest.mark.parametrize("bits", [4, 8])
def test_weights_are_integers_in_units_of_their_filter(study: Study, bits: int) -> None:
    model = small(study)
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


def test_a_rounded_row_is_another_rows_network_of_its_seed(study: Study) -> None:
    with pytest.raises(
        ValueError, match="weights of 4 bits needs the row recipe of seed 0, with all its forecasts; make that first"
    ):
        rounded_row(study, "weights of 4 bits", 0, of="recipe", bits=4)
    made(study, "recipe", small(study), parameters=7)
    row = rounded_row(study, "weights of 4 bits", 0, of="recipe", bits=4)
    assert row.items() >= {"name": "weights of 4 bits", "seed": 0, "parameters": 7}.items()
    assert rounded_row(study, "weights of 4 bits", 0, of="recipe", bits=4) == row
    ours = load_checkpoint(study.checkpoint("weights of 4 bits", 0)).state_dict()
    for name, value in rounded(small(study), 4).state_dict().items():
        torch.testing.assert_close(ours[name], value)
    assert (forecasts(study, "weights of 4 bits")[PRESSURE] != forecasts(study, "recipe")[PRESSURE]).any()
    save_checkpoint(study.checkpoint("recipe", 0), rounded(small(study), 8), training_span=study.train_span, data_hash="1")
    with pytest.raises(ValueError, match="was rounded from other weights than .*recipe-0 has; delete it"):
        rounded_row(study, "weights of 4 bits", 0, of="recipe", bits=4)


def test_a_mean_of_rows_is_the_mean_of_their_forecasts(study: Study) -> None:
    made(study, "net", parameters=3, steps=10, seconds=1.5)
    with pytest.raises(ValueError, match="both needs the row net cascade of seed 0, with all its forecasts; make that first"):
        mean_row(study, "both", 0, of=("net", "net cascade"))
    made(replace(study, behind={}), "net cascade", parameters=4, steps=20, seconds=2.0)
    complete = zarr.open_array(study.folder("net", 0) / FORECAST / "complete")
    complete[0] = False
    with pytest.raises(ValueError, match="both needs the row net of seed 0, with all its forecasts"):
        mean_row(study, "both", 0, of=("net", "net cascade"))
    complete[0] = True
    row = mean_row(study, "both", 0, of=("net", "net cascade"))
    assert row == {"name": "both", "seed": 0, "parameters": 7, "steps": 30, "seconds": 3.5}
    one, other, both = (forecasts(study, name) for name in ("net", "net cascade", "both"))
    xr.testing.assert_allclose(both, (one + other) / 2)
    assert (one != other)[PRESSURE].mean() > 0.9


def test_a_blend_goes_from_one_to_the_other_in_lead_time(study: Study) -> None:
    made(study, "net", parameters=3)
    made(replace(study, behind={}), "net cascade", parameters=4)
    row = blended_row(study, "blend", 0, first="net", second="net cascade", begin=0, end=8)
    assert row == {"name": "blend", "seed": 0, "parameters": 4}
    one, other, blend = (forecasts(study, name).isel(time=0) for name in ("net", "net cascade", "blend"))
    for place, share in enumerate((0.75, 1.0)):  # 6 and 12 h
        at = {"prediction_timedelta": place}
        xr.testing.assert_allclose(blend.isel(at), (1 - share) * one.isel(at) + share * other.isel(at), rtol=1e-6)
    assert all(blend[name].attrs == one[name].attrs for name in one.data_vars)


def test_members_of_dropout_are_averaged(study: Study) -> None:
    made(study, "dropout", small(study, dropout=0.5), parameters=5)
    row = mean_of_members(study, "mean", 0, of="dropout", members=3, dropout=0.5)
    assert row == {"name": "mean", "seed": 0, "parameters": 5}
    members = xr.open_zarr(study.folder("mean", 0) / "members.zarr", consolidated=False).load()
    assert members.sizes["number"] == 3
    assert (members.isel(number=1) != members.isel(number=2))[PRESSURE].any()
    xr.testing.assert_allclose(forecasts(study, "mean"), members.mean("number"), rtol=1e-6)
    written = {path: path.stat().st_mtime_ns for path in (study.folder("mean", 0) / "members.zarr").rglob("c/**/*")}
    assert mean_of_members(study, "mean", 0, of="dropout", members=3, dropout=0.5) == row
    assert all(path.stat().st_mtime_ns == when for path, when in written.items())  # what is there is kept


def test_a_network_of_another_step_learns_from_the_states_at_that_step(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def trained(study: Study, name: str, seed: int, settings: Sequence[str]) -> dict[str, Any]:
        seen.append(study.learn_from)
        return {"settings": settings}

    monkeypatch.setattr("benchmarks.skill.recipe_rows.trained", trained)
    assert of_other_step(study, "slow", 0, ["a=1"], hours=12) == {"settings": ["a=1"]}
    source, store = seen[0]
    assert source == "era5"
    all_of_them, ours = (open_analysis(path) for path in (study.learn_from[1], store))
    assert set(np.diff(ours.time.values)) == {np.timedelta64(12, "h")}
    xr.testing.assert_equal(ours[PRESSURE].drop_attrs(), all_of_them[PRESSURE].sel(time=ours.time).drop_attrs())


def test_the_second_part_goes_on_from_the_first_ones_weights(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def trained(study: Study, name: str, seed: int, settings: Sequence[str]) -> dict[str, Any]:
        calls.append((name, list(settings)))
        return {"name": name, "steps": 10 * len(calls), "seconds": 1.0}

    monkeypatch.setattr("benchmarks.skill.recipe_rows.train", trained)
    monkeypatch.setattr("benchmarks.skill.recipe_rows.trained", trained)
    before = study.checkpoint("first part of two", 0)
    save_checkpoint(before, small(study), training_span=study.train_span, data_hash="1")
    row = in_two_parts(study, "two", 0, ["a=1"], first=["b=1"], second=["b=2"])
    assert calls == [("first part of two", ["a=1", "b=1"]), ("two", ["a=1", "b=2", f"initial=[{before}]"])]
    assert row == {"name": "two", "steps": 30, "seconds": 2.0}
    in_two_parts(study, "two", 0, ["a=1"], first=["b=1"], second=["b=2"])
    save_checkpoint(before, rounded(small(study), 4), training_span=study.train_span, data_hash="1")
    with pytest.raises(ValueError, match="two-0 went on from other weights than .*first part of two-0 has; delete it"):
        in_two_parts(study, "two", 0, ["a=1"], first=["b=1"], second=["b=2"])


def test_a_network_of_states_makes_the_anomaly_of_the_next_state(study: Study) -> None:
    analysis = open_analysis(study.analysis)
    need = Requirements.of(analysis, [PRESSURE], history=2)
    model = StatePuYun(PuYunConfig(width=8, depth=(1,), expansion=2, mixer="ls"), need, compute_statistics(analysis)).eval()
    frames = torch.from_numpy(analysis[PRESSURE].values[[2, 3]]).float()[None, :, None]
    given = frames, *model.inputs_at(analysis.time.values[[3]], np.array([0]))
    torch.testing.assert_close(model(*given)[0], model.mean_field, rtol=1e-6, atol=0.1)  # untrained: climatology
    for parameter in model.head.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    wanted = model.mean_field + model.deviation * PuYun.normalised_tendency(model, *given)[0]
    torch.testing.assert_close(model(*given)[0], wanted, rtol=1e-5, atol=0.1)
    assert float((wanted - model.mean_field).detach().abs().max()) > 100


def states_of(*settings: Sequence[str]) -> int:
    """States that trainings learn from."""
    trainings = [compose(TrainingConfig, "forecast/train", list(one)) for one in settings]
    return sum(one.steps * one.batch_size * one.unroll for one in trainings)


@pytest.mark.parametrize("name", ROWS)
def test_every_row_is_a_training_from_as_many_states(name: str) -> None:
    assert states_of([*RECIPE, f"steps={STEPS}", *ROWS[name]]) == STEPS * BATCH


@pytest.mark.parametrize("name", [name for name, row in MADE.items() if "settings" in row.keywords])
def test_rows_of_several_trainings_learn_from_as_many_states(name: str) -> None:
    parts = MADE[name].keywords
    if MADE[name].func is in_two_parts:
        assert states_of(*([*parts["settings"], *parts[one]] for one in ("first", "second"))) == STEPS * BATCH
    elif name == "second stage from day 5":  # half as many more, behind the recipe's
        assert states_of(parts["settings"]) == STEPS * BATCH // 2
    else:
        assert states_of(parts["settings"]) == STEPS * BATCH


@pytest.mark.parametrize("name", [*ROWS, *MADE])
def test_a_rows_name_can_stand_in_a_setting(study: Study, name: str) -> None:
    """Folders are named after rows, and settings name folders."""
    of_simulated = replace(study, learn_from=("simulated", study.analysis))
    for folder, first in ((study.folder(name, 0), f"first part of {name}"), (study.folder(f"first part of {name}", 0), name)):
        checkpoint = study.checkpoint(first, 0)
        config = training_config(of_simulated, [*RECIPE, f"out={folder}", f"initial=[{checkpoint}]"])
        assert (config.out, config.initial) == (str(folder), [str(checkpoint)])


def test_a_network_of_states_is_of_the_recipes_form() -> None:
    recipe, ours = (
        compose(TrainingConfig, "forecast/train", [*RECIPE, *ROWS[name]]) for name in ("recipe", "state in place of tendency")
    )
    assert PuYunConfig(**ours.network_settings) == recipe.model


def test_rows_that_are_made_of_others_come_after_them() -> None:
    rows = [*ROWS, *MADE]
    assert all(rows.index(second) > rows.index(first) for second, first in SECOND_STAGE.items())
    for name, row in MADE.items():
        if row.func is in_two_parts:
            continue
        needed = [row.keywords[key] for key in ("of", "first", "second") if key in row.keywords]
        for one in needed:
            assert all(rows.index(other) < rows.index(name) for other in ([one] if isinstance(one, str) else one))
