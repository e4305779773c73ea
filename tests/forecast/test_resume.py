"""Going on exactly: a training that was interrupted has the losses of one that was not, to the last bit."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from forecast.checkpoint import CheckpointError
from forecast.exits import UnfinishedError
from forecast.puyun import PuYunConfig
from forecast.training import Trainer
from forecast.training.log import drop_later
from forecast.training.states import pack, states_in, unpack
from tests.helpers.training import config_for, moving_wave, ranks_of, store

# Everything that has a state takes part: dropout in two passes, noise, a pool of forecasts, two steps under one gradient,
# averaging.
SETTINGS: dict = {
    "steps": 40, "warm_up": 5, "lead_until_hours": 36, "batch_size": 4, "replay_buffer": 8, "noise": 0.1, "unroll": 2,
    "sharpness": 0.01,
    "model": PuYunConfig(width=8, depth=(1,), patch=1, expansion=1, dropout=0.2), "save_every": 1, "validation_start": "",
}  # fmt: skip


@pytest.fixture(scope="module")
def wave(tmp_path_factory: pytest.TempPathFactory) -> str:
    return store(tmp_path_factory.mktemp("wave") / "wave.zarr", moving_wave())


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, wave: str) -> list[dict]:
    trainer = Trainer(config_for(tmp_path_factory.mktemp("whole"), wave, **SETTINGS))
    return [trainer.train_step() for _ in range(40)]


@pytest.mark.parametrize("stop", [1, 4, 7, 13, 20])
def test_losses_after_resuming_are_those_of_the_uninterrupted_run(
    tmp_path: Path, wave: str, uninterrupted: list[dict], stop: int
) -> None:
    first = Trainer(config_for(tmp_path, wave, **SETTINGS))
    for _ in range(stop):
        first.train_step()
    first.save_state()
    first.train_step()  # what was done after the state was saved is done again
    torch.manual_seed(999)
    second = Trainer(config_for(tmp_path, wave, **SETTINGS, resume=True))
    assert second.step == stop
    assert [second.train_step() for _ in range(20)] == uninterrupted[stop : stop + 20]


def test_average_and_schedule_go_on_exactly(tmp_path: Path, wave: str) -> None:
    whole = Trainer(config_for(tmp_path, wave, **SETTINGS))
    for step in range(9):
        if step == 6:
            whole.save_state()
        whole.train_step()
    second = Trainer(config_for(tmp_path, wave, **SETTINGS, resume=True))
    for _ in range(3):
        second.train_step()
    for name, value in whole._learned().items():
        torch.testing.assert_close(second._learned()[name], value, rtol=0, atol=0)
    assert second.schedule.state_dict() == whole.schedule.state_dict()


def test_a_signal_saves_a_state_and_says_how_to_go_on(tmp_path: Path, wave: str, uninterrupted: list[dict]) -> None:
    first = Trainer(config_for(tmp_path, wave, **SETTINGS | {"save_every": 1000}))
    step = first.train_step

    def train_step() -> dict:
        if first.step == 11:
            signal.raise_signal(signal.SIGUSR1)
        return step()

    first.train_step = train_step  # type: ignore[method-assign]
    with pytest.raises(UnfinishedError, match=r"stopped \(SIGUSR1\) after step 12 of 40.*resume=true"):
        first.run()
    second = Trainer(config_for(tmp_path, wave, **SETTINGS, resume=True))
    assert [second.train_step() for _ in range(20)] == uninterrupted[12:32]


SETTING_UP = """
import json, sys
from pathlib import Path
from forecast.training.parallel import joined
from forecast.training import Trainer
from tests.forecast.test_resume import SETTINGS
from tests.helpers.training import config_for

def say(line):
    if place.is_first:
        print(json.dumps(line), flush=True)

def trainer(name, **settings):
    return Trainer(config_for(Path(sys.argv[1]) / name, sys.argv[2], **SETTINGS | {"threads": 1} | settings), place)

with joined(1, "cpu") as place:
"""
PROGRAM = (
    SETTING_UP
    + """
    if sys.argv[3] == "until killed":
        one = trainer("killed")
        while True:
            say(one.train_step())
            if one.step % 3 == 0:
                one.save_state()
    one = trainer("killed", resume=True)
    say(one.step)
    say([one.train_step() for _ in range(20)])
    one = trainer("whole")
    say([one.train_step() for _ in range(39)])
    pieces = {"parallel": "fsdp", "accumulate": 2}
    one = trainer("pieces", **pieces)
    before = [one.train_step() for _ in range(5)]
    one.save_state()
    after = [one.train_step() for _ in range(20)]
    say(after)
    one = trainer("pieces", **pieces, resume=True)
    say([one.train_step() for _ in range(20)])
"""
)


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_killed_training_goes_on_exactly(tmp_path: Path, wave: str, ranks: int) -> None:
    """SIGKILL to all processes at some moment of a step; and, without a kill, the same for weights in pieces."""
    command = [sys.executable, "-c", PROGRAM, str(tmp_path), wave]
    processes = ranks_of(ranks, [*command, "until killed"], wait=False)
    for line in processes[0].stdout:
        if json.loads(line)["step"] == 17:
            break
    for process in processes:
        process.kill()
    for process in processes:
        process.communicate()
    at, rest, whole, pieces, again = (json.loads(line) for line in ranks_of(ranks, [*command, "go on"]).splitlines())
    assert at in (15, 18)  # the state at 18 may have been complete when the signal came
    assert rest == whole[at : at + 20]
    assert again == pieces


def test_state_of_two_processes_loads_on_one(tmp_path: Path, wave: str) -> None:
    """Weights in pieces come together; the pool begins anew, at the place in the data."""
    program = (
        SETTING_UP
        + """
    for kind in ("ddp", "fsdp"):
        one = trainer(kind, parallel=kind)
        for _ in range(5):
            one.train_step()
        one.save_state()
"""
    )
    ranks_of(2, [sys.executable, "-c", program, str(tmp_path), wave, ""])
    one, other = (Trainer(config_for(tmp_path / kind, wave, **SETTINGS, resume=True)) for kind in ("ddp", "fsdp"))
    for name, value in one._learned().items():
        torch.testing.assert_close(other._learned()[name], value, rtol=1e-4, atol=1e-6)
    assert one.step == other.step == 5
    assert float(next(iter(one.optimiser.state.values()))["step"]) == 5
    assert one.sources[0].batches >= 8
    one.train_step()


def test_begins_where_there_is_no_state(tmp_path: Path, wave: str) -> None:
    assert Trainer(config_for(tmp_path, wave, resume=True)).step == 0


def test_finished_training_resumes_to_the_same_checkpoint(tmp_path: Path, wave: str) -> None:
    first = Trainer(config_for(tmp_path, wave, steps=4)).run()
    with safe_open(first / "model.safetensors", "pt") as file:
        before = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    log = (tmp_path / "run" / "log.jsonl").read_text()
    again = Trainer(config_for(tmp_path, wave, steps=4, resume=True)).run()
    with safe_open(again / "model.safetensors", "pt") as file:
        assert all(torch.equal(file.get_tensor(name), value) for name, value in before.items())
    assert (tmp_path / "run" / "log.jsonl").read_text() == log


def test_only_the_newest_states_are_kept(tmp_path: Path, wave: str) -> None:
    trainer = Trainer(config_for(tmp_path, wave))
    for _ in range(3):
        trainer.train_step()
        trainer.save_state()
    assert [folder.name for folder in states_in(trainer.out)] == ["00000002", "00000003"]


def test_a_state_half_written_is_none(tmp_path: Path, wave: str, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(config_for(tmp_path, wave))
    trainer.train_step()
    trainer.save_state()
    trainer.train_step()
    monkeypatch.setattr("os.rename", lambda *names: (_ for _ in ()).throw(OSError("killed")))
    with pytest.raises(OSError, match="killed"):
        trainer.save_state()
    monkeypatch.undo()
    again = Trainer(config_for(tmp_path, wave, resume=True))
    assert again.step == 1
    again.train_step()
    again.save_state()
    assert [folder.name for folder in sorted((again.out / "state").iterdir())] == ["00000001", "00000002"]


def test_log_forgets_what_is_done_again(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text('{"step": 10}\n{"step": 20}\n{"step": 30}\n{"ste')
    drop_later(log, 20)
    assert log.read_text() == '{"step": 10}\n{"step": 20}\n'


@pytest.fixture
def saved(tmp_path: Path, wave: str) -> Path:
    trainer = Trainer(config_for(tmp_path, wave))
    trainer.train_step()
    return trainer.save_state()


def test_resuming_needs_the_settings_of_before(tmp_path: Path, wave: str, saved: Path) -> None:
    with pytest.raises(CheckpointError, match=r"\['clip', 'learning_rate'\] differ.*initial="):
        Trainer(config_for(tmp_path, wave, resume=True, learning_rate=1e-2, clip=2.0))


def test_a_state_of_before_a_setting_was_known_had_its_default(tmp_path: Path, wave: str, saved: Path) -> None:
    path = saved / "state.json"
    state = json.loads(path.read_text())
    settings = state["shared"]["settings"]
    assert settings.pop("sharpness") == 0
    assert settings["model"].pop("dropout") == 0
    path.write_text(json.dumps(state))
    assert Trainer(config_for(tmp_path, wave, resume=True)).step > 0
    with pytest.raises(CheckpointError, match=r"\['sharpness'\] differ"):
        Trainer(config_for(tmp_path, wave, resume=True, sharpness=0.1))


def test_a_training_under_way_is_not_overwritten(tmp_path: Path, wave: str, saved: Path) -> None:
    with pytest.raises(FileExistsError, match="already holds a training under way; resume=true goes on"):
        Trainer(config_for(tmp_path, wave))


def test_another_network_is_refused(tmp_path: Path, wave: str, saved: Path) -> None:
    wider = PuYunConfig(width=16, depth=(1,), patch=1, expansion=1)
    with pytest.raises(CheckpointError, match=r"must have shape \(16, .*the state has \(8, "):
        Trainer(config_for(tmp_path, wave, resume=True, model=wider))
    deeper = PuYunConfig(width=8, depth=(2,), patch=1, expansion=1)
    with pytest.raises(CheckpointError, match=r"does not fit the training: missing .*stages\.0\.1"):
        Trainer(config_for(tmp_path, wave, resume=True, model=deeper))


def overwrite(path: Path, data: bytes) -> None:
    path.write_bytes(data)


@pytest.mark.parametrize(("file", "damage", "message"), [
    ("state.json", lambda path: overwrite(path, b"{"), "state.json cannot be read.*go on from the state before"),
    ("state.json", lambda path: overwrite(path, b'{"format_version": 9}'), "format_version 9; this version of .* reads 1"),
    ("state.json", lambda path: overwrite(path, b'{"format_version": 1}'), "is damaged .'ranks'"),
    ("own-0.json", lambda path: path.unlink(), "own-0.json cannot be read"),
    ("own-0.json", lambda path: overwrite(path, b'{"call": "os.system"}'), "unknown kind 'call'"),
    ("own-0.safetensors", lambda path: overwrite(path, path.read_bytes()[:-1]), "is damaged"),
    ("learned-0.safetensors", lambda path: overwrite(path, path.read_bytes()[:-1]), "is damaged"),
    # A pickle that would run a command, and a header that claims more than the limit of safetensors.
    ("learned-0.safetensors", lambda path: overwrite(path, b"cos\nsystem\n(S'touch run'\ntR."), "is damaged"),
    ("learned-0.safetensors", lambda path: overwrite(path, (2**40).to_bytes(8, "little") + b"{}"), "is damaged"),
])  # fmt: skip
def test_damaged_states_are_refused_by_name(
    tmp_path: Path, wave: str, saved: Path, file: str, damage: object, message: str
) -> None:
    damage(saved / file)  # type: ignore[operator]
    with pytest.raises(CheckpointError, match=message):
        Trainer(config_for(tmp_path, wave, resume=True))


def test_a_missing_piece_is_refused(tmp_path: Path, wave: str, saved: Path) -> None:
    path = saved / "learned-0.safetensors"
    with safe_open(path, "pt") as file:
        pieces = json.loads(file.metadata()["pieces"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    name = next(name for name, value in tensors.items() if value.ndim and len(value) > 1)
    tensors[name] = tensors[name][1:].clone()
    save_file(tensors, path, metadata={"pieces": json.dumps(pieces)})
    with pytest.raises(CheckpointError, match=f"{name} has .* numbers"):
        Trainer(config_for(tmp_path, wave, resume=True))


def test_packing_keeps_kinds_and_bits(tmp_path: Path) -> None:
    tree = {
        "a": [1, 2.5, None, True, "x"],
        3: (torch.arange(3, dtype=torch.uint8), np.array([0.1, np.nan])),
        "big": 2**120 + 1,
        "nested": {"t": torch.tensor(1.0)},
    }
    values, tensors = pack(tree)
    save_file(tensors, tmp_path / "x.safetensors")
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        back = unpack(json.loads(json.dumps(values)), file)
    assert list(back) == list(tree)
    assert back["a"] == tree["a"]
    assert back["big"] == tree["big"]
    assert isinstance(back[3], tuple)
    torch.testing.assert_close(back[3][0], tree[3][0])
    np.testing.assert_array_equal(back[3][1], tree[3][1])
    with pytest.raises(TypeError, match="holds tensors, arrays and plain values; got PosixPath"):
        pack([Path()])


@pytest.mark.parametrize(("settings", "message"), [
    ({"save_every": -1}, "save_every must be at least 1 step, or 0"),
    ({"parallel": "both"}, r"parallel must be one of \('ddp', 'fsdp'\); got 'both'"),
    ({"accumulate": 3}, "batch_size must be divisible by processes x accumulate.*got 2 and 4 for 1 x 3"),
])  # fmt: skip
def test_wrong_settings_are_refused(tmp_path: Path, wave: str, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Trainer(config_for(tmp_path, wave, **settings))


def test_the_command_ends_with_the_exit_code_of_what_can_go_on(tmp_path: Path, wave: str) -> None:
    """SIGTERM to `python -m forecast.train`: 75, one line, and the same command with resume=true ends well."""
    command = [
        sys.executable, "-m", "forecast.train", "experiment=sample_pretrain", f"out={tmp_path / 'run'}",
        f"sources.era5.store={wave}", "sources.era5.start=''", "sources.era5.end=''", f"sources.simulated.store={wave}",
        "channels=[temperature_850,mean_sea_level_pressure]", "forcings=[]",
        "model.width=8", "model.depth=[1]", "model.patch=1", "validation_start=''", "calibrate=false", "lead_until_hours=12",
        "replay_buffer=8", "save_every=100000", "resume=true", "device=cpu", "threads=1", "batch_size=4",
    ]  # fmt: skip
    process = subprocess.Popen([*command, "steps=100000"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "run" / "log.jsonl").exists() or not (tmp_path / "run" / "log.jsonl").read_text():
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    process.terminate()
    _, said = process.communicate()
    assert process.returncode == 75
    assert said.startswith("error: stopped (SIGTERM) after step ")
    assert len(states_in(tmp_path / "run")) == 1
