"""torchrun itself starts the processes of the command that people give, and they learn what one process learns."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.helpers.training import moving_wave, store
from tests.helpers.training_commands import TORCHRUN, losses, training

ROOT = Path(__file__).parents[2]


def test_two_processes_of_torchrun_learn_what_one_learns(tmp_path: Path) -> None:
    """Bands of one globe draw alike, so losses and weights are those of one process, to rounding; one process speaks."""
    wave = store(tmp_path / "wave.zarr", moving_wave())
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    commands = {"one": [sys.executable, *training(tmp_path / "one", wave)]}
    commands["two"] = [*TORCHRUN, *training(tmp_path / "two", wave, "bands=2")]
    for name, command in commands.items():
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        assert done.stdout.count("Trained ") == 1
        assert str(tmp_path / name / "checkpoint") in done.stdout
    assert len(losses(tmp_path / "one")) > 0
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)
    one, two = (weights_of(tmp_path / name) for name in commands)
    assert float((two - one).norm() / one.norm()) < 5e-10  # statistics weigh most; 1.5e-9 if each process drew its own windows


def weights_of(out: Path) -> torch.Tensor:
    weights = load_file(out / "checkpoint" / "model.safetensors")
    return torch.cat([weights[name].flatten().double() for name in sorted(weights)])
