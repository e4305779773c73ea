"""The check of array annotations finds a wrong dtype, a wrong shape and two lengths for one axis, and nothing else."""

import numpy as np
import pytest
from jaxtyping import Float32, jaxtyped

from tests.helpers.array_shapes import check_arrays


@jaxtyped(typechecker=check_arrays)
def anomalies(
    fields: Float32[np.ndarray, "time lat lon"],
    mean: Float32[np.ndarray, "lat lon"] | None,
    scale: float = 1.0,
    flip: bool = False,
) -> Float32[np.ndarray, "time lat lon"]:
    made = scale * (fields - (0 if mean is None else mean))
    return made[:, ::-1, :-1] if flip else made


FIELDS, MEAN = np.zeros((2, 3, 4), np.float32), np.ones((3, 4), np.float32)


def test_what_keeps_its_promise_passes():
    assert anomalies(FIELDS, MEAN).shape == (2, 3, 4)
    assert anomalies(FIELDS, None, scale=2).shape == (2, 3, 4)  # an int for a float is mypy's to judge


@pytest.mark.parametrize(
    ("fields", "mean", "flip"),
    [
        (FIELDS.astype(np.float64), MEAN, False),
        (FIELDS[0], MEAN, False),
        (FIELDS, np.ones((4, 3), np.float32), False),
        (FIELDS, MEAN, True),
    ],
    ids=["dtype", "number of axes", "two lengths of one axis", "result"],
)
def test_a_broken_promise_is_found(fields, mean, flip):
    with pytest.raises(TypeError, match="Type-check error"):
        anomalies(fields, mean, flip=flip)
