"""A picture of a training run from its log."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

# Logged steps that one point of the smoothed curve averages.
SMOOTHING = 20


def draw_training_curves(log: Path, picture: Path, score: str = "RMSE") -> None:
    """Draw loss, learning rate and validation errors by step.

    Parameters
    ----------
    log
        `log.jsonl` of a training: one JSON object per line, with `step` and either `loss` or `validation`.
    picture
        PNG to write.
    score
        What the numbers of the validation are.
    """
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    losses = [entry for entry in entries if "loss" in entry]
    validations = [entry for entry in entries if "validation" in entry]
    channels: dict[str, dict[str, list[tuple[int, float]]]] = defaultdict(lambda: defaultdict(list))
    for entry in validations:
        for label, value in entry["validation"].items():
            channel, hours = label.split(" ", 1)
            channels[channel][hours].append((entry["step"], value))

    with matplotlib.rc_context({"axes.grid": True, "grid.alpha": 0.3, "figure.dpi": 120}):
        figure = Figure(figsize=(5 * (1 + len(channels)), 4), layout="constrained")
        axes = figure.subplots(1, 1 + len(channels), squeeze=False)[0]
        steps = [entry["step"] for entry in losses]
        loss = np.array([entry["loss"] for entry in losses])
        axes[0].plot(steps, loss, color="0.8", lw=0.7)
        if len(loss) > SMOOTHING:
            smooth = np.convolve(loss, np.full(SMOOTHING, 1 / SMOOTHING), mode="valid")
            axes[0].plot(steps[SMOOTHING - 1 :], smooth, color="C0", label=f"mean of {SMOOTHING}")
            axes[0].legend()
        axes[0].set(xlabel="step", ylabel="training loss", title="Loss", yscale="log")
        for axis, (channel, by_lead) in zip(axes[1:], channels.items(), strict=True):
            for number, (hours, points) in enumerate(by_lead.items()):
                axis.plot(*zip(*points, strict=True), marker="o", ms=3, label=hours, color=f"C{number}")
            axis.set(xlabel="step", ylabel=score, title=f"Validation: {channel}")
            axis.legend(title="lead time", fontsize="small")
        figure.savefig(picture)
