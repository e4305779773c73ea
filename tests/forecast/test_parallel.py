"""Several processes, or several passes, learn what one process learns in one pass."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from forecast.losses import WeightedError
from forecast.training import Trainer
from forecast.training.objective import Ahead, LeadBalance, Unrolled
from forecast.training.parallel import Place, joined
from tests.helpers.puyun import make_puyun
from tests.helpers.training import config_for, moving_wave, ranks_of, store

SETTINGS: dict = {
    "steps": 8, "warm_up": 2, "lead_until_hours": 24, "batch_size": 4, "replay_buffer": 8, "unroll": 2, "validate_every": 4,
    "validation_leads": [6, 12, 24], "calibrate": True, "save_every": 0, "sharpness": 0.02,
}  # fmt: skip
TIME = np.array(["2026-01-05T00", "2026-07-05T06", "2026-03-01T12", "2026-10-01T18"], "datetime64[ns]")


@pytest.fixture(scope="module")
def wave(tmp_path_factory: pytest.TempPathFactory) -> str:
    return store(tmp_path_factory.mktemp("wave") / "wave.zarr", moving_wave())


def objective_and_batch() -> tuple[Unrolled, torch.Tensor, list[Ahead]]:
    """A network, and a batch of four for two steps under one gradient."""
    model = make_puyun().train()
    need = model.requirements
    torch.manual_seed(2)
    frames = torch.randn(4, need.history, len(need.channels), *need.grid_shape)
    error = WeightedError("l2", need.latitude, torch.tensor([0.5, 1.5]))
    steps = [
        Ahead(
            *model.inputs_at(TIME + ahead * need.step, np.full(4, 6.0 * ahead)), torch.randn_like(frames[:, 0]), torch.rand(4)
        )
        for ahead in range(2)
    ]
    return Unrolled(model, error, 1.0, False), frames, steps


def part_of(steps: list[Ahead], part: slice) -> list[Ahead]:
    return [Ahead(one.forcings[part], one.features[part], one.truth[part], one.weight[part]) for one in steps]


PROGRAM = """
import json, sys
from dataclasses import replace
from pathlib import Path
from safetensors.torch import save_file
from forecast.training import Trainer
from forecast.training.parallel import joined, spread, whole, without_exchange
from tests.forecast.test_parallel import SETTINGS, objective_and_batch, part_of
from tests.helpers.training import config_for

folder = Path(sys.argv[1])
with joined(2, "cpu") as place:
    two_copies = replace(place, bands=1, group=None)
    for kind in ("ddp", "fsdp"):
        objective, frames, steps = objective_and_batch()
        model = objective.model
        spreaded = spread(objective, model, two_copies, kind)
        first, second = (slice(2 * place.rank + row, 2 * place.rank + row + 1) for row in range(2))
        with without_exchange(spreaded):
            (spreaded(frames[first], part_of(steps, first))[0] / 2).backward()
        (spreaded(frames[second], part_of(steps, second))[0] / 2).backward()
        gradients = {name: whole(value.grad) for name, value in model.named_parameters()}
        if place.is_first:
            save_file(gradients, folder / kind)
    climbed = {}
    for kind in ("ddp", "fsdp"):
        run = config_for(folder / f"of {kind}", sys.argv[2], **SETTINGS, parallel=kind)
        trainer = Trainer(run, two_copies)
        climbed[kind] = [trainer.train_step() for _ in range(6)]
    if place.is_first:
        (folder / "climbed.json").write_text(json.dumps(climbed))
    run = config_for(folder / "bands", sys.argv[2], **SETTINGS, bands=2)
    trainer = Trainer(run, place)
    losses = [trainer.train_step() for _ in range(8)]
    rows = [list(one[0].shape) for one in trainer.buffer.slots[:1]]
    scores = trainer.validate()
    trainer.out.mkdir(parents=True, exist_ok=True)
    calibration = trainer._calibrate()["calibration"]
    trainer.save()
    if place.is_first:
        (folder / "bands.json").write_text(json.dumps([losses, scores, calibration, rows]))
"""


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, wave: str) -> Path:
    folder = tmp_path_factory.mktemp("two")
    ranks_of(2, [sys.executable, "-c", PROGRAM, str(folder), wave])
    return folder


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_gradient_of_two_processes_in_two_passes_is_that_of_the_batch(two: Path, kind: str) -> None:
    objective, frames, steps = objective_and_batch()
    objective(frames, steps)[0].backward()
    got = load_file(two / kind)
    for name, value in objective.model.named_parameters():
        torch.testing.assert_close(got[name], value.grad, rtol=1e-4, atol=1e-6 * float(value.grad.abs().max()) + 1e-9)


def test_pieces_of_weights_climb_the_loss_as_whole_ones_do(two: Path) -> None:
    climbed = json.loads((two / "climbed.json").read_text())
    for one, other in zip(climbed["ddp"], climbed["fsdp"], strict=True):
        assert other == pytest.approx(one, rel=2e-4)


def test_training_in_bands_is_that_on_whole_globes(two: Path, wave: str, tmp_path: Path) -> None:
    """The same draws, so the same losses, scores and calibration to rounding; the pool holds this band's rows only."""
    trainer = Trainer(config_for(tmp_path, wave, **SETTINGS))
    losses = [trainer.train_step() for _ in range(8)]
    got, scores, calibration, shapes = json.loads((two / "bands.json").read_text())
    for one, other in zip(losses, got, strict=True):
        assert other == pytest.approx(one, rel=2e-4)
    assert scores == pytest.approx(trainer.validate(), rel=1e-4)
    trainer.out.mkdir()
    for kind, values in trainer._calibrate()["calibration"].items():
        for name, weights in values.items():
            assert calibration[kind][name] == pytest.approx(weights, rel=1e-2, abs=1e-4)
    assert shapes == [[2, 2, 6, 24]]  # rows 0 to 5 of 13
    saved, wanted = (
        load_file(folder / "checkpoint/model.safetensors") for folder in (two / "bands/run", trainer.save().parent)
    )
    assert {name: value.shape for name, value in saved.items()} == {name: value.shape for name, value in wanted.items()}


def test_accumulated_passes_learn_what_one_pass_learns(wave: str, tmp_path: Path) -> None:
    one = Trainer(config_for(tmp_path / "one", wave, **SETTINGS))
    four = Trainer(config_for(tmp_path / "four", wave, **SETTINGS, accumulate=4))
    for _ in range(8):
        assert four.train_step() == pytest.approx(one.train_step(), rel=2e-4)


def test_bands_of_one_copy_are_neighbours() -> None:
    places = [Place(rank, 6, 2) for rank in range(6)]
    assert [place.copy for place in places] == [0, 0, 1, 1, 2, 2]
    assert {place.copies for place in places} == {3}
    assert [place.is_first for place in places] == [True] + [False] * 5


def test_balance_begins_with_the_error_of_an_untrained_network() -> None:
    torch.testing.assert_close(LeadBalance(3).weights(np.array([0, 2])), torch.ones(2))


def test_bands_must_divide_the_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ValueError, match="bands must divide the number of processes; got 2 bands for 3"), joined(2, "cpu"):
        pass
