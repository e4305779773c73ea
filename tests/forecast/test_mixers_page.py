"""The page on mixers says what is stored, and the report calls things by what they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.skill.mixers import RESULT
from benchmarks.skill.report import table, verdict
from benchmarks.skill.scoring import LEADS

PAGE = Path(__file__).parents[2] / "docs" / "mixers.md"


def test_tables_of_the_page_are_those_of_the_stored_study() -> None:
    page = PAGE.read_text()
    for part in table(json.loads(RESULT.read_text())).split("\n\n"):
        assert part in page


@pytest.mark.parametrize(
    ("against", "seeds", "said"),
    [
        (None, [1.0, 2.0], "untested"),
        ([-0.1, -0.2, -0.01], [1.0, 2.0], "better"),
        ([-0.1, -0.2, -0.01], [1.0, 4.0], "tie"),
        ([-0.1, -0.2, 0.01], [1.0, 2.0], "tie"),
        ([0.1, 0.01, 0.2], [6.0, 7.0], "worse"),
        ([0.1, 0.01, 0.2], [4.0, 7.0], "tie"),
    ],
)
def test_a_difference_is_called_by_its_interval_and_by_all_seeds(
    against: list[float] | None, seeds: list[float], said: str
) -> None:
    assert verdict({"against": against, "rmse_by_seed": seeds}, {"rmse_by_seed": [3.0, 5.0]}) == said


def _result() -> dict:
    def scores(rmse: float, activity: float, against: list[float] | None) -> dict:
        numbers = {
            "rmse": rmse, "rmse_by_seed": [rmse - 1, rmse + 1], "acc": 0.5, "activity": activity, "short_waves": 2.4,
            "against": against,
        }  # fmt: skip
        return {"mean_sea_level_pressure": {str(lead): numbers for lead in LEADS}}

    rows = [
        {"name": "lka", "seeds": [0, 1], "parameters": 1000, "steps": 5, "seconds": [2.0, 3.0], "scores": scores(9, 0.7, None)},
        {
            "name": "ls",
            "seeds": [0, 1],
            "parameters": 900,
            "steps": 5,
            "seconds": [1, 1],
            "scores": scores(7, 0.9, [-1, -2, -0.1]),
        },
    ]
    failed = [{"name": "inception", "seed": 3, "error": "RuntimeError: no"}]
    machine = {"cpu": "a processor", "load_average": 0.1}
    return {
        "reference": "lka", "rows": rows, "left_out": ["omni_strip"], "failed": failed, "experiment": ["x"], "machine": machine,
    }  # fmt: skip


def test_report_sorts_by_error_and_names_blur_failures_and_what_was_left_out() -> None:
    lines = table(_result()).splitlines()
    first, second = (line for line in lines[2:4])
    assert first.startswith("| ls | 7 ± 1, tie |")
    assert "0.90 / 2.40 noisy," in first
    assert second.startswith("| lka | 9 ± 1, reference |")
    assert "0.70 / 2.40 blurred noisy" in second
    assert "Failed: inception, seed 3: RuntimeError: no" in lines
    assert "Left out: omni_strip." in lines
