"""A small training on waves that travel, and processes that train together."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import numpy as np
import xarray as xr

from data_pipelines.store import create_analysis_store, create_wave_store, write_analysis, write_samples
from forecast.puyun import PuYunConfig
from forecast.training import SourceConfig, TrainingConfig
from forecast.wave_simulator import SimulatorConfig
from tests.helpers.analyses import make_analysis
from tests.helpers.waves import make_waves

CHANNELS = ["temperature_850", "mean_sea_level_pressure"]
TINY = {"width": 8, "depth": (1,), "patch": 1, "expansion": 1}


def store(path: Path, dataset: xr.Dataset) -> str:
    create_analysis_store(path, dataset)
    write_analysis(path, dataset)
    return str(path)


def moving_wave(steps: int = 60) -> xr.Dataset:
    """Waves that travel east by one cell a step: a network with two frames can know where they go."""
    analysis = make_analysis(steps=steps, rows=13, columns=24)
    envelope = np.cos(np.deg2rad(analysis["latitude"].values)) ** 2
    phase = analysis["longitude"].values[None] - 15.0 * np.arange(steps)[:, None]
    wave = envelope[None, :, None] * np.sin(np.deg2rad(2 * phase))[:, None, :]
    analysis["mean_sea_level_pressure"].values[:] = 101325 + 1000 * wave
    analysis["temperature"].values[:] = 260 + 10 * wave[:, None]
    return analysis


def config_for(tmp_path: Path, path: str, **settings: object) -> TrainingConfig:
    values: dict = {
        "out": str(tmp_path / "run"),
        "sources": {"wave": SourceConfig(store=path, start="2021-02-27", end="2021-03-08")},
        "channels": CHANNELS, "model": PuYunConfig(**TINY), "precision": "fp32", "device": "cpu",
        "steps": 3, "warm_up": 1, "batch_size": 2, "replay_buffer": 4,
        "validation_start": "2021-03-10", "validation_end": "2021-03-12", "validation_leads": [6, 12], "validate_every": 100,
    }  # fmt: skip
    return TrainingConfig(**(values | settings))


def ranks_of(ranks: int, command: list[str], wait: bool = True):
    """Start a program in as many processes as torchrun would; returns what the first one wrote, or the processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    everyone = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            command,
            env=os.environ | everyone | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if wait else subprocess.DEVNULL,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        for rank in range(ranks)
    ]
    if not wait:
        return processes
    said = [process.communicate() for process in processes]
    assert all(process.returncode == 0 for process in processes), "\n".join(errors[-2000:] for _, errors in said)
    return said[0][0]


def moving_bump(samples: int = 6, frames: int = 8) -> xr.Dataset:
    """Waves that travel one cell a step to the right, around a ring: displacement alone says what follows."""
    waves = make_waves(samples, frames, rows=7, columns=12)
    waves["mask"].values[:] = 1
    phase = np.arange(samples)[:, None, None, None] + np.arange(12) - np.arange(frames)[None, :, None, None]
    waves["displacement"].values[:] = np.sin(2 * np.pi * phase / 12)
    waves["velocity"].values[:] = np.cos(2 * np.pi * phase / 12)
    return waves


def wave_store(path: Path, waves: xr.Dataset) -> str:
    create_wave_store(path, waves)
    write_samples(path, waves[["displacement", "velocity", "wave_speed", "mask"]])
    return str(path)


def wave_config_for(tmp_path: Path, path: str, **settings: object) -> TrainingConfig:
    values: dict = {
        "out": str(tmp_path / "run"),
        "sources": {"waves": SourceConfig(store=path, samples=[0, 3])},
        "channels": ["displacement", "velocity"], "history": 1, "lead_until_steps": 3, "validation_samples": [4, 5],
        "simulator": SimulatorConfig(width=6, depth=1, kernel_size=3), "precision": "fp32", "device": "cpu",
        "steps": 3, "warm_up": 1, "batch_size": 2, "replay_buffer": 4, "validate_every": 100, "balance_lead_times": False,
    }  # fmt: skip
    return TrainingConfig(**(values | settings))
