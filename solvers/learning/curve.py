"""A picture of a training from its log."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

SMOOTHING = 20  # steps that a point of the smooth curve averages


def draw_curve(log: str | Path, picture: str | Path) -> None:
    """Draw loss over step.

    Parameters
    ----------
    log
        `log.jsonl` of a training: an object with `step` and `loss` in each line.
    picture
        PNG to write.
    """
    entries = [json.loads(line) for line in Path(log).read_text().splitlines()]
    step, loss = (np.array([entry[name] for entry in entries]) for name in ("step", "loss"))
    with matplotlib.rc_context({"axes.grid": True, "grid.alpha": 0.3, "figure.dpi": 120}):
        figure = Figure(figsize=(6, 4), layout="constrained")
        axes = figure.subplots()
        axes.plot(step, loss, color="0.8", lw=0.7, label="of a batch")
        if loss.size > SMOOTHING:
            smooth = np.convolve(loss, np.full(SMOOTHING, 1 / SMOOTHING), mode="valid")
            axes.plot(step[SMOOTHING - 1 :], smooth, color="C0", label=f"mean of {SMOOTHING}")
        axes.set(xlabel="step", ylabel="loss", yscale="log" if loss.min() > 0 else "linear")
        axes.legend()
        figure.savefig(picture)
