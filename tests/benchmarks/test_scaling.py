"""The study of scaling reads its law from the errors of its rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.skill.scaling import LEAD, ROWS, draw, found_in, settings_of, table, trainings
from tests.benchmarks.test_scaling_law import LAW

FIELDS = {"geopotential_500": 800.0, "temperature_850": 3.0}


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    """Two seeds of every row, whose errors are the law's and a little beside it."""
    rows = []
    random = np.random.default_rng(0)
    for name, (width, depth, steps, months) in ROWS.items():
        parameters = 20 * depth * width**2
        error = LAW(np.array([[parameters, steps, months]]))[0] * np.exp(random.normal(0, 0.002, 2))
        scores = {field: {LEAD: {"rmse_by_seed": list(size * error)}} for field, size in FIELDS.items()}
        rows.append({"name": name, "seeds": [0, 1], "parameters": parameters, "seconds": [10.0, 12.0], "scores": scores})
    climatology = {field: {LEAD: {"rmse": size}} for field, size in FIELDS.items()}
    return {
        "rows": [*rows, {"name": "climatology", "scores": climatology}],
        "grid": {name: list(row) for name, row in ROWS.items()}, "reference": next(iter(ROWS)), "failed": [],
    }  # fmt: skip


def test_trainings_are_the_rows_by_seed_and_errors_shares_of_climatologys(result: dict[str, Any]) -> None:
    made = trainings(result)
    assert len(made.error) == 2 * len(ROWS)
    np.testing.assert_allclose(made.error, LAW(made.budget), rtol=0.01)
    assert made.rows[:2] == [next(iter(ROWS))] * 2


def test_the_law_and_its_bands_are_those_of_the_rows(result: dict[str, Any]) -> None:
    found = found_in(result)
    for (value, low, high), truth in zip(found["exponents"].values(), LAW.exponents, strict=True):
        assert value == pytest.approx(truth, rel=0.25)
        assert low <= value <= high
    assert found["scatter"] == pytest.approx(0.002, rel=0.5)
    steps, low, high = found["large"]["steps"]
    assert low <= steps <= high
    assert found["large"]["gpu_days"][0] > 0


def test_the_table_has_every_row_and_the_law(result: dict[str, Any]) -> None:
    said = table(result | {"failed": [{"name": "one", "seed": 1, "error": "RuntimeError: no"}]})
    assert all(f"| {name} |" in said for name in ROWS)
    assert "| exponent of data |" in said
    assert said.endswith("Failed: one, seed 1: RuntimeError: no")


def test_the_picture_is_drawn(result: dict[str, Any], tmp_path: Path) -> None:
    draw(result, tmp_path / "scaling.png")
    assert (tmp_path / "scaling.png").read_bytes().startswith(b"\x89PNG")


def test_months_are_counted_from_the_first_one() -> None:
    assert settings_of(48, 2, 320, 1)[-1] == "sources.simulated.end=2002-06-30T18"
    assert settings_of(48, 2, 320, 36)[-1] == "sources.simulated.end=2005-05-31T18"
