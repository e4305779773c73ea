"""What the shipped stages answer, so that no change of the code changes it unnoticed."""

from pathlib import Path

import numpy as np
import pytest
import torch

import forecast
from forecast.checkpoint import load_checkpoint

SHIPPED = Path(forecast.__file__).parent / "shipped"

# Tendency in its own units, of states of noise: every 24th row and 48th column of both fields, in the network's own precision.
ANSWERS = {
    "short": [
        1.964384, 1.772519, 0.830644, 3.043131, 1.560162, -0.181169, -0.310675, -2.500905, -1.089494,
        -1.535458, 0.876326, 2.415588, -0.577973, -0.660389, -0.136805, -0.557103, 0.171892, -0.131748,
        -0.589781, -0.820622, 2.142263, -0.817922, -0.382913, -2.519463,
    ],
    "medium": [
        1.204686, 0.679484, 1.541877, 3.599350, 2.422795, -0.600644, 1.015545, -0.804363, -1.051559,
        -1.102709, 0.305523, 2.192654, -0.139206, -0.123840, -0.048587, -0.051928, -0.001990, -0.121945,
        -0.821753, -0.326516, 1.344417, -1.037461, -0.763743, -1.853537,
    ],
}  # fmt: skip


@pytest.mark.parametrize("stage", ANSWERS)
def test_shipped_stage_answers_as_ever(stage: str) -> None:
    model = load_checkpoint(SHIPPED / stage)
    need = model.requirements
    noise = torch.randn(1, need.history, len(need.channels), *need.grid_shape, generator=torch.Generator().manual_seed(0))
    inputs = model.inputs_at(np.array(["2026-01-24T06"], "datetime64[ns]"), np.array([12.0]))
    with torch.no_grad():
        change = model.normalised_tendency(model.mean + model.deviation * noise, *inputs)
    torch.testing.assert_close(change[0, :, ::24, ::48].flatten(), torch.tensor(ANSWERS[stage]), rtol=1e-4, atol=1e-4)
