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
    "first": [
        2.943314, 0.643843, 0.146330, 0.535477, 1.422351, -0.517786, -1.032461, -2.281069, 0.905517,
        -0.335781, 0.219142, 1.697760, -0.926831, -0.246839, -0.251160, 0.291331, -0.351417, -0.726757,
        0.447641, -1.160579, 2.247585, -0.053733, -0.670637, -1.689529,
    ],
    "short": [
        1.158639, -0.142485, 0.682883, 1.073177, 2.053186, -0.441613, 0.440138, -0.506159, 0.282918,
        -0.135475, 1.315438, 1.523352, -0.028951, 0.089490, 0.024190, -0.482333, -0.069327, -0.525402,
        -0.361949, -0.403102, 1.724881, -0.399351, -0.161636, -1.358313,
    ],
    "medium": [
        0.855937, 0.116952, 0.873180, 1.482218, 1.789293, -0.299832, 0.924464, -0.780897, 0.103737,
        -0.799985, -0.071252, 0.400021, -0.163126, 0.058489, -0.029045, -0.439020, 0.007796, -0.377674,
        -0.835263, -0.200709, 1.322587, -0.357341, -0.264670, -1.131755,
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
