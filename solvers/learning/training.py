"""The loop of every training: Adam, a log, saved weights, a figure."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from solvers.learning.config import TrainConfig
from solvers.learning.objective import OBJECTIVES, Objective
from solvers.weights import load_weights, save_weights

LOG = "log.jsonl"
LAST_SHARE = 0.05  # of the learning rate, at the end
LARGEST_GRADIENT = 1.0  # its norm is cut to this


def train(config: TrainConfig) -> Objective:
    """Train; weights, log and figure are in `config.out` afterwards, and weights every `save_every` steps.

    Raises
    ------
    WeightsError
        If `start` holds no weights of this kind, or the training diverged.
    """
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    objective = OBJECTIVES[config.kind](config)
    history = _load_start(config, objective)
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([config.seed, len(history)])
    optimizer = torch.optim.Adam(objective.network.parameters(), lr=config.learning_rate)
    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TextColumn("loss {task.fields[loss]}"))
    started, cpu = time.perf_counter(), time.process_time()
    with (out / LOG).open("w") as log, Progress(*columns, TimeRemainingColumn(), disable=config.steps < 10) as progress:
        bar = progress.add_task("training", total=config.steps, loss="")
        for step in range(1, config.steps + 1):
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * _share(step / config.steps)
            loss = objective.loss(rng)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(objective.network.parameters(), LARGEST_GRADIENT)
            optimizer.step()
            value = float(loss.detach())
            seconds = round(time.perf_counter() - started, 2)
            log.write(json.dumps({"step": step, "loss": value, "seconds": seconds}) + "\n")
            progress.update(bar, completed=step, loss=f"{value:.4f}")
            if step % config.save_every == 0 or step == config.steps:
                log.flush()
                this = {"cells": config.cells, "batch": config.batch, "steps": step, "learning_rate": config.learning_rate}
                this |= {"seed": config.seed, "cpu_seconds": round(time.process_time() - cpu)}
                _save(config, objective, [*history, this])
    return objective


def _share(done: float) -> float:
    return LAST_SHARE + (1 - LAST_SHARE) * 0.5 * (1 + math.cos(math.pi * done))


def _load_start(config: TrainConfig, objective: Objective) -> list[dict[str, float]]:
    """Load the weights to go on from; return the trainings that they have behind them."""
    if config.start is None:
        return []
    settings, weights, training = load_weights(config.start, config.kind)
    if settings != objective.settings:
        raise ValueError(f"start={config.start} has settings {settings}; these are {objective.settings}.")
    objective.network.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    return list(training["stages"])


def _save(config: TrainConfig, objective: Objective, stages: list[dict[str, float]]) -> None:
    weights = {name: value.detach().contiguous().numpy() for name, value in objective.network.state_dict().items()}
    save_weights(config.out, config.kind, objective.settings, weights, {"stages": stages})
