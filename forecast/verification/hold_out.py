"""Error of a baseline on the part of the training span that is held out for its choices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64

from forecast.verification.baselines import Baseline
from forecast.verification.training import TrainingData

MAX_LEADS = 8  # lead times on which choices are made, spread evenly in the logarithm
MAX_STARTS = 34  # initial times on which choices are made


def scored_steps(steps: Sequence[int], hold_out: TrainingData) -> list[int]:
    """Pick the lead times (in steps) on which choices are made: no more than leave ten pairs in the hold-out."""
    longest = max(segment.time.size for segment in hold_out.segments)
    possible = [step for step in steps if 0 < step <= max(longest - 10, 1)]
    if not possible:
        return [step for step in steps if step > 0][:1] or [1]
    targets = np.geomspace(possible[0], possible[-1], MAX_LEADS)
    return sorted({min(possible, key=lambda step: abs(np.log(step / target))) for target in targets})


def hold_out_mse(baseline: Baseline, hold_out: TrainingData, steps: Sequence[int]) -> Float64[np.ndarray, "lead channel"]:
    """Area-weighted mean square error over the hold-out, as a fraction of the anomalies' variance; (lead, channel)."""
    variance = hold_out.scale() ** 2
    total = np.zeros((len(steps), len(hold_out.channels)))
    count = np.zeros((len(steps), 1))
    for anomaly in hold_out.anomalies():
        starts = np.arange(baseline.history - 1, anomaly.shape[0] - 1)
        starts = starts[:: max(1, -(-starts.size // MAX_STARTS))]
        for block in np.array_split(starts, max(1, starts.size // 10)):
            if block.size == 0:
                continue
            frames = anomaly[block[:, None] + np.arange(1 - baseline.history, 1)]
            forecast = baseline.predict(frames, steps)
            for position, step in enumerate(steps):
                inside = block + step < anomaly.shape[0]
                if inside.any():
                    error = (forecast[inside, position] - anomaly[block[inside] + step]).astype(np.float64)
                    total[position] += np.einsum("tcyx,y->c", error**2, hold_out.weights) / error[0, 0].size
                    count[position] += inside.sum()
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0) / variance
